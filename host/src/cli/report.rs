//! `hanas report`: a task on a device and its runs, as one HTML page.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::context::{AnyTaskArg, Global, stored_device};
use super::graph::saved_space;
use super::output::{Format, json, text};
use super::{report_graph, space};
use crate::latency::{Statistic, estimate};
use crate::profile::graph_candidates::BATCH;
use crate::report::line_chart::{LineChart, Series};
use crate::report::net_chart::Net;
use crate::report::page::{GraphPart, Making, Overhead, Page, Session, Space};
use crate::search::config::{CostKind, Gate, SearchConfig, Strategy};
use crate::search::hgnas::record::GnnRunRecord;
use crate::search::progress::{SearchEpoch, TrainEpoch, read_lines};
use crate::search::run::{Kind, NetRecord, RunDir, write_whole};
use crate::store::{ModelSamples, ModelSpec, SampleQuery, Store, Visit};
use crate::task::AnyTask;
use crate::train::record::TrainRecord;

/// Arguments of `hanas report`.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Folders of runs to show
    runs: Vec<PathBuf>,
    #[command(flatten)]
    task: AnyTaskArg,
    /// A board's name or row number, as the store has it [default: the last profiled]
    #[arg(long, short)]
    device: Option<String>,
    /// The page to write
    #[arg(long, short, default_value = "report.html", value_name = "FILE")]
    output: PathBuf,
}

#[derive(serde::Serialize)]
struct Written {
    file: PathBuf,
    bytes: usize,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &ReportArgs) -> anyhow::Result<()> {
    let task = &args.task.task;
    let (batch, whole) = match task {
        AnyTask::Conv(_) => (args.task.batch, format!("batch {}", args.task.batch)),
        AnyTask::Graph(_) => (BATCH, "the whole graph".to_owned()),
    };
    let store = global.existing_store()?;
    let device = stored_device(&store, args.device.as_deref(), task.name(), batch)?;
    let query = SampleQuery { device, task: Some(task.name()), batch, only_trustworthy: false };
    let samples = store.samples(&query)?;
    let facts = store.device(device)?;
    let clock = facts.as_ref().map_or(1, |facts| facts.clock_resolution_ns);
    let name = facts.as_ref().map_or_else(String::new, |facts| format!(" on {}", facts.name));
    let mut page = Page {
        title: format!("{}{name}, {whole}", task.name()),
        made_unix_ms: now_unix_ms(),
        sessions: sessions(&store, &query)?,
        overhead: overhead(&samples, clock),
        device: facts,
        making: Making {
            commands: vec![
                std::env::args_os()
                    .map(|word| word.to_string_lossy().into_owned())
                    .collect::<Vec<_>>()
                    .join(" "),
            ],
            versions: vec![("hanas".to_owned(), env!("CARGO_PKG_VERSION").to_owned())],
            notes: Vec::new(),
        },
        ..Page::default()
    };
    let title = task.name().to_owned();
    match task {
        AnyTask::Conv(_) => {
            if let Ok(saved) = space::load(&store, &query) {
                let newer_sessions = saved.newer.len();
                page.spaces.push(Space { title, space: saved.value, newer_sessions });
            }
        }
        AnyTask::Graph(_) => {
            if let Ok(saved) = saved_space(&store, device, task.name(), None) {
                let newer_sessions = saved.newer.len();
                page.graph_spaces.push(GraphPart { title, space: saved.value, newer_sessions });
            }
        }
    }
    for path in &args.runs {
        let dir = RunDir::open(path)?;
        let (of, run_batch) = match dir.kind()? {
            Kind::Conv => dir.record().map(|record| (record.task.name, record.batch))?,
            Kind::Graph => (GnnRunRecord::load(&dir)?.task, BATCH),
        };
        // Nets of another task or batch are no more or less of this one's base net.
        if (of.as_str(), run_batch) != (task.name(), batch) {
            let run = path.display();
            let wrong = format!(
                "{run} is a run of {of}, batch {run_batch}: give it a page of its own with that --task and --batch"
            );
            return Err(super::Usage(wrong).into());
        }
        match dir.kind()? {
            Kind::Conv => add_run(&mut page, &dir)?,
            Kind::Graph => report_graph::add_run(&mut page, &dir)?,
        }
    }
    let html = page.html();
    write_whole(&args.output, html.as_bytes())?;
    let written = Written { file: args.output.clone(), bytes: html.len() };
    match global.format {
        Format::Json => json(&written),
        _ => text(&format!("{}: {} bytes\n", written.file.display(), written.bytes)),
    }
}

