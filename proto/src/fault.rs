//! Trouble that a request can meet, by kind. The text beside it is for people; the kind is for code.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// Kinds of trouble. Append-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Schema)]
pub enum FaultCode {
    /// The request makes no sense: an unknown slot, an empty plan, a chunk out of bounds.
    BadRequest,
    /// No content is held under this digest.
    UnknownBlob,
    /// The content's digest is not the announced one.
    BadDigest,
    /// Larger than the agent takes.
    TooLarge,
    /// The content is not a model in the form the runtime takes.
    NotAModel,
    /// The runtime lacks an operator or cannot resolve a shape.
    Unsupported,
    /// Running the model failed.
    RunFailed,
    /// The worker ended (out of memory, time limit, crash) and was started again with empty slots.
    WorkerDied,
    /// Another session holds the device and the wait was given up.
    Busy,
    /// The agent itself failed (a full disk, say).
    Agent,
    /// No session is open on this link: the agent was started anew, or its end of the link was.
    NoSession,
}

impl core::fmt::Display for FaultCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::BadRequest => "bad request",
            Self::UnknownBlob => "unknown content",
            Self::BadDigest => "content damaged",
            Self::TooLarge => "too large",
            Self::NotAModel => "not a model",
            Self::Unsupported => "unsupported",
            Self::RunFailed => "run failed",
            Self::WorkerDied => "worker died",
            Self::Busy => "busy",
            Self::Agent => "agent failure",
            Self::NoSession => "no session",
        })
    }
}
