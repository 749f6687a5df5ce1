//! The host side of `hanas`: everything but the wire, the nets and the agent.
//!
//! Data flows one way, and a module imports only from those above it here:
//!
//! | module | in -> out |
//! |---|---|
//! | [`task`] | a task's name or file -> family, data set, candidate layers |
//! | [`link`] | a device's name or URL -> a session with its agent |
//! | [`store`] | sessions, models, raw samples <-> one SQLite file |
//! | [`profile`] | candidates + session -> samples in the store |
//! | [`latency`] | samples -> estimates with errors -> fitted latency models |
//! | [`space`] | estimates and fits -> choices of each group, and how sure they are |
//! | [`data`] | files -> image tensors |
//! | [`search`] | space + latency model + data -> a net |
//! | [`train`] | a net + data -> weights |
//! | [`report`] | store and runs -> pictures and one HTML page |
//! | [`cli`] | the command line on top |

pub mod cli;
pub mod data;
pub mod latency;
pub mod link;
pub mod profile;
pub mod report;
pub mod search;
pub mod space;
pub mod store;
pub mod task;
pub mod train;
