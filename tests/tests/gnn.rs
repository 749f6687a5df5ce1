//! Graph nets: what tch computes, tract computes in an agent, for every combination of tokens; and the
//! data sets, where they are at hand (`HANAS_PLANETOID` names the folder with `planetoid` and
//! `planetoid-npz`).

#![cfg(feature = "torch")]

use std::io::Write as _;
use std::path::PathBuf;

use hanas::data::graph::{GraphData, load as load_graph};
use hanas::data::planted::{self, Planted};
use hanas::data::{npz, planetoid};
use hanas::link::session::Timeouts;
use hanas::link::{DeviceUrl, Session};
use hanas::task::graph::GraphSet;
use hanas::train::child::ChildConfig;
use hanas::train::gnn::ChildTrainer;
use hanas_models::gnn::graph::{Graph, SparseRows};
use hanas_models::gnn::layout::OnGraph;
use hanas_models::gnn::onnx::{Placement, held, lower};
use hanas_models::gnn::torch::{TorchFeatures, TorchGnn, TorchGraph};
use hanas_models::gnn::{Activation, Aggregator, Attention, GnnLayer, GnnNet, Reading, seeded};
use hanas_models::onnx::Init;
use hanas_models::torch::{floats, load};
use hanas_models::weights::Weights;
use hanas_proto::measure::LoadOptions;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Device;
use tch::nn::VarStore;

/// Largest difference over the largest value: rounding in two orders of summation.
const TOLERANCE: f32 = 1e-4;

const READINGS: [Reading; 2] = [Reading::paper(), Reading::project()];

fn session() -> Session {
    let url: DeviceUrl = "local:--pin none".parse().unwrap();
    Session::open(&url, Timeouts::default()).unwrap()
}

/// A graph, its features, and an agent that holds both.
struct Bench {
    session: Session,
    graph: Graph,
    features: SparseRows,
    on: OnGraph,
    location: String,
}

impl Bench {
    fn new(graph: &Graph, features: &SparseRows) -> Self {
        let on = OnGraph::new(graph, features);
        let mut session = session();
        let digest = session.upload(&held(&on)).unwrap();
        let location = format!("blake3:{digest}");
        Self { session, graph: graph.clone(), features: features.clone(), on, location }
    }

    fn by_torch(&self, net: &GnnNet, weights: &Weights, reading: Reading) -> Vec<f32> {
        let mut store = VarStore::new(Device::Cpu);
        let module = TorchGnn::new(&store.root(), net, reading, 1).unwrap();
        load(&mut store, weights).unwrap();
        let (graph, features) = (TorchGraph::new(&self.graph), TorchFeatures::new(self.features.clone()));
        floats(&tch::no_grad(|| module.forward(&graph, &features, None)))
    }

    fn by_tract(&mut self, net: &GnnNet, weights: &Weights, reading: Reading) -> Vec<f32> {
        let placement = Placement::Held(&self.location);
        let onnx = lower(net, &self.on, reading, Init::Weights(weights), placement).unwrap();
        let digest = self.session.upload(&onnx).unwrap();
        self.session
            .load(0, digest, LoadOptions::default())
            .unwrap_or_else(|error| panic!("{net:?}: {error}"));
        let bytes: Vec<u8> =
            self.on.input(&self.features).iter().flat_map(|value| value.to_le_bytes()).collect();
        let inputs = self.session.upload(&bytes).unwrap();
        let outputs = self.session.infer(0, inputs).unwrap();
        outputs.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn assert_parity(&mut self, net: &GnnNet, weights: &Weights, reading: Reading) {
        let (torch, tract) = (self.by_torch(net, weights, reading), self.by_tract(net, weights, reading));
        assert_eq!(torch.len(), tract.len());
        let largest = torch.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
        let what =
            || format!("{:?}, {reading:?}", net.layers.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(largest > 1e-3 && largest.is_finite(), "{}: outputs up to {largest}", what());
        let error = torch.iter().zip(&tract).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()));
        assert!(error <= TOLERANCE * largest, "{}: off by {error} of {largest}", what());
    }
}

