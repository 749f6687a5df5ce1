//! The worker's process: started, ordered, killed, and its end put into words.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::orders::Inbox;
use crate::settings::WorkerSettings;

/// Bytes of a worker's last words that are passed on.
const LAST_WORDS: usize = 160;

/// glibc's allocator keeps what a run frees for the next one. As it comes, it gives buffers of some 100 KiB
/// and more back to the system after some runs and not after others, depending on what was allocated before:
/// the next run waits for thousands of fresh pages, and one session's latencies are another's times three.
const KEEP_FREED: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824");

/// How OpenMP's threads wait, which libtorch's are: without spinning, so that one that waits takes no processor
/// from the one that works.
const PASSIVE: (&str, &str) = ("OMP_WAIT_POLICY", "PASSIVE");

/// What becomes of a worker's reports; called on a thread of its own.
pub trait Reports: Send + 'static {
    /// Some bytes came; `false` where nobody wants more.
    fn take(&mut self, inbox: &mut Inbox) -> bool;
    /// The worker is no more; `how` says why, for a person.
    fn end(self: Box<Self>, how: &str);
}

/// A running worker.
#[derive(Debug)]
pub struct WorkerProcess {
    child: Arc<Mutex<Child>>,
    stdin: ChildStdin,
    slot_file: File,
    /// Which of the workers it is, counted from the agent's start.
    pub generation: u32,
    /// Whether it has reported that it is ready.
    pub ready: bool,
    /// Whether it was ever given an order, and so may hold something.
    pub used: bool,
    /// Last sign of life, or the last order's time.
    pub since: Instant,
    /// Its reports wait for a host that is slow to take them; it is not to blame.
    pub held_up: bool,
    /// It was killed for running too long.
    pub overtime: bool,
    /// The running job was told to stop.
    pub stopped: bool,
}

impl WorkerProcess {
    /// Starts a worker whose reports go to `reports`.
    ///
    /// # Errors
    /// The operating system's, where there can be no process.
    pub fn spawn(
        settings: &WorkerSettings,
        generation: u32,
        mut reports: Box<dyn Reports>,
    ) -> io::Result<Self> {
        let mut child = program(settings)
            .args(settings.arguments())
            // A backtrace would be its last words, instead of what happened.
            .env("RUST_BACKTRACE", "0")
            .envs(environment())
            // A terminal's Ctrl-C is the supervisor's to handle.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let missing = || io::Error::other("a worker without pipes");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let mut stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let child = Arc::new(Mutex::new(child));
        let slot_file = OpenOptions::new().read(true).write(true).open(&settings.slot_file)?;
        let words = thread::spawn(move || last_words(stderr));
        let ended = Arc::clone(&child);
        thread::spawn(move || {
            let mut inbox = Inbox::default();
            while inbox.fill(&mut stdout).is_ok_and(|read| read > 0) && reports.take(&mut inbox) {}
            let status = reap(&ended);
            let words = words.join().unwrap_or_default();
            reports.end(&describe(status, &words));
        });
        Ok(Self {
            child,
            stdin,
            slot_file,
            generation,
            ready: false,
            used: false,
            since: Instant::now(),
            held_up: false,
            overtime: false,
            stopped: false,
        })
    }

    /// Gives a request's order: nothing is timed for it yet.
    pub fn begin(&mut self, order: &[u8]) {
        // Fails only on a disk that fails: then a death is laid at the door of the slot before.
        self.slot_file.set_len(0).ok();
        self.order(order);
    }

    /// Gives an order. A worker that is no more is found out by its reports' end.
    pub fn order(&mut self, order: &[u8]) {
        self.used = true;
        self.since = Instant::now();
        self.stdin.write_all(order).ok();
    }

    /// The slot that the worker last began to time for the request that it is at; none where it has not yet.
    #[must_use]
    pub fn last_slot(&self) -> Option<u16> {
        let mut slot = [0; 2];
        // Nothing was timed yet where the file is empty.
        self.slot_file.read_exact_at(&mut slot, 0).ok().map(|()| u16::from_le_bytes(slot))
    }

    /// Ends the process at once.
    pub fn kill(&self) {
        // Fails only where it is dead already.
        self.child.lock().unwrap_or_else(PoisonError::into_inner).kill().ok();
    }
}

/// What the worker's libraries read from its environment, where the user has not set it.
fn environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    [KEEP_FREED, PASSIVE].into_iter().filter(|(name, _)| std::env::var_os(name).is_none())
}

/// The command that is the agent's program.
fn program(settings: &WorkerSettings) -> Command {
    let Some((first, rest)) = settings.prefix.split_first() else {
        let mut command = Command::new(&settings.program);
        command.arg0("hanas-agent");
        return command;
    };
    let mut command = Command::new(first);
    // `/proc/self/exe` would be the other program there; the file that it stands for is the agent.
    let own = fs::read_link(&settings.program).unwrap_or_else(|_| settings.program.clone());
    command.args(rest).arg(own);
    command
}

fn reap(child: &Mutex<Child>) -> Option<ExitStatus> {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // Its pipe is closed, so it is dying; whatever it is doing, it is of no more use.
    child.kill().ok();
    child.wait().ok()
}

/// The last line that a worker wrote to stderr: an allocation's size, a library's complaint.
fn last_words(stderr: impl Read) -> String {
    let mut last = String::new();
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        // Rust's own hint about backtraces, and an emulator's word on the signal, follow the line that says
        // what happened.
        let follows = ["note:", "qemu: uncaught target signal"].iter().any(|begin| text.starts_with(begin));
        if !text.trim().is_empty() && !follows {
            last = text.trim().chars().take(LAST_WORDS).collect();
        }
        line.clear();
    }
    last
}

fn describe(status: Option<ExitStatus>, words: &str) -> String {
    let how = match status.map(|status| (status.signal(), status.code())) {
        Some((Some(signal), _)) => format!("ended with {}", signal_name(signal)),
        Some((None, Some(code))) => format!("ended with exit code {code}"),
        _ => "ended".to_owned(),
    };
    if words.is_empty() { how } else { format!("{how} ({words})") }
}

fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_one_line_with_signal_and_last_words() {
        let words =
            last_words(&b"noise\nmemory allocation of 549755813888 bytes failed\nnote: run with\n\n"[..]);
        let text = describe(Some(ExitStatus::from_raw(6)), &words);
        assert_eq!(text, "ended with SIGABRT (memory allocation of 549755813888 bytes failed)");
        assert_eq!(describe(Some(ExitStatus::from_raw(256)), ""), "ended with exit code 1");
    }
}
