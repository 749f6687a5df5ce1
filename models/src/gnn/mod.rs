//! Graph attention nets: the spec of the family that HGNAS searches (ALGORITHM 2.1, 2.2).
//!
//! A layer is five tokens; a net is a list of layers over node features. [`GnnNet`] is the one truth
//! that the lowerings, the controller and the store share. The graph itself is data and no part of a
//! spec. The graph nets of Wang et al. 2023, not the "HGNAS" of Zhou et al. for point clouds.
//!
//! - [`tokens`]: what they can say;
//! - [`graph`]: a graph and its nodes' features;
//! - [`layout`]: a graph's messages in blocks that reduce without a scatter;
//! - [`onnx`]: lowering to ONNX;
//! - [`torch`] (feature `torch`): lowering to tch.

pub mod graph;
pub mod layout;
pub mod onnx;
pub mod tokens;
#[cfg(feature = "torch")]
pub mod torch;

use std::fmt;
use std::str::FromStr;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use tokens::{Activation, Aggregator, Attention};

use crate::weights::{Tensor, Weights};

/// Width between the two pool Linears of an aggregator.
pub const POOL_WIDTH: u32 = 128;

/// Slope below 0 of the leaky ReLU on attention weights.
pub const ATTENTION_SLOPE: f32 = 0.2;

/// Slope below 0 of [`Activation::LeakyRelu`].
pub const LEAKY_SLOPE: f32 = 0.01;

/// A spec that is no net of the family, or a text that is no spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GnnError {
    /// A name that a token does not have.
    #[error("no {what} is called '{given}'; there are {known}")]
    Token {
        /// The token.
        what: &'static str,
        /// The name.
        given: String,
        /// The names there are.
        known: String,
    },
    /// A text that is no layer.
    #[error("'{0}' is no graph layer; write attention/aggregator/activation/HEADSxDIM, as gat/sum/elu/8x8")]
    Layer(String),
    /// A net without layers.
    #[error("the net has no layers")]
    Empty,
    /// A size of 0 or beyond [`MAX_SIZE`].
    #[error("{what} is {given}; it must lie between 1 and {MAX_SIZE}")]
    Size {
        /// The size.
        what: String,
        /// Its value.
        given: u32,
    },
    /// The last layer does not tell the classes apart.
    #[error("the last layer has dim {dim} for {classes} classes; they must be equal")]
    LastDim {
        /// The layer's dim.
        dim: u32,
        /// The classes.
        classes: u32,
    },
}

/// The largest number of features, classes, heads, dim or heads times dim.
pub const MAX_SIZE: u32 = 1 << 20;

/// One graph layer: five tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GnnLayer {
    /// Weight of a message.
    pub attention: Attention,
    /// Messages into one.
    pub aggregator: Aggregator,
    /// Last step of the layer.
    pub activation: Activation,
    /// Attention heads.
    pub heads: u32,
    /// Width of one head.
    pub dim: u32,
}

impl fmt::Display for GnnLayer {
    /// `gat/sum/elu/8x8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attention, aggregator, activation, heads, dim } = self;
        write!(f, "{attention}/{aggregator}/{activation}/{heads}x{dim}")
    }
}

impl FromStr for GnnLayer {
    type Err = GnnError;

    fn from_str(text: &str) -> Result<Self, GnnError> {
        let no_layer = || GnnError::Layer(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let [attention, aggregator, activation, size] = parts[..] else { return Err(no_layer()) };
        let (heads, dim) = size.split_once('x').ok_or_else(no_layer)?;
        Ok(Self {
            attention: attention.parse()?,
            aggregator: aggregator.parse()?,
            activation: activation.parse()?,
            heads: heads.parse().map_err(|_| no_layer())?,
            dim: dim.parse().map_err(|_| no_layer())?,
        })
    }
}

impl GnnLayer {
    /// Values of a row: heads times dim.
    #[must_use]
    pub const fn width(&self) -> u32 {
        self.heads.saturating_mul(self.dim)
    }

    /// Whether the layer, which has this number in its net, has sizes.
    fn check(&self, number: usize) -> Result<(), GnnError> {
        let sizes = [("heads", self.heads), ("dim", self.dim), ("heads times dim", self.width())];
        sizes.into_iter().try_for_each(|(what, size)| check_size(&format!("{what} of layer {number}"), size))
    }
}

fn check_size(what: &str, given: u32) -> Result<(), GnnError> {
    let what = what.to_owned();
    if (1..=MAX_SIZE).contains(&given) { Ok(()) } else { Err(GnnError::Size { what, given }) }
}

/// A graph net: node features in, one score per class and node out.
///
/// Hidden layers concatenate their heads, the last layer averages them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GnnNet {
    /// Features of a node.
    pub features: u32,
    /// Classes to tell apart.
    pub classes: u32,
    /// Layers in order; the last one's dim is `classes`.
    pub layers: Vec<GnnLayer>,
}

impl fmt::Display for GnnNet {
    /// `gat/sum/elu/8x8 gat/sum/linear/1x7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, layer) in self.layers.iter().enumerate() {
            write!(f, "{}{layer}", if place > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl GnnNet {
    /// The net of these layers in canonical form: the last layer's dim is dead (ALGORITHM 2.1) and
    /// becomes the number of classes.
    #[must_use]
    pub fn new(features: u32, classes: u32, layers: Vec<GnnLayer>) -> Self {
        Self { features, classes, layers }.canonical()
    }

    /// The net with its dead token overwritten: nets that compute the same compare equal.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        if let Some(last) = self.layers.last_mut() {
            last.dim = self.classes;
        }
        self
    }

