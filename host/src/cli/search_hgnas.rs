//! `hanas search hgnas`: a graph net for a device, by reinforcement learning, evolution or chance.
//!
//! Random nets are measured first: they train the latency predictor and fix T and the limit's quantile.
//! Then the search, whose trials are trained and predicted; then the best are measured, trained again and
//! again, and the best of them is exported and verified. Every step goes on where it was interrupted.

use std::path::PathBuf;

use hanas_models::gnn::layout::{Layout, Widths};
use hanas_models::gnn::{GnnNet, Reading};
use hanas_proto::Bytes;
use serde::Serialize;

use super::context::Global;
use super::gnn::{Trainer, digest};
use super::graph::saved_space;
use super::graph_retrain::{Changes, percent, retrain};
use super::graph_run::{Asked, GraphRun, judged, lines, verify};
use super::hgnas_args::{HgnasArgs, Limit, RewardArg, SearchCommand, SpaceArg};
use super::hgnas_latencies::{Measured, measured};
use super::hgnas_timer::{FinalTimer, GnnTimer};
use super::output::{Format, json, text};
use super::search;
use super::watch::Watch;
use super::{Interrupted, Usage, interrupt};
use crate::data::graph::{GraphData, load};
use crate::data::stream::{Purpose, stream};
use crate::latency::graph::GraphShape;
use crate::link::Session;
use crate::profile::graph_candidates::GraphSubject;
use crate::profile::sampling::Sampling;
use crate::search::SearchError;
use crate::search::hgnas::cache::{ScoreCache, Setting};
use crate::search::hgnas::explore::{ProblemError, Settings, explore};
use crate::search::hgnas::finals::{FinalConfig, Finalist, Jury};
use crate::search::hgnas::predictor::{Gate, Predictor, PredictorConfig, Target};
use crate::search::hgnas::problem::GnnProblem;
use crate::search::hgnas::record::{GnnNetRecord, GnnRunRecord, GnnVerifyRecord, METHOD};
use crate::search::hgnas::reward::{OMEGA, Objective, Reward, median, quantile};
use crate::search::hgnas::space::{GnnSpace, key};
use crate::search::meter::Amount;
use crate::search::progress::peak_memory_bytes;
use crate::search::run::{Kind, RunDir, RunError, SCHEMA_VERSION, save};
use crate::train::child::ChildConfig;

/// The run's latency predictor.
const PREDICTOR: &str = "predictor.safetensors";
/// Random nets whose predicted latencies tell whether a limit can be met.
const LIMIT_NETS: usize = 2_000;
/// Timed runs of a finalist and of the net that comes out.
const FINAL_SAMPLES: u32 = 60;

/// Runs `hanas search`.
pub(super) fn run(global: &Global, command: &SearchCommand) -> anyhow::Result<()> {
    match command {
        SearchCommand::Conv(args) => search::run(global, args),
        SearchCommand::Graph(args) => {
            let (outcome, trustworthy) = hgnas(global, args)?;
            print(global, &outcome)?;
            judged([&outcome.verify], trustworthy || args.allow_noisy)
        }
    }
}

/// What came of a search.
#[derive(Serialize)]
pub(super) struct Outcome {
    run: PathBuf,
    net: GnnNetRecord,
    verify: GnnVerifyRecord,
    peak_memory_bytes: u64,
}

