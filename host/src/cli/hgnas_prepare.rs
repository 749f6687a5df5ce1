//! What a search over graph nets stands on: a space, random nets that were measured, a reward, a latency
//! predictor, and a folder of its own.

use hanas_models::gnn::layout::{Layout, Widths};
use hanas_models::gnn::{GnnNet, Reading};

use super::Usage;
use super::context::Global;
use super::graph::saved_space;
use super::hgnas_args::{HgnasArgs, Limit, RewardArg, SpaceArg};
use super::hgnas_latencies::{Measured, measured, t_nets};
use super::hgnas_timer::GnnTimer;
use super::space::Mode;
use super::turns::{Turn, Turns};
use crate::data::graph::{GraphData, load};
use crate::data::stream::{Purpose, stream};
use crate::latency::graph::GraphShape;
use crate::link::Session;
use crate::profile::graph_candidates::GraphSubject;
use crate::search::SearchError;
use crate::search::hgnas::explore::Settings;
use crate::search::hgnas::predictor::{Gate, Predictor, PredictorConfig, Target};
use crate::search::hgnas::record::{GnnRunRecord, METHOD};
use crate::search::hgnas::reward::{OMEGA, Objective, Reward, quantile};
use crate::search::hgnas::space::{GnnSpace, Sizes};
use crate::search::meter::Amount;
use crate::search::run::{Kind, RunDir, RunError, SCHEMA_VERSION};
use crate::train::child::ChildConfig;

/// The run's latency predictor.
const PREDICTOR: &str = "predictor.safetensors";
/// Random nets whose predicted latencies tell whether a limit can be met.
const LIMIT_NETS: usize = 2_000;
/// Random nets at which no more are measured for a predictor that misses its gate (ALGORITHM 2.5).
const MOST_NETS: u32 = 600;

/// What a search stands on.
pub(super) struct Ground {
    /// The run's folder.
    pub(super) dir: RunDir,
    /// What is asked for.
    pub(super) record: GnnRunRecord,
    /// How its children are trained.
    pub(super) child: ChildConfig,
    /// Its graph, as it is measured.
    pub(super) subject: GraphSubject,
    /// The random nets.
    pub(super) measured: Measured,
    /// What is made of them.
    pub(super) predictor: Predictor,
    /// Nobody else searches in that folder meanwhile.
    _alone: Turn,
}

/// Measures random nets, or finds them measured, and makes of them what the search needs; begins the run, or
/// finds it begun.
pub(super) fn prepare(
    global: &Global,
    args: &HgnasArgs,
    data: &GraphData,
    turns: &Turns,
) -> anyhow::Result<Ground> {
    let (child, finals) = (args.child(), args.finals()?);
    child.check().map_err(Usage)?;
    let subject = GraphSubject::new(args.task.data.name(), &data.graph, &data.features, data.classes);
    // That of the run in this folder, whatever was built since: it goes on in its own.
    let (begun, limit) = match begun(args)? {
        Some(old) => (Some(old.space), old.limit),
        None => (None, args.limit.map(|limit| limit.to_string())),
    };
    let (space, alone) = {
        let _turn = turns.measure()?;
        let space = match begun {
            Some(space) => space,
            None => space(global, args, data, &global.connect(&args.device)?)?,
        };
        std::fs::create_dir_all(&args.out)?;
        (space, Turns::alone(&args.out)?)
    };
    let (measured, predictor) = predicted(global, args, data, &subject, &space, turns)?;
    let (reward, limit_ns) = reward(args, &measured)?;
    // In paper mode nets within the limit are found by measuring.
    if let (Some(limit_ns), false) = (limit_ns, args.paper) {
        reachable(&space, limit_ns, &predictor, args.seed)?;
    }
    let record = GnnRunRecord {
        schema_version: SCHEMA_VERSION,
        method: METHOD.to_owned(),
        task: args.task.name.clone(),
        device: args.device.device.clone(),
        space,
        strategy: args.strategy(),
        settings: Settings { samples: args.samples(), seed: args.seed, reward },
        child: serde_json::to_string(&child)?,
        finals,
        limit,
        drawn_limit_ns: limit_ns.filter(|_| args.paper),
    };
    let dir = RunDir::create(&args.out, &record)?;
    predictor.save(&dir.file(PREDICTOR))?;
    Ok(Ground { dir, record, child, subject, measured, predictor, _alone: alone })
}

