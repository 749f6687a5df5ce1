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

use super::{Model, Port, Runtime, Trouble};

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
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    output: String,
    ns: u64,
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
        let time = Nanos(listed.map_or(self.script.default_ns, |latency| latency.ns));
        self.slots.insert(slot, (options, time));
        let port = Port { is_input: false, name: output.name.clone(), fact: format!("f32 {shape}") };
        Ok(Model { nodes: vec![("all".to_owned(), "Scripted".to_owned())], ports: vec![port] })
    }

    fn clear(&mut self) {
        self.slots.clear();
    }

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

    fn run_nodes(&mut self, slot: u16, nodes: &mut Vec<Nanos>) -> Result<Nanos, Trouble> {
        let time = self.run_once(slot)?;
        nodes.clear();
        nodes.push(time);
        Ok(time)
    }

    fn infer(&mut self, _slot: u16, _inputs: &[u8]) -> Result<Vec<u8>, Trouble> {
        Err(Trouble::new(FaultCode::Unsupported, "the scripted runtime computes nothing"))
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
