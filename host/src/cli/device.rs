//! `hanas device`: names for addresses, and what is behind them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use hanas_proto::Bytes;
use serde::Serialize;

use super::context::{DeviceArg, Global};
use super::output::{Format, Table, json, text};
use crate::link::probe::{self, FoundProbe};
use crate::link::{DeviceUrl, Facts};

/// Subcommands of `hanas device`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Give an address a name
    Add {
        /// The name
        name: String,
        /// The address
        url: String,
    },
    /// All named devices
    List,
    /// What a device is
    Info {
        /// A name or an address
        device: String,
    },
    /// Time a message there and back
    Ping {
        /// A name or an address
        device: String,
        /// How often
        #[arg(long, default_value_t = 10)]
        count: u32,
    },
    /// Serial ports and debug probes of this host
    Scan,
    /// What chip hangs on a debug probe
    Identify {
        /// A name or a probe:// address
        device: String,
    },
    /// Write a firmware into a chip's flash and start it
    Flash {
        /// A name or a probe:// address
        device: String,
        /// The firmware, an ELF file
        firmware: PathBuf,
    },
    /// Reset a chip behind a debug probe
    Reset {
        /// A name or a probe:// address
        device: String,
    },
    /// Forget a name
    Remove {
        /// The name
        name: String,
    },
}

/// Runs the command.
pub(super) fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add { name, url } => add(global, name, &url),
        Command::List => list(global),
        Command::Info { device } => info(global, device),
        Command::Ping { device, count } => ping(global, device, count),
        Command::Scan => scan(global),
        Command::Identify { device } => identify(global, &device),
        Command::Flash { device, firmware } => flash(global, &device, &firmware),
        Command::Reset { device } => Ok(probe::reset(&probed(global, &device)?)?),
        Command::Remove { name } => remove(global, &name),
    }
}

fn add(global: &Global, name: String, url: &str) -> anyhow::Result<()> {
    if name.is_empty() || name.contains(':') {
        return Err(super::Usage(format!("'{name}' cannot be a name: it is empty or holds a ':'")).into());
    }
    let parsed: DeviceUrl = url.parse()?;
    let mut inventory = global.inventory()?;
    inventory.devices.insert(name, parsed.to_string());
    Ok(inventory.write(&global.inventory_path())?)
}

fn remove(global: &Global, name: &str) -> anyhow::Result<()> {
    let mut inventory = global.inventory()?;
    if inventory.devices.remove(name).is_none() {
        let text = format!("there is no device '{name}'; `hanas device list` names them");
        return Err(super::Usage(text).into());
    }
    Ok(inventory.write(&global.inventory_path())?)
}

fn list(global: &Global) -> anyhow::Result<()> {
    let inventory = global.inventory()?;
    let mut table = Table::new(&["name", "address"]);
    for (name, url) in &inventory.devices {
        table.row(vec![name.clone(), url.clone()]);
    }
    match global.format {
        Format::Text if inventory.devices.is_empty() => {
            let add = "hanas device add pi 'exec:ssh pi ./hanas-agent serve --stdio'";
            text(&format!("no devices yet; `{add}` names one\n"))
        }
        Format::Text => text(&table.to_text()),
        Format::Csv => text(&table.to_csv()),
        Format::Json => json(&inventory),
    }
}

const fn arg(device: String) -> DeviceArg {
    DeviceArg::new(device, 10)
}

fn info(global: &Global, device: String) -> anyhow::Result<()> {
    let session = global.connect(&arg(device))?;
    let facts = session.facts();
    let mut table = Table::new(&["fact", "value"]);
    for (name, value) in described(facts) {
        table.row(vec![name.to_owned(), value]);
    }
    match global.format {
        Format::Json => json(facts),
        Format::Csv => text(&table.to_csv()),
        Format::Text => text(&table.to_text()),
    }
}