/// Runs a search to its end, or goes on with it; what came of it, and whether its last measurement is
/// trustworthy.
pub(super) fn hgnas(global: &Global, args: &HgnasArgs) -> anyhow::Result<(Outcome, bool)> {
    let data = load(&args.task.data, &args.data)?;
    let (child, finals) = (args.child(), args.finals()?);
    child.check().map_err(Usage)?;
    let mut session = global.connect(&args.device)?;
    let space = space(global, args, &data, &session)?;
    vacant(args, &space, &child, &finals)?;
    let subject = GraphSubject::new(args.task.data.name(), &data.graph, &data.features, data.classes);
    let mut timer = GnnTimer::new(&mut session, &subject, child.reading);
    std::fs::create_dir_all(&args.out)?;
    let nets = nets_to_measure(args, &data, &space);
    let measured = measured(global, args, &data, &nets, &mut timer)?;
    let reward = reward(args, &measured)?;
    // Before there is a run: whoever has to measure more for its gate gives the same folder.
    let predictor = predictor(global, args, &data, &measured.known(), child.reading)?;
    if let Some(limit_ns) = reward.limit_ns {
        reachable(&space, limit_ns, &predictor, args.seed)?;
    }
    let settings = Settings { samples: args.samples(), seed: args.seed, reward };
    let record = GnnRunRecord {
        schema_version: SCHEMA_VERSION,
        method: METHOD.to_owned(),
        task: args.task.name.clone(),
        device: args.device.device.clone(),
        space: space.clone(),
        strategy: args.strategy(),
        settings,
        child: serde_json::to_string(&child)?,
        finals,
    };
    let dir = RunDir::create(&args.out, &record)?;
    predictor.save(&dir.file(PREDICTOR))?;
    let setting = Setting { child: record.child.clone(), data: digest(&data) };
    let scores = args.scores.clone().unwrap_or_else(|| dir.file("scores.jsonl"));
    let mut cache = ScoreCache::open(&scores, setting)?;
    let mut trainer = Trainer::new(&data, child);
    let trials = {
        let mut predict = |net: &GnnNet| -> Result<f64, ProblemError> {
            predictor.predict_ns(net).ok_or_else(|| format!("{} has not two layers", key(net)).into())
        };
        let mut problem = GnnProblem::new(&space, &mut trainer, &mut predict, &mut cache, args.seed);
        let mut proposer = record.strategy.proposer(&space.tokens(), args.seed)?;
        let mut watch = Watch::new("search", global.quiet);
        let mut monitor = watch.monitor(interrupt::watch());
        explore(&mut problem, &mut *proposer, &settings, Some(&dir.search_log()), &mut monitor)
            .map_err(interrupted)?
    };
    let sampling = Sampling { samples: FINAL_SAMPLES, ..Sampling::default() };
    let mut finals = FinalTimer::new(&mut timer, measured.reference_ns, sampling);
    let mut measure = |net: &GnnNet| -> Result<f64, ProblemError> {
        // As it is and not inside another error: the exit code tells an interruption from a lost device.
        finals.measure_ns(net).map_err(anyhow::Error::reallocate_into_boxed_dyn_error_without_backtrace)
    };
    let finalists = {
        let mut watch = Watch::new("finals", global.quiet);
        let monitor = watch.monitor(interrupt::watch());
        let mut jury = Jury { scorer: &mut trainer, measure: &mut measure, cache: &mut cache, monitor };
        jury.decide(&space, &trials, reward.limit_ns, &record.finals, args.seed).map_err(interrupted)?
    };
    let trained: std::collections::BTreeSet<&str> = trials.iter().map(|trial| trial.key.as_str()).collect();
    let net = net_record(finalists, &measured, reward.limit_ns, trained.len(), &predictor)?;
    save(&dir.file("net.json"), &net)?;
    let run = GraphRun::open(&dir)?;
    retrain(global, &run, &data, Changes::default())?;
    let asked = Asked { device: &args.device.device, data: Some(&data), answers: true, sampling };
    let (mut found, trustworthy) = verify(std::slice::from_ref(&run), timer.session(), &asked)?;
    let verify = found.pop().ok_or_else(|| anyhow::anyhow!("the net was not verified"))?;
    let peak_memory_bytes = peak_memory_bytes();
    Ok((Outcome { run: args.out.clone(), net, verify, peak_memory_bytes }, trustworthy))
}

