//! How often a candidate is run, and in what portions.

use hanas_proto::Nanos;
use serde::{Deserialize, Serialize};

/// A sampling plan. Candidates of a set are visited once a round in seeded random order, so that slow
/// changes of the machine fall on all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampling {
    /// Timed runs of every candidate.
    pub samples: u32,
    /// Timed runs a visit.
    pub runs: u16,
    /// Untimed runs a visit: they bring the candidate's weights back into the caches.
    pub warmup: u16,
    /// Candidates loaded at once.
    pub set_size: u16,
    /// Seed of the visiting order.
    pub seed: u64,
    /// Most rounds that are run before the first one counts, until the device has settled; see
    /// [`warmup`](super::warmup).
    pub settle: u16,
    /// Number of the first round; rounds of one session are numbered on.
    pub first_round: u32,
    /// A visit ends early after this long (at least one timed run is made).
    pub visit_limit: Nanos,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            samples: 60,
            runs: 4,
            warmup: 1,
            set_size: 512,
            seed: 0,
            settle: 20,
            first_round: 0,
            visit_limit: Nanos(2_000_000_000),
        }
    }
}

impl Sampling {
    /// Rounds that a candidate with `have` samples still needs.
    #[must_use]
    pub fn rounds_left(&self, have: u32) -> u16 {
        let left = self.samples.saturating_sub(have).div_ceil(u32::from(self.runs.max(1)));
        u16::try_from(left).unwrap_or(u16::MAX)
    }
}
