//! One connection's messages: each is answered here or passed on to the supervisor.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use hanas_device_core::dialogue::{self, Agent};
use hanas_proto::fault::FaultCode;
use hanas_proto::handshake::{DIALECT, Hello, MAGIC, Welcome};
use hanas_proto::measure::{LoadOptions, MeasurePlan};
use hanas_proto::{Digest, ToAgent, ToHost};

use crate::blobs::{BlobError, Taken};
use crate::connection::{Framer, MAX_FRAME, Outbox, WINDOW};
use crate::log;
use crate::orders::{Order, put};
use crate::session::{Request, Session, Task};
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
    /// No other message has arrived behind the one that is being done.
    is_last: bool,
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
        let (framer, open) = (Framer::default(), VecDeque::new());
        Self { supervisor, outbox, framer, session: None, open, is_last: true }
    }

    /// Takes one message; `is_last` where no other has arrived behind it.
    pub fn take(&mut self, message: ToAgent<'_>, is_last: bool) {
        self.is_last = is_last;
        dialogue::take(self, message);
    }

    /// Whether the message opens another session than the link's. What was left for that one is dropped then.
    #[must_use]
    pub fn is_new_host(&self, message: &ToAgent<'_>) -> bool {
        let ToAgent::Hello(hello) = message else { return false };
        hello.magic == MAGIC && hello.dialect == DIALECT && self.session != Some(hello.session)
    }

    /// The session's number; requests without a session are turned away before they get here.
    fn number(&self) -> u64 {
        self.session.unwrap_or_default()
    }

    /// Does something with the session, where this is its link.
    fn with_session(&self, act: impl FnOnce(&mut Session)) {
        if let Some(session) = self.supervisor.core().linked(self.number(), &self.outbox) {
            act(session);
        }
    }

    fn submit(&self, id: u32, task: Task, order: &Order<'_>) {
        let request = Request { id, task, order: put(order, Vec::new()) };
        self.supervisor.core().submit(self.number(), request);
    }

    fn is_repeated(&self, id: u32) -> bool {
        self.supervisor.core().is_repeated(self.number(), id)
    }

    fn max_frame(&self) -> u32 {
        self.supervisor.core().sessions.get(&self.number()).map_or(0, |session| session.max_frame)
    }

    fn blobs<T>(
        &self,
        act: impl FnOnce(&mut crate::blobs::Blobs) -> Result<T, BlobError>,
    ) -> Result<T, BlobError> {
        act(&mut self.supervisor.blobs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn fault(&mut self, id: u32, code: FaultCode, text: &str) {
        self.say(&ToHost::Fault { id, code, text });
    }

    fn blob_fault(&mut self, id: u32, error: &BlobError) {
        self.fault(id, error.code(), &error.to_string());
    }
}

impl Agent for Conversation {
    fn say(&mut self, message: &ToHost<'_>) {
        self.outbox.send(self.framer.frame(message));
    }

    fn is_open(&mut self) -> bool {
        self.session.is_some_and(|number| self.supervisor.core().linked(number, &self.outbox).is_some())
    }

    fn greet(&mut self, hello: &Hello<'_>) {
        let host = host_name(hello);
        let outbox = Arc::clone(&self.outbox);
        let peer = &outbox.peer;
        let supervisor = Arc::clone(&self.supervisor);
        let worker = supervisor.core().worker_facts.clone().unwrap_or_default();
        let governor = worker.governor();
        let mut core = supervisor.core();
        // One link carries one host: another session on it means that the old host is gone, and what was left
        // for it would only be in the new one's way.
        if self.session != Some(hello.session) {
            if let Some(old) = self.session.take() {
                core.end_session(old);
            }
            outbox.clear();
        }
        let Some(resumed) = core.greet(hello.session, host.clone(), hello.max_frame, &self.outbox) else {
            drop(core);
            log::line(format_args!("{peer}: {host} turned away: too many sessions"));
            return self.outbox.close();
        };
        self.session = Some(hello.session);
        // Sent under the lock, so that nothing of the session overtakes it.
        self.say(&ToHost::Welcome(Welcome {
            dialect: DIALECT,
            resumed,
            max_frame: MAX_FRAME as u32,
            window: WINDOW,
            max_blob: supervisor.settings.max_model_bytes,
            slots: SLOTS,
            device: supervisor.facts.device(&worker, &governor, supervisor.settings.worker.threads),
        }));
        drop(core);
        let what = if resumed { "resumed" } else { "opened" };
        log::event(format_args!("{peer}: {host} {what} session {:016x}", hello.session));
    }

    fn refused(&mut self, hello: &Hello<'_>) {
        let (peer, host) = (&self.outbox.peer, host_name(hello));
        log::line(format_args!("{peer}: {host} speaks {}, this agent {DIALECT}: refused", hello.dialect));
    }

    fn blob_open(&mut self, id: u32, digest: Digest, size: u64) {
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

    fn blob_chunk(&mut self, id: u32, offset: u64, data: &[u8]) {
        let Some(place) = self.open.iter().position(|open| open.id == id) else {
            return self.fault(id, FaultCode::BadRequest, "a chunk of content that was not announced");
        };
        let digest = self.open[place].digest;
        match self.blobs(|blobs| blobs.chunk(digest, offset, data)) {
            Ok(Taken { held, is_news }) => {
                let unanswered = &mut self.open[place].unanswered;
                *unanswered += 1;
                if is_news || self.is_last || *unanswered >= ANSWER_EVERY {
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

    fn load(&mut self, id: u32, slot: u16, digest: Digest, options: LoadOptions) {
        if slot >= SLOTS {
            return self.fault(id, FaultCode::BadRequest, &format!("there are {SLOTS} slots, from 0"));
        }
        if self.is_repeated(id) {
            return;
        }
        match self.blobs(|blobs| blobs.path(digest)) {
            Ok(path) => {
                let order = Order::Load { id, slot, options, path: &path.to_string_lossy() };
                self.submit(id, Task::Load { slot }, &order);
            }
            Err(error) => self.blob_fault(id, &error),
        }
    }

    fn clear(&mut self, id: u32) {
        self.submit(id, Task::Clear, &Order::Clear { id });
    }

    fn measure(&mut self, id: u32, job: u32, plan: MeasurePlan<'_>) {
        if plan.slots.len() > usize::from(SLOTS) / 8 {
            return self.fault(id, FaultCode::BadRequest, &format!("there are {SLOTS} slots, from 0"));
        }
        let order = Order::Measure { id, job, plan, max_frame: self.max_frame() };
        self.submit(id, Task::Measure { job }, &order);
    }

    fn infer(&mut self, id: u32, slot: u16, inputs: Digest) {
        if self.is_repeated(id) {
            return;
        }
        let max_frame = self.max_frame();
        match self.blobs(|blobs| blobs.path(inputs)) {
            Ok(path) => {
                let order = Order::Infer { id, slot, inputs: &path.to_string_lossy(), max_frame };
                self.submit(id, Task::Infer { slot }, &order);
            }
            Err(error) => self.blob_fault(id, &error),
        }
    }

    fn stop(&mut self, id: u32, job: u32) {
        self.supervisor.core().stop(self.number(), id, job);
    }

    fn ack(&mut self, job: u32, next: u32) {
        self.with_session(|session| session.acknowledge(job, next));
        self.supervisor.notify();
    }

    fn resume(&mut self, job: u32, next: u32) {
        self.with_session(|session| {
            session.resume(job, next);
            session.flush();
        });
    }

    fn bye(&mut self) {
        self.supervisor.core().end_session(self.number());
        self.session = None;
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if let Some(number) = self.session {
            self.supervisor.core().lose(number, &self.outbox);
            log::event(format_args!("{}: gone", self.outbox.peer));
        }
    }
}

/// Who a host says it is, fit for a log.
fn host_name(hello: &Hello<'_>) -> String {
    hello.host.chars().filter(|c| !c.is_control()).take(HOST_NAME).collect()
}
