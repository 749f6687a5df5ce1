//! libtorch: the same models, run by the library that many hosts with a GPU deploy with.
//!
//! A model is prepared once ([`prepare`]) into steps over registers ([`plan`]), one libtorch call or a few for
//! each ONNX operator ([`ops`]). What is timed are the steps, on inputs that lie on the device; the outputs
//! stay there and are freed afterwards. On a GPU, whose work goes on after a call returns, the device is waited
//! for before the clock is started and before it is stopped.
//!
//! Operators are timed by running one at a time. On a GPU two more stand around them, `(transfer in)` and
//! `(transfer out)`: what it takes to bring the inputs there and the outputs back, which no other time counts.

mod node;
mod ops;
mod plan;
mod prepare;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{Fill, LoadOptions};
use hanas_proto::units::Nanos;
use tch::{Cuda, Device, TchError, Tensor, no_grad_guard};
use tract_onnx::Onnx;
use tract_onnx::pb;
use tract_onnx::prelude::DatumType;

use super::tract::filled;
use super::{Model, Port, Runtime, Timed, Trouble, read};
use crate::settings::TorchDevice;
use plan::Plan;
use prepare::prepare;
use values::{bytes_of, failed, kind_name, kind_of, of_bytes, of_tract};

/// Version of libtorch that this was built with.
const VERSION: &str = "2.13.0";

/// What the operators' times begin and end with on a GPU.
const TRANSFERS: [&str; 2] = ["(transfer in)", "(transfer out)"];

/// The device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TorchError {
    /// There is none.
    #[error(
        "no GPU that libtorch can use: does nvidia-smi list one, and is the agent built with a libtorch for CUDA?"
    )]
    NoGpu,
    /// There are fewer.
    #[error("there is no GPU {asked}: libtorch finds {found}, numbered from 0")]
    NoSuchGpu {
        /// The one that was asked for.
        asked: usize,
        /// How many there are.
        found: i64,
    },
}

/// libtorch on the processor or a GPU.
pub struct Torch {
    framework: Onnx,
    device: Device,
    max_drawn_bytes: u64,
    held: Option<PathBuf>,
    slots: BTreeMap<u16, Slot>,
    /// The operators' times of a run.
    nodes: Vec<Nanos>,
}

struct Slot {
    plan: Plan,
    inputs: Vec<Input>,
    options: LoadOptions,
}

/// A tensor that slots share.
struct Input {
    name: String,
    kind: DatumType,
    shape: Vec<usize>,
    /// In the processor's memory.
    here: Tensor,
    /// On the device; the same where that is the processor.
    there: Tensor,
}

impl Torch {
    /// libtorch on that device and that many of the processor's threads; models may have so many bytes of
    /// weights drawn.
    ///
    /// # Errors
    /// [`TorchError`] where there is no such device.
    pub fn new(device: TorchDevice, threads: u16, max_drawn_bytes: u64) -> Result<Self, TorchError> {
        let device = found(device)?;
        tch::set_num_threads(threads.into());
        // It can be set but once in a process.
        if tch::get_num_interop_threads() != 1 {
            tch::set_num_interop_threads(1);
        }
        Ok(Self {
            framework: tract_onnx::onnx(),
            device,
            max_drawn_bytes,
            held: None,
            slots: BTreeMap::new(),
            nodes: Vec::new(),
        })
    }

    /// Inputs filled as asked; equal ones are shared between slots.
    fn inputs(&self, model: &pb::ModelProto, fill: Fill) -> Result<Vec<Input>, Trouble> {
        let Some(graph) = &model.graph else { return Ok(Vec::new()) };
        // Old models list their weights among the inputs.
        let weights: BTreeSet<&String> = graph.initializer.iter().map(|tensor| &tensor.name).collect();
        let of_fill =
            || self.slots.values().filter(|slot| slot.options.fill == fill).flat_map(|slot| &slot.inputs);
        let input = |info: &pb::ValueInfoProto| {
            let (kind, shape) = fact(info)?;
            let name = info.name.clone();
            if let Some(equal) = of_fill().find(|input| input.kind == kind && input.shape == shape) {
                let (here, there) = (equal.here.shallow_clone(), equal.there.shallow_clone());
                return Ok(Input { name, kind, shape, here, there });
            }
            let values = filled(kind, &shape, fill);
            let values = values.map_err(|error| Trouble::new(FaultCode::Unsupported, error.to_string()))?;
            let unknown = || Trouble::new(FaultCode::Unsupported, format!("input '{name}' holds {kind:?}"));
            let here = of_tract(&values, Device::Cpu)?.ok_or_else(unknown)?;
            let there = here.f_to_device(self.device).map_err(|error| failed("an input", &error))?;
            Ok(Input { name, kind, shape, here, there })
        };
        graph.input.iter().filter(|info| !weights.contains(&info.name)).map(input).collect()
    }

