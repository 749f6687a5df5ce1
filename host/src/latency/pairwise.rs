//! L(c_in, c_out) per layer kind: what one curve per type cannot say, since nets have input widths far
//! from the base (ALGORITHM 1.5).
//!
//! In: layers measured at scattered pairs. Out: a table over all input and output widths that occur,
//! bilinear between its nodes. A node without a measurement takes what the others say of it (see
//! `pair_field`). Outside the table the least-squares surface goes on from the nearest edge.

use std::collections::BTreeMap;

use hanas_models::layer::{Layer, LayerKind, LayerType};
use hanas_models::resnet::ConvNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::calibration::{Calibration, LayerSum};
use super::pair_field::{PairField, Surface, height};
use super::{LatencyError, Statistic, estimate};
use crate::store::{ModelSamples, ModelSpec};

/// A table of latencies over input and output widths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairGrid {
    /// Input widths, ascending.
    pub cins: Vec<u32>,
    /// Output widths, ascending.
    pub couts: Vec<u32>,
    /// Latencies in ns, a row of output widths for every input width.
    pub ns: Vec<f64>,
    /// How many of them were measured.
    pub measured: usize,
    /// Least-squares surface, for what lies outside.
    pub surface: Surface,
}

/// Latency at a pair of widths and how it changes with each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slope {
    /// Latency, ns.
    pub ns: f64,
    /// Change with the input width, ns per channel.
    pub per_cin_ns: f64,
    /// Change with the output width, ns per channel.
    pub per_cout_ns: f64,
}

impl PairGrid {
    /// Makes a table from measured (c_in, c_out, ns); of a pair given twice the last counts.
    ///
    /// # Errors
    /// [`LatencyError::TooFewPoints`] without points, [`LatencyError::BadPoint`] for a latency that is
    /// no number.
    pub fn new(points: &[(u32, u32, f64)]) -> Result<Self, LatencyError> {
        if points.is_empty() {
            return Err(LatencyError::TooFewPoints { points: 0, needs: 1 });
        }
        if let Some(&(_, cout, ns)) = points.iter().find(|(_, _, ns)| !ns.is_finite()) {
            return Err(LatencyError::BadPoint { x: f64::from(cout), ns, se_ns: 0.0 });
        }
        let known: BTreeMap<(u32, u32), f64> =
            points.iter().map(|&(cin, cout, ns)| ((cin, cout), ns)).collect();
        let axis = |of: fn(&(u32, u32)) -> u32| {
            let mut widths: Vec<u32> = known.keys().map(of).collect();
            widths.sort_unstable();
            widths.dedup();
            widths
        };
        let (cins, couts) = (axis(|pair| pair.0), axis(|pair| pair.1));
        let field = PairField::new(&known);
        let node = |cin: u32, cout: u32| {
            known.get(&(cin, cout)).copied().unwrap_or_else(|| field.at(f64::from(cin), f64::from(cout)))
        };
        let ns = cins.iter().flat_map(|&cin| couts.iter().map(move |&cout| (cin, cout)));
        let ns = ns.map(|(cin, cout)| node(cin, cout)).collect();
        let surface = *field.surface();
        Ok(Self { ns, cins, couts, measured: known.len(), surface })
    }

    /// Latency at a pair of widths, which need not be whole, in nanoseconds.
    #[must_use]
    pub fn at(&self, cin: f64, cout: f64) -> f64 {
        self.slope(cin, cout).ns
    }

    /// Latency at a pair of widths with its derivatives: what a differentiable search needs.
    #[must_use]
    pub fn slope(&self, cin: f64, cout: f64) -> Slope {
        let (row, inside_cin) = locate(&self.cins, cin);
        let (column, inside_cout) = locate(&self.couts, cout);
        let mut found = self.inside(row, column);
        // Outside, the surface's own change from the nearest edge is added.
        let edge = (inside_cin, inside_cout);
        let beyond = |outside: bool, slope: &mut f64, surface: f64| {
            if outside {
                *slope = surface;
            }
        };
        found.ns += height(&self.surface, cin, cout) - height(&self.surface, edge.0, edge.1);
        beyond(edge.0 != cin, &mut found.per_cin_ns, self.surface[3].mul_add(cout, self.surface[1]));
        beyond(edge.1 != cout, &mut found.per_cout_ns, self.surface[3].mul_add(cin, self.surface[2]));
        found.ns = found.ns.max(0.0);
        found
    }

