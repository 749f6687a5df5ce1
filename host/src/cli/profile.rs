//! `hanas profile`: measures a task's candidates into the store; a second call measures what is missing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use clap::Args;
use hanas_proto::measure::{LoadOptions, RoundContext};
use hanas_proto::{Digest, Nanos};
use serde::Serialize;

use super::context::{DeviceArg, Global, TaskArg, query};
use super::output::{Format, json, text};
use super::profile_pairs::{self, MoreArgs};
use super::progress::Progress;
use super::sampling::SamplingArgs;
use super::{Interrupted, NotTrustworthy, interrupt};
use crate::latency::verdict::{Evidence, Verdict, judge};
use crate::link::Session;
use crate::profile::ProfileError;
use crate::profile::candidates::{Candidate, Which};
use crate::profile::runner::{self, Ended, Note};
use crate::profile::sampling::Sampling;
use crate::store::{self, DeviceId, ModelId, ModelRecord, NewSession, SessionId, Store, Visit, VisitRow};

/// Arguments of `hanas profile`.
#[derive(Debug, Args)]
pub(super) struct ProfileArgs {
    #[command(flatten)]
    pub(super) device: DeviceArg,
    #[command(flatten)]
    pub(super) task: TaskArg,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
    /// Measure widths up to this many times the base width
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4))]
    pub(super) expand: u32,
    /// Which candidates
    #[arg(long, value_enum, default_value_t)]
    pub(super) which: Which,
    #[command(flatten)]
    pub(super) more: MoreArgs,
    /// Measure anew what the store holds already
    #[arg(long)]
    pub(super) again: bool,
}

#[derive(Serialize)]
pub(super) struct Report {
    candidates: usize,
    measured_before: usize,
    session: Option<i64>,
    failed: Vec<Failure>,
    verdict: Option<Verdict>,
}

impl Report {
    /// Where the store holds all candidates.
    pub(super) const fn nothing_missing(candidates: usize) -> Self {
        Self { candidates, measured_before: candidates, session: None, failed: Vec::new(), verdict: None }
    }
}

#[derive(Serialize)]
struct Failure {
    model: String,
    reason: String,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &ProfileArgs) -> anyhow::Result<()> {
    if args.which == Which::Pairs {
        return profile_pairs::run(global, args);
    }
    let TaskArg { task, batch } = &args.task;
    let list = profile_pairs::listed(args)?;
    let mut store = global.store()?;
    let mut session = global.connect(&args.device)?;
    let device = store.device_id(session.facts())?;
    let counts = if args.again { BTreeMap::new() } else { store.counts(&query(device, task, *batch))? };
    let have = counts_of(&list, &counts);
    let sampling = args.sampling.sampling();
    let missing = have.iter().filter(|&&have| sampling.rounds_left(have) > 0).count();
    if missing == 0 {
        return conclude(global, args, &Report::nothing_missing(list.len()));
    }
    let mut recorder = Recorder::begin(&mut store, &new_session(device, args), &list)?;
    let ended = record(global, &sampling, &mut session, &list, &have, &mut recorder)?;
    let report = recorder.report(ended, list.len(), list.len() - missing, &session)?;
    conclude(global, args, &report)
}

/// What a session of this command sets out to do.
pub(super) fn new_session(device: DeviceId, args: &ProfileArgs) -> NewSession<'_> {
    let sampling = args.sampling.sampling();
    NewSession {
        device,
        task: &args.task.task.name,
        batch: args.task.batch,
        seed: sampling.seed,
        plan: store::Plan {
            rounds: u32::from(sampling.rounds_left(0)),
            warmup: u32::from(sampling.warmup),
            runs: u32::from(sampling.runs),
            visit_limit: sampling.visit_limit,
        },
    }
}

/// Prints what came of it; the exit code is the verdict's.
pub(super) fn conclude(global: &Global, args: &ProfileArgs, report: &Report) -> anyhow::Result<()> {
    print(global, report)?;
    match &report.verdict {
        Some(verdict) if !verdict.trustworthy && !args.sampling.allow_noisy => Err(NotTrustworthy.into()),
        _ => Ok(()),
    }
}

/// Timed runs that the store has of each candidate.
pub(super) fn counts_of(list: &[Candidate], counts: &BTreeMap<Digest, u64>) -> Vec<u32> {
    list.iter()
        .map(|candidate| counts.get(&candidate.digest).map_or(0, |&n| u32::try_from(n).unwrap_or(u32::MAX)))
        .collect()
}

