//! ONNX in, a plan out, by a trial run: every operator is prepared and run once, in order.
//!
//! So every operand's kind and shape is known when its reader is prepared, what depends on constants alone is
//! computed once and for all, and a model that cannot be run is found out when it is loaded.

use std::collections::HashMap;

use hanas_proto::fault::FaultCode;
use tch::{Device, Tensor};
use tract_onnx::pb;

use super::super::Trouble;
use super::node::{Node, Operand, name_of};
use super::ops::{Made, make};
use super::plan::{Act, Operands, Plan, Step};
use super::values::{failed, of_onnx};

/// A plan for the model on these inputs, by name.
///
/// # Errors
/// [`Trouble`] that names the operator that cannot be run.
pub(super) fn prepare<'g>(
    model: &'g pb::ModelProto,
    inputs: impl IntoIterator<Item = (&'g str, Tensor)>,
    device: Device,
) -> Result<Plan, Trouble> {
    let not_a_model = || Trouble::new(FaultCode::NotAModel, "the content is not ONNX: it has no graph");
    let graph = model.graph.as_ref().ok_or_else(not_a_model)?;
    let mut trial = Trial::new(graph, opset(model), device);
    for tensor in &graph.initializer {
        let value = of_onnx(tensor, device)?;
        trial.hold(&tensor.name, value, Held::Constant);
    }
    let mut input_registers = Vec::new();
    for (name, value) in inputs {
        input_registers.push(trial.hold(name, value, Held::Input));
    }
    for (place, node) in graph.node.iter().enumerate() {
        trial.node(node)?;
        trial.free(place, node);
    }
    trial.plan(graph, input_registers)
}

/// The version of ONNX's own operators.
fn opset(model: &pb::ModelProto) -> i64 {
    let own = model.opset_import.iter().find(|set| is_own(&set.domain));
    own.map_or(1, |set| set.version)
}

fn is_own(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// The run so far.
struct Trial<'g> {
    opset: i64,
    device: Device,
    /// Where each value lies.
    registers: HashMap<&'g str, usize>,
    values: Vec<Option<Tensor>>,
    held: Vec<Held>,
    /// The last node that reads a value; an output is read after all of them.
    last_reader: HashMap<&'g str, usize>,
    steps: Vec<Step>,
}

/// How long a register keeps its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// For ever: it is the same in every run.
    Constant,
    /// From run to run, until another is put in.
    Input,
    /// Up to its last reader.
    Computed,
}

impl<'g> Trial<'g> {
    fn new(graph: &'g pb::GraphProto, opset: i64, device: Device) -> Self {
        let readers = graph.node.iter().enumerate();
        let mut last_reader: HashMap<&str, usize> = readers
            .flat_map(|(place, node)| node.input.iter().map(move |name| (name.as_str(), place)))
            .collect();
        last_reader.extend(graph.output.iter().map(|output| (output.name.as_str(), usize::MAX)));
        Self {
            opset,
            device,
            registers: HashMap::new(),
            values: Vec::new(),
            held: Vec::new(),
            last_reader,
            steps: Vec::new(),
        }
    }

    fn hold(&mut self, name: &'g str, value: Tensor, held: Held) -> usize {
        let register = self.values.len();
        self.registers.insert(name, register);
        self.values.push(Some(value));
        self.held.push(held);
        register
    }

    fn node(&mut self, proto: &'g pb::NodeProto) -> Result<(), Trouble> {
        if !is_own(&proto.domain) {
            let text = format!("the operator {}.{} is not supported", proto.domain, proto.op_type);
            return Err(Trouble::new(FaultCode::Unsupported, text));
        }
        let operands = self.operands(proto)?;
        match self.make(proto, &operands)? {
            Made::Acts(acts) => self.act(proto, &operands, acts),
            Made::Constant(value) => {
                if let Some(output) = proto.output.first() {
                    self.hold(output, value, Held::Constant);
                }
                Ok(())
            }
        }
    }

