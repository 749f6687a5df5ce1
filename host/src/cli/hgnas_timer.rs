//! What a search's graph nets cost on the device.

use hanas_models::gnn::{GnnNet, Reading};

use super::nets::{in_turns_what_runs, latencies};
use super::pace::Pace;
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::graph_candidates::{GraphSubject, sampling};
use crate::profile::sampling::Sampling;
use crate::search::hgnas::space::key;

/// A net's latency in nanoseconds, or why the device cannot run it.
pub(super) type Timed = Result<f64, String>;

/// Nets as they were timed.
pub(super) struct Together {
    /// As the nets.
    pub(super) latencies: Vec<Timed>,
    /// Of the reference net, in turns with them, ns.
    pub(super) reference_ns: f64,
    /// How many were timed after the others, without the reference net, for want of memory.
    pub(super) apart: usize,
}

/// Times graph nets on one graph, with seeded weights.
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
    pub(super) const fn session(&self) -> &Session {
        self.session
    }

    /// Latencies of nets and, in turns with them, that of the reference net, ns, without the visits that were
    /// disturbed.
    pub(super) fn measure(&mut self, nets: &[GnnNet], wanted: &Sampling) -> anyhow::Result<Together> {
        let reference = self.subject.pace_net();
        let candidate = |net: &GnnNet| self.subject.candidate(net, self.reading);
        // First: where memory does not hold all at once, the last are timed after the others.
        let candidates: Vec<Candidate> =
            std::iter::once(&reference).chain(nets).map(candidate).collect::<Result<_, _>>()?;
        let runs = in_turns_what_runs(self.session, &candidates, &sampling(*wanted))?;
        let apart = runs.apart();
        let mut found: Vec<Timed> = vec![Ok(0.0); candidates.len()];
        for (place, reason) in runs.failed {
            found[place] = Err(reason);
        }
        let (places, visits): (Vec<usize>, Vec<_>) =
            runs.visits.into_iter().enumerate().filter(|(place, _)| found[*place].is_ok()).unzip();
        for (place, latency) in places.into_iter().zip(latencies(self.session, &visits)?) {
            found[place] = Ok(latency.value_ns);
        }
        match found.remove(0) {
            Ok(reference_ns) => Ok(Together { latencies: found, reference_ns, apart }),
            Err(reason) => anyhow::bail!("the device cannot run {}: {reason}", key(&reference)),
        }
    }
}

/// Times a search's finalists in turns with the reference net.
pub(super) struct FinalTimer<'t, 's> {
    timer: &'t mut GnnTimer<'s>,
    pace: Pace,
    sampling: Sampling,
}

impl<'t, 's> FinalTimer<'t, 's> {
    /// A timer on a device whose reference net takes `reference_ns` when nothing else slows it down.
    pub(super) const fn new(timer: &'t mut GnnTimer<'s>, reference_ns: f64, sampling: Sampling) -> Self {
        Self { timer, pace: Pace::new(reference_ns), sampling }
    }

    /// A net's latency as it is undisturbed, ns; infinite, with a note, where the device cannot run it.
    pub(super) fn measure_ns(&mut self, net: &GnnNet) -> anyhow::Result<f64> {
        let found = self.measure_all_ns(std::slice::from_ref(net))?;
        Ok(found.into_iter().next().unwrap_or(f64::INFINITY))
    }

    /// The same of several nets, in turns with each other as well: what a slow spell takes is waited for once. One by one
    /// where memory does not hold all of them beside the reference net.
    pub(super) fn measure_all_ns(&mut self, nets: &[GnnNet]) -> anyhow::Result<Vec<f64>> {
        let found = self.pace.settled(|| {
            let together = self.timer.measure(nets, &self.sampling)?;
            let reference_ns = together.reference_ns;
            Ok((together, reference_ns))
        })?;
        if found.measured.apart > 0 && nets.len() > 1 {
            return nets.iter().map(|net| self.measure_ns(net)).collect();
        }
        let latency = |(net, of): (&GnnNet, &Timed)| match of {
            Ok(ns) => found.corrected(*ns),
            Err(reason) => {
                eprintln!("note: the device cannot run {}: {reason}", key(net));
                f64::INFINITY
            }
        };
        Ok(nets.iter().zip(&found.measured.latencies).map(latency).collect())
    }
}
