//! A run's folder: what was asked (`run.json`), how it went (`search.jsonl`, `train.jsonl`), what came
//! out (`net.json`, `weights.safetensors`) and what the device says of it (`verify.json`).
//!
//! Files are written beside their place and renamed into it, so that a full disk or a kill leaves the
//! old one whole.

mod records;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use records::{NetRecord, OnDevice, RunRecord, VerifyRecord};

/// Version of the files' layout; another one is refused.
pub const SCHEMA_VERSION: u32 = 1;

/// The file whose lock the command that is at work in a folder holds.
pub const LOCK: &str = "lock";

/// A run's folder that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; give the folder of a run", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}; the old file, if any, is whole", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file's content is not what its name says.
    #[error("{path} is damaged or of another program: {source}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A file of another layout.
    #[error("{path} has schema version {given} and this hanas reads {SCHEMA_VERSION}; use the hanas that wrote it", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        given: u32,
    },
    /// The folder already holds another run.
    #[error("{path} holds another run; give an empty folder, or the same settings to resume", path = path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
}

/// What a run searched; its records are of another layout for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Convnets: [`RunRecord`], [`NetRecord`], [`VerifyRecord`].
    Conv,
    /// Graph nets: the records of [`super::hgnas::record`].
    Graph,
}

/// A run's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The folder for a run: a new one with its `run.json`, or the one that already holds this very run.
    ///
    /// # Errors
    /// [`RunError::Occupied`] where it holds another run, or what reading and writing report.
    pub fn create<R>(path: &Path, record: &R) -> Result<Self, RunError>
    where
        R: Serialize + DeserializeOwned + PartialEq,
    {
        let run = Self { path: path.to_owned() };
        let file = run.file("run.json");
        if file.exists() {
            let occupied = || RunError::Occupied { path: path.to_owned() };
            return match load::<R>(&file) {
                Ok(old) if old == *record => Ok(run),
                Ok(_) => Err(occupied()),
                // The record of a search of another kind is none of this kind.
                Err(RunError::Parse { .. }) if run.kind().is_ok() => Err(occupied()),
                Err(error) => Err(error),
            };
        }
        fs::create_dir_all(path).map_err(|source| RunError::Write { path: path.to_owned(), source })?;
        save(&file, record)?;
        Ok(run)
    }

    /// Gives the folder back where nothing has come out of the run yet, so that it is free for another.
    pub fn abandon(&self) {
        if self.search_checkpoint().exists() || self.file("net.json").exists() {
            return;
        }
        // What cannot be removed stays: the next search says that the folder holds a run.
        for name in ["run.json", "base.json", LOCK] {
            fs::remove_file(self.file(name)).ok();
        }
        fs::remove_dir(&self.path).ok();
    }

    /// The folder of a run that exists, whatever it searched.
    ///
    /// # Errors
    /// [`RunError`] where it has no `run.json` or one of another version.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        let run = Self { path: path.to_owned() };
        run.kind()?;
        Ok(run)
    }

    /// What the run searched.
    ///
    /// # Errors
    /// As [`RunDir::open`].
    pub fn kind(&self) -> Result<Kind, RunError> {
        #[derive(Deserialize)]
        struct Probe {
            method: Option<String>,
        }
        let probe: Probe = load(&self.file("run.json"))?;
        Ok(if probe.method.as_deref() == Some(super::hgnas::record::METHOD) {
            Kind::Graph
        } else {
            Kind::Conv
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Log of the search's epochs.
    #[must_use]
    pub fn search_log(&self) -> PathBuf {
        self.file("search.jsonl")
    }

    /// Log of the training's epochs.
    #[must_use]
    pub fn train_log(&self) -> PathBuf {
        self.file("train.jsonl")
    }

    /// Where a search stands.
    #[must_use]
    pub fn search_checkpoint(&self) -> PathBuf {
        self.file("search.checkpoint.safetensors")
    }

    /// Where a training stands.
    #[must_use]
    pub fn train_checkpoint(&self) -> PathBuf {
        self.file("train.checkpoint.safetensors")
    }

    /// The trained net as ONNX; graph nets have theirs here, with the graph inside.
    #[must_use]
    pub fn onnx(&self) -> PathBuf {
        self.file("net.onnx")
    }

    /// The trained weights.
    #[must_use]
    pub fn weights(&self) -> PathBuf {
        self.file("weights.safetensors")
    }

    /// What was asked.
    ///
    /// # Errors
    /// [`RunError`] where the file is missing, damaged or of another version.
    pub fn record(&self) -> Result<RunRecord, RunError> {
        load(&self.file("run.json"))
    }

    /// What came out.
    ///
    /// # Errors
    /// As [`RunDir::record`].
    pub fn net(&self) -> Result<NetRecord, RunError> {
        load(&self.file("net.json"))
    }

    /// Writes what came out.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub fn save_net(&self, record: &NetRecord) -> Result<(), RunError> {
        save(&self.file("net.json"), record)
    }

    /// What the device says of it.
    ///
    /// # Errors
    /// As [`RunDir::record`].
    pub fn verify(&self) -> Result<VerifyRecord, RunError> {
        load(&self.file("verify.json"))
    }

    /// Writes what the device says of it.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub fn save_verify(&self, record: &VerifyRecord) -> Result<(), RunError> {
        save(&self.file("verify.json"), record)
    }

    /// Removes what a device said of an older net, before another takes its place.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub fn remove_verify(&self) -> Result<(), RunError> {
        let path = self.file("verify.json");
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(RunError::Write { path, source }),
            _ => Ok(()),
        }
    }

    /// The base net and its latency at the search's start.
    ///
    /// # Errors
    /// [`RunError`] where it is not there or not readable.
    pub fn base(&self) -> Result<NetRecord, RunError> {
        load(&self.file("base.json"))
    }

    /// Stores the base net.
    ///
    /// # Errors
    /// [`RunError`] where it cannot be written.
    pub fn save_base(&self, record: &NetRecord) -> Result<(), RunError> {
        save(&self.file("base.json"), record)
    }
}

