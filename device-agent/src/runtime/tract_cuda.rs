//! tract on a GPU: CUDA's libraries are loaded when the worker starts, kernels compiled when the first model is
//! loaded.
//!
//! tract writes the transfers into the plan as operators, `DeviceSyncToDevice` and `DeviceSyncToHost`. For the
//! model's time its inputs lie on the GPU already, and the first finds nothing to do; what the second brings
//! back, the outputs, is part of that time. `--per-node` starts from inputs in the processor's memory and so
//! tells both.

use std::sync::Arc;

use tract_gpu::device::get_context;
use tract_gpu::tensor::{IntoDevice, LazyHostStorage};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::prelude::Runtime as TractRuntime;

use super::tract::{Place, Tract};

// Registers itself with tract.
use ::tract_cuda as _;

/// The GPU cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("no GPU that tract can use: {reason}")]
pub struct CudaError {
    reason: String,
}

/// tract on the first GPU.
///
/// # Errors
/// [`CudaError`] where there is none, or a library of CUDA is missing.
pub fn new(threads: u16, max_drawn_bytes: u64) -> Result<Tract, CudaError> {
    runtime().map_err(|error| CudaError { reason: reason(&error) })?;
    Ok(Tract::at(Place { name: "tract-cuda", plan, bring, wait }, threads, max_drawn_bytes))
}

/// The first cause, on one line.
fn reason(error: &TractError) -> String {
    let cause = error.root_cause().to_string();
    cause.lines().next().unwrap_or_default().to_owned()
}

fn runtime() -> TractResult<&'static dyn TractRuntime> {
    runtime_for_name("cuda")?.ok_or_else(|| TractError::msg("this build of tract has no CUDA"))
}

fn plan(model: InferenceModel, options: &RunOptions) -> TractResult<Arc<TypedSimplePlan>> {
    let model = model.into_typed()?.into_decluttered()?;
    let prepared = runtime()?.prepare_with_options(model, options)?;
    prepared.typed_plan().cloned().ok_or_else(|| TractError::msg("tract made no plan for the GPU"))
}

/// A tensor that lies on the GPU, for a plan that takes its inputs from the processor's memory.
fn bring(tensor: TValue) -> TractResult<TValue> {
    let there = tensor.into_tensor().into_device()?;
    Ok(LazyHostStorage::new(there)?.into_tensor().into_tvalue())
}

fn wait() -> TractResult<()> {
    get_context()?.synchronize()
}
