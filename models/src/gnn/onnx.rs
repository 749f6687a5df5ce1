//! A graph net on a graph as ONNX: node features in, scores (N, classes) out. Features are (N, F), or, where
//! few are not 0, the values of the [`entries`](super::layout::Entries), (entries, 1), or, where a node's are
//! all alike, one a node, (N, 1). The log-softmax that a loss wants moves no score past another; it is left to
//! the loss.
//!
//! The graph is constant: index lists and their blocks ([`layout`](super::layout)), inside the model or
//! as content that an agent holds already, so that a thousand nets on one graph send it once. There is no
//! dense adjacency and no scatter. What the layer computes stands in ALGORITHM 2.2; all sizes are fixed.
//! Messages are weighted and reduced block by block; a softmax's division comes after, at the nodes.

mod aggregate;
mod attention;
mod lists;

use std::collections::BTreeMap;

use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{AttributeProto, GraphProto, TensorProto};
use protobuf::Enum;

use lists::List;
pub use lists::held;

use super::layout::{Entries, Layout, OnGraph};
use super::{Activation, GnnNet, LEAKY_SLOPE, Reading, Wired};
use crate::onnx::{
    INPUT, Init, OUTPUT, OnnxError, float, float_info, float_tensor, given, int, model_bytes, node,
    random_normal,
};

/// Where the graph's lists are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement<'a> {
    /// In the model: for a file that stands alone.
    Inside,
    /// In content that the runtime finds under this external location: [`held`] of the graph.
    Held(&'a str),
}

/// The net on the graph as ONNX bytes; input `input`, output `output`.
///
/// # Errors
/// [`OnnxError`] where the net does not fit together or the weights do not fit it.
pub fn lower(
    net: &GnnNet,
    on: &OnGraph,
    reading: Reading,
    init: Init<'_>,
    placement: Placement<'_>,
) -> Result<Vec<u8>, OnnxError> {
    net.check()?;
    let layout = &on.messages;
    let nodes = layout.nodes() as u32;
    let mut graph = GraphProto { name: "graph-net".to_owned(), ..GraphProto::default() };
    let input = match &on.entries {
        Some(entries) if !entries.alike => [entries.column.len() as u32, 1],
        Some(_) => [nodes, 1],
        None => [nodes, net.features],
    };
    graph.input.push(float_info(INPUT, &input));
    graph.output.push(float_info(OUTPUT, &[nodes, net.classes]));
    let mut lowering = Lowering {
        on,
        layout,
        reading,
        init,
        placement,
        graph,
        numbers: BTreeMap::new(),
        scope: String::new(),
        made: 0,
        drawn: 0,
    };
    let mut x = INPUT.to_owned();
    for wired in net.wired() {
        lowering.scope = wired.path("");
        x = lowering.layer(&wired, &x)?;
    }
    lowering.graph.node.push(node("Identity", vec![x], vec![OUTPUT.to_owned()], vec![]));
    model_bytes(lowering.graph)
}

struct Lowering<'a> {
    on: &'a OnGraph,
    layout: &'a Layout,
    reading: Reading,
    init: Init<'a>,
    placement: Placement<'a>,
    graph: GraphProto,
    /// Constant lists of integers (shapes, axes, sizes), by content.
    numbers: BTreeMap<Vec<i64>, String>,
    /// Before the numbers of values: `layer1.`.
    scope: String,
    /// Values so far.
    made: u32,
    /// Random tensors so far.
    drawn: u32,
}

