//! `hanas` as a process, and what its store holds afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::program;

/// A command that runs longer than this hangs, also on a machine that does much else.
const LONGEST: Duration = Duration::from_secs(300);

/// A folder with a store and an inventory of its own, in which `hanas` is run.
#[derive(Debug)]
pub struct Host {
    folder: TempDir,
    program: PathBuf,
}

/// What a command left behind.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Its data.
    pub stdout: String,
    /// Its log.
    pub stderr: String,
}

/// One timed run as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    /// The model's name.
    pub model: String,
    /// The session.
    pub session: i64,
    /// The round.
    pub round: i64,
    /// The run in its visit.
    pub run: i64,
    /// Its time.
    pub ns: i64,
}

impl Default for Host {
    fn default() -> Self {
        Self::of(program("hanas"))
    }
}

impl Host {
    /// Runs that `hanas` instead of the one of `make build`.
    ///
    /// # Panics
    /// Where there can be no folder.
    #[must_use]
    pub fn of(program: PathBuf) -> Self {
        Self { folder: tempfile::tempdir().expect("room for temporary files"), program }
    }

    /// A file in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into its folder.
    ///
    /// # Panics
    /// Where it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a temporary file can be written");
        path
    }

    /// `hanas` with these arguments, not started yet. No setting of the user's own reaches it.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.prepared(Command::new(&self.program), arguments)
    }

    /// The same, unable to write a file of more than `blocks` blocks of 512 bytes: to `hanas` that is a
    /// disk without room.
    #[must_use]
    pub fn without_room(&self, blocks: u32, arguments: &[&str]) -> Command {
        let mut shell = Command::new("sh");
        // Who ignores the signal of the limit is told by the failing write.
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(&self.program);
        self.prepared(shell, arguments)
    }

    fn prepared(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HANAS_STORE", self.store())
            .env("HANAS_DEVICES", self.path("devices.toml"))
            // Tests run beside each other: with a thread for each core their trainings would wait for one another.
            .env("OMP_NUM_THREADS", "1")
            .env_remove("HANAS_DEVICE")
            .env_remove("HANAS_DATA")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts `hanas` and does not wait.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().expect("hanas starts")
    }

    /// Runs `hanas` to its end.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Ended {
        finish(self.spawn(arguments))
    }

    /// Runs `hanas` to a good end and reads the JSON that it prints.
    ///
    /// # Panics
    /// Where it fails or prints something else.
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--format", "json"]].concat()).json()
    }

    /// The store's file.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path("store.sqlite")
    }

    /// All timed runs, ordered by model, session, round and run.
    ///
    /// # Panics
    /// Where there is no store.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        let read = |store: &Connection| -> rusqlite::Result<Vec<Sample>> {
            let mut rows = store.prepare("SELECT model, session_id, round, run, sample_ns FROM samples")?;
            let rows = rows.query_map([], |row| {
                Ok(Sample {
                    model: row.get(0)?,
                    session: row.get(1)?,
                    round: row.get(2)?,
                    run: row.get(3)?,
                    ns: row.get(4)?,
                })
            })?;
            rows.collect()
        };
        let mut samples = read(&open(&self.store())).expect("a store has samples");
        samples.sort();
        samples
    }

    /// Timed runs of every model.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for sample in self.samples() {
            *counts.entry(sample.model).or_default() += 1;
        }
        counts
    }

    /// Rounds that are safe in the store; 0 where there is none yet.
    #[must_use]
    pub fn rounds(&self) -> i64 {
        let count = |store: &Connection| {
            store.query_row("SELECT COUNT(*) FROM contexts", [], |row| row.get(0)).unwrap_or(0)
        };
        if self.store().is_file() { count(&open(&self.store())) } else { 0 }
    }

    /// What SQLite says of the store's integrity: `ok`.
    ///
    /// # Panics
    /// Where it cannot be asked.
    #[must_use]
    pub fn integrity(&self) -> String {
        let store = open(&self.store());
        store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a store can be checked")
    }
}

impl Ended {
    /// The JSON that a command printed, which must have ended well.
    ///
    /// # Panics
    /// Where it failed or printed something else.
    #[must_use]
    pub fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).expect("stdout is JSON")
    }

    /// The one line of complaint of a command that failed with `code`; notes, such as that the device is busy,
    /// are none.
    ///
    /// # Panics
    /// Where it ended otherwise or said more or less.
    #[must_use]
    pub fn complaint(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !line.starts_with("note: ")).collect();
        assert!(lines.len() == 1 && lines[0].starts_with("hanas: "), "{}", self.stderr);
        lines[0]
    }
}

/// Waits for a command's end.
///
/// # Panics
/// Where it hangs.
#[must_use]
pub fn finish(child: Child) -> Ended {
    let id = Pid::from_child(&child);
    let (ended, end) = mpsc::channel();
    thread::spawn(move || ended.send(child.wait_with_output()));
    let output = end.recv_timeout(LONGEST).unwrap_or_else(|_| {
        kill_process(id, Signal::KILL).ok();
        panic!("hanas hangs");
    });
    let output = output.expect("a command can be waited for");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn open(path: &Path) -> Connection {
    let store = Connection::open(path).expect("a store can be opened");
    // A command may be writing.
    store.busy_timeout(Duration::from_secs(10)).expect("SQLite waits");
    store
}
