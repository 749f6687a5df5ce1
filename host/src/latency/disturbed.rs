//! Visits during which something else slowed the device down, told by the visits around them.
//!
//! In: the visits of all models in the order they were taken. Out: which of them were undisturbed. A busy
//! neighbour (the other thread of a core, another guest of the machine, a lower frequency) slows everything that
//! runs meanwhile by a like factor, and for longer than a visit. So:
//!
//! ```text
//! ratio of a visit    = its fastest run / the model's fastest run of all
//! slowness at a visit = upper quartile of the ratios of the 4 visits before and the 4 after it
//! disturbed           : slowness > 1.1 * (5% quantile of all slownesses)
//! factor of a visit   = median of those ratios / the 5% quantile of all such medians, 1 at least
//! ```
//!
//! A visit's own runs have no say in it, so that choosing by slowness favours no run of luck; and a model that
//! was never seen undisturbed, whose own ratios are all near 1, is found out by its neighbours. The upper
//! quartile, since some neighbours may be such models, and since a visit at the border of a disturbance is
//! rather set aside. Slowing by less than 10% is left to the statistic and its error: on a quiet
//! machine nothing is set aside.
//!
//! A model that was disturbed in all its visits keeps them, each divided by its factor: nearer to the truth than the
//! latency as it was seen, and no more than that.

use hanas_proto::Nanos;

use crate::store::{ModelSamples, SessionId, Visit};

/// Visits before and after one that tell of it.
pub const NEIGHBOURS: usize = 4;

/// Slowing by more than this is a disturbance; as the verdict's
/// [`MAX_SPREAD`](super::verdict::MAX_SPREAD).
pub const DISTURBANCE: f64 = 0.1;

/// A net measured again at the same pace differs by less than this.
pub const SAME_PACE: f64 = 0.03;

/// A latency as it is on a device that is not `slower` times slower, ns: the same, at the same pace.
#[must_use]
pub fn at_pace(ns: f64, slower: f64) -> f64 {
    if slower > 1.0 + SAME_PACE { ns / slower } else { ns }
}

/// Order of the quantile of slownesses that stands for an undisturbed device.
pub const UNDISTURBED: f64 = 0.05;

/// Samples without the visits that were set aside.
#[derive(Debug, Clone, PartialEq)]
pub struct Undisturbed {
    /// The models with what is left of their visits; one that was always disturbed has all of them, corrected.
    pub samples: Vec<ModelSamples>,
    /// Share of all visits that was disturbed.
    pub disturbed: f64,
}

/// One visit in the order of taking.
struct Taken {
    session: SessionId,
    order: u64,
    /// Its model and its place among that model's visits.
    at: (usize, usize),
    ratio: f64,
}

/// How the device was during a visit, as far as the visits around it tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// Nothing else slowed it down.
    pub undisturbed: bool,
    /// How many times slower it was than undisturbed; 1 at least.
    pub factor: f64,
}

impl Condition {
    /// Of a visit that nothing is known of.
    const UNKNOWN: Self = Self { undisturbed: true, factor: 1.0 };
}

/// The condition of every visit of every model. Visits whose order is not known pass for undisturbed.
#[must_use]
pub fn conditions(samples: &[ModelSamples]) -> Vec<Vec<Condition>> {
    conditions_among(&samples.iter().map(|model| model.visits.as_slice()).collect::<Vec<_>>())
}

/// The visits of every model that were undisturbed; of one that was always disturbed, all, corrected.
#[must_use]
pub fn undisturbed_among(models: &[Vec<Visit>]) -> Vec<Vec<Visit>> {
    let conditions = conditions_among(&models.iter().map(Vec::as_slice).collect::<Vec<_>>());
    models.iter().zip(&conditions).map(|(visits, conditions)| kept(visits, conditions)).collect()
}

fn kept(visits: &[Visit], conditions: &[Condition]) -> Vec<Visit> {
    let met = visits.iter().zip(conditions);
    let left: Vec<Visit> =
        met.clone().filter(|(_, met)| met.undisturbed).map(|(visit, _)| visit.clone()).collect();
    if left.is_empty() { met.map(|(visit, met)| corrected(visit, met.factor)).collect() } else { left }
}

/// The visit as it would have been undisturbed.
fn corrected(visit: &Visit, factor: f64) -> Visit {
    let samples = visit.samples.iter().map(|run| Nanos::from_f64(run.0 as f64 / factor)).collect();
    Visit { samples, ..visit.clone() }
}

fn conditions_among(models: &[&[Visit]]) -> Vec<Vec<Condition>> {
    let mut found: Vec<Vec<Condition>> =
        models.iter().map(|visits| vec![Condition::UNKNOWN; visits.len()]).collect();
    let taken = in_order(models);
    let around: Vec<Around> = taken
        .chunk_by(|a, b| a.session == b.session)
        .flat_map(|session| (0..session.len()).map(|at| Around::new(session, at)))
        .collect();
    let usual = |of: fn(&Around) -> f64| {
        let mut sorted: Vec<f64> = around.iter().map(of).collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() as f64 * UNDISTURBED) as usize).copied().unwrap_or(1.0)
    };
    let (slowness, median) = (usual(|of| of.slowness), usual(|of| of.median));
    for (visit, around) in taken.iter().zip(&around) {
        found[visit.at.0][visit.at.1] = Condition {
            undisturbed: around.slowness <= slowness * (1.0 + DISTURBANCE),
            factor: (around.median / median).max(1.0),
        };
    }
    found
}

