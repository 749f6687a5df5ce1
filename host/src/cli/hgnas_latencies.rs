//! Latencies of the random nets that a search begins with.

use hanas_models::gnn::GnnNet;
use serde::{Deserialize, Serialize};

use super::context::Global;
use super::gnn::digest;
use super::hgnas_args::HgnasArgs;
use super::hgnas_timer::GnnTimer;
use super::interrupt;
use super::progress::Progress;
use crate::data::graph::GraphData;
use crate::profile::sampling::Sampling;
use crate::search::hgnas::cache::{Latency, LatencyCache, Measuring};
use crate::search::hgnas::space::key;
use crate::search::progress::{JsonLines, read_complete_lines};

/// Nets measured between two lines of `latencies.jsonl`.
const CHUNK: usize = 32;
/// Timed runs of each of them.
const SAMPLES: u32 = 16;

/// A line of `latencies.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
struct MeasuredLatency {
    key: String,
    ns: f64,
}

/// These nets with their latencies: those that the run's `latencies.jsonl` has, then those that
/// `--latencies` has from other runs; the rest is measured, and kept in both.
pub(super) fn measured(
    global: &Global,
    args: &HgnasArgs,
    data: &GraphData,
    nets: &[GnnNet],
    timer: &mut GnnTimer<'_>,
) -> anyhow::Result<Vec<(GnnNet, f64)>> {
    let path = args.out.join("latencies.jsonl");
    let mut lines: Vec<MeasuredLatency> = read_complete_lines(&path)?;
    if lines.len() > nets.len() || lines.iter().zip(nets).any(|(line, net)| line.key != key(net)) {
        let out = args.out.display();
        anyhow::bail!("{out} holds another run; give an empty folder, or the same settings to resume");
    }
    let mut log = JsonLines::open(&path, lines.len())?;
    let mut shared = shared(args, data, timer)?;
    let mut progress = Progress::new("latencies", nets.len() as u64, global.quiet);
    interrupt::watch();
    while lines.len() < nets.len() {
        let next = &nets[lines.len()..nets.len().min(lines.len() + CHUNK)];
        for (net, ns) in next.iter().zip(latencies(next, &mut shared, timer)?) {
            let line = MeasuredLatency { key: key(net), ns };
            log.push(&line)?;
            lines.push(line);
        }
        progress.at(lines.len() as u64, "random nets");
    }
    Ok(nets.iter().cloned().zip(lines.iter().map(|line| line.ns)).collect())
}

/// What other runs measured on this device, of this graph, in this way.
fn shared(
    args: &HgnasArgs,
    data: &GraphData,
    timer: &mut GnnTimer<'_>,
) -> anyhow::Result<Option<LatencyCache>> {
    let Some(path) = &args.latencies else { return Ok(None) };
    let facts = timer.session().facts();
    let measuring = Measuring {
        device: format!("{} {} x{} {}", facts.name, facts.runtime, facts.threads, facts.cpu),
        how: format!("{} {SAMPLES}", serde_json::to_string(&args.child().reading)?),
        data: digest(data),
    };
    Ok(Some(LatencyCache::open(path, measuring)?))
}

/// Latencies of nets, ns; those that are not known yet are measured by turns.
fn latencies(
    nets: &[GnnNet],
    shared: &mut Option<LatencyCache>,
    timer: &mut GnnTimer<'_>,
) -> anyhow::Result<Vec<f64>> {
    let sampling = Sampling { samples: SAMPLES, ..Sampling::default() };
    let Some(shared) = shared else { return timer.measure(nets, &sampling) };
    let unknown: Vec<GnnNet> = nets.iter().filter(|net| shared.get(&key(net)).is_none()).cloned().collect();
    if !unknown.is_empty() {
        for (net, ns) in unknown.iter().zip(timer.measure(&unknown, &sampling)?) {
            shared.put(&key(net), Latency { ns })?;
        }
    }
    let known = |net: &GnnNet| shared.get(&key(net)).map(|of| of.ns);
    nets.iter()
        .map(|net| known(net).ok_or_else(|| anyhow::anyhow!("{} was not measured", key(net))))
        .collect()
}
