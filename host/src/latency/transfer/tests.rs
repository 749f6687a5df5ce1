//! Synthetic devices: sums of a few hidden causes, and what troubles them.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::table::Table;
use super::{Panel, Sample, Scale};
use crate::latency::LatencyError;
use crate::latency::rank::{ranks, spearman, tie_ceiling};
use crate::latency::synthetic::{normal, rng};

const MODELS: usize = 400;
const CAUSES: usize = 3;
const REFERENCES: usize = 8;
/// Relative noise of every latency.
const NOISE: f64 = 0.02;

/// Each model's share in each cause.
fn causes(rng: &mut ChaCha8Rng) -> Vec<[f64; CAUSES]> {
    (0..MODELS).map(|_| std::array::from_fn(|cause| normal(rng) * [0.4, 0.2, 0.1][cause])).collect()
}

/// A device of its own: level, weight of each cause, noise.
fn device(rng: &mut ChaCha8Rng, causes: &[[f64; CAUSES]]) -> Vec<f64> {
    let level = normal(rng);
    let weights: [f64; CAUSES] =
        std::array::from_fn(|cause| 0.3f64.mul_add(normal(rng), if cause == 0 { 1.0 } else { 0.5 }));
    let log = |model: &[f64; CAUSES]| {
        level + model.iter().zip(weights).map(|(a, b)| a * b).sum::<f64>() + NOISE * normal(rng)
    };
    causes.iter().map(log).map(f64::exp).collect()
}

/// References as a panel takes them, and a device that is none of them.
fn devices(seed: u64) -> (Vec<Vec<Option<f64>>>, Vec<f64>) {
    let mut rng = rng(seed);
    let causes = causes(&mut rng);
    let references: Vec<Vec<f64>> = (0..REFERENCES).map(|_| device(&mut rng, &causes)).collect();
    let rows = (0..MODELS).map(|model| references.iter().map(|of| Some(of[model])).collect()).collect();
    (rows, device(&mut rng, &causes))
}

/// Spearman's correlation over the models not measured, and the share within two standard errors.
fn result(panel: &Panel, truth: &[f64], chosen: &[usize]) -> (f64, f64) {
    let sample = |&model: &usize| Sample { model, latency: truth[model], se: 0.0 };
    let adapted = panel.adapt(&chosen.iter().map(sample).collect::<Vec<_>>()).unwrap();
    let rest: Vec<usize> = (0..MODELS).filter(|model| !chosen.contains(model)).collect();
    let predicted: Vec<_> = rest.iter().map(|&model| adapted.predict(model)).collect();
    let near = rest.iter().filter(|&&model| adapted.surprise(model, truth[model]).abs() < 2.0).count();
    let near = near as f64 / rest.len() as f64;
    let latencies: Vec<f64> = predicted.iter().map(|of| of.latency).collect();
    let truth: Vec<f64> = rest.iter().map(|&model| truth[model]).collect();
    (spearman(&latencies, &truth).unwrap(), near)
}

fn chosen(rows: &[Vec<Option<f64>>], truth: &[f64], samples: usize) -> (f64, f64) {
    let panel = Panel::measured(rows, Scale::Log).unwrap();
    result(&panel, truth, &panel.choose(samples, |_| true))
}

#[test]
fn a_device_of_the_same_causes_is_recovered_and_its_error_told() {
    for seed in 0..5 {
        let (rows, truth) = devices(seed);
        let (found, near) = chosen(&rows, &truth, 10);
        assert!(found > 0.985, "seed {seed}: {found}");
        assert!(near > 0.85, "seed {seed}: {near} within two standard errors");
        let panel = Panel::measured(&rows, Scale::Log).unwrap();
        assert!((0.5 * NOISE..3.0 * NOISE).contains(&panel.noise()), "{}", panel.noise());
    }
}

#[test]
fn chosen_models_tell_more_than_random_ones() {
    let (mut better, mut sets) = (0, 0);
    for seed in 0..5 {
        let (rows, truth) = devices(seed);
        let (with_chosen, _) = chosen(&rows, &truth, 4);
        let panel = Panel::measured(&rows, Scale::Log).unwrap();
        let mut rng = rng(100 + seed);
        for _ in 0..8 {
            let random: Vec<usize> = (0..4).map(|_| rng.random_range(0..MODELS)).collect();
            better += u32::from(result(&panel, &truth, &random).0 < with_chosen);
            sets += 1;
        }
    }
    assert!(better * 4 >= sets * 3, "better than {better} of {sets} random sets");
}

#[test]
fn an_odd_reference_does_little_harm() {
    let (mut rows, truth) = devices(11);
    let mut rng = rng(12);
    rows.iter_mut().for_each(|row| row[0] = Some((0.5 * normal(&mut rng)).exp()));
    let (found, _) = chosen(&rows, &truth, 10);
    assert!(found > 0.93, "{found}");
}

