//! One choice of each cell: the point whose latency lies furthest below the fitted line.
//!
//! In: measured points of an N-knob grid, its partition, the feature x of a point, the rules. Out: the
//! line, the choices with what each stands on, the cells that have none. Nothing here knows what the
//! knobs are.
//!
//! ```text
//! f(x) = k x^alpha + b over all points          (paper, Eq. 1)
//! s    = f(x) - m - z se(m)                     (paper, Eq. 2, z = 0)
//! choice of a cell: argmax s; ties -> larger x
//! ```
//!
//! Two points are equal where their scores differ by no more than `tie` times their combined standard
//! error, sqrt(se_1^2 + se_2^2); with `tie` 0, the paper's rule, equal scores only. Equal points are
//! settled by x, and more are reported as tied than that, since a point that is just beyond `tie` today is
//! just within it at the next rerun. A rerun picks a point of larger x than today's choice where it comes
//! within `tie` of the best: reported are those within `report`. It picks one of smaller x only where
//! today's choice falls out of the tie and this one does not, so that its score exceeds the choice's:
//! reported are those that the choice leads by no more than `report - tie`.

use serde::{Deserialize, Serialize};

use super::SpaceError;
use super::partition::{Cell, Partition};
use super::rules::{Candidates, Rules};
use crate::latency::fit::{Fitted, Point, Weighting, least_squares};

/// A point of the grid with its latency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// One coordinate per knob.
    pub point: Vec<u32>,
    /// Latency m, ns.
    pub m_ns: f64,
    /// Its standard error, ns.
    pub se_ns: f64,
}

/// A measured point against the line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// One coordinate per knob.
    pub point: Vec<u32>,
    /// Its feature.
    pub x: f64,
    /// Latency m, ns.
    pub m_ns: f64,
    /// Standard error of m, ns.
    pub se_ns: f64,
    /// The line at x, ns.
    pub f_ns: f64,
    /// Score s, ns.
    pub score_ns: f64,
}

impl Scored {
    /// A measured point at its feature x against a line.
    pub(super) fn new(of: &Measured, x: f64, line: &Fitted, rules: &Rules) -> Self {
        let f_ns = line.fit.at(x);
        let score_ns = rules.z.mul_add(-of.se_ns, f_ns - of.m_ns);
        Self { point: of.point.clone(), x, m_ns: of.m_ns, se_ns: of.se_ns, f_ns, score_ns }
    }
}

/// A cell's choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The cell.
    pub cell: Cell,
    /// The chosen point.
    #[serde(flatten)]
    pub chosen: Scored,
    /// Other members of the cell that a rerun might choose: not separated as `report` says, or chosen by a
    /// replicate (see [`super::stability`]).
    pub tied: Vec<Vec<u32>>,
    /// Lead over the best member that is not tied, in combined standard errors; none without one.
    pub separation: Option<f64>,
    /// What would have been chosen but for the floor.
    pub below_floor: Option<Vec<u32>>,
    /// Probability that a rerun of the whole profile picks the same; see [`super::stability`].
    pub rerun_same: Option<f64>,
    /// What reruns pick instead, the likeliest first.
    pub rivals: Vec<Rival>,
}

impl Choice {
    /// Probability that a rerun picks this one, if it picks it or the likeliest rival.
    #[must_use]
    pub fn lead(&self) -> f64 {
        let same = self.rerun_same.unwrap_or(1.0);
        let rival = self.rivals.first().map_or(0.0, |rival| rival.probability);
        if same + rival > 0.0 { same / (same + rival) } else { 0.5 }
    }
}

/// A member that a rerun may pick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rival {
    /// The member.
    pub point: Vec<u32>,
    /// How probably.
    pub probability: f64,
}

/// Why a cell has no choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// None of its points was measured, or the constraint allows none.
    Empty,
    /// All lie below the floor.
    BelowFloor,
    /// Each is as slow as some point of larger x.
    Dominated,
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "nothing of it was measured",
            Self::BelowFloor => "all of it lies below the smallest width allowed",
            Self::Dominated => "wider ones are as fast",
        })
    }
}

/// A cell without a choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// The cell.
    pub cell: Cell,
    /// Why.
    pub reason: DropReason,
}

