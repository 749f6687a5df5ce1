//! The controller: an LSTM that writes architectures token by token, taught by REINFORCE (Zoph & Le
//! 2017) as in GraphNAS (ALGORITHM 2.4).
//!
//! Each step takes the embedding of the token before (zeros at first); the position's category names the
//! decoder. One architecture, one update. Everything random comes from the seed and from the generator
//! that a proposal is given, so the controller is a function of its seed and of what it was taught.

use std::collections::VecDeque;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tch::nn::{Init, VarStore};
use tch::{Device, Kind, Tensor};

use super::super::config::AdamConfig;
use super::super::optim::{Adam, trainable};
use super::explore::Proposer;
use super::tokens::{TokenSpace, Tokens};
use crate::data::stream::{Purpose, stream};

/// Settings of the controller; the defaults are the reference code's.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ControllerConfig {
    /// Width of the LSTM cell and of the embedding.
    pub hidden: i64,
    /// Parameters start uniform between minus and plus this.
    pub range: f32,
    /// Logits are squashed to this size.
    pub squash: f64,
    /// What logits are divided by before they are squashed.
    pub temperature: f64,
    /// Weight of a token's entropy in its reward.
    pub entropy: f64,
    /// Decay of the baseline.
    pub baseline_decay: f64,
    /// Adam's learning rate.
    pub rate: f64,
    /// What the largest recent advantage is scaled to.
    pub advantage: f64,
    /// Updates that count as recent.
    pub window: usize,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            hidden: 100,
            range: 0.1,
            squash: 2.5,
            temperature: 5.0,
            entropy: 1e-4,
            baseline_decay: 0.95,
            rate: 3.5e-4,
            advantage: 0.5,
            window: 10,
        }
    }
}

/// A category's decoder.
#[derive(Debug)]
struct Decoder {
    weight: Tensor,
    bias: Tensor,
}

/// The controller and what it was taught.
#[derive(Debug)]
pub struct Controller {
    space: TokenSpace,
    config: ControllerConfig,
    embedding: Tensor,
    input_weight: Tensor,
    state_weight: Tensor,
    input_bias: Tensor,
    state_bias: Tensor,
    decoders: Vec<Decoder>,
    /// First row of each category in the embedding.
    offsets: Vec<i64>,
    adam: Adam,
    /// Of each token's reward; none before the first update.
    baseline: Option<Vec<f64>>,
    /// Largest magnitude of the advantages of each recent update.
    recent: VecDeque<f64>,
    /// Owns the variables.
    store: VarStore,
}

impl Controller {
    /// A fresh controller.
    #[must_use]
    pub fn new(space: TokenSpace, config: ControllerConfig, seed: u64) -> Self {
        let store = VarStore::new(Device::Cpu);
        let mut rng = stream(seed, Purpose::Init, 0, 2);
        let mut uniform = |name: &str, shape: &[i64]| {
            let count = shape.iter().product::<i64>();
            let values: Vec<f32> =
                (0..count).map(|_| rng.random_range(-config.range..=config.range)).collect();
            let mut variable = store.root().var(name, shape, Init::Const(0.0));
            tch::no_grad(|| variable.copy_(&Tensor::from_slice(&values).view(shape)));
            variable
        };
        let sizes: Vec<i64> = space.categories.iter().map(|category| category.size as i64).collect();
        let offsets =
            sizes.iter().scan(0, |next, size| Some(std::mem::replace(next, *next + size))).collect();
        let hidden = config.hidden;
        let embedding = uniform("embedding", &[sizes.iter().sum(), hidden]);
        let input_weight = uniform("input_weight", &[4 * hidden, hidden]);
        let state_weight = uniform("state_weight", &[4 * hidden, hidden]);
        let input_bias = uniform("input_bias", &[4 * hidden]);
        let state_bias = uniform("state_bias", &[4 * hidden]);
        let decoders = sizes.iter().enumerate().map(|(place, &size)| Decoder {
            weight: uniform(&format!("decoder{place}_weight"), &[size, hidden]),
            bias: store.root().var(&format!("decoder{place}_bias"), &[size], Init::Const(0.0)),
        });
        let decoders = decoders.collect();
        let adam = AdamConfig { rate: config.rate, betas: [0.9, 0.999], decay: 0.0 };
        let adam = Adam::new(adam, trainable(&store));
        Self {
            space,
            config,
            embedding,
            input_weight,
            state_weight,
            input_bias,
            state_bias,
            decoders,
            offsets,
            adam,
            baseline: None,
            recent: VecDeque::new(),
            store,
        }
    }

