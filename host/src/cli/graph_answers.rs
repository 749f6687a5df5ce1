//! What graph nets answer on a device.

use hanas_models::gnn::layout::OnGraph;
use hanas_proto::measure::LoadOptions;

use crate::data::graph::GraphData;
use crate::link::Session;

/// Share of the test nodes that the device gets right with a net whose graph is inside its file.
pub(super) fn test_accuracy(session: &mut Session, data: &GraphData, onnx: &[u8]) -> anyhow::Result<f64> {
    session.load_onnx(0, onnx, LoadOptions::default())?;
    let on = OnGraph::new(&data.graph, &data.features);
    let features: Vec<u8> = on.input(&data.features).iter().flat_map(|value| value.to_le_bytes()).collect();
    let inputs = session.upload(&features)?;
    let outputs = session.infer(0, inputs)?;
    let scores: Vec<f32> = outputs.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let wanted = data.nodes() as usize * data.classes as usize;
    anyhow::ensure!(scores.len() == wanted, "the device gives {} scores, not {wanted}", scores.len());
    Ok(data.accuracy(&scores, &data.split.test))
}
