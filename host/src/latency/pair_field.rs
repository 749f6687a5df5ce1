//! Scattered measured pairs (c_in, c_out) of one layer kind -> latency at any pair, and how far to trust it.
//!
//! Latency is a least-squares surface a + b c_in + c c_out + d c_in c_out plus a residual by kriging
//! (Krige 1951; Rasmussen & Williams 2006, ch. 2): a Gaussian process through the measured residuals.
//! Its covariance is what matrix products look like: at each c_out the residual is a line over c_in (a
//! step in c_out costs as much more as there are input channels), at each c_in a line over c_out, and
//! the rest is local. So a step that one row of the table shows is expected in all rows.
//!
//! ```text
//! k = w1 (1/8 + c_in c_in' / C_in^2) exp(-|c_out - c_out'| / r_out)
//!   + w2 (1/8 + c_out c_out' / C_out^2) exp(-|c_in - c_in'| / r_in)
//!   + w3 exp(-|c_in - c_in'| / r_in - |c_out - c_out'| / r_out),     plus noise on the diagonal
//! ```
//!
//! Reaches r, weights w and the noise are those of a short list under which the residuals are likeliest.

use std::collections::BTreeMap;

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

/// Coefficients of the surface: 1, c_in, c_out, c_in c_out.
pub(super) type Surface = [f64; 4];

/// Share of a line's variance that does not grow along it.
const LEVEL: f64 = 0.125;
/// Reaches that are tried, in channels.
const REACHES: [f64; 4] = [3.0, 8.0, 24.0, 72.0];
/// Weights that are tried.
const WEIGHTS: [[f64; 3]; 5] =
    [[0.4, 0.4, 0.2], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.6, 0.39, 0.01]];
/// Variances of the noise that are tried, over that of the residuals.
const NOISES: [f64; 3] = [1e-4, 1e-2, 1e-1];
/// Points that the settings are chosen by, at most: the likelihood takes cubic time.
const CHOICE_POINTS: usize = 160;
/// Residuals smaller than this share of the latencies are rounding.
const ROUNDING: f64 = 1e-9;

/// Latency over input and output widths, from scattered pairs.
#[derive(Debug, Clone)]
pub(super) struct PairField {
    surface: Surface,
    /// None where the surface meets all points.
    residual: Option<Residual>,
}

impl PairField {
    /// Through measured latencies, ns, by (c_in, c_out).
    pub(super) fn new(known: &BTreeMap<(u32, u32), f64>) -> Self {
        let surface = surface(known);
        let at = |pair: &(u32, u32)| (f64::from(pair.0), f64::from(pair.1));
        let points: Vec<(f64, f64)> = known.keys().map(at).collect();
        let residuals: Vec<f64> =
            known.iter().map(|(pair, ns)| ns - height(&surface, at(pair).0, at(pair).1)).collect();
        let largest = known.values().fold(0.0f64, |most, ns| most.max(ns.abs()));
        let rough = residuals.iter().any(|residual| residual.abs() > ROUNDING * largest);
        let residual = if rough { Residual::new(points, &residuals) } else { None };
        Self { surface, residual }
    }

    /// The least-squares surface.
    pub(super) const fn surface(&self) -> &Surface {
        &self.surface
    }

    /// Latency at a pair, ns.
    pub(super) fn at(&self, cin: f64, cout: f64) -> f64 {
        let residual = self.residual.as_ref().map_or(0.0, |residual| residual.at((cin, cout)));
        (height(&self.surface, cin, cout) + residual).max(0.0)
    }

    /// Error to expect at a pair, ns: what the points around it were missed by when each was predicted
    /// from the others (Dubrule 1983), times the share that is unknown at so far from any point.
    pub(super) fn doubt(&self, cin: f64, cout: f64) -> f64 {
        self.residual.as_ref().map_or(0.0, |residual| residual.doubt((cin, cout)))
    }

    /// How much knowing the latency at one pair says of another, -1 to 1.
    pub(super) fn likeness(&self, a: (f64, f64), b: (f64, f64)) -> f64 {
        self.residual.as_ref().map_or(1.0, |residual| residual.kernel.correlation(a, b))
    }
}

/// Height of a surface at a pair.
pub(super) fn height(surface: &Surface, cin: f64, cout: f64) -> f64 {
    terms(cin, cout).iter().zip(surface).map(|(term, coefficient)| term * coefficient).sum()
}

