//! Whole searches on a tiny family and procedural images.

use std::sync::atomic::{AtomicBool, Ordering};

use hanas_models::layer::{Layer, LayerType};

use super::super::SearchError;
use super::super::checkpoint::CheckpointError;
use super::super::choices::tests::tiny_choices;
use super::super::config::{AdamConfig, CostKind, Gate};
use super::super::latency_model::tests::pairs;
use super::super::progress::{Event, SearchEpoch, read_lines};
use super::super::timer::tests::fits;
use super::super::timer::{FitTimer, NoTimer, TimerError};
use super::*;
use crate::data::Data;
use crate::data::shapes::shapes10;
use crate::train::config::TrainConfig;
use crate::train::distil;

/// Measured over predicted latency of the pretended device.
const FACTOR: f64 = 1.3;

struct Bed {
    choices: Choices,
    model: LatencyModel,
    data: Data,
    normalisation: Normalisation,
    config: SearchConfig,
}

impl Bed {
    /// A budget of a share of the largest net's measured latency.
    fn new(share: f64) -> Self {
        // Tests run side by side; threads of their own would only get in each other's way.
        tch::set_num_threads(1);
        let choices = tiny_choices(2);
        let fits = fits(&choices.family);
        let budget_ns = share * FACTOR * fits.predict_ns(&choices.net(&choices.largest())).unwrap();
        let data = shapes10(320, 100, 16, 1);
        let config = SearchConfig {
            epochs: 2,
            warmup_epochs: 1,
            batch: 32,
            logits: AdamConfig { rate: 0.05, ..AdamConfig::default() },
            ..SearchConfig::scaled(Strategy::Htas, Gate::Latency { budget_ns }, 1)
        };
        let normalisation = Normalisation::of(&data.train);
        Self { choices, model: fits.into(), data, normalisation, config }
    }

    /// A descent from the base net to .6 of its latency.
    fn slimming() -> Self {
        let mut bed = Self::new(0.5);
        bed.config.strategy = Strategy::NetAdapt;
        let space = bed.config.strategy.space(&bed.choices.family, None, 1).unwrap();
        bed.choices = Choices::new(&bed.choices.family, &space).unwrap();
        let budget_ns = 0.6 * FACTOR * bed.model.predict_ns(&bed.choices.family.base()).unwrap();
        bed.config.gate = Gate::Latency { budget_ns };
        bed
    }

    fn request(&self) -> Request<'_> {
        Request {
            config: &self.config,
            choices: &self.choices,
            images: &self.data.train,
            normalisation: &self.normalisation,
            model: Some(&self.model),
        }
    }

    fn run(&self) -> Result<Found, SearchError> {
        self.watched(None, &mut |_| (), &AtomicBool::new(false))
    }

    fn watched(
        &self,
        files: Option<&Files>,
        watch: &mut dyn FnMut(Event<'_>),
        stop: &AtomicBool,
    ) -> Result<Found, SearchError> {
        let mut timer = FitTimer::new(self.model.clone(), FACTOR);
        search(&self.request(), &mut timer, files, &mut Monitor { watch, stop })
    }
}

#[test]
fn one_seed_gives_one_net_within_the_budget() {
    let mut bed = Bed::new(0.6);
    let Gate::Latency { budget_ns } = bed.config.gate else { unreachable!() };
    let first = bed.run().unwrap();
    assert_eq!(bed.run().unwrap(), first);
    assert!(first.cost <= 1.05 * budget_ns, "{} of {budget_ns}", first.cost);
    assert_eq!(first.measured_ns, Some(first.cost));
    bed.config.seed = 2;
    assert_ne!(bed.run().unwrap().logits, first.logits);
}

#[test]
fn a_resumed_search_is_the_uninterrupted_one() {
    let bed = Bed::new(0.6);
    let whole = bed.run().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files =
        Files { checkpoint: folder.path().join("c.safetensors"), log: folder.path().join("log.jsonl") };
    // Five steps an epoch: stopped at the end of the first, in the second, in the third.
    let stop = AtomicBool::new(false);
    let mut seen = 0;
    for end in [5, 7, 13] {
        let mut watch = |event: Event<'_>| {
            seen += u32::from(matches!(event, Event::Step { .. }));
            stop.store(seen == end, Ordering::Relaxed);
        };
        let stopped = bed.watched(Some(&files), &mut watch, &stop);
        assert!(matches!(stopped, Err(SearchError::Interrupted)), "at step {end}");
        stop.store(false, Ordering::Relaxed);
    }
    let resumed = bed.watched(Some(&files), &mut |_| (), &stop).unwrap();
    assert_eq!(resumed, whole);
    let log: Vec<SearchEpoch> = read_lines(&files.log).unwrap();
    assert_eq!(
        log.iter().map(|entry| (entry.epoch, entry.warmup)).collect::<Vec<_>>(),
        [(0, true), (1, false), (2, false)]
    );

    let (mut other, mut images) = (Bed::new(0.6), Bed::new(0.6));
    other.config.batch = 16;
    images.data = shapes10(320, 100, 16, 2);
    for bed in [other, images] {
        let refused = bed.watched(Some(&files), &mut |_| (), &stop);
        assert!(matches!(refused, Err(SearchError::Checkpoint(CheckpointError::Settings { .. }))));
    }
}

