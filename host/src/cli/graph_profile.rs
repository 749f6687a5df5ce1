//! `hanas graph profile`: pairs of heads and dim measured on a whole graph: all of them, some dealt out
//! evenly, or those that decide the space. Every round of the last is in the store before the next is
//! chosen, so that a second call goes on from there. `hanas graph replay`: what such a choice would have
//! skipped of a profile of all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use hanas_proto::Digest;

use super::context::{DeviceArg, Global, stored_device};
use super::graph::{TaskArgs, query};
use super::output::{Format, Table, json, text};
use super::profile::{self, Order, Report};
use super::recorder::{Filed, Recorder, counts_of};
use super::sampling::SamplingArgs;
use super::space::Mode;
use crate::latency::verdict::MIN_SAMPLES;
use crate::profile::candidates::Candidate;
use crate::profile::graph_candidates::{BATCH, GraphSubject, candidates, pair_of, sampling};
use crate::profile::runner::Ended;
use crate::profile::sampling::Sampling;
use crate::space::SpaceError;
use crate::space::adaptive::{Adaptive, DOUBT, Known, replay as replayed};
use crate::space::hgnas::{GraphSettings, GraphSpace, known_pairs, pairs, some_pairs};
use crate::space::racing::Racing;
use crate::store::{DeviceId, ModelSamples, ModelSpec, SessionId, Store};

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
    /// The session that alone counts; none: all do.
    only: Option<SessionId>,
}

impl Stored<'_> {
    fn samples(&self, store: &Store) -> anyhow::Result<Vec<ModelSamples>> {
        Ok(match self.only {
            Some(session) => store.session_samples(session)?,
            None => store.samples(&query(self.device, &self.task.task.name))?,
        })
    }

    /// Timed runs of every model.
    fn counts(&self, store: &Store) -> anyhow::Result<BTreeMap<Digest, u64>> {
        let Some(session) = self.only else {
            return Ok(store.counts(&query(self.device, &self.task.task.name))?);
        };
        let runs = |model: &ModelSamples| model.visits.iter().map(|visit| visit.samples.len() as u64).sum();
        Ok(store.session_samples(session)?.iter().map(|model| (model.digest, runs(model))).collect())
    }

    fn known(&self, store: &Store) -> anyhow::Result<BTreeMap<[u32; 2], Known>> {
        Ok(known_pairs(&self.samples(store)?, &self.settings)?)
    }

    /// The pair that a model stands for here.
    fn pair(&self, spec: &ModelSpec) -> Option<[u32; 2]> {
        match spec {
            ModelSpec::Graph { reading, .. } if *reading == self.settings.reading => pair_of(spec),
            _ => None,
        }
    }

    /// The pairs between which a choice is open, which more runs may part.
    fn contested(&self, store: &Store, doubt: f64) -> anyhow::Result<Vec<[u32; 2]>> {
        let samples = self.samples(store)?;
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
    let mut stored = Stored { task: &args.task, device, settings, only: None };
    let chooser = Adaptive {
        budget: args.pairs.unwrap_or(PAIRS),
        doubt: args.doubt,
        seed: args.pairs_seed,
        rules: settings.rules,
    };
    let whole = sampling(args.sampling.sampling());
    let few = Sampling { samples: CHOICE_SAMPLES.min(whole.samples), ..whole };
    let contested = |stored: &Stored<'_>, store: &Store| -> anyhow::Result<(Vec<Candidate>, Vec<u32>)> {
        let list = candidates(subject, &stored.contested(store, args.doubt)?, settings.reading)?;
        let have = counts_of(&list, &stored.counts(store)?);
        Ok((list, have))
    };
    let is_complete = |have: &[u32]| have.iter().all(|&have| whole.rounds_left(have) == 0);
    let mut held = Held::default();
    if !args.again {
        held = Held::new(&stored, &stored.samples(&store)?);
        let known = stored.known(&store)?;
        let (_, have) = contested(&stored, &store)?;
        if is_complete(&have) && chooser.next(&known, &BTreeSet::new())?.is_empty() {
            let all = 1 + known.len();
            let of_pair = |model: &ModelSamples| stored.pair(&model.spec).is_some();
            let report =
                Report::new(all, all).or_last_verdict(&store, &query(device, &task.name), of_pair)?;
            return profile::conclude(global, &report, args.sampling.allow_noisy);
        }
    }
    let null = candidates(subject, &[], settings.reading)?;
    let filed = Filed { device, task: &task.name, batch: BATCH };
    let mut recorder = Recorder::begin(&mut store, filed, &whole, &null)?;
    stored.only = args.again.then_some(recorder.session);
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
    let (mut list, mut have) = contested(&stored, recorder.store)?;
    // What is known better may be tied with others. Where a pass brought nothing, the rest cannot be measured.
    let mut before = None;
    while ended == Ended::Completed && !is_complete(&have) && before.as_ref() != Some(&have) {
        recorder.take_up(&list)?;
        ended = recorder.measure(global, &mut session, &list, &have, &whole, "profile")?;
        before = Some(have);
        (list, have) = contested(&stored, recorder.store)?;
    }
    // A larger budget's next round.
    let known = stored.known(recorder.store)?;
    let left = Adaptive { budget: usize::MAX, ..chooser }.next(&known, &asked)?.len();
    let failed = asked.iter().filter(|pair| !known.contains_key(*pair)).count();
    let before = held.beside(&Held::new(&stored, &recorder.store.session_samples(recorder.session)?));
    let report = Report::new(1 + known.len() + failed, before).finish(recorder, ended, &session)?;
    let of_pair = |model: &ModelSamples| stored.pair(&model.spec).is_some();
    let report = report.or_last_verdict(&store, &query(device, &task.name), of_pair)?;
    if !global.quiet {
        eprintln!("{}", skipped(known.len(), failed, left, args.doubt)?);
    }
    profile::conclude(global, &report, args.sampling.allow_noisy)
}

