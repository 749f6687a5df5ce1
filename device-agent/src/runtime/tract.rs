//! tract: ONNX in, a plan that is run as an application would run it.
//!
//! A slot keeps its plan's state and its input tensors from run to run. What is timed is
//! `state.run(inputs)`: the inputs are shared, not copied, and the outputs are freed afterwards.
//!
//! Where a plan runs is a [`Place`]: the processor, or a GPU (`tract_cuda`, feature `cuda`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{Fill, LoadOptions};
use hanas_proto::units::Nanos;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tract_onnx::Onnx;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::plan::{SimplePlan, eval};

use super::{Model, Port, Runtime, Timed, Trouble, read};

/// Version of tract that this was built with.
const VERSION: &str = "0.23.9";

/// Seed of random inputs.
const FILL_SEED: u64 = 1;

/// Where plans run.
pub(super) struct Place {
    /// What the runtime is called there.
    pub(super) name: &'static str,
    /// Makes a model a plan.
    pub(super) plan: fn(InferenceModel, &RunOptions) -> TractResult<Arc<TypedSimplePlan>>,
    /// Brings an input there.
    pub(super) bring: fn(TValue) -> TractResult<TValue>,
    /// Waits until all is done that was begun there.
    pub(super) wait: fn() -> TractResult<()>,
}

impl Place {
    /// The processor, whose work is done when a call returns.
    pub(super) const PROCESSOR: Self = Self {
        name: "tract",
        plan: |model, options| SimplePlan::new_with_options(model.into_optimized()?, options),
        bring: Ok,
        wait: || Ok(()),
    };
}

/// tract on the processor or a GPU.
pub struct Tract {
    place: Place,
    framework: Onnx,
    executor: Option<multithread::Executor>,
    max_drawn_bytes: u64,
    held: Option<PathBuf>,
    slots: BTreeMap<u16, Slot>,
    /// The operators' times of a run.
    nodes: Vec<Nanos>,
}

struct Slot {
    state: TypedSimpleState,
    inputs: Vec<Input>,
    options: LoadOptions,
}

/// A tensor that slots share.
#[derive(Clone)]
struct Input {
    /// In the processor's memory.
    here: TValue,
    /// Where the plan runs; the same where that is the processor.
    there: TValue,
}

impl Tract {
    /// tract on that many threads of the processor; models may have so many bytes of weights drawn.
    #[must_use]
    pub fn new(threads: u16, max_drawn_bytes: u64) -> Self {
        Self::at(Place::PROCESSOR, threads, max_drawn_bytes)
    }

    /// The same where plans run elsewhere.
    pub(super) fn at(place: Place, threads: u16, max_drawn_bytes: u64) -> Self {
        let executor = (threads > 1).then(|| multithread::Executor::multithread(threads.into()));
        Self {
            place,
            framework: onnx(),
            executor,
            max_drawn_bytes,
            held: None,
            slots: BTreeMap::new(),
            nodes: Vec::new(),
        }
    }

    fn plan(&self, content: &[u8]) -> Result<Arc<TypedSimplePlan>, Trouble> {
        let proto = read::whole(&self.framework, content, self.held.as_deref(), self.max_drawn_bytes)?;
        // Declared inner shapes may speak of the batch that was just fixed; tract finds its own.
        let framework = self.framework.clone().with_ignore_value_info(true);
        let parsed = framework.parse(&proto, None).map_err(|error| unsupported(&error))?;
        if let Some(missing) = parsed.unresolved_inputs.first() {
            let text = format!("nothing produces '{missing}'");
            return Err(Trouble::new(FaultCode::NotAModel, text));
        }
        let options = RunOptions { executor: self.executor.clone(), ..RunOptions::default() };
        (self.place.plan)(parsed.model, &options).map_err(|error| unsupported(&error))
    }

    fn slot(&mut self, slot: u16) -> Result<&mut Slot, Trouble> {
        self.slots.get_mut(&slot).ok_or_else(|| Trouble::empty_slot(slot))
    }
}

impl Runtime for Tract {
    fn name(&self) -> String {
        format!("{} {VERSION}", self.place.name)
    }

    fn held_in(&mut self, folder: &Path) {
        self.held = Some(folder.to_owned());
    }

