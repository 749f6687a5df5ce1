//! A user's own ONNX file: what its inputs are, and their open dimensions made definite.

use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{Message, ModelProto, TensorProto, TypeProto, ValueInfoProto, tensor_proto, type_proto};

/// A file that cannot be measured as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelFileError {
    /// Not an ONNX model.
    #[error("it is not an ONNX model")]
    NotOnnx,
    /// The weights lie in other files, which do not travel.
    #[error(
        "its weights lie in other files ({file}); save it as one file (onnx.save_model(..., save_as_external_data=False))"
    )]
    ExternalData {
        /// The first such file.
        file: String,
    },
    /// A dimension other than the first is open and no shape was given.
    #[error("input '{input}' is {shape}; give its shape with --input {input}=1x3x224x224")]
    OpenShape {
        /// The input.
        input: String,
        /// Its dimensions as the file has them.
        shape: String,
    },
    /// A shape was given for an input that the model lacks.
    #[error("there is no input '{input}'; the model's inputs are {inputs}")]
    NoSuchInput {
        /// The input.
        input: String,
        /// The inputs there are.
        inputs: String,
    },
    /// A given shape contradicts the file.
    #[error("input '{input}' is {shape} and cannot be {given}")]
    Contradiction {
        /// The input.
        input: String,
        /// Its dimensions as the file has them.
        shape: String,
        /// The given dimensions.
        given: String,
    },
    /// The protobuf writer failed.
    #[error("rewriting it: {0}")]
    Write(String),
}

/// A shape given for an input by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputShape {
    /// The input's name.
    pub name: String,
    /// Its dimensions.
    pub dims: Vec<i64>,
}

impl std::str::FromStr for InputShape {
    type Err = String;

    /// Reads `NAME=1x3x224x224`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (name, dims) = text.rsplit_once('=')?;
            let dims: Vec<i64> =
                dims.split('x').map(|d| d.parse().ok().filter(|&d| d > 0)).collect::<Option<_>>()?;
            (!name.is_empty()).then(|| Self { name: name.to_owned(), dims })
        };
        parse().ok_or_else(|| "write NAME=1x3x224x224".to_owned())
    }
}

/// The model with every input's shape definite: given shapes put in, an open first dimension set to
/// `batch`. The bytes are returned as they were where nothing is open.
///
/// # Errors
/// [`ModelFileError`], one line each that says what to do.
pub fn with_definite_inputs(
    onnx: Vec<u8>,
    shapes: &[InputShape],
    batch: u32,
) -> Result<Vec<u8>, ModelFileError> {
    let mut model = ModelProto::parse_from_bytes(&onnx).map_err(|_| ModelFileError::NotOnnx)?;
    if model.graph.node.is_empty() || model.ir_version == 0 {
        return Err(ModelFileError::NotOnnx);
    }
    if let Some(tensor) = model.graph.initializer.iter().find(|tensor| is_external(tensor)) {
        let location = tensor.external_data.iter().find(|entry| entry.key == "location");
        let file = location.map_or_else(|| tensor.name.clone(), |entry| entry.value.clone());
        return Err(ModelFileError::ExternalData { file });
    }
    let initialized: Vec<String> = model.graph.initializer.iter().map(|tensor| tensor.name.clone()).collect();
    let graph = model.graph.mut_or_insert_default();
    let inputs = || graph.input.iter().filter(|input| !initialized.contains(&input.name));
    if let Some(shape) = shapes.iter().find(|shape| inputs().all(|input| input.name != shape.name)) {
        let names: Vec<&str> = inputs().map(|input| input.name.as_str()).collect();
        return Err(ModelFileError::NoSuchInput { input: shape.name.clone(), inputs: names.join(", ") });
    }
    let mut changed = false;
    for input in graph.input.iter_mut().filter(|input| !initialized.contains(&input.name)) {
        let given = shapes.iter().find(|shape| shape.name == input.name).map(|shape| shape.dims.as_slice());
        changed |= make_definite(input, given, batch)?;
    }
    if !changed {
        return Ok(onnx);
    }
    model.write_to_bytes().map_err(|error| ModelFileError::Write(error.to_string()))
}

fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location.enum_value() == Ok(tensor_proto::DataLocation::EXTERNAL)
}

