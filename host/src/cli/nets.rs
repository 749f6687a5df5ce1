//! Whole nets on a device: their latency as predicted from a profile, and as measured.

use std::ops::ControlFlow;

use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::ConvNet;
use hanas_models::weights::Weights;
use hanas_proto::measure::LoadOptions;

use crate::latency::fit::Weighting;
use crate::latency::layers::LayerFits;
use crate::latency::{Estimate, Statistic, estimate};
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::runner::{Note, run};
use crate::profile::sampling::Sampling;
use crate::search::timer::{NetTimer, TimerError};
use crate::store::{ModelSamples, ModelSpec, SessionId, Visit};
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
    let statistic = Statistic::default();
    let points = LayerFits::points(&task.family, samples, statistic, clock_ns)?;
    let (mut fits, _) = LayerFits::build(&points, alpha, Weighting::Equal)?;
    let missing = fits.unmeasured(&task.family);
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        anyhow::bail!("no profile of {}; run `hanas profile` with --which all", names.join(", "));
    }
    let nets = measured_nets(samples, statistic, clock_ns)?;
    if !nets.is_empty() {
        fits.calibrate(&nets)?;
    }
    Ok(fits)
}

/// The whole nets among stored samples, with their latency in nanoseconds.
pub(super) fn measured_nets(
    samples: &[ModelSamples],
    statistic: Statistic,
    clock_ns: u32,
) -> anyhow::Result<Vec<(ConvNet, f64)>> {
    let mut nets = Vec::new();
    for model in samples {
        if let ModelSpec::Net { net } = &model.spec {
            nets.push((net.clone(), estimate(&model.visits, statistic, clock_ns)?.value_ns));
        }
    }
    Ok(nets)
}

/// Times one net on the device, with seeded weights or given ones.
pub(super) fn measure(
    session: &mut Session,
    net: &ConvNet,
    weights: Option<&Weights>,
    batch: u32,
    sampling: &Sampling,
) -> anyhow::Result<Timed> {
    let spec = ModelSpec::Net { net: net.clone() };
    let candidate = match weights {
        None => Candidate::new(spec, batch)?,
        Some(weights) => Candidate::of_file(spec, batch, lower(&net.net()?, Init::Weights(weights), batch)?),
    };
    let (mut visits, mut contexts, mut failure) = (Vec::new(), Vec::new(), None);
    run(session, &[candidate], &[0], sampling, LoadOptions::default(), &mut |note| {
        match note {
            Note::Visit { serial, runs, .. } => {
                visits.push(Visit { session: SessionId(0), round: serial, samples: runs });
            }
            Note::Context { serial, context } => contexts.push((serial, context)),
            Note::Failed { reason, .. } => failure = Some(reason),
            Note::Loaded { .. } | Note::Operators { .. } => {}
        }
        Ok(if super::interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if let Some(reason) = failure {
        anyhow::bail!("the device cannot run the net: {reason}");
    }
    let clock = session.facts().clock_resolution_ns;
    let latency = estimate(&visits, Statistic::default(), clock)?;
    Ok(Timed { latency, visits, contexts })
}

/// A net's runs and what they say.
#[derive(Debug)]
pub(super) struct Timed {
    /// Its latency.
    pub(super) latency: Estimate,
    /// The runs.
    pub(super) visits: Vec<Visit>,
    /// The rounds' circumstances.
    pub(super) contexts: Vec<(u32, hanas_proto::measure::RoundContext)>,
}

/// Answers a search from the device itself.
pub(super) struct DeviceTimer<'s> {
    session: &'s mut Session,
    fits: LayerFits,
    batch: u32,
}

impl<'s> DeviceTimer<'s> {
    /// A timer over an open session and fitted curves.
    pub(super) const fn new(session: &'s mut Session, fits: LayerFits, batch: u32) -> Self {
        Self { session, fits, batch }
    }
}

impl NetTimer for DeviceTimer<'_> {
    fn predict_ns(&self, net: &ConvNet) -> Result<f64, TimerError> {
        Ok(self.fits.predict_ns(net)?)
    }

    fn measure_ns(&mut self, net: &ConvNet) -> Result<f64, TimerError> {
        let sampling = Sampling { samples: SEARCH_SAMPLES, ..Sampling::default() };
        let timed = measure(self.session, net, None, self.batch, &sampling)?;
        Ok(timed.latency.value_ns)
    }
}
