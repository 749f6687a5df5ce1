//! A runtime that this build lacks, or that finds no device, is told of in one line.

mod client;

use std::process::Stdio;

use client::command;

/// What an agent says that does not start.
fn complaint(runtime: &str) -> String {
    let arguments = ["--tcp", "127.0.0.1:0", "--runtime", runtime];
    let output = command(&arguments).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    text
}

#[test]
#[cfg(not(feature = "ort"))]
fn onnx_runtime_is_not_built_in() {
    assert!(complaint("ort").contains("--features ort"));
}

#[test]
#[cfg(not(feature = "torch"))]
fn libtorch_is_not_built_in() {
    assert!(complaint("libtorch").contains("--features torch"));
}

#[test]
#[cfg(not(feature = "cuda"))]
fn tract_on_a_gpu_is_not_built_in() {
    assert!(complaint("tract-cuda").contains("--features cuda"));
}

#[test]
#[cfg(feature = "cuda")]
fn tract_finds_no_gpu() {
    if std::path::Path::new("/proc/driver/nvidia/version").exists() {
        println!("note: skipped, there is a GPU");
        return;
    }
    let text = complaint("tract-cuda");
    assert!(text.contains("no GPU") && text.contains("CUDA driver library not found"), "{text}");
}
