//! `hanas experiment cnn`: the registered comparison of convnet searches, step by step, as often
//! interrupted as need be.
//!
//! Every step is a `hanas` command, told on stderr as it begins, so that each can be given by hand too.
//! A step whose product lies in its folder is not run again; the settings are those of the first call.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};

use super::context::{DeviceArg, Global, query};
use super::device_timer::measured_base;
use super::experiment_cnn_arms::{Arm, CONTRASTS};
use super::experiment_settings::{Settings, distinct};
use super::experiment_tables::{Row, contrasts_table, nets_table};
use super::images::ImageArgs;
use super::output::{Format, json, text};
use super::search_args::Budget;
use super::steps::{Steps, path, words};
use super::turns::Turns;
use super::{Usage, interrupt};
use crate::profile::sampling::Sampling;
use crate::report::contrasts::{Contrast, Outcome};
use crate::search::run::{RunDir, SCHEMA_VERSION, VerifyRecord, load, save};
use crate::store::Store;
use crate::task::{Task, TaskError};
use crate::train::record::TrainRecord;

/// Timed runs of the base net.
const BASE_SAMPLES: u32 = 200;
/// The experiment's store, in its folder.
const STORE: &str = "hanas.sqlite";

/// Arguments of `hanas experiment cnn`.
#[derive(Debug, Args)]
pub(super) struct CnnArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Net family and data, as in the other commands
    #[arg(long, short, value_name = "TASK", value_parser = task_name, default_value = "cifar10-resnet20")]
    task: String,
    /// Images a run
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    #[command(flatten)]
    images: ImageArgs,
    /// Folder for the store, the runs and what each step printed
    #[arg(long, short, default_value = "arms", value_name = "FOLDER")]
    out: PathBuf,
    /// Arms, as the protocol names them
    #[arg(long, value_enum, value_delimiter = ',', default_value = "A,C,D,E,I")]
    arms: Vec<Arm>,
    /// Seeds
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Latency that every net may take, 12ms, or share of the base net's, 0.5x
    #[arg(long, default_value = "0.5x")]
    budget: Budget,
    /// Search epochs
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Search epochs before those, of the weights alone
    #[arg(long, default_value_t = 2)]
    warmup_epochs: u32,
    /// Training epochs, after one with a rising learning rate
    #[arg(long, default_value_t = 19, value_parser = clap::value_parser!(u32).range(1..))]
    train_epochs: u32,
    /// Images of a search or training step
    #[arg(long, default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    train_batch: usize,
    /// Test images that the device classifies in every verification; 0 for none
    #[arg(long, default_value_t = 500)]
    check_images: usize,
    /// Print the table of what is finished and run nothing
    #[arg(long)]
    table: bool,
}

fn task_name(text: &str) -> Result<String, TaskError> {
    text.parse::<Task>().map(|_| text.to_owned())
}

#[derive(Serialize)]
struct Report {
    outcomes: Vec<Row>,
    contrasts: Vec<Contrast>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &CnnArgs) -> anyhow::Result<()> {
    distinct("--arms", &args.arms)?;
    distinct("--seeds", &args.seeds)?;
    if !args.table {
        let out = args.out.display();
        std::fs::create_dir_all(&args.out).with_context(|| format!("{out} cannot be made"))?;
        let _alone = Turns::alone(&args.out)?;
        let settings = settings(args);
        settings.check(&args.out)?;
        let experiment = Experiment::new(global, args)?;
        experiment.prepare()?;
        settings.keep(&args.out)?;
        let budget = experiment.budget()?;
        for mode in ["paper", "project"] {
            let arms: BTreeSet<Arm> = args.arms.iter().copied().filter(|arm| arm.mode() == mode).collect();
            experiment.arms(mode, &arms, &budget)?;
        }
        for &seed in &args.seeds {
            experiment.verify(seed)?;
        }
    }
    print(global, args)
}

