//! Space + latency model + data -> a net within a budget.
//!
//! In reading order:
//!
//! 1. [`config`]: what a search is asked for, and the paper's settings;
//! 2. [`choices`]: which widths and depths are searched, and the nets they spell;
//! 3. [`latency_model`], [`timer`], [`meter`]: what a net costs, predicted and measured, and how that
//!    lies to the budget;
//! 4. [`decode`], [`repair`]: the likeliest net within the budget, and shrinking one that misses it;
//!    [`random`], [`uniform`]: the two control arms that need no supernet;
//! 5. [`run`], [`progress`]: the folder and the logs of a run, and who watches it;
//! 6. [`htas`] (feature `torch`): the differentiable search itself, with [`optim`] and [`checkpoint`];
//!    [`netadapt`]: the baseline that slims a trained net instead;
//! 7. [`strategies`]: which of all these is run;
//! 8. [`hgnas`]: graph nets searched by reinforcement learning, evolution or chance.

use hanas_models::spec::SpecError;

use meter::Amount;

#[cfg(feature = "torch")]
pub mod checkpoint;
pub mod choices;
pub mod config;
pub mod decode;
pub mod hgnas;
#[cfg(feature = "torch")]
pub mod htas;
pub mod latency_model;
pub mod meter;
#[cfg(feature = "torch")]
pub mod netadapt;
#[cfg(feature = "torch")]
pub mod optim;
pub mod progress;
pub mod random;
pub mod repair;
pub mod run;
#[cfg(feature = "torch")]
pub mod strategies;
pub mod timer;
pub mod uniform;
pub mod weights_file;

/// A search that found no net, and why.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// Even the smallest net misses the budget.
    #[error("no net of this space fits {budget}: the smallest costs {smallest}; raise --budget above that")]
    BudgetTooSmall {
        /// What was asked for.
        budget: Amount,
        /// What the smallest net costs.
        smallest: Amount,
    },
    /// Even the largest net stays below the budget.
    #[error(
        "every net of this space stays below {budget}: the largest costs {largest}; lower --budget or take a wider space"
    )]
    BudgetTooLarge {
        /// What was asked for.
        budget: Amount,
        /// What the largest net costs.
        largest: Amount,
    },
    /// No net that was drawn or tried came out within the budget.
    #[error("none of {tried} nets was measured within {budget}; the nearest costs {nearest}; raise --budget")]
    NoneFits {
        /// What was asked for.
        budget: Amount,
        /// Nets tried.
        tried: usize,
        /// What the nearest of them costs.
        nearest: Amount,
    },
    /// A search over graph nets ended without a net.
    #[error("{0}")]
    NoFinalist(String),
    /// A setting that makes no sense.
    #[error("{0}")]
    Config(String),
    /// The space does not fit the family.
    #[error("the space has {given} stages and the net family {wants}; build the space for this task")]
    Space {
        /// Stages of the space.
        given: usize,
        /// Stages of the family.
        wants: usize,
    },
    /// Training data that cannot be halved into batches.
    #[error("{images} training images are too few for a search; take at least two of each class")]
    Images {
        /// Images given.
        images: usize,
    },
    /// The loss is no number any more.
    #[error("the loss is not finite at epoch {epoch}, step {step}: the learning rate is too high")]
    Diverged {
        /// The epoch, from 0.
        epoch: u32,
        /// The step, from 0.
        step: usize,
    },
    /// The user stopped the search; the checkpoint of one that trains is written.
    #[error("interrupted; the same command goes on from the checkpoint, if there is one")]
    Interrupted,
    /// Predicting or measuring a net's latency failed.
    #[error("cannot time a net")]
    Timer(#[source] timer::TimerError),
    /// The latency model does not know a layer.
    #[error(transparent)]
    Latency(#[from] crate::latency::LatencyError),
    /// Scoring an architecture or finding its latency failed.
    #[error("trying an architecture: {0}")]
    Problem(hgnas::explore::ProblemError),
    /// A net that does not fit together.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A file of the run cannot be read or written.
    #[error(transparent)]
    Run(#[from] run::RunError),
    /// Weights that do not fit the net.
    #[cfg(feature = "torch")]
    #[error(transparent)]
    Weights(#[from] hanas_models::torch::LoadError),
    /// A checkpoint cannot be read or written.
    #[cfg(feature = "torch")]
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::CheckpointError),
}
