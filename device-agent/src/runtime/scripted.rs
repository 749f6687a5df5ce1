//! The scripted runtime: a device whose latencies are known, for tests of everything above it.
//!
//! A model is ONNX and stands for the shape of its first output; nothing is run and no time passes.
//! The script is TOML:
//!
//! ```toml
//! default_ns = 50000          # of shapes that are not listed
//! noise_ns = 2000             # added to each run, uniform from 0 up to this; never negative
//! seed = 7                    # of the noise
//! # die_on_run = 100          # the worker aborts at this run, warming up counted
//! # sleep_ns_per_run = 1000   # time that really passes, to have something to interrupt
//! [[latency]]
//! output = "4x24x32x32"
//! ns = 17000
//! ```
//!
//! A table `convolution` makes latencies follow the weights instead: a model that holds convolutions
//! costs the sum over them, so that a net costs what its layers cost.
//!
//! ```toml
//! [convolution]
//! floor_ns = 3000             # of each convolution
//! tile = 8                    # its output channels are rounded up to a multiple of this
//! ps_per_weight = 900         # of each weight, those counted that rounding adds
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use hanas_proto::fault::FaultCode;
use hanas_proto::measure::LoadOptions;
use hanas_proto::units::Nanos;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use tract_onnx::pb;
use tract_onnx::prelude::{Framework, onnx};

use super::{Model, Port, Runtime, Timed, Trouble};

/// A script that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// None was named.
    #[error("the scripted runtime needs --script FILE")]
    Missing,
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is no script.
    #[error("{path}: {text}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why, on one line.
        text: String,
    },
}

/// The script, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    default_ns: u64,
    #[serde(default)]
    noise_ns: u64,
    #[serde(default)]
    seed: u64,
    die_on_run: Option<u64>,
    sleep_ns_per_run: Option<u64>,
    #[serde(default)]
    latency: Vec<Latency>,
    convolution: Option<Convolution>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    output: String,
    ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Convolution {
    floor_ns: u64,
    tile: u64,
    ps_per_weight: u64,
}

impl Convolution {
    /// Latency of a graph's convolutions; none where it has none.
    fn latency(self, graph: &pb::GraphProto) -> Option<Nanos> {
        let convolutions = graph.node.iter().filter(|node| node.op_type == "Conv");
        let weights = convolutions.filter_map(|node| weight_shape(graph, node.input.get(1)?));
        let ns = weights.map(|shape| {
            let (cout, of_each): (u64, u64) =
                (shape.first().copied().unwrap_or(1), shape.iter().skip(1).product());
            self.floor_ns + cout.next_multiple_of(self.tile.max(1)) * of_each * self.ps_per_weight / 1000
        });
        ns.reduce(|sum, next| sum + next).map(Nanos)
    }
}

/// Shape of a value that is stored, or drawn by a `RandomNormal`.
fn weight_shape(graph: &pb::GraphProto, name: &str) -> Option<Vec<u64>> {
    let stored = graph.initializer.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.dims);
    let drawn = || {
        let node = graph.node.iter().find(|node| node.output.first().is_some_and(|output| output == name))?;
        node.attribute.iter().find(|attribute| attribute.name == "shape").map(|attribute| &attribute.ints)
    };
    let dims = stored.or_else(drawn)?;
    Some(dims.iter().map(|&dim| dim.unsigned_abs()).collect())
}

/// A device that follows its script.
#[derive(Debug)]
pub struct Scripted {
    script: Script,
    noise: ChaCha8Rng,
    runs: u64,
    slots: BTreeMap<u16, (LoadOptions, Nanos)>,
}

impl Scripted {
    /// Reads the script.
    ///
    /// # Errors
    /// [`ScriptError`] where there is none or it is none.
    pub fn read(path: &Path) -> Result<Self, ScriptError> {
        let text =
            fs::read_to_string(path).map_err(|error| ScriptError::Read { path: path.to_owned(), error })?;
        Self::parse(&text).map_err(|text| ScriptError::Parse { path: path.to_owned(), text })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let script: Script = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let noise = ChaCha8Rng::seed_from_u64(script.seed);
        Ok(Self { script, noise, runs: 0, slots: BTreeMap::new() })
    }
}

impl Runtime for Scripted {
    fn name(&self) -> String {
        "scripted".to_owned()
    }

    fn load(&mut self, slot: u16, content: &[u8], options: LoadOptions) -> Result<Model, Trouble> {
        self.slots.remove(&slot);
        let not_a_model = || Trouble::new(FaultCode::NotAModel, "the content is not ONNX");
        let proto = onnx().proto_model_for_read(&mut &content[..]).map_err(|_| not_a_model())?;
        let graph = proto.graph.ok_or_else(not_a_model)?;
        let output = graph.output.first().ok_or_else(not_a_model)?;
        let shape = shape(output);
        let listed = self.script.latency.iter().find(|latency| latency.output == shape);
        let by_shape = Nanos(listed.map_or(self.script.default_ns, |latency| latency.ns));
        let by_weights = self.script.convolution.and_then(|convolution| convolution.latency(&graph));
        let time = by_weights.unwrap_or(by_shape);
        self.slots.insert(slot, (options, time));
        let port = Port { is_input: false, name: output.name.clone(), fact: format!("f32 {shape}") };
        Ok(Model { nodes: vec![("all".to_owned(), "Scripted".to_owned())], ports: vec![port] })
    }

