//! A measuring job: blocks in order, each once, whatever the link does.

use std::ops::ControlFlow;
use std::time::Instant;

use hanas_proto::Nanos;
use hanas_proto::endpoints::{ToAgent, ToHost};
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{Block, Body, JobEnd, MeasurePlan, RoundContext};
use hanas_proto::samples::{Series, SeriesReader};

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
    /// Timed runs of one visit, all of them: an agent that sends them in several blocks, for they take long,
    /// is waited for.
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
        let mut reader = JobReader::new(job, &mut take);
        let outcome = self.follow(plan, &mut reader);
        // Where the link cannot be mended, what came of the last visit is kept too.
        reader.hand_visit();
        outcome
    }

    /// Starts a job and reads it to its end.
    fn follow(&mut self, plan: &Plan, reader: &mut JobReader<'_>) -> Result<Outcome, LinkError> {
        let job = reader.job;
        self.start(job, plan, reader)?;
        let mut acked = 0;
        let mut stopping: Option<Patience> = None;
        let mut last_block = Instant::now();
        let mut patience = Patience::new(&self.url);
        let mut asked_for = None;
        loop {
            let (before, heard_before) = (reader.next, reader.heard);
            let mut reconnected = false;
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
                    reconnected = true;
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
            // Blocks that come do not tell whether a stop was lost, so it has a patience of its own.
            if reader.stop && !reader.stop_is_heard {
                let again = stopping.as_mut().is_none_or(Patience::is_over);
                if again || reconnected {
                    let id = *reader.stop_id.get_or_insert_with(|| self.id());
                    stopping.get_or_insert_with(|| Patience::new(&self.url));
                    self.send(&ToAgent::Stop { id, job })?;
                }
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
    /// The request to stop the job, once it was made.
    stop_id: Option<u32>,
    /// The agent answered it.
    stop_is_heard: bool,
    lost: bool,
    /// The visit that came last, which the next block may go on with.
    visit: Option<(u16, u16, Vec<Nanos>)>,
    take: &'t mut dyn FnMut(Event) -> ControlFlow<()>,
}

impl<'t> JobReader<'t> {
    fn new(job: u32, take: &'t mut dyn FnMut(Event) -> ControlFlow<()>) -> Self {
        let (stop, stop_id, stop_is_heard) = (false, None, false);
        Self { job, next: 0, heard: 0, stop, stop_id, stop_is_heard, lost: false, visit: None, take }
    }

    fn hear(&mut self, message: ToHost<'_>) -> Heard<Outcome> {
        if let ToHost::Done { id } | ToHost::Fault { id, .. } = message
            && self.stop_id == Some(id)
        {
            self.stop_is_heard = true;
        }
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
                for series in readable(series) {
                    self.visited(round, series.key, series);
                }
            }
            Body::Nodes { round, series } => {
                for series in readable(series) {
                    self.hand(Event::Operators { round, slot: series.key, times: series.collect() });
                }
            }
            Body::Context { round, context } => {
                self.hand_visit();
                self.hand(Event::Context { round, context });
            }
            Body::End(JobEnd::Completed) => return Heard::Answer(Outcome::Completed),
            Body::End(JobEnd::Stopped) => return Heard::Answer(Outcome::Stopped),
            Body::End(JobEnd::Fault { code, slot, text }) => {
                return Heard::Answer(Outcome::Faulted { code, slot, text: text.to_owned() });
            }
        }
        Heard::Progress
    }

    fn visited(&mut self, round: u16, slot: u16, runs: impl Iterator<Item = Nanos>) {
        match &mut self.visit {
            // A round visits a slot once.
            Some((last_round, last_slot, before)) if (*last_round, *last_slot) == (round, slot) => {
                before.extend(runs);
            }
            _ => {
                self.hand_visit();
                self.visit = Some((round, slot, runs.collect()));
            }
        }
    }

    fn hand_visit(&mut self) {
        if let Some((round, slot, runs)) = self.visit.take() {
            self.hand(Event::Visit { round, slot, runs });
        }
    }

    fn hand(&mut self, event: Event) {
        self.stop |= (self.take)(event).is_break();
    }
}

/// The frame's checksum was right: damage here is the agent's own, and the rest is unreadable.
fn readable(bytes: &[u8]) -> impl Iterator<Item = Series<'_>> {
    SeriesReader::new(bytes).map_while(Result::ok)
}

fn bitmap(slots: &[u16]) -> Vec<u8> {
    let len = slots.iter().max().map_or(0, |&last| usize::from(last) / 8 + 1);
    let mut bits = vec![0u8; len];
    for &slot in slots {
        bits[usize::from(slot) / 8] |= 1 << (slot % 8);
    }
    bits
}

#[cfg(test)]
mod tests {
    use hanas_proto::samples::SeriesWriter;

    use super::*;

    /// A block with these series.
    fn block(reader: &mut JobReader<'_>, round: u16, series: &[(u16, &[u64])]) {
        let mut buffer = [0; 256];
        let mut writer = SeriesWriter::new(&mut buffer);
        for (slot, runs) in series {
            let runs: Vec<Nanos> = runs.iter().copied().map(Nanos).collect();
            assert!(writer.push(*slot, &runs));
        }
        let body = Body::Samples { round, series: writer.bytes() };
        reader.hear(ToHost::Block(Block { job: 1, seq: reader.next, body }));
    }

    #[test]
    fn a_visit_that_comes_in_parts_is_one() {
        let mut visits = Vec::new();
        let mut take = |event| {
            if let Event::Visit { round, slot, runs } = event {
                visits.push((round, slot, runs.iter().map(|run| run.0).collect::<Vec<u64>>()));
            }
            ControlFlow::Continue(())
        };
        let mut reader = JobReader::new(1, &mut take);
        block(&mut reader, 0, &[(3, &[30, 31]), (5, &[50])]);
        block(&mut reader, 0, &[(5, &[51])]);
        block(&mut reader, 0, &[(5, &[52, 53])]);
        // The same slot again is another visit, for it is another round's.
        block(&mut reader, 1, &[(5, &[54]), (3, &[32])]);
        reader.hear(ToHost::Block(Block { job: 1, seq: reader.next, body: Body::End(JobEnd::Stopped) }));
        reader.hand_visit();
        let wanted = [(0, 3, vec![30, 31]), (0, 5, vec![50, 51, 52, 53]), (1, 5, vec![54]), (1, 3, vec![32])];
        assert_eq!(visits, wanted);
    }
}
