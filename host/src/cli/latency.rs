//! `hanas latency`: models of a net's latency from the store, how far they are off, and what they predict.

use std::path::Path;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use hanas_models::resnet::ConvNet;
use hanas_proto::Nanos;
use serde::Serialize;

use super::context::{Global, TaskArg, TrustArg, query, stored_device};
use super::output::{Format, Table, json, text};
use super::space::statistic;
use super::{latency_adapt, latency_eval, latency_table, runs};
use crate::latency::calibration::LayerSum;
use crate::latency::net_model::{ModelKind, NetModel, Reading};
use crate::latency::{LatencyError, Statistic};
use crate::search::run::NetRecord;
use crate::store::{SampleQuery, Saved, Store};
use crate::task::Task;

/// Subcommands of `hanas latency`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Fit latency models to the stored samples and keep them
    Fit(FitArgs),
    /// Hold the models against measured nets that they were not made of
    Eval(latency_eval::EvalArgs),
    /// Predict the latency of nets, with the error that eval finds
    Predict(PredictArgs),
    /// A new device's latencies from a few measurements and other devices' profiles
    Adapt(latency_adapt::AdaptArgs),
    /// How well that predicts each device of a table (CSV) from the others
    TransferTable(latency_table::TableArgs),
}

/// Arguments of `hanas latency fit`.
#[derive(Debug, Args)]
pub(super) struct FitArgs {
    #[command(flatten)]
    pub(super) from: FromArgs,
    /// Which model [default: each that the samples allow]
    #[arg(long, value_enum)]
    model: Option<ModelKind>,
    /// What of the samples is the latency: min, median or a quantile such as q05
    #[arg(long, value_parser = statistic, default_value = "q05")]
    estimator: Statistic,
    /// Exponent of the paper's curves f(x) = k x^alpha + b
    #[arg(long, default_value_t = 1.0)]
    alpha: f64,
    #[command(flatten)]
    trust: TrustArg,
}

/// Whose samples.
#[derive(Debug, Clone, Args)]
pub(super) struct FromArgs {
    #[command(flatten)]
    pub(super) task: TaskArg,
    /// A board's name or row number, as the store has it [default: the last profiled]
    #[arg(long, short)]
    pub(super) device: Option<String>,
}

/// Arguments of `hanas latency predict`.
#[derive(Debug, Args)]
pub(super) struct PredictArgs {
    #[command(flatten)]
    from: FromArgs,
    /// Which model [default: pairwise if there is one]
    #[arg(long, value_enum)]
    model: Option<ModelKind>,
    /// Show every layer
    #[arg(long)]
    per_layer: bool,
    /// Run folders, net.json files, or nets in one line such as '16 | 16-16 | 32-32 | 64-64'
    #[arg(required = true, value_name = "RUN-or-NET")]
    nets: Vec<String>,
}

/// Runs the command.
pub(super) fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Fit(args) => fit(global, &args),
        Command::Eval(args) => latency_eval::run(global, &args),
        Command::Predict(args) => predict(global, &args),
        Command::Adapt(args) => latency_adapt::run(global, &args),
        Command::TransferTable(args) => latency_table::run(global, &args),
    }
}

#[derive(Serialize)]
struct Fits {
    device: String,
    fits: Vec<Fit>,
}

#[derive(Serialize)]
struct Fit {
    model: ModelKind,
    estimator: String,
    layers: usize,
    calibration_nets: usize,
    measured_over_summed: Option<f64>,
    range: Option<(f64, f64)>,
}

