//! A search's questions about latency, answered from a profile and by the device itself.

use hanas_models::layer::{Layer, LayerType};
use hanas_models::resnet::ConvNet;

use super::nets::measure;
use crate::latency::Statistic;
use crate::latency::fit::Weighting;
use crate::latency::layers::LayerFits;
use crate::latency::net_model::{Reading, measured_nets};
use crate::link::Session;
use crate::profile::ProfileError;
use crate::profile::candidates::is_for_calibration;
use crate::profile::sampling::Sampling;
use crate::search::latency_model::LatencyModel;
use crate::search::timer::{NetTimer, TimerError};
use crate::store::ModelSamples;
use crate::task::Task;

/// Timed runs of a whole net during a search.
const SEARCH_SAMPLES: u32 = 24;

/// Latency curves of a task's layer types from stored samples, calibrated on the whole nets among them.
pub(super) fn fits(
    task: &Task,
    samples: &[ModelSamples],
    clock_ns: u32,
    alpha: f64,
) -> anyhow::Result<LayerFits> {
    let reading = Reading { statistic: Statistic::default(), clock_resolution_ns: clock_ns };
    let points = LayerFits::points(&task.family, samples, reading.statistic, clock_ns)?;
    let (mut fits, _) = LayerFits::build(&points, alpha, Weighting::Equal)?;
    let missing = fits.unmeasured(&task.family);
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        anyhow::bail!("no profile of {}; run `hanas profile` with --which all", names.join(", "));
    }
    let mut nets = measured_nets(&task.family, samples, reading)?;
    nets.retain(|(net, _)| is_for_calibration(net));
    if !nets.is_empty() {
        fits.calibrate(&nets)?;
    }
    Ok(fits)
}

/// Answers a search from the device itself.
pub(super) struct DeviceTimer<'s> {
    session: &'s mut Session,
    model: LatencyModel,
    batch: u32,
}

impl<'s> DeviceTimer<'s> {
    /// A timer over an open session and a latency model.
    pub(super) const fn new(session: &'s mut Session, model: LatencyModel, batch: u32) -> Self {
        Self { session, model, batch }
    }
}

impl NetTimer for DeviceTimer<'_> {
    fn layer_ns(&self, kind: LayerType, layer: &Layer) -> Result<f64, TimerError> {
        Ok(self.model.layer_ns(kind, layer)?)
    }

    fn measure_ns(&mut self, net: &ConvNet) -> Result<f64, TimerError> {
        let sampling = Sampling { samples: SEARCH_SAMPLES, ..Sampling::default() };
        let timed = measure(self.session, net, None, self.batch, &sampling);
        Ok(timed.map_err(typed)?.latency.value_ns)
    }
}

/// The error as the type that it was: a device that is gone has an exit code of its own.
fn typed(error: anyhow::Error) -> TimerError {
    match error.downcast::<ProfileError>() {
        Ok(error) => Box::new(error),
        Err(error) => error.into(),
    }
}
