//! Over axes.

use tch::{TchError, Tensor};

use super::super::super::Trouble;
use super::super::node::Node;
use super::{Made, one};

/// The operator set since which a softmax is along one axis.
const SOFTMAX_OF_ONE_AXIS: i64 = 13;

pub(super) fn make(node: &Node<'_>) -> Result<Option<Made>, Trouble> {
    let reduce: fn(&Tensor, &[i64], bool) -> Result<Tensor, TchError> = match node.op() {
        // The sum of a narrow kind stays of that kind.
        "ReduceSum" => |x, axes, keep| x.f_sum_dim_intlist(axes, keep, x.f_kind()?),
        "ReduceMean" => |x, axes, keep| x.f_mean_dim(axes, keep, None),
        "ReduceMax" => |x, axes, keep| x.f_amax(axes, keep),
        "ReduceMin" => |x, axes, keep| x.f_amin(axes, keep),
        "Softmax" => {
            let axis = softmax_axis(node)?;
            return Ok(Some(one(move |x| x.get(0)?.f_softmax(axis, None))));
        }
        "LogSoftmax" => {
            let axis = softmax_axis(node)?;
            return Ok(Some(one(move |x| x.get(0)?.f_log_softmax(axis, None))));
        }
        _ => return Ok(None),
    };
    let rank = node.given(0)?.dim();
    let keep = node.int("keepdims", 1) != 0;
    let axes = node.axes(1, rank)?.filter(|axes| !axes.is_empty());
    let axes = match axes {
        Some(axes) => axes,
        None if node.int("noop_with_empty_axes", 0) != 0 => {
            return Ok(Some(one(|x| Ok(x.get(0)?.shallow_clone()))));
        }
        None => (0..rank as i64).collect(),
    };
    Ok(Some(one(move |x| reduce(x.get(0)?, &axes, keep))))
}

fn softmax_axis(node: &Node<'_>) -> Result<i64, Trouble> {
    let rank = node.given(0)?.dim();
    let default = if node.opset >= SOFTMAX_OF_ONE_AXIS { -1 } else { 1 };
    let axis = node.axis(node.int("axis", default), rank)?;
    // Before, it was over all axes from that one on.
    if node.opset < SOFTMAX_OF_ONE_AXIS && axis + 1 != rank as i64 {
        return Err(node.refuse(format!("operator set {} over several axes", node.opset)));
    }
    Ok(axis)
}