/// The record of a run that is a search as asked for, but for its device and the space that was measured there.
/// T and the latency of a limit's quantile are not looked at: they take measuring.
pub(super) fn is_of(args: &HgnasArgs, dir: &RunDir) -> anyhow::Result<GnnRunRecord> {
    let occupied = || RunError::Occupied { path: dir.path().to_owned() };
    if dir.kind()? != Kind::Graph {
        return Err(occupied().into());
    }
    let old = GnnRunRecord::load(dir)?;
    let Settings { samples, seed, reward } = old.settings;
    let same_reward =
        matches!(reward.objective, Objective::Latency { .. }) == (args.reward == RewardArg::Latency);
    let same_limit = match (args.limit, &old.limit) {
        (Some(limit), Some(old)) => limit.to_string() == *old,
        (None, None) => old.limit_ns().is_none(),
        // Of a run from before the limit was kept as it was given.
        (Some(Limit::Nanos(ns)), None) => old.limit_ns() == Some(ns),
        (Some(Limit::Quantile(_)), None) => old.limit_ns().is_some(),
        (None, Some(_)) => false,
    };
    let same_space = matches!(old.space.sizes, Sizes::Grid) == (args.space == SpaceArg::Graphnas);
    let same = (old.task == args.task.name && old.strategy == args.strategy())
        && (samples, seed) == (args.samples(), args.seed)
        && (old.child == serde_json::to_string(&args.child())? && old.finals == args.finals()?);
    if same && same_space && same_reward && same_limit { Ok(old) } else { Err(occupied().into()) }
}

/// The run that was begun in the folder; another than this one is refused, before anything is measured for it.
/// Whether T and a limit's latency are the run's is seen when they are known.
fn begun(args: &HgnasArgs) -> anyhow::Result<Option<GnnRunRecord>> {
    let path = &args.out;
    if !path.join("run.json").exists() {
        return Ok(None);
    }
    let old = is_of(args, &RunDir::open(path)?)?;
    let same = old.device == args.device.device;
    if same { Ok(Some(old)) } else { Err(RunError::Occupied { path: path.clone() }.into()) }
}

/// The space of a search that can begin: its graph is there, the device answers, and its space is built.
pub(super) fn ready(global: &Global, args: &HgnasArgs) -> anyhow::Result<GnnSpace> {
    let data = load(&args.task.data, &args.data)?;
    space(global, args, &data, &global.connect(&args.device)?)
}

/// The space; HGNAS's pairs are those of the last space built in the search's mode.
fn space(global: &Global, args: &HgnasArgs, data: &GraphData, session: &Session) -> anyhow::Result<GnnSpace> {
    let (features, classes) = (data.features.width(), data.classes);
    if args.space == SpaceArg::Graphnas {
        return Ok(GnnSpace::graphnas(features, classes));
    }
    let mut store = global.existing_store()?;
    let device = store.device_id(session.facts())?;
    let mode = if args.paper { Mode::Paper } else { Mode::Project };
    let saved = saved_space(&store, device, &args.task.name, Some(mode))?;
    let pairs = saved.value.choices().iter().map(|&[heads, dim]| (heads, dim)).collect();
    Ok(GnnSpace::hgnas(features, classes, pairs, !args.paper)?)
}

/// Random nets by turns of GraphNAS's space, whose latencies T and quantiles are of, and of the space.
fn nets_to_measure(args: &HgnasArgs, data: &GraphData, space: &GnnSpace, count: u32) -> Vec<GnnNet> {
    let grid = GnnSpace::graphnas(data.features.width(), data.classes);
    // Streams of their own: whatever the space, T and the limit's quantile are of the same nets.
    let [mut grids, mut others] = [2, 3].map(|which| stream(args.seed, Purpose::RandomNets, 0, which));
    let draw = |place: u32| {
        let (from, rng) = if place.is_multiple_of(2) { (&grid, &mut grids) } else { (space, &mut others) };
        from.net(&from.tokens().random(rng))
    };
    (0..count).filter_map(draw).collect()
}