/// The line, the choices, and all points they were made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// The fitted line.
    pub fitted: Fitted,
    /// Choices, in the partition's order.
    pub choices: Vec<Choice>,
    /// Cells without one.
    pub dropped: Vec<Dropped>,
    /// All points, as given.
    pub curve: Vec<Scored>,
}

/// Chooses one point of every cell.
///
/// # Errors
/// [`SpaceError`] where the points make no line, or have another number of knobs.
pub fn select(
    points: &[Measured],
    partition: &Partition,
    feature: impl Fn(&[u32]) -> f64,
    rules: &Rules,
) -> Result<Selection, SpaceError> {
    check_knobs(points, partition)?;
    let on_line = |of: &Measured| Point { x: feature(&of.point), ns: of.m_ns, se_ns: of.se_ns };
    let line: Vec<Point> = points.iter().map(on_line).collect();
    let fitted = least_squares(&line, rules.alpha, Weighting::Equal)?;
    select_below(fitted, points, partition, feature, rules)
}

/// As [`select`], below a line that is known already.
///
/// # Errors
/// [`SpaceError`] where the points have another number of knobs.
pub fn select_below(
    fitted: Fitted,
    points: &[Measured],
    partition: &Partition,
    feature: impl Fn(&[u32]) -> f64,
    rules: &Rules,
) -> Result<Selection, SpaceError> {
    check_knobs(points, partition)?;
    let curve: Vec<Scored> =
        points.iter().map(|of| Scored::new(of, feature(&of.point), &fitted, rules)).collect();
    let open = match rules.candidates {
        Candidates::All => vec![true; curve.len()],
        Candidates::Staircase => staircase(&curve, rules.tie),
    };
    let (mut choices, mut dropped) = (Vec::new(), Vec::new());
    for cell in partition.cells() {
        let members: Vec<(&Scored, bool)> =
            curve.iter().zip(open.iter().copied()).filter(|(of, _)| cell.contains(&of.point)).collect();
        match choose(&cell, &members, rules) {
            Ok(choice) => choices.push(choice),
            Err(reason) => dropped.push(Dropped { cell, reason }),
        }
    }
    Ok(Selection { fitted, choices, dropped, curve })
}

fn check_knobs(points: &[Measured], partition: &Partition) -> Result<(), SpaceError> {
    let knobs = partition.knobs.len();
    match points.iter().find(|measured| measured.point.len() != knobs) {
        Some(odd) => Err(SpaceError::Knobs { knobs, given: odd.point.len() }),
        None => Ok(()),
    }
}

fn choose(cell: &Cell, members: &[(&Scored, bool)], rules: &Rules) -> Result<Choice, DropReason> {
    let above_floor = |of: &Scored| of.point.iter().all(|&x| x >= rules.floor);
    let list = |allowed: &dyn Fn(&Scored, bool) -> bool| -> Vec<&Scored> {
        members.iter().filter(|(of, open)| allowed(of, *open)).map(|(of, _)| *of).collect()
    };
    let allowed = list(&|of, open| open && above_floor(of));
    let Some((best, chosen)) = best_and_chosen(&allowed, rules) else {
        return Err(if members.is_empty() {
            DropReason::Empty
        } else if members.iter().any(|(of, _)| above_floor(of)) {
            DropReason::Dominated
        } else {
            DropReason::BelowFloor
        });
    };
    let lead = |of: &Scored| best.score_ns - of.score_ns;
    let (tied, rest): (Vec<&Scored>, Vec<&Scored>) =
        allowed.iter().copied().partition(|of| may_be_chosen(of, best, chosen, rules));
    let others = tied.iter().filter(|of| of.point != chosen.point);
    let unfloored = best_and_chosen(&list(&|_, open| open), rules).map(|(_, chosen)| chosen.point.clone());
    Ok(Choice {
        cell: cell.clone(),
        chosen: chosen.clone(),
        tied: others.map(|of| of.point.clone()).collect(),
        separation: rest
            .iter()
            .map(|of| lead(of) / combined(best, of))
            .min_by(f64::total_cmp)
            .filter(|lead| lead.is_finite()),
        below_floor: unfloored.filter(|point| point.iter().any(|&x| x < rules.floor)),
        rerun_same: None,
        rivals: Vec::new(),
    })
}

