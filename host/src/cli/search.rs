//! `hanas search`: a net for a device under a latency budget.

use std::path::PathBuf;

use anyhow::Context as _;
use hanas_models::resnet::ConvNet;
use hanas_proto::{Bytes, Nanos};
use serde::Serialize;

use super::context::{Global, TaskArg, query};
use super::device_timer::{DeviceTimer, base_of, fits};
use super::nets::measure;
use super::output::{Format, json, text};
use super::pace::Pace;
use super::search_args::SearchArgs;
use super::watch::Watch;
use super::{Interrupted, interrupt, space};
use crate::latency::net_model::{ModelKind, NetCost, NetModel};
use crate::profile::sampling::Sampling;
use crate::search::SearchError;
use crate::search::choices::Choices;
use crate::search::config::{CostKind, Gate, SearchConfig};
use crate::search::latency_model::LatencyModel;
use crate::search::progress::peak_memory_bytes;
use crate::search::run::{NetRecord, RunDir, RunRecord, SCHEMA_VERSION};
use crate::search::strategies::{Files, Found, Request, search};
use crate::search::timer::NetTimer;
use crate::store::{ModelSamples, SampleQuery, Store};
use crate::task::Task;

#[derive(Serialize)]
struct Outcome {
    run: PathBuf,
    net: NetRecord,
    base: NetRecord,
    budget_ns: Option<f64>,
    peak_memory_bytes: u64,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &SearchArgs) -> anyhow::Result<()> {
    let TaskArg { task, batch } = &args.task;
    let mut store = global.existing_store()?;
    let mut session = global.connect(&args.device)?;
    let device = store.device_id(session.facts())?;
    let query = query(device, task, *batch);
    let samples = store.samples(&query)?;
    if samples.is_empty() {
        let name = &task.name;
        anyhow::bail!(
            "this device has no profile of {name} with batch {batch}; run `hanas profile --task {name} --batch {batch}` first"
        );
    }
    let clock = session.facts().clock_resolution_ns;
    let (cost, model) = latency_model(args, task, &store, &query, &samples, clock)?;
    let measured = match args.needs_space() {
        true => Some(space::load(&store, &query)?.value.widths()),
        false => None,
    };
    // Before anything is measured or written: images that do not fit are found at once.
    let (data, normalisation) = args.images.load(task)?;
    let base_net = task.family.base();
    // What the profile tells of the base net is the pace of all predictions: on a device that is slower
    // now, a budget would otherwise stand for another net.
    let mut pace = Pace::new(base_of(&samples, &base_net, clock)?.unwrap_or(f64::INFINITY));
    let base_ns = pace.undisturbed(|| {
        let now = measure(&mut session, &base_net, *batch, &Sampling::default())?.value_ns;
        Ok((now, now))
    })?;
    let mut base = NetRecord::new(&base_net)?;
    base.measured_ns = Some(base_ns);
    let config = args.config(cost, base_ns)?;
    let space = config.strategy.space(&task.family, measured.as_ref(), config.seed)?;
    let choices = Choices::new(&task.family, &space)?;
    let record = RunRecord {
        schema_version: SCHEMA_VERSION,
        task: task.clone(),
        device: args.device.device.clone(),
        batch: *batch,
        config: config.clone(),
        space,
        train_images: args.images.images,
    };
    let (dir, config) = open_run(&args.out, record)?;
    dir.save_base(&base)?;
    let request = Request {
        config: &config,
        choices: &choices,
        images: &data.train,
        normalisation: &normalisation,
        model: Some(&model),
    };
    let files = Files { checkpoint: dir.search_checkpoint(), log: dir.search_log() };
    let mut timer = DeviceTimer::new(&mut session, model.clone(), *batch, base_net.clone(), pace);
    let mut watch = Watch::new("search", global.quiet);
    let found = search(&request, &mut timer, Some(&files), &mut watch.monitor(interrupt::watch()));
    drop(watch);
    if let Err(SearchError::BudgetTooSmall { .. } | SearchError::BudgetTooLarge { .. }) = &found {
        // Another budget is what comes next, most likely into the same folder.
        dir.abandon();
    }
    let found = found.map_err(interrupted)?;
    let net = record_of(&found, &timer)?;
    dir.save_net(&net)?;
    let budget_ns = match config.gate {
        Gate::Latency { budget_ns } => Some(budget_ns),
        Gate::Flops { .. } => None,
    };
    let peak_memory_bytes = peak_memory_bytes();
    print(global, &Outcome { run: args.out.clone(), net, base, budget_ns, peak_memory_bytes })
}

