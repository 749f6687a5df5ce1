//! `hanas profile --which pairs`: layers by input and output width, where they tell most, and the nets
//! that calibrate sums of them. Every round is in the store before the next is chosen, so that a second
//! call goes on from there.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use hanas_models::layer::Layer;

use super::context::{Global, query};
use super::profile::{self, ProfileArgs, Report, filed, is_in};
use super::recorder::{Recorder, counts_of};
use crate::latency::disturbed::undisturbed;
use crate::latency::pair_sampling::{PairPoint, PairSampler, domains};
use crate::latency::{Statistic, estimate};
use crate::link::Session;
use crate::profile::candidates::{Candidate, Which, candidates, held_out_candidates};
use crate::profile::runner::Ended;
use crate::profile::sampling::Sampling;
use crate::store::{ModelSpec, SampleQuery, Store};

/// Timed runs of a pair before the next pairs are chosen. The rest follows when all are known, in one go:
/// what the machine did meanwhile then falls on all alike.
const CHOICE_SAMPLES: u32 = 16;

/// What is measured beyond a list of candidates.
#[derive(Debug, Clone, Args)]
pub(super) struct MoreArgs {
    /// With --which pairs: layers to end at, those counted that the store holds
    #[arg(long, default_value_t = 1200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(super) pairs: u32,
    /// With --which nets: random nets
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) nets: u32,
    /// Seed of the coarse grid of pairs, and of the random nets
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
}

/// The candidates that are known before anything is measured.
pub(super) fn listed(args: &ProfileArgs) -> anyhow::Result<Vec<Candidate>> {
    let (family, batch) = (&args.task.task.family, args.task.batch);
    Ok(match args.which {
        Which::Nets => {
            held_out_candidates(family, args.layers.expand, batch, args.more.nets as usize, args.more.seed)?
        }
        which => candidates(family, args.layers.expand, batch, which, args.layers.cin)?,
    })
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &ProfileArgs) -> anyhow::Result<()> {
    let (task, batch) = (&args.task.task, args.task.batch);
    let mut store = global.store()?;
    let mut session = global.connect(&args.device)?;
    let device = store.device_id(session.facts())?;
    let setting =
        Setting { query: query(device, task, batch), clock_ns: session.facts().clock_resolution_ns };
    let sampler = PairSampler {
        domains: domains(&task.family, args.layers.expand),
        budget: args.more.pairs as usize,
        seed: args.more.seed,
    };
    let nets = listed(args)?;
    let (list, have) = setting.last_pass(&store, &sampler, &nets, args)?;
    let measured_before = missing_in(&have, args).1;
    let grown = !sampler.next(&setting.points(&store)?, &BTreeSet::new()).is_empty();
    if !grown && measured_before == list.len() {
        let report = Report::new(list.len(), list.len());
        let report = report.or_last_verdict(&store, &setting.query, is_in(&list))?;
        return profile::conclude(global, &report, args.sampling.allow_noisy);
    }
    let sampling = args.sampling.sampling();
    let mut recorder = Recorder::begin(&mut store, filed(device, args), &sampling, &nets)?;
    let ended = rounds(global, args, &setting, &sampler, &mut session, &mut recorder).and_then(|ended| {
        if ended == Ended::Stopped {
            return Ok((ended, 0));
        }
        let (list, have) = setting.last_pass(recorder.store, &sampler, &nets, args)?;
        recorder.take_up(&list)?;
        let ended = recorder.measure(global, &mut session, &list, &have, &sampling, "profile")?;
        Ok((ended, list.len()))
    });
    let (ended, candidates) = ended?;
    let report = Report::new(candidates, measured_before).finish(recorder, ended, &session)?;
    let report = report.or_last_verdict(&store, &setting.query, is_in(&list))?;
    profile::conclude(global, &report, args.sampling.allow_noisy)
}

/// Asks the sampler what to measure, and measures it a little, until it asks for nothing.
fn rounds(
    global: &Global,
    args: &ProfileArgs,
    setting: &Setting<'_>,
    sampler: &PairSampler,
    session: &mut Session,
    recorder: &mut Recorder<'_>,
) -> anyhow::Result<Ended> {
    let whole = args.sampling.sampling();
    let few = Sampling { samples: CHOICE_SAMPLES.min(whole.samples), ..whole };
    // What was asked for and is not there cannot be measured on this device.
    let mut asked = BTreeSet::new();
    loop {
        let next = sampler.next(&setting.points(recorder.store)?, &asked);
        if next.is_empty() {
            return Ok(Ended::Completed);
        }
        let list = layers(next.iter().copied(), args.task.batch)?;
        asked.extend(next);
        recorder.take_up(&list)?;
        let have = vec![0; list.len()];
        if recorder.measure(global, session, &list, &have, &few, "pairs")? == Ended::Stopped {
            return Ok(Ended::Stopped);
        }
    }
}

fn layers(layers: impl Iterator<Item = Layer>, batch: u32) -> anyhow::Result<Vec<Candidate>> {
    let candidates = layers.map(|layer| Candidate::new(ModelSpec::Layer { layer }, batch));
    Ok(candidates.collect::<Result<_, _>>()?)
}

/// Candidates that lack runs, and those that do not.
fn missing_in(have: &[u32], args: &ProfileArgs) -> (usize, usize) {
    let sampling = args.sampling.sampling();
    let missing = have.iter().filter(|&&have| sampling.rounds_left(have) > 0).count();
    (missing, have.len() - missing)
}

/// Whose samples are read back.
struct Setting<'a> {
    query: SampleQuery<'a>,
    clock_ns: u32,
}

impl Setting<'_> {
    /// The layers in the store.
    fn points(&self, store: &Store) -> anyhow::Result<Vec<PairPoint>> {
        let mut points = Vec::new();
        for model in undisturbed(&store.samples(&self.query)?).samples {
            if let ModelSpec::Layer { layer } = model.spec {
                let ns = estimate(&model.visits, Statistic::default(), self.clock_ns)?.value_ns;
                points.push(PairPoint { layer, ns });
            }
        }
        Ok(points)
    }

    /// The nets and all the store's layers, with the runs that they have: what the last pass completes.
    fn last_pass(
        &self,
        store: &Store,
        sampler: &PairSampler,
        nets: &[Candidate],
        args: &ProfileArgs,
    ) -> anyhow::Result<(Vec<Candidate>, Vec<u32>)> {
        let known = store.samples(&self.query)?.into_iter().filter_map(|model| match model.spec {
            ModelSpec::Layer { layer } => Some(layer),
            _ => None,
        });
        let known = known.filter(|layer| sampler.domains.iter().any(|domain| domain.holds(layer)));
        let list = [nets, &layers(known, self.query.batch)?].concat();
        let counts = if args.again { BTreeMap::new() } else { store.counts(&self.query)? };
        let have = counts_of(&list, &counts);
        Ok((list, have))
    }
}