/// Writes a file beside its place and renames it into it.
///
/// # Errors
/// [`RunError::Write`]; what was there before is then untouched.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), RunError> {
    let write = |source| RunError::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(write)?;
    file.write_all(content).map_err(write)?;
    file.as_file().sync_all().map_err(write)?;
    file.persist(path).map_err(|error| write(error.error))?;
    Ok(())
}

/// Writes a record as JSON, whole or not at all.
///
/// # Errors
/// [`RunError::Write`].
pub fn save<T: Serialize>(path: &Path, record: &T) -> Result<(), RunError> {
    let write = |error: serde_json::Error| RunError::Write { path: path.to_owned(), source: error.into() };
    let mut text = serde_json::to_vec_pretty(record).map_err(write)?;
    text.push(b'\n');
    write_whole(path, &text)
}

/// Reads a record of this schema version.
///
/// # Errors
/// [`RunError`] where it is not there, damaged or of another version.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, RunError> {
    #[derive(Deserialize)]
    struct Versioned {
        schema_version: u32,
    }
    let text = fs::read(path).map_err(|source| RunError::Read { path: path.to_owned(), source })?;
    let parse = |source| RunError::Parse { path: path.to_owned(), source };
    // The version first: a later layout need not parse.
    let Versioned { schema_version: given } = serde_json::from_slice(&text).map_err(parse)?;
    if given != SCHEMA_VERSION {
        return Err(RunError::Version { path: path.to_owned(), given });
    }
    serde_json::from_slice(&text).map_err(parse)
}

#[cfg(test)]
mod tests {
    use super::super::config::{Gate, SearchConfig, Strategy};
    use super::*;
    use crate::space::width::WidthSpace;
    use crate::task::Task;

    fn record() -> RunRecord {
        let task: Task = "shapes10-resnet20".parse().unwrap();
        RunRecord {
            schema_version: SCHEMA_VERSION,
            device: "local".to_owned(),
            batch: 4,
            config: SearchConfig::scaled(Strategy::Htas, Gate::Latency { budget_ns: 2.5e6 }, 3),
            space: WidthSpace::aligned(&task.family, 2, 8),
            train_images: Some(1000),
            budget: Some("2500us".to_owned()),
            images_digest: None,
            task,
        }
    }

    #[test]
    fn a_folder_takes_its_own_run_again_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let run = RunDir::create(&path, &record()).unwrap();
        assert_eq!(RunDir::create(&path, &record()).unwrap(), run);
        assert_eq!(RunDir::open(&path).unwrap().record().unwrap(), record());
        let mut other = record();
        other.config.seed = 4;
        assert!(matches!(RunDir::create(&path, &other), Err(RunError::Occupied { .. })));
        let graph = serde_json::json!({ "schema_version": SCHEMA_VERSION, "method": "hgnas" });
        assert!(matches!(RunDir::create(&path, &graph), Err(RunError::Occupied { .. })));
        let elsewhere = RunDir::create(&folder.path().join("graph"), &graph).unwrap();
        assert_eq!((run.kind().unwrap(), elsewhere.kind().unwrap()), (Kind::Conv, Kind::Graph));
        let refused = RunDir::create(elsewhere.path(), &record());
        assert!(matches!(refused, Err(RunError::Occupied { .. })), "{refused:?}");
        run.abandon();
        assert!(!path.exists());
        let run = RunDir::create(&path, &other).unwrap();
        run.save_net(&NetRecord::new(&other.task.family.base()).unwrap()).unwrap();
        run.abandon();
        assert!(run.net().is_ok() && run.record().is_ok());
    }

    #[test]
    fn nets_and_verdicts_survive_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path(), &record()).unwrap();
        assert!(matches!(run.net(), Err(RunError::Read { .. })));
        let mut net = NetRecord::new(&record().task.family.base()).unwrap();
        net.measured_ns = Some(1234.5);
        run.save_net(&net).unwrap();
        assert_eq!(run.net().unwrap(), net);
        let verify = VerifyRecord {
            schema_version: SCHEMA_VERSION,
            device: "local".to_owned(),
            predicted_ns: Some(1.0),
            measured_ns: 2.0,
            error_ns: 0.1,
            base_ns: 4.0,
            slower: Some(1.0),
            in_turns: vec![folder.path().to_owned()],
            budget_ns: Some(2.0),
            within_budget: Some(true),
            on_device: Some(OnDevice { images: 100, accuracy: 0.5 }),
            doubts: vec!["steal time".to_owned()],
        };
        run.save_verify(&verify).unwrap();
        assert_eq!(run.verify().unwrap(), verify);
        run.remove_verify().unwrap();
        assert!(run.verify().is_err() && run.remove_verify().is_ok());
    }

    #[test]
    fn damage_and_other_versions_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        RunDir::create(folder.path(), &record()).unwrap();
        let file = folder.path().join("run.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"schema_version\": 1", "\"schema_version\": 9")).unwrap();
        assert!(matches!(RunDir::open(folder.path()), Err(RunError::Version { given: 9, .. })));
        fs::write(&file, &text[..text.len() / 2]).unwrap();
        assert!(matches!(RunDir::open(folder.path()), Err(RunError::Parse { .. })));
    }
}