    fn clear(&mut self) {
        self.slots.clear();
    }

    fn infer(&mut self, _slot: u16, _inputs: &[u8]) -> Result<Vec<u8>, Trouble> {
        Err(Trouble::new(FaultCode::Unsupported, "the scripted runtime computes nothing"))
    }
}

impl Timed for Scripted {
    type Trouble = Trouble;

    fn options(&self, slot: u16) -> Option<LoadOptions> {
        self.slots.get(&slot).map(|(options, _)| *options)
    }

    fn run_once(&mut self, slot: u16) -> Result<Nanos, Trouble> {
        let (_, time) = *self.slots.get(&slot).ok_or_else(|| Trouble::empty_slot(slot))?;
        self.runs += 1;
        if self.script.die_on_run == Some(self.runs) {
            std::process::abort();
        }
        if let Some(ns) = self.script.sleep_ns_per_run {
            thread::sleep(Duration::from_nanos(ns));
        }
        Ok(time + Nanos(self.noise.random_range(0..=self.script.noise_ns)))
    }

    fn run_nodes(&mut self, slot: u16, tell: &mut dyn FnMut(Nanos)) -> Result<Nanos, Trouble> {
        let time = self.run_once(slot)?;
        tell(time);
        Ok(time)
    }
}

/// `4x24x32x32`; a dimension that is not a number is `?`.
fn shape(value: &pb::ValueInfoProto) -> String {
    let Some(pb::type_proto::Value::TensorType(tensor)) =
        value.r#type.as_ref().and_then(|kind| kind.value.as_ref())
    else {
        return String::new();
    };
    let dims = tensor.shape.iter().flat_map(|shape| &shape.dim).map(|dim| match &dim.value {
        Some(pb::tensor_shape_proto::dimension::Value::DimValue(size)) => size.to_string(),
        _ => "?".to_owned(),
    });
    dims.collect::<Vec<_>>().join("x")
}

#[cfg(test)]
mod tests {
    use hanas_models::layer::{Layer, LayerKind};
    use hanas_models::onnx::{Init, lower};

    use super::*;

    const SCRIPT: &str =
        "default_ns = 50\nnoise_ns = 9\nseed = 3\n[[latency]]\noutput = \"4x8x16x16\"\nns = 1000\n";

    fn conv(cout: u32) -> Vec<u8> {
        let kind = LayerKind::Conv { kernel: 3, stride: 1, side: 16 };
        lower(&Layer { kind, cin: 2, cout }.net(), Init::Seeded(1), 4).unwrap()
    }

    fn times(runtime: &mut Scripted, slot: u16) -> Vec<u64> {
        (0..100).map(|_| runtime.run_once(slot).unwrap().0).collect()
    }

    #[test]
    fn latency_follows_the_output_shape_and_noise_never_helps() {
        let mut runtime = Scripted::parse(SCRIPT).unwrap();
        runtime.load(0, &conv(8), LoadOptions::default()).unwrap();
        runtime.load(1, &conv(7), LoadOptions::default()).unwrap();
        let listed = times(&mut runtime, 0);
        assert_eq!((listed.iter().min(), listed.iter().max()), (Some(&1000), Some(&1009)));
        assert_eq!(times(&mut runtime, 1).iter().min(), Some(&50));
        let mut again = Scripted::parse(SCRIPT).unwrap();
        again.load(0, &conv(8), LoadOptions::default()).unwrap();
        assert_eq!(times(&mut again, 0), listed);
    }

    #[test]
    fn convolutions_cost_their_weights_in_tiles() {
        let script = "default_ns = 50\n[convolution]\nfloor_ns = 100\ntile = 8\nps_per_weight = 2000\n";
        let mut runtime = Scripted::parse(script).unwrap();
        for (slot, cout, tiled) in [(0, 8, 8), (1, 9, 16)] {
            runtime.load(slot, &conv(cout), LoadOptions::default()).unwrap();
            assert_eq!(runtime.run_once(slot).unwrap(), Nanos(100 + 2 * tiled * 2 * 9));
        }
    }

    #[test]
    fn a_script_with_unknown_words_is_refused_by_name() {
        let error = Scripted::parse("default_ns = 1\nnoize_ns = 2").unwrap_err();
        assert!(error.contains("noize_ns") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn what_is_not_onnx_is_no_model() {
        let mut runtime = Scripted::parse(SCRIPT).unwrap();
        let trouble = runtime.load(0, b"no model at all", LoadOptions::default()).unwrap_err();
        assert_eq!(trouble.code, FaultCode::NotAModel);
    }
}