    fn slot(&mut self, slot: u16) -> Result<&mut Slot, Trouble> {
        self.slots.get_mut(&slot).ok_or_else(|| Trouble::empty_slot(slot))
    }
}

impl Runtime for Torch {
    /// Profiles are kept apart by it.
    fn name(&self) -> String {
        match self.device {
            Device::Cuda(0) => format!("libtorch {VERSION} cuda"),
            Device::Cuda(index) => format!("libtorch {VERSION} cuda:{index}"),
            _ => format!("libtorch {VERSION}"),
        }
    }

    fn held_in(&mut self, folder: &Path) {
        self.held = Some(folder.to_owned());
    }

    fn load(&mut self, slot: u16, content: &[u8], options: LoadOptions) -> Result<Model, Trouble> {
        // First, so that the old model's memory is there for the new one.
        self.slots.remove(&slot);
        let proto = read::whole(&self.framework, content, self.held.as_deref(), self.max_drawn_bytes)?;
        let _guard = no_grad_guard();
        let inputs = self.inputs(&proto, options.fill)?;
        let given = inputs.iter().map(|input| (input.name.as_str(), input.there.shallow_clone()));
        let mut plan = prepare(&proto, given, self.device)?;
        // A GPU tells what failed when it is waited for.
        wait_for(self.device)?;
        let model = describe(&proto, &plan, &inputs, options.per_node && self.device.is_cuda())?;
        plan.clear();
        self.slots.insert(slot, Slot { plan, inputs, options });
        Ok(model)
    }

    fn clear(&mut self) {
        self.slots.clear();
    }

    fn infer(&mut self, slot: u16, inputs: &[u8]) -> Result<Vec<u8>, Trouble> {
        let device = self.device;
        let Slot { plan, inputs: like, .. } = self.slot(slot)?;
        let _guard = no_grad_guard();
        let before = plan.swap_inputs(read_inputs(like, inputs, device)?);
        let ran = plan.run(|| Ok(())).and_then(|()| wait_for(device)).and_then(|()| {
            let bytes: Result<Vec<Vec<u8>>, TchError> = plan.outputs().map(bytes_of).collect();
            Ok(bytes.map_err(|error| failed("an output", &error))?.concat())
        });
        plan.clear();
        plan.swap_inputs(before);
        ran
    }
}

impl Timed for Torch {
    type Trouble = Trouble;

    fn options(&self, slot: u16) -> Option<LoadOptions> {
        self.slots.get(&slot).map(|slot| slot.options)
    }

    fn run_once(&mut self, slot: u16) -> Result<Nanos, Trouble> {
        let device = self.device;
        let plan = &mut self.slot(slot)?.plan;
        let _guard = no_grad_guard();
        wait_for(device)?;
        let start = Instant::now();
        let ran = plan.run(|| Ok(())).and_then(|()| wait_for(device));
        let time = start.elapsed();
        plan.clear();
        ran.map(|()| Nanos::from_duration(time))
    }

    fn run_nodes(&mut self, slot: u16, tell: &mut dyn FnMut(Nanos)) -> Result<Nanos, Trouble> {
        let Self { device, slots, nodes, .. } = self;
        let Slot { plan, inputs, .. } = slots.get_mut(&slot).ok_or_else(|| Trouble::empty_slot(slot))?;
        let _guard = no_grad_guard();
        // Filled while the clock runs: what is told may take its time.
        nodes.clear();
        wait_for(*device)?;
        if device.is_cuda() {
            nodes.push(moved(inputs.iter().map(|input| &input.here), *device, *device)?);
        }
        let start = Instant::now();
        let mut last = start;
        let ran = plan.run(|| {
            wait_for(*device)?;
            nodes.push(Nanos::from_duration(last.elapsed()));
            last = Instant::now();
            Ok(())
        });
        let time = start.elapsed();
        let ran = ran.and_then(|()| {
            if device.is_cuda() {
                nodes.push(moved(plan.outputs(), Device::Cpu, *device)?);
            }
            Ok(())
        });
        plan.clear();
        ran?;
        nodes.iter().copied().for_each(tell);
        Ok(Nanos::from_duration(time))
    }
}

/// The device, if it is there.
fn found(device: TorchDevice) -> Result<Device, TorchError> {
    let TorchDevice::Cuda(asked) = device else { return Ok(Device::Cpu) };
    match Cuda::device_count() {
        ..=0 => Err(TorchError::NoGpu),
        found if asked as i64 >= found => Err(TorchError::NoSuchGpu { asked, found }),
        _ => Ok(Device::Cuda(asked)),
    }
}

