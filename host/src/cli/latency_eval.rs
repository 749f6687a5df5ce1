//! `hanas latency eval`: every fitted model of a task, held against nets that none of them was made of; see
//! `latency_eval_graph` for graph nets.

use clap::Args;
use serde::Serialize;

use super::Usage;
use super::context::{Global, query, stored_device};
use super::latency::{load, no_model};
#[cfg(feature = "torch")]
use super::latency_eval_graph::{self, GraphArgs};
use super::output::{Format, Table, json, text};
use crate::latency::agreement::Agreement;
use crate::latency::net_model::{Judgement, ModelKind, NetModel};
use crate::store::{DeviceId, Store};
use crate::task::Task;

/// Arguments of `hanas latency eval`.
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// Net family and data: cifar10-resnet20, shapes10-resnet20, cifar100-resnet56 ..., or a TOML file
    /// that describes your own
    #[arg(long, short, value_name = "TASK")]
    #[cfg_attr(feature = "torch", arg(required_unless_present = "run"))]
    #[cfg_attr(not(feature = "torch"), arg(required = true))]
    task: Option<Task>,
    /// Images a run
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// A board's name or row number, as the store has it [default: all]
    #[arg(long, short)]
    device: Option<String>,
    #[cfg(feature = "torch")]
    #[command(flatten)]
    graph: GraphArgs,
    /// Show every net with its measured and predicted latencies
    #[arg(long)]
    per_net: bool,
}

#[derive(Serialize)]
struct Evaluations {
    devices: Vec<OnDevice>,
}

/// A device's models, judged by the same nets.
#[derive(Serialize)]
struct OnDevice {
    device: String,
    threads: u16,
    runtime: String,
    models: Vec<Judged>,
    nets: Vec<Compared>,
}

#[derive(Serialize)]
struct Judged {
    model: ModelKind,
    #[serde(flatten)]
    judgement: Judgement,
}

#[derive(Serialize)]
struct Compared {
    net: String,
    measured_ns: f64,
    predicted_ns: Vec<f64>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &EvalArgs) -> anyhow::Result<()> {
    #[cfg(feature = "torch")]
    if let Some(folder) = &args.graph.run {
        return latency_eval_graph::run(global, folder, &args.graph, args.per_net);
    }
    let batch = args.batch;
    let task = args.task.as_ref().ok_or_else(|| Usage("name the nets' family with --task".to_owned()))?;
    let store = global.existing_store()?;
    let (mut devices, mut seen) = (Vec::new(), Vec::new());
    let mut held_none = false;
    for device in asked_for(&store, args, task)? {
        let query = query(device, task, batch);
        let mut fits = Vec::new();
        for kind in ModelKind::ALL {
            fits.extend(load(&store, &query, kind)?.map(|saved| (kind, saved)));
        }
        // Rows of one device setting share their fits.
        let ids: Vec<i64> = fits.iter().map(|(_, saved)| saved.id).collect();
        if ids.is_empty() || seen.contains(&ids) {
            continue;
        }
        seen.push(ids);
        let fits: Vec<(ModelKind, NetModel)> =
            fits.into_iter().map(|(kind, saved)| (kind, saved.value)).collect();
        match judged(&store, device, task, batch, &fits)? {
            Some(found) => devices.push(found),
            None => held_none = true,
        }
    }
    if devices.is_empty() {
        if held_none {
            let name = &task.name;
            anyhow::bail!(
                "no net was measured that the models were not made of; run `hanas profile --which nets --task {name} --batch {batch} --device ...` first"
            );
        }
        return Err(no_model(task, batch));
    }
    print(global, args, &Evaluations { devices })
}

/// The device that was named, else all that were profiled for the task.
fn asked_for(store: &Store, args: &EvalArgs, task: &Task) -> anyhow::Result<Vec<DeviceId>> {
    let first = stored_device(store, args.device.as_deref(), &task.name, args.batch)?;
    let mut devices = vec![first];
    if args.device.is_none() {
        for session in store.sessions()? {
            let is_asked_for = session.task == task.name && session.batch == args.batch;
            if is_asked_for && !devices.contains(&session.device) {
                devices.push(session.device);
            }
        }
    }
    Ok(devices)
}

