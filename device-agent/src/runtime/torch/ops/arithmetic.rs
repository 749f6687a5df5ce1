//! Element by element.

use tch::{Kind, TchError, Tensor};

use super::super::super::Trouble;
use super::super::node::Node;
use super::{Made, one};

type Unary = fn(&Tensor) -> Result<Tensor, TchError>;
type Binary = fn(&Tensor, &Tensor) -> Result<Tensor, TchError>;

pub(super) fn make(node: &Node<'_>) -> Result<Option<Made>, Trouble> {
    let op = node.op();
    if let Some(act) = unary(op) {
        return Ok(Some(one(move |x| act(x.get(0)?))));
    }
    if let Some(act) = binary(op) {
        return Ok(Some(one(move |x| act(x.get(0)?, x.get(1)?))));
    }
    if let Some(act) = folded(op) {
        return Ok(Some(fold(act)));
    }
    Ok(Some(match op {
        "Div" => divide(node)?,
        "Pow" => power(node)?,
        "Clip" => clip(node)?,
        "LeakyRelu" => leaky_relu(node)?,
        "Elu" => elu(node),
        "HardSigmoid" => hard_sigmoid(node),
        "Where" => one(|x| x.get(1)?.f_where_self(x.get(0)?, x.get(2)?)),
        "Cast" => cast(node)?,
        // At inference a dropout passes everything on.
        "Identity" | "Dropout" => one(|x| Ok(x.get(0)?.shallow_clone())),
        _ => return Ok(None),
    }))
}

fn unary(op: &str) -> Option<Unary> {
    Some(match op {
        "Relu" => Tensor::f_relu,
        "Sigmoid" => Tensor::f_sigmoid,
        "Tanh" => Tensor::f_tanh,
        "Softplus" => Tensor::f_softplus,
        "HardSwish" => Tensor::f_hardswish,
        "Exp" => Tensor::f_exp,
        "Log" => Tensor::f_log,
        "Sqrt" => Tensor::f_sqrt,
        "Reciprocal" => Tensor::f_reciprocal,
        "Neg" => Tensor::f_neg,
        "Abs" => Tensor::f_abs,
        "Erf" => Tensor::f_erf,
        "Not" => Tensor::f_logical_not,
        _ => return None,
    })
}

fn binary(op: &str) -> Option<Binary> {
    Some(match op {
        "Add" => Tensor::f_add,
        "Sub" => Tensor::f_sub,
        "Mul" => Tensor::f_mul,
        "Equal" => Tensor::f_eq_tensor,
        "Less" => Tensor::f_lt_tensor,
        "Greater" => Tensor::f_gt_tensor,
        _ => return None,
    })
}

/// Operators of any number of operands.
fn folded(op: &str) -> Option<Binary> {
    Some(match op {
        "Max" => Tensor::f_maximum,
        "Min" => Tensor::f_minimum,
        "Sum" => Tensor::f_add,
        _ => return None,
    })
}

fn fold(act: Binary) -> Made {
    one(move |x| {
        let first = x.get(0)?.shallow_clone();
        x.all()?.into_iter().skip(1).try_fold(first, |so_far, next| act(&so_far, next))
    })
}

/// Whole numbers are divided as in C.
fn divide(node: &Node<'_>) -> Result<Made, Trouble> {
    Ok(if node.is_int(0)? {
        one(|x| x.get(0)?.f_div_tensor_mode(x.get(1)?, "trunc"))
    } else {
        one(|x| x.get(0)?.f_div(x.get(1)?))
    })
}

/// The result is of the base's kind.
fn power(node: &Node<'_>) -> Result<Made, Trouble> {
    let kind = node.given(0)?.kind();
    if node.given(1)?.numel() == 1
        && let Ok(Some(exponent)) = node.number(1)
    {
        return Ok(one(move |x| x.get(0)?.f_pow_tensor_scalar(exponent)?.f_to_kind(kind)));
    }
    Ok(one(move |x| x.get(0)?.f_pow(x.get(1)?)?.f_to_kind(kind)))
}

/// Limits are operands since operator set 11, attributes before.
fn clip(node: &Node<'_>) -> Result<Made, Trouble> {
    let limit = |place, name, none: f32| {
        let given = node.number(place)?;
        Ok::<f64, Trouble>(given.unwrap_or_else(|| node.float(name, none)))
    };
    let (low, high) = (limit(1, "min", f32::NEG_INFINITY)?, limit(2, "max", f32::INFINITY)?);
    if node.is_int(0)? {
        let kind = node.given(0)?.kind();
        return Ok(one(move |x| x.get(0)?.f_clamp(low, high)?.f_to_kind(kind)));
    }
    Ok(one(move |x| x.get(0)?.f_clamp(low, high)))
}

/// tch gives `leaky_relu` no slope; a `prelu` of one slope is the same.
fn leaky_relu(node: &Node<'_>) -> Result<Made, Trouble> {
    let kind = node.given(0)?.kind();
    let slope = Tensor::f_full([1], node.float("alpha", 0.01), (kind, node.device));
    let slope = slope.map_err(|error| node.broken(&error))?;
    Ok(one(move |x| x.get(0)?.f_prelu(&slope)))
}

/// tch gives `elu` no factor.
fn elu(node: &Node<'_>) -> Made {
    let alpha = node.float("alpha", 1.0);
    if alpha == 1.0 {
        return one(|x| x.get(0)?.f_elu());
    }
    one(move |x| {
        let x = x.get(0)?;
        x.f_clamp_min(0.0)?.f_add(&x.f_clamp_max(0.0)?.f_expm1()?.f_mul_scalar(alpha)?)
    })
}

fn hard_sigmoid(node: &Node<'_>) -> Made {
    let (alpha, beta) = (node.float("alpha", 0.2), node.float("beta", 0.5));
    // What PyTorch exports: its own.
    if (alpha - 1.0 / 6.0).abs() < 1e-6 && beta == 0.5 {
        return one(|x| x.get(0)?.f_hardsigmoid());
    }
    one(move |x| x.get(0)?.f_mul_scalar(alpha)?.f_add_scalar(beta)?.f_clamp(0.0, 1.0))
}

fn cast(node: &Node<'_>) -> Result<Made, Trouble> {
    use tract_onnx::pb::tensor_proto::DataType;
    let to = node.int("to", 0);
    let known = i32::try_from(to).ok().and_then(|to| DataType::try_from(to).ok());
    let kind = match known {
        Some(DataType::Float) => Kind::Float,
        Some(DataType::Double) => Kind::Double,
        Some(DataType::Float16) => Kind::Half,
        Some(DataType::Int64) => Kind::Int64,
        Some(DataType::Int32) => Kind::Int,
        Some(DataType::Int8) => Kind::Int8,
        Some(DataType::Uint8) => Kind::Uint8,
        Some(DataType::Bool) => Kind::Bool,
        _ => return Err(node.refuse(format!("ONNX type {to} is not supported"))),
    };
    Ok(one(move |x| x.get(0)?.f_to_kind(kind)))
}