const fn terms(cin: f64, cout: f64) -> [f64; 4] {
    [1.0, cin, cout, cin * cout]
}

/// Least squares of smallest norm, so that a single row or point makes a surface too.
fn surface(known: &BTreeMap<(u32, u32), f64>) -> Surface {
    // Columns scaled to 1: c_in c_out is thousands of times the constant.
    let largest = known
        .keys()
        .fold((1.0f64, 1.0f64), |most, pair| (most.0.max(f64::from(pair.0)), most.1.max(f64::from(pair.1))));
    let scale = terms(largest.0, largest.1);
    let rows = known.keys().flat_map(|pair| {
        let terms = terms(f64::from(pair.0), f64::from(pair.1));
        std::array::from_fn::<f64, 4, _>(|term| terms[term] / scale[term])
    });
    let matrix = DMatrix::from_row_iterator(known.len(), 4, rows);
    let ns = DVector::from_iterator(known.len(), known.values().copied());
    // It fails for a negative tolerance only.
    let solved = matrix.svd(true, true).solve(&ns, 1e-9).unwrap_or_else(|_| DVector::zeros(4));
    std::array::from_fn(|term| solved[term] / scale[term])
}

/// Settings of the covariance.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Kernel {
    /// In channels, of input and output widths.
    reach: (f64, f64),
    weights: [f64; 3],
    noise: f64,
    /// Largest widths.
    span: (f64, f64),
}

impl Kernel {
    fn covariance(&self, a: (f64, f64), b: (f64, f64)) -> f64 {
        let near_in = (-(a.0 - b.0).abs() / self.reach.0).exp();
        let near_out = (-(a.1 - b.1).abs() / self.reach.1).exp();
        let along_in = LEVEL + a.0 * b.0 / self.span.0.powi(2);
        let along_out = LEVEL + a.1 * b.1 / self.span.1.powi(2);
        let [over_in, over_out, local] = self.weights;
        over_in * along_in * near_out + over_out * along_out * near_in + local * near_in * near_out
    }

    fn correlation(&self, a: (f64, f64), b: (f64, f64)) -> f64 {
        self.covariance(a, b) / (self.covariance(a, a) * self.covariance(b, b)).sqrt()
    }

    /// None where rounding spoils it.
    fn factor(&self, points: &[(f64, f64)]) -> Option<Cholesky<f64, Dyn>> {
        let entry = |i: usize, j: usize| {
            self.covariance(points[i], points[j]) + if i == j { self.noise } else { 0.0 }
        };
        Cholesky::new(DMatrix::from_fn(points.len(), points.len(), entry))
    }

    /// Log likelihood of residuals of unknown scale, less what is the same for all settings.
    fn likelihood(&self, points: &[(f64, f64)], residuals: &DVector<f64>) -> f64 {
        let Some(factor) = self.factor(points) else { return f64::NEG_INFINITY };
        let count = points.len() as f64;
        let variance = residuals.dot(&factor.solve(residuals)) / count;
        let half_ln_determinant: f64 = factor.l_dirty().diagonal().iter().map(|d| d.ln()).sum();
        -0.5 * count * variance.ln() - half_ln_determinant
    }

    /// The same with one of the settings changed.
    fn others(self, setting: usize) -> Vec<Self> {
        match setting {
            0 => REACHES.map(|reach| Self { reach: (self.reach.0, reach), ..self }).to_vec(),
            1 => REACHES.map(|reach| Self { reach: (reach, self.reach.1), ..self }).to_vec(),
            2 => WEIGHTS.map(|weights| Self { weights, ..self }).to_vec(),
            _ => NOISES.map(|noise| Self { noise, ..self }).to_vec(),
        }
    }

    /// The likeliest settings, by changing one after the other.
    fn choose(points: &[(f64, f64)], residuals: &[f64]) -> Self {
        let step = points.len().div_ceil(CHOICE_POINTS);
        let some: Vec<(f64, f64)> = points.iter().copied().step_by(step).collect();
        let values = DVector::from_iterator(some.len(), residuals.iter().copied().step_by(step));
        let widest = |span: (f64, f64), point: &(f64, f64)| (span.0.max(point.0), span.1.max(point.1));
        let span = points.iter().fold((1.0, 1.0), widest);
        let mut best = Self { reach: (REACHES[2], REACHES[2]), weights: WEIGHTS[0], noise: NOISES[1], span };
        let mut most = best.likelihood(&some, &values);
        for turn in 0..8 {
            for other in best.others(turn % 4) {
                let likelihood = other.likelihood(&some, &values);
                if likelihood > most {
                    (most, best) = (likelihood, other);
                }
            }
        }
        best
    }
}

