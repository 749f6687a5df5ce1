//! What has come out of a run so far, and `hanas export`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use hanas_models::onnx::{Init, lower};
use hanas_models::weights::Weights;
use serde::Serialize;

use super::Usage;
use super::context::Global;
use super::graph_run::GraphRun;
use super::output::{Format, json, text};
use crate::search::run::{Kind, RunDir, write_whole};
use crate::search::weights_file;

/// Arguments of `hanas export`.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The run's folder
    run: PathBuf,
    /// The ONNX file to write
    #[arg(long, short, default_value = "net.onnx", value_name = "FILE")]
    output: PathBuf,
    /// Images a run
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
}

#[derive(Serialize)]
struct Exported {
    file: PathBuf,
    bytes: usize,
    batch: u32,
    net: String,
}

/// The run's trained weights.
pub(super) fn weights(run: &RunDir) -> anyhow::Result<Weights> {
    let path = run.weights();
    if !path.exists() {
        let run = run.path().display();
        anyhow::bail!("{run} is not trained yet; run `hanas train {run}` first");
    }
    Ok(weights_file::read(&path)?)
}

/// Opens a run that must have found its net.
pub(super) fn open(path: &Path) -> anyhow::Result<RunDir> {
    Ok(RunDir::open(path)?)
}

/// Runs `hanas export`: needs no libtorch.
pub(super) fn export(global: &Global, args: &ExportArgs) -> anyhow::Result<()> {
    let run = open(&args.run)?;
    if run.kind()? == Kind::Graph {
        return export_graph(global, args, &run);
    }
    let net = run.net().context("the search has not found its net yet")?;
    let onnx = lower(&net.net.net()?, Init::Weights(&weights(&run)?), args.batch)?;
    write_whole(&args.output, &onnx)?;
    exported(global, args, &onnx, net.summary)
}

/// Training has written the net with its graph already: it is one run of the whole graph.
fn export_graph(global: &Global, args: &ExportArgs, dir: &RunDir) -> anyhow::Result<()> {
    if args.batch != 1 {
        return Err(Usage("--batch is for convnets; a graph net runs on its whole graph".to_owned()).into());
    }
    let run = GraphRun::open(dir)?;
    let onnx = run.onnx()?;
    write_whole(&args.output, &onnx)?;
    exported(global, args, &onnx, run.net.summary)
}

fn exported(global: &Global, args: &ExportArgs, onnx: &[u8], net: String) -> anyhow::Result<()> {
    let done = Exported { file: args.output.clone(), bytes: onnx.len(), batch: args.batch, net };
    match global.format {
        Format::Json => json(&done),
        _ => text(&format!(
            "{}: {} bytes, batch {}, {}\n",
            done.file.display(),
            done.bytes,
            done.batch,
            done.net
        )),
    }
}
