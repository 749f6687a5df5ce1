//! `hanas experiment gnn`: GraphNAS against HGNAS on a device, arm by arm and seed by seed. Every search is a
//! run's folder like any other; a second call passes over what is verified and goes on with what is not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Parser};
use serde::Serialize;

use super::context::{DeviceArg, Global};
use super::graph_run::{Asked, GraphRun, agreed, verify};
use super::hgnas_args::{HgnasArgs, SpaceArg};
use super::output::{Format, Table, json, text};
use super::{Usage, search_hgnas};
use crate::data::graph::load;
use crate::profile::sampling::Sampling;
use crate::search::SearchError;
use crate::search::hgnas::record::{GnnNetRecord, GnnVerifyRecord};
use crate::search::hgnas::surrogate::Interval;
use crate::search::run::RunDir;
use crate::task::graph::GraphTask;

/// Arguments of `hanas experiment gnn`.
#[derive(Debug, Args)]
pub(super) struct GnnArgs {
    /// The graph: cora-gnn, citeseer-gnn, pubmed-gnn, planted-gnn, which is no benchmark, or NAME-gnn
    #[arg(long, short, value_name = "TASK")]
    task: GraphTask,
    /// Folder of the graph's files
    #[arg(long, env = "HANAS_DATA", value_name = "FOLDER", default_value = ".")]
    data: PathBuf,
    /// A device's name in the inventory or its address; its space of heads and dims must be built
    #[arg(long, short, env = "HANAS_DEVICE", value_name = "DEVICE")]
    device: String,
    /// Runs of every arm
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: u64,
    /// Latency limits of the limited arms, as quantiles of random nets in percent
    #[arg(long, value_delimiter = ',', default_values_t = [25u32, 50], value_parser = clap::value_parser!(u32).range(1..=100))]
    limits: Vec<u32>,
    /// Only these arms [default: all]
    #[arg(long, value_delimiter = ',', value_name = "ARM")]
    arms: Vec<String>,
    /// Folder of the runs
    #[arg(long, short, value_name = "FOLDER")]
    out: PathBuf,
    /// Say what would be searched, and what is done already, and search nothing
    #[arg(long)]
    dry_run: bool,
    /// What every search is given as well, after `--`: --samples 50, --epochs 30, --allow-noisy ...
    #[arg(last = true, allow_hyphen_values = true, value_name = "OPTION")]
    more: Vec<String>,
}

/// An arm without a limit, and the options that make it; the first is what the others are held against.
const FREE: [(&str, &[&str]); 6] = [
    (GRAPHNAS, &["--space", "graphnas", "--reward", "accuracy"]),
    ("space", &["--space", "hgnas", "--reward", "accuracy"]),
    ("reward", &["--space", "graphnas", "--reward", "latency"]),
    ("both", &["--space", "hgnas", "--reward", "latency"]),
    ("random", &["--space", "graphnas", "--strategy", "random", "--reward", "accuracy"]),
    ("random-space", &["--space", "hgnas", "--strategy", "random", "--reward", "accuracy"]),
];
/// Arms under each limit.
const LIMITED: [(&str, &[&str]); 4] = [
    (GRAPHNAS, &["--space", "graphnas", "--reward", "accuracy"]),
    ("both", &["--space", "hgnas", "--reward", "latency"]),
    ("random-space", &["--space", "hgnas", "--strategy", "random", "--reward", "accuracy"]),
    ("evolution-space", &["--space", "hgnas", "--strategy", "evolution", "--reward", "accuracy"]),
];
const GRAPHNAS: &str = "graphnas";
/// Timed runs of a seed's nets in turns.
const TURNS: u32 = 200;
/// Seconds to wait while another session holds the device.
const QUEUE_SECONDS: u64 = 600;

/// One search.
struct Plan {
    arm: String,
    /// The arm that it is held against.
    control: String,
    seed: u64,
    folder: PathBuf,
    words: Vec<String>,
}

/// What one search came to.
#[derive(Debug, Clone, Serialize)]
struct Row {
    arm: String,
    seed: u64,
    net: String,
    test: f64,
    test_sd: f64,
    trainings: usize,
    measured_ns: f64,
    within_limit: Option<bool>,
    trustworthy: bool,
}