/// Refuses a folder that holds another run, before anything is measured for it. T and a limit's quantile are
/// not known yet; whether they are the run's is seen when they are.
fn vacant(
    args: &HgnasArgs,
    space: &GnnSpace,
    child: &ChildConfig,
    finals: &FinalConfig,
) -> anyhow::Result<()> {
    let path = &args.out;
    if !path.join("run.json").exists() {
        return Ok(());
    }
    let occupied = || RunError::Occupied { path: path.clone() };
    let dir = RunDir::open(path)?;
    if dir.kind()? != Kind::Graph {
        return Err(occupied().into());
    }
    let old = GnnRunRecord::load(&dir)?;
    let Settings { samples, seed, reward } = old.settings;
    let same_reward =
        matches!(reward.objective, Objective::Latency { .. }) == (args.reward == RewardArg::Latency);
    let same_limit = match args.limit {
        None => reward.limit_ns.is_none(),
        Some(Limit::Nanos(ns)) => reward.limit_ns == Some(ns),
        Some(Limit::Quantile(_)) => reward.limit_ns.is_some(),
    };
    let same = (old.task == args.task.name && old.device == args.device.device)
        && (old.space == *space && old.strategy == args.strategy())
        && (samples, seed) == (args.samples(), args.seed)
        && (old.child == serde_json::to_string(child)? && old.finals == *finals);
    if same && same_reward && same_limit { Ok(()) } else { Err(occupied().into()) }
}

/// Whether a search can begin: its graph is there, the device answers, and its space is built.
pub(super) fn ready(global: &Global, args: &HgnasArgs) -> anyhow::Result<()> {
    let data = load(&args.task.data, &args.data)?;
    space(global, args, &data, &global.connect(&args.device)?).map(drop)
}

/// The space; HGNAS's pairs are those of the last space built.
fn space(global: &Global, args: &HgnasArgs, data: &GraphData, session: &Session) -> anyhow::Result<GnnSpace> {
    let (features, classes) = (data.features.width(), data.classes);
    if args.space == SpaceArg::Graphnas {
        return Ok(GnnSpace::graphnas(features, classes));
    }
    let mut store = global.existing_store()?;
    let device = store.device_id(session.facts())?;
    let saved = saved_space(&store, device, &args.task.name)?;
    if saved.value.settings.reading != args.child().reading {
        eprintln!("note: the space was measured in the other mode; its pairs may be others in this one");
    }
    let pairs = saved.value.choices().iter().map(|&[heads, dim]| (heads, dim)).collect();
    Ok(GnnSpace::hgnas(features, classes, pairs, !args.paper)?)
}

/// Random nets by turns of GraphNAS's space, whose latencies T and quantiles are of, and of the space.
fn nets_to_measure(args: &HgnasArgs, data: &GraphData, space: &GnnSpace) -> Vec<GnnNet> {
    let grid = GnnSpace::graphnas(data.features.width(), data.classes);
    // Streams of their own: whatever the space, T and the limit's quantile are of the same nets.
    let [mut grids, mut others] = [2, 3].map(|which| stream(args.seed, Purpose::RandomNets, 0, which));
    let draw = |place: u32| {
        let (from, rng) = if place.is_multiple_of(2) { (&grid, &mut grids) } else { (space, &mut others) };
        from.net(&from.tokens().random(rng))
    };
    (0..args.latency_nets()).filter_map(draw).collect()
}

/// The reward; T and quantiles are of the even places, GraphNAS's nets.
fn reward(args: &HgnasArgs, measured: &Measured) -> anyhow::Result<Reward> {
    let grid: Vec<f64> = measured.nets.iter().step_by(2).filter_map(|of| of.1).collect();
    let of = |share| quantile(&grid, share).ok_or_else(|| anyhow::anyhow!("no random net was measured"));
    let limit_ns = match args.limit {
        None => None,
        Some(Limit::Nanos(ns)) => Some(ns),
        Some(Limit::Quantile(share)) => Some(of(share)?),
    };
    let objective = match args.reward {
        RewardArg::Accuracy => Objective::Accuracy,
        RewardArg::Latency => {
            let hundred = &grid[..grid.len().min(100)];
            let reference_ns =
                median(hundred).ok_or_else(|| anyhow::anyhow!("no random net was measured"))?;
            Objective::Latency { reference_ns, omega: OMEGA }
        }
    };
    Ok(Reward { objective, limit_ns })
}

