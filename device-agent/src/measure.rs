//! The measuring loop: a plan and loaded slots in, blocks of samples out.
//!
//! What a plan means is said at [`MeasurePlan`]. Durations are the runtime's own: with a scripted
//! runtime everything but the cutting into blocks is a function of plan and script.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{Body, MeasurePlan};
use hanas_proto::samples::SeriesWriter;
use hanas_proto::units::Nanos;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::context::Probe;
use crate::runtime::{Runtime, Trouble};

/// A block of samples is sent when it holds this much, in bytes.
const BLOCK_BYTES: usize = 1024;

/// Or when the last was sent this long ago.
const BLOCK_AGE: Duration = Duration::from_millis(50);

/// Runs whose median tells whether a slot is warm.
const WARM_WINDOW: usize = 5;

/// Two such medians in a row that differ by less than this share are stationary.
const WARM_SHARE: f64 = 0.02;

/// Warming up ends after so many runs in any case,
const WARM_RUNS: usize = 20;

/// or after this long.
const WARM_LIMIT: Nanos = Nanos(100_000_000);

/// Where a job's blocks go and where it learns that it should stop.
pub trait Desk {
    /// Takes a block.
    fn emit(&mut self, body: Body<'_>);
    /// Is told which slot is timed next.
    fn visiting(&mut self, slot: u16);
    /// Asked between runs.
    fn should_stop(&mut self) -> bool;
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All rounds were run.
    Completed,
    /// The desk said so.
    Stopped,
    /// A run failed.
    Fault {
        /// The slot being run.
        slot: u16,
        /// What happened.
        trouble: Trouble,
    },
}

/// What ends a visit early.
enum Interrupt {
    Stop,
    Fault(Trouble),
}

impl From<Trouble> for Interrupt {
    fn from(trouble: Trouble) -> Self {
        Self::Fault(trouble)
    }
}

/// Times `slots` after `plan`. A series is at most `limit` bytes. What was taken before a stop or a
/// fault is emitted all the same.
pub fn measure(
    runtime: &mut dyn Runtime,
    plan: &MeasurePlan<'_>,
    slots: &[u16],
    limit: usize,
    probe: &mut Probe,
    desk: &mut dyn Desk,
) -> Outcome {
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut job = Job { runtime, plan, desk, recorder: Recorder::new(limit), warm: BTreeSet::new() };
    for round in 0..plan.rounds {
        let mut order = slots.to_vec();
        order.shuffle(&mut rng);
        let before = probe.read();
        let interrupt = order.iter().find_map(|&slot| job.visit(round, slot).err().map(|why| (slot, why)));
        job.recorder.flush(round, job.desk);
        job.desk.emit(Body::Context { round, context: probe.since(&before) });
        match interrupt {
            None => {}
            Some((_, Interrupt::Stop)) => return Outcome::Stopped,
            Some((slot, Interrupt::Fault(trouble))) => return Outcome::Fault { slot, trouble },
        }
    }
    Outcome::Completed
}

struct Job<'a, 'p> {
    runtime: &'a mut dyn Runtime,
    plan: &'a MeasurePlan<'p>,
    desk: &'a mut dyn Desk,
    recorder: Recorder,
    warm: BTreeSet<u16>,
}

impl Job<'_, '_> {
    fn visit(&mut self, round: u16, slot: u16) -> Result<(), Interrupt> {
        self.desk.visiting(slot);
        if self.warm.insert(slot) {
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
        let mut times = Vec::with_capacity(usize::from(self.plan.runs));
        let mut nodes = Vec::new();
        let taken = (0..self.plan.runs).try_for_each(|run| {
            if run > 0 && is_over(spent) {
                return Ok(());
            }
            self.check_stop()?;
            let time = if per_node {
                let time = self.runtime.run_nodes(slot, &mut nodes)?;
                self.recorder.nodes(round, slot, &nodes, self.desk)?;
                time
            } else {
                self.runtime.run_once(slot)?
            };
            times.push(time);
            spent = spent + time;
            if self.recorder.is_old() {
                self.recorder.samples(round, slot, &times, self.desk);
                times.clear();
                self.recorder.flush(round, self.desk);
            }
            Ok(())
        });
        self.recorder.samples(round, slot, &times, self.desk);
        taken
    }

    fn warm_up(&mut self, slot: u16) -> Result<(), Interrupt> {
        let mut times = Vec::with_capacity(WARM_RUNS);
        while times.len() < WARM_RUNS && times.iter().copied().sum::<Nanos>() < WARM_LIMIT {
            self.check_stop()?;
            times.push(self.runtime.run_once(slot)?);
            if is_stationary(&times) {
                break;
            }
        }
        Ok(())
    }

    fn check_stop(&mut self) -> Result<(), Interrupt> {
        if self.desk.should_stop() { Err(Interrupt::Stop) } else { Ok(()) }
    }
}

fn is_stationary(times: &[Nanos]) -> bool {
    let Some(start) = times.len().checked_sub(2 * WARM_WINDOW) else { return false };
    let (before, last) = times[start..].split_at(WARM_WINDOW);
    let (before, last) = (median(before), median(last));
    last.abs_diff(before) as f64 <= WARM_SHARE * before as f64
}

fn median(times: &[Nanos]) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2].0
}

