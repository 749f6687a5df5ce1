//! What each ONNX operator is in libtorch: a node in, what its steps do out. Attributes and constant operands
//! are read here, when a model is loaded; nothing of that is left for a run.

mod arithmetic;
mod indexing;
mod layers;
mod pooling;
mod reductions;
mod shapes;

use tch::{TchError, Tensor};

use super::super::Trouble;
use super::node::Node;
use super::plan::{Act, Operands};

/// A prepared operator.
pub(super) enum Made {
    /// Its only output does not depend on values.
    Constant(Tensor),
    /// What makes each of its outputs, in order.
    Acts(Vec<Act>),
}

/// Prepares an operator.
///
/// # Errors
/// [`Trouble`] that names the operator where it, or what it asks for, is not supported.
pub(super) fn make(node: &Node<'_>) -> Result<Made, Trouble> {
    let families =
        [arithmetic::make, layers::make, pooling::make, reductions::make, shapes::make, indexing::make];
    for family in families {
        if let Some(made) = family(node)? {
            return Ok(made);
        }
    }
    Err(node.refuse("the operator is not supported by --runtime libtorch"))
}

/// An operator with one output.
fn one(act: impl Fn(&Operands<'_>) -> Result<Tensor, TchError> + 'static) -> Made {
    Made::Acts(vec![Box::new(act)])
}