    fn inside(&self, row: Place, column: Place) -> Slope {
        let node = |i: usize, j: usize| self.ns[i * self.couts.len() + j];
        let corner = |i: usize, j: usize| {
            let last = (self.cins.len() - 1, self.couts.len() - 1);
            node((row.at + i).min(last.0), (column.at + j).min(last.1))
        };
        let mix = |low: f64, high: f64, share: f64| (high - low).mul_add(share, low);
        let low = mix(corner(0, 0), corner(0, 1), column.share);
        let high = mix(corner(1, 0), corner(1, 1), column.share);
        let left = mix(corner(0, 0), corner(1, 0), row.share);
        let right = mix(corner(0, 1), corner(1, 1), row.share);
        Slope {
            ns: mix(low, high, row.share),
            per_cin_ns: (high - low) / row.width,
            per_cout_ns: (right - left) / column.width,
        }
    }
}

/// A place on an axis: the node before it and how far it is to the next.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    share: f64,
    width: f64,
}

/// Finds a width on an axis; returns the width itself moved into the axis too.
fn locate(axis: &[u32], width: f64) -> (Place, f64) {
    let (first, last) = (f64::from(axis[0]), f64::from(axis[axis.len() - 1]));
    let inside = width.clamp(first, last);
    if axis.len() == 1 {
        return (Place { at: 0, share: 0.0, width: 1.0 }, inside);
    }
    let at = axis.partition_point(|&node| f64::from(node) <= inside).clamp(1, axis.len() - 1) - 1;
    let (low, high) = (f64::from(axis[at]), f64::from(axis[at + 1]));
    (Place { at, share: (inside - low) / (high - low), width: high - low }, inside)
}

/// Tables of all layer kinds of a family on a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairwiseLatency {
    /// The tables.
    #[serde(serialize_with = "to_list", deserialize_with = "from_list")]
    pub grids: BTreeMap<LayerKind, PairGrid>,
    /// Measured over predicted latency of whole nets, 1 where none was measured.
    pub calibration: f64,
}

impl PairwiseLatency {
    /// Tables of all layers in stored samples.
    ///
    /// # Errors
    /// As [`estimate()`].
    pub fn from_samples(
        samples: &[ModelSamples],
        statistic: Statistic,
        clock_resolution_ns: u32,
    ) -> Result<Self, LatencyError> {
        let mut points: BTreeMap<LayerKind, Vec<(u32, u32, f64)>> = BTreeMap::new();
        for model in samples {
            let ModelSpec::Layer { layer: Layer { kind, cin, cout } } = model.spec else { continue };
            let ns = estimate(&model.visits, statistic, clock_resolution_ns)?.value_ns;
            points.entry(kind).or_default().push((cin, cout, ns));
        }
        let mut grids = BTreeMap::new();
        for (kind, points) in points {
            grids.insert(kind, PairGrid::new(&points)?);
        }
        Ok(Self { grids, calibration: 1.0 })
    }

    /// Latency of one layer alone, in nanoseconds, not calibrated.
    ///
    /// # Errors
    /// [`LatencyError::UnmeasuredKind`] where its kind has no table.
    pub fn layer_ns(&self, layer: &Layer) -> Result<f64, LatencyError> {
        let grid = self.grids.get(&layer.kind).ok_or(LatencyError::UnmeasuredKind(layer.kind))?;
        Ok(grid.at(f64::from(layer.cin), f64::from(layer.cout)))
    }

    /// Predicted latency of a net, in nanoseconds.
    ///
    /// # Errors
    /// [`LatencyError::Spec`] where the net is no member of its family, and as
    /// [`PairwiseLatency::layer_ns`].
    pub fn predict_ns(&self, net: &ConvNet) -> Result<f64, LatencyError> {
        Ok(self.calibration * self.sum_ns(net)?)
    }

    /// Sets the calibration to the median of measured over predicted latency of whole nets.
    ///
    /// # Errors
    /// As [`PairwiseLatency::predict_ns`], and [`LatencyError::NoSamples`] without nets.
    pub fn calibrate(&mut self, nets: &[(ConvNet, f64)]) -> Result<Calibration, LatencyError> {
        let found = self.calibration_on(nets)?;
        self.calibration = found.ratio;
        Ok(found)
    }
}

