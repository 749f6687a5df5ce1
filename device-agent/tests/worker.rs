//! Models good and bad in a real worker: what they are turned into, and what they cannot break.

mod client;

use client::{Agent, PLAN, What, assert_whole, emulator_and_program, timings};
use hanas_models::layer::{Layer, LayerKind};
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::Family;
use hanas_models::weights::{Weights, seeded};
use hanas_proto::ToAgent;
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{Fill, LoadOptions, MeasurePlan};
use tract_onnx::pb;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};

const LOAD: LoadOptions = LoadOptions { per_node: false, fill: Fill::Random };

fn tensor_type(dims: &[Option<i64>]) -> pb::TypeProto {
    let dim = |size: &Option<i64>| Dimension {
        denotation: String::new(),
        value: Some(size.map_or(dimension::Value::DimParam("n".into()), dimension::Value::DimValue)),
    };
    let shape = Some(pb::TensorShapeProto { dim: dims.iter().map(dim).collect() });
    pb::TypeProto {
        denotation: String::new(),
        value: Some(pb::type_proto::Value::TensorType(pb::type_proto::Tensor { elem_type: 1, shape })),
    }
}

fn value(name: &str, dims: &[Option<i64>]) -> pb::ValueInfoProto {
    pb::ValueInfoProto { name: name.into(), r#type: Some(tensor_type(dims)), ..pb::ValueInfoProto::default() }
}

fn node(op: &str, input: &[&str], output: &str) -> pb::NodeProto {
    pb::NodeProto {
        op_type: op.into(),
        input: input.iter().map(|&name| name.into()).collect(),
        output: vec![output.into()],
        ..pb::NodeProto::default()
    }
}

/// ONNX bytes of a graph from `x` to `y`.
fn model(nodes: Vec<pb::NodeProto>, input: &[Option<i64>], initializer: Vec<pb::TensorProto>) -> Vec<u8> {
    let graph = pb::GraphProto {
        node: nodes,
        name: "g".into(),
        input: vec![value("x", input)],
        output: vec![value("y", &[])],
        initializer,
        ..pb::GraphProto::default()
    };
    let opset = pb::OperatorSetIdProto { domain: String::new(), version: 18 };
    let proto = pb::ModelProto {
        ir_version: 10,
        opset_import: vec![opset],
        graph: Some(graph),
        ..pb::ModelProto::default()
    };
    prost::Message::encode_to_vec(&proto)
}

/// Some hundred bytes that ask for 549 GB.
fn hostile() -> Vec<u8> {
    asking_for(1 << 18)
}

/// Some hundred bytes that ask for `side` x `side` numbers of 4 bytes or more.
fn asking_for(side: i64) -> Vec<u8> {
    let shape = pb::TensorProto {
        name: "shape".into(),
        dims: vec![2],
        data_type: 7,
        int64_data: vec![side, side],
        ..pb::TensorProto::default()
    };
    let nodes = vec![node("ConstantOfShape", &["shape"], "huge"), node("Add", &["x", "huge"], "y")];
    model(nodes, &[Some(1), Some(1)], vec![shape])
}

#[test]
fn a_hostile_model_kills_the_worker_at_most_and_the_fault_says_of_what() {
    let agent = Agent::tcp(&["--memory-limit", "2G"]);
    let mut client = agent.open(1);
    let kind = LayerKind::Head { side: 4 };
    let good = lower(&Layer { kind, cin: 8, cout: 10 }.net(), Init::Seeded(1), 1).unwrap();
    client.load(0, &good, LOAD).unwrap();
    let before = agent.workers();

    // A tensor that tract asks for: the other slots do not even notice.
    let fault = client.load(3, &hostile(), LOAD).unwrap_err();
    assert_eq!(fault.code, FaultCode::TooLarge, "{fault:?}");
    assert!(fault.text.contains("549755813888") && fault.text.contains("--memory-limit"), "{fault:?}");
    assert_whole(&client.measure(9, PLAN));
    assert_eq!(agent.workers(), before);

    // An input of 275 GB: the worker aborts.
    let side = Some(1 << 18);
    let fault =
        client.load(3, &model(vec![node("Relu", &["x"], "y")], &[side, side], vec![]), LOAD).unwrap_err();
    assert_eq!(fault.code, FaultCode::WorkerDied, "{fault:?}");
    for part in ["loading slot 3", "SIGABRT", "allocation of"] {
        assert!(fault.text.contains(part), "{fault:?}");
    }
    assert!(!fault.text.contains('\n'));

    // Another worker, with empty slots, for the same session.
    let id = client.id();
    client.send(&ToAgent::Measure { id, job: 1, plan: PLAN });
    assert!(client.done(id).unwrap_err().text.contains("slot 0 is empty"));
    client.load(0, &good, LOAD).unwrap();
    assert_whole(&client.measure(2, PLAN));
    assert_ne!(agent.workers(), before);
}

/// An emulator does not pass the worker's own limit on to the system, so the command sets it as well: the
/// machine has what is asked for, the worker may not.
#[test]
fn a_worker_is_started_through_another_command_and_held_to_its_memory() {
    let through = ["env", "HANAS_MARK=here", "prlimit", &format!("--as={}", 2u64 << 30)].join(" ");
    let prefix = format!("{through} {}", emulator_and_program().0.join(" "));
    let agent = Agent::tcp(&["--memory-limit", "2G", "--worker-prefix", &prefix]);
    let mut client = agent.open(1);
    client.load(0, &model(vec![node("Relu", &["x"], "y")], &[Some(1)], vec![]), LOAD).unwrap();
    let worker = agent.workers()[0];
    let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    assert!(environment.windows(15).any(|part| part == b"HANAS_MARK=here"));

    let four_gib = asking_for(1 << 15);
    let fault = client.load(1, &four_gib, LOAD).unwrap_err();
    assert_eq!(fault.code, FaultCode::TooLarge, "{fault:?}");
    assert_whole(&client.measure(1, PLAN));
}

#[test]
fn a_worker_that_dies_in_a_job_ends_the_job_and_names_the_slot() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("deadly.toml");
    std::fs::write(&script, "default_ns = 1000\ndie_on_run = 45\n").unwrap();
    let agent = Agent::tcp(&["--runtime", "scripted", "--script", script.to_str().unwrap()]);
    let mut client = agent.open(1);
    client.load(6, &hostile(), LOAD).unwrap();
    // 10 runs to warm up, rounds of 10: the 4th round is broken off.
    let blocks = client.measure(1, MeasurePlan { slots: &[0x40], rounds: 9, ..PLAN });
    assert_whole(&blocks);
    let What::End(end) = &blocks.last().unwrap().what else { panic!("{blocks:?}") };
    for part in ["WorkerDied", "slot: 6", "timing slot 6", "SIGABRT"] {
        assert!(end.contains(part), "{end}");
    }
    // What had not left the worker is lost with it; what arrived is right.
    assert!(timings(&blocks, 6).iter().all(|&ns| ns == 1000));
    client.load(6, &hostile(), LOAD).unwrap();
    assert_whole(&client.measure(2, MeasurePlan { slots: &[0x40], ..PLAN }));
}

