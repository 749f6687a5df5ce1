//! ONNX Runtime computes what tract computes. Skipped, with a note, where there is no library of it: neither
//! `ORT_DYLIB_PATH` nor Python's `onnxruntime` names one.

#![cfg(feature = "ort")]

mod client;

use std::process::{Command, Stdio};

use client::{Agent, Client, PLAN, assert_whole, command, timings};
use hanas_models::gnn::graph::{Graph, SparseRows};
use hanas_models::gnn::layout::OnGraph;
use hanas_models::gnn::{self, Activation, Aggregator, Attention, GnnLayer, GnnNet, Reading};
use hanas_models::layer::types;
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::Family;
use hanas_models::weights::seeded;
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{Fill, LoadOptions, MeasurePlan};

/// Largest difference over the largest value: rounding, by other kernels in another order of summation.
const TOLERANCE: f32 = 1e-4;

const LOAD: LoadOptions = LoadOptions { per_node: false, fill: Fill::Random };

/// Where Python's package has it.
const FIND: &str = "
import glob, importlib.util
folder = importlib.util.find_spec('onnxruntime').submodule_search_locations[0]
print(*glob.glob(folder + '/capi/libonnxruntime.so*')[:1])
";

fn library() -> Option<String> {
    let given = std::env::var("ORT_DYLIB_PATH").ok();
    let found = given.or_else(|| {
        let output = Command::new("python3").args(["-c", FIND]).stderr(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok().map(|path| path.trim().to_owned())
    });
    let found = found.filter(|path| std::path::Path::new(path).is_file());
    if found.is_none() {
        println!("note: skipped, there is no ONNX Runtime; `pip install onnxruntime` brings it");
    }
    found
}

/// An agent with ONNX Runtime and one with tract.
struct Pair {
    ort: Client,
    tract: Client,
    _agents: [Agent; 2],
}

impl Pair {
    fn open() -> Option<Self> {
        let library = library()?;
        let ort = Agent::tcp(&["--runtime", "ort", "--ort-library", &library, "--pin", "none"]);
        let tract = Agent::tcp(&["--pin", "none"]);
        Some(Self { ort: ort.open(1), tract: tract.open(1), _agents: [ort, tract] })
    }

    fn compare(&mut self, what: &str, model: &[u8], input: &[f32]) {
        let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
        let [ort, tract] = [&mut self.ort, &mut self.tract].map(|client| {
            client.load(0, model, LOAD).unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
            let outputs = client.infer(0, &bytes).unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
            outputs.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect::<Vec<f32>>()
        });
        assert_eq!(ort.len(), tract.len(), "{what}");
        let largest = tract.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
        assert!(largest > 1e-3 && largest.is_finite(), "{what}: values up to {largest}");
        for (a, b) in ort.iter().zip(&tract) {
            assert!((a - b).abs() <= TOLERANCE * largest, "{what}: {a} and {b} of {largest}");
        }
    }
}

/// Values that are not all alike.
fn input(count: usize) -> Vec<f32> {
    (0..count).map(|n| ((n * 37 % 101) as f32 - 50.0) / 50.0).collect()
}

#[test]
fn convolutional_layers_and_whole_nets() {
    let Some(mut pair) = Pair::open() else { return };
    let family = Family::cifar_resnet(20, 10).unwrap();
    let layers = types(&family).into_iter().map(|(_, layer)| layer.net());
    for net in layers.chain([family.base().net().unwrap()]) {
        let (weights, input) = (seeded(&net, 3), input(2 * net.input.len() as usize));
        for (kind, init) in [("given", Init::Weights(&weights)), ("drawn", Init::Seeded(1))] {
            pair.compare(&format!("{}, weights {kind}", net.name), &lower(&net, init, 2).unwrap(), &input);
        }
    }
}

/// Every attention with every aggregator on a hub, a chain and nodes without neighbours; activations in turn.
#[test]
fn graph_layers() {
    let Some(mut pair) = Pair::open() else { return };
    let hub = (1..12).map(|node| [0, node]);
    let edges: Vec<[u32; 2]> = hub.chain((1..11).filter(|n| n % 3 > 0).map(|n| [n, n + 1])).collect();
    let graph = Graph::new(15, &edges).unwrap();
    let starts = (0..=15).map(|row| 3 * row).collect();
    let columns = (0..15u32).flat_map(|row| [row % 3, 3 + row % 2, 5 + row % 4]).collect();
    let features = SparseRows::new(9, starts, columns, input(45)).unwrap();
    let on = OnGraph::new(&graph, &features);
    let held = gnn::onnx::held(&on);
    let location = format!("blake3:{}", pair.ort.upload(&held).unwrap());
    pair.tract.upload(&held).unwrap();
    let values = on.input(&features);
    let mut activations = Activation::ALL.iter().cycle();
    for &attention in Attention::ALL {
        for &aggregator in Aggregator::ALL {
            let Some(&activation) = activations.next() else { unreachable!("a cycle has no end") };
            let layer = GnnLayer { attention, aggregator, activation, heads: 2, dim: 5 };
            let net = GnnNet::new(9, 4, vec![layer, layer]);
            let weights = gnn::seeded(&net, 1);
            let placement = gnn::onnx::Placement::Held(&location);
            let model = gnn::onnx::lower(&net, &on, Reading::project(), Init::Weights(&weights), placement);
            pair.compare(&layer.to_string(), &model.unwrap(), &values);
        }
    }
}

#[test]
fn a_profile_is_taken_and_what_cannot_be_is_refused() {
    let Some(library) = library() else { return };
    let agent = Agent::tcp(&["--runtime", "ort", "--ort-library", &library]);
    let mut client = agent.open(1);
    let family = Family::cifar_resnet(20, 10).unwrap();
    let net = family.base().net().unwrap();
    let model = lower(&net, Init::Seeded(1), 1).unwrap();
    let described = client.load(0, &model, LOAD).unwrap();
    assert_eq!(
        described.ports,
        [(true, "input".into(), "f32 1x3x32x32".into()), (false, "output".into(), "f32 1x10".into()),]
    );
    let blocks = client.measure(1, MeasurePlan { rounds: 2, ..PLAN });
    assert_whole(&blocks);
    let times = timings(&blocks, 0);
    assert!(times.len() == 20 && times.iter().all(|&ns| ns > 0), "{times:?}");

    let fault = client.load(1, &model, LoadOptions { per_node: true, ..LOAD }).unwrap_err();
    assert!(fault.code == FaultCode::Unsupported && fault.text.contains("--per-node"), "{fault:?}");
    assert_eq!(client.load(1, b"no model", LOAD).unwrap_err().code, FaultCode::NotAModel);
    assert_eq!(client.infer(0, &[0; 11]).unwrap_err().code, FaultCode::BadRequest);
    assert_whole(&client.measure(2, PLAN));
}

#[test]
fn where_there_is_no_library_one_line_says_what_to_do() {
    let arguments =
        ["--tcp", "127.0.0.1:0", "--runtime", "ort", "--ort-library", "/nowhere/libonnxruntime.so"];
    let output = command(&arguments).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("--ort-library") && text.contains("/nowhere") && text.lines().count() == 1,
        "{text}"
    );
}