/// Waits until a GPU has done all that it was given.
fn wait_for(device: Device) -> Result<(), Trouble> {
    let Device::Cuda(index) = device else { return Ok(()) };
    // tch panics where the GPU reports that something before has failed.
    catch_unwind(|| Cuda::synchronize(index as i64)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map_or("", String::as_str);
        Trouble::new(FaultCode::RunFailed, format!("the GPU failed: {text}"))
    })
}

/// How long it takes to bring tensors to one device, where `gpu` is one end.
fn moved<'t>(tensors: impl Iterator<Item = &'t Tensor>, to: Device, gpu: Device) -> Result<Nanos, Trouble> {
    let start = Instant::now();
    let there: Result<Vec<Tensor>, TchError> = tensors.map(|tensor| tensor.f_to_device(to)).collect();
    wait_for(gpu)?;
    let time = start.elapsed();
    there.map_err(|error| failed("a transfer", &error))?;
    Ok(Nanos::from_duration(time))
}

/// Element type and dimensions of an input.
fn fact(info: &pb::ValueInfoProto) -> Result<(DatumType, Vec<usize>), Trouble> {
    use pb::tensor_shape_proto::dimension::Value;
    let refused = |what: &str| Trouble::new(FaultCode::Unsupported, format!("input '{}' {what}", info.name));
    let kind = info.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    let Some(pb::type_proto::Value::TensorType(tensor)) = kind else {
        return Err(refused("is no tensor"));
    };
    let element = pb::tensor_proto::DataType::try_from(tensor.elem_type).ok();
    let element = element.and_then(|element| DatumType::try_from(element).ok());
    let element = element.filter(|&element| kind_of(element).is_some());
    let element = element.ok_or_else(|| refused(&format!("holds ONNX type {}", tensor.elem_type)))?;
    let dims = tensor.shape.iter().flat_map(|shape| &shape.dim).map(|dim| match dim.value {
        Some(Value::DimValue(size)) => usize::try_from(size).ok(),
        _ => None,
    });
    let dims = dims.collect::<Option<Vec<usize>>>().filter(|_| tensor.shape.is_some());
    Ok((element, dims.ok_or_else(|| refused("has no fixed size"))?))
}

/// What the host hears of a model that has just been run.
fn describe(
    proto: &pb::ModelProto,
    plan: &Plan,
    inputs: &[Input],
    transfers: bool,
) -> Result<Model, Trouble> {
    let [before, after] = TRANSFERS.map(|name| transfers.then(|| (name.to_owned(), "Transfer".to_owned())));
    let steps = plan.steps.iter().map(|step| (step.name.clone(), step.op.clone()));
    let nodes: Vec<(String, String)> = before.into_iter().chain(steps).chain(after).collect();
    if nodes.len() > usize::from(u16::MAX) {
        let text = format!("the graph has {} operators, more than {}", nodes.len(), u16::MAX);
        return Err(Trouble::new(FaultCode::TooLarge, text));
    }
    let port = |is_input, name: &str, tensor: &Tensor| {
        let dims: Vec<String> = tensor.size().iter().map(ToString::to_string).collect();
        let fact = format!("{} {}", kind_name(tensor.kind()), dims.join("x"));
        Port { is_input, name: name.to_owned(), fact }
    };
    let names = proto.graph.iter().flat_map(|graph| &graph.output).map(|output| &output.name);
    let into = inputs.iter().map(|input| port(true, &input.name, &input.there));
    let out = names.zip(plan.outputs()).map(|(name, tensor)| port(false, name, tensor));
    Ok(Model { nodes, ports: into.chain(out).collect() })
}

/// Tensors of the given bytes, in the kinds and shapes of `like`, on the device.
fn read_inputs(like: &[Input], mut bytes: &[u8], device: Device) -> Result<Vec<Tensor>, Trouble> {
    let bad = |text: String| Trouble::new(FaultCode::BadRequest, text);
    let size = |input: &Input| input.shape.iter().product::<usize>() * input.kind.size_of();
    let wanted: usize = like.iter().map(size).sum();
    if wanted != bytes.len() {
        return Err(bad(format!("the inputs are {} bytes and the model takes {wanted}", bytes.len())));
    }
    let read = |input: &Input| {
        let (own, rest) = bytes.split_at(size(input));
        bytes = rest;
        // Another byte would not be a boolean, which the runtime may rely on.
        if input.kind == DatumType::Bool && own.iter().any(|&byte| byte > 1) {
            return Err(bad("a boolean input is neither 0 nor 1".to_owned()));
        }
        let kind = kind_of(input.kind).ok_or_else(|| bad(format!("inputs of {:?}", input.kind)))?;
        of_bytes(kind, &input.shape, own, device)
    };
    like.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_told_is_the_one_built_with() {
        let setup = include_str!("../../../../models/libtorch/setup.sh");
        assert!(setup.contains(&format!("torch={VERSION} ")));
    }
}
