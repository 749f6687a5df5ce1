//! What users get wrong: an exit code that says whose fault it is, and one line that says what to do.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use hanas_models::layer::{Layer, LayerKind};
use hanas_models::onnx::{Init, lower};
use hanas_tests::agent::Agent;
use hanas_tests::host::{Host, finish};
use hanas_tests::{planted, program};
use rusqlite::Connection;

const LAYER: Layer = Layer { kind: LayerKind::Conv { kernel: 3, stride: 1, side: 8 }, cin: 3, cout: 4 };

fn layer() -> Vec<u8> {
    lower(&LAYER.net(), Init::Seeded(1), 1).unwrap()
}

/// The same bytes with an operator that nobody has.
fn layer_with_made_up_operator() -> Vec<u8> {
    let mut bytes = layer();
    let place = bytes.windows(4).position(|word| word == b"Relu").unwrap();
    bytes[place..place + 4].copy_from_slice(b"Xelu");
    bytes
}

fn bench<'a>(model: &'a Path, device: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["bench", model.to_str().unwrap(), "--device", device, "--quiet"], more].concat()
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("tcp://{}", listener.local_addr().unwrap())
}

#[test]
fn files_that_cannot_be_measured() {
    let host = Host::default();
    let nowhere = nobody();
    let ended = host.run(&bench(Path::new("none.onnx"), &nowhere, &[]));
    assert!(ended.complaint(1).contains("cannot read none.onnx"), "{}", ended.stderr);

    let text = host.file("text.onnx", "this is no model");
    let ended = host.run(&bench(&text, &nowhere, &[]));
    assert!(ended.complaint(1).contains("text.onnx: it is not an ONNX model"), "{}", ended.stderr);

    let model = host.file("layer.onnx", layer());
    let ended = host.run(&bench(&model, &nowhere, &["--input", "input=1x4x8x8"]));
    assert!(
        ended.complaint(1).contains("input 'input' is 1x3x8x8 and cannot be 1x4x8x8"),
        "{}",
        ended.stderr
    );
    let ended = host.run(&bench(&model, &nowhere, &["--input", "image=1x3x8x8"]));
    assert!(ended.complaint(1).contains("the model's inputs are input"), "{}", ended.stderr);
}

#[test]
fn a_model_that_the_runtime_does_not_know() {
    let host = Host::default();
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    let model = host.file("xelu.onnx", layer_with_made_up_operator());
    let ended = host.run(&bench(&model, agent.url(), &[]));
    let complaint = ended.complaint(1);
    assert!(complaint.contains("xelu.onnx: the device cannot run it"), "{complaint}");
    assert!(complaint.contains("Xelu"), "{complaint}");
    // The agent is none the worse for it.
    let good = host.file("layer.onnx", layer());
    let _ = host.json(&bench(&good, agent.url(), &["--allow-noisy", "--samples", "4"]));
}

#[test]
fn devices_that_are_not_there() {
    let host = Host::default();
    let model = host.file("layer.onnx", layer());
    let nowhere = nobody();
    let ended = host.run(&bench(&model, &nowhere, &[]));
    let complaint = ended.complaint(3);
    assert!(complaint.contains(&nowhere) && complaint.contains("hanas-agent serve --tcp"), "{complaint}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", silent.local_addr().unwrap());
    let ended = host.run(&bench(&model, &url, &[]));
    assert!(ended.complaint(3).contains("no hanas agent answers"), "{}", ended.stderr);

    let ended = host.run(&bench(&model, "jetson", &[]));
    assert!(ended.complaint(2).contains("'jetson' is no device"), "{}", ended.stderr);
    let ended = host.run(&bench(&model, "unix:///nowhere/agent.sock", &[]));
    assert!(ended.complaint(3).contains("hanas-agent serve --unix"), "{}", ended.stderr);
    let ended = host.run(&bench(&model, "serial:///nowhere/tty", &[]));
    assert!(ended.complaint(3).contains("hanas-agent serve --serial"), "{}", ended.stderr);
}

#[test]
fn words_that_mean_nothing_are_usage_errors() {
    let host = Host::default();
    let profile = ["profile", "--device", "local:", "--task"];
    for (arguments, hint) in [
        ([&profile[..], &["cifar10-resnet21"]].concat(), "cifar10-resnet20"),
        ([&profile[..], &["cifar10-resnet20", "--samples", "0"]].concat(), "1..=100000"),
        (vec!["bench", "x.onnx", "--device", "local:", "--input", "a=0x1"], "NAME=1x3x224x224"),
        (vec!["bench", "x.onnx"], "--device"),
        (vec!["bench", "x.onnx", "--device", "local:", "--per-node", "--format", "csv"], "text and JSON"),
        (vec!["measure"], "unrecognized subcommand"),
    ] {
        let ended = host.run(&arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(hint) && ended.stdout.is_empty(), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn a_store_that_somebody_else_writes() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", planted::script("")));
    let profile = |samples: &'static str| {
        let command = ["profile", "--device", agent.url(), "--task", "cifar10-resnet20", "--which", "space"];
        host.run(&[&command[..], &["--samples", samples, "--race", "0", "--allow-noisy", "--quiet"]].concat())
    };
    assert_eq!(profile("4").code, Some(0));
    let before = host.samples();
    let mut other = Connection::open(host.store()).unwrap();
    let writing = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let ended = profile("8");
    assert!(ended.complaint(1).contains("is locked by"), "{}", ended.stderr);
    drop(writing);
    assert!(host.samples() == before, "a locked store was changed");
    assert_eq!(profile("8").code, Some(0));
    assert!(host.counts().values().all(|&count| count == 8));
}

#[test]
fn a_file_that_is_no_store_is_left_alone() {
    let host = Host::default();
    let notes = host.file("store.sqlite", "precious notes\n".repeat(100));
    let ended = host.run(&["space", "build", "--task", "cifar10-resnet20"]);
    assert!(ended.complaint(1).contains("is not a hanas store"), "{}", ended.stderr);
    assert_eq!(std::fs::read(notes).unwrap(), "precious notes\n".repeat(100).into_bytes());
}

#[test]
fn a_space_of_what_was_never_measured() {
    let host = Host::default();
    let ended = host.run(&["space", "build", "--task", "cifar10-resnet20"]);
    assert!(ended.complaint(1).contains("`hanas profile` makes one"), "{}", ended.stderr);
}

#[cfg(feature = "torch")]
#[test]
fn a_budget_that_no_net_meets() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", planted::script("")));
    let device = ["--device", agent.url(), "--task", "shapes10-resnet20", "--quiet"];
    let profile = [&["profile", "--samples", "4", "--allow-noisy"], &device[..]].concat();
    assert_eq!(host.run(&profile).code, Some(0));
    let own =
        ["search", "uniform", "--budget", "1us", "--images", "100", "--cost", "paper-f", "--out", "run"];
    let ended = host.run(&[&own[..], &device[..]].concat());
    assert!(ended.complaint(1).contains("budget"), "{}", ended.stderr);
}

#[test]
fn an_agent_does_not_open_itself_to_the_network() {
    let agent = Command::new(program("hanas-agent"))
        .args(["serve", "--tcp", "0.0.0.0:0"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let ended = finish(agent);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.starts_with("hanas-agent: 0.0.0.0:0 can be reached from the network"));
    assert!(ended.stderr.contains("ssh -L"), "{}", ended.stderr);
}