    /// The net whose latency stands for a pair of heads and dim (ALGORITHM 2.5).
    #[must_use]
    pub fn reference(features: u32, classes: u32, heads: u32, dim: u32) -> Self {
        let (attention, aggregator) = (Attention::Gat, Aggregator::Sum);
        let hidden = GnnLayer { attention, aggregator, activation: Activation::Elu, heads, dim };
        let last = GnnLayer { activation: Activation::Linear, heads: 1, dim: classes, ..hidden };
        Self::new(features, classes, vec![hidden, last])
    }

    /// Whether the net fits together.
    ///
    /// # Errors
    /// [`GnnError`], naming what does not.
    pub fn check(&self) -> Result<(), GnnError> {
        check_size("the number of features", self.features)?;
        check_size("the number of classes", self.classes)?;
        for (number, layer) in (1..).zip(&self.layers) {
            layer.check(number)?;
        }
        let last = self.layers.last().ok_or(GnnError::Empty)?;
        if last.dim == self.classes {
            Ok(())
        } else {
            Err(GnnError::LastDim { dim: last.dim, classes: self.classes })
        }
    }

    /// Every layer with the width of its input and whether it is the last.
    pub fn wired(&self) -> impl Iterator<Item = Wired> {
        let inputs = std::iter::once(self.features).chain(self.layers.iter().map(GnnLayer::width));
        let last = self.layers.len();
        self.layers.iter().zip(inputs).enumerate().map(move |(index, (&layer, input))| Wired {
            index,
            layer,
            input,
            is_last: index + 1 == last,
        })
    }

    /// Name and shape of every trainable tensor, in execution order.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<u32>)> {
        self.wired().flat_map(|wired| wired.tensors()).collect()
    }
}

/// Weights drawn from a seed, biases too. For tests and for nets nobody trained.
#[must_use]
pub fn seeded(net: &GnnNet, seed: u64) -> Weights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let draw = |(name, shape): (String, Vec<u32>)| {
        let bound = if name.ends_with("bias") { 0.1 } else { (3.0 / shape[0] as f32).sqrt() };
        let tensor = Tensor::fill(&shape, |_| rng.random_range(-bound..bound));
        (name, tensor)
    };
    net.tensors().into_iter().map(draw).collect()
}

/// A layer in its place in a net.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wired {
    /// Place, from 0.
    pub index: usize,
    /// The layer.
    pub layer: GnnLayer,
    /// Width of its input.
    pub input: u32,
    /// Whether its heads are averaged.
    pub is_last: bool,
}

impl Wired {
    /// Path of one of the layer's tensors: `layer1.weight`.
    #[must_use]
    pub fn path(&self, what: &str) -> String {
        format!("layer{}.{what}", self.index + 1)
    }

    /// Width of the output.
    #[must_use]
    pub const fn output(&self) -> u32 {
        if self.is_last { self.layer.dim } else { self.layer.width() }
    }

    /// Name and shape of every trainable tensor. A projection and a pool Linear are laid out (in, out),
    /// as they multiply from the right.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<u32>)> {
        let GnnLayer { attention, aggregator, heads, dim, .. } = self.layer;
        let mut list = vec![("weight", vec![self.input, heads * dim])];
        if attention.is_softmax() {
            list.push(("attention.left", vec![heads, dim]));
            list.push(("attention.right", vec![heads, dim]));
        }
        if attention == Attention::GeneralizedLinear {
            list.push(("attention.shared", vec![dim]));
        }
        if aggregator.has_pool() {
            list.push(("pool.0.weight", vec![dim, POOL_WIDTH]));
            list.push(("pool.0.bias", vec![POOL_WIDTH]));
            list.push(("pool.1.weight", vec![POOL_WIDTH, dim]));
            list.push(("pool.1.bias", vec![dim]));
        }
        list.push(("bias", vec![self.output()]));
        list.into_iter().map(|(what, shape)| (self.path(what), shape)).collect()
    }
}

/// How the family is read where the paper's code and its paper, or speed and measuring, part ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reading {
    /// Attention weights are normalised per source node, as the reference code does by mistake; per
    /// target node otherwise.
    pub compat_src_softmax: bool,
    /// The pool Linears of mean and mlp run on nodes after aggregation instead of on edges before it:
    /// the same function, they are affine. Max always pools edges.
    pub pool_per_node: bool,
}

impl Reading {
    /// As the reference code computes and as the paper measures.
    #[must_use]
    pub const fn paper() -> Self {
        Self { compat_src_softmax: true, pool_per_node: false }
    }

    /// The intended softmax, pooled on nodes where that is the same.
    #[must_use]
    pub const fn project() -> Self {
        Self { compat_src_softmax: false, pool_per_node: true }
    }

    /// Whether an aggregator pools nodes.
    #[must_use]
    pub const fn pools_nodes(&self, aggregator: Aggregator) -> bool {
        self.pool_per_node && matches!(aggregator, Aggregator::Mean | Aggregator::Mlp)
    }
}

#[cfg(test)]
mod tests;
