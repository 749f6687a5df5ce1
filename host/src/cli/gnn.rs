//! What a search over graph nets asks of the device and of the graph: latencies and scores.

use std::ops::ControlFlow;

use hanas_models::gnn::{GnnNet, Reading};
use hanas_models::weights::Weights;
use hanas_proto::measure::{LoadOptions, RoundContext};

use super::{Interrupted, interrupt};
use crate::data::graph::GraphData;
use crate::latency::{Statistic, estimate};
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::graph_candidates::{GraphSubject, sampling};
use crate::profile::runner::{Ended, Note, run};
use crate::profile::sampling::Sampling;
use crate::search::hgnas::explore::{ProblemError, Score};
use crate::search::hgnas::problem::Scorer;
use crate::store::{SessionId, Visit};
use crate::train::TrainError;
use crate::train::child::{ChildConfig, ChildResult};
use crate::train::gnn::ChildTrainer;

/// Times graph nets on one graph.
pub(super) struct GnnTimer<'s> {
    session: &'s mut Session,
    subject: &'s GraphSubject,
    reading: Reading,
}

/// A net's runs and the circumstances.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The runs of every candidate.
    pub(super) visits: Vec<Vec<Visit>>,
    /// The rounds' circumstances.
    pub(super) contexts: Vec<(u32, RoundContext)>,
}

impl<'s> GnnTimer<'s> {
    /// A timer over an open session.
    pub(super) const fn new(session: &'s mut Session, subject: &'s GraphSubject, reading: Reading) -> Self {
        Self { session, subject, reading }
    }

    /// The session, for what is not timing.
    pub(super) const fn session(&mut self) -> &mut Session {
        self.session
    }

    /// Times candidates, interleaved.
    pub(super) fn time(&mut self, candidates: &[Candidate], wanted: &Sampling) -> anyhow::Result<Runs> {
        let mut runs = Runs { visits: vec![Vec::new(); candidates.len()], contexts: Vec::new() };
        let have = vec![0; candidates.len()];
        let options = LoadOptions::default();
        let mut failure = None;
        let ended = run(self.session, candidates, &have, &sampling(*wanted), options, &mut |note| {
            match note {
                Note::Visit { candidate, serial, runs: samples } => {
                    runs.visits[candidate].push(Visit { session: SessionId(0), round: serial, samples });
                }
                Note::Context { serial, context } => runs.contexts.push((serial, context)),
                Note::Failed { candidate, reason } => failure = Some((candidate, reason)),
                Note::Settled { .. } | Note::Loaded { .. } | Note::Operators { .. } => {}
            }
            let stop = failure.is_some() || interrupt::asked();
            Ok(if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if let Some((candidate, reason)) = failure {
            anyhow::bail!("the device cannot run {}: {reason}", candidates[candidate].spec.name());
        }
        if ended == Ended::Stopped {
            return Err(
                Interrupted { kept: "the same command goes on from what was measured".to_owned() }.into()
            );
        }
        Ok(runs)
    }

    /// Latencies of nets with seeded weights, in nanoseconds.
    pub(super) fn measure(&mut self, nets: &[GnnNet], wanted: &Sampling) -> anyhow::Result<Vec<f64>> {
        let candidate = |net: &GnnNet| self.subject.candidate(net, self.reading);
        let candidates: Vec<Candidate> = nets.iter().map(candidate).collect::<Result<_, _>>()?;
        let clock = self.session.facts().clock_resolution_ns;
        let runs = self.time(&candidates, wanted)?;
        let value = |visits: &Vec<Visit>| Ok(estimate(visits, Statistic::default(), clock)?.value_ns);
        runs.visits.iter().map(value).collect()
    }
}

/// Trains children on a graph.
pub(super) struct Trainer<'a> {
    trainer: ChildTrainer<'a>,
    config: ChildConfig,
}

impl<'a> Trainer<'a> {
    /// A trainer on a graph under these settings.
    pub(super) fn new(data: &'a GraphData, config: ChildConfig) -> Self {
        Self { trainer: ChildTrainer::new(data), config }
    }

    /// A child with its weights.
    pub(super) fn train(&self, net: &GnnNet, seed: u64) -> Result<(ChildResult, Weights), TrainError> {
        self.trainer.train(net, &self.config, seed)
    }
}

impl Scorer for Trainer<'_> {
    /// A child whose loss is no number any more is worth nothing; the search goes on.
    fn score(&mut self, net: &GnnNet, seed: u64) -> Result<Score, ProblemError> {
        match self.train(net, seed) {
            Ok((found, _)) => Ok(Score { validation: found.val_accuracy, test: found.test_accuracy }),
            Err(TrainError::Diverged { .. }) => Ok(Score { validation: 0.0, test: 0.0 }),
            Err(error) => Err(error.into()),
        }
    }
}

/// Digest of all that a child is trained and scored on.
pub(super) fn digest(data: &GraphData) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut numbers = |list: &mut dyn Iterator<Item = u32>| {
        let bytes: Vec<u8> = list.flat_map(u32::to_le_bytes).collect();
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    };
    numbers(&mut [data.nodes(), data.classes, data.features.width()].into_iter());
    numbers(&mut data.graph.edges().iter().flatten().copied());
    numbers(&mut data.features.starts().iter().copied());
    numbers(&mut data.features.columns().iter().copied());
    numbers(&mut data.features.values().iter().map(|value| value.to_bits()));
    numbers(&mut data.labels.iter().map(|label| label.map_or(u32::MAX, |label| label)));
    for (_, nodes) in data.split.parts() {
        numbers(&mut nodes.iter().copied());
    }
    hasher.finalize().to_hex().to_string()
}
