//! `hanas space`: the hardware-aware space of a task on a device.

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::context::{AnyTaskArg, Global, TaskArg, TrustArg, query, stored_device};
use super::graph;
use super::output::{Format, Table, json, text};
use super::space_reruns::{self, RerunArgs};
use crate::latency::Statistic;
use crate::profile::cin::Cin;
use crate::report;
use crate::space::htas::{HardwareSpace, Settings, StageSpace};
use crate::space::partition::point_text;
use crate::space::rules::{Candidates, Rules};
use crate::store::{SampleQuery, Saved, Store};
use crate::task::{AnyTask, Task};

/// Under this name the store keeps the spaces of convnet families.
pub(super) const SPACE: &str = "htas";

/// Subcommands of `hanas space`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Choose widths from the stored samples and keep the space
    Build(BuildArgs),
    /// The last space built: latency, fit, scores, groups, choices; of graph tasks too
    Show(AnyShowArgs),
    /// How likely a rerun makes the same choices; with --reruns, whether it did
    Stability(StabilityArgs),
}

/// How choices are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Mode {
    /// Low quantile less its standard error, widths from 4 up, ties reported
    #[default]
    Project,
    /// As the paper: median, plain argmax, any width
    Paper,
}

/// Arguments of `hanas space build`.
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    task: TaskArg,
    /// A board's name or row number, as the store has it [default: the last profiled]
    #[arg(long, short)]
    device: Option<String>,
    /// How choices are made
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// What of the samples is the latency: min, median or a quantile such as q05 [default: the mode's]
    #[arg(long, value_parser = statistic)]
    estimator: Option<Statistic>,
    /// Exponent of the fitted line f(x) = k x^alpha + b
    #[arg(long, default_value_t = 1.0)]
    alpha: f64,
    /// Groups a stage
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    groups: u32,
    /// Widths up to this many times the base width
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4))]
    expand: u32,
    /// Input widths that the curves are measured at; `hanas profile --cin` measures them
    #[arg(long, value_enum, default_value_t)]
    cin: Cin,
    /// Only the widest width of each latency level may be chosen
    #[arg(long)]
    staircase: bool,
    #[command(flatten)]
    trust: TrustArg,
}

/// Arguments of `hanas space show`.
#[derive(Debug, Args)]
pub(super) struct AnyShowArgs {
    #[command(flatten)]
    task: AnyTaskArg,
    /// A board's name or row number, as the store has it [default: the last profiled]
    #[arg(long, short)]
    device: Option<String>,
}

/// What space, as `hanas space stability` asks for it.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    task: TaskArg,
    /// A board's name or row number, as the store has it [default: the last profiled]; to measure, a
    /// device as for `hanas profile`
    #[arg(long, short)]
    device: Option<String>,
}

/// Arguments of `hanas space stability`.
#[derive(Debug, Args)]
pub(super) struct StabilityArgs {
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    reruns: RerunArgs,
}

/// Reads `min`, `median` or a quantile such as `q05`.
pub(super) fn statistic(text: &str) -> Result<Statistic, String> {
    match text {
        "min" => Ok(Statistic::Min),
        "median" => Ok(Statistic::Median),
        _ => text
            .strip_prefix('q')
            .and_then(|percent| percent.parse::<f64>().ok())
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(|percent| Statistic::Quantile(percent / 100.0))
            .ok_or_else(|| "write min, median or a quantile in percent such as q05".to_owned()),
    }
}

/// Runs the command.
pub(super) fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Build(args) => build(global, &args),
        Command::Show(AnyShowArgs { task: AnyTaskArg { task, batch }, device }) => match task {
            AnyTask::Graph(task) => graph::show(global, &task, device.as_deref()),
            AnyTask::Conv(task) => {
                let (board, space) = last(global, &task, batch, device.as_deref())?;
                show(global, &board, &space)
            }
        },
        Command::Stability(StabilityArgs { show, reruns }) => match reruns.reruns {
            Some(times) => space_reruns::run(global, &show.task, show.device.as_deref(), &reruns, times),
            None => {
                let ShowArgs { task: TaskArg { task, batch }, device } = &show;
                let (board, space) = last(global, task, *batch, device.as_deref())?;
                stability(global, &board, &space)
            }
        },
    }
}

fn build(global: &Global, args: &BuildArgs) -> anyhow::Result<()> {
    let TaskArg { task, batch } = &args.task;
    let mut store = global.existing_store()?;
    let device = stored_device(&store, args.device.as_deref(), &task.name, *batch)?;
    let (query, samples) = args.trust.samples(&store, query(device, task, *batch))?;
    let row = store.device(device)?.context(NO_ROW)?;
    let mut rules = match args.mode {
        Mode::Project => Rules::project(),
        Mode::Paper => Rules::paper(),
    };
    rules.alpha = args.alpha;
    rules.statistic = args.estimator.unwrap_or(rules.statistic);
    if args.staircase {
        rules.candidates = Candidates::Staircase;
    }
    let settings = Settings {
        expand: args.expand,
        groups: args.groups,
        cin: args.cin,
        ..Settings::new(rules, *batch, row.clock_resolution_ns)
    };
    let space = HardwareSpace::build(&task.family, &samples, settings)?;
    store.save_space(&query, SPACE, &space, &space.rows())?;
    summary(global, &row.name, &space)
}

