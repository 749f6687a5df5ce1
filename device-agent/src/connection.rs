//! Frames over a link: bytes in -> messages; messages -> bytes out.
//!
//! A thread per connection reads. Writing goes through an [`Outbox`], which never blocks who sends: a
//! socket takes what it can at once, the rest is left to the connection's own writer thread.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hanas_proto::frame::{CRC_BYTES, Deframer, FrameError, Step, decode, encode, framed_len};
use hanas_proto::{ToAgent, ToHost};
use rustix::net::{SendFlags, Shutdown};

use crate::conversation::Conversation;
use crate::link::Link;
use crate::log;
use crate::supervisor::Supervisor;

/// Longest payload the agent takes: a chunk of 64 KiB and its envelope.
pub const MAX_FRAME: usize = 66 * 1024;

/// Chunks that a host may have under way.
pub const WINDOW: u16 = 16;

/// Bytes in an outbox beyond which who fills it has to wait.
pub const HIGH_WATER: usize = 1 << 20;

/// Bytes that the writer thread takes at a time: what it has taken, a new host on the link has to wait for.
const PIECE: usize = 4096;

/// Connections served at once; each has threads and buffers.
const MAX_CONNECTIONS: usize = 128;

/// Bytes asked of a link at a time: some chunks, so that a fast link costs few calls.
const READ_BYTES: usize = 256 * 1024;

/// Turns messages into frames, in storage of its own.
#[derive(Debug)]
pub struct Framer {
    scratch: Vec<u8>,
    out: Vec<u8>,
}

impl Default for Framer {
    fn default() -> Self {
        Self { scratch: vec![0; MAX_FRAME + CRC_BYTES], out: vec![0; framed_len(MAX_FRAME)] }
    }
}

impl Framer {
    /// The frame of `message`; empty where it is longer than [`MAX_FRAME`], which no message that the
    /// agent makes is: texts are cut and series are split before.
    pub fn frame(&mut self, message: &ToHost<'_>) -> &[u8] {
        encode(message, &mut self.scratch, &mut self.out).unwrap_or_default()
    }
}

/// What waits to be written to one host.
#[derive(Debug)]
pub struct Outbox {
    pending: Mutex<Pending>,
    changed: Condvar,
    socket: Option<OwnedFd>,
    /// Who is there, for the log.
    pub peer: String,
}

#[derive(Debug)]
struct Pending {
    bytes: VecDeque<u8>,
    /// The writer thread is at it; nobody may overtake it.
    writing: bool,
    closed: bool,
    last_sent: Instant,
}

impl Outbox {
    /// An empty one for a stream that may be a socket.
    #[must_use]
    pub fn new(socket: Option<OwnedFd>, peer: String) -> Self {
        let (bytes, last_sent) = (VecDeque::new(), Instant::now());
        let pending = Pending { bytes, writing: false, closed: false, last_sent };
        Self { pending: Mutex::new(pending), changed: Condvar::new(), socket, peer }
    }

    /// Adds frames to be sent with the next [`flush`](Self::flush).
    pub fn push(&self, frames: &[u8]) {
        let mut pending = self.pending();
        if !pending.closed {
            pending.bytes.extend(frames);
        }
    }

    /// Drops what waits to be sent.
    pub fn clear(&self) {
        let mut pending = self.pending();
        if !pending.bytes.is_empty() {
            pending.bytes.clear();
            // What was sent of it may end within a frame, which this ends.
            pending.bytes.push_back(0);
        }
        self.changed.notify_all();
    }

    /// Sends what is there, without blocking.
    pub fn flush(&self) {
        let mut pending = self.pending();
        if pending.bytes.is_empty() || pending.closed {
            return;
        }
        pending.last_sent = Instant::now();
        if let Some(socket) = &self.socket
            && !pending.writing
        {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            // An error shows again in the reader or the writer thread, which end the connection.
            let sent = rustix::net::send(socket, pending.bytes.as_slices().0, flags).unwrap_or(0);
            pending.bytes.drain(..sent);
        }
        if !pending.bytes.is_empty() {
            self.changed.notify_all();
        }
    }

    /// Adds frames and sends them.
    pub fn send(&self, frames: &[u8]) {
        self.push(frames);
        self.flush();
    }

