//! The search itself: epochs of weight and architecture steps, the gate that charges for cost, the
//! checkpoint, and the logits that come out.
//!
//! Same seed, same net, as far as the timer's answers are the same; every random number has an address
//! (see [`crate::data::stream`]), so that a search resumed at any step is the uninterrupted one.

use std::f64::consts::PI;
use std::path::Path;
use std::time::Instant;

use hanas_models::resnet::Family;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::super::SearchError;
use super::super::checkpoint::{Checkpoint, CheckpointError, digest, restore, variables};
use super::super::choices::Logits;
use super::super::config::{CostKind, SearchConfig};
use super::super::latency_model::LatencyModel;
use super::super::meter::{Amount, Meter, Side};
use super::super::progress::{Event, JsonLines, Monitor, SearchEpoch, peak_memory_bytes};
use super::super::strategies::{Files, Request};
use super::super::timer::NetTimer;
use super::conv::Form;
use super::cost::{LayerCost, expected};
use super::step::{Outcome, Stepper};
use crate::data::batches::{Batches, epoch};
use crate::data::stream::{Purpose, stream};

/// Searches the choices and returns the logits of the last epoch. With `files`, an earlier run that was
/// stopped goes on.
///
/// # Errors
/// [`SearchError`]; [`SearchError::Interrupted`] after the checkpoint is written.
pub fn search(
    request: &Request<'_>,
    meter: &mut Meter,
    timer: &mut dyn NetTimer,
    files: Option<&Files>,
    monitor: &mut Monitor<'_>,
) -> Result<Logits, SearchError> {
    Session::new(request)?.run(meter, timer, files, monitor)
}

fn layer_cost(kind: CostKind, model: Option<&LatencyModel>) -> Result<LayerCost<'_>, SearchError> {
    match (kind, model) {
        (CostKind::Flops, _) => Ok(LayerCost::Flops),
        (CostKind::Latency, Some(model @ LatencyModel::Curves(_)))
        | (CostKind::Pairwise, Some(model @ LatencyModel::Pairs(_))) => Ok(LayerCost::Latency(model)),
        (CostKind::Latency | CostKind::Pairwise, _) => Err(SearchError::Config(
            "a latency cost needs a latency model of its kind; run 'hanas profile' for this task, or take --cost flops"
                .to_owned(),
        )),
    }
}

/// Sums over the steps of an epoch so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    weight_loss: f64,
    weight_correct: u64,
    logit_loss: f64,
    logit_correct: u64,
    wall_ms: u64,
}

/// Where a search stands, and under which settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    config: SearchConfig,
    family: Family,
    widths: Vec<Vec<u32>>,
    images: usize,
    /// [`digest`] of the images.
    data: String,
    epoch: u32,
    step: usize,
    ratio: f64,
    sums: Sums,
}

/// A search under way.
struct Session<'a> {
    request: &'a Request<'a>,
    batches: Batches<'a>,
    /// Places of the images that train weights, and of those that train the architecture.
    halves: (Vec<usize>, Vec<usize>),
    stepper: Stepper,
    cost: LayerCost<'a>,
    note: Note,
}

impl<'a> Session<'a> {
    fn new(request: &'a Request<'a>) -> Result<Self, SearchError> {
        let Request { config, choices, images, normalisation, .. } = *request;
        let cost = layer_cost(config.cost, request.model)?;
        let halves = images.halves(config.seed);
        if halves.0.is_empty() || halves.1.is_empty() {
            return Err(SearchError::Images { images: images.len() });
        }
        let note = Note {
            config: config.clone(),
            family: choices.family.clone(),
            widths: choices.widths.clone(),
            images: images.len(),
            data: digest(images, normalisation),
            epoch: 0,
            step: 0,
            ratio: 1.0,
            sums: Sums::default(),
        };
        let stepper = Stepper::new(choices, Form::Sliced, config.seed, config.weights, config.logits);
        Ok(Self { request, batches: Batches::new(images, normalisation), halves, stepper, cost, note })
    }

