//! What a step costs: for the tool's own figures, and to show what the sliced form saves.

use std::time::Instant;

use hanas_models::torch::{channels_last, normal};
use tch::Tensor;

use super::super::choices::Choices;
use super::super::config::{AdamConfig, SgdConfig};
use super::conv::Form;
use super::step::Stepper;
use crate::data::batches::Batch;
use crate::data::stream::{Purpose, stream};

/// Durations of steps, in nanoseconds, in the order they ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTimes {
    /// Weight steps.
    pub weight_ns: Vec<u64>,
    /// Architecture steps, without the cost's part.
    pub logit_ns: Vec<u64>,
}

impl StepTimes {
    /// Median weight step and median architecture step.
    #[must_use]
    pub fn medians_ns(&self) -> (u64, u64) {
        let median = |times: &[u64]| {
            let mut sorted = times.to_vec();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).copied().unwrap_or(0)
        };
        (median(&self.weight_ns), median(&self.logit_ns))
    }
}

/// Times `steps` weight and architecture steps of a supernet on random images, after one of each that
/// does not count. Both forms draw the same widths from the same seed. Threads are torch's
/// ([`tch::set_num_threads`]).
#[must_use]
pub fn step_times(choices: &Choices, form: Form, batch: usize, steps: usize, seed: u64) -> StepTimes {
    let mut stepper = Stepper::new(choices, form, seed, SgdConfig::default(), AdamConfig::default());
    let input = choices.family.input;
    let shape = [batch as i64, i64::from(input.channels), i64::from(input.height), i64::from(input.width)];
    let images = channels_last(&normal(&shape, 1.0, &mut stream(seed, Purpose::Init, 1, 0)));
    let labels: Vec<i64> = (0..batch as i64).map(|i| i % i64::from(choices.family.classes)).collect();
    let batch = Batch { images, labels: Tensor::from_slice(&labels) };
    let mut times = StepTimes { weight_ns: Vec::new(), logit_ns: Vec::new() };
    for step in 0..=steps as u64 {
        let mut rng = stream(seed, Purpose::WeightSample, 0, step);
        let start = Instant::now();
        // A rate of nearly nothing keeps the values of a long bench finite.
        stepper.weight_step(&batch, 1.0, 1e-6, &mut rng);
        let weight = start.elapsed();
        let mut rng = stream(seed, Purpose::LogitSample, 0, step);
        let start = Instant::now();
        stepper.logit_step(&batch, 1.0, |_| None, &mut rng);
        if step > 0 {
            times.weight_ns.push(weight.as_nanos() as u64);
            times.logit_ns.push(start.elapsed().as_nanos() as u64);
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use super::super::super::choices::tests::tiny_choices;
    use super::*;

    #[test]
    fn every_step_is_timed() {
        let times = step_times(&tiny_choices(1), Form::Padded, 4, 3, 1);
        assert_eq!((times.weight_ns.len(), times.logit_ns.len()), (3, 3));
        assert!(times.medians_ns().0 > 0);
    }
}