#[test]
fn an_odd_device_is_known_to_be_odd() {
    let (rows, like) = devices(13);
    let mut rng = rng(14);
    let odd: Vec<f64> = like.iter().map(|ms| ms * (0.3 * normal(&mut rng)).exp()).collect();
    let panel = Panel::measured(&rows, Scale::Log).unwrap();
    let picks = panel.choose(10, |_| true);
    let noise = |truth: &[f64]| {
        let sample = |&model: &usize| Sample { model, latency: truth[model], se: 0.0 };
        panel.adapt(&picks.iter().map(sample).collect::<Vec<_>>()).unwrap().noise()
    };
    assert!(noise(&odd) > 3.0 * noise(&like), "{} and {}", noise(&odd), noise(&like));
    let (_, near) = result(&panel, &odd, &picks);
    assert!(near > 0.8, "{near} within two standard errors");
}

#[test]
fn fewer_samples_than_causes_and_one_reference_still_order() {
    let (rows, truth) = devices(21);
    for samples in [1, 2] {
        let (found, _) = chosen(&rows, &truth, samples);
        assert!(found > 0.85, "{samples} samples: {found}");
    }
    let alone: Vec<Vec<Option<f64>>> = rows.iter().map(|row| row[..1].to_vec()).collect();
    let (found, _) = chosen(&alone, &truth, 5);
    let single: Vec<f64> = alone.iter().filter_map(|row| row[0]).collect();
    assert!((found - spearman(&single, &truth).unwrap()).abs() < 0.01, "one reference's own order");
}

#[test]
fn whole_milliseconds_tie_and_do_not_break_it() {
    let (rows, truth) = devices(31);
    let scale = 10.0 / truth.iter().sum::<f64>() * truth.len() as f64;
    let rounded: Vec<f64> = truth.iter().map(|ms| (ms * scale).round().max(1.0)).collect();
    let (found, _) = chosen(&rows, &rounded, 10);
    assert!(found > 0.97, "{found}");
    assert!(tie_ceiling(&rounded).unwrap() < 1.0);
}

#[test]
fn gaps_are_imputed_with_their_error() {
    let (full, truth) = devices(41);
    let mut rows = full.clone();
    rows.iter_mut().skip(1).step_by(3).for_each(|row| row[2] = None);
    let panel = Panel::measured(&rows, Scale::Log).unwrap();
    assert!(panel.is_complete(0) && !panel.is_complete(1));
    let picks = panel.choose(10, |_| true);
    assert!(picks.iter().all(|&model| panel.is_complete(model)));
    assert!(result(&panel, &truth, &picks).0 > 0.975);
    // A model that nobody measured is predicted at the mean, and with the spread of all models.
    rows[1] = vec![None; REFERENCES];
    let panel = Panel::measured(&rows, Scale::Log).unwrap();
    let samples: Vec<Sample> = panel
        .choose(10, |_| true)
        .into_iter()
        .map(|model| Sample { model, latency: truth[model], se: 0.0 })
        .collect();
    let adapted = panel.adapt(&samples).unwrap();
    let relative = |model: usize| adapted.predict(model).se / adapted.predict(model).latency;
    assert!(relative(1) > 4.0 * relative(0), "{} and {}", relative(1), relative(0));
}

