//! The file of `hanas run`, and the commands that it stands for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use super::Usage;
use super::steps::{path, words};

/// Options of one command, as its `--help` has them, without dashes before them.
pub(super) type Options = BTreeMap<String, toml::Value>;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Manifest {
    /// Name in the inventory, or address.
    pub(super) device: String,
    pub(super) task: String,
    /// The run's folder; log, net and report go there too.
    pub(super) out: PathBuf,
    pub(super) batch: Option<u32>,
    pub(super) data: Option<PathBuf>,
    pub(super) images: Option<usize>,
    /// Goes on where a measurement is not trustworthy.
    #[serde(default)]
    pub(super) allow_noisy: bool,
    #[serde(default)]
    pub(super) profile: Options,
    #[serde(default)]
    pub(super) pairs: Options,
    #[serde(default)]
    pub(super) space: Options,
    #[serde(default)]
    pub(super) search: Options,
    #[serde(default)]
    pub(super) train: Options,
    #[serde(default)]
    pub(super) export: Options,
    #[serde(default)]
    pub(super) verify: Options,
    #[serde(default)]
    pub(super) report: Options,
}

/// Reads a file.
pub(super) fn read(file: &Path) -> anyhow::Result<Manifest> {
    let name = file.display();
    let content = std::fs::read_to_string(file)
        .with_context(|| format!("{name} cannot be read; the documentation of `run` shows such a file"))?;
    let manifest = toml::from_str(&content).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + content[..span.start].matches('\n').count());
        Usage(format!("{name}, line {line}: {}", error.message().lines().collect::<Vec<_>>().join("; ")))
    })?;
    Ok(manifest)
}

/// Options that are the same for all steps, or that the pipeline gives.
const OF_THE_FILE: [&str; 8] = ["device", "devices", "format", "out", "output", "quiet", "store", "task"];

/// An option that the file's first lines give, unless the command's table has it: `--key`, `--key=value`.
pub(super) type Given = (&'static str, Option<String>);

impl Manifest {
    pub(super) fn out(&self) -> String {
        path(&self.out)
    }

    pub(super) fn device(&self) -> Vec<String> {
        words(&["--device", &self.device])
    }

    pub(super) fn task(&self) -> Vec<String> {
        let mut task = words(&["--task", &self.task]);
        task.extend(self.batch.map(|batch| format!("--batch={batch}")));
        task
    }

    pub(super) fn noisy(&self) -> Vec<Given> {
        if self.allow_noisy { vec![("allow-noisy", None)] } else { Vec::new() }
    }

    pub(super) fn data(&self) -> Vec<Given> {
        self.data.iter().map(|folder| ("data", Some(path(folder)))).collect()
    }

    pub(super) fn images(&self) -> Vec<Given> {
        let mut list = self.data();
        list.extend(self.images.map(|images| ("images", Some(images.to_string()))));
        list
    }

    /// A command's table as words, with what the first lines give.
    pub(super) fn with(&self, given: &[Given], options: &Options) -> Result<Vec<String>, String> {
        let mut list: Vec<String> = Vec::new();
        for (key, value) in given.iter().filter(|(key, _)| !options.contains_key(*key)) {
            list.push(value.as_ref().map_or_else(|| format!("--{key}"), |value| format!("--{key}={value}")));
        }
        for (key, value) in options {
            if OF_THE_FILE.contains(&key.as_str()) {
                return Err(format!(
                    "{key} stands at the top of the file or on the command line, not in a table"
                ));
            }
            match value {
                toml::Value::Boolean(true) => list.push(format!("--{key}")),
                toml::Value::Boolean(false) => {}
                toml::Value::Array(values) => {
                    let values: Result<Vec<String>, String> =
                        values.iter().map(|value| scalar(key, value)).collect();
                    list.push(format!("--{key}={}", values?.join(",")));
                }
                value => list.push(format!("--{key}={}", scalar(key, value)?)),
            }
        }
        Ok(list)
    }
}

fn scalar(key: &str, value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        _ => Err(format!("{key} is a text, a number, true or false, or a list of those")),
    }
}
