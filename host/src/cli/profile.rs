//! `hanas profile`: measures a task's candidates into the store; a second call measures what is missing.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use hanas_proto::Digest;
use serde::Serialize;

use super::context::{DeviceArg, Global, TaskArg, query};
use super::output::{Format, json, text};
use super::profile_pairs::{self, MoreArgs};
use super::profile_race::{RaceError, Racer};
use super::recorder::{Failure, Filed, Recorder, WarmUp, counts_of};
use super::sampling::SamplingArgs;
use super::{Interrupted, NotTrustworthy};
use crate::latency::verdict::Verdict;
use crate::link::Session;
use crate::profile::candidates::{Candidate, Which};
use crate::profile::cin::Cin;
use crate::profile::runner::Ended;
use crate::profile::sampling::Sampling;
use crate::space::SpaceError;
use crate::space::htas::Settings;
use crate::space::racing::{self, Outcome, Racing, race};
use crate::space::rules::Rules;
use crate::store::{DeviceId, ModelSamples, ModelSpec, SampleQuery, SessionRow, Store};

/// Arguments of `hanas profile`.
#[derive(Debug, Args)]
pub(super) struct ProfileArgs {
    #[command(flatten)]
    pub(super) device: DeviceArg,
    #[command(flatten)]
    pub(super) task: TaskArg,
    #[command(flatten)]
    pub(super) sampling: SamplingArgs,
    #[command(flatten)]
    pub(super) layers: LayersArg,
    /// Which candidates
    #[arg(long, value_enum, default_value_t)]
    pub(super) which: Which,
    #[command(flatten)]
    pub(super) more: MoreArgs,
    /// Measure anew what the store holds already
    #[arg(long)]
    pub(super) again: bool,
}

/// Which layers, and how hard their order is looked at.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct LayersArg {
    /// Measure widths up to this many times the base width
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4))]
    pub(super) expand: u32,
    /// Input widths that a stage's widths are measured at
    #[arg(long, value_enum, default_value_t)]
    pub(super) cin: Cin,
    /// Runs that may be added where a choice of the space is not decided yet, as a share of the plan's
    /// runs; 0: none
    #[arg(long, default_value_t = 1.0, value_name = "SHARE", value_parser = share)]
    pub(super) race: f64,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| (0.0..=100.0).contains(share));
    share.ok_or_else(|| "write a number from 0 to 100, such as 0.5".to_owned())
}

#[derive(Serialize)]
pub(super) struct Report {
    candidates: usize,
    measured_before: usize,
    measured: usize,
    session: Option<i64>,
    failed: Vec<Failure>,
    warm_up: Option<WarmUp>,
    race: Option<Outcome>,
    verdict: Option<Verdict>,
    /// The session that the verdict is of.
    judged: Option<i64>,
}

impl Report {
    /// Before anything is measured.
    pub(super) const fn new(candidates: usize, measured_before: usize) -> Self {
        Self {
            candidates,
            measured_before,
            measured: 0,
            session: None,
            failed: Vec::new(),
            warm_up: None,
            race: None,
            verdict: None,
            judged: None,
        }
    }

    /// Takes what the session knows and judges it, unless it was stopped.
    pub(super) fn finish(
        mut self,
        mut recorder: Recorder<'_>,
        ended: Ended,
        session: &Session,
    ) -> anyhow::Result<Self> {
        self.session = Some(recorder.session.0);
        self.failed = std::mem::take(&mut recorder.failed);
        self.warm_up = recorder.warm_up;
        if ended == Ended::Stopped {
            let kept = "what was measured is kept; the same command goes on from there".to_owned();
            return Err(Interrupted { kept }.into());
        }
        // Where nothing could be added to what was there, the verdict on that stands.
        let models = recorder.models_measured()?;
        let missing = self.candidates.saturating_sub(self.measured_before);
        self.measured = missing.saturating_sub(self.failed.len()).min(models);
        if self.measured_before == 0 || models > 0 {
            self.verdict = Some(recorder.finish(session)?);
            self.judged = self.session;
        }
        Ok(self)
    }

    /// Where nothing was measured, the verdict stands on what is stored: that of the last session that was judged
    /// and has such a model.
    pub(super) fn or_last_verdict(
        mut self,
        store: &Store,
        query: &SampleQuery<'_>,
        is_asked: impl Fn(&ModelSamples) -> bool,
    ) -> anyhow::Result<Self> {
        if self.verdict.is_some() {
            return Ok(self);
        }
        let covered = store.covered_sessions(query)?;
        for SessionRow { id, verdict, .. } in store.sessions()?.into_iter().rev() {
            let Some((trustworthy, stored)) = verdict.filter(|_| covered.contains(&id)) else { continue };
            if store.session_samples(id)?.iter().any(&is_asked) {
                let reasons = Vec::new();
                let verdict = serde_json::from_value(stored).unwrap_or(Verdict { trustworthy, reasons });
                (self.verdict, self.judged) = (Some(verdict), Some(id.0));
                break;
            }
        }
        Ok(self)
    }
}

