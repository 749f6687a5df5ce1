//! Named tensors: what training hands to export and what a checkpoint holds.

use std::collections::BTreeMap;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::spec::{Net, Op};

/// Added to a batch norm's variance, as PyTorch does.
pub const BATCH_NORM_EPSILON: f32 = 1e-5;

/// A dense tensor of floats, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Dimensions.
    pub shape: Vec<u32>,
    /// Values, as many as the dimensions' product.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor filled by a function of the place.
    pub fn fill(shape: &[u32], value: impl FnMut(usize) -> f32) -> Self {
        let len: u32 = shape.iter().product();
        Self { shape: shape.to_vec(), data: (0..len as usize).map(value).collect() }
    }
}

/// Tensors by path: `stem.conv.weight`, `stem.bn.running_mean`, `head.fc.bias` ...
pub type Weights = BTreeMap<String, Tensor>;

/// Name, shape of every tensor that a net owns, in execution order.
#[must_use]
pub fn tensors(net: &Net) -> Vec<(String, Vec<u32>)> {
    let mut list = Vec::new();
    for node in &net.nodes {
        let mut own =
            |what: &str, shape: &[u32]| list.push((format!("{}.{what}", node.name), shape.to_vec()));
        match node.op {
            Op::Conv { cin, cout, kernel, .. } => own("weight", &[cout, cin, kernel, kernel]),
            Op::BatchNorm { channels } => {
                for what in ["weight", "bias", "running_mean", "running_var"] {
                    own(what, &[channels]);
                }
            }
            Op::Linear { cin, cout } => {
                own("weight", &[cout, cin]);
                own("bias", &[cout]);
            }
            _ => {}
        }
    }
    list
}

/// Weights drawn from a seed, sized so that values neither vanish nor blow up through the net; batch
/// norms are given statistics that are not the identity. For tests and for nets nobody trained.
#[must_use]
pub fn seeded(net: &Net, seed: u64) -> Weights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    tensors(net)
        .into_iter()
        .map(|(name, shape)| {
            let tensor = draw(&name, &shape, &mut rng);
            (name, tensor)
        })
        .collect()
}

fn draw(name: &str, shape: &[u32], rng: &mut impl Rng) -> Tensor {
    let mut uniform = |low: f32, high: f32| Tensor::fill(shape, |_| rng.random_range(low..high));
    if name.ends_with(".running_var") {
        uniform(0.5, 1.5)
    } else if name.ends_with(".bn.weight") || name == "bn.weight" {
        uniform(0.8, 1.2)
    } else if shape.len() == 1 {
        uniform(-0.1, 0.1)
    } else {
        let fan_in: u32 = shape[1..].iter().product();
        let bound = (6.0 / fan_in as f32).sqrt();
        uniform(-bound, bound)
    }
}
