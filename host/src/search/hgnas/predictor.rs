//! The latency of a two-layer graph net without measuring it: a small net on 48 numbers (ALGORITHM 2.5),
//! alone as in the paper or on top of the structural model, whose residual it then learns.
//!
//! In: measured nets. Out: predictions, and how well they meet a tenth of the nets that the training
//! never saw; a predictor that misses its gate is not to be used, more must be measured.

use std::path::Path;

use hanas_models::gnn::{Activation, Aggregator, Attention, GnnLayer, GnnNet, Reading};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use tch::nn::{Init, VarStore};
use tch::{Device, Kind, Tensor};

use super::super::checkpoint::{Checkpoint, CheckpointError, Tensors, restore, variables};
use super::super::config::AdamConfig;
use super::super::optim::{Adam, trainable};
use crate::data::stream::{Purpose, stream};
use crate::latency::LatencyError;
use crate::latency::agreement::{Agreement, agreement};
use crate::latency::graph::{GraphFit, GraphShape, MeasuredNet};

/// Numbers that describe a net.
pub const INPUTS: usize = 48;

/// Settings of the training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PredictorConfig {
    /// Width of the two hidden layers.
    pub hidden: i64,
    /// Adam's learning rate.
    pub rate: f64,
    /// Epochs; the one with the lowest error on the validation nets counts.
    pub epochs: u32,
    /// Nets of a step.
    pub batch: usize,
}

impl Default for PredictorConfig {
    fn default() -> Self {
        Self { hidden: 64, rate: 1e-3, epochs: 300, batch: 32 }
    }
}

/// What a predictor must reach on unseen nets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Largest mean absolute error over the measured latency.
    pub max_mape: f64,
    /// Smallest Kendall's tau.
    pub min_tau: f64,
}

impl Gate {
    /// For a quiet device.
    pub const QUIET: Self = Self { max_mape: 0.10, min_tau: 0.85 };
    /// For a processor that others use as well.
    pub const NOISY: Self = Self { max_mape: 0.15, min_tau: 0.85 };

    /// Whether an agreement on unseen nets is good enough.
    #[must_use]
    pub fn passes(&self, test: &Agreement) -> bool {
        test.mape <= self.max_mape && test.kendall_tau.is_some_and(|tau| tau >= self.min_tau)
    }
}

/// Why there is no predictor.
#[derive(Debug, thiserror::Error)]
pub enum PredictorError {
    /// A split in three would leave a part empty.
    #[error("{0} measured nets are too few to train, choose and test a predictor; measure at least 30")]
    TooFew(usize),
    /// A net that 48 numbers do not describe, or a latency that is none.
    #[error("net {0} has not two layers, or its latency is no positive number")]
    Net(usize),
    /// The structural model cannot be fitted.
    #[error(transparent)]
    Latency(#[from] LatencyError),
}

/// What the small net learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// The latency itself (paper).
    Latency,
    /// The latency over what a structural model, fitted to the same nets, says (project mode).
    Residual {
        /// The graph that the nets ran on.
        graph: GraphShape,
        /// How they were lowered.
        reading: Reading,
    },
}

/// What the small net's output is relative to, fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Base {
    structural: Option<(GraphFit, GraphShape)>,
}

impl Base {
    fn new(target: Target, samples: &[Sample<'_>]) -> Result<Self, PredictorError> {
        let Target::Residual { graph, reading } = target else { return Ok(Self { structural: None }) };
        let measured = |of: &Sample<'_>| MeasuredNet { net: of.net.clone(), graph, ns: of.ns };
        let nets: Vec<MeasuredNet> = samples.iter().map(measured).collect();
        Ok(Self { structural: Some((GraphFit::new(&nets, reading)?, graph)) })
    }

    fn ns(&self, net: &GnnNet) -> f64 {
        self.structural.as_ref().map_or(1.0, |(fit, graph)| fit.predict_ns(net, *graph))
    }
}

/// All of a predictor but its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    config: PredictorConfig,
    base: Base,
    /// Of the logarithm of latency over base, on the training nets.
    mean: f64,
    deviation: f64,
    test: Agreement,
}

