//! A session with an agent: requests and answers, repeated and resumed where the link loses them.
//!
//! The session's number outlives the link. After a lost link the same number finds slots and jobs on
//! the agent as they were; every request is idempotent, so it is simply asked again.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use hanas_proto::chip::Elements;
use hanas_proto::endpoints::{ToAgent, ToHost};
use hanas_proto::fault::FaultCode;
use hanas_proto::frame::{self, CRC_BYTES, Deframer, HANDSHAKE_PAYLOAD, Step, framed_len};
use hanas_proto::handshake::{DIALECT, Hello, MAGIC, ModelForm, RefusalReason};
use hanas_proto::measure::LoadOptions;
use hanas_proto::{Digest, Nanos};

use super::probe::{Chip, Start};
use super::stream::Stream;
use super::{DeviceUrl, Facts, LinkError};

/// Longest payload this side takes.
pub(crate) const MAX_FRAME: usize = (1 << 16) + 256;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For the link to open and the agent to say welcome.
    pub connect: Duration,
    /// For another session to leave the device.
    pub queue: Duration,
    /// For one request (a load, an inference, one visit's runs).
    pub run: Duration,
    /// For any sign of life, heartbeats included.
    pub idle: Duration,
    /// For a lost link to come back.
    pub reconnect: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            queue: Duration::from_secs(600),
            run: Duration::from_secs(300),
            idle: Duration::from_secs(10),
            reconnect: Duration::from_secs(20),
        }
    }
}

/// A request unanswered for this long is asked again, where the link itself takes no time: the frame may
/// have been lost.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Later waits double up to this: the agent may just be busy.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Bytes that may be on their way before a request and its answer.
const ON_THE_WAY: u32 = 2048;

/// When to ask again. Heartbeats come all the while, so it is not silence that tells of a loss.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    first: Duration,
    wait: Duration,
    since: Instant,
}

impl Patience {
    /// Begins to wait.
    pub(super) fn new(url: &DeviceUrl) -> Self {
        let first = match url {
            // A serial byte takes ten bits.
            DeviceUrl::Serial { baud, .. } => FIRST_WAIT + Duration::from_secs(10) * ON_THE_WAY / *baud,
            _ => FIRST_WAIT,
        };
        Self { first, wait: first, since: Instant::now() }
    }

    /// Something came: begins anew.
    pub(super) fn renew(&mut self) {
        (self.wait, self.since) = (self.first, Instant::now());
    }

    /// Whether to ask again now; the next wait is longer.
    pub(super) fn is_over(&mut self) -> bool {
        let over = self.since.elapsed() >= self.wait;
        if over {
            (self.wait, self.since) = ((2 * self.wait).min(LONGEST_WAIT.max(self.first)), Instant::now());
        }
        over
    }

    /// Time until then.
    pub(super) fn left(&self) -> Duration {
        self.wait.saturating_sub(self.since.elapsed())
    }
}

/// One operator of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName {
    /// Its name in the optimised graph.
    pub name: String,
    /// Its kind.
    pub op: String,
}

/// One input or output of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFact {
    /// Input or output.
    pub is_input: bool,
    /// Name in the graph.
    pub name: String,
    /// Element type and dimensions.
    pub fact: String,
}

/// A model ready to run in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedModel {
    /// Operators in execution order.
    pub nodes: Vec<NodeName>,
    /// Inputs and outputs.
    pub ports: Vec<PortFact>,
    /// Time from bytes to ready, on the device.
    pub took: Nanos,
}

/// What a wait is for a person who watches: told once a second at most.
pub type OnQueued = Box<dyn FnMut(u16) + Send>;

/// An open session.
pub struct Session {
    pub(super) url: DeviceUrl,
    pub(super) timeouts: Timeouts,
    stream: Stream,
    deframer: Deframer<Vec<u8>>,
    inbox: Vec<u8>,
    unread: std::ops::Range<usize>,
    scratch: Vec<u8>,
    outbox: Vec<u8>,
    number: u64,
    next_id: u32,
    pub(super) next_job: u32,
    facts: Facts,
    limits: Limits,
    /// Bytes that each of a chip's slots holds.
    pub(super) chip_slots: BTreeMap<u16, u64>,
    damaged_frames: u64,
    received: u64,
    last_heard: Instant,
    on_queued: Option<OnQueued>,
}

