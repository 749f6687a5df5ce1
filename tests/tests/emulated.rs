//! An agent built for another processor computes what this machine's computes, every kind of layer of both
//! families. `HANAS_TEST_AGENT` names it (`make test-boards` does); without it there is nothing to compare.

use hanas::data::planted::{Planted, planted};
use hanas::link::session::Timeouts;
use hanas::link::{DeviceUrl, Session};
use hanas_models::gnn::layout::OnGraph;
use hanas_models::gnn::{Activation, Aggregator, Attention, GnnLayer, GnnNet, Reading};
use hanas_models::layer::{Layer, LayerType, types};
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::Family;
use hanas_models::weights::seeded;
use hanas_models::{gnn, spec::Net};
use hanas_tests::agent::{Agent, OTHER_AGENT, is_other};
use hanas_tests::same::{TOLERANCE, images, largest_error};

/// Agents here and there, given the same.
struct Pair {
    here: Session,
    there: Session,
    worst: f32,
    compared: usize,
    _agent: Agent,
}

impl Pair {
    fn open() -> Option<Self> {
        if !is_other() {
            println!("note: skipped, {OTHER_AGENT} names no agent; `make test-boards` builds and names one");
            return None;
        }
        let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
        let open =
            |url: &str| Session::open(&url.parse::<DeviceUrl>().unwrap(), Timeouts::default()).unwrap();
        let (here, there) = (open("local:--pin none"), open(agent.url()));
        Some(Self { here, there, worst: 0.0, compared: 0, _agent: agent })
    }

    /// Both agents hold the content.
    fn hold(&mut self, content: &[u8]) -> String {
        let digest = self.here.upload(content).unwrap();
        assert_eq!(self.there.upload(content).unwrap(), digest);
        format!("blake3:{digest}")
    }

    fn compare(&mut self, what: &str, model: &[u8], input: &[f32]) {
        let error = largest_error(&mut self.here, &mut self.there, model, input);
        let error = error.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        // A NaN is no small error.
        assert!(error <= TOLERANCE, "{what}: off by {error} of the largest value");
        self.worst = self.worst.max(error);
        self.compared += 1;
    }

    fn compare_conv(&mut self, net: &Net, batch: u32) {
        let (input, weights) = (images(net, batch), seeded(net, 3));
        for (kind, init) in [("given", Init::Weights(&weights)), ("drawn", Init::Seeded(1))] {
            let what = format!("{} at batch {batch}, weights {kind}", net.name);
            self.compare(&what, &lower(net, init, batch).unwrap(), &input);
        }
    }

    fn tell(&self, what: &str) {
        println!("{} {what} compared, largest relative error {:.1e}", self.compared, self.worst);
    }
}

/// Base widths, and odd ones that fill no vector register.
#[test]
fn convolutional_layers_and_whole_nets() {
    let Some(mut pair) = Pair::open() else { return };
    let family = Family::cifar_resnet(20, 10).unwrap();
    for (role, layer) in types(&family) {
        let cin = if role == LayerType::Stem { layer.cin } else { 7 };
        let cout = if role == LayerType::Head { layer.cout } else { 13 };
        for layer in [layer, Layer { cin, cout, ..layer }] {
            for batch in [1, 4] {
                pair.compare_conv(&layer.net(), batch);
            }
        }
    }
    for net in [family.base(), family.parse("16 | 12-24 | 40-20 | 64-48").unwrap()] {
        pair.compare_conv(&net.net().unwrap(), 1);
    }
    pair.tell("convolutional models");
}

/// Every attention with every aggregator and every activation, as hidden and as last layer.
#[test]
fn graph_layers() {
    let Some(mut pair) = Pair::open() else { return };
    let sizes = Planted { nodes: 40, edges: 90, train_per_class: 2, val: 10, test: 10, ..Planted::TASK };
    let data = planted(&sizes, 1).unwrap();
    let on = OnGraph::new(&data.graph, &data.features);
    let location = pair.hold(&gnn::onnx::held(&on));
    let input = on.input(&data.features);
    let readings = [Reading::paper(), Reading::project()];
    for &attention in Attention::ALL {
        for (place, &aggregator) in Aggregator::ALL.iter().enumerate() {
            for (number, &activation) in (0..).zip(Activation::ALL) {
                let layer = GnnLayer { attention, aggregator, activation, heads: 1 + number % 3, dim: 5 };
                let layers = vec![layer, GnnLayer { heads: 3 - number % 3, ..layer }];
                let net = GnnNet::new(data.features.width(), data.classes, layers);
                let weights = gnn::seeded(&net, u64::from(number));
                let reading = readings[(number as usize + place) % 2];
                let placement = gnn::onnx::Placement::Held(&location);
                let model = gnn::onnx::lower(&net, &on, reading, Init::Weights(&weights), placement).unwrap();
                pair.compare(&format!("{layer}, {reading:?}"), &model, &input);
            }
        }
    }
    pair.tell("graph nets");
}