    /// Whether more waits than should be added to.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let pending = self.pending();
        pending.bytes.len() > HIGH_WATER && !pending.closed
    }

    /// Waits until there is room, or the connection is closed.
    pub fn wait_for_room(&self) {
        let mut pending = self.pending();
        while pending.bytes.len() > HIGH_WATER && !pending.closed {
            pending = self.changed.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How long nothing has been sent.
    #[must_use]
    pub fn quiet_for(&self) -> Duration {
        self.pending().last_sent.elapsed()
    }

    /// Ends the connection: nothing more is sent, and a socket's reader finds the end.
    pub fn close(&self) {
        let mut pending = self.pending();
        pending.closed = true;
        pending.bytes = VecDeque::new();
        if let Some(socket) = &self.socket {
            // Fails only where the other side was first.
            rustix::net::shutdown(socket, Shutdown::Both).ok();
        }
        self.changed.notify_all();
    }

    /// The writer thread: writes what could not be sent at once, until closed or the link fails.
    fn write_to(&self, writer: &mut dyn Write) {
        loop {
            let piece: Vec<u8> = {
                let mut pending = self.pending();
                while pending.bytes.is_empty() && !pending.closed {
                    pending = self.changed.wait(pending).unwrap_or_else(PoisonError::into_inner);
                }
                if pending.closed {
                    return;
                }
                pending.writing = true;
                let length = pending.bytes.len().min(PIECE);
                pending.bytes.drain(..length).collect()
            };
            let written = writer.write_all(&piece).and_then(|()| writer.flush());
            self.pending().writing = false;
            self.changed.notify_all();
            if written.is_err() {
                self.close();
            }
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Talks with one host until it is gone; with one too many, not at all.
pub fn serve(link: Link, supervisor: &Arc<Supervisor>) {
    if supervisor.connections.fetch_add(1, Ordering::Relaxed) < MAX_CONNECTIONS {
        talk(link, supervisor);
    } else {
        log::line(format_args!("{}: turned away: too many connections", link.peer));
    }
    supervisor.connections.fetch_sub(1, Ordering::Relaxed);
}

fn talk(link: Link, supervisor: &Arc<Supervisor>) {
    let Link { mut reader, mut writer, socket, peer } = link;
    let outbox = Arc::new(Outbox::new(socket, peer));
    let writing = {
        let outbox = Arc::clone(&outbox);
        thread::spawn(move || outbox.write_to(&mut *writer))
    };
    let mut conversation = Conversation::new(Arc::clone(supervisor), Arc::clone(&outbox));
    let mut deframer = Deframer::new(vec![0; framed_len(MAX_FRAME)]);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => feed(&mut deframer, &buffer[..read], &mut conversation, &outbox),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    drop(conversation);
    outbox.close();
    writing.join().ok();
}

fn feed(
    deframer: &mut Deframer<Vec<u8>>,
    mut bytes: &[u8],
    conversation: &mut Conversation,
    outbox: &Outbox,
) {
    while !bytes.is_empty() {
        let (taken, step) = deframer.feed(bytes);
        bytes = &bytes[taken..];
        // Noise, a cut frame, another protocol's message: the host asks again.
        if let Step::Frame(payload) = step
            && let Ok(message) = message(payload)
        {
            // A host that asks faster than it listens is heard no further. A new one does not wait for what
            // was meant for the one before it.
            if !conversation.is_new_host(&message) {
                outbox.wait_for_room();
            }
            conversation.take(message, bytes.is_empty());
        }
    }
}

fn message(payload: &[u8]) -> Result<ToAgent<'_>, FrameError> {
    decode(payload)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Hands on each piece that it is given, when the test takes it.
    struct Line(mpsc::SyncSender<Vec<u8>>);

    impl Write for Line {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_new_host_on_a_slow_line_waits_for_little_of_what_the_one_before_left() {
        let outbox = Arc::new(Outbox::new(None, String::new()));
        let (line, other_end) = mpsc::sync_channel(0);
        let writing = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || outbox.write_to(&mut Line(line)))
        };
        outbox.send(&vec![7; HIGH_WATER]);
        assert_eq!(other_end.recv().unwrap(), [7; PIECE]);
        outbox.clear();
        outbox.send(b"welcome\0");
        let mut heard: Vec<u8> = Vec::new();
        while !heard.ends_with(b"welcome\0") {
            heard.extend(other_end.recv().unwrap());
        }
        let (old, new) = heard.split_at(heard.len() - b"\0welcome\0".len());
        assert_eq!(new, b"\0welcome\0", "the frame that was cut is ended");
        assert!(old.len() <= PIECE && old.iter().all(|&byte| byte == 7), "{} bytes", old.len());
        outbox.close();
        drop(other_end);
        writing.join().unwrap();
    }
}