/// Whether a stored model is one of a list. Every list has the null model.
pub(super) fn is_in(list: &[Candidate]) -> impl Fn(&ModelSamples) -> bool + use<> {
    let layers_and_nets = list.iter().filter(|of| of.spec != ModelSpec::Null);
    let asked: BTreeSet<Digest> = layers_and_nets.map(|of| of.digest).collect();
    move |model| asked.contains(&model.digest)
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
    let mut report = Report::new(list.len(), list.len() - missing);
    let race = race_of(args, &session, &list, &have, &sampling);
    if missing > 0 || race.is_some_and(|(settings, racing)| is_open(&store, device, args, settings, &racing))
    {
        report =
            measure_and_race(global, args, &mut session, (&mut store, device), (&list, &have), race, report)?;
    }
    let report = report.or_last_verdict(&store, &query(device, task, *batch), is_in(&list))?;
    conclude(global, &report, args.sampling.allow_noisy)
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

/// Measures what is missing of a list into the store, without a race, and says how it went.
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
    let stored = SampleQuery { device, task: Some(task), batch, only_trustworthy: false };
    let counts = if order.again { BTreeMap::new() } else { store.counts(&stored)? };
    let have = counts_of(list, &counts);
    let missing = have.iter().filter(|&&have| sampling.rounds_left(have) > 0).count();
    let mut report = Report::new(list.len(), list.len() - missing);
    if missing > 0 {
        let mut recorder = Recorder::begin(&mut store, Filed { device, task, batch }, &sampling, list)?;
        let ended = recorder.measure(global, &mut session, list, &have, &sampling, "profile")?;
        report = report.finish(recorder, ended, &session)?;
    }
    let report = report.or_last_verdict(&store, &stored, is_in(list))?;
    conclude(global, &report, order.allow_noisy)
}

/// Prints what came of it; the exit code is the verdict's.
pub(super) fn conclude(global: &Global, report: &Report, allow_noisy: bool) -> anyhow::Result<()> {
    print(global, report)?;
    match &report.verdict {
        Some(verdict) if !verdict.trustworthy && !allow_noisy => Err(NotTrustworthy.into()),
        _ => Ok(()),
    }
}

/// What a session of this command is filed under.
pub(super) fn filed(device: DeviceId, args: &ProfileArgs) -> Filed<'_> {
    Filed { device, task: &args.task.task.name, batch: args.task.batch }
}

/// The race that the arguments ask for, with the budget that is left of it.
fn race_of(
    args: &ProfileArgs,
    session: &Session,
    list: &[Candidate],
    have: &[u32],
    sampling: &Sampling,
) -> Option<(Settings, Racing)> {
    if args.which == Which::Nets {
        return None;
    }
    let layers = list.iter().zip(have).filter(|(of, _)| matches!(of.spec, ModelSpec::Layer { .. }));
    let (mut planned, mut beyond) = (0, 0);
    for (_, &have) in layers {
        planned += u64::from(sampling.samples);
        beyond += u64::from(have.saturating_sub(sampling.samples));
    }
    let budget = (args.layers.race * planned as f64) as u64;
    let racing = Racing::in_portions(sampling.runs, budget.saturating_sub(beyond));
    let clock = session.facts().clock_resolution_ns;
    let settings = Settings {
        expand: args.layers.expand,
        cin: args.layers.cin,
        ..Settings::new(Rules::project(), args.task.batch, clock)
    };
    (racing.budget >= u64::from(racing.heat)).then_some((settings, racing))
}

/// Whether what is stored leaves a choice open that the budget could decide.
fn is_open(store: &Store, device: DeviceId, args: &ProfileArgs, settings: Settings, racing: &Racing) -> bool {
    let TaskArg { task, batch } = &args.task;
    let samples = store.samples(&query(device, task, *batch)).unwrap_or_default();
    racing::is_open(&task.family, settings, racing, &samples).unwrap_or(false)
}