/// An arm over its seeds.
#[derive(Debug, Clone, Serialize)]
struct Summary {
    arm: String,
    seeds: usize,
    test: Interval,
    measured_ms: Interval,
    /// Points of test accuracy over the control's, by seed.
    gain: Option<Interval>,
    /// The control's latency over the arm's, by seed.
    speedup: Option<Interval>,
}

#[derive(Serialize)]
struct Report {
    task: String,
    rows: Vec<Row>,
    arms: Vec<Summary>,
    failed: Vec<Failed>,
}

#[derive(Debug, Clone, Serialize)]
struct Failed {
    arm: String,
    seed: u64,
    why: String,
}

/// The command line of a search, to be parsed as one.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: HgnasArgs,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &GnnArgs) -> anyhow::Result<()> {
    let plans = plans(args)?;
    // Parsed before anything runs: what is wrong with an option is found at once.
    let lines: Vec<Line> = plans.iter().map(line).collect::<anyhow::Result<_>>()?;
    let open = plans.iter().zip(&lines).filter(|(plan, _)| verified(&plan.folder).is_none());
    let mut measured = open.filter(|(_, line)| line.args.space == SpaceArg::Hgnas);
    if let (false, Some((_, line))) = (args.dry_run, measured.next()) {
        // Found at once, and not after the first arm.
        search_hgnas::ready(global, &line.args)?;
    }
    let mut failed = Vec::new();
    for (place, (plan, line)) in plans.iter().zip(&lines).enumerate() {
        let done = verified(&plan.folder).is_some();
        if args.dry_run || done {
            let state = if done { "done" } else { "to do" };
            eprintln!("{:>3}/{} {} seed {}: {state}", place + 1, plans.len(), plan.arm, plan.seed);
            continue;
        }
        eprintln!("{:>3}/{} {} seed {}", place + 1, plans.len(), plan.arm, plan.seed);
        let Err(error) = search_hgnas::hgnas(global, &line.args) else { continue };
        // Whatever else goes wrong ends the experiment; a search that finds nothing is a result.
        if !matches!(error.downcast_ref(), Some(SearchError::NoFinalist(_))) {
            return Err(error.context(format!("{} seed {}", plan.arm, plan.seed)));
        }
        eprintln!("{} seed {}: {error:#}", plan.arm, plan.seed);
        failed.push(Failed { arm: plan.arm.clone(), seed: plan.seed, why: format!("{error:#}") });
    }
    if !args.dry_run {
        for seed in 1..=args.seeds {
            in_turns(global, args, plans.iter().filter(|plan| plan.seed == seed))?;
        }
    }
    let rows: Vec<Row> = plans.iter().filter_map(row).collect();
    let report = Report { task: args.task.name.clone(), arms: summaries(&plans, &rows), rows, failed };
    print(global, &report)
}

/// Measures the nets of one seed again, in turns: the device may have changed its pace from arm to arm.
fn in_turns<'p>(
    global: &Global,
    args: &GnnArgs,
    plans: impl Iterator<Item = &'p Plan>,
) -> anyhow::Result<()> {
    let folders: Vec<&PathBuf> =
        plans.map(|plan| &plan.folder).filter(|folder| verified(folder).is_some()).collect();
    let together = |folder: &&PathBuf| {
        verified(folder).is_some_and(|(_, verify)| folders.iter().all(|of| verify.in_turns.contains(of)))
    };
    if folders.len() < 2 || folders.iter().all(together) {
        return Ok(());
    }
    let open = |folder: &&PathBuf| GraphRun::open(&RunDir::open(folder)?);
    let runs: Vec<GraphRun> = folders.iter().map(open).collect::<anyhow::Result<_>>()?;
    let data = load(&args.task.data, &args.data)?;
    let device = DeviceArg { device: args.device.clone(), queue_timeout: QUEUE_SECONDS };
    let mut session = global.connect(&device)?;
    eprintln!("measuring {} nets in turns", runs.len());
    let sampling = Sampling { samples: TURNS, ..Sampling::default() };
    let asked = Asked { device: &args.device, data: Some(&data), answers: true, sampling };
    let (records, _) = verify(&runs, &mut session, &asked)?;
    // A net over its limit is told by the table.
    agreed(&records)
}

