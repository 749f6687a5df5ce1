//! What a search's graph nets cost on the device.

use hanas_models::gnn::{GnnNet, Reading};

use super::nets::{in_turns, latencies};
use super::pace::Pace;
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

/// The one of these nets whose latency is their median, and its latency: what finalists are measured
/// beside, to know how fast the device is.
pub(super) fn known(measured: &[(GnnNet, f64)]) -> Option<&(GnnNet, f64)> {
    let mut by_latency: Vec<&(GnnNet, f64)> = measured.iter().collect();
    by_latency.sort_by(|a, b| a.1.total_cmp(&b.1));
    by_latency.get(by_latency.len() / 2).copied()
}

/// Times a search's finalists, each in turns with a net that was measured before.
pub(super) struct FinalTimer<'t, 's> {
    timer: &'t mut GnnTimer<'s>,
    known: GnnNet,
    pace: Pace,
    sampling: Sampling,
}

impl<'t, 's> FinalTimer<'t, 's> {
    /// A timer whose known net takes `known_ns` when nothing else slows the device down.
    pub(super) fn new(
        timer: &'t mut GnnTimer<'s>,
        (known, known_ns): (GnnNet, f64),
        sampling: Sampling,
    ) -> Self {
        Self { timer, known, pace: Pace::new(known_ns), sampling }
    }

    /// A net's latency as it is undisturbed, ns.
    pub(super) fn measure_ns(&mut self, net: &GnnNet) -> anyhow::Result<f64> {
        let nets = [net.clone(), self.known.clone()];
        self.pace.undisturbed(|| {
            let of = self.timer.measure(&nets, &self.sampling)?;
            Ok((of[0], of[1]))
        })
    }
}