    /// All epochs that are left; returns the logits of the last.
    fn run(
        mut self,
        meter: &mut Meter,
        timer: &mut dyn NetTimer,
        files: Option<&Files>,
        monitor: &mut Monitor<'_>,
    ) -> Result<Logits, SearchError> {
        if let Some(files) = files {
            self.resume(&files.checkpoint, meter)?;
        }
        let mut log = files.map(|files| JsonLines::open(&files.log, self.note.epoch as usize)).transpose()?;
        while self.note.epoch < self.request.config.total_epochs() {
            let start = Instant::now();
            let finished = self.epoch(meter, timer, monitor)?;
            self.note.sums.wall_ms += start.elapsed().as_millis() as u64;
            // Before the device is asked: measuring may fail, and must not cost what was trained.
            self.save(files, meter)?;
            if !finished {
                return Err(SearchError::Interrupted);
            }
            let record = self.record(meter, timer)?;
            if let Some(log) = &mut log {
                log.push(&record)?;
            }
            let expected = match self.request.config.cost {
                CostKind::Flops => Amount::Macs(record.expected_cost),
                CostKind::Latency | CostKind::Pairwise => Amount::Nanos(record.expected_cost),
            };
            monitor.tell(Event::Search {
                line: &record,
                expected: (!record.warmup).then_some(expected),
                argmax: meter.amount(record.estimated_cost),
                target: meter.amount(record.target_cost),
            });
            self.note = Note { epoch: self.note.epoch + 1, step: 0, sums: Sums::default(), ..self.note };
            self.save(files, meter)?;
        }
        Ok(self.stepper.logits.values())
    }

    /// The steps of this epoch that are left; false where it was stopped.
    fn epoch(
        &mut self,
        meter: &Meter,
        timer: &dyn NetTimer,
        monitor: &mut Monitor<'_>,
    ) -> Result<bool, SearchError> {
        let SearchConfig { seed, batch, .. } = *self.request.config;
        let now = self.note.epoch;
        let weights = epoch(&self.halves.0, batch, seed, Purpose::WeightOrder, now);
        let logits = epoch(&self.halves.1, batch, seed, Purpose::LogitOrder, now);
        let steps = weights.len().min(logits.len());
        while self.note.step < steps {
            if monitor.stopped() {
                return Ok(false);
            }
            let step = self.note.step;
            let loss = self.weight_step(&weights[step], steps)?;
            if !self.warmup() {
                self.logit_step(&logits[step], meter, timer)?;
            }
            self.note.step += 1;
            let (done, total) = self.progress(steps);
            monitor.tell(Event::Step { done, total, loss });
        }
        Ok(true)
    }

    /// Steps done, of weights and of logits, and all, where an epoch has `steps` of each.
    fn progress(&self, steps: usize) -> (usize, usize) {
        let SearchConfig { warmup_epochs, epochs, .. } = *self.request.config;
        let (alone, both) = (warmup_epochs as usize * steps, epochs as usize * steps);
        let weights = self.note.epoch as usize * steps + self.note.step;
        (weights + weights.saturating_sub(alone), alone + 2 * both)
    }

    fn weight_step(&mut self, places: &[usize], steps: usize) -> Result<f64, SearchError> {
        let config = self.request.config;
        let Note { epoch, step, .. } = self.note;
        let way = (f64::from(epoch) + step as f64 / steps as f64) / f64::from(config.total_epochs());
        let rate = 0.5 * config.weights.rate * (1.0 + (PI * way).cos());
        let batch = self.batches.augmented(places, &mut self.stream(Purpose::WeightAugment));
        let mut rng = self.stream(Purpose::WeightSample);
        let outcome = self.stepper.weight_step(&batch, self.temperature(), rate, &mut rng);
        self.note.sums.weight_loss += self.finite(outcome)?;
        self.note.sums.weight_correct += outcome.correct;
        Ok(outcome.loss)
    }

