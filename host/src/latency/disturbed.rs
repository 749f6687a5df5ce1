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
//! ```
//!
//! A visit's own runs have no say in it, so that choosing by slowness favours no run of luck; and a model that
//! was never seen undisturbed, whose own ratios are all near 1, is found out by its neighbours. The upper
//! quartile, since some neighbours may be such models, and since a visit at the border of a disturbance is
//! rather set aside. Slowing by less than 10% is left to the statistic and its error: on a quiet
//! machine nothing is set aside.

use crate::store::{ModelSamples, SessionId, Visit};

/// Visits before and after one that tell of it.
pub const NEIGHBOURS: usize = 4;

/// Slowing by more than this is a disturbance; as the verdict's
/// [`MAX_SPREAD`](super::verdict::MAX_SPREAD).
pub const DISTURBANCE: f64 = 0.1;

/// Order of the quantile of slownesses that stands for an undisturbed device.
pub const UNDISTURBED: f64 = 0.05;

/// Samples without the visits that were set aside.
#[derive(Debug, Clone, PartialEq)]
pub struct Undisturbed {
    /// The models with what is left of their visits; one that was always disturbed has all of them.
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

/// For every visit of every model whether it was undisturbed. Visits whose order is not known are.
#[must_use]
pub fn undisturbed_visits(samples: &[ModelSamples]) -> Vec<Vec<bool>> {
    quiet_visits(&samples.iter().map(|model| model.visits.as_slice()).collect::<Vec<_>>())
}

/// The visits of every model that were undisturbed; of one that was always disturbed, all.
#[must_use]
pub fn undisturbed_among(models: &[Vec<Visit>]) -> Vec<Vec<Visit>> {
    let quiet = quiet_visits(&models.iter().map(Vec::as_slice).collect::<Vec<_>>());
    models.iter().zip(&quiet).map(|(visits, quiet)| kept(visits, quiet)).collect()
}

fn kept(visits: &[Visit], quiet: &[bool]) -> Vec<Visit> {
    let left: Vec<Visit> =
        visits.iter().zip(quiet).filter(|(_, quiet)| **quiet).map(|(visit, _)| visit.clone()).collect();
    if left.is_empty() { visits.to_vec() } else { left }
}

fn quiet_visits(models: &[&[Visit]]) -> Vec<Vec<bool>> {
    let mut quiet: Vec<Vec<bool>> = models.iter().map(|visits| vec![true; visits.len()]).collect();
    let taken = in_order(models);
    let slowness: Vec<f64> = taken
        .chunk_by(|a, b| a.session == b.session)
        .flat_map(|session| (0..session.len()).map(|at| slowness(session, at)))
        .collect();
    let mut sorted = slowness.clone();
    sorted.sort_by(f64::total_cmp);
    let Some(usual) = sorted.get((sorted.len() as f64 * UNDISTURBED) as usize) else { return quiet };
    for (visit, slowness) in taken.iter().zip(&slowness) {
        quiet[visit.at.0][visit.at.1] = *slowness <= usual * (1.0 + DISTURBANCE);
    }
    quiet
}

/// Sets disturbed visits aside.
#[must_use]
pub fn undisturbed(samples: &[ModelSamples]) -> Undisturbed {
    let quiet = undisturbed_visits(samples);
    let (mut visits, mut disturbed) = (0usize, 0usize);
    let without = |(model, quiet): (&ModelSamples, &Vec<bool>)| {
        visits += quiet.len();
        disturbed += quiet.iter().filter(|quiet| !**quiet).count();
        ModelSamples { visits: kept(&model.visits, quiet), ..model.clone() }
    };
    let samples = samples.iter().zip(&quiet).map(without).collect();
    Undisturbed { samples, disturbed: disturbed as f64 / visits.max(1) as f64 }
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

/// Upper quartile of the ratios around a visit; 1 where it is alone.
fn slowness(session: &[Taken], at: usize) -> f64 {
    let around = at.saturating_sub(NEIGHBOURS)..(at + NEIGHBOURS + 1).min(session.len());
    let mut ratios: Vec<f64> =
        around.filter(|&other| other != at).map(|other| session[other].ratio).collect();
    ratios.sort_by(f64::total_cmp);
    if ratios.is_empty() { 1.0 } else { ratios[(ratios.len() - 1) * 3 / 4] }
}

#[cfg(test)]
mod tests {
    use hanas_proto::{Digest, Nanos};
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
            let told = undisturbed_visits(&models);
            for (told, truth) in told.iter().zip(&truth).flat_map(|(told, truth)| told.iter().zip(truth)) {
                kept += usize::from(*told);
                wrongly_kept += usize::from(*told && !truth);
                quiet += usize::from(*truth);
            }
        }
        assert!(kept * 2 > quiet, "{kept} of {quiet} quiet visits are kept");
        assert!(wrongly_kept * 10 < kept, "{wrongly_kept} of {kept} were disturbed");
    }

    #[test]
    fn visits_of_unknown_order_are_kept() {
        let (mut models, _) = session(0.6, 3);
        models.iter_mut().flat_map(|model| &mut model.visits).for_each(|visit| visit.order = 0);
        assert_eq!(undisturbed(&models).samples, models);
    }
}
