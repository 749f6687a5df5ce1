//! `hanas doctor`: everything that spoils a measurement or a link, each with the act that mends it.

use clap::Args;
use hanas_models::layer::{Layer, LayerKind};
use hanas_proto::Nanos;
use hanas_proto::handshake::ModelForm;
use hanas_proto::measure::LoadOptions;
use serde::Serialize;

use super::context::{DeviceArg, Global, RUN_TIMEOUT};
use super::output::{Format, Table, json, text};
use super::sampling::SamplingArgs;
use super::{Interrupted, Usage, bench, device};
use crate::latency::verdict::{Evidence, judge};
use crate::latency::{Statistic, estimate};
use crate::link::probe;
use crate::profile::candidates::Candidate;
use crate::store::ModelSpec;

/// Arguments of `hanas doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// A device to examine as well: a name or an address
    #[arg(value_name = "DEVICE")]
    examined: Option<String>,
    /// The same
    #[arg(long, short, env = "HANAS_DEVICE", value_name = "DEVICE")]
    device: Option<String>,
    /// Seconds to wait while another session holds the device
    #[arg(long, default_value_t = QUEUE_TIMEOUT, value_name = "SECONDS")]
    queue_timeout: u64,
    /// Seconds that one load or run may take
    #[arg(long, default_value_t = RUN_TIMEOUT, value_name = "SECONDS")]
    run_timeout: u64,
}

/// Seconds to wait, where no option says so: that a device is in use is a finding too.
const QUEUE_TIMEOUT: u64 = 10;

#[derive(Serialize)]
struct Finding {
    check: String,
    good: bool,
    found: String,
    mend: String,
}

#[derive(Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &DoctorArgs) -> anyhow::Result<()> {
    if let (Some(examined), Some(device)) = (&args.examined, &args.device)
        && examined != device
        && std::env::var_os("HANAS_DEVICE").is_none_or(|name| name != device.as_str())
    {
        let both = format!("{examined} and --device {device} are two devices; name one");
        return Err(Usage(both).into());
    }
    let mut findings = host(global);
    let examined = match args.examined.as_ref().or(args.device.as_ref()) {
        Some(device) => {
            let (queue_timeout, run_timeout) = (args.queue_timeout, args.run_timeout);
            let device = DeviceArg { device: device.clone(), queue_timeout, run_timeout };
            examine(global, &device, &mut findings)
        }
        None => Ok(()),
    };
    if let Err(error) = &examined
        && !error.is::<Interrupted>()
    {
        findings.push(finding("device", false, format!("{error:#}"), ""));
    }
    let all_good = findings.iter().all(|finding| finding.good);
    let report = Findings { findings };
    match global.format {
        Format::Json => json(&report)?,
        format => {
            let mut table = Table::new(&["", "check", "found", "mend"]);
            for finding in &report.findings {
                let mark = if finding.good { "ok" } else { "!!" };
                let cells = [mark, &finding.check, &finding.found, &finding.mend].map(str::to_owned);
                table.row(cells.to_vec());
            }
            text(&if format == Format::Csv { table.to_csv() } else { table.to_text() })?;
        }
    }
    // What ended the examination has an exit code of its own.
    examined?;
    anyhow::ensure!(all_good, "what is marked !! spoils measurements or stops commands");
    Ok(())
}

fn finding(check: &str, good: bool, found: String, mend: &str) -> Finding {
    let mend = if good { String::new() } else { mend.to_owned() };
    Finding { check: check.to_owned(), good, found, mend }
}

