//! `hanas train`: trains a found net; a convnet distilled from its base net.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use hanas_proto::Bytes;
use serde::Serialize;

use super::context::Global;
use super::images::ImageArgs;
use super::output::{Format, json, text};
use super::turns::Turns;
use super::watch::Watch;
use super::{Interrupted, Usage, graph_retrain, interrupt};
use crate::data::{Data, Normalisation};
use crate::search::checkpoint::save_weights;
use crate::search::progress::peak_memory_bytes;
use crate::search::run::{Kind, RunDir, RunRecord, SCHEMA_VERSION};
use crate::train::TrainError;
use crate::train::config::TrainConfig;
use crate::train::distil::{Files, Request, train};
use crate::train::frozen::Frozen;
use crate::train::record::TrainRecord;
use crate::train::teacher::Teacher;

/// Arguments of `hanas train`.
#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// The run's folder
    run: PathBuf,
    #[command(flatten)]
    images: ImageArgs,
    /// The paper's recipe (300 epochs and 5 warm-up, batch 256) instead of the scaled one (19 and 1, 128);
    /// of graph nets 300 epochs without an early end instead of the search's
    #[arg(long)]
    paper: bool,
    /// Epochs
    #[arg(long)]
    epochs: Option<u32>,
    /// Epochs before those, with a rising learning rate
    #[arg(long)]
    warmup_epochs: Option<u32>,
    /// Images of a training step
    #[arg(long)]
    train_batch: Option<usize>,
    /// Highest learning rate [default: 0.1]
    #[arg(long)]
    rate: Option<f64>,
    /// Seed [default: the search's; of graph nets the seeds of its final]
    #[arg(long)]
    seed: Option<u64>,
    /// Of graph nets: trainings, under seeds that follow each other; the best on the validation nodes is
    /// kept [default: those of the search's final, else 1]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    runs: Option<u64>,
    /// Train on labels alone, without the base net as teacher
    #[arg(long)]
    no_teacher: bool,
    /// Where trained base nets are kept [default: `teachers` beside the run]
    #[arg(long, value_name = "FOLDER")]
    teachers: Option<PathBuf>,
}

#[derive(Serialize)]
struct Outcome<'a> {
    run: &'a Path,
    #[serde(flatten)]
    record: TrainRecord,
    peak_memory_bytes: u64,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &TrainArgs) -> anyhow::Result<()> {
    let dir = RunDir::open(&args.run)?;
    let _alone = Turns::alone(&args.run)?;
    if dir.kind()? == Kind::Graph {
        return graph(global, args, &dir);
    }
    if args.runs.is_some() {
        return Err(Usage("--runs is for graph nets; a convnet is trained once".to_owned()).into());
    }
    let record = dir.record()?;
    let net = dir.net().context("the search has not found its net yet")?;
    let config = config(args, record.config.seed)?;
    let (data, normalisation) = args.images.load(&record.task)?;
    let frozen = match args.no_teacher {
        true => None,
        false => Some(base_net(global, args, &record, &config, &data, &normalisation)?),
    };
    let graph = net.net.net()?;
    let request = Request {
        config: &config,
        net: &graph,
        data: &data,
        normalisation: &normalisation,
        teacher: frozen.as_ref(),
    };
    let files = Files { checkpoint: dir.train_checkpoint(), log: dir.train_log() };
    let mut watch = Watch::new("train", global.quiet);
    let trained = train(&request, Some(&files), &mut watch.monitor(interrupt::watch()));
    drop(watch);
    let trained = trained.map_err(|error| ended(error, Some(&files.checkpoint)))?;
    save_weights(&dir.weights(), &trained.weights)?;
    let record = TrainRecord {
        schema_version: SCHEMA_VERSION,
        train_images: data.train.len(),
        test_images: data.test.len(),
        test_accuracy: trained.test_accuracy,
        teacher_test_accuracy: frozen.map(|frozen| frozen.accuracy(&data.test, &normalisation)),
        normalisation: Some(normalisation.clone()),
        config,
    };
    record.save(&dir)?;
    print(global, &Outcome { run: &args.run, record, peak_memory_bytes: peak_memory_bytes() })
}