/// A device that is there until it is lost.
struct Lost<'a> {
    timer: FitTimer,
    lost: &'a AtomicBool,
}

impl NetTimer for Lost<'_> {
    fn layer_ns(&self, kind: LayerType, layer: &Layer) -> Result<f64, TimerError> {
        self.timer.layer_ns(kind, layer)
    }

    fn measure_ns(&mut self, net: &ConvNet) -> Result<f64, TimerError> {
        if self.lost.load(Ordering::Relaxed) {
            Err("the device is gone".into())
        } else {
            self.timer.measure_ns(net)
        }
    }
}

/// Searches on a device that is lost after `last` steps and on one that stays: what is found, the steps and
/// the log, without what differs between runs.
fn until_lost(bed: &Bed, files: &Files, last: u32) -> (Result<Found, SearchError>, u32, Vec<SearchEpoch>) {
    let (lost, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut timer = Lost { timer: FitTimer::new(bed.model.clone(), FACTOR), lost: &lost };
    let mut steps = 0;
    let mut watch = |event: Event<'_>| {
        steps += u32::from(matches!(event, Event::Step { .. }));
        lost.store(steps >= last, Ordering::Relaxed);
    };
    let found =
        search(&bed.request(), &mut timer, Some(files), &mut Monitor { watch: &mut watch, stop: &stop });
    let log: Vec<SearchEpoch> = read_lines(&files.log).unwrap();
    let log = log.into_iter().map(|entry| SearchEpoch { wall_ms: 0, peak_memory_bytes: 0, ..entry });
    (found, steps, log.collect())
}

/// Nothing that was trained is trained again after the measurement that ends an epoch has failed.
fn assert_kept_when_lost(bed: &Bed, last: u32) {
    let folder = tempfile::tempdir().unwrap();
    let files = |name: &str| {
        let path = folder.path().join(name);
        Files { checkpoint: path.with_extension("safetensors"), log: path.with_extension("jsonl") }
    };
    let (whole, steps, log) = until_lost(bed, &files("whole"), u32::MAX);
    let (failed, before, begun) = until_lost(bed, &files("lost"), last);
    assert!(matches!(failed, Err(SearchError::Timer(_))), "{failed:?}");
    assert!(before == last && begun.len() < log.len(), "lost at the end of an epoch");
    let (resumed, after, all) = until_lost(bed, &files("lost"), u32::MAX);
    assert_eq!(resumed.unwrap(), whole.unwrap());
    assert_eq!((before + after, all), (steps, log));
}

#[test]
fn an_epoch_is_kept_when_the_device_is_lost_at_its_end() {
    // Five steps an epoch.
    assert_kept_when_lost(&Bed::new(0.6), 10);
}

/// Project mode: pairwise cost and exact decoding, each alone and both.
#[test]
fn project_mode_keeps_the_budget() {
    for (cost, decode) in [
        (CostKind::Pairwise, Decode::Exact),
        (CostKind::Pairwise, Decode::Argmax),
        (CostKind::Latency, Decode::Exact),
    ] {
        let mut bed = Bed::new(0.6);
        if cost == CostKind::Pairwise {
            bed.model = pairs(&bed.choices.family).into();
        }
        let largest = bed.choices.net(&bed.choices.largest());
        let budget_ns = 0.6 * FACTOR * bed.model.predict_ns(&largest).unwrap();
        bed.config.gate = Gate::Latency { budget_ns };
        (bed.config.cost, bed.config.decode) = (cost, decode);
        let found = bed.run().unwrap();
        let share = found.cost / budget_ns;
        assert!(share <= 1.05, "{cost:?} {decode:?}: {share}");
        assert!(decode == Decode::Argmax || found.repair_steps == 0, "{cost:?}: {share}");
        assert_eq!(bed.run().unwrap(), found);
    }
}

/// The argmax net, not the expectation, is what the gate looks at and so what ends at the target.
#[test]
fn the_charge_moves_the_argmax_net_to_its_budget() {
    for share in [0.5, 0.8] {
        let mut bed = Bed::new(share);
        bed.config.epochs = 12;
        bed.config.logits.rate = 0.1;
        // Far above the cross-entropy, whose gradient is mostly noise in so few steps.
        bed.config.cost_weight = 50.0;
        let mut shares = Vec::new();
        let mut watch = |event: Event<'_>| {
            if let Event::Search { line, .. } = event {
                shares.push(line.measured_cost / line.target_cost);
            }
        };
        bed.watched(None, &mut watch, &AtomicBool::new(false)).unwrap();
        // One step can throw the argmax off at any time, on one processor and not on another: the middle of
        // the second half counts.
        let first = (shares[0] - 1.0).abs();
        let mut late: Vec<f64> = shares[7..].iter().map(|share| (share - 1.0).abs()).collect();
        late.sort_by(f64::total_cmp);
        assert!(late[late.len() / 2] < (0.6 * first).min(0.1), "{shares:?}");
    }
}

