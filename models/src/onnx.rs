//! Lowering to ONNX (opset 18), as a runtime gets it for inference.
//!
//! Batch norms are folded into the convolution before them, as exporters do, so that a profiled layer
//! and an exported net are made of the same operators. With [`Init::Seeded`] the weights are
//! `RandomNormal` nodes with a seed: valid ONNX of a few hundred bytes, whatever the layer's size.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::type_proto::{self, Tensor as TensorType};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
};
use protobuf::{Enum, MessageField};

use crate::gnn::GnnError;
use crate::spec::{FeatureMap, Net, Node, NodeId, Op, SpecError};
use crate::weights::{BATCH_NORM_EPSILON, Tensor, Weights};

/// ONNX operator set.
pub const OPSET: i64 = 18;
const IR_VERSION: i64 = 10;
/// Name of the input.
pub(crate) const INPUT: &str = "input";
/// Name of the output.
pub(crate) const OUTPUT: &str = "output";

/// Where the weights come from.
#[derive(Debug, Clone, Copy)]
pub enum Init<'w> {
    /// Trained (or otherwise given) tensors, written as initializers.
    Weights(&'w Weights),
    /// `RandomNormal` nodes numbered from this seed on.
    Seeded(u32),
}

/// A net that cannot be lowered.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The net does not fit together.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The graph net does not fit together.
    #[error(transparent)]
    Gnn(#[from] GnnError),
    /// A tensor is missing or has another shape.
    #[error("the weights do not fit the net: {0}")]
    Weights(String),
    /// The protobuf writer failed.
    #[error("writing ONNX: {0}")]
    Write(String),
}

/// The net as ONNX bytes for inputs of `batch` images; input `input`, output `output`.
///
/// # Errors
/// [`OnnxError`] where the net does not fit together or the weights do not fit it.
pub fn lower(net: &Net, init: Init<'_>, batch: u32) -> Result<Vec<u8>, OnnxError> {
    let shapes = net.shapes()?;
    let mut graph = GraphProto { name: net.name.clone(), ..GraphProto::default() };
    let is_vector = |id: NodeId| matches!(net.nodes[id.0].op, Op::GlobalAvgPool | Op::Linear { .. });
    let last = NodeId(net.nodes.len() - 1);
    graph.input.push(value_info(INPUT, batch, net.input, false));
    graph.output.push(value_info(OUTPUT, batch, shapes[last.0], is_vector(last)));

    let mut lowering = Lowering { net, init, graph, values: Vec::new(), drawn: 0 };
    for id in 0..net.nodes.len() {
        let value = lowering.node(id)?;
        lowering.values.push(value);
    }
    model_bytes(lowering.graph)
}

/// The graph as a model's bytes.
pub(crate) fn model_bytes(graph: GraphProto) -> Result<Vec<u8>, OnnxError> {
    let mut model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: "hanas".to_owned(),
        graph: MessageField::some(graph),
        ..ModelProto::default()
    };
    model.opset_import.push(OperatorSetIdProto { version: OPSET, ..OperatorSetIdProto::default() });
    model.write_to_bytes().map_err(|error| OnnxError::Write(error.to_string()))
}

struct Lowering<'a> {
    net: &'a Net,
    init: Init<'a>,
    graph: GraphProto,
    /// The ONNX value that holds each node's output.
    values: Vec<String>,
    /// Random tensors drawn so far.
    drawn: u32,
}

