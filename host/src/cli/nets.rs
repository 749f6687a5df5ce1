//! Whole nets measured on a device.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::ConvNet;
use hanas_models::weights::Weights;
use hanas_proto::measure::{LoadOptions, RoundContext};

use super::pace::{Pace, Paced};
use super::{Interrupted, interrupt};
use crate::latency::disturbed::undisturbed_among;
use crate::latency::verdict::{Evidence, judge};
use crate::latency::{Estimate, Statistic, estimate};
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::runner::{Ended, Note, run};
use crate::profile::sampling::Sampling;
use crate::store::{ModelSpec, SessionId, Visit};

/// A net with seeded weights or given ones.
pub(super) fn candidate(net: &ConvNet, weights: Option<&Weights>, batch: u32) -> anyhow::Result<Candidate> {
    let spec = ModelSpec::Net { net: net.clone() };
    Ok(match weights {
        None => Candidate::new(spec, batch)?,
        Some(weights) => Candidate::of_file(spec, batch, lower(&net.net()?, Init::Weights(weights), batch)?),
    })
}

/// One net's latency on the device, with seeded weights.
#[cfg(feature = "torch")]
pub(super) fn measure(
    session: &mut Session,
    net: &ConvNet,
    batch: u32,
    sampling: &Sampling,
) -> anyhow::Result<Estimate> {
    let runs = in_turns(session, &[candidate(net, None, batch)?], sampling)?;
    Ok(latencies(session, &runs.visits)?[0])
}

/// Times nets in turns, so that what the device does meanwhile falls on all alike.
pub(super) fn in_turns(
    session: &mut Session,
    candidates: &[Candidate],
    sampling: &Sampling,
) -> anyhow::Result<Runs> {
    let runs = timed(session, candidates, sampling, true)?;
    if let Some((candidate, reason)) = runs.failed.first() {
        anyhow::bail!("the device cannot run {}: {reason}", candidates[*candidate].spec.name());
    }
    Ok(runs)
}

/// As [`in_turns`], and a net that the device cannot run is no error.
#[cfg(feature = "torch")]
pub(super) fn in_turns_what_runs(
    session: &mut Session,
    candidates: &[Candidate],
    sampling: &Sampling,
) -> anyhow::Result<Runs> {
    timed(session, candidates, sampling, false)
}

