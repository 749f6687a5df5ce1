//! Trained weights from a safetensors file, without libtorch.

use std::path::{Path, PathBuf};

use hanas_models::weights::{Tensor, Weights};
use safetensors::{Dtype, SafeTensors};

/// A file of weights that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file is not there or not readable.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a safetensors file of floats.
    #[error("{} holds no weights ({why}); train the run again", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Reads all 32-bit float tensors of a file.
///
/// # Errors
/// [`WeightsError`].
pub fn read(path: &Path) -> Result<Weights, WeightsError> {
    let bytes = std::fs::read(path).map_err(|source| WeightsError::Read { path: path.to_owned(), source })?;
    let content = |why: String| WeightsError::Content { path: path.to_owned(), why };
    let file = SafeTensors::deserialize(&bytes).map_err(|error| content(format!("{error:?}")))?;
    let mut weights = Weights::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(content(format!("{name} is {:?}", view.dtype())));
        }
        let shape = view.shape().iter().map(|&d| u32::try_from(d)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| content(format!("{name} is too large")))?;
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        weights.insert(name, Tensor { shape, data: values.collect() });
    }
    Ok(weights)
}