fn measure_and_race(
    global: &Global,
    args: &ProfileArgs,
    session: &mut Session,
    (store, device): (&mut Store, DeviceId),
    (list, have): (&[Candidate], &[u32]),
    wanted_race: Option<(Settings, Racing)>,
    mut report: Report,
) -> anyhow::Result<Report> {
    let TaskArg { task, batch } = &args.task;
    let sampling = args.sampling.sampling();
    let mut recorder = Recorder::begin(store, filed(device, args), &sampling, list)?;
    let mut ended = recorder.measure(global, session, list, have, &sampling, "profile")?;
    if let (Some((settings, racing)), Ended::Completed) = (wanted_race, ended) {
        let query = Some(query(device, task, *batch));
        let mut racer = Racer { global, device: session, recorder: &mut recorder, list, sampling, query };
        match race(&task.family, settings, &racing, &mut racer) {
            Ok((_, outcome)) => {
                report.race = Some(outcome);
                ended = if outcome.stopped { Ended::Stopped } else { ended };
            }
            // What was measured is a profile all the same: of layers that the device cannot run there is none.
            Err(RaceError(error)) if error.is::<SpaceError>() => eprintln!("note: nothing is raced: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    report.finish(recorder, ended, session)
}

fn print(global: &Global, report: &Report) -> anyhow::Result<()> {
    match global.format {
        Format::Json => json(report),
        _ => text(&page(report)),
    }
}

fn page(report: &Report) -> String {
    let Report { candidates, measured_before, measured, failed, .. } = report;
    let mut lines = format!(
        "{candidates} candidates: {measured} measured now, {measured_before} before, {} failed\n",
        failed.len()
    );
    for Failure { model, reason } in failed {
        lines.push_str(&format!("  {model}: {reason}\n"));
    }
    if let Some(WarmUp { rounds, settled: false }) = report.warm_up {
        lines.push_str(&format!("warm-up: still speeding up after {rounds} rounds\n"));
    }
    if let Some(Outcome { heats, samples, open, unconfirmed, .. }) = report.race {
        lines.push_str(&format!("race: {samples} runs more in {heats} heats; {open} choices are not sure"));
        if unconfirmed > 0 {
            lines.push_str(&format!(", {unconfirmed} layers were never seen undisturbed for long"));
        }
        lines.push('\n');
    }
    let own = report.judged.is_some() && report.judged == report.session;
    if !own {
        let why = if report.session.is_some() { "nothing could be added" } else { "nothing was missing" };
        lines.push_str(&format!("{why}\n"));
    }
    match (&report.verdict, report.judged) {
        (Some(verdict), Some(session)) if !own => {
            lines.push_str(&format!("verdict of session {session}, the last judged: {verdict}\n"));
        }
        (Some(verdict), _) => lines.push_str(&format!("verdict: {verdict}\n")),
        (None, _) => {}
    }
    lines
}

#[cfg(test)]
mod tests {
    use hanas_models::layer::{Layer, LayerKind};
    use hanas_proto::Nanos;

    use super::*;
    use crate::latency::verdict::Reason;
    use crate::store::{Device, ModelRecord, NewSession, Plan, SessionId, VisitRow};

    fn layer(cout: u32) -> Candidate {
        let kind = LayerKind::Conv { kernel: 3, stride: 1, side: 4 };
        Candidate::new(ModelSpec::Layer { layer: Layer { kind, cin: 4, cout } }, 1).unwrap()
    }

    /// A session that measured these once.
    fn measured(store: &mut Store, device: DeviceId, list: &[Candidate]) -> SessionId {
        let plan = Plan { rounds: 1, warmup: 0, runs: 1, visit_limit: Nanos(0) };
        let session =
            store.begin_session(&NewSession { device, task: "task", batch: 1, seed: 0, plan }).unwrap();
        let record = |of: &Candidate| ModelRecord {
            digest: of.digest,
            spec: of.spec.clone(),
            batch: 1,
            onnx_bytes: 1,
        };
        let models = store.add_models(&list.iter().map(record).collect::<Vec<_>>()).unwrap();
        let visit = |&model| VisitRow { model, round: 0, samples: &[Nanos(5)] };
        store.append_visits(session, &models.iter().map(visit).collect::<Vec<_>>()).unwrap();
        session
    }

    #[test]
    fn where_nothing_is_missing_the_last_verdict_stands() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("hanas.db")).unwrap();
        let device = store.device_id(&Device::default()).unwrap();
        let null = Candidate::new(ModelSpec::Null, 1).unwrap();
        let (list, other) = ([null.clone(), layer(8)], [null, layer(16)]);
        let noisy = measured(&mut store, device, &list);
        let told = |store: &Store, list: &[Candidate]| {
            let query = SampleQuery { device, task: Some("task"), batch: 1, only_trustworthy: false };
            Report::new(2, 2).or_last_verdict(store, &query, is_in(list)).unwrap()
        };
        assert!(page(&told(&store, &list)).ends_with("nothing was missing\n"), "it was not judged");
        let reasons = vec![Reason::TooFewSamples { models: 1, fewest: 1 }];
        store
            .finish_session(noisy, false, &Verdict { trustworthy: false, reasons: reasons.clone() })
            .unwrap();
        let good = measured(&mut store, device, &other);
        store.finish_session(good, true, &Verdict { trustworthy: true, reasons: Vec::new() }).unwrap();
        let again = told(&store, &list);
        assert_eq!(again.verdict, Some(Verdict { trustworthy: false, reasons }));
        assert_eq!((again.session, again.judged), (None, Some(noisy.0)));
        let said = page(&again);
        assert!(said.contains("nothing was missing\nverdict of session 1, the last judged: not "), "{said}");
        let other = told(&store, &other);
        assert!(other.judged == Some(good.0) && page(&other).ends_with("trustworthy\n"), "{}", page(&other));
        // Measured again, it is judged anew.
        let anew = measured(&mut store, device, &list);
        store.finish_session(anew, true, &Verdict { trustworthy: true, reasons: Vec::new() }).unwrap();
        assert_eq!(told(&store, &list).judged, Some(anew.0));
    }
}
