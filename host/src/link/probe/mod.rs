//! A chip behind a debug probe: found, flashed, reset, talked to over RTT.
//!
//! probe-rs does the work, with feature `probe`; without it every call here says how to get it.

#[cfg(feature = "probe")]
mod attached;
#[cfg(feature = "probe")]
mod pump;

#[cfg(feature = "probe")]
pub use attached::{Chip, flash, identify, list, reset};

use super::{DeviceUrl, LinkError};

/// A debug probe of this host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FoundProbe {
    /// The address that names it; add `?chip=NAME` unless the chip can be found out.
    pub url: String,
    /// What it calls itself.
    pub name: String,
}

/// What hangs on a debug probe.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FoundChip {
    /// What probe-rs calls it.
    pub chip: String,
    /// Its first core.
    pub core: String,
    /// Flash in bytes.
    pub flash_bytes: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Whether a firmware with RTT runs on it.
    pub has_rtt: bool,
}

/// How a link to a chip begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the chip as it is.
    AsItIs,
    /// With a reset: it hangs, or nobody answers.
    Reset,
}

fn failed(url: &DeviceUrl, reason: impl std::fmt::Display) -> LinkError {
    // probe-rs speaks in paragraphs at times.
    let reason = reason.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ");
    LinkError::Probe { url: url.to_string(), reason: reason.trim_end_matches('.').to_owned() }
}

#[cfg(not(feature = "probe"))]
pub use without::{flash, identify, list, reset};

#[cfg(not(feature = "probe"))]
mod without {
    use std::path::Path;

    use super::{DeviceUrl, FoundChip, FoundProbe, LinkError, Start, failed};

    const HOW: &str = "this hanas was built without debug probes; build it with --features probe";

    /// A link to a chip over RTT.
    #[derive(Debug)]
    pub enum Chip {}

    impl Chip {
        /// As with feature `probe`.
        ///
        /// # Errors
        /// Always.
        pub fn open(url: &DeviceUrl, _start: Start) -> Result<std::os::unix::net::UnixStream, LinkError> {
            Err(failed(url, HOW))
        }
    }

    /// No probes can be seen.
    #[must_use]
    pub const fn list() -> Vec<FoundProbe> {
        Vec::new()
    }

    /// As with feature `probe`.
    ///
    /// # Errors
    /// Always.
    pub fn identify(url: &DeviceUrl) -> Result<FoundChip, LinkError> {
        Err(failed(url, HOW))
    }

    /// As with feature `probe`.
    ///
    /// # Errors
    /// Always.
    pub fn flash(url: &DeviceUrl, _firmware: &Path) -> Result<(), LinkError> {
        Err(failed(url, HOW))
    }

    /// As with feature `probe`.
    ///
    /// # Errors
    /// Always.
    pub fn reset(url: &DeviceUrl) -> Result<(), LinkError> {
        Err(failed(url, HOW))
    }
}

#[cfg(not(feature = "probe"))]
pub use without::Chip;
