//! A search's questions about latency, answered from a profile and by the device itself.

use hanas_models::layer::{Layer, LayerType};
use hanas_models::resnet::ConvNet;

use super::nets::{candidate, in_turns, latencies, measure};
use super::pace::Pace;
use crate::latency::Statistic;
use crate::latency::disturbed::undisturbed;
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

/// Latency curves of a task's layer types from stored samples without the disturbed visits, calibrated on the
/// whole nets among them: the model that `hanas latency fit --model paper` makes.
pub(super) fn fits(
    task: &Task,
    samples: &[ModelSamples],
    clock_ns: u32,
    alpha: f64,
) -> anyhow::Result<LayerFits> {
    let reading = Reading { statistic: Statistic::default(), clock_resolution_ns: clock_ns };
    let samples = &undisturbed(samples).samples;
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

/// The base net's latency among stored samples, at the pace of [`fits`], ns; none where the profile has not
/// that net.
fn base_of(samples: &[ModelSamples], base: &ConvNet, clock_ns: u32) -> anyhow::Result<Option<f64>> {
    let reading = Reading { statistic: Statistic::default(), clock_resolution_ns: clock_ns };
    let nets = measured_nets(&base.family, &undisturbed(samples).samples, reading)?;
    Ok(nets.into_iter().find(|(net, _)| net == base).map(|(_, ns)| ns))
}

/// The base net's latency now, ns, at the profile's pace, and that pace. What the profile tells of the base
/// net is the pace of all predictions: on a device that is slower now, a budget would otherwise stand for
/// another net.
pub(super) fn measured_base(
    session: &mut Session,
    base: &ConvNet,
    batch: u32,
    samples: &[ModelSamples],
    sampling: &Sampling,
) -> anyhow::Result<(f64, Pace)> {
    let known_ns = base_of(samples, base, session.facts().clock_resolution_ns)?;
    let mut pace = Pace::new(known_ns.unwrap_or(f64::INFINITY));
    let base_ns = pace.undisturbed(|| {
        let now = measure(session, base, batch, sampling)?.value_ns;
        Ok((now, now))
    })?;
    Ok((base_ns, pace))
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

#[cfg(test)]
mod tests {
    use hanas_models::layer::{LayerKind, types};
    use hanas_models::resnet::Family;
    use hanas_proto::{Digest, Nanos};

    use super::*;
    use crate::store::{ModelId, ModelSpec, Visit};

    const BASE_NS: u64 = 3_000_000;

    fn truth(spec: &ModelSpec) -> u64 {
        match spec {
            ModelSpec::Layer { layer } => 9_000 + 500 * u64::from(layer.cout),
            _ => BASE_NS,
        }
    }

    /// Three rounds on a quiet device, and three while it takes twice as long. Every fifth model, the base
    /// net among them, is met in the latter alone.
    fn samples(family: &Family) -> Vec<ModelSamples> {
        let widths = |(_, layer): (LayerType, Layer)| {
            let quarters = if matches!(layer.kind, LayerKind::Head { .. }) { 4..=4 } else { 1..=8 };
            quarters.map(move |quarters| Layer { cout: layer.cout * quarters / 4, ..layer })
        };
        let layers = types(family).into_iter().flat_map(widths);
        let specs = layers.map(|layer| ModelSpec::Layer { layer });
        let model = |spec| {
            let (id, digest) = (ModelId(0), Digest([0; 32]));
            ModelSamples { id, digest, spec, onnx_bytes: 0, visits: Vec::new() }
        };
        let mut models: Vec<ModelSamples> =
            specs.chain([ModelSpec::Net { net: family.base() }]).map(model).collect();
        assert_eq!(models.len() % 5, 0);
        let mut order = 0;
        for (round, slower) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)] {
            for (place, model) in models.iter_mut().enumerate() {
                if place % 5 == 4 && slower == 1 {
                    continue;
                }
                order += 1;
                let samples = vec![Nanos(slower * truth(&model.spec)); 4];
                model.visits.push(Visit { order, round, samples, ..Visit::default() });
            }
        }
        models
    }

    #[test]
    fn what_a_search_predicts_by_is_undisturbed() {
        let task: Task = "shapes10-resnet20".parse().unwrap();
        let samples = samples(&task.family);
        let near = |ns: f64, truth: u64| (ns / truth as f64 - 1.0).abs() < 1e-3;
        let curves = fits(&task, &samples, 1, 1.0).unwrap();
        for (kind, layer) in types(&task.family) {
            let ns = curves.of(kind).unwrap().at(f64::from(layer.cout));
            assert!(near(ns, truth(&ModelSpec::Layer { layer })), "{kind}: {ns}");
        }
        let base_ns = base_of(&samples, &task.family.base(), 1).unwrap().unwrap();
        assert!(near(base_ns, BASE_NS), "{base_ns}");
    }
}
