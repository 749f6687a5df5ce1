//! Which pairs of heads and dim to measure next, so that a share of them makes the choices that all would
//! make (ALGORITHM 2.5).
//!
//! In: what was measured so far. Out: the pairs whose measuring may change a cell's choice, the likeliest
//! first; none where every pair that was not measured would win its cell with a probability below
//! `doubt`. Latencies that were not measured are guessed ([`GraphField`]), with an error; the line of the
//! scores runs through measured and guessed ones together, as it would through all.

use std::collections::{BTreeMap, BTreeSet};

use super::SpaceError;
use super::hgnas::{by_cell, feature, some_pairs};
use super::rules::Rules;
use super::select::{Measured, Scored, best_and_chosen};
use crate::latency::fit::{Fitted, Point, Weighting, least_squares};
use crate::latency::graph_field::{GraphField, Guess};
use crate::latency::trend::upper_tail;

/// Pairs of a cell that are measured before anything is guessed.
const START_PER_CELL: usize = 4;
/// Pairs of a cell that are asked for at once.
const PER_CELL: usize = 2;
/// Probability of changing a cell's choice below which a pair is not measured.
pub const DOUBT: f64 = 0.05;

/// A measured latency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Latency, ns.
    pub ns: f64,
    /// Its standard error, ns.
    pub se_ns: f64,
}

/// Asks for pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adaptive {
    /// Pairs to end at, at most.
    pub budget: usize,
    /// See [`DOUBT`].
    pub doubt: f64,
    /// Seed of the first pairs.
    pub seed: u64,
    /// How choices are made.
    pub rules: Rules,
}

/// A pair that may change a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rival {
    pair: [u32; 2],
    probability: f64,
}

impl Adaptive {
    /// The pairs to measure next. Those in `asked` are not asked for again: what is in there and not in
    /// `known` cannot be measured.
    ///
    /// # Errors
    /// [`SpaceError`] where the measurements make no line.
    pub fn next(
        &self,
        known: &BTreeMap<[u32; 2], Known>,
        asked: &BTreeSet<[u32; 2]>,
    ) -> Result<Vec<[u32; 2]>, SpaceError> {
        let room = self.budget.saturating_sub(known.len());
        let cells = by_cell()?;
        let start = some_pairs(START_PER_CELL * cells.len(), self.seed)?;
        let is_open = |pair: &[u32; 2]| !known.contains_key(pair) && !asked.contains(pair);
        let first: Vec<[u32; 2]> = start.into_iter().filter(is_open).take(room).collect();
        if !first.is_empty() || room == 0 {
            return Ok(first);
        }
        let Some(surface) = Surface::new(known)? else { return Ok(Vec::new()) };
        let mut rivals: Vec<Rival> = Vec::new();
        for cell in &cells {
            let mut of_cell = self.rivals(cell, known, &surface);
            of_cell.retain(|rival| rival.probability >= self.doubt && is_open(&rival.pair));
            of_cell.truncate(PER_CELL);
            rivals.extend(of_cell);
        }
        rivals.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        Ok(rivals.into_iter().take(room).map(|rival| rival.pair).collect())
    }

    /// The pairs of a cell that were not measured, with the probabilities to become its choice.
    fn rivals(&self, cell: &[[u32; 2]], known: &BTreeMap<[u32; 2], Known>, surface: &Surface) -> Vec<Rival> {
        let scored: Vec<Scored> = cell
            .iter()
            .filter_map(|pair| Some((pair, known.get(pair)?)))
            .map(|(pair, of)| {
                let measured = Measured { point: pair.to_vec(), m_ns: of.ns, se_ns: of.se_ns };
                Scored::new(&measured, feature(pair), &surface.line, &self.rules)
            })
            .collect();
        let holder = best_and_chosen(&scored.iter().collect::<Vec<_>>(), &self.rules);
        let mut rivals: Vec<Rival> = Vec::new();
        for pair in cell.iter().filter(|pair| !known.contains_key(*pair)) {
            let probability = match holder {
                // Nothing of the cell could be measured yet.
                None => 1.0,
                Some((best, chosen)) => {
                    let Guess { ns, sd_ns } = surface.guess(pair);
                    let x = feature(pair);
                    // It will be known about as well as the one that it has to beat.
                    let score = self.rules.z.mul_add(-best.se_ns, surface.line.fit.at(x) - ns);
                    let tie = if x > chosen.x { self.rules.tie * best.se_ns.hypot(best.se_ns) } else { 0.0 };
                    let z = (best.score_ns - tie - score) / sd_ns.hypot(best.se_ns).max(f64::MIN_POSITIVE);
                    if z < 0.0 { 1.0 - upper_tail(-z) } else { upper_tail(z) }
                }
            };
            rivals.push(Rival { pair: *pair, probability });
        }
        rivals.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        rivals
    }
}

