//! Loads candidates in sets, times them interleaved, goes on after a dead worker.

use std::ops::ControlFlow;
use std::sync::Arc;

use hanas_proto::Nanos;
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{LoadOptions, NO_SLOT, RoundContext};

use super::ProfileError;
use super::candidates::Candidate;
use super::job::Job;
use super::sampling::Sampling;
use super::warmup;
use crate::link::measuring::{Outcome, Plan};
use crate::link::session::{LoadedModel, blames_the_model};
use crate::link::{LinkError, Session};

/// How often an agent, or its worker before a job's first visit, may be started anew under one profile before
/// it is given up.
const MAX_RESTARTS: u32 = 3;

/// What the runner tells while it works. Candidates are named by their place in the given list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A candidate is ready.
    Loaded {
        /// Which.
        candidate: usize,
        /// What the device says of it.
        model: LoadedModel,
    },
    /// A visit's timed runs. `serial` numbers the rounds of the whole profile.
    Visit {
        /// Which.
        candidate: usize,
        /// Round of the whole profile.
        serial: u32,
        /// The runs.
        runs: Vec<Nanos>,
    },
    /// One run's operators.
    Operators {
        /// Which.
        candidate: usize,
        /// One time an operator, in execution order.
        times: Vec<Nanos>,
    },
    /// The device was run in before the first round that counts.
    Settled {
        /// Rounds that took.
        rounds: u16,
        /// It did settle; else the most that the plan allows were run.
        settled: bool,
    },
    /// A round is over: a good moment to make safe what came before.
    Context {
        /// Round of the whole profile.
        serial: u32,
        /// Its circumstances.
        context: RoundContext,
    },
    /// A candidate cannot be measured on this device; the others go on.
    Failed {
        /// Which.
        candidate: usize,
        /// Why, in the agent's words.
        reason: String,
    },
}

/// How a profile ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All that could be measured is.
    Completed,
    /// The taker of notes stopped it; what was taken is good.
    Stopped,
}

/// Takes notes; [`ControlFlow::Break`] stops the profile after the run in flight.
pub type TakeNote<'a> = dyn FnMut(Note) -> Result<ControlFlow<()>, ProfileError> + 'a;

/// Measures every candidate that has fewer than the wanted samples; `have[i]` is what candidate `i` has.
///
/// # Errors
/// [`ProfileError`] where the link cannot be mended or `take` fails. What was noted before stands.
pub fn run(
    session: &mut Session,
    candidates: &[Candidate],
    have: &[u32],
    sampling: &Sampling,
    options: LoadOptions,
    take: &mut TakeNote<'_>,
) -> Result<Ended, ProfileError> {
    let mut state = State {
        candidates,
        sampling,
        options,
        left: have.iter().map(|&have| sampling.rounds_left(have)).collect(),
        have: have.to_vec(),
        serial: sampling.first_round,
        settled: sampling.settle == 0,
        told: vec![false; candidates.len()],
        restarts: 0,
    };
    let wanted: Vec<usize> = (0..candidates.len()).filter(|&i| state.left[i] > 0).collect();
    let set_size = usize::from(sampling.set_size.min(session.limits().slots).max(1));
    for set in sets(&wanted, set_size, sampling.anchored) {
        match state.set(session, set, take) {
            Ok(Ended::Completed) => {}
            // The device's command got the same Ctrl-C.
            Err(ProfileError::Link(LinkError::Gone { .. })) if session.was_to_end() => {
                return Ok(Ended::Stopped);
            }
            ended => return ended,
        }
    }
    Ok(Ended::Completed)
}

/// Candidates in sets, the first of all in each where it is the anchor.
fn sets(wanted: &[usize], size: usize, anchored: bool) -> Vec<Vec<usize>> {
    let (anchor, others) = wanted.split_at(usize::from(anchored && size > 1).min(wanted.len()));
    let sets = others.chunks(size - anchor.len());
    if others.is_empty() { vec![anchor.to_vec()] } else { sets.map(|set| [anchor, set].concat()).collect() }
}

struct State<'a> {
    candidates: &'a [Candidate],
    sampling: &'a Sampling,
    options: LoadOptions,
    /// Rounds that each candidate still needs; none for one that failed.
    left: Vec<u16>,
    /// Timed runs that each candidate has.
    have: Vec<u32>,
    /// Rounds so far, over all jobs.
    serial: u32,
    settled: bool,
    /// Whether it was told that a candidate is ready.
    told: Vec<bool>,
    restarts: u32,
}

