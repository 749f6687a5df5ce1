//! A session with an agent: requests and answers, repeated and resumed where the link loses them.
//!
//! The session's number outlives the link. After a lost link the same number finds slots and jobs on
//! the agent as they were; every request is idempotent, so it is simply asked again.
//!
//! - [`greeting`]: a link's beginning, and its beginning anew;
//! - [`patience`]: how long to wait for what;
//! - [`requests`]: what is asked beside measuring.

mod greeting;
mod patience;
mod requests;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use hanas_proto::endpoints::{ToAgent, ToHost};
use hanas_proto::fault::FaultCode;
use hanas_proto::frame::{self, CRC_BYTES, Deframer, HANDSHAKE_PAYLOAD, Step, framed_len};
use hanas_proto::handshake::ModelForm;

use self::greeting::dial;
pub(super) use self::patience::Patience;
pub use self::patience::Timeouts;
pub(super) use self::requests::done;
pub use self::requests::{LoadedModel, NodeName, PortFact, blames_the_model};
use super::probe::Start;
use super::stream::Stream;
use super::{DeviceUrl, Facts, LinkError};

/// Longest payload this side takes.
pub(crate) const MAX_FRAME: usize = (1 << 16) + 256;

/// What a wait is for a person who watches: told once a second at most.
pub type OnQueued = Box<dyn FnMut(u16) + Send>;

/// A child that ended with the user's Ctrl-C may be seen before the Ctrl-C itself, by no more than this.
const ASKED_WAIT: Duration = Duration::from_millis(200);

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
    asked_to_end: Option<fn() -> bool>,
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
        let timeouts = timeouts.at(url);
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
            asked_to_end: None,
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

    /// `asked` tells whether the user wants the program to end: a link that is lost is not waited for then.
    pub const fn when_asked_to_end(&mut self, asked: fn() -> bool) {
        self.asked_to_end = Some(asked);
    }

    /// Whether the user wants the program to end.
    pub(super) fn is_to_end(&self) -> bool {
        self.asked_to_end.is_some_and(|asked| asked())
    }

    /// Whether a link that was lost is so because the user wants the program to end: a terminal's Ctrl-C
    /// reaches the command of `exec:` as well.
    #[must_use]
    pub fn was_to_end(&self) -> bool {
        let lost = Instant::now();
        while self.url.is_child() && !self.is_to_end() && lost.elapsed() < ASKED_WAIT {
            thread::sleep(Duration::from_millis(10));
        }
        self.is_to_end()
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
                Err(LinkError::Fault { code: FaultCode::NoSession, .. }) => {
                    self.resume_session()?;
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

    /// Hears the next whole message, waiting at most `wait` for it; `None` where none came.
    ///
    /// # Errors
    /// [`LinkError::Gone`] where the link is lost or silent beyond `timeouts.idle`; what `hear` says.
    pub(super) fn hear<T>(
        &mut self,
        wait: Duration,
        mut hear: impl FnMut(ToHost<'_>) -> Result<Heard<T>, LinkError>,
    ) -> Result<Option<Heard<T>>, LinkError> {
        let begun = Instant::now();
        let mut looked = false;
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
            // Bytes that make no message are as good as none: a port may chatter for ever.
            let left = wait.saturating_sub(begun.elapsed());
            let read = if looked && left.is_zero() { Ok(0) } else { self.stream.read(&mut self.inbox, left) };
            looked = true;
            match read {
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
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.send(&ToAgent::Bye);
    }
}
