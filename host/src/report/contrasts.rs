//! Arms of an experiment held against each other, paired by seed.
//!
//! In: accuracy and latency of each arm at each seed. Out: for each contrast the mean difference of
//! accuracy and the mean ratio of latency (geometric) with their 95% intervals by Student's t over the
//! seeds that both arms have, and whether the contrast meets the bound that was registered before.

use serde::Serialize;

use crate::latency::estimate::student;

/// What one arm reached with one seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The arm.
    pub arm: String,
    /// The seed.
    pub seed: u64,
    /// Share of the test images that came out right.
    pub accuracy: f64,
    /// Measured latency, ns.
    pub latency_ns: f64,
    /// The measurement was judged not to be trusted.
    pub noisy: bool,
    /// The net was measured over its budget and the tolerance.
    pub over_budget: bool,
}

/// A mean with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Half the interval's width; none of a single seed.
    pub half: Option<f64>,
}

impl Mean {
    /// Of one value a seed; none of no seed.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let error = (squares / (count as f64 - 1.0) / count as f64).sqrt();
        let half = (count > 1).then(|| t_975(count - 1) * error);
        Some(Self { mean, half })
    }
}

/// The 97.5% point of Student's t: closed forms for 1 and 2 degrees of freedom, else by expansion.
fn t_975(freedom: usize) -> f64 {
    match freedom {
        0 => f64::INFINITY,
        1 => (std::f64::consts::PI * 0.475).tan(),
        2 => 0.95 * (2.0f64 / (1.0 - 0.95 * 0.95)).sqrt(),
        _ => 1.96 * student(freedom),
    }
}

/// `arm` against `than`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contrast {
    /// The arm.
    pub arm: String,
    /// What it is held against.
    pub than: String,
    /// Seeds that both have.
    pub seeds: usize,
    /// Accuracy of the arm less that of the other, as shares.
    pub accuracy: Mean,
    /// Logarithm of the arm's latency over the other's.
    pub log_latency: Mean,
    /// Whether the arm is better by the registered bound.
    pub reached: bool,
}

/// Latency ratio that an arm has to stay below, its interval excluding 1.
pub const LATENCY_BOUND: f64 = 0.95;

/// Accuracy that an arm may lose beside that.
pub const ACCURACY_BOUND: f64 = 0.005;

impl Contrast {
    /// Compares two arms; none where they share no seed.
    #[must_use]
    pub fn new(outcomes: &[Outcome], arm: &str, than: &str) -> Option<Self> {
        let of = |name: &str, seed: u64| outcomes.iter().find(|of| of.arm == name && of.seed == seed);
        let ours = outcomes.iter().filter(|of| of.arm == arm);
        let pairs: Vec<(&Outcome, &Outcome)> =
            ours.filter_map(|ours| of(than, ours.seed).map(|theirs| (ours, theirs))).collect();
        let mean = |value: &dyn Fn(&(&Outcome, &Outcome)) -> f64| {
            Mean::of(&pairs.iter().map(value).collect::<Vec<_>>())
        };
        let accuracy = mean(&|(ours, theirs)| ours.accuracy - theirs.accuracy)?;
        let log_latency = mean(&|(ours, theirs)| (ours.latency_ns / theirs.latency_ns).ln())?;
        let surely_faster = log_latency.half.is_some_and(|half| log_latency.mean + half < 0.0);
        let reached =
            surely_faster && log_latency.mean < LATENCY_BOUND.ln() && accuracy.mean >= -ACCURACY_BOUND;
        Some(Self {
            arm: arm.to_owned(),
            than: than.to_owned(),
            seeds: pairs.len(),
            accuracy,
            log_latency,
            reached,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(arm: &str, seed: u64, accuracy: f64, latency_ns: f64) -> Outcome {
        Outcome { arm: arm.to_owned(), seed, accuracy, latency_ns, noisy: false, over_budget: false }
    }

    #[test]
    fn seeds_are_paired_and_the_bound_wants_a_sure_gain() {
        let mut all = vec![
            outcome("C", 1, 0.90, 100.0),
            outcome("C", 2, 0.80, 200.0),
            outcome("C", 3, 0.85, 150.0),
            outcome("D", 1, 0.91, 80.0),
            outcome("D", 2, 0.80, 161.0),
            outcome("D", 3, 0.85, 119.0),
            outcome("D", 9, 0.10, 1.0),
        ];
        let found = Contrast::new(&all, "D", "C").unwrap();
        assert_eq!((found.seeds, found.reached), (3, true), "{found:?}");
        assert!((found.log_latency.mean.exp() - 0.8).abs() < 0.01);
        // Tables: t_.975 for 2 degrees of freedom is 4.303; the differences are .01, 0, 0.
        assert!((found.accuracy.half.unwrap() - 4.303 * 0.01 / 3.0).abs() < 1e-5);
        all[4].latency_ns = 240.0;
        assert!(!Contrast::new(&all, "D", "C").unwrap().reached, "one seed against it, the interval holds 1");
        assert_eq!(Contrast::new(&all, "D", "E"), None);
        let single = Contrast::new(&all[..1].iter().chain(&all[3..4]).cloned().collect::<Vec<_>>(), "D", "C");
        let single = single.unwrap();
        assert_eq!((single.seeds, single.accuracy.half, single.reached), (1, None, false));
    }
}