impl Lowering<'_> {
    fn layer(&mut self, wired: &Wired, x: &str) -> Result<String, OnnxError> {
        let Wired { layer, input, .. } = *wired;
        let weight = self.tensor(&wired.path("weight"), &[input, layer.heads * layer.dim], input)?;
        let on = self.on;
        let z = match &on.entries {
            Some(entries) if wired.index == 0 => self.entries_times(entries, x, &weight),
            _ => self.op("MatMul", &[x, &weight], vec![]),
        };
        let weights = self.attention(wired, &z)?;
        let reduced = self.messages(wired, &z, weights)?;
        self.finish(wired, reduced)
    }

    /// Sparse features times a weight: of every node, the weight's rows of its entries, times their values,
    /// or, where a node's entries are all alike, times that value after summing.
    fn entries_times(&mut self, entries: &Entries, values: &str, weight: &str) -> String {
        let blocks = &entries.blocks;
        let cut = (!entries.alike).then(|| {
            let sizes: Vec<i64> = blocks.iter().map(|block| block.messages().into()).collect();
            let sizes = self.numbers(&sizes);
            let cut: Vec<String> = blocks.iter().map(|_| self.fresh()).collect();
            let inputs = vec![values.to_owned(), sizes];
            self.graph.node.push(node("Split", inputs, cut.clone(), vec![int("axis", 0)]));
            cut
        });
        let axes = self.numbers(&[0]);
        let mut parts = Vec::with_capacity(blocks.len());
        for (block, sizes) in blocks.iter().enumerate() {
            let columns = self.part(List::Column, blocks, block);
            let mut rows = self.op("Gather", &[weight, &columns], vec![int("axis", 0)]);
            if let Some(cut) = &cut {
                let values = self.reshape(&cut[block], &[sizes.width.into(), sizes.count.into(), 1]);
                rows = self.op("Mul", &[&rows, &values], vec![]);
            }
            parts.push(self.op("ReduceSum", &[&rows, &axes], vec![int("keepdims", 0)]));
        }
        let sums = self.by_node(parts, List::FeaturePlace);
        if entries.alike { self.op("Mul", &[&sums, values], vec![]) } else { sums }
    }

    /// Heads into one row, bias, activation.
    fn finish(&mut self, wired: &Wired, reduced: String) -> Result<String, OnnxError> {
        let layer = wired.layer;
        let mut y = reduced;
        if wired.is_last && layer.heads > 1 {
            let split = self.reshape(&y, &[-1, layer.heads.into(), layer.dim.into()]);
            let axes = self.numbers(&[1]);
            y = self.op("ReduceMean", &[&split, &axes], vec![int("keepdims", 0)]);
        }
        let bias = self.tensor(&wired.path("bias"), &[wired.output()], wired.output())?;
        let y = self.op("Add", &[&y, &bias], vec![]);
        Ok(match layer.activation {
            Activation::Sigmoid => self.op("Sigmoid", &[&y], vec![]),
            Activation::Tanh => self.op("Tanh", &[&y], vec![]),
            Activation::Relu => self.op("Relu", &[&y], vec![]),
            Activation::Linear => y,
            Activation::Softplus => self.op("Softplus", &[&y], vec![]),
            Activation::LeakyRelu => self.op("LeakyRelu", &[&y], vec![float("alpha", LEAKY_SLOPE)]),
            Activation::Relu6 => {
                let (low, high) = (self.scalar("zero", 0.0), self.scalar("six", 6.0));
                self.op("Clip", &[&y, &low, &high], vec![])
            }
            Activation::Elu => self.op("Elu", &[&y], vec![float("alpha", 1.0)]),
        })
    }

    fn gather(&mut self, x: &str, list: List) -> String {
        let list = self.list(list);
        self.op("Gather", &[x, &list], vec![int("axis", 0)])
    }

    fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.numbers(shape);
        self.op("Reshape", &[x, &shape], vec![])
    }

    fn fresh(&mut self) -> String {
        self.made += 1;
        format!("{}{}", self.scope, self.made)
    }

    fn op(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let output = self.fresh();
        let inputs = inputs.iter().map(|&name| name.to_owned()).collect();
        self.graph.node.push(node(op, inputs, vec![output.clone()], attributes));
        output
    }

    /// A trainable tensor, given or drawn.
    fn tensor(&mut self, name: &str, shape: &[u32], fan_in: u32) -> Result<String, OnnxError> {
        match self.init {
            Init::Weights(weights) => {
                self.graph.initializer.push(float_tensor(name, given(weights, name, shape)?));
            }
            Init::Seeded(seed) => {
                self.graph.node.push(random_normal(name, shape, fan_in, seed + self.drawn));
                self.drawn += 1;
            }
        }
        Ok(name.to_owned())
    }

    fn scalar(&mut self, name: &str, value: f32) -> String {
        self.floats(name, &[], vec![value])
    }

    /// A constant by its name, made where there is none of that name.
    fn floats(&mut self, name: &str, shape: &[u32], values: Vec<f32>) -> String {
        if self.graph.initializer.iter().all(|tensor| tensor.name != name) {
            self.graph.initializer.push(TensorProto {
                name: name.to_owned(),
                dims: shape.iter().map(|&side| side.into()).collect(),
                data_type: DataType::FLOAT.value(),
                raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                ..TensorProto::default()
            });
        }
        name.to_owned()
    }

    fn numbers(&mut self, values: &[i64]) -> String {
        if let Some(name) = self.numbers.get(values) {
            return name.clone();
        }
        let name = format!("n{}", self.numbers.len());
        self.graph.initializer.push(TensorProto {
            name: name.clone(),
            dims: vec![values.len() as i64],
            data_type: DataType::INT64.value(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..TensorProto::default()
        });
        self.numbers.insert(values.to_vec(), name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gnn::graph::{Graph, SparseRows};

    fn on(features: u32, of_each: u32) -> OnGraph {
        let edges: Vec<[u32; 2]> = (0..5_000u32).map(|i| [i % 2_000, (i * 7_919) % 2_000]).collect();
        let starts = (0..=2_000).map(|node| node * of_each).collect();
        let columns: Vec<u32> = (0..2_000).flat_map(|_| 0..of_each).collect();
        let values = vec![1.0; columns.len()];
        let rows = SparseRows::new(features, starts, columns, values).unwrap();
        OnGraph::new(&Graph::new(2_000, &edges).unwrap(), &rows)
    }

    #[test]
    fn a_profiling_model_is_small_and_its_graph_is_elsewhere() {
        for (on, features) in [(on(1_433, 20), 1_433), (on(100, 20), 100)] {
            let of = |placement| {
                let net = GnnNet::reference(features, 7, 16, 80);
                lower(&net, &on, Reading::project(), Init::Seeded(1), placement).unwrap().len()
            };
            let (inside, held_outside) = (of(Placement::Inside), of(Placement::Held("blake3:00")));
            assert!(held_outside < 24_000, "{held_outside} bytes");
            assert!(inside > 3 * held_outside, "{inside} bytes, {held_outside} without the graph");
        }
    }

    #[test]
    fn sparse_features_are_taken_by_their_entries() {
        assert!(on(1_433, 20).entries.is_some());
        assert!(on(100, 20).entries.is_none());
        let lists = held(&on(100, 20)).len();
        let layout = on(100, 20).messages;
        assert_eq!(lists, 4 * (4 * layout.messages() + 2 * layout.nodes()));
    }
}
