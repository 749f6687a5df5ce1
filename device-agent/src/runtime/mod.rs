//! What runs a model: content and a slot in, times and outputs out.
//!
//! [`tract`] is the one that is always there, on a GPU too with feature `cuda`; ONNX Runtime (feature `ort`) and libtorch (feature `torch`) are
//! ones that many deploy with. All take what [`read`] makes of content. [`null`] runs nothing, which shows what measuring itself costs, and
//! [`scripted`] takes its times from a script, so that a whole system can be tested on a device whose
//! latencies are known.

pub mod expand;
pub mod held;
pub mod null;
#[cfg(feature = "ort")]
pub mod ort;
pub mod read;
pub mod scripted;
#[cfg(feature = "torch")]
pub mod torch;
pub mod tract;
#[cfg(feature = "cuda")]
pub mod tract_cuda;

use std::path::Path;

use hanas_proto::fault::FaultCode;
use hanas_proto::measure::LoadOptions;

pub use hanas_device_core::Runtime as Timed;
pub use scripted::ScriptError;

use crate::settings::{RuntimeKind, WorkerSettings};

/// A request that a runtime cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub struct Trouble {
    /// What kind of trouble.
    pub code: FaultCode,
    /// One line for a person.
    pub text: String,
}

impl Trouble {
    /// Trouble of that kind; a text of several lines is cut after the first.
    pub fn new(code: FaultCode, text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self { code, text: text.lines().next().unwrap_or_default().trim().to_owned() }
    }

    /// Nothing is loaded in the slot.
    #[must_use]
    pub fn empty_slot(slot: u16) -> Self {
        Self::new(FaultCode::BadRequest, format!("slot {slot} is empty"))
    }
}

impl hanas_device_core::Trouble for Trouble {
    fn code(&self) -> FaultCode {
        self.code
    }

    fn text(&self) -> &str {
        &self.text
    }

    fn too_many_operators(operators: usize) -> Self {
        let text = format!("the times of {operators} operators do not fit into the host's frames");
        Self::new(FaultCode::TooLarge, text)
    }
}

/// A loaded model, as the host hears of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// Operators in execution order: name and kind.
    pub nodes: Vec<(String, String)>,
    /// Inputs and outputs.
    pub ports: Vec<Port>,
}

/// An input or output of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Input or output.
    pub is_input: bool,
    /// Name in the graph.
    pub name: String,
    /// Element type and dimensions.
    pub fact: String,
}

/// Runs models that it holds in slots; how one is timed is the device core's to say.
pub trait Runtime: Timed<Trouble = Trouble> {
    /// Name and version.
    fn name(&self) -> String;

    /// Names the folder with the content that models to be loaded may refer to.
    fn held_in(&mut self, _folder: &Path) {}

    /// Makes content a model in a slot, instead of what was there.
    ///
    /// # Errors
    /// [`Trouble`], with the slot empty.
    fn load(&mut self, slot: u16, content: &[u8], options: LoadOptions) -> Result<Model, Trouble>;

    /// Empties all slots.
    fn clear(&mut self);

    /// Runs a slot once on raw little-endian inputs, one after another, and returns its outputs alike.
    ///
    /// # Errors
    /// [`Trouble`] where the inputs do not fit or the run fails.
    fn infer(&mut self, slot: u16, inputs: &[u8]) -> Result<Vec<u8>, Trouble>;
}

/// A runtime that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its script cannot be used.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// It is not in this build.
    #[error("this agent is built without {runtime}; build it with --features {feature}")]
    NotBuilt {
        /// The runtime.
        runtime: &'static str,
        /// The cargo feature that brings it.
        feature: &'static str,
    },
    /// Its library cannot be used.
    #[cfg(feature = "ort")]
    #[error(transparent)]
    Ort(#[from] ort::OrtError),
    /// Its GPU cannot be had.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    TractCuda(#[from] tract_cuda::CudaError),
    /// Its device cannot be had.
    #[cfg(feature = "torch")]
    #[error(transparent)]
    Torch(#[from] torch::TorchError),
}

/// The runtime that the settings name.
///
/// # Errors
/// [`BuildError`] where its script, library or device cannot be used, or it is not in this build.
pub fn build(settings: &WorkerSettings) -> Result<Box<dyn Runtime>, BuildError> {
    Ok(match settings.runtime {
        RuntimeKind::Tract => Box::new(tract::Tract::new(settings.threads, settings.max_drawn_bytes)),
        RuntimeKind::TractCuda => tract_on_gpu(settings)?,
        RuntimeKind::Ort => onnx_runtime(settings)?,
        RuntimeKind::Libtorch => libtorch(settings)?,
        RuntimeKind::Null => Box::<null::Null>::default(),
        RuntimeKind::Scripted => {
            let path = settings.script.as_ref().ok_or(ScriptError::Missing)?;
            Box::new(scripted::Scripted::read(path)?)
        }
    })
}

#[cfg(feature = "cuda")]
fn tract_on_gpu(settings: &WorkerSettings) -> Result<Box<dyn Runtime>, BuildError> {
    let WorkerSettings { threads, max_drawn_bytes, .. } = *settings;
    Ok(Box::new(tract_cuda::new(threads, max_drawn_bytes)?))
}

#[cfg(not(feature = "cuda"))]
fn tract_on_gpu(_: &WorkerSettings) -> Result<Box<dyn Runtime>, BuildError> {
    Err(BuildError::NotBuilt { runtime: "tract on a GPU", feature: "cuda" })
}

#[cfg(feature = "ort")]
fn onnx_runtime(settings: &WorkerSettings) -> Result<Box<dyn Runtime>, BuildError> {
    let library = settings.ort_library.as_deref();
    Ok(Box::new(ort::Ort::new(library, settings.threads, settings.max_drawn_bytes)?))
}

#[cfg(not(feature = "ort"))]
fn onnx_runtime(_: &WorkerSettings) -> Result<Box<dyn Runtime>, BuildError> {
    Err(BuildError::NotBuilt { runtime: "ONNX Runtime", feature: "ort" })
}

#[cfg(feature = "torch")]
fn libtorch(settings: &WorkerSettings) -> Result<Box<dyn Runtime>, BuildError> {
    let WorkerSettings { torch_device, threads, max_drawn_bytes, .. } = *settings;
    Ok(Box::new(torch::Torch::new(torch_device, threads, max_drawn_bytes)?))
}

#[cfg(not(feature = "torch"))]
fn libtorch(_: &WorkerSettings) -> Result<Box<dyn Runtime>, BuildError> {
    Err(BuildError::NotBuilt { runtime: "libtorch", feature: "torch" })
}
