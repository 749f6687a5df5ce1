//! A graph task: graph nets on one graph's nodes (ALGORITHM 2).

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
}

impl GraphSet {
    /// Every graph.
    pub const ALL: [Self; 4] = [Self::Cora, Self::Citeseer, Self::Pubmed, Self::Planted];

    /// Name in task names and files: `cora`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cora => "cora",
            Self::Citeseer => "citeseer",
            Self::Pubmed => "pubmed",
            Self::Planted => "planted",
        }
    }

    /// Features of a node.
    #[must_use]
    pub const fn features(self) -> u32 {
        match self {
            Self::Cora => 1_433,
            Self::Citeseer => 3_703,
            Self::Pubmed => 500,
            Self::Planted => 64,
        }
    }

    /// Classes to tell apart.
    #[must_use]
    pub const fn classes(self) -> u32 {
        match self {
            Self::Cora => 7,
            Self::Citeseer => 6,
            Self::Pubmed => 3,
            Self::Planted => 4,
        }
    }
}

/// A name that is no graph task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is no graph task; take cora-gnn, citeseer-gnn, pubmed-gnn or planted-gnn")]
pub struct UnknownGraphTask {
    name: String,
}

impl std::str::FromStr for GraphTask {
    type Err = UnknownGraphTask;

    fn from_str(name: &str) -> Result<Self, UnknownGraphTask> {
        let set =
            name.strip_suffix("-gnn").and_then(|set| GraphSet::ALL.into_iter().find(|of| of.name() == set));
        let data = set.ok_or_else(|| UnknownGraphTask { name: name.to_owned() })?;
        Ok(Self { name: name.to_owned(), data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_data_sets_and_gnn() {
        for set in GraphSet::ALL {
            let name = format!("{}-gnn", set.name());
            assert_eq!(name.parse::<GraphTask>().unwrap(), GraphTask { name, data: set });
        }
        for bad in ["cora", "gnn", "karate-gnn", "cora-gnn-2", "-gnn"] {
            assert!(bad.parse::<GraphTask>().unwrap_err().to_string().contains("planted-gnn"), "{bad}");
        }
    }
}
