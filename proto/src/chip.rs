//! The form in which a chip takes models: a list of layers over one working memory.
//!
//! ```text
//! model  = header layer* weights
//! header = postcard of Header
//! layer  = postcard of Layer             (header.layers of them)
//! weights = raw little-endian bytes that layers with given weights point into
//! ```
//!
//! The host has planned the memory: every map and every weight has its place, in bytes from the start
//! of the working memory, a multiple of [`ALIGN`]. One image at a time, channels first. A chip checks
//! that all places lie within its memory and do not overlap where they must not, and plans nothing.

use serde::{Deserialize, Serialize};

/// The first field of every [`Header`]; the last digit counts the versions of this form.
pub const MAGIC: [u8; 4] = *b"hNc1";

/// Places are multiples of this many bytes.
pub const ALIGN: u32 = 4;

/// What a model's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Elements {
    /// 32-bit floats, sums in 32-bit floats.
    F32,
    /// 8-bit integers, symmetric about zero, sums and biases in 32 bits.
    I8,
}

impl Elements {
    /// Bytes of one.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::F32 => 4,
            Self::I8 => 1,
        }
    }
}

/// A feature map at its place in the working memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Where it begins, in bytes.
    pub at: u32,
    /// Channels.
    pub channels: u16,
    /// Rows; 1 for a vector.
    pub height: u16,
    /// Columns; 1 for a vector.
    pub width: u16,
}

impl Map {
    /// Values in it.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.channels as u64 * self.height as u64 * self.width as u64
    }

    /// Whether it holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What stands before the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// What the numbers are.
    pub elements: Elements,
    /// Working memory that the model takes, in bytes.
    pub memory: u32,
    /// Layers that follow.
    pub layers: u16,
    /// The input; no layer writes over it.
    pub input: Map,
    /// The output.
    pub output: Map,
}

/// One layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// What it computes.
    pub op: Op,
    /// From what.
    pub input: Map,
    /// Where to. The place may be the input's where the operator says so, else it is apart from it.
    pub output: Map,
}

/// What a layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Convolution, weights `[cout, cin, kernel, kernel]`.
    Conv(Window, Weights),
    /// Convolution of each channel with a kernel of its own, weights `[channels, kernel, kernel]`.
    Depthwise(Window, Weights),
    /// Fully connected, weights `[outputs, inputs]`.
    Linear(Weights),
    /// The mean of each window; padding counts as zero.
    AveragePool(Window),
    /// The greatest of each window; padding does not count.
    MaxPool(Window),
    /// The mean of each channel.
    GlobalAveragePool,
    /// max(x, 0); may be done in place.
    Relu,
    /// Sum of the input and the map of the same shape that begins there; may be done in place.
    Add {
        /// Where the other map begins, in bytes.
        other: u32,
    },
}

/// A square window that slides over a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Side.
    pub kernel: u8,
    /// Step.
    pub stride: u8,
    /// Zeros around the map, on every side.
    pub padding: u8,
}

impl Window {
    /// Positions of the window over `side` values; none where it does not fit.
    #[must_use]
    pub const fn positions(&self, side: u32) -> Option<u32> {
        let padded = side + 2 * self.padding as u32;
        if self.stride == 0 || self.kernel == 0 || padded < self.kernel as u32 {
            return None;
        }
        Some((padded - self.kernel as u32) / self.stride as u32 + 1)
    }
}

/// A layer's weights and what is done to its sums.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Where they lie in the working memory, in bytes; the biases follow, aligned.
    pub at: u32,
    /// Whether each output channel has a bias.
    pub bias: bool,
    /// Whether what is negative becomes zero.
    pub relu: bool,
    /// 8-bit sums become `(sum * multiplier) >> shift`, rounded and clamped; 1 and 0 with floats.
    pub multiplier: i32,
    /// See `multiplier`; below 63.
    pub shift: u8,
    /// Where they come from.
    pub source: Source,
}

/// Where weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// Drawn by the chip: a model to be timed needs no values of its own. Floats are uniform in
    /// `[-scale, scale)`, 8-bit weights in -127..=127; biases are zero.
    Drawn {
        /// Of the draw.
        seed: u32,
        /// Half the range.
        scale: f32,
    },
    /// Bytes of the model, from that place behind its layers on: the weights, then the biases, aligned.
    Given {
        /// The place.
        at: u32,
    },
}

/// `bytes` rounded up to [`ALIGN`].
#[must_use]
pub const fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN as u64)
}

/// Bytes that weights and biases take in the working memory.
#[must_use]
pub const fn weight_bytes(elements: Elements, weights: u64, biases: u64) -> u64 {
    aligned(weights * elements.bytes() as u64) + biases * 4
}
