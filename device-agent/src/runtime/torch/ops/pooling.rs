//! Windows over maps: what convolutions and pools have in common, and the pools.

use tch::{TchError, Tensor};

use super::super::super::Trouble;
use super::super::node::Node;
use super::{Made, one};

/// How a window moves over a map.
pub(super) struct Window {
    pub(super) kernel: Vec<i64>,
    pub(super) strides: Vec<i64>,
    pub(super) dilations: Vec<i64>,
    pub(super) pads: Pads,
}

/// Values added around a map: before and after, for each of its sides.
pub(super) struct Pads {
    before: Vec<i64>,
    after: Vec<i64>,
}

impl Pads {
    /// Pads that are alike on both ends of every side.
    pub(super) fn even(&self) -> Option<Vec<i64>> {
        (self.before == self.after).then(|| self.before.clone())
    }

    /// How many sides the map has.
    pub(super) const fn sides(&self) -> usize {
        self.before.len()
    }

    /// The map with that value around it.
    pub(super) fn put(&self, x: &Tensor, value: f64) -> Result<Tensor, TchError> {
        // The last side comes first.
        let sides = self.before.iter().zip(&self.after).rev();
        let pads: Vec<i64> = sides.flat_map(|(&before, &after)| [before, after]).collect();
        x.f_pad(pads, "constant", value)
    }
}

impl Window {
    /// The window of a node on its first operand.
    pub(super) fn of(node: &Node<'_>, kernel: Vec<i64>) -> Result<Self, Trouble> {
        let sides = kernel.len();
        let strides = node.list_of("strides", sides, 1)?;
        let dilations = node.list_of("dilations", sides, 1)?;
        if kernel.iter().chain(&strides).chain(&dilations).any(|&number| number < 1) {
            return Err(node.refuse("a kernel, stride or dilation below 1"));
        }
        let pads = match node.word("auto_pad", "NOTSET") {
            "NOTSET" | "" => {
                let pads = node.list_of("pads", 2 * sides, 0)?;
                let (before, after) = pads.split_at(sides);
                Pads { before: before.to_vec(), after: after.to_vec() }
            }
            "VALID" => Pads { before: vec![0; sides], after: vec![0; sides] },
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                let dims = node.dims(0)?;
                let all = (0..sides).map(|side| {
                    let (size, stride) = (dims.get(side + 2).copied().unwrap_or(1), strides[side]);
                    let reach = (kernel[side] - 1) * dilations[side] + 1;
                    (((size - 1) / stride) * stride + reach - size).max(0)
                });
                let all: Vec<i64> = all.collect();
                let less = all.iter().map(|all| all / 2).collect();
                let more = all.iter().map(|all| all - all / 2).collect();
                let (before, after) = if same == "SAME_UPPER" { (less, more) } else { (more, less) };
                Pads { before, after }
            }
            other => return Err(node.refuse(format!("auto_pad {other}"))),
        };
        Ok(Self { kernel, strides, dilations, pads })
    }
}

pub(super) fn make(node: &Node<'_>) -> Result<Option<Made>, Trouble> {
    Ok(Some(match node.op() {
        "AveragePool" => average_pool(node)?,
        "MaxPool" => max_pool(node)?,
        "GlobalAveragePool" => {
            let sides = sides(node)?;
            one(move |x| x.get(0)?.f_mean_dim(&sides, true, None))
        }
        "GlobalMaxPool" => {
            let sides = sides(node)?;
            one(move |x| x.get(0)?.f_amax(&sides, true))
        }
        _ => return Ok(None),
    }))
}

/// A map's sides, which come after batch and channels.
fn sides(node: &Node<'_>) -> Result<Vec<i64>, Trouble> {
    Ok((2..node.given(0)?.dim() as i64).collect())
}

/// A pool's window; libtorch's are of two sides.
fn window(node: &Node<'_>) -> Result<Window, Trouble> {
    let kernel = node.list("kernel_shape").unwrap_or_default();
    if kernel.len() != 2 || node.given(0)?.dim() != 4 {
        return Err(node.refuse(format!("a kernel of {kernel:?} on {:?}", node.dims(0)?)));
    }
    Window::of(node, kernel)
}

fn average_pool(node: &Node<'_>) -> Result<Made, Trouble> {
    let Window { kernel, strides, dilations, pads } = window(node)?;
    if dilations.iter().any(|&dilation| dilation != 1) {
        return Err(node.refuse("a dilated average"));
    }
    let (ceil, count_pads) = (node.int("ceil_mode", 0) != 0, node.int("count_include_pad", 0) != 0);
    let Some(even) = pads.even() else {
        return Err(node.refuse("pads that differ on both ends"));
    };
    Ok(one(move |x| x.get(0)?.f_avg_pool2d(&kernel, &strides, &even, ceil, count_pads, None)))
}

fn max_pool(node: &Node<'_>) -> Result<Made, Trouble> {
    let Window { kernel, strides, dilations, pads } = window(node)?;
    let ceil = node.int("ceil_mode", 0) != 0;
    let run = move |x: &Tensor, pads: &[i64]| x.f_max_pool2d(&kernel, &strides, pads, &dilations, ceil);
    Ok(match pads.even() {
        Some(even) => one(move |x| run(x.get(0)?, &even)),
        None => one(move |x| run(&pads.put(x.get(0)?, f64::NEG_INFINITY)?, &[0, 0])),
    })
}
