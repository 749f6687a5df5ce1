//! Parts of a tensor by place.

use tch::{Kind, TchError, Tensor};

use super::super::super::Trouble;
use super::super::node::Node;
use super::{Made, one};

pub(super) fn make(node: &Node<'_>) -> Result<Option<Made>, Trouble> {
    Ok(Some(match node.op() {
        "Gather" => gather(node)?,
        "Slice" => slice(node)?,
        "ScatterND" => scatter(node)?,
        _ => return Ok(None),
    }))
}

/// Rows by constant places are checked and counted from the front here; computed ones are taken as they are.
fn gather(node: &Node<'_>) -> Result<Made, Trouble> {
    let (mut dims, places) = (node.dims(0)?, node.given(1)?);
    let axis = node.axis(node.int("axis", 0), dims.len())?;
    let size = dims[axis as usize];
    let of_places = places.size();
    let is_flat = of_places.len() == 1;
    dims.splice(axis as usize..=axis as usize, of_places);
    if let Ok(Some(constant)) = node.constant(1) {
        let flat = constant.f_reshape([-1]).map_err(|error| node.broken(&error))?;
        let flat = counted(node, &flat, size)?;
        return Ok(if is_flat {
            one(move |x| x.get(0)?.f_index_select(axis, &flat))
        } else {
            one(move |x| x.get(0)?.f_index_select(axis, &flat)?.f_reshape(&dims))
        });
    }
    Ok(one(move |x| {
        let flat = x.get(1)?.f_reshape([-1])?;
        x.get(0)?.f_index_select(axis, &flat)?.f_reshape(&dims)
    }))
}

/// Places of an axis of that size, counted from its front.
fn counted(node: &Node<'_>, places: &Tensor, size: i64) -> Result<Tensor, Trouble> {
    if places.numel() == 0 {
        return Ok(places.shallow_clone());
    }
    let ends = || -> Result<(i64, i64), TchError> {
        Ok((i64::try_from(places.f_min()?)?, i64::try_from(places.f_max()?)?))
    };
    let (least, most) = ends().map_err(|error| node.broken(&error))?;
    if least < -size || most >= size {
        return Err(node.refuse(format!("place {} of {size}", if most >= size { most } else { least })));
    }
    if least >= 0 {
        return Ok(places.shallow_clone());
    }
    places.f_remainder(size).map_err(|error| node.broken(&error))
}

fn slice(node: &Node<'_>) -> Result<Made, Trouble> {
    let rank = node.given(0)?.dim();
    // Attributes before operator set 10.
    let either =
        |name: &str, place: usize| node.list(name).map_or_else(|| node.ints(place), |list| Ok(Some(list)));
    let missing = || node.refuse("it has no starts or ends");
    let starts = either("starts", 1)?.ok_or_else(missing)?;
    let ends = either("ends", 2)?.ok_or_else(missing)?;
    let axes = node.axes(3, rank)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = node.ints(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|&count| count != starts.len()) {
        return Err(node.refuse("starts, ends, axes and steps of different lengths"));
    }
    if steps.iter().any(|&step| step < 1) {
        return Err(node.refuse("a step below 1"));
    }
    let cuts: Vec<[i64; 4]> =
        (0..starts.len()).map(|cut| [axes[cut], starts[cut], ends[cut], steps[cut]]).collect();
    Ok(one(move |x| {
        let whole = x.get(0)?.shallow_clone();
        cuts.iter().try_fold(whole, |x, &[axis, start, end, step]| x.f_slice(axis, start, end, step))
    }))
}

/// Rows put, added or compared into a copy of the data, at constant places.
fn scatter(node: &Node<'_>) -> Result<Made, Trouble> {
    let data = node.dims(0)?;
    let rows = scattered_rows(node, &data)?;
    let depth = node.dims(1)?.last().copied().unwrap_or(0) as usize;
    let (lead, rest) = data.split_at(depth);
    let shape = |rows: i64| [&[rows], rest].concat();
    let (of_data, of_updates) = (shape(lead.iter().product()), shape(rows.numel() as i64));
    let put: fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor, TchError> = match node.word("reduction", "none")
    {
        "none" => |x, rows, updates| x.f_index_copy(0, rows, updates),
        "add" => |x, rows, updates| x.f_index_add(0, rows, updates),
        "max" => |x, rows, updates| x.f_index_reduce(0, rows, updates, "amax", true),
        "min" => |x, rows, updates| x.f_index_reduce(0, rows, updates, "amin", true),
        "mul" => |x, rows, updates| x.f_index_reduce(0, rows, updates, "prod", true),
        other => return Err(node.refuse(format!("reduction {other}"))),
    };
    Ok(one(move |x| {
        let (rows_of, updates) = (x.get(0)?.f_reshape(&of_data)?, x.get(2)?.f_reshape(&of_updates)?);
        put(&rows_of, &rows, &updates)?.f_reshape(&data)
    }))
}

/// The row that each update goes to, the leading axes of the data taken as one.
fn scattered_rows(node: &Node<'_>, data: &[i64]) -> Result<Tensor, Trouble> {
    let places = node.constant(1)?.ok_or_else(|| node.refuse("it has no places"))?;
    let depth = places.size().last().copied().unwrap_or(0);
    if depth < 1 || depth as usize > data.len() {
        return Err(node.refuse(format!("places of {depth} numbers in {data:?}")));
    }
    let broken = |error: TchError| node.broken(&error);
    let places = places.f_to_kind(Kind::Int64).and_then(|places| places.f_reshape([-1, depth]));
    let places = places.map_err(broken)?;
    let mut rows = places.f_select(1, 0).and_then(|row| row.f_zeros_like()).map_err(broken)?;
    for (axis, &size) in data.iter().enumerate().take(depth as usize) {
        let column = counted(node, &places.f_select(1, axis as i64).map_err(broken)?, size)?;
        rows = rows.f_mul_scalar(size).and_then(|rows| rows.f_add(&column)).map_err(broken)?;
    }
    Ok(rows)
}
