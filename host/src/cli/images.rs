//! A task's images, as the user says where they lie and how many to take.

use std::path::PathBuf;

use clap::Args;

use crate::data::cifar::{cifar10, cifar100};
use crate::data::shapes::shapes10;
use crate::data::{Data, Normalisation, own};
use crate::task::own::OwnData;
use crate::task::{DataSet, Task};

/// Procedural images where no number is given.
const SHAPES: (usize, usize) = (4_000, 1_000);

/// Which images.
#[derive(Debug, Clone, Args)]
pub(super) struct ImageArgs {
    /// Folder of the data set's files [CIFAR-10: data_batch_1.bin ... test_batch.bin; a task of your own:
    /// the path in its file]
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
        if self.images == Some(0) {
            return Err(
                super::Usage("--images 0 leaves no image to train on; give 1 or more".to_owned()).into()
            );
        }
        let folder = |set: &str| {
            self.data
                .clone()
                .ok_or_else(|| super::Usage(format!("{set} needs its images: give their folder with --data")))
        };
        let mut data = match &task.data {
            DataSet::Cifar10 => cifar10(&folder("cifar10")?)?,
            DataSet::Cifar100 => cifar100(&folder("cifar100")?)?,
            DataSet::Shapes10 => {
                let (train, test) = SHAPES;
                shapes10(self.images.unwrap_or(train), test, task.family.input.height, self.data_seed)
            }
            DataSet::Own(own) => {
                let path = self.data.clone().unwrap_or_else(|| own.path.clone());
                own::read(&OwnData { path, ..own.clone() }, &task.family)?
            }
        };
        let normalisation = match task.data {
            DataSet::Cifar10 => Normalisation::cifar10(),
            DataSet::Cifar100 => Normalisation::cifar100(),
            // Of all images, however many are trained on. Procedural ones are as many as asked for, so that
            // `verify` takes what training kept.
            DataSet::Shapes10 | DataSet::Own(_) => Normalisation::of(&data.train),
        };
        if let Some(images) = self.images {
            data.train = data.train.subset(images, self.data_seed)?;
        }
        Ok((data, normalisation))
    }
}