#[test]
fn a_run_that_takes_too_long_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("endless.toml");
    std::fs::write(&script, "default_ns = 1000\nsleep_ns_per_run = 3600000000000\n").unwrap();
    let arguments = ["--runtime", "scripted", "--script", script.to_str().unwrap(), "--run-limit", "300ms"];
    let agent = Agent::tcp(&arguments);
    let mut client = agent.open(1);
    client.load(0, &hostile(), LOAD).unwrap();
    let blocks = client.measure(1, PLAN);
    let What::End(end) = &blocks.last().unwrap().what else { panic!("{blocks:?}") };
    assert!(end.contains("WorkerDied") && end.contains("--run-limit"), "{end}");
}

#[test]
fn drawn_weights_give_the_same_optimised_graph_as_real_ones() {
    let agent = Agent::tcp(&[]);
    let mut client = agent.open(1);
    let net = Family::cifar_resnet(20, 10).unwrap().base().net().unwrap();
    let real: Weights = seeded(&net, 1);
    let ops =
        |described: client::Described| described.nodes.into_iter().map(|(_, op)| op).collect::<Vec<_>>();
    let of_real = ops(client.load(0, &lower(&net, Init::Weights(&real), 1).unwrap(), LOAD).unwrap());
    let of_drawn = ops(client.load(1, &lower(&net, Init::Seeded(1), 1).unwrap(), LOAD).unwrap());
    assert_eq!(of_drawn, of_real);
    assert!(!of_drawn.iter().any(|op| op.contains("Random")), "{of_drawn:?}");
    // They compute with different weights, and both with some.
    let image: Vec<u8> = (0..3 * 32 * 32).flat_map(|n| (n as f32 / 3072.0).to_le_bytes()).collect();
    let (real, drawn) = (client.infer(0, &image).unwrap(), client.infer(1, &image).unwrap());
    assert_eq!((real.len(), drawn.len()), (40, 40));
    assert_ne!(real, drawn);
    assert_eq!(client.infer(1, &image).unwrap(), drawn);
}

#[test]
fn inference_gives_the_models_outputs() {
    let agent = Agent::tcp(&[]);
    let mut client = agent.open(1);
    let double = model(vec![node("Add", &["x", "x"], "y")], &[None, Some(3)], vec![]);
    let described = client.load(0, &double, LOAD).unwrap();
    assert!(
        described.ports.contains(&(true, "x".into(), "f32 1x3".into())),
        "a free batch is 1: {described:?}"
    );
    let bytes = |values: [f32; 3]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    assert_eq!(client.infer(0, &bytes([1.0, -2.5, 4.0])), Ok(bytes([2.0, -5.0, 8.0])));
    assert_eq!(client.infer(0, &[0; 11]).unwrap_err().code, FaultCode::BadRequest);
    assert_eq!(client.infer(9, &[0; 12]).unwrap_err().code, FaultCode::BadRequest);
}

