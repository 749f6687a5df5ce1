//! What training made of a run's net: `train.json` in the run's folder.

use serde::{Deserialize, Serialize};

use super::child::{ChildConfig, ChildResult};
use super::config::TrainConfig;
use crate::data::Normalisation;
use crate::search::hgnas::finals::Spread;
use crate::search::run::{self, RunDir, RunError};

/// How well the net does, and how it was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainRecord {
    /// See [`run::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Training images.
    pub train_images: usize,
    /// Test images.
    pub test_images: usize,
    /// Share of the test images that came out right after the last epoch.
    pub test_accuracy: f64,
    /// The same of the base net that was the teacher.
    pub teacher_test_accuracy: Option<f64>,
    /// What its input is normalised with: (pixel - mean) / deviation, pixels 0 to 255, by channel.
    #[serde(default)]
    pub normalisation: Option<Normalisation>,
    /// How it was trained.
    pub config: TrainConfig,
}

impl TrainRecord {
    /// Reads a run's record.
    ///
    /// # Errors
    /// [`RunError`] where the run is not trained or the file not readable.
    pub fn load(dir: &RunDir) -> Result<Self, RunError> {
        run::load(&dir.file("train.json"))
    }

    /// Stores the record in the run's folder.
    ///
    /// # Errors
    /// [`RunError`] where it cannot be written.
    pub fn save(&self, dir: &RunDir) -> Result<(), RunError> {
        run::save(&dir.file("train.json"), self)
    }
}

/// How well a run's graph net does, and how it was trained: `train.json` of a run over graph nets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphTrainRecord {
    /// See [`run::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// How it was trained.
    pub config: ChildConfig,
    /// Trainings from scratch, under seeds that follow each other.
    pub runs: usize,
    /// Validation accuracy over them.
    pub validation: Option<Spread>,
    /// Test accuracy over them.
    pub test: Option<Spread>,
    /// Seed of the training whose weights are kept: the one that did best on the validation nodes.
    pub seed: u64,
    /// What that training came to.
    pub result: ChildResult,
}

impl GraphTrainRecord {
    /// Reads a run's record.
    ///
    /// # Errors
    /// As [`TrainRecord::load`].
    pub fn load(dir: &RunDir) -> Result<Self, RunError> {
        run::load(&dir.file("train.json"))
    }

    /// Stores the record in the run's folder.
    ///
    /// # Errors
    /// As [`TrainRecord::save`].
    pub fn save(&self, dir: &RunDir) -> Result<(), RunError> {
        run::save(&dir.file("train.json"), self)
    }
}
