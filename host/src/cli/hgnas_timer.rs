//! What a search's graph nets cost on the device.

use hanas_models::gnn::{GnnNet, Reading};

use super::nets::{Part, Runs, in_turns_what_runs, latencies};
use super::pace::Pace;
use crate::latency::disturbed::at_pace;
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
    /// disturbed. Where memory does not hold all at once, the reference net is timed again with those that follow,
    /// and their latencies are brought to the pace of the fastest part.
    pub(super) fn measure(&mut self, nets: &[GnnNet], wanted: &Sampling) -> anyhow::Result<Together> {
        let reference = self.subject.pace_net();
        let candidate = |net: &GnnNet| self.subject.candidate(net, self.reading);
        let candidates: Vec<Candidate> =
            std::iter::once(&reference).chain(nets).map(candidate).collect::<Result<_, _>>()?;
        let sampling = Sampling { anchored: true, ..sampling(*wanted) };
        let mut runs = in_turns_what_runs(self.session, &candidates, &sampling)?;
        let mut found: Vec<Timed> = vec![Err("it was not timed".to_owned()); candidates.len()];
        for (place, reason) in std::mem::take(&mut runs.failed) {
            anyhow::ensure!(place > 0, "the device cannot run {}: {reason}", key(&reference));
            found[place] = Err(reason);
            // What it brought before it failed is no latency.
            runs.visits[place].clear();
        }
        let parts: Vec<_> =
            runs.parts().into_iter().map(|part| self.of_part(&runs, part)).collect::<Result<_, _>>()?;
        let references = parts.iter().filter_map(|part| part.reference_ns);
        let reference_ns = match references.min_by(f64::total_cmp) {
            Some(ns) => ns,
            None => latencies(self.session, &runs.visits[..1])?[0].value_ns,
        };
        for part in &parts {
            let slower = part.reference_ns.map_or(1.0, |ns| ns / reference_ns);
            for &(place, ns) in &part.others {
                found[place] = Ok(at_pace(ns, slower));
            }
        }
        Ok(Together { latencies: found.split_off(1), reference_ns })
    }

    /// The latencies of nets that were timed in the same rounds.
    fn of_part(&self, runs: &Runs, part: Part) -> anyhow::Result<TimedPart> {
        let with_reference = !part.first.is_empty();
        let others = part.others.iter().map(|&place| runs.visits[place].clone());
        let visits: Vec<_> = with_reference.then_some(part.first).into_iter().chain(others).collect();
        let mut values = latencies(self.session, &visits)?.into_iter().map(|of| of.value_ns);
        let reference_ns = if with_reference { values.next() } else { None };
        Ok(TimedPart { reference_ns, others: part.others.into_iter().zip(values).collect() })
    }
}

/// Latencies of nets that were timed in the same rounds, ns.
struct TimedPart {
    /// Of the reference net in those rounds.
    reference_ns: Option<f64>,
    /// Places and latencies of the others.
    others: Vec<(usize, f64)>,
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

    /// The same of several nets, in turns with each other as well: what a slow spell takes is waited for once.
    pub(super) fn measure_all_ns(&mut self, nets: &[GnnNet]) -> anyhow::Result<Vec<f64>> {
        let found = self.pace.settled(|| {
            let together = self.timer.measure(nets, &self.sampling)?;
            let reference_ns = together.reference_ns;
            Ok((together, reference_ns))
        })?;
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
