//! How well predictions meet measurements, on nets that no model was fitted to.

use serde::{Deserialize, Serialize};

use super::rank::spearman;

/// Agreement of two lists of latencies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Nets compared.
    pub nets: usize,
    /// Mean absolute error over the measured latency: .1 is 10%.
    pub mape: f64,
    /// Share of the nets whose absolute error is at most 5%.
    pub within_5pct: f64,
    /// Share of the nets whose absolute error is at most 10%.
    pub within_10pct: f64,
    /// Absolute error over the measured latency that nine nets in ten stay below.
    pub nine_in_ten: f64,
    /// Largest absolute error over the measured latency.
    pub worst: f64,
    /// Mean of (predicted - measured) over measured: the common bias.
    pub bias: f64,
    /// Kendall's tau-b of the two orders; 1 is the same order. None where one list is all ties.
    pub kendall_tau: Option<f64>,
    /// Spearman's rho of the two orders, ties at their mean rank. None where one list is all ties.
    pub spearman_rho: Option<f64>,
}

/// Compares pairs of (predicted, measured) latencies in one unit; none for an empty list.
#[must_use]
pub fn agreement(pairs: &[(f64, f64)]) -> Option<Agreement> {
    if pairs.is_empty() {
        return None;
    }
    let errors: Vec<f64> =
        pairs.iter().map(|(predicted, measured)| (predicted - measured) / measured).collect();
    let mut sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let count = errors.len() as f64;
    let within = |limit: f64| sizes.iter().filter(|&&size| size <= limit).count() as f64 / count;
    let (left, right): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    Some(Agreement {
        nets: pairs.len(),
        mape: sizes.iter().sum::<f64>() / count,
        within_5pct: within(0.05),
        within_10pct: within(0.1),
        nine_in_ten: sizes[(sizes.len() * 9).div_ceil(10) - 1],
        worst: sizes[sizes.len() - 1],
        bias: errors.iter().sum::<f64>() / count,
        kendall_tau: kendall_tau(pairs),
        spearman_rho: spearman(&left, &right),
    })
}

/// Kendall's tau-b (1945): pairs in the same order less pairs in opposite order, ties discounted.
fn kendall_tau(pairs: &[(f64, f64)]) -> Option<f64> {
    let (mut score, mut untied_left, mut untied_right) = (0.0, 0.0, 0.0);
    let sign = |difference: f64| if difference == 0.0 { 0.0 } else { difference.signum() };
    for (i, a) in pairs.iter().enumerate() {
        for b in &pairs[i + 1..] {
            let (left, right) = (sign(a.0 - b.0), sign(a.1 - b.1));
            score += left * right;
            untied_left += left.abs();
            untied_right += right.abs();
        }
    }
    let most = f64::sqrt(untied_left * untied_right);
    (most > 0.0).then(|| score / most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_order_are_told_apart() {
        let found = agreement(&[(11.0, 10.0), (22.0, 20.0), (27.0, 30.0)]).unwrap();
        assert!((found.mape - 0.1).abs() < 1e-12 && (found.worst - 0.1).abs() < 1e-12);
        assert!((found.bias - 0.1 / 3.0).abs() < 1e-12);
        assert_eq!(found.kendall_tau, Some(1.0));
        let reversed = agreement(&[(3.0, 1.0), (2.0, 2.0), (1.0, 3.0)]).unwrap();
        assert_eq!(reversed.kendall_tau, Some(-1.0));
        assert_eq!(agreement(&[(1.0, 1.0), (1.0, 2.0)]).unwrap().kendall_tau, None);
        assert_eq!(agreement(&[]), None);
        assert_eq!((found.spearman_rho, reversed.spearman_rho), (Some(1.0), Some(-1.0)));
    }

    #[test]
    fn shares_and_ranks_are_the_textbooks() {
        let pairs: Vec<(f64, f64)> = (0..10).map(|i| (100.0 + f64::from(i), 100.0)).collect();
        let found = agreement(&pairs).unwrap();
        assert_eq!((found.within_5pct, found.within_10pct, found.nine_in_ten), (0.6, 1.0, 0.08));
        assert_eq!((found.spearman_rho, found.kendall_tau), (None, None));
        // d = (0, -1, 1, 0): 1 - 6 * 2 / (4 * 15).
        let found = agreement(&[(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (4.0, 4.0)]).unwrap();
        assert!((found.spearman_rho.unwrap() - 0.8).abs() < 1e-12);
    }
}
