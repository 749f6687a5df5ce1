//! `hanas verify`: a run's net, measured again on the device, and its answers there held against training.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use hanas_models::onnx::{Init, lower};
use hanas_models::weights::Weights;
use hanas_proto::Nanos;
use hanas_proto::measure::LoadOptions;
use serde::Serialize;

use super::context::{DeviceArg, Global};
use super::graph_run::{Asked, GraphRun, judged, lines, verify};
use super::images::ImageArgs;
use super::nets::Taken;
use super::output::{Format, json, text};
use super::pace::{Pace, Paced};
use super::sampling::SamplingArgs;
use super::{NotTrustworthy, Usage, nets, runs};
use crate::data::{Data, DataError, ImageSet, Normalisation};
use crate::latency::Estimate;
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::search::config::Gate;
use crate::search::hgnas::record::GnnVerifyRecord;
use crate::search::run::{Kind, NetRecord, OnDevice, RunDir, RunRecord, SCHEMA_VERSION, VerifyRecord};
use crate::train::record::TrainRecord;

/// Most images in one inference when the answers are checked.
const CHECK_BATCH: usize = 50;
/// Draws those images: the same for every run, as accuracies are compared.
const CHECK_SEED: u64 = 0;

/// Arguments of `hanas verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The run's folder; several of one task and batch are measured in turns, so that they can be compared
    #[arg(required = true, value_name = "RUN")]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    images: ImageArgs,
    /// Test images that the device classifies, as many of each class; 0 for none. Of a graph, all test nodes
    #[arg(long, default_value_t = 500)]
    check_images: usize,
}

/// A run whose net is to be measured.
struct Found {
    dir: RunDir,
    record: RunRecord,
    net: NetRecord,
    weights: Option<Weights>,
}

