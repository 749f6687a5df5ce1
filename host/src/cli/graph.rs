//! `hanas graph`: graph nets on a graph: the space of heads and dim; see [`super::graph_profile`] for its
//! profile.

use std::path::Path;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use hanas_models::gnn::Reading;

use super::context::{Global, TrustArg, stored_device};
use super::graph_profile;
use super::output::{Format, Table, json, text};
use super::space::Mode;
use crate::data::graph::{GraphData, load};
use crate::profile::graph_candidates::BATCH;
use crate::report::graph_terminal;
use crate::report::terminal::Look;
use crate::space::hgnas::{GraphSettings, GraphSpace};
use crate::space::partition::point_text;
use crate::space::rules::Rules;
use crate::store::{DeviceId, ModelSpec, SampleQuery, Saved, SessionId, Store};
use crate::task::graph::{GraphSet, GraphTask, NAMED_TASKS};

/// Under these names the store keeps the spaces of graph nets: the project's, and those of paper mode.
pub(super) const SPACES: [&str; 2] = ["hgnas", "hgnas-paper"];

/// Subcommands of `hanas graph`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Measure reference nets of pairs of heads and dim on the whole graph; resumes
    Profile(graph_profile::ProfileArgs),
    /// Choose a pair for each of the 42 cells from the stored samples and keep the space
    Space(SpaceArgs),
    /// Adaptive sampling over again on a profile of all pairs that is stored: what it skips, what that costs
    Replay(graph_profile::ReplayArgs),
    /// The last space built: latency against heads x dim, the fit, the map of the cells, the choices
    Show(ShowArgs),
    /// Train one graph net, write it as ONNX, check it on a device
    #[cfg(feature = "torch")]
    Train(super::graph_train::TrainArgs),
}

/// Which graph task, and how its nets are read.
#[derive(Debug, Args)]
pub(super) struct TaskArgs {
    /// cora-gnn, citeseer-gnn, pubmed-gnn, planted-gnn, or NAME-gnn for your own NAME.npz
    #[arg(long, short, value_name = "TASK")]
    pub(super) task: GraphTask,
    /// As the paper (softmax per source, pools on edges, all pairs) or as intended (default)
    #[arg(long, value_enum, default_value_t)]
    pub(super) mode: Mode,
}

impl TaskArgs {
    /// How its space is chosen on a device with such a clock.
    pub(super) fn settings(&self, clock_resolution_ns: u32) -> GraphSettings {
        let (rules, guessed_line) = match self.mode {
            Mode::Project => (Rules { floor: 1, ..Rules::project() }, true),
            Mode::Paper => (Rules::paper(), false),
        };
        GraphSettings { rules, reading: self.reading(), clock_resolution_ns, seed: 1, guessed_line }
    }

    /// How the task's nets are read.
    pub(super) const fn reading(&self) -> Reading {
        reading(self.mode)
    }

    /// Reads the task's graph.
    pub(super) fn load(&self, folder: Option<&Path>) -> anyhow::Result<GraphData> {
        load_graph(&self.task.data, folder)
    }
}

/// Reads a graph from the folder that the user gives; the planted one needs none.
pub(super) fn load_graph(set: &GraphSet, folder: Option<&Path>) -> anyhow::Result<GraphData> {
    let text = match (set, folder) {
        (_, Some(folder)) => return Ok(load(set, folder)?),
        (GraphSet::Planted, None) => return Ok(load(set, Path::new(""))?),
        (GraphSet::Own(name), None) => format!(
            "{name}-gnn needs its graph: give the folder of {name}.npz with --data, or take {NAMED_TASKS}"
        ),
        _ => format!("{} needs its graph: give its folder with --data", set.name()),
    };
    Err(super::Usage(text).into())
}

/// Arguments of `hanas graph space`.
#[derive(Debug, Args)]
pub(super) struct SpaceArgs {
    #[command(flatten)]
    task: TaskArgs,
    /// A board's name or row number, as the store has it [default: the last profiled]
    #[arg(long, short)]
    device: Option<String>,
    #[command(flatten)]
    trust: TrustArg,
}

/// Arguments of `hanas graph show`.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// cora-gnn, citeseer-gnn, pubmed-gnn, planted-gnn, or NAME-gnn for your own NAME.npz
    #[arg(long, short, value_name = "TASK")]
    task: GraphTask,
    /// A board's name or row number, as the store has it [default: the last profiled]
    #[arg(long, short)]
    device: Option<String>,
    /// Of which mode [default: the last built of either]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
}

/// Runs the command.
pub(super) fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Profile(args) => graph_profile::run(global, &args),
        Command::Replay(args) => graph_profile::replay(global, &args),
        Command::Space(args) => space(global, &args),
        Command::Show(args) => show_of(global, &args.task, args.device.as_deref(), args.mode),
        #[cfg(feature = "torch")]
        Command::Train(args) => super::graph_train::run(global, &args),
    }
}

/// Samples of a graph task on a device.
pub(super) fn query(device: DeviceId, task: &str) -> SampleQuery<'_> {
    SampleQuery { device, task: Some(task), batch: BATCH, only_trustworthy: false }
}

/// How nets are read in a mode.
const fn reading(mode: Mode) -> Reading {
    match mode {
        Mode::Paper => Reading::paper(),
        Mode::Project => Reading::project(),
    }
}