/// All latencies, measured or guessed, and the line through them.
#[derive(Debug, Clone)]
pub struct Surface {
    /// The line.
    pub line: Fitted,
    guesses: BTreeMap<[u32; 2], Guess>,
}

impl Surface {
    /// From what was measured; none where that allows no guess.
    ///
    /// # Errors
    /// [`SpaceError`] where the latencies make no line.
    pub fn new(known: &BTreeMap<[u32; 2], Known>) -> Result<Option<Self>, SpaceError> {
        let all = by_cell()?.concat();
        let unknown: Vec<[u32; 2]> = all.into_iter().filter(|pair| !known.contains_key(pair)).collect();
        let measured = |(pair, of): (&[u32; 2], &Known)| point(pair, of.ns, of.se_ns);
        let mut points: Vec<Point> = known.iter().map(measured).collect();
        let mut guesses = BTreeMap::new();
        if !unknown.is_empty() {
            let list: Vec<([u32; 2], f64)> = known.iter().map(|(pair, of)| (*pair, of.ns)).collect();
            let Some(field) = GraphField::new(&list) else { return Ok(None) };
            for pair in unknown {
                let guess = field.at(pair);
                points.push(point(&pair, guess.ns, guess.sd_ns));
                guesses.insert(pair, guess);
            }
        }
        Ok(Some(Self { line: least_squares(&points, 1.0, Weighting::Equal)?, guesses }))
    }

    /// What a pair that was not measured is guessed to take.
    fn guess(&self, pair: &[u32; 2]) -> Guess {
        self.guesses.get(pair).copied().unwrap_or(Guess { ns: 0.0, sd_ns: 0.0 })
    }
}

fn point(pair: &[u32; 2], ns: f64, se_ns: f64) -> Point {
    Point { x: feature(pair), ns, se_ns }
}

/// How a replay of adaptive sampling on measurements of all pairs went.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Replay {
    /// Pairs that it asked for.
    pub measured: usize,
    /// Pairs there are.
    pub all: usize,
    /// Cells whose choice is that of all pairs.
    pub same: usize,
    /// Cells whose choice is that of all pairs or is not told apart from it by all measurements: their
    /// scores differ by no more than [`Rules::report`] combined errors.
    pub same_or_tied: usize,
    /// Cells.
    pub cells: usize,
    /// Mean over the cells of the score lost, as a share of the choice's latency.
    pub mean_loss: f64,
    /// The same for as many pairs dealt out evenly over the cells.
    pub even_same: usize,
    /// See [`Replay::same_or_tied`], dealt out evenly.
    pub even_same_or_tied: usize,
    /// See [`Replay::mean_loss`], dealt out evenly.
    pub even_mean_loss: f64,
}

/// Runs adaptive sampling on measurements that are all there already, and holds its choices against those
/// of all pairs.
///
/// # Errors
/// [`SpaceError`] where the measurements make no line.
pub fn replay(all: &BTreeMap<[u32; 2], Known>, adaptive: &Adaptive) -> Result<Replay, SpaceError> {
    let (mut known, mut asked) = (BTreeMap::new(), BTreeSet::new());
    loop {
        let next = adaptive.next(&known, &asked)?;
        if next.is_empty() {
            break;
        }
        known.extend(next.iter().filter_map(|pair| Some((*pair, *all.get(pair)?))));
        asked.extend(next);
    }
    let even: BTreeMap<[u32; 2], Known> = some_pairs(known.len(), adaptive.seed)?
        .into_iter()
        .filter_map(|pair| Some((pair, *all.get(&pair)?)))
        .collect();
    let judge = Judge::new(all, &adaptive.rules)?;
    let found = judge.compare(&known)?;
    let dealt = judge.compare(&even)?;
    Ok(Replay {
        measured: known.len(),
        all: all.len(),
        same: found.same,
        same_or_tied: found.same_or_tied,
        cells: judge.wanted.len(),
        mean_loss: found.mean_loss,
        even_same: dealt.same,
        even_same_or_tied: dealt.same_or_tied,
        even_mean_loss: dealt.mean_loss,
    })
}

/// What all measurements say.
struct Judge<'a> {
    rules: &'a Rules,
    cells: Vec<Vec<[u32; 2]>>,
    scores: BTreeMap<[u32; 2], Scored>,
    /// The choice of every cell that has one.
    wanted: Vec<(usize, [u32; 2])>,
}

struct Comparison {
    same: usize,
    same_or_tied: usize,
    mean_loss: f64,
}

impl<'a> Judge<'a> {
    fn new(all: &BTreeMap<[u32; 2], Known>, rules: &'a Rules) -> Result<Self, SpaceError> {
        let cells = by_cell()?;
        let scores = scores(all, rules)?;
        let wanted = chosen(&cells, &scores, rules);
        Ok(Self { rules, cells, scores, wanted })
    }

