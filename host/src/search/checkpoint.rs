//! One safetensors file with everything that a search or a training needs to go on: named groups of
//! tensors and a JSON note of where it stands. Trained weights are stored the same way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hanas_models::weights::{Tensor as Values, Weights};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Kind, TchError, Tensor};
use tempfile::NamedTempFile;

use super::run::RunError;
use crate::data::{ImageSet, Normalisation};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Name of the note among the tensors.
const NOTE: &str = "note";

/// A checkpoint that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read, or holds no tensors.
    #[error("cannot read {path}: {source}; delete it to start again", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TchError,
    },
    /// The file cannot be written.
    #[error("cannot write {path}: {source}; the old checkpoint, if any, is whole", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TchError,
    },
    /// The note is not what was expected.
    #[error("{path} belongs to another search or version: {source}; delete it to start again", path = path.display())]
    Note {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A tensor is missing.
    #[error("the checkpoint lacks {0}; delete it to start again")]
    Missing(String),
    /// A tensor has another shape than its variable.
    #[error("the checkpoint's {0} has another shape; delete it to start again")]
    Shape(String),
    /// The checkpoint was written with other settings.
    #[error("{path} was written with other settings; take those, or delete it to start again", path = path.display())]
    Settings {
        /// The file.
        path: PathBuf,
    },
    /// The finished file cannot be put in its place.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Groups of tensors and a note.
#[derive(Debug, Default)]
pub struct Checkpoint {
    tensors: Tensors,
}

impl Checkpoint {
    /// An empty checkpoint.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds tensors under a group's name.
    pub fn put(&mut self, group: &str, tensors: Tensors) {
        let named = tensors.into_iter().map(|(name, tensor)| (format!("{group}/{name}"), tensor));
        self.tensors.extend(named);
    }

    /// The tensors of a group.
    #[must_use]
    pub fn group(&self, group: &str) -> Tensors {
        let own = |(name, tensor): (&String, &Tensor)| {
            let name = name.strip_prefix(group)?.strip_prefix('/')?;
            Some((name.to_owned(), tensor.shallow_clone()))
        };
        self.tensors.iter().filter_map(own).collect()
    }

    /// Writes the checkpoint with a note, beside its place and then into it.
    ///
    /// # Errors
    /// [`CheckpointError`]; an older checkpoint is then untouched.
    pub fn save<N: Serialize>(mut self, path: &Path, note: &N) -> Result<(), CheckpointError> {
        let text = serde_json::to_vec(note)
            .map_err(|source| CheckpointError::Note { path: path.to_owned(), source })?;
        self.tensors.insert(NOTE.to_owned(), Tensor::from_slice(&text));
        write(path, &self.tensors)
    }

    /// Reads a checkpoint and its note; nothing where there is no file.
    ///
    /// # Errors
    /// [`CheckpointError`] where it is damaged or another kind of file.
    pub fn load<N: DeserializeOwned>(path: &Path) -> Result<Option<(Self, N)>, CheckpointError> {
        if !path.exists() {
            return Ok(None);
        }
        let tensors = read(path)?;
        let note = tensors.get(NOTE).ok_or_else(|| CheckpointError::Missing(NOTE.to_owned()))?;
        let mut text = vec![0u8; note.numel()];
        note.copy_data(&mut text, note.numel());
        let note = serde_json::from_slice(&text)
            .map_err(|source| CheckpointError::Note { path: path.to_owned(), source })?;
        Ok(Some((Self { tensors }, note)))
    }
}

/// Names training images, their labels and normalisation by a short hash: a checkpoint goes on with the
/// same alone.
#[must_use]
pub fn digest(images: &ImageSet, normalisation: &Normalisation) -> String {
    let mut hasher = blake3::Hasher::new();
    let head = format!("{:?} {} {} {normalisation:?}", images.shape, images.classes, images.len());
    hasher.update(head.as_bytes());
    hasher.update(&images.labels);
    hasher.update(&images.images);
    hasher.finalize().to_hex()[..16].to_owned()
}

/// A store's variables, for a checkpoint.
#[must_use]
pub fn variables(store: &tch::nn::VarStore) -> Tensors {
    store.variables().into_iter().map(|(name, variable)| (name, variable.detach())).collect()
}

/// Sets a store's variables to a checkpoint's.
///
/// # Errors
/// [`CheckpointError`] where one is missing or has another shape.
pub fn restore(store: &tch::nn::VarStore, tensors: &Tensors) -> Result<(), CheckpointError> {
    for (name, mut variable) in store.variables() {
        let saved = tensors.get(&name).ok_or_else(|| CheckpointError::Missing(name.clone()))?;
        if saved.size() != variable.size() {
            return Err(CheckpointError::Shape(name));
        }
        tch::no_grad(|| variable.copy_(saved));
    }
    Ok(())
}

/// Weights as a checkpoint's tensors.
#[must_use]
pub fn save_group(weights: &Weights) -> Tensors {
    let tensor = |values: &Values| {
        let shape: Vec<i64> = values.shape.iter().map(|&d| i64::from(d)).collect();
        Tensor::from_slice(&values.data).view(shape.as_slice())
    };
    weights.iter().map(|(name, values)| (name.clone(), tensor(values))).collect()
}

/// A checkpoint's tensors as weights.
#[must_use]
pub fn load_group(tensors: &Tensors) -> Weights {
    let values = |tensor: &Tensor| {
        let flat = tensor.to_kind(Kind::Float).contiguous().view([-1]);
        let mut data = vec![0f32; flat.numel()];
        flat.copy_data(&mut data, flat.numel());
        Values { shape: tensor.size().iter().map(|&d| d as u32).collect(), data }
    };
    tensors.iter().map(|(name, tensor)| (name.clone(), values(tensor))).collect()
}

/// Writes trained weights, readable by any safetensors reader.
///
/// # Errors
/// [`CheckpointError::Write`]; an older file is then untouched.
pub fn save_weights(path: &Path, weights: &Weights) -> Result<(), CheckpointError> {
    write(path, &save_group(weights))
}

/// Reads trained weights.
///
/// # Errors
/// [`CheckpointError::Read`] where the file is missing or damaged.
pub fn load_weights(path: &Path) -> Result<Weights, CheckpointError> {
    Ok(load_group(&read(path)?))
}

fn read(path: &Path) -> Result<Tensors, CheckpointError> {
    let read = |source| CheckpointError::Read { path: path.to_owned(), source };
    Ok(Tensor::read_safetensors(path).map_err(read)?.into_iter().collect())
}

fn write(path: &Path, tensors: &Tensors) -> Result<(), CheckpointError> {
    let write = |source| RunError::Write { path: path.to_owned(), source };
    // Velocities and the like inherit layouts that safetensors cannot store.
    let plain: Vec<(&str, Tensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.contiguous())).collect();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Of a name of its own, and removed where it is not finished: half a file would only take the room that was
    // missing.
    let beside = NamedTempFile::new_in(folder).map_err(write)?;
    Tensor::write_safetensors(&plain, beside.path())
        .map_err(|source| CheckpointError::Write { path: path.to_owned(), source })?;
    // Synced first: after a power cut the name must not stand for a file that is not on the disk yet.
    beside.as_file().sync_all().map_err(write)?;
    beside.persist(path).map_err(|error| write(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shapes::shapes10;

    #[test]
    fn groups_and_note_survive_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        assert!(Checkpoint::load::<u32>(&path).unwrap().is_none());
        let mut checkpoint = Checkpoint::new();
        let transposed = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).view([2, 3]).tr();
        checkpoint.put("weights", Tensors::from([("a.b".to_owned(), transposed.shallow_clone())]));
        checkpoint.put("logits", Tensors::from([("a.b".to_owned(), Tensor::from(7i64))]));
        checkpoint.save(&path, &(3u32, "here")).unwrap();
        let (checkpoint, note) = Checkpoint::load::<(u32, String)>(&path).unwrap().unwrap();
        assert_eq!(note, (3, "here".to_owned()));
        assert!(checkpoint.group("weights")["a.b"].equal(&transposed));
        assert_eq!(checkpoint.group("logits")["a.b"].int64_value(&[]), 7);
        let files = std::fs::read_dir(folder.path()).unwrap();
        assert_eq!(files.count(), 1, "what was written beside it is in its place");
    }

    #[test]
    fn other_images_have_another_digest() {
        let set = shapes10(20, 0, 16, 1).train;
        let normalisation = Normalisation::of(&set);
        let same = digest(&set, &normalisation);
        assert_eq!(digest(&shapes10(20, 0, 16, 1).train, &normalisation), same);
        let mut relabelled = set.clone();
        relabelled.labels.swap(0, 1);
        for other in [set.select(&[1, 0]), relabelled, shapes10(20, 0, 16, 2).train] {
            assert_ne!(digest(&other, &normalisation), same);
        }
        assert_ne!(digest(&set, &Normalisation::cifar10()), same);
    }

    #[test]
    fn damage_is_reported_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, b"no tensors here").unwrap();
        let error = Checkpoint::load::<u32>(&path).unwrap_err().to_string();
        assert!(error.contains("delete it"), "{error}");
    }

    #[test]
    fn weights_survive_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        let weights = Weights::from([("a.weight".to_owned(), Values::fill(&[2, 3], |i| i as f32))]);
        save_weights(&path, &weights).unwrap();
        assert_eq!(load_weights(&path).unwrap(), weights);
    }
}