impl Lowering<'_> {
    /// Lowers one node and returns the name of its value.
    fn node(&mut self, id: usize) -> Result<String, OnnxError> {
        let node = &self.net.nodes[id];
        let inputs: Vec<String> = node.inputs.iter().map(|input| self.values[input.0].clone()).collect();
        let name = if id + 1 == self.net.nodes.len() { OUTPUT.to_owned() } else { node.name.clone() };
        match node.op {
            Op::Input => return Ok(INPUT.to_owned()),
            Op::BatchNorm { channels } => {
                if let Some(conv) = self.folded_conv(node) {
                    // The convolution carries it; only the name of the value is new.
                    if name == OUTPUT {
                        self.rename_output(&conv);
                        return Ok(name);
                    }
                    return Ok(conv);
                }
                return self.bare_batch_norm(node, inputs, channels, name);
            }
            Op::Conv { .. } => return self.conv(id, inputs, name),
            Op::Relu => self.push("Relu", inputs, &name, vec![]),
            Op::Add => self.push("Add", inputs, &name, vec![]),
            Op::AvgPool2 => {
                let attributes = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
                self.push("AveragePool", inputs, &name, attributes);
            }
            Op::GlobalAvgPool => {
                let pooled = format!("{}.map", node.name);
                self.push("GlobalAveragePool", inputs, &pooled, vec![]);
                self.push("Flatten", vec![pooled], &name, vec![int("axis", 1)]);
            }
            Op::Linear { cin, cout } => {
                let weight = self.tensor(&format!("{}.weight", node.name), &[cout, cin])?;
                let bias = self.tensor(&format!("{}.bias", node.name), &[cout])?;
                let inputs = [inputs, vec![weight, bias]].concat();
                self.push("Gemm", inputs, &name, vec![int("transB", 1)]);
            }
        }
        Ok(name)
    }

    /// The convolution's value, where this batch norm is the only reader of one.
    fn folded_conv(&self, node: &Node) -> Option<String> {
        let source = node.inputs[0];
        let is_conv = matches!(self.net.nodes[source.0].op, Op::Conv { .. });
        (is_conv && self.batch_norm_of(source).is_some()).then(|| self.values[source.0].clone())
    }

    /// The batch norm that is a convolution's only reader.
    fn batch_norm_of(&self, conv: NodeId) -> Option<&Node> {
        let mut readers = self.net.nodes.iter().filter(|node| node.inputs.contains(&conv));
        let reader = readers.next()?;
        (readers.next().is_none() && matches!(reader.op, Op::BatchNorm { .. })).then_some(reader)
    }

    fn conv(&mut self, id: usize, mut inputs: Vec<String>, name: String) -> Result<String, OnnxError> {
        let node = &self.net.nodes[id];
        let Op::Conv { cin, cout, kernel, stride, padding } = node.op else {
            return Ok(name);
        };
        let shape = [cout, cin, kernel, kernel];
        let (weight, bias) = (format!("{}.weight", node.name), format!("{}.bias", node.name));
        match (self.batch_norm_of(NodeId(id)).cloned(), self.init) {
            (Some(bn), Init::Weights(weights)) => {
                let (folded, shift) = fold(weights, &weight, &shape, &bn.name)?;
                inputs.push(self.initializer(&weight, &folded));
                inputs.push(self.initializer(&bias, &shift));
            }
            (Some(_), Init::Seeded(_)) => {
                inputs.push(self.tensor(&weight, &shape)?);
                inputs.push(self.tensor(&bias, &[cout])?);
            }
            (None, _) => inputs.push(self.tensor(&weight, &shape)?),
        }
        let [kernel, stride, padding] = [kernel, stride, padding].map(i64::from);
        let attributes = vec![
            ints("kernel_shape", &[kernel; 2]),
            ints("strides", &[stride; 2]),
            ints("pads", &[padding; 4]),
        ];
        self.push("Conv", inputs, &name, attributes);
        Ok(name)
    }

    fn bare_batch_norm(
        &mut self,
        node: &Node,
        mut inputs: Vec<String>,
        channels: u32,
        name: String,
    ) -> Result<String, OnnxError> {
        for what in ["weight", "bias", "running_mean", "running_var"] {
            inputs.push(self.tensor(&format!("{}.{what}", node.name), &[channels])?);
        }
        self.push("BatchNormalization", inputs, &name, vec![float("epsilon", BATCH_NORM_EPSILON)]);
        Ok(name)
    }

    /// The tensor of that name, as an initializer or a random node; returns its value's name.
    fn tensor(&mut self, name: &str, shape: &[u32]) -> Result<String, OnnxError> {
        match self.init {
            Init::Weights(weights) => {
                let tensor = given(weights, name, shape)?;
                Ok(self.initializer(name, tensor))
            }
            Init::Seeded(seed) => {
                let fan_in = shape.iter().skip(1).product::<u32>().max(1);
                self.graph.node.push(random_normal(name, shape, fan_in, seed + self.drawn));
                self.drawn += 1;
                Ok(name.to_owned())
            }
        }
    }

    fn initializer(&mut self, name: &str, tensor: &Tensor) -> String {
        self.graph.initializer.push(float_tensor(name, tensor));
        name.to_owned()
    }

    fn push(&mut self, op: &str, inputs: Vec<String>, output: &str, attributes: Vec<AttributeProto>) {
        self.graph.node.push(node(op, inputs, vec![output.to_owned()], attributes));
    }

    fn rename_output(&mut self, value: &str) {
        for node in &mut self.graph.node {
            for output in &mut node.output {
                if output == value {
                    OUTPUT.clone_into(output);
                }
            }
        }
    }
}

/// An operator.
pub(crate) fn node(
    op: &str,
    input: Vec<String>,
    output: Vec<String>,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto { op_type: op.to_owned(), input, output, attribute, ..NodeProto::default() }
}

