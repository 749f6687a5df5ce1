//! Trained weights of a net -> those of a narrower or shallower one: the channels with the largest norm
//! stay, in their order, everywhere they are read and written.
//!
//! Maps that an identity shortcut joins have the same channels. So the coordinates of a slimmed net are
//! one width for each such bundle of maps, one for each block's inner map, and a depth for each stage.

use hanas_models::resnet::{BlockWidths, ConvNet, Family};
use hanas_models::weights::{Tensor, Weights};

/// One thing that can be made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinate {
    /// Width of the maps that identity shortcuts join; the first bundle begins at the stem.
    Bundle(usize),
    /// Width between a block's two convolutions.
    Inner {
        /// The stage, from 0.
        stage: usize,
        /// The block in it, from 0.
        block: usize,
    },
    /// Blocks of a stage.
    Depth(usize),
}

/// Bundle of the stem's map, then of every stage's.
#[must_use]
pub fn bundles(family: &Family) -> Vec<usize> {
    let mut list = vec![0];
    let mut width = family.stem;
    for stage in &family.stages {
        let joined = stage.stride == 1 && stage.width == width;
        list.push(list[list.len() - 1] + usize::from(!joined));
        width = stage.width;
    }
    list
}

/// Everything that can be made smaller in a net.
#[must_use]
pub fn coordinates(net: &ConvNet) -> Vec<Coordinate> {
    let bundles = bundles(&net.family);
    let mut list: Vec<Coordinate> = (0..=bundles[bundles.len() - 1]).map(Coordinate::Bundle).collect();
    for (stage, blocks) in net.stages.iter().enumerate() {
        list.extend((0..blocks.len()).map(|block| Coordinate::Inner { stage, block }));
        list.push(Coordinate::Depth(stage));
    }
    list
}

/// What a coordinate is in a net.
#[must_use]
pub fn value(net: &ConvNet, at: Coordinate) -> u32 {
    match at {
        Coordinate::Bundle(bundle) => {
            let place = bundles(&net.family).iter().position(|&other| other == bundle);
            place.map_or(0, |place| map_width(net, place))
        }
        Coordinate::Inner { stage, block } => net.stages[stage][block].a,
        Coordinate::Depth(stage) => net.stages[stage].len() as u32,
    }
}

/// The net with one coordinate at another value.
#[must_use]
pub fn with(net: &ConvNet, at: Coordinate, value: u32) -> ConvNet {
    let mut net = net.clone();
    match at {
        Coordinate::Bundle(bundle) => {
            let bundles = bundles(&net.family);
            if bundles[0] == bundle {
                net.stem = value;
            }
            for (blocks, _) in net.stages.iter_mut().zip(&bundles[1..]).filter(|(_, of)| **of == bundle) {
                for block in blocks {
                    block.b = value;
                }
            }
        }
        Coordinate::Inner { stage, block } => net.stages[stage][block].a = value,
        Coordinate::Depth(stage) => net.stages[stage].truncate(value as usize),
    }
    net
}

/// Width of the stem's map (place 0) or a stage's.
fn map_width(net: &ConvNet, place: usize) -> u32 {
    match place {
        0 => net.stem,
        _ => net.stages[place - 1].first().map_or(0, |BlockWidths { b, .. }| *b),
    }
}

/// The weights of `to`, a net that [`with`] made of `from`, out of those of `from`.
#[must_use]
pub fn slim(from: &ConvNet, weights: &Weights, to: &ConvNet) -> Weights {
    let bundles = bundles(&from.family);
    let maps: Vec<Vec<usize>> = (0..bundles.len())
        .map(|place| {
            let writers = writers(from, to, &bundles, bundles[place]);
            strongest(weights, &writers, map_width(to, place))
        })
        .collect();
    let mut slimmed = Slimmer { weights, out: Weights::new() };
    slimmed.conv_bn("stem", &maps[0], None);
    for (stage, blocks) in to.stages.iter().enumerate() {
        let own = &maps[stage + 1];
        for (block, widths) in blocks.iter().enumerate() {
            let path = format!("stage{}.block{block}", stage + 1);
            let input = if block == 0 { &maps[stage] } else { own };
            let inner = strongest(weights, &[format!("{path}.a")], widths.a);
            slimmed.conv_bn(&format!("{path}.a"), &inner, Some(input));
            slimmed.conv_bn(&format!("{path}.b"), own, Some(&inner));
            // Widths that have become equal need no projection any more.
            if (block == 0 && to.family.stages[stage].stride == 2) || input.len() != own.len() {
                slimmed.conv_bn(&format!("{path}.shortcut"), own, Some(input));
            }
        }
    }
    slimmed.take("head.fc.weight", None, maps.last().map(Vec::as_slice));
    slimmed.take("head.fc.bias", None, None);
    slimmed.out
}

/// Paths of the convolutions that write into a bundle's maps and stay.
fn writers(from: &ConvNet, to: &ConvNet, bundles: &[usize], bundle: usize) -> Vec<String> {
    let mut paths = Vec::new();
    if bundles[0] == bundle {
        paths.push("stem".to_owned());
    }
    for stage in (0..from.stages.len()).filter(|stage| bundles[stage + 1] == bundle) {
        for block in 0..to.stages[stage].len() {
            let path = format!("stage{}.block{block}", stage + 1);
            paths.extend([format!("{path}.b"), format!("{path}.shortcut")]);
        }
    }
    paths
}

