//! Training from scratch, by labels alone or by a frozen teacher too.
//!
//! Loss with a teacher: (1 - share) CE + share T^2 KL(softmax(t / T) || softmax(s / T)), batch mean.

use std::path::{Path, PathBuf};
use std::time::Instant;

use hanas_models::spec::Net;
use hanas_models::torch::{TorchNet, weights};
use hanas_models::weights::Weights;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::TrainError;
use super::config::TrainConfig;
use super::frozen::{Frozen, accuracy};
use crate::data::batches::{Batch, Batches, epoch};
use crate::data::stream::{Purpose, stream};
use crate::data::{Data, Normalisation};
use crate::search::checkpoint::{Checkpoint, CheckpointError, digest, restore, variables};
use crate::search::htas::step::correct;
use crate::search::optim::{Sgd, trainable};
use crate::search::progress::{Event, JsonLines, Monitor, TrainEpoch, peak_memory_bytes};

/// What a training works on.
#[derive(Debug)]
pub struct Request<'a> {
    /// Settings.
    pub config: &'a TrainConfig,
    /// The net.
    pub net: &'a Net,
    /// Training and test images.
    pub data: &'a Data,
    /// Their normalisation.
    pub normalisation: &'a Normalisation,
    /// Who is imitated; without, the labels are all there is.
    pub teacher: Option<&'a Frozen>,
}

/// Where a training writes.
#[derive(Debug, Clone)]
pub struct Files {
    /// Where it stands.
    pub checkpoint: PathBuf,
    /// One line per epoch.
    pub log: PathBuf,
}

/// A trained net.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Its weights.
    pub weights: Weights,
    /// Share of the test images classified right after the last epoch.
    pub test_accuracy: f64,
}

/// A student, its optimiser and who it learns from.
#[derive(Debug)]
pub struct Student<'a> {
    /// Variables.
    pub store: VarStore,
    /// The net.
    pub net: TorchNet,
    sgd: Sgd,
    teacher: Option<&'a Frozen>,
    share: f64,
    temperature: f64,
}

impl<'a> Student<'a> {
    /// A net with fresh weights.
    ///
    /// # Errors
    /// [`TrainError::Spec`] where the net does not fit together.
    pub fn new(net: &Net, config: &TrainConfig, teacher: Option<&'a Frozen>) -> Result<Self, TrainError> {
        let store = VarStore::new(Device::Cpu);
        let seed = stream(config.seed, Purpose::Init, 0, 2).next_u64();
        let net = TorchNet::new(&store.root(), net, seed)?;
        let sgd = Sgd::new(config.sgd, trainable(&store));
        let (share, temperature) = (config.teacher_share, config.teacher_temperature);
        Ok(Self { store, net, sgd, teacher, share, temperature })
    }

    /// One step on a batch at a learning rate: its loss and the images classified right.
    pub fn step(&mut self, batch: &Batch, rate: f64) -> (f64, u64) {
        let teacher = self.teacher.map(|teacher| teacher.logits(&batch.images));
        let scores = self.net.forward_t(&batch.images, true);
        let loss = match teacher {
            Some(teacher) => distillation(&scores, &teacher, &batch.labels, self.share, self.temperature),
            None => scores.cross_entropy_for_logits(&batch.labels),
        };
        self.sgd.step(&loss, rate);
        (loss.double_value(&[]), correct(&scores, &batch.labels))
    }
}

/// (1 - share) CE + share T^2 KL(softmax(t / T) || softmax(s / T)), batch mean.
#[must_use = "it has no other effect"]
pub fn distillation(
    student: &Tensor,
    teacher: &Tensor,
    labels: &Tensor,
    share: f64,
    temperature: f64,
) -> Tensor {
    let entropy = student.cross_entropy_for_logits(labels);
    let cool = |logits: &Tensor| (logits / temperature).log_softmax(-1, Kind::Float);
    let sum = cool(student).kl_div(&cool(teacher), tch::Reduction::Sum, true);
    let divergence = sum / student.size()[0] as f64;
    entropy * (1.0 - share) + divergence * (share * temperature * temperature)
}

