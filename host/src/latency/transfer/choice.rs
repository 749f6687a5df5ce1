//! Which models to measure on the new device: a greedy A-optimal design.
//!
//! Each is the one whose measurement lowers the prior's variance, averaged over all models, most (Cohn,
//! Ghahramani & Jordan, Active Learning with Statistical Models, JAIR 1996, in its linear form). With w_i
//! a model's regressors, P the weights' covariance so far and G the models' second moment:
//!
//! ```text
//! gain_i = w_i' P G P w_i / (w_i' P w_i + v^2)
//! ```
//!
//! The level does not count in G: it moves all models alike. Nothing of the new device is looked at.

use nalgebra::DMatrix;

use super::Panel;

/// v over the noise among the references: the new device is known less well than they are.
const NOISE_FACTOR: f64 = 2.0;

impl Panel {
    /// Up to `samples` models, in the order in which they are worth measuring, of those that every
    /// reference has measured and `may` allows.
    #[must_use]
    pub fn choose(&self, samples: usize, may: impl Fn(usize) -> bool) -> Vec<usize> {
        let last = self.references();
        let regressors = self.rows.clone().insert_column(last, 1.0);
        let (_, mut covariance) = self.prior();
        let mut moment = DMatrix::zeros(last + 1, last + 1);
        moment.view_mut((0, 0), (last, last)).copy_from(&self.covariance);
        let noise = (NOISE_FACTOR * self.noise).powi(2);
        let mut open: Vec<bool> = (0..self.models()).map(|i| self.complete[i] && may(i)).collect();
        let mut chosen = Vec::new();
        while chosen.len() < samples {
            let spread = &regressors * &covariance;
            let reach = &spread * &moment;
            let gain =
                |i: usize| reach.row(i).dot(&spread.row(i)) / (spread.row(i).dot(&regressors.row(i)) + noise);
            // Of equals the first: the same panel gives the same choice.
            let best = (0..self.models()).filter(|&i| open[i]).map(|i| (gain(i), i));
            let Some((_, best)) = best.reduce(|a, b| if b.0 > a.0 { b } else { a }) else { break };
            let direction = spread.row(best).transpose();
            let variance = direction.dot(&regressors.row(best).transpose()) + noise;
            covariance -= &direction * direction.transpose() / variance;
            open[best] = false;
            chosen.push(best);
        }
        chosen
    }
}