impl LayerSum for PairwiseLatency {
    fn alone_ns(&self, _: LayerType, layer: &Layer) -> Result<f64, LatencyError> {
        self.layer_ns(layer)
    }
}

/// JSON has no maps with such keys: a list of pairs.
fn to_list<S: Serializer>(grids: &BTreeMap<LayerKind, PairGrid>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(grids)
}

fn from_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<LayerKind, PairGrid>, D::Error> {
    Ok(Vec::<(LayerKind, PairGrid)>::deserialize(deserializer)?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use hanas_models::layer::layers;
    use hanas_models::resnet::Family;

    use super::*;

    fn planted(cin: f64, cout: f64) -> f64 {
        4_000.0 + 30.0 * cin + 200.0 * cout + 11.0 * cin * cout
    }

    fn grid(keep: impl Fn(u32, u32) -> bool) -> PairGrid {
        let widths = [4, 8, 16, 24, 32];
        let pairs = widths.iter().flat_map(|&cin| widths.map(|cout| (cin, cout)));
        let points = pairs.filter(|&(cin, cout)| keep(cin, cout));
        let points = points.map(|(cin, cout)| (cin, cout, planted(f64::from(cin), f64::from(cout))));
        PairGrid::new(&points.collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_bilinear_device_is_recovered_everywhere() {
        // With every third pair missing, and outside the table too.
        for grid in [grid(|_, _| true), grid(|cin, cout| (cin + cout) / 4 % 3 != 0)] {
            for (cin, cout) in [(4.0, 4.0), (5.5, 30.25), (32.0, 32.0), (2.0, 40.0), (64.0, 1.0)] {
                let found = grid.slope(cin, cout);
                let error = (found.ns / planted(cin, cout) - 1.0).abs();
                assert!(error < 1e-9, "{cin} {cout}: {error}");
                assert!((found.per_cin_ns - (30.0 + 11.0 * cout)).abs() < 1e-6, "{cin} {cout}: {found:?}");
                assert!((found.per_cout_ns - (200.0 + 11.0 * cin)).abs() < 1e-6, "{cin} {cout}: {found:?}");
            }
        }
    }

    #[test]
    fn a_step_is_kept_at_its_nodes() {
        let points = [(8, 8, 10.0), (8, 9, 50.0), (8, 16, 55.0)];
        let grid = PairGrid::new(&points).unwrap();
        assert_eq!((grid.at(8.0, 8.0), grid.at(8.0, 9.0), grid.at(8.0, 8.5)), (10.0, 50.0, 30.0));
        assert_eq!(PairGrid::new(&[(8, 8, 10.0)]).unwrap().at(8.0, 8.0), 10.0);
        assert!(matches!(PairGrid::new(&[]), Err(LatencyError::TooFewPoints { .. })));
    }

    #[test]
    fn a_net_is_the_sum_of_its_layers() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let base = family.base();
        let mut grids = BTreeMap::new();
        for (_, layer) in layers(&base).unwrap() {
            grids.insert(layer.kind, grid(|_, _| true));
        }
        let mut model = PairwiseLatency { grids, calibration: 1.0 };
        let planted_net = |net: &ConvNet| -> f64 {
            let list = layers(net).unwrap();
            list.iter().map(|(_, layer)| planted(f64::from(layer.cin), f64::from(layer.cout))).sum()
        };
        let found = model.calibrate(&[(base.clone(), 0.8 * planted_net(&base))]).unwrap();
        assert!((found.ratio - 0.8).abs() < 1e-9);
        assert!((model.predict_ns(&base).unwrap() / planted_net(&base) - 0.8).abs() < 1e-9);
        let text = serde_json::to_string(&model).unwrap();
        let again: PairwiseLatency = serde_json::from_str(&text).unwrap();
        assert_eq!(again.grids.len(), model.grids.len());
        let mut odd = base;
        odd.stages[1][0].b = 12;
        let error = model.predict_ns(&odd).unwrap_err();
        assert!(matches!(error, LatencyError::UnmeasuredKind(LayerKind::Shortcut { stride: 1, .. })));
    }
}
