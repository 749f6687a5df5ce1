//! Latencies of many models on the reference devices -> one row of numbers a model.

use std::collections::BTreeMap;

use nalgebra::{DMatrix, DVector};

use super::{SCALE_SD, Scale};
use crate::latency::LatencyError;

/// Relative noise where the references cannot tell it: a single one, or too few models.
const DEFAULT_NOISE: f64 = 0.05;

/// Noise is never taken for less: no device repeats itself better.
const LEAST_NOISE: f64 = 1e-3;

/// Added to the diagonal of a covariance before it is inverted, over its mean: references may be alike.
const RIDGE: f64 = 1e-6;

/// The same where features are fitted: one-hot features are always collinear.
const FEATURE_RIDGE: f64 = 1e-3;

/// The reference devices as they see a set of models.
#[derive(Debug, Clone)]
pub struct Panel {
    /// On which scale the rows are.
    pub(super) scale: Scale,
    /// Centred latencies: a row a model, a column a reference.
    pub(super) rows: DMatrix<f64>,
    /// Covariance of what was imputed in a row, by model.
    pub(super) open: BTreeMap<usize, DMatrix<f64>>,
    /// Models that every reference has measured.
    pub(super) complete: Vec<bool>,
    /// Covariance of the references over the models.
    pub(super) covariance: DMatrix<f64>,
    /// Mean log latency of all references; 1 on the linear scale.
    level: f64,
    /// Standard deviation of what the others leave unexplained of the median reference.
    pub(super) noise: f64,
}

/// Latencies of the models that all references measured, centred by reference.
struct Complete {
    /// Their places.
    places: Vec<usize>,
    /// Mean of each reference: of the logarithms, or of the latencies.
    means: DVector<f64>,
    /// A row a model.
    rows: DMatrix<f64>,
}

impl Panel {
    /// References that have measured the models: `latencies[i][r]` is model i on reference r, in any one
    /// unit, none where it was not measured. Such gaps are filled with their mean given the model's other
    /// latencies, the references taken for jointly normal; predictions carry the error of that.
    ///
    /// # Errors
    /// [`LatencyError::NoReferences`] where fewer than two models were measured by all references,
    /// [`LatencyError::BadLatency`] for a latency that is no positive number.
    pub fn measured(latencies: &[Vec<Option<f64>>], scale: Scale) -> Result<Self, LatencyError> {
        let complete = Complete::of(latencies, scale)?;
        let covariance = covariance(&complete.rows);
        let mut panel = Self {
            rows: DMatrix::zeros(latencies.len(), complete.means.len()),
            open: BTreeMap::new(),
            complete: marks(&complete.places, latencies.len()),
            scale,
            level: complete.level(scale),
            noise: unexplained(&covariance, complete.places.len()),
            covariance,
        };
        for (place, row) in latencies.iter().enumerate() {
            let centred = row.iter().zip(&complete.means);
            let centred: Vec<Option<f64>> =
                centred.map(|(latency, mean)| latency.map(|of| centred_on(scale, of, *mean))).collect();
            let (filled, open) = impute(&centred, &panel.covariance);
            panel.rows.set_row(place, &filled.transpose());
            if let Some(open) = open {
                panel.open.insert(place, open);
            }
        }
        Ok(panel)
    }

