//! Which layers have to be seen undisturbed before a race decides.
//!
//! In: all samples, and the space that they give. Out: the layers to measure again.
//!
//! Noise only ever makes a run slower, so a layer whose fastest visits do not agree may never have been seen
//! undisturbed, and no spread of its runs would tell. Only visits count that were undisturbed as far as those
//! around them tell ([`disturbed`](crate::latency::disturbed)), and there must be [`CONFIRMING`]. A layer's
//! gap is how far the [`CONFIRMING`]th fastest of them lies above the fastest, each counted by its fastest
//! run. Confirmed is a layer whose gap is within `margin`, or no outlier among the gaps of all layers (inside
//! Tukey's outer fence): on a noisy device visits differ, and no budget would end that.
//!
//! Of the layers that are not confirmed only those matter that are a choice, or would be one at the lowest
//! latency that is plausible. Of one with too few undisturbed visits, n visits in all:
//!
//! ```text
//! corrected visit = its fastest run / its factor
//! sigma           = half of what lies between the 16% and the 84% quantile of ln(corrected disturbed visit
//!                   / the layer's fastest undisturbed visit), over all layers that have both
//! lowest          = median of its corrected visits * exp(-3 sigma / sqrt(n))
//! ```
//!
//! so that how far corrections are trusted is measured too. Of one whose undisturbed visits do not agree the
//! floor may lie as far below the fastest as the third lies above it.

use std::collections::{BTreeMap, BTreeSet};

use hanas_models::layer::{Layer, LayerKind};
use hanas_models::resnet::Family;

use super::htas::{HardwareSpace, Settings, StageSpace};
use super::select::{DropReason, Scored};
use crate::latency::disturbed::{Condition, conditions};
use crate::latency::estimate::FAR_FENCE;
use crate::store::{ModelSamples, ModelSpec, Visit};

/// Undisturbed visits that have to agree on a layer's fastest run.
pub const CONFIRMING: usize = 3;

/// Standard errors that a layer's latency may lie below its median corrected visit.
const PLAUSIBLE: f64 = 3.0;

/// Quantiles that lie a standard deviation from the middle.
const DEVIATION: [f64; 2] = [0.16, 0.84];

/// The layers that are not confirmed and may change a choice.
#[must_use]
pub fn wanted(family: &Family, space: &HardwareSpace, samples: &[ModelSamples], margin: f64) -> Vec<Layer> {
    let seen = Seen::all(family, space.settings, samples);
    let sigma = correction_error(&seen);
    let gaps = seen.iter().filter_map(Seen::gap).collect();
    let most = margin.max(outer_fence(gaps));
    let unconfirmed = seen.iter().filter(|of| of.gap().is_none_or(|gap| gap > most));
    let shares: BTreeMap<Layer, f64> = unconfirmed.map(|of| (of.layer, of.lowest_share(sigma))).collect();
    space.stages.iter().flat_map(|stage| matter(stage, &shares)).collect()
}

/// As many others of the space's layers, evenly from all. Their floors are known, so that they tell whether
/// the device was disturbed.
#[must_use]
pub fn witnesses(wanted: &[Layer], family: &Family, settings: Settings) -> Vec<Layer> {
    let others: Vec<Layer> =
        layers_of(family, settings).into_iter().filter(|layer| !wanted.contains(layer)).collect();
    let count = wanted.len().min(others.len());
    (0..count).map(|place| others[place * others.len() / count]).collect()
}

/// All layers whose latency the space is made of.
fn layers_of(family: &Family, settings: Settings) -> BTreeSet<Layer> {
    settings.cin.layers(family, settings.expand).into_iter().flatten().flatten().collect()
}

/// A layer as its visits saw it.
struct Seen {
    layer: Layer,
    /// The fastest runs of its undisturbed visits, in order, ns.
    quiet: Vec<u64>,
    /// The fastest runs of all its visits, corrected, in order, ns.
    corrected: Vec<f64>,
    /// Of these, those of disturbed visits.
    disturbed: Vec<f64>,
}

impl Seen {
    /// The space's layers.
    fn all(family: &Family, settings: Settings, samples: &[ModelSamples]) -> Vec<Self> {
        let space = layers_of(family, settings);
        let of = |(model, conditions): (&ModelSamples, Vec<Condition>)| match model.spec {
            ModelSpec::Layer { layer } if space.contains(&layer) => {
                Some(Self::new(layer, &model.visits, &conditions))
            }
            _ => None,
        };
        samples.iter().zip(conditions(samples)).filter_map(of).collect()
    }