/// Thirty nodes: a hub of degree 20 (its block is filled up), a chain, some without neighbours.
fn small() -> (Graph, SparseRows) {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut edges: Vec<[u32; 2]> = (1..21).map(|node| [0, node]).collect();
    edges.extend((1..20).filter(|node| node % 3 != 0).map(|node| [node, node + 1]));
    edges.extend((0..12).map(|_| [rng.random_range(0..26), rng.random_range(0..26)]));
    let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
    for _ in 0..30 {
        for column in (0..9).filter(|_| rng.random_bool(0.5)).collect::<Vec<u32>>() {
            columns.push(column);
            values.push(rng.random_range(-1.0..1.0));
        }
        starts.push(columns.len() as u32);
    }
    (Graph::new(30, &edges).unwrap(), SparseRows::new(9, starts, columns, values).unwrap())
}

/// Both layers of a net take the combination, so that hidden and last layers are seen.
#[test]
fn every_combination_of_tokens() {
    let (graph, features) = small();
    let mut bench = Bench::new(&graph, &features);
    for (place, &attention) in (0..).zip(Attention::ALL) {
        for &aggregator in Aggregator::ALL {
            for (number, &activation) in (0..).zip(Activation::ALL) {
                let layer = GnnLayer { attention, aggregator, activation, heads: 1 + number % 3, dim: 5 };
                let net = GnnNet::new(9, 4, vec![layer, GnnLayer { heads: 3 - number % 3, ..layer }]);
                let reading = READINGS[(number as usize + place) % 2];
                bench.assert_parity(&net, &seeded(&net, place as u64), reading);
            }
        }
    }
}

/// Thirty nodes with a few of 400 features each, the last without any; equal ones, or as they come.
fn few_features(alike: bool) -> SparseRows {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
    for node in 0..30u32 {
        let own = rng.random_range(0.1..1.0f32);
        let entries = if node < 29 { 1 + node % 8 } else { 0 };
        for entry in 0..entries {
            columns.push(50 * entry + rng.random_range(0..50u32));
            values.push(if alike { own } else { rng.random_range(-1.0..1.0) });
        }
        starts.push(columns.len() as u32);
    }
    SparseRows::new(400, starts, columns, values).unwrap()
}

/// Rows wider than those whose weights are spread by a product, hidden and last.
#[test]
fn wide_layers() {
    let (graph, features) = small();
    let mut bench = Bench::new(&graph, &features);
    for &attention in Attention::ALL {
        for &aggregator in Aggregator::ALL {
            let layer = GnnLayer { attention, aggregator, activation: Activation::Tanh, heads: 4, dim: 64 };
            let wide = GnnLayer { heads: 16, dim: 32, ..layer };
            // 16 heads of 9 classes are wide too.
            let net =
                GnnNet::new(9, 9, vec![layer, wide, GnnLayer { activation: Activation::Linear, ..wide }]);
            for reading in READINGS {
                bench.assert_parity(&net, &seeded(&net, 7), reading);
            }
        }
    }
}

/// Few features are multiplied by their entries, equal ones after summing.
#[test]
fn features_that_are_mostly_zero() {
    let graph = small().0;
    for alike in [true, false] {
        let features = few_features(alike);
        let mut bench = Bench::new(&graph, &features);
        assert_eq!(bench.on.entries.as_ref().map(|entries| entries.alike), Some(alike));
        for &aggregator in Aggregator::ALL {
            for (attention, heads) in [(Attention::Gat, 2), (Attention::GeneralizedLinear, 32)] {
                let layer = GnnLayer { attention, aggregator, activation: Activation::Elu, heads, dim: 6 };
                let net = GnnNet::new(400, 4, vec![layer, GnnLayer { heads: 1, ..layer }]);
                for reading in READINGS {
                    bench.assert_parity(&net, &seeded(&net, 8), reading);
                }
            }
        }
    }
}

#[test]
fn both_readings_of_softmax_and_pools() {
    let (graph, features) = small();
    let mut bench = Bench::new(&graph, &features);
    for attention in [Attention::Gat, Attention::Cos, Attention::Linear] {
        for &aggregator in Aggregator::ALL {
            let layer = GnnLayer { attention, aggregator, activation: Activation::Elu, heads: 2, dim: 3 };
            let net = GnnNet::new(9, 4, vec![layer]);
            let weights = seeded(&net, 3);
            let mut seen = Vec::new();
            for compat_src_softmax in [false, true] {
                for pool_per_node in [false, true] {
                    let reading = Reading { compat_src_softmax, pool_per_node };
                    bench.assert_parity(&net, &weights, reading);
                    seen.push(bench.by_torch(&net, &weights, reading));
                }
            }
            let far = |a: &[f32], b: &[f32]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-3);
            assert!(!far(&seen[0], &seen[1]) && !far(&seen[2], &seen[3]), "pools run where they like");
            assert!(far(&seen[0], &seen[2]), "the softmax's side matters");
        }
    }
}