/// What the agent takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest payload, in bytes.
    pub max_frame: usize,
    /// Chunks before its answer should be read.
    pub window: u16,
    /// Largest content, in bytes.
    pub max_blob: u64,
    /// Slots.
    pub slots: u16,
    /// Form in which it takes models.
    pub form: ModelForm,
}

/// What a handler makes of one message.
pub(super) enum Heard<T> {
    /// What was waited for.
    Answer(T),
    /// Of no interest here.
    Other,
    /// A sign that the request is being worked on: the clock starts anew.
    Progress,
}

impl Session {
    /// Opens the link and the session.
    ///
    /// # Errors
    /// [`LinkError`]: unreachable, no agent, another protocol.
    pub fn open(url: &DeviceUrl, timeouts: Timeouts) -> Result<Self, LinkError> {
        // The standard library's hasher keys are the system's randomness.
        let number = RandomState::new().build_hasher().finish();
        let mut session = Self {
            url: url.clone(),
            timeouts,
            stream: dial(url, timeouts.connect, Start::AsItIs)?,
            deframer: Deframer::new(vec![0; framed_len(MAX_FRAME)]),
            inbox: vec![0; 1 << 17],
            unread: 0..0,
            scratch: vec![0; HANDSHAKE_PAYLOAD + CRC_BYTES],
            outbox: vec![0; framed_len(HANDSHAKE_PAYLOAD)],
            number,
            next_id: 1,
            next_job: 1,
            facts: Facts::default(),
            limits: Limits {
                max_frame: HANDSHAKE_PAYLOAD,
                window: 1,
                max_blob: 0,
                slots: 0,
                form: ModelForm::Onnx,
            },
            chip_slots: BTreeMap::new(),
            damaged_frames: 0,
            received: 0,
            last_heard: Instant::now(),
            on_queued: None,
        };
        match session.greet(timeouts.connect) {
            // A chip that hangs does not end its link.
            Err(LinkError::NoAgent { .. } | LinkError::Gone { .. }) if url.is_probe() => {
                session.redial(Start::Reset)?;
                session.greet(timeouts.connect)?;
            }
            greeted => {
                greeted?;
            }
        }
        Ok(session)
    }

    /// The device.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What the agent takes.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// The address.
    #[must_use]
    pub const fn url(&self) -> &DeviceUrl {
        &self.url
    }

    /// Frames that arrived damaged so far; each was made up for.
    #[must_use]
    pub const fn damaged_frames(&self) -> u64 {
        self.damaged_frames
    }

    /// Bytes that came from the agent so far, framing included.
    #[must_use]
    pub const fn received_bytes(&self) -> u64 {
        self.received
    }

    /// Called with the number of sessions ahead while another holds the device.
    pub fn when_queued(&mut self, tell: impl FnMut(u16) + Send + 'static) {
        self.on_queued = Some(Box::new(tell));
    }