/// What changes results, but for arms and seeds: those may be added.
fn settings(args: &CnnArgs) -> Settings {
    let ImageArgs { images, data_seed, .. } = &args.images;
    Settings::new([
        ("device", args.device.device.clone()),
        ("task", args.task.clone()),
        ("batch", args.batch.to_string()),
        ("budget", args.budget.to_string()),
        ("images", images.map_or_else(|| "all".to_owned(), |images| images.to_string())),
        ("data-seed", data_seed.to_string()),
        ("epochs", args.epochs.to_string()),
        ("warmup-epochs", args.warmup_epochs.to_string()),
        ("train-epochs", args.train_epochs.to_string()),
        ("train-batch", args.train_batch.to_string()),
    ])
}

/// What was profiled before the first arm: `prepared.json`.
#[derive(Serialize, Deserialize)]
struct Prepared {
    /// See [`SCHEMA_VERSION`].
    schema_version: u32,
    /// Whether layers by input and output width are in it.
    pairs: bool,
}

/// The base net's latency at the profile's pace, as measured before the first arm: `base_latency.json`.
#[derive(Serialize, Deserialize)]
struct BaseLatency {
    /// See [`SCHEMA_VERSION`].
    schema_version: u32,
    /// Latency, ns.
    latency_ns: f64,
}

/// The experiment's commands, with a store of its own.
struct Experiment<'a> {
    args: &'a CnnArgs,
    global: &'a Global,
    steps: Steps<'a>,
}

impl<'a> Experiment<'a> {
    fn new(global: &'a Global, args: &'a CnnArgs) -> anyhow::Result<Self> {
        let steps = Steps::new(global, args.out.join(STORE), args.out.join("log"))?;
        Ok(Self { args, global, steps })
    }

    /// Profile, pairs and their model, once: with samples added later, arms and seeds of one table would be
    /// searched in other spaces and charged by other models.
    fn prepare(&self) -> anyhow::Result<()> {
        let file = self.args.out.join("prepared.json");
        let by_pairs = self.args.arms.iter().find(|arm| arm.needs_pairs());
        if file.exists() {
            let Prepared { pairs, .. } = load(&file)?;
            return match by_pairs {
                Some(&arm) if !pairs => Err(without_pairs(arm).into()),
                _ => Ok(()),
            };
        }
        let (device, task) = (self.device(), self.task());
        self.step("profile", [words(&["profile", "--allow-noisy"]), device.clone(), task.clone()])?;
        if by_pairs.is_some() {
            let pairs = words(&["profile", "--which", "pairs", "--allow-noisy"]);
            self.step("pairs", [pairs, device.clone(), task.clone()])?;
            self.step("fit", [words(&["latency", "fit", "--model", "pairwise"]), task.clone()])?;
        }
        // An older version measured them without saying so.
        let pairs = by_pairs.is_some() || self.args.out.join("log/pairs.txt").exists();
        let prepared = Prepared { schema_version: SCHEMA_VERSION, pairs };
        Ok(save(&file, &prepared)?)
    }

    /// The one latency limit of all arms. The base net is measured once and its latency kept.
    fn budget(&self) -> anyhow::Result<String> {
        let share = match self.args.budget {
            given @ Budget::Latency(_) => return Ok(given.to_string()),
            Budget::Share(share) => share,
        };
        let file = self.args.out.join("base_latency.json");
        let base = if file.exists() {
            load::<BaseLatency>(&file)?
        } else {
            let latency_ns = self.base_ns()?;
            let base = BaseLatency { schema_version: SCHEMA_VERSION, latency_ns };
            save(&file, &base)?;
            base
        };
        Ok(Budget::Latency(share * base.latency_ns).to_string())
    }

    /// Measures the base net, as every search does.
    fn base_ns(&self) -> anyhow::Result<f64> {
        let (task, batch): (Task, u32) = (self.args.task.parse()?, self.args.batch);
        let mut session = self.global.connect(&self.args.device)?;
        let mut store = Store::open_existing(&self.args.out.join(STORE))?;
        let device = store.device_id(session.facts())?;
        let samples = store.samples(&query(device, &task, batch))?;
        let sampling = Sampling { samples: BASE_SAMPLES, ..Sampling::default() };
        let (base_ns, _) = measured_base(&mut session, &task.family.base(), batch, &samples, &sampling)?;
        Ok(base_ns)
    }

