//! Raw samples -> estimates with errors -> fitted latency models.
//!
//! - [`mod@estimate`]: a model's visits -> its latency and how sure that is;
//! - [`disturbed`]: visits that something else slowed down, told by those around them;
//! - [`verdict`]: a session's samples and contexts -> trustworthy or not, and why;
//! - [`reason`]: what such a verdict can name;
//! - [`trend`]: the tests that the verdict is made of;
//! - [`fit`]: f(x) = k x^alpha + b (paper, Eq. 1), by least squares;
//! - [`layers`]: one such curve per layer type, and the latency of a whole net as their sum (Eq. 8);
//! - [`pairwise`]: L(c_in, c_out) per layer kind, by interpolation between measured pairs;
//! - [`graph`]: the latency of a graph net out of nodes, edges, heads and dims;
//! - [`graph_field`]: latency at any pair of heads and dim, from some that were measured;
//! - [`pair_sampling`]: which pairs to measure next;
//! - [`calibration`]: from the sum of the layers to the net;
//! - [`moderated`]: errors of many models that are each known from little;
//! - [`net_model`]: either model with what it was made of, and how far it is off;
//! - [`agreement`], [`rank`]: how well predictions meet measurements;
//! - [`transfer`]: a new device's latencies from a few measurements and other devices' profiles.

pub mod agreement;
pub mod calibration;
pub mod disturbed;
pub mod estimate;
pub mod fit;
pub mod graph;
pub mod graph_field;
pub mod layers;
pub mod moderated;
pub mod net_model;
mod pair_field;
pub mod pair_sampling;
pub mod pairwise;
pub mod rank;
pub mod reason;
pub mod transfer;
pub mod trend;
pub mod verdict;

#[cfg(test)]
pub(crate) mod synthetic;

use hanas_models::layer::{LayerKind, LayerType};
use hanas_models::spec::SpecError;

pub use estimate::{Estimate, Statistic, estimate};

/// What samples do not allow.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LatencyError {
    /// There is nothing to estimate from.
    #[error("no samples: profile the device first")]
    NoSamples,
    /// A quantile outside 0 to 1.
    #[error("{0} is no quantile; take one between 0 and 1, such as 0.05")]
    Quantile(f64),
    /// Fewer points than a curve has coefficients.
    #[error("a curve needs at least {needs} measured points, there are {points}")]
    TooFewPoints {
        /// Points given.
        points: usize,
        /// Points needed.
        needs: usize,
    },
    /// All points lie at one x.
    #[error("a curve needs points at different widths, all are at {x}")]
    Degenerate {
        /// That x.
        x: f64,
    },
    /// A coordinate or latency is not finite, or a weight is no positive number.
    #[error("a point of the curve is not usable: x {x}, {ns} ns, standard error {se_ns} ns")]
    BadPoint {
        /// Its x.
        x: f64,
        /// Its latency.
        ns: f64,
        /// Its standard error.
        se_ns: f64,
    },
    /// A net holds a layer of a type without a curve.
    #[error("no layer of type {0} was measured: profile the task on this device")]
    UnmeasuredType(LayerType),
    /// A net holds a layer of a kind without a table.
    #[error("no layer of kind {0} was measured: profile the task's pairs on this device")]
    UnmeasuredKind(LayerKind),
    /// Too little that all reference devices have measured.
    #[error(
        "{references} reference device(s) have {models} model(s) in common and 2 are needed: profile the same task and batch on each"
    )]
    NoReferences {
        /// Models that all have measured.
        models: usize,
        /// Reference devices.
        references: usize,
    },
    /// A latency that is no positive number, or whose error is none.
    #[error("a latency of {latency} cannot be used: it must be positive, and its error not negative")]
    BadLatency {
        /// The latency, in its table's unit.
        latency: f64,
    },
    /// A table of latencies that cannot be read.
    #[error("{path}: {why}")]
    Table {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// A net that is no member of its family.
    #[error(transparent)]
    Spec(#[from] SpecError),
}
