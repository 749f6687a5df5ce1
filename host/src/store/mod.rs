//! Everything that was ever measured, in one SQLite file.
//!
//! In: facts about devices, sessions, models, raw samples, contexts, and what was made of them. Out:
//! the same, by device setting, task and batch. Any SQLite client reads the file; units stand in the
//! column names and the view `samples` has one row per timed run.
//!
//! - [`schema`]: the tables;
//! - [`device`]: who was measured; two devices are the same setting when what decides timings is equal;
//! - [`session`]: writing one profile, batch by batch;
//! - [`samples`]: reading timings back;
//! - [`result`]: fits and spaces, with the sessions they stand on.
//!
//! The store is append-only: triggers refuse updates and deletions. It keeps SQLite's rollback journal
//! with `synchronous = FULL`, not a write-ahead log: the store stays one file that can be copied at
//! any time between commands, it works on network file systems, and a commit is on the disk when it
//! returns. A profile commits about once a second, so the extra flush does not count. A killed
//! process loses the batch that it was writing and nothing else.

pub mod device;
pub mod result;
pub mod samples;
pub mod schema;
pub mod session;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags};

pub use device::{Device, DeviceId};
pub use result::{ChoiceRow, Saved, StoredResult};
pub use samples::{ModelSamples, SampleQuery, Visit};
pub use session::{ModelId, ModelRecord, ModelSpec, NewSession, Plan, SessionId, SessionRow, VisitRow};

/// How long a locked store is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process is writing.
    #[error(
        "{} is locked by {holder}; wait until it ends or end it, then run this command again",
        path.display()
    )]
    Locked {
        /// The store.
        path: PathBuf,
        /// Who has it, as far as the system tells.
        holder: String,
    },
    /// A later hanas made the file.
    #[error(
        "{} was written by a newer hanas (store version {found}, this one knows {known}): update hanas, or name another store with --store",
        path.display()
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Version of this build.
        known: u32,
    },
    /// The file is something else.
    #[error("{} is not a hanas store; name another file with --store", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// There is no file.
    #[error("there is no store at {}; `hanas profile` makes one", path.display())]
    Missing {
        /// Where one was looked for.
        path: PathBuf,
    },
    /// A stored value cannot be read back.
    #[error("the store's {what} cannot be read: {why}")]
    Damaged {
        /// Which value.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// SQLite failed otherwise (a full disk, say).
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The store.
        path: PathBuf,
        /// SQLite's own words.
        source: rusqlite::Error,
    },
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the store at `path`, or makes one; the folder must be there.
    ///
    /// # Errors
    /// [`StoreError`] where the file is no store, too new, locked, or cannot be written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, OpenFlags::default())
    }

    /// Opens the store at `path`, which must be there.
    ///
    /// # Errors
    /// As [`Store::open`], and [`StoreError::Missing`].
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        Self::open_with(path, OpenFlags::default() & !OpenFlags::SQLITE_OPEN_CREATE)
    }

    /// Where the store lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_with(path: &Path, flags: OpenFlags) -> Result<Self, StoreError> {
        let connection = Connection::open_with_flags(path, flags).map_err(|error| failure(path, error))?;
        let mut store = Self { connection, path: path.to_owned() };
        store.prepare().map_err(|error| store.fail(error))?;
        store.check_version()?;
        Ok(store)
    }

    fn prepare(&self) -> rusqlite::Result<()> {
        self.connection.busy_timeout(LOCK_WAIT)?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.connection.pragma_update(None, "foreign_keys", true)
    }

    fn check_version(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        // Read first: a store that is there may be one that must not be written.
        let tables = |of: &Connection| -> rusqlite::Result<u32> {
            of.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        };
        if tables(&self.connection).map_err(|error| self.fail(error))? > 0 {
            return version(&self.connection, path).map_err(|error| self.fail(error))?;
        }
        // Immediate, so that of two processes that find an empty file only one fills it.
        self.write(|tx| {
            if tables(tx)? == 0 {
                tx.execute_batch(&schema::create())?;
            }
            version(tx, path)
        })?
    }

    /// Runs `work` in one transaction, which is committed where it succeeds.
    fn write<T>(
        &mut self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let path = &self.path;
        let immediate = rusqlite::TransactionBehavior::Immediate;
        let tx =
            self.connection.transaction_with_behavior(immediate).map_err(|error| failure(path, error))?;
        let value = work(&tx).map_err(|error| failure(path, error))?;
        tx.commit().map_err(|error| failure(path, error))?;
        Ok(value)
    }

    fn fail(&self, error: rusqlite::Error) -> StoreError {
        failure(&self.path, error)
    }
}

/// Whether a file with tables is a store that this build knows.
fn version(connection: &Connection, path: PathBuf) -> rusqlite::Result<Result<(), StoreError>> {
    let number = |name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(|number| number as u32)
    };
    let found = number("user_version")?;
    Ok(if number("application_id")? != schema::APPLICATION_ID {
        Err(StoreError::NotAStore { path })
    } else if found > schema::VERSION {
        Err(StoreError::Newer { path, found, known: schema::VERSION })
    } else {
        Ok(())
    })
}

fn failure(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let holder = holder(&path);
            StoreError::Locked { path, holder }
        }
        Some(ErrorCode::NotADatabase) => StoreError::NotAStore { path },
        _ => StoreError::Sqlite { path, source },
    }
}

/// Who holds a lock on the file: `process 1234 (hanas)` where `/proc/locks` tells.
fn holder(path: &Path) -> String {
    holding_process(path).map_or_else(
        || "another process (another hanas, or an SQLite client with an open transaction)".to_owned(),
        |pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim())
        },
    )
}

#[cfg(target_os = "linux")]
fn holding_process(path: &Path) -> Option<u32> {
    use std::os::linux::fs::MetadataExt;
    // A line reads `1: POSIX  ADVISORY  WRITE 1234 08:01:5678 0 EOF`.
    let inode = format!(":{}", std::fs::metadata(path).ok()?.st_ino());
    std::fs::read_to_string("/proc/locks").ok()?.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let pid = fields.get(4)?.parse().ok()?;
        let holds = fields.get(5)?.ends_with(&inode) && pid != std::process::id();
        holds.then_some(pid)
    })
}

#[cfg(not(target_os = "linux"))]
fn holding_process(_path: &Path) -> Option<u32> {
    None
}

/// Milliseconds since 1970.
fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// SQLite's integers are signed; what does not fit saturates.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
