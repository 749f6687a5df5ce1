//! Graph nets trained for a search: what a score is made of.

use hanas_models::gnn::GnnNet;
use hanas_models::weights::Weights;

use crate::data::graph::GraphData;
use crate::search::hgnas::explore::{ProblemError, Score};
use crate::search::hgnas::problem::Scorer;
use crate::train::TrainError;
use crate::train::child::{ChildConfig, ChildResult};
use crate::train::gnn::ChildTrainer;

/// Trains children on a graph.
pub(super) struct Trainer<'a> {
    trainer: ChildTrainer<'a>,
    config: ChildConfig,
}

impl<'a> Trainer<'a> {
    /// A trainer on a graph under these settings.
    pub(super) fn new(data: &'a GraphData, config: ChildConfig) -> Self {
        Self { trainer: ChildTrainer::new(data), config }
    }

    /// A child with its weights.
    pub(super) fn train(&self, net: &GnnNet, seed: u64) -> Result<(ChildResult, Weights), TrainError> {
        self.trainer.train(net, &self.config, seed)
    }
}

impl Scorer for Trainer<'_> {
    /// A child whose loss is no number any more is worth nothing; the search goes on.
    fn score(&mut self, net: &GnnNet, seed: u64) -> Result<Score, ProblemError> {
        match self.train(net, seed) {
            Ok((found, _)) => Ok(Score { validation: found.val_accuracy, test: found.test_accuracy }),
            Err(TrainError::Diverged { .. }) => Ok(Score { validation: 0.0, test: 0.0 }),
            Err(error) => Err(error.into()),
        }
    }
}

/// Digest of all that a child is trained and scored on.
pub(super) fn digest(data: &GraphData) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut numbers = |list: &mut dyn Iterator<Item = u32>| {
        let bytes: Vec<u8> = list.flat_map(u32::to_le_bytes).collect();
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    };
    numbers(&mut [data.nodes(), data.classes, data.features.width()].into_iter());
    numbers(&mut data.graph.edges().iter().flatten().copied());
    numbers(&mut data.features.starts().iter().copied());
    numbers(&mut data.features.columns().iter().copied());
    numbers(&mut data.features.values().iter().map(|value| value.to_bits()));
    numbers(&mut data.labels.iter().map(|label| label.map_or(u32::MAX, |label| label)));
    for (_, nodes) in data.split.parts() {
        numbers(&mut nodes.iter().copied());
    }
    hasher.finalize().to_hex().to_string()
}