fn fit(global: &Global, args: &FitArgs) -> anyhow::Result<()> {
    let TaskArg { task, batch } = &args.from.task;
    let mut store = global.existing_store()?;
    let device = stored_device(&store, args.from.device.as_deref(), &task.name, *batch)?;
    let (query, samples) = args.trust.samples(&store, query(device, task, *batch))?;
    let row = store.device(device)?.context("the device's row is gone")?;
    let reading = Reading { statistic: args.estimator, clock_resolution_ns: row.clock_resolution_ns };
    let (mut fits, mut refused) = (Vec::new(), None);
    for kind in args.model.map_or(ModelKind::ALL.to_vec(), |kind| vec![kind]) {
        match NetModel::fit(kind, &task.family, &samples, reading, args.alpha) {
            Ok(model) => {
                store.save_fit(&query, kind.stored_as(), &model)?;
                fits.push(Fit {
                    model: kind,
                    estimator: args.estimator.to_string(),
                    layers: model.layers,
                    calibration_nets: model.calibrated_on.len(),
                    measured_over_summed: model.calibration.map(|calibration| calibration.ratio),
                    range: model.calibration.map(|calibration| calibration.range),
                });
            }
            Err(error) => {
                let why = not_fitted(kind, task, *batch, error);
                if args.model.is_none() {
                    eprintln!("note: no {kind} model: {why:#}");
                }
                refused = Some(why);
            }
        }
    }
    match refused {
        Some(why) if fits.is_empty() => Err(why),
        _ => print_fits(global, &Fits { device: row.name, fits }),
    }
}

/// What keeps a model from being made, and the command that mends it.
fn not_fitted(kind: ModelKind, task: &Task, batch: u32, error: LatencyError) -> anyhow::Error {
    let which = match kind {
        ModelKind::Paper => "all",
        ModelKind::Pairwise => "pairs",
    };
    let name = &task.name;
    anyhow::anyhow!(
        "{error}; run `hanas profile --which {which} --task {name} --batch {batch} --device ...` first"
    )
}

fn print_fits(global: &Global, done: &Fits) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        "model",
        "estimator",
        "layers",
        "calibration nets",
        "net over sum",
        "lowest",
        "highest",
    ]);
    for fit in &done.fits {
        let ratio = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
        table.row(vec![
            fit.model.to_string(),
            fit.estimator.clone(),
            fit.layers.to_string(),
            fit.calibration_nets.to_string(),
            ratio(fit.measured_over_summed),
            ratio(fit.range.map(|range| range.0)),
            ratio(fit.range.map(|range| range.1)),
        ]);
    }
    match global.format {
        Format::Json => json(done),
        Format::Csv => text(&table.to_csv()),
        Format::Text => text(&format!("{}\n{}", done.device, table.to_text())),
    }
}

/// The last fit of a kind; none where there is none, with a note on stderr where newer sessions are not
/// in it.
pub(super) fn load(
    store: &Store,
    query: &SampleQuery<'_>,
    kind: ModelKind,
) -> anyhow::Result<Option<Saved<NetModel>>> {
    let saved = store.load_fit::<NetModel>(query, kind.stored_as())?;
    // Nets measured later change no fit; layers do, and the store does not tell which those are.
    if let Some(newer) = saved.as_ref().map(|saved| saved.newer.len()).filter(|&newer| newer > 0) {
        eprintln!("note: {newer} newer session(s) are not in the {kind} model");
    }
    Ok(saved)
}

/// Where no model of a task is in the store.
pub(super) fn no_model(task: &Task, batch: u32) -> anyhow::Error {
    let name = &task.name;
    anyhow::anyhow!(
        "no latency model of {name} yet; run `hanas latency fit --task {name} --batch {batch}` first"
    )
}

#[derive(Serialize)]
struct Predictions {
    device: String,
    model: ModelKind,
    /// Nine in ten held-out nets are predicted within this share of their latency.
    nine_in_ten_within: Option<f64>,
    held_out_nets: usize,
    nets: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    net: String,
    predicted_ns: f64,
    layers: Vec<LayerLatency>,
}

#[derive(Serialize)]
struct LayerLatency {
    role: String,
    layer: String,
    ns: f64,
}

