//! What a job has brought, and what its events are to who takes notes.

use std::collections::BTreeMap;

use super::runner::Note;
use crate::link::LinkError;
use crate::link::measuring::Event;

/// What a job has brought so far.
#[derive(Debug, Default)]
pub(super) struct Job {
    /// Rounds that told their circumstances.
    rounds: u16,
    /// Of each candidate.
    brought: BTreeMap<usize, Brought>,
}

/// What a job has brought of one candidate.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Brought {
    /// Visits.
    pub(super) visits: u16,
    /// Timed runs.
    pub(super) runs: u32,
    /// Runs of the last visit.
    pub(super) last: u32,
}

impl Job {
    /// Rounds that told their circumstances.
    pub(super) const fn rounds(&self) -> u16 {
        self.rounds
    }

    /// What it has brought of a candidate.
    pub(super) fn of(&self, candidate: usize) -> Brought {
        self.brought.get(&candidate).copied().unwrap_or_default()
    }

    /// What an event is to who takes notes; `serial` is the number of the job's first round.
    pub(super) fn note(
        &mut self,
        event: Event,
        serial: u32,
        of: impl Fn(u16) -> Result<usize, LinkError>,
    ) -> Result<Note, LinkError> {
        Ok(match event {
            Event::Visit { round, slot, runs } => {
                let candidate = of(slot)?;
                let brought = self.brought.entry(candidate).or_default();
                brought.visits = brought.visits.saturating_add(1);
                brought.last = u32::try_from(runs.len()).unwrap_or(u32::MAX);
                brought.runs = brought.runs.saturating_add(brought.last);
                Note::Visit { candidate, serial: serial + u32::from(round), runs }
            }
            Event::Operators { slot, times, .. } => Note::Operators { candidate: of(slot)?, times },
            Event::Context { round, context } => {
                self.rounds = round.saturating_add(1);
                Note::Context { serial: serial + u32::from(round), context }
            }
        })
    }
}
