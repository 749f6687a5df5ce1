//! The paper's latency of a net: one fitted curve per layer type, summed over the layers (Eq. 8).
//!
//! In: measured layers, by output width at their family's base input width. Out: curves, and a net's
//! latency as their sum times a calibration from whole measured nets.

use std::collections::BTreeMap;

use hanas_models::layer::{Layer, LayerType, types};
use hanas_models::resnet::{ConvNet, Family};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::calibration::{Calibration, LayerSum};
use super::fit::{Fitted, Point, PowerFit, Weighting, least_squares};
use super::{LatencyError, Statistic, estimate};
use crate::store::{ModelSamples, ModelSpec};

/// Fitted curves of a family on a device, by layer type, in output channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerFits {
    /// The curves. The head's has its class count as x.
    #[serde(serialize_with = "to_list", deserialize_with = "from_list")]
    pub fits: BTreeMap<LayerType, PowerFit>,
    /// Measured over predicted latency of whole nets, 1 where none was measured: what the sum of
    /// separately measured layers misses (fusion, warm caches, sums and ReLUs).
    pub calibration: f64,
}

/// How the curve of one layer type came about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TypeFit {
    /// The type.
    pub kind: LayerType,
    /// Its curve and how well that sits.
    pub fitted: Fitted,
}

impl LayerFits {
    /// The curves' exponent. A constant carries none of its own, so a curve is asked.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        let curve = self.fits.values().find(|fit| fit.k_ns != 0.0);
        curve.map_or(1.0, |fit| fit.alpha)
    }

    /// Fits a curve to every type's points. Where all of a type's points have one width (the head's do)
    /// it is constant at their mean. A type without points gets no curve, see [`LayerFits::of`].
    ///
    /// # Errors
    /// [`LatencyError`] for points that are no numbers.
    pub fn build(
        points: &BTreeMap<LayerType, Vec<Point>>,
        alpha: f64,
        weighting: Weighting,
    ) -> Result<(Self, Vec<TypeFit>), LatencyError> {
        let mut details = Vec::new();
        for (&kind, points) in points.iter().filter(|(_, points)| !points.is_empty()) {
            let fitted = if points.iter().all(|point| point.x == points[0].x) {
                let count = points.len();
                let ns = points.iter().map(|point| point.ns).sum::<f64>() / count as f64;
                let fit = PowerFit::constant(ns);
                Fitted { fit, points: count, r2: 1.0, rms_ns: 0.0, worst_ns: 0.0 }
            } else {
                least_squares(points, alpha, weighting)?
            };
            details.push(TypeFit { kind, fitted });
        }
        let fits = details.iter().map(|detail| (detail.kind, detail.fitted.fit)).collect();
        Ok((Self { fits, calibration: 1.0 }, details))
    }

    /// The points of every layer type in stored samples: the layers of its kind and base input width.
    ///
    /// # Errors
    /// As [`estimate()`].
    pub fn points(
        family: &Family,
        samples: &[ModelSamples],
        statistic: Statistic,
        clock_resolution_ns: u32,
    ) -> Result<BTreeMap<LayerType, Vec<Point>>, LatencyError> {
        let mut points: BTreeMap<LayerType, Vec<Point>> = BTreeMap::new();
        let family_types = types(family);
        for model in samples {
            let ModelSpec::Layer { layer: Layer { kind, cin, cout } } = model.spec else { continue };
            // A head of other classes is another family's.
            let is_type = |&&(of, base): &&(LayerType, Layer)| {
                base.kind == kind && base.cin == cin && (of != LayerType::Head || base.cout == cout)
            };
            for (of, _) in family_types.iter().filter(is_type) {
                let found = estimate(&model.visits, statistic, clock_resolution_ns)?;
                let point = Point { x: f64::from(cout), ns: found.value_ns, se_ns: found.se_ns };
                points.entry(*of).or_default().push(point);
            }
        }
        Ok(points)
    }

    /// The curve of one layer type. A type that was not measured takes that of the other stride in its
    /// stage, and the stem and the first stage's stride-1 convolutions (same output size) take each
    /// other's; none where there is no such curve either.
    #[must_use]
    pub fn of(&self, kind: LayerType) -> Option<PowerFit> {
        let likest = match kind {
            LayerType::Stem => Some(LayerType::Conv { stage: 0, stride: 1 }),
            LayerType::Conv { stage: 0, stride: 1 } => Some(LayerType::Stem),
            LayerType::Conv { stage, stride } => Some(LayerType::Conv { stage, stride: 3 - stride.min(2) }),
            LayerType::Shortcut { stage, stride } => {
                Some(LayerType::Shortcut { stage, stride: 3 - stride.min(2) })
            }
            LayerType::Head => None,
        };
        self.fits.get(&kind).or_else(|| self.fits.get(&likest?)).copied()
    }

    /// Layer types of a family that have no curve of their own.
    #[must_use]
    pub fn unmeasured(&self, family: &Family) -> Vec<LayerType> {
        types(family).into_iter().map(|(kind, _)| kind).filter(|kind| !self.fits.contains_key(kind)).collect()
    }

    /// Predicted latency of a net, in nanoseconds.
    ///
    /// # Errors
    /// [`LatencyError::Spec`] where the net is no member of its family, [`LatencyError::UnmeasuredType`]
    /// where a layer has no curve.
    pub fn predict_ns(&self, net: &ConvNet) -> Result<f64, LatencyError> {
        Ok(self.calibration * self.sum_ns(net)?)
    }

    /// Sets the calibration to the median of measured over predicted latency of whole nets.
    ///
    /// # Errors
    /// As [`LayerFits::predict_ns`], and [`LatencyError::NoSamples`] without nets.
    pub fn calibrate(&mut self, nets: &[(ConvNet, f64)]) -> Result<Calibration, LatencyError> {
        let found = self.calibration_on(nets)?;
        self.calibration = found.ratio;
        Ok(found)
    }
}

