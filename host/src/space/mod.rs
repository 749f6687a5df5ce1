//! Estimates and fits -> the hardware-aware space: which widths are worth searching.
//!
//! - [`partition`]: N knobs cut into cells;
//! - [`rules`]: how choices are made, the paper's way and the project's;
//! - [`select`]: one choice of each cell, by its distance from the fitted line;
//! - [`open`]: which choices are still undecided, and what would settle them;
//! - [`stability`]: how likely a rerun chooses the same;
//! - [`racing`]: measures again only what decides a choice;
//! - [`confirm`]: which layers have to be seen undisturbed before that;
//! - [`reach`]: which open choices a race can settle with what is left of its budget;
//! - [`reruns`]: whether whole profiles, made again, chose the same;
//! - [`htas`]: N = 1, the widths of a convnet family by stage;
//! - [`hgnas`]: N = 2, heads and hidden size of graph attention;
//! - [`adaptive`]: which pairs of heads and dim to measure next;
//! - [`width`]: the width choices of a convnet family's stages, measured or by rule.

pub mod adaptive;
pub mod confirm;
pub mod hgnas;
pub mod htas;
pub mod open;
pub mod partition;
pub mod racing;
pub mod reach;
pub mod reruns;
pub mod rules;
pub mod select;
pub mod stability;
pub mod width;

use crate::latency::LatencyError;

/// What makes no space.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpaceError {
    /// A knob's intervals overlap, do not ascend, or there are none.
    #[error("the groups of {0} do not ascend; there must be at least one and no more than there are values")]
    Intervals(String),
    /// A point has another number of coordinates than the partition has knobs.
    #[error("a point has {given} coordinates, the space has {knobs} knobs")]
    Knobs {
        /// Knobs of the partition.
        knobs: usize,
        /// Coordinates of the point.
        given: usize,
    },
    /// A stage, counted from 1, has no samples.
    #[error("no candidate of stage {stage} was measured; `hanas profile` does that")]
    Unmeasured {
        /// The stage.
        stage: usize,
    },
    /// A graph has no samples of reference nets.
    #[error("no pair of heads and dim was measured on {graph}; `hanas graph profile` does that")]
    NoPairs {
        /// The graph's name.
        graph: String,
    },
    /// The samples or points allow no estimate or line.
    #[error(transparent)]
    Latency(#[from] LatencyError),
}

#[cfg(test)]
mod tests {
    use super::partition::{Knob, Partition};
    use super::rules::Rules;
    use super::select::{Measured, select};

    /// N = 3: width x kernel side x resolution, with a device that likes widths of 8 and kernel 3.
    #[test]
    fn three_knobs_go_through_the_same_code() {
        let partition = Partition {
            knobs: vec![
                Knob::equal("width", 16, 2).unwrap(),
                Knob::values("kernel", &[1, 3, 5]).unwrap(),
                Knob::values("resolution", &[16, 32]).unwrap(),
            ],
        };
        let work = |point: &[u32]| f64::from(point[0] * point[1].pow(2) * point[2].pow(2));
        let measure = |point: Vec<u32>| {
            let padded = [point[0].div_ceil(8) * 8, point[1], point[2]];
            Measured { m_ns: 5_000.0 + 3.0 * work(&padded), se_ns: 10.0, point }
        };
        let points: Vec<Measured> =
            partition.cells().iter().flat_map(|cell| cell.points()).map(measure).collect();
        assert_eq!(points.len(), 96);
        let rules = Rules { floor: 1, ..Rules::project() };
        let found = select(&points, &partition, work, &rules).unwrap();
        let widths: Vec<u32> = found.choices.iter().map(|choice| choice.chosen.point[0]).collect();
        assert_eq!(widths, [8, 8, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16]);
        assert_eq!(found.choices[7].cell.to_string(), "9..16 x 1 x 32");
    }
}