    /// Registers of a node's operands.
    fn operands(&self, proto: &pb::NodeProto) -> Result<Vec<Option<usize>>, Trouble> {
        let operand = |name: &String| {
            if name.is_empty() {
                return Ok(None);
            }
            let register = self.registers.get(name.as_str()).copied();
            register.map(Some).ok_or_else(|| nothing_produces(name))
        };
        proto.input.iter().map(operand).collect()
    }

    fn make(&self, proto: &pb::NodeProto, operands: &[Option<usize>]) -> Result<Made, Trouble> {
        let operand = |register: &Option<usize>| {
            let register = (*register)?;
            let tensor = self.values[register].as_ref()?;
            Some(Operand { tensor, constant: self.held[register] == Held::Constant })
        };
        let operands = operands.iter().map(operand).collect();
        make(&Node { proto, opset: self.opset, operands, device: self.device }).map_err(refused)
    }

    /// Runs what a node does, one act for each output, and keeps it as steps unless the result is constant.
    fn act(
        &mut self,
        proto: &'g pb::NodeProto,
        operands: &[Option<usize>],
        acts: Vec<Act>,
    ) -> Result<(), Trouble> {
        let place = format!("{} '{}'", proto.op_type, name_of(proto));
        if let Some(extra) = proto.output.iter().skip(acts.len()).find(|name| !name.is_empty()) {
            let text = format!("{place}: its output '{extra}' is not supported");
            return Err(Trouble::new(FaultCode::Unsupported, text));
        }
        let constant = operands.iter().flatten().all(|&register| self.held[register] == Held::Constant);
        for (output, act) in proto.output.iter().zip(acts) {
            let value = act(&Operands { values: &self.values, registers: operands });
            // A view keeps all of what it looks at, and may be slow to read.
            let value = if constant { value.and_then(|value| value.f_contiguous()) } else { value };
            let value = value.map_err(|error| refused(failed(&place, &error)))?;
            if constant {
                self.hold(output, value, Held::Constant);
                continue;
            }
            let result = self.hold(output, value, Held::Computed);
            let (name, op) = (name_of(proto).to_owned(), proto.op_type.clone());
            self.steps.push(Step { name, op, act, operands: operands.to_vec(), result, frees: Vec::new() });
            if !self.last_reader.contains_key(output.as_str()) {
                self.free_register(result);
            }
        }
        Ok(())
    }

    /// Frees what no node after this one reads.
    fn free(&mut self, place: usize, proto: &pb::NodeProto) {
        for name in &proto.input {
            let is_last = self.last_reader.get(name.as_str()) == Some(&place);
            let register = self.registers.get(name.as_str()).copied();
            if let Some(register) =
                register.filter(|&register| is_last && self.held[register] == Held::Computed)
            {
                self.free_register(register);
            }
        }
    }

    /// Frees a register, now and in every run.
    fn free_register(&mut self, register: usize) {
        self.values[register] = None;
        if let Some(step) = self.steps.last_mut() {
            step.frees.push(register);
        }
    }

    fn plan(mut self, graph: &pb::GraphProto, inputs: Vec<usize>) -> Result<Plan, Trouble> {
        let output = |output: &pb::ValueInfoProto| {
            let register = self.registers.get(output.name.as_str()).copied();
            register.ok_or_else(|| nothing_produces(&output.name))
        };
        let outputs: Vec<usize> = graph.output.iter().map(output).collect::<Result<_, _>>()?;
        let mut is_used = vec![false; self.values.len()];
        let operands = self.steps.iter().flat_map(|step| step.operands.iter().copied().flatten());
        operands.chain(inputs.iter().copied()).chain(outputs.iter().copied()).for_each(|r| is_used[r] = true);
        for (value, is_used) in self.values.iter_mut().zip(is_used) {
            if !is_used {
                *value = None;
            }
        }
        Ok(Plan { values: self.values, inputs, outputs, steps: self.steps })
    }
}

fn nothing_produces(name: &str) -> Trouble {
    Trouble::new(FaultCode::NotAModel, format!("nothing produces '{name}'"))
}

/// What fails when a model is loaded is the model's lack, not a run's.
fn refused(trouble: Trouble) -> Trouble {
    match trouble.code {
        FaultCode::RunFailed => Trouble { code: FaultCode::Unsupported, ..trouble },
        _ => trouble,
    }
}
