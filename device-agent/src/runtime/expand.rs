//! Prepares an ONNX graph for the runtime: a graph in, the same graph whole and closed out.
//!
//! Profiling models carry no weights but `RandomNormal` and `RandomUniform` nodes with a seed. They are
//! drawn here and become initializers, so that the runtime optimises what it would with real weights.
//! What points outside of the model's own bytes is refused, and a free batch size becomes 1.

use hanas_proto::fault::FaultCode;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;

use super::Trouble;

/// Depth to which graphs are looked into: an `If` in a `Loop` in ...
const MAX_DEPTH: usize = 32;

/// Refuses tensors whose data lies in files.
///
/// # Errors
/// [`Trouble`] that names the tensor.
pub fn refuse_external(graph: &pb::GraphProto) -> Result<(), Trouble> {
    walk(graph, 0)
}

fn walk(graph: &pb::GraphProto, depth: usize) -> Result<(), Trouble> {
    if depth > MAX_DEPTH {
        return Err(Trouble::new(FaultCode::Unsupported, "graphs are nested too deeply"));
    }
    graph.initializer.iter().try_for_each(is_inside)?;
    for sparse in &graph.sparse_initializer {
        sparse.values.iter().chain(&sparse.indices).try_for_each(is_inside)?;
    }
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        attribute.t.iter().chain(&attribute.tensors).try_for_each(is_inside)?;
        attribute.g.iter().chain(&attribute.graphs).try_for_each(|inner| walk(inner, depth + 1))?;
        for sparse in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
            sparse.values.iter().chain(&sparse.indices).try_for_each(is_inside)?;
        }
    }
    Ok(())
}

fn is_inside(tensor: &pb::TensorProto) -> Result<(), Trouble> {
    let named = tensor.data_location == Some(DataLocation::External as i32);
    if named || !tensor.external_data.is_empty() {
        let text = format!("tensor '{}' keeps its data in another file; put it into the model", tensor.name);
        return Err(Trouble::new(FaultCode::Unsupported, text));
    }
    Ok(())
}

/// Sets the first dimension of every input to 1 where it is not a number.
pub fn fix_batch(graph: &mut pb::GraphProto) {
    for input in &mut graph.input {
        let Some(pb::type_proto::Value::TensorType(tensor)) =
            input.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        else {
            continue;
        };
        if let Some(batch) = tensor.shape.as_mut().and_then(|shape| shape.dim.first_mut())
            && !matches!(batch.value, Some(DimValue::DimValue(size)) if size > 0)
        {
            batch.value = Some(DimValue::DimValue(1));
        }
    }
}

/// Draws every random node and makes it an initializer; at most `max_bytes` in all.
///
/// # Errors
/// [`Trouble`] where there would be more, or an element type is not float or double.
pub fn draw_weights(graph: &mut pb::GraphProto, max_bytes: u64) -> Result<(), Trouble> {
    let (random, rest): (Vec<_>, Vec<_>) =
        std::mem::take(&mut graph.node).into_iter().partition(|node| Distribution::of(node).is_some());
    graph.node = rest;
    let mut room = max_bytes;
    for (place, node) in random.iter().enumerate() {
        let bytes = size(node)?;
        room = room.checked_sub(bytes).ok_or_else(|| {
            let text = format!("the model's random weights are more than {max_bytes} bytes");
            Trouble::new(FaultCode::TooLarge, text)
        })?;
        graph.initializer.push(draw(node, place)?);
    }
    Ok(())
}

/// What a node draws from.
enum Distribution {
    Normal { mean: f32, scale: f32 },
    Uniform { low: f32, high: f32 },
}

impl Distribution {
    fn of(node: &pb::NodeProto) -> Option<Self> {
        let number = |name, default| attribute(node, name).map_or(default, |attribute| attribute.f);
        match (&node.op_type[..], &node.domain[..]) {
            ("RandomNormal", "" | "ai.onnx") => {
                Some(Self::Normal { mean: number("mean", 0.0), scale: number("scale", 1.0) })
            }
            ("RandomUniform", "" | "ai.onnx") => {
                Some(Self::Uniform { low: number("low", 0.0), high: number("high", 1.0) })
            }
            _ => None,
        }
    }
}

fn attribute<'n>(node: &'n pb::NodeProto, name: &str) -> Option<&'n pb::AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

fn dims(node: &pb::NodeProto) -> &[i64] {
    attribute(node, "shape").map_or(&[], |attribute| &attribute.ints)
}

fn is_double(node: &pb::NodeProto) -> Result<bool, Trouble> {
    match attribute(node, "dtype").map_or(DataType::Float as i64, |attribute| attribute.i) {
        kind if kind == DataType::Float as i64 => Ok(false),
        kind if kind == DataType::Double as i64 => Ok(true),
        kind => Err(Trouble::new(FaultCode::Unsupported, format!("random values of ONNX type {kind}"))),
    }
}

fn size(node: &pb::NodeProto) -> Result<u64, Trouble> {
    let element = if is_double(node)? { 8 } else { 4 };
    dims(node)
        .iter()
        .try_fold(element, |bytes: u64, &dim| bytes.checked_mul(u64::try_from(dim).ok()?))
        .ok_or_else(|| {
            Trouble::new(FaultCode::TooLarge, format!("a random tensor of shape {:?}", dims(node)))
        })
}

