//! `hanas latency adapt`: measures a few models on a new device and predicts the others from the
//! profiles of reference devices.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use clap::Args;
use hanas_proto::Digest;
use serde::Serialize;

use super::context::{DeviceArg, Global, TaskArg, query, stored_device};
use super::output::{Format, Table, json, text};
use super::recorder::{Failure, Filed, Recorder, counts_of};
use super::sampling::SamplingArgs;
use super::{Interrupted, NotTrustworthy, Usage};
use crate::latency::agreement::{Agreement, agreement};
use crate::latency::disturbed::undisturbed;
use crate::latency::transfer::{Adapted, Panel, Prediction, Sample, Scale};
use crate::latency::verdict::Verdict;
use crate::latency::{Estimate, Statistic, estimate};
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::runner::Ended;
use crate::store::{DeviceId, ModelSamples, ModelSpec, Store};

/// Arguments of `hanas latency adapt`.
#[derive(Debug, Args)]
pub(super) struct AdaptArgs {
    #[command(flatten)]
    device: DeviceArg,
    /// Profiled devices to learn from: boards' names or row numbers, as the store has them
    #[arg(long, short, value_delimiter = ',', required = true, value_name = "DEVICE,...")]
    references: Vec<String>,
    #[command(flatten)]
    task: TaskArg,
    /// Models to measure on the new device
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    samples: u32,
    /// On which scale devices resemble each other
    #[arg(long, value_enum, default_value_t)]
    scale: Scale,
    /// Timed runs of each of them
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    timed_runs: u32,
    /// Timed runs in a row before another model has its turn
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    runs: u16,
    /// Untimed runs before those
    #[arg(long, default_value_t = 1)]
    warmup: u16,
    /// Seed of the visiting order
    #[arg(long, default_value_t = 0)]
    order_seed: u64,
    /// Go on with a measurement that is judged not trustworthy (else exit code 4)
    #[arg(long)]
    allow_noisy: bool,
    /// Only say which models would be measured
    #[arg(long)]
    dry_run: bool,
}

/// What the references know: their models in common order, and the panel over them.
struct Known {
    /// Device settings, by row.
    devices: Vec<(DeviceId, String)>,
    models: Vec<(Digest, ModelSpec)>,
    panel: Panel,
}

#[derive(Serialize)]
struct Choice {
    measured: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    references: Vec<Weight>,
    /// What of the device the references do not explain, relative.
    noise: f64,
    session: Option<i64>,
    verdict: Option<Verdict>,
    measured: Vec<Row>,
    predicted: Vec<Row>,
    failed: Vec<Failure>,
    /// Predictions against models that had been measured on the device before.
    check: Option<Agreement>,
}

#[derive(Serialize)]
struct Weight {
    device: String,
    weight: f64,
}

#[derive(Serialize)]
struct Row {
    model: String,
    predicted_ns: f64,
    predicted_se_ns: f64,
    measured_ns: Option<f64>,
    measured_se_ns: Option<f64>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &AdaptArgs) -> anyhow::Result<()> {
    let mut store = global.existing_store()?;
    let known = Known::read(&store, args)?;
    let candidates = known.candidates(args.task.batch)?;
    let chosen = known.panel.choose(args.samples as usize, |model| candidates.contains_key(&model));
    if chosen.is_empty() {
        anyhow::bail!("no model was measured by all references; profile the same task and batch on each");
    }
    if args.dry_run {
        return print_choice(global, &known, &chosen);
    }
    let mut list = vec![Candidate::new(ModelSpec::Null, args.task.batch)?];
    list.extend(chosen.iter().filter_map(|model| candidates.get(model).cloned()));
    let mut session = global.connect(&args.device)?;
    let device = store.device_id(session.facts())?;
    if let Some((_, name)) = known.devices.iter().find(|(reference, _)| *reference == device) {
        let device = &args.device.device;
        return Err(Usage(format!("{device} is one of the references ('{name}'): name others")).into());
    }
    let measured = measure(global, args, &mut store, &mut session, device, &list)?;
    let query = query(device, &args.task.task, args.task.batch);
    let clock = session.facts().clock_resolution_ns;
    let found = estimates(&store.samples(&query)?, clock)?;
    let report = report(&known, &chosen, &found, measured)?;
    print(global, &report)?;
    match &report.verdict {
        Some(verdict) if !verdict.trustworthy && !args.allow_noisy => Err(NotTrustworthy.into()),
        _ => Ok(()),
    }
}