impl Found {
    fn open(dir: RunDir) -> anyhow::Result<Self> {
        let (record, net) = (dir.record()?, dir.net().context("the search has not found its net yet")?);
        let weights = dir.weights().exists().then(|| runs::weights(&dir)).transpose()?;
        Ok(Self { dir, record, net, weights })
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &VerifyArgs) -> anyhow::Result<()> {
    let dirs: Vec<RunDir> = args.folders.iter().map(|run| runs::open(run)).collect::<anyhow::Result<_>>()?;
    let kinds: Vec<Kind> = dirs.iter().map(RunDir::kind).collect::<Result<_, _>>()?;
    match kinds.iter().filter(|&&kind| kind == Kind::Graph).count() {
        0 => {}
        graphs if graphs == dirs.len() => return graph(global, args, &dirs),
        _ => return Err(Usage("convnets and graph nets are verified apart".to_owned()).into()),
    }
    let found: Vec<Found> = dirs.into_iter().map(Found::open).collect::<anyhow::Result<_>>()?;
    let (task, batch) = (&found[0].record.task, found[0].record.batch);
    if found.iter().any(|of| of.record.task != *task || of.record.batch != batch) {
        return Err(Usage("runs of different tasks or batches are verified one by one".to_owned()).into());
    }
    let images = images(args, &found);
    let mut session = global.connect(&args.device)?;
    let taken = measure(&mut session, args, &found)?;
    let mut over = Vec::new();
    let mut reports = Vec::with_capacity(found.len());
    let (base, latencies) = taken.measured.latencies.split_last().context("nothing was measured")?;
    let in_turns: Vec<PathBuf> = found.iter().map(|of| of.dir.path().to_owned()).collect();
    for (of, latency) in found.iter().zip(latencies) {
        let on_device = match (&images, &of.weights) {
            (Some(images), Some(weights)) => Some(check(&mut session, args, of, weights, images)?),
            _ => None,
        };
        let verify = verified(args, of, [*latency, *base], (&taken, &in_turns), on_device);
        of.dir.save_verify(&verify)?;
        if verify.within_budget == Some(false) {
            over.push(of.dir.path().display().to_string());
        }
        reports.push((&of.dir, verify));
    }
    print(global, &reports)?;
    if !taken.measured.trustworthy && !args.sampling.allow_noisy {
        return Err(NotTrustworthy.into());
    }
    anyhow::ensure!(over.is_empty(), "over the budget on this device: {}", over.join(", "));
    Ok(())
}

/// Times the nets and their base net in turns, at the pace of the search if the device comes to it.
fn measure(session: &mut Session, args: &VerifyArgs, found: &[Found]) -> anyhow::Result<Paced<Taken>> {
    let candidate = |of: &Found| nets::candidate(&of.net.net, of.weights.as_ref(), of.record.batch);
    let mut candidates: Vec<Candidate> = found.iter().map(candidate).collect::<anyhow::Result<_>>()?;
    candidates.push(nets::candidate(&found[0].record.task.family.base(), None, found[0].record.batch)?);
    // Another device's pace says nothing of this one's, and without one from before whatever is measured
    // is the pace.
    let here = found.iter().filter(|of| of.record.device == args.device.device);
    let before = here.filter_map(|of| of.dir.base().ok()?.measured_ns).reduce(f64::min);
    let pace = Pace::new(before.unwrap_or(f64::INFINITY));
    nets::at_pace(session, &candidates, Some(found.len()), &args.sampling.sampling(), pace)
}

/// What is kept of one net; latencies are its own and the base net's, measured in turns with these runs'.
fn verified(
    args: &VerifyArgs,
    Found { record, net, .. }: &Found,
    [latency, base]: [Estimate; 2],
    (taken, in_turns): (&Paced<Taken>, &[PathBuf]),
    on_device: Option<OnDevice>,
) -> VerifyRecord {
    let budget_ns = match record.config.gate {
        Gate::Latency { budget_ns } => Some(budget_ns),
        Gate::Flops { .. } => None,
    };
    let verify = VerifyRecord {
        schema_version: SCHEMA_VERSION,
        device: args.device.device.clone(),
        predicted_ns: net.predicted_ns,
        measured_ns: latency.value_ns,
        error_ns: latency.se_ns,
        base_ns: base.value_ns,
        slower: Some(taken.slower),
        in_turns: in_turns.to_vec(),
        budget_ns,
        within_budget: None,
        on_device,
        doubts: taken.measured.doubts.clone(),
    };
    let most = |budget: f64| (1.0 + record.config.tolerance) * budget;
    let within_budget = budget_ns.map(|budget| verify.at_pace(verify.measured_ns) <= most(budget));
    VerifyRecord { within_budget, ..verify }
}

/// Prints the last verification of a run, as it was printed then.
#[cfg(feature = "torch")]
pub(super) fn show(global: &Global, dir: &RunDir) -> anyhow::Result<()> {
    if dir.kind()? == Kind::Graph {
        return print_graph(global, &[(GraphRun::open(dir)?, GnnVerifyRecord::load(dir)?)]);
    }
    print(global, &[(dir, dir.verify()?)])
}

fn print_graph(global: &Global, found: &[(GraphRun, GnnVerifyRecord)]) -> anyhow::Result<()> {
    if global.format != Format::Json {
        let page = |(run, verify): &(GraphRun, GnnVerifyRecord)| {
            format!("{}\n{}\n{}", run.dir.path().display(), run.net.summary, lines(&run.net, verify))
        };
        return text(&found.iter().map(page).collect::<Vec<_>>().join("\n"));
    }
    match found {
        [(_, verify)] => json(verify),
        _ => {
            let runs = found.iter().map(|(run, verify)| One { run: run.dir.path(), verify }).collect();
            json(&Many { runs })
        }
    }
}

/// Runs over graph nets.
fn graph(global: &Global, args: &VerifyArgs, dirs: &[RunDir]) -> anyhow::Result<()> {
    let runs: Vec<GraphRun> = dirs.iter().map(GraphRun::open).collect::<anyhow::Result<_>>()?;
    for run in &runs {
        run.trained()?;
        if run.task != runs[0].task {
            return Err(Usage("runs on different graphs are verified one by one".to_owned()).into());
        }
        // The net that tells the pace is another in each reading.
        if run.child.reading != runs[0].child.reading {
            let text = "runs with --paper and without are verified apart: they read their nets differently";
            return Err(Usage(text.to_owned()).into());
        }
    }
    let data = match runs[0].data(args.images.data.as_deref()) {
        Ok(data) => Some(data),
        Err(error) if args.check_images > 0 => return Err(unchecked(error)),
        Err(error) => {
            eprintln!("note: the device's pace is not checked: {error:#}");
            None
        }
    };
    let mut session = global.connect(&args.device)?;
    let asked = Asked {
        device: &args.device.device,
        data: data.as_ref(),
        answers: args.check_images > 0,
        sampling: args.sampling.sampling(),
    };
    let (verified, trustworthy) = verify(&runs, &mut session, &asked)?;
    let found: Vec<_> = runs.into_iter().zip(verified).collect();
    print_graph(global, &found)?;
    judged(found.iter().map(|(_, verify)| verify), trustworthy || args.sampling.allow_noisy)
}

/// Why a device's answers cannot be checked, and that they need not be.
fn unchecked(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Usage>() {
        Ok(Usage(text)) => {
            Usage(format!("{text}; --check-images 0 only times the net, without its pace")).into()
        }
        Err(error) => error,
    }
}

/// The test images that the device is to classify; none where they are not at hand or not asked for.
fn images(args: &VerifyArgs, found: &[Found]) -> Option<(Data, Normalisation)> {
    if args.check_images == 0 || found.iter().all(|of| of.weights.is_none()) {
        return None;
    }
    match args.images.load(&found[0].record.task) {
        Ok(images) => Some(images),
        Err(error) => {
            eprintln!("note: the device's answers are not checked: {error:#}");
            None
        }
    }
}

/// Classifies test images on the device.
fn check(
    session: &mut Session,
    args: &VerifyArgs,
    Found { dir, record, net, .. }: &Found,
    weights: &Weights,
    (data, now): &(Data, Normalisation),
) -> anyhow::Result<OnDevice> {
    let normalisation = &trained_with(dir).unwrap_or_else(|| now.clone());
    let (test, batch) = drawn(&data.test, args.check_images)?;
    let onnx = lower(&net.net.net()?, Init::Weights(weights), batch as u32)?;
    session.clear()?;
    session.load_onnx(0, &onnx, LoadOptions::default())?;
    let classes = record.task.family.classes as usize;
    let mut right = 0;
    for start in (0..test.len()).step_by(batch) {
        let places = start..start + batch;
        let pixels: Vec<u8> =
            places.clone().flat_map(|place| normalised(test.image(place), normalisation)).collect();
        let inputs = session.upload(&pixels)?;
        let scores = session.infer(0, inputs)?;
        let best = scores.chunks_exact(4 * classes).map(argmax);
        right += places.zip(best).filter(|&(place, best)| usize::from(test.labels[place]) == best).count();
    }
    Ok(OnDevice { images: test.len(), accuracy: right as f64 / test.len().max(1) as f64 })
}

/// Test images to be classified, in whole batches, and how many a batch has. Of every class as many: a set
/// may lie class by class.
fn drawn(test: &ImageSet, asked: usize) -> Result<(ImageSet, usize), DataError> {
    let most = asked.min(test.len());
    let batch = CHECK_BATCH.min(most).max(1);
    Ok((test.subset(most / batch * batch, CHECK_SEED)?, batch))
}

/// The normalisation that a run's net was trained with, where it was kept: that of procedural images depends
/// on how many were made.
fn trained_with(dir: &RunDir) -> Option<Normalisation> {
    TrainRecord::load(dir).ok()?.normalisation
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

/// Several runs' verifications.
#[derive(Serialize)]
struct Many<'a, V> {
    runs: Vec<One<'a, V>>,
}

#[derive(Serialize)]
struct One<'a, V> {
    run: &'a Path,
    #[serde(flatten)]
    verify: &'a V,
}

