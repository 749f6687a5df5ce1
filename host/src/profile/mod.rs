//! Candidates + a session -> samples in the store.
//!
//! - [`candidates`]: what a task wants measured, each as ONNX under its digest;
//! - [`cin`]: at which input widths a stage's curve is measured;
//! - [`graph_candidates`]: graph nets on one graph, which is sent once;
//! - [`sampling`]: how often and in what order;
//! - [`warmup`]: when a device has settled;
//! - [`runner`]: loads candidates in sets, times them interleaved, goes on after a dead worker;
//! - `job`: what one of its jobs has brought.

pub mod candidates;
pub mod cin;
pub mod graph_candidates;
mod job;
pub mod runner;
pub mod sampling;
pub mod warmup;

use hanas_models::onnx::OnnxError;
use hanas_models::spec::SpecError;

use crate::link::LinkError;

/// What can go wrong while profiling.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The link or the agent.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A candidate cannot be lowered.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// A candidate is no net.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The samples could not be kept.
    #[error("{0}")]
    Sink(String),
}