/// Accuracy on the device is the trained one, to the node.
#[test]
fn a_trained_net_says_on_the_device_what_it_was_trained_to() {
    let data = planted::graph(1).unwrap();
    let layers = ["gat_sym/max/tanh/4x8", "cos/mean/linear/2x4"].map(|text| text.parse().unwrap());
    let net = GnnNet::new(data.features.width(), data.classes, layers.to_vec());
    let config = ChildConfig { epochs: 40, ..ChildConfig::default() };
    let (result, weights) = ChildTrainer::new(&data).train(&net, &config, 1).unwrap();
    let mut bench = Bench::new(&data.graph, &data.features);
    let scores = bench.by_tract(&net, &weights, config.reading);
    assert_eq!(data.accuracy(&scores, &data.split.test), result.test_accuracy);
    assert_eq!(data.accuracy(&scores, &data.split.val), result.val_accuracy);
    bench.assert_parity(&net, &weights, config.reading);
}

/// None, and a line that says so past the test's own capture, where the data sets are not at hand.
fn planetoid_folder(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("HANAS_PLANETOID").map(PathBuf::from);
    let folder = folder.filter(|folder| folder.join("planetoid").is_dir());
    if folder.is_none() {
        writeln!(std::io::stderr(), "skipped: {test}, HANAS_PLANETOID names no folder with planetoid").ok();
    }
    folder
}

const PUBLISHED: [GraphSet; 3] = [GraphSet::Cora, GraphSet::Citeseer, GraphSet::Pubmed];

#[test]
fn the_published_data_sets_read_the_same_from_both_formats() {
    let Some(folder) = planetoid_folder("the published data sets") else { return };
    for set in PUBLISHED {
        let name = set.name();
        let archive = npz::read(&folder.join("planetoid-npz").join(format!("{name}.npz"))).unwrap();
        let original = planetoid::read(&folder.join("planetoid"), name).unwrap();
        assert_eq!(Some(archive.sizes()), set.sizes());
        assert_eq!(archive.graph, original.graph, "{name}");
        assert_eq!(archive.labels, original.labels, "{name}");
        assert_eq!(archive.split, original.split, "{name}");
        assert_eq!(archive.features, original.features, "{name}");
    }
    let citeseer = load_graph(&GraphSet::Citeseer, &folder).unwrap();
    let alone = citeseer.graph.sources().iter().filter(|list| list.len() == 1).count();
    let unlabelled = citeseer.labels.iter().filter(|label| label.is_none()).count();
    assert_eq!((alone, unlabelled), (48, 15));
}

#[test]
fn whole_nets_on_cora() {
    let Some(folder) = planetoid_folder("whole nets on Cora") else { return };
    whole_nets(&load_graph(&GraphSet::Cora, &folder).unwrap());
}

#[test]
fn whole_nets_on_a_graph_of_coras_size() {
    whole_nets(&planted::planted(&Planted::CORA_SIZED, 1).unwrap());
}

fn whole_nets(data: &GraphData) {
    let mut bench = Bench::new(&data.graph, &data.features);
    let nets = [
        ["gat/sum/elu/8x8", "gat/sum/linear/1x7"],
        ["gcn/max/relu6/2x16", "generalized_linear/mlp/sigmoid/4x7"],
        ["cos/mean/leaky_relu/4x4", "gat_sym/max/elu/2x7"],
        ["linear/mlp/softplus/1x8", "const/mean/tanh/1x7"],
    ];
    for (seed, layers) in (1..).zip(nets) {
        let net = GnnNet::new(1_433, 7, layers.map(|text| text.parse().unwrap()).to_vec());
        for reading in READINGS {
            bench.assert_parity(&net, &seeded(&net, seed), reading);
        }
    }
}
