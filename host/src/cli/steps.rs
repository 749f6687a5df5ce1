//! `hanas` commands that `hanas` gives: each told on stderr as it begins, so that it can be given by hand
//! too, and what it prints kept.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::context::Global;
use super::interrupt::INTERRUPTED;
use super::{Interrupted, StepFailed, interrupt};

/// How often a wait for a command looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs commands on one store.
pub(super) struct Steps<'a> {
    global: &'a Global,
    program: PathBuf,
    store: PathBuf,
    logs: PathBuf,
    /// Threads of each of several commands at once, whose words on stderr go to their logs too.
    beside: Option<usize>,
    /// The commands at work are to end.
    ending: AtomicBool,
    /// Whether it was said that they will, where they say so to their logs.
    said: Once,
}

impl<'a> Steps<'a> {
    /// Commands on `store`, whose output goes into the folder `logs`.
    pub(super) fn new(global: &'a Global, store: PathBuf, logs: PathBuf) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("hanas does not find its own program")?;
        // The running command says what becomes of it.
        interrupt::watch_silently();
        Ok(Self {
            global,
            program,
            store,
            logs,
            beside: None,
            ending: AtomicBool::new(false),
            said: Once::new(),
        })
    }

    /// For several commands at once, of so many threads each: what they say on stderr goes to their logs.
    pub(super) fn beside(self, threads: usize) -> Self {
        Self { beside: Some(threads), ..self }
    }

    /// Asks the commands at work to end, and lets no other begin.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Whether the user asked to end, or [`Self::end`] did.
    pub(super) fn ended(&self) -> bool {
        interrupt::asked() || self.ending.load(Ordering::Relaxed)
    }

    /// Where the words of a command go.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.txt"))
    }

    /// A command as a user would give it.
    pub(super) fn line(&self, command: &[String]) -> String {
        let mut line = vec!["hanas".to_owned(), "--store".to_owned(), path(&self.store)];
        if let Some(devices) = &self.global.devices {
            line.extend(["--devices".to_owned(), path(devices)]);
        }
        line.extend_from_slice(command);
        line.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    /// Runs one command; what it prints goes to `NAME.txt`.
    pub(super) fn run(&self, name: &str, command: &[String]) -> anyhow::Result<()> {
        if self.ended() {
            return Err(interrupted());
        }
        let logs = &self.logs;
        std::fs::create_dir_all(logs).with_context(|| format!("{} cannot be made", logs.display()))?;
        let line = self.line(command);
        eprintln!("{line}");
        let file = self.log(name);
        let log = File::options().create(true).append(true).open(&file);
        let mut log = log.with_context(|| format!("{} cannot be written", file.display()))?;
        writeln!(log, "$ {line}")?;
        let mut process = Command::new(&self.program);
        process.arg("--store").arg(&self.store);
        process.arg("--devices").arg(self.global.inventory_path());
        if self.global.quiet {
            process.arg("--quiet");
        }
        if let Some(threads) = self.beside {
            process.env("OMP_NUM_THREADS", threads.to_string()).stderr(log.try_clone()?);
        }
        // A group of its own: Ctrl-C reaches this program alone, which passes it on.
        process.args(command).stdin(Stdio::null()).stdout(log).process_group(0);
        let mut child = process.spawn().context("hanas does not start a second time")?;
        let status = self.wait(&mut child)?;
        if self.ended() || status.code() == Some(INTERRUPTED.into()) {
            return Err(interrupted());
        }
        let (step, beside) = (command[0].clone(), self.beside.is_some());
        let told = if beside { path(&file) } else { format!("above and {}", path(&file)) };
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (None, Some(signal)) => Err(anyhow::anyhow!(killed(&step, signal, beside, &told))),
            (code, _) => Err(StepFailed { step, code: code.unwrap_or(1) as u8, told }.into()),
        }
    }

    /// Waits for a command, and asks it to end when the user asks, once more when the user does.
    fn wait(&self, child: &mut Child) -> anyhow::Result<ExitStatus> {
        let mut told = 0;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let asked = u8::from(self.ended()) + u8::from(interrupt::asked_again());
            if told < asked {
                told += 1;
                if self.beside.is_some() && interrupt::asked() {
                    let word = "\nending after the trainings in hand; once more to end at once";
                    self.said.call_once(|| eprintln!("{word}"));
                }
                kill_process(Pid::from_child(child), Signal::INT).ok();
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// What to say of a command that a signal ended, which said nothing itself.
fn killed(step: &str, signal: i32, beside: bool, told: &str) -> String {
    let why = match (signal == Signal::KILL.as_raw(), beside) {
        (true, true) => ", most likely for want of memory; try fewer --jobs",
        (true, false) => ", most likely for want of memory",
        (false, _) => "",
    };
    format!("`hanas {step}` was killed by signal {signal}{why}: see {told}, then give the same command again")
}

fn interrupted() -> anyhow::Error {
    let kept = "finished steps are kept; the same command goes on from there".to_owned();
    Interrupted { kept }.into()
}

/// A word as a shell takes it for one.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Words of a command line.
pub(super) fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

/// A path as a word.
pub(super) fn path(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::{killed, quoted};

    #[test]
    fn a_killed_command_is_told_with_its_signal() {
        let said = |signal, beside| killed("search", signal, beside, "log/a.txt");
        let end = ": see log/a.txt, then give the same command again";
        assert_eq!(said(11, true), format!("`hanas search` was killed by signal 11{end}"));
        let memory = "`hanas search` was killed by signal 9, most likely for want of memory";
        assert_eq!(said(9, false), format!("{memory}{end}"));
        assert_eq!(said(9, true), format!("{memory}; try fewer --jobs{end}"));
    }

    #[test]
    fn a_line_can_be_given_to_a_shell() {
        assert_eq!(quoted("--data=a/b.c"), "--data=a/b.c");
        assert_eq!(quoted("my board"), "'my board'");
        assert_eq!(quoted("exec:ssh it's"), "'exec:ssh it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
