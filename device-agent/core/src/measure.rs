//! The measuring loop: a plan and loaded slots in, blocks of samples out.
//!
//! What a plan means is said at [`MeasurePlan`]. Durations are the runtime's own: with a scripted
//! runtime everything but the cutting into blocks is a function of plan and script.

use hanas_proto::measure::{Body, MeasurePlan};
use hanas_proto::units::Nanos;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::recorder::Recorder;
use crate::{Clock, Runtime};

/// Runs whose median tells whether a slot is warm.
const WARM_WINDOW: usize = 5;

/// Two such medians in a row that differ by less than this share are stationary.
const WARM_SHARE: f64 = 0.02;

/// Warming up ends after so many runs in any case,
pub const WARM_RUNS: usize = 20;

/// or after this long.
const WARM_LIMIT: Nanos = Nanos(100_000_000);

/// Where a job's blocks go and where it learns that it should stop.
pub trait Desk {
    /// Takes a block.
    fn emit(&mut self, body: Body<'_>);
    /// Is told which slot is timed next.
    fn visiting(&mut self, _slot: u16) {}
    /// Asked between runs; `now` is the clock's.
    fn should_stop(&mut self, now: Nanos) -> bool;
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// All rounds were run.
    Completed,
    /// The desk said so.
    Stopped,
    /// A run failed.
    Fault {
        /// The slot being run.
        slot: u16,
        /// What happened.
        trouble: T,
    },
}

/// What a job remembers of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Visited {
    /// The slot.
    pub slot: u16,
    /// It has been warmed up.
    pub warm: bool,
}

impl Visited {
    /// A slot that was not visited yet.
    #[must_use]
    pub const fn not_yet(slot: u16) -> Self {
        Self { slot, warm: false }
    }
}

/// A plan that cannot be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing is asked for.
    #[error("the plan is empty: it needs slots, rounds and runs")]
    Empty,
    /// Nothing is loaded in a slot.
    #[error("slot {0} is empty")]
    EmptySlot(u16),
}

/// The slots that a plan chooses, ascending.
pub fn chosen(slots: &[u8]) -> impl Iterator<Item = u16> {
    (0..slots.len() as u16 * 8).filter(|slot| slots[usize::from(slot / 8)] & (1 << (slot % 8)) != 0)
}

/// Whether a plan can be begun.
///
/// # Errors
/// [`PlanError`] where it asks for nothing, or for an empty slot.
pub fn check<R: Runtime + ?Sized>(plan: &MeasurePlan<'_>, runtime: &R) -> Result<(), PlanError> {
    if chosen(plan.slots).next().is_none() || plan.rounds == 0 || plan.runs == 0 {
        return Err(PlanError::Empty);
    }
    match chosen(plan.slots).find(|&slot| runtime.options(slot).is_none()) {
        Some(slot) => Err(PlanError::EmptySlot(slot)),
        None => Ok(()),
    }
}

/// Memory that a job works in.
#[derive(Debug)]
pub struct Storage<'s> {
    /// One for each slot of the plan, as [`Visited::not_yet`].
    pub slots: &'s mut [Visited],
    /// Timed runs that wait to be packed; one at least.
    pub times: &'s mut [Nanos],
    /// One run's operators.
    pub nodes: &'s mut [Nanos],
    /// Series of runs that wait to be emitted; a block is at most this long.
    pub samples: &'s mut [u8],
    /// Series of operators that wait to be emitted; a block is at most this long.
    pub operators: &'s mut [u8],
}

/// Times the slots in `storage` after `plan`. What was taken before a stop or a fault is emitted all the
/// same.
pub fn measure<R: Runtime + ?Sized, C: Clock + ?Sized, D: Desk + ?Sized>(
    runtime: &mut R,
    clock: &mut C,
    plan: &MeasurePlan<'_>,
    storage: Storage<'_>,
    desk: &mut D,
) -> Outcome<R::Trouble> {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let Storage { slots, times, nodes, samples, operators } = storage;
    let recorder = Recorder::new(samples, operators, clock.now());
    let mut job = Job { runtime, clock, plan, desk, recorder, times, nodes };
    for round in 0..plan.rounds {
        // Each round's order is drawn anew, and from the same start: it is a function of seed and round.
        slots.sort_unstable_by_key(|visited| visited.slot);
        slots.shuffle(&mut rng);
        job.clock.begin_round();
        let interrupt = slots
            .iter_mut()
            .find_map(|visited| job.visit(round, visited).err().map(|why| (visited.slot, why)));
        let now = job.clock.now();
        job.recorder.flush(round, job.desk, now);
        let context = job.clock.end_round();
        job.desk.emit(Body::Context { round, context });
        match interrupt {
            None => {}
            Some((_, Interrupt::Stop)) => return Outcome::Stopped,
            Some((slot, Interrupt::Fault(trouble))) => return Outcome::Fault { slot, trouble },
        }
    }
    Outcome::Completed
}

/// What ends a visit early.
enum Interrupt<T> {
    Stop,
    Fault(T),
}

