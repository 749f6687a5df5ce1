//! `hanas verify`: a run's net, measured again on the device, and its answers there held against training.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use hanas_models::onnx::{Init, lower};
use hanas_models::weights::Weights;
use hanas_proto::Nanos;
use hanas_proto::measure::LoadOptions;

use super::context::{DeviceArg, Global};
use super::graph_run::{GraphRun, judged, lines};
use super::images::ImageArgs;
use super::output::{Format, Table, json, text};
use super::sampling::SamplingArgs;
use super::{NotTrustworthy, nets, runs};
use crate::data::Normalisation;
use crate::latency::verdict::{Evidence, judge};
use crate::link::Session;
use crate::search::config::Gate;
use crate::search::run::{Kind, NetRecord, OnDevice, RunDir, RunRecord, SCHEMA_VERSION, VerifyRecord};

/// Most images in one inference when the answers are checked.
const CHECK_BATCH: usize = 50;

/// Arguments of `hanas verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The run's folder
    run: PathBuf,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    images: ImageArgs,
    /// Test images that the device classifies; 0 for none. Of a graph, all test nodes
    #[arg(long, default_value_t = 500)]
    check_images: usize,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &VerifyArgs) -> anyhow::Result<()> {
    let dir = runs::open(&args.run)?;
    if dir.kind()? == Kind::Graph {
        return graph(global, args, &dir);
    }
    let (record, net) = (dir.record()?, dir.net().context("the search has not found its net yet")?);
    let weights = dir.weights().exists().then(|| runs::weights(&dir)).transpose()?;
    let mut session = global.connect(&args.device)?;
    let sampling = args.sampling.sampling();
    let found = nets::candidate(&net.net, weights.as_ref(), record.batch)?;
    let base = nets::candidate(&record.task.family.base(), None, record.batch)?;
    let runs = nets::in_turns(&mut session, &[found, base], &sampling)?;
    let latencies = nets::latencies(&session, &runs.visits)?;
    let (latency, base) = (latencies[0], latencies[1]);
    let models: Vec<_> = runs.visits.iter().map(Vec::as_slice).collect();
    let verdict = judge(&Evidence {
        models: &models,
        contexts: &runs.contexts,
        clock_resolution_ns: session.facts().clock_resolution_ns,
        cores: session.facts().cores,
    });
    let budget_ns = match record.config.gate {
        Gate::Latency { budget_ns } => Some(budget_ns),
        Gate::Flops { .. } => None,
    };
    let tolerance = 1.0 + record.config.tolerance;
    let verify = VerifyRecord {
        schema_version: SCHEMA_VERSION,
        device: args.device.device.clone(),
        predicted_ns: net.predicted_ns,
        measured_ns: latency.value_ns,
        error_ns: latency.se_ns,
        base_ns: base.value_ns,
        budget_ns,
        within_budget: budget_ns.map(|budget| latency.value_ns <= tolerance * budget),
        on_device: weights
            .as_ref()
            .map(|weights| check(&mut session, args, &record, &net, weights))
            .transpose()?
            .flatten(),
        doubts: verdict.reasons.iter().map(ToString::to_string).collect(),
    };
    dir.save_verify(&verify)?;
    print(global, &dir, &verify)?;
    if !verdict.trustworthy && !args.sampling.allow_noisy {
        return Err(NotTrustworthy.into());
    }
    anyhow::ensure!(verify.within_budget != Some(false), "the net is over its budget on this device");
    Ok(())
}

/// A run over graph nets.
fn graph(global: &Global, args: &VerifyArgs, dir: &RunDir) -> anyhow::Result<()> {
    let run = GraphRun::open(dir)?;
    run.trained()?;
    let data = match run.data(args.images.data.as_deref()) {
        _ if args.check_images == 0 => None,
        Ok(data) => Some(data),
        Err(error) => {
            eprintln!("note: the device's answers are not checked: {error:#}");
            None
        }
    };
    let mut session = global.connect(&args.device)?;
    let sampling = args.sampling.sampling();
    let (verify, trustworthy) = run.verify(&mut session, &args.device.device, data.as_ref(), &sampling)?;
    match global.format {
        Format::Json => json(&verify)?,
        _ => text(&format!("{}\n{}\n{}", dir.path().display(), run.net.summary, lines(&run.net, &verify)))?,
    }
    judged(&verify)?;
    if trustworthy || args.sampling.allow_noisy { Ok(()) } else { Err(NotTrustworthy.into()) }
}

