//! The device's side of the protocol, without a system underneath: `no_std`, and it never allocates.
//!
//! What a board brings are three traits: [`Runtime`], [`Clock`] and [`Link`]. What has a length lies in
//! storage that the caller gives. In reading order:
//!
//! 1. [`Runtime`], [`Clock`], [`Link`], [`Trouble`]: what a board brings;
//! 2. [`dialogue`]: a message of the host -> what it asks of an agent;
//! 3. [`shelf`], [`session`]: answers and blocks, kept until the host has them;
//! 4. [`measure`], [`recorder`]: a plan -> rounds of timed runs -> blocks;
//! 5. [`device`], [`inbox`]: all of it over one link, for a chip that serves one host at a time.
//!
//! The Linux agent takes 1 to 4 and brings threads, processes and many sessions of its own; a firmware
//! takes all five.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod device;
pub mod dialogue;
pub mod inbox;
pub mod measure;
pub mod recorder;
pub mod session;
pub mod shelf;

use hanas_proto::Nanos;
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{LoadOptions, Node, Port, RoundContext};

/// A request that a runtime cannot do.
pub trait Trouble {
    /// What kind of trouble.
    fn code(&self) -> FaultCode;
    /// One line for a person.
    fn text(&self) -> &str;
    /// The times of so many operators do not fit into the host's frames.
    fn too_many_operators(operators: usize) -> Self;
}

/// Runs and times models that it holds in slots.
pub trait Runtime {
    /// What can go wrong.
    type Trouble: Trouble;

    /// How the slot was loaded; none where it is empty.
    fn options(&self, slot: u16) -> Option<LoadOptions>;

    /// Runs a slot once and times it.
    ///
    /// # Errors
    /// [`Runtime::Trouble`] where the slot is empty or the run fails.
    fn run_once(&mut self, slot: u16) -> Result<Nanos, Self::Trouble>;

    /// As [`run_once`](Self::run_once), and tells every operator's time afterwards, in order.
    ///
    /// # Errors
    /// As [`run_once`](Self::run_once).
    fn run_nodes(&mut self, slot: u16, tell: &mut dyn FnMut(Nanos)) -> Result<Nanos, Self::Trouble>;
}

/// One thing that a loaded model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// An operator, in execution order.
    Node(Node<'a>),
    /// An input or output.
    Port(Port<'a>),
}

/// A runtime that takes its models as bytes in memory.
pub trait Models: Runtime {
    /// Makes content a model in a slot, instead of what was there, and tells what it is made of;
    /// returns how many operators it has. `id` goes into the parts.
    ///
    /// # Errors
    /// [`Runtime::Trouble`], with the slot empty.
    fn load(
        &mut self,
        id: u32,
        slot: u16,
        content: &[u8],
        options: LoadOptions,
        tell: &mut dyn FnMut(Part<'_>),
    ) -> Result<u16, Self::Trouble>;

    /// Empties all slots.
    fn clear(&mut self);

    /// Runs a slot once on raw little-endian inputs, one after another, and hands out its outputs alike,
    /// in pieces.
    ///
    /// # Errors
    /// [`Runtime::Trouble`] where the inputs do not fit or the run fails.
    fn infer(&mut self, slot: u16, inputs: &[u8], take: &mut dyn FnMut(&[u8])) -> Result<(), Self::Trouble>;
}

/// Tells the time, and under what circumstances it passed.
pub trait Clock {
    /// Time since some moment before; never goes back.
    fn now(&mut self) -> Nanos;
    /// Notes the counters at the begin of a round.
    fn begin_round(&mut self);
    /// The circumstances since [`begin_round`](Self::begin_round).
    fn end_round(&mut self) -> RoundContext;
}

/// Bytes to and from a host. Neither call waits.
pub trait Link {
    /// Takes what has come, at most `into.len()` bytes; returns how many.
    fn read(&mut self, into: &mut [u8]) -> usize;
    /// Gives bytes to be sent; returns how many were taken.
    fn write(&mut self, bytes: &[u8]) -> usize;
}
