//! An operator of the graph as it is prepared: its attributes, and its operands as a trial run gave them.

use std::fmt::Display;

use hanas_proto::fault::FaultCode;
use tch::{Device, Kind, TchError, Tensor};
use tract_onnx::pb;

use super::super::Trouble;
use super::values::{failed, ints_of};

/// An operand.
pub(super) struct Operand<'a> {
    /// Its value: the real one where it is constant, else one of the same kind and shape.
    pub(super) tensor: &'a Tensor,
    /// Whether every run gives this value.
    pub(super) constant: bool,
}

/// An operator and what it is given.
pub(super) struct Node<'a> {
    pub(super) proto: &'a pb::NodeProto,
    /// Version of the operator set.
    pub(super) opset: i64,
    pub(super) operands: Vec<Option<Operand<'a>>>,
    pub(super) device: Device,
}

impl<'a> Node<'a> {
    /// The operator's kind.
    pub(super) fn op(&self) -> &'a str {
        &self.proto.op_type
    }

    /// Trouble with this operator.
    pub(super) fn refuse(&self, what: impl Display) -> Trouble {
        Trouble::new(FaultCode::Unsupported, format!("{} '{}': {what}", self.op(), name_of(self.proto)))
    }

    /// What libtorch says of this operator.
    pub(super) fn broken(&self, error: &TchError) -> Trouble {
        failed(&format!("{} '{}'", self.op(), name_of(self.proto)), error)
    }

    /// Whether an operand is given.
    pub(super) fn has(&self, place: usize) -> bool {
        matches!(self.operands.get(place), Some(Some(_)))
    }

    fn operand(&self, place: usize) -> Result<&Operand<'a>, Trouble> {
        let operand = self.operands.get(place).and_then(Option::as_ref);
        operand.ok_or_else(|| self.refuse(format!("operand {} is missing", place + 1)))
    }

    /// An operand that has to be there.
    pub(super) fn given(&self, place: usize) -> Result<&'a Tensor, Trouble> {
        self.operand(place).map(|operand| operand.tensor)
    }

    /// An operand's dimensions.
    pub(super) fn dims(&self, place: usize) -> Result<Vec<i64>, Trouble> {
        self.given(place).map(Tensor::size)
    }

    /// Whether an operand holds whole numbers.
    pub(super) fn is_int(&self, place: usize) -> Result<bool, Trouble> {
        let kind = self.given(place)?.kind();
        Ok(matches!(kind, Kind::Uint8 | Kind::Int8 | Kind::Int16 | Kind::Int | Kind::Int64))
    }

    /// A constant operand; none where it is left out.
    pub(super) fn constant(&self, place: usize) -> Result<Option<&'a Tensor>, Trouble> {
        if !self.has(place) {
            return Ok(None);
        }
        let operand = self.operand(place)?;
        if operand.constant {
            Ok(Some(operand.tensor))
        } else {
            Err(self.refuse(format!("operand {} is computed from the input", place + 1)))
        }
    }

    /// A constant operand's whole numbers; none where it is left out.
    pub(super) fn ints(&self, place: usize) -> Result<Option<Vec<i64>>, Trouble> {
        let ints = self.constant(place)?.map(ints_of).transpose();
        ints.map_err(|error| self.broken(&error))
    }

    /// A constant operand's only number; none where it is left out.
    pub(super) fn number(&self, place: usize) -> Result<Option<f64>, Trouble> {
        let number = self.constant(place)?.map(f64::try_from).transpose();
        number.map_err(|error| self.broken(&error))
    }

    fn attribute(&self, name: &str) -> Option<&'a pb::AttributeProto> {
        self.proto.attribute.iter().find(|attribute| attribute.name == name)
    }

    /// A whole number.
    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i)
    }

    /// A number.
    pub(super) fn float(&self, name: &str, default: f32) -> f64 {
        self.attribute(name).map_or(default, |attribute| attribute.f).into()
    }

    /// A list of whole numbers.
    pub(super) fn list(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|attribute| attribute.ints.clone())
    }

    /// A list of whole numbers, so many; where it is left out, all alike.
    pub(super) fn list_of(&self, name: &str, count: usize, default: i64) -> Result<Vec<i64>, Trouble> {
        let list = self.list(name).unwrap_or_else(|| vec![default; count]);
        if list.len() == count {
            Ok(list)
        } else {
            Err(self.refuse(format!("{name} has {} numbers, not {count}", list.len())))
        }
    }

    /// A word.
    pub(super) fn word(&self, name: &str, default: &'a str) -> &'a str {
        let word = self.attribute(name).and_then(|attribute| std::str::from_utf8(&attribute.s).ok());
        word.unwrap_or(default)
    }

    /// A tensor.
    pub(super) fn tensor(&self, name: &str) -> Option<&'a pb::TensorProto> {
        self.attribute(name).and_then(|attribute| attribute.t.as_ref())
    }

    /// The attribute of numbers of that name, as a tensor.
    pub(super) fn numbers(&self, name: &str) -> Option<Result<Tensor, TchError>> {
        let attribute = self.attribute(name)?;
        let made = match name {
            "value_int" => Tensor::f_from_slice(&[attribute.i]).and_then(|one| one.f_reshape([0i64; 0])),
            "value_ints" => Tensor::f_from_slice(&attribute.ints),
            "value_float" => Tensor::f_from_slice(&[attribute.f]).and_then(|one| one.f_reshape([0i64; 0])),
            "value_floats" => Tensor::f_from_slice(&attribute.floats),
            _ => return None,
        };
        Some(made.and_then(|tensor| tensor.f_to_device(self.device)))
    }

    /// An axis, counted from the end where it is negative.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Result<i64, Trouble> {
        let rank = rank as i64;
        let counted = if axis < 0 { axis.saturating_add(rank) } else { axis };
        if (0..rank).contains(&counted) {
            Ok(counted)
        } else {
            Err(self.refuse(format!("axis {axis} of {rank}")))
        }
    }

    /// Axes from the attribute of that name, as old operator sets have it, or from an operand.
    pub(super) fn axes(&self, place: usize, rank: usize) -> Result<Option<Vec<i64>>, Trouble> {
        let Some(axes) = self.list("axes").map_or_else(|| self.ints(place), |axes| Ok(Some(axes)))? else {
            return Ok(None);
        };
        axes.into_iter().map(|axis| self.axis(axis, rank)).collect::<Result<_, _>>().map(Some)
    }
}

/// A node's name; many exporters leave it out, and its first output's stands for it.
pub(super) fn name_of(node: &pb::NodeProto) -> &str {
    if node.name.is_empty() { node.output.first().map_or("", String::as_str) } else { &node.name }
}
