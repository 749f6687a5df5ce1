//! What a search is asked for. The defaults are the paper's and its code's (ALGORITHM 1.3 to 1.5).

use std::f64::consts::PI;

use hanas_models::resnet::Family;
use serde::{Deserialize, Serialize};

use super::SearchError;
use crate::data::stream::{Purpose, stream};
use crate::space::width::WidthSpace;

/// Which space is searched, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Strategy {
    /// The measured, hardware-aware space.
    Htas,
    /// TAS's space of `expand` times the base widths.
    Tas {
        /// Expansion of the base widths, 1 or 2.
        expand: u32,
    },
    /// The aligned grid of twice the base widths: the control that measures nothing.
    Aligned,
    /// One width drawn at random of each group of twice the base widths: the control that neither
    /// measures nor aligns.
    RandomGroups,
    /// Nets drawn at random from the given space; the nearest below the budget wins.
    Random,
    /// The base net with all widths scaled alike.
    Uniform,
    /// The trained base net, made smaller coordinate by coordinate.
    NetAdapt,
}

/// Width groups per stage (ALGORITHM 1.6).
const GROUPS: u32 = 8;
/// Expansion of the global space (ALGORITHM 1.6).
const EXPAND: u32 = 2;

impl Strategy {
    /// The width space that it searches; [`Strategy::Htas`] and [`Strategy::Random`] take the measured
    /// one, [`Strategy::RandomGroups`] draws its own from the seed.
    ///
    /// # Errors
    /// [`SearchError::Config`] where the measured space is needed and not given.
    pub fn space(
        self,
        family: &Family,
        measured: Option<&WidthSpace>,
        seed: u64,
    ) -> Result<WidthSpace, SearchError> {
        match self {
            Self::NetAdapt => Ok(WidthSpace::aligned(family, 1, GROUPS)),
            Self::RandomGroups => {
                let mut rng = stream(seed, Purpose::RandomGroups, 0, 0);
                Ok(WidthSpace::random_groups(family, EXPAND, GROUPS, &mut rng))
            }
            Self::Tas { expand } => Ok(WidthSpace::tas(family, expand)),
            Self::Aligned | Self::Uniform => Ok(WidthSpace::aligned(family, EXPAND, GROUPS)),
            Self::Htas | Self::Random => measured.cloned().ok_or_else(|| {
                SearchError::Config(
                    "this strategy needs a measured space; run 'hanas space build'".to_owned(),
                )
            }),
        }
    }
}

/// What the net must cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Gate {
    /// Multiply-adds, relative to the base net's (paper mode).
    Flops {
        /// Share of the base net's multiply-adds.
        ratio: f64,
    },
    /// Measured latency (project mode).
    Latency {
        /// The budget, in nanoseconds.
        budget_ns: f64,
    },
}

/// What the architecture's loss is charged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CostKind {
    /// Expected latency by the fitted curve of each layer type (HTAS).
    Latency,
    /// Expected latency by the table of input and output widths of each layer kind.
    Pairwise,
    /// Expected multiply-adds (TAS).
    Flops,
}

/// How the learned logits become a net.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decode {
    /// The likeliest choice of every row (the paper).
    #[default]
    Argmax,
    /// The likeliest net within the budget; see [`decode`](super::decode).
    Exact,
}

/// Temperature of the Gumbel softmax over the epochs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case")]
pub enum Temperature {
    /// Half a cosine from `from` to `to` (the reference code: 5 to .1).
    Cosine {
        /// At the first epoch.
        from: f64,
        /// At the last epoch.
        to: f64,
    },
    /// A straight line from `from` to `to` (the TAS paper: 10 to .1).
    Linear {
        /// At the first epoch.
        from: f64,
        /// At the last epoch.
        to: f64,
    },
}

impl Temperature {
    /// The reference code's.
    pub const COSINE: Self = Self::Cosine { from: 5.0, to: 0.1 };
    /// The TAS paper's.
    pub const LINEAR: Self = Self::Linear { from: 10.0, to: 0.1 };

    /// The temperature in one of `epochs` epochs.
    #[must_use]
    pub fn at(self, epoch: u32, epochs: u32) -> f64 {
        let way = f64::from(epoch) / f64::from(epochs.saturating_sub(1).max(1));
        match self {
            Self::Cosine { from, to } => to + 0.5 * (from - to) * (1.0 + (PI * way).cos()),
            Self::Linear { from, to } => from + (to - from) * way,
        }
    }
}

/// Stochastic gradient descent with Nesterov momentum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SgdConfig {
    /// Highest learning rate.
    pub rate: f64,
    /// Momentum.
    pub momentum: f64,
    /// Weight decay.
    pub decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { rate: 0.1, momentum: 0.9, decay: 5e-4 }
    }
}

