//! ONNX -> the layers that a chip knows, over values that have no place yet.

use std::collections::BTreeMap;

use hanas_proto::chip::Window;
use hanas_proto::fault::FaultCode;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::dimension::Value as Size;
use onnx_protobuf::type_proto;
use onnx_protobuf::{AttributeProto, Message, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use protobuf::Enum;

use super::{LinkError, refused};

/// A value's number.
pub type Value = usize;

/// One image's map: channels, rows, columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub channels: u16,
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

impl Shape {
    fn new(channels: u64, height: u64, width: u64) -> Result<Self, LinkError> {
        let side = |n: u64| u16::try_from(n).ok().filter(|&n| n > 0);
        match (side(channels), side(height), side(width)) {
            (Some(channels), Some(height), Some(width)) => Ok(Self { channels, height, width }),
            _ => Err(unsupported("a map with a side of 0 or more than 65535")),
        }
    }

    /// Values in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        u64::from(self.channels) * u64::from(self.height) * u64::from(self.width)
    }

    /// Whether it holds nothing; no shape does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A layer's parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Tensor {
    /// A `RandomNormal`: its seed and scale.
    Drawn {
        /// The seed.
        seed: u32,
        /// Standard deviation.
        scale: f32,
    },
    /// Values.
    Given(Vec<f32>),
}

/// Weights, and biases where there are any.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// The weights.
    pub weights: Tensor,
    /// How many.
    pub count: u64,
    /// The sums' length: inputs of one output.
    pub fan_in: u64,
    /// One bias an output channel.
    pub biases: Option<Tensor>,
    /// Whether what is negative becomes zero.
    pub relu: bool,
}

/// What a layer computes.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Convolution.
    Conv(Window, Parameters),
    /// Convolution of each channel alone.
    Depthwise(Window, Parameters),
    /// Fully connected.
    Linear(Parameters),
    /// Mean of windows.
    AveragePool(Window),
    /// Maximum of windows.
    MaxPool(Window),
    /// Mean of channels.
    GlobalAveragePool,
    /// max(x, 0).
    Relu,
    /// Sum with another value.
    Add(Value),
}

/// A layer over values.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphLayer {
    /// What it computes.
    pub kind: Kind,
    /// From what.
    pub input: Value,
    /// What comes out; a value of its own.
    pub output: Value,
}

/// A model as layers in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    /// Every value's shape; the first is the input.
    pub shapes: Vec<Shape>,
    /// The layers.
    pub layers: Vec<GraphLayer>,
    /// The output.
    pub output: Value,
}

fn unsupported(what: impl std::fmt::Display) -> LinkError {
    refused(FaultCode::Unsupported, format!("chips do not run {what}"))
}

fn not_onnx(what: impl std::fmt::Display) -> LinkError {
    refused(FaultCode::NotAModel, format!("the content is not ONNX that a chip could run: {what}"))
}

/// Reads a model.
///
/// # Errors
/// [`LinkError::Fault`] where it holds what a chip does not run.
pub fn read(onnx: &[u8]) -> Result<Graph, LinkError> {
    let model = ModelProto::parse_from_bytes(onnx).map_err(not_onnx)?;
    let graph = &model.graph;
    let ([input], [output]) = (&graph.input[..], &graph.output[..]) else {
        return Err(unsupported("models with more than one input or output"));
    };
    let mut reader = Reader {
        graph: Graph { shapes: vec![input_shape(input)?], ..Graph::default() },
        values: BTreeMap::from([(input.name.as_str(), 0)]),
        tensors: graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
        drawn: BTreeMap::new(),
        nodes: &graph.node,
        output: &output.name,
    };
    for node in &graph.node {
        reader.node(node)?;
    }
    reader.graph.output = reader
        .values
        .get(output.name.as_str())
        .copied()
        .ok_or_else(|| not_onnx("nothing makes its output"))?;
    if reader.graph.layers.is_empty() {
        return Err(unsupported("models without layers"));
    }
    Ok(reader.graph)
}

fn input_shape(input: &ValueInfoProto) -> Result<Shape, LinkError> {
    let Some(type_proto::Value::TensorType(tensor)) = &input.type_.value else {
        return Err(unsupported("inputs that are no tensors"));
    };
    let mut dims = Vec::new();
    for dim in &tensor.shape.dim {
        dims.push(match dim.value {
            Some(Size::DimValue(size)) if size > 0 => size as u64,
            // A free batch is one image.
            _ if dims.is_empty() => 1,
            _ => return Err(unsupported("inputs without a fixed shape")),
        });
    }
    if dims.first().is_some_and(|&batch| batch != 1) {
        return Err(unsupported("more than one image at a time; profile with --batch 1"));
    }
    match dims[..] {
        [_, features] => Shape::new(features, 1, 1),
        [_, channels, height, width] => Shape::new(channels, height, width),
        _ => Err(unsupported("inputs of other than two or four dimensions")),
    }
}

