//! A task: which family of nets, on which data.

pub mod graph;

use hanas_models::resnet::Family;
use serde::{Deserialize, Serialize};

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

/// Data sets a task can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataSet {
    /// CIFAR-10 in its binary format.
    Cifar10,
    /// CIFAR-100 in its binary format (fine labels).
    Cifar100,
    /// Ten classes of procedural 32x32 images, made from a seed; nothing to download.
    Shapes10,
}

impl DataSet {
    /// Classes of the data set.
    #[must_use]
    pub const fn classes(self) -> u32 {
        match self {
            Self::Cifar10 | Self::Shapes10 => 10,
            Self::Cifar100 => 100,
        }
    }

    /// Name in task names and folders: `cifar10`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Shapes10 => "shapes10",
        }
    }
}

/// A name that is no task.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{name}' is no task; take DATA-resnetDEPTH with DATA cifar10, cifar100 or shapes10 and DEPTH 20, 32, 56 or 110, such as cifar10-resnet20"
)]
pub struct UnknownTask {
    name: String,
}

impl std::str::FromStr for Task {
    type Err = UnknownTask;

    fn from_str(name: &str) -> Result<Self, UnknownTask> {
        let unknown = || UnknownTask { name: name.to_owned() };
        let (data, net) = name.split_once('-').ok_or_else(unknown)?;
        let data = [DataSet::Cifar10, DataSet::Cifar100, DataSet::Shapes10]
            .into_iter()
            .find(|set| set.name() == data)
            .ok_or_else(unknown)?;
        let depth = net.strip_prefix("resnet").and_then(|depth| depth.parse().ok()).ok_or_else(unknown)?;
        let family = Family::cifar_resnet(depth, data.classes()).map_err(|_| unknown())?;
        Ok(Self { name: name.to_owned(), family, data })
    }
}
