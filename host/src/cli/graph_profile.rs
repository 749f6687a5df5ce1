//! `hanas graph profile`: pairs of heads and dim measured on a whole graph: all of them, some dealt out
//! evenly, or those that decide the space. Every round of the last is in the store before the next is
//! chosen, so that a second call goes on from there. `hanas graph replay`: what such a choice would have
//! skipped of a profile of all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;

use super::context::{DeviceArg, Global, stored_device};
use super::graph::{TaskArgs, query};
use super::output::{Format, Table, json, text};
use super::profile::{self, Order, Report};
use super::recorder::{Filed, Recorder, counts_of};
use super::sampling::SamplingArgs;
use super::space::Mode;
use crate::latency::verdict::MIN_SAMPLES;
use crate::profile::candidates::Candidate;
use crate::profile::graph_candidates::{BATCH, GraphSubject, candidates, sampling};
use crate::profile::runner::Ended;
use crate::profile::sampling::Sampling;
use crate::space::SpaceError;
use crate::space::adaptive::{Adaptive, DOUBT, Known, replay as replayed};
use crate::space::hgnas::{GraphSettings, GraphSpace, known_pairs, pairs, some_pairs};
use crate::space::racing::Racing;
use crate::store::{DeviceId, Store};

/// Arguments of `hanas graph profile`.
#[derive(Debug, Args)]
pub(super) struct ProfileArgs {
    #[command(flatten)]
    task: TaskArgs,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Folder with NAME.npz or the Planetoid files ind.NAME.*
    #[arg(long, env = "HANAS_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Pairs to end at, at most, those counted that the store holds [default: 700; all 2681 with --mode
    /// paper]
    #[arg(long, value_name = "K")]
    pairs: Option<usize>,
    /// Deal the pairs out evenly over the cells instead of measuring what may change a choice
    #[arg(long)]
    even: bool,
    /// Probability of changing a cell's choice below which a pair is skipped
    #[arg(long, default_value_t = DOUBT)]
    doubt: f64,
    /// Seed of the choice of the first pairs
    #[arg(long, default_value_t = 0)]
    pairs_seed: u64,
    /// Measure anew what the store holds already
    #[arg(long)]
    again: bool,
}

/// Arguments of `hanas graph replay`.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    task: TaskArgs,
    /// A board's name or row number, as the store has it [default: the last profiled]
    #[arg(long, short)]
    device: Option<String>,
    /// Pairs to end at, at most
    #[arg(long, default_value_t = PAIRS, value_name = "K")]
    pairs: usize,
    /// Probability of changing a cell's choice below which a pair is skipped
    #[arg(long, default_value_t = DOUBT)]
    doubt: f64,
    /// Seed of the choice of the first pairs
    #[arg(long, default_value_t = 0)]
    pairs_seed: u64,
}

/// Pairs at most where no number is given: a quarter.
const PAIRS: usize = 700;

/// Timed runs of a pair before the next pairs are chosen. The rest follows for those between which a choice
/// is open, in one go: what the machine did meanwhile then falls on all alike. As many as a verdict asks for:
/// most pairs get no more.
const CHOICE_SAMPLES: u32 = MIN_SAMPLES as u32;

/// Runs `hanas graph profile`.
pub(super) fn run(global: &Global, args: &ProfileArgs) -> anyhow::Result<()> {
    let TaskArgs { task, mode } = &args.task;
    let data = args.task.load(args.data.as_deref())?;
    let subject = GraphSubject::new(task.data.name(), &data.graph, &data.features, data.classes);
    let listed = match (args.pairs, mode) {
        (None, Mode::Paper) => Some(pairs()?),
        (count, _) if args.even || *mode == Mode::Paper => {
            Some(some_pairs(count.unwrap_or(PAIRS), args.pairs_seed)?)
        }
        _ => None,
    };
    let Some(chosen) = listed else { return adaptive(global, args, &subject) };
    let list = candidates(&subject, &chosen, args.task.reading())?;
    let order = Order {
        task: &task.name,
        batch: BATCH,
        sampling: sampling(args.sampling.sampling()),
        again: args.again,
        allow_noisy: args.sampling.allow_noisy,
    };
    profile::measure(global, &args.device, &order, &list)
}

/// What of a task's pairs is stored.
struct Stored<'a> {
    task: &'a TaskArgs,
    device: DeviceId,
    settings: GraphSettings,
}

impl Stored<'_> {
    fn known(&self, store: &Store) -> anyhow::Result<BTreeMap<[u32; 2], Known>> {
        let samples = store.samples(&query(self.device, &self.task.task.name))?;
        Ok(known_pairs(&samples, &self.settings)?)
    }

    /// The pairs between which a choice is open, which more runs may part.
    fn contested(&self, store: &Store, doubt: f64) -> anyhow::Result<Vec<[u32; 2]>> {
        let samples = store.samples(&query(self.device, &self.task.task.name))?;
        let space = match GraphSpace::build(self.task.task.data.name(), &samples, self.settings) {
            Err(SpaceError::NoPairs { .. }) => return Ok(Vec::new()),
            space => space?,
        };
        Ok(space.contested(doubt, Racing::default().margin))
    }
}

