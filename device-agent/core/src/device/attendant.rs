//! What a device does with each request.

use hanas_proto::fault::FaultCode;
use hanas_proto::handshake::{DIALECT, Hello, Welcome};
use hanas_proto::measure::{LoadOptions, Loaded, MeasurePlan};
use hanas_proto::{Digest, ToHost};

use super::{ENVELOPE, MAX_FRAME, MAX_SLOTS, State, Wanted};
use crate::dialogue::Agent;
use crate::inbox::InboxError;
use crate::measure::chosen;
use crate::{Clock, Link, Models, Part, Trouble};

/// Chunks that a host may have under way: the link's own buffer holds little more.
const WINDOW: u16 = 2;

/// The state and, unless a job has it in use, the runtime.
pub(super) struct Attendant<'a, 'm, R, C, L> {
    pub(super) state: &'a mut State<'m, C, L>,
    pub(super) runtime: Option<&'a mut R>,
}

impl<C: Clock, L: Link> State<'_, C, L> {
    /// Sends an answer and keeps it.
    pub(super) fn answer(&mut self, id: u32, message: &ToHost<'_>) {
        let frame = self.mouth.frame(message);
        self.answers.remember(id, frame);
        self.mouth.send_framed();
    }

    /// Begins a job: its blocks take the place of the last one's.
    pub(super) fn begin(&mut self, job: u32) {
        (self.job, self.running, self.stop) = (Some(job), true, false);
        self.blocks.restart();
    }

    /// Whether `id` was answered before; if so it is answered so again.
    fn is_repeated(&mut self, id: u32) -> bool {
        match self.answers.answered(id) {
            Some(frames) => {
                self.mouth.send(frames);
                true
            }
            None => false,
        }
    }

    fn fault(&mut self, id: u32, code: FaultCode, text: &str) {
        self.mouth.say(&ToHost::Fault { id, code, text });
    }

    fn held(&mut self, id: u32, held: Result<u64, InboxError>) {
        match held {
            Ok(held) => self.mouth.say(&ToHost::BlobHeld { id, held }),
            Err(error) => self.inbox_fault(id, error),
        }
    }

    fn inbox_fault(&mut self, id: u32, error: InboxError) {
        self.fault(id, error.code(), error.text());
    }

    /// A running job's session is over; the job ends with the run in flight.
    fn end_session(&mut self) {
        (self.session, self.job, self.wanted) = (None, None, None);
        self.abandoned = self.running;
        self.answers.clear();
        self.content.clear();
        self.blocks.restart();
    }
}

impl<R: Models, C: Clock, L: Link> Attendant<'_, '_, R, C, L> {
    /// The runtime; where a job has it in use, or will have next, that is told.
    fn runtime(&mut self, id: u32) -> Option<&mut R> {
        if self.state.wanted.is_some() || self.runtime.is_none() {
            // Of an abandoned job the new host need not know: it asks again and finds it gone.
            if !self.state.abandoned {
                self.state.fault(id, FaultCode::Busy, "a job is running; stop it or wait for its end");
            }
            return None;
        }
        self.runtime.as_deref_mut()
    }

    fn has_slot(&mut self, id: u32, slot: u16) -> bool {
        let has = slot < self.state.slots;
        if !has {
            self.state.fault(id, FaultCode::BadRequest, "this chip has fewer slots, see its welcome");
        }
        has
    }

    fn end(&mut self) {
        self.state.end_session();
        if let Some(runtime) = &mut self.runtime {
            runtime.clear();
        }
    }
}

impl<R: Models, C: Clock, L: Link> Agent for Attendant<'_, '_, R, C, L> {
    fn say(&mut self, message: &ToHost<'_>) {
        self.state.mouth.say(message);
    }

    fn is_open(&mut self) -> bool {
        self.state.session.is_some()
    }

    fn greet(&mut self, hello: &Hello<'_>) {
        let resumed = self.state.session == Some(hello.session);
        if !resumed {
            self.end();
        }
        let state = &mut *self.state;
        state.session = Some(hello.session);
        state.host_max_frame = hello.max_frame as usize;
        state.mouth.say(&ToHost::Welcome(Welcome {
            dialect: DIALECT,
            resumed,
            max_frame: MAX_FRAME as u32,
            window: WINDOW,
            max_blob: state.content.capacity() as u64,
            slots: state.slots,
            device: state.facts,
        }));
    }

    fn blob_open(&mut self, id: u32, digest: Digest, size: u64) {
        let held = self.state.content.announce(digest, size);
        self.state.held(id, held);
    }

    fn blob_chunk(&mut self, id: u32, offset: u64, data: &[u8]) {
        let held = self.state.content.chunk(offset, data);
        self.state.held(id, held);
    }

