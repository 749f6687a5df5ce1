//! A task: which family of nets, on which data.
//!
//! `DATA-resnetDEPTH` names the ones that hanas brings with it; [`own`] reads a user's own.

pub mod own;

use std::path::{Path, PathBuf};

pub mod graph;

use hanas_models::resnet::Family;
use serde::{Deserialize, Serialize};

use graph::{GraphTask, UnknownGraphTask};
use own::OwnData;

/// What a profile, a space and a search are for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Name as the user gives it: `cifar10-resnet20`.
    pub name: String,
    /// The net family.
    pub family: Family,
    /// The data set.
    pub data: DataSet,
}

/// Data sets of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataSet {
    /// CIFAR-10 in its binary format.
    Cifar10,
    /// CIFAR-100 in its binary format (fine labels).
    Cifar100,
    /// Ten classes of procedural 32x32 images, made from a seed; nothing to download.
    Shapes10,
    /// A user's own images.
    Own(OwnData),
}

/// Data sets that a task's name may begin with, and their classes.
const NAMED: [(&str, DataSet, u32); 3] = [
    ("cifar10", DataSet::Cifar10, 10),
    ("cifar100", DataSet::Cifar100, 100),
    ("shapes10", DataSet::Shapes10, 10),
];

/// What is no task.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A name that nothing has.
    #[error(
        "'{name}' is no task; take DATA-resnetDEPTH with DATA cifar10, cifar100 or shapes10 and DEPTH 20, 32, 56 or 110, such as cifar10-resnet20, or a file that ends in .toml"
    )]
    Unknown {
        /// The name.
        name: String,
    },
    /// A graph task where a convnet's is asked for.
    #[error(
        "'{name}' is a graph task, which has commands of its own: `hanas graph profile --task {name}`, `hanas graph space`, `hanas search hgnas`, `hanas latency eval --run`"
    )]
    Graph {
        /// The name.
        name: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is no TOML, or has keys or values that mean nothing.
    #[error("{path}, line {line}: {what}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// A file that describes no net.
    #[error("{path}: {what}", path = path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl std::str::FromStr for Task {
    type Err = TaskError;

    /// A task by its name, or by the path of its file.
    fn from_str(name: &str) -> Result<Self, TaskError> {
        if name.ends_with(".toml") {
            return Self::read(Path::new(name));
        }
        if is_graph_task(name) {
            return Err(TaskError::Graph { name: name.to_owned() });
        }
        let unknown = || TaskError::Unknown { name: name.to_owned() };
        let (data, net) = name.split_once('-').ok_or_else(unknown)?;
        let (_, data, classes) = NAMED.into_iter().find(|(set, ..)| *set == data).ok_or_else(unknown)?;
        let depth = net.strip_prefix("resnet").and_then(|depth| depth.parse().ok()).ok_or_else(unknown)?;
        let family = Family::cifar_resnet(depth, classes).map_err(|_| unknown())?;
        Ok(Self { name: name.to_owned(), family, data })
    }
}

/// A task of either kind, for commands that only read what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyTask {
    /// Convnets on images.
    Conv(Box<Task>),
    /// Graph nets on a graph.
    Graph(GraphTask),
}

impl AnyTask {
    /// Name as the user gives it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Conv(task) => &task.name,
            Self::Graph(task) => &task.name,
        }
    }
}

/// What is no task of either kind.
#[derive(Debug, thiserror::Error)]
pub enum AnyTaskError {
    /// No convnet's task.
    #[error(transparent)]
    Conv(#[from] TaskError),
    /// No graph task.
    #[error(transparent)]
    Graph(#[from] UnknownGraphTask),
}

impl std::str::FromStr for AnyTask {
    type Err = AnyTaskError;

    fn from_str(name: &str) -> Result<Self, AnyTaskError> {
        Ok(if is_graph_task(name) { Self::Graph(name.parse()?) } else { Self::Conv(Box::new(name.parse()?)) })
    }
}

/// Whether a name is meant for a graph task.
#[must_use]
pub fn is_graph_task(name: &str) -> bool {
    name.ends_with("-gnn")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_both_kinds_are_told_apart() {
        let conv: AnyTask = "cifar10-resnet20".parse().unwrap();
        let graph: AnyTask = "cora-gnn".parse().unwrap();
        assert!(matches!(conv, AnyTask::Conv(_)) && matches!(graph, AnyTask::Graph(_)));
        assert_eq!((conv.name(), graph.name()), ("cifar10-resnet20", "cora-gnn"));
        assert!(matches!("karate-gnn".parse(), Ok(AnyTask::Graph(_))));
        assert!("a/b-gnn".parse::<AnyTask>().unwrap_err().to_string().contains("planted-gnn"));
        let refused = "cora-gnn".parse::<Task>().unwrap_err().to_string();
        assert!(refused.contains("hanas graph profile --task cora-gnn"), "{refused}");
    }
}
