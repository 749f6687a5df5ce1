//! One model on two devices: how far apart their answers are.

use anyhow::{Context, Result, ensure};
use hanas::link::Session;
use hanas_models::spec::Net;
use hanas_proto::measure::LoadOptions;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Largest difference over the largest value that rounding explains: other kernels sum in another order.
pub const TOLERANCE: f32 = 1e-4;

/// Loads a model into slot 0 of both and runs it on one input. Returns the largest difference over the
/// largest value that `here` gives; NaN where either gives one.
///
/// # Errors
/// A device that does not take the model, or answers that differ in length or say nothing.
pub fn largest_error(here: &mut Session, there: &mut Session, model: &[u8], input: &[f32]) -> Result<f32> {
    let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
    let here = answers(here, model, &bytes).context("here")?;
    let there = answers(there, model, &bytes).context("there")?;
    ensure!(here.len() == there.len(), "{} values here, {} there", here.len(), there.len());
    let largest = here.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    ensure!(largest > 1e-3 && largest.is_finite(), "values up to {largest} compare with nothing");
    let differences = here.iter().zip(&there).map(|(a, b)| (a - b).abs());
    let error = differences.fold(0.0, |most: f32, off| if off > most || off.is_nan() { off } else { most });
    Ok(error / largest)
}

fn answers(session: &mut Session, model: &[u8], input: &[u8]) -> Result<Vec<f32>> {
    let digest = session.upload(model)?;
    session.load(0, digest, LoadOptions::default())?;
    let inputs = session.upload(input)?;
    let outputs = session.infer(0, inputs)?;
    Ok(outputs.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Images for a net, the same every time, values from -1 to 1.
#[must_use]
pub fn images(net: &Net, batch: u32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(batch));
    (0..net.input.len() * u64::from(batch)).map(|_| rng.random_range(-1.0..1.0)).collect()
}
