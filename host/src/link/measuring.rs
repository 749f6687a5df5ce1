//! A measuring job: blocks in order, each once, whatever the link does.

use std::ops::ControlFlow;
use std::time::Instant;

use hanas_proto::Nanos;
use hanas_proto::endpoints::{ToAgent, ToHost};
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{Block, Body, JobEnd, MeasurePlan, RoundContext};
use hanas_proto::samples::SeriesReader;

use super::LinkError;
use super::session::{Heard, Patience, Session, done};

/// Blocks between two acknowledgements.
const ACK_EVERY: u32 = 16;

/// What to time, as the host holds it; see [`MeasurePlan`] for what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Chosen slots, in any order.
    pub slots: Vec<u16>,
    /// Rounds.
    pub rounds: u16,
    /// Untimed runs a visit.
    pub warmup: u16,
    /// Timed runs a visit.
    pub runs: u16,
    /// Seed of the visiting order.
    pub seed: u64,
    /// A visit ends early after this long; zero: never.
    pub visit_limit: Nanos,
}

/// One piece of a job's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Timed runs of one visit.
    Visit {
        /// The round.
        round: u16,
        /// The slot.
        slot: u16,
        /// The runs.
        runs: Vec<Nanos>,
    },
    /// One run's operators.
    Operators {
        /// The round.
        round: u16,
        /// The slot.
        slot: u16,
        /// One time an operator, in execution order.
        times: Vec<Nanos>,
    },
    /// The circumstances of a round that is over.
    Context {
        /// The round.
        round: u16,
        /// The circumstances.
        context: RoundContext,
    },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All rounds were run.
    Completed,
    /// The host stopped it.
    Stopped,
    /// It could not go on; what was taken before is good.
    Faulted {
        /// Kind of trouble.
        code: FaultCode,
        /// The slot being run.
        slot: u16,
        /// The agent's words.
        text: String,
    },
}

impl Session {
    /// Times slots and hands every piece to `take` as it comes, in order; [`ControlFlow::Break`] stops
    /// the job after the run in flight, and what was taken until then still comes.
    ///
    /// # Errors
    /// [`LinkError`] where the job cannot start or the link cannot be mended.
    pub fn measure(
        &mut self,
        plan: &Plan,
        mut take: impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Outcome, LinkError> {
        let job = self.next_job;
        self.next_job += 1;
        let mut reader = JobReader { job, next: 0, heard: 0, stop: false, lost: false, take: &mut take };
        self.start(job, plan, &mut reader)?;
        let mut acked = 0;
        let mut stopping = false;
        let mut last_block = Instant::now();
        let mut patience = Patience::new(&self.url);
        let mut asked_for = None;
        loop {
            let (before, heard_before) = (reader.next, reader.heard);
            let heard = self.hear(patience.left(), |message| Ok(reader.hear(message)));
            match heard {
                Ok(Some(Heard::Answer(outcome))) => {
                    self.send(&ToAgent::Ack { job, next: reader.next })?;
                    return Ok(outcome);
                }
                Ok(_) => {}
                Err(LinkError::Gone { reason, .. }) => {
                    self.reconnect(&reason)?;
                    self.send(&ToAgent::Resume { job, next: reader.next })?;
                }
                Err(error) => return Err(error),
            }
            if reader.next > before {
                last_block = Instant::now();
            }
            if reader.heard > heard_before {
                patience.renew();
            }
            // The agent sends all that follows again, so each loss is told once: blocks behind it are
            // still on their way. Where the telling itself was lost, there is silence after those.
            let news = std::mem::take(&mut reader.lost) && asked_for != Some(reader.next);
            if patience.is_over() || news {
                asked_for = Some(reader.next);
                self.send(&ToAgent::Resume { job, next: reader.next })?;
            }
            if reader.next >= acked + ACK_EVERY {
                acked = reader.next;
                self.send(&ToAgent::Ack { job, next: acked })?;
            }
            if reader.stop && !stopping {
                stopping = true;
                let id = self.id();
                self.send(&ToAgent::Stop { id, job })?;
            }
            if last_block.elapsed() > self.timeouts.run {
                return Err(LinkError::TimedOut { url: self.url.to_string(), limit: self.timeouts.run });
            }
        }
    }

    /// Starts the job. Its first blocks may overtake the answer, so they are read here as well.
    fn start(&mut self, job: u32, plan: &Plan, reader: &mut JobReader<'_>) -> Result<(), LinkError> {
        let slots = bitmap(&plan.slots);
        let id = self.id();
        let wire = MeasurePlan {
            slots: &slots,
            rounds: plan.rounds,
            warmup: plan.warmup,
            runs: plan.runs,
            seed: plan.seed,
            visit_limit: plan.visit_limit,
        };
        let mut answered = done(id);
        self.ask(id, &ToAgent::Measure { id, job, plan: wire }, |message| {
            // A block before the answer would be lost here; noting the gap has it sent again.
            if let ToHost::Block(block) = &message
                && block.job == job
            {
                reader.lost = true;
                return Ok(Heard::Progress);
            }
            answered(message)
        })
    }
}

/// Puts a job's blocks in order and takes them apart.
struct JobReader<'t> {
    job: u32,
    next: u32,
    /// Blocks of the job, in order or not.
    heard: u64,
    stop: bool,
    lost: bool,
    take: &'t mut dyn FnMut(Event) -> ControlFlow<()>,
}

impl JobReader<'_> {
    fn hear(&mut self, message: ToHost<'_>) -> Heard<Outcome> {
        let ToHost::Block(Block { job, seq, body }) = message else {
            return Heard::Other;
        };
        if job != self.job {
            return Heard::Other;
        }
        self.heard += 1;
        if seq < self.next {
            return Heard::Other;
        }
        if seq > self.next {
            self.lost = true;
            return Heard::Other;
        }
        self.next += 1;
        match body {
            Body::Samples { round, series } => {
                self.series(series, |slot, runs| Event::Visit { round, slot, runs });
            }
            Body::Nodes { round, series } => {
                self.series(series, |slot, times| Event::Operators { round, slot, times });
            }
            Body::Context { round, context } => self.hand(Event::Context { round, context }),
            Body::End(JobEnd::Completed) => return Heard::Answer(Outcome::Completed),
            Body::End(JobEnd::Stopped) => return Heard::Answer(Outcome::Stopped),
            Body::End(JobEnd::Fault { code, slot, text }) => {
                return Heard::Answer(Outcome::Faulted { code, slot, text: text.to_owned() });
            }
        }
        Heard::Progress
    }

    fn series(&mut self, bytes: &[u8], event: impl Fn(u16, Vec<Nanos>) -> Event) {
        // The frame's checksum was right: damage here is the agent's own, and the rest is unreadable.
        for series in SeriesReader::new(bytes).map_while(Result::ok) {
            self.hand(event(series.key, series.collect()));
        }
    }

    fn hand(&mut self, event: Event) {
        self.stop |= (self.take)(event).is_break();
    }
}

fn bitmap(slots: &[u16]) -> Vec<u8> {
    let len = slots.iter().max().map_or(0, |&last| usize::from(last) / 8 + 1);
    let mut bits = vec![0u8; len];
    for &slot in slots {
        bits[usize::from(slot) / 8] |= 1 << (slot % 8);
    }
    bits
}
