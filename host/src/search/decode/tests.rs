//! The decoder against every net of small families, one by one.

use super::super::choices::tests::{tiny_choices, tiny_family};
use super::super::config::Gate;
use super::super::latency_model::LatencyModel;
use super::super::latency_model::tests::pairs;
use super::super::timer::FitTimer;
use super::super::timer::tests::fits;
use super::*;
use crate::space::width::WidthSpace;

/// Sums of a few dozen logits in another order.
const TOLERANCE: f64 = 1e-9;

/// Two blocks a stage, two widths a row: 2^13 widths times 2^3 depths.
fn deep() -> Choices {
    let family = tiny_family(2);
    Choices::new(&family, &WidthSpace { stages: vec![vec![3, 8], vec![5, 8], vec![8, 16]] }).unwrap()
}

/// One block a stage, three widths a row, rows of their own.
fn wide() -> Choices {
    let family = tiny_family(1);
    let space = WidthSpace { stages: vec![vec![2, 4, 8], vec![4, 8, 16], vec![8, 9, 16]] };
    let mut choices = Choices::new(&family, &space).unwrap();
    choices.widths[4] = vec![4, 6, 7];
    choices
}

fn logits(choices: &Choices, seed: u64) -> Logits {
    let mut x = 0.1 + 0.17 * seed as f64;
    let mut next = move || {
        x = (x * 91.37 + 0.213).fract();
        2.0 * x - 1.0
    };
    let mut rows =
        |lists: &[Vec<u32>]| lists.iter().map(|list| list.iter().map(|_| next()).collect()).collect();
    Logits { widths: rows(&choices.widths), depths: rows(&choices.depths) }
}

/// Every net with its score, its true price, and its price in whole steps of `limit`.
fn every_net(choices: &Choices, logits: &Logits, model: &LatencyModel, limit: f64) -> Vec<(f64, f64, usize)> {
    let argmax = choices.argmax(logits);
    let sizes: Vec<usize> = choices.depths.iter().chain(&choices.widths).map(Vec::len).collect();
    let count: usize = sizes.iter().product();
    let mut nets = Vec::new();
    for mut number in 0..count {
        let mut digits = sizes.iter().map(|size| {
            let digit = number % size;
            number /= size;
            digit
        });
        let depths: Vec<usize> = digits.by_ref().take(choices.depths.len()).collect();
        let picks = Picks { depths, widths: digits.collect() };
        // Of nets that differ in dropped rows alone one is enough: the one with their best.
        let kept = kept_rows(choices, &picks);
        if (0..picks.widths.len()).any(|row| !kept.contains(&row) && picks.widths[row] != argmax.widths[row])
        {
            continue;
        }
        let row = |(row, &pick): (&Vec<f64>, &usize)| below_best(row, pick);
        let score = logits.widths.iter().zip(&picks.widths).map(row).sum::<f64>()
            + logits.depths.iter().zip(&picks.depths).map(row).sum::<f64>();
        let (price, steps) = price(choices, &picks, model, limit);
        nets.push((score, price, steps));
    }
    nets
}

fn kept_rows(choices: &Choices, picks: &Picks) -> Vec<usize> {
    let mut rows = vec![0];
    for (stage, &depth) in picks.depths.iter().enumerate() {
        let blocks = 0..choices.depths[stage][depth] as usize;
        rows.extend(blocks.flat_map(|block| [choices.row(stage, block), choices.row(stage, block) + 1]));
    }
    rows
}

/// The net's price, and in whole steps of the limit, rounded as the decoder promises: stem, each block,
/// head.
fn price(choices: &Choices, picks: &Picks, model: &LatencyModel, limit: f64) -> (f64, usize) {
    let net = choices.net(picks);
    let layers = hanas_models::layer::layers(&net).unwrap();
    let ns: Vec<f64> = layers.iter().map(|(kind, layer)| model.layer_ns(*kind, layer).unwrap()).collect();
    let up = |ns: f64| (ns / (limit / STEPS as f64)).ceil() as usize;
    let (mut steps, mut at) = (up(ns[0]) + up(ns[ns.len() - 1]), 1);
    while at + 1 < layers.len() {
        let shortcut = matches!(layers[at + 2].0, LayerType::Shortcut { .. });
        let end = at + 2 + usize::from(shortcut);
        steps += up(ns[at..end].iter().sum());
        at = end;
    }
    (ns.iter().sum(), steps)
}