/// Packs series into blocks.
struct Recorder {
    samples: Packed,
    nodes: Packed,
    flushed: Instant,
}

impl Recorder {
    fn new(limit: usize) -> Self {
        Self {
            samples: Packed::new(limit.min(BLOCK_BYTES)),
            nodes: Packed::new(limit),
            flushed: Instant::now(),
        }
    }

    fn is_old(&self) -> bool {
        self.flushed.elapsed() >= BLOCK_AGE
    }

    /// Adds a visit's samples; cut into several series where one does not fit into a block.
    fn samples(&mut self, round: u16, slot: u16, times: &[Nanos], desk: &mut dyn Desk) {
        if times.is_empty() || self.samples.push(slot, times) {
            return;
        }
        if !self.samples.is_empty() {
            self.flush(round, desk);
            self.samples(round, slot, times, desk);
        } else if times.len() > 1 {
            let (first, second) = times.split_at(times.len() / 2);
            self.samples(round, slot, first, desk);
            self.samples(round, slot, second, desk);
        }
    }

    /// Adds a run's operators; they are one series and cannot be cut.
    fn nodes(&mut self, round: u16, slot: u16, times: &[Nanos], desk: &mut dyn Desk) -> Result<(), Trouble> {
        if self.nodes.used >= BLOCK_BYTES {
            self.flush(round, desk);
        }
        if times.is_empty() || self.nodes.push(slot, times) {
            return Ok(());
        }
        self.flush(round, desk);
        if self.nodes.push(slot, times) {
            return Ok(());
        }
        let text = format!("the times of {} operators do not fit into the host's frames", times.len());
        Err(Trouble::new(FaultCode::TooLarge, text))
    }

    fn flush(&mut self, round: u16, desk: &mut dyn Desk) {
        if !self.samples.is_empty() {
            desk.emit(Body::Samples { round, series: self.samples.take() });
        }
        if !self.nodes.is_empty() {
            desk.emit(Body::Nodes { round, series: self.nodes.take() });
        }
        self.flushed = Instant::now();
    }
}

/// A buffer of whole series.
struct Packed {
    buffer: Vec<u8>,
    used: usize,
}

impl Packed {
    fn new(limit: usize) -> Self {
        Self { buffer: vec![0; limit], used: 0 }
    }

    const fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn push(&mut self, key: u16, values: &[Nanos]) -> bool {
        let mut writer = SeriesWriter::new(&mut self.buffer[self.used..]);
        let whole = writer.push(key, values);
        self.used += writer.bytes().len();
        whole
    }

    fn take(&mut self) -> &[u8] {
        &self.buffer[..std::mem::take(&mut self.used)]
    }
}

#[cfg(test)]
mod tests;
