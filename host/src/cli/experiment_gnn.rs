//! `hanas experiment gnn`: GraphNAS against HGNAS on a device, arm by arm and seed by seed. Every search is a
//! run's folder like any other; a second call passes over what is verified and goes on with what is not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use clap::{Args, Parser};
use serde::Serialize;

use super::context::{DeviceArg, Global};
use super::experiment_gnn_tables::{Row, Summary, arms_table, nets_table, summaries};
use super::graph_run::{Asked, GraphRun, agreed, verify};
use super::hgnas_args::{HgnasArgs, SpaceArg};
use super::output::{Format, json, text};
use super::steps::{Steps, words};
use super::{NO_NET, StepFailed, Usage, hgnas_prepare, search_hgnas, side_by_side};
use crate::data::graph::load;
use crate::profile::sampling::Sampling;
use crate::search::SearchError;
use crate::search::hgnas::record::{GnnNetRecord, GnnVerifyRecord};
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
    /// Searches at once, as programs that share the processor's cores, each with a memory of its own; while
    /// one measures, the others wait
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
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

#[derive(Serialize)]
struct Report {
    task: String,
    rows: Vec<Row>,
    arms: Vec<Summary>,
    failed: Vec<Failed>,
}

/// A search that found nothing, which is a result.
#[derive(Debug, Clone, Serialize)]
struct Failed {
    arm: String,
    seed: u64,
    why: String,
}

impl Failed {
    /// Says so.
    fn new(plan: &Plan, why: String) -> Self {
        eprintln!("{} seed {}: {why}", plan.arm, plan.seed);
        Self { arm: plan.arm.clone(), seed: plan.seed, why }
    }
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
        hgnas_prepare::ready(global, &line.args)?;
    }
    for (place, plan) in plans.iter().enumerate() {
        let done = verified(&plan.folder).is_some();
        if args.dry_run || done {
            let state = if done { "done" } else { "to do" };
            eprintln!("{:>3}/{} {} seed {}: {state}", place + 1, plans.len(), plan.arm, plan.seed);
        }
    }
    let failed = match (args.dry_run, args.jobs) {
        (true, _) => Vec::new(),
        (_, 1) => one_by_one(global, &plans, &lines)?,
        _ => several_at_once(global, args, &plans)?,
    };
    if !args.dry_run {
        for seed in 1..=args.seeds {
            in_turns(global, args, plans.iter().filter(|plan| plan.seed == seed))?;
        }
    }
    let rows: Vec<Row> = plans.iter().filter_map(row).collect();
    let report = Report { task: args.task.name.clone(), arms: summaries(&arms(&plans), &rows), rows, failed };
    print(global, &report)
}

/// Searches one after another; those that found nothing. Whatever else goes wrong ends the experiment.
fn one_by_one(global: &Global, plans: &[Plan], lines: &[Line]) -> anyhow::Result<Vec<Failed>> {
    let mut failed = Vec::new();
    for (place, (plan, line)) in plans.iter().zip(lines).enumerate() {
        if verified(&plan.folder).is_some() {
            continue;
        }
        eprintln!("{:>3}/{} {} seed {}", place + 1, plans.len(), plan.arm, plan.seed);
        let Err(error) = search_hgnas::hgnas(global, &line.args) else { continue };
        if !matches!(error.downcast_ref(), Some(SearchError::NoFinalist(_))) {
            return Err(error.context(format!("{} seed {}", plan.arm, plan.seed)));
        }
        failed.push(Failed::new(plan, format!("{error:#}")));
    }
    Ok(failed)
}

/// The same with several searches at once, each a program of its own.
fn several_at_once(global: &Global, args: &GnnArgs, plans: &[Plan]) -> anyhow::Result<Vec<Failed>> {
    let jobs = args.jobs as usize;
    let steps = Steps::new(global, global.store.clone(), args.out.join("log"))?;
    let steps = steps.beside((usize::try_from(tch::get_num_threads()).unwrap_or(1) / jobs).max(1));
    let open: Vec<&Plan> = plans.iter().filter(|plan| verified(&plan.folder).is_none()).collect();
    let failed = Mutex::new(Vec::new());
    let search = |plan: &&Plan| {
        let name = format!("{}-s{}", plan.arm, plan.seed);
        let command = [words(&["search"]), plan.words.clone()].concat();
        let ended = steps.run(&name, &command);
        // One that has its net is done; whether its latency is to be trusted is told in the end.
        if verified(&plan.folder).is_some() && !steps.ended() {
            eprintln!("{} seed {}: done", plan.arm, plan.seed);
            return Ok(());
        }
        let Err(error) = ended else { return Ok(()) };
        match error.downcast_ref::<StepFailed>() {
            Some(step) if step.code == NO_NET => {
                let failure = Failed::new(plan, last_words(&steps.log(&name)));
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                Ok(())
            }
            _ => Err(error),
        }
    };
    side_by_side::each(&open, jobs, search, || steps.end())?;
    Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The complaint with which a command ended.
fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim_start_matches("hanas: ").to_owned()
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
            let turns = format!("--turns={}", text(&args.out.join("turns")));
            let turns = if args.jobs > 1 { vec![turns] } else { Vec::new() };
            let words = [&own[..], &turns, words, &args.more].concat();
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
        limit_ns: verify.limit_ns,
        within_limit: verify.within_limit,
        trustworthy: verify.doubts.is_empty(),
    })
}

/// Every arm of these searches once, with its control.
fn arms(plans: &[Plan]) -> Vec<(&str, &str)> {
    let mut arms = Vec::new();
    for plan in plans {
        let arm = (plan.arm.as_str(), plan.control.as_str());
        if !arms.contains(&arm) {
            arms.push(arm);
        }
    }
    arms
}

fn print(global: &Global, report: &Report) -> anyhow::Result<()> {
    let arms = arms_table(&report.arms);
    match global.format {
        Format::Json => json(report),
        Format::Csv => text(&arms.to_csv()),
        Format::Text => {
            let searches = report.rows.len();
            let found_nothing = report.failed.len();
            text(&format!(
                "{}\n{}{searches} searches found a net, {found_nothing} none\n",
                nets_table(&report.rows).to_text(),
                arms.to_text()
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
}
