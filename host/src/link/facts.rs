//! What the handshake says of a device, owned.

use hanas_proto::handshake::DeviceFacts;
use serde::{Deserialize, Serialize};

/// The device as its agent describes it. Texts are empty where not known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Version of the agent.
    pub agent: String,
    /// Runtime and its version.
    pub runtime: String,
    /// Threads the runtime uses.
    pub threads: u16,
    /// Host name of the board.
    pub name: String,
    /// Processor.
    pub cpu: String,
    /// Architecture.
    pub arch: String,
    /// Operating system and kernel.
    pub os: String,
    /// Processors online.
    pub cores: u16,
    /// Processors that the worker is pinned to, as a bit mask; 0 where it is not pinned.
    pub pinned: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Frequency governor.
    pub governor: String,
    /// Smallest step of the timing clock, in nanoseconds.
    pub clock_resolution_ns: u32,
}

impl From<DeviceFacts<'_>> for Facts {
    fn from(facts: DeviceFacts<'_>) -> Self {
        Self {
            agent: facts.agent.to_owned(),
            runtime: facts.runtime.to_owned(),
            threads: facts.threads,
            name: facts.name.to_owned(),
            cpu: facts.cpu.to_owned(),
            arch: facts.arch.to_owned(),
            os: facts.os.to_owned(),
            cores: facts.cores,
            pinned: facts.pinned,
            memory_bytes: facts.memory_bytes,
            governor: facts.governor.to_owned(),
            clock_resolution_ns: facts.clock_resolution_ns,
        }
    }
}
