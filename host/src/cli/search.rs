//! `hanas search`: a net for a device under a latency budget.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hanas_models::resnet::ConvNet;
use hanas_proto::Nanos;
use serde::Serialize;

use super::context::{DeviceArg, Global, TaskArg, query};
use super::device_timer::{DeviceTimer, fits};
use super::images::ImageArgs;
use super::nets::measure;
use super::output::{Format, json, text};
use super::watch::Watch;
use super::{Interrupted, interrupt, space};
use crate::profile::sampling::Sampling;
use crate::search::SearchError;
use crate::search::choices::Choices;
use crate::search::config::{CostKind, Gate, SearchConfig, Strategy, Temperature};
use crate::search::htas::search::{Files, Found, Request, search};
use crate::search::run::{NetRecord, RunDir, RunRecord, SCHEMA_VERSION};
use crate::search::timer::NetTimer;

/// What to search with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StrategyArg {
    /// Differentiable search in the measured space
    Htas,
    /// Differentiable search in TAS's unaligned grid (see --expand)
    Tas,
    /// Differentiable search in the aligned grid that needs no measuring
    Aligned,
    /// Random nets of the measured space
    Random,
    /// The base net made narrower all over
    Uniform,
}

/// What the budget limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum GateArg {
    /// Measured latency
    #[default]
    Latency,
    /// Multiply-adds (the paper's gate); the budget is a share of the base net's
    Flops,
}

/// A budget as given: a share of the base net's cost, or a latency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Budget {
    /// `0.5x`.
    Share(f64),
    /// `12ms`, `800us`, `1.5s`.
    Latency(f64),
}

impl std::str::FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value = |suffix: &str, scale: f64| {
            let number: f64 = text.strip_suffix(suffix)?.trim().parse().ok()?;
            (number.is_finite() && number > 0.0).then_some(number * scale)
        };
        value("x", 1.0)
            .map(Budget::Share)
            .or_else(|| value("ms", 1e6).map(Budget::Latency))
            .or_else(|| value("us", 1e3).map(Budget::Latency))
            .or_else(|| value("s", 1e9).map(Budget::Latency))
            .ok_or_else(|| {
                "write a latency such as 12ms or 800us, or a share of the base net's such as 0.5x".to_owned()
            })
    }
}

/// Arguments of `hanas search`.
#[derive(Debug, Args)]
pub(super) struct SearchArgs {
    /// What to search with
    #[arg(value_enum)]
    strategy: StrategyArg,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    task: TaskArg,
    #[command(flatten)]
    images: ImageArgs,
    /// Latency limit, 12ms, or share of the base net's cost, 0.5x
    #[arg(long)]
    budget: Budget,
    /// What the budget limits
    #[arg(long, value_enum, default_value_t)]
    gate: GateArg,
    /// Width of TAS's grid, in base widths
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=2))]
    expand: u32,
    /// Seed: the same gives the same net
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The paper's recipe (600 epochs, batch 256) instead of the scaled one (12, 128)
    #[arg(long)]
    paper: bool,
    /// Search epochs
    #[arg(long)]
    epochs: Option<u32>,
    /// Epochs before those that train weights only
    #[arg(long)]
    warmup_epochs: Option<u32>,
    /// Images of a training step
    #[arg(long)]
    train_batch: Option<usize>,
    /// Gumbel temperature falls in a line from 10 (TAS paper) instead of along a cosine from 5 (its code)
    #[arg(long)]
    linear_temperature: bool,
    /// The run's folder; the same folder and settings go on where a search was interrupted
    #[arg(long, short, value_name = "FOLDER")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Outcome {
    run: PathBuf,
    net: NetRecord,
    base: NetRecord,
    budget_ns: Option<f64>,
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
    let fits = fits(task, &samples, clock, 1.0)?;
    let measured = match args.strategy {
        StrategyArg::Htas | StrategyArg::Random => Some(space::load(&store, &query)?.value.widths()),
        _ => None,
    };
    let base_net = task.family.base();
    let base_time = measure(&mut session, &base_net, None, *batch, &Sampling::default())?.latency;
    let mut base = NetRecord::new(&base_net)?;
    base.measured_ns = Some(base_time.value_ns);
    let config = config(args, base_time.value_ns)?;
    let space = config.strategy.space(&task.family, measured.as_ref())?;
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
    let (data, normalisation) = args.images.load(task)?;
    let request = Request {
        config: &config,
        choices: &choices,
        images: &data.train,
        normalisation: &normalisation,
        fits: Some(&fits),
    };
    let files = Files { checkpoint: dir.search_checkpoint(), log: dir.search_log() };
    let mut timer = DeviceTimer::new(&mut session, fits.clone(), *batch);
    let mut watch = Watch::new("search", global.quiet);
    let found = search(&request, &mut timer, Some(&files), &mut watch.monitor(interrupt::watch()));
    drop(watch);
    let found = found.map_err(interrupted)?;
    let net = record_of(&found, &timer)?;
    dir.save_net(&net)?;
    let budget_ns = match config.gate {
        Gate::Latency { budget_ns } => Some(budget_ns),
        Gate::Flops { .. } => None,
    };
    print(global, &Outcome { run: args.out.clone(), net, base, budget_ns })
}

