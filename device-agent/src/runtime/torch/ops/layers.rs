//! Operators with weights.

use tch::{TchError, Tensor};

use super::super::super::Trouble;
use super::super::node::Node;
use super::super::plan::Operands;
use super::pooling::Window;
use super::{Made, one};

pub(super) fn make(node: &Node<'_>) -> Result<Option<Made>, Trouble> {
    Ok(Some(match node.op() {
        "Conv" => conv(node)?,
        "Gemm" => gemm(node)?,
        "MatMul" => one(|x| x.get(0)?.f_matmul(x.get(1)?)),
        "BatchNormalization" => batch_norm(node)?,
        "LayerNormalization" => layer_norm(node)?,
        _ => return Ok(None),
    }))
}

fn conv(node: &Node<'_>) -> Result<Made, Trouble> {
    let kernel = node.dims(1)?.get(2..).map(<[i64]>::to_vec).unwrap_or_default();
    if node.given(0)?.dim() != kernel.len() + 2 || kernel.is_empty() {
        return Err(node.refuse(format!("an input of {:?} and a kernel of {kernel:?}", node.dims(0)?)));
    }
    let window = Window::of(node, kernel)?;
    let groups = node.int("group", 1);
    if groups < 1 {
        return Err(node.refuse(format!("{groups} groups")));
    }
    let Window { strides, dilations, pads, .. } = window;
    let none = vec![0; strides.len()];
    let run = move |x: &Tensor, operands: &Operands<'_>, pads: &[i64]| {
        let (weight, bias) = (operands.get(1)?, operands.find(2));
        x.f_convolution(weight, bias, &strides, pads, &dilations, false, &none, groups)
    };
    Ok(match pads.even() {
        Some(even) => one(move |x| run(x.get(0)?, x, &even)),
        // libtorch pads both sides alike; other pads go before it.
        None => {
            let none = vec![0; pads.sides()];
            one(move |x| run(&pads.put(x.get(0)?, 0.0)?, x, &none))
        }
    })
}

fn gemm(node: &Node<'_>) -> Result<Made, Trouble> {
    let (alpha, beta) = (node.float("alpha", 1.0), node.float("beta", 1.0));
    let (turn_a, turn_b) = (node.int("transA", 0) != 0, node.int("transB", 0) != 0);
    let plain_bias = !node.has(2) || (beta == 1.0 && node.given(2)?.dim() == 1);
    if alpha == 1.0 && !turn_a && turn_b && plain_bias {
        return Ok(one(|x| x.get(0)?.f_linear(x.get(1)?, x.find(2))));
    }
    let turned = |x: &Tensor, turn: bool| if turn { x.f_transpose(0, 1) } else { Ok(x.shallow_clone()) };
    Ok(one(move |x| {
        let product = turned(x.get(0)?, turn_a)?.f_matmul(&turned(x.get(1)?, turn_b)?)?;
        let product = if alpha == 1.0 { product } else { product.f_mul_scalar(alpha)? };
        match x.find(2) {
            Some(bias) if beta == 1.0 => product.f_add(bias),
            Some(bias) => product.f_add(&bias.f_mul_scalar(beta)?),
            None => Ok(product),
        }
    }))
}

fn batch_norm(node: &Node<'_>) -> Result<Made, Trouble> {
    if node.int("training_mode", 0) != 0 {
        return Err(node.refuse("it is in training mode"));
    }
    let epsilon = node.float("epsilon", 1e-5);
    Ok(one(move |x| {
        let [scale, shift, mean, variance] = [1, 2, 3, 4].map(|place| x.get(place));
        let (scale, shift) = (Some(scale?), Some(shift?));
        x.get(0)?.f_batch_norm(scale, shift, Some(mean?), Some(variance?), false, 0.0, epsilon, true)
    }))
}

fn layer_norm(node: &Node<'_>) -> Result<Made, Trouble> {
    let dims = node.dims(0)?;
    let axis = node.axis(node.int("axis", -1), dims.len())? as usize;
    let (shape, epsilon) = (dims[axis..].to_vec(), node.float("epsilon", 1e-5));
    Ok(one(move |x| -> Result<Tensor, TchError> {
        x.get(0)?.f_layer_norm(&shape, x.find(1), x.find(2), epsilon, true)
    }))
}