/// Trains a net from scratch. With `files`, an earlier training that was stopped goes on.
///
/// # Errors
/// [`TrainError`]; [`TrainError::Interrupted`] after the checkpoint is written.
pub fn train(
    request: &Request<'_>,
    files: Option<&Files>,
    monitor: &mut Monitor<'_>,
) -> Result<Trained, TrainError> {
    request.config.check()?;
    let mut session = Session::new(request)?;
    if let Some(files) = files {
        session.resume(&files.checkpoint)?;
    }
    let mut log = files.map(|files| JsonLines::open(&files.log, session.note.epoch as usize)).transpose()?;
    while session.note.epoch < request.config.total_epochs() {
        let start = Instant::now();
        let finished = session.epoch(monitor)?;
        session.note.wall_ms += start.elapsed().as_millis() as u64;
        if !finished {
            session.save(files)?;
            return Err(TrainError::Interrupted);
        }
        let record = session.record();
        if let Some(log) = &mut log {
            log.push(&record)?;
        }
        monitor.tell(Event::Train(&record));
        let (epoch, step, loss, correct, wall_ms) = (session.note.epoch + 1, 0, 0.0, 0, 0);
        let test_accuracy = record.test_accuracy.or(session.note.test_accuracy);
        session.note = Note { epoch, step, loss, correct, wall_ms, test_accuracy, ..session.note };
        session.save(files)?;
    }
    // The last epoch was always tested.
    let test_accuracy = session.note.test_accuracy.unwrap_or_default();
    Ok(Trained { weights: weights(&session.student.store), test_accuracy })
}

/// Where a training stands, and under which settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    config: TrainConfig,
    net: Net,
    images: usize,
    /// [`digest`] of the images.
    data: String,
    /// Whether there is a teacher.
    taught: bool,
    epoch: u32,
    step: usize,
    /// Sum over the steps of this epoch so far.
    loss: f64,
    correct: u64,
    wall_ms: u64,
    test_accuracy: Option<f64>,
}

struct Session<'a> {
    request: &'a Request<'a>,
    batches: Batches<'a>,
    places: Vec<usize>,
    student: Student<'a>,
    note: Note,
}

impl<'a> Session<'a> {
    fn new(request: &'a Request<'a>) -> Result<Self, TrainError> {
        let Request { config, net, data, normalisation, teacher } = *request;
        if data.train.is_empty() {
            return Err(TrainError::Config("a training needs at least one image".into()));
        }
        let note = Note {
            config: config.clone(),
            net: net.clone(),
            images: data.train.len(),
            data: digest(&data.train, normalisation),
            taught: teacher.is_some(),
            epoch: 0,
            step: 0,
            loss: 0.0,
            correct: 0,
            wall_ms: 0,
            test_accuracy: None,
        };
        Ok(Self {
            request,
            batches: Batches::new(&data.train, normalisation),
            places: (0..data.train.len()).collect(),
            student: Student::new(net, config, teacher)?,
            note,
        })
    }

    /// The steps of this epoch that are left; false where it was stopped.
    fn epoch(&mut self, monitor: &mut Monitor<'_>) -> Result<bool, TrainError> {
        let config = self.request.config;
        let now = self.note.epoch;
        let steps = epoch(&self.places, config.batch, config.seed, Purpose::WeightOrder, now);
        while self.note.step < steps.len() {
            if monitor.stopped() {
                return Ok(false);
            }
            let step = self.note.step;
            let rate = config.rate(f64::from(now) + (step as f64 + 0.5) / steps.len() as f64);
            let mut rng = stream(config.seed, Purpose::WeightAugment, now, step as u64);
            let batch = self.batches.augmented(&steps[step], &mut rng);
            let (loss, correct) = self.student.step(&batch, rate);
            if !loss.is_finite() {
                return Err(TrainError::Diverged { epoch: now, step });
            }
            self.note.loss += loss;
            self.note.correct += correct;
            self.note.step += 1;
            let done = now as usize * steps.len() + step + 1;
            let total = config.total_epochs() as usize * steps.len();
            monitor.tell(Event::Step { done, total, loss });
        }
        Ok(true)
    }

    fn record(&self) -> TrainEpoch {
        let Request { config, data, normalisation, .. } = *self.request;
        let Note { epoch, step, loss, correct, wall_ms, .. } = self.note;
        let last = epoch + 1 == config.total_epochs();
        let images = step * config.batch.min(self.places.len());
        TrainEpoch {
            epoch,
            rate: config.rate(f64::from(epoch) + (step as f64 - 0.5) / step as f64),
            loss: loss / step as f64,
            accuracy: correct as f64 / images as f64,
            test_accuracy: (last || config.test_every_epoch)
                .then(|| accuracy(&self.student.net, &data.test, normalisation)),
            wall_ms,
            peak_memory_bytes: peak_memory_bytes(),
        }
    }

    fn save(&self, files: Option<&Files>) -> Result<(), TrainError> {
        let Some(files) = files else {
            return Ok(());
        };
        let mut checkpoint = Checkpoint::new();
        checkpoint.put("weights", variables(&self.student.store));
        checkpoint.put("momentum", self.student.sgd.state());
        Ok(checkpoint.save(&files.checkpoint, &self.note)?)
    }

