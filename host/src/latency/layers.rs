//! The paper's latency of a net: one fitted curve per layer type, summed over the layers (Eq. 8).

use std::collections::BTreeMap;

use hanas_models::layer::{LayerType, layers};
use hanas_models::resnet::ConvNet;
use hanas_models::spec::SpecError;

use super::fit::PowerFit;

/// Fitted curves of a family on a device, by layer type, in output channels.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerFits {
    /// The curves. The head's has its class count as x.
    pub fits: BTreeMap<LayerType, PowerFit>,
    /// Measured over predicted latency of whole nets, 1 where none was measured: what the sum of
    /// separately measured layers misses (fusion, warm caches, sums and ReLUs).
    pub calibration: f64,
}

impl LayerFits {
    /// The curve of one layer type; of a type that was not measured, that of the likest one.
    #[must_use]
    pub fn of(&self, kind: LayerType) -> Option<PowerFit> {
        self.fits.get(&kind).copied()
    }

    /// Predicted latency of a net, in nanoseconds; a layer of a type without a curve costs nothing.
    ///
    /// # Errors
    /// [`SpecError`] where the net is no member of its family.
    pub fn predict_ns(&self, net: &ConvNet) -> Result<f64, SpecError> {
        let sum: f64 = layers(net)?
            .iter()
            .filter_map(|(kind, layer)| self.of(*kind).map(|fit| fit.at(f64::from(layer.cout))))
            .sum();
        Ok(self.calibration * sum)
    }
}