/// A weight that the runtime draws, sized so that values neither vanish nor blow up.
pub(crate) fn random_normal(name: &str, shape: &[u32], fan_in: u32, seed: u32) -> NodeProto {
    let dims: Vec<i64> = shape.iter().map(|&d| i64::from(d)).collect();
    // ONNX seeds are floats; whole numbers below 2^24 survive.
    let attributes = vec![
        ints("shape", &dims),
        float("scale", (2.0 / fan_in as f32).sqrt()),
        float("seed", (seed % (1 << 24)) as f32),
    ];
    node("RandomNormal", Vec::new(), vec![name.to_owned()], attributes)
}

/// A tensor of floats with its values.
pub(crate) fn float_tensor(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: tensor.shape.iter().map(|&d| i64::from(d)).collect(),
        data_type: DataType::FLOAT.value(),
        raw_data: tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

/// The tensor of that name and shape.
pub(crate) fn given<'w>(weights: &'w Weights, name: &str, shape: &[u32]) -> Result<&'w Tensor, OnnxError> {
    let tensor = weights.get(name).ok_or_else(|| OnnxError::Weights(format!("{name} is missing")))?;
    if tensor.shape == shape {
        Ok(tensor)
    } else {
        Err(OnnxError::Weights(format!("{name} is {:?}, not {shape:?}", tensor.shape)))
    }
}

/// Weight and bias of a convolution that does its batch norm's work:
/// w' = w * g / sqrt(v + eps), b' = b - m * g / sqrt(v + eps), per output channel.
fn fold(weights: &Weights, conv: &str, shape: &[u32], bn: &str) -> Result<(Tensor, Tensor), OnnxError> {
    let channels = &shape[..1];
    let of = |what: &str| given(weights, &format!("{bn}.{what}"), channels);
    let (scale, shift, mean, var) = (of("weight")?, of("bias")?, of("running_mean")?, of("running_var")?);
    let weight = given(weights, conv, shape)?;
    let gain = |c: usize| scale.data[c] / (var.data[c] + BATCH_NORM_EPSILON).sqrt();
    let per_channel = weight.data.len() / shape[0] as usize;
    let folded = Tensor::fill(shape, |i| weight.data[i] * gain(i / per_channel));
    let bias = Tensor::fill(channels, |c| shift.data[c] - mean.data[c] * gain(c));
    Ok((folded, bias))
}

fn value_info(name: &str, batch: u32, map: FeatureMap, vector: bool) -> ValueInfoProto {
    let mut dims = vec![batch, map.channels];
    if !vector {
        dims.extend([map.height, map.width]);
    }
    float_info(name, &dims)
}

/// An input or output of floats.
pub(crate) fn float_info(name: &str, dims: &[u32]) -> ValueInfoProto {
    let dim = |&d: &u32| Dimension {
        value: Some(dimension::Value::DimValue(i64::from(d))),
        ..Dimension::default()
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect(), ..TensorShapeProto::default() };
    let tensor = TensorType {
        elem_type: DataType::FLOAT.value(),
        shape: MessageField::some(shape),
        ..TensorType::default()
    };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_owned(), type_: MessageField::some(kind), ..ValueInfoProto::default() }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), type_: kind.into(), ..AttributeProto::default() }
}

/// An attribute.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: value, ..attribute(name, AttributeType::INT) }
}

/// An attribute.
pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::INTS) }
}

/// An attribute.
pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: value, ..attribute(name, AttributeType::FLOAT) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Layer, LayerKind};
    use crate::resnet::Family;
    use crate::weights::seeded;

    #[test]
    fn a_profiling_model_is_a_few_hundred_bytes() {
        let layer = Layer { kind: LayerKind::Conv { kernel: 3, stride: 1, side: 8 }, cin: 64, cout: 128 };
        let bytes = lower(&layer.net(), Init::Seeded(1), 4).unwrap();
        assert!(bytes.len() < 500, "{} bytes", bytes.len());
    }

    #[test]
    fn batch_norms_are_folded_away() {
        let net = Family::cifar_resnet(20, 10).unwrap().base().net().unwrap();
        let bytes = lower(&net, Init::Weights(&seeded(&net, 1)), 1).unwrap();
        let model = ModelProto::parse_from_bytes(&bytes).unwrap();
        assert!(model.graph.node.iter().all(|node| node.op_type != "BatchNormalization"));
        assert_eq!(model.graph.node.last().unwrap().output, [OUTPUT]);
    }

    #[test]
    fn weights_of_another_shape_are_refused() {
        let net = Family::cifar_resnet(20, 10).unwrap().base().net().unwrap();
        let mut weights = seeded(&net, 1);
        weights.get_mut("head.fc.bias").unwrap().shape = vec![9];
        let error = lower(&net, Init::Weights(&weights), 1).unwrap_err();
        assert!(error.to_string().contains("head.fc.bias"), "{error}");
    }
}
