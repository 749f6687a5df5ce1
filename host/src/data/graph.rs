//! A graph with features, labels and a split: checked once, here, whatever it was read from.

use std::path::Path;

use hanas_models::gnn::graph::{Graph, GraphError, SparseRows};

use super::DataError;
use crate::task::graph::{GraphSet, GraphSizes};

/// Seed of the procedural graph: as fixed as a file.
const PLANTED_SEED: u64 = 1;

/// A node classification problem on one graph.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphData {
    /// The graph.
    pub graph: Graph,
    /// One row a node, each divided by its sum where no feature is negative.
    pub features: SparseRows,
    /// Number of classes.
    pub classes: u32,
    /// The nodes' classes; none where not known.
    pub labels: Vec<Option<u32>>,
    /// Who trains, chooses and tests.
    pub split: Split,
}

/// Nodes of a split, by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// Nodes whose labels train.
    pub train: Vec<u32>,
    /// Nodes whose labels choose among epochs and nets.
    pub val: Vec<u32>,
    /// Nodes whose labels are looked at once, at the end.
    pub test: Vec<u32>,
}

impl Split {
    /// The three lists with their names.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, &[u32]); 3] {
        [("train", &self.train), ("val", &self.val), ("test", &self.test)]
    }
}

/// Parts that make no node classification problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphDataError {
    /// Edges or features that do not fit.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// As many of one thing as of another there should be.
    #[error("there are {given} {what} for {nodes} nodes")]
    Count {
        /// The thing.
        what: &'static str,
        /// How many there are.
        given: usize,
        /// Number of nodes.
        nodes: u32,
    },
    /// A label beyond the classes.
    #[error("node {node} has class {class}, and the classes are 0 to {last}")]
    Class {
        /// The node.
        node: usize,
        /// Its class.
        class: u32,
        /// The last class.
        last: u32,
    },
    /// A class that no node has.
    #[error("no node has class {class} of {classes}; state fewer classes or give its nodes")]
    NoNode {
        /// The class.
        class: u32,
        /// Classes stated.
        classes: u32,
    },
    /// A part of the split without nodes.
    #[error("the {part} part of the split is empty")]
    Empty {
        /// The part.
        part: &'static str,
    },
    /// A part of the split names a node that there is not.
    #[error("the {part} part of the split names node {node}, and the nodes are 0 to {last}")]
    NoSuchNode {
        /// The part.
        part: &'static str,
        /// The node.
        node: u32,
        /// The last node.
        last: u32,
    },
    /// A node of the split has no label.
    #[error("node {node} of the {part} part of the split has no label")]
    Unlabelled {
        /// The part.
        part: &'static str,
        /// The node.
        node: u32,
    },
    /// A node stands in the split twice: what is tested must not have trained.
    #[error("node {node} of the {part} part of the split is in the split already")]
    Twice {
        /// The part.
        part: &'static str,
        /// The node.
        node: u32,
    },
}

impl GraphData {
    /// Checks the parts; rows of features are divided by their sums, unless some are negative.
    ///
    /// # Errors
    /// [`GraphDataError`], naming what does not fit.
    pub fn new(
        edges: &[[u32; 2]],
        features: SparseRows,
        classes: u32,
        labels: Vec<Option<u32>>,
        split: Split,
    ) -> Result<Self, GraphDataError> {
        let nodes = features.rows() as u32;
        let graph = Graph::new(nodes, edges)?;
        if labels.len() != nodes as usize {
            return Err(GraphDataError::Count { what: "labels", given: labels.len(), nodes });
        }
        check_labels(&labels, classes)?;
        check_split(&split, &labels)?;
        // Embeddings have no sum to divide by.
        let signed = features.values().iter().any(|&value| value < 0.0);
        let features = if signed { features } else { features.row_normalised() };
        Ok(Self { graph, features, classes, labels, split })
    }

    /// Number of nodes.
    #[must_use]
    pub const fn nodes(&self) -> u32 {
        self.graph.nodes()
    }

    /// Its sizes.
    #[must_use]
    pub fn sizes(&self) -> GraphSizes {
        GraphSizes {
            nodes: self.nodes(),
            edges: self.graph.edges().len(),
            features: self.features.width(),
            classes: self.classes,
            split: self.split.parts().map(|(_, part)| part.len()),
        }
    }

    /// Classes of nodes that all have one, as a split's do.
    #[must_use]
    pub fn classes_of(&self, nodes: &[u32]) -> Vec<u32> {
        nodes.iter().filter_map(|&node| self.labels[node as usize]).collect()
    }

