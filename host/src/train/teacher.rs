//! The teacher: the base net trained by labels alone, once per task, data size, settings and seed, and
//! kept on disk for every run that wants it.

use std::path::Path;

use hanas_models::spec::Net;

use super::TrainError;
use super::config::TrainConfig;
use super::distil::{Files, Request, train};
use super::frozen::Frozen;
use crate::data::{Data, Normalisation};
use crate::search::checkpoint::{load_weights, save_weights};
use crate::search::progress::Monitor;
use crate::search::run::RunError;

/// The trained base net from `folder`, or trained now and put there.
///
/// # Errors
/// As [`train`]; a training that was stopped goes on at the next call.
pub fn teacher(
    task: &str,
    net: &Net,
    config: &TrainConfig,
    data: &Data,
    normalisation: &Normalisation,
    folder: &Path,
    monitor: &mut Monitor<'_>,
) -> Result<Frozen, TrainError> {
    let name = file_name(task, config, data);
    let path = folder.join(format!("{name}.safetensors"));
    if path.exists() {
        return Frozen::new(net, &load_weights(&path)?);
    }
    std::fs::create_dir_all(folder).map_err(|source| RunError::Write { path: folder.to_owned(), source })?;
    let files = Files {
        checkpoint: folder.join(format!("{name}.checkpoint.safetensors")),
        log: folder.join(format!("{name}.jsonl")),
    };
    let request = Request { config, net, data, normalisation, teacher: None };
    let trained = train(&request, Some(&files), monitor)?;
    save_weights(&path, &trained.weights)?;
    // A checkpoint of a training that is done only takes room.
    std::fs::remove_file(&files.checkpoint).ok();
    Frozen::new(net, &trained.weights)
}

/// Whatever changes the teacher is in the name: `cifar10-resnet20-n10000-e20-b128-s1-<digest>`.
fn file_name(task: &str, config: &TrainConfig, data: &Data) -> String {
    let (images, epochs) = (data.train.len(), config.total_epochs());
    let settings = format!("{config:?}");
    let digest = blake3::hash(settings.as_bytes()).to_hex();
    format!("{task}-n{images}-e{epochs}-b{}-s{}-{}", config.batch, config.seed, &digest[..8])
}
