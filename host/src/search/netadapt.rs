//! Coordinate descent on measured latency, after NetAdapt (Yang et al., ECCV 2018): the baseline that
//! makes a trained net smaller instead of searching a supernet.
//!
//! The base net is trained on one half of the training images. Then, time and again, each coordinate
//! (see [`mod@slim`]) is tried at the largest smaller value that saves the iteration's share of the latency,
//! by prediction; of all tries the one stays that loses least per nanosecond saved; it is trained a
//! little and measured. It ends with the first net that is measured within the budget.
//!
//! What a try loses is the rise of the cross-entropy on [`PROXY_IMAGES`] images from all over the other half,
//! right after the channels with the smallest norm are cut, batch norms on the batch's own statistics.
//! NetAdapt trains each try a little before it is judged; here only the winner is, for a try would cost
//! as much as a search's epoch: cuts that training would mend look dearer than they are. Widths are
//! those of the aligned grid up to the base's own. The steps of training are as many as the
//! supernet's weight steps in a search of the same settings, half of them before the first cut. The net
//! that comes out is trained from scratch like that of any other strategy, which is not what NetAdapt
//! does with it either.

pub mod slim;

use std::time::Instant;

use hanas_models::resnet::ConvNet;
use hanas_models::torch::{TorchNet, load, weights};
use hanas_models::weights::Weights;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::SearchError;
use super::checkpoint::{Checkpoint, CheckpointError, digest, load_group, save_group};
use super::config::SearchConfig;
use super::meter::{Meter, Side};
use super::optim::{Sgd, trainable};
use super::progress::{Event, JsonLines, Monitor, SearchEpoch, peak_memory_bytes};
use super::strategies::{Files, Request};
use super::timer::NetTimer;
use crate::data::batches::{Batch, Batches, epoch};
use crate::data::stream::{Purpose, stream};
use slim::{Coordinate, coordinates, slim, value, with};

/// Cuts that the way from the base net to the budget is divided into.
const CUTS: u32 = 12;
/// Images on which a try is judged.
pub const PROXY_IMAGES: usize = 256;
/// Learning rate after a cut, as a share of the settings'.
const AFTER_CUT: f64 = 0.1;

/// The slimmed net, and its cost.
///
/// # Errors
/// [`SearchError::BudgetTooSmall`] where nothing is left to cut, [`SearchError::Interrupted`], or what
/// the timer and the files report.
pub fn search(
    request: &Request<'_>,
    meter: &mut Meter,
    timer: &mut dyn NetTimer,
    files: Option<&Files>,
    monitor: &mut Monitor<'_>,
) -> Result<(ConvNet, f64), SearchError> {
    let mut session = Session::new(request)?;
    let base = meter.measure(&request.choices.family.base(), timer)?;
    let share = (base - meter.target()).max(0.0) / f64::from(CUTS);
    // After the base net is measured: a turn that is still to be measured is estimated as its cut was.
    if let Some(files) = files {
        session.resume(files, meter)?;
    }
    let mut log = files.map(|files| JsonLines::open(&files.log, session.note.turn as usize)).transpose()?;
    loop {
        let start = Instant::now();
        let losses = match session.note.losses {
            Some(losses) => losses,
            None => {
                let cost = meter.measure(&session.note.net, timer)?;
                if session.is_trained() && meter.side(cost) != Side::Above && cost <= meter.target() {
                    return Ok((session.note.net, cost));
                }
                let losses = session.turn(share, meter, timer, monitor)?;
                // Before the device is asked: measuring may fail, and must not cost what was trained.
                session.note.losses = Some(losses);
                session.save(files, meter)?;
                losses
            }
        };
        let record = session.record(losses, start, meter, timer)?;
        if let Some(log) = &mut log {
            log.push(&record)?;
        }
        monitor.tell(Event::Search {
            line: &record,
            expected: None,
            argmax: meter.amount(record.estimated_cost),
            target: meter.amount(record.target_cost),
        });
        (session.note.turn, session.note.losses) = (session.note.turn + 1, None);
        session.save(files, meter)?;
    }
}

