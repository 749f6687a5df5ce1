//! One weight step and one architecture step (ALGORITHM 1.4).
//!
//! In a weight step the logits are constants; in an architecture step the weights are, so that neither
//! computes the other's gradients (the reference code computes all of them).

use rand::Rng;
use tch::Tensor;

use super::super::choices::Choices;
use super::super::config::{AdamConfig, SgdConfig};
use super::super::optim::{Adam, Sgd, trainable};
use super::conv::Form;
use super::sample::{ArchLogits, draw};
use super::supernet::Supernet;
use crate::data::batches::Batch;

/// A supernet, its logits and their optimisers.
#[derive(Debug)]
pub struct Stepper {
    /// The supernet.
    pub net: Supernet,
    /// The logits.
    pub logits: ArchLogits,
    /// Optimiser of the supernet's weights.
    pub sgd: Sgd,
    /// Optimiser of the logits.
    pub adam: Adam,
}

/// What a step saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Mean cross-entropy of the batch.
    pub loss: f64,
    /// Images that the sampled nets classified right.
    pub correct: u64,
}

impl Stepper {
    /// Everything fresh.
    #[must_use]
    pub fn new(choices: &Choices, form: Form, seed: u64, weights: SgdConfig, logits: AdamConfig) -> Self {
        let net = Supernet::new(choices, form, seed);
        let arch = ArchLogits::new(choices, seed);
        let sgd = Sgd::new(weights, trainable(&net.store));
        let adam = Adam::new(logits, trainable(&arch.store));
        Self { net, logits: arch, sgd, adam }
    }

    /// Trains the weights of sampled nets on a batch.
    pub fn weight_step(&mut self, batch: &Batch, temperature: f64, rate: f64, rng: &mut impl Rng) -> Outcome {
        let sample = tch::no_grad(|| draw(&self.logits, temperature, rng));
        let scores = self.net.forward(&batch.images, &sample);
        let loss = scores.cross_entropy_for_logits(&batch.labels);
        self.sgd.step(&loss, rate);
        outcome(&scores, &loss, &batch.labels)
    }

    /// Trains the logits on a batch; `charge` is added to its cross-entropy.
    pub fn logit_step(
        &mut self,
        batch: &Batch,
        temperature: f64,
        charge: impl FnOnce(&ArchLogits) -> Option<Tensor>,
        rng: &mut impl Rng,
    ) -> Outcome {
        self.net.store.freeze();
        let sample = draw(&self.logits, temperature, rng);
        let scores = self.net.forward(&batch.images, &sample);
        let entropy = scores.cross_entropy_for_logits(&batch.labels);
        let loss = match charge(&self.logits) {
            Some(charge) => &entropy + charge,
            None => entropy.shallow_clone(),
        };
        self.adam.step(&loss);
        self.net.store.unfreeze();
        outcome(&scores, &entropy, &batch.labels)
    }
}

fn outcome(scores: &Tensor, loss: &Tensor, labels: &Tensor) -> Outcome {
    Outcome { loss: loss.double_value(&[]), correct: correct(scores, labels) }
}

/// Images whose highest score is their label's.
#[must_use]
pub fn correct(scores: &Tensor, labels: &Tensor) -> u64 {
    let hits = scores.detach().argmax(-1, false).eq_tensor(labels).sum(tch::Kind::Int64);
    hits.int64_value(&[]) as u64
}

#[cfg(test)]
mod tests {
    use hanas_models::torch::normal;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::super::super::checkpoint::variables;
    use super::super::super::choices::tests::tiny_choices;
    use super::*;

    #[test]
    fn each_step_moves_its_own_variables_only() {
        let choices = tiny_choices(2);
        let mut stepper =
            Stepper::new(&choices, Form::Sliced, 1, SgdConfig::default(), AdamConfig::default());
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let images = normal(&[4, 3, 16, 16], 1.0, &mut rng);
        let batch = Batch { images, labels: Tensor::from_slice(&[0i64, 1, 2, 3]) };
        let copy = |store: &tch::nn::VarStore| -> Vec<(String, Tensor)> {
            variables(store).into_iter().map(|(name, t)| (name, t.copy())).collect()
        };
        let same = |a: &[(String, Tensor)], b: &[(String, Tensor)]| {
            a.iter().zip(b).all(|((_, left), (_, right))| left.equal(right))
        };
        let (weights, logits) = (copy(&stepper.net.store), copy(&stepper.logits.store));
        stepper.logit_step(&batch, 1.0, |_| None, &mut rng);
        assert!(same(&weights, &copy(&stepper.net.store)));
        assert!(!same(&logits, &copy(&stepper.logits.store)));
        let logits = copy(&stepper.logits.store);
        stepper.weight_step(&batch, 1.0, 0.1, &mut rng);
        assert!(!same(&weights, &copy(&stepper.net.store)));
        assert!(same(&logits, &copy(&stepper.logits.store)));
    }
}
