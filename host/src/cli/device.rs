//! `hanas device`: names for addresses, and what is behind them.

use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use hanas_proto::Bytes;
use serde::Serialize;

use super::context::{DeviceArg, Global};
use super::output::{Format, Table, json, text};
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
    /// Serial ports of this host
    Scan,
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
    inventory
        .devices
        .remove(name)
        .with_context(|| format!("there is no device '{name}'; `hanas device list` names them"))?;
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
            text("no devices yet; `hanas device add pi tcp://pi.local:7700` names one\n")
        }
        Format::Text => text(&table.to_text()),
        Format::Csv => text(&table.to_csv()),
        Format::Json => json(&inventory),
    }
}

fn arg(device: String) -> DeviceArg {
    DeviceArg { device, queue_timeout: 10 }
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
}

fn scan(global: &Global) -> anyhow::Result<()> {
    let found = serialport::available_ports().context("cannot list serial ports")?;
    let ports =
        Ports { ports: found.into_iter().map(|port| format!("serial://{}", port.port_name)).collect() };
    match global.format {
        Format::Json => json(&ports),
        _ if ports.ports.is_empty() => text("no serial ports\n"),
        _ => text(&(ports.ports.join("\n") + "\n")),
    }
}
