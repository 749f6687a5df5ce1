//! `hanas profile`: measures a task's candidates into the store; a second call measures what is missing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use clap::Args;
use hanas_proto::measure::{LoadOptions, RoundContext};
use hanas_proto::{Digest, Nanos};
use serde::Serialize;

use super::context::{DeviceArg, Global, TaskArg};
use super::output::{Format, json, text};
use super::progress::Progress;
use super::sampling::SamplingArgs;
use super::{Interrupted, NotTrustworthy, interrupt};
use crate::latency::verdict::{Evidence, Verdict, judge};
use crate::link::Session;
use crate::profile::ProfileError;
use crate::profile::candidates::{Candidate, Which, candidates};
use crate::profile::runner::{self, Ended, Note};
use crate::profile::sampling::Sampling;
use crate::store::{self, ModelId, ModelRecord, NewSession, SampleQuery, SessionId, Store, Visit, VisitRow};

/// Arguments of `hanas profile`.
#[derive(Debug, Args)]
pub(super) struct ProfileArgs {
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    task: TaskArg,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Measure widths up to this many times the base width
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4))]
    expand: u32,
    /// Which candidates
    #[arg(long, value_enum, default_value_t)]
    which: Which,
    /// Measure anew what the store holds already
    #[arg(long)]
    again: bool,
}

#[derive(Serialize)]
struct Report {
    candidates: usize,
    measured_before: usize,
    session: Option<i64>,
    failed: Vec<Failure>,
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct Failure {
    model: String,
    reason: String,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &ProfileArgs) -> anyhow::Result<()> {
    let TaskArg { task, batch } = &args.task;
    let list = candidates(&task.family, args.expand, *batch, args.which)?;
    let order = Order {
        task: &task.name,
        batch: *batch,
        sampling: args.sampling.sampling(),
        again: args.again,
        allow_noisy: args.sampling.allow_noisy,
    };
    measure(global, &args.device, &order, &list)
}

/// What of a task is measured, and how.
pub(super) struct Order<'a> {
    /// The task's name.
    pub(super) task: &'a str,
    /// Images a run.
    pub(super) batch: u32,
    /// How often.
    pub(super) sampling: Sampling,
    /// Whether what the store holds is measured anew.
    pub(super) again: bool,
    /// Whether a measurement that is not trustworthy is no failure.
    pub(super) allow_noisy: bool,
}

/// Measures what is missing of the list into the store, and says how it went.
pub(super) fn measure(
    global: &Global,
    device: &DeviceArg,
    order: &Order<'_>,
    list: &[Candidate],
) -> anyhow::Result<()> {
    let Order { task, batch, sampling, .. } = *order;
    let mut store = global.store()?;
    let mut session = global.connect(device)?;
    let device = store.device_id(session.facts())?;
    let query = SampleQuery { device, task: Some(task), batch, only_trustworthy: false };
    let counts = if order.again { BTreeMap::new() } else { store.counts(&query)? };
    let have = counts_of(list, &counts);
    let missing = have.iter().filter(|&&have| sampling.rounds_left(have) > 0).count();
    let mut report = Report {
        candidates: list.len(),
        measured_before: list.len() - missing,
        session: None,
        failed: Vec::new(),
        verdict: None,
    };
    if missing > 0 {
        let new = NewSession {
            device,
            task,
            batch,
            seed: sampling.seed,
            plan: store::Plan {
                rounds: u32::from(sampling.rounds_left(0)),
                warmup: u32::from(sampling.warmup),
                runs: u32::from(sampling.runs),
                visit_limit: sampling.visit_limit,
            },
        };
        let mut recorder = Recorder::begin(&mut store, &new, list)?;
        report.session = Some(recorder.session.0);
        let ended = record(global, &sampling, &mut session, list, &have, &mut recorder);
        report.failed = std::mem::take(&mut recorder.failed);
        let (id, clock, cores) =
            (recorder.session, session.facts().clock_resolution_ns, session.facts().cores);
        if ended? == Ended::Stopped {
            let kept = "what was measured is kept; the same command goes on from there".to_owned();
            return Err(Interrupted { kept }.into());
        }
        report.verdict = Some(verdict(&mut store, id, clock, cores)?);
    }
    print(global, &report)?;
    match &report.verdict {
        Some(verdict) if !verdict.trustworthy && !order.allow_noisy => Err(NotTrustworthy.into()),
        _ => Ok(()),
    }
}

fn counts_of(list: &[Candidate], counts: &BTreeMap<Digest, u64>) -> Vec<u32> {
    list.iter()
        .map(|candidate| counts.get(&candidate.digest).map_or(0, |&n| u32::try_from(n).unwrap_or(u32::MAX)))
        .collect()
}

fn record(
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
struct Recorder<'s> {
    store: &'s mut Store,
    session: SessionId,
    models: Vec<ModelId>,
    pending: Vec<(usize, u32, Vec<Nanos>)>,
    failed: Vec<Failure>,
}

impl<'s> Recorder<'s> {
    fn begin(store: &'s mut Store, new: &NewSession<'_>, list: &[Candidate]) -> anyhow::Result<Self> {
        let records: Vec<ModelRecord> = list
            .iter()
            .map(|candidate| ModelRecord {
                digest: candidate.digest,
                spec: candidate.spec.clone(),
                batch: candidate.batch,
                onnx_bytes: candidate.onnx.len() as u64,
            })
            .collect();
        let models = store.add_models(&records)?;
        let session = store.begin_session(new)?;
        Ok(Self { store, session, models, pending: Vec::new(), failed: Vec::new() })
    }

    fn note(&mut self, list: &[Candidate], note: Note) -> Result<(), ProfileError> {
        match note {
            Note::Visit { candidate, serial, runs } => self.pending.push((candidate, serial, runs)),
            Note::Context { serial, context } => self.round(serial, &context)?,
            Note::Failed { candidate, reason } => {
                self.failed.push(Failure { model: list[candidate].spec.name(), reason });
            }
            Note::Loaded { .. } | Note::Operators { .. } => {}
        }
        Ok(())
    }

    fn round(&mut self, serial: u32, context: &RoundContext) -> Result<(), ProfileError> {
        self.flush()?;
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
        self.pending.clear();
        Ok(())
    }
}
