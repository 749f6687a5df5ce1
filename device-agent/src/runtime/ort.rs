//! ONNX Runtime: the same models, run by the library that many boards deploy with.
//!
//! The library is loaded when the worker starts, from a file that the user names: that of its Python wheel
//! or any other build. A slot keeps its session and its input tensors from run to run; what is timed is
//! `session.run(inputs)`, and the outputs are freed afterwards, as with tract.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{Fill, LoadOptions};
use hanas_proto::units::Nanos;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, Outlet, Tensor, TensorElementType};
use prost::Message;
use tract_onnx::Onnx;
use tract_onnx::prelude::DatumType;

use super::tract::filled;
use super::{Model, Port, Runtime, Timed, Trouble, read};

/// The library's name where none is given, for the system's own search.
const LIBRARY: &str = "libonnxruntime.so";

/// The library cannot be used. The hint comes first: a supervisor cuts long words.
#[derive(Debug, thiserror::Error)]
#[error("no ONNX Runtime: name its library, libonnxruntime.so.*, with --ort-library ({reason})")]
pub struct OrtError {
    reason: String,
}

/// ONNX Runtime on the processor.
pub struct Ort {
    framework: Onnx,
    name: String,
    threads: usize,
    max_drawn_bytes: u64,
    held: Option<PathBuf>,
    slots: BTreeMap<u16, Slot>,
}

struct Slot {
    session: Session,
    inputs: Vec<Input>,
    options: LoadOptions,
}

/// A tensor that slots share.
#[derive(Clone)]
struct Input {
    kind: DatumType,
    shape: Vec<usize>,
    value: Rc<DynValue>,
}

impl Ort {
    /// ONNX Runtime on that many threads, from a library's file; models may have so many bytes of weights
    /// drawn.
    ///
    /// # Errors
    /// [`OrtError`] where there is no such library, or one that is too old.
    pub fn new(library: Option<&Path>, threads: u16, max_drawn_bytes: u64) -> Result<Self, OrtError> {
        let library = library.unwrap_or(Path::new(LIBRARY));
        let environment = ort::init_from(library).map_err(|error| OrtError { reason: error.to_string() })?;
        // Nothing was set up before, so this takes.
        environment.with_telemetry(false).commit();
        Ok(Self {
            framework: tract_onnx::onnx(),
            name: name(library),
            threads: threads.into(),
            max_drawn_bytes,
            held: None,
            slots: BTreeMap::new(),
        })
    }

    fn session(&self, content: &[u8]) -> Result<Session, Trouble> {
        let proto = read::whole(&self.framework, content, self.held.as_deref(), self.max_drawn_bytes)?;
        let built = || -> Result<Session, ort::Error> {
            // A thread that waits takes no processor from the one that works.
            let mut builder = Session::builder()?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(self.threads)?
                .with_intra_op_spinning(false)?;
            builder.commit_from_memory(&proto.encode_to_vec())
        };
        built().map_err(|error| trouble(FaultCode::Unsupported, &error))
    }

    /// Inputs filled as asked; equal ones are shared between slots.
    fn inputs(&self, session: &Session, fill: Fill) -> Result<Vec<Input>, Trouble> {
        let of_fill =
            || self.slots.values().filter(|slot| slot.options.fill == fill).flat_map(|slot| &slot.inputs);
        let input = |outlet: &Outlet| {
            let (kind, shape) = fact(outlet)?;
            if let Some(equal) = of_fill().find(|input| input.kind == kind && input.shape == shape) {
                return Ok(equal.clone());
            }
            let tensor = filled(kind, &shape, fill);
            let tensor = tensor.map_err(|error| Trouble::new(FaultCode::Unsupported, error.to_string()))?;
            let value = Rc::new(value(kind, &shape, tensor.as_bytes())?);
            Ok(Input { kind, shape, value })
        };
        session.inputs().iter().map(input).collect()
    }

    fn slot(&mut self, slot: u16) -> Result<&mut Slot, Trouble> {
        self.slots.get_mut(&slot).ok_or_else(|| Trouble::empty_slot(slot))
    }
}

impl Runtime for Ort {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn held_in(&mut self, folder: &Path) {
        self.held = Some(folder.to_owned());
    }

    fn load(&mut self, slot: u16, content: &[u8], options: LoadOptions) -> Result<Model, Trouble> {
        self.slots.remove(&slot);
        if options.per_node {
            let text = "ONNX Runtime gives no operators' times; leave --per-node out, or take tract";
            return Err(Trouble::new(FaultCode::Unsupported, text));
        }
        let session = self.session(content)?;
        let inputs = self.inputs(&session, options.fill)?;
        let ports = [(true, session.inputs()), (false, session.outputs())];
        let ports =
            ports.into_iter().flat_map(|(is_input, outlets)| outlets.iter().map(move |o| (is_input, o)));
        let ports = ports.map(|(is_input, outlet)| port(is_input, outlet)).collect();
        self.slots.insert(slot, Slot { session, inputs, options });
        Ok(Model { nodes: Vec::new(), ports })
    }

    fn clear(&mut self) {
        self.slots.clear();
    }

    fn infer(&mut self, slot: u16, inputs: &[u8]) -> Result<Vec<u8>, Trouble> {
        let Slot { session, inputs: like, .. } = self.slot(slot)?;
        let values = read_inputs(like, inputs)?;
        let values: Vec<SessionInputValue<'_>> = values.into_iter().map(Into::into).collect();
        let outputs = session.run(&values[..]).map_err(|error| trouble(FaultCode::RunFailed, &error))?;
        bytes(&outputs)
    }
}

impl Timed for Ort {
    type Trouble = Trouble;

    fn options(&self, slot: u16) -> Option<LoadOptions> {
        self.slots.get(&slot).map(|slot| slot.options)
    }