fn plans(args: &GnnArgs) -> anyhow::Result<Vec<Plan>> {
    let mut arms: Vec<(String, String, Vec<String>)> = Vec::new();
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    for (name, words) in FREE {
        arms.push((name.to_owned(), GRAPHNAS.to_owned(), owned(words)));
    }
    for limit in &args.limits {
        for (name, words) in LIMITED {
            let more = owned(&["--limit", &format!("q{limit}")]);
            arms.push((
                format!("{name}-q{limit}"),
                format!("{GRAPHNAS}-q{limit}"),
                [owned(words), more].concat(),
            ));
        }
    }
    let unknown = args.arms.iter().find(|wanted| arms.iter().all(|(name, ..)| name != *wanted));
    if let Some(unknown) = unknown {
        let names: Vec<&str> = arms.iter().map(|(name, ..)| name.as_str()).collect();
        return Err(Usage(format!("there is no arm '{unknown}'; there are {}", names.join(", "))).into());
    }
    arms.retain(|(name, ..)| args.arms.is_empty() || args.arms.contains(name));
    let text = |path: &Path| path.display().to_string();
    let mut plans = Vec::new();
    // Seed by seed, so that what is there after an interruption is comparable.
    for seed in 1..=args.seeds {
        for (arm, control, words) in &arms {
            let folder = args.out.join(format!("{arm}-s{seed}"));
            let own = [
                "hgnas".to_owned(),
                format!("--task={}", args.task.name),
                format!("--data={}", text(&args.data)),
                format!("--device={}", args.device),
                format!("--out={}", text(&folder)),
                format!("--scores={}", text(&args.out.join("scores.jsonl"))),
                format!("--latencies={}", text(&args.out.join("latencies.jsonl"))),
                format!("--seed={seed}"),
            ];
            let words = [&own[..], words, &args.more].concat();
            plans.push(Plan { arm: arm.clone(), control: control.clone(), seed, folder, words });
        }
    }
    Ok(plans)
}

fn line(plan: &Plan) -> anyhow::Result<Line> {
    Line::try_parse_from(&plan.words).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        Usage(format!("{}: {}", plan.arm, first.trim_start_matches("error: "))).into()
    })
}

/// The records of a run that was searched, trained and verified.
fn verified(folder: &Path) -> Option<(GnnNetRecord, GnnVerifyRecord)> {
    let dir = RunDir::open(folder).ok()?;
    Some((GnnNetRecord::load(&dir).ok()?, GnnVerifyRecord::load(&dir).ok()?))
}

fn row(plan: &Plan) -> Option<Row> {
    let (net, verify) = verified(&plan.folder)?;
    let test = net.test?;
    Some(Row {
        arm: plan.arm.clone(),
        seed: plan.seed,
        net: net.summary,
        test: test.mean,
        test_sd: test.sd,
        trainings: net.runs,
        measured_ns: verify.measured_ns,
        within_limit: verify.within_limit,
        trustworthy: verify.doubts.is_empty(),
    })
}

fn summaries(plans: &[Plan], rows: &[Row]) -> Vec<Summary> {
    let by_place: BTreeMap<(&str, u64), &Row> =
        rows.iter().map(|row| ((row.arm.as_str(), row.seed), row)).collect();
    let mut arms: Vec<(&str, &str)> = Vec::new();
    for plan in plans {
        let arm = (plan.arm.as_str(), plan.control.as_str());
        if !arms.contains(&arm) {
            arms.push(arm);
        }
    }
    let summary = |(arm, control): (&str, &str)| {
        let own: Vec<&Row> = rows.iter().filter(|row| row.arm == arm).collect();
        let of = |value: &dyn Fn(&Row) -> f64| {
            Interval::new(&own.iter().map(|row| value(row)).collect::<Vec<_>>())
        };
        let paired = |value: &dyn Fn(&Row, &Row) -> f64| {
            let pair = |row: &&Row| Some(value(row, by_place.get(&(control, row.seed))?));
            let values: Vec<f64> = own.iter().filter_map(pair).collect();
            (arm != control).then(|| Interval::new(&values)).flatten()
        };
        Some(Summary {
            arm: arm.to_owned(),
            seeds: own.len(),
            test: of(&|row| row.test)?,
            measured_ms: of(&|row| row.measured_ns / 1e6)?,
            gain: paired(&|row, control| row.test - control.test),
            speedup: paired(&|row, control| control.measured_ns / row.measured_ns),
        })
    };
    arms.into_iter().filter_map(summary).collect()
}