fn now_unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// The sessions that the samples are of; the device may have had another kernel or agent then.
fn sessions(store: &Store, query: &SampleQuery<'_>) -> anyhow::Result<Vec<Session>> {
    let covered = store.covered_sessions(query)?;
    let mut sessions = Vec::new();
    for row in store.sessions()? {
        if covered.contains(&row.id) {
            let contexts = store.contexts(row.id)?;
            sessions.push(Session { row, contexts });
        }
    }
    Ok(sessions)
}

/// The harness's own cost beside the shortest model that was measured.
fn overhead(samples: &[ModelSamples], clock_ns: u32) -> Option<Overhead> {
    let of = |visits: &[Visit]| estimate(visits, Statistic::Median, clock_ns).ok();
    let null = samples.iter().find(|model| model.spec == ModelSpec::Null)?;
    let others = samples.iter().filter(|model| model.spec != ModelSpec::Null);
    let shortest_ns =
        others.filter_map(|model| of(&model.visits)).map(|found| found.median_ns).reduce(f64::min)?;
    Some(Overhead { null: of(&null.visits)?, shortest_ns })
}

/// A run goes by its folder's name.
pub(super) fn run_name(dir: &RunDir) -> String {
    dir.path().file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Puts a run's net, its base net and its curves on the page.
fn add_run(page: &mut Page, dir: &RunDir) -> anyhow::Result<()> {
    let record = dir.record()?;
    let name = run_name(dir);
    let training = TrainRecord::load(dir).ok();
    // What another device said of the net is none of this page's.
    let verify = dir.verify().ok().filter(|verify| verify.device == record.device);
    if let Ok(base) = dir.base()
        && page.nets.iter().all(|net| net.strategy != "base")
    {
        let accuracy = training.as_ref().and_then(|training| training.teacher_test_accuracy);
        let base_ns = verify.as_ref().map(|verify| verify.at_pace(verify.base_ns)).or(base.measured_ns);
        page.nets.push(Net { accuracy, latency_ns: base_ns, ..net_row("base", "base", &base) });
    }
    if let Ok(found) = dir.net() {
        let budget_ns = match record.config.gate {
            Gate::Latency { budget_ns } => Some(budget_ns),
            Gate::Flops { .. } => None,
        };
        let row = net_row(&name, strategy(record.config.strategy), &found);
        page.nets.push(Net {
            accuracy: training.as_ref().map(|training| training.test_accuracy),
            latency_ns: verify
                .as_ref()
                .map(|verify| verify.at_pace(verify.measured_ns))
                .or(found.measured_ns),
            latency_se_ns: verify.as_ref().map_or(0.0, |verify| verify.at_pace(verify.error_ns)),
            budget_ns,
            ..row
        });
    }
    let search: Vec<SearchEpoch> = read_lines(&dir.search_log()).unwrap_or_default();
    if !search.is_empty() {
        add_search(page, &name, &record.config, &search);
    }
    let trained: Vec<TrainEpoch> = read_lines(&dir.train_log()).unwrap_or_default();
    if !trained.is_empty() {
        add_training(page, &name, &trained);
    }
    Ok(())
}

/// Loss, accuracy and cost over a search's epochs.
fn add_search(page: &mut Page, run: &str, config: &SearchConfig, search: &[SearchEpoch]) {
    let of = |name: &str, value: &dyn Fn(&SearchEpoch) -> f64| Series {
        name: name.to_owned(),
        points: search.iter().map(|line| (f64::from(line.epoch + 1), value(line))).collect(),
    };
    let slims = config.strategy == Strategy::NetAdapt;
    // A warm-up has no steps of the architecture: no point rather than one at 0.
    let logits = |line: &SearchEpoch, value: f64| if line.warmup && !slims { f64::NAN } else { value };
    let losses = vec![
        of("weights", &|line| line.weight_loss),
        of("architecture", &|line| logits(line, line.logit_loss)),
    ];
    page.curves.push(chart(&format!("{run}: search loss"), "cross entropy", losses));
    let mut accuracies = vec![of("weights' half", &|line| 100.0 * line.weight_accuracy)];
    if !slims {
        let judged = of("architecture's half", &|line| logits(line, 100.0 * line.logit_accuracy));
        accuracies.push(judged);
    }
    page.curves.push(chart(&format!("{run}: accuracy of sampled nets"), "accuracy, %", accuracies));
    let (title, unit, charged) = match config.gate {
        Gate::Latency { .. } => ("latency", "ms", config.cost != CostKind::Flops),
        Gate::Flops { .. } => ("multiply-adds", "multiply-adds, M", config.cost == CostKind::Flops),
    };
    let mut costs = Vec::new();
    // Time and multiply-adds have no axis in common; who slims expects nothing.
    if charged && !slims {
        costs.push(of("expected", &|line| line.expected_cost / 1e6));
    }
    if matches!(config.gate, Gate::Latency { .. }) {
        costs.push(of("argmax net, estimated", &|line| line.estimated_cost / 1e6));
        costs.push(of("argmax net, measured", &|line| line.measured_cost / 1e6));
    } else {
        costs.push(of("argmax net", &|line| line.estimated_cost / 1e6));
    }
    costs.push(of("budget", &|line| line.target_cost / 1e6));
    page.curves.push(chart(&format!("{run}: {title} during the search"), unit, costs));
}

/// Loss and accuracy over a training's epochs.
fn add_training(page: &mut Page, run: &str, trained: &[TrainEpoch]) {
    let point = |value: f64, line: &TrainEpoch| (f64::from(line.epoch + 1), value);
    let loss = trained.iter().map(|line| point(line.loss, line)).collect();
    let loss = Series { name: "training images".to_owned(), points: loss };
    page.curves.push(chart(&format!("{run}: training loss"), "loss", vec![loss]));
    let seen = trained.iter().map(|line| point(100.0 * line.accuracy, line)).collect();
    let tested = trained.iter().filter_map(|line| Some(point(100.0 * line.test_accuracy?, line))).collect();
    let series = vec![
        Series { name: "training images".to_owned(), points: seen },
        Series { name: "test images".to_owned(), points: tested },
    ];
    page.curves.push(chart(&format!("{run}: training"), "accuracy, %", series));
}

fn chart(title: &str, y_label: &str, series: Vec<Series>) -> LineChart {
    LineChart { title: title.to_owned(), x_label: "epoch".to_owned(), y_label: y_label.to_owned(), series }
}

fn net_row(name: &str, strategy: &str, record: &NetRecord) -> Net {
    Net {
        name: name.to_owned(),
        strategy: strategy.to_owned(),
        accuracy: None,
        latency_ns: record.measured_ns,
        latency_se_ns: 0.0,
        predicted_ns: record.predicted_ns,
        budget_ns: None,
        macs: Some(record.macs),
        params: record.params,
        widths: record.summary.clone(),
    }
}

const fn strategy(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Htas => "htas",
        Strategy::Tas { .. } => "tas",
        Strategy::Aligned => "aligned",
        Strategy::RandomGroups => "random-groups",
        Strategy::Random => "random",
        Strategy::Uniform => "uniform",
        Strategy::NetAdapt => "netadapt",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::run::{RunRecord, SCHEMA_VERSION, VerifyRecord};
    use crate::space::width::WidthSpace;
    use crate::task::Task;

    fn line(epoch: u32, warmup: bool) -> SearchEpoch {
        SearchEpoch {
            epoch,
            warmup,
            temperature: 1.0,
            weight_loss: 2.0,
            weight_accuracy: 0.25,
            logit_loss: if warmup { 0.0 } else { 2.5 },
            logit_accuracy: if warmup { 0.0 } else { 0.125 },
            expected_cost: 3e6,
            argmax: String::new(),
            estimated_cost: 5e6,
            measured_cost: 6e6,
            target_cost: 4e6,
            wall_ms: 1,
            peak_memory_bytes: 0,
        }
    }

    /// Curves of loss, accuracy and cost, as names and values.
    fn curves(strategy: Strategy, gate: Gate) -> [Vec<(String, Vec<f64>)>; 3] {
        let config = SearchConfig::paper(strategy, gate, 1);
        let mut page = Page::default();
        add_search(&mut page, "run", &config, &[line(0, true), line(1, false)]);
        let values = |series: &Series| -> Vec<f64> { series.points.iter().map(|point| point.1).collect() };
        let named = |series: &Series| (series.name.clone(), values(series));
        std::array::from_fn(|place| page.curves[place].series.iter().map(named).collect())
    }

    fn names(curves: &[(String, Vec<f64>)]) -> Vec<&str> {
        curves.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_warm_up_is_a_gap_in_the_architectures_curves() {
        let [losses, accuracies, _] = curves(Strategy::Htas, Gate::Latency { budget_ns: 4e6 });
        assert!(losses[1].1[0].is_nan() && losses[1].1[1] == 2.5, "{losses:?}");
        assert!(accuracies[1].1[0].is_nan() && accuracies[1].1[1] == 12.5, "{accuracies:?}");
        assert_eq!(accuracies[0].1, [25.0, 25.0]);
        // The proxy's loss, from the first epoch on, and no accuracy.
        let [losses, accuracies, costs] = curves(Strategy::NetAdapt, Gate::Latency { budget_ns: 4e6 });
        assert!(losses[1].1[0] == 0.0 && names(&accuracies) == ["weights' half"], "{accuracies:?}");
        assert_eq!(names(&costs), ["argmax net, estimated", "argmax net, measured", "budget"]);
    }

    #[test]
    fn latencies_are_those_of_the_runs_own_device() {
        let folder = tempfile::tempdir().unwrap();
        let task: Task = "shapes10-resnet20".parse().unwrap();
        let mut net = NetRecord::new(&task.family.base()).unwrap();
        let record = RunRecord {
            schema_version: SCHEMA_VERSION,
            device: "board".to_owned(),
            batch: 4,
            config: SearchConfig::scaled(Strategy::Htas, Gate::Latency { budget_ns: 4e6 }, 1),
            space: WidthSpace::aligned(&task.family, 2, 8),
            train_images: None,
            budget: None,
            images_digest: None,
            task,
        };
        let dir = RunDir::create(folder.path(), &record).unwrap();
        net.measured_ns = Some(3e6);
        dir.save_net(&net).unwrap();
        net.measured_ns = Some(6e6);
        dir.save_base(&net).unwrap();
        let shown = |device: &str| {
            let verify = VerifyRecord {
                schema_version: SCHEMA_VERSION,
                device: device.to_owned(),
                predicted_ns: None,
                measured_ns: 1e6,
                error_ns: 1e4,
                base_ns: 2e6,
                slower: None,
                in_turns: Vec::new(),
                budget_ns: None,
                within_budget: None,
                on_device: None,
                doubts: Vec::new(),
            };
            dir.save_verify(&verify).unwrap();
            let mut page = Page::default();
            add_run(&mut page, &dir).unwrap();
            page.nets.iter().map(|net| (net.latency_ns, net.latency_se_ns)).collect::<Vec<_>>()
        };
        assert_eq!(shown("board"), [(Some(2e6), 0.0), (Some(1e6), 1e4)]);
        assert_eq!(shown("elsewhere"), [(Some(6e6), 0.0), (Some(3e6), 0.0)]);
    }

    #[test]
    fn costs_are_drawn_in_the_gates_unit() {
        let [.., costs] = curves(Strategy::Htas, Gate::Latency { budget_ns: 4e6 });
        assert_eq!(names(&costs), ["expected", "argmax net, estimated", "argmax net, measured", "budget"]);
        let [.., costs] = curves(Strategy::Tas { expand: 1 }, Gate::Flops { ratio: 0.5 });
        assert_eq!(names(&costs), ["expected", "argmax net", "budget"]);
        assert_eq!(costs[1].1, [5.0, 5.0]);
    }
}
