//! A net as products have it on a chip, as ONNX: a point convolution, a depthwise one with ReLU, pooling by
//! maximum, mean and globally, a fully connected layer.

use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::type_proto::{self, Tensor as TensorType};
use onnx_protobuf::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto::AttributeType,
};
use protobuf::{Enum, Message, MessageField};

/// Values of its input, a map of 3 x 12 x 12.
pub const INPUT: usize = 3 * 12 * 12;

/// The model's bytes, weights and all.
///
/// # Panics
/// Never: its parts have sizes.
#[must_use]
pub fn onnx() -> Vec<u8> {
    let node = [
        layer("Conv", &["x", "point.w", "point.b"], "a", &[("kernel_shape", &[1, 1])]),
        grouped(layer(
            "Conv",
            &["a", "deep.w", "deep.b"],
            "b",
            &[("kernel_shape", &[3, 3]), ("strides", &[1, 1]), ("pads", &[1; 4])],
        )),
        layer("Relu", &["b"], "c", &[]),
        layer("MaxPool", &["c"], "d", &[("kernel_shape", &[3, 3]), ("strides", &[2, 2]), ("pads", &[1; 4])]),
        layer("AveragePool", &["d"], "e", &[("kernel_shape", &[2, 2]), ("strides", &[2, 2])]),
        layer("GlobalAveragePool", &["e"], "f", &[]),
        layer("Flatten", &["f"], "g", &[]),
        transposed(layer("Gemm", &["g", "full.w", "full.b"], "y", &[])),
    ];
    let initializer = [
        tensor("point.w", &[CHANNELS, 3, 1, 1]),
        tensor("point.b", &[CHANNELS]),
        tensor("deep.w", &[CHANNELS, 1, 3, 3]),
        tensor("deep.b", &[CHANNELS]),
        tensor("full.w", &[5, CHANNELS]),
        tensor("full.b", &[5]),
    ];
    let graph = GraphProto {
        name: "mobile".to_owned(),
        node: node.into(),
        initializer: initializer.into(),
        input: vec![value("x", &[1, 3, 12, 12])],
        output: vec![value("y", &[1, 5])],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: 18, ..OperatorSetIdProto::default() };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![opset],
        graph: MessageField::some(graph),
        ..ModelProto::default()
    };
    model.write_to_bytes().expect("a model has bytes")
}

const CHANNELS: i64 = 6;

fn layer(op: &str, input: &[&str], output: &str, windows: &[(&str, &[i64])]) -> NodeProto {
    let ints = |(name, values): &(&str, &[i64])| AttributeProto {
        ints: values.to_vec(),
        ..attribute(name, AttributeType::INTS)
    };
    NodeProto {
        op_type: op.to_owned(),
        input: input.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: windows.iter().map(ints).collect(),
        ..NodeProto::default()
    }
}

fn grouped(mut node: NodeProto) -> NodeProto {
    node.attribute.push(AttributeProto { i: CHANNELS, ..attribute("group", AttributeType::INT) });
    node
}

fn transposed(mut node: NodeProto) -> NodeProto {
    node.attribute.push(AttributeProto { i: 1, ..attribute("transB", AttributeType::INT) });
    node
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), type_: kind.into(), ..AttributeProto::default() }
}

/// Values between -1 and 1 that differ from name to name.
fn tensor(name: &str, dims: &[i64]) -> TensorProto {
    let seed: usize = name.bytes().map(usize::from).sum();
    let value = |n: usize| ((n * 29 + seed) % 97) as f32 / 48.0 - 1.0;
    let count = dims.iter().product::<i64>() as usize;
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::FLOAT.value(),
        raw_data: (0..count).flat_map(|n| value(n).to_le_bytes()).collect(),
        ..TensorProto::default()
    }
}

fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim =
        |&size: &i64| Dimension { value: Some(dimension::Value::DimValue(size)), ..Dimension::default() };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect(), ..TensorShapeProto::default() };
    let tensor = TensorType {
        elem_type: DataType::FLOAT.value(),
        shape: MessageField::some(shape),
        ..TensorType::default()
    };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_owned(), type_: MessageField::some(kind), ..ValueInfoProto::default() }
}
