//! Would a rerun of the profile choose the same?
//!
//! In: the raw visits behind a selection. Out: for each choice and for all of them together, the share
//! of replicates that agree. A replicate draws every point's visits anew with replacement (block
//! bootstrap, as in [`estimate`](mod@crate::latency::estimate)), fits the line again and chooses again by
//! the same rules. Points are drawn independently, which leaves out what a round does to all points
//! alike; that moves the line with them and so changes little. Standard errors keep their values.
//!
//! A point's error is known from a handful of blocks; it is drawn towards what is usual among the points
//! (see [`moderated`](mod@crate::latency::moderated)), and replicates are stretched to the error that comes out.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::SpaceError;
use super::partition::Partition;
use super::rules::Rules;
use super::select::{Measured, Rival, Selection, select, select_below};
use crate::latency::estimate;
use crate::latency::estimate::{Blocks, Estimate, student};
use crate::latency::fit::Fitted;
use crate::latency::moderated::{Spread, moderated};
use crate::store::Visit;

/// Replicates; a probability is known to 3.5% or better.
pub const REPLICATES: usize = 200;

/// A point of the grid with all its visits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// One coordinate per knob.
    pub point: Vec<u32>,
    /// What its latency is the weighted sum of: one model with weight 1, or several (a panel).
    pub parts: Vec<Part>,
}

/// One model's visits and its weight in a point's latency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Weight.
    pub weight: f64,
    /// The visits.
    pub visits: Vec<Visit>,
}

impl Sampled {
    /// A point that stands for one model.
    #[must_use]
    pub fn single(point: Vec<u32>, visits: Vec<Visit>) -> Self {
        Self { point, parts: vec![Part { weight: 1.0, visits }] }
    }
}

/// How sure a set of choices is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// Probability of each choice to come out again.
    pub each: Vec<f64>,
    /// Probability of all to come out again.
    pub all: f64,
    /// Seed of the replicates.
    pub seed: u64,
}

impl Stability {
    /// How many of the choices come out again on average.
    #[must_use]
    pub fn mean_same(&self) -> f64 {
        self.each.iter().sum()
    }
}

/// The line that choices lie below, from measured points; none: the one through those points. Replicates
/// keep a line that is given.
pub type Line<'a> = &'a dyn Fn(&[Measured]) -> Result<Option<Fitted>, SpaceError>;

/// Estimates, chooses and tells how stable that is.
///
/// # Errors
/// [`SpaceError`] as [`select`], and for points without samples.
pub fn select_sampled(
    points: &[Sampled],
    clock_resolution_ns: u32,
    partition: &Partition,
    feature: impl Fn(&[u32]) -> f64,
    rules: &Rules,
    seed: u64,
    line: Line<'_>,
) -> Result<(Selection, Stability), SpaceError> {
    let (mut measured, parts) = known(points, clock_resolution_ns, rules)?;
    let line = line(&measured)?;
    let choose = |measured: &[Measured]| match line {
        Some(line) => select_below(line, measured, partition, &feature, rules),
        None => select(measured, partition, &feature, rules),
    };
    let mut selection = choose(&measured)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut same = vec![0_usize; selection.choices.len()];
    let mut others: Vec<BTreeMap<Vec<u32>, usize>> = vec![BTreeMap::new(); selection.choices.len()];
    let mut all = 0_usize;
    for _ in 0..REPLICATES {
        for (of, parts) in measured.iter_mut().zip(&parts) {
            of.m_ns = parts.iter().map(|part| part.replicate(rules, &mut rng)).sum();
        }
        let again = choose(&measured)?;
        let mut agreed = 0;
        for (at, choice) in selection.choices.iter().enumerate() {
            let Some(twin) = again.choices.iter().find(|other| other.cell == choice.cell) else { continue };
            if twin.chosen.point == choice.chosen.point {
                same[at] += 1;
                agreed += 1;
            } else {
                *others[at].entry(twin.chosen.point.clone()).or_default() += 1;
            }
        }
        all += usize::from(agreed == selection.choices.len());
    }
    let share = |count: usize| count as f64 / REPLICATES as f64;
    let each: Vec<f64> = same.into_iter().map(share).collect();
    for ((choice, &probability), others) in selection.choices.iter_mut().zip(&each).zip(others) {
        choice.rerun_same = Some(probability);
        let rivals = others.into_iter().map(|(point, count)| Rival { point, probability: share(count) });
        choice.rivals = rivals.collect();
        choice.rivals.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        for rival in &choice.rivals {
            if !choice.tied.contains(&rival.point) {
                choice.tied.push(rival.point.clone());
            }
        }
    }
    Ok((selection, Stability { each, all: share(all), seed }))
}

/// What is known of a part.
struct Known {
    weight: f64,
    blocks: Blocks,
    value_ns: f64,
    /// The moderated error over the blocks' own.
    stretch: f64,
}

