//! ONNX Runtime computes what tract computes. Skipped, with a note, where there is no library of it: neither
//! `ORT_DYLIB_PATH` nor Python's `onnxruntime` names one.

#![cfg(feature = "ort")]

mod client;
mod parity;

use std::process::{Command, Stdio};

use client::{Agent, PLAN, assert_whole, command};
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::LoadOptions;
use parity::{LOAD, Pair, profile_resnet20, resnet20};

/// Where Python's package has it.
const FIND: &str = "
import glob, importlib.util
folder = importlib.util.find_spec('onnxruntime').submodule_search_locations[0]
print(*glob.glob(folder + '/capi/libonnxruntime.so*')[:1])
";

fn pair() -> Option<Pair> {
    let library = library()?;
    Some(Pair::open(&["--runtime", "ort", "--ort-library", &library]))
}

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

#[test]
fn convolutional_layers_and_whole_nets() {
    let Some(mut pair) = pair() else { return };
    pair.compare_convolutional(2);
}

#[test]
fn graph_layers() {
    let Some(mut pair) = pair() else { return };
    pair.compare_graph();
}

#[test]
fn a_profile_is_taken_and_what_cannot_be_is_refused() {
    let Some(library) = library() else { return };
    let agent = Agent::tcp(&["--runtime", "ort", "--ort-library", &library]);
    let mut client = agent.open(1);
    profile_resnet20(&mut client);

    let fault = client.load(1, &resnet20(1), LoadOptions { per_node: true, ..LOAD }).unwrap_err();
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
