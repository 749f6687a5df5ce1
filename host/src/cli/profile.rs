//! `hanas profile`: measures a task's candidates into the store; a second call measures what is missing.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::context::{DeviceArg, Global, TaskArg, query};
use super::output::{Format, json, text};
use super::profile_race::Racer;
use super::recorder::{Failure, Filed, Recorder, WarmUp, counts_of};
use super::sampling::SamplingArgs;
use super::{Interrupted, NotTrustworthy};
use crate::latency::verdict::Verdict;
use crate::link::Session;
use crate::profile::candidates::{Candidate, Which, candidates};
use crate::profile::cin::Cin;
use crate::profile::runner::Ended;
use crate::profile::sampling::Sampling;
use crate::space::htas::{HardwareSpace, Settings};
use crate::space::racing::{Outcome, Racing, race};
use crate::space::select::Rules;
use crate::store::{DeviceId, ModelSpec, Store};

/// Arguments of `hanas profile`.
#[derive(Debug, Args)]
pub(super) struct ProfileArgs {
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    task: TaskArg,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    layers: LayersArg,
    /// Which candidates
    #[arg(long, value_enum, default_value_t)]
    which: Which,
    /// Measure anew what the store holds already
    #[arg(long)]
    again: bool,
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
struct Report {
    candidates: usize,
    measured_before: usize,
    session: Option<i64>,
    failed: Vec<Failure>,
    warm_up: Option<WarmUp>,
    race: Option<Outcome>,
    verdict: Option<Verdict>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &ProfileArgs) -> anyhow::Result<()> {
    let TaskArg { task, batch } = &args.task;
    let list = candidates(&task.family, args.layers.expand, *batch, args.which, args.layers.cin)?;
    let mut store = global.store()?;
    let mut session = global.connect(&args.device)?;
    let device = store.device_id(session.facts())?;
    let counts = if args.again { BTreeMap::new() } else { store.counts(&query(device, task, *batch))? };
    let have = counts_of(&list, &counts);
    let sampling = args.sampling.sampling();
    let missing = have.iter().filter(|&&have| sampling.rounds_left(have) > 0).count();
    let mut report = Report {
        candidates: list.len(),
        measured_before: list.len() - missing,
        session: None,
        failed: Vec::new(),
        warm_up: None,
        race: None,
        verdict: None,
    };
    let race = race_of(args, &session, &list, &have, &sampling);
    if missing > 0 || race.is_some_and(|(settings, racing)| is_open(&store, device, args, settings, &racing))
    {
        measure(global, args, &mut session, (&mut store, device), (&list, &have), race, &mut report)?;
    }
    print(global, &report)?;
    match &report.verdict {
        Some(verdict) if !verdict.trustworthy && !args.sampling.allow_noisy => Err(NotTrustworthy.into()),
        _ => Ok(()),
    }
}

/// The race that the arguments ask for, with the budget that is left of it.
fn race_of(
    args: &ProfileArgs,
    session: &Session,
    list: &[Candidate],
    have: &[u32],
    sampling: &Sampling,
) -> Option<(Settings, Racing)> {
    let layers = list.iter().zip(have).filter(|(of, _)| matches!(of.spec, ModelSpec::Layer { .. }));
    let (mut planned, mut beyond) = (0, 0);
    for (_, &have) in layers {
        planned += u64::from(sampling.samples);
        beyond += u64::from(have.saturating_sub(sampling.samples));
    }
    let budget = (args.layers.race * planned as f64) as u64;
    let racing = Racing { budget: budget.saturating_sub(beyond), ..Racing::default() };
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
    let space = HardwareSpace::build(&task.family, &samples, settings);
    // What is not confirmed is asked for with the first heat.
    space.is_ok_and(|space| {
        let heat = space.unsettled(racing.doubt, racing.margin).len() as u64 * u64::from(racing.heat);
        heat > 0 && heat <= racing.budget
    })
}

fn measure(
    global: &Global,
    args: &ProfileArgs,
    session: &mut Session,
    (store, device): (&mut Store, DeviceId),
    (list, have): (&[Candidate], &[u32]),
    wanted_race: Option<(Settings, Racing)>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let TaskArg { task, batch } = &args.task;
    let sampling = args.sampling.sampling();
    let filed = Filed { device, task: &task.name, batch: *batch };
    let mut recorder = Recorder::begin(store, filed, &sampling, list)?;
    report.session = Some(recorder.session.0);
    let mut ended = recorder.measure(global, session, list, have, &sampling, "profile")?;
    if let (Some((settings, racing)), Ended::Completed) = (wanted_race, ended) {
        let query = Some(query(device, task, *batch));
        let mut racer = Racer { global, device: session, recorder: &mut recorder, list, sampling, query };
        let (_, outcome) = race(&task.family, settings, &racing, &mut racer).map_err(anyhow::Error::from)?;
        report.race = Some(outcome);
        ended = if outcome.stopped { Ended::Stopped } else { ended };
    }
    report.failed = std::mem::take(&mut recorder.failed);
    report.warm_up = recorder.warm_up;
    if ended == Ended::Stopped {
        let kept = "what was measured is kept; the same command goes on from there".to_owned();
        return Err(Interrupted { kept }.into());
    }
    report.verdict = Some(recorder.finish(session)?);
    Ok(())
}

fn print(global: &Global, report: &Report) -> anyhow::Result<()> {
    match global.format {
        Format::Json => json(report),
        _ => text(&page(report)),
    }
}

fn page(report: &Report) -> String {
    let Report { candidates, measured_before, failed, .. } = report;
    let measured = candidates - measured_before - failed.len();
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
        None => lines.push_str("nothing was missing\n"),
    }
    lines
}
