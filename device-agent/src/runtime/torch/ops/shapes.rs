//! Other shapes, the same values; and constants. All shapes are known when a model is loaded.

use tch::Tensor;

use super::super::super::Trouble;
use super::super::node::Node;
use super::super::plan::Act;
use super::super::values::of_onnx;
use super::{Made, one};

pub(super) fn make(node: &Node<'_>) -> Result<Option<Made>, Trouble> {
    Ok(Some(match node.op() {
        "Reshape" => to_shape(reshape(node)?),
        "Flatten" => to_shape(flatten(node)?),
        "Squeeze" => to_shape(squeeze(node)?),
        "Unsqueeze" => to_shape(unsqueeze(node)?),
        "Expand" => expand(node)?,
        "Transpose" => transpose(node)?,
        "Concat" => {
            let axis = node.axis(node.int("axis", 0), node.given(0)?.dim())?;
            one(move |x| Tensor::f_cat(&x.all()?, axis))
        }
        "Split" => split(node)?,
        "Pad" => pad(node)?,
        "Shape" => shape(node)?,
        "Constant" => constant(node)?,
        "ConstantOfShape" => constant_of_shape(node)?,
        _ => return Ok(None),
    }))
}

fn to_shape(dims: Vec<i64>) -> Made {
    one(move |x| x.get(0)?.f_reshape(&dims))
}

fn needed(node: &Node<'_>, place: usize, what: &str) -> Result<Vec<i64>, Trouble> {
    node.ints(place)?.ok_or_else(|| node.refuse(format!("it has no {what}")))
}

/// 0 stands for the same as before, -1 for what is left.
fn reshape(node: &Node<'_>) -> Result<Vec<i64>, Trouble> {
    let given = node.dims(0)?;
    let mut dims = needed(node, 1, "shape")?;
    if node.int("allowzero", 0) == 0 {
        for (place, dim) in dims.iter_mut().enumerate().filter(|(_, dim)| **dim == 0) {
            *dim = *given.get(place).ok_or_else(|| node.refuse("a 0 beyond its operand's shape"))?;
        }
    }
    Ok(dims)
}

fn flatten(node: &Node<'_>) -> Result<Vec<i64>, Trouble> {
    let dims = node.dims(0)?;
    let axis = node.int("axis", 1);
    // Here an axis may lie after the last.
    let axis = if axis == dims.len() as i64 { dims.len() } else { node.axis(axis, dims.len())? as usize };
    let (front, back) = dims.split_at(axis);
    Ok(vec![front.iter().product(), back.iter().product()])
}

fn squeeze(node: &Node<'_>) -> Result<Vec<i64>, Trouble> {
    let dims = node.dims(0)?;
    let axes = node.axes(1, dims.len())?;
    let is_left = |place: usize, dim: i64| match &axes {
        Some(axes) => !axes.contains(&(place as i64)),
        None => dim != 1,
    };
    let left = dims.iter().enumerate().filter(|&(place, &dim)| is_left(place, dim));
    Ok(left.map(|(_, &dim)| dim).collect())
}

fn unsqueeze(node: &Node<'_>) -> Result<Vec<i64>, Trouble> {
    let mut given = node.dims(0)?.into_iter();
    let count = match node.list("axes") {
        Some(axes) => axes.len(),
        None => needed(node, 1, "axes")?.len(),
    };
    let rank = given.len() + count;
    let axes = node.axes(1, rank)?.unwrap_or_default();
    let dims = (0..rank as i64).map(|place| if axes.contains(&place) { Some(1) } else { given.next() });
    dims.collect::<Option<_>>().ok_or_else(|| node.refuse(format!("the axes {axes:?}")))
}

/// To a shape that both, by the rules of broadcasting, fit.
fn expand(node: &Node<'_>) -> Result<Made, Trouble> {
    let (given, asked) = (node.dims(0)?, needed(node, 1, "shape")?);
    let rank = given.len().max(asked.len());
    let at = |dims: &[i64], place: usize| {
        (place + dims.len()).checked_sub(rank).and_then(|place| dims.get(place)).copied().unwrap_or(1)
    };
    let dims: Vec<i64> = (0..rank)
        .map(|place| match (at(&given, place), at(&asked, place)) {
            (1, asked) => asked,
            (given, _) => given,
        })
        .collect();
    Ok(one(move |x| x.get(0)?.f_expand(&dims, false)))
}

