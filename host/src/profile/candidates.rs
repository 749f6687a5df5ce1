//! What a task wants measured: layers for the space, layers for the cost of the other types, whole
//! nets for calibration; each as ONNX of a few hundred bytes under its digest.

use std::sync::Arc;

use hanas_models::layer::{Layer, LayerType, types};
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::{BlockWidths, ConvNet, Family};
use hanas_models::spec::{FeatureMap, Net, Op};
use hanas_proto::Digest;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::ProfileError;
use crate::store::ModelSpec;

/// Widths measured of a layer type that no width list is chosen from: j e W / 8, j = 1..8.
const COST_POINTS: u32 = 8;
/// Random nets measured whole, beside the base net, to calibrate sums of layers.
const CALIBRATION_NETS: usize = 6;
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

/// All candidates of a family, the null model first.
///
/// # Errors
/// [`ProfileError`] where a net does not fit together.
pub fn candidates(
    family: &Family,
    expand: u32,
    batch: u32,
    which: Which,
) -> Result<Vec<Candidate>, ProfileError> {
    let layer = |layer| ModelSpec::Layer { layer };
    let mut specs: Vec<ModelSpec> = vec![ModelSpec::Null];
    specs.extend(space_layers(family, expand).into_iter().flatten().map(layer));
    if which == Which::All {
        specs.extend(cost_layers(family, expand).into_iter().map(|(_, of)| layer(of)));
        specs.extend(calibration_nets(family, expand).into_iter().map(|net| ModelSpec::Net { net }));
    }
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
        let all = candidates(&family, 2, 4, Which::Space).unwrap();
        assert_eq!(all.len(), 1 + 224);
        let digests: BTreeSet<_> = all.iter().map(|candidate| candidate.digest).collect();
        assert_eq!(digests.len(), all.len());
    }
}
