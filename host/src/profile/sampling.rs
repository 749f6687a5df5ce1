//! How often a candidate is run, and in what portions.

use hanas_proto::Nanos;
use serde::{Deserialize, Serialize};

/// A sampling plan. Candidates of a set are visited once a round in seeded random order, so that slow
/// changes of the machine fall on all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampling {
    /// Timed runs of every candidate.
    pub samples: u32,
    /// Of those, runs that a candidate gets however long they take: a visit that ends early is made up for by
    /// more rounds. A verdict wants so many (`latency::verdict::MIN_SAMPLES`).
    pub least: u32,
    /// Timed runs a visit.
    pub runs: u16,
    /// Untimed runs a visit: they bring the candidate's weights back into the caches.
    pub warmup: u16,
    /// Candidates loaded at once.
    pub set_size: u16,
    /// The first candidate is timed again with every set and with every part of one that memory does not hold at once:
    /// it tells the device's pace in each.
    #[serde(default)]
    pub anchored: bool,
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
            least: 20,
            runs: 4,
            warmup: 1,
            set_size: 512,
            anchored: false,
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

    /// Rounds that a candidate needs beyond those planned, which are over: it has `have` runs now, and its
    /// last visit brought `brought`. None after a visit that brought nothing: the next may do no better.
    #[must_use]
    pub fn rounds_more(&self, have: u32, brought: u32) -> u16 {
        if brought == 0 {
            return 0;
        }
        let missing = self.least.min(self.samples).saturating_sub(have);
        u16::try_from(missing.div_ceil(brought)).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_candidate_gets_as_many_runs_as_a_verdict_wants() {
        let sampling = Sampling::default();
        assert_eq!(sampling.rounds_left(0), 15);
        // Its visits end after one run, or after two.
        assert_eq!(sampling.rounds_more(15, 1), 5);
        assert_eq!(sampling.rounds_more(15, 2), 3);
        assert_eq!(sampling.rounds_more(20, 1), 0);
        assert_eq!(sampling.rounds_more(15, 0), 0, "never without end");
        let few = Sampling { samples: 4, ..sampling };
        assert_eq!((few.rounds_more(1, 1), few.rounds_more(4, 4)), (3, 0));
        assert_eq!(Sampling { least: 0, ..sampling }.rounds_more(1, 1), 0);
    }
}