    fn compare(&self, some: &BTreeMap<[u32; 2], Known>) -> Result<Comparison, SpaceError> {
        let found: BTreeMap<usize, [u32; 2]> =
            chosen(&self.cells, &scores(some, self.rules)?, self.rules).into_iter().collect();
        let (mut same, mut same_or_tied, mut loss) = (0, 0, 0.0);
        for (cell, wanted) in &self.wanted {
            let Some(found) = found.get(cell) else { continue };
            let (wanted, found) = (&self.scores[wanted], &self.scores[found]);
            let lost = wanted.score_ns - found.score_ns;
            same += usize::from(wanted.point == found.point);
            let tied = lost.abs() <= self.rules.report * wanted.se_ns.hypot(found.se_ns);
            same_or_tied += usize::from(tied || wanted.point == found.point);
            loss += lost / wanted.m_ns;
        }
        Ok(Comparison { same, same_or_tied, mean_loss: loss / self.wanted.len().max(1) as f64 })
    }
}

fn scores(
    known: &BTreeMap<[u32; 2], Known>,
    rules: &Rules,
) -> Result<BTreeMap<[u32; 2], Scored>, SpaceError> {
    let line = match Surface::new(known)? {
        Some(surface) => surface.line,
        None => {
            let measured = known.iter().map(|(pair, of)| point(pair, of.ns, of.se_ns));
            least_squares(&measured.collect::<Vec<_>>(), 1.0, Weighting::Equal)?
        }
    };
    let scored = |(pair, of): (&[u32; 2], &Known)| {
        let measured = Measured { point: pair.to_vec(), m_ns: of.ns, se_ns: of.se_ns };
        (*pair, Scored::new(&measured, feature(pair), &line, rules))
    };
    Ok(known.iter().map(scored).collect())
}

fn chosen(
    cells: &[Vec<[u32; 2]>],
    scores: &BTreeMap<[u32; 2], Scored>,
    rules: &Rules,
) -> Vec<(usize, [u32; 2])> {
    let choice = |cell: &Vec<[u32; 2]>| -> Option<[u32; 2]> {
        let members: Vec<&Scored> = cell.iter().filter_map(|pair| scores.get(pair)).collect();
        let (_, chosen) = best_and_chosen(&members, rules)?;
        <[u32; 2]>::try_from(chosen.point.as_slice()).ok()
    };
    cells.iter().enumerate().filter_map(|(place, cell)| Some((place, choice(cell)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::hgnas::pairs;
    use super::*;
    use crate::latency::synthetic::{normal, rng};

    /// A device with tiles of 8 values of a head and of 16 of a row, measured with an error of 0.3%.
    fn device(seed: u64) -> BTreeMap<[u32; 2], Known> {
        let mut rng = rng(seed);
        let mut known = |pair: [u32; 2]| {
            let [heads, dim] = pair;
            let ns = 2e6
                + 6e3 * f64::from(heads * dim.div_ceil(8) * 8)
                + 3e3 * f64::from((heads * dim).div_ceil(16) * 16)
                + 2e4 * f64::from(heads);
            let ns = ns * 0.003f64.mul_add(normal(&mut rng), 1.0);
            (pair, Known { ns, se_ns: 0.003 * ns })
        };
        pairs().unwrap().into_iter().map(&mut known).collect()
    }

    const RULES: Rules = Rules { floor: 1, ..Rules::project() };

    #[test]
    fn a_share_of_the_pairs_makes_the_choices_of_all() {
        let adaptive = Adaptive { budget: 700, doubt: DOUBT, seed: 1, rules: RULES };
        let found = replay(&device(1), &adaptive).unwrap();
        assert_eq!((found.all, found.cells), (2_681, 42));
        assert!(found.measured <= 700 && found.same_or_tied >= 41, "{found:?}");
        assert!(found.same > found.even_same && found.mean_loss.abs() < 2e-3, "{found:?}");
    }

    #[test]
    fn a_budget_is_kept_and_what_cannot_be_measured_is_not_asked_for_again() {
        let adaptive = Adaptive { budget: 50, doubt: DOUBT, seed: 1, rules: RULES };
        let first = adaptive.next(&BTreeMap::new(), &BTreeSet::new()).unwrap();
        assert_eq!(first, some_pairs(50, 1).unwrap());
        let asked: BTreeSet<[u32; 2]> = first.into_iter().collect();
        let all = device(2);
        let known: BTreeMap<[u32; 2], Known> = asked.iter().skip(3).map(|pair| (*pair, all[pair])).collect();
        let next = adaptive.next(&known, &asked).unwrap();
        assert!(next.len() == 3 && next.iter().all(|pair| !asked.contains(pair)), "{next:?}");
    }
}
