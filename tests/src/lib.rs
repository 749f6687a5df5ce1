//! What the system tests stand on: the real programs as processes, and devices whose answers are known.
//!
//! - [`agent`]: a `hanas-agent serve` that ends with its guard;
//! - [`chip`]: an emulated Cortex-M4 with the firmware, behind a debug probe or a serial line;
//! - [`host`]: `hanas` with a store and an inventory of its own, and what its store then holds;
//! - [`mod@line`]: a serial line between two programs, slow and faulty as asked;
//! - [`own`]: a small task of a user's own, with its images;
//! - [`own_graph`]: a small graph of a user's own;
//! - [`planted`]: a scripted device whose best widths are known beforehand;
//! - [`same`]: one model on two devices, and how far apart their answers are.

pub mod agent;
pub mod chip;
pub mod host;
pub mod line;
pub mod own;
pub mod own_graph;
pub mod planted;
pub mod same;

use std::path::PathBuf;

/// A program of this workspace, as `make build` leaves it.
///
/// # Panics
/// Where it was not built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    // target/release/figures, or target/release/deps/test-hash.
    let own = std::env::current_exe().expect("a process knows its own program");
    let mut folders = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let path = folders.find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name));
    assert!(path.is_file(), "{} is not there: run `make build`", path.display());
    path
}