fn transpose(node: &Node<'_>) -> Result<Made, Trouble> {
    let rank = node.given(0)?.dim();
    let order = node.list("perm").unwrap_or_else(|| (0..rank as i64).rev().collect());
    Ok(one(move |x| x.get(0)?.f_permute(&order)))
}

/// A view for each output.
fn split(node: &Node<'_>) -> Result<Made, Trouble> {
    let dims = node.dims(0)?;
    let axis = node.axis(node.int("axis", 0), dims.len())?;
    let (whole, count) = (dims[axis as usize], node.proto.output.len() as i64);
    let sizes = match node.list("split").map_or_else(|| node.ints(1), |sizes| Ok(Some(sizes)))? {
        Some(sizes) => sizes,
        // Alike, but for the last.
        None => {
            let size = (whole + count - 1) / count.max(1);
            (0..count).map(|place| size.min(whole - place * size)).collect()
        }
    };
    if sizes.iter().any(|&size| size < 0) || sizes.iter().sum::<i64>() != whole {
        return Err(node.refuse(format!("{whole} into {sizes:?}")));
    }
    let mut start = 0;
    let acts = sizes.into_iter().map(|size| {
        let own = start;
        start += size;
        let act: Act = Box::new(move |x| x.get(0)?.f_narrow(axis, own, size));
        act
    });
    Ok(Made::Acts(acts.collect()))
}

fn pad(node: &Node<'_>) -> Result<Made, Trouble> {
    let rank = node.given(0)?.dim();
    let pads = match node.list("pads") {
        Some(pads) => pads,
        None => needed(node, 1, "pads")?,
    };
    let axes = match node.ints(3)? {
        Some(axes) => axes.into_iter().map(|axis| node.axis(axis, rank)).collect::<Result<_, _>>()?,
        None => (0..rank as i64).collect::<Vec<i64>>(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(node.refuse(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    // libtorch wants the last axis first, and both of its ends together.
    let mut turned = vec![0; 2 * rank];
    for (place, &axis) in axes.iter().enumerate() {
        let own = 2 * (rank - 1 - axis as usize);
        (turned[own], turned[own + 1]) = (pads[place], pads[place + axes.len()]);
    }
    let mode = match node.word("mode", "constant") {
        "constant" => "constant",
        "reflect" => "reflect",
        "edge" => "replicate",
        other => return Err(node.refuse(format!("mode {other}"))),
    };
    if mode != "constant" {
        // Only the last axes can be filled from the map itself.
        while turned.len() > 2 && turned.ends_with(&[0, 0]) {
            turned.truncate(turned.len() - 2);
        }
    }
    let value = node.number(2)?.unwrap_or_else(|| node.float("value", 0.0));
    let value = (mode == "constant").then_some(value);
    Ok(one(move |x| x.get(0)?.f_pad(&turned, mode, value)))
}

fn shape(node: &Node<'_>) -> Result<Made, Trouble> {
    let dims = node.dims(0)?;
    let rank = dims.len() as i64;
    let place = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (place(node.int("start", 0)), place(node.int("end", rank)));
    let part = dims.get(start..end.max(start)).unwrap_or_default();
    let made = Tensor::f_from_slice(part).and_then(|part| part.f_to_device(node.device));
    made.map(Made::Constant).map_err(|error| node.broken(&error))
}

fn constant(node: &Node<'_>) -> Result<Made, Trouble> {
    if let Some(tensor) = node.tensor("value") {
        return of_onnx(tensor, node.device).map(Made::Constant);
    }
    let names = ["value_float", "value_int", "value_floats", "value_ints"];
    let made = names.into_iter().find_map(|name| node.numbers(name));
    let made = made.ok_or_else(|| node.refuse("its value is no tensor of numbers"))?;
    made.map(Made::Constant).map_err(|error| node.broken(&error))
}

fn constant_of_shape(node: &Node<'_>) -> Result<Made, Trouble> {
    let dims = needed(node, 0, "shape")?;
    let value = match node.tensor("value") {
        Some(tensor) => of_onnx(tensor, node.device)?,
        None => Tensor::from(0f32).to_device(node.device),
    };
    let made = value.f_reshape([1]).and_then(|one| {
        let one = if dims.is_empty() { one.f_reshape([0i64; 0])? } else { one };
        one.f_expand(&dims, false)?.f_contiguous()
    });
    made.map(Made::Constant).map_err(|error| node.broken(&error))
}