impl Known {
    fn replicate(&self, rules: &Rules, rng: &mut ChaCha8Rng) -> f64 {
        let moved = self.blocks.replicate(rules.statistic, rng) - self.value_ns;
        self.weight * self.stretch.mul_add(moved, self.value_ns)
    }
}

/// Every point's latency with its moderated error, and its parts.
fn known(
    points: &[Sampled],
    clock_resolution_ns: u32,
    rules: &Rules,
) -> Result<(Vec<Measured>, Vec<Vec<Known>>), SpaceError> {
    let found: Result<Vec<Estimate>, _> = points
        .iter()
        .flat_map(|point| &point.parts)
        .map(|part| estimate(&part.visits, rules.statistic, clock_resolution_ns))
        .collect();
    let found = found?;
    let own_ns = |of: &Estimate| of.se_ns / student(of.freedom);
    let spread = |of: &Estimate| Spread {
        variance: (own_ns(of) / of.value_ns).powi(2),
        freedom: of.freedom.max(1) as f64,
    };
    let spreads: Vec<Spread> = found.iter().map(spread).collect();
    let mut errors = found.iter().zip(moderated(&spreads));
    let (mut measured, mut all) = (Vec::with_capacity(points.len()), Vec::with_capacity(points.len()));
    for Sampled { point, parts } in points {
        let (mut m_ns, mut variance, mut known) = (0.0, 0.0, Vec::with_capacity(parts.len()));
        for (Part { weight, visits }, (of, Spread { variance: relative, freedom })) in
            parts.iter().zip(&mut errors)
        {
            let se_ns = relative.sqrt() * of.value_ns * student(freedom.round() as usize);
            m_ns += weight * of.value_ns;
            variance += (weight * se_ns).powi(2);
            let own_ns = own_ns(of);
            let stretch = if own_ns > 0.0 { se_ns / own_ns } else { 1.0 };
            known.push(Known {
                weight: *weight,
                blocks: Blocks::new(visits)?,
                value_ns: of.value_ns,
                stretch,
            });
        }
        measured.push(Measured { point: point.clone(), m_ns, se_ns: variance.sqrt() });
        all.push(known);
    }
    Ok((measured, all))
}

#[cfg(test)]
mod tests {
    use super::super::partition::Knob;
    use super::*;
    use crate::latency::synthetic::{Noise, rng, scaled_visits};

    /// Four widths, of which the third and fourth cost `gap` (relative) more or less than each other's
    /// place on the line.
    fn points(gap: f64, seed: u64) -> Vec<Sampled> {
        let mut rng = rng(seed);
        [100_000.0, 110_000.0, 120_000.0, 130_000.0 * (1.0 + gap)]
            .into_iter()
            .zip(1..)
            .map(|(ns, x)| {
                let visits = scaled_visits(&mut rng, Noise::Gaussian, 30, 10, ns);
                Sampled::single(vec![x], visits)
            })
            .collect()
    }

    fn stability(gap: f64, seed: u64) -> (Vec<u32>, Stability) {
        let partition = Partition { knobs: vec![Knob::equal("width", 4, 2).unwrap()] };
        let x = |point: &[u32]| f64::from(point[0]);
        let rules = Rules { tie: 0.0, report: 0.0, floor: 1, ..Rules::project() };
        let (selection, stability) =
            select_sampled(&points(gap, seed), 1, &partition, x, &rules, 7, &|_| Ok(None)).unwrap();
        (selection.choices.iter().map(|choice| choice.chosen.point[0]).collect(), stability)
    }

    #[test]
    fn a_clear_choice_is_sure_and_a_coin_toss_is_not() {
        let (_, clear) = stability(0.1, 1);
        assert!(clear.each.iter().all(|&p| p > 0.99) && clear.all > 0.98, "{clear:?}");
        let (_, toss) = stability(0.0, 1);
        assert!(toss.all < 0.9 && toss.mean_same() < 2.0, "{toss:?}");
        assert_eq!(stability(0.0, 1).1, toss, "same seed, same answer");
    }

    /// The promise itself: the stated probability of agreement is the share of reruns that agree.
    #[test]
    fn stated_probabilities_are_kept_on_average() {
        let outcomes: Vec<(Vec<u32>, f64)> = (0..40)
            .map(|seed| stability(0.0, seed))
            .map(|(choices, stability)| (choices, stability.each[1]))
            .collect();
        let stated = outcomes.iter().map(|(_, p)| p).sum::<f64>() / 40.0;
        let pairs = (0..40).flat_map(|i| (0..i).map(move |j| (i, j)));
        let agree = pairs.map(|(i, j)| f64::from(u8::from(outcomes[i].0[1] == outcomes[j].0[1])));
        let kept = agree.sum::<f64>() / 780.0;
        // A bootstrap starts from the choice it is asked about, so it is somewhat sure of it.
        assert!((stated - kept).abs() < 0.3, "stated {stated}, kept {kept}");
    }
}
