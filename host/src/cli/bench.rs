//! `hanas bench`: any ONNX file, on any device, with honest statistics.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use hanas_models::model_file::{InputShape, with_definite_inputs};
use hanas_proto::Nanos;
use hanas_proto::measure::{LoadOptions, RoundContext};
use serde::Serialize;

use super::context::{DeviceArg, Global};
use super::output::{Format, Table, json, text};
use super::progress::Progress;
use super::sampling::SamplingArgs;
use super::{Interrupted, NotTrustworthy, Usage, interrupt};
use crate::latency::verdict::{Evidence, Verdict, judge};
use crate::latency::{Estimate, Statistic, estimate};
use crate::link::session::{NodeName, PortFact};
use crate::link::{Facts, Session};
use crate::profile::candidates::Candidate;
use crate::profile::runner::{Ended, Note, run as measure};
use crate::store::{ModelSpec, SessionId, Visit};

/// Arguments of `hanas bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// The ONNX file
    model: PathBuf,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Time every operator as well
    #[arg(long)]
    per_node: bool,
    /// Shape of an input that the file leaves open, NAME=1x3x224x224; may be given again
    #[arg(long = "input", value_name = "NAME=SHAPE")]
    inputs: Vec<InputShape>,
    /// Images a run, where only the first dimension is open
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
}

/// What one model's runs were.
#[derive(Debug, Default)]
pub(super) struct Timings {
    /// Visits in order.
    pub(super) visits: Vec<Visit>,
    /// Rounds' circumstances.
    pub(super) contexts: Vec<(u32, RoundContext)>,
    /// Times of each operator, a list a run.
    pub(super) operators: Vec<Vec<Nanos>>,
    /// Operators' names.
    pub(super) nodes: Vec<NodeName>,
    /// Inputs and outputs.
    pub(super) ports: Vec<PortFact>,
    /// Time from bytes to ready.
    pub(super) load: Nanos,
    /// Runs of the null model: the harness's own cost.
    pub(super) null: Vec<Visit>,
}

#[derive(Serialize)]
struct Report<'a> {
    model: String,
    device: &'a Facts,
    inputs: Vec<String>,
    outputs: Vec<String>,
    load_ms: f64,
    statistic: String,
    latency: Estimate,
    minimum_ns: f64,
    p95_ns: f64,
    harness: Option<Estimate>,
    verdict: Verdict,
    nodes: Vec<NodeTime>,
    samples_ns: Vec<u64>,
}

#[derive(Serialize)]
struct NodeTime {
    index: usize,
    op: String,
    name: String,
    median_ns: f64,
    share: f64,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &BenchArgs) -> anyhow::Result<()> {
    if args.per_node && global.format == Format::Csv {
        let text = "operators are told in text and JSON; leave --format csv or --per-node";
        return Err(Usage(text.to_owned()).into());
    }
    let candidate = read_model(&args.model, &args.inputs, args.batch)?;
    let mut session = global.connect(&args.device)?;
    let timings = time(global, &mut session, &candidate, &args.sampling, LoadOptions::default())
        .with_context(|| args.model.display().to_string())?;
    let nodes = if args.per_node {
        let options = LoadOptions { per_node: true, ..LoadOptions::default() };
        node_times(&time(global, &mut session, &candidate, &args.sampling, options)?)
    } else {
        Vec::new()
    };
    let report = report(&candidate, session.facts(), timings, nodes)?;
    print(global, &report)?;
    if report.verdict.trustworthy || args.sampling.allow_noisy {
        return Ok(());
    }
    Err(NotTrustworthy.into())
}

fn read_model(path: &Path, inputs: &[InputShape], batch: u32) -> anyhow::Result<Candidate> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let onnx = with_definite_inputs(bytes, inputs, batch).with_context(|| name.clone())?;
    Ok(Candidate::of_file(ModelSpec::File { name }, batch, onnx))
}

