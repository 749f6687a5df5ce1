//! The command line: arguments in, exit code out. One file per command; what they share is in
//! [`context`] (store, device, task) and [`output`] (text, JSON, CSV).
//!
//! stdout is data, stderr is logs and progress. Exit codes: 0 ok, 1 failure, 2 usage, 3 device
//! unreachable or timed out, 4 measured but not trustworthy, 5 protocol mismatch, 6 no net found, 130 interrupted.

mod bench;
mod context;
mod device;
#[cfg(feature = "torch")]
mod device_timer;
mod doctor;
#[cfg(feature = "torch")]
mod experiment;
#[cfg(feature = "torch")]
mod experiment_cnn;
#[cfg(feature = "torch")]
mod experiment_cnn_arms;
#[cfg(feature = "torch")]
mod experiment_gnn;
#[cfg(feature = "torch")]
mod experiment_gnn_plans;
#[cfg(feature = "torch")]
mod experiment_gnn_runs;
#[cfg(feature = "torch")]
mod experiment_gnn_tables;
#[cfg(feature = "torch")]
mod experiment_omega;
#[cfg(feature = "torch")]
mod experiment_settings;
#[cfg(feature = "torch")]
mod experiment_tables;
mod export_data;
#[cfg(feature = "torch")]
mod gnn;
mod graph;
mod graph_answers;
mod graph_profile;
#[cfg(feature = "torch")]
mod graph_retrain;
mod graph_run;
#[cfg(feature = "torch")]
mod graph_train;
#[cfg(feature = "torch")]
mod hgnas_args;
#[cfg(feature = "torch")]
mod hgnas_latencies;
#[cfg(feature = "torch")]
mod hgnas_prepare;
#[cfg(feature = "torch")]
mod hgnas_timer;
mod images;
mod interrupt;
mod latency;
mod latency_adapt;
mod latency_eval;
#[cfg(feature = "torch")]
mod latency_eval_graph;
mod latency_table;
#[cfg(feature = "torch")]
mod manifest;
#[cfg(feature = "torch")]
mod manifest_steps;
mod nets;
mod output;
mod pace;
#[cfg(feature = "torch")]
mod pipeline;
mod profile;
mod profile_pairs;
mod profile_race;
mod progress;
mod recorder;
mod replay;
mod report;
mod report_graph;
mod runs;
mod sampling;
#[cfg(feature = "torch")]
mod search;
#[cfg(feature = "torch")]
mod search_args;
#[cfg(feature = "torch")]
mod search_hgnas;
mod shell;
#[cfg(feature = "torch")]
mod side_by_side;
mod space;
mod space_reruns;
#[cfg(feature = "torch")]
mod steps;
#[cfg(feature = "torch")]
mod train;
#[cfg(feature = "torch")]
mod turns;
mod verify;
#[cfg(feature = "torch")]
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::link::LinkError;
use crate::profile::ProfileError;
use crate::search::SearchError;
use context::Global;
use interrupt::INTERRUPTED;

/// Measure candidate layers on the board itself, build the search space out of what the board does
/// fast, search in it, train, export, re-measure.
#[derive(Debug, Parser)]
#[command(name = "hanas", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Devices by name: add, list, ask, remove
    #[command(subcommand)]
    Device(device::Command),
    /// What spoils a measurement or a link, and how to mend it
    Doctor(doctor::DoctorArgs),
    /// Measure any ONNX file on a device
    Bench(bench::BenchArgs),
    /// Measure a task's candidate layers into the store; resumes
    Profile(profile::ProfileArgs),
    /// The hardware-aware space: build, show, and how sure it is
    #[command(subcommand)]
    Space(space::Command),
    /// Latency models: fit, hold against measured nets, predict; and a new board from few measurements
    #[command(subcommand)]
    Latency(latency::Command),
    /// Graph nets on a graph: profile pairs of heads and dim, build their space, train one
    #[command(subcommand)]
    Graph(graph::Command),
    /// Search a net for a device under a latency budget; graph nets under `hgnas`
    #[cfg(feature = "torch")]
    Search(hgnas_args::SearchCommand),
    /// Train a found net; a convnet distilled from its base net
    #[cfg(feature = "torch")]
    Train(train::TrainArgs),
    /// Write a trained net as ONNX
    Export(runs::ExportArgs),
    /// Measure a run's net on a device, and check its outputs there
    Verify(verify::VerifyArgs),
    /// All of it by one file: profile, space, search, train, export, verify, report; resumes
    #[cfg(feature = "torch")]
    Run(pipeline::RunArgs),
    /// Pictures and tables of a task and its runs as one HTML page
    Report(report::ReportArgs),
    /// Compare methods, many seeds over
    #[cfg(feature = "torch")]
    #[command(subcommand)]
    Experiment(experiment::Command),
    /// Raw samples as CSV or JSON
    ExportData(export_data::ExportDataArgs),
    /// A recorded session through the same statistics again, without a device
    Replay(replay::ReplayArgs),
    /// Shell completions
    Completions(shell::CompletionsArgs),
    /// The manual page of `hanas` itself; --out FOLDER writes those of all subcommands too
    Man(shell::ManArgs),
}