    /// References as the models' features describe them: each reference's latency is a ridge
    /// regression on the features, fitted to the models that all references measured. A model then
    /// needs no latency at all, only its features: `features[i]` is model i, equally long for all.
    ///
    /// # Errors
    /// As [`Panel::measured`].
    pub fn described(
        latencies: &[Vec<Option<f64>>],
        features: &[Vec<f64>],
        scale: Scale,
    ) -> Result<Self, LatencyError> {
        let complete = Complete::of(latencies, scale)?;
        let count = complete.places.len();
        let width = features.first().map_or(0, Vec::len);
        let all = DMatrix::from_fn(features.len(), width, |i, j| features[i].get(j).copied().unwrap_or(0.0));
        let known = all.select_rows(&complete.places);
        let (known, means) = centre(known);
        let gram = ridged(covariance(&known), FEATURE_RIDGE);
        let moment = known.tr_mul(&complete.rows) / count as f64;
        let coefficients =
            gram.cholesky().map_or_else(|| DMatrix::zeros(width, moment.ncols()), |of| of.solve(&moment));
        let mut rows = all;
        rows.row_iter_mut().for_each(|mut row| row -= means.transpose());
        let rows = rows * &coefficients;
        let fitted = &known * &coefficients;
        let mut misfits: Vec<f64> =
            (&complete.rows - &fitted).column_iter().map(|column| rms(column.iter())).collect();
        let covariance = covariance(&fitted);
        let noise = unexplained(&covariance, count).hypot(median(&mut misfits));
        Ok(Self {
            rows,
            open: BTreeMap::new(),
            complete: marks(&complete.places, latencies.len()),
            scale,
            level: complete.level(scale),
            noise,
            covariance,
        })
    }

    /// Models in it.
    #[must_use]
    pub fn models(&self) -> usize {
        self.rows.nrows()
    }

    /// Reference devices.
    #[must_use]
    pub fn references(&self) -> usize {
        self.rows.ncols()
    }

    /// Whether every reference has measured the model.
    #[must_use]
    pub fn is_complete(&self, model: usize) -> bool {
        self.complete[model]
    }

    /// What the references leave unexplained of each other, relative: .03 is 3%.
    #[must_use]
    pub const fn noise(&self) -> f64 {
        self.noise
    }

    /// A model's regressors: its row, and 1 for the level.
    pub(super) fn regressors(&self, model: usize) -> DVector<f64> {
        self.rows.row(model).transpose().push(1.0)
    }

    /// Prior mean and covariance of the weights, the level last.
    pub(super) fn prior(&self) -> (DVector<f64>, DMatrix<f64>) {
        let count = self.references() as f64;
        let mean = DVector::from_element(self.references(), 1.0 / count).push(self.level);
        let spread = if self.references() > 1 { 1.0 / (count - 1.0) } else { 0.0 };
        let common = (SCALE_SD / count).powi(2) - spread / count;
        let last = self.references();
        let covariance = DMatrix::from_fn(last + 1, last + 1, |i, j| match (i == last, j == last) {
            (true, true) => self.scale.level_sd().powi(2),
            (false, false) => common + if i == j { spread } else { 0.0 },
            _ => 0.0,
        });
        (mean, covariance)
    }
}

impl Complete {
    fn of(latencies: &[Vec<Option<f64>>], scale: Scale) -> Result<Self, LatencyError> {
        let bad = latencies.iter().flatten().flatten().find(|ns| !(ns.is_finite() && **ns > 0.0));
        if let Some(&latency) = bad {
            return Err(LatencyError::BadLatency { latency });
        }
        let references = latencies.first().map_or(0, Vec::len);
        let is_complete = |row: &Vec<Option<f64>>| row.len() == references && row.iter().all(Option::is_some);
        let places: Vec<usize> = (0..latencies.len()).filter(|&i| is_complete(&latencies[i])).collect();
        if references == 0 || places.len() < 2 {
            return Err(LatencyError::NoReferences { models: places.len(), references });
        }
        let of = |i: usize, r: usize| latencies[places[i]][r].unwrap_or(1.0);
        let mut rows = DMatrix::from_fn(places.len(), references, of);
        if scale == Scale::Log {
            rows.apply(|latency| *latency = latency.ln());
        }
        let means = rows.row_mean().transpose();
        for (mut column, &mean) in rows.column_iter_mut().zip(&means) {
            match scale {
                Scale::Log => column.add_scalar_mut(-mean),
                Scale::Linear => column.apply(|latency| *latency = *latency / mean - 1.0),
            }
        }
        Ok(Self { places, means, rows })
    }

