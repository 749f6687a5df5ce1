//! Who watches a search or a training, and how it is stopped; the lines of its logs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::hgnas::explore::Trial;
use super::meter::Amount;
use super::run::RunError;

/// What a watcher is told.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A step is done.
    Step {
        /// Steps done so far, earlier epochs' too. A step of weights and one of logits count alike.
        done: usize,
        /// All steps.
        total: usize,
        /// Loss of the weights at this step.
        loss: f64,
    },
    /// A net is measured, by a strategy that trains none.
    Measured {
        /// Nets measured so far.
        done: usize,
        /// Most nets that will be.
        total: usize,
    },
    /// A search's epoch is done and logged.
    Search {
        /// Its line.
        line: &'a SearchEpoch,
        /// Expected cost with its unit; none where only weights were trained.
        expected: Option<Amount>,
        /// The argmax net's cost by prediction.
        argmax: Amount,
        /// The target.
        target: Amount,
    },
    /// A training's epoch is done and logged.
    Train(&'a TrainEpoch),
    /// A training of a search's finalists is done.
    Final {
        /// Trainings done.
        done: usize,
        /// All of them.
        total: usize,
        /// Validation accuracy of this one.
        validation: f64,
    },
    /// A trial of a search over tokens is done and logged.
    Trial {
        /// The trial.
        trial: &'a Trial,
        /// All trials.
        samples: usize,
    },
}

/// Watches and stops. The stop flag is read at every step: what is under way is checkpointed first.
pub struct Monitor<'a> {
    /// Told every event.
    pub watch: &'a mut dyn FnMut(Event<'_>),
    /// Set from outside (Ctrl-C) to stop.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for Monitor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").field("stop", &self.stop).finish_non_exhaustive()
    }
}

impl Monitor<'_> {
    /// Tells the watcher.
    pub fn tell(&mut self, event: Event<'_>) {
        (self.watch)(event);
    }

    /// Whether to stop.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// One epoch of a search, a line of `search.jsonl`. Costs are in the gate's unit: nanoseconds, or
/// multiply-adds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchEpoch {
    /// The epoch, from 0; warm-up epochs count.
    pub epoch: u32,
    /// Whether only the weights were trained.
    pub warmup: bool,
    /// Temperature of the Gumbel softmax.
    pub temperature: f64,
    /// Mean loss of the weight steps.
    pub weight_loss: f64,
    /// Share of their images that the sampled nets classified right.
    pub weight_accuracy: f64,
    /// Mean cross-entropy of the architecture steps, 0 in warm-up.
    pub logit_loss: f64,
    /// Share of their images that the sampled nets classified right, on the half that trains no weight; 0
    /// where there were no such steps.
    pub logit_accuracy: f64,
    /// Expected cost after the last step, in the cost's own unit and calibration; in warm-up that of the
    /// logits as they began. Where no logits are trained, `estimated_cost`.
    pub expected_cost: f64,
    /// Summary of the argmax net.
    pub argmax: String,
    /// Its cost by prediction, corrected by what was measured before.
    pub estimated_cost: f64,
    /// Its cost as measured (or counted) at the epoch's end.
    pub measured_cost: f64,
    /// The target.
    pub target_cost: f64,
    /// Time the epoch took, in milliseconds.
    pub wall_ms: u64,
    /// Most memory the process has held so far, in bytes; 0 where the system does not tell.
    pub peak_memory_bytes: u64,
}

/// One epoch of a training, a line of `train.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainEpoch {
    /// The epoch, from 0; warm-up epochs count.
    pub epoch: u32,
    /// Learning rate at its last step.
    pub rate: f64,
    /// Mean loss.
    pub loss: f64,
    /// Share of the augmented training images classified right.
    pub accuracy: f64,
    /// Share of the test images classified right, at the last epoch and wherever it was asked for. Only
    /// the last one is a result.
    pub test_accuracy: Option<f64>,
    /// Time the epoch took, in milliseconds.
    pub wall_ms: u64,
    /// Most memory the process has held so far, in bytes; 0 where the system does not tell.
    pub peak_memory_bytes: u64,
}

/// A log of one JSON object per line.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens a log for appending, after its first `keep` lines: what a stopped run wrote beyond its
    /// checkpoint will be written again.
    ///
    /// # Errors
    /// [`RunError`] where the file cannot be read or written.
    pub fn open(path: &Path, keep: usize) -> Result<Self, RunError> {
        let old = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(RunError::Read { path: path.to_owned(), source }),
        };
        let write = |source| RunError::Write { path: path.to_owned(), source };
        let kept: usize = old.split_inclusive('\n').take(keep).map(str::len).sum();
        if kept < old.len() {
            let file = OpenOptions::new().write(true).open(path).map_err(write)?;
            file.set_len(kept as u64).map_err(write)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(write)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub fn push<T: Serialize>(&mut self, entry: &T) -> Result<(), RunError> {
        let write = |source| RunError::Write { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(entry).map_err(|error| write(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(write)
    }
}

/// Every entry of a log.
///
/// # Errors
/// [`RunError`] where the file cannot be read or a line is no entry.
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, RunError> {
    let text = fs::read_to_string(path).map_err(|source| RunError::Read { path: path.to_owned(), source })?;
    let parse = |line: &str| {
        serde_json::from_str(line).map_err(|source| RunError::Parse { path: path.to_owned(), source })
    };
    text.lines().map(parse).collect()
}

/// Every entry of a log that may not be there yet, and whose last line a kill may have cut short: half a
/// line is no entry.
///
/// # Errors
/// As [`read_lines`].
pub fn read_complete_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, RunError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(RunError::Read { path: path.to_owned(), source }),
    };
    let end = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |place| place + 1);
    let parse = |line: &[u8]| {
        serde_json::from_slice(line).map_err(|source| RunError::Parse { path: path.to_owned(), source })
    };
    text[..end].split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(parse).collect()
}

/// Most memory this process has held so far, in bytes (VmHWM); 0 where the system does not tell.
#[must_use]
pub fn peak_memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_after_the_lines_that_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = JsonLines::open(&path, 0).unwrap();
        for entry in 0..3 {
            log.push(&entry).unwrap();
        }
        JsonLines::open(&path, 2).unwrap().push(&7).unwrap();
        assert_eq!(read_lines::<i32>(&path).unwrap(), [0, 1, 7]);
    }

    #[test]
    fn memory_is_known_on_linux() {
        assert!(!cfg!(target_os = "linux") || peak_memory_bytes() > 1 << 20);
    }
}
