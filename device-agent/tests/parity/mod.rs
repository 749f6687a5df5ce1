//! Another runtime computes what tract computes: every kind of layer of both families, and whole nets.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several test files, each of which uses a part of it"
)]

use hanas_models::gnn::graph::{Graph, SparseRows};
use hanas_models::gnn::layout::OnGraph;
use hanas_models::gnn::{self, Activation, Aggregator, Attention, GnnLayer, GnnNet, Reading};
use hanas_models::layer::types;
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::Family;
use hanas_models::weights::seeded;
use hanas_proto::measure::{Fill, LoadOptions, MeasurePlan};

use crate::client::{Agent, Client, Described, PLAN, assert_whole, timings};

/// Largest difference over the largest value: rounding, by other kernels in another order of summation.
pub const TOLERANCE: f32 = 1e-4;

/// How models are loaded.
pub const LOAD: LoadOptions = LoadOptions { per_node: false, fill: Fill::Random };

/// A whole net with drawn weights.
pub fn resnet20(batch: u32) -> Vec<u8> {
    let net = Family::cifar_resnet(20, 10).unwrap().base().net().unwrap();
    lower(&net, Init::Seeded(1), batch).unwrap()
}

/// Loads it into slot 0 and profiles it: every run has its time.
pub fn profile_resnet20(client: &mut Client) -> Described {
    let described = client.load(0, &resnet20(1), LOAD).unwrap();
    assert_eq!(
        described.ports,
        [(true, "input".into(), "f32 1x3x32x32".into()), (false, "output".into(), "f32 1x10".into()),]
    );
    let blocks = client.measure(1, MeasurePlan { rounds: 2, ..PLAN });
    assert_whole(&blocks);
    let times = timings(&blocks, 0);
    assert!(times.len() == 20 && times.iter().all(|&ns| ns > 0), "{times:?}");
    described
}

/// An agent with the other runtime and one with tract.
pub struct Pair {
    pub other: Client,
    pub tract: Client,
    _agents: [Agent; 2],
}

impl Pair {
    /// The other agent is started with these options.
    pub fn open(options: &[&str]) -> Self {
        let other = Agent::tcp(&[options, &["--pin", "none"]].concat());
        let tract = Agent::tcp(&["--pin", "none"]);
        Self { other: other.open(1), tract: tract.open(1), _agents: [other, tract] }
    }

    pub fn compare(&mut self, what: &str, model: &[u8], input: &[f32]) {
        let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
        let [other, tract] = [&mut self.other, &mut self.tract].map(|client| {
            client.load(0, model, LOAD).unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
            let outputs = client.infer(0, &bytes).unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
            outputs.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect::<Vec<f32>>()
        });
        assert_eq!(other.len(), tract.len(), "{what}");
        let largest = tract.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
        assert!(largest > 1e-3 && largest.is_finite(), "{what}: values up to {largest}");
        for (a, b) in other.iter().zip(&tract) {
            assert!((a - b).abs() <= TOLERANCE * largest, "{what}: {a} and {b} of {largest}");
        }
    }

    /// Every kind of layer of a ResNet20, and the whole net, with given and with drawn weights.
    pub fn compare_convolutional(&mut self, batch: u32) {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let layers = types(&family).into_iter().map(|(_, layer)| layer.net());
        for net in layers.chain([family.base().net().unwrap()]) {
            let (weights, input) = (seeded(&net, 3), input(batch as usize * net.input.len() as usize));
            for (kind, init) in [("given", Init::Weights(&weights)), ("drawn", Init::Seeded(1))] {
                let what = format!("{} at batch {batch}, weights {kind}", net.name);
                self.compare(&what, &lower(&net, init, batch).unwrap(), &input);
            }
        }
    }

    /// Every attention with every aggregator on a hub, a chain and nodes without neighbours; activations in
    /// turn, by both readings of the method.
    pub fn compare_graph(&mut self) {
        let hub = (1..12).map(|node| [0, node]);
        let edges: Vec<[u32; 2]> = hub.chain((1..11).filter(|n| n % 3 > 0).map(|n| [n, n + 1])).collect();
        let graph = Graph::new(15, &edges).unwrap();
        let starts = (0..=15).map(|row| 3 * row).collect();
        let columns = (0..15u32).flat_map(|row| [row % 3, 3 + row % 2, 5 + row % 4]).collect();
        let features = SparseRows::new(9, starts, columns, input(45)).unwrap();
        let on = OnGraph::new(&graph, &features);
        let held = gnn::onnx::held(&on);
        let location = format!("blake3:{}", self.other.upload(&held).unwrap());
        self.tract.upload(&held).unwrap();
        let values = on.input(&features);
        let mut activations = Activation::ALL.iter().cycle();
        for &attention in Attention::ALL {
            for &aggregator in Aggregator::ALL {
                let Some(&activation) = activations.next() else { unreachable!("a cycle has no end") };
                let layer = GnnLayer { attention, aggregator, activation, heads: 2, dim: 5 };
                let net = GnnNet::new(9, 4, vec![layer, layer]);
                let weights = gnn::seeded(&net, 1);
                for reading in [Reading::project(), Reading::paper()] {
                    let placement = gnn::onnx::Placement::Held(&location);
                    let model = gnn::onnx::lower(&net, &on, reading, Init::Weights(&weights), placement);
                    self.compare(&format!("{layer}, {reading:?}"), &model.unwrap(), &values);
                }
            }
        }
    }
}

/// Values that are not all alike.
pub fn input(count: usize) -> Vec<f32> {
    (0..count).map(|n| ((n * 37 % 101) as f32 - 50.0) / 50.0).collect()
}
