//! A new device's latencies from a few measurements and the profiles of other devices.
//!
//! In: latencies of models on R reference devices, and a handful of models measured on the new one.
//! Out: which models to measure, and every other model's latency with a standard error.
//!
//! The new device is taken for one more draw from the distribution that the references are draws of:
//! normal over models, with the references' mean and covariance. That is a Gaussian process whose
//! kernel is low-rank, or, weight by weight, a Bayesian linear regression on the references (Rasmussen
//! & Williams, Gaussian Processes for Machine Learning, 2006, section 2.1). With x_i the centred
//! latencies of model i on the references and y_i its latency on the new device, both on a [`Scale`]:
//!
//! ```text
//! y_i = a + x_i . b + e_i                e_i ~ N(0, v^2 + se_i^2)
//! a ~ N(level of the references, Scale::level_sd^2)
//! b ~ N(1/R 1, (I - 11'/R) / (R-1) + (SCALE_SD/R)^2 11')
//! ```
//!
//! The first term of b's covariance is the references' covariance over devices; it holds the sum of
//! weights at 1, and the second term frees it. se_i is the measurement's own error. v, what of the new
//! device its references cannot explain, is not known: the posterior is averaged over multiples of
//! what is unexplained of the median reference by the others, each with its marginal likelihood
//! (ibid., section 5.2).
//!
//! - [`mod@panel`]: the references' latencies as x_i; models that some reference lacks are imputed, or
//!   all references are described by the models' features alone;
//! - [`choice`]: the models to measure;
//! - [`adapt`]: measurements -> predictions;
//! - [`table`]: tables of many devices, and how well each is predicted from the others;
//! - [`baseline`]: what the method has to beat.

pub mod adapt;
pub mod baseline;
pub mod choice;
pub mod panel;
pub mod table;

#[cfg(test)]
mod tests;

pub use adapt::{Adapted, Prediction, Sample};
pub use panel::Panel;

/// Prior standard deviation of the sum of weights around 1: how much steeper or flatter than the
/// references' mean a device's latencies may rise.
pub const SCALE_SD: f64 = 0.5;

/// On which scale devices resemble each other.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Logarithms: errors are relative. For models of very different sizes, such as layers.
    #[default]
    Log,
    /// Shares of the mean latency: what adds up in one device adds up in all. For nets of one space.
    Linear,
}

impl Scale {
    /// Prior standard deviation of a device's level: a factor of e^3 on the logarithm's scale, half of
    /// the mean latency on the linear one, whose unit is taken from the measurements.
    const fn level_sd(self) -> f64 {
        match self {
            Self::Log => 3.0,
            Self::Linear => 0.5,
        }
    }
}
