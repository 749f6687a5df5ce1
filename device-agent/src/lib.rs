//! The device agent: takes ONNX over a link, times it, streams the samples back.
//!
//! Two processes of one binary. The supervisor talks to hosts and must never die of what they send;
//! the worker holds the runtime, is limited and pinned, and may die. What a message asks, what a session
//! remembers and how a plan is measured is [`hanas_device_core`]'s, as on a chip. In reading order, from the wire
//! inwards:
//!
//! 1. [`link`]: TCP, unix socket, serial port, stdin and stdout -> byte streams;
//! 2. [`connection`]: byte streams <-> frames; nothing that a host does blocks another;
//! 3. [`conversation`]: one connection's messages, each answered or passed on;
//! 4. [`blobs`]: chunks -> content on disk under its checked digest;
//! 5. [`session`]: answers given, jobs and their blocks, which outlive a lost link;
//! 6. [`supervisor`]: sessions, the lease, and who may give the worker orders;
//! 7. [`process`], [`orders`]: the worker's process and the pipe to it;
//! 8. [`worker`], [`limits`]: orders -> reports, inside limits;
//! 9. [`context`]: the clock, and the circumstances of a round;
//! 10. [`runtime`]: what runs a model: tract, ONNX Runtime, libtorch, nothing at all, or a script;
//! 11. [`facts`]: what the device is; [`settings`], [`cli`], [`log`]: how it is started and what it says;
//!     `scratch`: its temporary files.

pub mod blobs;
pub mod cli;
pub mod connection;
pub mod context;
pub mod conversation;
pub mod facts;
pub mod limits;
pub mod link;
pub mod log;
pub mod orders;
pub mod process;
pub mod runtime;
mod scratch;
pub mod session;
pub mod settings;
pub mod supervisor;
pub mod worker;