/// Times one model beside the null model.
pub(super) fn time(
    global: &Global,
    session: &mut Session,
    candidate: &Candidate,
    args: &SamplingArgs,
    options: LoadOptions,
) -> anyhow::Result<Timings> {
    let list = [Candidate::new(ModelSpec::Null, 1)?, candidate.clone()];
    let sampling = args.sampling();
    let stop = interrupt::watch();
    let total = 2 * u64::from(sampling.rounds_left(0));
    let mut progress = Progress::new("measure", total, global.quiet);
    let (mut found, mut failure, mut done) = (Timings::default(), None, 0);
    let ended = measure(session, &list, &[0, 0], &sampling, options, &mut |note| {
        match note {
            Note::Visit { candidate, serial, runs } => {
                done += 1;
                // A slow model gets more visits than were planned.
                progress.at(total.min(done), "");
                let visit = Visit { session: SessionId(0), round: serial, order: 0, samples: runs };
                if candidate == 0 { found.null.push(visit) } else { found.visits.push(visit) }
            }
            Note::Operators { candidate: 1, times } => found.operators.push(times),
            Note::Context { serial, context } => found.contexts.push((serial, context)),
            Note::Loaded { candidate: 1, model } => {
                (found.nodes, found.ports, found.load) = (model.nodes, model.ports, model.took);
            }
            Note::Failed { candidate: 1, reason } => failure = Some(reason),
            Note::Settled { .. } | Note::Operators { .. } | Note::Loaded { .. } | Note::Failed { .. } => {}
        }
        let asked = stop.load(std::sync::atomic::Ordering::Relaxed);
        Ok(if asked || failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    drop(progress);
    if let Some(reason) = failure {
        anyhow::bail!("the device cannot run it: {reason}");
    }
    if ended? == Ended::Stopped {
        return Err(Interrupted { kept: "nothing is kept of a bench".to_owned() }.into());
    }
    Ok(found)
}

fn node_times(timings: &Timings) -> Vec<NodeTime> {
    let median = |index: usize| {
        let mut times: Vec<u64> =
            timings.operators.iter().filter_map(|run| run.get(index)).map(|t| t.0).collect();
        times.sort_unstable();
        times.get(times.len() / 2).map_or(0.0, |&ns| ns as f64)
    };
    let medians: Vec<f64> = (0..timings.nodes.len()).map(median).collect();
    let total: f64 = medians.iter().sum::<f64>().max(1.0);
    let node = |(index, (node, &median_ns)): (usize, (&NodeName, &f64))| NodeTime {
        index,
        op: node.op.clone(),
        name: node.name.clone(),
        median_ns,
        share: median_ns / total,
    };
    timings.nodes.iter().zip(&medians).enumerate().map(node).collect()
}

fn report<'a>(
    candidate: &Candidate,
    facts: &'a Facts,
    timings: Timings,
    nodes: Vec<NodeTime>,
) -> anyhow::Result<Report<'a>> {
    let statistic = Statistic::default();
    let clock = facts.clock_resolution_ns;
    let of = |statistic| estimate(&timings.visits, statistic, clock).map(|found| found.value_ns);
    let ports = |is_input: bool| {
        let wanted = timings.ports.iter().filter(move |port| port.is_input == is_input);
        wanted.map(|port| format!("{} {}", port.name, port.fact)).collect()
    };
    let verdict = judge(&Evidence {
        models: &[timings.visits.as_slice()],
        earlier: &[],
        contexts: &timings.contexts,
        clock_resolution_ns: clock,
        cores: facts.cores,
    });
    Ok(Report {
        model: candidate.spec.name(),
        device: facts,
        inputs: ports(true),
        outputs: ports(false),
        load_ms: timings.load.as_ms(),
        statistic: statistic.to_string(),
        latency: estimate(&timings.visits, statistic, clock)?,
        minimum_ns: of(Statistic::Min)?,
        p95_ns: of(Statistic::Quantile(0.95))?,
        harness: estimate(&timings.null, Statistic::Median, clock).ok(),
        verdict,
        nodes,
        samples_ns: timings.visits.iter().flat_map(|visit| &visit.samples).map(|ns| ns.0).collect(),
    })
}

fn print(global: &Global, report: &Report<'_>) -> anyhow::Result<()> {
    match global.format {
        Format::Json => json(report),
        Format::Csv => {
            // Beside the samples there is no place for it.
            eprintln!("verdict: {}", report.verdict);
            let lines: Vec<String> = report.samples_ns.iter().map(u64::to_string).collect();
            text(&format!("sample_ns\n{}\n", lines.join("\n")))
        }
        Format::Text => text(&page(report)),
    }
}

fn page(report: &Report<'_>) -> String {
    let show = |ns: f64| Nanos::from_f64(ns).to_string();
    let Report { latency, device, .. } = report;
    let mut page = format!("{} on {} ({})\n", report.model, device.name, device.runtime);
    page.push_str(&format!("inputs {}; outputs {}\n\n", report.inputs.join(", "), report.outputs.join(", ")));
    let mut table = Table::new(&["figure", "value"]);
    let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
    let name = format!("latency ({})", report.statistic);
    row(&name, format!("{} (standard error {})", show(latency.value_ns), show(latency.se_ns)));
    row("fastest", show(report.minimum_ns));
    row("median", format!("{} (half of the runs within {})", show(latency.median_ns), show(latency.iqr_ns)));
    row("95% of runs below", show(report.p95_ns));
    row("runs", format!("{} in {} visits", latency.samples, latency.visits));
    row("outliers", format!("{} ({} far out)", latency.outliers, latency.far_outliers));
    row("load", format!("{:.1} ms", report.load_ms));
    if let Some(null) = report.harness {
        row("harness", format!("{} a run", show(null.median_ns)));
    }
    page.push_str(&table.to_text());
    if !report.nodes.is_empty() {
        let mut table = Table::new(&["share %", "us", "op", "name"]);
        for node in &report.nodes {
            let cells = [format!("{:.1}", 100.0 * node.share), format!("{:.1}", node.median_ns / 1e3)];
            table.row([&cells[..], &[node.op.clone(), node.name.clone()]].concat());
        }
        page.push_str(&format!("\n{}", table.to_text()));
    }
    page.push_str(&format!("\nverdict: {}\n", report.verdict));
    page
}
