//! HGNAS's hardware-aware space (ALGORITHM 2.5): heads and hidden size of a graph attention layer, two
//! knobs in 42 cells. The graph nets of Wang et al. 2023, not the "HGNAS" of Zhou et al. for point
//! clouds.

use super::SpaceError;
use super::partition::{Knob, Partition};

/// Pairs whose product is larger are left out.
pub const MAX_PRODUCT: u32 = 1_280;

/// The 42 cells over (heads, dim).
///
/// # Errors
/// None in fact; the intervals are constants.
pub fn partition() -> Result<Partition, SpaceError> {
    Ok(Partition {
        knobs: vec![
            Knob::up_to("heads", &[1, 2, 4, 6, 8, 16])?,
            Knob::up_to("dim", &[4, 8, 16, 32, 64, 128, 256])?,
        ],
    })
}

/// Whether a pair of heads and dim belongs to the space.
#[must_use]
pub fn allowed(point: &[u32]) -> bool {
    point.iter().product::<u32>() <= MAX_PRODUCT
}

/// x of a pair: heads times dim, the layer's output width.
#[must_use]
pub fn feature(point: &[u32]) -> f64 {
    f64::from(point.iter().product::<u32>())
}

#[cfg(test)]
mod tests {
    use super::super::partition::Cell;
    use super::super::select::{DropReason, Measured, Rules, select};
    use super::*;

    fn pairs(cell: &Cell) -> Vec<Vec<u32>> {
        cell.points().into_iter().filter(|point| allowed(point)).collect()
    }

    #[test]
    fn there_are_42_cells_and_2681_pairs() {
        let cells = partition().unwrap().cells();
        assert_eq!(cells.len(), 42);
        let counts: Vec<usize> = cells.iter().map(|cell| pairs(cell).len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 2_681);
        assert!(counts.iter().all(|&count| count > 0));
        let worst = cells.iter().zip(&counts).find(|(cell, _)| cell.to_string() == "9..16 x 129..256");
        assert_eq!(worst.map(|(_, &count)| count), Some(14));
    }

    #[test]
    fn a_planted_pair_wins_in_every_cell() {
        let partition = partition().unwrap();
        let planted: Vec<Vec<u32>> =
            partition.cells().iter().map(|cell| pairs(cell).swap_remove(0)).collect();
        let measure = |point: Vec<u32>| {
            let saved = if planted.contains(&point) { 3e5 } else { 0.0 };
            Measured { m_ns: 2e6 + 1_000.0 * feature(&point) - saved, se_ns: 1_000.0, point }
        };
        let points: Vec<Measured> = partition.cells().iter().flat_map(pairs).map(measure).collect();
        let rules = Rules { floor: 1, ..Rules::project() };
        let found = select(&points, &partition, feature, &rules).unwrap();
        let chosen: Vec<Vec<u32>> = found.choices.iter().map(|choice| choice.chosen.point.clone()).collect();
        assert_eq!(chosen, planted);
        assert!((found.fitted.fit.k_ns / 1_000.0 - 1.0).abs() < 0.1);
        // A tighter limit empties the last cell, which is told and not fatal.
        let tight: Vec<Measured> = points.into_iter().filter(|of| feature(&of.point) <= 1_100.0).collect();
        let found = select(&tight, &partition, feature, &rules).unwrap();
        assert_eq!((found.choices.len(), found.dropped.len()), (41, 1));
        assert_eq!(found.dropped[0].reason, DropReason::Empty);
        assert_eq!(found.dropped[0].cell.to_string(), "9..16 x 129..256");
    }
}
