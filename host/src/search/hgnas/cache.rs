//! What is known of architectures, on disk, one JSON line each: scores of trained ones, latencies of measured
//! ones. A search that is interrupted, or another after it, trains and measures nothing twice.
//!
//! Several searches may share a file at once: whoever opens or writes it holds its lock meanwhile. What the others
//! write after that is not heard of, so that two may come to know the same.
//!
//! A line counts for the canonical architecture and the setting under which it was written. A line is
//! flushed as soon as it is known; half a line, which a kill may leave, is dropped.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::progress::{JsonLines, read_complete_lines};
use super::super::run::RunError;
use super::explore::Score;
use crate::latency::disturbed::at_pace;

/// Under which circumstances a score was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The child's training settings, its seed included.
    pub child: String,
    /// Digest of the data set.
    pub data: String,
    /// Threads that a child was trained on: on others its last digits are others.
    #[serde(default)]
    pub threads: i32,
}

/// On what, and how, a latency was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measuring {
    /// The device, as it names itself, its runtime and processor.
    pub device: String,
    /// How the layers are read, and the number of timed runs.
    pub how: String,
    /// Digest of the data set.
    pub data: String,
}

/// A measured latency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Of one run over the whole graph, ns; none where the device cannot run the net.
    pub ns: Option<f64>,
    /// Of the reference net in turns with it, ns: how fast the device was.
    pub reference_ns: f64,
}

impl Latency {
    /// As it would be where the reference net takes `reference_ns`, if that is another pace.
    #[must_use]
    pub fn at_pace(self, reference_ns: f64) -> Option<f64> {
        self.ns.map(|ns| at_pace(ns, self.reference_ns / reference_ns))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line<S, V> {
    key: String,
    #[serde(flatten)]
    setting: S,
    #[serde(flatten)]
    value: V,
}

/// Values known under one setting.
#[derive(Debug)]
pub struct Cache<S, V> {
    setting: S,
    known: HashMap<String, V>,
    lines: JsonLines,
    path: PathBuf,
    lock: File,
}

/// Scores of trained architectures.
pub type ScoreCache = Cache<Setting, Score>;
/// Latencies of measured ones.
pub type LatencyCache = Cache<Measuring, Latency>;

impl<S, V> Cache<S, V>
where
    S: Clone + PartialEq + Serialize + DeserializeOwned,
    V: Copy + Serialize + DeserializeOwned,
{
    /// Opens a cache, made if it is not there. Lines of other settings stay and do not count.
    ///
    /// # Errors
    /// [`RunError`] where the file cannot be read or written or is no cache.
    pub fn open(path: &Path, setting: S) -> Result<Self, RunError> {
        let write = |source| RunError::Write { path: path.to_owned(), source };
        let lock = File::options().create(true).append(true).open(path).map_err(write)?;
        lock.lock().map_err(write)?;
        let all: Vec<Line<S, V>> = read_complete_lines(path)?;
        let lines = JsonLines::open(path, all.len())?;
        lock.unlock().map_err(write)?;
        let known = all.into_iter().filter(|line| line.setting == setting).map(|line| (line.key, line.value));
        Ok(Self { known: known.collect(), setting, lines, path: path.to_owned(), lock })
    }

    /// What is known of an architecture.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<V> {
        self.known.get(key).copied()
    }

    /// Keeps it.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub fn put(&mut self, key: &str, value: V) -> Result<(), RunError> {
        let write = |source| RunError::Write { path: self.path.clone(), source };
        self.lock.lock().map_err(write)?;
        let pushed = self.lines.push(&Line { key: key.to_owned(), setting: self.setting.clone(), value });
        self.lock.unlock().map_err(write)?;
        pushed?;
        self.known.insert(key.to_owned(), value);
        Ok(())
    }

    /// Architectures known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn setting(child: &str, data: &str) -> Setting {
        Setting { child: child.to_owned(), data: data.to_owned(), threads: 1 }
    }

    #[test]
    fn a_latency_is_corrected_to_the_pace() {
        let slow = Latency { ns: Some(300.0), reference_ns: 150.0 };
        assert_eq!((slow.at_pace(100.0), slow.at_pace(150.0)), (Some(200.0), Some(300.0)));
        assert_eq!(slow.at_pace(147.0), Some(300.0), "the same pace");
        assert_eq!(Latency { ns: None, ..slow }.at_pace(100.0), None);
    }

    #[test]
    fn two_share_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let open = || ScoreCache::open(&folder.path().join("scores.jsonl"), setting("a", "b")).unwrap();
        let score = Score { validation: 0.5, test: 0.4 };
        let (mut one, mut other) = (open(), open());
        one.put("x", score).unwrap();
        other.put("y", score).unwrap();
        one.put("z", score).unwrap();
        assert_eq!(open().len(), 3);
    }

    #[test]
    fn scores_survive_a_kill_and_settings_stay_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let score = Score { validation: 0.1 + 0.2, test: 0.7 };
        let mut cache = ScoreCache::open(&path, setting("100 epochs", "cora")).unwrap();
        assert!(cache.is_empty());
        cache.put("a", score).unwrap();
        drop(cache);
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"key\":\"b").unwrap();
        let mut cache = ScoreCache::open(&path, setting("100 epochs", "cora")).unwrap();
        assert_eq!((cache.get("a"), cache.get("b"), cache.len()), (Some(score), None, 1));
        cache.put("b", score).unwrap();
        for other in [setting("200 epochs", "cora"), setting("100 epochs", "citeseer")] {
            assert_eq!(ScoreCache::open(&path, other).unwrap().get("a"), None);
        }
        let timed = Measuring { device: "pi".to_owned(), how: "16".to_owned(), data: "cora".to_owned() };
        let wrong = LatencyCache::open(&path, timed).unwrap_err().to_string();
        assert!(wrong.contains("scores.jsonl"), "{wrong}");
        assert_eq!(ScoreCache::open(&path, setting("100 epochs", "cora")).unwrap().len(), 2);
    }
}