struct Reader<'m> {
    graph: Graph,
    values: BTreeMap<&'m str, Value>,
    tensors: BTreeMap<&'m str, &'m TensorProto>,
    drawn: BTreeMap<&'m str, (Vec<u64>, Tensor)>,
    nodes: &'m [NodeProto],
    output: &'m str,
}

impl<'m> Reader<'m> {
    fn node(&mut self, node: &'m NodeProto) -> Result<(), LinkError> {
        let op = node.op_type.as_str();
        if op == "RandomNormal" {
            return self.random_normal(node);
        }
        let input = self.value(node, 0)?;
        let shape = self.graph.shapes[input];
        let (kind, shape) = match op {
            "Conv" => self.conv(node, shape)?,
            "Gemm" => self.gemm(node, shape)?,
            "Relu" if self.is_fused(node) => return self.rename(node, input),
            "Relu" => (Kind::Relu, shape),
            "Add" => {
                let other = self.value(node, 1)?;
                if self.graph.shapes[other] != shape {
                    return Err(unsupported("sums of maps of different shapes"));
                }
                (Kind::Add(other), shape)
            }
            "AveragePool" | "MaxPool" => {
                let window = window(node, None)?;
                if op == "AveragePool"
                    && window.padding > 0
                    && attribute_int(node, "count_include_pad", 0) == 0
                {
                    return Err(unsupported("average pooling that leaves padding out"));
                }
                let kind = if op == "MaxPool" { Kind::MaxPool(window) } else { Kind::AveragePool(window) };
                (kind, slid(window, shape, shape.channels)?)
            }
            "GlobalAveragePool" => (Kind::GlobalAveragePool, Shape { height: 1, width: 1, ..shape }),
            "Flatten" if attribute_int(node, "axis", 1) == 1 => {
                let flat = Shape::new(shape.len(), 1, 1)?;
                if flat == shape {
                    return self.rename(node, input);
                }
                return Err(unsupported("flattening a map that is not 1x1"));
            }
            "Identity" => return self.rename(node, input),
            other => return Err(unsupported(format_args!("the operator {other}"))),
        };
        let output = self.graph.shapes.len();
        self.graph.shapes.push(shape);
        self.graph.layers.push(GraphLayer { kind, input, output });
        self.rename(node, output)
    }

    fn rename(&mut self, node: &'m NodeProto, value: Value) -> Result<(), LinkError> {
        let name = node.output.first().ok_or_else(|| not_onnx("an operator has no output"))?;
        self.values.insert(name, value);
        Ok(())
    }

    fn value(&self, node: &NodeProto, place: usize) -> Result<Value, LinkError> {
        let name = node.input.get(place).map(String::as_str).unwrap_or_default();
        self.values.get(name).copied().ok_or_else(|| not_onnx(format_args!("nothing makes '{name}'")))
    }

    /// Whether a ReLU was made a part of the layer before it.
    fn is_fused(&self, relu: &NodeProto) -> bool {
        relu.input.first().is_some_and(|name| self.fused_relu(name).is_some())
    }