    /// Time for a message there and back.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn ping(&mut self) -> Result<Duration, LinkError> {
        let id = self.id();
        let start = Instant::now();
        self.ask(id, &ToAgent::Ping { id }, |message| match message {
            ToHost::Pong { id: got } if got == id => Ok(Heard::Answer(())),
            _ => Ok(Heard::Other),
        })?;
        Ok(start.elapsed())
    }

    /// Empties all slots.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn clear(&mut self) -> Result<(), LinkError> {
        let id = self.id();
        self.ask(id, &ToAgent::Clear { id }, done(id))?;
        self.chip_slots.clear();
        Ok(())
    }

    /// Makes content that the agent holds a model in a slot.
    ///
    /// # Errors
    /// [`LinkError::Fault`] with the agent's reason, or a failing link.
    pub fn load(
        &mut self,
        slot: u16,
        digest: Digest,
        options: LoadOptions,
    ) -> Result<LoadedModel, LinkError> {
        let id = self.id();
        let mut nodes: Vec<(u16, NodeName)> = Vec::new();
        let mut ports: Vec<PortFact> = Vec::new();
        let loaded = self.ask(id, &ToAgent::Load { id, slot, digest, options }, |message| {
            Ok(match message {
                ToHost::Node(node) if node.id == id => {
                    if nodes.iter().all(|(index, _)| *index != node.index) {
                        let name = NodeName { name: node.name.to_owned(), op: node.op.to_owned() };
                        nodes.push((node.index, name));
                    }
                    Heard::Progress
                }
                ToHost::Port(port) if port.id == id => {
                    let fact = PortFact {
                        is_input: port.is_input,
                        name: port.name.to_owned(),
                        fact: port.fact.to_owned(),
                    };
                    if !ports.contains(&fact) {
                        ports.push(fact);
                    }
                    Heard::Progress
                }
                ToHost::Loaded(loaded) if loaded.id == id => Heard::Answer(loaded.took),
                _ => Heard::Other,
            })
        })?;
        nodes.sort_by_key(|(index, _)| *index);
        let nodes = nodes.into_iter().map(|(_, name)| name).collect();
        Ok(LoadedModel { nodes, ports, took: loaded })
    }

    /// Runs a slot once on content that the agent holds (see [`ToAgent::Infer`]); the outputs' raw bytes.
    ///
    /// # Errors
    /// [`LinkError::Fault`] with the agent's reason, or a failing link.
    pub fn infer(&mut self, slot: u16, inputs: Digest) -> Result<Vec<u8>, LinkError> {
        let id = self.id();
        let mut output: Vec<u8> = Vec::new();
        // A piece may be lost, and then the end comes early: the request is asked again, and its
        // pieces come again from the first.
        let mut gap = false;
        loop {
            self.ask(id, &ToAgent::Infer { id, slot, inputs }, |message| {
                Ok(match message {
                    ToHost::Output { id: got, offset, data } if got == id => {
                        if offset == 0 {
                            output.clear();
                            gap = false;
                        }
                        if offset == output.len() as u64 {
                            output.extend_from_slice(data);
                        } else {
                            gap = true;
                        }
                        Heard::Progress
                    }
                    ToHost::Done { id: got } if got == id => Heard::Answer(()),
                    _ => Heard::Other,
                })
            })?;
            if !gap {
                return Ok(output);
            }
        }
    }

    /// A number for the next request.
    pub(super) const fn id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        id
    }

    /// Sends a request and hears messages until it is answered; asks again where the answer stays away
    /// and over a new link where the link is lost.
    pub(super) fn ask<T>(
        &mut self,
        id: u32,
        request: &ToAgent<'_>,
        mut hear: impl FnMut(ToHost<'_>) -> Result<Heard<T>, LinkError>,
    ) -> Result<T, LinkError> {
        let start = Instant::now();
        let mut progress = start;
        let mut patience = Patience::new(&self.url);
        let mut queued = false;
        self.send(request)?;
        loop {
            let limit = if queued { self.timeouts.queue } else { self.timeouts.run };
            if progress.elapsed() > limit {
                return Err(self.too_long(queued, start.elapsed()));
            }
            let mut ahead = None;
            let heard = self.hear(patience.left(), |message| match message {
                ToHost::Fault { id: got, code, text } if got == id => {
                    Err(LinkError::Fault { code, text: text.to_owned() })
                }
                ToHost::Queued { id: got, ahead: sessions } if got == id => {
                    ahead = Some(sessions);
                    Ok(Heard::Other)
                }
                other => hear(other),
            });
            match heard {
                Ok(Some(Heard::Answer(answer))) => return Ok(answer),
                Ok(Some(Heard::Progress)) => {
                    progress = Instant::now();
                    patience.renew();
                }
                Ok(Some(Heard::Other) | None) => {}
                Err(LinkError::Gone { reason, .. }) => {
                    self.reconnect(&reason)?;
                    self.send(request)?;
                    patience.renew();
                }
                Err(error) => return Err(error),
            }
            if let Some(ahead) = ahead {
                queued = true;
                if let Some(tell) = &mut self.on_queued {
                    tell(ahead);
                }
            }
            if patience.is_over() {
                self.send(request)?;
            }
        }
    }

    fn too_long(&self, queued: bool, waited: Duration) -> LinkError {
        let url = self.url.to_string();
        if queued {
            LinkError::Busy { url, waited }
        } else {
            LinkError::TimedOut { url, limit: self.timeouts.run }
        }
    }

    /// Sends one message. A link that fails here fails at the next read, where it is mended.
    pub(super) fn send(&mut self, message: &ToAgent<'_>) -> Result<(), LinkError> {
        let bytes = frame::encode(message, &mut self.scratch, &mut self.outbox)?;
        let _ = self.stream.write_all(bytes);
        Ok(())
    }

    /// Hears the next whole message, waiting at most `wait` for a byte; `None` where none came.
    ///
    /// # Errors
    /// [`LinkError::Gone`] where the link is lost or silent beyond `timeouts.idle`; what `hear` says.
    pub(super) fn hear<T>(
        &mut self,
        wait: Duration,
        mut hear: impl FnMut(ToHost<'_>) -> Result<Heard<T>, LinkError>,
    ) -> Result<Option<Heard<T>>, LinkError> {
        loop {
            while !self.unread.is_empty() {
                let (taken, step) = self.deframer.feed(&self.inbox[self.unread.clone()]);
                self.unread.start += taken;
                match step {
                    Step::Incomplete => {}
                    Step::Broken(_) => self.damaged_frames += 1,
                    Step::Frame(payload) => match frame::decode::<ToHost<'_>>(payload) {
                        Ok(message) => {
                            self.last_heard = Instant::now();
                            return hear(message).map(Some);
                        }
                        Err(_) => self.damaged_frames += 1,
                    },
                }
            }
            match self.stream.read(&mut self.inbox, wait) {
                Ok(0) if self.last_heard.elapsed() < self.timeouts.idle => return Ok(None),
                // An agent that lives sends a heartbeat every second, busy or not.
                Ok(0) => return Err(self.gone(format!("silent for {:?}", self.timeouts.idle))),
                Ok(read) => {
                    self.received += read as u64;
                    self.unread = 0..read;
                }
                Err(error) => return Err(self.gone(error.to_string())),
            }
        }
    }

    pub(super) fn gone(&self, reason: String) -> LinkError {
        LinkError::Gone { url: self.url.to_string(), reason }
    }

    /// Opens the link anew and resumes the session.
    ///
    /// # Errors
    /// [`LinkError::Gone`] where the link does not come back in time, [`LinkError::Restarted`] where the
    /// agent no longer knows the session.
    pub(super) fn reconnect(&mut self, reason: &str) -> Result<(), LinkError> {
        if self.url.is_child() {
            return Err(self.gone(reason.to_owned()));
        }
        let begun = Instant::now();
        let mut start = Start::AsItIs;
        loop {
            // A chip that does not answer over a fresh link hangs: the second time it is reset.
            if self.redial(start).is_ok() {
                start = Start::Reset;
                match self.greet(self.timeouts.connect) {
                    Ok(true) => return Ok(()),
                    Ok(false) => return Err(LinkError::Restarted { url: self.url.to_string() }),
                    Err(error @ (LinkError::Dialect { .. } | LinkError::NotPaired { .. })) => {
                        return Err(error);
                    }
                    Err(_) => {}
                }
            }
            if begun.elapsed() > self.timeouts.reconnect {
                return Err(self.gone(reason.to_owned()));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Opens the link anew.
    fn redial(&mut self, start: Start) -> Result<(), LinkError> {
        // A probe serves one link at a time: the old one ends first.
        self.stream.close();
        self.stream = dial(&self.url, self.timeouts.connect, start)?;
        self.deframer = Deframer::new(vec![0; framed_len(MAX_FRAME)]);
        self.unread = 0..0;
        Ok(())
    }

    /// A chip's latencies depend on what it computes in, which is the host's to choose: it is told with
    /// the runtime, so that profiles of either kind are kept apart.
    fn note_elements(&mut self, form: ModelForm) {
        if form == ModelForm::Chip {
            let kind = match self.url.elements() {
                Elements::F32 => "f32",
                Elements::I8 => "int8",
            };
            self.facts.runtime = format!("{} {kind}", self.facts.runtime);
        }
    }

    /// Says hello until welcomed; whether the agent knew the session.
    fn greet(&mut self, limit: Duration) -> Result<bool, LinkError> {
        let start = Instant::now();
        self.last_heard = start;
        let host = format!("hanas {}", env!("CARGO_PKG_VERSION"));
        let hello = Hello {
            magic: MAGIC,
            dialect: DIALECT,
            session: self.number,
            max_frame: MAX_FRAME as u32,
            host: &host,
        };
        while start.elapsed() < limit {
            // A flush mark first: a serial receiver may hold half a frame of an earlier host.
            let _ = self.stream.write_all(&[0]);
            self.send(&ToAgent::Hello(hello))?;
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_secs(1) {
                let url = self.url.to_string();
                let heard = self.hear(Duration::from_millis(250), |message| match message {
                    ToHost::Welcome(welcome) if welcome.dialect == DIALECT => {
                        let limits = Limits {
                            max_frame: (welcome.max_frame as usize).min(1 << 20),
                            window: welcome.window.max(1),
                            max_blob: welcome.max_blob,
                            slots: welcome.slots,
                            form: welcome.device.form,
                        };
                        Ok(Heard::Answer((Facts::from(welcome.device), limits, welcome.resumed)))
                    }
                    ToHost::Welcome(welcome) => Err(LinkError::Dialect {
                        theirs: welcome.dialect,
                        agent: welcome.device.agent.to_owned(),
                    }),
                    ToHost::Refused(refusal) => Err(match refusal.reason {
                        RefusalReason::Dialect => {
                            LinkError::Dialect { theirs: refusal.dialect, agent: refusal.agent.to_owned() }
                        }
                        RefusalReason::NotPaired => LinkError::NotPaired { url: url.clone() },
                    }),
                    _ => Ok(Heard::Other),
                })?;
                if let Some(Heard::Answer((facts, limits, resumed))) = heard {
                    self.facts = facts;
                    self.note_elements(limits.form);
                    self.limits = limits;
                    self.scratch.resize(limits.max_frame + CRC_BYTES, 0);
                    self.outbox.resize(framed_len(limits.max_frame), 0);
                    return Ok(resumed);
                }
            }
        }
        Err(LinkError::NoAgent { url: self.url.to_string() })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.send(&ToAgent::Bye);
    }
}

/// Hears until `Done` for `id`.
pub(super) fn done(id: u32) -> impl FnMut(ToHost<'_>) -> Result<Heard<()>, LinkError> {
    move |message| match message {
        ToHost::Done { id: got } if got == id => Ok(Heard::Answer(())),
        _ => Ok(Heard::Other),
    }
}

/// Whether a fault says that the model, and not the link or the agent, is to blame.
#[must_use]
pub const fn blames_the_model(code: FaultCode) -> bool {
    matches!(
        code,
        FaultCode::NotAModel
            | FaultCode::Unsupported
            | FaultCode::RunFailed
            | FaultCode::TooLarge
            | FaultCode::WorkerDied
    )
}

fn dial(url: &DeviceUrl, timeout: Duration, start: Start) -> Result<Stream, LinkError> {
    if url.is_probe() {
        return Chip::open(url, start).map(Stream::over);
    }
    Stream::open(url, timeout).map_err(|error| LinkError::Unreachable {
        url: url.to_string(),
        reason: error.to_string(),
        hint: url.start_hint(),
    })
}
