//! A net -> its latency. The search asks through [`NetTimer`]; the command line answers from a device,
//! tests from fitted curves.

use hanas_models::layer::{Layer, LayerType, layers};
use hanas_models::resnet::ConvNet;

use super::latency_model::LatencyModel;

/// Why a net could not be timed; whatever the one who times it reports.
pub type TimerError = Box<dyn std::error::Error + Send + Sync>;

/// Predicts and measures the latency of whole nets.
pub trait NetTimer {
    /// Predicted share of a layer in its net's latency, in nanoseconds; must be cheap.
    ///
    /// # Errors
    /// Whatever keeps it from predicting.
    fn layer_ns(&self, kind: LayerType, layer: &Layer) -> Result<f64, TimerError>;

    /// Predicted latency of a net in nanoseconds, the sum of its layers'; called at every step.
    ///
    /// # Errors
    /// Whatever keeps it from predicting.
    fn predict_ns(&self, net: &ConvNet) -> Result<f64, TimerError> {
        layers(net)?.iter().map(|(kind, layer)| self.layer_ns(*kind, layer)).sum()
    }

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
    fn layer_ns(&self, _: LayerType, _: &Layer) -> Result<f64, TimerError> {
        Err("a latency budget needs a profiled device; give --device, or a budget in multiply-adds".into())
    }

    fn measure_ns(&mut self, net: &ConvNet) -> Result<f64, TimerError> {
        self.predict_ns(net)
    }
}

/// A device that runs every net at a fixed multiple of what a model predicts: the known answer that
/// tests check a search against.
#[derive(Debug, Clone)]
pub struct FitTimer {
    /// The model.
    pub model: LatencyModel,
    /// Measured over predicted latency.
    pub factor: f64,
    /// Nets measured so far.
    pub measured: usize,
}

impl FitTimer {
    /// A timer that measures `factor` times what it predicts.
    #[must_use]
    pub fn new(model: impl Into<LatencyModel>, factor: f64) -> Self {
        Self { model: model.into(), factor, measured: 0 }
    }
}

impl NetTimer for FitTimer {
    fn layer_ns(&self, kind: LayerType, layer: &Layer) -> Result<f64, TimerError> {
        Ok(self.model.layer_ns(kind, layer)?)
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
    use crate::latency::layers::LayerFits;

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