/// Where a descent stands, and under which settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    config: SearchConfig,
    images: usize,
    /// [`digest`] of the images.
    data: String,
    net: ConvNet,
    /// Epochs of training and cuts done.
    turn: u32,
    /// Those of the next turn, where it is trained and not measured yet.
    losses: Option<Losses>,
    ratio: f64,
}

/// Means over a turn's steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Losses {
    loss: f64,
    accuracy: f64,
}

struct Session<'a> {
    request: &'a Request<'a>,
    batches: Batches<'a>,
    /// Places of the images that train, and of those that judge.
    halves: (Vec<usize>, Vec<usize>),
    store: VarStore,
    module: TorchNet,
    sgd: Sgd,
    note: Note,
}

impl<'a> Session<'a> {
    fn new(request: &'a Request<'a>) -> Result<Self, SearchError> {
        let Request { config, choices, images, normalisation, .. } = *request;
        let halves = images.halves(config.seed);
        if halves.0.is_empty() || halves.1.is_empty() {
            return Err(SearchError::Images { images: images.len() });
        }
        let net = choices.family.base();
        let store = VarStore::new(Device::Cpu);
        let seed = stream(config.seed, Purpose::Init, 0, 3).next_u64();
        let module = TorchNet::new(&store.root(), &net.net()?, seed)?;
        let sgd = Sgd::new(config.weights, trainable(&store));
        let note = Note {
            config: config.clone(),
            images: images.len(),
            data: digest(images, normalisation),
            net,
            turn: 0,
            losses: None,
            ratio: 1.0,
        };
        Ok(Self { request, batches: Batches::new(images, normalisation), halves, store, module, sgd, note })
    }

    /// Epochs of training before the first cut.
    const fn pretraining(&self) -> u32 {
        let config = self.request.config;
        config.warmup_epochs + config.epochs.div_ceil(2)
    }

    /// Whether the base net is trained, and the turns are cuts.
    const fn is_trained(&self) -> bool {
        self.note.turn >= self.pretraining()
    }

    /// Steps of training after a cut: the other half of a search's epochs, shared by all cuts.
    fn steps_after_cut(&self, steps: usize) -> usize {
        let epochs = (self.request.config.epochs / 2) as usize;
        (epochs * steps).div_ceil(CUTS as usize).max(1)
    }

    /// A turn but for its measurement: an epoch of the base net, or a cut and the steps after it.
    fn turn(
        &mut self,
        share: f64,
        meter: &Meter,
        timer: &dyn NetTimer,
        monitor: &mut Monitor<'_>,
    ) -> Result<Losses, SearchError> {
        let cut = self.is_trained();
        if cut {
            self.cut(share, meter, timer)?;
        }
        self.train(cut, monitor)?.ok_or(SearchError::Interrupted)
    }

    /// The line of a turn that began at `start`; measures its net.
    fn record(
        &self,
        losses: Losses,
        start: Instant,
        meter: &mut Meter,
        timer: &mut dyn NetTimer,
    ) -> Result<SearchEpoch, SearchError> {
        let net = &self.note.net;
        let estimated_cost = meter.estimate(net, timer)?;
        let measured_cost = meter.measure(net, timer)?;
        Ok(SearchEpoch {
            epoch: self.note.turn,
            warmup: !self.is_trained(),
            temperature: 0.0,
            weight_loss: losses.loss,
            weight_accuracy: losses.accuracy,
            logit_loss: self.proxy(net, &weights(&self.store))?,
            logit_accuracy: 0.0,
            expected_cost: estimated_cost,
            argmax: net.summary(),
            estimated_cost,
            measured_cost,
            target_cost: meter.target(),
            wall_ms: start.elapsed().as_millis() as u64,
            peak_memory_bytes: peak_memory_bytes(),
        })
    }

