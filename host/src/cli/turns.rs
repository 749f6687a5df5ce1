//! Searches side by side on one machine: while one of them measures, none of the others measures or trains; none
//! of them works in a folder that another is at work in; and what several need is made by one of them.
//!
//! Those that train hold a file's lock together, the one that measures holds it alone. A second lock, which
//! everyone takes on the way to the first, lets a search that waits to measure stand before trainings
//! that begin after it. Both are given back by the system when a search ends, however it ends.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use super::{Interrupted, interrupt};
use crate::search::run::LOCK;

/// How often a wait looks whether its turn has come; oftener, it would disturb the one that measures.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The turns of searches that were given the same file; without one there is nobody to wait for.
pub(super) struct Turns {
    file: Option<PathBuf>,
}

/// A turn; over when it is dropped.
#[must_use]
pub(super) struct Turn {
    _locked: Option<File>,
}

impl Turns {
    /// Turns by the locks of a file and of another beside it, both made where they are not there.
    pub(super) fn new(file: Option<&Path>) -> Self {
        Self { file: file.map(Path::to_owned) }
    }

    /// Waits until no other search measures or trains.
    pub(super) fn measure(&self) -> anyhow::Result<Turn> {
        self.take(File::try_lock)
    }

    /// Waits until no other search measures, or waits to.
    pub(super) fn train(&self) -> anyhow::Result<Turn> {
        self.take(File::try_lock_shared)
    }

    /// Takes a folder for one command alone; refused while another has it.
    pub(super) fn alone(folder: &Path) -> anyhow::Result<Turn> {
        let path = folder.join(LOCK);
        let cannot = || format!("cannot lock {}", path.display());
        let file = File::options().create(true).append(true).open(&path).with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(Turn { _locked: Some(file) }),
            Err(TryLockError::Error(error)) => Err(error).with_context(cannot),
            Err(TryLockError::WouldBlock) => {
                let folder = folder.display();
                Err(anyhow::anyhow!("another hanas is at work in {folder}; wait for it, or end it"))
            }
        }
    }

    /// Waits until no other hanas makes a file that several need, and says so; the lock lies beside it.
    pub(super) fn making(file: &Path) -> anyhow::Result<Turn> {
        // What waits is ended by a word, not by the signal.
        interrupt::watch();
        let note = format!("another hanas makes {}; waiting for it", file.display());
        Ok(Turn { _locked: Some(locked(&file.with_extension(LOCK), File::try_lock, Some(note))?) })
    }

    fn take(&self, lock: fn(&File) -> Result<(), TryLockError>) -> anyhow::Result<Turn> {
        let Some(file) = &self.file else { return Ok(Turn { _locked: None }) };
        // What waits is ended by a word, not by the signal.
        interrupt::watch();
        let mut next = OsString::from(file);
        next.push(".next");
        let _next = locked(Path::new(&next), File::try_lock, None)?;
        Ok(Turn { _locked: Some(locked(file, lock, None)?) })
    }
}

/// Opens a file and waits for its lock; the note, if any, is told where there is something to wait for.
fn locked(
    path: &Path,
    lock: fn(&File) -> Result<(), TryLockError>,
    mut note: Option<String>,
) -> anyhow::Result<File> {
    let cannot = || format!("cannot lock {}", path.display());
    let file = File::options().create(true).append(true).open(path).with_context(cannot)?;
    loop {
        match lock(&file) {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
            Err(TryLockError::WouldBlock) if interrupt::asked() => {
                return Err(Interrupted { kept: "the same command goes on from there".to_owned() }.into());
            }
            Err(TryLockError::WouldBlock) => {
                if let Some(note) = note.take() {
                    eprintln!("note: {note}");
                }
                thread::sleep(LOOK_EVERY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// How many hold the lock; one that measures counts for a hundred.
    fn held(turns: &Turns, measures: bool, holders: &AtomicUsize) -> usize {
        let turn = if measures { turns.measure() } else { turns.train() };
        let weight = if measures { 100 } else { 1 };
        let now = holders.fetch_add(weight, Ordering::SeqCst) + weight;
        thread::sleep(Duration::from_millis(5));
        holders.fetch_sub(weight, Ordering::SeqCst);
        drop(turn.unwrap());
        now
    }

    #[test]
    fn who_measures_is_alone_and_trainings_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let turns = Turns::new(Some(&folder.path().join("turns")));
        let holders = AtomicUsize::new(0);
        // Two that train without a pause, and one that has to come between them.
        let seen: Vec<usize> = thread::scope(|scope| {
            let many = |measures: bool| {
                let (turns, holders) = (&turns, &holders);
                scope.spawn(move || (0..8).map(|_| held(turns, measures, holders)).collect::<Vec<_>>())
            };
            let running = [many(false), many(false), many(true)];
            running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let measured = seen.iter().filter(|&&now| now >= 100);
        assert_eq!(measured.copied().collect::<Vec<_>>(), [100; 8]);
        assert!(seen.iter().all(|&now| now <= 2 || now == 100), "{seen:?}");
        assert!(seen.contains(&2), "those that train share");
        assert!(Turns::new(None).measure().is_ok());
    }

    #[test]
    fn a_folder_is_one_searchs() {
        let folder = tempfile::tempdir().unwrap();
        let first = Turns::alone(folder.path()).unwrap();
        let second = Turns::alone(folder.path()).err().unwrap().to_string();
        assert!(second.contains("another hanas is at work in"), "{second}");
        drop(first);
        assert!(Turns::alone(folder.path()).is_ok());
    }

    #[test]
    fn a_file_is_made_by_one_while_others_wait() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("teacher.safetensors");
        let first = Turns::making(&file).unwrap();
        let made = thread::scope(|scope| {
            let second = scope.spawn(|| Turns::making(&file).map(|_turn| file.exists()).unwrap());
            thread::sleep(Duration::from_millis(20));
            std::fs::write(&file, "weights").unwrap();
            drop(first);
            second.join().unwrap()
        });
        assert!(made, "the second finds what the first made");
        assert!(Turns::making(&folder.path().join("other.safetensors")).is_ok());
    }

    #[test]
    fn a_file_that_cannot_be_made_is_named() {
        let wrong = Turns::new(Some(Path::new("/nowhere/turns"))).train().err().unwrap();
        assert!(wrong.to_string().contains("/nowhere/turns"), "{wrong}");
    }
}