/// Refuses a limit that no net of the space is likely to meet, before anything is trained for it.
fn reachable(space: &GnnSpace, limit_ns: f64, predictor: &Predictor, seed: u64) -> Result<(), SearchError> {
    let mut rng = stream(seed, Purpose::RandomNets, 1, 0);
    let tokens = space.tokens();
    let draws = (0..LIMIT_NETS).filter_map(|_| predictor.predict_ns(&space.net(&tokens.random(&mut rng))?));
    let fastest = draws.fold(f64::INFINITY, f64::min);
    if fastest <= limit_ns {
        return Ok(());
    }
    let (fastest, limit) = (Amount::Nanos(fastest), Amount::Nanos(limit_ns));
    Err(SearchError::NoFinalist(format!(
        "the fastest of {LIMIT_NETS} random nets takes {fastest}, as predicted; raise --limit above that, from {limit}"
    )))
}

/// The run's latency predictor, trained where there is none yet, and its gate.
fn predictor(
    global: &Global,
    args: &HgnasArgs,
    data: &GraphData,
    measured: &[(GnnNet, f64)],
    reading: Reading,
) -> anyhow::Result<Predictor> {
    let found = match Predictor::load(&args.out.join(PREDICTOR))? {
        Some(found) => found,
        None => {
            let layout = Layout::new(&data.graph, Widths::Rounded);
            let graph = GraphShape { nodes: data.nodes(), edges: layout.messages() as u32 };
            let target = if args.paper { Target::Latency } else { Target::Residual { graph, reading } };
            Predictor::train(measured, target, PredictorConfig::default(), args.seed)?
        }
    };
    let test = found.test();
    let tau = test.kendall_tau.unwrap_or(0.0);
    if !global.quiet {
        eprintln!(
            "latency predictor: error {:.1}%, Kendall tau {tau:.3} on {} unseen nets",
            100.0 * test.mape,
            test.nets
        );
    }
    if !Gate::NOISY.passes(test) && !args.allow_noisy {
        anyhow::bail!(
            "the latency predictor misses its gate (15%, tau .85); measure more with --latency-nets, quieten the device and delete {}, or go on with --allow-noisy",
            args.latencies.clone().unwrap_or_else(|| args.out.join("latencies.jsonl")).display()
        );
    }
    Ok(found)
}

fn net_record(
    finalists: Vec<Finalist>,
    measured: &Measured,
    limit_ns: Option<f64>,
    trained: usize,
    predictor: &Predictor,
) -> anyhow::Result<GnnNetRecord> {
    let first = finalists.first().ok_or_else(|| anyhow::anyhow!("the search has no finalist"))?;
    Ok(GnnNetRecord {
        schema_version: SCHEMA_VERSION,
        net: first.net.clone(),
        summary: key(&first.net),
        predicted_ns: first.predicted_ns,
        measured_ns: first.measured_ns,
        reference_ns: Some(measured.reference_ns),
        limit_ns,
        validation: first.validation(),
        test: first.test(),
        runs: first.scores.len(),
        trained,
        predictor: Some(*predictor.test()),
        finalists,
    })
}

fn interrupted(error: SearchError) -> anyhow::Error {
    match error {
        SearchError::Problem(error) => anyhow::anyhow!(error),
        SearchError::Interrupted => {
            Interrupted { kept: "the same command goes on from the last trial".to_owned() }.into()
        }
        other => other.into(),
    }
}

fn print(global: &Global, outcome: &Outcome) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return json(outcome);
    }
    let Outcome { run: folder, net, verify, peak_memory_bytes } = outcome;
    text(&format!(
        "{}\nover {} trainings: validation {}, test {}\n{}{} architectures trained, peak memory {}; {}\n",
        net.summary,
        net.runs,
        percent(net.validation),
        percent(net.test),
        lines(net, verify),
        net.trained,
        Bytes(*peak_memory_bytes),
        folder.display()
    ))
}