    fn resume(&mut self, path: &Path) -> Result<(), TrainError> {
        let Some((checkpoint, note)) = Checkpoint::load::<Note>(path)? else {
            return Ok(());
        };
        let own = |note: &Note| {
            let Note { config, net, images, data, taught, .. } = note.clone();
            (config, net, images, data, taught)
        };
        if own(&note) != own(&self.note) {
            return Err(CheckpointError::Settings { path: path.to_owned() }.into());
        }
        restore(&self.student.store, &checkpoint.group("weights"))?;
        self.student.sgd.restore(&checkpoint.group("momentum"));
        self.note = note;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::data::shapes::shapes10;
    use crate::search::choices::tests::tiny_family;
    use crate::search::config::SgdConfig;
    use crate::search::progress::read_lines;

    fn config() -> TrainConfig {
        let sgd = SgdConfig { rate: 0.05, ..SgdConfig::default() };
        TrainConfig { epochs: 2, warmup_epochs: 1, batch: 32, sgd, ..TrainConfig::paper(3) }
    }

    #[test]
    fn the_distillation_loss_is_its_formula() {
        let (s, t) = ([[1.0f64, -0.5, 2.0], [0.3, 0.1, -1.0]], [[0.5f64, 0.0, 3.0], [-1.0, 2.0, 0.0]]);
        let softmax = |row: &[f64; 3], by: f64| {
            let exp = row.map(|x| (x / by).exp());
            exp.map(|x| x / exp.iter().sum::<f64>())
        };
        let mut want = 0.0;
        for ((student, teacher), label) in s.iter().zip(&t).zip([2usize, 0]) {
            let (p, q) = (softmax(teacher, 4.0), softmax(student, 4.0));
            let divergence: f64 = (0..3).map(|c| p[c] * (p[c] / q[c]).ln()).sum();
            want += (0.1 * -softmax(student, 1.0)[label].ln() + 0.9 * 16.0 * divergence) / 2.0;
        }
        let tensor =
            |rows: &[[f64; 3]; 2]| Tensor::from_slice(&rows.concat()).view([2, 3]).to_kind(Kind::Float);
        let got = distillation(&tensor(&s), &tensor(&t), &Tensor::from_slice(&[2i64, 0]), 0.9, 4.0);
        let got = got.double_value(&[]);
        assert!((got - want).abs() < 1e-6, "{got}, not {want}");
    }

    /// Trains twice: in one go, and stopped in the middle of the second epoch and resumed.
    #[test]
    fn a_resumed_training_is_the_uninterrupted_one() {
        tch::set_num_threads(1);
        let data = shapes10(160, 40, 16, 1);
        let normalisation = Normalisation::of(&data.train);
        let net = tiny_family(1).base().net().unwrap();
        let config = config();
        let request =
            Request { config: &config, net: &net, data: &data, normalisation: &normalisation, teacher: None };
        let stop = AtomicBool::new(false);
        let whole = train(&request, None, &mut Monitor { watch: &mut |_| (), stop: &stop }).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let files =
            Files { checkpoint: folder.path().join("c.safetensors"), log: folder.path().join("log.jsonl") };
        let mut seen = 0;
        let mut watch = |event: Event<'_>| {
            seen += u32::from(matches!(event, Event::Step { .. }));
            stop.store(seen == 7, Ordering::Relaxed);
        };
        let stopped = train(&request, Some(&files), &mut Monitor { watch: &mut watch, stop: &stop });
        assert!(matches!(stopped, Err(TrainError::Interrupted)));
        stop.store(false, Ordering::Relaxed);
        let resumed =
            train(&request, Some(&files), &mut Monitor { watch: &mut |_| (), stop: &stop }).unwrap();
        assert_eq!(resumed, whole);
        let log: Vec<TrainEpoch> = read_lines(&files.log).unwrap();
        assert_eq!(log.iter().map(|entry| entry.epoch).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(log[2].test_accuracy, Some(whole.test_accuracy));

        let is_refused = |request: &Request<'_>| {
            let refused = train(request, Some(&files), &mut Monitor { watch: &mut |_| (), stop: &stop });
            matches!(refused, Err(TrainError::Checkpoint(CheckpointError::Settings { .. })))
        };
        let other = TrainConfig { seed: 4, ..config.clone() };
        assert!(is_refused(&Request { config: &other, ..request }));
        let frozen = Frozen::new(&net, &whole.weights).unwrap();
        assert!(is_refused(&Request { teacher: Some(&frozen), ..request }));
        let other = shapes10(160, 40, 16, 2);
        assert!(is_refused(&Request { data: &other, ..request }));
    }

    #[test]
    fn a_training_without_images_is_refused() {
        let mut data = shapes10(20, 20, 16, 1);
        let normalisation = Normalisation::of(&data.train);
        data.train = data.train.select(&[]);
        let (config, net) = (config(), tiny_family(1).base().net().unwrap());
        let request =
            Request { config: &config, net: &net, data: &data, normalisation: &normalisation, teacher: None };
        let stop = AtomicBool::new(false);
        let refused = train(&request, None, &mut Monitor { watch: &mut |_| (), stop: &stop });
        assert!(matches!(refused, Err(TrainError::Config(_))));
    }
}
