//! Frames: how a message lies on the link.
//!
//! ```text
//! frame    = COBS( payload crc32 ) 0x00
//! payload  = one postcard message, at most the receiver's `max_frame` bytes
//! crc32    = CRC-32/ISO-HDLC over payload, 4 bytes, little endian
//! ```
//!
//! COBS leaves no zero byte inside a frame, so the delimiter is the resynchronisation point: after
//! loss or corruption the receiver is right again at the next zero. Two delimiters in a row frame
//! nothing and are skipped; a sender may put one first to flush a receiver's half frame. The bytes
//! are the same on TCP, a serial line, a unix socket and RTT.
//!
//! The receiver owns the storage, so the longest frame it accepts is fixed before a byte arrives.

use memchr::memchr;
use serde::Serialize;

/// Bytes that the checksum adds to a payload.
pub const CRC_BYTES: usize = 4;

/// The longest payload that either side sends before it knows the other's `max_frame`.
pub const HANDSHAKE_PAYLOAD: usize = 512;

/// Bytes that a payload of `payload` bytes takes on the link at most (delimiter included).
#[must_use]
pub const fn framed_len(payload: usize) -> usize {
    cobs::max_encoding_length(payload + CRC_BYTES) + 1
}

/// What is wrong with a frame. None of these ends the link: the next frame is read as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More bytes between two delimiters than the receiver's storage holds.
    #[error("a frame is longer than the receiver takes")]
    TooLong,
    /// Not a COBS encoding: bytes were lost.
    #[error("a frame is cut or garbled")]
    Garbled,
    /// The checksum does not match: bytes were changed.
    #[error("a frame's checksum is wrong")]
    Checksum,
    /// The message does not fit into the sender's storage.
    #[error("a message is longer than the link's frames")]
    MessageTooLong,
    /// The payload is not a message of this protocol version.
    #[error("a frame holds no known message")]
    NotAMessage,
}

/// Writes `message` as one frame into `out`, using `scratch` for the payload.
///
/// `scratch` needs the payload's length plus [`CRC_BYTES`]; `out` needs [`framed_len`] of it.
///
/// # Errors
/// [`FrameError::MessageTooLong`] where either is too small.
pub fn encode<'o, M: Serialize>(
    message: &M,
    scratch: &mut [u8],
    out: &'o mut [u8],
) -> Result<&'o [u8], FrameError> {
    let payload = postcard::to_slice(message, scratch).map_err(|_| FrameError::MessageTooLong)?.len();
    let crc = crc32fast::hash(&scratch[..payload]);
    let body = scratch.get_mut(..payload + CRC_BYTES).ok_or(FrameError::MessageTooLong)?;
    body[payload..].copy_from_slice(&crc.to_le_bytes());
    if out.len() < framed_len(payload) {
        return Err(FrameError::MessageTooLong);
    }
    let written = cobs::encode(body, out);
    out[written] = 0;
    Ok(&out[..=written])
}

/// What [`Deframer::feed`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// All input was taken and the frame goes on: feed more.
    Incomplete,
    /// A whole payload with a right checksum.
    Frame(&'a [u8]),
    /// A frame was dropped; the deframer stands behind its delimiter.
    Broken(FrameError),
}

/// Takes the link's bytes in whatever pieces they come and hands out payloads.
///
/// Holds the unfinished tail itself and does no I/O. `B` is the storage: an array on a chip, a
/// `Vec` of the wanted length elsewhere.
#[derive(Debug)]
pub struct Deframer<B> {
    storage: B,
    held: usize,
    overlong: bool,
}

impl<B: AsMut<[u8]>> Deframer<B> {
    /// A deframer over `storage`, whose length bounds the encoded frame (see [`framed_len`]).
    pub const fn new(storage: B) -> Self {
        Self { storage, held: 0, overlong: false }
    }

    /// Takes bytes up to and including the next delimiter.
    ///
    /// Returns how many bytes of `input` were taken and what they completed; call again with the
    /// rest until all is taken.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Step<'_>) {
        let end = memchr(0, input);
        let piece = &input[..end.unwrap_or(input.len())];
        let taken = piece.len() + usize::from(end.is_some());
        let storage = self.storage.as_mut();
        match storage.get_mut(self.held..self.held + piece.len()) {
            Some(room) if !self.overlong => {
                room.copy_from_slice(piece);
                self.held += piece.len();
            }
            _ => self.overlong = true,
        }
        if end.is_none() {
            return (taken, Step::Incomplete);
        }
        let held = core::mem::take(&mut self.held);
        if core::mem::take(&mut self.overlong) {
            return (taken, Step::Broken(FrameError::TooLong));
        }
        if held == 0 {
            // An empty frame is a flush mark; what follows is the caller's next call.
            return (taken, Step::Incomplete);
        }
        match unpack(&mut storage[..held]) {
            Ok(payload) => (taken, Step::Frame(payload)),
            Err(error) => (taken, Step::Broken(error)),
        }
    }

    /// Whether a frame has begun and not ended.
    pub const fn is_mid_frame(&self) -> bool {
        self.held > 0 || self.overlong
    }
}

fn unpack(encoded: &mut [u8]) -> Result<&[u8], FrameError> {
    let len = cobs::decode_in_place(encoded).map_err(|_| FrameError::Garbled)?;
    let payload = len.checked_sub(CRC_BYTES).ok_or(FrameError::Garbled)?;
    let (payload, crc) = encoded[..len].split_at(payload);
    if crc32fast::hash(payload).to_le_bytes() == *crc { Ok(payload) } else { Err(FrameError::Checksum) }
}

/// Reads a payload as a message; trailing bytes are an error, not ignored.
///
/// # Errors
/// [`FrameError::NotAMessage`].
pub fn decode<'a, M: serde::Deserialize<'a>>(payload: &'a [u8]) -> Result<M, FrameError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::NotAMessage),
    }
}