fn host(global: &Global) -> Vec<Finding> {
    let mut list = Vec::new();
    let torch = cfg!(feature = "torch");
    let found = if torch { "built in" } else { "not built in: no search, no training" };
    list.push(finding("libtorch", true, found.to_owned(), ""));
    let found = match probe::list().len() {
        _ if !cfg!(feature = "probe") => "not built in: no probe:// devices".to_owned(),
        count => format!("{count} on this host"),
    };
    list.push(finding("debug probes", true, found, ""));
    let store = if global.store.exists() { global.existing_store().map(Some) } else { Ok(None) };
    list.push(match store {
        Ok(Some(store)) => {
            let sessions = store.sessions().map_or(0, |sessions| sessions.len());
            finding("store", true, format!("{}: {sessions} sessions", global.store.display()), "")
        }
        Ok(None) => finding("store", true, format!("{}: not there yet", global.store.display()), ""),
        Err(error) => finding("store", false, format!("{error:#}"), "name another file with --store"),
    });
    list.push(match global.inventory() {
        Ok(inventory) => finding("inventory", true, format!("{} devices", inventory.devices.len()), ""),
        Err(error) => finding("inventory", false, format!("{error:#}"), "mend the file or remove it"),
    });
    list
}

fn examine(global: &Global, device: &DeviceArg, list: &mut Vec<Finding>) -> anyhow::Result<()> {
    let mut session = global.connect(device)?;
    for (fact, value) in device::described(session.facts()) {
        list.push(finding(fact, true, value, ""));
    }
    let facts = session.facts().clone();
    let good = matches!(facts.governor.as_str(), "" | "performance");
    let mend =
        "on the device: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor";
    list.push(finding("governor", good, if good { "steady" } else { "changes with load" }.to_owned(), mend));
    let pinned = facts.pinned != 0 || facts.cores < 2;
    let found = match facts.threads {
        _ if pinned => "fixed".to_owned(),
        0 | 1 => "wanders".to_owned(),
        // Bound to one processor they would wait for one another.
        threads => format!("none, for {threads} threads"),
    };
    list.push(finding("pinning", pinned || facts.threads > 1, found, "start the agent with --pin 1"));

    let mut round_trips: Vec<u128> = Vec::new();
    for _ in 0..50 {
        round_trips.push(session.ping()?.as_micros());
    }
    round_trips.sort_unstable();
    let damaged = session.damaged_frames();
    list.push(finding("round trip", true, format!("{} us at the median", round_trips[25]), ""));
    let mend = "lower the baud rate, shorten or shield the cable";
    list.push(finding("link", damaged == 0, format!("{damaged} damaged frames"), mend));

    // A layer of some 100 us: long enough for the clock, short enough to see what disturbs it. On a chip
    // some ms, and small enough for any.
    let channels = if session.limits().form == ModelForm::Chip { 4 } else { 32 };
    let kind = LayerKind::Conv { kernel: 3, stride: 1, side: 16 };
    let layer = Layer { kind, cin: channels, cout: channels };
    let candidate = Candidate::new(ModelSpec::Layer { layer }, 1)?;
    let sampling = SamplingArgs { samples: 400, runs: 4, warmup: 1, order_seed: 0, allow_noisy: true };
    let timings = bench::time(global, &mut session, &candidate, &sampling, LoadOptions::default())?;
    let clock = facts.clock_resolution_ns;
    let null = estimate(&timings.null, Statistic::Median, clock)?;
    list.push(finding("harness", true, format!("{} a run", Nanos::from_f64(null.median_ns)), ""));
    let layer = estimate(&timings.visits, Statistic::default(), clock)?;
    let spread = 100.0 * layer.iqr_ns / layer.median_ns.max(1.0);
    let found = format!("{} at 5%, half of the runs within {spread:.1}%", Nanos::from_f64(layer.value_ns));
    list.push(finding("noise floor", true, found, ""));
    let verdict = judge(&Evidence {
        models: &[timings.visits.as_slice()],
        earlier: &[],
        contexts: &timings.contexts,
        clock_resolution_ns: clock,
        cores: facts.cores,
    });
    for reason in &verdict.reasons {
        list.push(finding("measurement", false, reason.to_string(), reason.remedy()));
    }
    if verdict.trustworthy {
        list.push(finding("measurement", true, "trustworthy".to_owned(), ""));
    }
    Ok(())
}
