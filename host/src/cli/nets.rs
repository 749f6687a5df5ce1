//! Whole nets measured on a device.

use std::ops::ControlFlow;

use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::ConvNet;
use hanas_models::weights::Weights;
use hanas_proto::measure::LoadOptions;

use crate::latency::disturbed::undisturbed_among;
use crate::latency::{Estimate, Statistic, estimate};
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::runner::{Note, run};
use crate::profile::sampling::Sampling;
use crate::store::{ModelSpec, SessionId, Visit};

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
                let order = 1 + visits.len() as u64;
                visits.push(Visit { session: SessionId(0), round: serial, order, samples: runs });
            }
            Note::Context { serial, context } => contexts.push((serial, context)),
            Note::Failed { reason, .. } => failure = Some(reason),
            Note::Settled { .. } | Note::Loaded { .. } | Note::Operators { .. } => {}
        }
        Ok(if super::interrupt::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if let Some(reason) = failure {
        anyhow::bail!("the device cannot run the net: {reason}");
    }
    let clock = session.facts().clock_resolution_ns;
    let quiet = undisturbed_among(std::slice::from_ref(&visits));
    let latency = estimate(&quiet[0], Statistic::default(), clock)?;
    Ok(Timed { latency, visits, contexts })
}

/// A net's runs and what they say.
#[derive(Debug)]
pub(super) struct Timed {
    /// Its latency, without the visits that were disturbed.
    pub(super) latency: Estimate,
    /// The runs.
    pub(super) visits: Vec<Visit>,
    /// The rounds' circumstances.
    pub(super) contexts: Vec<(u32, hanas_proto::measure::RoundContext)>,
}
