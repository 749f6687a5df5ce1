//! How a graph net is trained, and what came of it (ALGORITHM 2.3).

use hanas_models::gnn::Reading;
use serde::{Deserialize, Serialize};

/// Settings of a child's training; the paper's by default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChildConfig {
    /// Adam's learning rate.
    pub rate: f64,
    /// Weight decay, added to the gradient.
    pub decay: f64,
    /// Dropout of inputs and attention weights.
    pub dropout: f64,
    /// Epochs, one step of the whole graph each.
    pub epochs: u32,
    /// Epochs without a lower validation loss after which training ends; none: never.
    pub patience: Option<u32>,
    /// How the net is read.
    pub reading: Reading,
}

impl Default for ChildConfig {
    fn default() -> Self {
        Self {
            rate: 0.005,
            decay: 5e-4,
            dropout: 0.6,
            epochs: 300,
            patience: None,
            reading: Reading::project(),
        }
    }
}

impl ChildConfig {
    /// As the paper and its code have it.
    #[must_use]
    pub fn paper() -> Self {
        Self { reading: Reading::paper(), ..Self::default() }
    }

    /// The scaled protocol (ALGORITHM 3): at most 100 epochs, patience 20. A report says so.
    #[must_use]
    pub fn scaled() -> Self {
        Self { epochs: 100, patience: Some(20), ..Self::default() }
    }

    /// Whether the settings make sense.
    ///
    /// # Errors
    /// A line that says which does not.
    pub fn check(&self) -> Result<(), String> {
        let Self { rate, decay, dropout, epochs, patience, .. } = *self;
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(format!("the learning rate is {rate}; it must be above 0"));
        }
        if !(decay >= 0.0 && decay.is_finite()) {
            return Err(format!("the weight decay is {decay}; it must be at least 0"));
        }
        if !(0.0..1.0).contains(&dropout) {
            return Err(format!("the dropout is {dropout}; it must be at least 0 and below 1"));
        }
        if epochs == 0 || patience == Some(0) {
            return Err("epochs and patience must be at least 1".to_owned());
        }
        Ok(())
    }
}

/// What came of a child's training. All figures but `epochs` are of the epoch with the lowest validation
/// loss; the test nodes were looked at for that epoch only.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ChildResult {
    /// The epoch with the lowest validation loss, from 0.
    pub best_epoch: u32,
    /// Epochs trained.
    pub epochs: u32,
    /// Validation loss.
    pub val_loss: f64,
    /// Share of the validation nodes that came out right: the score.
    pub val_accuracy: f64,
    /// Share of the test nodes that came out right.
    pub test_accuracy: f64,
}