    /// Searches and trains the arms that are searched in one space, seed by seed.
    fn arms(&self, mode: &str, arms: &BTreeSet<Arm>, budget: &str) -> anyhow::Result<()> {
        let out = &self.args.out;
        let all = self.args.seeds.iter().flat_map(|&seed| arms.iter().map(move |&arm| (arm, seed)));
        let all: Vec<(Arm, u64)> = all.collect();
        if all.iter().any(|&(arm, seed)| !found(&folder(out, arm, seed))) {
            self.step("space", [words(&["space", "build", "--mode", mode]), self.task()])?;
        }
        for (arm, seed) in all {
            let run = folder(out, arm, seed);
            if !found(&run) {
                self.search(arm, seed, budget, &run)?;
            }
            // The record is written after the weights.
            if TrainRecord::load(&RunDir::open(&run)?).is_err() {
                self.train(&run)?;
            }
        }
        Ok(())
    }

    fn search(&self, arm: Arm, seed: u64, budget: &str, run: &Path) -> anyhow::Result<()> {
        let CnnArgs { epochs, warmup_epochs, train_batch, .. } = self.args;
        let (seed, out) = (seed.to_string(), path(run));
        let common = words(&["--budget", budget, "--gate", "latency", "--seed", &seed, "--out", &out]);
        let (epochs, warmup, batch) =
            (epochs.to_string(), warmup_epochs.to_string(), train_batch.to_string());
        let length = words(&["--epochs", &epochs, "--warmup-epochs", &warmup, "--train-batch", &batch]);
        let search = [words(&["search"]), words(arm.search())].concat();
        self.step(&name(run), [search, self.device(), self.task(), self.images(), common, length])
    }

    fn train(&self, run: &Path) -> anyhow::Result<()> {
        let (epochs, batch) = (self.args.train_epochs.to_string(), self.args.train_batch.to_string());
        let (out, teachers) = (path(run), path(&self.args.out.join("teachers")));
        let train = words(&["train", &out, "--teachers", &teachers]);
        let length = words(&["--epochs", &epochs, "--warmup-epochs", "1", "--train-batch", &batch]);
        self.step(&name(run), [train, length, self.images()])
    }

    /// Measures all arms' nets of a seed in turns, unless that is how they were measured last: a device may
    /// be slower for one arm and not for another.
    fn verify(&self, seed: u64) -> anyhow::Result<()> {
        let arms: BTreeSet<Arm> = self.args.arms.iter().copied().collect();
        let runs: Vec<PathBuf> = arms.iter().map(|&arm| folder(&self.args.out, arm, seed)).collect();
        let device = &self.args.device.device;
        if in_turns(&runs, device) {
            return Ok(());
        }
        let check = self.args.check_images.to_string();
        let mut verify = words(&["verify", "--samples", "200", "--allow-noisy", "--check-images", &check]);
        verify.extend(runs.iter().map(|run| path(run)));
        verify.extend(self.args.images.data.iter().flat_map(|data| ["--data".to_owned(), path(data)]));
        let ended = self.step(&format!("verify-{seed}"), [verify, self.device()]);
        // Nets over their budget end the command and are an outcome like any other.
        if interrupt::asked() || !in_turns(&runs, device) {
            ended.and(Err(anyhow::anyhow!("seed {seed} is not verified")))
        } else {
            Ok(())
        }
    }

    fn device(&self) -> Vec<String> {
        let DeviceArg { device, queue_timeout, run_timeout } = &self.args.device;
        let (queue, run) = (queue_timeout.to_string(), run_timeout.to_string());
        words(&["--device", device, "--queue-timeout", &queue, "--run-timeout", &run])
    }

    fn task(&self) -> Vec<String> {
        words(&["--task", &self.args.task, "--batch", &self.args.batch.to_string()])
    }

    fn images(&self) -> Vec<String> {
        let ImageArgs { data, images, data_seed } = &self.args.images;
        let mut list = words(&["--data-seed", &data_seed.to_string()]);
        list.extend(data.iter().flat_map(|data| ["--data".to_owned(), path(data)]));
        list.extend(images.iter().flat_map(|images| ["--images".to_owned(), images.to_string()]));
        list
    }

