//! Every message of the protocol, in one table.
//!
//! Both enums are append-only: a variant's place is its number on the wire. A request carries an
//! `id` that the host chooses and the answer repeats; asking twice with one `id` is answered twice
//! and done once. Changing anything here changes [`FINGERPRINT`](crate::handshake::FINGERPRINT).
//!
//! | request | answer | meaning |
//! |---|---|---|
//! | `Hello` | `Welcome` or `Refused` | who speaks which protocol; what the device is |
//! | `Ping` | `Pong` | is anyone there |
//! | `BlobOpen` | `BlobHeld` | how much of this content is there already |
//! | `BlobChunk` | `BlobHeld` | the next piece; the answer is cumulative |
//! | `Load` | `Node`..., `Port`..., `Loaded` | make content a model ready to run, in a slot |
//! | `Clear` | `Done` | empty all slots |
//! | `Measure` | `Done`, then `Block`... | time slots in rounds; the last block is the end |
//! | `Ack`, `Resume` | (`Block`...) | blocks before `next` are safe; send again from `next` |
//! | `Stop` | `Done` | end a job after the run in flight; what was taken still arrives |
//! | `Infer` | `Output`..., `Done` | run a slot once on given inputs and return its output |
//! | `Bye` | none | the session is over: slots, jobs and the lease are free |
//!
//! Any request may be answered with `Fault`, or first with `Queued` while another session holds the
//! device.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::blob::Digest;
use crate::fault::FaultCode;
use crate::handshake::{Hello, Refusal, Welcome};
use crate::measure::{Block, LoadOptions, Loaded, MeasurePlan, Node, Port};

/// Host to agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Schema)]
pub enum ToAgent<'a> {
    /// Opens or resumes a session. Layout frozen: every version reads it.
    #[serde(borrow)]
    Hello(Hello<'a>),
    /// Is anyone there.
    Ping {
        /// Request number.
        id: u32,
    },
    /// Announces content of `size` bytes under its digest.
    BlobOpen {
        /// Request number, repeated in each chunk.
        id: u32,
        /// BLAKE3 of the content.
        digest: Digest,
        /// Length of the content in bytes.
        size: u64,
    },
    /// One piece of announced content.
    BlobChunk {
        /// The announcement's request number.
        id: u32,
        /// Where in the content the piece begins, in bytes.
        offset: u64,
        /// The piece.
        data: &'a [u8],
    },
    /// Makes held content a model in a slot.
    Load {
        /// Request number.
        id: u32,
        /// Which slot; an occupied one is replaced.
        slot: u16,
        /// The model's content.
        digest: Digest,
        /// How to prepare it.
        options: LoadOptions,
    },
    /// Empties all slots of the session.
    Clear {
        /// Request number.
        id: u32,
    },
    /// Starts a job.
    Measure {
        /// Request number.
        id: u32,
        /// The job's number, unique in the session.
        job: u32,
        /// What to time and how.
        plan: MeasurePlan<'a>,
    },
    /// All blocks of `job` before `next` have arrived and may be forgotten.
    Ack {
        /// The job.
        job: u32,
        /// First block not yet safe.
        next: u32,
    },
    /// Blocks from `next` on are missing: send them again, in order.
    Resume {
        /// The job.
        job: u32,
        /// First block wanted.
        next: u32,
    },
    /// Ends a job early.
    Stop {
        /// Request number.
        id: u32,
        /// The job.
        job: u32,
    },
    /// Runs a slot once. Inputs are held content: the tensors' raw little-endian bytes, one after
    /// another in the model's input order.
    Infer {
        /// Request number.
        id: u32,
        /// The slot.
        slot: u16,
        /// The inputs' content.
        inputs: Digest,
    },
    /// Ends the session.
    Bye,
}

/// Agent to host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Schema)]
pub enum ToHost<'a> {
    /// The session is open. Layout frozen: every version reads it.
    #[serde(borrow)]
    Welcome(Welcome<'a>),
    /// The session is not opened. Layout frozen.
    Refused(Refusal<'a>),
    /// Answer to `Ping`.
    Pong {
        /// The request.
        id: u32,
    },
    /// How much of announced content is held; `held == size` says that its digest was checked.
    BlobHeld {
        /// The announcement.
        id: u32,
        /// Contiguous bytes held from the start.
        held: u64,
    },
    /// One operator of a model being loaded, in execution order.
    Node(Node<'a>),
    /// One input or output of a model being loaded.
    Port(Port<'a>),
    /// A model is ready.
    Loaded(Loaded),
    /// A request without an answer of its own is done.
    Done {
        /// The request.
        id: u32,
    },
    /// A piece of a job's result.
    Block(Block<'a>),
    /// A piece of an inference's outputs (raw little-endian bytes, output after output). The last one
    /// is empty, at the outputs' length.
    Output {
        /// The request.
        id: u32,
        /// Where in the outputs the piece begins, in bytes.
        offset: u64,
        /// The piece.
        data: &'a [u8],
    },
    /// A request cannot be done.
    Fault {
        /// The request.
        id: u32,
        /// What kind of trouble.
        code: FaultCode,
        /// One line for a person.
        text: &'a str,
    },
    /// A request waits because another session holds the device.
    Queued {
        /// The request.
        id: u32,
        /// Sessions ahead of this one.
        ahead: u16,
    },
    /// The agent is alive; sent when nothing else was for a second.
    Heartbeat {
        /// Milliseconds since the agent started.
        uptime_ms: u64,
    },
}
