//! Measured pairs (heads, dim) of a graph's reference net -> latency at any pair, and how far to trust it.
//!
//! Logarithms of latencies over a straight line in heads x dim are a Gaussian process (Krige 1951;
//! Rasmussen & Williams 2006, ch. 2). Its covariance has what such latencies are made of: a part that is
//! smooth over both, one that belongs to a dim, one that repeats with every 8 values of a dim and one
//! with every 16 of heads x dim, as vectors and tiles of matrix products do, and one that is a pair's own.
//!
//! ```text
//! k = w1 e(dh/3 + dl/3) + w2 e(|d - d'|/2 + dh/3) + w3 p(d - d', 8) e(dl/2 + dh/3)
//!   + w4 p(hd - h'd', 16) e(dx/2) + w5 e(4 dh + |d - d'|/2),       plus noise on the diagonal
//! e(t) = exp(-t), p(t, T) = exp(-2 sin^2(pi t / T) / .6^2)
//! dh, dl, dx: distances of the logarithms (base 2) of heads, dim, heads x dim
//! ```
//!
//! Weights and noise are those of a short list under which the measurements are likeliest.

use std::f64::consts::PI;

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::fit::{Point, PowerFit, Weighting, least_squares};

/// Weights that are tried: one part at a time, all alike, and tiles with little else.
const WEIGHTS: [[f64; 5]; 9] = [
    [0.6, 0.1, 0.1, 0.1, 0.1],
    [0.2, 0.4, 0.2, 0.1, 0.1],
    [0.2, 0.1, 0.5, 0.1, 0.1],
    [0.2, 0.1, 0.1, 0.5, 0.1],
    [0.2, 0.1, 0.1, 0.1, 0.5],
    [0.2, 0.2, 0.2, 0.2, 0.2],
    [0.10, 0.02, 0.80, 0.06, 0.02],
    [0.10, 0.02, 0.40, 0.46, 0.02],
    [0.30, 0.02, 0.33, 0.33, 0.02],
];
/// Variances of the noise that are tried, over that of the process.
const NOISES: [f64; 5] = [1e-4, 1e-3, 1e-2, 1e-1, 3e-1];
/// Points that the settings are chosen by, at most: the likelihood takes cubic time.
const CHOICE_POINTS: usize = 200;
/// Length of the repeating parts.
const ROUND: f64 = 0.6;
/// Share of the smallest latency under which the straight line is not followed.
const FLOOR: f64 = 0.25;

/// Latency at a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guess {
    /// Latency, ns.
    pub ns: f64,
    /// One standard deviation, ns.
    pub sd_ns: f64,
}

/// Latency over heads and dim, from scattered pairs.
#[derive(Debug, Clone)]
pub struct GraphField {
    trend: Trend,
    kernel: Kernel,
    points: Vec<Place>,
    /// Inverse covariance times the residuals.
    weights: DVector<f64>,
    factor: Cholesky<f64, Dyn>,
    /// Variance of the process.
    variance: f64,
}

/// The straight line below the logarithms.
#[derive(Debug, Clone, Copy)]
struct Trend {
    fit: PowerFit,
    floor_ns: f64,
    /// Mean of the logarithms over the line.
    mean: f64,
}

impl Trend {
    fn line_ns(&self, place: &Place) -> f64 {
        self.fit.at(place.width).max(self.floor_ns)
    }
}

/// A pair as the covariance sees it.
#[derive(Debug, Clone, Copy)]
struct Place {
    dim: f64,
    width: f64,
    log_heads: f64,
    log_dim: f64,
}

impl Place {
    fn new([heads, dim]: [u32; 2]) -> Self {
        let (heads, dim) = (f64::from(heads.max(1)), f64::from(dim.max(1)));
        Self { dim, width: heads * dim, log_heads: heads.log2(), log_dim: dim.log2() }
    }
}

#[derive(Debug, Clone, Copy)]
struct Kernel {
    weights: [f64; 5],
    noise: f64,
}

/// The five parts of the covariance, of weight 1.
fn parts(a: &Place, b: &Place) -> [f64; 5] {
    let (heads, dims) = ((a.log_heads - b.log_heads).abs(), (a.log_dim - b.log_dim).abs());
    let widths = (a.log_heads + a.log_dim - b.log_heads - b.log_dim).abs();
    let apart = (a.dim - b.dim).abs();
    let repeats = |distance: f64, period: f64| -2.0 * ((PI * distance / period).sin() / ROUND).powi(2);
    [
        (-(heads + dims) / 3.0).exp(),
        (-apart / 2.0 - heads / 3.0).exp(),
        (repeats(apart, 8.0) - dims / 2.0 - heads / 3.0).exp(),
        (repeats(a.width - b.width, 16.0) - widths / 2.0).exp(),
        (-4.0 * heads - apart / 2.0).exp(),
    ]
}

impl Kernel {
    fn covariance(&self, a: &Place, b: &Place) -> f64 {
        parts(a, b).iter().zip(&self.weights).map(|(part, weight)| part * weight).sum()
    }

    /// None where rounding spoils it.
    fn factor(&self, points: &[Place]) -> Option<Cholesky<f64, Dyn>> {
        let noise = |i: usize, j: usize| if i == j { self.noise } else { 0.0 };
        let entry = |i: usize, j: usize| self.covariance(&points[i], &points[j]) + noise(i, j);
        Cholesky::new(DMatrix::from_fn(points.len(), points.len(), entry))
    }

