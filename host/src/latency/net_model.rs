//! Stored samples -> a latency model of a task's nets, as the store keeps it, and how far it is off.
//!
//! Two models: the paper's curves by output width ([`LayerFits`]) and tables by input and output width
//! ([`PairwiseLatency`]). Both are calibrated on the same nets and judged by the same others.

use std::collections::BTreeSet;

use hanas_models::layer::{Layer, LayerType};
use hanas_models::resnet::{ConvNet, Family};
use serde::{Deserialize, Serialize};

use super::agreement::{Agreement, agreement};
use super::calibration::{Calibration, LayerSum};
use super::disturbed::undisturbed;
use super::fit::Weighting;
use super::layers::LayerFits;
use super::pair_sampling::domains;
use super::pairwise::PairwiseLatency;
use super::trend::median;
use super::{LatencyError, Statistic, estimate};
use crate::profile::candidates::is_for_calibration;
use crate::store::{ModelSamples, ModelSpec};

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// One curve per layer type, by output width (the paper's f)
    Paper,
    /// One table per layer kind, by input and output width
    Pairwise,
}

impl ModelKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Paper, Self::Pairwise];

    /// Its name in the store.
    #[must_use]
    pub const fn stored_as(self) -> &'static str {
        match self {
            Self::Paper => "layers",
            Self::Pairwise => "pairwise",
        }
    }
}

impl std::fmt::Display for ModelKind {
    /// `paper`, `pairwise`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Paper => "paper",
            Self::Pairwise => "pairwise",
        })
    }
}

/// The model itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetCost {
    /// Curves.
    Paper(LayerFits),
    /// Tables.
    Pairwise(PairwiseLatency),
}

/// How samples become latencies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// What of the samples is the latency.
    pub statistic: Statistic,
    /// Smallest step of the device's clock.
    pub clock_resolution_ns: u32,
}

/// A latency model with what it was made of: a row of `fits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetModel {
    /// How its samples were read.
    pub reading: Reading,
    /// Layers that it was fitted to.
    pub layers: usize,
    /// What whole nets said of its sums; none where none was measured.
    pub calibration: Option<Calibration>,
    /// Those nets, each in one line.
    pub calibrated_on: BTreeSet<String>,
    /// The model.
    pub cost: NetCost,
}

/// How far a model is off on nets that it was not made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Predicted against measured.
    #[serde(flatten)]
    pub agreement: Agreement,
    /// Median of (sum of the layers - measured) over measured: the additivity gap before calibration.
    pub gap_before: f64,
    /// Median of (predicted - measured) over measured: the gap that calibration leaves.
    pub gap_after: f64,
}

impl NetModel {
    /// Makes a model of a family from stored samples, without the disturbed visits, and calibrates it on the
    /// nets among them that are for that.
    ///
    /// # Errors
    /// [`LatencyError`] where layers of a type or kind were not measured, or samples make no latency.
    pub fn fit(
        kind: ModelKind,
        family: &Family,
        samples: &[ModelSamples],
        reading: Reading,
        alpha: f64,
    ) -> Result<Self, LatencyError> {
        let Reading { statistic, clock_resolution_ns } = reading;
        let samples = &undisturbed(samples).samples;
        let (cost, layers) = match kind {
            ModelKind::Paper => {
                let points = LayerFits::points(family, samples, statistic, clock_resolution_ns)?;
                let (fits, details) = LayerFits::build(&points, alpha, Weighting::Equal)?;
                if let Some(&missing) = fits.unmeasured(family).first() {
                    return Err(LatencyError::UnmeasuredType(missing));
                }
                (NetCost::Paper(fits), details.iter().map(|detail| detail.fitted.points).sum())
            }
            ModelKind::Pairwise => {
                let tables = PairwiseLatency::from_samples(samples, statistic, clock_resolution_ns)?;
                let kinds = domains(family, 1).into_iter().map(|domain| domain.kind);
                if let Some(missing) = kinds.into_iter().find(|kind| !tables.grids.contains_key(kind)) {
                    return Err(LatencyError::UnmeasuredKind(missing));
                }
                let layers = tables.grids.values().map(|grid| grid.measured).sum();
                (NetCost::Pairwise(tables), layers)
            }
        };
        let mut model = Self { reading, layers, calibration: None, calibrated_on: BTreeSet::new(), cost };
        let mut nets = measured_nets(family, samples, reading)?;
        nets.retain(|(net, _)| is_for_calibration(net));
        if !nets.is_empty() {
            model.calibration = Some(match &mut model.cost {
                NetCost::Paper(fits) => fits.calibrate(&nets)?,
                NetCost::Pairwise(tables) => tables.calibrate(&nets)?,
            });
            model.calibrated_on = nets.iter().map(|(net, _)| net.summary()).collect();
        }
        Ok(model)
    }

