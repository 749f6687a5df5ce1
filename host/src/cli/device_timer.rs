//! A search's questions about latency, answered from a profile and by the device itself.

use std::time::{Duration, Instant};

use hanas_models::layer::{Layer, LayerType};
use hanas_models::resnet::ConvNet;

use super::interrupt;
use super::nets::{candidate, in_turns, latencies};
use crate::latency::Statistic;
use crate::latency::disturbed::DISTURBANCE;
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

/// Between two tries to measure on a device that is slower than it was, in seconds: a spell of another
/// guest or a warm processor passes.
const WAITS: [u64; 4] = [2, 5, 10, 20];

/// How often a wait looks whether the user asked to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Answers a search from the device itself. Every net is measured in turns with the family's base net,
/// whose latency is known from before: on a device that is slower meanwhile, a net that fits its budget
/// would be shrunk for nothing.
pub(super) struct DeviceTimer<'s> {
    session: &'s mut Session,
    model: LatencyModel,
    batch: u32,
    base: ConvNet,
    pace: Pace,
    /// It was said that latencies are corrected.
    said: bool,
}

impl<'s> DeviceTimer<'s> {
    /// A timer over an open session and a latency model; `base` takes `base_ns` on the device when
    /// nothing else slows it down.
    pub(super) const fn new(
        session: &'s mut Session,
        model: LatencyModel,
        batch: u32,
        base: ConvNet,
        base_ns: f64,
    ) -> Self {
        Self { session, model, batch, base, pace: Pace { base_ns }, said: false }
    }

    /// One measurement, and how many times slower than it was the device is.
    fn once(&mut self, net: &ConvNet) -> anyhow::Result<(f64, f64)> {
        let sampling = Sampling { samples: SEARCH_SAMPLES, ..Sampling::default() };
        let nets = [candidate(net, None, self.batch)?, candidate(&self.base, None, self.batch)?];
        let runs = in_turns(self.session, &nets, &sampling)?;
        let latencies = latencies(self.session, &runs.visits)?;
        Ok((latencies[0].value_ns, self.pace.slower(latencies[1].value_ns)))
    }

    fn measure(&mut self, net: &ConvNet) -> anyhow::Result<f64> {
        let mut best = self.once(net)?;
        for seconds in WAITS {
            if best.1 <= 1.0 + DISTURBANCE || interrupted_within(Duration::from_secs(seconds)) {
                break;
            }
            let again = self.once(net)?;
            if again.1 < best.1 {
                best = again;
            }
        }
        let (net_ns, slower) = best;
        if slower > 1.0 + DISTURBANCE && !self.said {
            self.said = true;
            eprintln!(
                "note: the device is {slower:.1} times slower than when the base net was measured; latencies are corrected by that. End what else runs on it and measure the result again with `hanas verify`"
            );
        }
        Ok(Pace::corrected(net_ns, slower))
    }
}

/// Waits; true, and at once, when the user asks to end.
fn interrupted_within(wait: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < wait && !interrupt::asked() {
        std::thread::sleep(LOOK_EVERY.min(wait.saturating_sub(start.elapsed())));
    }
    interrupt::asked()
}

/// How fast the device is, by its base net.
struct Pace {
    /// The lowest latency of the base net so far.
    base_ns: f64,
}

impl Pace {
    /// How many times slower the device is now that its base net takes `base_ns`.
    fn slower(&mut self, base_ns: f64) -> f64 {
        self.base_ns = self.base_ns.min(base_ns);
        base_ns / self.base_ns
    }

    /// A latency as it would be undisturbed; differences that are no disturbance are left alone.
    fn corrected(ns: f64, slower: f64) -> f64 {
        if slower > 1.0 + DISTURBANCE { ns / slower } else { ns }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_device_is_told_by_its_base_net() {
        let mut pace = Pace { base_ns: 100.0 };
        assert_eq!(pace.slower(160.0), 1.6);
        assert_eq!(Pace::corrected(80.0, 1.6), 50.0);
        assert_eq!(Pace::corrected(80.0, 1.05), 80.0, "no disturbance");
        // The first measurement had met a slow device itself.
        assert_eq!(pace.slower(50.0), 1.0);
        assert_eq!(pace.slower(100.0), 2.0);
    }
}
