//! The token spaces of GraphNAS and HGNAS, and the graph nets that their sequences spell.

use hanas_models::gnn::{Activation, Aggregator, Attention, GnnLayer, GnnNet};
use serde::{Deserialize, Serialize};

use super::super::SearchError;
use super::tokens::{Category, TokenSpace, Tokens};

/// Heads of GraphNAS's space (ALGORITHM 2.1).
pub const HEADS: [u32; 6] = [1, 2, 4, 6, 8, 16];
/// Dims of GraphNAS's space (ALGORITHM 2.1).
pub const DIMS: [u32; 7] = [4, 8, 16, 32, 64, 128, 256];
/// Layers of a net.
pub const LAYERS: usize = 2;

/// How heads and dim of a layer are spelt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Sizes {
    /// Two tokens, heads and dim, on a fixed grid (GraphNAS). The last layer's dim is dead.
    Grid,
    /// One token a layer: pairs of heads and dim that the device does fast (HGNAS).
    Pairs {
        /// Pairs, one of each cell of the space.
        pairs: Vec<(u32, u32)>,
        /// Whether the last layer has a token of heads alone instead, for its pair's dim is dead
        /// (project mode).
        heads_only: bool,
    },
}

/// Two-layer graph nets over one graph's features and classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GnnSpace {
    /// Features of a node.
    pub features: u32,
    /// Classes.
    pub classes: u32,
    /// How sizes are spelt.
    pub sizes: Sizes,
}

/// Places of the categories.
const ATTENTION: usize = 0;
const AGGREGATOR: usize = 1;
const ACTIVATION: usize = 2;
/// Heads on the grid, pairs otherwise.
const SIZE: usize = 3;
/// Dims on the grid, the last layer's heads otherwise.
const SECOND: usize = 4;

impl GnnSpace {
    /// GraphNAS's space.
    #[must_use]
    pub const fn graphnas(features: u32, classes: u32) -> Self {
        Self { features, classes, sizes: Sizes::Grid }
    }

    /// HGNAS's space over these pairs of heads and dim.
    ///
    /// # Errors
    /// [`SearchError::Config`] where there is no pair, or one of no size.
    pub fn hgnas(
        features: u32,
        classes: u32,
        pairs: Vec<(u32, u32)>,
        heads_only: bool,
    ) -> Result<Self, SearchError> {
        if pairs.is_empty() || pairs.iter().any(|&(heads, dim)| heads == 0 || dim == 0) {
            let complaint = "the hardware-aware space has no pair of heads and dim, or an empty one; run `hanas graph space`";
            return Err(SearchError::Config(complaint.to_owned()));
        }
        Ok(Self { features, classes, sizes: Sizes::Pairs { pairs, heads_only } })
    }

    /// Its tokens.
    #[must_use]
    pub fn tokens(&self) -> TokenSpace {
        let kinds = [
            ("attention", Attention::ALL.len()),
            ("aggregator", Aggregator::ALL.len()),
            ("activation", Activation::ALL.len()),
        ];
        let sizes = match &self.sizes {
            Sizes::Grid => vec![("heads", HEADS.len()), ("dim", DIMS.len())],
            Sizes::Pairs { pairs, heads_only: false } => vec![("size", pairs.len())],
            Sizes::Pairs { pairs, heads_only: true } => vec![("size", pairs.len()), ("heads", HEADS.len())],
        };
        let category = |(name, size): (&str, usize)| Category { name: name.to_owned(), size };
        let sequence = (0..LAYERS).flat_map(|layer| self.layer(layer + 1 == LAYERS)).collect();
        TokenSpace { categories: kinds.into_iter().chain(sizes).map(category).collect(), sequence }
    }

    /// Categories of a layer's tokens.
    fn layer(&self, last: bool) -> Vec<usize> {
        let sizes: &[usize] = match &self.sizes {
            Sizes::Grid => &[SIZE, SECOND],
            Sizes::Pairs { heads_only: true, .. } if last => &[SECOND],
            Sizes::Pairs { .. } => &[SIZE],
        };
        [&[ATTENTION, AGGREGATOR, ACTIVATION], sizes].concat()
    }

    /// The net that a sequence spells, in canonical form; none where it spells none.
    #[must_use]
    pub fn net(&self, tokens: &[usize]) -> Option<GnnNet> {
        let mut rest = tokens.iter().copied();
        let mut layers = Vec::with_capacity(LAYERS);
        for layer in 0..LAYERS {
            let last = layer + 1 == LAYERS;
            let attention = *Attention::ALL.get(rest.next()?)?;
            let aggregator = *Aggregator::ALL.get(rest.next()?)?;
            let activation = *Activation::ALL.get(rest.next()?)?;
            let size = rest.next()?;
            let (heads, dim) = match &self.sizes {
                Sizes::Grid => (*HEADS.get(size)?, *DIMS.get(rest.next()?)?),
                Sizes::Pairs { heads_only: true, .. } if last => (*HEADS.get(size)?, self.classes),
                Sizes::Pairs { pairs, .. } => *pairs.get(size)?,
            };
            layers.push(GnnLayer { attention, aggregator, activation, heads, dim });
        }
        rest.next().is_none().then(|| GnnNet::new(self.features, self.classes, layers))
    }