/// A trained predictor.
#[derive(Debug)]
pub struct Predictor {
    store: VarStore,
    layers: Vec<(Tensor, Tensor)>,
    note: Note,
}

/// The numbers that describe a net; none of another than two layers.
#[must_use]
pub fn features(net: &GnnNet) -> Option<Vec<f32>> {
    if net.layers.len() != 2 {
        return None;
    }
    let mut numbers = Vec::with_capacity(INPUTS);
    for layer in &net.layers {
        let GnnLayer { heads, dim, .. } = *layer;
        one_hot(&mut numbers, Attention::ALL, layer.attention);
        one_hot(&mut numbers, Aggregator::ALL, layer.aggregator);
        one_hot(&mut numbers, Activation::ALL, layer.activation);
        let (h, d) = (heads as f32, dim as f32);
        numbers.extend([h.log2(), d.log2(), (h * d).log2(), h / 16.0, d / 256.0]);
    }
    Some(numbers)
}

fn one_hot<T: PartialEq + Copy>(numbers: &mut Vec<f32>, all: &[T], value: T) {
    numbers.extend(all.iter().map(|&of| f32::from(u8::from(of == value))));
}

/// Puts nets in the order in which a predictor of that seed deals them out; how many of the first test it, as
/// many after them choose its epoch, and the rest train it.
pub fn shuffled<T>(nets: &mut [T], seed: u64) -> usize {
    nets.shuffle(&mut stream(seed, Purpose::Predictor, 0, 0));
    nets.len() / 10
}

impl Predictor {
    /// Trains on eight tenths of the nets, chooses the epoch by one, tests on one (480, 60 and 60 of the
    /// paper's 600). Latencies in nanoseconds.
    ///
    /// # Errors
    /// [`PredictorError`].
    pub fn train(
        nets: &[(GnnNet, f64)],
        target: Target,
        config: PredictorConfig,
        seed: u64,
    ) -> Result<Self, PredictorError> {
        if nets.len() < 30 {
            return Err(PredictorError::TooFew(nets.len()));
        }
        let mut samples = Vec::with_capacity(nets.len());
        for (place, (net, ns)) in nets.iter().enumerate() {
            let inputs = features(net).filter(|_| ns.is_finite() && *ns > 0.0);
            let inputs = inputs.ok_or(PredictorError::Net(place))?;
            samples.push(Sample { net, ns: *ns, inputs, log: 0.0 });
        }
        let tenth = shuffled(&mut samples, seed);
        // The structural model sees the training nets alone, too.
        let base = Base::new(target, &samples[2 * tenth..])?;
        samples.iter_mut().for_each(|of| of.log = (of.ns / base.ns(of.net)).ln());
        let (tested, rest) = samples.split_at(tenth);
        let (validated, trained) = rest.split_at(tenth);
        let mean = trained.iter().map(|of| of.log).sum::<f64>() / trained.len() as f64;
        let variance = trained.iter().map(|of| (of.log - mean).powi(2)).sum::<f64>() / trained.len() as f64;
        // Until it is tested it is as wrong as can be.
        let test = Agreement {
            nets: 0,
            mape: f64::MAX,
            within_5pct: 0.0,
            within_10pct: 0.0,
            nine_in_ten: f64::MAX,
            worst: f64::MAX,
            bias: 0.0,
            kendall_tau: None,
            spearman_rho: None,
        };
        // A base without any residual leaves nothing to scale.
        let note = Note { config, base, mean, deviation: variance.sqrt().max(1e-9), test };
        let mut found = Self::fresh(note, seed);
        found.fit(trained, validated, seed);
        let pairs: Vec<(f64, f64)> =
            tested.iter().filter_map(|of| Some((found.predict_ns(of.net)?, of.ns))).collect();
        if let Some(test) = agreement(&pairs) {
            found.note.test = test;
        }
        Ok(found)
    }