/// The reward, and the limit of what comes out, ns, which in paper mode is none of the reward's. T and quantiles are
/// of GraphNAS's nets at even places; a net that the device cannot run is slower than any other.
fn reward(args: &HgnasArgs, measured: &Measured) -> anyhow::Result<(Reward, Option<f64>)> {
    let grid: Vec<f64> =
        t_nets(&measured.nets, args.latency_nets()).map(|of| of.1.unwrap_or(f64::INFINITY)).collect();
    let of = |share| {
        let ns = quantile(&grid, share).filter(|ns| ns.is_finite());
        ns.ok_or_else(|| {
            anyhow::anyhow!(
                "the device cannot run that many of {} random nets; give a limit in ms",
                grid.len()
            )
        })
    };
    let limit_ns = match args.limit {
        None => None,
        Some(Limit::Nanos(ns)) => Some(ns),
        Some(Limit::Quantile(share)) => Some(of(share)?),
    };
    let objective = match args.reward {
        RewardArg::Accuracy => Objective::Accuracy,
        RewardArg::Latency => Objective::Latency { reference_ns: of(0.5)?, omega: OMEGA },
    };
    Ok((Reward { objective, limit_ns: limit_ns.filter(|_| !args.paper) }, limit_ns))
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

/// Random nets as they were measured, and the latency predictor that is made of them: of more of them where it
/// misses its gate. A search in which it decides nothing, or that may go on without, measures no more.
fn predicted(
    global: &Global,
    args: &HgnasArgs,
    data: &GraphData,
    subject: &GraphSubject,
    space: &GnnSpace,
    turns: &Turns,
) -> anyhow::Result<(Measured, Predictor)> {
    let reading = args.child().reading;
    let decides = args.reward == RewardArg::Latency || (args.limit.is_some() && !args.paper);
    let mut count = args.latency_nets();
    loop {
        let measured = {
            let _turn = turns.measure()?;
            let mut session = global.connect(&args.device)?;
            let nets = nets_to_measure(args, data, space, count);
            measured(global, args, data, &nets, &mut GnnTimer::new(&mut session, subject, reading))?
        };
        let _turn = turns.train()?;
        // Before there is a run: whoever has to quieten the device for its gate gives the same folder.
        let (predictor, begun) = predictor(global, args, data, &measured.known(), reading)?;
        if !decides || args.allow_noisy || Gate::NOISY.passes(predictor.test()) {
            return Ok((measured, predictor));
        }
        if begun {
            anyhow::bail!("this search was begun with --allow-noisy; it goes on with that");
        }
        if count >= MOST_NETS {
            anyhow::bail!(
                "of {count} random nets, too, the latency predictor misses its gate (15%, tau .85); quieten the device and delete {}, or go on with --allow-noisy",
                args.latencies.clone().unwrap_or_else(|| args.out.join("latencies.jsonl")).display()
            );
        }
        let more = (count + count.div_ceil(2)).min(MOST_NETS);
        eprintln!(
            "the predictor misses its gate (15%, tau .85): {} more random nets are measured",
            more - count
        );
        count = more;
    }
}

/// The run's latency predictor, trained where there is none yet, and whether there was one.
fn predictor(
    global: &Global,
    args: &HgnasArgs,
    data: &GraphData,
    measured: &[(GnnNet, f64)],
    reading: Reading,
) -> anyhow::Result<(Predictor, bool)> {
    let (found, begun) = match Predictor::load(&args.out.join(PREDICTOR))? {
        Some(found) => (found, true),
        None => {
            let layout = Layout::new(&data.graph, Widths::Rounded);
            let graph = GraphShape { nodes: data.nodes(), edges: layout.messages() as u32 };
            let target = if args.paper { Target::Latency } else { Target::Residual { graph, reading } };
            (Predictor::train(measured, target, PredictorConfig::default(), args.seed)?, false)
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
    Ok((found, begun))
}