    fn run_once(&mut self, slot: u16) -> Result<Nanos, Trouble> {
        let Slot { session, inputs, .. } = self.slot(slot)?;
        let inputs: Vec<SessionInputValue<'_>> = inputs.iter().map(|input| (&*input.value).into()).collect();
        let start = Instant::now();
        let outputs = session.run(&inputs[..]);
        let time = start.elapsed();
        outputs.map_err(|error| trouble(FaultCode::RunFailed, &error))?;
        Ok(Nanos::from_duration(time))
    }

    /// No slot is loaded for it.
    fn run_nodes(&mut self, slot: u16, _tell: &mut dyn FnMut(Nanos)) -> Result<Nanos, Trouble> {
        self.run_once(slot)
    }
}

/// `onnxruntime 1.22.1`: the library's file carries its version.
fn name(library: &Path) -> String {
    let file = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let file = file.file_name().unwrap_or_default().to_string_lossy();
    let version = file.strip_prefix(LIBRARY).unwrap_or_default().trim_start_matches('.');
    format!("onnxruntime {version}").trim_end().to_owned()
}

fn trouble(code: FaultCode, error: &ort::Error) -> Trouble {
    Trouble::new(code, error.to_string())
}

/// Element type and dimensions, where both are ones that can be filled.
fn fact(outlet: &Outlet) -> Result<(DatumType, Vec<usize>), Trouble> {
    let refused =
        |what: &str| Trouble::new(FaultCode::Unsupported, format!("input '{}' {what}", outlet.name()));
    let kind = match outlet.dtype().tensor_type() {
        Some(TensorElementType::Float32) => DatumType::F32,
        Some(TensorElementType::Float64) => DatumType::F64,
        Some(TensorElementType::Int64) => DatumType::I64,
        Some(TensorElementType::Int32) => DatumType::I32,
        Some(TensorElementType::Int8) => DatumType::I8,
        Some(TensorElementType::Uint8) => DatumType::U8,
        Some(TensorElementType::Bool) => DatumType::Bool,
        kind => return Err(refused(&format!("holds {kind:?}"))),
    };
    let shape = outlet.dtype().tensor_shape().map(|shape| shape.iter().map(|&dim| usize::try_from(dim)));
    let shape = shape.into_iter().flatten().collect::<Result<_, _>>();
    Ok((kind, shape.map_err(|_| refused("has no fixed size"))?))
}

fn port(is_input: bool, outlet: &Outlet) -> Port {
    let dims = outlet.dtype().tensor_shape().map(|shape| {
        let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
        dims.join("x")
    });
    let fact = match (fact(outlet), dims) {
        (Ok((kind, _)), Some(dims)) => format!("{} {dims}", format!("{kind:?}").to_lowercase()),
        _ => outlet.dtype().to_string(),
    };
    Port { is_input, name: outlet.name().to_owned(), fact }
}

/// A tensor of little-endian bytes.
fn value(kind: DatumType, shape: &[usize], bytes: &[u8]) -> Result<DynValue, Trouble> {
    macro_rules! of {
        ($type:ty) => {{
            let read = bytes.as_chunks().0.iter().map(|value| <$type>::from_le_bytes(*value));
            Tensor::from_array((shape, read.collect::<Vec<$type>>())).map(Tensor::into_dyn)
        }};
    }
    let value = match kind {
        DatumType::F32 => of!(f32),
        DatumType::F64 => of!(f64),
        DatumType::I64 => of!(i64),
        DatumType::I32 => of!(i32),
        DatumType::I8 => of!(i8),
        DatumType::U8 => of!(u8),
        _ => Tensor::from_array((shape, bytes.iter().map(|&byte| byte != 0).collect::<Vec<bool>>()))
            .map(Tensor::into_dyn),
    };
    value.map_err(|error| trouble(FaultCode::Unsupported, &error))
}

/// Tensors of the given bytes, in the kinds and shapes of `like`.
fn read_inputs(like: &[Input], mut bytes: &[u8]) -> Result<Vec<DynValue>, Trouble> {
    let size = |input: &Input| input.shape.iter().product::<usize>() * input.kind.size_of();
    let wanted: usize = like.iter().map(size).sum();
    if wanted != bytes.len() {
        let text = format!("the inputs are {} bytes and the model takes {wanted}", bytes.len());
        return Err(Trouble::new(FaultCode::BadRequest, text));
    }
    let read = |input: &Input| {
        let (own, rest) = bytes.split_at(size(input));
        bytes = rest;
        value(input.kind, &input.shape, own)
    };
    like.iter().map(read).collect()
}

/// The outputs' bytes, one after another.
fn bytes(outputs: &SessionOutputs<'_>) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    for output in outputs.values() {
        macro_rules! of {
            ($type:ty) => {
                output
                    .try_extract_tensor::<$type>()
                    .map(|(_, values)| bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())))
            };
        }
        let kind = output.dtype().tensor_type();
        let taken = match kind {
            Some(TensorElementType::Float32) => of!(f32),
            Some(TensorElementType::Float64) => of!(f64),
            Some(TensorElementType::Int64) => of!(i64),
            Some(TensorElementType::Int32) => of!(i32),
            Some(TensorElementType::Int8) => of!(i8),
            Some(TensorElementType::Uint8) => of!(u8),
            Some(TensorElementType::Bool) => output
                .try_extract_tensor::<bool>()
                .map(|(_, values)| bytes.extend(values.iter().map(|&value| u8::from(value)))),
            _ => return Err(Trouble::new(FaultCode::RunFailed, format!("an output holds {kind:?}"))),
        };
        taken.map_err(|error| trouble(FaultCode::RunFailed, &error))?;
    }
    Ok(bytes)
}
