//! Chips: an emulated Cortex-M4 with hanas's firmware, and the ways to it: a debug probe and a serial line.
//!
//! - [`here`]: the firmware's parts on this machine, without an emulator;
//! - [`gdb`]: QEMU's own debug port;
//! - [`mobile`]: a small net of the layers that the families of hanas lack;
//! - [`probe`]: a debug probe in front of it that probe-rs takes for a real one.

pub mod gdb;
pub mod here;
pub mod mobile;
pub mod probe;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use self::gdb::Gdb;
use self::probe::ProbeBridge;
use crate::host::Host;

/// The chip of QEMU's machine, as probe-rs calls it.
pub const CHIP: &str = "STM32F405RGTx";

/// A `hanas` with debug probes, as `make test-boards` builds it beside the usual one: with them in the
/// workspace's own build, features of half the dependencies would change and be built twice.
const HANAS: &str = "../target/boards/release/hanas";

const QEMU: &str = "qemu-system-arm";

/// A running machine.
#[derive(Debug)]
pub struct Board {
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
    let qemu = Command::new(QEMU).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !qemu.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no {QEMU}; on Debian it is in the package {QEMU}");
        return None;
    }
    Some(built)
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
    /// Starts the machine; its serial port is the terminal at `serial`, or nothing. It waits until
    /// [`probe`](Self::probe) lets it run, where `waits`.
    ///
    /// Time on it is counted in instructions, 16 ns each: a layer takes as long on every run and on every
    /// machine.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(firmware: &Path, serial: Option<&Path>, waits: bool) -> Self {
        let folder = tempfile::tempdir().expect("room for temporary files");
        let socket = |name: &str| {
            format!("socket,id={name},server=on,wait=off,path={}", folder.path().join(name).display())
        };
        let serial = serial.map_or_else(
            || "null,id=serial".to_owned(),
            |terminal| format!("serial,id=serial,path={}", terminal.display()),
        );
        let mut command = Command::new(QEMU);
        command
            .args(["-M", "netduinoplus2", "-display", "none", "-icount", "shift=4,sleep=off"])
            .args(["-chardev", &serial, "-serial", "chardev:serial"])
            .args(["-chardev", &socket("gdb"), "-gdb", "chardev:gdb"])
            .args(["-monitor", "none"])
            .arg("-kernel")
            .arg(firmware);
        if waits {
            command.arg("-S");
        }
        let child = command.stdin(Stdio::null()).spawn().expect("QEMU starts");
        Self { child, folder }
    }

    /// A debug probe on it; one at a time.
    ///
    /// # Panics
    /// Where QEMU does not answer.
    #[must_use]
    pub fn probe(&self) -> ProbeBridge {
        ProbeBridge::new(Gdb::connect(&self.folder.path().join("gdb")).expect("QEMU answers"))
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
