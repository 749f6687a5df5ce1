//! `hanas graph train`: one graph net trained, written as ONNX, and its answers checked on a device.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use hanas_models::gnn::layout::OnGraph;
use hanas_models::gnn::onnx::{Placement, lower};
use hanas_models::gnn::{GnnLayer, GnnNet};
use hanas_models::onnx::Init;
use hanas_proto::Bytes;
use serde::Serialize;

use super::Usage;
use super::context::{DeviceArg, Global};
use super::gnn::too_large_on;
use super::graph::TaskArgs;
use super::graph_answers::test_accuracy;
use super::output::{Format, json, text};
use super::progress::Progress;
use crate::search::progress::peak_memory_bytes;
use crate::train::child::{ChildConfig, ChildResult};
use crate::train::gnn::ChildTrainer;

/// Arguments of `hanas graph train`.
#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    task: TaskArgs,
    /// Folder with NAME.npz or the Planetoid files ind.NAME.*
    #[arg(long, env = "HANAS_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The layers in order: gat/sum/elu/8x8 gat/sum/linear/1x1 (the last dim becomes the classes)
    #[arg(long, num_args = 1.., required = true, value_name = "LAYER")]
    layers: Vec<GnnLayer>,
    /// Epochs at most
    #[arg(long, default_value_t = ChildConfig::default().epochs)]
    epochs: u32,
    /// Epochs without a lower validation loss after which training ends [default: never]
    #[arg(long)]
    patience: Option<u32>,
    /// Seed of weights and dropout
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the trained net here as ONNX, graph and all
    #[arg(long, visible_alias = "out", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Let this device classify the nodes too, and hold its accuracy against training's
    #[arg(long, value_name = "DEVICE")]
    check_on: Option<String>,
}

#[derive(Serialize)]
struct Report {
    net: String,
    #[serde(flatten)]
    result: ChildResult,
    device_test_accuracy: Option<f64>,
    peak_memory_bytes: u64,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &TrainArgs) -> anyhow::Result<()> {
    let config = ChildConfig {
        epochs: args.epochs,
        patience: args.patience,
        reading: args.task.reading(),
        ..ChildConfig::default()
    };
    config.check().map_err(Usage)?;
    let data = args.task.load(args.data.as_deref())?;
    let net = GnnNet::new(data.features.width(), data.classes, args.layers.clone());
    if let Some(why) = too_large_on(&data, &net, config.reading) {
        anyhow::bail!("{why}; close other programs, or take fewer heads or a smaller dim");
    }
    let mut progress = Progress::new("epochs", u64::from(config.epochs), global.quiet);
    let mut tell = |epochs: u32, loss: f64| progress.at(u64::from(epochs), &format!("loss {loss:.3}"));
    let (result, weights) = ChildTrainer::new(&data).train_told(&net, &config, args.seed, &mut tell)?;
    drop(progress);
    let on = OnGraph::new(&data.graph, &data.features);
    let onnx = lower(&net, &on, config.reading, Init::Weights(&weights), Placement::Inside)?;
    if let Some(path) = &args.output {
        write(path, &onnx)?;
    }
    let device_test_accuracy = match &args.check_on {
        Some(device) => {
            let device = DeviceArg::new(device.clone(), QUEUE_SECONDS);
            Some(test_accuracy(&mut global.connect(&device)?, &data, &onnx)?)
        }
        None => None,
    };
    let peak_memory_bytes = peak_memory_bytes();
    let report = Report { net: net.to_string(), result, device_test_accuracy, peak_memory_bytes };
    print(global, &report)?;
    anyhow::ensure!(
        device_test_accuracy.is_none_or(|accuracy| accuracy == result.test_accuracy),
        "the device classifies the test nodes otherwise than training does"
    );
    Ok(())
}

/// Seconds to wait while another session holds the device.
const QUEUE_SECONDS: u64 = 600;

fn write(path: &Path, onnx: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, onnx).with_context(|| format!("cannot write {}", path.display()))
}

fn print(global: &Global, report: &Report) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return json(report);
    }
    let Report { net, result, device_test_accuracy, peak_memory_bytes } = report;
    let percent = |share: f64| format!("{:.2}%", 100.0 * share);
    let mut lines = format!(
        "{net}\nbest of {} epochs: {}\nvalidation {} (loss {:.4}), test {}\n",
        result.epochs,
        result.best_epoch + 1,
        percent(result.val_accuracy),
        result.val_loss,
        percent(result.test_accuracy)
    );
    if let Some(accuracy) = device_test_accuracy {
        lines.push_str(&format!("test on the device {}\n", percent(*accuracy)));
    }
    lines.push_str(&format!("peak memory {}\n", Bytes(*peak_memory_bytes)));
    text(&lines)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        train: TrainArgs,
    }

    #[test]
    fn the_file_has_two_names() {
        for name in ["--output", "--out"] {
            let net = ["train", "--task", "planted-gnn", "--layers", "gat/sum/linear/1x1"];
            let line = Line::try_parse_from([&net[..], &[name, "net.onnx"]].concat()).unwrap();
            assert_eq!(line.train.output.as_deref(), Some(Path::new("net.onnx")));
        }
    }
}
