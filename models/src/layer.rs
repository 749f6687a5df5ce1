//! One layer as a net of its own: the unit that a device is profiled with.
//!
//! A [`LayerKind`] is a layer less its channels; latency models are fitted per kind. A whole net's
//! latency is estimated as the sum over [`layers`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::resnet::ConvNet;
use crate::spec::{FeatureMap, Net, Op, SpecError};

/// A layer less its channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LayerKind {
    /// Convolution, BN, ReLU, padded to keep the map's size but for the stride.
    Conv {
        /// Kernel side.
        kernel: u32,
        /// Stride.
        stride: u32,
        /// Side of the input map, in pixels.
        side: u32,
    },
    /// A block's shortcut: 2x2 average pooling where it strides, then a 1x1 convolution (with BN where
    /// it does not stride).
    Shortcut {
        /// Stride, 1 or 2.
        stride: u32,
        /// Side of the input map, in pixels.
        side: u32,
    },
    /// Global average pooling and the fully connected layer.
    Head {
        /// Side of the input map, in pixels.
        side: u32,
    },
}

/// A layer: kind and channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Layer {
    /// What it is less its channels.
    #[serde(flatten)]
    pub kind: LayerKind,
    /// Input channels.
    pub cin: u32,
    /// Output channels.
    pub cout: u32,
}

impl LayerKind {
    /// Side of the input map, in pixels.
    #[must_use]
    pub const fn side(&self) -> u32 {
        match *self {
            Self::Conv { side, .. } | Self::Shortcut { side, .. } | Self::Head { side } => side,
        }
    }

    /// Side of the output map, in pixels.
    #[must_use]
    pub const fn output_side(&self) -> u32 {
        match *self {
            Self::Conv { side, stride, .. } | Self::Shortcut { side, stride } => side.div_ceil(stride),
            Self::Head { .. } => 1,
        }
    }
}

impl fmt::Display for LayerKind {
    /// `conv3x3/1@32`, `shortcut/2@32`, `head@8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conv { kernel, stride, side } => write!(f, "conv{kernel}x{kernel}/{stride}@{side}"),
            Self::Shortcut { stride, side } => write!(f, "shortcut/{stride}@{side}"),
            Self::Head { side } => write!(f, "head@{side}"),
        }
    }
}

impl fmt::Display for Layer {
    /// `conv3x3/1@32 16->24`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}->{}", self.kind, self.cin, self.cout)
    }
}

impl Layer {
    /// The layer as a net of its own.
    #[must_use]
    pub fn net(&self) -> Net {
        let Self { kind, cin, cout } = *self;
        let mut net = Net::new(self.to_string(), FeatureMap::square(cin, kind.side()));
        let input = net.input_node();
        match kind {
            LayerKind::Conv { kernel, stride, .. } => {
                let op = Op::Conv { cin, cout, kernel, stride, padding: kernel / 2 };
                let conv = net.push("conv", op, &[input]);
                let bn = net.push("bn", Op::BatchNorm { channels: cout }, &[conv]);
                net.push("relu", Op::Relu, &[bn]);
            }
            LayerKind::Shortcut { stride, .. } => {
                let op = Op::Conv { cin, cout, kernel: 1, stride: 1, padding: 0 };
                if stride == 2 {
                    let pool = net.push("pool", Op::AvgPool2, &[input]);
                    net.push("conv", op, &[pool]);
                } else {
                    let conv = net.push("conv", op, &[input]);
                    net.push("bn", Op::BatchNorm { channels: cout }, &[conv]);
                }
            }
            LayerKind::Head { .. } => {
                let pool = net.push("pool", Op::GlobalAvgPool, &[input]);
                net.push("fc", Op::Linear { cin, cout }, &[pool]);
            }
        }
        net
    }
}

/// The layers whose latencies add up to the net's, in execution order: stem; of each block a, b and
/// its shortcut if it computes anything; head. The sums and their ReLUs are part of no layer.
///
/// # Errors
/// [`SpecError`] where the net is no member of its family.
pub fn layers(net: &ConvNet) -> Result<Vec<Layer>, SpecError> {
    net.net()?;
    let family = &net.family;
    let mut side = family.input.height;
    let conv3 = |side, stride, cin, cout| Layer { kind: LayerKind::Conv { kernel: 3, stride, side }, cin, cout };
    let mut list = vec![conv3(side, 1, family.input.channels, net.stem)];
    let mut cin = net.stem;
    for (blocks, stage) in net.stages.iter().zip(&family.stages) {
        for (b, widths) in blocks.iter().enumerate() {
            let stride = if b == 0 { stage.stride } else { 1 };
            list.push(conv3(side, stride, cin, widths.a));
            list.push(conv3(side / stride, 1, widths.a, widths.b));
            if stride == 2 || cin != widths.b {
                list.push(Layer { kind: LayerKind::Shortcut { stride, side }, cin, cout: widths.b });
            }
            side /= stride;
            cin = widths.b;
        }
    }
    list.push(Layer { kind: LayerKind::Head { side }, cin, cout: family.classes });
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::macs;
    use crate::resnet::Family;

    #[test]
    fn layers_cost_what_the_whole_net_costs() {
        let net = Family::cifar_resnet(20, 10).unwrap().base();
        let sum: u64 = layers(&net).unwrap().iter().map(|layer| macs(&layer.net()).unwrap()).sum();
        assert_eq!(sum, macs(&net.net().unwrap()).unwrap());
    }

    #[test]
    fn every_kind_fits_together() {
        let kinds = [
            LayerKind::Conv { kernel: 3, stride: 2, side: 32 },
            LayerKind::Shortcut { stride: 1, side: 16 },
            LayerKind::Shortcut { stride: 2, side: 16 },
            LayerKind::Head { side: 8 },
        ];
        for kind in kinds {
            let out = Layer { kind, cin: 5, cout: 7 }.net().output().unwrap();
            assert_eq!(out, FeatureMap::square(7, kind.output_side()), "{kind}");
        }
    }
}