/// None where no net was held out.
fn judged(
    store: &Store,
    device: DeviceId,
    task: &Task,
    batch: u32,
    fits: &[(ModelKind, NetModel)],
) -> anyhow::Result<Option<OnDevice>> {
    let samples = store.samples(&query(device, task, batch))?;
    let mut models = Vec::new();
    for (kind, model) in fits {
        let nets = model.held_out(&task.family, &samples)?;
        models.extend(model.judge(&nets)?.map(|judgement| Judged { model: *kind, judgement }));
    }
    let (Some((_, first)), false) = (fits.first(), models.is_empty()) else { return Ok(None) };
    let mut nets = Vec::new();
    for (net, measured_ns) in first.held_out(&task.family, &samples)? {
        let predicted: Result<Vec<f64>, _> = fits.iter().map(|(_, model)| model.predict_ns(&net)).collect();
        nets.push(Compared { net: net.summary(), measured_ns, predicted_ns: predicted? });
    }
    let row = store.device(device)?;
    let (name, threads, runtime) =
        row.map_or_else(Default::default, |row| (row.name, row.threads, row.runtime));
    Ok(Some(OnDevice { device: name, threads, runtime, models, nets }))
}

fn print(global: &Global, args: &EvalArgs, found: &Evaluations) -> anyhow::Result<()> {
    let table = if args.per_net { by_net(found) } else { by_model(found) };
    match global.format {
        Format::Json => json(found),
        Format::Csv => text(&table.to_csv()),
        Format::Text => text(&table.to_text()),
    }
}

/// Names of [`figures`].
pub(super) const FIGURES: [&str; 8] =
    ["nets", "within 5%", "within 10%", "mean error %", "bias %", "worst %", "spearman", "kendall"];

/// An agreement as cells of a table.
pub(super) fn figures(of: &Agreement) -> [String; 8] {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let order = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
    [
        of.nets.to_string(),
        percent(of.within_5pct),
        percent(of.within_10pct),
        percent(of.mape),
        signed(of.bias),
        percent(of.worst),
        order(of.spearman_rho),
        order(of.kendall_tau),
    ]
}

fn signed(share: f64) -> String {
    format!("{:+.1}", 100.0 * share)
}

fn by_model(found: &Evaluations) -> Table {
    let columns = [&["device", "threads", "model"][..], &FIGURES, &["gap before %", "gap after %"]].concat();
    let mut table = Table::new(&columns);
    for device in &found.devices {
        for Judged { model, judgement } in &device.models {
            let names = vec![device.device.clone(), device.threads.to_string(), model.to_string()];
            let gaps = vec![signed(judgement.gap_before), signed(judgement.gap_after)];
            table.row([names, figures(&judgement.agreement).to_vec(), gaps].concat());
        }
    }
    table
}

/// Names of the cells of [`net_row`].
pub(super) const NET_COLUMNS: [&str; 6] =
    ["device", "net", "model", "measured us", "predicted us", "error %"];

/// A net's latency by a model as cells of a table.
pub(super) fn net_row(
    device: &str,
    net: &str,
    model: &str,
    measured_ns: f64,
    predicted_ns: f64,
) -> Vec<String> {
    vec![
        device.to_owned(),
        net.to_owned(),
        model.to_owned(),
        format!("{:.1}", measured_ns / 1e3),
        format!("{:.1}", predicted_ns / 1e3),
        signed(predicted_ns / measured_ns - 1.0),
    ]
}

fn by_net(found: &Evaluations) -> Table {
    let mut table = Table::new(&NET_COLUMNS);
    for device in &found.devices {
        for net in &device.nets {
            for (Judged { model, .. }, &predicted_ns) in device.models.iter().zip(&net.predicted_ns) {
                let model = model.to_string();
                table.row(net_row(&device.device, &net.net, &model, net.measured_ns, predicted_ns));
            }
        }
    }
    table
}