    /// The same model from the same samples again, by the settings that it carries: for a replay.
    ///
    /// # Errors
    /// As [`NetModel::fit`].
    pub fn refit(&self, family: &Family, samples: &[ModelSamples]) -> Result<Self, LatencyError> {
        let (kind, alpha) = match &self.cost {
            NetCost::Paper(fits) => (ModelKind::Paper, fits.alpha()),
            NetCost::Pairwise(_) => (ModelKind::Pairwise, 1.0),
        };
        Self::fit(kind, family, samples, self.reading, alpha)
    }

    /// Predicted latency of a net, in nanoseconds.
    ///
    /// # Errors
    /// As [`LayerSum::by_layer`].
    pub fn predict_ns(&self, net: &ConvNet) -> Result<f64, LatencyError> {
        Ok(self.ratio() * self.sum_ns(net)?)
    }

    /// Measured over summed latency, 1 where no net was measured.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.calibration.map_or(1.0, |calibration| calibration.ratio)
    }

    /// The measured nets among stored samples that this model was not calibrated on, with their latency
    /// in nanoseconds.
    ///
    /// # Errors
    /// As [`estimate()`].
    pub fn held_out(
        &self,
        family: &Family,
        samples: &[ModelSamples],
    ) -> Result<Vec<(ConvNet, f64)>, LatencyError> {
        let mut nets = measured_nets(family, samples, self.reading)?;
        nets.retain(|(net, _)| !is_for_calibration(net) && !self.calibrated_on.contains(&net.summary()));
        Ok(nets)
    }

    /// How far it is off on nets with their measured latency in nanoseconds; none without nets.
    ///
    /// # Errors
    /// As [`LayerSum::by_layer`].
    pub fn judge(&self, nets: &[(ConvNet, f64)]) -> Result<Option<Judgement>, LatencyError> {
        let sums: Result<Vec<(f64, f64)>, LatencyError> =
            nets.iter().map(|(net, measured_ns)| Ok((self.sum_ns(net)?, *measured_ns))).collect();
        let sums = sums?;
        let gap = |ratio: f64| {
            let mut gaps: Vec<f64> =
                sums.iter().map(|(sum, measured)| ratio * sum / measured - 1.0).collect();
            median(&mut gaps)
        };
        let predicted: Vec<(f64, f64)> = sums.iter().map(|pair| (self.ratio() * pair.0, pair.1)).collect();
        Ok(agreement(&predicted).map(|agreement| Judgement {
            agreement,
            gap_before: gap(1.0),
            gap_after: gap(self.ratio()),
        }))
    }
}

impl LayerSum for NetModel {
    fn alone_ns(&self, of: LayerType, layer: &Layer) -> Result<f64, LatencyError> {
        match &self.cost {
            NetCost::Paper(fits) => fits.alone_ns(of, layer),
            NetCost::Pairwise(tables) => tables.alone_ns(of, layer),
        }
    }
}

/// A family's whole nets among stored samples, with their latency in nanoseconds.
///
/// # Errors
/// As [`estimate()`].
pub fn measured_nets(
    family: &Family,
    samples: &[ModelSamples],
    reading: Reading,
) -> Result<Vec<(ConvNet, f64)>, LatencyError> {
    let mut nets = Vec::new();
    for model in samples {
        if let ModelSpec::Net { net } = &model.spec
            && net.family == *family
        {
            let ns = estimate(&model.visits, reading.statistic, reading.clock_resolution_ns)?.value_ns;
            nets.push((net.clone(), ns));
        }
    }
    Ok(nets)
}

