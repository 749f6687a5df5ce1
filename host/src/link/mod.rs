//! A device's name or URL -> a session with its agent.
//!
//! - [`url`]: how a device is addressed;
//! - [`inventory`]: names for addresses, in `devices.toml`;
//! - [`stream`]: bytes to and from an agent, over any transport, with a deadline on every read;
//! - [`session`]: requests and answers, repeated and resumed where the link loses them;
//! - [`upload`], [`measuring`]: the two long requests;
//! - [`chip`]: ONNX -> the form and the memory of a chip;
//! - [`probe`]: a chip behind a debug probe;
//! - [`facts`]: what the handshake says of the device.

pub mod chip;
pub mod facts;
pub mod inventory;
pub mod measuring;
pub mod probe;
pub mod session;
pub mod stream;
pub mod upload;
pub mod url;

use std::time::Duration;

use hanas_proto::fault::FaultCode;
use hanas_proto::frame::FrameError;
use hanas_proto::handshake::{DIALECT, Dialect};

pub use facts::Facts;
pub use session::Session;
pub use url::DeviceUrl;

/// What can go wrong between host and agent.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not an address.
    #[error("'{text}' is no device: {reason}")]
    Address {
        /// What the user wrote.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The inventory cannot be read or written.
    #[error("{path}: {reason}")]
    Inventory {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing answers at the address.
    #[error("no agent at {url}: {reason}; {hint}")]
    Unreachable {
        /// The address.
        url: String,
        /// What the system said.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A debug probe or the chip on it does not do as it should.
    #[error("{url}: {reason}; `hanas device scan` lists this host's probes")]
    Probe {
        /// The address.
        url: String,
        /// What probe-rs said.
        reason: String,
    },
    /// A firmware could not be written into the chip's flash.
    #[error("{url}: {firmware} was not flashed: {reason}; is it an ELF file for this chip?")]
    Flash {
        /// The address.
        url: String,
        /// The firmware's file.
        firmware: String,
        /// What probe-rs said.
        reason: String,
    },
    /// Something answers, but not as an agent does.
    #[error("{url} is open but no hanas agent answers; {doubt}")]
    NoAgent {
        /// The address.
        url: String,
        /// What may be the matter there.
        doubt: &'static str,
    },
    /// The agent stopped answering and could not be reached again.
    #[error(
        "the agent at {url} went away ({reason}); start it again and repeat the command: what was measured is kept"
    )]
    Gone {
        /// The address.
        url: String,
        /// What was seen.
        reason: String,
    },
    /// The agent came back without its session: it was started anew.
    #[error(
        "the agent at {url} was started anew in the middle of a session; repeat the command: what was measured is kept"
    )]
    Restarted {
        /// The address.
        url: String,
    },
    /// The agent lives but the request takes too long.
    #[error("the agent at {url} did not finish within {limit:?}; give it longer with --run-timeout")]
    TimedOut {
        /// The address.
        url: String,
        /// How long was waited.
        limit: Duration,
    },
    /// Another session holds the device.
    #[error(
        "the device at {url} is in use by another session; waited {waited:?}, try again later or wait longer with --queue-timeout"
    )]
    Busy {
        /// The address.
        url: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The two sides speak different protocols.
    #[error("this hanas speaks protocol {ours}, the agent ({agent}) {theirs}; build both from one checkout, copy the agent again and restart it", ours = DIALECT)]
    Dialect {
        /// What the agent speaks.
        theirs: Dialect,
        /// The agent's version.
        agent: String,
    },
    /// The agent talks to paired hosts only.
    #[error(
        "the agent at {url} takes paired hosts only, and this release cannot pair; reach it through ssh (exec:ssh BOARD hanas-agent serve --stdio)"
    )]
    NotPaired {
        /// The address.
        url: String,
    },
    /// The agent cannot do what was asked.
    #[error("{code}: {text}")]
    Fault {
        /// Kind of trouble.
        code: FaultCode,
        /// The agent's words.
        text: String,
    },
    /// The agent answered what nobody asked.
    #[error("the agent at {url} answered out of turn: {what}")]
    OutOfTurn {
        /// The address.
        url: String,
        /// The answer.
        what: String,
    },
    /// A message does not fit into a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}