    fn load(&mut self, slot: u16, content: &[u8], options: LoadOptions) -> Result<Model, Trouble> {
        // First, so that the old model's memory is there for the new one.
        self.slots.remove(&slot);
        let plan = self.plan(content)?;
        let inputs = inputs(plan.model(), options.fill, &self.slots, self.place.bring)?;
        let description = describe(plan.model(), plan.order_without_consts())?;
        let state = plan.spawn().map_err(|error| unsupported(&error))?;
        self.slots.insert(slot, Slot { state, inputs, options });
        Ok(description)
    }

    fn clear(&mut self) {
        self.slots.clear();
    }

    fn infer(&mut self, slot: u16, inputs: &[u8]) -> Result<Vec<u8>, Trouble> {
        let slot = self.slot(slot)?;
        let inputs = read_inputs(&slot.inputs, inputs)?;
        let outputs = slot.state.run(inputs).map_err(|error| failed(&error))?;
        let mut bytes = Vec::new();
        for output in outputs {
            let plain = output.try_as_plain_ram().map_err(|error| failed(&error))?;
            bytes.extend_from_slice(plain.as_bytes());
        }
        Ok(bytes)
    }
}

impl Timed for Tract {
    type Trouble = Trouble;

    fn options(&self, slot: u16) -> Option<LoadOptions> {
        self.slots.get(&slot).map(|slot| slot.options)
    }

    fn run_once(&mut self, slot: u16) -> Result<Nanos, Trouble> {
        let wait = self.place.wait;
        let slot = self.slot(slot)?;
        let inputs = slot.inputs.iter().map(|input| input.there.clone()).collect();
        wait().map_err(|error| failed(&error))?;
        let start = Instant::now();
        let outputs = slot.state.run(inputs);
        let waited = wait();
        let time = start.elapsed();
        outputs.and(waited).map_err(|error| failed(&error))?;
        Ok(Nanos::from_duration(time))
    }

    fn run_nodes(&mut self, slot: u16, tell: &mut dyn FnMut(Nanos)) -> Result<Nanos, Trouble> {
        let Self { slots, nodes, place, .. } = self;
        let slot = slots.get_mut(&slot).ok_or_else(|| Trouble::empty_slot(slot))?;
        // The way to a GPU is an operator of its plan, and takes its time only from here.
        let inputs = slot.inputs.iter().map(|input| input.here.clone()).collect();
        (place.wait)().map_err(|error| failed(&error))?;
        // Filled while the clock runs: what is told may take its time.
        nodes.clear();
        let start = Instant::now();
        let outputs = slot.state.run_plan_with_eval(inputs, |context, state, node, inputs| {
            let start = Instant::now();
            let outputs = eval(context, state, node, inputs);
            let outputs = outputs.and_then(|outputs| (place.wait)().map(|()| outputs));
            nodes.push(Nanos::from_duration(start.elapsed()));
            outputs
        });
        let time = start.elapsed();
        outputs.map_err(|error| failed(&error))?;
        nodes.iter().copied().for_each(tell);
        Ok(Nanos::from_duration(time))
    }
}

/// What the host hears of a model: operators in the order they are run in, inputs and outputs.
fn describe(model: &TypedModel, order: &[usize]) -> Result<Model, Trouble> {
    if order.len() > usize::from(u16::MAX) {
        let text = format!("the graph has {} operators, more than {}", order.len(), u16::MAX);
        return Err(Trouble::new(FaultCode::TooLarge, text));
    }
    let mut described = Model::default();
    for &id in order {
        let node = model.node(id);
        described.nodes.push((node.name.clone(), node.op.name().into_owned()));
    }
    let outlets = [(true, &model.inputs), (false, &model.outputs)];
    for (is_input, outlet) in
        outlets.into_iter().flat_map(|(is_input, all)| all.iter().map(move |o| (is_input, o)))
    {
        let fact = model.outlet_fact(*outlet).map_err(|error| unsupported(&error))?;
        let label = model.outlet_label(*outlet).unwrap_or(&model.node(outlet.node).name);
        let dims: Vec<String> = fact.shape.iter().map(|dim| dim.to_string()).collect();
        let fact = format!("{} {}", format!("{:?}", fact.datum_type).to_lowercase(), dims.join("x"));
        described.ports.push(Port { is_input, name: label.to_owned(), fact });
    }
    Ok(described)
}