    /// A sequence's walk through the cell, at its start.
    fn start(&self) -> Walk<'_> {
        let zeros = || Tensor::zeros([1, self.config.hidden], (Kind::Float, self.store.device()));
        Walk { controller: self, input: zeros(), state: (zeros(), zeros()), place: 0 }
    }

    /// Probability of every token at every position, along a sequence.
    #[must_use]
    pub fn probabilities(&self, tokens: &[usize]) -> Vec<Vec<f64>> {
        tch::no_grad(|| {
            let mut walk = self.start();
            let step = |&token: &usize| {
                let probabilities = values(&walk.log_probabilities().exp());
                walk.take(token);
                probabilities
            };
            tokens.iter().map(step).collect()
        })
    }

    /// Advantages of a sequence's tokens, scaled; the baseline and the recent maximum move.
    ///
    /// The reference code scales by the largest advantage of the last ten, which turns every sign where
    /// all are negative; the largest magnitude is meant.
    fn advantages(&mut self, rewards: &[f64]) -> Vec<f64> {
        let decay = self.config.baseline_decay;
        let baseline = match self.baseline.take() {
            None => rewards.to_vec(),
            Some(old) => old.iter().zip(rewards).map(|(b, r)| decay * b + (1.0 - decay) * r).collect(),
        };
        let raw: Vec<f64> = rewards.iter().zip(&baseline).map(|(r, b)| r - b).collect();
        self.baseline = Some(baseline);
        self.recent.push_back(raw.iter().fold(0.0, |most, a| most.max(a.abs())));
        if self.recent.len() > self.config.window {
            self.recent.pop_front();
        }
        let most = self.recent.iter().fold(0.0, |most: f64, &a| most.max(a));
        let scale = if most > 0.0 { self.config.advantage / most } else { 0.0 };
        raw.iter().map(|a| a * scale).collect()
    }
}

/// One step of the LSTM after another.
struct Walk<'a> {
    controller: &'a Controller,
    input: Tensor,
    state: (Tensor, Tensor),
    place: usize,
}

impl Walk<'_> {
    /// Logarithms of the probabilities of this position's tokens; moves the cell on.
    fn log_probabilities(&mut self) -> Tensor {
        let of = self.controller;
        let state = [&self.state.0, &self.state.1];
        let bias = (Some(&of.input_bias), Some(&of.state_bias));
        self.state = self.input.lstm_cell(&state, &of.input_weight, &of.state_weight, bias.0, bias.1);
        let decoder = &of.decoders[of.space.sequence[self.place]];
        let logits = self.state.0.linear(&decoder.weight, Some(&decoder.bias));
        let squashed = (logits / of.config.temperature).tanh() * of.config.squash;
        squashed.log_softmax(-1, Kind::Float).view([-1])
    }

    /// Says which token this position has.
    fn take(&mut self, token: usize) {
        let of = self.controller;
        let row = of.offsets[of.space.sequence[self.place]] + token as i64;
        self.input = of.embedding.narrow(0, row, 1);
        self.place += 1;
    }
}

impl Proposer for Controller {
    fn propose(&mut self, rng: &mut ChaCha8Rng) -> Tokens {
        tch::no_grad(|| {
            let mut walk = self.start();
            let draw = |_| {
                let probabilities = values(&walk.log_probabilities().exp());
                let token = pick(&probabilities, rng.random());
                walk.take(token);
                token
            };
            (0..self.space.len()).map(draw).collect()
        })
    }

    fn learn(&mut self, tokens: &[usize], reward: f64) {
        let mut walk = self.start();
        let mut chosen = Vec::with_capacity(tokens.len());
        let mut entropies = Vec::with_capacity(tokens.len());
        for &token in tokens {
            let log = walk.log_probabilities();
            entropies.push(-(log.exp() * &log).sum(Kind::Float).detach());
            chosen.push(log.narrow(0, token as i64, 1));
            walk.take(token);
        }
        let entropies = values(&Tensor::stack(&entropies, 0));
        let rewards: Vec<f64> = entropies.iter().map(|h| self.config.entropy.mul_add(*h, reward)).collect();
        let chosen = Tensor::cat(&chosen, 0);
        drop(walk);
        let advantages: Vec<f32> = self.advantages(&rewards).iter().map(|&a| a as f32).collect();
        let loss = -(chosen * Tensor::from_slice(&advantages)).sum(Kind::Float);
        self.adam.step(&loss);
    }
}

/// The values of a vector.
fn values(tensor: &Tensor) -> Vec<f64> {
    let mut list = vec![0f32; tensor.numel()];
    tensor.copy_data(&mut list, tensor.numel());
    list.into_iter().map(f64::from).collect()
}