    /// The sequence that spells a net, where one does; of the dead token the first value.
    #[must_use]
    pub fn spell(&self, net: &GnnNet) -> Option<Tokens> {
        let mut tokens = Tokens::new();
        for (place, layer) in net.layers.iter().enumerate() {
            let last = place + 1 == LAYERS;
            tokens.push(Attention::ALL.iter().position(|&of| of == layer.attention)?);
            tokens.push(Aggregator::ALL.iter().position(|&of| of == layer.aggregator)?);
            tokens.push(Activation::ALL.iter().position(|&of| of == layer.activation)?);
            let heads = || HEADS.iter().position(|&of| of == layer.heads);
            match &self.sizes {
                Sizes::Grid => {
                    tokens.push(heads()?);
                    let dim = DIMS.iter().position(|&of| of == layer.dim);
                    tokens.push(if last { 0 } else { dim? });
                }
                Sizes::Pairs { heads_only: true, .. } if last => tokens.push(heads()?),
                Sizes::Pairs { pairs, .. } => {
                    let fits = |&(h, d): &(u32, u32)| h == layer.heads && (last || d == layer.dim);
                    tokens.push(pairs.iter().position(fits)?);
                }
            }
        }
        (self.net(&tokens)? == *net).then_some(tokens)
    }
}

/// The name under which a net's scores and trials are kept: its layers in canonical form.
#[must_use]
pub fn key(net: &GnnNet) -> String {
    let layers: Vec<String> = net.layers.iter().map(ToString::to_string).collect();
    format!("{}>{}>{}", net.features, layers.join(">"), net.classes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::stream::{Purpose, stream};

    fn pairs() -> Vec<(u32, u32)> {
        vec![(1, 8), (2, 16), (4, 64), (4, 8)]
    }

    #[test]
    fn graphnas_has_ten_tokens_and_a_dead_one() {
        let space = GnnSpace::graphnas(1433, 7);
        let tokens = space.tokens();
        assert_eq!((tokens.len(), tokens.categories.len()), (10, 5));
        assert_eq!(tokens.sequences(), f64::powi(7.0 * 4.0 * 8.0 * 6.0 * 7.0, 2));
        let net = space.net(&[0, 0, 7, 4, 1, 0, 0, 3, 0, 2]).unwrap();
        assert_eq!(key(&net), "1433>gat/sum/elu/8x8>gat/sum/linear/1x7>7");
        assert_eq!(space.net(&[0, 0, 7, 4, 1, 0, 0, 3, 0, 5]).unwrap(), net);
        assert_eq!(space.net(&[0, 0, 7, 4, 1, 0, 0, 3, 0]), None);
        assert_eq!(space.net(&[7, 0, 7, 4, 1, 0, 0, 3, 0, 5]), None);
    }

    #[test]
    fn pairs_merge_heads_and_dim() {
        let paper = GnnSpace::hgnas(1433, 7, pairs(), false).unwrap();
        let project = GnnSpace::hgnas(1433, 7, pairs(), true).unwrap();
        let choices = |space: &GnnSpace| {
            let tokens = space.tokens();
            (0..tokens.len()).map(|place| tokens.choices(place)).collect::<Vec<_>>()
        };
        assert_eq!(choices(&paper), [7, 4, 8, 4, 7, 4, 8, 4]);
        assert_eq!(choices(&project), [7, 4, 8, 4, 7, 4, 8, 6]);
        // Two pairs of the same heads are one net in the last layer.
        let last = |pair| paper.net(&[0, 0, 0, 1, 0, 0, 0, pair]).unwrap();
        assert_eq!(last(2), last(3));
        assert_ne!(last(0), last(1));
        assert_eq!(project.net(&[0, 0, 0, 1, 0, 0, 0, 5]).unwrap().layers[1].heads, 16);
        assert!(matches!(GnnSpace::hgnas(1, 2, Vec::new(), true), Err(SearchError::Config(_))));
    }

    #[test]
    fn spelling_gives_the_net_back() {
        let spaces = [
            GnnSpace::graphnas(50, 3),
            GnnSpace::hgnas(50, 3, pairs(), false).unwrap(),
            GnnSpace::hgnas(50, 3, pairs(), true).unwrap(),
        ];
        let mut rng = stream(3, Purpose::Proposal, 0, 0);
        for space in &spaces {
            let tokens = space.tokens();
            for _ in 0..100 {
                let net = space.net(&tokens.random(&mut rng)).unwrap();
                net.check().unwrap();
                let spelt = space.spell(&net).unwrap();
                assert_eq!(space.net(&spelt).unwrap(), net);
            }
        }
    }
}