/// Tensors for the model's inputs, filled as asked. Equal ones are shared with the other slots: a
/// thousand nets on one graph have the same features, of many megabytes.
fn inputs(
    model: &TypedModel,
    fill: Fill,
    slots: &BTreeMap<u16, Slot>,
    bring: fn(TValue) -> TractResult<TValue>,
) -> Result<Vec<Input>, Trouble> {
    let of_fill = || slots.values().filter(|slot| slot.options.fill == fill).flat_map(|slot| &slot.inputs);
    model
        .inputs
        .iter()
        .map(|&outlet| {
            let fact = model.outlet_fact(outlet).map_err(|error| unsupported(&error))?;
            let name = &model.node(outlet.node).name;
            let open = || {
                Trouble::new(FaultCode::Unsupported, format!("input '{name}' has no fixed size: {fact:?}"))
            };
            let shape = fact.shape.as_concrete().ok_or_else(open)?;
            let kind = fact.datum_type;
            if !(kind.is_number() || kind == DatumType::Bool) {
                let text = format!("input '{name}' holds {kind:?}");
                return Err(Trouble::new(FaultCode::Unsupported, text));
            }
            let is_equal = |input: &&Input| input.here.datum_type() == kind && input.here.shape() == shape;
            if let Some(equal) = of_fill().find(is_equal) {
                return Ok(equal.clone());
            }
            let input = || {
                let here = filled(kind, shape, fill)?.into_tvalue();
                Ok(Input { there: bring(here.clone())?, here })
            };
            input().map_err(|error| unsupported(&error))
        })
        .collect()
}

/// A tensor filled as asked: random values are the same for every runtime.
pub(super) fn filled(kind: DatumType, shape: &[usize], fill: Fill) -> TractResult<Tensor> {
    let count = shape.iter().product();
    let values: Vec<f32> = match fill {
        Fill::Random if kind.is_float() => {
            let mut rng = ChaCha8Rng::seed_from_u64(FILL_SEED);
            (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
        }
        Fill::Ones => vec![1.0; count],
        Fill::Random | Fill::Zeros => return Tensor::zero_dt(kind, shape),
    };
    Ok(Tensor::from_shape(shape, &values)?.cast_to_dt(kind)?.into_owned())
}

/// Tensors of the given bytes, in the kinds and shapes of `like`.
fn read_inputs(like: &[Input], mut bytes: &[u8]) -> Result<TVec<TValue>, Trouble> {
    let wanted: usize = like.iter().map(|input| input.here.as_bytes().len()).sum();
    if wanted != bytes.len() {
        let text = format!("the inputs are {} bytes and the model takes {wanted}", bytes.len());
        return Err(Trouble::new(FaultCode::BadRequest, text));
    }
    like.iter()
        .map(|Input { here: value, .. }| {
            let (own, rest) = bytes.split_at(value.as_bytes().len());
            bytes = rest;
            // Another byte would not be a boolean, which the runtime may rely on.
            if value.datum_type() == DatumType::Bool && own.iter().any(|&byte| byte > 1) {
                return Err(Trouble::new(FaultCode::BadRequest, "a boolean input is neither 0 nor 1"));
            }
            let mut tensor =
                Tensor::zero_dt(value.datum_type(), value.shape()).map_err(|error| failed(&error))?;
            tensor.as_bytes_mut().copy_from_slice(own);
            Ok(tensor.into_tvalue())
        })
        .collect()
}

fn unsupported(error: &TractError) -> Trouble {
    Trouble::new(FaultCode::Unsupported, innermost(error))
}

fn failed(error: &TractError) -> Trouble {
    Trouble::new(FaultCode::RunFailed, innermost(error))
}

/// tract wraps each cause into what it was doing at the time; the first cause says what is wrong, and
/// the operator next to it where.
fn innermost(error: &TractError) -> String {
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    let first_line = |text: &String| text.lines().next().unwrap_or_default().to_owned();
    match &chain[..] {
        [.., place, cause] => format!("{} ({})", first_line(cause), first_line(place)),
        [cause] => first_line(cause),
        [] => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_told_is_the_one_built_with() {
        let locked = format!("name = \"tract-onnx\"\nversion = \"{VERSION}\"");
        assert!(include_str!("../../../Cargo.lock").contains(&locked));
    }
}
