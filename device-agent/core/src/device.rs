//! A whole agent over one link, for a chip that serves one host at a time.
//!
//! [`Device::turn`] takes what has come and does it; the firmware calls it for ever. While a job runs, the
//! link is looked at between runs: acknowledgements make room, a stop ends the job, and requests that
//! need the runtime are answered with [`FaultCode::Busy`]. A block that has no room waits for
//! acknowledgements; nothing is lost, and nothing is timed meanwhile.
//!
//! Against the Linux agent this one leaves out: several sessions and their queue (a new session ends the
//! old one), content beyond the last, and the blocks of any job but the last.

mod attendant;
mod mouth;

use hanas_proto::ToAgent;
use hanas_proto::ToHost;
use hanas_proto::fault::FaultCode;
use hanas_proto::frame::{Deframer, Step, decode, framed_len};
use hanas_proto::handshake::DeviceFacts;
use hanas_proto::measure::{Block, Body, JobEnd, MeasurePlan};
use hanas_proto::units::Nanos;

use self::attendant::Attendant;
use self::mouth::Mouth;
use crate::inbox::Inbox;
use crate::measure::{Desk, Outcome, PlanError, Storage, Visited, check, chosen, measure};
use crate::session::{Answers, Job};
use crate::shelf::Arena;
use crate::{Clock, Link, Models, Trouble, dialogue};

/// Slots that a device of this kind can have.
pub const MAX_SLOTS: usize = 64;

/// Longest payload, either way.
pub const MAX_FRAME: usize = 1024;

/// Operators of a model whose times can be told.
pub const MAX_OPERATORS: usize = 64;

/// Timed runs that wait to be packed.
const TIMES: usize = 64;

/// Bytes of a frame that are not a block's series, an output's data or a text, at most.
const ENVELOPE: usize = 128;

/// Longest series in a block.
const SERIES: usize = MAX_FRAME - ENVELOPE;

/// Answers that are kept.
const ANSWERS: usize = 16;

/// Memory that a device's talk takes.
#[derive(Debug)]
pub struct Memory<'m> {
    /// The content that came last.
    pub content: &'m mut [u8],
    /// Blocks that the host has not acknowledged; [`MIN_BLOCKS`] bytes at least.
    pub blocks: &'m mut [u8],
    /// Answers that are kept to be given again.
    pub answers: &'m mut [u8],
}

/// Room for one block of any length.
pub const MIN_BLOCKS: usize = framed_len(MAX_FRAME) + 8;

/// An agent over one link.
pub struct Device<'m, R, C, L> {
    runtime: R,
    ears: Ears,
    state: State<'m, C, L>,
}

/// What comes in.
struct Ears {
    deframer: Deframer<[u8; framed_len(MAX_FRAME)]>,
    inbox: [u8; 256],
}

/// What goes out, and what is remembered for it.
struct State<'m, C, L> {
    mouth: Mouth<C, L>,
    facts: DeviceFacts<'m>,
    slots: u16,
    session: Option<u64>,
    host_max_frame: usize,
    content: Inbox<'m>,
    answers: Answers<Arena<'m>>,
    /// The last job's number, where one was begun in this session.
    job: Option<u32>,
    blocks: Job<Arena<'m>>,
    wanted: Option<Wanted>,
    running: bool,
    stop: bool,
    /// The session of the running job is over.
    abandoned: bool,
}

/// A job that was asked for and is begun when the message is done with.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    id: u32,
    job: u32,
    slots: [u8; MAX_SLOTS / 8],
    rounds: u16,
    warmup: u16,
    runs: u16,
    seed: u64,
    visit_limit: Nanos,
}

impl<'m, R: Models, C: Clock + Clone, L: Link> Device<'m, R, C, L> {
    /// A device to which nobody spoke yet. It has `slots` slots, [`MAX_SLOTS`] at most.
    pub fn new(
        runtime: R,
        clock: C,
        link: L,
        facts: DeviceFacts<'m>,
        slots: u16,
        memory: Memory<'m>,
    ) -> Self {
        let kept = memory.answers.len();
        let state = State {
            mouth: Mouth::new(clock, link),
            facts,
            slots: slots.min(MAX_SLOTS as u16),
            session: None,
            host_max_frame: 0,
            content: Inbox::new(memory.content),
            answers: Answers::new(Arena::new(memory.answers), ANSWERS, kept),
            job: None,
            blocks: Job::new(Arena::new(memory.blocks)),
            wanted: None,
            running: false,
            stop: false,
            abandoned: false,
        };
        Self { runtime, ears: Ears { deframer: Deframer::new([0; _]), inbox: [0; _] }, state }
    }