/// Sets disturbed visits aside.
#[must_use]
pub fn undisturbed(samples: &[ModelSamples]) -> Undisturbed {
    let conditions = conditions(samples);
    let all = || conditions.iter().flatten();
    let disturbed = all().filter(|met| !met.undisturbed).count() as f64 / all().count().max(1) as f64;
    let without = |(model, conditions): (&ModelSamples, &Vec<Condition>)| ModelSamples {
        visits: kept(&model.visits, conditions),
        ..model.clone()
    };
    Undisturbed { samples: samples.iter().zip(&conditions).map(without).collect(), disturbed }
}

fn in_order(models: &[&[Visit]]) -> Vec<Taken> {
    let fastest = |visit: &Visit| visit.samples.iter().map(|run| run.0).min();
    let mut taken = Vec::new();
    for (number, visits) in models.iter().enumerate() {
        let Some(floor) = visits.iter().filter_map(fastest).min() else { continue };
        for (place, visit) in visits.iter().enumerate().filter(|(_, visit)| visit.order > 0) {
            let Some(ns) = fastest(visit) else { continue };
            let ratio = ns as f64 / floor.max(1) as f64;
            taken.push(Taken { session: visit.session, order: visit.order, at: (number, place), ratio });
        }
    }
    taken.sort_by_key(|visit| (visit.session, visit.order));
    taken
}

/// The ratios around a visit; 1 where it is alone.
struct Around {
    /// Upper quartile.
    slowness: f64,
    /// Median.
    median: f64,
}

impl Around {
    fn new(session: &[Taken], at: usize) -> Self {
        let around = at.saturating_sub(NEIGHBOURS)..(at + NEIGHBOURS + 1).min(session.len());
        let mut ratios: Vec<f64> =
            around.filter(|&other| other != at).map(|other| session[other].ratio).collect();
        ratios.sort_by(f64::total_cmp);
        let quantile = |quarter: usize| ratios.get(ratios.len().saturating_sub(1) * quarter / 4);
        let or_one = |ratio: Option<&f64>| ratio.copied().unwrap_or(1.0);
        Self { slowness: or_one(quantile(3)), median: or_one(quantile(2)) }
    }
}

#[cfg(test)]
mod tests {
    use hanas_proto::Digest;
    use rand::RngExt;

    use super::*;
    use crate::latency::synthetic::rng;
    use crate::store::{ModelId, ModelSpec};

    const MODELS: usize = 40;
    const ROUNDS: usize = 16;
    const SLOW: f64 = 1.6;

    fn truth(model: usize) -> f64 {
        50_000.0 * (1.0 + model as f64 / 10.0)
    }

    /// Rounds over all models; a neighbour comes and goes, and with it all is slower. Model 0 never meets
    /// a quiet device.
    fn session(slow_share: f64, seed: u64) -> (Vec<ModelSamples>, Vec<Vec<bool>>) {
        let mut rng = rng(seed);
        let spec = ModelSpec::Null;
        let empty =
            ModelSamples { id: ModelId(0), digest: Digest([0; 32]), spec, onnx_bytes: 0, visits: Vec::new() };
        let mut models = vec![empty; MODELS];
        let mut was_quiet = vec![Vec::new(); MODELS];
        let (mut order, mut slow) = (0, false);
        for round in 0..ROUNDS {
            for model in 0..MODELS {
                order += 1;
                // It stays for some 20 visits.
                if rng.random_bool(0.05) {
                    slow = rng.random_bool(slow_share);
                }
                let alone = slow || (model == 0 && slow_share > 0.0);
                let factor = if alone { SLOW } else { 1.0 };
                let run = |_| Nanos::from_f64(truth(model) * factor * rng.random_range(1.0..1.04));
                let samples = (0..4).map(run).collect();
                models[model].visits.push(Visit { order, round: round as u32, samples, ..Visit::default() });
                was_quiet[model].push(!slow);
            }
        }
        (models, was_quiet)
    }

    #[test]
    fn a_quiet_device_keeps_all_its_visits() {
        let (models, _) = session(0.0, 1);
        let found = undisturbed(&models);
        assert_eq!((found.disturbed, &found.samples), (0.0, &models));
    }

    #[test]
    fn disturbed_visits_are_told_by_their_neighbours() {
        // Together: where the device was quiet next to never, nothing tells.
        let (mut kept, mut wrongly_kept, mut quiet) = (0, 0, 0);
        for seed in 0..20 {
            let (models, truth) = session(0.6, seed);
            let told = conditions(&models);
            for (told, truth) in told.iter().zip(&truth).flat_map(|(told, truth)| told.iter().zip(truth)) {
                kept += usize::from(told.undisturbed);
                wrongly_kept += usize::from(told.undisturbed && !truth);
                quiet += usize::from(*truth);
            }
        }
        assert!(kept * 2 > quiet, "{kept} of {quiet} quiet visits are kept");
        assert!(wrongly_kept * 10 < kept, "{wrongly_kept} of {kept} were disturbed");
    }

    #[test]
    fn a_model_that_was_always_disturbed_is_corrected() {
        let (mut models, _) = session(0.0, 2);
        for model in &mut models[10..20] {
            let runs = model.visits.iter_mut().skip(1).flat_map(|visit| &mut visit.samples);
            runs.for_each(|run| *run = Nanos::from_f64(run.0 as f64 * SLOW));
        }
        models[15].visits.remove(0);
        let found = undisturbed(&models);
        let fastest = found.samples[15].visits.iter().flat_map(|visit| &visit.samples).min().unwrap();
        let off = fastest.0 as f64 / truth(15) - 1.0;
        assert!(off.abs() < 0.05, "{off}");
    }

    #[test]
    fn visits_of_unknown_order_are_kept() {
        let (mut models, _) = session(0.6, 3);
        models.iter_mut().flat_map(|model| &mut model.visits).for_each(|visit| visit.order = 0);
        assert_eq!(undisturbed(&models).samples, models);
    }
}