#[cfg(test)]
mod tests {
    use hanas_models::layer::layers;
    use hanas_proto::{Digest, Nanos};

    use super::*;
    use crate::profile::candidates::{calibration_nets, held_out_nets, random_calibration_nets};
    use crate::store::{ModelId, Visit};

    const READING: Reading = Reading { statistic: Statistic::Min, clock_resolution_ns: 1 };
    /// A net costs so much more than its layers.
    const RATIO: f64 = 1.15;

    fn layer_ns(layer: &Layer) -> f64 {
        let (cin, cout) = (f64::from(layer.cin), f64::from(layer.cout));
        f64::from(layer.kind.output_side()).powi(2) * (20.0 + 0.1 * cin * cout) + 9_000.0
    }

    fn net_ns(net: &ConvNet) -> f64 {
        RATIO * layers(net).unwrap().iter().map(|(_, layer)| layer_ns(layer)).sum::<f64>()
    }

    fn samples(family: &Family) -> Vec<ModelSamples> {
        let of = |spec: ModelSpec, ns: f64| ModelSamples {
            id: ModelId(0),
            digest: Digest([0; 32]),
            spec,
            onnx_bytes: 0,
            visits: vec![Visit { samples: vec![Nanos::from_f64(ns)], ..Visit::default() }],
        };
        let mut all = Vec::new();
        for domain in domains(family, 2) {
            let some = |range: (u32, u32)| {
                let mut widths: Vec<u32> = (0..=4).map(|i| range.0 + i * (range.1 - range.0) / 4).collect();
                widths.push((range.1 / 2).max(range.0));
                widths.extend(domain.always_cin.filter(|_| range == domain.cin));
                widths.sort_unstable();
                widths.dedup();
                widths
            };
            for cin in some(domain.cin) {
                for cout in some(domain.cout) {
                    let layer = Layer { kind: domain.kind, cin, cout };
                    all.push(of(ModelSpec::Layer { layer }, layer_ns(&layer)));
                }
            }
        }
        let nets = [
            calibration_nets(family, 2),
            random_calibration_nets(family, 2),
            held_out_nets(family, 2, 30, 5),
        ];
        let nets = nets.concat().into_iter();
        all.extend(nets.map(|net| of(ModelSpec::Net { net: net.clone() }, net_ns(&net))));
        all
    }

    #[test]
    fn pairs_tell_what_output_widths_cannot() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let samples = samples(&family);
        let judged = |kind| {
            let model = NetModel::fit(kind, &family, &samples, READING, 1.0).unwrap();
            assert_eq!(model.calibrated_on.len(), 31);
            let nets = model.held_out(&family, &samples).unwrap();
            assert_eq!(nets.len(), 30);
            (model.judge(&nets).unwrap().unwrap(), model)
        };
        let ((pairwise, model), (paper, _)) = (judged(ModelKind::Pairwise), judged(ModelKind::Paper));
        assert!(pairwise.agreement.worst < 0.001, "{pairwise:?}");
        assert!(
            (model.ratio() - RATIO).abs() < 0.001 && (pairwise.gap_before + 1.0 - 1.0 / RATIO).abs() < 0.001
        );
        assert!(paper.agreement.mape > 0.02, "{paper:?}");
        let text = serde_json::to_string(&model).unwrap();
        assert_eq!(serde_json::from_str::<NetModel>(&text).unwrap(), model);
    }

    #[test]
    fn what_was_not_measured_is_named() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let mut samples = samples(&family);
        samples.retain(|model| !model.spec.name().starts_with("head"));
        let error = |kind| NetModel::fit(kind, &family, &samples, READING, 1.0).unwrap_err();
        assert!(matches!(error(ModelKind::Pairwise), LatencyError::UnmeasuredKind(_)));
        assert!(matches!(error(ModelKind::Paper), LatencyError::UnmeasuredType(LayerType::Head)));
    }
}
