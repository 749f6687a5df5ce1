//! The real runtime: a whole net benched, and profiling models that are what they stand for.

use hanas::link::session::Timeouts;
use hanas::link::{DeviceUrl, Session};
use hanas_models::layer::types;
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::Family;
use hanas_models::spec::Net;
use hanas_models::weights::seeded;
use hanas_proto::measure::LoadOptions;
use hanas_tests::agent::Agent;
use hanas_tests::host::Host;
use hanas_tests::line::{PtyBridge, Wire};
use hanas_tests::same::{images, largest_error};

fn family() -> Family {
    Family::cifar_resnet(20, 10).unwrap()
}

#[test]
fn a_net_is_benched_whole_and_by_operator() {
    let net = family().base().net().unwrap();
    let host = Host::default();
    let weights = seeded(&net, 5);
    let model = host.file("resnet20.onnx", lower(&net, Init::Weights(&weights), 1).unwrap());
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    let bench = ["bench", model.to_str().unwrap(), "--device", agent.url(), "--per-node", "--samples", "40"];
    let report = host.json(&[&bench[..], &["--allow-noisy", "--quiet"]].concat());

    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let samples: Vec<f64> = report["samples_ns"].as_array().unwrap().iter().map(number).collect();
    assert_eq!(samples.len(), 40);
    let fastest = samples.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(fastest > 0.0 && number(&report["minimum_ns"]) == fastest);
    let (median, p95) = (number(&report["latency"]["median_ns"]), number(&report["p95_ns"]));
    assert!(fastest <= median && median <= p95, "{fastest} {median} {p95}");
    assert_eq!(report["latency"]["samples"], 40);
    assert!(report["inputs"][0].as_str().unwrap().contains("1x3x32x32"), "{}", report["inputs"]);
    assert!(report["outputs"][0].as_str().unwrap().contains("1x10"), "{}", report["outputs"]);
    assert!(number(&report["load_ms"]) > 0.0);

    let nodes = report["nodes"].as_array().unwrap();
    assert!(nodes.len() > 20, "{} operators", nodes.len());
    let sum: f64 = nodes.iter().map(|node| number(&node["median_ns"])).sum();
    // Not a claim about speed: nanoseconds in both, though other tests run beside one of the two.
    assert!(sum > 0.1 * median && sum < 10.0 * median, "operators {sum} ns, whole {median} ns");
    let share: f64 = nodes.iter().map(|node| number(&node["share"])).sum();
    assert!((share - 1.0).abs() < 1e-9, "{share}");
}

/// Some 67 frames of output, a quarter of which this line loses each time, and the names of the operators.
#[test]
fn an_answer_in_many_pieces_comes_whole_over_a_line_that_loses_bytes() {
    let baud = 460_800;
    let line = PtyBridge::new(Wire { lose_one_in: 4_000, seed: 13, ..Wire::clean(baud) });
    let (agent_side, host_side) = (line.agent_side.to_str().unwrap(), line.host_side.to_str().unwrap());
    let _agent = Agent::serve(&["--serial", agent_side, "--baud", &baud.to_string()]);
    let open = |url: &str| {
        let url: DeviceUrl = url.parse().unwrap();
        Session::open(&url, Timeouts::default()).unwrap()
    };
    let mut there = open(&format!("serial://{host_side}?baud={baud}"));
    let mut here = open("local:--pin none");
    let (_, stem) = types(&family()).into_iter().next().unwrap();
    let net = stem.net();
    let model = lower(&net, Init::Seeded(1), 1).unwrap();
    assert_eq!(largest_error(&mut here, &mut there, &model, &images(&net, 1)).unwrap(), 0.0);
    let parts = |session: &mut Session| {
        let digest = session.upload(&model).unwrap();
        let loaded = session.load(0, digest, LoadOptions::default()).unwrap();
        (loaded.nodes, loaded.ports)
    };
    assert_eq!(parts(&mut there), parts(&mut here));
    assert!(line.faults() >= 10 && there.damaged_frames() > 0, "{} faults on the line", line.faults());
}

/// A profiling model is a few hundred bytes with drawn weights. The runtime has to make the same of it
/// as of the layer with weights of its own.
#[test]
fn a_profiling_model_becomes_the_same_graph_as_the_real_one() {
    let url: DeviceUrl = "local:--pin none".parse().unwrap();
    let mut session = Session::open(&url, Timeouts::default()).unwrap();
    let mut graph = |net: &Net, init: Init<'_>| {
        let digest = session.upload(&lower(net, init, 4).unwrap()).unwrap();
        session.load(0, digest, LoadOptions::default()).unwrap()
    };
    let layers = types(&family()).into_iter().map(|(_, layer)| layer.net());
    let nets: Vec<Net> = layers.chain([family().base().net().unwrap()]).collect();
    for net in nets {
        let real = graph(&net, Init::Weights(&seeded(&net, 3)));
        let profiling = graph(&net, Init::Seeded(1));
        assert!(!real.nodes.is_empty());
        assert_eq!(profiling.nodes, real.nodes, "{}", net.name);
        assert_eq!(profiling.ports, real.ports, "{}", net.name);
    }
}
