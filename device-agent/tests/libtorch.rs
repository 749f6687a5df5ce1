//! libtorch computes what tract computes, and what it cannot do is said in one line. On a GPU only where there
//! is one: `NVIDIA_TF32_OVERRIDE=0 cargo test --release -p hanas-agent --features torch --test libtorch -- --ignored`.

#![cfg(feature = "torch")]

mod client;
mod onnx;
mod parity;

use std::process::Stdio;

use client::{Agent, Client, PLAN, What, assert_whole, command};
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::LoadOptions;
use onnx::{Case, cases, node};
use parity::{LOAD, Pair, input, profile_resnet20, resnet20};

const LIBTORCH: [&str; 2] = ["--runtime", "libtorch"];
const ON_GPU: [&str; 4] = ["--runtime", "libtorch", "--torch-device", "cuda"];

#[test]
fn convolutional_layers_and_whole_nets() {
    let mut pair = Pair::open(&LIBTORCH);
    pair.compare_convolutional(1);
    pair.compare_convolutional(4);
}

#[test]
fn graph_layers() {
    Pair::open(&LIBTORCH).compare_graph();
}

/// What other exporters write: every operator, and the ways in which it can be asked for.
#[test]
fn single_operators() {
    let mut pair = Pair::open(&[&LIBTORCH[..], &["--threads", "2"]].concat());
    for case in cases() {
        pair.compare(case.what, &case.bytes(), &input(case.input.iter().product::<i64>() as usize));
    }
}

#[test]
fn a_profile_is_taken_whole_and_by_operator() {
    let agent = Agent::tcp(&LIBTORCH);
    let mut client = agent.open(1);
    let described = profile_resnet20(&mut client);
    by_operator(&mut client);
    // The weights are drawn, and no step: only what is run is an operator.
    assert_eq!(described.nodes.iter().filter(|(_, op)| op == "Conv").count(), 21);
    assert!(described.nodes.iter().all(|(name, op)| !name.is_empty() && op != "RandomNormal"));
}

/// Every run gives a time for each operator that was told of. Returns their names.
fn by_operator(client: &mut Client) -> Vec<String> {
    let described = client.load(0, &resnet20(1), LoadOptions { per_node: true, ..LOAD }).unwrap();
    let blocks = client.measure(2, PLAN);
    assert_whole(&blocks);
    let runs: Vec<&Vec<u64>> = (blocks.iter())
        .filter_map(|block| if let What::Nodes { series, .. } = &block.what { Some(series) } else { None })
        .flat_map(|series| series.iter().map(|(_, times)| times))
        .collect();
    assert!(!runs.is_empty());
    let times: usize = runs.iter().map(|times| times.len()).sum();
    assert_eq!(times, described.nodes.len() * usize::from(PLAN.runs));
    described.nodes.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let agent = Agent::tcp(&LIBTORCH);
    let mut client = agent.open(1);
    let case = |nodes| Case { what: "", nodes, weights: vec![], input: &[1, 4] };
    let mut refused = |nodes, code, words: &[&str]| {
        let fault = client.load(0, &case(nodes).bytes(), LOAD).unwrap_err();
        let named = words.iter().all(|word| fault.text.contains(word));
        assert!(fault.code == code && named && fault.text.lines().count() == 1, "{fault:?}");
    };
    let unsupported = FaultCode::Unsupported;
    refused(vec![node("Xelu", &["input"], "output")], unsupported, &["Xelu", "'output'", "libtorch"]);
    let mut foreign = node("Gelu", &["input"], "output");
    foreign.domain = "com.microsoft".to_owned();
    refused(vec![foreign], unsupported, &["com.microsoft.Gelu"]);
    // The trial run finds what does not fit together, and names the place.
    let misfit = vec![node("Relu", &["input"], "a"), node("MatMul", &["a", "input"], "output")];
    refused(misfit, unsupported, &["MatMul 'output'", "1x4"]);
    refused(vec![node("Relu", &["nothing"], "output")], FaultCode::NotAModel, &["'nothing'"]);
    let computed = vec![node("Reshape", &["input", "input"], "output")];
    refused(computed, unsupported, &["Reshape", "operand 2", "computed"]);
    refused(onnx::huge(), FaultCode::TooLarge, &["memory"]);

    assert_eq!(client.load(1, b"no model", LOAD).unwrap_err().code, FaultCode::NotAModel);
    client.load(0, &resnet20(1), LOAD).unwrap();
    assert_eq!(client.infer(0, &[0; 11]).unwrap_err().code, FaultCode::BadRequest);
    // None of it has hurt the worker.
    assert_whole(&client.measure(1, PLAN));
}

#[test]
fn where_there_is_no_gpu_one_line_says_so() {
    let arguments = [&["--tcp", "127.0.0.1:0"], &ON_GPU[..3], &["cuda:200"]].concat();
    let output = command(&arguments).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("no GPU") && text.lines().count() == 1, "{text}");
    let arguments = ["--tcp", "127.0.0.1:0", "--torch-device", "gpu"];
    let output = command(&arguments).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cuda:1"));
}

#[test]
#[ignore = "needs a GPU: NVIDIA_TF32_OVERRIDE=0 cargo test --release -p hanas-agent --features torch --test libtorch -- --ignored"]
fn a_gpu_computes_the_same() {
    let mut pair = Pair::open(&ON_GPU);
    pair.compare_convolutional(4);
    pair.compare_graph();
    for case in cases() {
        pair.compare(case.what, &case.bytes(), &input(case.input.iter().product::<i64>() as usize));
    }
}

#[test]
#[ignore = "needs a GPU: cargo test --release -p hanas-agent --features torch --test libtorch -- --ignored"]
fn a_gpu_tells_transfers_from_operators() {
    let agent = Agent::tcp(&ON_GPU);
    let mut client = agent.open(1);
    let names = by_operator(&mut client);
    assert_eq!(names.first().map(String::as_str), Some("(transfer in)"));
    assert_eq!(names.last().map(String::as_str), Some("(transfer out)"));
    client.load(0, &resnet20(1024), LOAD).unwrap();
    assert_whole(&client.measure(3, PLAN));
}
