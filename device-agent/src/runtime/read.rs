//! Content in, a model that stands alone out: held content brought in, weights drawn, nothing outside.

use std::collections::BTreeSet;
use std::path::Path;

use hanas_proto::fault::FaultCode;
use tract_onnx::Onnx;
use tract_onnx::pb;
use tract_onnx::prelude::Framework;

use super::{Trouble, expand, held};

/// The content as a model whose every weight is in it; content that it refers to lies in `folder`, and no
/// more than `max_bytes` of it and of drawn weights come in.
///
/// # Errors
/// [`Trouble`] where it is no model, or one that cannot stand alone.
pub fn whole(
    framework: &Onnx,
    content: &[u8],
    folder: Option<&Path>,
    max_bytes: u64,
) -> Result<pb::ModelProto, Trouble> {
    let mut proto = parsed(framework, content)?;
    if let Some(graph) = &mut proto.graph {
        if let Some(folder) = folder {
            held::bring_in(graph, folder, max_bytes)?;
        }
        expand::refuse_external(graph)?;
        expand::fix_batch(graph);
        expand::draw_weights(graph, max_bytes)?;
    }
    Ok(proto)
}

fn parsed(framework: &Onnx, content: &[u8]) -> Result<pb::ModelProto, Trouble> {
    let not_a_model = |text: &str| Trouble::new(FaultCode::NotAModel, text);
    let proto = framework.proto_model_for_read(&mut &content[..]);
    let proto = proto.map_err(|_| not_a_model("the content is not ONNX"))?;
    let graph =
        proto.graph.as_ref().ok_or_else(|| not_a_model("the content is not ONNX: it has no graph"))?;
    if graph.output.is_empty() {
        return Err(not_a_model("the graph has no output"));
    }
    // tract looks an output up without asking whether there is one of that name.
    let made = graph.node.iter().flat_map(|node| &node.output);
    let given = graph.input.iter().map(|input| &input.name);
    let kept = graph.initializer.iter().map(|tensor| &tensor.name);
    let names: BTreeSet<&String> = made.chain(given).chain(kept).collect();
    match graph.output.iter().find(|output| !names.contains(&output.name)) {
        Some(output) => Err(not_a_model(&format!("nothing produces the output '{}'", output.name))),
        None => Ok(proto),
    }
}
