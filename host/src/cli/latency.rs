//! `hanas latency`: what is known of latencies that were not measured.

use clap::Subcommand;

use super::context::Global;
use super::{latency_adapt, latency_table};

/// Subcommands of `hanas latency`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// A new device's latencies from a few measurements and other devices' profiles
    Adapt(latency_adapt::AdaptArgs),
    /// How well that predicts each device of a table (CSV) from the others
    TransferTable(latency_table::TableArgs),
}

/// Runs the command.
pub(super) fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Adapt(args) => latency_adapt::run(global, &args),
        Command::TransferTable(args) => latency_table::run(global, &args),
    }
}
