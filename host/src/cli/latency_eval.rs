//! `hanas latency eval`: every fitted model of a task, held against nets that none of them was made of.

use clap::Args;
use serde::Serialize;

use super::context::{Global, TaskArg, query, stored_device};
use super::latency::{FromArgs, load, no_model};
use super::output::{Format, Table, json, text};
use crate::latency::net_model::{Judgement, ModelKind, NetModel};
use crate::store::{DeviceId, Store};
use crate::task::Task;

/// Arguments of `hanas latency eval`.
#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    from: FromArgs,
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
    let TaskArg { task, batch } = &args.from.task;
    let store = global.existing_store()?;
    let (mut devices, mut seen) = (Vec::new(), Vec::new());
    let mut held_none = false;
    for device in asked_for(&store, args)? {
        let query = query(device, task, *batch);
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
        match judged(&store, device, task, *batch, &fits)? {
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
        return Err(no_model(task, *batch));
    }
    print(global, args, &Evaluations { devices })
}

/// The device that was named, else all that were profiled for the task.
fn asked_for(store: &Store, args: &EvalArgs) -> anyhow::Result<Vec<DeviceId>> {
    let TaskArg { task, batch } = &args.from.task;
    let first = stored_device(store, args.from.device.as_deref(), &task.name, *batch)?;
    let mut devices = vec![first];
    if args.from.device.is_none() {
        for session in store.sessions()? {
            if session.task == task.name && session.batch == *batch && !devices.contains(&session.device) {
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

fn by_model(found: &Evaluations) -> Table {
    let mut table = Table::new(&[
        "device",
        "threads",
        "model",
        "nets",
        "within 5%",
        "within 10%",
        "mean error %",
        "bias %",
        "worst %",
        "spearman",
        "kendall",
        "gap before %",
        "gap after %",
    ]);
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let signed = |share: f64| format!("{:+.1}", 100.0 * share);
    let order = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
    for device in &found.devices {
        for Judged { model, judgement } in &device.models {
            let agreement = &judgement.agreement;
            table.row(vec![
                device.device.clone(),
                device.threads.to_string(),
                model.to_string(),
                agreement.nets.to_string(),
                percent(agreement.within_5pct),
                percent(agreement.within_10pct),
                percent(agreement.mape),
                signed(agreement.bias),
                percent(agreement.worst),
                order(agreement.spearman_rho),
                order(agreement.kendall_tau),
                signed(judgement.gap_before),
                signed(judgement.gap_after),
            ]);
        }
    }
    table
}

fn by_net(found: &Evaluations) -> Table {
    let mut table = Table::new(&["device", "net", "model", "measured us", "predicted us", "error %"]);
    for device in &found.devices {
        for net in &device.nets {
            for (Judged { model, .. }, predicted_ns) in device.models.iter().zip(&net.predicted_ns) {
                table.row(vec![
                    device.device.clone(),
                    net.net.clone(),
                    model.to_string(),
                    format!("{:.1}", net.measured_ns / 1e3),
                    format!("{:.1}", predicted_ns / 1e3),
                    format!("{:+.1}", 100.0 * (predicted_ns / net.measured_ns - 1.0)),
                ]);
            }
        }
    }
    table
}
