//! f(x) = k x^alpha + b (paper, Eq. 1): latency of a layer with x output channels.
//!
//! In: measured points. Out: the curve by least squares, in closed form since alpha is given, and how
//! well it sits.

use serde::{Deserialize, Serialize};

use super::LatencyError;

/// A fitted curve. x in channels (or another knob's unit), f in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PowerFit {
    /// Slope k, ns per channel^alpha.
    pub k_ns: f64,
    /// Exponent alpha; chosen, not fitted.
    pub alpha: f64,
    /// Intercept b, ns: what a layer costs however narrow. It makes depth expensive.
    pub b_ns: f64,
}

impl PowerFit {
    /// f(x) in nanoseconds.
    #[must_use]
    pub fn at(&self, x: f64) -> f64 {
        self.k_ns * x.powf(self.alpha) + self.b_ns
    }

    /// The curve of a layer whose width is given: the same latency everywhere.
    #[must_use]
    pub const fn constant(ns: f64) -> Self {
        Self { k_ns: 0.0, alpha: 1.0, b_ns: ns }
    }
}

/// A measured latency at a width.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Width, or another knob's value.
    pub x: f64,
    /// Latency, ns.
    pub ns: f64,
    /// Its standard error, ns.
    pub se_ns: f64,
}

/// How much a point counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// All alike, as in the paper. Right where the curve's misfit exceeds the errors, as on a staircase.
    #[default]
    Equal,
    /// By 1/se^2. Right where points differ in how well they are known and the curve is the truth.
    InverseVariance,
}

/// A curve and how well it sits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    /// The curve.
    pub fit: PowerFit,
    /// Points it was fitted to.
    pub points: usize,
    /// Share of the points' variance that it explains; 1 where there is none to explain.
    pub r2: f64,
    /// Root mean square of the residuals, ns.
    pub rms_ns: f64,
    /// Largest residual in magnitude, ns.
    pub worst_ns: f64,
}

impl Fitted {
    /// Whether a layer would cost less than nothing at small widths: the curve bends where alpha says
    /// it does not. It is kept as fitted; predictions below the smallest measured width mean nothing.
    #[must_use]
    pub fn negative_intercept(&self) -> bool {
        self.fit.b_ns < 0.0
    }
}

/// The least-squares curve with this alpha.
///
/// # Errors
/// [`LatencyError`] for fewer than two points, all points at one x, or numbers that are none.
pub fn least_squares(points: &[Point], alpha: f64, weighting: Weighting) -> Result<Fitted, LatencyError> {
    if points.len() < 2 {
        return Err(LatencyError::TooFewPoints { points: points.len(), needs: 2 });
    }
    for &Point { x, ns, se_ns } in points {
        let weighs = weighting == Weighting::Equal || (se_ns.is_finite() && se_ns > 0.0);
        if !(x.powf(alpha).is_finite() && ns.is_finite() && weighs) {
            return Err(LatencyError::BadPoint { x, ns, se_ns });
        }
    }
    let weight = |point: &Point| match weighting {
        Weighting::Equal => 1.0,
        Weighting::InverseVariance => point.se_ns.powi(-2),
    };
    let sum = |term: &dyn Fn(&Point) -> f64| points.iter().map(|point| weight(point) * term(point)).sum();
    let total: f64 = sum(&|_| 1.0);
    let mean_x: f64 = sum(&|point| point.x.powf(alpha) / total);
    let mean_ns: f64 = sum(&|point| point.ns / total);
    // Centred sums: x^alpha and latencies are large against their spread.
    let xx: f64 = sum(&|point| (point.x.powf(alpha) - mean_x).powi(2));
    let xy: f64 = sum(&|point| (point.x.powf(alpha) - mean_x) * (point.ns - mean_ns));
    if xx <= total * mean_x.powi(2) * 1e-18 {
        return Err(LatencyError::Degenerate { x: points[0].x });
    }
    let k_ns = xy / xx;
    let fit = PowerFit { k_ns, alpha, b_ns: k_ns.mul_add(-mean_x, mean_ns) };
    let residual = |point: &Point| point.ns - fit.at(point.x);
    let misfit: f64 = sum(&|point| residual(point).powi(2));
    let variance: f64 = sum(&|point| (point.ns - mean_ns).powi(2));
    Ok(Fitted {
        fit,
        points: points.len(),
        r2: if variance > 0.0 { 1.0 - misfit / variance } else { 1.0 },
        rms_ns: (points.iter().map(|point| residual(point).powi(2)).sum::<f64>() / points.len() as f64)
            .sqrt(),
        worst_ns: points.iter().map(|point| residual(point).abs()).fold(0.0, f64::max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(alpha: f64, k_ns: f64, b_ns: f64) -> Vec<Point> {
        let fit = PowerFit { k_ns, alpha, b_ns };
        (1..=32).map(f64::from).map(|x| Point { x, ns: fit.at(x), se_ns: x }).collect()
    }

    #[test]
    fn a_curve_gives_back_its_own_coefficients() {
        for alpha in [0.5, 1.0, 1.5] {
            for weighting in [Weighting::Equal, Weighting::InverseVariance] {
                let found = least_squares(&line(alpha, 730.0, 21_000.0), alpha, weighting).unwrap();
                assert!((found.fit.k_ns - 730.0).abs() < 1e-8, "{found:?}");
                assert!((found.fit.b_ns - 21_000.0).abs() < 1e-7, "{found:?}");
                assert!(found.r2 > 1.0 - 1e-12 && found.worst_ns < 1e-7 && !found.negative_intercept());
            }
        }
    }

    #[test]
    fn weights_quieten_a_bad_point() {
        let mut points = line(1.0, 10.0, 100.0);
        points.iter_mut().for_each(|point| point.se_ns = 1.0);
        points[31] = Point { ns: 9_000.0, se_ns: 1e6, ..points[31] };
        let equal = least_squares(&points, 1.0, Weighting::Equal).unwrap();
        let weighted = least_squares(&points, 1.0, Weighting::InverseVariance).unwrap();
        assert!((equal.fit.k_ns - 10.0).abs() > 10.0 && (weighted.fit.k_ns - 10.0).abs() < 1e-3);
        assert!((weighted.worst_ns - 8_580.0).abs() < 1.0);
    }

    #[test]
    fn a_negative_intercept_is_kept_and_flagged() {
        let found = least_squares(&line(2.0, 1.0, 0.0), 1.0, Weighting::Equal).unwrap();
        assert!(found.negative_intercept() && found.fit.b_ns < 0.0 && found.r2 < 1.0);
    }

    #[test]
    fn what_makes_no_curve_is_refused() {
        let point = Point { x: 4.0, ns: 5.0, se_ns: 0.0 };
        let fit = |points: &[Point], weighting| least_squares(points, 1.0, weighting).unwrap_err();
        assert_eq!(fit(&[point], Weighting::Equal), LatencyError::TooFewPoints { points: 1, needs: 2 });
        assert_eq!(fit(&[point; 3], Weighting::Equal), LatencyError::Degenerate { x: 4.0 });
        let other = Point { x: 5.0, ..point };
        let unweighable = fit(&[point, other], Weighting::InverseVariance);
        assert!(matches!(unweighable, LatencyError::BadPoint { .. }));
        let infinite = fit(&[point, Point { ns: f64::INFINITY, ..other }], Weighting::Equal);
        assert!(matches!(infinite, LatencyError::BadPoint { .. }));
    }
}