/// Latency of every model, by digest, without the visits that were disturbed.
fn estimates(samples: &[ModelSamples], clock_ns: u32) -> anyhow::Result<BTreeMap<Digest, Estimate>> {
    let of =
        |model: &ModelSamples| Ok((model.digest, estimate(&model.visits, Statistic::default(), clock_ns)?));
    undisturbed(samples).samples.iter().filter(|model| model.spec != ModelSpec::Null).map(of).collect()
}

impl Known {
    fn read(store: &Store, args: &AdaptArgs) -> anyhow::Result<Self> {
        let TaskArg { task, batch } = &args.task;
        let (mut devices, mut models, mut tables) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for name in &args.references {
            let device = stored_device(store, Some(name), &task.name, *batch)?;
            if devices.iter().any(|(known, _)| *known == device) {
                return Err(Usage(format!("reference '{name}' is named twice")).into());
            }
            let clock = store.device(device)?.map_or(1, |device| device.clock_resolution_ns);
            let samples = store.samples(&query(device, task, *batch))?;
            tables.push(estimates(&samples, clock)?);
            let new = samples.into_iter().filter(|of| of.spec != ModelSpec::Null && seen.insert(of.digest));
            models.extend(new.map(|of| (of.digest, of.spec)));
            devices.push((device, name.clone()));
        }
        let row = |(digest, _): &(Digest, ModelSpec)| {
            tables.iter().map(|table| table.get(digest).map(|found| found.value_ns)).collect()
        };
        let latencies: Vec<Vec<Option<f64>>> = models.iter().map(row).collect();
        Ok(Self { devices, panel: Panel::measured(&latencies, args.scale)?, models })
    }

    /// Models that can be made again, by place; a user's own file or trained weights cannot.
    fn candidates(&self, batch: u32) -> anyhow::Result<BTreeMap<usize, Candidate>> {
        let mut candidates = BTreeMap::new();
        for (place, (digest, spec)) in self.models.iter().enumerate() {
            if matches!(spec, ModelSpec::File { .. }) || !self.panel.is_complete(place) {
                continue;
            }
            let candidate = Candidate::new(spec.clone(), batch)?;
            if candidate.digest == *digest {
                candidates.insert(place, candidate);
            }
        }
        Ok(candidates)
    }
}

/// What measuring left beside the samples in the store.
#[derive(Default)]
struct Measured {
    session: Option<i64>,
    verdict: Option<Verdict>,
    failed: Vec<Failure>,
}

fn measure(
    global: &Global,
    args: &AdaptArgs,
    store: &mut Store,
    session: &mut Session,
    device: DeviceId,
    list: &[Candidate],
) -> anyhow::Result<Measured> {
    let TaskArg { task, batch } = &args.task;
    let options = SamplingArgs {
        samples: args.timed_runs,
        runs: args.runs,
        warmup: args.warmup,
        order_seed: args.order_seed,
        allow_noisy: args.allow_noisy,
    };
    let sampling = options.sampling();
    let have = counts_of(list, &store.counts(&query(device, task, *batch))?);
    if have.iter().all(|&have| sampling.rounds_left(have) == 0) {
        return Ok(Measured::default());
    }
    let filed = Filed { device, task: &task.name, batch: *batch };
    let mut recorder = Recorder::begin(store, filed, &sampling, list)?;
    let id = recorder.session;
    let ended = recorder.measure(global, session, list, &have, &sampling, "adapt")?;
    let failed = std::mem::take(&mut recorder.failed);
    if ended == Ended::Stopped {
        let kept = "what was measured is kept; the same command goes on from there".to_owned();
        return Err(Interrupted { kept }.into());
    }
    let verdict = recorder.finish(session)?;
    Ok(Measured { session: Some(id.0), verdict: Some(verdict), failed })
}

