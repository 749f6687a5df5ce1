//! The sum of a net's layers, each measured alone -> the net.
//!
//! What no layer has (residual sums, caches that another layer left cold) and what every layer has and
//! the net once (the call of the runtime) is told by nets that were measured whole: one ratio, the median
//! of measured over summed. A constant per net, per layer or per residual value beside it was tried and
//! hardly changed the error on other nets.

use hanas_models::layer::{Layer, LayerType, layers};
use hanas_models::resnet::ConvNet;
use serde::{Deserialize, Serialize};

use super::LatencyError;
use super::trend::median;

/// What whole nets said about the sum of their layers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Nets measured.
    pub nets: usize,
    /// Median of measured over summed latency.
    pub ratio: f64,
    /// Smallest and largest of those.
    pub range: (f64, f64),
}

/// A latency model of nets that adds up their layers.
pub trait LayerSum {
    /// Latency of a layer alone, in nanoseconds, not calibrated.
    ///
    /// # Errors
    /// [`LatencyError`] where the model knows nothing of such layers.
    fn alone_ns(&self, of: LayerType, layer: &Layer) -> Result<f64, LatencyError>;

    /// Latency of each layer alone, in nanoseconds, not calibrated, in execution order.
    ///
    /// # Errors
    /// As [`LayerSum::alone_ns`], and [`LatencyError::Spec`] where the net is no member of its family.
    fn by_layer(&self, net: &ConvNet) -> Result<Vec<(LayerType, Layer, f64)>, LatencyError> {
        layers(net)?.into_iter().map(|(of, layer)| Ok((of, layer, self.alone_ns(of, &layer)?))).collect()
    }

    /// Sum of the layers' latencies, in nanoseconds, not calibrated.
    ///
    /// # Errors
    /// As [`LayerSum::by_layer`].
    fn sum_ns(&self, net: &ConvNet) -> Result<f64, LatencyError> {
        Ok(self.by_layer(net)?.into_iter().map(|(_, _, ns)| ns).sum())
    }

    /// What whole nets, given with their measured latency in nanoseconds, say about the sums.
    ///
    /// # Errors
    /// As [`LayerSum::by_layer`], and [`LatencyError::NoSamples`] without nets.
    fn calibration_on(&self, nets: &[(ConvNet, f64)]) -> Result<Calibration, LatencyError> {
        let ratios: Result<Vec<f64>, LatencyError> =
            nets.iter().map(|(net, measured_ns)| Ok(measured_ns / self.sum_ns(net)?)).collect();
        let mut ratios = ratios?;
        if ratios.is_empty() {
            return Err(LatencyError::NoSamples);
        }
        let ratio = median(&mut ratios);
        Ok(Calibration { nets: ratios.len(), ratio, range: (ratios[0], ratios[ratios.len() - 1]) })
    }
}
