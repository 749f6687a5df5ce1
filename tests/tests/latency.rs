//! Two processes: what is planted in a device is what its latency models predict, through the command line.

use hanas_models::layer::{Layer, LayerKind, layers};
use hanas_models::resnet::{ConvNet, Family};
use hanas_tests::agent::Agent;
use hanas_tests::host::Host;
use serde_json::Value;

const TASK: [&str; 4] = ["--task", "cifar10-resnet20", "--batch", "1"];
/// Enough for a device that is never faster than planted.
const SAMPLES: &str = "8";
const SCRIPT: &str = "default_ns = 2000\nnoise_ns = 40\nseed = 5\n\
    [convolution]\nfloor_ns = 3000\ntile = 8\nps_per_weight = 900\n";

/// A prediction may be off by this much of the planted latency.
const TOLERANCE: f64 = 0.05;

fn profile(host: &Host, agent: &Agent, which: &[&str]) -> Value {
    let options = ["--samples", SAMPLES, "--allow-noisy", "--quiet", "--which"];
    host.json(&[&["profile", "--device", agent.url()], &TASK[..], &options, which].concat())
}

fn latency(host: &Host, verb: &str, more: &[&str]) -> Value {
    host.json(&[&["latency", verb], &TASK[..], more].concat())
}

/// What the script says of a layer.
fn planted_ns(layer: &Layer) -> f64 {
    let kernel = match layer.kind {
        LayerKind::Conv { kernel, .. } => kernel,
        LayerKind::Shortcut { .. } => 1,
        LayerKind::Head { .. } => return 2_000.0,
    };
    f64::from(layer.cout.next_multiple_of(8) * layer.cin * kernel * kernel).mul_add(0.9, 3_000.0)
}

/// A net's convolutions; its head is free.
fn planted_net_ns(net: &ConvNet) -> f64 {
    let list = layers(net).unwrap();
    list.iter().filter(|(_, layer)| layer.kind.output_side() > 1).map(|(_, layer)| planted_ns(layer)).sum()
}

#[test]
fn pairs_recover_the_planted_device_and_predict_its_nets() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", SCRIPT));
    let _ = profile(&host, &agent, &["all"]);
    let report = profile(&host, &agent, &["pairs", "--pairs", "700"]);
    // The null model is no layer; 7 nets are of the first profile, 24 new.
    assert_eq!(report["candidates"], 700 + 1 + 31, "{report}");
    assert_eq!(report["failed"].as_array().unwrap().len(), 0);
    let again = profile(&host, &agent, &["pairs", "--pairs", "700"]);
    assert_eq!((&again["session"], &again["measured_before"]), (&Value::Null, &report["candidates"]));
    let _ = profile(&host, &agent, &["nets", "--nets", "30", "--seed", "4"]);

    let fits = latency(&host, "fit", &[]);
    assert_eq!(fits["fits"][1]["calibration_nets"], 31);
    let found = latency(&host, "eval", &[]);
    let [paper, pairwise] = [0, 1].map(|at| &found["devices"][0]["models"][at]);
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap();
    assert_eq!((&paper["model"], &pairwise["model"]), (&Value::from("paper"), &Value::from("pairwise")));
    assert_eq!(pairwise["nets"], 30);
    assert!(number(pairwise, "nine_in_ten") <= TOLERANCE, "{pairwise}");
    assert!(number(pairwise, "spearman_rho") >= 0.99, "{pairwise}");
    assert!(number(pairwise, "mape") < 0.5 * number(paper, "mape"), "{pairwise} {paper}");

    let family = Family::cifar_resnet(20, 10).unwrap();
    let line = "20 | 5-30 17-9 | 50-33 | 100-71 12-128";
    let net = family.parse(line).unwrap();
    let found = latency(&host, "predict", &[line, "--per-layer"]);
    let predicted = number(&found["nets"][0], "predicted_ns");
    assert!((predicted / planted_net_ns(&net) - 1.0).abs() < TOLERANCE, "{predicted}");
    let by_layer = found["nets"][0]["layers"].as_array().unwrap();
    assert_eq!(by_layer.len(), layers(&net).unwrap().len());
    assert_eq!((&found["model"], &found["held_out_nets"]), (&Value::from("pairwise"), &Value::from(30)));
}

#[test]
fn what_is_missing_is_said_with_the_command_that_mends_it() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", SCRIPT));
    let says = |arguments: &[&str], command: &str| {
        let ended = host.run(&[&["latency"], arguments, &TASK[..]].concat());
        assert!(ended.complaint(1).contains(command), "{}", ended.stderr);
    };
    let _ = profile(&host, &agent, &["nets", "--nets", "3"]);
    says(&["fit", "--model", "pairwise"], "hanas profile --which pairs");
    says(&["fit", "--model", "paper"], "hanas profile --which all");
    says(&["eval"], "hanas latency fit");
    says(&["predict", "16 | 16-16 | 32-32 | 64-64"], "hanas latency fit");
    let host = Host::default();
    let _ = profile(&host, &agent, &["all"]);
    let fits = latency(&host, "fit", &["--model", "paper"]);
    assert_eq!(fits["fits"][0]["calibration_nets"], 7);
    let ended = host.run(&[&["latency", "eval"], &TASK[..]].concat());
    assert!(ended.complaint(1).contains("hanas profile --which nets"), "{}", ended.stderr);
    let ended = host.run(&[&["latency", "predict", "nowhere"], &TASK[..]].concat());
    assert!(ended.complaint(1).contains("16 | 16-16"), "{}", ended.stderr);
}