/// The last space built of a graph task on a device, in one mode or in either, with a note on stderr where
/// newer sessions are not in it.
pub(super) fn saved_space(
    store: &Store,
    device: DeviceId,
    task: &str,
    mode: Option<Mode>,
) -> anyhow::Result<Saved<GraphSpace>> {
    let of = |name| store.load_space::<GraphSpace>(&query(device, task), name).transpose();
    let found: Vec<Saved<GraphSpace>> = SPACES.into_iter().filter_map(of).collect::<Result<_, _>>()?;
    let wanted =
        |saved: &Saved<GraphSpace>| mode.is_none_or(|mode| saved.value.settings.reading == reading(mode));
    let mut saved = found.into_iter().filter(wanted).max_by_key(|saved| saved.id).with_context(|| {
        let paper = if mode == Some(Mode::Paper) { " --mode paper" } else { "" };
        format!(
            "no space of {task} on this device yet; run `hanas graph profile{paper}` and `hanas graph space{paper}` first"
        )
    })?;
    // A session of the other mode has no part in it.
    let wanted = saved.value.settings.reading;
    let concerns = |session: SessionId| -> anyhow::Result<bool> {
        let samples = store.samples_of(&[session], BATCH)?;
        let of_mode =
            |spec: &ModelSpec| matches!(spec, ModelSpec::Graph { reading, .. } if *reading == wanted);
        Ok(samples.iter().any(|model| of_mode(&model.spec)))
    };
    let newer: Vec<(SessionId, bool)> = saved
        .newer
        .iter()
        .map(|&session| Ok((session, concerns(session)?)))
        .collect::<anyhow::Result<_>>()?;
    saved.newer = newer.into_iter().filter(|of| of.1).map(|of| of.0).collect();
    if saved.is_stale() {
        eprintln!("note: {} newer session(s) are not in this space; build it again", saved.newer.len());
    }
    Ok(saved)
}

fn space(global: &Global, args: &SpaceArgs) -> anyhow::Result<()> {
    let task = &args.task.task;
    let mut store = global.existing_store()?;
    let device = stored_device(&store, args.device.as_deref(), &task.name, BATCH)?;
    let board = store.device(device)?;
    let clock_resolution_ns = board.as_ref().map_or(1, |board| board.clock_resolution_ns);
    let settings = args.task.settings(clock_resolution_ns);
    let (query, samples) = args.trust.samples(&store, query(device, &task.name))?;
    let space = GraphSpace::build(task.data.name(), &samples, settings)?;
    let [project, paper] = SPACES;
    let name = if args.task.mode == Mode::Paper { paper } else { project };
    store.save_space(&query, name, &space, &space.rows())?;
    match global.format {
        Format::Json => json(&space),
        Format::Csv => text(&choices(&space).to_csv()),
        Format::Text => {
            let board = board.map_or_else(String::new, |board| board.name);
            let heading = heading(&board, task, space.settings.reading);
            text(&format!("{heading}\n{}{}\n", choices(&space).to_text(), space.summary()))
        }
    }
}

/// Shows the last space built of a graph task, of either mode.
pub(super) fn show(global: &Global, task: &GraphTask, device: Option<&str>) -> anyhow::Result<()> {
    show_of(global, task, device, None)
}

fn show_of(
    global: &Global,
    task: &GraphTask,
    device: Option<&str>,
    mode: Option<Mode>,
) -> anyhow::Result<()> {
    let store = global.existing_store()?;
    let device = stored_device(&store, device, &task.name, BATCH)?;
    let space = saved_space(&store, device, &task.name, mode)?.value;
    let board = store.device(device)?.map_or_else(String::new, |device| device.name);
    match global.format {
        Format::Json => json(&space),
        Format::Csv => text(&choices(&space).to_csv()),
        Format::Text => text(&format!(
            "{}\n{}\n{}{}\n",
            heading(&board, task, space.settings.reading),
            graph_terminal::picture(&space, Look::default()),
            choices(&space).to_text(),
            space.summary()
        )),
    }
}

/// Whose space it is, and of which mode.
fn heading(board: &str, task: &GraphTask, of: Reading) -> String {
    let mode = if of == reading(Mode::Paper) { "paper" } else { "project" };
    format!("{board}: {}, {mode} mode", task.name)
}

fn choices(space: &GraphSpace) -> Table {
    let mut table =
        Table::new(&["heads x dim", "choice", "latency ms", "fitted ms", "rerun same", "tied with"]);
    for choice in &space.selection.choices {
        let ms = |ns: f64| format!("{:.3}", ns / 1e6);
        table.row(vec![
            choice.cell.to_string(),
            point_text(&choice.chosen.point),
            ms(choice.chosen.m_ns),
            ms(choice.chosen.f_ns),
            choice.rerun_same.map_or_else(String::new, |same| format!("{same:.2}")),
            choice.tied.len().to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_is_told_with_its_mode() {
        let task: GraphTask = "cora-gnn".parse().unwrap();
        assert_eq!(heading("pi", &task, reading(Mode::Paper)), "pi: cora-gnn, paper mode");
        assert_eq!(heading("pi", &task, reading(Mode::Project)), "pi: cora-gnn, project mode");
    }
}
