//! `hanas experiment gnn`: GraphNAS against HGNAS on a device, arm by arm and seed by seed. Every search is a
//! run's folder like any other; a second call passes over what is verified, or found nothing, and goes on with
//! what is not.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::context::Global;
use super::experiment_gnn_plans::{Line, Plan, arms, line, plans};
use super::experiment_gnn_runs::{Done, FoundNone, State, check, is_in_turns, one_space, still_the_space};
use super::experiment_gnn_tables::{Row, Summary, arms_table, limits_apart, nets_table, summaries};
use super::experiment_settings::distinct;
use super::graph_run::{Asked, GraphRun, agreed, verify};
use super::hgnas_args::SpaceArg;
use super::output::{Format, json, text};
use super::steps::{Steps, words};
use super::{NO_NET, StepFailed, hgnas_prepare, search_hgnas, side_by_side};
use crate::data::graph::load;
use crate::profile::sampling::Sampling;
use crate::search::SearchError;
use crate::search::hgnas::record::GnnVerifyRecord;
use crate::search::run::RunDir;
use crate::task::graph::GraphTask;

/// Arguments of `hanas experiment gnn`.
#[derive(Debug, Args)]
pub(super) struct GnnArgs {
    /// The graph: cora-gnn, citeseer-gnn, pubmed-gnn, planted-gnn, which is no benchmark, or NAME-gnn
    #[arg(long, short, value_name = "TASK")]
    pub(super) task: GraphTask,
    /// Folder of the graph's files
    #[arg(long, env = "HANAS_DATA", value_name = "FOLDER", default_value = ".")]
    pub(super) data: PathBuf,
    /// A device's name in the inventory or its address; its space of heads and dims must be built
    #[arg(long, short, env = "HANAS_DEVICE", value_name = "DEVICE")]
    pub(super) device: String,
    /// Seeds; every arm is searched once under each
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    pub(super) seeds: Vec<u64>,
    /// Latency limits of the limited arms, as quantiles of random nets in percent
    #[arg(long, value_delimiter = ',', default_values_t = [25u32, 50], value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) limits: Vec<u32>,
    /// Only these arms [default: all]
    #[arg(long, value_delimiter = ',', value_name = "ARM")]
    pub(super) arms: Vec<String>,
    /// Folder of the runs
    #[arg(long, short, value_name = "FOLDER")]
    pub(super) out: PathBuf,
    /// Searches at once, as programs that share the processor's cores, each with a memory of its own; while
    /// one measures, the others wait
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) jobs: u32,
    /// Say what would be searched, what is done already and what found nothing, and search nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// What every search is given as well, after `--`: --samples 50, --epochs 30, --allow-noisy ...
    #[arg(last = true, allow_hyphen_values = true, value_name = "OPTION")]
    pub(super) more: Vec<String>,
}

/// Timed runs of a seed's nets in turns.
const TURNS: u32 = 200;
#[derive(Serialize)]
struct Report {
    task: String,
    rows: Vec<Row>,
    arms: Vec<Summary>,
    failed: Vec<Failed>,
}

/// A search that found nothing, which is a result.
#[derive(Serialize)]
struct Failed {
    arm: String,
    seed: u64,
    why: String,
}

