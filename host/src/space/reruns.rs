//! Did reruns choose the same? What [`stability`](super::stability) foretells, counted.
//!
//! In: the spaces of K profiles, each from its own samples. Out: how many choices agree, and for each
//! that does not, whether the earlier run had reported the later one's choice as a tie.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::htas::{HardwareSpace, StageSpace};
use super::select::Choice;
use crate::latency::rank::spearman;

/// A choice that a rerun did not repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Stage, from 1.
    pub stage: usize,
    /// The group.
    pub cell: String,
    /// The earlier run, from 1.
    pub before: usize,
    /// The later run, from 1.
    pub after: usize,
    /// The earlier choice.
    pub from: u32,
    /// The later choice; none where the later run dropped the group.
    pub to: Option<u32>,
    /// The earlier run had reported the later choice as a tie.
    pub told: bool,
}

/// How far reruns agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reruns {
    /// Profiles compared.
    pub runs: usize,
    /// Choices of the first run.
    pub choices: usize,
    /// Choices that are the same, of the pair of runs that agrees least.
    pub same_min: usize,
    /// Choices that are the same or were reported as ties, of the pair that agrees least.
    pub same_or_told_min: usize,
    /// Choices that are the same, mean over all pairs.
    pub same_mean: f64,
    /// Share of the other widths of a group that are reported as ties with its choice, mean over choices and
    /// runs: what "reported" stands on.
    pub tied_share: f64,
    /// Rank correlation of the latencies, of the pair that agrees least.
    pub spearman_min: f64,
    /// All changes.
    pub changes: Vec<Change>,
}

impl Reruns {
    /// Changes that had not been reported as ties: what must not happen.
    #[must_use]
    pub fn silent(&self) -> usize {
        self.changes.iter().filter(|change| !change.told).count()
    }
}

/// Compares every pair of runs, in the order they were made. Fewer than two agree by definition.
#[must_use]
pub fn compare(spaces: &[HardwareSpace]) -> Reruns {
    let choices = spaces.first().map_or(0, |space| space.mean_same().1);
    let mut reruns = Reruns {
        runs: spaces.len(),
        choices,
        same_min: choices,
        same_or_told_min: choices,
        same_mean: choices as f64,
        tied_share: tied_share(spaces),
        spearman_min: 1.0,
        changes: Vec::new(),
    };
    let pairs: Vec<(usize, usize)> =
        (0..spaces.len()).flat_map(|after| (0..after).map(move |before| (before, after))).collect();
    let mut same_sum = 0;
    for &(before, after) in &pairs {
        let changes = changes(spaces, before, after);
        // A run may have dropped groups that another has: the earlier run's own count.
        let same = spaces[before].mean_same().1 - changes.len();
        let told = changes.iter().filter(|change| change.told).count();
        same_sum += same;
        reruns.same_min = reruns.same_min.min(same);
        reruns.same_or_told_min = reruns.same_or_told_min.min(same + told);
        let rank = rank_correlation(&spaces[before], &spaces[after]);
        reruns.spearman_min = reruns.spearman_min.min(rank);
        reruns.changes.extend(changes);
    }
    if !pairs.is_empty() {
        reruns.same_mean = f64::from(same_sum as u32) / pairs.len() as f64;
    }
    reruns
}

fn tied_share(spaces: &[HardwareSpace]) -> f64 {
    let share = |stage: &StageSpace, choice: &Choice, floor: u32| {
        let members = stage.selection.curve.iter().filter(|of| choice.cell.contains(&of.point));
        let others = members.filter(|of| of.point[0] >= floor && of.point != choice.chosen.point).count();
        (others > 0).then(|| choice.tied.len() as f64 / others as f64)
    };
    let of_space = |space: &HardwareSpace| -> Vec<f64> {
        let floor = space.settings.rules.floor;
        let stages = space.stages.iter();
        stages
            .flat_map(|of| of.selection.choices.iter().filter_map(move |choice| share(of, choice, floor)))
            .collect()
    };
    let shares: Vec<f64> = spaces.iter().flat_map(of_space).collect();
    if shares.is_empty() { 0.0 } else { shares.iter().sum::<f64>() / shares.len() as f64 }
}

