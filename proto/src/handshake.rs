//! The handshake: which protocol each side speaks, and what the device is.
//!
//! The host sends [`Hello`] until it is answered. Same version and fingerprint on both sides:
//! [`Welcome`]. Else [`Refusal`] names the agent's, the host names both and exits 5. The session
//! number is the host's: saying hello again with it after a lost link finds slots and jobs as they were.

use postcard_schema::Schema;
use postcard_schema::key::hash::fnv1a64::hash_ty_path;
use serde::{Deserialize, Serialize};

use crate::endpoints::{ToAgent, ToHost};

/// The first field of every [`Hello`]: tells this protocol from a modem's or a boot loader's chatter.
pub const MAGIC: [u8; 4] = *b"hNaS";

/// Raised by hand when meaning changes though the layout does not.
pub const VERSION: u16 = 1;

/// Hash of both message tables' layout: names, order and types of all fields, all the way down.
pub const FINGERPRINT: u64 = {
    let agent = u64::from_le_bytes(hash_ty_path::<ToAgent<'static>>("hanas/to-agent"));
    let host = u64::from_le_bytes(hash_ty_path::<ToHost<'static>>("hanas/to-host"));
    agent ^ host.rotate_left(1)
};

/// Protocol version and schema fingerprint, as one side states them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Dialect {
    /// See [`VERSION`].
    pub version: u16,
    /// See [`FINGERPRINT`].
    pub fingerprint: u64,
}

/// What this build speaks.
pub const DIALECT: Dialect = Dialect { version: VERSION, fingerprint: FINGERPRINT };

impl core::fmt::Display for Dialect {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "version {} ({:016x})", self.version, self.fingerprint)
    }
}

/// The host's opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Hello<'a> {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// What the host speaks.
    pub dialect: Dialect,
    /// The host's name for this session; random.
    pub session: u64,
    /// Longest payload the host takes, in bytes.
    pub max_frame: u32,
    /// Who asks, for the agent's log and other hosts' queue messages.
    pub host: &'a str,
}

/// The agent's answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Schema)]
pub struct Welcome<'a> {
    /// What the agent speaks.
    pub dialect: Dialect,
    /// Whether the session was known: slots and jobs are as they were.
    pub resumed: bool,
    /// Longest payload the agent takes, in bytes.
    pub max_frame: u32,
    /// Chunks the agent takes before it wants its answer read.
    pub window: u16,
    /// Largest content the agent takes, in bytes.
    pub max_blob: u64,
    /// Slots the agent has.
    pub slots: u16,
    /// The device.
    #[serde(borrow)]
    pub device: DeviceFacts<'a>,
}

/// What the agent knows about its device. Text is for people and the store; an unknown text is empty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Schema)]
pub struct DeviceFacts<'a> {
    /// Version of the agent.
    pub agent: &'a str,
    /// Runtime and its version, `tract 0.23.9`.
    pub runtime: &'a str,
    /// Threads the runtime uses.
    pub threads: u16,
    /// Model form the runtime takes.
    pub form: ModelForm,
    /// Host name of the board.
    pub name: &'a str,
    /// Processor, as the system names it.
    pub cpu: &'a str,
    /// Architecture, `x86_64`.
    pub arch: &'a str,
    /// Operating system and kernel.
    pub os: &'a str,
    /// Processors online.
    pub cores: u16,
    /// Processors that the worker is pinned to, as a bit mask; 0 where it is not pinned.
    pub pinned: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Frequency governor.
    pub governor: &'a str,
    /// Smallest step of the clock that times runs, in nanoseconds.
    pub clock_resolution_ns: u32,
}

/// The form in which a runtime takes models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum ModelForm {
    /// ONNX, whole.
    Onnx,
    /// A chip's layer list, lowered by the host.
    Chip,
}

/// Why a session is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Refusal<'a> {
    /// What the agent speaks.
    pub dialect: Dialect,
    /// Version of the agent.
    pub agent: &'a str,
    /// The reason.
    pub reason: RefusalReason,
}

/// Kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum RefusalReason {
    /// The two sides speak different protocols.
    Dialect,
    /// The agent talks to paired hosts only.
    NotPaired,
}
