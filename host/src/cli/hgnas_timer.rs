//! What a search's graph nets cost on the device.

use hanas_models::gnn::{GnnNet, Reading};

use super::graph_timer::time;
use crate::latency::disturbed::undisturbed_among;
use crate::latency::{Statistic, estimate};
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::graph_candidates::GraphSubject;
use crate::profile::sampling::Sampling;
use crate::store::Visit;

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
        let clock = self.session.facts().clock_resolution_ns;
        let runs = time(self.session, &candidates, wanted)?;
        let value = |visits: &Vec<Visit>| Ok(estimate(visits, Statistic::default(), clock)?.value_ns);
        undisturbed_among(&runs.visits).iter().map(value).collect()
    }
}
