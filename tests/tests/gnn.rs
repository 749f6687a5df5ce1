//! Graph nets: what tch computes, tract computes in an agent, for every combination of tokens; and the
//! data sets, where they are at hand (`HANAS_PLANETOID` names the folder with `planetoid` and
//! `planetoid-npz`).

#![cfg(feature = "torch")]

use std::path::PathBuf;

use hanas::data::graph::{GraphData, load as load_graph};
use hanas::data::planted::graph as planted;
use hanas::data::{npz, planetoid};
use hanas::link::session::Timeouts;
use hanas::link::{DeviceUrl, Session};
use hanas::task::graph::{GraphSet, GraphSizes};
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
    let readings = [Reading::paper(), Reading::project()];
    for (place, &attention) in (0..).zip(Attention::ALL) {
        for &aggregator in Aggregator::ALL {
            for (number, &activation) in (0..).zip(Activation::ALL) {
                let layer = GnnLayer { attention, aggregator, activation, heads: 1 + number % 3, dim: 5 };
                let net = GnnNet::new(9, 4, vec![layer, GnnLayer { heads: 3 - number % 3, ..layer }]);
                let reading = readings[(number as usize + place) % 2];
                bench.assert_parity(&net, &seeded(&net, place as u64), reading);
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
    let data = planted(1).unwrap();
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

fn planetoid_folder() -> Option<PathBuf> {
    std::env::var_os("HANAS_PLANETOID").map(PathBuf::from).filter(|folder| folder.join("planetoid").is_dir())
}

const PUBLISHED: [GraphSet; 3] = [GraphSet::Cora, GraphSet::Citeseer, GraphSet::Pubmed];

#[test]
fn the_published_data_sets_read_the_same_from_both_formats() {
    let Some(folder) = planetoid_folder() else { return };
    for set in PUBLISHED {
        let name = set.name();
        let archive = npz::read(&folder.join("planetoid-npz").join(format!("{name}.npz"))).unwrap();
        let original = planetoid::read(&folder.join("planetoid"), name).unwrap();
        let sizes = GraphSizes { features: archive.features.width(), classes: archive.classes };
        assert_eq!(Some(sizes), set.sizes());
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
    let Some(folder) = planetoid_folder() else { return };
    let data: GraphData = load_graph(&GraphSet::Cora, &folder).unwrap();
    let mut bench = Bench::new(&data.graph, &data.features);
    let nets = [
        ["gat/sum/elu/8x8", "gat/sum/linear/1x7"],
        ["gcn/max/relu6/2x16", "generalized_linear/mlp/sigmoid/4x7"],
        ["cos/mean/leaky_relu/4x4", "gat_sym/max/elu/2x7"],
        ["linear/mlp/softplus/1x8", "const/mean/tanh/1x7"],
    ];
    for (seed, layers) in (1..).zip(nets) {
        let net = GnnNet::new(1_433, 7, layers.map(|text| text.parse().unwrap()).to_vec());
        bench.assert_parity(&net, &seeded(&net, seed), Reading::project());
    }
}
