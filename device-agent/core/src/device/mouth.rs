//! Messages -> frames on the link, within a time.

use hanas_proto::ToHost;
use hanas_proto::frame::{CRC_BYTES, encode, framed_len};
use hanas_proto::units::Nanos;

use super::MAX_FRAME;
use crate::{Clock, Link};

/// A link on which nothing was sent for this long gets a heartbeat.
const HEARTBEAT: Nanos = Nanos(1_000_000_000);

/// A link that takes nothing for this long has nobody at its end: the rest of the frame is dropped, and
/// a host that comes back asks again.
const UNHEARD: Nanos = Nanos(500_000_000);

/// Bytes of one answer that are kept to be given again.
const ANSWER: usize = 1024;

/// The sending side.
pub(super) struct Mouth<C, L> {
    pub(super) clock: C,
    pub(super) link: L,
    scratch: [u8; MAX_FRAME + CRC_BYTES],
    out: [u8; framed_len(MAX_FRAME)],
    framed: usize,
    answer: [u8; ANSWER],
    answered: usize,
    last_sent: Nanos,
}

impl<C: Clock, L: Link> Mouth<C, L> {
    pub(super) const fn new(clock: C, link: L) -> Self {
        Self {
            clock,
            link,
            scratch: [0; _],
            out: [0; _],
            framed: 0,
            answer: [0; _],
            answered: 0,
            last_sent: Nanos(0),
        }
    }

    /// The frame of a message, kept for [`send_framed`](Self::send_framed); empty where it is too long,
    /// which no message that a device makes is.
    pub(super) fn frame(&mut self, message: &ToHost<'_>) -> &[u8] {
        self.framed = encode(message, &mut self.scratch, &mut self.out).map_or(0, <[u8]>::len);
        &self.out[..self.framed]
    }

    /// Sends what was framed last.
    pub(super) fn send_framed(&mut self) {
        let Self { clock, link, out, framed, last_sent, .. } = self;
        send(clock, link, &out[..*framed]);
        *last_sent = clock.now();
    }

    /// Sends frames as they are.
    pub(super) fn send(&mut self, frames: &[u8]) {
        send(&mut self.clock, &mut self.link, frames);
        self.last_sent = self.clock.now();
    }

    /// Sends one message.
    pub(super) fn say(&mut self, message: &ToHost<'_>) {
        self.frame(message);
        self.send_framed();
    }

    /// Begins an answer in pieces.
    pub(super) const fn begin_answer(&mut self) {
        self.answered = 0;
    }

    /// Sends a piece of the answer.
    pub(super) fn piece(&mut self, message: &ToHost<'_>) {
        self.say(message);
        let frame = &self.out[..self.framed];
        if let Some(room) = self.answer.get_mut(self.answered..self.answered + frame.len()) {
            room.copy_from_slice(frame);
        }
        // Beyond the storage's length it says that the answer is not whole.
        self.answered += frame.len();
    }

    /// The answer so far, where it is whole.
    pub(super) fn whole_answer(&self) -> Option<&[u8]> {
        self.answer.get(..self.answered)
    }

    /// Says that the device lives, where nothing else did for a while.
    pub(super) fn heartbeat(&mut self) {
        let now = self.clock.now();
        if now - self.last_sent >= HEARTBEAT {
            self.say(&ToHost::Heartbeat { uptime_ms: now.0 / 1_000_000 });
        }
    }
}

fn send<C: Clock, L: Link>(clock: &mut C, link: &mut L, mut bytes: &[u8]) {
    let mut since = clock.now();
    while !bytes.is_empty() {
        let taken = link.write(bytes).min(bytes.len());
        bytes = &bytes[taken..];
        let now = clock.now();
        if taken > 0 {
            since = now;
        } else if now - since >= UNHEARD {
            return;
        }
    }
}