/// Times nets in turns, to the first that the device cannot run where `all` must.
fn timed(
    session: &mut Session,
    candidates: &[Candidate],
    sampling: &Sampling,
    all: bool,
) -> anyhow::Result<Runs> {
    let visits = vec![Vec::new(); candidates.len()];
    let mut runs = Runs { visits, contexts: Vec::new(), failed: Vec::new() };
    let have = vec![0; candidates.len()];
    let mut order = 0;
    let ended = run(session, candidates, &have, sampling, LoadOptions::default(), &mut |note| {
        match note {
            Note::Visit { candidate, serial, runs: samples } => {
                order += 1;
                let visit = Visit { session: SessionId(0), round: serial, order, samples };
                runs.visits[candidate].push(visit);
            }
            Note::Context { serial, context } => runs.contexts.push((serial, context)),
            Note::Failed { candidate, reason } => runs.failed.push((candidate, reason)),
            Note::Settled { .. } | Note::Loaded { .. } | Note::Operators { .. } => {}
        }
        let stop = (all && !runs.failed.is_empty()) || interrupt::asked();
        Ok(if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if ended == Ended::Stopped && (!all || runs.failed.is_empty()) {
        let kept = "what was finished before is kept; give the same command again".to_owned();
        return Err(Interrupted { kept }.into());
    }
    Ok(runs)
}

/// Nets as they were timed in turns, and what the times are worth.
pub(super) struct Taken {
    /// As the candidates.
    pub(super) latencies: Vec<Estimate>,
    /// Why the times are not to be trusted; empty where they are.
    pub(super) doubts: Vec<String>,
    /// Whether they are.
    pub(super) trustworthy: bool,
}

/// Times nets in turns at the pace from before, if the device comes to it; a device that stays slow is a doubt.
/// `known` is the place of the net by which the pace is told; without one there is no pace but this.
pub(super) fn at_pace(
    session: &mut Session,
    candidates: &[Candidate],
    known: Option<usize>,
    sampling: &Sampling,
    mut pace: Pace,
) -> anyhow::Result<Paced<Taken>> {
    let facts = session.facts();
    let (clock_resolution_ns, cores) = (facts.clock_resolution_ns, facts.cores);
    let mut paced = pace.best(|| {
        let runs = in_turns(session, candidates, sampling)?;
        let latencies = latencies(session, &runs.visits)?;
        let models: Vec<_> = runs.visits.iter().map(Vec::as_slice).collect();
        let contexts = &runs.contexts;
        let verdict =
            judge(&Evidence { models: &models, earlier: &[], contexts, clock_resolution_ns, cores });
        let mut doubts: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
        let (apart, mut trustworthy) = (runs.apart(), verdict.trustworthy);
        if apart > 0 {
            trustworthy = false;
            doubts.push(format!(
                "{apart} of the nets do not fit into the device's memory beside the others and were timed after them"
            ));
        }
        let known_ns = known.and_then(|place| latencies.get(place)).map_or(1.0, |of| of.value_ns);
        Ok((Taken { latencies, doubts, trustworthy }, known_ns))
    })?;
    if paced.is_slow() {
        paced.measured.trustworthy = false;
        let doubt = format!("the device is {:.2} times slower than when the net was searched", paced.slower);
        paced.measured.doubts.push(doubt);
    }
    Ok(paced)
}

/// Every net's latency, without the visits that were disturbed.
pub(super) fn latencies(session: &Session, visits: &[Vec<Visit>]) -> anyhow::Result<Vec<Estimate>> {
    let clock = session.facts().clock_resolution_ns;
    let value = |visits: &Vec<Visit>| Ok(estimate(visits, Statistic::default(), clock)?);
    undisturbed_among(visits).iter().map(value).collect()
}

/// Runs of several nets and the circumstances.
#[derive(Debug)]
pub(super) struct Runs {
    /// The runs of every candidate.
    pub(super) visits: Vec<Vec<Visit>>,
    /// The rounds' circumstances.
    pub(super) contexts: Vec<(u32, RoundContext)>,
    /// Candidates that the device cannot run, and why.
    pub(super) failed: Vec<(usize, String)>,
}

impl Runs {
    /// Nets that were timed in no round of the first one's: not in turns with it.
    pub(super) fn apart(&self) -> usize {
        self.parts().iter().filter(|part| part.first.is_empty()).map(|part| part.others.len()).sum()
    }

    /// The nets but the first that were timed in the same rounds, and the first's visits in those.
    pub(super) fn parts(&self) -> Vec<Part> {
        let Some(first) = self.visits.iter().position(|visits| !visits.is_empty()) else { return Vec::new() };
        let mut parts: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (place, visits) in self.visits.iter().enumerate().skip(first + 1) {
            if let Some(start) = visits.iter().map(|visit| visit.round).min() {
                parts.entry(start).or_default().push(place);
            }
        }
        let part = |others: Vec<usize>| {
            let rounds: BTreeSet<u32> =
                others.iter().flat_map(|&place| &self.visits[place]).map(|visit| visit.round).collect();
            let of_part = |visit: &&Visit| rounds.contains(&visit.round);
            Part { first: self.visits[first].iter().filter(of_part).cloned().collect(), others }
        };
        parts.into_values().map(part).collect()
    }
}

/// Nets that were timed in the same rounds.
#[derive(Debug)]
pub(super) struct Part {
    /// The first net's visits in those rounds; none where memory did not hold it beside them.
    pub(super) first: Vec<Visit>,
    /// Places of the others.
    pub(super) others: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nets_of_other_rounds_are_apart() {
        let visits = |rounds: &[u32]| -> Vec<Visit> {
            rounds.iter().map(|&round| Visit { round, ..Visit::default() }).collect()
        };
        let runs = |of: &[&[u32]]| {
            let visits = of.iter().map(|rounds| visits(rounds)).collect();
            Runs { visits, contexts: Vec::new(), failed: Vec::new() }
        };
        let apart = |of| runs(of).apart();
        assert_eq!([apart(&[]), apart(&[&[1, 2]]), apart(&[&[1, 2], &[2, 1], &[1]])], [0, 0, 0]);
        assert_eq!(apart(&[&[], &[1, 2], &[3, 4], &[1, 2], &[5]]), 2);
        // The first again with those that had no room, but for the last.
        let parts = runs(&[&[1, 2, 3, 4], &[1, 2], &[3, 4], &[1, 2, 3], &[5]]).parts();
        let told = |part: &Part| {
            (part.first.iter().map(|visit| visit.round).collect::<Vec<_>>(), part.others.clone())
        };
        let told: Vec<_> = parts.iter().map(told).collect();
        assert_eq!(told, [(vec![1, 2, 3], vec![1, 3]), (vec![3, 4], vec![2]), (vec![], vec![4])]);
    }
}