fn draw(node: &pb::NodeProto, place: usize) -> Result<pb::TensorProto, Trouble> {
    let double = is_double(node)?;
    let count: usize = dims(node).iter().map(|&dim| dim as usize).product();
    // ONNX lets a node without a seed draw anything: its place in the graph, so that it is the same again.
    let seed = attribute(node, "seed").map_or(place as u64, |attribute| u64::from(attribute.f.to_bits()));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut raw_data = Vec::with_capacity(count * if double { 8 } else { 4 });
    let mut push = |value: f32| {
        if double {
            raw_data.extend_from_slice(&f64::from(value).to_le_bytes());
        } else {
            raw_data.extend_from_slice(&value.to_le_bytes());
        }
    };
    match Distribution::of(node) {
        Some(Distribution::Normal { mean, scale }) => {
            for pair in 0..count.div_ceil(2) {
                let (first, second) = normal_pair(&mut rng);
                push(first.mul_add(scale, mean));
                if 2 * pair + 1 < count {
                    push(second.mul_add(scale, mean));
                }
            }
        }
        Some(Distribution::Uniform { low, high }) => {
            for _ in 0..count {
                push(rng.random::<f32>().mul_add(high - low, low));
            }
        }
        None => {}
    }
    Ok(pb::TensorProto {
        name: node.output.first().cloned().unwrap_or_default(),
        dims: dims(node).to_vec(),
        data_type: if double { DataType::Double } else { DataType::Float } as i32,
        raw_data,
        ..pb::TensorProto::default()
    })
}

/// Two independent standard normals (Box and Muller 1958).
fn normal_pair(rng: &mut ChaCha8Rng) -> (f32, f32) {
    // From (0, 1]: the logarithm of zero is none.
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    let (sin, cos) = (std::f32::consts::TAU * rng.random::<f32>()).sin_cos();
    (radius * cos, radius * sin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(op: &str, shape: &[i64], floats: &[(&str, f32)]) -> pb::NodeProto {
        let named =
            |name: &str| pb::AttributeProto { name: name.to_owned(), ..pb::AttributeProto::default() };
        let mut attribute = vec![pb::AttributeProto { ints: shape.to_vec(), ..named("shape") }];
        attribute.extend(floats.iter().map(|(name, value)| pb::AttributeProto { f: *value, ..named(name) }));
        pb::NodeProto {
            op_type: op.to_owned(),
            output: vec!["w".to_owned()],
            attribute,
            ..pb::NodeProto::default()
        }
    }

    fn drawn(node: pb::NodeProto) -> Vec<f32> {
        let mut graph = pb::GraphProto { node: vec![node], ..pb::GraphProto::default() };
        draw_weights(&mut graph, 1 << 20).unwrap();
        assert!(graph.node.is_empty());
        let bytes = &graph.initializer[0].raw_data;
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    #[test]
    fn normals_have_the_mean_and_scale_asked_for() {
        let values =
            drawn(random("RandomNormal", &[101, 99], &[("mean", 3.0), ("scale", 0.5), ("seed", 1.0)]));
        let n = values.len() as f32;
        let mean = values.iter().sum::<f32>() / n;
        let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
        // Five standard errors of the mean, and of the deviation.
        assert_eq!(values.len(), 9999);
        assert!((mean - 3.0).abs() < 5.0 * 0.5 / n.sqrt(), "{mean}");
        assert!((sd - 0.5).abs() < 5.0 * 0.5 / (2.0 * n).sqrt(), "{sd}");
    }

    #[test]
    fn uniforms_keep_to_their_range_and_seeds_matter() {
        let node = |seed| random("RandomUniform", &[1000], &[("low", -2.0), ("high", 5.0), ("seed", seed)]);
        let values = drawn(node(1.0));
        assert!(values.iter().all(|v| (-2.0..5.0).contains(v)));
        assert!(values.iter().any(|v| *v < -1.9) && values.iter().any(|v| *v > 4.9));
        assert_eq!(drawn(node(1.0)), values);
        assert_ne!(drawn(node(2.0)), values);
    }

    #[test]
    fn the_cap_holds_before_anything_is_drawn() {
        for shape in [&[1 << 18, 1 << 18][..], &[i64::MAX, i64::MAX], &[-1], &[513, 512]] {
            let node = random("RandomNormal", shape, &[]);
            let mut graph = pb::GraphProto { node: vec![node], ..pb::GraphProto::default() };
            let trouble = draw_weights(&mut graph, 1 << 20).unwrap_err();
            assert_eq!(trouble.code, FaultCode::TooLarge, "{shape:?}");
        }
    }

    #[test]
    fn data_in_other_files_is_refused_wherever_it_hides() {
        let outside = pb::TensorProto {
            name: "w".to_owned(),
            data_location: Some(DataLocation::External as i32),
            ..pb::TensorProto::default()
        };
        let inner = pb::GraphProto { initializer: vec![outside], ..pb::GraphProto::default() };
        assert!(refuse_external(&inner).is_err());
        let attribute = pb::AttributeProto { g: Some(inner), ..pb::AttributeProto::default() };
        let node = pb::NodeProto { attribute: vec![attribute], ..pb::NodeProto::default() };
        let outer = pb::GraphProto { node: vec![node], ..pb::GraphProto::default() };
        assert!(refuse_external(&outer).unwrap_err().text.contains("'w'"));
    }
}