/// Adam.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamConfig {
    /// Learning rate.
    pub rate: f64,
    /// Decay of the mean and of the square mean.
    pub betas: [f64; 2],
    /// Weight decay, added to the gradient.
    pub decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { rate: 1e-3, betas: [0.5, 0.999], decay: 1e-3 }
    }
}

/// Everything that a search depends on but the data, the space and the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// Which space is searched, and how.
    pub strategy: Strategy,
    /// Seed of everything random.
    pub seed: u64,
    /// What the net must cost.
    pub gate: Gate,
    /// What the architecture's loss is charged for.
    pub cost: CostKind,
    /// How the logits become a net.
    #[serde(default)]
    pub decode: Decode,
    /// Share of the target within which a net's cost is neither charged nor rewarded, and by which a
    /// derived net may exceed it.
    pub tolerance: f64,
    /// Weight of the cost in the architecture's loss.
    pub cost_weight: f64,
    /// Epochs of weight and architecture steps.
    pub epochs: u32,
    /// Epochs of weight steps alone before them.
    pub warmup_epochs: u32,
    /// Images per step.
    pub batch: usize,
    /// Optimiser of the weights; its rate falls along a cosine to 0.
    pub weights: SgdConfig,
    /// Optimiser of the logits.
    pub logits: AdamConfig,
    /// Temperature of the Gumbel softmax.
    pub temperature: Temperature,
    /// Nets that random search draws.
    pub random_nets: usize,
}

impl SearchConfig {
    /// The paper's settings for a strategy and a gate.
    #[must_use]
    pub fn paper(strategy: Strategy, gate: Gate, seed: u64) -> Self {
        let cost = match gate {
            Gate::Flops { .. } => CostKind::Flops,
            Gate::Latency { .. } => CostKind::Latency,
        };
        Self {
            strategy,
            seed,
            gate,
            cost,
            decode: Decode::Argmax,
            tolerance: 0.05,
            cost_weight: 2.0,
            epochs: 600,
            warmup_epochs: 0,
            batch: 256,
            weights: SgdConfig::default(),
            logits: AdamConfig::default(),
            temperature: Temperature::COSINE,
            random_nets: 2_000,
        }
    }

    /// The settings for the scale that a desk machine allows (ALGORITHM 3). Its epochs are so few that
    /// Adam at the paper's rate could not move a logit by one: the rate is 1e-2 here.
    #[must_use]
    pub fn scaled(strategy: Strategy, gate: Gate, seed: u64) -> Self {
        let logits = AdamConfig { rate: 1e-2, ..AdamConfig::default() };
        Self { epochs: 12, warmup_epochs: 2, batch: 128, logits, ..Self::paper(strategy, gate, seed) }
    }

    /// All epochs.
    #[must_use]
    pub const fn total_epochs(&self) -> u32 {
        self.epochs + self.warmup_epochs
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// [`SearchError::Config`] with the value that makes no sense.
    pub fn check(&self) -> Result<(), SearchError> {
        let target = match self.gate {
            Gate::Flops { ratio } => ratio,
            Gate::Latency { budget_ns } => budget_ns,
        };
        let complaint = if !(target.is_finite() && target > 0.0) {
            format!("a budget of {target} is none; give --budget as 12ms or 0.5x")
        } else if !(0.0..1.0).contains(&self.tolerance) {
            format!("a tolerance of {} is none; take a share such as 0.05", self.tolerance)
        } else if self.epochs == 0 || self.batch == 0 {
            "a search needs at least one epoch and one image per batch".to_owned()
        } else if !(self.weights.rate.is_finite() && self.weights.rate > 0.0) {
            format!("a learning rate of {} is none; give --rate as 0.1 or less", self.weights.rate)
        } else {
            return Ok(());
        };
        Err(SearchError::Config(complaint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperatures_run_from_end_to_end() {
        for (schedule, middle) in [(Temperature::COSINE, 2.55), (Temperature::LINEAR, 5.05)] {
            let (Temperature::Cosine { from, to } | Temperature::Linear { from, to }) = schedule;
            assert!((schedule.at(0, 11) - from).abs() < 1e-12);
            assert!((schedule.at(5, 11) - middle).abs() < 1e-12);
            assert!((schedule.at(10, 11) - to).abs() < 1e-12);
        }
        assert!((Temperature::COSINE.at(0, 1) - 5.0).abs() < 1e-12);
    }

    #[test]
    fn a_budget_or_a_rate_that_is_none_is_refused() {
        for none in [0.0, -1.0, f64::NAN] {
            let config = SearchConfig::paper(Strategy::Htas, Gate::Latency { budget_ns: none }, 1);
            assert!(matches!(config.check(), Err(SearchError::Config(_))));
            let mut config = SearchConfig::paper(Strategy::Htas, Gate::Latency { budget_ns: 1e6 }, 1);
            config.weights.rate = none;
            assert!(matches!(config.check(), Err(SearchError::Config(_))));
        }
    }
}