    /// Share of nodes whose highest score, of a row a node, is their class.
    #[must_use]
    pub fn accuracy(&self, scores: &[f32], nodes: &[u32]) -> f64 {
        let width = self.classes as usize;
        let right = nodes.iter().filter(|&&node| {
            let row = &scores[node as usize * width..(node as usize + 1) * width];
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
            best.map(|(class, _)| class as u32) == self.labels[node as usize]
        });
        right.count() as f64 / nodes.len().max(1) as f64
    }
}

fn check_labels(labels: &[Option<u32>], classes: u32) -> Result<(), GraphDataError> {
    let mut seen = vec![false; classes.min(labels.len() as u32) as usize];
    for (node, class) in labels.iter().enumerate().filter_map(|(node, class)| Some((node, (*class)?))) {
        if class >= classes {
            return Err(GraphDataError::Class { node, class, last: classes.saturating_sub(1) });
        }
        if let Some(seen) = seen.get_mut(class as usize) {
            *seen = true;
        }
    }
    // More classes than nodes: the first beyond has none.
    let missing = seen.iter().position(|seen| !seen).map(|class| class as u32);
    match missing.or_else(|| (classes as usize > seen.len()).then_some(seen.len() as u32)) {
        Some(class) => Err(GraphDataError::NoNode { class, classes }),
        None => Ok(()),
    }
}

fn check_split(split: &Split, labels: &[Option<u32>]) -> Result<(), GraphDataError> {
    let mut taken = vec![false; labels.len()];
    for (part, list) in split.parts() {
        if list.is_empty() {
            return Err(GraphDataError::Empty { part });
        }
        for &node in list {
            let Some(taken) = taken.get_mut(node as usize) else {
                return Err(GraphDataError::NoSuchNode { part, node, last: labels.len() as u32 - 1 });
            };
            if labels[node as usize].is_none() {
                return Err(GraphDataError::Unlabelled { part, node });
            }
            if std::mem::replace(taken, true) {
                return Err(GraphDataError::Twice { part, node });
            }
        }
    }
    Ok(())
}

/// A task's graph: a published one from `NAME.npz` or the Planetoid files `ind.NAME.*` in the folder (or in
/// its folders `planetoid-npz` and `planetoid`), a user's own from `NAME.npz` in the folder; the procedural one
/// needs no folder.
///
/// # Errors
/// [`DataError`] where it is not there, or what is there is no such graph.
pub fn load(set: &GraphSet, folder: &Path) -> Result<GraphData, DataError> {
    match set {
        GraphSet::Planted => {
            let made = super::planted::graph(PLANTED_SEED);
            made.map_err(|source| DataError::Graph { path: set.name().into(), source })
        }
        GraphSet::Own(name) => {
            let path = folder.join(format!("{name}.npz"));
            if path.is_file() {
                super::npz::read(&path)
            } else {
                Err(DataError::NoOwnGraph { folder: folder.to_owned(), name: name.clone() })
            }
        }
        GraphSet::Cora | GraphSet::Citeseer | GraphSet::Pubmed => published(set, folder),
    }
}

