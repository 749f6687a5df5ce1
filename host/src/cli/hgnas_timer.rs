//! What a search's graph nets cost on the device.

use hanas_models::gnn::{GnnNet, Reading};

use super::nets::{in_turns, latencies};
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::graph_candidates::{GraphSubject, sampling};
use crate::profile::sampling::Sampling;

/// Times graph nets on one graph.
pub(super) struct GnnTimer<'s> {
    session: &'s mut Session,
    subject: &'s GraphSubject,
    reading: Reading,
}

impl<'s> GnnTimer<'s> {
    /// A timer over an open session.
    pub(super) const fn new(session: &'s mut Session, subject: &'s GraphSubject, reading: Reading) -> Self {
        Self { session, subject, reading }
    }

    /// The session, for what is not timing.
    pub(super) const fn session(&mut self) -> &mut Session {
        self.session
    }

    /// Latencies of nets with seeded weights, in nanoseconds, without the visits that were disturbed.
    pub(super) fn measure(&mut self, nets: &[GnnNet], wanted: &Sampling) -> anyhow::Result<Vec<f64>> {
        let candidate = |net: &GnnNet| self.subject.candidate(net, self.reading);
        let candidates: Vec<Candidate> = nets.iter().map(candidate).collect::<Result<_, _>>()?;
        let runs = in_turns(self.session, &candidates, &sampling(*wanted))?;
        Ok(latencies(self.session, &runs.visits)?.iter().map(|of| of.value_ns).collect())
    }
}
