//! Random numbers addressed by what they are for: (seed, purpose, epoch, step) -> a generator.
//!
//! A run that is resumed asks for the same addresses and gets the same numbers, so no checkpoint holds
//! a generator's state and no draw shifts another.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What the numbers are for. The values are part of every result's provenance: append, never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Which images a smaller set keeps.
    Subset = 1,
    /// Which half of the training set an image goes to.
    Halves = 2,
    /// Order of the images that train weights.
    WeightOrder = 3,
    /// Order of the images that train the architecture.
    LogitOrder = 4,
    /// Flips and crops of the images that train weights.
    WeightAugment = 5,
    /// Flips and crops of the images that train the architecture.
    LogitAugment = 6,
    /// Gumbel noise and sampled widths of a weight step.
    WeightSample = 7,
    /// Gumbel noise and sampled widths of an architecture step.
    LogitSample = 8,
    /// Fresh weights and logits.
    Init = 9,
    /// Nets of random search.
    RandomNets = 10,
    /// Procedural images.
    Shapes = 11,
    /// Widths drawn one of each group.
    RandomGroups = 12,
    /// A procedural graph.
    PlantedGraph = 16,
    /// Dropout of a graph net.
    GraphDropout = 17,
    /// Token sequences that a strategy proposes: trial and draw.
    Proposal = 20,
    /// Splits and orders of a latency predictor's samples.
    Predictor = 21,
    /// Resampled runs of an experiment.
    Experiment = 22,
    /// Token sequences drawn after a search.
    Drawn = 23,
}

/// The generator of an address.
#[must_use]
pub fn stream(seed: u64, purpose: Purpose, epoch: u32, step: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(((purpose as u64) << 56) | (u64::from(epoch & 0x00ff_ffff) << 32) | (step & 0xffff_ffff));
    rng
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn every_part_of_an_address_counts() {
        let first = |seed, purpose, epoch, step| stream(seed, purpose, epoch, step).next_u64();
        let here = first(1, Purpose::Init, 2, 3);
        assert_eq!(here, first(1, Purpose::Init, 2, 3));
        for other in [
            first(2, Purpose::Init, 2, 3),
            first(1, Purpose::Halves, 2, 3),
            first(1, Purpose::Init, 1, 3),
            first(1, Purpose::Init, 2, 4),
        ] {
            assert_ne!(here, other);
        }
    }
}
