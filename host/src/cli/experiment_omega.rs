//! `hanas experiment omega`: which nets a controller draws after training with the paper's reward.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::context::Global;
use super::experiment::{GraphArg, lost};
use super::interrupt;
use super::output::{Format, Table, json, text};
use super::progress::Progress;
use crate::data::nas_bench_graph::GraphBench;
use crate::search::hgnas::influence::{Drawn, Effort, Influence, Quantiles, drawn};
use crate::search::progress::{Event, Monitor};

/// Arguments of `hanas experiment omega`.
#[derive(Debug, Args)]
pub(super) struct OmegaArgs {
    /// The table as CSV, plain or gzipped: hash, then GRAPH_valid_perf, GRAPH_perf, GRAPH_latency
    #[arg(long, value_name = "FILE")]
    table: PathBuf,
    /// Whose columns
    #[arg(long, value_enum)]
    data: GraphArg,
    /// Exponents of the reward accuracy * (latency/T)^-omega; 0 is accuracy alone
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.05, 0.07, 0.1], value_parser = exponent)]
    omegas: Vec<f64>,
    /// Controllers trained for each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// Trials of a training
    #[arg(long, default_value_t = 1000)]
    samples: usize,
    /// Nets drawn after it
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    draws: u32,
}

#[derive(Serialize)]
struct Report {
    data: GraphArg,
    seeds: u64,
    effort: Effort,
    rows: Vec<Influence>,
}

fn exponent(text: &str) -> Result<f64, String> {
    let omega: f64 = text.parse().map_err(|_| "give a number such as 0.07".to_owned())?;
    if (0.0..=10.0).contains(&omega) { Ok(omega) } else { Err("give a number from 0 to 10".to_owned()) }
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &OmegaArgs) -> anyhow::Result<()> {
    // Tensors are of a hundred values: threads would only wait for each other.
    tch::set_num_threads(1);
    let bench = GraphBench::read(&args.table, args.data.name())?;
    let effort = Effort { samples: args.samples, draws: args.draws as usize };
    let omegas: Vec<Option<f64>> = args.omegas.iter().copied().map(Some).chain([None]).collect();
    let mut progress = Progress::new("omega", omegas.len() as u64 * args.seeds, global.quiet);
    let mut ignored = |_: Event<'_>| {};
    let mut monitor = Monitor { watch: &mut ignored, stop: interrupt::watch() };
    let mut rows = Vec::new();
    for (place, &omega) in omegas.iter().enumerate() {
        let mut nets: Vec<Vec<Drawn>> = Vec::new();
        for seed in 1..=args.seeds {
            progress.at(place as u64 * args.seeds + seed, &name(omega));
            nets.push(drawn(&bench, omega, effort, seed, &mut monitor).map_err(lost)?);
        }
        rows.extend(Influence::new(omega, &nets));
    }
    drop(progress);
    print(global, &Report { data: args.data, seeds: args.seeds, effort, rows })
}

fn name(omega: Option<f64>) -> String {
    omega.map_or_else(|| "chance".to_owned(), |omega| format!("omega {omega}"))
}

fn print(global: &Global, report: &Report) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        "drawn by",
        "latency ms q10",
        "median",
        "95% CI",
        "q90",
        "accuracy % q10",
        "median",
        "95% CI",
        "q90",
    ]);
    let cells = |of: &Quantiles, unit: f64, digits: usize| {
        let number = |value: f64| format!("{:.digits$}", value / unit);
        let ends = format!("{} to {}", number(of.median.low), number(of.median.high));
        [number(of.low.mean), number(of.median.mean), ends, number(of.high.mean)]
    };
    for row in &report.rows {
        let mut line = vec![name(row.omega)];
        line.extend(cells(&row.latency_ns, 1e6, 3));
        line.extend(cells(&row.validation, 0.01, 2));
        table.row(line);
    }
    match global.format {
        Format::Json => json(report),
        Format::Csv => text(&table.to_csv()),
        Format::Text => text(&table.to_text()),
    }
}