    fn level(&self, scale: Scale) -> f64 {
        match scale {
            Scale::Log => self.means.mean(),
            Scale::Linear => 1.0,
        }
    }
}

fn centred_on(scale: Scale, latency: f64, mean: f64) -> f64 {
    match scale {
        Scale::Log => latency.ln() - mean,
        Scale::Linear => latency / mean - 1.0,
    }
}

fn marks(places: &[usize], count: usize) -> Vec<bool> {
    let mut marks = vec![false; count];
    places.iter().for_each(|&place| marks[place] = true);
    marks
}

/// The columns less their means, and those.
fn centre(mut rows: DMatrix<f64>) -> (DMatrix<f64>, DVector<f64>) {
    let means = rows.row_mean().transpose();
    rows.row_iter_mut().for_each(|mut row| row -= means.transpose());
    (rows, means)
}

fn covariance(centred: &DMatrix<f64>) -> DMatrix<f64> {
    centred.tr_mul(centred) / centred.nrows().max(1) as f64
}

/// With more on the diagonal, so that it can be inverted.
pub(super) fn ridged(mut gram: DMatrix<f64>, share: f64) -> DMatrix<f64> {
    let more = (share * gram.trace() / gram.nrows().max(1) as f64).max(f64::MIN_POSITIVE);
    (0..gram.nrows()).for_each(|i| gram[(i, i)] += more);
    gram
}

/// What a regression of each reference on all others leaves, for the median reference: the residual
/// variance is 1 over the diagonal of the inverse covariance.
fn unexplained(covariance: &DMatrix<f64>, models: usize) -> f64 {
    let references = covariance.nrows();
    if references < 2 || models <= references + 1 {
        return DEFAULT_NOISE;
    }
    let Some(factor) = ridged(covariance.clone(), RIDGE).cholesky() else { return DEFAULT_NOISE };
    // Residuals of a fit are too small by the degrees of freedom that it used.
    let freedom = models as f64 / (models - references) as f64;
    let inverse = factor.inverse();
    let mut deviations: Vec<f64> =
        inverse.diagonal().iter().map(|precision| (freedom / precision).sqrt()).collect();
    median(&mut deviations).max(LEAST_NOISE)
}

/// A row with its gaps filled, and the covariance of what was filled in; none where there was no gap.
fn impute(row: &[Option<f64>], covariance: &DMatrix<f64>) -> (DVector<f64>, Option<DMatrix<f64>>) {
    let filled = DVector::from_iterator(row.len(), row.iter().map(|value| value.unwrap_or(0.0)));
    let (known, gaps): (Vec<usize>, Vec<usize>) = (0..row.len()).partition(|&r| row[r].is_some());
    if gaps.is_empty() {
        return (filled, None);
    }
    let mut open = DMatrix::zeros(row.len(), row.len());
    let between = covariance.select_rows(&gaps).select_columns(&known);
    let within = ridged(covariance.select_rows(&known).select_columns(&known), RIDGE);
    // No known latency: the gaps keep the references' mean and covariance.
    let factor = if known.is_empty() { None } else { within.cholesky() };
    let slopes = factor.map(|factor| factor.solve(&between.transpose()).transpose());
    let slopes = slopes.unwrap_or_else(|| DMatrix::zeros(gaps.len(), known.len()));
    let means = &slopes * filled.select_rows(&known);
    let left = covariance.select_rows(&gaps).select_columns(&gaps) - &slopes * between.transpose();
    let mut filled = filled;
    for (i, &gap) in gaps.iter().enumerate() {
        filled[gap] = means[i];
        for (j, &other) in gaps.iter().enumerate() {
            open[(gap, other)] = left[(i, j)];
        }
    }
    (filled, Some(open))
}

fn rms<'a>(values: impl ExactSizeIterator<Item = &'a f64>) -> f64 {
    let count = values.len().max(1) as f64;
    (values.map(|value| value * value).sum::<f64>() / count).sqrt()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
