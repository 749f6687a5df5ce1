//! `hanas profile`: measures a task's candidates into the store; a second call measures what is missing.

use std::collections::BTreeMap;

use clap::Args;
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
use crate::store::{DeviceId, ModelSpec, SampleQuery, Store};

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
        }
        Ok(self)
    }
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
    match &report.verdict {
        Some(verdict) => lines.push_str(&format!("verdict: {verdict}\n")),
        None if report.session.is_some() => lines.push_str("nothing could be added\n"),
        None => lines.push_str("nothing was missing\n"),
    }
    lines
}
