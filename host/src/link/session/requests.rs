//! What a session asks of an agent beside measuring: a sign of life, models into slots, inference.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hanas_proto::endpoints::{ToAgent, ToHost};
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::LoadOptions;
use hanas_proto::{Digest, Nanos};

use super::{Heard, LinkError, Session};

/// One operator of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName {
    /// Its name in the optimised graph.
    pub name: String,
    /// Its kind.
    pub op: String,
}

/// One input or output of a loaded model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFact {
    /// Input or output.
    pub is_input: bool,
    /// Name in the graph.
    pub name: String,
    /// Element type and dimensions.
    pub fact: String,
}

/// A model ready to run in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedModel {
    /// Operators in execution order.
    pub nodes: Vec<NodeName>,
    /// Inputs and outputs.
    pub ports: Vec<PortFact>,
    /// Time from bytes to ready, on the device.
    pub took: Nanos,
}

impl Session {
    /// Time for a message there and back.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn ping(&mut self) -> Result<Duration, LinkError> {
        let id = self.id();
        let start = Instant::now();
        self.ask(id, &ToAgent::Ping { id }, |message| match message {
            ToHost::Pong { id: got } if got == id => Ok(Heard::Answer(())),
            _ => Ok(Heard::Other),
        })?;
        Ok(start.elapsed())
    }

    /// Empties all slots.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn clear(&mut self) -> Result<(), LinkError> {
        let id = self.id();
        self.ask(id, &ToAgent::Clear { id }, done(id))?;
        self.chip_slots.clear();
        Ok(())
    }

    /// Makes content that the agent holds a model in a slot.
    ///
    /// # Errors
    /// [`LinkError::Fault`] with the agent's reason, or a failing link.
    pub fn load(
        &mut self,
        slot: u16,
        digest: Digest,
        options: LoadOptions,
    ) -> Result<LoadedModel, LinkError> {
        let id = self.id();
        let mut nodes: BTreeMap<u16, NodeName> = BTreeMap::new();
        let mut ports: BTreeMap<u16, PortFact> = BTreeMap::new();
        let mut rounds = Rounds::default();
        loop {
            let loaded = self.ask(id, &ToAgent::Load { id, slot, digest, options }, |message| {
                Ok(match message {
                    ToHost::Node(node) if node.id == id => {
                        let name = NodeName { name: node.name.to_owned(), op: node.op.to_owned() };
                        nodes.insert(node.index, name);
                        Heard::Progress
                    }
                    ToHost::Port(port) if port.id == id => {
                        let (name, fact) = (port.name.to_owned(), port.fact.to_owned());
                        ports.insert(port.index, PortFact { is_input: port.is_input, name, fact });
                        Heard::Progress
                    }
                    ToHost::Loaded(loaded) if loaded.id == id => Heard::Answer(loaded),
                    _ => Heard::Other,
                })
            })?;
            if nodes.len() >= usize::from(loaded.nodes) && ports.len() >= usize::from(loaded.ports) {
                return Ok(LoadedModel {
                    nodes: nodes.into_values().collect(),
                    ports: ports.into_values().collect(),
                    took: loaded.took,
                });
            }
            if rounds.are_in_vain(nodes.len() + ports.len()) {
                return Err(self.gone(LOST.to_owned()));
            }
        }
    }

    /// Runs a slot once on content that the agent holds (see [`ToAgent::Infer`]); the outputs' raw bytes.
    ///
    /// # Errors
    /// [`LinkError::Fault`] with the agent's reason, or a failing link.
    pub fn infer(&mut self, slot: u16, inputs: Digest) -> Result<Vec<u8>, LinkError> {
        let id = self.id();
        let mut pieces: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut length = None;
        let mut rounds = Rounds::default();
        loop {
            self.ask(id, &ToAgent::Infer { id, slot, inputs }, |message| {
                Ok(match message {
                    ToHost::Output { id: got, offset, data: [] } if got == id => {
                        length = Some(offset);
                        Heard::Progress
                    }
                    ToHost::Output { id: got, offset, data } if got == id => {
                        pieces.insert(offset, data.to_vec());
                        Heard::Progress
                    }
                    ToHost::Done { id: got } if got == id => Heard::Answer(()),
                    _ => Heard::Other,
                })
            })?;
            if length == Some(pieces.values().map(|piece| piece.len() as u64).sum::<u64>()) {
                return Ok(pieces.into_values().flatten().collect());
            }
            if rounds.are_in_vain(pieces.len() + usize::from(length.is_some())) {
                return Err(self.gone(LOST.to_owned()));
            }
        }
    }
}

/// Why an answer is given up.
const LOST: &str = "pieces of its answer are lost again and again";

/// Times that an answer in pieces was asked for. Where a piece was lost on the way, the request is asked again
/// and all come again; those that came stay, so that a line which loses some of every answer brings it all.
#[derive(Debug, Default)]
struct Rounds {
    pieces: usize,
    in_vain: u32,
}

impl Rounds {
    /// Rounds in a row without a new piece, after which the line brings no more.
    const MOST: u32 = 16;

    /// Whether to give up, now that there are so many pieces and some are missing.
    const fn are_in_vain(&mut self, pieces: usize) -> bool {
        self.in_vain = if pieces > self.pieces { 0 } else { self.in_vain + 1 };
        self.pieces = pieces;
        self.in_vain >= Self::MOST
    }
}

/// Hears until `Done` for `id`.
pub(in crate::link) fn done(id: u32) -> impl FnMut(ToHost<'_>) -> Result<Heard<()>, LinkError> {
    move |message| match message {
        ToHost::Done { id: got } if got == id => Ok(Heard::Answer(())),
        _ => Ok(Heard::Other),
    }
}

/// Whether a fault says that the model, and not the link or the agent, is to blame.
#[must_use]
pub const fn blames_the_model(code: FaultCode) -> bool {
    matches!(
        code,
        FaultCode::NotAModel
            | FaultCode::Unsupported
            | FaultCode::RunFailed
            | FaultCode::TooLarge
            | FaultCode::WorkerDied
    )
}
