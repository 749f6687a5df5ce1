//! The wire between the `hanas` host and a device agent.
//!
//! In reading order:
//!
//! 1. [`frame`]: bytes on the link -> checked payloads (COBS, CRC-32, zero delimiter);
//! 2. [`endpoints`]: one table, every message of both directions;
//! 3. [`handshake`], [`blob`], [`measure`], [`samples`], [`fault`]: the payload types, one file a subject;
//! 4. [`chip`]: the form in which a chip takes models;
//! 5. [`units`]: the units that timings and sizes are carried in.
//!
//! The crate is `no_std` and never allocates: what has a length is borrowed from the frame it came
//! in. It does no I/O; both sides bring their own link. The normative text is `docs/src/wire.md`.
#![no_std]

pub mod blob;
pub mod chip;
pub mod endpoints;
pub mod fault;
pub mod frame;
pub mod handshake;
pub mod measure;
pub mod samples;
pub mod units;

pub use blob::Digest;
pub use endpoints::{ToAgent, ToHost};
pub use units::{Bytes, Nanos};
