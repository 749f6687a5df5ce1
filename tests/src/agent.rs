//! An agent process that ends with its guard.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::program;

/// The command of an agent to be tested instead of this build's: `qemu-aarch64-static PATH`, split at
/// spaces. All but the last word are what its worker is started through as well.
pub const OTHER_AGENT: &str = "HANAS_TEST_AGENT";

/// Whether another agent than this build's is tested.
#[must_use]
pub fn is_other() -> bool {
    std::env::var_os(OTHER_AGENT).is_some_and(|text| !text.is_empty())
}

/// What the agent under test is started through, and its program.
fn emulator_and_program() -> (Vec<String>, String) {
    let text = std::env::var(OTHER_AGENT).unwrap_or_default();
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let own = || program("hanas-agent").to_str().expect("paths of tests are plain").to_owned();
    let program = words.pop().unwrap_or_else(own);
    (words, program)
}

/// A running `hanas-agent serve`.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    url: String,
}

impl Agent {
    /// Starts an agent and waits until it listens. It is not pinned, for tests run beside each other,
    /// and gives up a lost host after a second.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn serve(options: &[&str]) -> Self {
        Self::start(&[&["--pin", "none", "--lease-ttl", "1s"], options].concat())
    }

    /// Starts an agent as a user does and waits until it listens.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(options: &[&str]) -> Self {
        let (emulator, own) = emulator_and_program();
        let mut words = emulator.iter().chain([&own]);
        let mut command = Command::new(words.next().unwrap_or(&own));
        command.args(words).arg("serve").args(options);
        if !emulator.is_empty() {
            command.args(["--worker-prefix", &emulator.join(" ")]);
        }
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("hanas-agent starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its stdout is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("its stdout can be read");
        let url = line.trim().strip_prefix("listening on ").map(str::to_owned);
        let url = url.unwrap_or_else(|| panic!("hanas-agent says '{}'", line.trim()));
        Self { child, url }
    }

    /// An agent on a free TCP port whose device follows a script.
    #[must_use]
    pub fn scripted(script: &Path) -> Self {
        Self::scripted_at(&["--tcp", "127.0.0.1:0"], script)
    }

    /// An agent whose device follows a script, at the endpoint that the options name.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn scripted_at(endpoint: &[&str], script: &Path) -> Self {
        let script = script.to_str().expect("paths of tests are plain");
        Self::serve(&[endpoint, &["--runtime", "scripted", "--script", script]].concat())
    }

    /// Its address as hosts write it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `host:port` of an agent on TCP.
    ///
    /// # Panics
    /// Where it is on something else.
    #[must_use]
    pub fn address(&self) -> &str {
        self.url.strip_prefix("tcp://").expect("an agent on TCP")
    }

    /// Process ids of its workers.
    #[must_use]
    pub fn workers(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|&id| parent(id) == Some(self.child.id())).collect()
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Panics
    /// Where it cannot be waited for.
    pub fn kill(&mut self) {
        self.child.kill().expect("an agent can be killed");
        self.child.wait().expect("an agent can be waited for");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Asked first: killed, it leaves its scratch folder behind. Fails only where it is dead already.
        if let Some(id) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            rustix::process::kill_process(id, rustix::process::Signal::TERM).ok();
        }
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The parent of a process; none where it is gone, or dead and not yet waited for.
fn parent(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name stands in brackets and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    fields.next()?.parse().ok().filter(|_| state != "Z")
}

/// Whether a process lives.
#[must_use]
pub fn is_alive(id: u32) -> bool {
    parent(id).is_some()
}