    /// Makes the cut that loses least per cost saved, of those that save `share` by prediction; of all
    /// where none does.
    fn cut(&mut self, share: f64, meter: &Meter, timer: &dyn NetTimer) -> Result<(), SearchError> {
        let trained = weights(&self.store);
        let cost = meter.estimate(&self.note.net, timer)?;
        let before = self.proxy(&self.note.net, &trained)?;
        let tries = self.tries(cost, share, meter, timer)?;
        let mut best: Option<(f64, ConvNet)> = None;
        for (net, saving) in tries {
            let loss = self.proxy(&net, &slim(&self.note.net, &trained, &net))?;
            let score = (loss - before) / saving;
            if best.as_ref().is_none_or(|(least, _)| score < *least) {
                best = Some((score, net));
            }
        }
        let Some((_, net)) = best else {
            let (budget, smallest) = (meter.amount(meter.target()), meter.amount(cost));
            return Err(SearchError::BudgetTooSmall { budget, smallest });
        };
        let slimmed = slim(&self.note.net, &trained, &net);
        self.take(net, &slimmed)
    }

    /// For each coordinate the largest smaller value that saves `share`, with what it saves; where no
    /// coordinate does, whatever saves anything.
    fn tries(
        &self,
        cost: f64,
        share: f64,
        meter: &Meter,
        timer: &dyn NetTimer,
    ) -> Result<Vec<(ConvNet, f64)>, SearchError> {
        let (mut enough, mut any) = (Vec::new(), Vec::new());
        for at in coordinates(&self.note.net) {
            let now = value(&self.note.net, at);
            for smaller in self.values(at).into_iter().rev().filter(|&smaller| smaller < now) {
                let net = with(&self.note.net, at, smaller);
                let saving = cost - meter.estimate(&net, timer)?;
                if saving >= share {
                    enough.push((net, saving));
                    break;
                }
                if saving > 0.0 {
                    any.push((net, saving));
                }
            }
        }
        Ok(if enough.is_empty() { any } else { enough })
    }

    /// Ascending values that a coordinate may take.
    fn values(&self, at: Coordinate) -> Vec<u32> {
        let choices = self.request.choices;
        match at {
            Coordinate::Bundle(bundle) => {
                let bundles = slim::bundles(&choices.family);
                let place = bundles.iter().position(|&other| other == bundle).unwrap_or(0);
                let row = if place == 0 { 0 } else { choices.row(place - 1, 0) + 1 };
                choices.widths[row].clone()
            }
            Coordinate::Inner { stage, block } => choices.widths[choices.row(stage, block)].clone(),
            Coordinate::Depth(stage) => choices.depths[stage].clone(),
        }
    }

    /// Goes on with this net and these weights.
    fn take(&mut self, net: ConvNet, values: &Weights) -> Result<(), SearchError> {
        (self.store, self.module) = module(&net, values)?;
        self.sgd = Sgd::new(self.request.config.weights, trainable(&self.store));
        self.note.net = net;
        Ok(())
    }

    /// Cross-entropy on the images that judge, by the batch's own statistics.
    fn proxy(&self, net: &ConvNet, values: &Weights) -> Result<f64, SearchError> {
        let (_store, module) = module(net, values)?;
        let Batch { images, labels } = self.batches.plain(&spread(&self.halves.1, PROXY_IMAGES));
        let loss = tch::no_grad(|| module.forward_t(&images, true).cross_entropy_for_logits(&labels));
        Ok(loss.double_value(&[]))
    }

    /// An epoch of the base net, or the steps after a cut; none where it was stopped.
    fn train(&mut self, cut: bool, monitor: &mut Monitor<'_>) -> Result<Option<Losses>, SearchError> {
        let config = self.request.config;
        let turn = self.note.turn;
        let order = epoch(&self.halves.0, config.batch, config.seed, Purpose::WeightOrder, turn);
        let steps = if cut { self.steps_after_cut(order.len()) } else { order.len() };
        let (before, total) =
            progress(turn, self.pretraining(), order.len(), self.steps_after_cut(order.len()));
        let (mut loss, mut correct, mut images) = (0.0, 0, 0);
        for (step, places) in order.iter().cycle().take(steps).enumerate() {
            if monitor.stopped() {
                return Ok(None);
            }
            let mut rng = stream(config.seed, Purpose::WeightAugment, turn, step as u64);
            let batch = self.batches.augmented(places, &mut rng);
            let scores = self.module.forward_t(&batch.images, true);
            let entropy = scores.cross_entropy_for_logits(&batch.labels);
            let way = (f64::from(turn) + step as f64 / steps as f64) / f64::from(self.pretraining());
            let falling = 0.5 * (1.0 + (std::f64::consts::PI * way.min(1.0)).cos());
            // Before the first cut the rate falls to that which follows a cut.
            let share = if cut { AFTER_CUT } else { AFTER_CUT + (1.0 - AFTER_CUT) * falling };
            self.sgd.step(&entropy, share * config.weights.rate);
            let now = entropy.double_value(&[]);
            if !now.is_finite() {
                return Err(SearchError::Diverged { epoch: turn, step });
            }
            loss += now;
            correct += right(&scores, &batch.labels);
            images += places.len();
            monitor.tell(Event::Step { done: before + step + 1, total, loss: now });
        }
        Ok(Some(Losses { loss: loss / steps as f64, accuracy: correct as f64 / images.max(1) as f64 }))
    }