/// A run that ended early because the user said so; exit code 130.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; {kept}")]
struct Interrupted {
    /// What is safe and how to go on.
    kept: String,
}

/// A step of an experiment or of `hanas run` that failed; exit code as the step's.
#[cfg(feature = "torch")]
#[derive(Debug, thiserror::Error)]
#[error("`hanas {step}` ended with exit code {code}: see {told}, then give the same command again")]
struct StepFailed {
    step: String,
    code: u8,
    /// Where to read what it said.
    told: String,
}

/// The exit code of a search over graph nets that found none.
const NO_NET: u8 = 6;

/// A measurement that was made and is not to be trusted; exit code 4.
#[derive(Debug, thiserror::Error)]
#[error("measured, but not trustworthy (the verdict above says why); go on all the same with --allow-noisy")]
struct NotTrustworthy;

/// Arguments that clap cannot know to be wrong; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Parses the arguments, runs the command, prints what went wrong, once.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(feature = "torch")]
    crate::train::allocator::keep_freed_memory();
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !is_closed_pipe(&error) {
                eprintln!("hanas: {error:#}");
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let global = &cli.global;
    match cli.command {
        Command::Device(command) => device::run(global, command),
        Command::Doctor(args) => doctor::run(global, &args),
        Command::Bench(args) => bench::run(global, &args),
        Command::Profile(args) => profile::run(global, &args),
        Command::Space(command) => space::run(global, command),
        Command::Latency(command) => latency::run(global, command),
        Command::Graph(command) => graph::run(global, command),
        #[cfg(feature = "torch")]
        Command::Search(args) => search_hgnas::run(global, &args),
        #[cfg(feature = "torch")]
        Command::Train(args) => train::run(global, &args),
        Command::Export(args) => runs::export(global, &args),
        Command::Verify(args) => verify::run(global, &args),
        #[cfg(feature = "torch")]
        Command::Run(args) => pipeline::run(global, &args),
        Command::Report(args) => report::run(global, &args),
        #[cfg(feature = "torch")]
        Command::Experiment(command) => experiment::run(global, &command),
        Command::ExportData(args) => export_data::run(global, &args),
        Command::Replay(args) => replay::run(global, &args),
        Command::Completions(args) => shell::completions(&args, &mut Cli::command()),
        Command::Man(args) => shell::man(&args, Cli::command()),
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let is = |of: &dyn Fn(&(dyn std::error::Error + 'static)) -> Option<u8>| error.chain().find_map(of);
    is(&|cause| {
        // A transparent error stands for its cause and hides it from the chain.
        let link = match cause.downcast_ref::<ProfileError>() {
            Some(ProfileError::Link(link)) => Some(link),
            _ => cause.downcast_ref::<LinkError>(),
        };
        if let Some(link) = link {
            return Some(link_code(link));
        }
        if cause.is::<Usage>() {
            return Some(2);
        }
        #[cfg(feature = "torch")]
        if let Some(step) = cause.downcast_ref::<StepFailed>() {
            return Some(step.code);
        }
        if cause.is::<NotTrustworthy>() {
            return Some(4);
        }
        if matches!(cause.downcast_ref(), Some(SearchError::NoFinalist(_))) {
            return Some(NO_NET);
        }
        cause.is::<Interrupted>().then_some(INTERRUPTED)
    })
    .unwrap_or(1)
}

fn link_code(error: &LinkError) -> u8 {
    match error {
        // A terminal's Ctrl-C ends the command of `exec:` as well.
        LinkError::Gone { .. } if interrupt::asked() => INTERRUPTED,
        LinkError::Unreachable { .. }
        | LinkError::Probe { .. }
        | LinkError::Flash { .. }
        | LinkError::NoAgent { .. }
        | LinkError::Gone { .. }
        | LinkError::Restarted { .. }
        | LinkError::TimedOut { .. }
        | LinkError::Busy { .. } => 3,
        LinkError::Dialect { .. } | LinkError::NotPaired { .. } | LinkError::OutOfTurn { .. } => 5,
        LinkError::Address { .. } => 2,
        LinkError::Inventory { .. } | LinkError::Fault { .. } | LinkError::Frame(_) => 1,
    }
}

/// Whether the reader of stdout went away (`hanas ... | head`): nothing to complain about.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        kind.or(json) == Some(std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_well_formed() {
        Cli::command().debug_assert();
        unique_names(&Cli::command());
    }

    /// What the above looks for only without optimisation.
    fn unique_names(command: &clap::Command) {
        let mut names = std::collections::BTreeSet::new();
        for argument in command.get_arguments() {
            assert!(names.insert(argument.get_id()), "{}: {}", command.get_name(), argument.get_id());
        }
        command.get_subcommands().for_each(unique_names);
    }
}