/// Whether anything was changed.
fn make_definite(
    input: &mut ValueInfoProto,
    given: Option<&[i64]>,
    batch: u32,
) -> Result<bool, ModelFileError> {
    let name = input.name.clone();
    let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) = input.type_.as_mut()
    else {
        return Ok(false);
    };
    let dims = &mut tensor.shape.mut_or_insert_default().dim;
    let shape = dims.iter().map(show).collect::<Vec<_>>().join("x");
    if let Some(given) = given {
        let fits = (dims.is_empty() || dims.len() == given.len())
            && dims.iter().zip(given).all(|(dim, &given)| definite(dim).is_none_or(|size| size == given));
        if !fits {
            let given = given.iter().map(i64::to_string).collect::<Vec<_>>().join("x");
            return Err(ModelFileError::Contradiction { input: name, shape, given });
        }
        *dims = given.iter().map(|&size| dimension_of(size)).collect();
        return Ok(true);
    }
    if dims.iter().skip(1).any(|dim| definite(dim).is_none()) {
        return Err(ModelFileError::OpenShape { input: name, shape });
    }
    match dims.first_mut() {
        Some(first) if definite(first).is_none() => {
            *first = dimension_of(i64::from(batch));
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn definite(dim: &Dimension) -> Option<i64> {
    match dim.value {
        Some(dimension::Value::DimValue(size)) if size > 0 => Some(size),
        _ => None,
    }
}

fn show(dim: &Dimension) -> String {
    match &dim.value {
        Some(dimension::Value::DimValue(size)) if *size > 0 => size.to_string(),
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => name.clone(),
        _ => "?".to_owned(),
    }
}

fn dimension_of(size: i64) -> Dimension {
    Dimension { value: Some(dimension::Value::DimValue(size)), ..Dimension::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::{Layer, LayerKind};
    use crate::onnx::{Init, lower};

    fn open_batch(params: &[usize]) -> Vec<u8> {
        let layer = Layer { kind: LayerKind::Conv { kernel: 3, stride: 1, side: 8 }, cin: 3, cout: 4 };
        let bytes = lower(&layer.net(), Init::Seeded(1), 2).unwrap();
        let mut model = ModelProto::parse_from_bytes(&bytes).unwrap();
        let input = &mut model.graph.mut_or_insert_default().input[0];
        let Some(type_proto::Value::TensorType(tensor)) = &mut input.type_.mut_or_insert_default().value
        else {
            panic!("a tensor");
        };
        for &place in params {
            tensor.shape.mut_or_insert_default().dim[place].value =
                Some(dimension::Value::DimParam("N".to_owned()));
        }
        model.write_to_bytes().unwrap()
    }

    #[test]
    fn an_open_batch_is_filled_in() {
        let fixed = with_definite_inputs(open_batch(&[0]), &[], 7).unwrap();
        let model = ModelProto::parse_from_bytes(&fixed).unwrap();
        assert!(format!("{:?}", model.graph.input[0]).contains('7'));
        assert_eq!(with_definite_inputs(open_batch(&[]), &[], 7).unwrap(), open_batch(&[]));
    }

    #[test]
    fn other_open_dimensions_want_a_shape() {
        let error = with_definite_inputs(open_batch(&[0, 2]), &[], 1).unwrap_err();
        assert_eq!(error, ModelFileError::OpenShape { input: "input".into(), shape: "Nx3xNx8".into() });
        let given = "input=1x3x8x8".parse().unwrap();
        assert!(with_definite_inputs(open_batch(&[0, 2]), &[given], 1).is_ok());
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let of =
            |text: &str| with_definite_inputs(open_batch(&[0]), &[text.parse().unwrap()], 1).unwrap_err();
        assert!(matches!(of("x=1x3x8x8"), ModelFileError::NoSuchInput { .. }));
        assert!(matches!(of("input=1x4x8x8"), ModelFileError::Contradiction { .. }));
        assert!("input=1x0".parse::<InputShape>().is_err());
    }

    #[test]
    fn what_is_not_onnx_is_refused() {
        for bytes in [&b""[..], b"not onnx at all", &[0xff; 64]] {
            assert_eq!(with_definite_inputs(bytes.to_vec(), &[], 1), Err(ModelFileError::NotOnnx));
        }
    }
}