impl State<'_> {
    /// Measures a set to the end. Those that could not be loaded beside the others follow as a set of their own,
    /// again with the anchor, if there is one. Where none of them has room beside it, the first has the memory to itself.
    fn set(
        &mut self,
        session: &mut Session,
        mut set: Vec<usize>,
        take: &mut TakeNote<'_>,
    ) -> Result<Ended, ProfileError> {
        let anchor = set.first().copied().filter(|_| self.sampling.anchored);
        while !set.is_empty() {
            if let Some(anchor) = anchor.filter(|&anchor| set[0] == anchor && self.left[anchor] == 0) {
                // Of an earlier part; one that failed there is not tried again.
                self.left[anchor] = if self.have[anchor] > 0 { self.sampling.rounds_left(0) } else { 0 };
            }
            let mut later = Vec::new();
            if self.part(session, &set, &mut later, take)? == Ended::Stopped {
                return Ok(Ended::Stopped);
            }
            let no_room_beside = |anchor: usize| set[0] == anchor && set[1..] == later;
            if let Some(anchor) = anchor.filter(|&anchor| !later.is_empty() && !no_room_beside(anchor)) {
                later.insert(0, anchor);
            }
            set = later;
        }
        Ok(Ended::Completed)
    }

    /// Measures those of a set that can be loaded together, loading them anew as often as the worker dies.
    fn part(
        &mut self,
        session: &mut Session,
        set: &[usize],
        later: &mut Vec<usize>,
        take: &mut TakeNote<'_>,
    ) -> Result<Ended, ProfileError> {
        loop {
            match self.load_and_measure(session, set, later, take) {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => {}
                Err(ProfileError::Link(LinkError::Restarted { .. })) if self.restarts < MAX_RESTARTS => {
                    self.restarts += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// `None`: the slots are gone and the set must be loaded again, but for those in `later`, which were too much
    /// beside the others.
    fn load_and_measure(
        &mut self,
        session: &mut Session,
        set: &[usize],
        later: &mut Vec<usize>,
        take: &mut TakeNote<'_>,
    ) -> Result<Option<Ended>, ProfileError> {
        session.clear()?;
        self.hold(session, set)?;
        // Each in the slot of its place here.
        let mut loaded = Vec::with_capacity(set.len());
        for &candidate in set {
            if self.left[candidate] == 0 || later.contains(&candidate) {
                continue;
            }
            // A set has no more candidates than there are slots.
            let slot = u16::try_from(loaded.len()).unwrap_or(u16::MAX);
            match session.load_onnx(slot, &self.candidates[candidate].onnx, self.options) {
                Ok(model) => {
                    loaded.push(candidate);
                    let told = std::mem::replace(&mut self.told[candidate], true);
                    if !told && take(Note::Loaded { candidate, model })?.is_break() {
                        return Ok(Some(Ended::Stopped));
                    }
                }
                // The others' memory may be what it lacks.
                Err(LinkError::Fault { code, .. }) if !loaded.is_empty() && is_of_memory(code) => {
                    later.push(candidate);
                    if code == FaultCode::WorkerDied {
                        return Ok(None);
                    }
                }
                Err(LinkError::Fault { code, text }) if blames_the_model(code) => {
                    self.left[candidate] = 0;
                    if take(Note::Failed { candidate, reason: format!("{code}: {text}") })?.is_break() {
                        return Ok(Some(Ended::Stopped));
                    }
                    if code == FaultCode::WorkerDied {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !loaded.is_empty() && !std::mem::replace(&mut self.settled, true) {
            match self.settle(session, &loaded, take)? {
                Some(ControlFlow::Continue(())) => {}
                Some(ControlFlow::Break(())) => return Ok(Some(Ended::Stopped)),
                None => return Ok(None),
            }
        }
        self.measure(session, &loaded, take)
    }

    /// Runs some of a set's candidates until the device has settled. `None`: the slots are gone.
    fn settle(
        &mut self,
        session: &mut Session,
        set: &[usize],
        take: &mut TakeNote<'_>,
    ) -> Result<Option<ControlFlow<()>>, ProfileError> {
        let active: Vec<u16> =
            (0u16..).zip(set).filter(|(_, c)| self.left[**c] > 0).map(|(slot, _)| slot).collect();
        let apart = active.len().div_ceil(usize::from(warmup::MODELS)).max(1);
        let plan = Plan {
            slots: active.into_iter().step_by(apart).collect(),
            rounds: 1,
            warmup: 0,
            runs: 1,
            seed: self.sampling.seed,
            visit_limit: self.sampling.visit_limit,
        };
        if plan.slots.is_empty() {
            return Ok(Some(ControlFlow::Continue(())));
        }
        match warmup::settle(session, plan, self.sampling.settle)? {
            warmup::Ended::Over { rounds, settled } => take(Note::Settled { rounds, settled }).map(Some),
            warmup::Ended::Trouble => Ok(Some(ControlFlow::Continue(()))),
            warmup::Ended::Died => Ok(None),
        }
    }

    /// Sees to it that the agent holds what the set's models refer to; each content is offered once.
    fn hold(&self, session: &mut Session, set: &[usize]) -> Result<(), ProfileError> {
        let mut offered: Vec<&Arc<[u8]>> = Vec::new();
        for held in set.iter().filter_map(|&candidate| self.candidates[candidate].held.as_ref()) {
            if !offered.iter().any(|other| Arc::ptr_eq(other, held)) {
                session.upload(held)?;
                offered.push(held);
            }
        }
        Ok(())
    }

    /// Runs jobs until no candidate of the set needs a round. Candidates that need fewer than the rest
    /// drop out in between.
    fn measure(
        &mut self,
        session: &mut Session,
        set: &[usize],
        take: &mut TakeNote<'_>,
    ) -> Result<Option<Ended>, ProfileError> {
        loop {
            let active: Vec<u16> =
                (0u16..).zip(set).filter(|(_, c)| self.left[**c] > 0).map(|(s, _)| s).collect();
            let Some(rounds) = set.iter().map(|&c| self.left[c]).filter(|&left| left > 0).min() else {
                return Ok(Some(Ended::Completed));
            };
            let plan = Plan {
                slots: active.clone(),
                rounds,
                warmup: self.sampling.warmup,
                runs: self.sampling.runs,
                seed: self.sampling.seed.wrapping_add(u64::from(self.serial)),
                visit_limit: self.sampling.visit_limit,
            };
            let url = session.url().to_string();
            let of = |slot: u16| candidate_of(set, &active, slot, &url);
            let (serial, mut job) = (self.serial, Job::default());
            let mut trouble = Ok(());
            let outcome = session.measure(&plan, |event| {
                let noted = job.note(event, serial, of).map_err(ProfileError::Link).and_then(&mut *take);
                match noted {
                    Ok(flow) => flow,
                    Err(error) => {
                        trouble = Err(error);
                        ControlFlow::Break(())
                    }
                }
            });
            self.serial += u32::from(rounds);
            self.count(set, &active, &job, matches!(outcome, Ok(Outcome::Completed)).then_some(rounds));
            trouble?;
            match outcome? {
                Outcome::Completed => {}
                Outcome::Stopped => return Ok(Some(Ended::Stopped)),
                // The worker, and no model's doing: the set is loaded into its successor.
                Outcome::Faulted { code: FaultCode::WorkerDied, slot: NO_SLOT, .. }
                    if self.restarts < MAX_RESTARTS =>
                {
                    self.restarts += 1;
                    return Ok(None);
                }
                Outcome::Faulted { code, slot: NO_SLOT, text } => {
                    return Err(LinkError::Fault { code, text }.into());
                }
                Outcome::Faulted { code, slot, text } => {
                    let candidate = of(slot)?;
                    self.left[candidate] = 0;
                    let flow = take(Note::Failed { candidate, reason: format!("{code}: {text}") })?;
                    return Ok(flow.is_break().then_some(Ended::Stopped));
                }
            }
        }
    }

    /// Takes what a job brought off what is still needed; `completed` are the rounds of one that was not
    /// broken off.
    fn count(&mut self, set: &[usize], active: &[u16], job: &Job, completed: Option<u16>) {
        for &slot in active {
            let Some(&candidate) = set.get(usize::from(slot)) else { continue };
            let brought = job.of(candidate);
            self.have[candidate] = self.have[candidate].saturating_add(brought.runs);
            // A round that broke off tells its circumstances as well, though not all had their visit.
            let rounds = completed.unwrap_or_else(|| job.rounds().min(brought.visits));
            let left = self.left[candidate].saturating_sub(rounds);
            self.left[candidate] = match left {
                0 => self.sampling.rounds_more(self.have[candidate], brought.last),
                left => left,
            };
        }
    }
}

/// Whether a model that does not load for this reason may load where no other is.
const fn is_of_memory(code: FaultCode) -> bool {
    matches!(code, FaultCode::TooLarge | FaultCode::WorkerDied)
}

/// The candidate that was loaded into a slot and is timed by the job.
fn candidate_of(set: &[usize], active: &[u16], slot: u16, url: &str) -> Result<usize, LinkError> {
    let candidate = set.get(usize::from(slot)).filter(|_| active.contains(&slot));
    candidate.copied().ok_or_else(|| LinkError::OutOfTurn {
        url: url.to_owned(),
        what: format!("it tells of slot {slot}, which the job has not"),
    })
}
