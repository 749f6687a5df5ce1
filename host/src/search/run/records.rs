//! What a run's files hold.

use std::path::PathBuf;

use hanas_models::cost::{macs, params};
use hanas_models::resnet::ConvNet;
use hanas_models::spec::SpecError;
use serde::{Deserialize, Serialize};

use super::super::config::SearchConfig;
use super::SCHEMA_VERSION;
use crate::latency::disturbed::at_pace;
use crate::space::width::WidthSpace;
use crate::task::Task;

/// What was asked: `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The task.
    pub task: Task,
    /// Name of the device, as the user gave it.
    pub device: String,
    /// Images a run, on the device.
    pub batch: u32,
    /// Strategy, seed, gate and settings.
    pub config: SearchConfig,
    /// Width choices that are searched.
    pub space: WidthSpace,
    /// Training images taken of the set, all where absent.
    pub train_images: Option<usize>,
    /// The budget as it was given, `0.5x` or `2500us`; absent where an older hanas wrote the record.
    pub budget: Option<String>,
    /// Digest of the training images; absent where an older hanas wrote the record.
    pub images_digest: Option<String>,
}

/// What came out: `net.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetRecord {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The net.
    pub net: ConvNet,
    /// The net in one line.
    pub summary: String,
    /// Multiply-adds of one image.
    pub macs: u64,
    /// Trainable parameters.
    pub params: u64,
    /// Predicted latency, ns, where there is a device.
    pub predicted_ns: Option<f64>,
    /// Latency measured while searching, ns, where there is a device.
    pub measured_ns: Option<f64>,
    /// Reductions that brought the derived net within its budget.
    pub repair_steps: usize,
}

/// What the device says of the net.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyRecord {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The device, as the user named it.
    pub device: String,
    /// Latency as the profile's curves have it, ns.
    pub predicted_ns: Option<f64>,
    /// Latency as measured now, ns.
    pub measured_ns: f64,
    /// Its standard error, ns.
    pub error_ns: f64,
    /// The base net's latency, measured beside it, ns.
    pub base_ns: f64,
    /// How many times slower the device was than when the net was searched, by the base net.
    #[serde(default)]
    pub slower: Option<f64>,
    /// Folders of the runs that were measured in turns with this one, itself included.
    #[serde(default)]
    pub in_turns: Vec<PathBuf>,
    /// The limit, ns.
    pub budget_ns: Option<f64>,
    /// Whether the latency is within the limit and its tolerance; at the search's pace, where the device was
    /// slower.
    pub within_budget: Option<bool>,
    /// What the device answers on test images.
    pub on_device: Option<OnDevice>,
    /// Why the measurement is not to be trusted; empty where it is.
    pub doubts: Vec<String>,
}

impl VerifyRecord {
    /// A latency of this verification, ns, as it is at the search's pace: the measured one, unless the device
    /// was slower.
    #[must_use]
    pub fn at_pace(&self, ns: f64) -> f64 {
        self.slower.map_or(ns, |slower| at_pace(ns, slower))
    }
}

/// Test images classified by the device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OnDevice {
    /// How many.
    pub images: usize,
    /// Share that came out right.
    pub accuracy: f64,
}

impl NetRecord {
    /// The record of a net that was not timed.
    ///
    /// # Errors
    /// [`SpecError`] where the net does not fit together.
    pub fn new(net: &ConvNet) -> Result<Self, SpecError> {
        let graph = net.net()?;
        Ok(Self {
            schema_version: SCHEMA_VERSION,
            summary: net.summary(),
            macs: macs(&graph)?,
            params: params(&graph),
            net: net.clone(),
            predicted_ns: None,
            measured_ns: None,
            repair_steps: 0,
        })
    }
}
