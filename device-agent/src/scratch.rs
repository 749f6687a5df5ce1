//! The agent's folder of temporary files. It goes with the agent; what an agent that was killed left behind
//! goes when the next one starts, for boards are small and reboots rare.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

const PREFIX: &str = "hanas-agent-";

/// Locked as long as its agent lives.
const LOCK: &str = "lock";

/// A folder younger than this may belong to an agent that has not locked it yet.
const YOUNG: Duration = Duration::from_secs(60);

/// A folder of one agent.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: TempDir,
    _lock: File,
}

impl Scratch {
    /// A new folder in the system's folder for temporary files; removes those of agents that are gone.
    ///
    /// # Errors
    /// No room, or a folder that cannot be written.
    pub(crate) fn new() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        remove_abandoned(&parent, YOUNG);
        Self::within(&parent)
    }

    fn within(parent: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let lock = File::create(folder.path().join(LOCK))?;
        // Where the file system has no locks, nobody removes what is left.
        lock.lock().ok();
        Ok(Self { folder, _lock: lock })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes what agents left that no longer live. What cannot be removed, another user's, stays.
fn remove_abandoned(parent: &Path, young: Duration) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&entry.path(), young) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Whether a folder has a lock, for some time, and nobody holds it.
fn is_abandoned(folder: &Path, young: Duration) -> bool {
    let lock: PathBuf = folder.join(LOCK);
    let Ok(file) = File::options().read(true).write(true).open(lock) else { return false };
    let age = file.metadata().and_then(|of| of.modified()).ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age >= young) && file.try_lock().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_gone_agent_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Scratch::within(parent.path()).unwrap();
        let mut killed = Scratch::within(parent.path()).unwrap();
        killed.folder.disable_cleanup(true);
        let left = killed.path().to_owned();
        fs::write(left.join("slot"), []).unwrap();
        drop(killed);
        let others = [parent.path().join("hanas-agent-notes"), parent.path().join("other")];
        for folder in &others {
            fs::create_dir(folder).unwrap();
        }
        File::create(others[1].join(LOCK)).unwrap();

        remove_abandoned(parent.path(), YOUNG);
        assert!(left.is_dir(), "it is young");
        remove_abandoned(parent.path(), Duration::ZERO);
        assert!(!left.exists());
        assert!(alive.path().join(LOCK).is_file());
        assert!(others.iter().all(|folder| folder.is_dir()), "not ours");
    }
}