impl Failed {
    /// Of a plan's search, if it is one.
    fn new(plan: &Plan) -> Option<Self> {
        let State::None(FoundNone { why, .. }) = State::of(plan) else { return None };
        Some(Self { arm: plan.arm.clone(), seed: plan.seed, why })
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &GnnArgs) -> anyhow::Result<()> {
    distinct("--seeds", &args.seeds)?;
    distinct("--limits", &args.limits)?;
    let plans = plans(args)?;
    // Parsed before anything runs: what is wrong with an option is found at once.
    let lines: Vec<Line> = plans.iter().map(line).collect::<anyhow::Result<_>>()?;
    for (plan, line) in plans.iter().zip(&lines) {
        // Whatever else was searched there is no outcome of this experiment.
        check(plan, line)?;
    }
    one_space(&plans)?;
    let open = plans.iter().zip(&lines).filter(|(plan, _)| State::of(plan).is_open());
    let open: Vec<&Line> = open.map(|(_, line)| line).collect();
    let measured = open.iter().find(|line| line.args.space == SpaceArg::Hgnas);
    if let (false, Some(line)) = (args.dry_run, measured.or(open.first())) {
        // Found at once, and not after the first arm.
        let space = hgnas_prepare::ready(global, &line.args)?;
        let begins =
            |line: &&Line| line.args.space == SpaceArg::Hgnas && !line.args.out.join("run.json").exists();
        if open.iter().any(begins) {
            still_the_space(&plans, &space)?;
        }
    }
    for (place, plan) in plans.iter().enumerate() {
        let state = match State::of(plan) {
            State::Done => "done".to_owned(),
            State::None(none) => none.told(plan),
            State::Open if args.dry_run => "to do".to_owned(),
            State::Open => continue,
        };
        eprintln!("{:>3}/{} {} seed {}: {state}", place + 1, plans.len(), plan.arm, plan.seed);
    }
    if !args.dry_run {
        match args.jobs {
            1 => one_by_one(global, args, &plans, &lines)?,
            _ => several_at_once(global, args, &plans)?,
        }
        one_space(&plans)?;
        for &seed in &args.seeds {
            let of_seed = plans.iter().zip(&lines).filter(|(plan, _)| plan.seed == seed);
            in_turns(global, args, of_seed)?;
        }
    }
    let rows = rows(&plans, &args.device);
    for note in limits_apart(&rows) {
        eprintln!("note: {note}");
    }
    let arms = summaries(&arms(&plans), &args.seeds, &rows);
    let failed = plans.iter().filter_map(Failed::new).collect();
    print(global, &Report { task: args.task.name.clone(), arms, rows, failed })?;
    // Last, so that one such net does not hide what the others came to.
    for plan in &plans {
        let done = Done::open(&plan.folder);
        let verify = done.as_ref().and_then(|done| done.verify(&args.device));
        agreed(verify).with_context(|| format!("{} seed {}", plan.arm, plan.seed))?;
    }
    Ok(())
}

/// Searches one after another. Whatever goes wrong but that one finds nothing ends the experiment.
fn one_by_one(global: &Global, args: &GnnArgs, plans: &[Plan], lines: &[Line]) -> anyhow::Result<()> {
    for (place, (plan, line)) in plans.iter().zip(lines).enumerate() {
        if !State::of(plan).is_open() {
            continue;
        }
        // Another space may have been built while the last one was searched.
        one_space(plans)?;
        eprintln!("{:>3}/{} {} seed {}", place + 1, plans.len(), plan.arm, plan.seed);
        let Err(error) = search_hgnas::hgnas(global, &line.args) else { continue };
        if !matches!(error.downcast_ref(), Some(SearchError::NoFinalist(_))) {
            return Err(error.context(format!("{} seed {}", plan.arm, plan.seed)));
        }
        FoundNone::keep(plan, &args.device, format!("{error:#}"))?;
    }
    Ok(())
}

/// The same with several searches at once, each a program of its own.
fn several_at_once(global: &Global, args: &GnnArgs, plans: &[Plan]) -> anyhow::Result<()> {
    let jobs = args.jobs as usize;
    let steps = Steps::new(global, global.store.clone(), args.out.join("log"))?;
    let steps = steps.beside((usize::try_from(tch::get_num_threads()).unwrap_or(1) / jobs).max(1));
    let open: Vec<&Plan> = plans.iter().filter(|plan| State::of(plan).is_open()).collect();
    let search = |plan: &&Plan| -> anyhow::Result<()> {
        one_space(plans)?;
        let name = format!("{}-s{}", plan.arm, plan.seed);
        let command = [words(&["search"]), plan.words.clone()].concat();
        let ended = steps.run(&name, &command);
        // One that has its net is done; whether its latency is to be trusted is told in the end.
        if Done::open(&plan.folder).is_some() && !steps.ended() {
            eprintln!("{} seed {}: done", plan.arm, plan.seed);
            return Ok(());
        }
        let Err(error) = ended else { return Ok(()) };
        match error.downcast_ref::<StepFailed>() {
            Some(step) if step.code == NO_NET => {
                FoundNone::keep(plan, &args.device, last_words(&steps.log(&name)))
            }
            _ => Err(error),
        }
    };
    side_by_side::each(&open, jobs, search, || steps.end())
}

/// The complaint with which a command ended.
fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim_start_matches("hanas: ").to_owned()
}

/// Measures the nets of one seed again, in turns: the device may have changed its pace from arm to arm. What
/// another device says of them does not count.
fn in_turns<'p>(
    global: &Global,
    args: &GnnArgs,
    searches: impl Iterator<Item = (&'p Plan, &'p Line)>,
) -> anyhow::Result<()> {
    let found: Vec<(&Path, Done, &Line)> = searches
        .filter_map(|(plan, line)| Some((plan.folder.as_path(), Done::open(&plan.folder)?, line)))
        .collect();
    let together = |(folder, done, _): &(&Path, Done, &Line)| {
        let others = found.iter().map(|(folder, ..)| *folder);
        done.verify(&args.device).is_some_and(|verify| is_in_turns(verify, folder, others))
    };
    let Some((_, _, line)) = found.first().filter(|_| !found.iter().all(together)) else { return Ok(()) };
    let open = |(folder, ..): &(&Path, Done, &Line)| GraphRun::open(&RunDir::open(folder)?);
    let runs: Vec<GraphRun> = found.iter().map(open).collect::<anyhow::Result<_>>()?;
    let data = load(&args.task.data, &args.data)?;
    let mut session = global.connect(&line.args.device)?;
    eprintln!("measuring {} net(s) in turns", runs.len());
    let sampling = Sampling { samples: TURNS, ..Sampling::default() };
    let asked = Asked { device: &args.device, data: Some(&data), answers: true, sampling };
    // A net over its limit is told by the table, and one that answers otherwise after it.
    verify(&runs, &mut session, &asked).map(drop)
}

/// What the searches that are done came to.
fn rows(plans: &[Plan], device: &str) -> Vec<Row> {
    let done: Vec<(&Plan, Done)> =
        plans.iter().filter_map(|plan| Some((plan, Done::open(&plan.folder)?))).collect();
    let row = |(plan, found): &(&Plan, Done)| {
        let (net, verify) = (&found.net, found.verify(device));
        let test = net.test?;
        let of_seed = done.iter().filter(|(other, _)| other.seed == plan.seed);
        let others = of_seed.map(|(other, _)| other.folder.as_path());
        Some(Row {
            arm: plan.arm.clone(),
            seed: plan.seed,
            net: net.summary.clone(),
            test: test.mean,
            test_sd: test.sd,
            trainings: net.runs,
            measured_ns: verify.map_or(net.measured_ns, GnnVerifyRecord::at_pace_ns),
            limit_ns: net.limit_ns,
            within_limit: verify.and_then(|verify| verify.within_limit),
            trustworthy: verify.is_some_and(|verify| verify.doubts.is_empty()),
            in_turns: verify.is_some_and(|verify| is_in_turns(verify, &plan.folder, others)),
        })
    };
    done.iter().filter_map(row).collect()
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