    /// Weights uniform within 1 / sqrt(inputs), as PyTorch's linear layers start.
    fn fresh(note: Note, seed: u64) -> Self {
        let store = VarStore::new(Device::Cpu);
        let mut rng = stream(seed, Purpose::Predictor, 0, 1);
        let hidden = note.config.hidden;
        let sizes = [(INPUTS as i64, hidden), (hidden, hidden), (hidden, 1)];
        let layers = sizes.iter().enumerate().map(|(place, &(from, to))| {
            let range = 1.0 / (from as f32).sqrt();
            let weight = uniform(&store, &format!("weight{place}"), &[to, from], range, &mut rng);
            (weight, uniform(&store, &format!("bias{place}"), &[to], range, &mut rng))
        });
        let layers = layers.collect();
        Self { store, layers, note }
    }

    fn fit(&mut self, trained: &[Sample<'_>], validated: &[Sample<'_>], seed: u64) {
        let PredictorConfig { rate, epochs, batch, .. } = self.note.config;
        let mut adam =
            Adam::new(AdamConfig { rate, betas: [0.9, 0.999], decay: 0.0 }, trainable(&self.store));
        let (inputs, targets) = self.tensors(trained);
        let held_out = self.tensors(validated);
        let mut best: Option<(f64, Tensors)> = None;
        let mut order: Vec<i64> = (0..trained.len() as i64).collect();
        for epoch in 0..epochs {
            order.shuffle(&mut stream(seed, Purpose::Predictor, epoch + 1, 0));
            for places in order.chunks(batch.max(1)) {
                let places = Tensor::from_slice(places);
                let output = self.forward(&inputs.index_select(0, &places));
                adam.step(&(output - targets.index_select(0, &places)).square().mean(Kind::Float));
            }
            let error = tch::no_grad(|| (self.forward(&held_out.0) - &held_out.1).square().mean(Kind::Float));
            let error = error.double_value(&[]);
            if best.as_ref().is_none_or(|(least, _)| error < *least) {
                let copies = variables(&self.store).into_iter().map(|(name, of)| (name, of.copy()));
                best = Some((error, copies.collect()));
            }
        }
        if let Some((_, weights)) = best {
            for (name, mut variable) in self.store.variables() {
                if let Some(weight) = weights.get(&name) {
                    tch::no_grad(|| variable.copy_(weight));
                }
            }
        }
    }

    /// Inputs and standardised targets.
    fn tensors(&self, samples: &[Sample<'_>]) -> (Tensor, Tensor) {
        let inputs: Vec<f32> = samples.iter().flat_map(|of| of.inputs.iter().copied()).collect();
        let target = |of: &Sample<'_>| ((of.log - self.note.mean) / self.note.deviation) as f32;
        let targets: Vec<f32> = samples.iter().map(target).collect();
        (Tensor::from_slice(&inputs).view([-1, INPUTS as i64]), Tensor::from_slice(&targets))
    }

    fn forward(&self, inputs: &Tensor) -> Tensor {
        let mut x = inputs.shallow_clone();
        for (place, (weight, bias)) in self.layers.iter().enumerate() {
            x = x.linear(weight, Some(bias));
            if place + 1 < self.layers.len() {
                x = x.relu();
            }
        }
        x.view([-1])
    }

    /// Predicted latency in nanoseconds; none of another net than one of two layers.
    #[must_use]
    pub fn predict_ns(&self, net: &GnnNet) -> Option<f64> {
        let inputs = Tensor::from_slice(&features(net)?).view([1, INPUTS as i64]);
        let output = tch::no_grad(|| self.forward(&inputs)).double_value(&[0]);
        Some(output.mul_add(self.note.deviation, self.note.mean).exp() * self.note.base.ns(net))
    }

    /// How well it met the nets that it never saw.
    #[must_use]
    pub const fn test(&self) -> &Agreement {
        &self.note.test
    }

    /// Keeps it in a file.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        let mut checkpoint = Checkpoint::new();
        checkpoint.put("predictor", variables(&self.store));
        checkpoint.save(path, &self.note)
    }

    /// Reads it from a file; none where there is no file.
    ///
    /// # Errors
    /// [`CheckpointError`] where the file is damaged or another one.
    pub fn load(path: &Path) -> Result<Option<Self>, CheckpointError> {
        let Some((checkpoint, note)) = Checkpoint::load::<Note>(path)? else { return Ok(None) };
        let found = Self::fresh(note, 0);
        restore(&found.store, &checkpoint.group("predictor"))?;
        Ok(Some(found))
    }
}

