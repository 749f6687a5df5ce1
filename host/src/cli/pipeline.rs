//! `hanas run`: from a device and a task to a trained, exported and re-measured net, by one file.
//!
//! Every step is a `hanas` command. What is finished is not run again. What stands on the trained net alone
//! (export, verify, report) is made over where the file changed; other changes need another folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::context::{DeviceArg, Global, QUEUE_TIMEOUT};
use super::manifest::{Manifest, read};
use super::manifest_steps::{NET, REPORT, Step, VERIFY, is_run_of, steps};
use super::output::{Format, text};
use super::steps::{Steps, path};
use super::{StepFailed, Usage, verify};
use crate::search::run::{RunDir, SCHEMA_VERSION, load, save};

/// Arguments of `hanas run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// What to run: device, task, out, and a table of options for each command
    #[arg(default_value = "hanas.toml", value_name = "FILE")]
    file: PathBuf,
    /// Print the commands and run nothing
    #[arg(long)]
    dry_run: bool,
}

/// Commands that are finished: `pipeline.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Finished {
    /// See [`SCHEMA_VERSION`].
    schema_version: u32,
    /// Where the samples are.
    store: PathBuf,
    /// The device's row there, once it is known.
    device: Option<i64>,
    /// Commands by step.
    commands: BTreeMap<String, Vec<String>>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &RunArgs) -> anyhow::Result<()> {
    let manifest = read(&args.file)?;
    let list = steps(&manifest).map_err(|wrong| Usage(format!("{}: {wrong}", args.file.display())))?;
    let steps = Steps::new(global, global.store.clone(), manifest.out.join("log"))?;
    if args.dry_run {
        let lines: Vec<String> = list.iter().map(|step| steps.line(&step.command) + "\n").collect();
        return text(&lines.concat());
    }
    let verdict = Pipeline::open(global, &manifest, &steps, &list)?.run(&list)?;
    verify::show(global, &RunDir::open(&manifest.out)?)?;
    if global.format == Format::Text {
        let files = [NET, REPORT].map(|name| manifest.out.join(name));
        let files: Vec<String> =
            files.iter().filter(|file| file.exists()).map(|file| path(file) + "\n").collect();
        text(&files.concat())?;
    }
    verdict.map_or(Ok(()), Err)
}

/// The steps of one file, and which of them are finished.
struct Pipeline<'a> {
    global: &'a Global,
    manifest: &'a Manifest,
    steps: &'a Steps<'a>,
    finished: Finished,
}

impl<'a> Pipeline<'a> {
    /// What is finished of a file's steps.
    fn open(
        global: &'a Global,
        manifest: &'a Manifest,
        steps: &'a Steps<'a>,
        list: &[Step],
    ) -> anyhow::Result<Self> {
        let (file, out) = (manifest.out.join("pipeline.json"), manifest.out.display());
        let store = std::path::absolute(&global.store)?;
        let (schema_version, commands) = (SCHEMA_VERSION, BTreeMap::new());
        let finished = match file.exists() {
            true => load::<Finished>(&file)?,
            false => Finished { schema_version, store: store.clone(), device: None, commands },
        };
        if finished.store != store {
            let other = finished.store.display();
            return Err(
                Usage(format!("{out} was begun with the store {other}; give that or another `out`")).into()
            );
        }
        let changed = |step: &&Step| {
            let old = finished.commands.get(step.name);
            !step.after.is_made_over() && old.is_some_and(|old| *old != step.command)
        };
        if let Some(step) = list.iter().find(changed) {
            let name = step.name;
            return Err(Usage(format!("{out} was begun with another [{name}]; give another `out`")).into());
        }
        Ok(Self { global, manifest, steps, finished })
    }

    /// Runs what is not finished, and all after it. A net that is over its budget when measured again, or
    /// measured on a device that is not quiet, is reported all the same: that error is returned as a value.
    fn run(&mut self, list: &[Step]) -> anyhow::Result<Option<anyhow::Error>> {
        let is_finished = |step: &Step| {
            let product = step.product.as_deref().unwrap_or(&self.finished.store);
            let own = step.name != "verify" || self.verified().is_some();
            own && self.finished.commands.get(step.name) == Some(&step.command) && product.exists()
        };
        let first = list.iter().position(|step| !is_finished(step)).unwrap_or(list.len());
        let kept: Vec<&str> = list[..first].iter().map(|step| step.name).collect();
        self.finished.commands.retain(|name, _| kept.contains(&name.as_str()));
        let mut verdict = None;
        for step in &list[first..] {
            // Before the step, so that an interruption in it does not make an older product look finished.
            self.save()?;
            match self.step(step) {
                Ok(()) => {}
                Err(error) if self.is_verdict(step, &error) => {
                    // A search of graph nets ends with such a measurement as well; the next one counts.
                    if step.name == "verify" {
                        verdict = Some(error);
                        continue;
                    }
                }
                Err(error) => return Err(error),
            }
            self.finished.commands.insert(step.name.to_owned(), step.command.clone());
        }
        self.save()?;
        Ok(verdict)
    }

    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        let mut command = step.command.clone();
        if step.after.needs_samples() {
            command.push(format!("--device={}", self.device()?));
        }
        // What is there afterwards is of this step. A search of graph nets is known as finished by it.
        if step.name == "verify"
            && let Err(error) = std::fs::remove_file(self.manifest.out.join(VERIFY))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("cannot remove an older {VERIFY}"));
        }
        self.steps.run(step.name, &command)
    }

    /// Whether a step failed only in what it measured: over the limit, or not trustworthy.
    fn is_verdict(&self, step: &Step, error: &anyhow::Error) -> bool {
        let Some(StepFailed { code, .. }) = error.downcast_ref() else { return false };
        let Some(verify) = self.verified() else { return false };
        let over = ["within_budget", "within_limit"].iter().any(|key| verify[key] == false);
        // That of another run is none of a search, which is refused there.
        let run = RunDir::open(&self.manifest.out);
        let own = step.name == "verify" || run.is_ok_and(|run| is_run_of(step, &run));
        step.judges && own && (*code == 4 || (*code == 1 && over))
    }

    /// What the file's device said of the net; none where another was asked last.
    fn verified(&self) -> Option<serde_json::Value> {
        let verify: serde_json::Value = load(&self.manifest.out.join(VERIFY)).ok()?;
        (verify["device"] == self.manifest.device.as_str()).then_some(verify)
    }

    /// The device's row in the store. Asked of the device once: two boards may have one name.
    fn device(&mut self) -> anyhow::Result<i64> {
        if let Some(row) = self.finished.device {
            return Ok(row);
        }
        let device = DeviceArg::new(self.manifest.device.clone(), QUEUE_TIMEOUT);
        let session = self.global.connect(&device)?;
        let row = self.global.existing_store()?.device_id(session.facts())?.0;
        self.finished.device = Some(row);
        Ok(row)
    }

    fn save(&self) -> anyhow::Result<()> {
        let out = &self.manifest.out;
        std::fs::create_dir_all(out).with_context(|| format!("{} cannot be made", out.display()))?;
        Ok(save(&out.join("pipeline.json"), &self.finished)?)
    }
}
