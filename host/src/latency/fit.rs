//! f(x) = k x^alpha + b (paper, Eq. 1): latency of a layer with x output channels.

use serde::{Deserialize, Serialize};

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
}
