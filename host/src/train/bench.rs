//! What a distillation step costs: for the tool's own figures.

use std::time::Instant;

use hanas_models::spec::Net;
use hanas_models::torch::{channels_last, normal};
use hanas_models::weights::seeded;
use tch::Tensor;

use super::TrainError;
use super::config::TrainConfig;
use super::distil::Student;
use super::frozen::Frozen;
use crate::data::batches::Batch;
use crate::data::stream::{Purpose, stream};

/// Durations of `steps` steps of a net that learns from a frozen net of the same shape, in nanoseconds,
/// on random images, after one that does not count. Threads are torch's ([`tch::set_num_threads`]).
///
/// # Errors
/// [`TrainError`] where the net does not fit together.
pub fn distil_step_times(net: &Net, batch: usize, steps: usize, seed: u64) -> Result<Vec<u64>, TrainError> {
    let teacher = Frozen::new(net, &seeded(net, seed))?;
    let mut student = Student::new(net, &TrainConfig::scaled(seed), Some(&teacher))?;
    let [c, h, w] = [net.input.channels, net.input.height, net.input.width].map(i64::from);
    let shape = [batch as i64, c, h, w];
    let images = channels_last(&normal(&shape, 1.0, &mut stream(seed, Purpose::Init, 1, 0)));
    let batch = Batch { labels: Tensor::zeros([shape[0]], (tch::Kind::Int64, tch::Device::Cpu)), images };
    let mut times = Vec::with_capacity(steps);
    for step in 0..=steps {
        let start = Instant::now();
        // A rate of nearly nothing keeps the values of a long bench finite.
        student.step(&batch, 1e-6);
        if step > 0 {
            times.push(start.elapsed().as_nanos() as u64);
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::choices::tests::tiny_family;

    #[test]
    fn every_step_is_timed() {
        let net = tiny_family(1).base().net().unwrap();
        let times = distil_step_times(&net, 4, 3, 1).unwrap();
        assert!(times.len() == 3 && times.iter().all(|&ns| ns > 0));
    }
}
