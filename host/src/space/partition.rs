//! N knobs, each cut into intervals: their product is a partition into cells, and each cell gives the
//! space one choice.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::SpaceError;

/// Whole numbers from `lo` to `hi`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interval {
    /// The smallest.
    pub lo: u32,
    /// The largest.
    pub hi: u32,
}

impl fmt::Display for Interval {
    /// `1..4`, or `8` where there is one number only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lo == self.hi { write!(f, "{}", self.lo) } else { write!(f, "{}..{}", self.lo, self.hi) }
    }
}

/// One thing that can be chosen: width, heads, kernel side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Knob {
    /// For people: `width`.
    pub name: String,
    /// Disjoint intervals, ascending.
    pub intervals: Vec<Interval>,
}

impl Knob {
    /// A knob cut at the given upper ends: `[4, 8, 16]` makes 1..4, 5..8 and 9..16.
    ///
    /// # Errors
    /// [`SpaceError::Intervals`] where the ends do not ascend from 1 on.
    pub fn up_to(name: impl Into<String>, ends: &[u32]) -> Result<Self, SpaceError> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let intervals = starts.zip(ends).map(|(before, &hi)| Interval { lo: before.saturating_add(1), hi });
        Self { name: name.into(), intervals: intervals.collect() }.checked()
    }

    /// 1 to `most` in `groups` groups of one size: X_j = {(j-1) most/g + 1 .. j most/g} (paper, Table 2).
    /// Where g does not divide `most`, sizes differ by one.
    ///
    /// # Errors
    /// [`SpaceError::Intervals`] for no group, or more groups than numbers.
    pub fn equal(name: impl Into<String>, most: u32, groups: u32) -> Result<Self, SpaceError> {
        let end = |group: u32| (u64::from(group) * u64::from(most) / u64::from(groups.max(1))) as u32;
        Self::up_to(name, &(1..=groups).map(end).collect::<Vec<_>>())
    }

    /// Single values, an interval each.
    ///
    /// # Errors
    /// [`SpaceError::Intervals`] where they do not ascend.
    pub fn values(name: impl Into<String>, values: &[u32]) -> Result<Self, SpaceError> {
        let intervals = values.iter().map(|&value| Interval { lo: value, hi: value }).collect();
        Self { name: name.into(), intervals }.checked()
    }

    fn checked(self) -> Result<Self, SpaceError> {
        let ordered = self.intervals.iter().all(|interval| interval.lo <= interval.hi)
            && self.intervals.windows(2).all(|pair| pair[0].hi < pair[1].lo);
        if ordered && !self.intervals.is_empty() { Ok(self) } else { Err(SpaceError::Intervals(self.name)) }
    }
}

/// A grid of cells over N knobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Partition {
    /// The knobs; a point has one coordinate for each, in this order.
    pub knobs: Vec<Knob>,
}

/// One cell: an interval of every knob.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cell(pub Vec<Interval>);

impl Partition {
    /// All cells; the last knob changes fastest.
    #[must_use]
    pub fn cells(&self) -> Vec<Cell> {
        self.knobs.iter().fold(vec![Cell(Vec::new())], |cells, knob| {
            let longer = |cell: &Cell, interval: &Interval| {
                Cell(cell.0.iter().copied().chain(std::iter::once(*interval)).collect())
            };
            cells.iter().flat_map(|cell| knob.intervals.iter().map(move |i| longer(cell, i))).collect()
        })
    }
}

impl Cell {
    /// Whether a point lies in the cell.
    #[must_use]
    pub fn contains(&self, point: &[u32]) -> bool {
        self.0.len() == point.len()
            && self.0.iter().zip(point).all(|(interval, x)| (interval.lo..=interval.hi).contains(x))
    }

    /// All points of the cell; the last coordinate changes fastest.
    #[must_use]
    pub fn points(&self) -> Vec<Vec<u32>> {
        self.0.iter().fold(vec![Vec::new()], |points, interval| {
            let longer = |point: &Vec<u32>, x: u32| {
                let mut point = point.clone();
                point.push(x);
                point
            };
            points.iter().flat_map(|point| (interval.lo..=interval.hi).map(|x| longer(point, x))).collect()
        })
    }
}

impl fmt::Display for Cell {
    /// `9..16 x 129..256`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&parts.join(" x "))
    }
}

/// `9x129`: a point for people.
#[must_use]
pub fn point_text(point: &[u32]) -> String {
    let parts: Vec<String> = point.iter().map(ToString::to_string).collect();
    parts.join("x")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_the_papers() {
        let knob = Knob::equal("width", 32, 8).unwrap();
        let text: Vec<String> = knob.intervals.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["1..4", "5..8", "9..12", "13..16", "17..20", "21..24", "25..28", "29..32"]);
        let uneven = Knob::equal("width", 10, 4).unwrap();
        assert_eq!(uneven.intervals.iter().map(|i| i.hi - i.lo + 1).collect::<Vec<_>>(), [2, 3, 2, 3]);
        assert!(matches!(Knob::equal("width", 4, 8), Err(SpaceError::Intervals(_))));
        assert!(matches!(Knob::equal("width", 4, 0), Err(SpaceError::Intervals(_))));
        assert!(matches!(Knob::values("kernel", &[5, 3]), Err(SpaceError::Intervals(_))));
    }

    #[test]
    fn cells_cover_every_point_once() {
        let knobs = vec![Knob::up_to("a", &[2, 5]).unwrap(), Knob::up_to("b", &[1, 3, 4]).unwrap()];
        let cells = Partition { knobs }.cells();
        assert_eq!(cells.len(), 6);
        let mut points: Vec<Vec<u32>> = cells.iter().flat_map(Cell::points).collect();
        assert!(points.iter().all(|point| cells.iter().filter(|cell| cell.contains(point)).count() == 1));
        points.sort();
        points.dedup();
        assert_eq!(points.len(), 20);
        assert_eq!(cells[1].to_string(), "1..2 x 2..3");
        assert!(!cells[0].contains(&[1]));
    }
}