#[test]
fn what_cannot_be_run_is_told_in_one_line() {
    let agent = Agent::tcp(&["--max-model", "1M"]);
    let mut client = agent.open(1);
    let outside = pb::TensorProto {
        name: "w".into(),
        dims: vec![1],
        data_type: 1,
        data_location: Some(1),
        external_data: vec![pb::StringStringEntryProto {
            key: "location".into(),
            value: "/etc/passwd".into(),
        }],
        ..pb::TensorProto::default()
    };
    let random = pb::NodeProto {
        attribute: vec![pb::AttributeProto {
            name: "shape".into(),
            ints: vec![1 << 18, 1 << 18],
            ..pb::AttributeProto::default()
        }],
        ..node("RandomNormal", &[], "w")
    };
    let one = &[Some(1)][..];
    let cases = [
        (b"this is not ONNX at all".to_vec(), FaultCode::NotAModel, "ONNX"),
        (Vec::new(), FaultCode::NotAModel, "ONNX"),
        (model(vec![], one, vec![]), FaultCode::NotAModel, "'y'"),
        (model(vec![node("Relu", &["z"], "y")], one, vec![]), FaultCode::NotAModel, "'z'"),
        (model(vec![node("NoSuchOp", &["x"], "y")], one, vec![]), FaultCode::Unsupported, "NoSuchOp"),
        (model(vec![node("Relu", &["x"], "y")], &[Some(1), None], vec![]), FaultCode::Unsupported, "'x'"),
        (model(vec![node("Add", &["x", "w"], "y")], one, vec![outside]), FaultCode::Unsupported, "'w'"),
        (model(vec![random, node("Add", &["x", "w"], "y")], one, vec![]), FaultCode::TooLarge, "1048576"),
    ];
    for (bytes, code, part) in cases {
        let fault = client.load(0, &bytes, LOAD).unwrap_err();
        assert_eq!(fault.code, code, "{fault:?}");
        assert!(fault.text.contains(part) && fault.text.len() < 300, "{fault:?}");
        assert!(!fault.text.contains('\n'), "{fault:?}");
    }
    // The worker that refused them all is well.
    client.load(0, &model(vec![node("Relu", &["x"], "y")], one, vec![]), LOAD).unwrap();
    assert_whole(&client.measure(1, PLAN));
}

/// A model that runs only where all inputs are about `wanted`: a hundred times their distance from it is the row
/// that it looks up, in a table of one row.
fn running_only_on(wanted: f32) -> Vec<u8> {
    let number = |name: &str, value: f32| pb::TensorProto {
        name: name.into(),
        dims: vec![1],
        data_type: 1,
        float_data: vec![value],
        ..pb::TensorProto::default()
    };
    // 6: 32-bit integers.
    let to_integers = pb::NodeProto {
        attribute: vec![pb::AttributeProto {
            name: "to".into(),
            r#type: 2,
            i: 6,
            ..pb::AttributeProto::default()
        }],
        ..node("Cast", &["far"], "row")
    };
    let nodes = vec![
        node("Sub", &["x", "wanted"], "off"),
        node("Mul", &["off", "hundred"], "far"),
        to_integers,
        node("Gather", &["table", "row"], "y"),
    ];
    let numbers = [("wanted", wanted), ("hundred", 100.0), ("table", 5.0)];
    model(nodes, &[Some(16)], numbers.map(|(name, value)| number(name, value)).to_vec())
}

#[test]
fn inputs_are_filled_as_asked() {
    let agent = Agent::tcp(&["--threads", "2"]);
    let mut client = agent.open(1);
    let (zeros, ones) = (running_only_on(0.0), running_only_on(1.0));
    let cases = [
        (&zeros, Fill::Zeros, true),
        (&zeros, Fill::Ones, false),
        (&zeros, Fill::Random, false),
        (&ones, Fill::Ones, true),
        (&ones, Fill::Zeros, false),
        (&ones, Fill::Random, false),
    ];
    for (job, (model, fill, runs)) in (1..).zip(cases) {
        client.load(0, model, LoadOptions { per_node: true, fill }).unwrap();
        let blocks = client.measure(job, PLAN);
        assert_whole(&blocks);
        let What::End(end) = &blocks.last().unwrap().what else { panic!("{blocks:?}") };
        assert_eq!(end == "Completed", runs, "{job}: {end}");
        assert_eq!(timings(&blocks, 0).len(), if runs { 10 } else { 0 }, "{job}");
    }
}