impl<T> From<T> for Interrupt<T> {
    fn from(trouble: T) -> Self {
        Self::Fault(trouble)
    }
}

struct Job<'a, 'p, R: ?Sized, C: ?Sized, D: ?Sized> {
    runtime: &'a mut R,
    clock: &'a mut C,
    plan: &'a MeasurePlan<'p>,
    desk: &'a mut D,
    recorder: Recorder<'a>,
    times: &'a mut [Nanos],
    nodes: &'a mut [Nanos],
}

impl<R: Runtime + ?Sized, C: Clock + ?Sized, D: Desk + ?Sized> Job<'_, '_, R, C, D> {
    fn visit(&mut self, round: u16, visited: &mut Visited) -> Result<(), Interrupt<R::Trouble>> {
        let slot = visited.slot;
        self.desk.visiting(slot);
        if !core::mem::replace(&mut visited.warm, true) {
            self.warm_up(slot)?;
        }
        let per_node = self.runtime.options(slot).is_some_and(|options| options.per_node);
        let limit = self.plan.visit_limit;
        let is_over = |spent: Nanos| limit > Nanos(0) && spent >= limit;
        let mut spent = Nanos(0);
        for _ in 0..self.plan.warmup {
            if is_over(spent) {
                break;
            }
            self.check_stop()?;
            spent = spent + self.runtime.run_once(slot)?;
        }
        let mut waiting = 0;
        let taken = self.timed(round, slot, per_node, &mut waiting, |run, last| {
            spent = spent + last;
            run > 0 && is_over(spent)
        });
        self.pack(round, slot, waiting);
        taken
    }

    /// A visit's timed runs. `is_over` is asked before each, with the time of the one before. `waiting`
    /// of them are not packed at the end.
    fn timed(
        &mut self,
        round: u16,
        slot: u16,
        per_node: bool,
        waiting: &mut usize,
        mut is_over: impl FnMut(u16, Nanos) -> bool,
    ) -> Result<(), Interrupt<R::Trouble>> {
        let mut last = Nanos(0);
        for run in 0..self.plan.runs {
            if is_over(run, last) {
                break;
            }
            self.check_stop()?;
            last = if per_node { self.run_nodes(round, slot)? } else { self.runtime.run_once(slot)? };
            self.times[*waiting] = last;
            *waiting += 1;
            let now = self.clock.now();
            if self.recorder.is_old(now) {
                self.pack(round, slot, core::mem::take(waiting));
                self.recorder.flush(round, self.desk, now);
            } else if *waiting == self.times.len() {
                self.pack(round, slot, core::mem::take(waiting));
            }
        }
        Ok(())
    }

    fn run_nodes(&mut self, round: u16, slot: u16) -> Result<Nanos, Interrupt<R::Trouble>> {
        let (nodes, mut operators) = (&mut *self.nodes, 0);
        let time = self.runtime.run_nodes(slot, &mut |time| {
            if let Some(place) = nodes.get_mut(operators) {
                *place = time;
            }
            operators += 1;
        })?;
        let now = self.clock.now();
        match self.nodes.get(..operators) {
            Some(times) => {
                self.recorder.nodes::<D, R::Trouble>(round, slot, times, self.desk, now)?;
            }
            None => return Err(Interrupt::Fault(crate::Trouble::too_many_operators(operators))),
        }
        Ok(time)
    }

    /// Hands the first `waiting` times to the recorder.
    fn pack(&mut self, round: u16, slot: u16, waiting: usize) {
        let now = self.clock.now();
        self.recorder.samples(round, slot, &self.times[..waiting], self.desk, now);
    }

    fn warm_up(&mut self, slot: u16) -> Result<(), Interrupt<R::Trouble>> {
        let mut times = [Nanos(0); WARM_RUNS];
        let mut count = 0;
        while count < WARM_RUNS {
            let before = &times[..count];
            if before.iter().copied().sum::<Nanos>() >= WARM_LIMIT || is_stationary(before) {
                break;
            }
            self.check_stop()?;
            times[count] = self.runtime.run_once(slot)?;
            count += 1;
        }
        Ok(())
    }

    fn check_stop(&mut self) -> Result<(), Interrupt<R::Trouble>> {
        let now = self.clock.now();
        if self.desk.should_stop(now) { Err(Interrupt::Stop) } else { Ok(()) }
    }
}

fn is_stationary(times: &[Nanos]) -> bool {
    let Some(start) = times.len().checked_sub(2 * WARM_WINDOW) else { return false };
    let (before, last) = times[start..].split_at(WARM_WINDOW);
    let (before, last) = (median(before), median(last));
    last.abs_diff(before) as f64 <= WARM_SHARE * before as f64
}

/// The median of at most [`WARM_WINDOW`] times.
fn median(times: &[Nanos]) -> u64 {
    let mut sorted = [Nanos(u64::MAX); WARM_WINDOW];
    sorted[..times.len()].copy_from_slice(times);
    sorted.sort_unstable();
    sorted[times.len() / 2].0
}

#[cfg(test)]
mod tests;