/// Whether a rerun might choose this member instead.
fn may_be_chosen(of: &Scored, best: &Scored, chosen: &Scored, rules: &Rules) -> bool {
    let behind = |first: &Scored, errors: f64| first.score_ns - of.score_ns <= errors * combined(first, of);
    let larger = by_x(of, chosen).is_gt();
    behind(best, rules.tie)
        || if larger { behind(best, rules.report) } else { behind(chosen, rules.report - rules.tie) }
}

/// The best score, and the widest of those that equal it; none of no members.
pub(super) fn best_and_chosen<'a>(members: &[&'a Scored], rules: &Rules) -> Option<(&'a Scored, &'a Scored)> {
    let best = best(members)?;
    let equals =
        members.iter().copied().filter(|of| best.score_ns - of.score_ns <= rules.tie * combined(best, of));
    // The best itself is among the equals, so there is a widest.
    let chosen = equals.max_by(|a, b| by_x(a, b)).unwrap_or(best);
    Some((best, chosen))
}

fn best<'a>(members: &[&'a Scored]) -> Option<&'a Scored> {
    members.iter().copied().max_by(|a, b| a.score_ns.total_cmp(&b.score_ns).then(by_x(a, b)))
}

/// By x; points of one x (2x3 and 3x2) by their coordinates, so that the outcome is one.
fn by_x(a: &Scored, b: &Scored) -> std::cmp::Ordering {
    a.x.total_cmp(&b.x).then_with(|| a.point.cmp(&b.point))
}

pub(super) fn combined(a: &Scored, b: &Scored) -> f64 {
    a.se_ns.hypot(b.se_ns)
}