/// The place where the running sum passes a share 0 to 1 of the whole.
fn pick(probabilities: &[f64], share: f64) -> usize {
    let mut left = share * probabilities.iter().sum::<f64>();
    for (place, probability) in probabilities.iter().enumerate() {
        left -= probability;
        if left < 0.0 {
            return place;
        }
    }
    probabilities.len() - 1
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::SearchError;
    use super::super::explore::Trial;
    use super::super::explore::tests::{Planted, run_until, settings};
    use super::*;

    /// Float sums of a softmax over a handful of values.
    const TOLERANCE: f64 = 1e-6;

    fn space() -> TokenSpace {
        TokenSpace::new(&[("a", 5), ("b", 3)], &[0, 1, 0, 1])
    }

    fn controller(seed: u64) -> Controller {
        tch::set_num_threads(1);
        Controller::new(space(), ControllerConfig::default(), seed)
    }

    #[test]
    fn fresh_probabilities_are_nearly_even_and_parameters_within_range() {
        let controller = controller(1);
        for (place, row) in controller.probabilities(&[4, 2, 0, 0]).iter().enumerate() {
            assert_eq!(row.len(), space().choices(place));
            assert!((row.iter().sum::<f64>() - 1.0).abs() < TOLERANCE);
            assert!(row.iter().all(|p| (p * row.len() as f64 - 1.0).abs() < 0.2), "{row:?}");
        }
        for (name, variable) in controller.store.variables() {
            let most = variable.abs().max().double_value(&[]);
            assert!(if name.ends_with("bias") && name.starts_with("decoder") {
                most == 0.0
            } else {
                most > 0.05 && most <= 0.1 + TOLERANCE
            });
        }
    }

    #[test]
    fn what_earns_more_becomes_likelier() {
        let mut controller = controller(2);
        let before = controller.probabilities(&[3, 1, 0, 2]);
        for step in 0..250 {
            let tokens = controller.propose(&mut stream(2, Purpose::Proposal, step, 0));
            let reward = 0.5 + 0.2 * f64::from(u8::from(tokens[0] == 3)) + 0.1 * tokens[3] as f64;
            controller.learn(&tokens, reward);
        }
        let after = controller.probabilities(&[3, 1, 0, 2]);
        assert!(after[3][2] > before[3][2] + 0.3, "{before:?} {after:?}");
        // The first position sees a state of zeros and learns through its shared bias alone at first.
        assert!(after[0][3] > before[0][3] + 0.01, "{before:?} {after:?}");
    }

    #[test]
    fn a_punished_sequence_becomes_rarer_even_when_all_advantages_are_negative() {
        let mut controller = controller(3);
        controller.learn(&[1, 1, 1, 1], 0.9);
        let before = controller.probabilities(&[2, 0, 2, 0]);
        // Falling rewards: every advantage is negative, where the reference code turns signs.
        for step in 0..20 {
            controller.learn(&[2, 0, 2, 0], 0.8 - 0.02 * f64::from(step));
        }
        let after = controller.probabilities(&[2, 0, 2, 0]);
        for (place, token) in [2, 0, 2, 0].into_iter().enumerate() {
            assert!(after[place][token] < before[place][token], "{place}: {before:?} {after:?}");
        }
    }

    #[test]
    fn advantages_are_scaled_by_the_largest_magnitude_of_ten_updates() {
        let mut controller = controller(4);
        assert_eq!(controller.advantages(&[0.5, 0.5]), [0.0, 0.0]);
        let first = controller.advantages(&[0.1, 0.4]);
        assert!((first[0] + 0.5).abs() < 1e-12 && (first[1] + 0.125).abs() < 1e-12, "{first:?}");
        for _ in 0..9 {
            let baseline = controller.baseline.clone().unwrap();
            let scaled = controller.advantages(&baseline);
            assert!(scaled.iter().all(|a| a.abs() < 1e-12));
        }
        let baseline = controller.baseline.clone().unwrap();
        let scaled = controller.advantages(&[baseline[0] + 1e-3, baseline[1] + 1e-3]);
        assert!((scaled[0] - 0.5).abs() < 1e-9, "the first update is forgotten: {scaled:?}");
    }

    #[test]
    fn a_controller_resumed_from_its_log_is_the_uninterrupted_one() {
        let folder = tempfile::tempdir().unwrap();
        let whole = run(&folder.path().join("whole.jsonl"), usize::MAX).unwrap();
        let path = folder.path().join("cut.jsonl");
        assert!(matches!(run(&path, 30), Err(SearchError::Interrupted)));
        assert_eq!(run(&path, usize::MAX).unwrap(), whole);
        assert_eq!(whole.len(), 60);
    }

    fn run(log: &Path, trials: usize) -> Result<Vec<Trial>, SearchError> {
        tch::set_num_threads(1);
        let mut controller = Controller::new(Planted::new().space, ControllerConfig::default(), 7);
        run_until(&mut controller, &settings(Some(12e6)), log, trials).0
    }
}