    fn save(&mut self, files: Option<&Files>, meter: &Meter) -> Result<(), SearchError> {
        let Some(files) = files else {
            return Ok(());
        };
        self.note.ratio = meter.ratio();
        let mut checkpoint = Checkpoint::new();
        checkpoint.put("weights", save_group(&weights(&self.store)));
        checkpoint.put("momentum", self.sgd.state());
        Ok(checkpoint.save(&files.checkpoint, &self.note)?)
    }

    fn resume(&mut self, files: &Files, meter: &mut Meter) -> Result<(), SearchError> {
        let Some((checkpoint, note)) = Checkpoint::load::<Note>(&files.checkpoint)? else {
            return Ok(());
        };
        let own =
            |note: &Note| (note.config.clone(), note.images, note.data.clone(), note.net.family.clone());
        if own(&note) != own(&self.note) {
            return Err(CheckpointError::Settings { path: files.checkpoint.clone() }.into());
        }
        self.take(note.net.clone(), &load_group(&checkpoint.group("weights")))?;
        // A cut's momentum ends with it, as a turn without interruption drops it at the next cut.
        self.sgd.restore(&checkpoint.group("momentum"));
        meter.set_ratio(note.ratio);
        self.note = note;
        Ok(())
    }
}

/// Steps done before a turn, and all of them as far as is known, where an epoch of the `pretraining` ones has
/// `steps` and a cut is followed by `after_cut`: there may be more cuts than the way is divided into.
fn progress(turn: u32, pretraining: u32, steps: usize, after_cut: usize) -> (usize, usize) {
    let of = |epochs: u32, cuts: u32| epochs as usize * steps + cuts as usize * after_cut;
    let cuts = turn.saturating_sub(pretraining);
    (of(turn.min(pretraining), cuts), of(pretraining, CUTS.max(cuts + 1)))
}

/// At most so many of a list, evenly spaced: images may lie class by class.
fn spread(places: &[usize], most: usize) -> Vec<usize> {
    let count = places.len().min(most);
    (0..count).map(|number| places[number * places.len() / count]).collect()
}

/// A net with these weights.
fn module(net: &ConvNet, values: &Weights) -> Result<(VarStore, TorchNet), SearchError> {
    let mut store = VarStore::new(Device::Cpu);
    let module = TorchNet::new(&store.root(), &net.net()?, 0)?;
    load(&mut store, values)?;
    Ok((store, module))
}

fn right(scores: &Tensor, labels: &Tensor) -> u64 {
    scores.detach().argmax(-1, false).eq_tensor(labels).sum(Kind::Int64).int64_value(&[]) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_judges_a_try() {
        // Four classes of a hundred images, one after the other.
        let places: Vec<usize> = (0..400).collect();
        let classes: Vec<usize> = spread(&places, 8).iter().map(|place| place / 100).collect();
        assert_eq!(classes, [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(spread(&places[..3], 8), [0, 1, 2]);
        assert!(spread(&[], 8).is_empty());
    }

    #[test]
    fn more_cuts_than_expected_are_more_steps() {
        assert_eq!(progress(0, 3, 10, 2), (0, 54));
        assert_eq!(progress(14, 3, 10, 2), (52, 54));
        assert_eq!(progress(15, 3, 10, 2), (54, 56));
        assert_eq!(progress(20, 3, 10, 2), (64, 66));
    }
}