/// The latency model that predicts and charges: the table of pairs where the cost is pairwise and there
/// is one, else the paper's curves. Without a table a cost that was asked for by name is an error, the
/// mode's default gives way with a note.
fn latency_model(
    args: &SearchArgs,
    task: &Task,
    store: &Store,
    query: &SampleQuery<'_>,
    samples: &[ModelSamples],
    clock_ns: u32,
) -> anyhow::Result<(CostKind, LatencyModel)> {
    let cost = args.cost();
    if cost != CostKind::Pairwise {
        return Ok((cost, fits(task, samples, clock_ns, 1.0)?.into()));
    }
    match pairs(task, store, query) {
        Ok(model) => Ok((cost, model)),
        Err(missing) if args.cost.is_some() => Err(missing),
        Err(missing) => {
            eprintln!("note: {missing:#}; this search predicts by the paper's curves (--cost paper-f)");
            Ok((CostKind::Latency, fits(task, samples, clock_ns, 1.0)?.into()))
        }
    }
}

/// The stored table of pairs, if it covers the task's layers.
fn pairs(task: &Task, store: &Store, query: &SampleQuery<'_>) -> anyhow::Result<LatencyModel> {
    let saved = store.load_fit::<NetModel>(query, ModelKind::Pairwise.stored_as())?.with_context(|| {
        format!(
            "there is no table of pairs of {}; `hanas profile --which pairs` and `hanas latency fit --model pairwise` make one",
            task.name
        )
    })?;
    let NetCost::Pairwise(tables) = saved.value.cost else {
        anyhow::bail!("the stored table of pairs is none; run `hanas latency fit --model pairwise` again");
    };
    let model = LatencyModel::Pairs(tables);
    let missing = model.unmeasured(&task.family);
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        anyhow::bail!(
            "the table of pairs lacks {}; run `hanas profile --which pairs` again",
            names.join(", ")
        );
    }
    Ok(model)
}

/// Opens the folder; a run that goes on keeps the budget and the space it began with, for measuring the
/// base net or the candidates again would give slightly others.
fn open_run(path: &std::path::Path, mut record: RunRecord) -> anyhow::Result<(RunDir, SearchConfig)> {
    if let Ok(old) = RunDir::open(path).and_then(|dir| dir.record())
        && let (Gate::Latency { budget_ns }, Gate::Latency { budget_ns: now }) =
            (old.config.gate, record.config.gate)
        && (now / budget_ns - 1.0).abs() < SAME_BUDGET
    {
        record.config.gate = old.config.gate;
    }
    let config = record.config.clone();
    Ok((RunDir::create(path, &record)?, config))
}

/// Two measurements of one base net differ by less than this share.
const SAME_BUDGET: f64 = 0.2;

fn record_of(found: &Found, timer: &DeviceTimer<'_>) -> anyhow::Result<NetRecord> {
    let net: &ConvNet = &found.net;
    let mut record = NetRecord::new(net)?;
    record.predicted_ns = timer.predict_ns(net).ok();
    record.measured_ns = found.measured_ns;
    record.repair_steps = found.repair_steps;
    Ok(record)
}

fn interrupted(error: SearchError) -> anyhow::Error {
    match error {
        SearchError::Interrupted => {
            Interrupted { kept: "the same command goes on from the last epoch".to_owned() }.into()
        }
        other => other.into(),
    }
}

fn print(global: &Global, outcome: &Outcome) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return json(outcome);
    }
    let show =
        |ns: Option<f64>| ns.map_or_else(|| "not measured".to_owned(), |ns| Nanos::from_f64(ns).to_string());
    let Outcome { run, net, base, budget_ns, peak_memory_bytes } = outcome;
    text(&format!(
        "{}\nmultiply-adds {:.2} M (base {:.2} M), parameters {:.3} M (base {:.3} M)\nmeasured {} (base {}, budget {})\npeak memory {}\nnext: hanas train {}\n",
        net.summary,
        net.macs as f64 / 1e6,
        base.macs as f64 / 1e6,
        net.params as f64 / 1e6,
        base.params as f64 / 1e6,
        show(net.measured_ns),
        show(base.measured_ns),
        show(*budget_ns),
        Bytes(*peak_memory_bytes),
        run.display()
    ))
}