fn print(global: &Global, reports: &[(&RunDir, VerifyRecord)]) -> anyhow::Result<()> {
    if global.format != Format::Json {
        let pages: Vec<String> = reports.iter().map(|(dir, verify)| page(dir, verify)).collect();
        return text(&pages.join("\n"));
    }
    match reports {
        [(_, verify)] => json(verify),
        _ => json(&Many {
            runs: reports.iter().map(|(dir, verify)| One { run: dir.path(), verify }).collect(),
        }),
    }
}

fn page(dir: &RunDir, verify: &VerifyRecord) -> String {
    let show = |ns: f64| Nanos::from_f64(ns).to_string();
    let mut lines = format!("{}\n", dir.path().display());
    let mut row = |name: &str, value: String| lines.push_str(&format!("{name:<24}{value}\n"));
    row("measured", format!("{} (standard error {})", show(verify.measured_ns), show(verify.error_ns)));
    row("base net", format!("{} ({:.2}x)", show(verify.base_ns), verify.base_ns / verify.measured_ns));
    let at_pace = verify.at_pace(verify.measured_ns);
    if at_pace != verify.measured_ns {
        let slower = verify.measured_ns / at_pace;
        row("at the search's pace", format!("{} (the device is {slower:.2}x slower)", show(at_pace)));
    }
    if let Some(predicted) = verify.predicted_ns {
        let off = 100.0 * (predicted / at_pace - 1.0);
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
    lines
}

#[cfg(test)]
mod tests {
    use hanas_models::spec::FeatureMap;

    use super::*;
    use crate::cli::graph::load_graph;
    use crate::task::graph::GraphSet;
    use crate::train::config::TrainConfig;

    #[test]
    fn a_graph_that_is_not_there_is_asked_for() {
        let of = |set| load_graph(&set, None).map_err(unchecked);
        for set in [GraphSet::Cora, GraphSet::Own("mine".to_owned())] {
            let error = of(set).unwrap_err();
            assert!(error.is::<Usage>(), "{error}");
            let said = error.to_string();
            assert!(said.contains("with --data") && said.contains("--check-images 0"), "{said}");
        }
        assert!(of(GraphSet::Planted).is_ok());
    }

    #[test]
    fn the_device_is_asked_about_every_class() {
        // Three classes of 60 images, one after the other.
        let labels: Vec<u8> = (0..180).map(|image| image / 60).collect();
        let images = labels.clone();
        let set = ImageSet { shape: FeatureMap::square(1, 1), classes: 3, images, labels };
        let of = |asked| drawn(&set, asked).unwrap();
        let (some, batch) = of(30);
        assert_eq!((some.len(), batch), (30, 30));
        let counts = [0, 1, 2].map(|class| some.labels.iter().filter(|&&label| label == class).count());
        assert_eq!(counts, [10; 3]);
        assert_eq!((of(120).0.len(), of(120).1), (100, 50), "whole batches");
        let (all, batch) = of(500);
        assert_eq!((all.len(), batch), (150, 50));
    }

    #[test]
    fn the_device_gets_images_as_training_had_them() {
        let folder = tempfile::tempdir().unwrap();
        let record = serde_json::json!({ "schema_version": SCHEMA_VERSION });
        let dir = RunDir::create(folder.path(), &record).unwrap();
        assert_eq!(trained_with(&dir), None);
        let normalisation = Some(Normalisation { mean: vec![100.0], deviation: vec![50.0] });
        let trained = TrainRecord {
            schema_version: SCHEMA_VERSION,
            train_images: 1_000,
            test_images: 1_000,
            test_accuracy: 0.5,
            teacher_test_accuracy: None,
            normalisation: normalisation.clone(),
            config: TrainConfig::paper(1),
        };
        trained.save(&dir).unwrap();
        assert_eq!(trained_with(&dir), normalisation);
    }
}