/// Measures a list, telling how far it is; the recorder must have taken it up.
pub(super) fn record(
    global: &Global,
    sampling: &Sampling,
    session: &mut Session,
    list: &[Candidate],
    have: &[u32],
    recorder: &mut Recorder<'_>,
) -> anyhow::Result<Ended> {
    let stop = interrupt::watch();
    let visits: u64 = have.iter().map(|&have| u64::from(sampling.rounds_left(have))).sum();
    let mut progress = Progress::new("profile", visits, global.quiet);
    let mut done = 0;
    let ended = runner::run(session, list, have, sampling, LoadOptions::default(), &mut |note| {
        if let Note::Visit { candidate, .. } = &note {
            done += 1;
            progress.at(done, &list[*candidate].spec.name());
        }
        if let Note::Failed { candidate, reason } = &note {
            progress.say(&format!("{} cannot be measured: {reason}", list[*candidate].spec.name()));
        }
        recorder.note(list, note)?;
        let asked = stop.load(std::sync::atomic::Ordering::Relaxed);
        Ok(if asked { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    drop(progress);
    // What came after the last round's end is safe as well.
    recorder.flush()?;
    Ok(ended?)
}

/// Judges a session from its own samples and writes the verdict beside them.
fn verdict(store: &mut Store, id: SessionId, clock_ns: u32, cores: u16) -> anyhow::Result<Verdict> {
    let samples = store.session_samples(id)?;
    let contexts = store.contexts(id)?;
    let models: Vec<&[Visit]> = samples
        .iter()
        .filter(|model| model.spec != store::ModelSpec::Null)
        .map(|model| model.visits.as_slice())
        .collect();
    let verdict =
        judge(&Evidence { models: &models, contexts: &contexts, clock_resolution_ns: clock_ns, cores });
    store.finish_session(id, verdict.trustworthy, &verdict)?;
    Ok(verdict)
}

fn print(global: &Global, report: &Report) -> anyhow::Result<()> {
    match global.format {
        Format::Json => json(report),
        _ => {
            let Report { candidates, measured_before, failed, .. } = report;
            let measured = candidates - measured_before - failed.len();
            let mut lines = format!(
                "{candidates} candidates: {measured} measured now, {measured_before} before, {} failed\n",
                failed.len()
            );
            for Failure { model, reason } in failed {
                lines.push_str(&format!("  {model}: {reason}\n"));
            }
            match &report.verdict {
                Some(verdict) => lines.push_str(&format!("verdict: {verdict}\n")),
                None => lines.push_str("nothing was missing\n"),
            }
            text(&lines)
        }
    }
}

/// Writes a profile's notes into the store, a round at a time.
pub(super) struct Recorder<'s> {
    store: &'s mut Store,
    session: SessionId,
    models: Vec<ModelId>,
    /// Round of the session that is the present list's first, and that the next list's will be.
    first_round: u32,
    next_round: u32,
    pending: Vec<(usize, u32, Vec<Nanos>)>,
    failed: Vec<Failure>,
}

impl<'s> Recorder<'s> {
    /// Begins a session with these candidates.
    pub(super) fn begin(
        store: &'s mut Store,
        new: &NewSession<'_>,
        list: &[Candidate],
    ) -> anyhow::Result<Self> {
        let models = store.add_models(&records(list))?;
        let session = store.begin_session(new)?;
        let (pending, failed) = (Vec::new(), Vec::new());
        Ok(Self { store, session, models, first_round: 0, next_round: 0, pending, failed })
    }

    /// Goes on in the same session with other candidates.
    pub(super) fn take_up(&mut self, list: &[Candidate]) -> anyhow::Result<()> {
        self.models = self.store.add_models(&records(list))?;
        self.first_round = self.next_round;
        Ok(())
    }

    /// What was written so far, and before.
    pub(super) const fn store(&self) -> &Store {
        self.store
    }

    /// Judges the session, unless it was stopped.
    pub(super) fn report(
        self,
        ended: Ended,
        candidates: usize,
        measured_before: usize,
        session: &Session,
    ) -> anyhow::Result<Report> {
        if ended == Ended::Stopped {
            let kept = "what was measured is kept; the same command goes on from there".to_owned();
            return Err(Interrupted { kept }.into());
        }
        let facts = session.facts();
        let verdict = verdict(self.store, self.session, facts.clock_resolution_ns, facts.cores)?;
        let session = Some(self.session.0);
        Ok(Report { candidates, measured_before, session, failed: self.failed, verdict: Some(verdict) })
    }

    fn note(&mut self, list: &[Candidate], note: Note) -> Result<(), ProfileError> {
        match note {
            Note::Visit { candidate, serial, runs } => {
                self.pending.push((candidate, self.first_round + serial, runs));
            }
            Note::Context { serial, context } => self.round(self.first_round + serial, &context)?,
            Note::Failed { candidate, reason } => {
                self.failed.push(Failure { model: list[candidate].spec.name(), reason });
            }
            Note::Loaded { .. } | Note::Operators { .. } => {}
        }
        Ok(())
    }

    fn round(&mut self, round: u32, context: &RoundContext) -> Result<(), ProfileError> {
        self.flush()?;
        self.next_round = round + 1;
        self.store
            .append_context(self.session, round, context)
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
