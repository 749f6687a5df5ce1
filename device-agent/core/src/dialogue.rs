//! A message of the host -> what it asks of an agent. Who may ask what is decided here, for all agents.

use hanas_proto::fault::FaultCode;
use hanas_proto::handshake::{DIALECT, Hello, MAGIC, Refusal, RefusalReason};
use hanas_proto::measure::{LoadOptions, MeasurePlan};
use hanas_proto::{Digest, ToAgent, ToHost};

/// Version of the agent: that of this release.
pub const AGENT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// An agent's side of one link. Each method is one request of [`ToAgent`].
pub trait Agent {
    /// Sends one message.
    fn say(&mut self, message: &ToHost<'_>);
    /// Whether the link's host has a session.
    fn is_open(&mut self) -> bool;
    /// Opens or resumes a session with a host that speaks this protocol.
    fn greet(&mut self, hello: &Hello<'_>);
    /// Is told of a host that speaks another and was refused.
    fn refused(&mut self, _hello: &Hello<'_>) {}
    /// [`ToAgent::BlobOpen`].
    fn blob_open(&mut self, id: u32, digest: Digest, size: u64);
    /// [`ToAgent::BlobChunk`].
    fn blob_chunk(&mut self, id: u32, offset: u64, data: &[u8]);
    /// [`ToAgent::Load`].
    fn load(&mut self, id: u32, slot: u16, digest: Digest, options: LoadOptions);
    /// [`ToAgent::Clear`].
    fn clear(&mut self, id: u32);
    /// [`ToAgent::Measure`].
    fn measure(&mut self, id: u32, job: u32, plan: MeasurePlan<'_>);
    /// [`ToAgent::Infer`].
    fn infer(&mut self, id: u32, slot: u16, inputs: Digest);
    /// [`ToAgent::Stop`].
    fn stop(&mut self, id: u32, job: u32);
    /// [`ToAgent::Ack`].
    fn ack(&mut self, job: u32, next: u32);
    /// [`ToAgent::Resume`].
    fn resume(&mut self, job: u32, next: u32);
    /// [`ToAgent::Bye`].
    fn bye(&mut self);
}

/// Does what a message asks.
pub fn take(agent: &mut impl Agent, message: ToAgent<'_>) {
    if let ToAgent::Hello(hello) = message {
        return greet(agent, &hello);
    }
    if !agent.is_open() {
        // An agent that was started anew knows no sessions: better told than left waiting.
        if let Some(id) = request_id(&message) {
            let text = "no session is open on this link; say hello first";
            agent.say(&ToHost::Fault { id, code: FaultCode::NoSession, text });
        }
        return;
    }
    match message {
        ToAgent::Hello(_) => {}
        ToAgent::Ping { id } => agent.say(&ToHost::Pong { id }),
        ToAgent::BlobOpen { id, digest, size } => agent.blob_open(id, digest, size),
        ToAgent::BlobChunk { id, offset, data } => agent.blob_chunk(id, offset, data),
        ToAgent::Load { id, slot, digest, options } => agent.load(id, slot, digest, options),
        ToAgent::Clear { id } => agent.clear(id),
        ToAgent::Measure { id, job, plan } => agent.measure(id, job, plan),
        ToAgent::Infer { id, slot, inputs } => agent.infer(id, slot, inputs),
        ToAgent::Stop { id, job } => agent.stop(id, job),
        ToAgent::Ack { job, next } => agent.ack(job, next),
        ToAgent::Resume { job, next } => agent.resume(job, next),
        ToAgent::Bye => agent.bye(),
    }
}

fn greet(agent: &mut impl Agent, hello: &Hello<'_>) {
    // Another magic is some other program's chatter.
    if hello.magic != MAGIC {
        return;
    }
    if hello.dialect == DIALECT {
        return agent.greet(hello);
    }
    agent.refused(hello);
    let refusal = Refusal { dialect: DIALECT, agent: AGENT_VERSION, reason: RefusalReason::Dialect };
    agent.say(&ToHost::Refused(refusal));
}

const fn request_id(message: &ToAgent<'_>) -> Option<u32> {
    match *message {
        ToAgent::Ping { id }
        | ToAgent::BlobOpen { id, .. }
        | ToAgent::BlobChunk { id, .. }
        | ToAgent::Load { id, .. }
        | ToAgent::Clear { id }
        | ToAgent::Measure { id, .. }
        | ToAgent::Stop { id, .. }
        | ToAgent::Infer { id, .. } => Some(id),
        ToAgent::Hello(_) | ToAgent::Ack { .. } | ToAgent::Resume { .. } | ToAgent::Bye => None,
    }
}
