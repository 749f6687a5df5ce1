//! Latencies of the random nets that a search begins with.

use std::collections::BTreeSet;

use anyhow::Context as _;
use hanas_models::gnn::GnnNet;
use hanas_proto::Nanos;

use super::context::Global;
use super::gnn::digest;
use super::hgnas_args::HgnasArgs;
use super::hgnas_timer::{GnnTimer, Timed, Together};
use super::interrupt;
use super::pace::{Pace, Paced};
use super::progress::Progress;
use crate::data::graph::GraphData;
use crate::link::Session;
use crate::profile::sampling::Sampling;
use crate::search::hgnas::cache::{Latency, LatencyCache, Measuring};
use crate::search::hgnas::space::key;

/// Nets measured in turns with each other and the reference net; kept when they are done.
const CHUNK: usize = 32;
/// Timed runs of each of them, fewer of a slow one.
const SAMPLES: u32 = 16;
/// A visit to a net ends after this long: of slow nets a few runs tell as much as many of fast ones, and a
/// space's slowest nets take a hundred times as long as its fastest.
const VISIT: Nanos = Nanos(100_000_000);

/// Random nets as they were measured.
pub(super) struct Measured {
    /// The nets in the order given, with latencies at one pace of the device, ns; none for those that it
    /// cannot run.
    pub(super) nets: Vec<(GnnNet, Option<f64>)>,
    /// The reference net's latency at that pace, ns: the best at which T's nets were measured.
    pub(super) reference_ns: f64,
}

/// Nets of GraphNAS's space of which T and quantiles are.
const T_NETS: usize = 100;

/// The nets of T and quantiles in a list where they are every other one: of as many as were asked for, and not of
/// those that a predictor needed besides.
pub(super) fn t_nets<T>(nets: &[T], asked: u32) -> impl Iterator<Item = &T> {
    nets.iter().step_by(2).take(T_NETS.min(asked.div_ceil(2) as usize))
}

impl Measured {
    /// The nets that the device runs.
    pub(super) fn known(&self) -> Vec<(GnnNet, f64)> {
        self.nets.iter().filter_map(|(net, ns)| Some((net.clone(), (*ns)?))).collect()
    }
}

/// These nets with their latencies: those that the run's `latencies.jsonl`, or the file of `--latencies`, has of
/// this device and graph; the rest is measured, and kept there.
pub(super) fn measured(
    global: &Global,
    args: &HgnasArgs,
    data: &GraphData,
    nets: &[GnnNet],
    timer: &mut GnnTimer<'_>,
) -> anyhow::Result<Measured> {
    let path = args.latencies.clone().unwrap_or_else(|| args.out.join("latencies.jsonl"));
    let mut cache = LatencyCache::open(&path, measuring(args, data, timer.session())?)
        .with_context(|| format!("{}: delete it, and its nets are measured again", path.display()))?;
    let mut seen = BTreeSet::new();
    let is_new = |net: &&GnnNet| cache.get(&key(net)).is_none() && seen.insert(key(net));
    let unknown: Vec<GnnNet> = nets.iter().filter(is_new).cloned().collect();
    let known = |cache: &LatencyCache| nets.iter().filter_map(|net| cache.get(&key(net))).collect::<Vec<_>>();
    let mut pace = Pace::new(reference_ns(&known(&cache)));
    let mut progress = Progress::new("latencies", unknown.len() as u64, global.quiet);
    interrupt::watch();
    for (place, chunk) in unknown.chunks(CHUNK).enumerate() {
        // A slow net is to get few runs: there are many nets.
        let sampling = Sampling { samples: SAMPLES, least: 0, visit_limit: VISIT, ..Sampling::default() };
        let paced: Paced<(Vec<Timed>, f64)> = pace.best(|| {
            let Together { latencies, reference_ns, .. } = timer.measure(chunk, &sampling)?;
            Ok(((latencies, reference_ns), reference_ns))
        })?;
        let (found, reference_ns) = paced.measured;
        for (net, timed) in chunk.iter().zip(found) {
            if let Err(reason) = &timed {
                progress.say(&format!("note: the device cannot run {}: {reason}", key(net)));
            }
            cache.put(&key(net), Latency { ns: timed.ok(), reference_ns })?;
        }
        progress.at((place * CHUNK + chunk.len()) as u64, "random nets");
    }
    drop(progress);
    // That of T's nets alone: searches that share the file have those in common, and so one pace.
    let of_t: Vec<Latency> =
        t_nets(nets, args.latency_nets()).filter_map(|net| cache.get(&key(net))).collect();
    let reference_ns = reference_ns(&of_t);
    let at_pace = |of: Latency| of.at_pace(reference_ns);
    let nets: Vec<_> = nets.iter().map(|net| (net.clone(), cache.get(&key(net)).and_then(at_pace))).collect();
    let failed = nets.iter().filter(|(_, ns)| ns.is_none()).count();
    anyhow::ensure!(
        2 * failed <= nets.len(),
        "the device cannot run {failed} of {} random nets; it has too little memory for this graph",
        nets.len()
    );
    Ok(Measured { nets, reference_ns })
}

/// The reference net's latency at the best pace seen, ns; infinite before anything was measured.
fn reference_ns(known: &[Latency]) -> f64 {
    known.iter().map(|of| of.reference_ns).fold(f64::INFINITY, f64::min)
}

/// What this device, graph and way of measuring are called in the file.
fn measuring(args: &HgnasArgs, data: &GraphData, session: &Session) -> anyhow::Result<Measuring> {
    let facts = session.facts();
    let reading = serde_json::to_string(&args.child().reading).context("the nets' reading")?;
    Ok(Measuring {
        device: format!("{} {} x{} {}", facts.name, facts.runtime, facts.threads, facts.cpu),
        how: format!("{reading} {SAMPLES} {VISIT}"),
        data: digest(data),
    })
}

#[cfg(test)]
mod tests {
    use super::t_nets;

    #[test]
    fn t_is_of_the_same_nets_however_many_the_predictor_needed() {
        let nets: Vec<u32> = (0..600).collect();
        let of = |all: usize, asked| t_nets(&nets[..all], asked).copied().collect::<Vec<_>>();
        assert_eq!((of(60, 60).len(), of(60, 60)[1]), (30, 2));
        assert_eq!(of(135, 60), of(60, 60));
        assert_eq!((of(600, 600).len(), of(300, 200)), (100, of(200, 200)));
    }
}