/// What there are runs of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    null: bool,
    pairs: BTreeSet<[u32; 2]>,
}

impl Held {
    fn new(stored: &Stored<'_>, samples: &[ModelSamples]) -> Self {
        Self {
            null: samples.iter().any(|model| model.spec == ModelSpec::Null),
            pairs: samples.iter().filter_map(|model| stored.pair(&model.spec)).collect(),
        }
    }

    /// How much of it is not in the other.
    fn beside(&self, other: &Self) -> usize {
        usize::from(self.null && !other.null) + self.pairs.difference(&other.pairs).count()
    }
}

/// What was not measured, and why: `failed` pairs could not be, and of `left` of the others it is not sure.
fn skipped(measured: usize, failed: usize, left: usize, doubt: f64) -> anyhow::Result<String> {
    let all = pairs()?.len();
    let skipped = all.saturating_sub(measured + failed);
    let why = format!("would change a choice with a probability below {doubt}");
    let failed = if failed > 0 { format!(", {failed} could not be measured") } else { String::new() };
    Ok(if left == 0 {
        format!("{measured} of {all} pairs measured{failed}; each of the {skipped} skipped {why}")
    } else {
        format!(
            "{measured} of {all} pairs measured{failed}, {skipped} skipped; for {left} and more of them it is not sure that they {why}: raise --pairs"
        )
    })
}