fn print(global: &Global, report: &Report) -> anyhow::Result<()> {
    let mut table = Table::new(&[
        "arm",
        "seeds",
        "test %",
        "95% CI",
        "ms",
        "95% CI",
        "points over GraphNAS",
        "95% CI",
        "times faster",
        "95% CI",
    ]);
    for of in &report.arms {
        let mut cells = vec![of.arm.clone(), of.seeds.to_string()];
        for (interval, scale) in
            [(Some(of.test), 100.0), (Some(of.measured_ms), 1.0), (of.gain, 100.0), (of.speedup, 1.0)]
        {
            let text = |value: f64| format!("{:.2}", scale * value);
            cells.push(interval.map_or_else(String::new, |of| text(of.mean)));
            cells.push(
                interval.map_or_else(String::new, |of| format!("{} to {}", text(of.low), text(of.high))),
            );
        }
        table.row(cells);
    }
    match global.format {
        Format::Json => json(report),
        Format::Csv => text(&table.to_csv()),
        Format::Text => {
            let missed = report.rows.iter().filter(|row| row.within_limit == Some(false)).count();
            let doubted = report.rows.iter().filter(|row| !row.trustworthy).count();
            let failed = report.failed.len();
            text(&format!(
                "{}{} searches; {missed} nets over their limit when measured again; {doubted} measurements not trustworthy; {failed} searches found nothing\n",
                table.to_text(),
                report.rows.len()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: GnnArgs,
    }

    fn parse(more: &[&str]) -> GnnArgs {
        let words = ["gnn", "--task", "planted-gnn", "--device", "d", "--out", "runs"];
        Command::parse_from([&words[..], more].concat()).args
    }

    #[test]
    fn every_arm_is_a_search_of_its_own() {
        let plans = plans(&parse(&["--seeds", "2", "--", "--samples", "5"])).unwrap();
        assert_eq!(plans.len(), 2 * (6 + 2 * 4));
        let folders: std::collections::BTreeSet<&PathBuf> = plans.iter().map(|plan| &plan.folder).collect();
        assert_eq!(folders.len(), plans.len());
        for plan in &plans {
            let args = line(plan).unwrap().args;
            assert_eq!((args.samples(), args.seed, args.out), (5, plan.seed, plan.folder.clone()));
            assert_eq!(args.limit.is_some(), plan.arm.contains("-q"));
            assert!(plans.iter().any(|other| other.arm == plan.control));
        }
    }

    #[test]
    fn what_makes_no_search_is_said_before_any_runs() {
        let wrong = plans(&parse(&["--arms", "both,neither"])).err().unwrap().to_string();
        assert!(wrong.contains("'neither'") && wrong.contains("both-q25"), "{wrong}");
        let plans = plans(&parse(&["--", "--sample", "5"])).unwrap();
        let wrong = line(&plans[0]).unwrap_err();
        assert!(super::super::exit_code(&wrong) == 2 && wrong.to_string().contains("--sample"), "{wrong}");
    }

    #[test]
    fn arms_are_held_against_the_control_of_their_seed() {
        let plans = plans(&parse(&["--seeds", "2", "--arms", "graphnas,both"])).unwrap();
        let row = |arm: &str, seed, test, measured_ns| Row {
            arm: arm.to_owned(),
            seed,
            net: String::new(),
            test,
            test_sd: 0.0,
            trainings: 1,
            measured_ns,
            within_limit: None,
            trustworthy: true,
        };
        let rows = [row("graphnas", 1, 0.8, 8e6), row("both", 1, 0.79, 2e6), row("both", 2, 0.5, 1e6)];
        let found = summaries(&plans, &rows);
        assert_eq!(
            found.iter().map(|of| (of.arm.as_str(), of.seeds)).collect::<Vec<_>>(),
            [("graphnas", 1), ("both", 2)]
        );
        assert!(found[0].speedup.is_none());
        assert_eq!(found[1].speedup.unwrap().mean, 4.0);
        assert!((found[1].gain.unwrap().mean + 0.01).abs() < 1e-12);
    }
}
