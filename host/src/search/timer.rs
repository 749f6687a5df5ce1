//! A net -> its latency. The search asks through [`NetTimer`]; the command line answers from a device,
//! tests from fitted curves.

use hanas_models::resnet::ConvNet;

use crate::latency::layers::LayerFits;

/// Why a net could not be timed; whatever the one who times it reports.
pub type TimerError = Box<dyn std::error::Error + Send + Sync>;

/// Predicts and measures the latency of whole nets.
pub trait NetTimer {
    /// Predicted latency in nanoseconds; called at every step, so it must be cheap.
    ///
    /// # Errors
    /// Whatever keeps it from predicting.
    fn predict_ns(&self, net: &ConvNet) -> Result<f64, TimerError>;

    /// Measured latency in nanoseconds; called once an epoch, and while a net is repaired.
    ///
    /// # Errors
    /// Whatever keeps it from measuring.
    fn measure_ns(&mut self, net: &ConvNet) -> Result<f64, TimerError>;
}

/// No device: enough under a gate of multiply-adds, an error under one of latency.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTimer;

impl NetTimer for NoTimer {
    fn predict_ns(&self, _: &ConvNet) -> Result<f64, TimerError> {
        Err("a latency budget needs a profiled device; give --device, or a budget in multiply-adds".into())
    }

    fn measure_ns(&mut self, net: &ConvNet) -> Result<f64, TimerError> {
        self.predict_ns(net)
    }
}

/// A device that runs every net at a fixed multiple of what the curves predict: the known answer that
/// tests check a search against.
#[derive(Debug, Clone)]
pub struct FitTimer {
    /// The curves.
    pub fits: LayerFits,
    /// Measured over predicted latency.
    pub factor: f64,
    /// Nets measured so far.
    pub measured: usize,
}

impl FitTimer {
    /// A timer that measures `factor` times what it predicts.
    #[must_use]
    pub const fn new(fits: LayerFits, factor: f64) -> Self {
        Self { fits, factor, measured: 0 }
    }
}

impl NetTimer for FitTimer {
    fn predict_ns(&self, net: &ConvNet) -> Result<f64, TimerError> {
        Ok(self.fits.predict_ns(net)?)
    }

    fn measure_ns(&mut self, net: &ConvNet) -> Result<f64, TimerError> {
        self.measured += 1;
        Ok(self.factor * self.predict_ns(net)?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use hanas_models::layer::types;
    use hanas_models::resnet::Family;

    use super::*;
    use crate::latency::fit::PowerFit;

    /// Curves whose slope and intercept differ by layer type.
    pub(crate) fn fits(family: &Family) -> LayerFits {
        let curve = |(i, (kind, layer)): (usize, (_, hanas_models::layer::Layer))| {
            let k_ns = 40.0 + 10.0 * i as f64 + f64::from(layer.cin);
            (kind, PowerFit { k_ns, alpha: 1.0, b_ns: 500.0 + 30.0 * i as f64 })
        };
        LayerFits { fits: types(family).into_iter().enumerate().map(curve).collect(), calibration: 1.1 }
    }

    #[test]
    fn a_latency_gate_without_a_device_says_what_to_do() {
        let net = Family::cifar_resnet(20, 10).unwrap().base();
        assert!(NoTimer.predict_ns(&net).unwrap_err().to_string().contains("--device"));
    }
}
