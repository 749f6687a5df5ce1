//! `hanas experiment`: comparisons of methods, many seeds over, whose tables stand in the documentation.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::context::Global;
use super::experiment_cnn::CnnArgs;
use super::experiment_gnn::{self, GnnArgs};
use super::experiment_omega::{self, OmegaArgs};
use super::output::{Format, Table, json, text};
use super::progress::Progress;
use super::{Interrupted, experiment_cnn, interrupt};
use crate::data::nas_bench_graph::GraphBench;
use crate::search::SearchError;
use crate::search::hgnas::explore::Trial;
use crate::search::hgnas::surrogate::{Arm, Interval, Outcome, Row, Truth};
use crate::search::progress::Monitor;

/// Subcommands of `hanas experiment`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Convnet searches on a device, trained and measured: the registered protocol
    Cnn(Box<CnnArgs>),
    /// Graph-net strategies against the table NAS-Bench-Graph, whose best nets are known
    Surrogate(SurrogateArgs),
    /// Which nets a controller draws after training under the paper's reward, on the same table
    Omega(OmegaArgs),
    /// The searches of the registered protocol on a graph, many seeds over; goes on where it stopped
    Gnn(GnnArgs),
}

/// Graphs that the table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GraphArg {
    /// Cora
    Cora,
    /// Citeseer
    Citeseer,
}

impl GraphArg {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cora => "cora",
            Self::Citeseer => "citeseer",
        }
    }
}

/// Arguments of `hanas experiment surrogate`.
#[derive(Debug, Args)]
pub(super) struct SurrogateArgs {
    /// The table as CSV, plain or gzipped: hash, then GRAPH_valid_perf, GRAPH_perf, GRAPH_latency
    #[arg(long, value_name = "FILE")]
    table: PathBuf,
    /// Whose columns
    #[arg(long, value_enum)]
    data: GraphArg,
    /// Runs of every arm
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// Trials of a run
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// Latency limits, as quantiles of the table's nets
    #[arg(long, value_delimiter = ',', default_values_t = [0.25, 0.5], value_parser = share)]
    limits: Vec<f64>,
}

/// A quantile as a share.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "write shares such as .25".to_owned())
}

#[derive(Serialize)]
struct Report {
    data: GraphArg,
    nets: usize,
    samples: usize,
    limits: Vec<Truth>,
    rows: Vec<Row>,
}

/// Runs the command.
pub(super) fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Cnn(args) => experiment_cnn::run(global, args),
        Command::Surrogate(args) => surrogate(global, args),
        Command::Omega(args) => experiment_omega::run(global, args),
        Command::Gnn(args) => experiment_gnn::run(global, args),
    }
}

fn surrogate(global: &Global, args: &SurrogateArgs) -> anyhow::Result<()> {
    // Tensors are of a hundred values: threads would only wait for each other.
    tch::set_num_threads(1);
    let bench = GraphBench::read(&args.table, args.data.name())?;
    let truth = |share: &f64| Truth::new(&bench, *share).context("no net lies within the limit");
    let limits: Vec<Truth> = args.limits.iter().map(truth).collect::<anyhow::Result<_>>()?;
    let arms = Arm::all();
    let mut progress = Progress::new("surrogate", arms.len() as u64 * args.seeds, global.quiet);
    let mut rows = Vec::new();
    for (place, arm) in arms.iter().enumerate() {
        let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); limits.len()];
        for seed in 1..=args.seeds {
            progress.at(place as u64 * args.seeds + seed, &arm.name());
            for (outcomes, outcome) in outcomes.iter_mut().zip(outcomes_of(arm, &bench, &limits, args, seed)?)
            {
                outcomes.push(outcome);
            }
        }
        let row = |(share, outcomes): (&f64, &Vec<Outcome>)| Row::new(*arm, *share, outcomes);
        rows.extend(args.limits.iter().zip(&outcomes).filter_map(row));
    }
    drop(progress);
    rows.sort_by(|a, b| a.share.total_cmp(&b.share));
    let report = Report { data: args.data, nets: bench.nets.len(), samples: args.samples, limits, rows };
    print(global, &report)
}

/// An error of an experiment that keeps nothing when it is interrupted.
pub(super) fn lost(error: SearchError) -> anyhow::Error {
    match error {
        SearchError::Interrupted => Interrupted { kept: "an experiment keeps nothing".to_owned() }.into(),
        other => other.into(),
    }
}

/// One seed of an arm under every limit. An arm whose trials know no limit runs once for all.
fn outcomes_of(
    arm: &Arm,
    bench: &GraphBench,
    limits: &[Truth],
    args: &SurrogateArgs,
    seed: u64,
) -> anyhow::Result<Vec<Outcome>> {
    let mut ignored = |_: crate::search::progress::Event<'_>| {};
    let mut monitor = Monitor { watch: &mut ignored, stop: interrupt::watch() };
    let mut run = |truth: &Truth| -> anyhow::Result<Vec<Trial>> {
        arm.run(bench, truth.limit_ns, args.samples, seed, &mut monitor).map_err(lost)
    };
    let mut once: Option<Vec<Trial>> = None;
    let mut outcomes = Vec::with_capacity(limits.len());
    for truth in limits {
        if arm.limited || once.is_none() {
            once = Some(run(truth)?);
        }
        outcomes.push(truth.compare(once.as_deref().unwrap_or_default()));
    }
    Ok(outcomes)
}

fn print(global: &Global, report: &Report) -> anyhow::Result<()> {
    let table = table(report);
    match global.format {
        Format::Json => json(report),
        Format::Csv => text(&table.to_csv()),
        Format::Text => {
            let mut page = String::new();
            for truth in &report.limits {
                page.push_str(&format!(
                    "limit q{:02.0} {:.3} ms: best validation {:.2}%, its test {:.2}%\n",
                    100.0 * truth.share,
                    truth.limit_ns / 1e6,
                    100.0 * truth.validation,
                    100.0 * truth.test
                ));
            }
            text(&(page + &table.to_text()))
        }
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        "limit",
        "arm",
        "regret points",
        "95% CI",
        "front missed %",
        "95% CI",
        "test %",
        "95% CI",
        "missed",
        "distinct",
    ]);
    let mean = |interval: &Interval| format!("{:.2}", 100.0 * interval.mean);
    let ends = |interval: &Interval| format!("{:.2} to {:.2}", 100.0 * interval.low, 100.0 * interval.high);
    for row in &report.rows {
        table.row(vec![
            format!("q{:02.0}", 100.0 * row.share),
            row.arm.name(),
            mean(&row.regret),
            ends(&row.regret),
            mean(&row.front_regret),
            ends(&row.front_regret),
            row.test.as_ref().map_or_else(String::new, mean),
            row.test.as_ref().map_or_else(String::new, ends),
            row.missed.to_string(),
            format!("{:.0}", row.distinct),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_shares() {
        assert_eq!([".25", "0.5", "1"].map(|text| share(text).ok()), [0.25, 0.5, 1.0].map(Some));
        for wrong in ["0", "25", "-.1", "1.01", "NaN", "q25", ""] {
            assert_eq!(share(wrong), Err("write shares such as .25".to_owned()), "{wrong}");
        }
    }
}