fn config(args: &SearchArgs, base_ns: f64) -> anyhow::Result<SearchConfig> {
    let strategy = match args.strategy {
        StrategyArg::Htas => Strategy::Htas,
        StrategyArg::Tas => Strategy::Tas { expand: args.expand },
        StrategyArg::Aligned => Strategy::Aligned,
        StrategyArg::Random => Strategy::Random,
        StrategyArg::Uniform => Strategy::Uniform,
    };
    let gate = match (args.gate, args.budget) {
        (GateArg::Latency, Budget::Share(share)) => Gate::Latency { budget_ns: share * base_ns },
        (GateArg::Latency, Budget::Latency(budget_ns)) => Gate::Latency { budget_ns },
        (GateArg::Flops, Budget::Share(ratio)) => Gate::Flops { ratio },
        (GateArg::Flops, Budget::Latency(_)) => {
            return Err(super::Usage(
                "--gate flops takes a share of the base net such as --budget 0.5x".to_owned(),
            )
            .into());
        }
    };
    let mut config = if args.paper {
        SearchConfig::paper(strategy, gate, args.seed)
    } else {
        SearchConfig::scaled(strategy, gate, args.seed)
    };
    // The cost that steers: the paper's TAS counts multiply-adds, whatever the gate.
    config.cost = match args.gate {
        GateArg::Latency => CostKind::Latency,
        GateArg::Flops if args.strategy == StrategyArg::Tas => CostKind::Flops,
        GateArg::Flops => CostKind::Latency,
    };
    config.epochs = args.epochs.unwrap_or(config.epochs);
    config.warmup_epochs = args.warmup_epochs.unwrap_or(config.warmup_epochs);
    config.batch = args.train_batch.unwrap_or(config.batch);
    if args.linear_temperature {
        config.temperature = Temperature::LINEAR;
    }
    config.check()?;
    Ok(config)
}

/// Opens the folder; a run that goes on keeps the budget and the space it began with, for measuring the
/// base net or the candidates again would give slightly others.
fn open_run(path: &std::path::Path, mut record: RunRecord) -> anyhow::Result<(RunDir, SearchConfig)> {
    if let Ok(dir) = RunDir::open(path) {
        let old = dir.record()?;
        if let (Gate::Latency { budget_ns }, Gate::Latency { budget_ns: now }) =
            (old.config.gate, record.config.gate)
            && (now / budget_ns - 1.0).abs() < SAME_BUDGET
        {
            record.config.gate = old.config.gate;
        }
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
    let Outcome { run, net, base, budget_ns } = outcome;
    text(&format!(
        "{}\nmultiply-adds {:.2} M (base {:.2} M), parameters {:.3} M (base {:.3} M)\nmeasured {} (base {}, budget {})\nnext: hanas train {}\n",
        net.summary,
        net.macs as f64 / 1e6,
        base.macs as f64 / 1e6,
        net.params as f64 / 1e6,
        base.params as f64 / 1e6,
        show(net.measured_ns),
        show(base.measured_ns),
        show(*budget_ns),
        run.display()
    ))
}
