//! What a search over graph nets was asked for (`run.json`) and what came out (`net.json`), in a run's
//! folder as [`super::super::run`] keeps it.

use std::path::PathBuf;

use hanas_models::gnn::GnnNet;
use serde::{Deserialize, Serialize};

use super::super::run::{self, RunDir, RunError};
use super::explore::Settings;
use super::finals::{FinalConfig, Finalist, Spread};
use super::space::GnnSpace;
use super::strategy::Strategy;
use crate::latency::agreement::Agreement;
use crate::latency::disturbed::at_pace;

/// [`GnnRunRecord::method`] of every run over graph nets; it tells them from runs over convnets.
pub const METHOD: &str = "hgnas";

/// Share by which a measured latency may exceed the limit (ALGORITHM 1.6, of budgets).
pub const TOLERANCE: f64 = 0.05;

/// What was asked: `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GnnRunRecord {
    /// See [`super::super::run::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// [`METHOD`].
    pub method: String,
    /// The task's name.
    pub task: String,
    /// Name of the device, as the user gave it.
    pub device: String,
    /// What is searched.
    pub space: GnnSpace,
    /// Who proposes.
    pub strategy: Strategy,
    /// Trials, seed, reward and limit.
    pub settings: Settings,
    /// Settings of a child's training, as JSON.
    pub child: String,
    /// How the best are trained again.
    pub finals: FinalConfig,
    /// The limit as it was given; none too in records from before it was kept.
    #[serde(default)]
    pub limit: Option<String>,
    /// The limit of the nets that are drawn after the search, ns (paper mode).
    #[serde(default)]
    pub drawn_limit_ns: Option<f64>,
}

/// What came out: `net.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GnnNetRecord {
    /// See [`super::super::run::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The net.
    pub net: GnnNet,
    /// Its name: the layers.
    pub summary: String,
    /// Latency by prediction, ns.
    pub predicted_ns: f64,
    /// Latency as measured, ns.
    pub measured_ns: f64,
    /// The reference net's latency at the pace at which this one was measured, ns.
    #[serde(default)]
    pub reference_ns: Option<f64>,
    /// The limit, ns.
    pub limit_ns: Option<f64>,
    /// Validation accuracy over the final trainings.
    pub validation: Option<Spread>,
    /// Test accuracy over the final trainings.
    pub test: Option<Spread>,
    /// Final trainings.
    pub runs: usize,
    /// Different architectures trained in the search.
    pub trained: usize,
    /// How well predicted latencies met measured ones on unseen nets.
    pub predictor: Option<Agreement>,
    /// The finalists, this one first.
    pub finalists: Vec<Finalist>,
}

/// What the device says of the net: `verify.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GnnVerifyRecord {
    /// See [`super::super::run::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The device, as the user named it.
    pub device: String,
    /// Latency of the trained net, ns.
    pub measured_ns: f64,
    /// Its standard error, ns.
    pub error_ns: f64,
    /// How many times slower the device was than in the search; none where that is not known.
    #[serde(default)]
    pub slower: Option<f64>,
    /// Folders of the runs that were measured in turns with this one, itself included.
    #[serde(default)]
    pub in_turns: Vec<PathBuf>,
    /// The limit, ns.
    pub limit_ns: Option<f64>,
    /// Whether the latency, at the search's pace, is within the limit and [`TOLERANCE`].
    pub within_limit: Option<bool>,
    /// Test accuracy of the exported weights, as trained.
    pub trained_accuracy: f64,
    /// Test accuracy of what the device answers; none where the graph was not at hand or not asked for.
    pub device_accuracy: Option<f64>,
    /// Why the measurement is not to be trusted; empty where it is.
    pub doubts: Vec<String>,
}

impl GnnRunRecord {
    /// The limit that what comes out must keep, ns, however the search keeps it.
    #[must_use]
    pub fn limit_ns(&self) -> Option<f64> {
        self.settings.reward.limit_ns.or(self.drawn_limit_ns)
    }

    /// Reads a run's record.
    ///
    /// # Errors
    /// [`RunError`] where it is missing, damaged or of another version.
    pub fn load(dir: &RunDir) -> Result<Self, RunError> {
        run::load(&dir.file("run.json"))
    }
}

impl GnnNetRecord {
    /// Reads what came out of a run.
    ///
    /// # Errors
    /// As [`GnnRunRecord::load`].
    pub fn load(dir: &RunDir) -> Result<Self, RunError> {
        run::load(&dir.file("net.json"))
    }
}

impl GnnVerifyRecord {
    /// The latency at the search's pace, ns: the measured one, unless the device was slower.
    #[must_use]
    pub fn at_pace_ns(&self) -> f64 {
        self.slower.map_or(self.measured_ns, |slower| at_pace(self.measured_ns, slower))
    }

    /// Reads what a device said of a run's net.
    ///
    /// # Errors
    /// As [`GnnRunRecord::load`].
    pub fn load(dir: &RunDir) -> Result<Self, RunError> {
        run::load(&dir.file("verify.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_judged_at_the_pace_of_the_search() {
        let verify = |slower| GnnVerifyRecord {
            schema_version: run::SCHEMA_VERSION,
            device: "board".to_owned(),
            measured_ns: 26e6,
            error_ns: 1e5,
            slower,
            in_turns: Vec::new(),
            limit_ns: Some(20e6),
            within_limit: None,
            trained_accuracy: 0.8,
            device_accuracy: None,
            doubts: Vec::new(),
        };
        assert_eq!(
            [None, Some(1.02), Some(1.3)].map(|slower| verify(slower).at_pace_ns()),
            [26e6, 26e6, 20e6]
        );
    }
}