/// Runs `hanas graph replay`.
pub(super) fn replay(global: &Global, args: &ReplayArgs) -> anyhow::Result<()> {
    let task = &args.task.task;
    let store = global.existing_store()?;
    let device = stored_device(&store, args.device.as_deref(), &task.name, BATCH)?;
    let clock = store.device(device)?.map_or(1, |device| device.clock_resolution_ns);
    let stored = Stored { task: &args.task, device, settings: args.task.settings(clock), only: None };
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

#[cfg(test)]
mod tests {
    use hanas_models::gnn::GnnNet;
    use hanas_proto::Nanos;

    use super::*;
    use crate::store::{Device, ModelRecord, NewSession, Plan, VisitRow};

    fn digest([heads, dim]: [u32; 2]) -> Digest {
        let mut digest = [0; 32];
        (digest[0], digest[1]) = (heads as u8, dim as u8);
        Digest(digest)
    }

    /// A session with 20 runs of the null model and of each of these pairs.
    fn measured(store: &mut Store, device: DeviceId, task: &TaskArgs, pairs: &[[u32; 2]]) -> SessionId {
        let (plan, batch) = (Plan { rounds: 1, warmup: 0, runs: 20, visit_limit: Nanos(0) }, BATCH);
        let session = NewSession { device, task: &task.task.name, batch, seed: 0, plan };
        let session = store.begin_session(&session).unwrap();
        let record = |&pair: &[u32; 2]| {
            let net = GnnNet::reference(64, 4, pair[0], pair[1]);
            let spec = ModelSpec::Graph { net, reading: task.reading(), graph: "planted".to_owned() };
            ModelRecord { digest: digest(pair), spec, batch, onnx_bytes: 1 }
        };
        let null = ModelRecord { digest: Digest([9; 32]), spec: ModelSpec::Null, batch, onnx_bytes: 1 };
        let records: Vec<ModelRecord> = pairs.iter().map(record).chain([null]).collect();
        let models = store.add_models(&records).unwrap();
        let samples = [Nanos(1_000); 20];
        let visits: Vec<VisitRow<'_>> =
            models.iter().map(|&model| VisitRow { model, round: 0, samples: &samples }).collect();
        store.append_visits(session, &visits).unwrap();
        session
    }

    #[test]
    fn measured_again_a_pair_is_known_by_its_new_runs_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("hanas.db")).unwrap();
        let device = store.device_id(&Device::default()).unwrap();
        let task = TaskArgs { task: "planted-gnn".parse().unwrap(), mode: Mode::Project };
        let old = measured(&mut store, device, &task, &[[1, 4], [2, 8]]);
        let new = measured(&mut store, device, &task, &[[2, 8], [4, 4]]);
        let stored = |only| Stored { task: &task, device, settings: task.settings(1), only };
        let known = |only| -> Vec<[u32; 2]> { stored(only).known(&store).unwrap().into_keys().collect() };
        assert_eq!(known(None), [[1, 4], [2, 8], [4, 4]]);
        assert_eq!(known(Some(new)), [[2, 8], [4, 4]]);
        let runs = |only| stored(only).counts(&store).unwrap()[&digest([2, 8])];
        assert_eq!((runs(None), runs(Some(new))), (40, 20));
        // Of three models that were there, one was not measured again.
        let held = |only| Held::new(&stored(only), &stored(only).samples(&store).unwrap());
        assert_eq!(held(Some(old)).beside(&held(Some(new))), 1);
        assert_eq!(held(Some(old)).beside(&Held::default()), 3);
        let paper = TaskArgs { mode: Mode::Paper, ..task };
        let settings = paper.settings(1);
        assert!(Stored { task: &paper, device, settings, only: None }.known(&store).unwrap().is_empty());
    }

    #[test]
    fn what_could_not_be_measured_was_not_skipped() {
        let said = skipped(100, 0, 0, 0.05).unwrap();
        assert!(said.starts_with("100 of 2681 pairs measured; each of the 2581 skipped would"), "{said}");
        let said = skipped(100, 3, 0, 0.05).unwrap();
        assert!(said.contains("measured, 3 could not be measured; each of the 2578 skipped would"), "{said}");
        let said = skipped(100, 3, 7, 0.05).unwrap();
        assert!(said.contains("measured, 3 could not be measured, 2578 skipped; for 7 and more"), "{said}");
    }
}
