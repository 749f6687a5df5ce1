//! Which widths and depths are searched, and the nets that they spell.

use hanas_models::resnet::{BlockWidths, ConvNet, Family};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::SearchError;
use crate::space::width::WidthSpace;

/// Width choices of every convolution at full depth, and depth choices of every stage.
///
/// Rows of widths stand in the net's order: stem, then a and b of each block; the stem takes the first
/// stage's choices (ALGORITHM 1.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choices {
    /// The family.
    pub family: Family,
    /// Ascending widths, by row.
    pub widths: Vec<Vec<u32>>,
    /// Ascending numbers of blocks kept, by stage.
    pub depths: Vec<Vec<u32>>,
}

/// One choice of each row and stage, as an index into its list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Picks {
    /// By row.
    pub widths: Vec<usize>,
    /// By stage.
    pub depths: Vec<usize>,
}

impl Choices {
    /// The choices of a family in a width space.
    ///
    /// # Errors
    /// [`SearchError`] where the space has other stages than the family or an empty or zero choice.
    pub fn new(family: &Family, space: &WidthSpace) -> Result<Self, SearchError> {
        let (given, wants) = (space.stages.len(), family.stages.len());
        if given != wants || wants == 0 {
            return Err(SearchError::Space { given, wants });
        }
        if let Some(stage) = space.stages.iter().position(|list| list.is_empty() || list.contains(&0)) {
            let complaint = format!("stage {} of the space has no widths, or width 0", stage + 1);
            return Err(SearchError::Config(complaint));
        }
        let mut widths = vec![space.stages[0].clone()];
        for (stage, list) in family.stages.iter().zip(&space.stages) {
            widths.extend((0..2 * stage.blocks).map(|_| list.clone()));
        }
        let depths = (0..wants).map(|stage| family.depth_choices(stage)).collect();
        Ok(Self { family: family.clone(), widths, depths })
    }

    /// Row of a block's first convolution; its second has the next.
    #[must_use]
    pub fn row(&self, stage: usize, block: usize) -> usize {
        let before: u32 = self.family.stages[..stage].iter().map(|stage| stage.blocks).sum();
        1 + 2 * (before as usize + block)
    }

    /// The net of these picks; blocks beyond a stage's depth vanish, with their rows.
    #[must_use]
    pub fn net(&self, picks: &Picks) -> ConvNet {
        let width = |row: usize| self.widths[row][picks.widths[row]];
        let stages = (0..self.depths.len()).map(|stage| {
            let blocks = self.depths[stage][picks.depths[stage]] as usize;
            let block = |b| {
                let row = self.row(stage, b);
                BlockWidths { a: width(row), b: width(row + 1) }
            };
            (0..blocks).map(block).collect()
        });
        ConvNet { family: self.family.clone(), stem: width(0), stages: stages.collect() }
    }

    /// The narrowest and shallowest net.
    #[must_use]
    pub fn smallest(&self) -> Picks {
        Picks { widths: vec![0; self.widths.len()], depths: vec![0; self.depths.len()] }
    }

    /// The widest and deepest net.
    #[must_use]
    pub fn largest(&self) -> Picks {
        let last = |lists: &[Vec<u32>]| lists.iter().map(|list| list.len() - 1).collect();
        Picks { widths: last(&self.widths), depths: last(&self.depths) }
    }

    /// A net drawn evenly from all choices.
    pub fn random(&self, rng: &mut impl Rng) -> Picks {
        let mut draw =
            |lists: &[Vec<u32>]| lists.iter().map(|list| rng.random_range(0..list.len())).collect();
        Picks { widths: draw(&self.widths), depths: draw(&self.depths) }
    }

    /// The likeliest choice of each row and stage; of equals the larger.
    #[must_use]
    pub fn argmax(&self, logits: &Logits) -> Picks {
        let each = |rows: &[Vec<f64>]| rows.iter().map(|row| argmax(row)).collect();
        Picks { widths: each(&logits.widths), depths: each(&logits.depths) }
    }
}

/// Logits of every choice, as plain numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logits {
    /// By row of widths.
    pub widths: Vec<Vec<f64>>,
    /// By stage.
    pub depths: Vec<Vec<f64>>,
}

fn argmax(row: &[f64]) -> usize {
    let mut best = 0;
    for (place, value) in row.iter().enumerate() {
        if *value >= row[best] {
            best = place;
        }
    }
    best
}

#[cfg(test)]
pub(crate) mod tests {
    use hanas_models::spec::FeatureMap;

    use super::*;

    /// One or two blocks per stage, widths 4 / 8 / 8, 16x16 images: small enough for tests that train.
    pub(crate) fn tiny_family(blocks: u32) -> Family {
        let stage = |width, stride| hanas_models::resnet::Stage { width, blocks, stride };
        Family {
            name: "tiny".to_owned(),
            input: FeatureMap::square(3, 16),
            stem: 4,
            stages: vec![stage(4, 1), stage(8, 2), stage(8, 2)],
            classes: 10,
        }
    }

    pub(crate) fn tiny_choices(blocks: u32) -> Choices {
        let family = tiny_family(blocks);
        Choices::new(&family, &WidthSpace::aligned(&family, 2, 4)).unwrap()
    }

    #[test]
    fn picks_spell_nets() {
        let choices = tiny_choices(2);
        assert_eq!(choices.net(&choices.largest()).widths(), [8, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16]);
        assert_eq!(choices.net(&choices.smallest()).summary(), "2 | 2-2 | 4-4 | 4-4");
        let mut picks = choices.smallest();
        picks.depths[1] = 1;
        let row = choices.row(1, 1);
        picks.widths[row] = 3;
        assert_eq!(choices.net(&picks).summary(), "2 | 2-2 | 4-4 16-4 | 4-4");
    }

    #[test]
    fn argmax_prefers_the_larger_of_equals() {
        let choices = tiny_choices(1);
        let mut logits = Logits { widths: vec![vec![0.5, 1.0, 1.0, 0.0]; 7], depths: vec![vec![0.0]; 3] };
        logits.widths[3] = vec![3.0, 0.0, 0.0, 0.0];
        assert_eq!(choices.argmax(&logits).widths, [2, 2, 2, 0, 2, 2, 2]);
    }

    #[test]
    fn a_space_of_other_stages_is_refused() {
        let family = tiny_family(1);
        let space = WidthSpace { stages: vec![vec![4]; 2] };
        assert!(matches!(Choices::new(&family, &space), Err(SearchError::Space { given: 2, wants: 3 })));
        let space = WidthSpace { stages: vec![vec![4], vec![], vec![4]] };
        assert!(matches!(Choices::new(&family, &space), Err(SearchError::Config(_))));
    }
}