    fn step<const N: usize>(&self, name: &str, parts: [Vec<String>; N]) -> anyhow::Result<()> {
        self.steps.run(name, &parts.concat())
    }
}

fn folder(out: &Path, arm: Arm, seed: u64) -> PathBuf {
    out.join(format!("{}-{seed}", arm.name()))
}

/// The run's name: `D-1`.
fn name(run: &Path) -> String {
    run.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether a search has found its net.
fn found(run: &Path) -> bool {
    RunDir::open(run).and_then(|run| run.net()).is_ok()
}

/// What the device says of a run; none where another was asked last.
fn verified(run: &Path, device: &str) -> Option<VerifyRecord> {
    let verify = RunDir::open(run).and_then(|dir| dir.verify()).ok()?;
    (verify.device == device).then_some(verify)
}

/// Whether these runs were measured with each other last, on the device.
fn in_turns(runs: &[PathBuf], device: &str) -> bool {
    let with_all = |run: &PathBuf| {
        let verify = verified(run, device);
        verify.is_some_and(|verify| runs.iter().all(|other| verify.in_turns.contains(other)))
    };
    runs.iter().all(with_all)
}

fn without_pairs(arm: Arm) -> Usage {
    let arm = arm.name();
    Usage(format!(
        "this experiment was begun without the table of pairs that arm {arm} needs, and measured now it would change what other arms are charged; name {arm} in the first call, with another --out"
    ))
}

/// A run that is trained and verified on the device.
fn outcome(args: &CnnArgs, arm: Arm, seed: u64) -> Option<Outcome> {
    let run = RunDir::open(&folder(&args.out, arm, seed)).ok()?;
    let train = TrainRecord::load(&run).ok()?;
    let Some(verify) = verified(run.path(), &args.device.device) else {
        if let Ok(other) = run.verify() {
            let (run, device) = (run.path().display(), other.device);
            eprintln!(
                "note: {run} was last measured on {device} and is left out; without --table it is measured again"
            );
        }
        return None;
    };
    Some(Outcome {
        arm: arm.name(),
        seed,
        accuracy: train.test_accuracy,
        latency_ns: verify.at_pace(verify.measured_ns),
        noisy: !verify.doubts.is_empty(),
        over_budget: verify.within_budget == Some(false),
    })
}

fn print(global: &Global, args: &CnnArgs) -> anyhow::Result<()> {
    let all = args.arms.iter().flat_map(|&arm| args.seeds.iter().map(move |&seed| (arm, seed)));
    let found: Vec<(Arm, Outcome)> =
        all.filter_map(|(arm, seed)| Some((arm, outcome(args, arm, seed)?))).collect();
    let row = |(arm, outcome): &(Arm, Outcome)| {
        let own = folder(&args.out, *arm, outcome.seed);
        let with = verified(&own, &args.device.device).map_or_else(Vec::new, |verify| verify.in_turns);
        let mut of_seed = found.iter().filter(|(_, other)| other.seed == outcome.seed);
        let in_turns = of_seed.all(|(arm, other)| {
            let other = folder(&args.out, *arm, other.seed);
            other == own || with.contains(&other)
        });
        Row { outcome: outcome.clone(), in_turns }
    };
    let rows: Vec<Row> = found.iter().map(row).collect();
    let outcomes: Vec<Outcome> = found.iter().map(|(_, outcome)| outcome.clone()).collect();
    let contrast = |&(arm, than): &(Arm, Arm)| Contrast::new(&outcomes, &arm.name(), &than.name());
    let contrasts: Vec<Contrast> = CONTRASTS.iter().filter_map(contrast).collect();
    let nets = nets_table(&rows);
    match global.format {
        Format::Json => json(&Report { outcomes: rows, contrasts }),
        Format::Csv => text(&nets.to_csv()),
        Format::Text if contrasts.is_empty() => text(&nets.to_text()),
        Format::Text => text(&format!("{}\n{}", nets.to_text(), contrasts_table(&contrasts).to_text())),
    }
}
