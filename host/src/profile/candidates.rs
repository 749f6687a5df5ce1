//! What a task wants measured: layers for the space, layers for the cost of the other types, whole
//! nets for calibration; each as ONNX of a few hundred bytes under its digest.

use std::sync::Arc;

use hanas_models::layer::{Layer, LayerType, types};
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::{BlockWidths, ConvNet, Family};
use hanas_models::spec::{FeatureMap, Net, Op};
use hanas_proto::Digest;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::ProfileError;
use super::cin::Cin;
use crate::store::ModelSpec;

/// Widths measured of a layer type that no width list is chosen from: j e W / 8, j = 1..8.
const COST_POINTS: u32 = 8;
/// Random nets measured whole, beside the base net, to calibrate sums of layers.
const CALIBRATION_NETS: usize = 6;
/// Nets of random widths and depths that calibrate latency models beside those.
const RANDOM_CALIBRATION_NETS: usize = 24;
/// Streams of the random generator that nets are drawn from: no seed of one meets those of another.
const CALIBRATION_STREAM: u64 = 1;
const HELD_OUT_STREAM: u64 = 2;
/// Expansions that a profile can be made with.
const EXPANSIONS: std::ops::RangeInclusive<u32> = 1..=4;
/// Seed of the first `RandomNormal` of every profiling model.
const WEIGHT_SEED: u32 = 1;

/// A model to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What it is.
    pub spec: ModelSpec,
    /// Images a run.
    pub batch: u32,
    /// The model.
    pub onnx: Vec<u8>,
    /// BLAKE3 of `onnx`.
    pub digest: Digest,
    /// Content that the model refers to and the agent must hold.
    pub held: Option<Arc<[u8]>>,
}

impl Candidate {
    /// A layer or net as a model with seeded weights.
    ///
    /// # Errors
    /// [`ProfileError`] where the net does not fit together.
    pub fn new(spec: ModelSpec, batch: u32) -> Result<Self, ProfileError> {
        let net = match &spec {
            ModelSpec::Layer { layer } => layer.net(),
            ModelSpec::Net { net } => net.net()?,
            // A graph net is made with its graph: profile::graph_candidates.
            ModelSpec::Null | ModelSpec::File { .. } | ModelSpec::Graph { .. } => null_net(),
        };
        Ok(Self::of_file(spec, batch, lower(&net, Init::Seeded(WEIGHT_SEED), batch)?))
    }

    /// A model as it is.
    #[must_use]
    pub fn of_file(spec: ModelSpec, batch: u32, onnx: Vec<u8>) -> Self {
        let digest = Digest(*blake3::hash(&onnx).as_bytes());
        Self { spec, batch, onnx, digest, held: None }
    }
}

fn null_net() -> Net {
    let mut net = Net::new("null", FeatureMap::square(1, 1));
    let input = net.input_node();
    net.push("relu", Op::Relu, &[input]);
    net
}

/// Which candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Everything a search needs.
    #[default]
    All,
    /// Only the layers that width lists are chosen from.
    Space,
    /// Layers by input and output width, for pairwise latency models, and nets to calibrate those.
    Pairs,
    /// Random whole nets that no latency model is made of: what `hanas latency eval` is held against.
    Nets,
}

/// The layers that a stage's width list is chosen from: 3x3, stride 1, base width in, 1..e W out
/// (ALGORITHM 1.6). One list per stage, ascending.
#[must_use]
pub fn space_layers(family: &Family, expand: u32) -> Vec<Vec<Layer>> {
    let conv = |(kind, layer): (LayerType, Layer)| match kind {
        LayerType::Conv { stride: 1, .. } => {
            Some((1..=expand * layer.cout).map(|cout| Layer { cout, ..layer }).collect())
        }
        _ => None,
    };
    types(family).into_iter().filter_map(conv).collect()
}

/// The layers that stand for the other types: stem, strided convolutions, shortcuts, head.
#[must_use]
pub fn cost_layers(family: &Family, expand: u32) -> Vec<(LayerType, Layer)> {
    types(family)
        .into_iter()
        .filter(|(kind, _)| !matches!(kind, LayerType::Conv { stride: 1, .. }))
        .flat_map(|(kind, layer)| {
            let widths: Vec<u32> = match kind {
                LayerType::Head => vec![layer.cout],
                _ => (1..=COST_POINTS).map(|j| (j * expand * layer.cout / COST_POINTS).max(1)).collect(),
            };
            widths.into_iter().map(move |cout| (kind, Layer { cout, ..layer }))
        })
        .collect()
}

/// The base net and a few random ones on the aligned grid: measured whole, they say how far a sum of
/// layers is off.
#[must_use]
pub fn calibration_nets(family: &Family, expand: u32) -> Vec<ConvNet> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut nets = vec![family.base()];
    for _ in 0..CALIBRATION_NETS {
        let mut width = |base: u32| {
            let grid: Vec<u32> = (1..=8).map(|j| (j * expand * base / 8).max(1)).collect();
            grid.choose(&mut rng).copied().unwrap_or(base)
        };
        let stem = width(family.stem);
        let stages = family
            .stages
            .iter()
            .map(|stage| {
                (0..stage.blocks)
                    .map(|_| BlockWidths { a: width(stage.width), b: width(stage.width) })
                    .collect()
            })
            .collect();
        nets.push(ConvNet { family: family.clone(), stem, stages });
    }
    nets
}

