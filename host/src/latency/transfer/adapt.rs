//! A few measurements on the new device -> every model's latency on it.

use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use super::{Panel, Scale};
use crate::latency::LatencyError;

/// Multiples of the references' own noise that the new device may have, alike likely beforehand.
const NOISE_GRID: [f64; 6] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0];

/// A model as it was measured on the new device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Its place in the panel.
    pub model: usize,
    /// Its latency there, in the panel's unit.
    pub latency: f64,
    /// Standard error of that; 0 where it is not known.
    pub se: f64,
}

/// A latency that was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Its median, in the panel's unit. On the linear scale nothing keeps it above 0.
    pub latency: f64,
    /// Its standard error; on the logarithm's scale the relative one times the latency.
    pub se: f64,
}

/// A new device, known by its relation to the references.
#[derive(Debug, Clone)]
pub struct Adapted<'p> {
    panel: &'p Panel,
    /// The device's latency that counts as 1 on the linear scale.
    unit: f64,
    /// One posterior for each noise that the device may have.
    parts: Vec<Part>,
    /// Mean of the weights over the parts, the level last.
    weights: DVector<f64>,
}

#[derive(Debug, Clone)]
struct Part {
    /// How likely, of 1.
    share: f64,
    weights: DVector<f64>,
    covariance: DMatrix<f64>,
    noise: f64,
}

impl Panel {
    /// Learns a device from measurements of a few models; one is enough for its level, and fewer than
    /// there are references is the usual case.
    ///
    /// # Errors
    /// [`LatencyError::TooFewPoints`] without samples, [`LatencyError::BadLatency`] for a latency or
    /// error that is no positive number.
    pub fn adapt(&self, samples: &[Sample]) -> Result<Adapted<'_>, LatencyError> {
        if samples.is_empty() {
            return Err(LatencyError::TooFewPoints { points: 0, needs: 1 });
        }
        let is_good = |of: &&Sample| of.latency.is_finite() && of.latency > 0.0 && of.se >= 0.0;
        if let Some(&Sample { latency, .. }) = samples.iter().find(|sample| !is_good(sample)) {
            return Err(LatencyError::BadLatency { latency });
        }
        let (mean, covariance) = self.prior();
        let rows: Vec<_> = samples.iter().map(|of| self.regressors(of.model).transpose()).collect();
        let regressors = DMatrix::from_rows(&rows);
        let prior = &regressors * &mean;
        let unit = match self.scale {
            Scale::Log => 1.0,
            Scale::Linear => samples.iter().map(|of| of.latency).sum::<f64>() / prior.sum(),
        };
        let values = samples.iter().map(|of| self.scaled(of.latency, unit));
        let residual = DVector::from_iterator(samples.len(), values) - prior;
        let spread = &covariance * regressors.transpose();
        let explained = &regressors * &spread;
        let part = |factor: f64| {
            let noise = factor * self.noise;
            let mut total = explained.clone();
            for (i, sample) in samples.iter().enumerate() {
                let error = match self.scale {
                    Scale::Log => sample.se / sample.latency,
                    Scale::Linear => sample.se / unit,
                };
                total[(i, i)] += noise.mul_add(noise, error * error);
            }
            // Positive definite, but for rounding: the noise is on its diagonal.
            let factor = total.cholesky()?;
            let solved = factor.solve(&residual);
            let log_likelihood = -0.5 * residual.dot(&solved) - factor.l().diagonal().map(f64::ln).sum();
            let weights = &mean + &spread * solved;
            let covariance = &covariance - &spread * factor.solve(&spread.transpose());
            Some(Part { share: log_likelihood, weights, covariance, noise })
        };
        let mut parts: Vec<Part> = NOISE_GRID.into_iter().filter_map(part).collect();
        let best = parts.iter().map(|part| part.share).fold(f64::MIN, f64::max);
        parts.iter_mut().for_each(|part| part.share = (part.share - best).exp());
        let total: f64 = parts.iter().map(|part| part.share).sum();
        parts.iter_mut().for_each(|part| part.share /= total);
        let weights = parts.iter().map(|part| &part.weights * part.share).sum();
        Ok(Adapted { panel: self, unit, parts, weights })
    }

    /// A latency on the panel's scale.
    fn scaled(&self, latency: f64, unit: f64) -> f64 {
        match self.scale {
            Scale::Log => latency.ln(),
            Scale::Linear => latency / unit,
        }
    }
}

impl Adapted<'_> {
    /// A model's latency on the new device. Its error holds what is not known of the device, the noise
    /// of any model, and what was imputed of this one.
    #[must_use]
    pub fn predict(&self, model: usize) -> Prediction {
        let (value, sd) = self.value(model);
        match self.panel.scale {
            Scale::Log => Prediction { latency: value.exp(), se: sd * value.exp() },
            Scale::Linear => Prediction { latency: value * self.unit, se: sd * self.unit },
        }
    }

    /// How many standard errors a latency lies above its prediction, on the panel's scale.
    #[must_use]
    pub fn surprise(&self, model: usize, latency: f64) -> f64 {
        let (value, sd) = self.value(model);
        (self.panel.scaled(latency, self.unit) - value) / sd
    }

    /// Mean and standard deviation on the panel's scale.
    fn value(&self, model: usize) -> (f64, f64) {
        let regressors = self.panel.regressors(model);
        let value = regressors.dot(&self.weights);
        let open = self.panel.open.get(&model);
        let variance = |part: &Part| {
            let between = regressors.dot(&part.weights) - value;
            let known = regressors.dot(&(&part.covariance * &regressors)).max(0.0);
            let imputed = open.map_or(0.0, |open| {
                let weights = part.weights.rows(0, open.nrows());
                weights.dot(&(open * weights)).max(0.0)
            });
            part.share * (between * between + known + part.noise * part.noise + imputed)
        };
        (value, self.parts.iter().map(variance).sum::<f64>().sqrt())
    }

    /// Weight of every reference in the prediction.
    #[must_use]
    pub fn weights(&self) -> &[f64] {
        &self.weights.as_slice()[..self.panel.references()]
    }

    /// What of the device its references do not explain, relative: .03 is 3%.
    #[must_use]
    pub fn noise(&self) -> f64 {
        self.parts.iter().map(|part| part.share * part.noise * part.noise).sum::<f64>().sqrt()
    }
}
