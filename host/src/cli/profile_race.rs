//! Racing through a device: the store is where samples come from, the device measures more.

use std::ops::ControlFlow;

use hanas_models::layer::Layer;

use super::context::Global;
use super::recorder::Recorder;
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::runner::Ended;
use crate::profile::sampling::Sampling;
use crate::space::SpaceError;
use crate::space::racing::Source;
use crate::store::{ModelSamples, ModelSpec, SampleQuery};

/// A session in which layers are measured again.
pub(super) struct Racer<'a, 's> {
    /// Options of every command.
    pub(super) global: &'a Global,
    /// The device.
    pub(super) device: &'a mut Session,
    /// Where samples go.
    pub(super) recorder: &'a mut Recorder<'s>,
    /// What the recorder's session was begun with.
    pub(super) list: &'a [Candidate],
    /// The base plan.
    pub(super) sampling: Sampling,
    /// Which stored samples count; none: those of the recorder's session.
    pub(super) query: Option<SampleQuery<'a>>,
}

/// The trouble that a race can have.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct RaceError(#[from] pub(super) anyhow::Error);

impl From<SpaceError> for RaceError {
    fn from(error: SpaceError) -> Self {
        Self(error.into())
    }
}

impl Source for Racer<'_, '_> {
    type Error = RaceError;

    fn samples(&self) -> Result<Vec<ModelSamples>, RaceError> {
        let samples = match &self.query {
            Some(query) => self.recorder.store.samples(query),
            None => self.recorder.store.session_samples(self.recorder.session),
        };
        Ok(samples.map_err(anyhow::Error::from)?)
    }

    fn more(&mut self, layers: &[Layer], samples: u32) -> Result<ControlFlow<()>, RaceError> {
        let sampling = Sampling { samples, settle: 0, ..self.sampling };
        let wanted = |candidate: &Candidate| match candidate.spec {
            ModelSpec::Layer { layer } => layers.contains(&layer),
            _ => false,
        };
        let have: Vec<u32> = self.list.iter().map(|of| if wanted(of) { 0 } else { samples }).collect();
        let ended = self.recorder.measure(self.global, self.device, self.list, &have, &sampling, "race")?;
        Ok(if ended == Ended::Stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}
