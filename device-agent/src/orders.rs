//! The pipe between supervisor and worker.
//!
//! ```text
//! message = length payload     length: 4 bytes, little endian, of the payload
//! payload = postcard of Order (to the worker) or Report (from it)
//! ```
//!
//! Both ends are one binary, so there is no version. A pipe neither loses nor changes bytes, so there
//! is no checksum. Content goes as the path of its file.

use std::io::{self, Read};

use hanas_proto::ToHost;
use hanas_proto::handshake::ModelForm;
use hanas_proto::measure::{LoadOptions, MeasurePlan};
use serde::{Deserialize, Serialize};

/// Longest message; more is a broken worker.
const MAX_MESSAGE: usize = 1 << 20;

/// Bytes asked of a pipe at a time: what a Linux pipe holds.
const READ_BYTES: usize = 64 * 1024;

/// Supervisor to worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Order<'a> {
    /// Make content a model in a slot.
    Load {
        /// The host's request.
        id: u32,
        /// The slot.
        slot: u16,
        /// How to prepare it.
        options: LoadOptions,
        /// The content's file.
        path: &'a str,
    },
    /// Empty all slots.
    Clear {
        /// The host's request.
        id: u32,
    },
    /// Run a job.
    Measure {
        /// The host's request.
        id: u32,
        /// The job.
        job: u32,
        /// What to time.
        #[serde(borrow)]
        plan: MeasurePlan<'a>,
        /// Longest payload that the host takes, in bytes.
        max_frame: u32,
    },
    /// End the running job after the run in flight.
    Stop {
        /// The job.
        job: u32,
    },
    /// Run a slot once on given inputs.
    Infer {
        /// The host's request.
        id: u32,
        /// The slot.
        slot: u16,
        /// The inputs' file.
        inputs: &'a str,
        /// Longest payload that the host takes, in bytes.
        max_frame: u32,
    },
}

/// Worker to supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report<'a> {
    /// Started, limited, pinned.
    Ready(#[serde(borrow)] Ready<'a>),
    /// Still at it; nothing to say.
    Alive,
    /// For the host whose order is being worked on.
    Say(#[serde(borrow)] ToHost<'a>),
}

/// What only the worker knows about the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready<'a> {
    /// Runtime and its version.
    pub runtime: &'a str,
    /// Model form the runtime takes.
    pub form: ModelForm,
    /// Processors that the worker is pinned to, as a bit mask; 0 where it is not pinned.
    pub pinned: u64,
    /// Smallest step of the clock, in nanoseconds.
    pub clock_resolution_ns: u32,
}

/// Appends `message` to `out` as it lies on the pipe.
pub fn put(message: &impl Serialize, out: Vec<u8>) -> Vec<u8> {
    const LENGTH: usize = size_of::<u32>();
    let start = out.len();
    let mut longer = out;
    longer.extend_from_slice(&[0; LENGTH]);
    // Writing to a vector has no way to fail, and every message type has a known layout.
    let mut longer = postcard::to_extend(message, longer).unwrap_or_default();
    if let Some(payload) = longer.len().checked_sub(start + LENGTH) {
        longer[start..start + LENGTH].copy_from_slice(&(payload as u32).to_le_bytes());
    }
    longer
}

/// Collects a pipe's bytes and hands out whole payloads.
#[derive(Debug)]
pub struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { buffer: vec![0; READ_BYTES], start: 0, end: 0 }
    }
}

impl Inbox {
    /// Reads once from `pipe`, blocking; 0 at the end.
    ///
    /// # Errors
    /// The operating system's.
    pub fn fill(&mut self, pipe: &mut impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        loop {
            match pipe.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    let read = read?;
                    self.end += read;
                    return Ok(read);
                }
            }
        }
    }

    /// The next whole payload; none where more bytes are needed.
    ///
    /// # Errors
    /// Where a message claims to be longer than any is.
    pub fn next_payload(&mut self) -> io::Result<Option<&[u8]>> {
        let held = &self.buffer[self.start..self.end];
        let Some((length, rest)) = held.split_first_chunk() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message on the pipe is too long"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let payload = self.start + size_of::<u32>();
        self.start = payload + length;
        Ok(Some(&self.buffer[payload..payload + length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let long = "x".repeat(100_000);
        let orders = [Order::Clear { id: 1 }, Order::Stop { job: 2 }, Order::Clear { id: 3 }];
        let load = Order::Load { id: 4, slot: 5, options: LoadOptions::default(), path: &long };
        let mut bytes = Vec::new();
        for order in orders.iter().chain([&load]) {
            bytes = put(order, bytes);
        }
        for piece in [1, 7, 70_000] {
            let mut inbox = Inbox::default();
            let mut seen = 0;
            for chunk in bytes.chunks(piece) {
                let mut rest = chunk;
                while !rest.is_empty() {
                    inbox.fill(&mut rest).unwrap();
                    while let Some(payload) = inbox.next_payload().unwrap() {
                        let order: Order<'_> = postcard::from_bytes(payload).unwrap();
                        assert_eq!(&order, orders.iter().chain([&load]).nth(seen).unwrap());
                        seen += 1;
                    }
                }
            }
            assert_eq!(seen, 4);
        }
    }

    #[test]
    fn a_length_that_no_message_has_is_an_error() {
        let mut inbox = Inbox::default();
        inbox.fill(&mut &[0xff; 8][..]).unwrap();
        assert!(inbox.next_payload().is_err());
    }
}