/// A run over graph nets.
fn graph(global: &Global, args: &TrainArgs, dir: &RunDir) -> anyhow::Result<()> {
    let of_convnets = [
        ("--warmup-epochs", args.warmup_epochs.is_some()),
        ("--train-batch", args.train_batch.is_some()),
        ("--rate", args.rate.is_some()),
        ("--no-teacher", args.no_teacher),
        ("--teachers", args.teachers.is_some()),
        ("--images", args.images.images.is_some()),
    ];
    if let Some((flag, _)) = of_convnets.iter().find(|(_, given)| *given) {
        return Err(Usage(format!("{flag} is for convnets; this run searched graph nets")).into());
    }
    let TrainArgs { paper, epochs, seed, runs, .. } = *args;
    let changes = graph_retrain::Changes { paper, epochs, seed, runs };
    graph_retrain::run(global, dir, args.images.data.as_deref(), changes)
}

fn config(args: &TrainArgs, seed: u64) -> anyhow::Result<TrainConfig> {
    let seed = args.seed.unwrap_or(seed);
    let mut config = if args.paper { TrainConfig::paper(seed) } else { TrainConfig::scaled(seed) };
    config.epochs = args.epochs.unwrap_or(config.epochs);
    config.warmup_epochs = args.warmup_epochs.unwrap_or(config.warmup_epochs);
    config.batch = args.train_batch.unwrap_or(config.batch);
    config.sgd.rate = args.rate.unwrap_or(config.sgd.rate);
    config.check().map_err(|error| Usage(error.to_string()))?;
    Ok(config)
}

/// The trained base net, from its cache or trained now.
fn base_net(
    global: &Global,
    args: &TrainArgs,
    record: &RunRecord,
    config: &TrainConfig,
    data: &Data,
    normalisation: &Normalisation,
) -> anyhow::Result<Frozen> {
    let beside = || args.run.parent().unwrap_or(Path::new("")).join("teachers");
    let folder = args.teachers.clone().unwrap_or_else(beside);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (task, net) = (&record.task.name, record.task.family.base().net()?);
    let teacher = Teacher::new(task, &net, config, data, normalisation, &folder);
    // Trainings side by side may need the same one.
    let path = teacher.file();
    let _making = (!path.exists()).then(|| Turns::making(&path)).transpose()?;
    let mut watch = Watch::new("teacher", global.quiet);
    let mut monitor = watch.monitor(interrupt::watch());
    // A teacher's checkpoint goes by its settings: with another rate there is none.
    teacher.trained(&mut monitor).map_err(|error| ended(error, None))
}

/// A training that came to no end, and what to do; `checkpoint` is in the way of other settings.
fn ended(error: TrainError, checkpoint: Option<&Path>) -> anyhow::Error {
    match error {
        TrainError::Interrupted => {
            Interrupted { kept: "the same command goes on from the last epoch".to_owned() }.into()
        }
        TrainError::Diverged { .. } => {
            let in_the_way = checkpoint.filter(|path| path.exists());
            let delete =
                in_the_way.map_or_else(String::new, |path| format!(" and delete {}", path.display()));
            anyhow::anyhow!("{error}; give a lower --rate{delete}")
        }
        other => other.into(),
    }
}

fn print(global: &Global, outcome: &Outcome<'_>) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return json(outcome);
    }
    let TrainRecord { test_accuracy, teacher_test_accuracy, test_images, .. } = &outcome.record;
    let base = teacher_test_accuracy.map_or_else(String::new, |of| format!(" (base net {:.2}%)", 100.0 * of));
    let run = outcome.run.display();
    text(&format!(
        "test accuracy {:.2}%{base} on {test_images} images, last epoch\npeak memory {}\nnext: hanas export {run}; hanas verify {run} --device ...\n",
        100.0 * test_accuracy,
        Bytes(outcome.peak_memory_bytes)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_that_diverged_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join("train.checkpoint.safetensors");
        let said = || ended(TrainError::Diverged { epoch: 2, step: 7 }, Some(&checkpoint)).to_string();
        assert!(said().ends_with("epoch 2, step 7: the learning rate is too high; give a lower --rate"));
        std::fs::write(&checkpoint, "").unwrap();
        assert!(said().ends_with(&format!("--rate and delete {}", checkpoint.display())));
    }
}
