//! What a session asks of an agent beside measuring: a sign of life, models into slots, inference.

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
        let mut nodes: Vec<(u16, NodeName)> = Vec::new();
        let mut ports: Vec<PortFact> = Vec::new();
        let loaded = self.ask(id, &ToAgent::Load { id, slot, digest, options }, |message| {
            Ok(match message {
                ToHost::Node(node) if node.id == id => {
                    if nodes.iter().all(|(index, _)| *index != node.index) {
                        let name = NodeName { name: node.name.to_owned(), op: node.op.to_owned() };
                        nodes.push((node.index, name));
                    }
                    Heard::Progress
                }
                ToHost::Port(port) if port.id == id => {
                    let fact = PortFact {
                        is_input: port.is_input,
                        name: port.name.to_owned(),
                        fact: port.fact.to_owned(),
                    };
                    if !ports.contains(&fact) {
                        ports.push(fact);
                    }
                    Heard::Progress
                }
                ToHost::Loaded(loaded) if loaded.id == id => Heard::Answer(loaded.took),
                _ => Heard::Other,
            })
        })?;
        nodes.sort_by_key(|(index, _)| *index);
        let nodes = nodes.into_iter().map(|(_, name)| name).collect();
        Ok(LoadedModel { nodes, ports, took: loaded })
    }

    /// Runs a slot once on content that the agent holds (see [`ToAgent::Infer`]); the outputs' raw bytes.
    ///
    /// # Errors
    /// [`LinkError::Fault`] with the agent's reason, or a failing link.
    pub fn infer(&mut self, slot: u16, inputs: Digest) -> Result<Vec<u8>, LinkError> {
        let id = self.id();
        let mut output: Vec<u8> = Vec::new();
        // A piece may be lost, and then the end comes early: the request is asked again, and its
        // pieces come again from the first.
        let mut gap = false;
        loop {
            self.ask(id, &ToAgent::Infer { id, slot, inputs }, |message| {
                Ok(match message {
                    ToHost::Output { id: got, offset, data } if got == id => {
                        if offset == 0 {
                            output.clear();
                            gap = false;
                        }
                        if offset == output.len() as u64 {
                            output.extend_from_slice(data);
                        } else {
                            gap = true;
                        }
                        Heard::Progress
                    }
                    ToHost::Done { id: got } if got == id => Heard::Answer(()),
                    _ => Heard::Other,
                })
            })?;
            if !gap {
                return Ok(output);
            }
        }
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