#[test]
fn a_flops_gate_needs_no_device() {
    let mut bed = Bed::new(0.6);
    bed.config.gate = Gate::Flops { ratio: 1.0 };
    bed.config.cost = CostKind::Flops;
    bed.config.strategy = Strategy::Tas { expand: 2 };
    let (stop, request) = (AtomicBool::new(false), bed.request());
    let mut monitor = Monitor { watch: &mut |_| (), stop: &stop };
    let found = search(&request, &mut NoTimer, None, &mut monitor).unwrap();
    let base = hanas_models::cost::macs(&bed.choices.family.base().net().unwrap()).unwrap() as f64;
    assert!(found.cost <= 1.05 * base && found.measured_ns.is_none());
}

#[test]
fn impossible_budgets_are_refused_before_any_step() {
    for (share, small) in [(0.01, true), (2.0, false)] {
        let bed = Bed::new(share);
        let mut steps = 0;
        let error = bed.watched(None, &mut |_| steps += 1, &AtomicBool::new(false)).unwrap_err();
        assert_eq!(matches!(error, SearchError::BudgetTooSmall { .. }), small, "{error}");
        assert_eq!(matches!(error, SearchError::BudgetTooLarge { .. }), !small, "{error}");
        assert_eq!(steps, 0);
    }
}

#[test]
fn strategies_without_a_supernet_keep_the_budget_too() {
    let mut bed = Bed::new(0.5);
    let Gate::Latency { budget_ns } = bed.config.gate else { unreachable!() };
    for strategy in [Strategy::Random, Strategy::Uniform] {
        bed.config.strategy = strategy;
        let found = bed.run().unwrap();
        assert!(found.cost <= budget_ns && found.logits.is_none(), "{strategy:?}");
    }
}

/// Slimming ends within the budget, from the seed alone, and goes on where it was stopped.
#[test]
fn a_descent_keeps_the_budget_and_resumes() {
    let mut bed = Bed::slimming();
    let (base, Gate::Latency { budget_ns }) = (bed.choices.family.base(), bed.config.gate) else {
        unreachable!()
    };
    let whole = bed.run().unwrap();
    assert!(whole.cost <= budget_ns && whole.cost > 0.7 * budget_ns, "{}", whole.cost / budget_ns);
    assert_ne!(whole.net, base);

    let folder = tempfile::tempdir().unwrap();
    let files =
        Files { checkpoint: folder.path().join("c.safetensors"), log: folder.path().join("log.jsonl") };
    // Two epochs of five steps, then cuts of one step: stopped in the second epoch and after a cut.
    let stop = AtomicBool::new(false);
    for end in [7, 4] {
        let mut seen = 0;
        let mut watch = |event: Event<'_>| {
            seen += u32::from(matches!(event, Event::Step { .. }));
            stop.store(seen == end, Ordering::Relaxed);
        };
        let stopped = bed.watched(Some(&files), &mut watch, &stop);
        assert!(matches!(stopped, Err(SearchError::Interrupted)), "at step {end}");
        stop.store(false, Ordering::Relaxed);
    }
    assert_eq!(bed.watched(Some(&files), &mut |_| (), &stop).unwrap(), whole);
    let log: Vec<SearchEpoch> = read_lines(&files.log).unwrap();
    assert!(log.len() > 3 && log.iter().enumerate().all(|(line, entry)| entry.epoch as usize == line));
    assert!((log.last().unwrap().measured_cost / whole.cost - 1.0).abs() < 1e-9);

    bed.data = shapes10(320, 100, 16, 2);
    let refused = bed.watched(Some(&files), &mut |_| (), &stop);
    assert!(matches!(refused, Err(SearchError::Checkpoint(CheckpointError::Settings { .. }))));
}

#[test]
fn a_cut_is_kept_when_the_device_is_lost_after_it() {
    // Two epochs of five steps, then cuts of one step.
    assert_kept_when_lost(&Bed::slimming(), 12);
}

/// Search and training from end to end; the found net must do better than
/// guessing (.1) by more than six standard errors.
#[test]
fn a_found_net_learns() {
    let mut bed = Bed::new(0.9);
    bed.data = shapes10(1_600, 400, 16, 1);
    let found = bed.run().unwrap();
    let config = TrainConfig { epochs: 7, warmup_epochs: 1, batch: 32, ..TrainConfig::paper(1) };
    let request = distil::Request {
        config: &config,
        net: &found.net.net().unwrap(),
        data: &bed.data,
        normalisation: &bed.normalisation,
        teacher: None,
    };
    let stop = AtomicBool::new(false);
    let mut monitor = Monitor { watch: &mut |_| (), stop: &stop };
    let trained = distil::train(&request, None, &mut monitor).unwrap();
    assert!(trained.test_accuracy > 0.2, "{}", trained.test_accuracy);
}