fn predict(global: &Global, args: &PredictArgs) -> anyhow::Result<()> {
    let TaskArg { task, batch } = &args.from.task;
    let store = global.existing_store()?;
    let device = stored_device(&store, args.from.device.as_deref(), &task.name, *batch)?;
    let query = query(device, task, *batch);
    let mut kinds = args.model.map_or(vec![ModelKind::Pairwise, ModelKind::Paper], |kind| vec![kind]);
    let found = loop {
        let Some(kind) = (!kinds.is_empty()).then(|| kinds.remove(0)) else { break None };
        if let Some(saved) = load(&store, &query, kind)? {
            break Some((kind, saved.value));
        }
    };
    let (kind, model) = found.ok_or_else(|| no_model(task, *batch))?;
    let judged = model.judge(&model.held_out(&task.family, &store.samples(&query)?)?)?;
    let mut nets = Vec::new();
    for name in &args.nets {
        nets.push(prediction(&model, &net(name, task)?)?);
    }
    let done = Predictions {
        device: store.device(device)?.map_or_else(String::new, |row| row.name),
        model: kind,
        nine_in_ten_within: judged.map(|judged| judged.agreement.nine_in_ten),
        held_out_nets: judged.map_or(0, |judged| judged.agreement.nets),
        nets,
    };
    print_predictions(global, args, &done)
}

/// The net that a run found, that a file holds, or that a line describes.
fn net(name: &str, task: &Task) -> anyhow::Result<ConvNet> {
    let path = Path::new(name);
    let net = if path.is_dir() {
        runs::open(path)?.net().with_context(|| format!("{name} has found no net yet"))?.net
    } else if path.is_file() {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let whole = serde_json::from_str::<NetRecord>(&text).map(|record| record.net);
        whole.or_else(|_| serde_json::from_str::<ConvNet>(&text)).with_context(|| {
            format!("{name} holds no net; give a net.json as searches write it, or a run's folder")
        })?
    } else if name.contains('|') {
        task.family.parse(name)?
    } else {
        anyhow::bail!(
            "{name} is no run's folder, no file and no net in one line such as '{}'",
            task.family.base().summary()
        );
    };
    let (of, wanted) = (&net.family.name, &task.family.name);
    anyhow::ensure!(
        net.family == task.family,
        "{name} is a {of} for other data or depth than {wanted}; give its own --task"
    );
    Ok(net)
}

fn prediction(model: &NetModel, net: &ConvNet) -> anyhow::Result<Prediction> {
    let layers: Vec<LayerLatency> = model
        .by_layer(net)?
        .into_iter()
        .map(|(of, layer, ns)| LayerLatency {
            role: of.to_string(),
            layer: layer.to_string(),
            ns: model.ratio() * ns,
        })
        .collect();
    Ok(Prediction { net: net.summary(), predicted_ns: layers.iter().map(|layer| layer.ns).sum(), layers })
}

fn print_predictions(global: &Global, args: &PredictArgs, done: &Predictions) -> anyhow::Result<()> {
    let us = |ns: f64| format!("{:.1}", ns / 1e3);
    let mut table = Table::new(&["net", "predicted us"]);
    let mut by_layer = Table::new(&["net", "role", "layer", "us"]);
    for net in &done.nets {
        table.row(vec![net.net.clone(), us(net.predicted_ns)]);
        for layer in &net.layers {
            by_layer.row(vec![net.net.clone(), layer.role.clone(), layer.layer.clone(), us(layer.ns)]);
        }
    }
    match global.format {
        Format::Json => json(done),
        Format::Csv if args.per_layer => text(&by_layer.to_csv()),
        Format::Csv => text(&table.to_csv()),
        Format::Text => text(&page(args, done)),
    }
}

fn page(args: &PredictArgs, done: &Predictions) -> String {
    let mut page = String::new();
    for net in &done.nets {
        let error = match done.nine_in_ten_within {
            Some(share) => {
                format!("+- {:.1}% (nine in ten of {} held-out nets)", 100.0 * share, done.held_out_nets)
            }
            None => "(error unknown: measure held-out nets with `hanas profile --which nets`)".to_owned(),
        };
        page.push_str(&format!("{}\n  {} {error}\n", net.net, Nanos::from_f64(net.predicted_ns)));
        if args.per_layer {
            let mut table = Table::new(&["role", "layer", "us", "share %"]);
            for layer in &net.layers {
                let share = 100.0 * layer.ns / net.predicted_ns;
                let cells = [format!("{:.1}", layer.ns / 1e3), format!("{share:.1}")];
                table.row([vec![layer.role.clone(), layer.layer.clone()], cells.to_vec()].concat());
            }
            page.push_str(&table.to_text());
        }
    }
    page
}