    fn new(layer: Layer, visits: &[Visit], conditions: &[Condition]) -> Self {
        let fastest = |visit: &Visit| visit.samples.iter().map(|run| run.0).min();
        let met = || {
            let met = visits.iter().zip(conditions);
            met.filter_map(|(visit, met)| Some((fastest(visit)?, met)))
        };
        let mut quiet: Vec<u64> = met().filter(|(_, met)| met.undisturbed).map(|(ns, _)| ns).collect();
        quiet.sort_unstable();
        let corrected = |(ns, met): (u64, &Condition)| ns as f64 / met.factor;
        let disturbed = met().filter(|(_, met)| !met.undisturbed).map(corrected).collect();
        let mut corrected: Vec<f64> = met().map(corrected).collect();
        corrected.sort_by(f64::total_cmp);
        Self { layer, quiet, corrected, disturbed }
    }

    /// How far the [`CONFIRMING`]th fastest undisturbed visit lies above the fastest, if there are so many.
    fn gap(&self) -> Option<f64> {
        let third = self.quiet.get(CONFIRMING - 1)?;
        Some(*third as f64 / self.quiet[0] as f64 - 1.0)
    }

    /// The lowest plausible latency over the one that the space counts with; 1 without visits.
    fn lowest_share(&self, sigma: f64) -> f64 {
        if let Some(gap) = self.gap() {
            return 1.0 / (1.0 + gap);
        }
        let Some(&first) = self.corrected.first() else { return 1.0 };
        let counted = self.quiet.first().map_or(first, |&ns| ns as f64);
        let visits = self.corrected.len();
        let middle = self.corrected[(visits - 1) / 2];
        (middle * (-PLAUSIBLE * sigma / (visits as f64).sqrt()).exp() / counted).min(1.0)
    }
}

/// Relative error of a corrected visit; 0 where no layer was seen both ways.
fn correction_error(seen: &[Seen]) -> f64 {
    let of_layer = |of: &Seen| -> Vec<f64> {
        let floor = of.quiet.first().map(|&ns| ns as f64);
        of.disturbed.iter().filter_map(|ns| Some((ns / floor?).ln())).collect()
    };
    let mut errors: Vec<f64> = seen.iter().flat_map(of_layer).collect();
    errors.sort_by(f64::total_cmp);
    let quantile = |order: f64| errors.get((errors.len() as f64 * order) as usize);
    let [low, high] = DEVIATION.map(quantile);
    low.zip(high).map_or(0.0, |(low, high)| (high - low) / 2.0)
}

/// The unconfirmed layers of a stage that are a choice, or would be one at their lowest; `shares` are the
/// lowest latencies of the unconfirmed over those counted with.
fn matter(stage: &StageSpace, shares: &BTreeMap<Layer, f64>) -> Vec<Layer> {
    let kind = LayerKind::Conv { kernel: 3, stride: 1, side: stage.side };
    let open = |of: &Scored| -> Vec<Layer> {
        let layers = stage.cins.iter().map(|&cin| Layer { kind, cin, cout: of.point[0] });
        layers.filter(|layer| shares.contains_key(layer)).collect()
    };
    let score_at_lowest = |of: &Scored, layers: &[Layer]| {
        let share = layers.iter().map(|layer| shares[layer]).fold(1.0, f64::min);
        (1.0 - share).mul_add(of.m_ns, of.score_ns)
    };
    let may_change =
        |of: &&Scored| {
            let layers = open(of);
            let chosen = stage.selection.choices.iter().find(|choice| choice.cell.contains(&of.point));
            match chosen.map(|choice| &choice.chosen) {
                Some(chosen) => chosen.point == of.point || score_at_lowest(of, &layers) > chosen.score_ns,
                // A cell without a choice can get one only where latency was against it.
                None => stage.selection.dropped.iter().any(|dropped| {
                    dropped.reason == DropReason::Dominated && dropped.cell.contains(&of.point)
                }),
            }
        };
    stage.selection.curve.iter().filter(may_change).flat_map(open).collect()
}

