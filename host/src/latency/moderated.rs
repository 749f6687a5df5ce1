//! Variances of many models that are each known from few observations.
//!
//! A bootstrap over a handful of blocks tells a model's error only roughly; by chance it comes out far
//! too small for some of many models, and those choices then look sure. How large variances are and how
//! much they differ from model to model is estimated from all models together, and each one's own is
//! drawn towards that (Smyth 2004, section 3):
//!
//! ```text
//! s~^2 = (d0 s0^2 + d s^2) / (d0 + d), with d0 + d degrees of freedom
//! ```
//!
//! s0 and d0 follow from the moments of log s^2 (Smyth 2004, section 6.2). Where models differ by no more than
//! chance makes them, d0 is infinite and s0 counts for all.

/// A variance and its degrees of freedom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The variance; of relative errors, so that fast and slow models compare.
    pub variance: f64,
    /// Degrees of freedom, above nought.
    pub freedom: f64,
}

/// Degrees of freedom beyond which a variance is as good as known.
pub const KNOWN: f64 = 1e6;

/// Each variance, drawn towards what is usual among them.
#[must_use]
pub fn moderated(spreads: &[Spread]) -> Vec<Spread> {
    let prior = prior(spreads);
    let Spread { variance: usual, freedom: weight } = prior;
    let draw = |&Spread { variance, freedom }: &Spread| {
        if weight >= KNOWN {
            return prior;
        }
        let all = weight + freedom;
        Spread { variance: weight.mul_add(usual, freedom * variance) / all, freedom: all }
    };
    spreads.iter().map(draw).collect()
}

/// s0^2 and d0 from all variances.
fn prior(spreads: &[Spread]) -> Spread {
    // A clock too coarse to see any difference gives variances of nought, which have no logarithm.
    let seen: Vec<Spread> = spreads.iter().copied().filter(|spread| spread.variance > 0.0).collect();
    if seen.len() < 3 || seen.len() < spreads.len() {
        return Spread { variance: 0.0, freedom: 0.0 };
    }
    let count = seen.len() as f64;
    let centred = |of: &Spread| of.variance.ln() - digamma(of.freedom / 2.0) + (of.freedom / 2.0).ln();
    let logs: Vec<f64> = seen.iter().map(centred).collect();
    let mean = logs.iter().sum::<f64>() / count;
    let beyond_chance = |(log, of): (&f64, &Spread)| {
        (log - mean).powi(2).mul_add(count / (count - 1.0), -trigamma(of.freedom / 2.0))
    };
    let excess = logs.iter().zip(&seen).map(beyond_chance).sum::<f64>() / count;
    if excess <= trigamma(KNOWN / 2.0) {
        return Spread { variance: mean.exp(), freedom: KNOWN };
    }
    let half = trigamma_inverse(excess);
    Spread { variance: (mean + digamma(half) - half.ln()).exp(), freedom: 2.0 * half }
}

/// The digamma function of x > 0: recurrence up to 6, then the asymptotic series (Abramowitz & Stegun
/// 6.3.5, 6.3.18); error below 1e-8.
fn digamma(mut x: f64) -> f64 {
    let mut below = 0.0;
    while x < 6.0 {
        below -= 1.0 / x;
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = square * (1.0 / 12.0 - square * (1.0 / 120.0 - square * (1.0 / 252.0 - square / 240.0)));
    below + x.ln() - 0.5 / x - series
}

/// Its derivative, likewise (6.4.6, 6.4.12).
fn trigamma(mut x: f64) -> f64 {
    let mut below = 0.0;
    while x < 6.0 {
        below += 1.0 / (x * x);
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = square * (1.0 / 6.0 - square * (1.0 / 30.0 - square * (1.0 / 42.0 - square / 30.0)));
    below + 1.0 / x + square / 2.0 + series / x
}

/// The x whose trigamma is y, by bisection: the function falls steadily.
fn trigamma_inverse(y: f64) -> f64 {
    let (mut low, mut high) = (1e-6f64, KNOWN / 2.0);
    for _ in 0..100 {
        let middle = (low * high).sqrt();
        if trigamma(middle) > y {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low * high).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{normal, rng};
    use super::*;

    /// Sample variances of `freedom + 1` normal numbers each, of standard deviation `scale(i)`.
    fn drawn(freedom: usize, seed: u64, scale: impl Fn(usize) -> f64) -> Vec<Spread> {
        let mut rng = rng(seed);
        let mut variance = |i: usize| {
            let values: Vec<f64> = (0..=freedom).map(|_| scale(i) * normal(&mut rng)).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom as f64
        };
        (0..400).map(|i| Spread { variance: variance(i), freedom: freedom as f64 }).collect()
    }

    #[test]
    fn equal_models_share_one_variance_and_unequal_ones_keep_their_own() {
        let lowest = |of: &[Spread]| of.iter().map(|of| of.variance).fold(f64::INFINITY, f64::min);
        let equal = drawn(4, 1, |_| 1.0);
        assert!(lowest(&equal) < 0.1, "chance alone makes some tiny");
        assert!(lowest(&moderated(&equal)) > 0.6);
        let unequal = drawn(4, 2, |i| if i < 200 { 0.1 } else { 1.0 });
        let after = moderated(&unequal);
        let mean = |of: &[Spread]| of.iter().map(|of| of.variance).sum::<f64>() / of.len() as f64;
        assert!(mean(&after[200..]) > 20.0 * mean(&after[..200]));
        assert!(after[0].freedom < 10.0, "little is learnt from models that differ");
    }

    /// The point of it: the errors of a t-test over many models keep their promise.
    #[test]
    fn moderated_errors_are_as_often_exceeded_as_they_say() {
        let freedom = 4;
        let mut exceeded = [0, 0];
        for seed in 0..20 {
            let spreads = drawn(freedom, 100 + seed, |i| if i % 2 == 0 { 1.0 } else { 1.5 });
            let after = moderated(&spreads);
            let mut rng = rng(seed);
            for (i, (raw, moderated)) in spreads.iter().zip(&after).enumerate() {
                let error = normal(&mut rng).abs() * if i % 2 == 0 { 1.0 } else { 1.5 };
                exceeded[0] += usize::from(error > 5.0 * raw.variance.sqrt());
                exceeded[1] += usize::from(error > 5.0 * moderated.variance.sqrt());
            }
        }
        assert!(exceeded[0] > 40 && exceeded[1] * 10 < exceeded[0], "{exceeded:?} of 8000");
    }

    #[test]
    fn where_nothing_is_learnt_all_stay_as_they_are() {
        let two = [Spread { variance: 1.0, freedom: 3.0 }, Spread { variance: 4.0, freedom: 3.0 }];
        assert_eq!(moderated(&two), two);
        let coarse = [Spread { variance: 0.0, freedom: 3.0 }; 4];
        assert_eq!(moderated(&coarse), coarse);
    }

    #[test]
    fn gamma_derivatives_are_the_tables() {
        // Abramowitz & Stegun, table 6.1.
        assert!((digamma(1.0) + 0.577_215_664_9).abs() < 1e-8);
        assert!((digamma(1.5) - 0.036_489_974_0).abs() < 1e-8);
        assert!((trigamma(1.0) - 1.644_934_066_8).abs() < 1e-8);
        assert!((trigamma(1.5) - 0.934_802_200_5).abs() < 1e-8);
        assert!((trigamma_inverse(trigamma(3.7)) / 3.7 - 1.0).abs() < 1e-6);
    }
}