    /// The ReLU that alone reads a convolution's or fully connected layer's value.
    fn fused_relu(&self, value: &str) -> Option<&'m NodeProto> {
        if value == self.output {
            return None;
        }
        let maker = self.nodes.iter().find(|node| node.output.iter().any(|name| name == value))?;
        let mut readers = self.nodes.iter().filter(|node| node.input.iter().any(|name| name == value));
        let reader = readers.next()?;
        let alone = readers.next().is_none() && reader.op_type == "Relu";
        (alone && matches!(maker.op_type.as_str(), "Conv" | "Gemm")).then_some(reader)
    }

    fn random_normal(&mut self, node: &'m NodeProto) -> Result<(), LinkError> {
        let name = node.output.first().ok_or_else(|| not_onnx("an operator has no output"))?;
        let dims =
            attribute(node, "shape").map(|shape| shape.ints.iter().map(|&d| d.max(0) as u64).collect());
        let scale = attribute(node, "scale").map_or(1.0, |scale| scale.f);
        let seed = attribute(node, "seed").map_or(0.0, |seed| seed.f) as u32;
        self.drawn.insert(name, (dims.unwrap_or_default(), Tensor::Drawn { seed, scale }));
        Ok(())
    }

    /// A tensor of floats among the inputs, and its dimensions; none where there is no such input.
    fn tensor(&self, node: &NodeProto, place: usize) -> Result<Option<(Vec<u64>, Tensor)>, LinkError> {
        let Some(name) = node.input.get(place).filter(|name| !name.is_empty()) else { return Ok(None) };
        if let Some(drawn) = self.drawn.get(name.as_str()) {
            return Ok(Some(drawn.clone()));
        }
        let tensor = self.tensors.get(name.as_str());
        let tensor =
            tensor.ok_or_else(|| unsupported(format_args!("weights that are computed ('{name}')")))?;
        if tensor.data_type != DataType::FLOAT.value() {
            return Err(unsupported("weights that are not 32-bit floats"));
        }
        let dims: Vec<u64> = tensor.dims.iter().map(|&d| d.max(0) as u64).collect();
        let values: Vec<f32> = if tensor.raw_data.is_empty() {
            tensor.float_data.clone()
        } else {
            let (chunks, _) = tensor.raw_data.as_chunks();
            chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        if values.len() as u64 != dims.iter().product::<u64>() {
            return Err(not_onnx(format_args!("'{name}' has not the values that its shape says")));
        }
        Ok(Some((dims, Tensor::Given(values))))
    }

    fn parameters(&self, node: &NodeProto, outputs: u64) -> Result<(Vec<u64>, Parameters), LinkError> {
        let (dims, weights) = self.tensor(node, 1)?.ok_or_else(|| not_onnx("a layer has no weights"))?;
        let biases = self.tensor(node, 2)?;
        let first = *dims.first().ok_or_else(|| not_onnx("a layer's weights are a single number"))?;
        if first != outputs && outputs != 0
            || biases.as_ref().is_some_and(|(shape, _)| shape.iter().product::<u64>() != first)
        {
            return Err(not_onnx("a layer's weights or biases do not fit it"));
        }
        let count = dims.iter().product();
        let fan_in = dims.iter().skip(1).product();
        let output = node.output.first().map(String::as_str).unwrap_or_default();
        let relu = self.fused_relu(output).is_some();
        let biases = biases.map(|(_, biases)| biases);
        Ok((dims, Parameters { weights, count, fan_in, biases, relu }))
    }

    fn conv(&self, node: &NodeProto, shape: Shape) -> Result<(Kind, Shape), LinkError> {
        let (dims, parameters) = self.parameters(node, 0)?;
        let [cout, cin, kernel, other] = dims[..] else {
            return Err(unsupported("convolutions of other than two dimensions"));
        };
        if kernel != other || attribute(node, "dilations").is_some_and(|d| d.ints.iter().any(|&d| d != 1)) {
            return Err(unsupported("kernels that are not square, or dilated"));
        }
        let window = window(node, Some(kernel))?;
        let channels = u64::from(shape.channels);
        let groups = attribute_int(node, "group", 1);
        let cout_16 = u16::try_from(cout).map_err(|_| unsupported("so many channels"))?;
        let shape = slid(window, shape, cout_16)?;
        if groups == 1 && cin == channels {
            Ok((Kind::Conv(window, parameters), shape))
        } else if groups as u64 == channels && cin == 1 && cout == channels {
            Ok((Kind::Depthwise(window, parameters), shape))
        } else {
            Err(unsupported("convolutions in groups, but for one group a channel"))
        }
    }

    fn gemm(&self, node: &NodeProto, shape: Shape) -> Result<(Kind, Shape), LinkError> {
        let scaled = ["alpha", "beta"].iter().any(|name| attribute(node, name).is_some_and(|a| a.f != 1.0));
        if scaled || attribute_int(node, "transA", 0) != 0 || attribute_int(node, "transB", 0) != 1 {
            return Err(unsupported("matrix products that are scaled or not transposed"));
        }
        let (dims, parameters) = self.parameters(node, 0)?;
        match dims[..] {
            [outputs, inputs] if inputs == shape.len() => {
                Ok((Kind::Linear(parameters), Shape::new(outputs, 1, 1)?))
            }
            _ => Err(not_onnx("a layer's weights do not fit its input")),
        }
    }
}

fn slid(window: Window, shape: Shape, channels: u16) -> Result<Shape, LinkError> {
    let side = |n: u16| window.positions(u32::from(n)).map(u64::from);
    let (height, width) = side(shape.height)
        .zip(side(shape.width))
        .ok_or_else(|| unsupported("windows larger than their map"))?;
    Shape::new(channels.into(), height, width)
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

fn attribute_int(node: &NodeProto, name: &str, otherwise: i64) -> i64 {
    attribute(node, name).map_or(otherwise, |attribute| attribute.i)
}

/// A window that is the same in both directions.
fn window(node: &NodeProto, kernel: Option<u64>) -> Result<Window, LinkError> {
    let same = |name: &str, otherwise: i64| match attribute(node, name).map(|attribute| &attribute.ints[..]) {
        None | Some([]) => Ok(otherwise),
        Some([first, rest @ ..]) if rest.iter().all(|other| other == first) => Ok(*first),
        Some(_) => Err(unsupported(format_args!("{name} that differ by side"))),
    };
    let padded = attribute(node, "auto_pad").is_some_and(|pad| pad.s != b"NOTSET" && pad.s != b"VALID");
    if padded || attribute_int(node, "ceil_mode", 0) != 0 {
        return Err(unsupported("automatic padding"));
    }
    let small = |n: i64| u8::try_from(n).map_err(|_| unsupported("windows of more than 255"));
    let kernel = same("kernel_shape", kernel.map_or(0, |kernel| kernel as i64))?;
    Ok(Window {
        kernel: small(kernel)?,
        stride: small(same("strides", 1)?)?,
        padding: small(same("pads", 0)?)?,
    })
}