/// Measures what may change a choice, a little, until nothing does; then those between which a choice is
/// still open as often as asked for.
fn adaptive(global: &Global, args: &ProfileArgs, subject: &GraphSubject) -> anyhow::Result<()> {
    let task = &args.task.task;
    let mut store = global.store()?;
    let mut session = global.connect(&args.device)?;
    let device = store.device_id(session.facts())?;
    let settings = args.task.settings(session.facts().clock_resolution_ns);
    let stored = Stored { task: &args.task, device, settings };
    let chooser = Adaptive {
        budget: args.pairs.unwrap_or(PAIRS),
        doubt: args.doubt,
        seed: args.pairs_seed,
        rules: settings.rules,
    };
    let whole = sampling(args.sampling.sampling());
    let few = Sampling { samples: CHOICE_SAMPLES.min(whole.samples), ..whole };
    let counts = |store: &Store| store.counts(&query(device, &task.name));
    let not_counted = if args.again { counts(&store)? } else { BTreeMap::new() };
    let contested = |store: &Store| -> anyhow::Result<(Vec<Candidate>, Vec<u32>)> {
        let list = candidates(subject, &stored.contested(store, args.doubt)?, settings.reading)?;
        let (all, not) = (counts_of(&list, &counts(store)?), counts_of(&list, &not_counted));
        let have = all.iter().zip(&not).map(|(all, not)| all.saturating_sub(*not)).collect();
        Ok((list, have))
    };
    let known = stored.known(&store)?;
    let (_, have) = contested(&store)?;
    let is_complete = |have: &[u32]| have.iter().all(|&have| whole.rounds_left(have) == 0);
    if is_complete(&have) && chooser.next(&known, &BTreeSet::new())?.is_empty() {
        let all = 1 + known.len();
        return profile::conclude(global, &Report::new(all, all), args.sampling.allow_noisy);
    }
    let measured_before = have.iter().filter(|&&have| whole.rounds_left(have) == 0).count();
    let null = candidates(subject, &[], settings.reading)?;
    let filed = Filed { device, task: &task.name, batch: BATCH };
    let mut recorder = Recorder::begin(&mut store, filed, &whole, &null)?;
    let mut asked = BTreeSet::new();
    let mut ended = Ended::Completed;
    while ended == Ended::Completed {
        let next = chooser.next(&stored.known(recorder.store)?, &asked)?;
        if next.is_empty() {
            break;
        }
        let list = candidates(subject, &next, settings.reading)?.split_off(1);
        asked.extend(next);
        recorder.take_up(&list)?;
        ended =
            recorder.measure(global, &mut session, &list, &vec![0; list.len()], &few, "choosing pairs")?;
    }
    let (mut list, mut have) = contested(recorder.store)?;
    // What is known better may be tied with others. Where a pass brought nothing, the rest cannot be measured.
    let mut before = None;
    while ended == Ended::Completed && !is_complete(&have) && before.as_ref() != Some(&have) {
        recorder.take_up(&list)?;
        ended = recorder.measure(global, &mut session, &list, &have, &whole, "profile")?;
        before = Some(have);
        (list, have) = contested(recorder.store)?;
    }
    // A larger budget's next round.
    let known = stored.known(recorder.store)?;
    let left = Adaptive { budget: usize::MAX, ..chooser }.next(&known, &asked)?.len();
    let report = Report::new(1 + known.len(), measured_before).finish(recorder, ended, &session)?;
    if !global.quiet {
        eprintln!("{}", skipped(known.len(), left, args.doubt)?);
    }
    profile::conclude(global, &report, args.sampling.allow_noisy)
}

fn skipped(measured: usize, left: usize, doubt: f64) -> anyhow::Result<String> {
    let all = pairs()?.len();
    let skipped = all.saturating_sub(measured);
    let why = format!("would change a choice with a probability below {doubt}");
    Ok(if left == 0 {
        format!("{measured} of {all} pairs measured; each of the {skipped} skipped {why}")
    } else {
        format!(
            "{measured} of {all} pairs measured, {skipped} skipped; for {left} and more of them it is not sure that they {why}: raise --pairs"
        )
    })
}

/// Runs `hanas graph replay`.
pub(super) fn replay(global: &Global, args: &ReplayArgs) -> anyhow::Result<()> {
    let task = &args.task.task;
    let store = global.existing_store()?;
    let device = stored_device(&store, args.device.as_deref(), &task.name, BATCH)?;
    let clock = store.device(device)?.map_or(1, |device| device.clock_resolution_ns);
    let stored = Stored { task: &args.task, device, settings: args.task.settings(clock) };
    let known = stored.known(&store)?;
    let all = pairs()?.len();
    anyhow::ensure!(
        known.len() == all,
        "the store holds {} of the {all} pairs of {}; `hanas graph profile --even --pairs {all}` measures all",
        known.len(),
        task.name
    );
    let chooser = Adaptive {
        budget: args.pairs,
        doubt: args.doubt,
        seed: args.pairs_seed,
        rules: stored.settings.rules,
    };
    let found = replayed(&known, &chooser)?;
    let mut table = Table::new(&["sampling", "pairs", "share", "same choice", "same or tied", "score lost"]);
    let mut row = |name: &str, pairs: usize, same: usize, tied: usize, loss: f64| {
        let share = format!("{:.1}%", 100.0 * pairs as f64 / all as f64);
        let of = |count: usize| format!("{count} of {}", found.cells);
        let lost = format!("{:.2}%", 100.0 * loss);
        table.row(vec![name.to_owned(), pairs.to_string(), share, of(same), of(tied), lost]);
    };
    row("adaptive", found.measured, found.same, found.same_or_tied, found.mean_loss);
    row("evenly dealt", found.measured, found.even_same, found.even_same_or_tied, found.even_mean_loss);
    match global.format {
        Format::Json => json(&found),
        Format::Csv => text(&table.to_csv()),
        Format::Text => text(&table.to_text()),
    }
}
