//! At which input widths the curve of a stage is measured (ALGORITHM 1.6).

use hanas_models::layer::Layer;
use hanas_models::resnet::Family;
use serde::{Deserialize, Serialize};

use super::candidates::space_layers;

/// Input widths of the layers that widths are chosen from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Cin {
    /// The stage's base width W, as the paper.
    #[default]
    Base,
    /// The largest width e W.
    Expanded,
    /// W/2, W, 3W/2 and 2W: the mean of their normalised scores.
    Panel,
}

impl Cin {
    /// The input widths at a base width, ascending.
    #[must_use]
    pub fn widths(self, base: u32, expand: u32) -> Vec<u32> {
        let mut widths = match self {
            Self::Base => vec![base],
            Self::Expanded => vec![expand * base],
            Self::Panel => vec![(base / 2).max(1), base, base + base / 2, 2 * base],
        };
        widths.dedup();
        widths
    }

    /// The layers that a stage's width list is chosen from: for each stage one list per input width,
    /// each with all output widths ascending.
    #[must_use]
    pub fn layers(self, family: &Family, expand: u32) -> Vec<Vec<Vec<Layer>>> {
        let at = |stage: &Vec<Layer>, cin: u32| stage.iter().map(|layer| Layer { cin, ..*layer }).collect();
        space_layers(family, expand)
            .iter()
            .map(|stage| {
                let base = stage.first().map_or(1, |layer| layer.cin);
                self.widths(base, expand).into_iter().map(|cin| at(stage, cin)).collect()
            })
            .collect()
    }
}

impl std::fmt::Display for Cin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Base => "base",
            Self::Expanded => "expanded",
            Self::Panel => "panel",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panel_is_four_curves_around_the_base() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let panel = Cin::Panel.layers(&family, 2);
        let cins: Vec<u32> = panel[1].iter().map(|curve| curve[0].cin).collect();
        assert_eq!(cins, [16, 32, 48, 64]);
        assert!(panel[1].iter().all(|curve| curve.len() == 64));
        assert_eq!(Cin::Base.layers(&family, 2)[2], [space_layers(&family, 2)[2].clone()]);
        assert_eq!(Cin::Expanded.layers(&family, 2)[0][0][0].cin, 32);
    }
}
