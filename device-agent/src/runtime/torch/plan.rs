//! A model as steps over registers: all that a run does.
//!
//! Constants and inputs keep their registers; what a step computes is freed after its last reader.

use tch::{TchError, Tensor};

use super::super::Trouble;
use super::values::failed;

/// What a step does with its operands.
pub(super) type Act = Box<dyn Fn(&Operands<'_>) -> Result<Tensor, TchError>>;

/// A step's operands, in the operator's order.
pub(super) struct Operands<'v> {
    /// All registers.
    pub(super) values: &'v [Option<Tensor>],
    /// Those of the operands; none where an operand is left out.
    pub(super) registers: &'v [Option<usize>],
}

impl<'v> Operands<'v> {
    /// An operand that has to be there.
    pub(super) fn get(&self, place: usize) -> Result<&'v Tensor, TchError> {
        self.find(place).ok_or_else(|| TchError::Shape(format!("operand {} is missing", place + 1)))
    }

    /// An operand that may be left out.
    pub(super) fn find(&self, place: usize) -> Option<&'v Tensor> {
        let register = (*self.registers.get(place)?)?;
        self.values.get(register)?.as_ref()
    }

    /// Every operand.
    pub(super) fn all(&self) -> Result<Vec<&'v Tensor>, TchError> {
        (0..self.registers.len()).map(|place| self.get(place)).collect()
    }
}

/// One operator of the model.
pub(super) struct Step {
    pub(super) name: String,
    pub(super) op: String,
    pub(super) act: Act,
    pub(super) operands: Vec<Option<usize>>,
    /// Register of what it computes.
    pub(super) result: usize,
    /// Registers that nobody reads after it.
    pub(super) frees: Vec<usize>,
}

impl Step {
    fn perform(&self, values: &mut [Option<Tensor>]) -> Result<(), Trouble> {
        let result = (self.act)(&Operands { values, registers: &self.operands });
        let result = result.map_err(|error| failed(&format!("{} '{}'", self.op, self.name), &error))?;
        values[self.result] = Some(result);
        for &register in &self.frees {
            values[register] = None;
        }
        Ok(())
    }
}

/// A model that can be run.
pub(super) struct Plan {
    pub(super) values: Vec<Option<Tensor>>,
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
    pub(super) steps: Vec<Step>,
}

impl Plan {
    /// Runs every step; `after` is called after each. The outputs stay in their registers.
    pub(super) fn run(&mut self, mut after: impl FnMut() -> Result<(), Trouble>) -> Result<(), Trouble> {
        for step in &self.steps {
            step.perform(&mut self.values)?;
            after()?;
        }
        Ok(())
    }

    /// What the last run gave.
    pub(super) fn outputs(&self) -> impl Iterator<Item = &Tensor> {
        self.outputs.iter().filter_map(|&register| self.values[register].as_ref())
    }

    /// Frees what the last run gave.
    pub(super) fn clear(&mut self) {
        for step in &self.steps {
            self.values[step.result] = None;
        }
    }

    /// Puts other values of the same kinds and shapes into the inputs; returns those before.
    pub(super) fn swap_inputs(&mut self, values: Vec<Tensor>) -> Vec<Tensor> {
        let registers = self.inputs.iter().zip(values);
        registers.filter_map(|(&register, value)| self.values[register].replace(value)).collect()
    }
}