/// The `keep` channels with the largest squared norm, summed over these convolutions, ascending.
fn strongest(weights: &Weights, paths: &[String], keep: u32) -> Vec<usize> {
    let mut norms: Vec<f64> = Vec::new();
    for tensor in paths.iter().filter_map(|path| weights.get(&format!("{path}.conv.weight"))) {
        let filter = tensor.data.len() / (tensor.shape[0] as usize).max(1);
        norms.resize(tensor.shape[0] as usize, 0.0);
        for (norm, values) in norms.iter_mut().zip(tensor.data.chunks_exact(filter.max(1))) {
            *norm += values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
        }
    }
    let mut order: Vec<usize> = (0..norms.len()).collect();
    order.sort_by(|&a, &b| norms[b].total_cmp(&norms[a]));
    order.truncate(keep as usize);
    order.sort_unstable();
    order
}

struct Slimmer<'a> {
    weights: &'a Weights,
    out: Weights,
}

impl Slimmer<'_> {
    /// A convolution and its batch norm, whatever of them there is.
    fn conv_bn(&mut self, path: &str, rows: &[usize], columns: Option<&[usize]>) {
        self.take(&format!("{path}.conv.weight"), Some(rows), columns);
        for name in ["weight", "bias", "running_mean", "running_var"] {
            self.take(&format!("{path}.bn.{name}"), Some(rows), None);
        }
    }

    fn take(&mut self, name: &str, rows: Option<&[usize]>, columns: Option<&[usize]>) {
        if let Some(tensor) = self.weights.get(name) {
            self.out.insert(name.to_owned(), select(tensor, rows, columns));
        }
    }
}

/// The tensor at these places of its first and second dimension.
fn select(tensor: &Tensor, rows: Option<&[usize]>, columns: Option<&[usize]>) -> Tensor {
    let size = |dimension: usize| tensor.shape.get(dimension).map_or(1, |&size| size as usize);
    let all = |dimension: usize| (0..size(dimension)).collect::<Vec<usize>>();
    let rows = rows.map_or_else(|| all(0), <[usize]>::to_vec);
    let columns = columns.map_or_else(|| all(1), <[usize]>::to_vec);
    let rest: usize = tensor.shape.iter().skip(2).map(|&size| size as usize).product();
    let mut data = Vec::with_capacity(rows.len() * columns.len() * rest);
    for row in &rows {
        for column in &columns {
            let start = (row * size(1) + column) * rest;
            data.extend_from_slice(&tensor.data[start..start + rest]);
        }
    }
    let mut shape = tensor.shape.clone();
    for (size, kept) in shape.iter_mut().zip([rows.len(), columns.len()]) {
        *size = kept as u32;
    }
    Tensor { shape, data }
}

#[cfg(test)]
mod tests {
    use hanas_models::weights::{seeded, tensors};

    use super::super::super::choices::tests::tiny_family;
    use super::*;

    #[test]
    fn slimmed_weights_fit_the_slimmed_net() {
        let base = tiny_family(2).base();
        assert_eq!(bundles(&base.family), [0, 0, 1, 2]);
        assert_eq!(coordinates(&base).len(), 3 + 6 + 3);
        let weights = seeded(&base.net().unwrap(), 1);
        for at in coordinates(&base) {
            let slimmer = with(&base, at, value(&base, at) / 2);
            assert_eq!(value(&slimmer, at), value(&base, at) / 2, "{at:?}");
            let net = slimmer.net().unwrap();
            let got: Vec<(String, Vec<u32>)> =
                slim(&base, &weights, &slimmer).into_iter().map(|(name, of)| (name, of.shape)).collect();
            let mut want = tensors(&net);
            want.sort();
            assert_eq!(got, want, "{at:?}");
        }
        assert_eq!(slim(&base, &weights, &base), weights);
    }

    #[test]
    fn the_strongest_channels_stay_in_their_order() {
        let base = tiny_family(1).base();
        let mut weights = seeded(&base.net().unwrap(), 1);
        let conv = weights.get_mut("stage2.block0.a.conv.weight").unwrap();
        let filter = conv.data.len() / 8;
        for (channel, values) in conv.data.chunks_exact_mut(filter).enumerate() {
            values.fill(if [1, 6].contains(&channel) { 3.0 } else { 0.1 + channel as f32 * 0.01 });
        }
        let bias = weights.get_mut("stage2.block0.a.bn.bias").unwrap();
        bias.data = (0..8).map(|channel| channel as f32).collect();
        let slimmer = with(&base, Coordinate::Inner { stage: 1, block: 0 }, 3);
        let slimmed = slim(&base, &weights, &slimmer);
        assert_eq!(slimmed["stage2.block0.a.bn.bias"].data, [1.0, 6.0, 7.0]);
        assert_eq!(slimmed["stage2.block0.b.conv.weight"].shape, [8, 3, 3, 3]);
    }
}
