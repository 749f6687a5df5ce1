//! Width choices of a convnet family: one list per stage (that is, per output size).

use hanas_models::resnet::Family;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// Candidate widths of every stage, ascending. The stem takes the first stage's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WidthSpace {
    /// One ascending list per stage.
    pub stages: Vec<Vec<u32>>,
}

impl WidthSpace {
    /// TAS's space: int(e * W * r) for r = .3, .4, ... 1 (ALGORITHM 1.2), not aligned to anything.
    #[must_use]
    pub fn tas(family: &Family, expand: u32) -> Self {
        Self::by_stage(family, |width| (3..=10).map(|tenths| expand * width * tenths / 10).collect())
    }

    /// The aligned grid {j e W / g}: what a rule of thumb says without measuring (ALGORITHM 1.8).
    #[must_use]
    pub fn aligned(family: &Family, expand: u32, groups: u32) -> Self {
        Self::by_stage(family, |width| (1..=groups).map(|j| j * expand * width / groups).collect())
    }

    /// One width drawn evenly from each of the groups that a measured space chooses from
    /// ((j-1) e W / g + 1 .. j e W / g): the control for choosing at all.
    #[must_use]
    pub fn random_groups(family: &Family, expand: u32, groups: u32, rng: &mut impl Rng) -> Self {
        Self::by_stage(family, |width| {
            let end = |j: u32| j * expand * width / groups;
            let group = |j: u32| (end(j - 1) < end(j)).then(|| rng.random_range(end(j - 1) + 1..=end(j)));
            (1..=groups).filter_map(group).collect()
        })
    }

    fn by_stage(family: &Family, mut widths: impl FnMut(u32) -> Vec<u32>) -> Self {
        let mut stages: Vec<Vec<u32>> = family.stages.iter().map(|stage| widths(stage.width)).collect();
        for stage in &mut stages {
            stage.retain(|&width| width > 0);
            stage.sort_unstable();
            stage.dedup();
        }
        Self { stages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tas_widths_are_the_reference_codes() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let space = WidthSpace::tas(&family, 1);
        assert_eq!(space.stages[0], [4, 6, 8, 9, 11, 12, 14, 16]);
        assert_eq!(space.stages[1], [9, 12, 16, 19, 22, 25, 28, 32]);
        assert_eq!(space.stages[2], [19, 25, 32, 38, 44, 51, 57, 64]);
        assert_eq!(WidthSpace::tas(&family, 2).stages[0], [9, 12, 16, 19, 22, 25, 28, 32]);
    }

    #[test]
    fn every_group_gives_one_random_width() {
        use rand::SeedableRng;
        let family = Family::cifar_resnet(20, 10).unwrap();
        let space = |seed| {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            WidthSpace::random_groups(&family, 2, 8, &mut rng)
        };
        for (stage, size) in space(1).stages.iter().zip([4, 8, 16]) {
            assert_eq!(stage.len(), 8);
            assert!(stage.iter().enumerate().all(|(j, width)| (width - 1) / size == j as u32), "{stage:?}");
        }
        assert_eq!(space(1), space(1));
        assert_ne!(space(1), space(2));
    }
}