    /// Log likelihood of residuals of unknown scale, less what is the same for all settings; `parts` are
    /// the covariances' parts, a matrix each.
    fn likelihood(&self, parts: &[DMatrix<f64>], residuals: &DVector<f64>) -> f64 {
        let count = residuals.len();
        let mut matrix = DMatrix::identity(count, count) * self.noise;
        for (part, weight) in parts.iter().zip(self.weights) {
            matrix += part * weight;
        }
        let Some(factor) = Cholesky::new(matrix) else { return f64::NEG_INFINITY };
        let variance = residuals.dot(&factor.solve(residuals)) / count as f64;
        let half_ln_determinant: f64 = factor.l_dirty().diagonal().iter().map(|d| d.ln()).sum();
        (-0.5 * count as f64).mul_add(variance.ln(), -half_ln_determinant)
    }

    /// The likeliest settings.
    fn choose(points: &[Place], residuals: &[f64]) -> Self {
        let step = points.len().div_ceil(CHOICE_POINTS).max(1);
        let some: Vec<Place> = points.iter().copied().step_by(step).collect();
        let values = DVector::from_iterator(some.len(), residuals.iter().copied().step_by(step));
        let matrix =
            |part: usize| DMatrix::from_fn(some.len(), some.len(), |i, j| parts(&some[i], &some[j])[part]);
        let matrices: Vec<DMatrix<f64>> = (0..5).map(matrix).collect();
        let mut best = Self { weights: WEIGHTS[5], noise: NOISES[2] };
        let mut most = f64::NEG_INFINITY;
        for weights in WEIGHTS {
            for noise in NOISES {
                let kernel = Self { weights, noise };
                let likelihood = kernel.likelihood(&matrices, &values);
                if likelihood > most {
                    (most, best) = (likelihood, kernel);
                }
            }
        }
        best
    }
}

impl GraphField {
    /// Through measured latencies, ns; none where they are too few, or not above 0.
    #[must_use]
    pub fn new(known: &[([u32; 2], f64)]) -> Option<Self> {
        let points: Vec<Place> = known.iter().map(|(pair, _)| Place::new(*pair)).collect();
        let on_line =
            |(place, (_, ns)): (&Place, &([u32; 2], f64))| Point { x: place.width, ns: *ns, se_ns: 0.0 };
        let line: Vec<Point> = points.iter().zip(known).map(on_line).collect();
        let fit = least_squares(&line, 1.0, Weighting::Equal).ok()?.fit;
        let floor_ns = FLOOR * known.iter().map(|(_, ns)| *ns).fold(f64::INFINITY, f64::min);
        if floor_ns <= 0.0 {
            return None;
        }
        let mut trend = Trend { fit, floor_ns, mean: 0.0 };
        let over = |(place, (_, ns)): (&Place, &([u32; 2], f64))| (ns / trend.line_ns(place)).ln();
        let logs: Vec<f64> = points.iter().zip(known).map(over).collect();
        trend.mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let residuals: Vec<f64> = logs.iter().map(|log| log - trend.mean).collect();
        let kernel = Kernel::choose(&points, &residuals);
        let factor = kernel.factor(&points)?;
        let values = DVector::from_vec(residuals);
        let weights = factor.solve(&values);
        let variance = (values.dot(&weights) / values.len() as f64).max(0.0);
        Some(Self { trend, kernel, points, weights, factor, variance })
    }

    /// Latency at a pair.
    #[must_use]
    pub fn at(&self, pair: [u32; 2]) -> Guess {
        let place = Place::new(pair);
        let known = self.points.iter().map(|point| self.kernel.covariance(&place, point));
        let covariances = DVector::from_iterator(self.points.len(), known);
        let ns = self.trend.line_ns(&place) * (covariances.dot(&self.weights) + self.trend.mean).exp();
        let own: f64 = self.kernel.weights.iter().sum();
        let explained = self.factor.l_dirty().solve_lower_triangular(&covariances);
        let explained = explained.map_or(0.0, |of| of.norm_squared());
        let sd = (self.variance * (own - explained).max(0.0)).sqrt();
        Guess { ns, sd_ns: ns * sd }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stairs([heads, dim]: [u32; 2]) -> f64 {
        2e6 + 6e3 * f64::from(heads * dim.div_ceil(8) * 8) + 3e3 * f64::from((heads * dim).div_ceil(16) * 16)
    }

    #[test]
    fn stairs_are_expected_where_they_were_not_measured() {
        let pairs = (1..=16).flat_map(|heads| (1..=10).map(move |step| [heads, (step * 7 + heads) % 75 + 1]));
        let known: Vec<([u32; 2], f64)> = pairs.map(|pair| (pair, stairs(pair))).collect();
        let field = GraphField::new(&known).unwrap();
        let unknown: Vec<[u32; 2]> = (2..=16)
            .step_by(2)
            .flat_map(|heads| (8..=64).step_by(8).map(move |dim| [heads, dim]))
            .filter(|pair| known.iter().all(|(known, _)| known != pair))
            .collect();
        assert!(unknown.len() > 40);
        let off = |pair: &[u32; 2]| (field.at(*pair).ns / stairs(*pair) - 1.0).abs();
        let worst = unknown.iter().map(off).fold(0.0, f64::max);
        assert!(worst < 0.05, "off by {worst}");
        let (known, far) = (field.at(known[3].0), field.at([16, 250]));
        assert!(known.sd_ns / known.ns < 0.2 * far.sd_ns / far.ns, "{known:?} {far:?}");
    }

    #[test]
    fn nothing_is_said_from_nothing() {
        assert!(GraphField::new(&[]).is_none());
        assert!(GraphField::new(&[([1, 1], 1.0)]).is_none());
        assert!(GraphField::new(&[([1, 1], 0.0), ([2, 2], 3.0)]).is_none());
    }
}
