//! A procedural graph with planted classes, made from a seed: something to learn where nothing may be
//! downloaded. Not a benchmark; a report that uses it says so.
//!
//! Nodes of one class are joined more often than nodes of two (Holland et al. 1983), and each class
//! prefers some words. Neither tells the class alone: a net that reads neighbours does better than one
//! that does not. A few nodes are left without neighbours, as in Citeseer.

use hanas_models::gnn::graph::{GraphError, SparseRows};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::graph::{GraphData, GraphDataError, Split};
use super::stream::{Purpose, stream};
use crate::task::graph::GraphSizes;

/// Sizes and odds of a procedural graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Planted {
    /// Nodes.
    pub nodes: u32,
    /// Features of a node.
    pub features: u32,
    /// Classes, equally many nodes each.
    pub classes: u32,
    /// Undirected edges drawn.
    pub edges: u32,
    /// Share of edges that stay within a class.
    pub within: f64,
    /// Words of a node.
    pub words: u32,
    /// Share of words from those that the node's class prefers.
    pub preferred: f64,
    /// Training nodes of a class.
    pub train_per_class: u32,
    /// Validation nodes.
    pub val: u32,
    /// Test nodes.
    pub test: u32,
}

impl Planted {
    /// The graph of the task `planted-gnn`.
    pub const TASK: Self = Self {
        nodes: 300,
        features: 64,
        classes: 4,
        edges: 700,
        within: 0.8,
        words: 6,
        preferred: 0.4,
        train_per_class: 10,
        val: 100,
        test: 160,
    };

    /// A graph of Cora's sizes, to time things with where Cora is not at hand.
    pub const CORA_SIZED: Self = Self {
        nodes: 2_708,
        features: GraphSizes::CORA.features,
        classes: GraphSizes::CORA.classes,
        edges: 5_278,
        within: 0.8,
        words: 18,
        preferred: 0.4,
        train_per_class: 20,
        val: 500,
        test: 1_000,
    };
}

/// The graph of the task `planted-gnn`.
///
/// # Errors
/// None in fact: its parts fit by construction.
pub fn graph(seed: u64) -> Result<GraphData, GraphDataError> {
    planted(&Planted::TASK, seed)
}

/// A procedural graph; the same seed gives the same graph.
///
/// # Errors
/// [`GraphDataError`] where the sizes do not fit each other.
pub fn planted(sizes: &Planted, seed: u64) -> Result<GraphData, GraphDataError> {
    if sizes.nodes == 0 || sizes.classes == 0 || sizes.features == 0 {
        return Err(GraphError::Empty.into());
    }
    let mut rng = stream(seed, Purpose::PlantedGraph, 0, 0);
    let labels: Vec<u32> = (0..sizes.nodes).map(|node| node % sizes.classes).collect();
    let edges = edges(sizes, &mut rng);
    let (mut starts, mut columns) = (vec![0], Vec::new());
    for &class in &labels {
        columns.extend(words(sizes, class, &mut rng));
        starts.push(columns.len() as u32);
    }
    let values = vec![1.0; columns.len()];
    let features = SparseRows::new(sizes.features, starts, columns, values)?;
    let split = split(sizes, &labels, &mut rng);
    GraphData::new(&edges, features, sizes.classes, labels.into_iter().map(Some).collect(), split)
}

/// Edges with a few well-joined nodes, as citations have them: an end is drawn by the square of a uniform
/// number. The last hundredth of the nodes is left alone.
fn edges(sizes: &Planted, rng: &mut impl Rng) -> Vec<[u32; 2]> {
    let joined = (sizes.nodes - sizes.nodes / 100).max(1);
    let draw = |rng: &mut dyn Rng| {
        let uniform: f64 = rng.random();
        ((uniform * uniform * f64::from(joined)) as u32).min(joined - 1)
    };
    (0..sizes.edges)
        .map(|_| {
            let (u, other) = (rng.random_range(0..joined), draw(rng));
            // The same place in the sequence of classes: moved to u's class, or to any other.
            let shift = if rng.random_bool(sizes.within) { 0 } else { rng.random_range(0..sizes.classes) };
            let v = other - other % sizes.classes + (u + shift) % sizes.classes;
            [u, v.min(joined - 1)]
        })
        .collect()
}

/// Distinct words of a node, ascending.
fn words(sizes: &Planted, class: u32, rng: &mut impl Rng) -> Vec<u32> {
    let own = (sizes.features / sizes.classes).max(1);
    let mut words: Vec<u32> = (0..sizes.words)
        .map(|_| {
            if rng.random_bool(sizes.preferred) {
                (class * own + rng.random_range(0..own)).min(sizes.features - 1)
            } else {
                rng.random_range(0..sizes.features)
            }
        })
        .collect();
    words.sort_unstable();
    words.dedup();
    words
}

fn split(sizes: &Planted, labels: &[u32], rng: &mut impl Rng) -> Split {
    let mut nodes: Vec<u32> = (0..sizes.nodes).collect();
    nodes.shuffle(rng);
    let mut left = vec![sizes.train_per_class; sizes.classes as usize];
    let mut train_or_rest = |&node: &u32| {
        let left = &mut left[labels[node as usize] as usize];
        let trains = *left > 0;
        *left = left.saturating_sub(1);
        trains
    };
    let (mut train, rest): (Vec<u32>, Vec<u32>) = nodes.into_iter().partition(|node| train_or_rest(node));
    let (val, rest) = rest.split_at((sizes.val as usize).min(rest.len()));
    let (mut val, mut test) = (val.to_vec(), rest[..(sizes.test as usize).min(rest.len())].to_vec());
    for part in [&mut train, &mut val, &mut test] {
        part.sort_unstable();
    }
    Split { train, val, test }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_graph() {
        assert_eq!(graph(7).unwrap(), graph(7).unwrap());
        assert_ne!(graph(7).unwrap(), graph(8).unwrap());
        let cora = planted(&Planted::CORA_SIZED, 1).unwrap();
        assert_eq!((cora.nodes(), cora.features.width(), cora.classes), (2_708, 1_433, 7));
        assert_eq!((cora.split.train.len(), cora.split.val.len(), cora.split.test.len()), (140, 500, 1_000));
    }

    #[test]
    fn classes_are_planted_and_some_nodes_are_alone() {
        let data = graph(1).unwrap();
        let same = data.graph.edges().iter().filter(|[u, v]| u % 4 == v % 4).count() as f64;
        // 0.8 within plus a quarter of the others that land there by chance.
        assert!((same / data.graph.edges().len() as f64 - 0.85).abs() < 0.06);
        assert!(data.graph.sources().iter().any(|list| list.len() == 1));
        assert!(data.graph.sources().iter().any(|list| list.len() > 12));
    }
}
