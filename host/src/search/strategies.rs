//! What was asked for -> the strategy that does it -> a net within the budget.

use std::path::PathBuf;

use hanas_models::resnet::ConvNet;

use super::choices::{Choices, Logits};
use super::config::{Decode, SearchConfig, Strategy};
use super::latency_model::LatencyModel;
use super::meter::Meter;
use super::progress::Monitor;
use super::repair::repair;
use super::timer::NetTimer;
use super::{SearchError, decode, htas, netadapt, random, uniform};
use crate::data::{ImageSet, Normalisation};

/// What a search works on.
#[derive(Debug)]
pub struct Request<'a> {
    /// Settings.
    pub config: &'a SearchConfig,
    /// Widths and depths.
    pub choices: &'a Choices,
    /// Training images; the search halves them itself.
    pub images: &'a ImageSet,
    /// Their normalisation.
    pub normalisation: &'a Normalisation,
    /// Latency model, for a cost of latency.
    pub model: Option<&'a LatencyModel>,
}

/// Where a search writes.
#[derive(Debug, Clone)]
pub struct Files {
    /// Where it stands.
    pub checkpoint: PathBuf,
    /// One line per epoch.
    pub log: PathBuf,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The net.
    pub net: ConvNet,
    /// Its cost in the gate's unit: measured nanoseconds, or multiply-adds.
    pub cost: f64,
    /// Its measured latency, where the gate is one of latency.
    pub measured_ns: Option<f64>,
    /// Reductions that brought it within the budget.
    pub repair_steps: usize,
    /// The logits that it was derived from, if any.
    pub logits: Option<Logits>,
}

/// Runs the strategy that the settings name. With `files`, an earlier run that was stopped goes on.
///
/// # Errors
/// [`SearchError`]; [`SearchError::Interrupted`] after the checkpoint is written, where the strategy trains.
pub fn search(
    request: &Request<'_>,
    timer: &mut dyn NetTimer,
    files: Option<&Files>,
    monitor: &mut Monitor<'_>,
) -> Result<Found, SearchError> {
    let Request { config, choices, .. } = *request;
    config.check()?;
    let mut meter = Meter::new(config.gate, config.tolerance, &choices.family)?;
    match config.strategy {
        Strategy::Uniform => {
            let (net, cost) = uniform::search(&choices.family, &mut meter, timer, monitor)?;
            Ok(found(net, cost, &meter, 0, None))
        }
        Strategy::Random => {
            meter.check_bounds(choices, timer)?;
            let SearchConfig { random_nets, seed, .. } = *config;
            let (picks, cost) = random::search(choices, random_nets, seed, &mut meter, timer, monitor)?;
            Ok(found(choices.net(&picks), cost, &meter, 0, None))
        }
        Strategy::NetAdapt => {
            meter.check_bounds(choices, timer)?;
            let (net, cost) = netadapt::search(request, &mut meter, timer, files, monitor)?;
            Ok(found(net, cost, &meter, 0, None))
        }
        Strategy::Htas | Strategy::Tas { .. } | Strategy::Aligned | Strategy::RandomGroups => {
            meter.check_bounds(choices, timer)?;
            let logits = htas::search::search(request, &mut meter, timer, files, monitor)?;
            let picks = match config.decode {
                Decode::Argmax => choices.argmax(&logits),
                Decode::Exact => decode::within(choices, &logits, &mut meter, timer)?,
            };
            let fixed = repair(choices, &logits, picks, &mut meter, timer)?;
            Ok(found(choices.net(&fixed.picks), fixed.cost, &meter, fixed.steps, Some(logits)))
        }
    }
}

fn found(net: ConvNet, cost: f64, meter: &Meter, repair_steps: usize, logits: Option<Logits>) -> Found {
    Found { measured_ns: meter.measured_ns(&net), net, cost, repair_steps, logits }
}

#[cfg(test)]
mod tests;