/// Classifies test images on the device; none where the images are not at hand.
fn check(
    session: &mut Session,
    args: &VerifyArgs,
    record: &RunRecord,
    net: &NetRecord,
    weights: &Weights,
) -> anyhow::Result<Option<OnDevice>> {
    if args.check_images == 0 {
        return Ok(None);
    }
    let (data, normalisation) = match args.images.load(&record.task) {
        Ok(images) => images,
        Err(error) => {
            eprintln!("note: the device's answers are not checked: {error:#}");
            return Ok(None);
        }
    };
    let most = args.check_images.min(data.test.len());
    let batch = CHECK_BATCH.min(most).max(1);
    let wanted = most / batch * batch;
    let onnx = lower(&net.net.net()?, Init::Weights(weights), batch as u32)?;
    session.clear()?;
    session.load_onnx(0, &onnx, LoadOptions::default())?;
    let classes = record.task.family.classes as usize;
    let mut right = 0;
    for start in (0..wanted).step_by(batch) {
        let places = start..start + batch;
        let pixels: Vec<u8> =
            places.clone().flat_map(|place| normalised(data.test.image(place), &normalisation)).collect();
        let inputs = session.upload(&pixels)?;
        let scores = session.infer(0, inputs)?;
        let best = scores.chunks_exact(4 * classes).map(argmax);
        right +=
            places.zip(best).filter(|&(place, best)| usize::from(data.test.labels[place]) == best).count();
    }
    Ok(Some(OnDevice { images: wanted, accuracy: right as f64 / wanted.max(1) as f64 }))
}

/// An image as the net takes it: floats, channels first, little endian.
fn normalised(image: &[u8], normalisation: &Normalisation) -> Vec<u8> {
    let per_channel = image.len() / normalisation.mean.len();
    let value = |(place, &pixel): (usize, &u8)| {
        let channel = place / per_channel;
        (f32::from(pixel) - normalisation.mean[channel]) / normalisation.deviation[channel]
    };
    image.iter().enumerate().flat_map(|pixel| value(pixel).to_le_bytes()).collect()
}

fn argmax(scores: &[u8]) -> usize {
    let values =
        scores.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    values.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(place, _)| place)
}

fn print(global: &Global, dir: &RunDir, verify: &VerifyRecord) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return json(verify);
    }
    let show = |ns: f64| Nanos::from_f64(ns).to_string();
    let mut rows = Table::new(&["figure", "value"]);
    let mut row = |name: &str, value: String| rows.row(vec![name.to_owned(), value]);
    row("measured", format!("{} (standard error {})", show(verify.measured_ns), show(verify.error_ns)));
    row("base net", format!("{} ({:.2}x)", show(verify.base_ns), verify.base_ns / verify.measured_ns));
    if let Some(predicted) = verify.predicted_ns {
        let off = 100.0 * (predicted / verify.measured_ns - 1.0);
        row("predicted", format!("{} ({off:+.1}%)", show(predicted)));
    }
    if let (Some(budget), Some(within)) = (verify.budget_ns, verify.within_budget) {
        row("budget", format!("{} ({})", show(budget), if within { "kept" } else { "missed" }));
    }
    if let Some(on_device) = &verify.on_device {
        let value = format!("{:.2}% of {} test images", 100.0 * on_device.accuracy, on_device.images);
        row("accuracy on the device", value);
    }
    row(
        "verdict",
        if verify.doubts.is_empty() { "trustworthy".to_owned() } else { verify.doubts.join("; ") },
    );
    text(&format!("{}\n{}", dir.path().display(), rows.to_text()))
}