/// Where a device that has sessions has no row.
const NO_ROW: &str = "the device's row is gone";

/// The last space built for a task and its board's name, with a note on stderr where newer sessions are not in
/// it.
fn last(
    global: &Global,
    task: &Task,
    batch: u32,
    device: Option<&str>,
) -> anyhow::Result<(String, HardwareSpace)> {
    let store = global.existing_store()?;
    let device = stored_device(&store, device, &task.name, batch)?;
    let board = store.device(device)?.context(NO_ROW)?.name;
    Ok((board, load(&store, &query(device, task, batch))?.value))
}

/// The last space built for a query.
pub(super) fn load(store: &Store, query: &SampleQuery<'_>) -> anyhow::Result<Saved<HardwareSpace>> {
    let saved = store.load_space::<HardwareSpace>(query, SPACE)?;
    let saved = saved.ok_or_else(|| {
        let task = query.task.unwrap_or_default();
        anyhow::anyhow!(
            "no space of {task} yet; run `hanas space build --task {task} --batch {}` first",
            query.batch
        )
    })?;
    if saved.is_stale() {
        eprintln!("note: {} newer session(s) are not in this space; build it again", saved.newer.len());
    }
    Ok(saved)
}

/// Says so on stderr where a search in one mode goes by a space built in the other.
#[cfg(feature = "torch")]
pub(super) fn note_other_mode(space: &HardwareSpace, paper: bool) {
    let name = |paper| if paper { "paper" } else { "project" };
    // The paper sets no visits aside.
    let built = !space.settings.rules.undisturbed;
    if built != paper {
        let (built, wanted) = (name(built), name(paper));
        eprintln!(
            "note: a space built in {built} mode; `hanas space build --mode {wanted}` makes this search's own"
        );
    }
}

fn summary(global: &Global, board: &str, space: &HardwareSpace) -> anyhow::Result<()> {
    match global.format {
        Format::Json => json(space),
        Format::Csv => text(&choices(space).to_csv()),
        Format::Text => {
            let mut page = format!("{board}\n");
            for stage in &space.stages {
                let list: Vec<String> =
                    stage.selection.choices.iter().map(|choice| point_text(&choice.chosen.point)).collect();
                page.push_str(&format!("{0}x{0}: {1}\n", stage.side, list.join(", ")));
            }
            page.push_str(&sureness(space));
            text(&page)
        }
    }
}

fn sureness(space: &HardwareSpace) -> String {
    let (same, of) = space.mean_same();
    let ties: usize =
        space.stages.iter().flat_map(|stage| &stage.selection.choices).filter(|c| !c.tied.is_empty()).count();
    let aside = space.set_aside().map(|text| text + "\n").unwrap_or_default();
    format!(
        "a rerun repeats {same:.1} of {of} choices on average; {ties} are ties with another width; all of them with probability {:.2}\n\
         {aside}",
        space.rerun_same()
    )
}

fn choices(space: &HardwareSpace) -> Table {
    let mut table = Table::new(&[
        "output",
        "group",
        "width",
        "latency us",
        "+- us",
        "fit us",
        "score us",
        "rerun same",
        "tied with",
    ]);
    for stage in &space.stages {
        for choice in &stage.selection.choices {
            let us = |ns: f64| format!("{:.2}", ns / 1e3);
            let tied: Vec<String> = choice.tied.iter().map(|point| point_text(point)).collect();
            table.row(vec![
                format!("{0}x{0}", stage.side),
                choice.cell.to_string(),
                point_text(&choice.chosen.point),
                us(choice.chosen.m_ns),
                us(choice.chosen.se_ns),
                us(choice.chosen.f_ns),
                us(choice.chosen.score_ns),
                choice.rerun_same.map_or_else(String::new, |same| format!("{same:.2}")),
                tied.join(" "),
            ]);
        }
    }
    table
}

fn show(global: &Global, board: &str, space: &HardwareSpace) -> anyhow::Result<()> {
    match global.format {
        Format::Json => json(space),
        Format::Csv => text(&choices(space).to_csv()),
        Format::Text => {
            let mut page = format!("{board}\n");
            for stage in &space.stages {
                page.push_str(&picture(stage));
                page.push('\n');
            }
            page.push_str(&choices(space).to_text());
            page.push_str(&sureness(space));
            text(&page)
        }
    }
}

fn picture(stage: &StageSpace) -> String {
    report::terminal::picture(stage, report::terminal::Look::default())
}

fn stability(global: &Global, board: &str, space: &HardwareSpace) -> anyhow::Result<()> {
    match global.format {
        Format::Json => json(space),
        Format::Csv => text(&choices(space).to_csv()),
        Format::Text => text(&format!("{board}\n{}{}", choices(space).to_text(), sureness(space))),
    }
}
