//! What the device is, from the system's own files; the worker adds what only it knows.

use std::fs;
use std::num::NonZero;
use std::path::Path;
use std::thread;

use hanas_device_core::dialogue::AGENT_VERSION;
use hanas_proto::handshake::{DeviceFacts, ModelForm};

use crate::orders::Ready;

/// Longest text in the facts, in characters: all of them and their envelope fit a handshake's frame.
const TEXT: usize = 56;

/// Where the system keeps its processors' settings.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// What the supervisor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    name: String,
    cpu: String,
    os: String,
    cores: u16,
    memory_bytes: u64,
}

/// What the first worker said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerFacts {
    runtime: String,
    form: ModelForm,
    pinned: u64,
    clock_resolution_ns: u32,
}

impl Default for WorkerFacts {
    fn default() -> Self {
        Self { runtime: String::new(), form: ModelForm::Onnx, pinned: 0, clock_resolution_ns: 0 }
    }
}

impl From<Ready<'_>> for WorkerFacts {
    fn from(ready: Ready<'_>) -> Self {
        Self {
            runtime: cut(ready.runtime),
            form: ready.form,
            pinned: ready.pinned,
            clock_resolution_ns: ready.clock_resolution_ns,
        }
    }
}

impl WorkerFacts {
    /// What sets the clock of the worker's processor, as it is now: users change it while the agent runs.
    #[must_use]
    pub fn governor(&self) -> String {
        governor_of(Path::new(PROCESSORS), self.pinned)
    }
}

impl Facts {
    /// Reads them, for a device that has a name of its own or the system's. What the system does not tell is empty
    /// or zero.
    #[must_use]
    pub fn gather(name: Option<&str>) -> Self {
        Self {
            name: name.map_or_else(|| read("/proc/sys/kernel/hostname"), cut),
            cpu: cpu_name(),
            os: cut(format!("Linux {}", read("/proc/sys/kernel/osrelease")).trim()),
            cores: online(),
            memory_bytes: memory_bytes(),
        }
    }

    /// All facts, for the handshake.
    #[must_use]
    pub fn device<'a>(&'a self, worker: &'a WorkerFacts, governor: &'a str, threads: u16) -> DeviceFacts<'a> {
        DeviceFacts {
            agent: AGENT_VERSION,
            runtime: &worker.runtime,
            threads,
            form: worker.form,
            name: &self.name,
            cpu: &self.cpu,
            arch: std::env::consts::ARCH,
            os: &self.os,
            cores: self.cores,
            pinned: worker.pinned,
            memory_bytes: self.memory_bytes,
            governor,
            clock_resolution_ns: worker.clock_resolution_ns,
        }
    }
}

/// Processors online, of which this process may have fewer.
#[must_use]
pub fn online() -> u16 {
    cores(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// Those whose times /proc/stat adds up.
fn cores(stat: &str) -> u16 {
    let is_processor = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
    };
    let online = match stat.lines().filter(is_processor).count() {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        online => online,
    };
    u16::try_from(online).unwrap_or(u16::MAX)
}

/// The system's memory in bytes; zero where it is not told.
#[must_use]
pub fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// The processor as /proc/cpuinfo names it; on boards that do not, the board as its device tree does.
fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |wanted: &str| {
        let value =
            |line: &str| line.split_once(':').map(|(key, value)| (key.trim() == wanted, cut(value.trim())));
        text.lines().filter_map(value).find_map(|(is_it, value)| is_it.then_some(value))
    };
    field("model name")
        .or_else(|| field("Model"))
        .or_else(|| field("Hardware"))
        .unwrap_or_else(|| read("/proc/device-tree/model"))
}

/// The governor of the first of these processors, or of the system's first where none is named.
fn governor_of(processors: &Path, pinned: u64) -> String {
    let cpu = if pinned == 0 { 0 } else { pinned.trailing_zeros() };
    read(processors.join(format!("cpu{cpu}/cpufreq/scaling_governor")))
}

/// A file's text on one line, cut; empty where there is none.
fn read(path: impl AsRef<Path>) -> String {
    cut(fs::read_to_string(path).unwrap_or_default().trim_matches(['\0', '\n', ' ']))
}

fn cut(text: &str) -> String {
    let mut text: String = text.chars().filter(|c| !c.is_control()).take(TEXT).collect();
    while text.len() > TEXT {
        text.pop();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_something() {
        assert_eq!(Facts::gather(Some("pi2")).name, "pi2");
        let facts = Facts::gather(None);
        assert!(facts.memory_bytes > 1 << 20);
        assert!(facts.cores >= 1);
        assert!(facts.os.starts_with("Linux "));
    }

    #[test]
    fn processors_are_those_of_which_the_system_adds_up_the_times() {
        assert_eq!(cores("cpu  9 9 9\ncpu0 1 2 3\ncpu1 1 2 3\ncpu3 1 2 3\nintr 12\nctxt 3\n"), 3);
        assert!(cores("") >= 1);
    }

    #[test]
    fn a_governor_is_told_as_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("cpu2/cpufreq");
        fs::create_dir_all(&settings).unwrap();
        for governor in ["ondemand", "performance"] {
            fs::write(settings.join("scaling_governor"), format!("{governor}\n")).unwrap();
            assert_eq!(governor_of(folder.path(), 0b1100), governor);
        }
        assert_eq!(governor_of(folder.path(), 0), "");
    }

    #[test]
    fn texts_are_one_short_line() {
        assert_eq!(cut("a\nb\0"), "ab");
        assert!(cut(&"\u{e9}".repeat(100)).len() <= TEXT);
    }
}
