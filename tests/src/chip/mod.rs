//! Chips: an emulated Cortex-M4 with hanas's firmware, a Cortex-M0 with flash that can be written, and the
//! ways to them: a debug probe and a serial line.
//!
//! - [`here`]: the firmware's parts on this machine, without an emulator;
//! - [`gdb`]: QEMU's own debug port;
//! - [`image`]: a program for it, made here;
//! - [`mobile`]: a small net of the layers that the families of hanas lack;
//! - [`probe`]: a debug probe in front of it that probe-rs takes for a real one.

pub mod gdb;
pub mod here;
pub mod image;
pub mod mobile;
pub mod probe;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use self::gdb::Gdb;
use self::probe::ProbeBridge;
use crate::host::Host;

/// A machine of QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// QEMU's name for it.
    qemu: &'static str,
    /// probe-rs's name for its chip.
    pub chip: &'static str,
    /// What its processor says it is (CPUID).
    processor: u32,
    /// Part number of its system control space.
    control_space: u32,
}

/// A Cortex-M4 with room for the firmware; QEMU has no flash controller for it.
pub const STM32F405: Machine =
    Machine { qemu: "netduinoplus2", chip: "STM32F405RGTx", processor: 0x410F_C241, control_space: 0x00C };

/// A Cortex-M0 too small for the firmware, but with a flash controller in QEMU.
pub const NRF51822: Machine =
    Machine { qemu: "microbit", chip: "nRF51822_xxAA", processor: 0x410C_C200, control_space: 0x008 };

/// A `hanas` with debug probes, as `make test-boards` builds it beside the usual one: with them in the
/// workspace's own build, features of half the dependencies would change and be built twice.
const HANAS: &str = "../target/boards/release/hanas";

/// Where a Cortex-M's memory begins.
const RAM: u32 = 0x2000_0000;

const QEMU: &str = "qemu-system-arm";

/// A running machine.
#[derive(Debug)]
pub struct Board {
    machine: Machine,
    is_empty: bool,
    child: Child,
    folder: TempDir,
}

/// The firmware, where it and the emulator are there; else says what is missing, and the test is over.
#[must_use]
pub fn firmware() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../device-agent/firmware/target/thumbv7em-none-eabihf/release/hanas-firmware");
    if !built.is_file() {
        eprintln!("skipped: no firmware; `make firmware` builds it");
        return None;
    }
    has_emulator().then_some(built)
}

/// Whether the emulator is there; else says so.
#[must_use]
pub fn has_emulator() -> bool {
    let qemu = Command::new(QEMU).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = qemu.is_ok_and(|status| status.success());
    if !there {
        eprintln!("skipped: no {QEMU}; on Debian it is in the package {QEMU}");
    }
    there
}

/// A host whose `hanas` knows debug probes.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn host() -> Host {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(HANAS);
    assert!(program.is_file(), "{} is not there: run `make test-boards`", program.display());
    Host::of(program)
}

impl Board {
    /// Starts the machine, with a firmware or with empty flash. Its serial port is the terminal at `serial`;
    /// where it has none, it waits until [`probe`](Self::probe) lets it run.
    ///
    /// Time on it is counted in instructions, 16 ns each: a layer takes as long on every run and on every
    /// machine.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(machine: Machine, firmware: Option<&Path>, serial: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().expect("room for temporary files");
        let socket = |name: &str| {
            format!("socket,id={name},server=on,wait=off,path={}", folder.path().join(name).display())
        };
        let line = serial.map_or_else(
            || "null,id=serial".to_owned(),
            |terminal| format!("serial,id=serial,path={}", terminal.display()),
        );
        let mut command = Command::new(QEMU);
        command
            .args(["-M", machine.qemu, "-display", "none", "-icount", "shift=4,sleep=off"])
            .args(["-chardev", &line, "-serial", "chardev:serial"])
            .args(["-chardev", &socket("gdb"), "-gdb", "chardev:gdb"])
            .args(["-monitor", "none"]);
        if let Some(firmware) = firmware {
            // QEMU puts it there again at every reset.
            command.arg("-kernel").arg(firmware);
        }
        if serial.is_none() {
            command.arg("-S");
        }
        let child = command.stdin(Stdio::null()).spawn().expect("QEMU starts");
        Self { machine, is_empty: firmware.is_none(), child, folder }
    }

    /// A debug probe on it; one at a time.
    ///
    /// # Panics
    /// Where QEMU does not answer.
    #[must_use]
    pub fn probe(&self) -> ProbeBridge {
        let mut gdb = Gdb::connect(&self.folder.path().join("gdb")).expect("QEMU answers");
        let runs = if self.is_empty { gdb.idle(RAM) } else { gdb.run() };
        runs.expect("QEMU answers");
        ProbeBridge::new(gdb, self.machine)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
