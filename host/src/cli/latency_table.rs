//! `hanas latency transfer-table`: each device of a table predicted from the others.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::context::Global;
use super::output::{Format, Table, json, text};
use crate::latency::transfer::table::{self, DeviceResult, Scores};

/// Arguments of `hanas latency transfer-table`.
#[derive(Debug, Args)]
pub(super) struct TableArgs {
    /// CSV, plain or .gz: nets in the first column, a column DEVICE_ms for every device
    file: PathBuf,
    /// Nets measured on the device that is taken for new
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    samples: u32,
    /// Seed of the random sets and halves that the chosen nets are held against
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Serialize)]
struct Report {
    samples: u32,
    seed: u64,
    mean: Scores,
    devices: Vec<DeviceResult>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &TableArgs) -> anyhow::Result<()> {
    let table = table::Table::read(&args.file)?;
    let devices = table.evaluate(args.samples as usize, args.seed)?;
    let report = Report { samples: args.samples, seed: args.seed, mean: Scores::mean(&devices), devices };
    match global.format {
        Format::Json => json(&report),
        Format::Csv => text(&rows(&report).to_csv()),
        Format::Text => text(&rows(&report).to_text()),
    }
}

fn rows(report: &Report) -> Table {
    let mut table = Table::new(&[
        "device",
        "method",
        "strict",
        "latencies",
        "lat. strict",
        "random",
        "single",
        "op counts",
        "op c. random",
        "half",
        "ties",
        "in 95%",
        "error %",
    ]);
    report.devices.iter().for_each(|of| table.row(row(&of.device, &of.scores)));
    table.row(row("mean", &report.mean));
    table
}

fn row(name: &str, scores: &Scores) -> Vec<String> {
    let rho = |value: f64| format!("{value:.4}");
    let option = |value: Option<f64>| value.map(rho).unwrap_or_default();
    let percent = |value: f64| format!("{:.1}", 100.0 * value);
    vec![
        name.to_owned(),
        rho(scores.spearman),
        option(scores.strict),
        rho(scores.latencies),
        option(scores.latencies_strict),
        rho(scores.random),
        rho(scores.single),
        option(scores.op_counts),
        option(scores.op_counts_random),
        rho(scores.half_measured),
        rho(scores.ties),
        percent(scores.within_95),
        percent(scores.median_error),
    ]
}
