//! One connection's messages: each is answered here or passed on to the supervisor.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use hanas_proto::fault::FaultCode;
use hanas_proto::handshake::{DIALECT, Hello, MAGIC, Refusal, RefusalReason, Welcome};
use hanas_proto::measure::{LoadOptions, MeasurePlan};
use hanas_proto::{Digest, ToAgent, ToHost};

use crate::blobs::{BlobError, Taken};
use crate::connection::{Framer, MAX_FRAME, Outbox, WINDOW};
use crate::facts::AGENT_VERSION;
use crate::log;
use crate::orders::{Order, put};
use crate::session::{Request, Task};
use crate::supervisor::Supervisor;

/// Slots that the worker has.
pub const SLOTS: u16 = 1024;

/// Announced contents whose numbers are remembered.
const OPEN_BLOBS: usize = 64;

/// Chunks after which a host hears what is held: half the window, so that it never runs dry.
const ANSWER_EVERY: u16 = WINDOW / 2;

/// Bytes of a host's name that are kept.
const HOST_NAME: usize = 64;

/// The agent's side of one connection.
pub struct Conversation {
    supervisor: Arc<Supervisor>,
    outbox: Arc<Outbox>,
    framer: Framer,
    session: Option<u64>,
    open: VecDeque<OpenBlob>,
}

/// Content that a request number stands for.
#[derive(Debug, Clone, Copy)]
struct OpenBlob {
    id: u32,
    digest: Digest,
    unanswered: u16,
}

impl Conversation {
    /// A conversation in which nothing was said yet.
    #[must_use]
    pub fn new(supervisor: Arc<Supervisor>, outbox: Arc<Outbox>) -> Self {
        Self { supervisor, outbox, framer: Framer::default(), session: None, open: VecDeque::new() }
    }

    /// Takes one message; `is_last` where no other has arrived behind it.
    pub fn take(&mut self, message: ToAgent<'_>, is_last: bool) {
        if let ToAgent::Hello(hello) = message {
            return self.greet(&hello);
        }
        let linked =
            self.session.filter(|&number| self.supervisor.core().linked(number, &self.outbox).is_some());
        let Some(number) = linked else {
            // An agent that was started anew knows no sessions: better told than left waiting.
            if let Some(id) = request_id(&message) {
                self.fault(id, FaultCode::BadRequest, "no session is open on this link; say hello first");
            }
            return;
        };
        match message {
            ToAgent::Hello(_) => {}
            ToAgent::Ping { id } => self.say(&ToHost::Pong { id }),
            ToAgent::BlobOpen { id, digest, size } => self.announce(id, digest, size),
            ToAgent::BlobChunk { id, offset, data } => self.chunk(id, offset, data, is_last),
            ToAgent::Load { id, slot, digest, options } => self.load(number, id, slot, digest, options),
            ToAgent::Clear { id } => {
                self.submit(number, id, Task::Clear, &Order::Clear { id });
            }
            ToAgent::Measure { id, job, plan } => self.measure(number, id, job, plan),
            ToAgent::Infer { id, slot, inputs } => self.infer(number, id, slot, inputs),
            ToAgent::Stop { id, job } => self.supervisor.core().stop(number, id, job),
            ToAgent::Ack { job, next } => {
                if let Some(session) = self.supervisor.core().linked(number, &self.outbox) {
                    session.acknowledge(job, next);
                }
                self.supervisor.notify();
            }
            ToAgent::Resume { job, next } => {
                if let Some(session) = self.supervisor.core().linked(number, &self.outbox) {
                    session.resume(job, next);
                    session.flush();
                }
            }
            ToAgent::Bye => {
                self.supervisor.core().end_session(number);
                self.session = None;
            }
        }
    }

    fn greet(&mut self, hello: &Hello<'_>) {
        if hello.magic != MAGIC {
            return;
        }
        let host: String = hello.host.chars().filter(|c| !c.is_control()).take(HOST_NAME).collect();
        let outbox = Arc::clone(&self.outbox);
        let peer = &outbox.peer;
        if hello.dialect != DIALECT {
            log::line(format_args!("{peer}: {host} speaks {}, this agent {DIALECT}: refused", hello.dialect));
            let refusal = Refusal { dialect: DIALECT, agent: AGENT_VERSION, reason: RefusalReason::Dialect };
            return self.say(&ToHost::Refused(refusal));
        }
        let supervisor = Arc::clone(&self.supervisor);
        let mut core = supervisor.core();
        // One link carries one host: another session on it means that the old host is gone.
        if let Some(old) = self.session.take_if(|old| *old != hello.session) {
            core.end_session(old);
        }
        let Some(resumed) = core.greet(hello.session, host.clone(), hello.max_frame, &self.outbox) else {
            drop(core);
            log::line(format_args!("{peer}: {host} turned away: too many sessions"));
            return self.outbox.close();
        };
        self.session = Some(hello.session);
        let worker = core.worker_facts.clone().unwrap_or_default();
        // Sent under the lock, so that nothing of the session overtakes it.
        self.say(&ToHost::Welcome(Welcome {
            dialect: DIALECT,
            resumed,
            max_frame: MAX_FRAME as u32,
            window: WINDOW,
            max_blob: supervisor.settings.max_model_bytes,
            slots: SLOTS,
            device: supervisor.facts.device(&worker, supervisor.settings.worker.threads),
        }));
        drop(core);
        let what = if resumed { "resumed" } else { "opened" };
        log::line(format_args!("{peer}: {host} {what} session {:016x}", hello.session));
    }

