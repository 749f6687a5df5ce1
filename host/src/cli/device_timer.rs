//! A search's questions about latency, answered from a profile and by the device itself.

use hanas_models::layer::{Layer, LayerType};
use hanas_models::resnet::ConvNet;

use super::nets::{candidate, in_turns, latencies};
use super::pace::Pace;
use crate::latency::Statistic;
use crate::latency::fit::Weighting;
use crate::latency::layers::LayerFits;
use crate::latency::net_model::{Reading, measured_nets};
use crate::link::Session;
use crate::profile::candidates::is_for_calibration;
use crate::profile::sampling::Sampling;
use crate::search::latency_model::LatencyModel;
use crate::search::timer::{NetTimer, TimerError};
use crate::store::ModelSamples;
use crate::task::Task;

/// Timed runs of a whole net during a search: one measurement corrects all prices, and must not be off for a
/// spell of another guest.
const SEARCH_SAMPLES: u32 = 60;

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

/// The base net's latency among stored samples, ns; none where the profile has not that net.
pub(super) fn base_of(
    samples: &[ModelSamples],
    base: &ConvNet,
    clock_ns: u32,
) -> anyhow::Result<Option<f64>> {
    let reading = Reading { statistic: Statistic::default(), clock_resolution_ns: clock_ns };
    let nets = measured_nets(&base.family, samples, reading)?;
    Ok(nets.into_iter().find(|(net, _)| net == base).map(|(_, ns)| ns))
}

/// Answers a search from the device itself. Every net is measured in turns with the family's base net,
/// whose latency is known from before: on a device that is slower meanwhile, a net that fits its budget
/// would be shrunk for nothing.
pub(super) struct DeviceTimer<'s> {
    session: &'s mut Session,
    model: LatencyModel,
    batch: u32,
    base: ConvNet,
    pace: Pace,
}

impl<'s> DeviceTimer<'s> {
    /// A timer over an open session and a latency model; `pace` is by `base`.
    pub(super) const fn new(
        session: &'s mut Session,
        model: LatencyModel,
        batch: u32,
        base: ConvNet,
        pace: Pace,
    ) -> Self {
        Self { session, model, batch, base, pace }
    }

    fn measure(&mut self, net: &ConvNet) -> anyhow::Result<f64> {
        let sampling = Sampling { samples: SEARCH_SAMPLES, ..Sampling::default() };
        let nets = [candidate(net, None, self.batch)?, candidate(&self.base, None, self.batch)?];
        let session = &mut *self.session;
        self.pace.undisturbed(|| {
            let runs = in_turns(session, &nets, &sampling)?;
            let of = latencies(session, &runs.visits)?;
            Ok((of[0].value_ns, of[1].value_ns))
        })
    }
}

impl NetTimer for DeviceTimer<'_> {
    fn layer_ns(&self, kind: LayerType, layer: &Layer) -> Result<f64, TimerError> {
        Ok(self.model.layer_ns(kind, layer)?)
    }

    fn measure_ns(&mut self, net: &ConvNet) -> Result<f64, TimerError> {
        // As it is and not inside another error: a device that is gone has an exit code of its own.
        self.measure(net).map_err(anyhow::Error::reallocate_into_boxed_dyn_error_without_backtrace)
    }
}