/// A measured net, made ready.
struct Sample<'a> {
    net: &'a GnnNet,
    ns: f64,
    inputs: Vec<f32>,
    /// Logarithm of latency over base.
    log: f64,
}

fn uniform(store: &VarStore, name: &str, shape: &[i64], range: f32, rng: &mut impl Rng) -> Tensor {
    let count = shape.iter().product::<i64>();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-range..=range)).collect();
    let mut variable = store.root().var(name, shape, Init::Const(0.0));
    tch::no_grad(|| variable.copy_(&Tensor::from_slice(&values).view(shape)));
    variable
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::latency::graph::tests::{CORA, device_ns, random_net};

    /// Nets on a device with vector steps of 8 and 2% of noise.
    fn measured(count: usize, seed: u64) -> Vec<(GnnNet, f64)> {
        tch::set_num_threads(1);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut one = |_| {
            let net = random_net(&mut rng);
            let ns = device_ns(&net, CORA, 8) * (1.0 + rng.random_range(-0.02..=0.02));
            (net, ns)
        };
        (0..count).map(&mut one).collect()
    }

    const DEFAULT: Reading = Reading { compat_src_softmax: false, pool_per_node: false };
    const RESIDUAL: Target = Target::Residual { graph: CORA, reading: DEFAULT };

    #[test]
    fn a_net_is_48_numbers() {
        let net = random_net(&mut ChaCha8Rng::seed_from_u64(1));
        let numbers = features(&net).unwrap();
        assert_eq!(numbers.len(), INPUTS);
        let ones = numbers[..19].iter().filter(|&&number| number == 1.0).count();
        assert_eq!(ones, 3);
        assert_eq!(numbers[22], net.layers[0].heads as f32 / 16.0);
        assert_eq!(features(&GnnNet { layers: Vec::new(), ..net }), None);
    }

    #[test]
    fn six_hundred_nets_pass_the_gate_and_noise_does_not() {
        let nets = measured(600, 2);
        let found = Predictor::train(&nets, Target::Latency, PredictorConfig::default(), 1).unwrap();
        assert!(Gate::QUIET.passes(found.test()), "{:?}", found.test());
        let (mut latencies, mut shuffled) = (nets.iter().map(|of| of.1).collect::<Vec<_>>(), nets);
        latencies.shuffle(&mut ChaCha8Rng::seed_from_u64(3));
        shuffled.iter_mut().zip(latencies).for_each(|(of, ns)| of.1 = ns);
        let config = PredictorConfig { epochs: 30, ..PredictorConfig::default() };
        let found = Predictor::train(&shuffled, Target::Latency, config, 1).unwrap();
        assert!(!Gate::NOISY.passes(found.test()), "{:?}", found.test());
    }

    #[test]
    fn the_structural_base_needs_far_fewer_nets() {
        let nets = measured(150, 4);
        let unseen = measured(200, 5);
        let error = |target| {
            let found = Predictor::train(&nets, target, PredictorConfig::default(), 1).unwrap();
            let pairs: Vec<(f64, f64)> =
                unseen.iter().map(|(net, ns)| (found.predict_ns(net).unwrap(), *ns)).collect();
            agreement(&pairs).unwrap().mape
        };
        let (alone, on_top) = (error(Target::Latency), error(RESIDUAL));
        assert!(on_top < 0.1 && on_top < 0.7 * alone, "alone {alone}, on top {on_top}");
    }

    #[test]
    fn a_predictor_survives_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictor.safetensors");
        assert!(Predictor::load(&path).unwrap().is_none());
        let nets = measured(60, 6);
        let config = PredictorConfig { epochs: 3, ..PredictorConfig::default() };
        let found = Predictor::train(&nets, RESIDUAL, config, 1).unwrap();
        found.save(&path).unwrap();
        let read = Predictor::load(&path).unwrap().unwrap();
        assert_eq!(read.note, found.note);
        assert!(nets.iter().all(|(net, _)| read.predict_ns(net) == found.predict_ns(net)));
        assert!(matches!(
            Predictor::train(&nets[..20], Target::Latency, config, 1),
            Err(PredictorError::TooFew(20))
        ));
    }
}
