//! Scores of trained architectures on disk, one JSON line each: a search that is interrupted, or another
//! strategy after it, trains nothing twice.
//!
//! A line counts for the canonical architecture, the child's training settings and the data set under
//! whose names it was written. A line is flushed as soon as a child is trained; half a line, which a
//! kill may leave, is dropped.

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::progress::{JsonLines, read_complete_lines};
use super::super::run::RunError;
use super::explore::Score;

/// Under which circumstances a score was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The child's training settings, its seed included.
    pub child: String,
    /// Digest of the data set.
    pub data: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(flatten)]
    setting: Setting,
    #[serde(flatten)]
    score: Score,
}

/// Scores known under one setting.
#[derive(Debug)]
pub struct ScoreCache {
    setting: Setting,
    known: HashMap<String, Score>,
    lines: JsonLines,
}

impl ScoreCache {
    /// Opens a cache, made if it is not there. Lines of other settings stay and do not count.
    ///
    /// # Errors
    /// [`RunError`] where the file cannot be read or written or is no cache.
    pub fn open(path: &Path, setting: Setting) -> Result<Self, RunError> {
        let all: Vec<Line> = read_complete_lines(path)?;
        let lines = JsonLines::open(path, all.len())?;
        let known = all.into_iter().filter(|line| line.setting == setting).map(|line| (line.key, line.score));
        Ok(Self { known: known.collect(), setting, lines })
    }

    /// The score of an architecture, if it is known.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Score> {
        self.known.get(key).copied()
    }

    /// Keeps a score.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub fn put(&mut self, key: &str, score: Score) -> Result<(), RunError> {
        self.lines.push(&Line { key: key.to_owned(), setting: self.setting.clone(), score })?;
        self.known.insert(key.to_owned(), score);
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
        Setting { child: child.to_owned(), data: data.to_owned() }
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
        assert_eq!(ScoreCache::open(&path, setting("100 epochs", "cora")).unwrap().len(), 2);
    }
}
