//! Tensors between ONNX, bytes and libtorch.

use hanas_proto::fault::FaultCode;
use tch::{Device, Kind, TchError, Tensor};
use tract_onnx::data_resolver::FopenDataResolver;
use tract_onnx::pb;
use tract_onnx::prelude::{DatumType, Tensor as TractTensor};
use tract_onnx::tensor::load_tensor;

use super::super::Trouble;

/// What libtorch calls an element type; none where it is no number or boolean.
pub(super) fn kind_of(datum: DatumType) -> Option<Kind> {
    Some(match datum {
        DatumType::F16 => Kind::Half,
        DatumType::F32 => Kind::Float,
        DatumType::F64 => Kind::Double,
        DatumType::U8 => Kind::Uint8,
        DatumType::I8 => Kind::Int8,
        DatumType::I16 => Kind::Int16,
        DatumType::I32 => Kind::Int,
        DatumType::I64 => Kind::Int64,
        DatumType::Bool => Kind::Bool,
        _ => return None,
    })
}

/// `f32`, as ports are described.
pub(super) fn kind_name(kind: Kind) -> String {
    match kind {
        Kind::Half => "f16".to_owned(),
        Kind::Float => "f32".to_owned(),
        Kind::Double => "f64".to_owned(),
        Kind::Uint8 => "u8".to_owned(),
        Kind::Int8 => "i8".to_owned(),
        Kind::Int16 => "i16".to_owned(),
        Kind::Int => "i32".to_owned(),
        Kind::Int64 => "i64".to_owned(),
        kind => format!("{kind:?}").to_lowercase(),
    }
}

/// An ONNX tensor of numbers.
pub(super) fn of_onnx(tensor: &pb::TensorProto, device: Device) -> Result<Tensor, Trouble> {
    let refused = |what: &str| {
        Trouble::new(FaultCode::Unsupported, format!("tensor '{}' cannot be read: {what}", tensor.name))
    };
    // No path is given, so nothing is read from files.
    let read = load_tensor(&FopenDataResolver, tensor, None).map_err(|error| refused(&error.to_string()))?;
    of_tract(&read, device)?.ok_or_else(|| refused(&format!("it holds {:?}", read.datum_type())))
}

/// A tensor of tract's; none where it holds neither numbers nor booleans.
pub(super) fn of_tract(tensor: &TractTensor, device: Device) -> Result<Option<Tensor>, Trouble> {
    let Some(kind) = kind_of(tensor.datum_type()) else { return Ok(None) };
    of_bytes(kind, tensor.shape(), tensor.as_bytes(), device).map(Some)
}

/// A tensor of little-endian bytes, on the device.
pub(super) fn of_bytes(kind: Kind, shape: &[usize], bytes: &[u8], device: Device) -> Result<Tensor, Trouble> {
    let broken = |error: &TchError| failed("a tensor", error);
    if shape.iter().product::<usize>() * kind.elt_size_in_bytes() != bytes.len() {
        return Err(broken(&TchError::Shape(format!("{} bytes for {shape:?}", bytes.len()))));
    }
    let dims: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
    let made = Tensor::f_from_data_size(bytes, &dims, kind).and_then(|tensor| tensor.f_to_device(device));
    made.map_err(|error| broken(&error))
}

/// A tensor's bytes, little-endian.
pub(super) fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>, TchError> {
    let mut bytes = vec![0; tensor.numel() * tensor.f_kind()?.elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}

/// Whole numbers of a tensor, whatever its shape.
pub(super) fn ints_of(tensor: &Tensor) -> Result<Vec<i64>, TchError> {
    tensor.f_to_device(Device::Cpu)?.f_reshape([-1])?.try_into()
}

/// What libtorch says went wrong, and where.
pub(super) fn failed(place: &str, error: &TchError) -> Trouble {
    let text = match error {
        TchError::Torch(text) => text.clone(),
        error => error.to_string(),
    };
    let code = if is_memory(&text) { FaultCode::TooLarge } else { FaultCode::RunFailed };
    Trouble::new(code, format!("{place}: {}", text.lines().next().unwrap_or_default()))
}

/// Whether memory was short, of the processor or of the GPU.
fn is_memory(text: &str) -> bool {
    ["can't allocate memory", "out of memory"].iter().any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_memory_is_told_from_other_trouble() {
        let short = TchError::Torch("DefaultCPUAllocator: can't allocate memory: 9\nbacktrace".to_owned());
        let trouble = failed("Expand 'a'", &short);
        assert_eq!(trouble.code, FaultCode::TooLarge);
        assert_eq!(trouble.text, "Expand 'a': DefaultCPUAllocator: can't allocate memory: 9");
        assert_eq!(failed("Add 'a'", &TchError::Shape("1 and 2".to_owned())).code, FaultCode::RunFailed);
    }

    #[test]
    fn bytes_come_back() {
        let bytes: Vec<u8> = [1.5f32, -2.0, 0.25].iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = of_bytes(Kind::Float, &[3, 1], &bytes, Device::Cpu).unwrap();
        assert_eq!((tensor.size(), bytes_of(&tensor).unwrap()), (vec![3, 1], bytes));
        assert!(of_bytes(Kind::Float, &[3, 1], &[0; 11], Device::Cpu).is_err());
    }
}