/// Nets of random widths, 1 to e W, and random depths: they calibrate latency models for nets off the
/// grid.
#[must_use]
pub fn random_calibration_nets(family: &Family, expand: u32) -> Vec<ConvNet> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    rng.set_stream(CALIBRATION_STREAM);
    (0..RANDOM_CALIBRATION_NETS).map(|_| random_net(family, expand, &mut rng)).collect()
}

/// Whether a net is one that latency models are calibrated on, whatever the expansion.
#[must_use]
pub fn is_for_calibration(net: &ConvNet) -> bool {
    let of = |expand| {
        let mut nets = calibration_nets(&net.family, expand);
        nets.extend(random_calibration_nets(&net.family, expand));
        nets
    };
    EXPANSIONS.flat_map(of).any(|other| other == *net)
}

/// Nets of random widths, 1 to e W, and random depths, none of them [for
/// calibration](is_for_calibration): what latency models are judged by.
#[must_use]
pub fn held_out_nets(family: &Family, expand: u32, nets: usize, seed: u64) -> Vec<ConvNet> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(HELD_OUT_STREAM);
    let drawn = std::iter::repeat_with(|| random_net(family, expand, &mut rng));
    drawn.filter(|net| !is_for_calibration(net)).take(nets).collect()
}

fn random_net(family: &Family, expand: u32, rng: &mut ChaCha8Rng) -> ConvNet {
    let stem = rng.random_range(1..=expand * family.stem);
    let mut stages = Vec::new();
    for stage in &family.stages {
        let most = expand * stage.width;
        let blocks = rng.random_range(1..=stage.blocks);
        let mut block = || BlockWidths { a: rng.random_range(1..=most), b: rng.random_range(1..=most) };
        stages.push((0..blocks).map(|_| block()).collect());
    }
    ConvNet { family: family.clone(), stem, stages }
}

/// All candidates of a family, the null model first. Of [`Which::Pairs`] only the nets, since the layers
/// follow from what is measured; of [`Which::Nets`] see [`held_out_candidates`].
///
/// # Errors
/// [`ProfileError`] where a net does not fit together.
pub fn candidates(
    family: &Family,
    expand: u32,
    batch: u32,
    which: Which,
    cin: Cin,
) -> Result<Vec<Candidate>, ProfileError> {
    let layer = |layer| ModelSpec::Layer { layer };
    let net = |net| ModelSpec::Net { net };
    let mut specs: Vec<ModelSpec> = vec![ModelSpec::Null];
    if matches!(which, Which::All | Which::Space) {
        specs.extend(cin.layers(family, expand).into_iter().flatten().flatten().map(layer));
    }
    if which == Which::All {
        specs.extend(cost_layers(family, expand).into_iter().map(|(_, of)| layer(of)));
    }
    if matches!(which, Which::All | Which::Pairs) {
        specs.extend(calibration_nets(family, expand).into_iter().map(net));
    }
    if which == Which::Pairs {
        specs.extend(random_calibration_nets(family, expand).into_iter().map(net));
    }
    lowered(specs, batch)
}

/// Random nets that no model is made of, the null model first.
///
/// # Errors
/// As [`candidates`].
pub fn held_out_candidates(
    family: &Family,
    expand: u32,
    batch: u32,
    nets: usize,
    seed: u64,
) -> Result<Vec<Candidate>, ProfileError> {
    let nets = held_out_nets(family, expand, nets, seed).into_iter().map(|net| ModelSpec::Net { net });
    lowered(std::iter::once(ModelSpec::Null).chain(nets).collect(), batch)
}

fn lowered(specs: Vec<ModelSpec>, batch: u32) -> Result<Vec<Candidate>, ProfileError> {
    specs.into_iter().map(|spec| Candidate::new(spec, batch)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn resnet20_has_the_papers_224_widths() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let lists = space_layers(&family, 2);
        assert_eq!(lists.iter().map(Vec::len).collect::<Vec<_>>(), [32, 64, 128]);
        let all = candidates(&family, 2, 4, Which::Space, Cin::Base).unwrap();
        assert_eq!(all.len(), 1 + 224);
        let digests: BTreeSet<_> = all.iter().map(|candidate| candidate.digest).collect();
        assert_eq!(digests.len(), all.len());
    }

    #[test]
    fn held_out_nets_are_random_members_that_calibrate_nothing() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let nets = held_out_nets(&family, 2, 40, 0);
        assert_eq!(nets, held_out_nets(&family, 2, 40, 0));
        assert_ne!(nets, held_out_nets(&family, 2, 40, 1));
        assert!(nets.iter().all(|net| net.net().is_ok() && !is_for_calibration(net)));
        let calibrating = [calibration_nets(&family, 2), random_calibration_nets(&family, 2)].concat();
        assert!(calibrating.iter().all(is_for_calibration));
        // Any width and depth: some are odd, some stages are cut.
        assert!(nets.iter().any(|net| net.stem % 2 == 1) && nets.iter().any(|net| net.stages[0].len() == 1));
    }
}
