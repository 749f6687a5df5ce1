//! A task's images, as the user says where they lie and how many to take.

use std::path::PathBuf;

use clap::Args;

use crate::data::cifar::{cifar10, cifar100};
use crate::data::shapes::shapes10;
use crate::data::{Data, Normalisation};
use crate::task::{DataSet, Task};

/// Procedural images where no number is given.
const SHAPES: (usize, usize) = (4_000, 1_000);

/// Which images.
#[derive(Debug, Clone, Args)]
pub(super) struct ImageArgs {
    /// Folder of the data set's binary files [CIFAR-10: data_batch_1.bin ... test_batch.bin]
    #[arg(long, env = "HANAS_DATA", value_name = "FOLDER")]
    pub(super) data: Option<PathBuf>,
    /// Train on this many images, the same number of each class [default: all]
    #[arg(long, value_name = "N")]
    pub(super) images: Option<usize>,
    /// Seed of the choice of images
    #[arg(long, default_value_t = 0)]
    pub(super) data_seed: u64,
}

impl ImageArgs {
    /// Reads the task's images.
    pub(super) fn load(&self, task: &Task) -> anyhow::Result<(Data, Normalisation)> {
        let folder = || {
            self.data.clone().ok_or_else(|| {
                super::Usage(format!("{} needs its images: give their folder with --data", task.data.name()))
            })
        };
        let mut data = match task.data {
            DataSet::Cifar10 => cifar10(&folder()?)?,
            DataSet::Cifar100 => cifar100(&folder()?)?,
            DataSet::Shapes10 => {
                let (train, test) = SHAPES;
                shapes10(self.images.unwrap_or(train), test, task.family.input.height, self.data_seed)
            }
        };
        if let Some(images) = self.images {
            data.train = data.train.subset(images, self.data_seed)?;
        }
        let normalisation = match task.data {
            DataSet::Cifar10 => Normalisation::cifar10(),
            DataSet::Cifar100 => Normalisation::cifar100(),
            DataSet::Shapes10 => Normalisation::of(&data.train),
        };
        Ok((data, normalisation))
    }
}