    fn logit_step(
        &mut self,
        places: &[usize],
        meter: &Meter,
        timer: &dyn NetTimer,
    ) -> Result<(), SearchError> {
        let Request { choices, config, .. } = *self.request;
        // The gate looks at the net that the search would return now (ALGORITHM 1.5).
        let net = choices.net(&choices.argmax(&self.stepper.logits.values()));
        let side = meter.side(meter.estimate(&net, timer)?);
        let (cost, temperature) = (self.cost, self.temperature());
        let charge = |logits: &_| -> Option<Tensor> {
            let sign = match side {
                Side::Below => -1.0,
                Side::Within => return None,
                Side::Above => 1.0,
            };
            Some(expected(choices, logits, cost).log() * (sign * config.cost_weight))
        };
        let batch = self.batches.augmented(places, &mut self.stream(Purpose::LogitAugment));
        let mut rng = self.stream(Purpose::LogitSample);
        let outcome = self.stepper.logit_step(&batch, temperature, charge, &mut rng);
        self.note.sums.logit_loss += self.finite(outcome)?;
        self.note.sums.logit_correct += outcome.correct;
        Ok(())
    }

    fn finite(&self, outcome: Outcome) -> Result<f64, SearchError> {
        let Note { epoch, step, .. } = self.note;
        if outcome.loss.is_finite() { Ok(outcome.loss) } else { Err(SearchError::Diverged { epoch, step }) }
    }

    const fn warmup(&self) -> bool {
        self.note.epoch < self.request.config.warmup_epochs
    }

    fn temperature(&self) -> f64 {
        let config = self.request.config;
        config.temperature.at(self.note.epoch.saturating_sub(config.warmup_epochs), config.epochs)
    }

    fn stream(&self, purpose: Purpose) -> rand_chacha::ChaCha8Rng {
        stream(self.request.config.seed, purpose, self.note.epoch, self.note.step as u64)
    }

    /// The epoch's line; measures the argmax net, which corrects the gate's estimates from here on.
    fn record(&self, meter: &mut Meter, timer: &mut dyn NetTimer) -> Result<SearchEpoch, SearchError> {
        let Request { choices, config, .. } = *self.request;
        let Note { epoch, step, sums, .. } = self.note;
        let net = choices.net(&choices.argmax(&self.stepper.logits.values()));
        let estimated_cost = meter.estimate(&net, timer)?;
        let measured_cost = meter.measure(&net, timer)?;
        let expected = tch::no_grad(|| expected(choices, &self.stepper.logits, self.cost).double_value(&[]));
        let images = |half: &[usize]| (step * config.batch.min(half.len())) as f64;
        Ok(SearchEpoch {
            epoch,
            warmup: self.warmup(),
            temperature: self.temperature(),
            weight_loss: sums.weight_loss / step as f64,
            weight_accuracy: sums.weight_correct as f64 / images(&self.halves.0),
            logit_loss: sums.logit_loss / step as f64,
            logit_accuracy: sums.logit_correct as f64 / images(&self.halves.1),
            expected_cost: expected,
            argmax: net.summary(),
            estimated_cost,
            measured_cost,
            target_cost: meter.target(),
            wall_ms: sums.wall_ms,
            peak_memory_bytes: peak_memory_bytes(),
        })
    }

    fn save(&mut self, files: Option<&Files>, meter: &Meter) -> Result<(), SearchError> {
        let Some(files) = files else {
            return Ok(());
        };
        self.note.ratio = meter.ratio();
        let mut checkpoint = Checkpoint::new();
        checkpoint.put("weights", variables(&self.stepper.net.store));
        checkpoint.put("momentum", self.stepper.sgd.state());
        checkpoint.put("logits", variables(&self.stepper.logits.store));
        checkpoint.put("adam", self.stepper.adam.state());
        Ok(checkpoint.save(&files.checkpoint, &self.note)?)
    }

    fn resume(&mut self, path: &Path, meter: &mut Meter) -> Result<(), SearchError> {
        let Some((checkpoint, note)) = Checkpoint::load::<Note>(path)? else {
            return Ok(());
        };
        let own = |note: &Note| {
            let Note { config, family, widths, images, data, .. } = note.clone();
            (config, family, widths, images, data)
        };
        if own(&note) != own(&self.note) {
            return Err(CheckpointError::Settings { path: path.to_owned() }.into());
        }
        restore(&self.stepper.net.store, &checkpoint.group("weights"))?;
        restore(&self.stepper.logits.store, &checkpoint.group("logits"))?;
        self.stepper.sgd.restore(&checkpoint.group("momentum"));
        self.stepper.adam.restore(&checkpoint.group("adam"))?;
        meter.set_ratio(note.ratio);
        self.note = note;
        Ok(())
    }
}