/// Whether each point is the widest of its latency level: no wider one is as fast, within a tie.
fn staircase(curve: &[Scored], tie: f64) -> Vec<bool> {
    let beaten = |of: &Scored| {
        let wider = curve.iter().filter(|other| other.x > of.x);
        wider.into_iter().any(|other| other.m_ns <= tie.mul_add(combined(of, other), of.m_ns))
    };
    curve.iter().map(|of| !beaten(of)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::partition::Knob;
    use super::*;
    use crate::latency::fit::PowerFit;

    fn widths(groups: u32, ns: &[f64], se_ns: f64) -> (Vec<Measured>, Partition) {
        let points = (1..).zip(ns).map(|(x, &m_ns)| Measured { point: vec![x], m_ns, se_ns });
        let knob = Knob::equal("width", ns.len() as u32, groups).unwrap();
        (points.collect(), Partition { knobs: vec![knob] })
    }

    fn chosen(selection: &Selection) -> Vec<u32> {
        selection.choices.iter().map(|choice| choice.chosen.point[0]).collect()
    }

    fn x(point: &[u32]) -> f64 {
        f64::from(point[0])
    }

    const PLAIN: Rules = Rules { tie: 0.0, report: 0.0, z: 0.0, floor: 1, ..Rules::project() };

    #[test]
    fn the_argmax_wins_and_ties_go_to_the_wider() {
        // f is 10 x + 100 by symmetry; width 2 is 5 faster, 5 and 6 equally 5 slower.
        let (points, partition) = widths(2, &[110.0, 115.0, 130.0, 140.0, 155.0, 160.0], 0.0);
        let found = select(&points, &partition, x, &Rules::paper()).unwrap();
        assert_eq!(chosen(&found), [2, 6]);
        assert!(found.choices.iter().all(|choice| choice.tied.is_empty()));
        let level = vec![Measured { point: vec![1], m_ns: 5.0, se_ns: 0.0 }; 1];
        let more = (2..=4).map(|x| Measured { point: vec![x], m_ns: 5.0, se_ns: 0.0 });
        let flat: Vec<Measured> = level.into_iter().chain(more).collect();
        let knob = Knob::equal("width", 4, 1).unwrap();
        let found = select(&flat, &Partition { knobs: vec![knob] }, x, &Rules::paper()).unwrap();
        assert_eq!((chosen(&found), found.choices[0].tied.len()), (vec![4], 3));
    }

    #[test]
    fn what_is_not_separated_is_called_a_tie() {
        let ns = [100.0, 108.0, 109.5, 130.0];
        let (points, partition) = widths(1, &ns, 1.0);
        let found = select(&points, &partition, x, &Rules { tie: 2.0, ..PLAIN }).unwrap();
        let choice = &found.choices[0];
        assert_eq!(choice.chosen.point, [3]);
        assert!(choice.tied.is_empty() && choice.separation.unwrap() > 2.0, "{choice:?}");
        let (points, partition) = widths(1, &ns, 4.0);
        let found = select(&points, &partition, x, &Rules { tie: 2.0, ..PLAIN }).unwrap();
        assert_eq!(
            found.choices[0].tied,
            [[2], [1]].map(|point| point.to_vec()).into_iter().rev().collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_narrower_point_is_reported_where_it_might_beat_the_choice_and_a_wider_one_where_it_might_tie() {
        // Below a line of 100, by combined errors of sqrt(2^2 + 2^2) ns.
        let ns = [-3.1, 0.0, -4.9].map(|errors: f64| errors.mul_add(-8f64.sqrt(), 100.0));
        let (points, partition) = widths(1, &ns, 2.0);
        let fitted = select(&points, &partition, x, &PLAIN).unwrap().fitted;
        let line = Fitted { fit: PowerFit::constant(100.0), ..fitted };
        let rules = Rules { tie: 2.0, report: 5.0, ..PLAIN };
        let found = select_below(line, &points, &partition, x, &rules).unwrap();
        assert_eq!((chosen(&found), found.choices[0].tied.clone()), (vec![2], vec![vec![3]]));
    }

    #[test]
    fn a_point_not_known_well_has_to_be_better() {
        let (mut points, partition) = widths(1, &[100.0, 107.0, 119.0, 130.0], 0.1);
        let rules = Rules { z: 1.0, ..PLAIN };
        assert_eq!(chosen(&select(&points, &partition, x, &rules).unwrap()), [2]);
        points[1].se_ns = 50.0;
        assert_ne!(chosen(&select(&points, &partition, x, &rules).unwrap()), [2]);
    }

    #[test]
    fn the_floor_moves_or_empties_a_cell_and_says_so() {
        let (points, partition) = widths(2, &[50.0, 115.0, 125.0, 140.0, 155.0, 160.0, 170.0, 180.0], 0.0);
        let found = select(&points, &partition, x, &Rules { floor: 4, ..PLAIN }).unwrap();
        assert_eq!((chosen(&found)[0], found.choices[0].below_floor.clone()), (4, Some(vec![1])));
        assert_eq!(found.choices[1].below_floor, None);
        let (points, partition) = widths(4, &[50.0, 115.0, 125.0, 140.0, 155.0, 160.0, 170.0, 180.0], 0.0);
        let found = select(&points, &partition, x, &Rules { floor: 4, ..PLAIN }).unwrap();
        assert_eq!(found.choices.len(), 3);
        assert_eq!(found.dropped[0].reason, DropReason::BelowFloor);
        assert_eq!(found.dropped[0].cell.to_string(), "1..2");
    }

    #[test]
    fn the_staircase_keeps_the_widest_of_a_level() {
        let ns: Vec<f64> =
            (1..=16).map(|x: u32| f64::from(x.div_ceil(8)) * 70.0 + f64::from(x % 3) * 0.1).collect();
        let (points, partition) = widths(4, &ns, 0.2);
        let rules = Rules { candidates: Candidates::Staircase, tie: 2.0, ..PLAIN };
        let found = select(&points, &partition, x, &rules).unwrap();
        assert_eq!(chosen(&found), [8, 16]);
        assert!(found.dropped.iter().all(|dropped| dropped.reason == DropReason::Dominated));
    }

    #[test]
    fn points_of_another_grid_and_unmeasured_cells_are_told() {
        let (points, partition) = widths(2, &[1.0, 2.0, 4.0, 4.0], 0.0);
        let two = Partition { knobs: [partition.knobs.clone(), partition.knobs.clone()].concat() };
        let error = select(&points, &two, x, &PLAIN).unwrap_err();
        assert_eq!(error, SpaceError::Knobs { knobs: 2, given: 1 });
        let found = select(&points[..2], &partition, x, &PLAIN).unwrap();
        assert_eq!(found.dropped[0].reason, DropReason::Empty);
    }
}