/// The facts as people read them.
pub(super) fn described(facts: &Facts) -> Vec<(&'static str, String)> {
    let or_unknown = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    let pinned = match facts.pinned {
        0 => "no".to_owned(),
        mask => {
            let cpus: Vec<String> =
                (0..64).filter(|bit| mask >> bit & 1 == 1).map(|bit| bit.to_string()).collect();
            format!("to processor {}", cpus.join(", "))
        }
    };
    vec![
        ("board", or_unknown(&facts.name)),
        ("processor", or_unknown(&facts.cpu)),
        ("architecture", or_unknown(&facts.arch)),
        ("system", or_unknown(&facts.os)),
        ("processors", facts.cores.to_string()),
        ("memory", Bytes(facts.memory_bytes).to_string()),
        ("governor", or_unknown(&facts.governor)),
        ("clock step", format!("{} ns", facts.clock_resolution_ns)),
        ("runtime", facts.runtime.clone()),
        ("threads", facts.threads.to_string()),
        ("pinned", pinned),
        ("agent", facts.agent.clone()),
    ]
}

#[derive(Serialize)]
struct Ping {
    round_trips_us: Vec<f64>,
    median_us: f64,
}

fn ping(global: &Global, device: String, count: u32) -> anyhow::Result<()> {
    let mut session = global.connect(&arg(device))?;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..count.max(1) {
        times.push(session.ping()?);
    }
    let in_us = |time: &Duration| time.as_secs_f64() * 1e6;
    let mut sorted: Vec<f64> = times.iter().map(in_us).collect();
    sorted.sort_by(f64::total_cmp);
    let ping =
        Ping { round_trips_us: times.iter().map(in_us).collect(), median_us: sorted[sorted.len() / 2] };
    match global.format {
        Format::Json => json(&ping),
        Format::Csv => text(&format!("round_trip_us\n{}\n", join(&ping.round_trips_us))),
        Format::Text => text(&format!(
            "{} round trips: fastest {:.0} us, median {:.0} us, slowest {:.0} us\n",
            sorted.len(),
            sorted[0],
            ping.median_us,
            sorted[sorted.len() - 1]
        )),
    }
}

fn join(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.1}")).collect::<Vec<_>>().join("\n")
}

#[derive(Serialize)]
struct Ports {
    ports: Vec<String>,
    probes: Vec<FoundProbe>,
}

fn scan(global: &Global) -> anyhow::Result<()> {
    let found = serialport::available_ports().context("cannot list serial ports")?;
    let ports = found.into_iter().map(|port| format!("serial://{}", port.port_name)).collect();
    let ports = Ports { ports, probes: probe::list() };
    let probes = ports.probes.iter().map(|probe| format!("{}  {}", probe.url, probe.name));
    let lines: Vec<String> = ports.ports.iter().cloned().chain(probes).collect();
    match global.format {
        Format::Json => json(&ports),
        _ if lines.is_empty() => text("no serial ports and no debug probes\n"),
        _ => text(&(lines.join("\n") + "\n")),
    }
}

/// The address behind a name, which must be a probe's.
fn probed(global: &Global, device: &str) -> anyhow::Result<DeviceUrl> {
    let url = global.resolve(device)?;
    if url.is_probe() {
        return Ok(url);
    }
    Err(super::Usage(format!("'{url}' is no debug probe; write probe://VID:PID?chip=NAME")).into())
}

fn identify(global: &Global, device: &str) -> anyhow::Result<()> {
    let found = probe::identify(&probed(global, device)?)?;
    let mut table = Table::new(&["fact", "value"]);
    table.row(vec!["chip".to_owned(), found.chip.clone()]);
    table.row(vec!["core".to_owned(), found.core.clone()]);
    table.row(vec!["flash".to_owned(), Bytes(found.flash_bytes).to_string()]);
    table.row(vec!["memory".to_owned(), Bytes(found.memory_bytes).to_string()]);
    let firmware = if found.has_rtt { "runs, with RTT" } else { "none with RTT" };
    table.row(vec!["firmware".to_owned(), firmware.to_owned()]);
    match global.format {
        Format::Json => json(&found),
        Format::Csv => text(&table.to_csv()),
        Format::Text => text(&table.to_text()),
    }
}

fn flash(global: &Global, device: &str, firmware: &Path) -> anyhow::Result<()> {
    let url = probed(global, device)?;
    anyhow::ensure!(
        firmware.is_file(),
        "{}: no such file; `make firmware` builds the firmware",
        firmware.display()
    );
    probe::flash(&url, firmware)?;
    match global.format {
        Format::Json => json(&serde_json::json!({ "flashed": firmware })),
        _ => text("flashed, checked and started\n"),
    }
}
