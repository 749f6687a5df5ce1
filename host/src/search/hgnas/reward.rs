//! What a strategy is told about an architecture: a reward, and whether it may be tried at all.

use serde::{Deserialize, Serialize};

/// Exponent of the paper's latency reward (ALGORITHM 2.5).
pub const OMEGA: f64 = 0.07;

/// What is rewarded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Objective {
    /// Validation accuracy alone (GraphNAS).
    Accuracy,
    /// accuracy * (latency / T)^-omega (the paper). T only rescales it; it is no limit.
    Latency {
        /// T, in nanoseconds.
        reference_ns: f64,
        /// omega.
        omega: f64,
    },
}

/// An objective and, in project mode, a limit that no trial exceeds (the paper's way to keep one is
/// [`super::drawn`]).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reward {
    /// What is rewarded.
    pub objective: Objective,
    /// Predicted latency above which an architecture is not tried, ns.
    pub limit_ns: Option<f64>,
}

impl Reward {
    /// The reward of a validation accuracy at a latency in nanoseconds.
    #[must_use]
    pub fn value(&self, accuracy: f64, latency_ns: f64) -> f64 {
        match self.objective {
            Objective::Accuracy => accuracy,
            Objective::Latency { reference_ns, omega } => accuracy * (latency_ns / reference_ns).powf(-omega),
        }
    }

    /// Whether an architecture of this latency may be tried.
    #[must_use]
    pub fn allows(&self, latency_ns: f64) -> bool {
        self.limit_ns.is_none_or(|limit| latency_ns <= limit)
    }
}

/// The median of latencies, such as the paper's T over random architectures; none of an empty list.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The quantile of a share 0 to 1, linear between neighbours; none of an empty list.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = sorted[(low + 1).min(last)];
    // Beside an infinite one, too, the finite one is itself.
    Some(if part > 0.0 { (high - sorted[low]).mul_add(part, sorted[low]) } else { sorted[low] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_latency_is_worth_five_percent() {
        let objective = Objective::Latency { reference_ns: 4e6, omega: OMEGA };
        let reward = Reward { objective, limit_ns: None };
        assert!((reward.value(0.8, 4e6) - 0.8).abs() < 1e-12);
        assert!((reward.value(0.8, 2e6) / 0.8 - 1.0497).abs() < 1e-4);
        assert!(reward.value(0.8, 8e6) < 0.8 && reward.allows(f64::MAX));
        let plain = Reward { objective: Objective::Accuracy, limit_ns: Some(3e6) };
        assert_eq!(plain.value(0.8, 9e6), 0.8);
        assert!(plain.allows(3e6) && !plain.allows(3.1e6));
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(median(&[3.0, 1.0, 2.0, 10.0]), Some(2.5));
        assert_eq!(quantile(&[4.0, 0.0], 0.25), Some(1.0));
        assert_eq!((quantile(&[5.0], 0.9), median(&[])), (Some(5.0), None));
        let one_of_three = [1.0, 2.0, f64::INFINITY];
        assert_eq!((median(&one_of_three), quantile(&one_of_three, 0.75)), (Some(2.0), Some(f64::INFINITY)));
    }
}