fn report(
    known: &Known,
    chosen: &[usize],
    found: &BTreeMap<Digest, Estimate>,
    measured: Measured,
) -> anyhow::Result<Report> {
    let estimate = |model: usize| found.get(&known.models[model].0);
    let sample =
        |&model: &usize| estimate(model).map(|of| Sample { model, latency: of.value_ns, se: of.se_ns });
    let samples: Vec<Sample> = chosen.iter().filter_map(sample).collect();
    let adapted = known.panel.adapt(&samples).context("none of the chosen models could be measured")?;
    let row = |model: usize| row(known, &adapted, model, estimate(model));
    let is_chosen: BTreeSet<usize> = samples.iter().map(|sample| sample.model).collect();
    let predicted: Vec<Row> =
        (0..known.models.len()).filter(|model| !is_chosen.contains(model)).map(row).collect();
    let checked: Vec<(f64, f64)> =
        predicted.iter().filter_map(|row| Some((row.predicted_ns, row.measured_ns?))).collect();
    let weights = known.devices.iter().zip(adapted.weights());
    Ok(Report {
        references: weights.map(|((_, of), &weight)| Weight { device: of.clone(), weight }).collect(),
        noise: adapted.noise(),
        session: measured.session,
        verdict: measured.verdict,
        measured: samples.iter().map(|sample| row(sample.model)).collect(),
        predicted,
        failed: measured.failed,
        check: agreement(&checked),
    })
}

fn row(known: &Known, adapted: &Adapted<'_>, model: usize, measured: Option<&Estimate>) -> Row {
    let Prediction { latency, se } = adapted.predict(model);
    Row {
        model: known.models[model].1.name(),
        predicted_ns: latency,
        predicted_se_ns: se,
        measured_ns: measured.map(|of| of.value_ns),
        measured_se_ns: measured.map(|of| of.se_ns),
    }
}

fn print_choice(global: &Global, known: &Known, chosen: &[usize]) -> anyhow::Result<()> {
    let measured: Vec<String> = chosen.iter().map(|&model| known.models[model].1.name()).collect();
    match global.format {
        Format::Json => json(&Choice { measured }),
        Format::Csv => {
            let mut table = Table::new(&["model"]);
            measured.into_iter().for_each(|name| table.row(vec![name]));
            text(&table.to_csv())
        }
        Format::Text => text(&(measured.join("\n") + "\n")),
    }
}

fn print(global: &Global, report: &Report) -> anyhow::Result<()> {
    match global.format {
        Format::Json => json(report),
        Format::Csv => text(&rows(report).to_csv()),
        Format::Text => text(&page(report)),
    }
}

fn rows(report: &Report) -> Table {
    let mut table = Table::new(&["model", "predicted us", "+-", "measured us", "+- "]);
    let us = |ns: f64| format!("{:.2}", ns / 1e3);
    for row in report.measured.iter().chain(&report.predicted) {
        table.row(vec![
            row.model.clone(),
            us(row.predicted_ns),
            us(row.predicted_se_ns),
            row.measured_ns.map(us).unwrap_or_default(),
            row.measured_se_ns.map(us).unwrap_or_default(),
        ]);
    }
    table
}

fn page(report: &Report) -> String {
    let weights: Vec<String> =
        report.references.iter().map(|of| format!("{} {:.2}", of.device, of.weight)).collect();
    let mut page = format!(
        "{} models measured, {} predicted; references by weight: {}; unexplained {:.1}%\n",
        report.measured.len(),
        report.predicted.len(),
        weights.join(", "),
        100.0 * report.noise
    );
    for Failure { model, reason } in &report.failed {
        page.push_str(&format!("  {model}: {reason}\n"));
    }
    if let Some(verdict) = &report.verdict {
        page.push_str(&format!("verdict: {verdict}\n"));
    }
    if let Some(check) = &report.check {
        page.push_str(&format!(
            "{} of the predicted were measured before: mean error {:.1}%, worst {:.1}%\n",
            check.nets,
            100.0 * check.mape,
            100.0 * check.worst
        ));
    }
    page + "\n" + &rows(report).to_text()
}