#[test]
fn no_net_within_the_limit_is_likelier() {
    for (choices, seeds) in [(deep(), 2), (wide(), 6)] {
        let family = &choices.family;
        for model in [LatencyModel::Curves(fits(family)), LatencyModel::Pairs(pairs(family))] {
            let cost = |picks: &Picks| model.predict_ns(&choices.net(picks)).unwrap();
            let (least, most) = (cost(&choices.smallest()), cost(&choices.largest()));
            for seed in 0..seeds {
                let logits = logits(&choices, seed);
                for share in [0.02, 0.3, 0.6] {
                    let limit = least + share * (most - least);
                    let price = |kind: LayerType, layer: &Layer| Ok(model.layer_ns(kind, layer)?);
                    let found = decode(&choices, &logits, limit, &price).unwrap().unwrap();
                    assert!(cost(&found.picks) <= limit);
                    let all = every_net(&choices, &logits, &model, limit);
                    let best = |within: &dyn Fn(f64, usize) -> bool| {
                        let fitting = all.iter().filter(|(_, ns, steps)| within(*ns, *steps));
                        fitting.map(|net| net.0).fold(f64::NEG_INFINITY, f64::max)
                    };
                    // Exact in whole steps.
                    let exact = best(&|_, steps| steps <= STEPS);
                    assert!((found.score - exact).abs() < TOLERANCE, "{} and not {exact}", found.score);
                    // And as good as any net that leaves the rounding free.
                    let roundings = family.base().stages.concat().len() + 2;
                    let room = limit * (1.0 - roundings as f64 / STEPS as f64);
                    assert!(found.score >= best(&|ns, _| ns <= room) - TOLERANCE);
                    assert!(found.score <= best(&|ns, _| ns <= limit) + TOLERANCE);
                }
            }
        }
    }
}

#[test]
fn without_a_limit_it_is_the_argmax() {
    let choices = tiny_choices(3);
    let price = |_: LayerType, _: &Layer| Ok(1.0);
    for seed in 0..4 {
        let logits = logits(&choices, seed);
        let found = decode(&choices, &logits, 1e6, &price).unwrap().unwrap();
        assert_eq!((found.picks, found.score), (choices.argmax(&logits), 0.0));
    }
    assert_eq!(decode(&choices, &logits(&choices, 1), 5.0, &price).unwrap(), None);
}

#[test]
fn measuring_corrects_the_prices() {
    let choices = tiny_choices(2);
    let model = LatencyModel::Pairs(pairs(&choices.family));
    // The device is slower, or faster, than predicted.
    for factor in [1.4, 0.7] {
        let mut timer = FitTimer::new(model.clone(), factor);
        let largest = factor * model.predict_ns(&choices.net(&choices.largest())).unwrap();
        let budget_ns = 0.5 * largest;
        let mut meter = Meter::new(Gate::Latency { budget_ns }, 0.05, &choices.family).unwrap();
        let logits = logits(&choices, 3);
        let picks = within(&choices, &logits, &mut meter, &mut timer).unwrap();
        // What it would have found had it known the device from the start.
        let price = |kind: LayerType, layer: &Layer| Ok(factor * model.layer_ns(kind, layer)?);
        let told = decode(&choices, &logits, budget_ns, &price).unwrap().unwrap();
        assert_eq!(picks, told.picks);
        assert!(factor * model.predict_ns(&choices.net(&picks)).unwrap() <= budget_ns);
        assert!(timer.measured <= ROUNDS);
    }
}
