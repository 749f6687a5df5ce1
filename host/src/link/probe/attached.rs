//! probe-rs: probes and the chips on them.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use probe_rs::config::{MemoryRegion, TargetSelector};
use probe_rs::flashing::{DownloadOptions, ElfLoader, ElfOptions, download_file_with_options};
use probe_rs::probe::list::Lister;
use probe_rs::probe::{DebugProbeSelector, Probe, WireProtocol};
use probe_rs::rtt::{Rtt, ScanRegion, try_attach_to_rtt};
use probe_rs::{MemoryInterface as _, Permissions, Session};

use super::pump::pump;
use super::{DeviceUrl, FoundChip, FoundProbe, LinkError, Start, failed};

/// A firmware has put up its RTT within this after a reset.
const RTT_LIMIT: Duration = Duration::from_secs(2);

/// How long a chip may take to stop.
const HALT_LIMIT: Duration = Duration::from_secs(1);

/// A link to a chip over RTT.
#[derive(Debug)]
pub enum Chip {}

impl Chip {
    /// Attaches to the chip, finds its RTT and returns one end of a socket whose other end it is. The link
    /// ends with the socket, and the socket with the link.
    ///
    /// # Errors
    /// [`LinkError::Probe`] where there is no probe or chip, [`LinkError::Unreachable`] where no firmware
    /// with RTT runs.
    pub fn open(url: &DeviceUrl, start: Start) -> Result<UnixStream, LinkError> {
        let mut session = attach(url)?;
        if start == Start::Reset {
            restart(url, &mut session)?;
        }
        let rtt = rtt(&mut session, RTT_LIMIT).map_err(|reason| LinkError::Unreachable {
            url: url.to_string(),
            reason: format!("no firmware with RTT runs on the chip ({reason})"),
            hint: url.start_hint(),
        })?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| failed(url, error))?;
        // It ends when the session's end of the socket is dropped, or the probe fails; the socket's end
        // tells the session, which opens the link anew and finds the probe's trouble then.
        thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || pump(session, rtt, &theirs))
            .map_err(|error| failed(url, error))?;
        Ok(ours)
    }
}

/// All probes of this host.
#[must_use]
pub fn list() -> Vec<FoundProbe> {
    let probes = Lister::new().list_all();
    let found = probes.into_iter().map(|probe| {
        let serial = probe.serial_number.map(|serial| format!(":{serial}")).unwrap_or_default();
        let url = format!("probe://{:04x}:{:04x}{serial}", probe.vendor_id, probe.product_id);
        FoundProbe { url, name: probe.identifier }
    });
    found.collect()
}

/// What hangs on a probe.
///
/// # Errors
/// [`LinkError::Probe`] where there is no probe or chip.
pub fn identify(url: &DeviceUrl) -> Result<FoundChip, LinkError> {
    let mut session = attach(url)?;
    let target = session.target();
    let chip = target.name.clone();
    let core = target.cores.first().map(|core| format!("{:?}", core.core_type)).unwrap_or_default();
    let (mut flash_bytes, mut memory_bytes) = (0, 0);
    for region in &target.memory_map {
        match region {
            MemoryRegion::Nvm(region) => flash_bytes += region.range.end - region.range.start,
            MemoryRegion::Ram(region) => memory_bytes += region.range.end - region.range.start,
            MemoryRegion::Generic(_) => {}
        }
    }
    let has_rtt = rtt(&mut session, Duration::ZERO).is_ok();
    Ok(FoundChip { chip, core, flash_bytes, memory_bytes, has_rtt })
}

/// Writes a firmware into the chip's flash, checks it and starts it.
///
/// # Errors
/// [`LinkError::Probe`] where there is no probe or chip, [`LinkError::Flash`], both with probe-rs's reason.
pub fn flash(url: &DeviceUrl, firmware: &Path) -> Result<(), LinkError> {
    let mut session = attach(url)?;
    let mut options = DownloadOptions::default();
    options.verify = true;
    download_file_with_options(&mut session, firmware, ElfLoader(ElfOptions::default()), options).map_err(
        |error| LinkError::Flash {
            url: url.to_string(),
            firmware: firmware.display().to_string(),
            reason: chain(&error),
        },
    )?;
    restart(url, &mut session)
}

/// Resets the chip and lets it run.
///
/// # Errors
/// [`LinkError::Probe`] with probe-rs's reason.
pub fn reset(url: &DeviceUrl) -> Result<(), LinkError> {
    restart(url, &mut attach(url)?)
}

fn attach(url: &DeviceUrl) -> Result<Session, LinkError> {
    let DeviceUrl::Probe { probe, chip, .. } = url else {
        return Err(failed(url, "it is no probe's address"));
    };
    let target = chip.as_ref().map_or(TargetSelector::Auto, TargetSelector::from);
    let mut opened = open(url, probe)?;
    // Black Magic Probes have no protocol of their own choosing; every Cortex-M has SWD.
    opened.select_protocol(WireProtocol::Swd).map_err(|error| failed(url, chain(&error)))?;
    let mut session =
        opened.attach(target, Permissions::default()).map_err(|error| failed(url, chain(&error)))?;
    let mut core = session.core(0).map_err(|error| failed(url, chain(&error)))?;
    // Some probes stop the core to attach.
    if core.core_halted().map_err(|error| failed(url, chain(&error)))? {
        core.run().map_err(|error| failed(url, chain(&error)))?;
    }
    drop(core);
    Ok(session)
}

fn open(url: &DeviceUrl, probe: &str) -> Result<Probe, LinkError> {
    let lister = Lister::new();
    if probe.is_empty() {
        return match &lister.list_all()[..] {
            [only] => only.open().map_err(|error| failed(url, chain(&error))),
            [] => Err(failed(url, "this host has no debug probe; plug one in and mind its udev rules")),
            _ => Err(failed(url, "this host has several debug probes; `hanas device scan` names them")),
        };
    }
    let selector: DebugProbeSelector = probe.parse().map_err(|error| failed(url, error))?;
    lister.open(selector).map_err(|error| failed(url, chain(&error)))
}

fn restart(url: &DeviceUrl, session: &mut Session) -> Result<(), LinkError> {
    let mut core = session.core(0).map_err(|error| failed(url, chain(&error)))?;
    // What an earlier start left in memory is not to be taken for this one's.
    let stale = Rtt::find_control_block(&mut core, &ScanRegion::Ram).ok();
    core.reset_and_halt(HALT_LIMIT).map_err(|error| failed(url, chain(&error)))?;
    if let Some(stale) = stale {
        core.write_8(stale, &[0; 16]).map_err(|error| failed(url, chain(&error)))?;
    }
    core.run().map_err(|error| failed(url, chain(&error)))
}

fn rtt(session: &mut Session, limit: Duration) -> Result<Rtt, String> {
    let mut core = session.core(0).map_err(|error| chain(&error))?;
    try_attach_to_rtt(&mut core, limit, &ScanRegion::Ram).map_err(|error| chain(&error))
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{}: {reason}", text.trim_end_matches('.'));
        }
        cause = error.source();
    }
    text
}