    fn announce(&mut self, id: u32, digest: Digest, size: u64) {
        self.open.retain(|open| open.id != id);
        match self.blobs(|blobs| blobs.announce(digest, size)) {
            Ok(held) => {
                if self.open.len() >= OPEN_BLOBS {
                    self.open.pop_front();
                }
                self.open.push_back(OpenBlob { id, digest, unanswered: 0 });
                self.say(&ToHost::BlobHeld { id, held });
            }
            Err(error) => self.blob_fault(id, &error),
        }
    }

    fn chunk(&mut self, id: u32, offset: u64, data: &[u8], is_last: bool) {
        let Some(place) = self.open.iter().position(|open| open.id == id) else {
            return self.fault(id, FaultCode::BadRequest, "a chunk of content that was not announced");
        };
        let digest = self.open[place].digest;
        match self.blobs(|blobs| blobs.chunk(digest, offset, data)) {
            Ok(Taken { held, is_news }) => {
                let unanswered = &mut self.open[place].unanswered;
                *unanswered += 1;
                if is_news || is_last || *unanswered >= ANSWER_EVERY {
                    *unanswered = 0;
                    self.say(&ToHost::BlobHeld { id, held });
                }
            }
            Err(error) => {
                self.open.remove(place);
                self.blob_fault(id, &error);
            }
        }
    }

    fn load(&mut self, number: u64, id: u32, slot: u16, digest: Digest, options: LoadOptions) {
        if slot >= SLOTS {
            return self.fault(id, FaultCode::BadRequest, &format!("there are {SLOTS} slots, from 0"));
        }
        if self.supervisor.core().is_repeated(number, id) {
            return;
        }
        match self.blobs(|blobs| blobs.path(digest)) {
            Ok(path) => {
                let order = Order::Load { id, slot, options, path: &path.to_string_lossy() };
                self.submit(number, id, Task::Load { slot }, &order);
            }
            Err(error) => self.blob_fault(id, &error),
        }
    }

    fn measure(&mut self, number: u64, id: u32, job: u32, plan: MeasurePlan<'_>) {
        if plan.slots.len() > usize::from(SLOTS) / 8 {
            return self.fault(id, FaultCode::BadRequest, &format!("there are {SLOTS} slots, from 0"));
        }
        let max_frame = self.max_frame(number);
        let order = Order::Measure { id, job, plan, max_frame };
        self.submit(number, id, Task::Measure { job }, &order);
    }

    fn infer(&mut self, number: u64, id: u32, slot: u16, inputs: Digest) {
        if self.supervisor.core().is_repeated(number, id) {
            return;
        }
        let max_frame = self.max_frame(number);
        match self.blobs(|blobs| blobs.path(inputs)) {
            Ok(path) => {
                let order = Order::Infer { id, slot, inputs: &path.to_string_lossy(), max_frame };
                self.submit(number, id, Task::Infer { slot }, &order);
            }
            Err(error) => self.blob_fault(id, &error),
        }
    }

    fn submit(&self, number: u64, id: u32, task: Task, order: &Order<'_>) {
        let request = Request { id, task, order: put(order, Vec::new()) };
        self.supervisor.core().submit(number, request);
    }

    fn max_frame(&self, number: u64) -> u32 {
        self.supervisor.core().sessions.get(&number).map_or(0, |session| session.max_frame)
    }

    fn blobs<T>(
        &self,
        act: impl FnOnce(&mut crate::blobs::Blobs) -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        act(&mut self.supervisor.blobs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn say(&mut self, message: &ToHost<'_>) {
        self.outbox.send(self.framer.frame(message));
    }

    fn fault(&mut self, id: u32, code: FaultCode, text: &str) {
        self.say(&ToHost::Fault { id, code, text });
    }

    fn blob_fault(&mut self, id: u32, error: &BlobError) {
        self.fault(id, error.code(), &error.to_string());
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if let Some(number) = self.session {
            self.supervisor.core().lose(number, &self.outbox);
            log::line(format_args!("{}: gone", self.outbox.peer));
        }
    }
}

const fn request_id(message: &ToAgent<'_>) -> Option<u32> {
    match *message {
        ToAgent::Ping { id }
        | ToAgent::BlobOpen { id, .. }
        | ToAgent::BlobChunk { id, .. }
        | ToAgent::Load { id, .. }
        | ToAgent::Clear { id }
        | ToAgent::Measure { id, .. }
        | ToAgent::Stop { id, .. }
        | ToAgent::Infer { id, .. } => Some(id),
        ToAgent::Hello(_) | ToAgent::Ack { .. } | ToAgent::Resume { .. } | ToAgent::Bye => None,
    }
}
