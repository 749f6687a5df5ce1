//! Measures candidates and writes what comes into the store, a round at a time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use hanas_proto::measure::{LoadOptions, RoundContext};
use hanas_proto::{Digest, Nanos};
use serde::Serialize;

use super::context::Global;
use super::interrupt;
use super::progress::Progress;
use crate::latency::verdict::{Evidence, Verdict, judge};
use crate::link::Session;
use crate::profile::ProfileError;
use crate::profile::candidates::Candidate;
use crate::profile::runner::{self, Ended, Note};
use crate::profile::sampling::Sampling;
use crate::store::{
    self, DeviceId, ModelId, ModelRecord, ModelSamples, NewSession, SessionId, Store, Visit, VisitRow,
};

/// A candidate that could not be measured.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    /// Its name.
    pub(super) model: String,
    /// Why.
    pub(super) reason: String,
}

/// How the device was run in.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct WarmUp {
    /// Rounds.
    pub(super) rounds: u16,
    /// Whether it settled.
    pub(super) settled: bool,
}

/// One session of the store being written.
pub(super) struct Recorder<'s> {
    /// The store.
    pub(super) store: &'s mut Store,
    /// The session.
    pub(super) session: SessionId,
    /// What could not be measured.
    pub(super) failed: Vec<Failure>,
    /// How the device was run in.
    pub(super) warm_up: Option<WarmUp>,
    models: Vec<ModelId>,
    pending: Vec<(usize, u32, Vec<Nanos>)>,
    next_round: u32,
}

/// What a session is filed under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filed<'a> {
    /// The device.
    pub(super) device: DeviceId,
    /// The task's name.
    pub(super) task: &'a str,
    /// Images a run.
    pub(super) batch: u32,
}

impl<'s> Recorder<'s> {
    /// Begins a session for these candidates.
    pub(super) fn begin(
        store: &'s mut Store,
        filed: Filed<'_>,
        sampling: &Sampling,
        list: &[Candidate],
    ) -> anyhow::Result<Self> {
        let models = store.add_models(&records(list))?;
        let session = store.begin_session(&NewSession {
            device: filed.device,
            task: filed.task,
            batch: filed.batch,
            seed: sampling.seed,
            plan: store::Plan {
                rounds: u32::from(sampling.rounds_left(0)),
                warmup: u32::from(sampling.warmup),
                runs: u32::from(sampling.runs),
                visit_limit: sampling.visit_limit,
            },
        })?;
        let (failed, pending) = (Vec::new(), Vec::new());
        Ok(Self { store, session, failed, warm_up: None, models, pending, next_round: 0 })
    }

    /// Goes on in the same session with other candidates.
    pub(super) fn take_up(&mut self, list: &[Candidate]) -> anyhow::Result<()> {
        self.models = self.store.add_models(&records(list))?;
        Ok(())
    }

