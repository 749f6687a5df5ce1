//! A net + data -> weights (ALGORITHM 1.7).
//!
//! - [`allocator`] (feature `torch`): memory that a step frees is kept for the next;
//! - [`child`], [`gnn`] (feature `torch`): a graph net on its graph (ALGORITHM 2.3);
//! - [`config`]: settings, the paper's by default, and the learning rate's course;
//! - [`distil`] (feature `torch`): training from scratch, with or without a teacher;
//! - [`frozen`] (feature `torch`): a trained net that is only asked;
//! - [`memory`]: what training a graph net takes, and what there is;
//! - [`mod@bench`] (feature `torch`): what a step costs;
//! - [`teacher`] (feature `torch`): the trained base net, kept on disk for all runs of a task.

#[cfg(feature = "torch")]
pub mod allocator;
#[cfg(feature = "torch")]
pub mod bench;
pub mod child;
pub mod config;
#[cfg(feature = "torch")]
pub mod distil;
#[cfg(feature = "torch")]
pub mod frozen;
#[cfg(feature = "torch")]
pub mod gnn;
pub mod memory;
pub mod record;
#[cfg(feature = "torch")]
pub mod teacher;

/// A training that came to no end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A setting that makes no sense.
    #[error("{0}")]
    Config(String),
    /// The loss is no number any more.
    #[error("the loss is not finite at epoch {epoch}, step {step}: the learning rate is too high")]
    Diverged {
        /// The epoch, from 0.
        epoch: u32,
        /// The step, from 0.
        step: usize,
    },
    /// The user stopped the training; its checkpoint is written.
    #[error("interrupted; the same command goes on from the checkpoint")]
    Interrupted,
    /// A net that does not fit together.
    #[error(transparent)]
    Spec(#[from] hanas_models::spec::SpecError),
    /// A graph net that does not fit together.
    #[error(transparent)]
    Gnn(#[from] hanas_models::gnn::GnnError),
    /// A log cannot be read or written.
    #[error(transparent)]
    Run(#[from] crate::search::run::RunError),
    /// Weights that do not fit the net.
    #[cfg(feature = "torch")]
    #[error(transparent)]
    Weights(#[from] hanas_models::torch::LoadError),
    /// A checkpoint or weights cannot be read or written.
    #[cfg(feature = "torch")]
    #[error(transparent)]
    Checkpoint(#[from] crate::search::checkpoint::CheckpointError),
}
