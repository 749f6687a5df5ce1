//! Settings of a training; the defaults are the paper's and its code's (ALGORITHM 1.7).

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::TrainError;
use crate::search::config::SgdConfig;

/// Everything that a training depends on but the net, the data and the teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of everything random.
    pub seed: u64,
    /// Epochs after the warm-up.
    pub epochs: u32,
    /// Epochs over which the learning rate rises in a straight line.
    pub warmup_epochs: u32,
    /// Images per step.
    pub batch: usize,
    /// Optimiser; its rate falls along a cosine to 0.
    pub sgd: SgdConfig,
    /// Share of the teacher's part in the loss (ALGORITHM 1.7); the labels have the rest.
    pub teacher_share: f64,
    /// Temperature at which student and teacher are compared.
    pub teacher_temperature: f64,
    /// Whether to test after every epoch too. Only the last epoch's accuracy is a result.
    pub test_every_epoch: bool,
}

impl TrainConfig {
    /// The paper's settings.
    #[must_use]
    pub fn paper(seed: u64) -> Self {
        Self {
            seed,
            epochs: 300,
            warmup_epochs: 5,
            batch: 256,
            sgd: SgdConfig::default(),
            teacher_share: 0.9,
            teacher_temperature: 4.0,
            test_every_epoch: false,
        }
    }

    /// The settings for the scale that a desk machine allows (ALGORITHM 3).
    #[must_use]
    pub fn scaled(seed: u64) -> Self {
        Self { epochs: 19, warmup_epochs: 1, batch: 128, ..Self::paper(seed) }
    }

    /// All epochs.
    #[must_use]
    pub const fn total_epochs(&self) -> u32 {
        self.epochs + self.warmup_epochs
    }

    /// The learning rate after `done` epochs, which may end in a part of one.
    #[must_use]
    pub fn rate(&self, done: f64) -> f64 {
        let warmup = f64::from(self.warmup_epochs);
        if done < warmup {
            return self.sgd.rate * done / warmup;
        }
        let way = (done - warmup) / f64::from(self.epochs.max(1));
        0.5 * self.sgd.rate * (1.0 + (PI * way).cos())
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// [`TrainError::Config`] with the value that makes no sense.
    pub fn check(&self) -> Result<(), TrainError> {
        if self.epochs == 0 || self.batch == 0 {
            return Err(TrainError::Config(
                "a training needs at least one epoch and one image per batch".into(),
            ));
        }
        if !(self.sgd.rate.is_finite() && self.sgd.rate > 0.0) {
            let rate = self.sgd.rate;
            return Err(TrainError::Config(format!(
                "a learning rate of {rate} is none; give --rate as 0.1 or less"
            )));
        }
        if !(0.0..=1.0).contains(&self.teacher_share) || self.teacher_temperature <= 0.0 {
            let (share, temperature) = (self.teacher_share, self.teacher_temperature);
            return Err(TrainError::Config(format!(
                "a teacher's share of {share} at temperature {temperature} makes no loss; take .9 and 4"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_then_falls_to_nothing() {
        let config = TrainConfig { epochs: 10, warmup_epochs: 2, ..TrainConfig::paper(1) };
        for (done, rate) in [(0.0, 0.0), (1.0, 0.05), (2.0, 0.1), (7.0, 0.05), (12.0, 0.0)] {
            assert!((config.rate(done) - rate).abs() < 1e-12, "{done}: {}", config.rate(done));
        }
    }

    #[test]
    fn settings_without_sense_are_refused() {
        let config = TrainConfig { teacher_share: 1.5, ..TrainConfig::paper(1) };
        assert!(matches!(config.check(), Err(TrainError::Config(_))));
        let config = TrainConfig { epochs: 0, ..TrainConfig::paper(1) };
        assert!(matches!(config.check(), Err(TrainError::Config(_))));
        let mut config = TrainConfig::paper(1);
        config.sgd.rate = -0.1;
        assert!(matches!(config.check(), Err(TrainError::Config(_))));
    }
}
