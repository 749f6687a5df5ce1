//! ONNX -> the form in which a chip takes models, planned for its memory. What does not fit is refused
//! here and never sent.
//!
//! - [`graph`]: ONNX -> layers over named values;
//! - [`plan`]: values -> places in the chip's working memory;
//! - [`lower`]: both, and the bytes.

pub mod graph;
pub mod plan;

use hanas_proto::Bytes;
use hanas_proto::chip::{Elements, Header, MAGIC};
use hanas_proto::fault::FaultCode;

use super::LinkError;

/// Layers that a chip takes at most.
pub const MAX_LAYERS: usize = 64;

/// What a chip takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChipLimits {
    /// Working memory, for maps and weights.
    pub memory: Bytes,
    /// A model's own bytes.
    pub content: Bytes,
}

/// A model that a chip cannot run: the same fault as if the chip had said so.
fn refused(code: FaultCode, text: impl Into<String>) -> LinkError {
    LinkError::Fault { code, text: text.into() }
}

/// The model for a chip, with numbers of that kind.
///
/// # Errors
/// [`LinkError::Fault`] where the chip lacks an operator or the memory, or the bytes are not ONNX.
pub fn lower(onnx: &[u8], elements: Elements, limits: ChipLimits) -> Result<Vec<u8>, LinkError> {
    let graph = graph::read(onnx)?;
    if graph.layers.len() > MAX_LAYERS {
        let text = format!("{} layers are more than the {MAX_LAYERS} that a chip takes", graph.layers.len());
        return Err(refused(FaultCode::TooLarge, text));
    }
    let planned = plan::plan(&graph, elements)?;
    let fits = |what: &str, needed: u64, has: Bytes| {
        let text = format!("{what} {} of the chip's {has}; it was not sent", Bytes(needed));
        if needed <= has.0 { Ok(()) } else { Err(refused(FaultCode::TooLarge, text)) }
    };
    fits("the model works in", planned.memory, limits.memory)?;
    let header = Header {
        magic: MAGIC,
        elements,
        memory: planned.memory as u32,
        layers: planned.layers.len() as u16,
        input: planned.input,
        output: planned.output,
    };
    let mut bytes = postcard::to_stdvec(&header).unwrap_or_default();
    for layer in &planned.layers {
        // The types have a known layout and a vector takes any length: this cannot fail.
        bytes.extend(postcard::to_stdvec(layer).unwrap_or_default());
    }
    bytes.extend(&planned.given);
    fits("the model's own bytes are", bytes.len() as u64, limits.content)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
