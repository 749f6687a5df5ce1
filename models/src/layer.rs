//! One layer as a net of its own: the unit that a device is profiled with.
//!
//! A [`LayerKind`] is a layer less its channels. A [`LayerType`] is a layer's role in its family: the
//! paper fits one latency curve per type. A whole net's latency is estimated as the sum over [`layers`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::resnet::{BlockWidths, ConvNet, Family};
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

/// A layer's role in its family (ALGORITHM 1.5: one fitted f per layer type).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LayerType {
    /// The first convolution.
    Stem,
    /// A 3x3 convolution of a stage, numbered from 0; stride 2 leads into the stage.
    Conv {
        /// The stage.
        stage: usize,
        /// Stride.
        stride: u32,
    },
    /// A 1x1 shortcut of a stage, numbered from 0.
    Shortcut {
        /// The stage.
        stage: usize,
        /// Stride.
        stride: u32,
    },
    /// Pooling and the fully connected layer.
    Head,
}

impl fmt::Display for LayerType {
    /// `stem`, `stage2.conv/2`, `stage2.shortcut/1`, `head`; stages count from 1 as in weight paths.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stem => f.write_str("stem"),
            Self::Conv { stage, stride } => write!(f, "stage{}.conv/{stride}", stage + 1),
            Self::Shortcut { stage, stride } => write!(f, "stage{}.shortcut/{stride}", stage + 1),
            Self::Head => f.write_str("head"),
        }
    }
}

/// Every layer type of a family with the layer of base widths that stands for it, in the net's order.
#[must_use]
pub fn types(family: &Family) -> Vec<(LayerType, Layer)> {
    let mut side = family.input.height;
    let mut cin = family.stem;
    let mut list = vec![(LayerType::Stem, conv3(side, 1, family.input.channels, family.stem))];
    for (stage, shape) in family.stages.iter().enumerate() {
        let width = shape.width;
        if shape.stride == 2 {
            let kind = LayerKind::Shortcut { stride: 2, side };
            list.push((LayerType::Conv { stage, stride: 2 }, conv3(side, 2, cin, width)));
            list.push((LayerType::Shortcut { stage, stride: 2 }, Layer { kind, cin, cout: width }));
        }
        side /= shape.stride;
        let kind = LayerKind::Shortcut { stride: 1, side };
        list.push((LayerType::Conv { stage, stride: 1 }, conv3(side, 1, width, width)));
        list.push((LayerType::Shortcut { stage, stride: 1 }, Layer { kind, cin: width, cout: width }));
        cin = width;
    }
    list.push((LayerType::Head, Layer { kind: LayerKind::Head { side }, cin, cout: family.classes }));
    list
}

/// The layers whose latencies add up to the net's, in execution order: stem; the layers of each block;
/// head. The sums and their ReLUs are part of no layer.
///
/// # Errors
/// [`SpecError`] where the net is no member of its family.
pub fn layers(net: &ConvNet) -> Result<Vec<(LayerType, Layer)>, SpecError> {
    net.net()?;
    let family = &net.family;
    let mut side = family.input.height;
    let mut list = vec![stem_layer(family, net.stem)];
    let mut cin = net.stem;
    for (stage, (blocks, shape)) in net.stages.iter().zip(&family.stages).enumerate() {
        for (b, widths) in blocks.iter().enumerate() {
            let stride = if b == 0 { shape.stride } else { 1 };
            list.extend(block_layers(Place { stage, stride, side }, cin, *widths));
            side /= stride;
            cin = widths.b;
        }
    }
    list.push(head_layer(family, cin));
    Ok(list)
}

/// Where a block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its stage, from 0.
    pub stage: usize,
    /// Its stride.
    pub stride: u32,
    /// Side of its input map, in pixels.
    pub side: u32,
}

/// The layers of one block in execution order: a, b, and its shortcut if that computes anything.
pub fn block_layers(at: Place, cin: u32, widths: BlockWidths) -> impl Iterator<Item = (LayerType, Layer)> {
    let Place { stage, stride, side } = at;
    let a = (LayerType::Conv { stage, stride }, conv3(side, stride, cin, widths.a));
    let b = (LayerType::Conv { stage, stride: 1 }, conv3(side / stride, 1, widths.a, widths.b));
    let shortcut = (stride == 2 || cin != widths.b).then(|| {
        let kind = LayerKind::Shortcut { stride, side };
        (LayerType::Shortcut { stage, stride }, Layer { kind, cin, cout: widths.b })
    });
    [a, b].into_iter().chain(shortcut)
}

/// The first convolution of a family's nets at a width.
#[must_use]
pub const fn stem_layer(family: &Family, width: u32) -> (LayerType, Layer) {
    (LayerType::Stem, conv3(family.input.height, 1, family.input.channels, width))
}

/// Pooling and the fully connected layer of a family's nets after `cin` channels.
#[must_use]
pub fn head_layer(family: &Family, cin: u32) -> (LayerType, Layer) {
    let side = family.stage_sides().last().copied().unwrap_or(family.input.height);
    (LayerType::Head, Layer { kind: LayerKind::Head { side }, cin, cout: family.classes })
}

const fn conv3(side: u32, stride: u32, cin: u32, cout: u32) -> Layer {
    Layer { kind: LayerKind::Conv { kernel: 3, stride, side }, cin, cout }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::macs;
    use crate::resnet::Family;

    #[test]
    fn layers_cost_what_the_whole_net_costs() {
        let net = Family::cifar_resnet(20, 10).unwrap().base();
        let sum: u64 = layers(&net).unwrap().iter().map(|(_, layer)| macs(&layer.net()).unwrap()).sum();
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
