//! What layers and nets cost on the device, by the model that a search trusts: one curve per layer type
//! (the paper), or a table of input and output widths per layer kind.

use hanas_models::layer::{Layer, LayerType, types};
use hanas_models::resnet::{ConvNet, Family};

use crate::latency::LatencyError;
use crate::latency::layers::LayerFits;
use crate::latency::pairwise::PairwiseLatency;

/// A latency model of a family on a device.
#[derive(Debug, Clone)]
pub enum LatencyModel {
    /// The paper's f(c_out) per layer type.
    Curves(LayerFits),
    /// L(c_in, c_out) per layer kind.
    Pairs(PairwiseLatency),
}

impl LatencyModel {
    /// What turns the sum over layers into the latency of a whole net.
    #[must_use]
    pub const fn calibration(&self) -> f64 {
        match self {
            Self::Curves(fits) => fits.calibration,
            Self::Pairs(pairs) => pairs.calibration,
        }
    }

    /// A layer's share of its net's latency, in nanoseconds: calibrated, so that a net's layers sum to
    /// the net.
    ///
    /// # Errors
    /// [`LatencyError`] where the model does not know such a layer.
    pub fn layer_ns(&self, kind: LayerType, layer: &Layer) -> Result<f64, LatencyError> {
        let alone = match self {
            Self::Curves(fits) => {
                let fit = fits.of(kind).ok_or(LatencyError::UnmeasuredType(kind))?;
                fit.at(f64::from(layer.cout))
            }
            Self::Pairs(pairs) => pairs.layer_ns(layer)?,
        };
        Ok(self.calibration() * alone)
    }

    /// Predicted latency of a net, in nanoseconds.
    ///
    /// # Errors
    /// As [`LatencyModel::layer_ns`], and [`LatencyError::Spec`] where the net is no member of its
    /// family.
    pub fn predict_ns(&self, net: &ConvNet) -> Result<f64, LatencyError> {
        match self {
            Self::Curves(fits) => fits.predict_ns(net),
            Self::Pairs(pairs) => pairs.predict_ns(net),
        }
    }

    /// Layer types of a family that it says nothing about.
    #[must_use]
    pub fn unmeasured(&self, family: &Family) -> Vec<LayerType> {
        let unknown = |(kind, layer): &(LayerType, Layer)| self.layer_ns(*kind, layer).is_err();
        types(family).into_iter().filter(unknown).map(|(kind, _)| kind).collect()
    }
}

impl From<LayerFits> for LatencyModel {
    fn from(fits: LayerFits) -> Self {
        Self::Curves(fits)
    }
}

impl From<PairwiseLatency> for LatencyModel {
    fn from(pairs: PairwiseLatency) -> Self {
        Self::Pairs(pairs)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use hanas_models::layer::layers;

    use super::super::timer::tests::fits;
    use super::*;
    use crate::latency::pairwise::PairGrid;

    /// Tables of a device whose layers cost by both widths and by stairs of 4 output channels.
    pub(crate) fn pairs(family: &Family) -> PairwiseLatency {
        let widths = [1, 2, 4, 6, 8, 10, 12, 16];
        let mut grids = BTreeMap::new();
        for (i, (_, layer)) in types(family).into_iter().enumerate() {
            let cost = |cin: u32, cout: u32| {
                let stair = f64::from(cout.div_ceil(4) * 4);
                600.0 + 20.0 * i as f64 + 9.0 * f64::from(cin) + (30.0 + 2.0 * f64::from(cin)) * stair
            };
            let points: Vec<_> =
                widths.iter().flat_map(|&cin| widths.map(|cout| (cin, cout, cost(cin, cout)))).collect();
            grids.insert(layer.kind, PairGrid::new(&points).unwrap());
        }
        PairwiseLatency { grids, calibration: 0.9 }
    }

    #[test]
    fn layers_sum_to_their_net() {
        let family = super::super::choices::tests::tiny_family(2);
        for model in [LatencyModel::Curves(fits(&family)), LatencyModel::Pairs(pairs(&family))] {
            let net = family.base();
            let list = layers(&net).unwrap();
            let sum: f64 = list.iter().map(|(kind, layer)| model.layer_ns(*kind, layer).unwrap()).sum();
            assert!((sum / model.predict_ns(&net).unwrap() - 1.0).abs() < 1e-12);
            assert_eq!(model.unmeasured(&family), []);
        }
        let mut less = pairs(&family);
        less.grids.retain(|kind, _| !matches!(kind, hanas_models::layer::LayerKind::Head { .. }));
        assert_eq!(LatencyModel::Pairs(less).unmeasured(&family), [LayerType::Head]);
    }
}
