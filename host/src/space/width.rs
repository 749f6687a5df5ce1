//! Width choices of a convnet family: one list per stage (that is, per output size).

use hanas_models::resnet::Family;
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

    fn by_stage(family: &Family, widths: impl Fn(u32) -> Vec<u32>) -> Self {
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
}
