//! A graph task: graph nets on one graph's nodes (ALGORITHM 2).

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a profile, a space and a search over graph nets are for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphTask {
    /// Name as the user gives it: `cora-gnn`.
    pub name: String,
    /// The graph.
    pub data: GraphSet,
}

/// Graphs that a task can name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraphSet {
    /// Cora in the public Planetoid split.
    Cora,
    /// Citeseer in the public Planetoid split.
    Citeseer,
    /// Pubmed in the public Planetoid split.
    Pubmed,
    /// A procedural graph with planted classes, made from a seed; nothing to download.
    Planted,
    /// A user's own, by the name of its file without `.npz`.
    Own(String),
}

/// Tasks of the graphs that hanas knows, for people.
pub const NAMED_TASKS: &str = "cora-gnn, citeseer-gnn, pubmed-gnn or planted-gnn";

/// Longest name of a user's own graph.
const LONGEST_NAME: usize = 64;

/// What a published graph is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphSizes {
    /// Nodes.
    pub nodes: u32,
    /// Edges, each once, without loops.
    pub edges: usize,
    /// Features of a node.
    pub features: u32,
    /// Classes.
    pub classes: u32,
    /// Nodes that train, choose and test.
    pub split: [usize; 3],
}

impl GraphSizes {
    /// Of [`GraphSet::Cora`].
    pub const CORA: Self =
        Self { nodes: 2_708, edges: 5_278, features: 1_433, classes: 7, split: [140, 500, 1_000] };
    /// Of [`GraphSet::Citeseer`].
    pub const CITESEER: Self =
        Self { nodes: 3_327, edges: 4_552, features: 3_703, classes: 6, split: [120, 500, 1_000] };
    /// Of [`GraphSet::Pubmed`].
    pub const PUBMED: Self =
        Self { nodes: 19_717, edges: 44_324, features: 500, classes: 3, split: [60, 500, 1_000] };
}

impl fmt::Display for GraphSizes {
    /// `2708 nodes, 5278 edges, 1433 features, 7 classes and a split of 140, 500 and 1000 nodes`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nodes, edges, features, classes, split: [train, val, test] } = self;
        write!(f, "{nodes} nodes, {edges} edges, {features} features, {classes} classes ")?;
        write!(f, "and a split of {train}, {val} and {test} nodes")
    }
}

impl GraphSet {
    /// Every graph that hanas knows.
    pub const NAMED: [Self; 4] = [Self::Cora, Self::Citeseer, Self::Pubmed, Self::Planted];

    /// Name in task names and files: `cora`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Cora => "cora",
            Self::Citeseer => "citeseer",
            Self::Pubmed => "pubmed",
            Self::Planted => "planted",
            Self::Own(name) => name,
        }
    }

    /// Its sizes; none of a user's own, whose file says them, and of the procedural one, which is made and not read.
    #[must_use]
    pub const fn sizes(&self) -> Option<GraphSizes> {
        match self {
            Self::Cora => Some(GraphSizes::CORA),
            Self::Citeseer => Some(GraphSizes::CITESEER),
            Self::Pubmed => Some(GraphSizes::PUBMED),
            Self::Planted | Self::Own(_) => None,
        }
    }
}

/// A name that is no graph task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{name}' is no graph task; take {NAMED_TASKS}, or NAME-gnn for your own NAME.npz, NAME being at most {LONGEST_NAME} letters, digits, _ and -"
)]
pub struct UnknownGraphTask {
    name: String,
}

impl std::str::FromStr for GraphTask {
    type Err = UnknownGraphTask;

    fn from_str(name: &str) -> Result<Self, UnknownGraphTask> {
        let graph = name.strip_suffix("-gnn").filter(|graph| is_graph_name(graph));
        let graph = graph.ok_or_else(|| UnknownGraphTask { name: name.to_owned() })?;
        let named = GraphSet::NAMED.into_iter().find(|of| of.name() == graph);
        let data = named.unwrap_or_else(|| GraphSet::Own(graph.to_owned()));
        Ok(Self { name: name.to_owned(), data })
    }
}

/// Whether it can name a graph: part of a file's name and nothing else.
fn is_graph_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_data_sets_and_gnn() {
        for set in GraphSet::NAMED {
            let name = format!("{}-gnn", set.name());
            assert_eq!(name.parse::<GraphTask>().unwrap(), GraphTask { name, data: set });
        }
        let long = "x".repeat(LONGEST_NAME);
        for own in ["karate", "Cora", "cora-2", "my_graph", long.as_str()] {
            let name = format!("{own}-gnn");
            let task: GraphTask = name.parse().unwrap();
            assert_eq!((task.name, task.data.name()), (name, own));
            assert_eq!(task.data, GraphSet::Own(own.to_owned()));
        }
        let longer = format!("{long}x-gnn");
        let bad = ["cora", "gnn", "-gnn", "cora-gnn-2", "../cora-gnn", "a.b-gnn", "a b-gnn", longer.as_str()];
        for bad in bad {
            assert!(bad.parse::<GraphTask>().unwrap_err().to_string().contains("planted-gnn"), "{bad}");
        }
    }

    #[test]
    fn known_graphs_are_kept_by_their_names() {
        for set in GraphSet::NAMED {
            let kept = serde_json::to_string(&set).unwrap();
            assert_eq!(kept, format!("\"{}\"", set.name()));
            assert_eq!(serde_json::from_str::<GraphSet>(&kept).unwrap(), set);
        }
        let own = GraphSet::Own("mine".to_owned());
        let kept = serde_json::to_string(&own).unwrap();
        assert_eq!(serde_json::from_str::<GraphSet>(&kept).unwrap(), own);
    }
}
