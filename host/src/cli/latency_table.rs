//! `hanas latency transfer-table`: each device of a table predicted from the others.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::context::Global;
use super::output::{Format, Table, json, text};
use crate::latency::transfer::table::{self, DeviceResult, Means};

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
    mean: Means,
    devices: Vec<DeviceResult>,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &TableArgs) -> anyhow::Result<()> {
    let table = table::Table::read(&args.file)?;
    let devices = table.evaluate(args.samples as usize, args.seed)?;
    let report = Report { samples: args.samples, seed: args.seed, mean: Means::of(&devices), devices };
    match global.format {
        Format::Json => json(&report),
        Format::Csv => text(&rows(&report).to_csv()),
        Format::Text => text(&rows(&report).to_text()),
    }
}

fn rows(report: &Report) -> Table {
    let mut table = Table::new(&[
        "device",
        "chosen",
        "strict",
        "features",
        "random",
        "single",
        "op counts",
        "half",
        "ties",
        "in 95%",
        "error %",
    ]);
    let option = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
    for of in &report.devices {
        table.row(vec![
            of.device.clone(),
            format!("{:.4}", of.spearman),
            option(of.strict),
            option(of.features),
            format!("{:.4}", of.random),
            format!("{:.4}", of.single),
            option(of.op_counts),
            format!("{:.4}", of.half_measured),
            format!("{:.4}", of.ties),
            format!("{:.1}", 100.0 * of.within_95),
            format!("{:.1}", 100.0 * of.median_error),
        ]);
    }
    let mean = report.mean;
    table.row(vec![
        "mean".to_owned(),
        format!("{:.4}", mean.spearman),
        option(mean.strict),
        option(mean.features),
        format!("{:.4}", mean.random),
        format!("{:.4}", mean.single),
        option(mean.op_counts),
        format!("{:.4}", mean.half_measured),
        format!("{:.4}", mean.ties),
        format!("{:.1}", 100.0 * mean.within_95),
        format!("{:.1}", 100.0 * mean.median_error),
    ]);
    table
}