/// Beyond it an outlier is far out: the upper quartile and [`FAR_FENCE`] interquartile ranges (Tukey 1977).
fn outer_fence(mut values: Vec<f64>) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.sort_by(f64::total_cmp);
    let quartile = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    FAR_FENCE.mul_add(quartile(3) - quartile(1), quartile(3))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use hanas_proto::{Digest, Nanos};
    use rand::RngExt;
    use rand::seq::SliceRandom;

    use super::*;
    use crate::latency::synthetic::rng;
    use crate::profile::candidates::space_layers;
    use crate::space::rules::Rules;
    use crate::store::ModelId;

    const SLOW: f64 = 1.6;
    /// Widths of the second stage, from 1.
    const STAGE: Range<usize> = 32..96;

    fn family() -> Family {
        Family::cifar_resnet(20, 10).unwrap()
    }

    /// Stairs of 8 channels: in the second stage the widest of each group is its choice.
    fn truth_ns(layer: &Layer) -> f64 {
        60_000.0 + 30_000.0 * f64::from(layer.cout.div_ceil(8))
    }

    /// Rounds over all layers. Each begins with a spell in which all is slower; it meets those of `slow`
    /// always and the others every fourth round.
    fn rounds(count: usize, slow: &Range<usize>) -> Vec<ModelSamples> {
        let mut rng = rng(7);
        let model = |layer: &Layer| ModelSamples {
            id: ModelId(0),
            digest: Digest([0; 32]),
            spec: ModelSpec::Layer { layer: *layer },
            onnx_bytes: 0,
            visits: Vec::new(),
        };
        let mut models: Vec<ModelSamples> = space_layers(&family(), 2).concat().iter().map(model).collect();
        for round in 0..count {
            let in_spell =
                |at: &usize| !slow.is_empty() && (slow.contains(at) || (at + round).is_multiple_of(4));
            let (mut spell, mut rest): (Vec<usize>, Vec<usize>) = (0..models.len()).partition(in_spell);
            spell.shuffle(&mut rng);
            rest.shuffle(&mut rng);
            let factor = |place: usize| if place < spell.len() { SLOW } else { 1.0 };
            for (place, &at) in spell.iter().chain(&rest).enumerate() {
                let ModelSpec::Layer { layer } = models[at].spec else { continue };
                let ns = truth_ns(&layer) * factor(place);
                let samples = (0..4).map(|_| Nanos::from_f64(ns * rng.random_range(1.0..1.02))).collect();
                let order = 1 + (round * models.len() + place) as u64;
                models[at].visits.push(Visit { round: round as u32, order, samples, ..Visit::default() });
            }
        }
        models
    }

    fn widths_wanted(samples: &[ModelSamples]) -> Vec<u32> {
        let settings = Settings::new(Rules::project(), 1, 1);
        let space = HardwareSpace::build(&family(), samples, settings).unwrap();
        wanted(&family(), &space, samples, 0.01).iter().map(|layer| layer.cout).collect()
    }

    #[test]
    fn where_all_is_quiet_nothing_is_wanted() {
        assert_eq!(widths_wanted(&rounds(3, &(0..0))), [0; 0]);
    }

    #[test]
    fn of_layers_never_seen_undisturbed_those_that_may_be_chosen_are_wanted() {
        let widths = widths_wanted(&rounds(8, &(STAGE.start + 28..STAGE.start + 40)));
        assert!([32, 40].iter().all(|choice| widths.contains(choice)), "{widths:?}");
        assert!([29, 33, 34].iter().all(|narrow| !widths.contains(narrow)), "{widths:?}");
    }

    #[test]
    fn a_layer_whose_visits_do_not_agree_is_wanted_where_it_may_be_chosen() {
        let mut samples = rounds(8, &(0..0));
        let slow = |samples: &mut Vec<ModelSamples>, at: usize| {
            for (place, visit) in samples[at].visits.iter_mut().enumerate() {
                visit.samples.iter_mut().for_each(|run| run.0 += run.0 * (place as u64) / 40);
            }
        };
        slow(&mut samples, STAGE.start + 24); // width 25, the narrowest of its stair
        assert_eq!(widths_wanted(&samples), [0; 0]);
        slow(&mut samples, STAGE.start + 31); // width 32, the widest
        assert_eq!(widths_wanted(&samples), [32]);
    }
}