#[test]
fn features_stand_in_for_reference_latencies() {
    let mut rng = rng(51);
    let causes = causes(&mut rng);
    let references: Vec<Vec<f64>> = (0..REFERENCES).map(|_| device(&mut rng, &causes)).collect();
    let truth = device(&mut rng, &causes);
    // Only every second model was measured on the references.
    let row = |model: usize| {
        references.iter().map(|of| (model.is_multiple_of(2)).then_some(of[model])).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<Option<f64>>> = (0..MODELS).map(row).collect();
    let features: Vec<Vec<f64>> = causes.iter().map(|causes| causes.to_vec()).collect();
    let panel = Panel::described(&rows, &features, Scale::Log).unwrap();
    let (found, _) = result(&panel, &truth, &panel.choose(10, |_| true));
    assert!(found > 0.985, "{found}");
}

#[test]
fn sums_are_recovered_on_the_linear_scale() {
    let mut rng = rng(55);
    let counts: Vec<[f64; 4]> =
        (0..MODELS).map(|_| std::array::from_fn(|_| f64::from(rng.random_range(0..6)))).collect();
    let device = |rng: &mut ChaCha8Rng| -> Vec<f64> {
        let costs: [f64; 4] = std::array::from_fn(|_| rng.random_range(0.1..2.0));
        let factor = (2.0 * normal(rng)).exp();
        let sum = |net: &[f64; 4]| 1.0 + net.iter().zip(costs).map(|(a, b)| a * b).sum::<f64>();
        counts.iter().map(|net| factor * sum(net) * NOISE.mul_add(normal(rng), 1.0)).collect()
    };
    let references: Vec<Vec<f64>> = (0..REFERENCES).map(|_| device(&mut rng)).collect();
    let rows: Vec<Vec<Option<f64>>> =
        (0..MODELS).map(|net| references.iter().map(|of| Some(of[net])).collect()).collect();
    let truth = device(&mut rng);
    let panel = Panel::measured(&rows, Scale::Linear).unwrap();
    let (found, near) = result(&panel, &truth, &panel.choose(10, |_| true));
    assert!(found > 0.98 && near > 0.85, "{found}, {near} within two standard errors");
    let features: Vec<Vec<f64>> = counts.iter().map(|net| net.to_vec()).collect();
    let panel = Panel::described(&rows, &features, Scale::Linear).unwrap();
    let (found, _) = result(&panel, &truth, &panel.choose(10, |_| true));
    assert!(found > 0.99, "{found}");
}

#[test]
fn a_measurement_is_trusted_by_its_error() {
    let (rows, truth) = devices(61);
    let panel = Panel::measured(&rows, Scale::Log).unwrap();
    let picks = panel.choose(6, |_| true);
    let level = |se: f64| {
        let spoiled = |(i, &model): (usize, &usize)| {
            let latency = truth[model] * if i == 0 { 3.0 } else { 1.0 };
            Sample { model, latency, se: if i == 0 { se * latency } else { 0.0 } }
        };
        let samples: Vec<Sample> = picks.iter().enumerate().map(spoiled).collect();
        let adapted = panel.adapt(&samples).unwrap();
        (0..MODELS).map(|model| (adapted.predict(model).latency / truth[model]).ln().abs()).sum::<f64>()
    };
    assert!(level(1.0) < 0.5 * level(0.0), "{} and {}", level(1.0), level(0.0));
}

#[test]
fn what_cannot_be_used_is_refused() {
    let (mut rows, _) = devices(71);
    let panel = Panel::measured(&rows, Scale::Log).unwrap();
    assert_eq!(panel.adapt(&[]).unwrap_err(), LatencyError::TooFewPoints { points: 0, needs: 1 });
    let zero = Sample { model: 0, latency: 0.0, se: 0.0 };
    assert_eq!(panel.adapt(&[zero]).unwrap_err(), LatencyError::BadLatency { latency: 0.0 });
    rows[3][1] = Some(-1.0);
    assert_eq!(Panel::measured(&rows, Scale::Log).unwrap_err(), LatencyError::BadLatency { latency: -1.0 });
    let apart: Vec<Vec<Option<f64>>> =
        (0..9).map(|i| vec![(i < 5).then_some(1.0), (i > 4).then_some(1.0)]).collect();
    let none = LatencyError::NoReferences { models: 0, references: 2 };
    assert_eq!(Panel::measured(&apart, Scale::Log).unwrap_err(), none);
    assert!(Panel::measured(&[], Scale::Log).is_err());
}

#[test]
fn models_are_chosen_once_and_alike_each_time() {
    let (rows, _) = devices(81);
    let panel = Panel::measured(&rows, Scale::Log).unwrap();
    let picks = panel.choose(10, |model| model >= 200);
    assert_eq!(picks, panel.choose(10, |model| model >= 200));
    let distinct: std::collections::BTreeSet<_> = picks.iter().collect();
    assert!(distinct.len() == 10 && picks.iter().all(|&model| model >= 200));
    assert_eq!(panel.choose(10, |model| model < 3).len(), 3);
}

#[test]
fn ranks_share_ties() {
    assert_eq!(ranks(&[2.0, 1.0, 2.0, 5.0]), [2.5, 1.0, 2.5, 4.0]);
    assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 15.0]), Some(0.5));
    assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
}

#[test]
fn a_table_is_read_and_each_device_predicted() {
    let mut rng = rng(91);
    let mut csv = "arch,accuracy,a_1_ms,a_32_ms,b_ms,c_ms\n".to_owned();
    for place in 0..243 {
        let ops: Vec<usize> = (0..5u32).map(|digit| place / 3usize.pow(digit) % 3).collect();
        let name: Vec<String> = ops.iter().enumerate().map(|(i, op)| format!("|op{op}~{i}|")).collect();
        let work: f64 = ops.iter().map(|&op| [0.1, 1.0, 3.0][op]).sum();
        let ms = |of: f64| of * work.powf(0.5f64.mul_add(of, 0.5)) * 0.01f64.mul_add(normal(&mut rng), 1.0);
        let [a1, a32, b, c] = [1.0, 1.1, 0.7, 0.5].map(ms);
        csv.push_str(&format!("{},90,{a1},{a32},{b},{c}\n", name.join("+")));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.csv");
    std::fs::write(&path, csv.replace(",90,", ",not read,")).unwrap();
    let table = Table::read(&path).unwrap();
    assert_eq!(table.devices, ["a_1", "a_32", "b", "c"]);
    let results = table.evaluate(5, 0).unwrap();
    for result in &results {
        let found = result.scores;
        let figures = [found.spearman, found.strict.unwrap(), found.latencies, found.half_measured];
        assert!(figures.iter().all(|&of| of > 0.97), "{found:?}");
        assert!(found.op_counts.unwrap() > 0.9 && found.ties > 0.999 && result.measured.len() == 5);
    }
    std::fs::write(&path, "arch,a_ms,b_ms\nx,1,2\ny,0,3\n").unwrap();
    let complaint = Table::read(&path).unwrap_err().to_string();
    assert!(complaint.ends_with("row 2, a_ms: '0' is no positive number"), "{complaint}");
}