    /// Takes what has come and does it; returns when there is nothing more to do.
    pub fn turn(&mut self) {
        let Self { runtime, ears, state } = self;
        while hear(ears, state, Some(runtime)) {
            if let Some(wanted) = state.wanted.take() {
                run_job(ears, state, runtime, &wanted);
            }
        }
    }
}

/// Takes what has come on the link and does it, but for a job that it asks for; whether anything had.
fn hear<R: Models, C: Clock, L: Link>(
    ears: &mut Ears,
    state: &mut State<'_, C, L>,
    mut runtime: Option<&mut R>,
) -> bool {
    if state.session.is_some() {
        state.mouth.heartbeat();
    }
    let Ears { deframer, inbox } = ears;
    let read = state.mouth.link.read(inbox).min(inbox.len());
    let mut bytes = &inbox[..read];
    while !bytes.is_empty() {
        let (taken, step) = deframer.feed(bytes);
        bytes = &bytes[taken..];
        // Noise, a cut frame, another protocol's message: the host asks again.
        if let Step::Frame(payload) = step
            && let Ok(message) = decode::<ToAgent<'_>>(payload)
        {
            dialogue::take(&mut Attendant { state, runtime: runtime.as_deref_mut() }, message);
        }
    }
    read > 0
}

fn run_job<R: Models, C: Clock + Clone, L: Link>(
    ears: &mut Ears,
    state: &mut State<'_, C, L>,
    runtime: &mut R,
    wanted: &Wanted,
) {
    let Wanted { id, job, rounds, warmup, runs, seed, visit_limit, .. } = *wanted;
    let plan = MeasurePlan { slots: &wanted.slots, rounds, warmup, runs, seed, visit_limit };
    if let Err(error) = check(&plan, runtime) {
        let text = match error {
            PlanError::Empty => "the plan is empty: it needs slots, rounds and runs",
            PlanError::EmptySlot(_) => "a slot of the plan is empty",
        };
        return state.answer(id, &ToHost::Fault { id, code: FaultCode::BadRequest, text });
    }
    state.begin(job);
    state.answer(id, &ToHost::Done { id });

    let mut slots = [Visited::default(); MAX_SLOTS];
    let mut count = 0;
    for (place, slot) in slots.iter_mut().zip(chosen(plan.slots)) {
        *place = Visited::not_yet(slot);
        count += 1;
    }
    let series = SERIES.min(state.host_max_frame.saturating_sub(ENVELOPE));
    let storage = Storage {
        slots: &mut slots[..count],
        times: &mut [Nanos(0); TIMES],
        nodes: &mut [Nanos(0); MAX_OPERATORS],
        samples: &mut [0; SERIES][..series],
        operators: &mut [0; SERIES][..series],
    };
    let mut clock = state.mouth.clock.clone();
    let mut desk = JobDesk::<R, C, L> { ears, state, job, runtime: core::marker::PhantomData };
    let outcome = measure(runtime, &mut clock, &plan, storage, &mut desk);
    desk.emit(Body::End(match &outcome {
        Outcome::Completed => JobEnd::Completed,
        Outcome::Stopped => JobEnd::Stopped,
        Outcome::Fault { slot, trouble } => {
            JobEnd::Fault { code: trouble.code(), slot: *slot, text: trouble.text() }
        }
    }));
    state.running = false;
    if core::mem::take(&mut state.abandoned) {
        runtime.clear();
    }
}

/// A running job's side of the talk.
struct JobDesk<'a, 'm, R, C, L> {
    ears: &'a mut Ears,
    state: &'a mut State<'m, C, L>,
    job: u32,
    /// Messages are heard as with a runtime, which the job has in use.
    runtime: core::marker::PhantomData<R>,
}

impl<R: Models, C: Clock, L: Link> Desk for JobDesk<'_, '_, R, C, L> {
    fn emit(&mut self, body: Body<'_>) {
        let series = match body {
            Body::Samples { series, .. } | Body::Nodes { series, .. } => series.len(),
            Body::End(JobEnd::Fault { text, .. }) => text.len(),
            Body::Context { .. } | Body::End(_) => 0,
        };
        let frame = framed_len(series + ENVELOPE);
        while !self.state.abandoned && !self.state.blocks.blocks().has_room(frame) {
            hear::<R, C, L>(self.ears, self.state, None);
        }
        if !self.state.abandoned {
            let State { mouth, blocks, .. } = &mut *self.state;
            let message = ToHost::Block(Block { job: self.job, seq: blocks.next(), body });
            let frame = mouth.frame(&message);
            blocks.keep(frame, matches!(body, Body::End(_)));
            mouth.send_framed();
        }
    }

    fn should_stop(&mut self, _now: Nanos) -> bool {
        hear::<R, C, L>(self.ears, self.state, None);
        self.state.stop || self.state.abandoned
    }
}

#[cfg(test)]
mod tests;