/// A published graph, which must have the sizes that it is known by: samples and results go by its name.
fn published(set: &GraphSet, folder: &Path) -> Result<GraphData, DataError> {
    let name = set.name();
    let file = format!("{name}.npz");
    let archives = [folder.join(&file), folder.join("planetoid-npz").join(&file)];
    let first = |folder: &Path| folder.join(format!("ind.{name}.x"));
    let originals = [folder.to_owned(), folder.join("planetoid")];
    let (path, data) = if let Some(path) = archives.iter().find(|path| path.is_file()) {
        (path.clone(), super::npz::read(path)?)
    } else if let Some(folder) = originals.iter().find(|folder| first(folder).is_file()) {
        (first(folder), super::planetoid::read(folder, name)?)
    } else {
        return Err(DataError::NoGraph { folder: folder.to_owned(), name: name.to_owned() });
    };
    let holds = data.sizes();
    match set.sizes() {
        Some(wants) if wants != holds => {
            let (holds, wants) = (Box::new(holds), Box::new(wants));
            Err(DataError::OtherGraph { path, name: name.to_owned(), holds, wants })
        }
        _ => Ok(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Parts {
        edges: Vec<[u32; 2]>,
        classes: u32,
        labels: Vec<Option<u32>>,
        split: Split,
    }

    /// Five nodes, the last without neighbours, the one before without label.
    fn parts() -> Parts {
        Parts {
            edges: vec![[0, 1], [1, 2], [2, 3]],
            classes: 2,
            labels: vec![Some(0), Some(1), Some(0), None, Some(1)],
            split: Split { train: vec![0, 1], val: vec![2], test: vec![4] },
        }
    }

    fn made(change: impl FnOnce(&mut Parts)) -> Result<GraphData, GraphDataError> {
        let mut parts = parts();
        change(&mut parts);
        let features = SparseRows::new(3, vec![0, 1, 2, 3, 3, 5], vec![0, 1, 2, 0, 1], vec![2.0; 5]).unwrap();
        GraphData::new(&parts.edges, features, parts.classes, parts.labels, parts.split)
    }

    #[test]
    fn an_isolated_node_and_one_without_features_are_fine() {
        let data = made(|_| {}).unwrap();
        assert_eq!(data.graph.sources()[4], [4]);
        assert_eq!(data.features.row(4).map(|(_, value)| value).collect::<Vec<_>>(), [0.5, 0.5]);
        assert_eq!(data.classes_of(&data.split.train), [0, 1]);
    }

    #[test]
    fn embeddings_are_taken_as_they_are() {
        let Parts { edges, classes, labels, split } = parts();
        let features =
            SparseRows::new(1, (0..=5).collect(), vec![0; 5], vec![3.0, -1.0, 2.0, 4.0, 5.0]).unwrap();
        let data = GraphData::new(&edges, features, classes, labels, split).unwrap();
        assert_eq!(data.features.values(), [3.0, -1.0, 2.0, 4.0, 5.0]);
    }

    #[test]
    fn what_does_not_fit_is_told_in_a_line() {
        let error = |change: fn(&mut Parts)| made(change).unwrap_err().to_string();
        assert_eq!(error(|p| p.edges.push([1, 9])), "edge 3 joins nodes 1 and 9, and the nodes are 0 to 4");
        assert_eq!(error(|p| p.labels.truncate(4)), "there are 4 labels for 5 nodes");
        assert_eq!(error(|p| p.labels[1] = None), "node 1 of the train part of the split has no label");
        assert_eq!(error(|p| p.labels[1] = Some(2)), "node 1 has class 2, and the classes are 0 to 1");
        assert!(error(|p| p.classes = 3).starts_with("no node has class 2 of 3"));
        assert!(error(|p| p.classes = 1_000_000).starts_with("no node has class 2 of"));
        assert_eq!(error(|p| p.split.val.clear()), "the val part of the split is empty");
        assert!(error(|p| p.split.test.push(5)).contains("names node 5"));
        assert!(error(|p| p.split.test.push(0)).contains("node 0 of the test part of the split is in"));
    }

    #[test]
    fn a_graph_of_ones_own_is_found_by_its_name_and_is_no_published_one() {
        let folder = tempfile::tempdir().unwrap();
        let own = GraphSet::Own("small".to_owned());
        let missing = load(&own, folder.path()).unwrap_err().to_string();
        for part in ["holds no small.npz", "--data", "graph-nets.md", "citeseer-gnn"] {
            assert!(missing.contains(part) && missing.contains(folder.path().to_str().unwrap()), "{missing}");
        }
        for name in ["small", "cora"] {
            crate::data::npz::tests::write_small(&folder.path().join(format!("{name}.npz")));
        }
        let data = load(&own, folder.path()).unwrap();
        assert_eq!((data.nodes(), data.features.width(), data.classes), (4, 2, 2));
        let wrong = load(&GraphSet::Cora, folder.path()).unwrap_err().to_string();
        let said = [
            "cora.npz holds 4 nodes, ",
            " edges, 2 features, 2 classes and ",
            "; cora has 2708 nodes, 5278 edges, 1433 features, 7 classes and a split of 140, 500 and 1000 nodes",
        ];
        assert!(said.iter().all(|part| wrong.contains(part)) && wrong.contains("--task mine-gnn"), "{wrong}");
        let missing = load(&GraphSet::Pubmed, folder.path()).unwrap_err().to_string();
        assert!(missing.contains("neither pubmed.npz nor ind.pubmed.x"), "{missing}");
    }

    #[test]
    fn accuracy_counts_the_highest_score() {
        let data = made(|_| {}).unwrap();
        let scores = [0.9, 0.1, 0.9, 0.1, 0.9, 0.1, 0.0, 0.0, 0.1, 0.9];
        assert_eq!(data.accuracy(&scores, &[0, 1, 2, 4]), 0.75);
    }
}