    /// Measures every candidate that has fewer samples than the plan's; `label` stands at the progress
    /// bar. `list` is the one that the session was begun with
    /// or that was taken up last.
    pub(super) fn measure(
        &mut self,
        global: &Global,
        device: &mut Session,
        list: &[Candidate],
        have: &[u32],
        sampling: &Sampling,
        label: &'static str,
    ) -> anyhow::Result<Ended> {
        let sampling = Sampling { first_round: self.next_round, ..*sampling };
        let stop = interrupt::watch();
        let visits: u64 = have.iter().map(|&have| u64::from(sampling.rounds_left(have))).sum();
        let mut progress = Progress::new(label, visits, global.quiet);
        let mut done = 0;
        let ended = runner::run(device, list, have, &sampling, LoadOptions::default(), &mut |note| {
            if let Note::Visit { candidate, .. } = &note {
                done += 1;
                // A slow candidate gets more visits than were planned.
                progress.at(visits.min(done), &list[*candidate].spec.name());
            }
            if let Note::Failed { candidate, reason } = &note {
                progress.say(&format!("{} cannot be measured: {reason}", list[*candidate].spec.name()));
            }
            self.note(list, note)?;
            let asked = stop.load(Ordering::Relaxed);
            Ok(if asked { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        drop(progress);
        // What came after the last round's end is safe as well.
        self.flush()?;
        Ok(ended?)
    }

    /// Models that were measured in this session, those of a race included.
    pub(super) fn models_measured(&self) -> anyhow::Result<usize> {
        Ok(self.store.session_samples(self.session)?.len())
    }

    /// Judges the session and writes the verdict beside its samples.
    pub(super) fn finish(self, device: &Session) -> anyhow::Result<Verdict> {
        let facts = device.facts();
        let verdict = judge_session(self.store, self.session, facts.clock_resolution_ns, facts.cores)?;
        self.store.finish_session(self.session, verdict.trustworthy, &verdict)?;
        Ok(verdict)
    }

    fn note(&mut self, list: &[Candidate], note: Note) -> Result<(), ProfileError> {
        match note {
            Note::Visit { candidate, serial, runs } => self.pending.push((candidate, serial, runs)),
            Note::Context { serial, context } => self.round(serial, &context)?,
            Note::Failed { candidate, reason } => {
                self.failed.push(Failure { model: list[candidate].spec.name(), reason });
            }
            Note::Settled { rounds, settled } => self.warm_up = Some(WarmUp { rounds, settled }),
            Note::Loaded { .. } | Note::Operators { .. } => {}
        }
        Ok(())
    }

    fn round(&mut self, serial: u32, context: &RoundContext) -> Result<(), ProfileError> {
        self.flush()?;
        self.next_round = self.next_round.max(serial + 1);
        self.store
            .append_context(self.session, serial, context)
            .map_err(|error| ProfileError::Sink(error.to_string()))
    }

    fn flush(&mut self) -> Result<(), ProfileError> {
        let rows: Vec<VisitRow<'_>> = self
            .pending
            .iter()
            .map(|(candidate, round, samples)| VisitRow {
                model: self.models[*candidate],
                round: *round,
                samples,
            })
            .collect();
        self.store
            .append_visits(self.session, &rows)
            .map_err(|error| ProfileError::Sink(error.to_string()))?;
        if let Some(last) = rows.iter().map(|row| row.round).max() {
            self.next_round = self.next_round.max(last + 1);
        }
        self.pending.clear();
        Ok(())
    }
}

fn records(list: &[Candidate]) -> Vec<ModelRecord> {
    let record = |candidate: &Candidate| ModelRecord {
        digest: candidate.digest,
        spec: candidate.spec.clone(),
        batch: candidate.batch,
        onnx_bytes: candidate.onnx.len() as u64,
    };
    list.iter().map(record).collect()
}

/// Judges a stored session by its own samples; whether they are enough, by those before it as well. The null
/// model is the harness's own cost and no part of it.
pub(super) fn judge_session(
    store: &Store,
    id: SessionId,
    clock_ns: u32,
    cores: u16,
) -> anyhow::Result<Verdict> {
    let samples = store.session_samples(id)?;
    let contexts = store.contexts(id)?;
    let held = store.runs_until(id)?;
    let judged = || samples.iter().filter(|model| model.spec != store::ModelSpec::Null);
    let models: Vec<&[Visit]> = judged().map(|model| model.visits.as_slice()).collect();
    let own = |model: &ModelSamples| model.visits.iter().map(|visit| visit.samples.len() as u64).sum();
    let earlier: Vec<u64> =
        judged().map(|model| held.get(&model.id).copied().unwrap_or(0).saturating_sub(own(model))).collect();
    let (models, earlier, contexts) = (&models[..], &earlier[..], &contexts[..]);
    Ok(judge(&Evidence { models, earlier, contexts, clock_resolution_ns: clock_ns, cores }))
}

/// Samples that the store holds of each candidate.
pub(super) fn counts_of(list: &[Candidate], counts: &BTreeMap<Digest, u64>) -> Vec<u32> {
    list.iter()
        .map(|candidate| counts.get(&candidate.digest).map_or(0, |&n| u32::try_from(n).unwrap_or(u32::MAX)))
        .collect()
}