fn changes(spaces: &[HardwareSpace], before: usize, after: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    for (first, second) in spaces[before].stages.iter().zip(&spaces[after].stages) {
        for choice in &first.selection.choices {
            let twin = second.selection.choices.iter().find(|twin| twin.cell == choice.cell);
            let to = twin.map(|twin| twin.chosen.point[0]);
            let from = choice.chosen.point[0];
            if to != Some(from) {
                changes.push(Change {
                    stage: first.stage + 1,
                    cell: choice.cell.to_string(),
                    before: before + 1,
                    after: after + 1,
                    from,
                    to,
                    told: to.is_some_and(|to| choice.tied.contains(&vec![to])),
                });
            }
        }
    }
    changes
}

fn rank_correlation(first: &HardwareSpace, second: &HardwareSpace) -> f64 {
    let curve = |space: &HardwareSpace| -> BTreeMap<(usize, Vec<u32>), f64> {
        let stages = space.stages.iter();
        let points = stages.flat_map(|stage| stage.selection.curve.iter().map(move |of| (stage.stage, of)));
        points.map(|(stage, of)| ((stage, of.point.clone()), of.m_ns)).collect()
    };
    let (first, second) = (curve(first), curve(second));
    let both = first.iter().filter_map(|(key, ns)| second.get(key).map(|other| (*ns, *other)));
    let (first, second): (Vec<f64>, Vec<f64>) = both.unzip();
    // Flat curves have no order to disagree about.
    spearman(&first, &second).unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use hanas_models::resnet::Family;
    use hanas_proto::{Digest, Nanos};

    use super::*;
    use crate::profile::candidates::space_layers;
    use crate::space::htas::Settings;
    use crate::space::rules::Rules;
    use crate::store::{ModelId, ModelSamples, ModelSpec, Visit};

    /// Stairs of 8 channels with one cheap width in stage 3.
    fn space(cheap: u32, noise_ns: u64) -> HardwareSpace {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let layers = space_layers(&family, 2).concat();
        let model = |layer: &hanas_models::layer::Layer| {
            let saved = if layer.cout == cheap { 3_000 } else { 0 };
            let ns = 100_000 + 20_000 * u64::from(layer.cout.div_ceil(8)) - saved;
            let visit = |i: u64| Visit { samples: vec![Nanos(ns + i % 4 * noise_ns); 4], ..Visit::default() };
            let spec = ModelSpec::Layer { layer: *layer };
            let visits = (0..10).map(visit).collect();
            ModelSamples { id: ModelId(0), digest: Digest([0; 32]), spec, onnx_bytes: 0, visits }
        };
        let samples: Vec<ModelSamples> = layers.iter().map(model).collect();
        let rules = Rules { statistic: crate::latency::Statistic::Median, ..Rules::project() };
        HardwareSpace::build(&family, &samples, Settings::new(rules, 1, 1)).unwrap()
    }

    #[test]
    fn a_change_is_silent_unless_the_earlier_run_had_told() {
        let same = compare(&[space(128, 0), space(128, 0), space(128, 0)]);
        assert_eq!((same.same_min, same.choices, same.silent(), same.runs), (24, 24, 0, 3));
        assert_eq!((same.same_mean, same.spearman_min), (24.0, 1.0));
        // 127 is 3 us cheaper than 128 and 1.9 us of line worth less: it wins, clearly.
        let clear = compare(&[space(128, 0), space(127, 0)]);
        assert_eq!((clear.same_min, clear.same_or_told_min, clear.silent()), (23, 23, 1), "{clear:?}");
        assert_eq!((clear.changes[0].from, clear.changes[0].to), (128, Some(127)));
        // With errors of that size the first run tells the tie.
        let blurred = compare(&[space(128, 4_000), space(127, 0)]);
        assert_eq!((blurred.same_or_told_min, blurred.silent()), (24, 0), "{blurred:?}");
        assert_eq!(same.tied_share, 0.0);
        assert!(blurred.tied_share > clear.tied_share, "{blurred:?}");
    }
}
