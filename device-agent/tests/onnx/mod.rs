//! Small models, one operator or a few each.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several test files, each of which uses a part of it"
)]

mod cases;

pub use cases::cases;
use prost::Message;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

/// A model with one input of floats, `input`, and one output of floats, `output`.
pub struct Case {
    pub what: &'static str,
    pub nodes: Vec<pb::NodeProto>,
    pub weights: Vec<pb::TensorProto>,
    pub input: &'static [i64],
}

impl Case {
    pub fn bytes(&self) -> Vec<u8> {
        let dim =
            |&size: &i64| Dimension { value: Some(dimension::Value::DimValue(size)), ..Dimension::default() };
        let shape = pb::TensorShapeProto { dim: self.input.iter().map(dim).collect() };
        let graph = pb::GraphProto {
            name: "case".to_owned(),
            node: self.nodes.clone(),
            initializer: self.weights.clone(),
            input: vec![port("input", Some(shape))],
            output: vec![port("output", None)],
            ..pb::GraphProto::default()
        };
        let own = pb::OperatorSetIdProto { version: 18, ..pb::OperatorSetIdProto::default() };
        let model = pb::ModelProto {
            ir_version: 8,
            graph: Some(graph),
            opset_import: vec![own],
            ..pb::ModelProto::default()
        };
        model.encode_to_vec()
    }
}

fn port(name: &str, shape: Option<pb::TensorShapeProto>) -> pb::ValueInfoProto {
    let tensor = pb::type_proto::Tensor { elem_type: DataType::Float as i32, shape };
    let value = Some(pb::type_proto::Value::TensorType(tensor));
    let kind = pb::TypeProto { value, ..pb::TypeProto::default() };
    pb::ValueInfoProto { name: name.to_owned(), r#type: Some(kind), ..pb::ValueInfoProto::default() }
}

pub fn node(op: &str, inputs: &[&str], outputs: &str) -> pb::NodeProto {
    pb::NodeProto {
        op_type: op.to_owned(),
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: outputs.split(' ').map(str::to_owned).collect(),
        ..pb::NodeProto::default()
    }
}

/// Adds attributes.
pub trait With: Sized {
    fn with(self, attribute: pb::AttributeProto) -> Self;

    fn int(self, name: &str, i: i64) -> Self {
        self.with(pb::AttributeProto { i, r#type: 2, ..named(name) })
    }

    fn float(self, name: &str, f: f32) -> Self {
        self.with(pb::AttributeProto { f, r#type: 1, ..named(name) })
    }

    fn ints(self, name: &str, ints: &[i64]) -> Self {
        self.with(pb::AttributeProto { ints: ints.to_vec(), r#type: 7, ..named(name) })
    }

    fn word(self, name: &str, word: &str) -> Self {
        self.with(pb::AttributeProto { s: word.as_bytes().to_vec(), r#type: 3, ..named(name) })
    }

    fn tensor(self, name: &str, tensor: pb::TensorProto) -> Self {
        self.with(pb::AttributeProto { t: Some(tensor), r#type: 4, ..named(name) })
    }
}

impl With for pb::NodeProto {
    fn with(mut self, attribute: pb::AttributeProto) -> Self {
        self.attribute.push(attribute);
        self
    }
}

fn named(name: &str) -> pb::AttributeProto {
    pb::AttributeProto { name: name.to_owned(), ..pb::AttributeProto::default() }
}

/// A weight with values from 0.2 to 1.
fn weight(name: &str, dims: &[i64]) -> pb::TensorProto {
    let count = dims.iter().product::<i64>();
    let values = (0..count).map(|n| 0.2 + 0.8 * ((n * 29 % 47) as f32 / 46.0));
    floats(name, dims, &values.collect::<Vec<f32>>())
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        float_data: values.to_vec(),
        ..pb::TensorProto::default()
    }
}

fn ints(name: &str, dims: &[i64], values: &[i64]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::Int64 as i32,
        int64_data: values.to_vec(),
        ..pb::TensorProto::default()
    }
}

fn list(name: &str, values: &[i64]) -> pb::TensorProto {
    ints(name, &[values.len() as i64], values)
}

/// A graph that asks for half a terabyte.
pub fn huge() -> Vec<pb::NodeProto> {
    let shape = node("Constant", &[], "shape").tensor("value", list("", &[1 << 18, 1 << 19]));
    vec![shape, node("ConstantOfShape", &["shape"], "a"), node("Add", &["a", "input"], "output")]
}