    fn load(&mut self, id: u32, slot: u16, digest: Digest, options: LoadOptions) {
        if self.state.is_repeated(id) || !self.has_slot(id, slot) || self.runtime(id).is_none() {
            return;
        }
        let (state, Some(runtime)) = (&mut *self.state, &mut self.runtime) else { return };
        let State { mouth, content, answers, .. } = state;
        let content = match content.content(digest) {
            Ok(content) => content,
            Err(error) => return state.inbox_fault(id, error),
        };
        let start = mouth.clock.now();
        mouth.begin_answer();
        let mut ports = 0;
        let loaded = runtime.load(id, slot, content, options, &mut |part| {
            mouth.piece(&match part {
                Part::Node(node) => ToHost::Node(node),
                Part::Port(port) => {
                    ports += 1;
                    ToHost::Port(port)
                }
            });
        });
        match loaded {
            Ok(nodes) => {
                let took = mouth.clock.now() - start;
                mouth.piece(&ToHost::Loaded(Loaded { id, slot, nodes, ports, took }));
                if let Some(whole) = mouth.whole_answer() {
                    answers.remember(id, whole);
                }
            }
            Err(trouble) => {
                state.answer(id, &ToHost::Fault { id, code: trouble.code(), text: trouble.text() });
            }
        }
    }

    fn clear(&mut self, id: u32) {
        if self.state.is_repeated(id) {
            return;
        }
        if let Some(runtime) = self.runtime(id) {
            runtime.clear();
            self.state.answer(id, &ToHost::Done { id });
        }
    }

    fn measure(&mut self, id: u32, job: u32, plan: MeasurePlan<'_>) {
        let is_wanted = self.state.wanted.is_some_and(|wanted| wanted.id == id);
        if is_wanted || self.state.is_repeated(id) || self.runtime(id).is_none() {
            return;
        }
        // A host counts its jobs up; one that is not beyond the last was done before.
        if self.state.job.is_some_and(|last| job <= last) {
            return self.state.fault(id, FaultCode::BadRequest, "the job's number was used before");
        }
        if chosen(plan.slots).any(|slot| slot >= self.state.slots) {
            return self.state.fault(id, FaultCode::BadRequest, "this chip has fewer slots, see its welcome");
        }
        let mut slots = [0; MAX_SLOTS / 8];
        for (byte, given) in slots.iter_mut().zip(plan.slots) {
            *byte = *given;
        }
        let MeasurePlan { rounds, warmup, runs, seed, visit_limit, .. } = plan;
        self.state.wanted = Some(Wanted { id, job, slots, rounds, warmup, runs, seed, visit_limit });
    }

    fn infer(&mut self, id: u32, slot: u16, inputs: Digest) {
        if self.state.is_repeated(id) || !self.has_slot(id, slot) || self.runtime(id).is_none() {
            return;
        }
        let (state, Some(runtime)) = (&mut *self.state, &mut self.runtime) else { return };
        let State { mouth, content, host_max_frame, .. } = state;
        let content = match content.content(inputs) {
            Ok(content) => content,
            Err(error) => return state.inbox_fault(id, error),
        };
        let piece = MAX_FRAME.min(*host_max_frame).saturating_sub(ENVELOPE).max(1);
        let mut offset = 0;
        let done = runtime.infer(slot, content, &mut |bytes| {
            for data in bytes.chunks(piece) {
                mouth.say(&ToHost::Output { id, offset, data });
                offset += data.len() as u64;
            }
        });
        // Outputs are not kept: asked again, they are computed again.
        match done {
            Ok(()) => {
                // The empty piece at the end tells the length.
                mouth.say(&ToHost::Output { id, offset, data: &[] });
                mouth.say(&ToHost::Done { id });
            }
            Err(trouble) => mouth.say(&ToHost::Fault { id, code: trouble.code(), text: trouble.text() }),
        }
    }

    fn stop(&mut self, id: u32, job: u32) {
        if self.state.is_repeated(id) {
            return;
        }
        if self.state.job != Some(job) {
            let text = "there is no such job";
            return self.state.answer(id, &ToHost::Fault { id, code: FaultCode::BadRequest, text });
        }
        self.state.stop = true;
        self.state.answer(id, &ToHost::Done { id });
    }

    fn ack(&mut self, job: u32, next: u32) {
        if self.state.job == Some(job) {
            self.state.blocks.acknowledge(next);
        }
    }

    fn resume(&mut self, job: u32, next: u32) {
        if self.state.job == Some(job) {
            // What a host does not ask for, it has: an acknowledgement that was lost is made up for.
            let State { mouth, blocks, .. } = &mut *self.state;
            blocks.acknowledge(next);
            blocks.resume(next, |frame| mouth.send(frame));
        }
    }

    fn bye(&mut self) {
        self.end();
    }
}