impl LayerSum for LayerFits {
    fn alone_ns(&self, of: LayerType, layer: &Layer) -> Result<f64, LatencyError> {
        let fit = self.of(of).ok_or(LatencyError::UnmeasuredType(of))?;
        Ok(fit.at(f64::from(layer.cout)))
    }
}

/// JSON has no maps with such keys: a list of pairs.
fn to_list<S: Serializer>(fits: &BTreeMap<LayerType, PowerFit>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(fits)
}

fn from_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<LayerType, PowerFit>, D::Error> {
    Ok(Vec::<(LayerType, PowerFit)>::deserialize(deserializer)?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use hanas_models::layer::layers;
    use hanas_proto::{Digest, Nanos};

    use super::*;
    use crate::store::{ModelId, Visit};

    /// A device on which every layer costs `9_000 + 500 cout` ns, and a net 10% more than its layers.
    fn samples(family: &Family) -> Vec<ModelSamples> {
        let widths =
            |layer: &Layer| (1..=8).map(|eighth| (layer.cout * eighth / 4).max(1)).collect::<Vec<_>>();
        types(family)
            .into_iter()
            .flat_map(|(kind, layer)| {
                let couts = if kind == LayerType::Head { vec![layer.cout] } else { widths(&layer) };
                couts.into_iter().map(move |cout| {
                    let ns = Nanos(9_000 + 500 * u64::from(cout));
                    let visit = Visit { samples: vec![ns; 30], ..Visit::default() };
                    ModelSamples {
                        id: ModelId(0),
                        digest: Digest([0; 32]),
                        spec: ModelSpec::Layer { layer: Layer { cout, ..layer } },
                        onnx_bytes: 0,
                        visits: vec![visit],
                    }
                })
            })
            .collect()
    }

    fn planted_ns(net: &ConvNet) -> f64 {
        1.1 * layers(net)
            .unwrap()
            .iter()
            .map(|(_, layer)| 9_000.0 + 500.0 * f64::from(layer.cout))
            .sum::<f64>()
    }

    #[test]
    fn a_planted_device_is_recovered_and_predicted() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let points = LayerFits::points(&family, &samples(&family), Statistic::default(), 1).unwrap();
        let (mut fits, details) = LayerFits::build(&points, 1.0, Weighting::Equal).unwrap();
        assert_eq!((fits.unmeasured(&family), details.len()), (vec![], types(&family).len()));
        for detail in details.iter().filter(|detail| detail.kind != LayerType::Head) {
            assert!((detail.fitted.fit.k_ns - 500.0).abs() < 1e-6, "{detail:?}");
            assert!((detail.fitted.fit.b_ns - 9_000.0).abs() < 1e-4, "{detail:?}");
        }
        let mut narrow = family.base();
        narrow.stages[2].pop();
        narrow.stages[1][0].b = 12;
        let found = fits.calibrate(&[(family.base(), planted_ns(&family.base()))]).unwrap();
        assert!((found.ratio - 1.1).abs() < 1e-9 && found.nets == 1);
        let predicted = fits.predict_ns(&narrow).unwrap();
        assert!((predicted / planted_ns(&narrow) - 1.0).abs() < 1e-9);
        let text = serde_json::to_string(&fits).unwrap();
        assert_eq!(serde_json::from_str::<LayerFits>(&text).unwrap(), fits);
    }

    #[test]
    fn an_unmeasured_type_takes_its_neighbour_or_is_an_error() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let points = LayerFits::points(&family, &samples(&family), Statistic::Min, 1).unwrap();
        let (mut fits, _) = LayerFits::build(&points, 1.0, Weighting::Equal).unwrap();
        let strided = LayerType::Conv { stage: 1, stride: 2 };
        let plain = LayerType::Conv { stage: 1, stride: 1 };
        fits.fits.insert(plain, PowerFit::constant(7.0));
        fits.fits.remove(&strided);
        assert_eq!(fits.of(strided), Some(PowerFit::constant(7.0)));
        fits.fits.remove(&plain);
        assert_eq!(fits.unmeasured(&family), [strided, plain]);
        let error = fits.predict_ns(&family.base()).unwrap_err();
        assert_eq!(error, LatencyError::UnmeasuredType(strided));
    }
}