/// The residuals as a Gaussian process.
#[derive(Debug, Clone)]
struct Residual {
    kernel: Kernel,
    points: Vec<(f64, f64)>,
    /// Inverse covariance times the residuals.
    weights: DVector<f64>,
    factor: Cholesky<f64, Dyn>,
    /// How far each point is missed when it is predicted from the others, ns.
    left_out: Vec<f64>,
}

impl Residual {
    /// None where rounding spoils it, which the noise prevents.
    fn new(points: Vec<(f64, f64)>, residuals: &[f64]) -> Option<Self> {
        let kernel = Kernel::choose(&points, residuals);
        let factor = kernel.factor(&points)?;
        let weights = factor.solve(&DVector::from_column_slice(residuals));
        let left_out = weights.iter().zip(factor.inverse().diagonal().iter()).map(|(w, d)| w / d).collect();
        Some(Self { kernel, points, weights, factor, left_out })
    }

    fn covariances(&self, at: (f64, f64)) -> DVector<f64> {
        let entry = |point: &(f64, f64)| self.kernel.covariance(at, *point);
        DVector::from_iterator(self.points.len(), self.points.iter().map(entry))
    }

    fn at(&self, at: (f64, f64)) -> f64 {
        self.covariances(at).dot(&self.weights)
    }

    fn doubt(&self, at: (f64, f64)) -> f64 {
        let covariances = self.covariances(at);
        let own = self.kernel.covariance(at, at);
        let Some(explained) = self.factor.l_dirty().solve_lower_triangular(&covariances) else { return 0.0 };
        let unknown = (1.0 - explained.norm_squared() / own).max(0.0);
        let (mut sum, mut near) = (0.0, 0.0);
        for (point, missed) in self.points.iter().zip(&self.left_out) {
            // To the fourth: only what is much alike speaks of a place.
            let weight = self.kernel.correlation(at, *point).powi(4);
            sum += weight * missed.powi(2);
            near += weight;
        }
        if near > 0.0 { (unknown * sum / near).sqrt() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix product in tiles of 8 output channels.
    fn tiles(cin: u32, cout: u32) -> f64 {
        f64::from(cout.div_ceil(8) * 8) * 11.0f64.mul_add(f64::from(cin), 200.0) + 20_000.0
    }

    fn field(pairs: impl Iterator<Item = (u32, u32)>) -> PairField {
        PairField::new(&pairs.map(|pair| (pair, tiles(pair.0, pair.1))).collect())
    }

    #[test]
    fn steps_of_one_row_are_expected_in_the_others() {
        let row = (1..=64).map(|cout| (32, cout));
        let field = field(row.chain([4, 16, 48, 64].into_iter().flat_map(|cin| [(cin, 1), (cin, 64)])));
        for (cin, edge) in [(8, 16), (24, 32), (56, 48)] {
            let step =
                field.at(f64::from(cin), f64::from(edge) + 1.0) - field.at(f64::from(cin), f64::from(edge));
            let planted = tiles(cin, edge + 1) - tiles(cin, edge);
            assert!((0.6..1.4).contains(&(step / planted)), "{cin}: {step} ns, not {planted}");
        }
    }

    #[test]
    fn doubt_is_large_where_points_are_missed_and_none_is_near() {
        // Smooth on the left, tiles on the right.
        let ns = |cin: u32, cout: u32| {
            if cin < 33 { 20_000.0 + 30.0 * f64::from(cin * cout) } else { tiles(cin, cout) }
        };
        let pairs = (4..=64).step_by(4).flat_map(|cin| (3..=64).step_by(9).map(move |cout| (cin, cout)));
        let field = PairField::new(&pairs.map(|pair| (pair, ns(pair.0, pair.1))).collect());
        let (known, between) = (field.doubt(56.0, 21.0), field.doubt(57.0, 25.0));
        assert!(known < 0.7 * between, "{known} ns where it was measured, {between} ns between");
    }
}
