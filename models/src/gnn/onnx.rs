//! A graph net on a graph as ONNX: node features in, scores (N, classes) out. Features are (N, F), or, where
//! few are not 0, the values of the [`entries`](super::layout::Entries), (entries, 1). The log-softmax that a
//! loss wants moves no score past another; it is left to the loss.
//!
//! The graph is constant: index lists and their blocks ([`layout`](super::layout)), inside the model or
//! as content that an agent holds already, so that a thousand nets on one graph send it once. There is no
//! dense adjacency and no scatter. What the layer computes stands in ALGORITHM 2.2; all sizes are fixed.

use std::collections::BTreeMap;
use std::ops::Range;

use onnx_protobuf::tensor_proto::{DataLocation, DataType};
use onnx_protobuf::{AttributeProto, GraphProto, StringStringEntryProto, TensorProto};
use protobuf::Enum;

use super::layout::{Block, Entries, Layout, OnGraph};
use super::{
    ATTENTION_SLOPE, Activation, Aggregator, Attention, GnnNet, LEAKY_SLOPE, POOL_WIDTH, Reading, Wired,
};
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

/// One of a graph's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Source,
    Target,
    Place,
    Real,
    Degree,
    /// The messages' own numbers; block by block.
    Rows,
    /// Columns of the features' entries; block by block.
    Column,
    FeaturePlace,
}

impl List {
    const ALL: [Self; 8] = [
        Self::Source,
        Self::Target,
        Self::Place,
        Self::Real,
        Self::Degree,
        Self::Rows,
        Self::Column,
        Self::FeaturePlace,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::Place => "place",
            Self::Real => "real",
            Self::Degree => "degree",
            Self::Rows => "rows",
            Self::Column => "column",
            Self::FeaturePlace => "feature_place",
        }
    }

    fn bytes(self, on: &OnGraph) -> Vec<u8> {
        let ints = |list: &[i32]| list.iter().flat_map(|value| value.to_le_bytes()).collect();
        let floats = |list: &[f32]| list.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (messages, entries) = (&on.messages, on.entries.as_ref());
        match self {
            Self::Source => ints(&messages.source),
            Self::Target => ints(&messages.target),
            Self::Place => ints(&messages.place),
            Self::Real => floats(&messages.real),
            Self::Degree => floats(&messages.degree),
            Self::Rows => ints(&(0..messages.messages() as i32).collect::<Vec<_>>()),
            Self::Column => entries.map_or_else(Vec::new, |entries| ints(&entries.column)),
            Self::FeaturePlace => entries.map_or_else(Vec::new, |entries| ints(&entries.place)),
        }
    }

    /// Kind and dimensions of the whole list; a list of floats multiplies rows.
    fn shape(self, on: &OnGraph) -> (DataType, Vec<i64>) {
        let values = (self.bytes(on).len() / size_of::<i32>()) as i64;
        match self {
            Self::Real | Self::Degree => (DataType::FLOAT, vec![values, 1]),
            _ => (DataType::INT32, vec![values]),
        }
    }
}

/// All lists of a graph, one after another, as [`Placement::Held`] refers to them.
#[must_use]
pub fn held(on: &OnGraph) -> Vec<u8> {
    List::ALL.into_iter().flat_map(|list| list.bytes(on)).collect()
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
        Some(entries) => [entries.column.len() as u32, 1],
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
        let alpha = self.attention(wired, &z)?;
        let messages = self.gather(&z, List::Source);
        let pools_edges = layer.aggregator.has_pool() && !self.reading.pools_nodes(layer.aggregator);
        // What only fills a block must not reach a sum; after the pools' biases it is too late.
        let fills = layer.aggregator != Aggregator::Max && self.layout.has_fillers();
        let alpha = match alpha {
            Some(alpha) if fills && !pools_edges => {
                let real = self.list(List::Real);
                Some(self.op("Mul", &[&alpha, &real], vec![]))
            }
            None if fills && !pools_edges => Some(self.list(List::Real)),
            alpha => alpha,
        };
        let mut messages = match alpha {
            Some(alpha) => self.weigh(wired, &messages, &alpha),
            None => messages,
        };
        if pools_edges {
            messages = self.pool(wired, &messages, self.layout.messages(), None)?;
            if fills {
                let real = self.list(List::Real);
                messages = self.op("Mul", &[&messages, &real], vec![]);
            }
        }
        let reduced = self.aggregate(wired, &messages)?;
        self.finish(wired, reduced)
    }

    /// Sparse features times a weight: of every node, the weight's rows of its entries, times their values.
    fn entries_times(&mut self, entries: &Entries, values: &str, weight: &str) -> String {
        let sizes: Vec<i64> = entries.blocks.iter().map(|block| block.messages().into()).collect();
        let sizes = self.numbers(&sizes);
        let cut: Vec<String> = entries.blocks.iter().map(|_| self.fresh()).collect();
        let inputs = vec![values.to_owned(), sizes];
        self.graph.node.push(node("Split", inputs, cut.clone(), vec![int("axis", 0)]));
        let axes = self.numbers(&[0]);
        let mut parts = Vec::with_capacity(cut.len());
        for (block, (part, sizes)) in cut.iter().zip(&entries.blocks).enumerate() {
            let columns = self.part(List::Column, &entries.blocks, block);
            let rows = self.op("Gather", &[weight, &columns], vec![int("axis", 0)]);
            let values = self.reshape(part, &[sizes.width.into(), sizes.count.into(), 1]);
            let product = self.op("Mul", &[&rows, &values], vec![]);
            parts.push(self.op("ReduceSum", &[&product, &axes], vec![int("keepdims", 0)]));
        }
        self.by_node(parts, List::FeaturePlace)
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

    /// Weights of messages, (messages, heads) or (messages, 1); none where all are 1.
    fn attention(&mut self, wired: &Wired, z: &str) -> Result<Option<String>, OnnxError> {
        match wired.layer.attention {
            Attention::Const => Ok(None),
            Attention::Gcn => {
                let degree = self.list(List::Degree);
                let root = self.op("Sqrt", &[&degree], vec![]);
                let norm = self.op("Reciprocal", &[&root], vec![]);
                let (left, right) = (self.gather(&norm, List::Target), self.gather(&norm, List::Source));
                Ok(Some(self.op("Mul", &[&left, &right], vec![])))
            }
            _ => self.softmax(wired, z).map(Some),
        }
    }

    /// Scores of messages, normalised over those of one target (of one source, as the reference has it).
    fn softmax(&mut self, wired: &Wired, z: &str) -> Result<String, OnnxError> {
        let parts = self.score_parts(wired, z)?;
        let scores = self.scores(wired, &parts, List::Target, List::Source);
        // The graph is undirected: a block's messages, taken the other way round, are those that leave
        // its nodes.
        let (grouped, group) = if self.reading.compat_src_softmax {
            (self.scores(wired, &parts, List::Source, List::Target), List::Source)
        } else {
            (scores.clone(), List::Target)
        };
        let heads = wired.layer.heads;
        let shift = |lowering: &mut Self, of: &str, by: &str, list: List| {
            let by = lowering.gather(by, list);
            lowering.op("Sub", &[of, &by], vec![])
        };
        // A tanh needs no shift against overflow.
        let (scores, grouped) = if wired.layer.attention == Attention::Linear {
            (scores, grouped)
        } else {
            let largest = self.segment_max(&grouped, heads);
            let own = shift(self, &grouped, &largest, List::Target);
            let scores =
                if group == List::Target { own.clone() } else { shift(self, &scores, &largest, group) };
            (scores, own)
        };
        let weights = self.op("Exp", &[&scores], vec![]);
        let grouped =
            if group == List::Target { weights.clone() } else { self.op("Exp", &[&grouped], vec![]) };
        let grouped = if self.layout.has_fillers() {
            let real = self.list(List::Real);
            self.op("Mul", &[&grouped, &real], vec![])
        } else {
            grouped
        };
        let sums = self.segment_sum(&grouped);
        let sums = self.gather(&sums, group);
        Ok(self.op("Div", &[&weights, &sums], vec![]))
    }

    /// What scores are made of, per node: two values, or the same one twice.
    fn score_parts(&mut self, wired: &Wired, z: &str) -> Result<[String; 2], OnnxError> {
        let layer = wired.layer;
        let (shape, width) = ([layer.heads, layer.dim], i64::from(layer.heads * layer.dim));
        let left = self.tensor(&wired.path("attention.left"), &shape, layer.dim)?;
        let right = self.tensor(&wired.path("attention.right"), &shape, layer.dim)?;
        let (left, right) = (self.reshape(&left, &[1, width]), self.reshape(&right, &[1, width]));
        Ok(match layer.attention {
            Attention::Linear => {
                let both = self.op("Add", &[&left, &right], vec![]);
                let product = self.op("Mul", &[z, &both], vec![]);
                let sum = self.sum_heads(wired, &product);
                let score = self.op("Tanh", &[&sum], vec![]);
                [score.clone(), score]
            }
            Attention::Cos => {
                let both = self.op("Mul", &[&left, &right], vec![]);
                [self.op("Mul", &[z, &both], vec![]), z.to_owned()]
            }
            Attention::GeneralizedLinear => {
                self.tensor(&wired.path("attention.shared"), &[layer.dim], layer.dim)?;
                [self.op("Mul", &[z, &left], vec![]), self.op("Mul", &[z, &right], vec![])]
            }
            _ => {
                let products = [self.op("Mul", &[z, &left], vec![]), self.op("Mul", &[z, &right], vec![])];
                products.map(|product| self.sum_heads(wired, &product))
            }
        })
    }

    /// Scores of messages with x_i at `target` and x_j at `source`, (messages, heads).
    fn scores(&mut self, wired: &Wired, parts: &[String; 2], target: List, source: List) -> String {
        let [left, right] = parts;
        let leaky = |lowering: &mut Self, target: List, source: List| {
            let (left, right) = (lowering.gather(left, target), lowering.gather(right, source));
            let sum = lowering.op("Add", &[&left, &right], vec![]);
            lowering.op("LeakyRelu", &[&sum], vec![float("alpha", ATTENTION_SLOPE)])
        };
        match wired.layer.attention {
            Attention::Linear => self.gather(left, source),
            Attention::Gat => leaky(self, target, source),
            Attention::GatSym => {
                let (there, back) = (leaky(self, target, source), leaky(self, source, target));
                self.op("Add", &[&there, &back], vec![])
            }
            Attention::Cos => {
                let (left, right) = (self.gather(left, target), self.gather(right, source));
                let product = self.op("Mul", &[&left, &right], vec![]);
                self.sum_heads(wired, &product)
            }
            _ => {
                let (left, right) = (self.gather(left, target), self.gather(right, source));
                let sum = self.op("Add", &[&left, &right], vec![]);
                let bent = self.op("Tanh", &[&sum], vec![]);
                self.shared_product(wired, &bent)
            }
        }
    }

    /// Every head's product with the vector that the heads share.
    fn shared_product(&mut self, wired: &Wired, x: &str) -> String {
        let heads = self.reshape(x, &[-1, wired.layer.heads.into(), wired.layer.dim.into()]);
        let product = self.op("Mul", &[&heads, &wired.path("attention.shared")], vec![]);
        let axes = self.numbers(&[2]);
        self.op("ReduceSum", &[&product, &axes], vec![int("keepdims", 0)])
    }

    /// (rows, heads * dim) summed to (rows, heads).
    fn sum_heads(&mut self, wired: &Wired, x: &str) -> String {
        let heads = self.reshape(x, &[-1, wired.layer.heads.into(), wired.layer.dim.into()]);
        let axes = self.numbers(&[2]);
        self.op("ReduceSum", &[&heads, &axes], vec![int("keepdims", 0)])
    }

    /// Messages times their weights; `alpha` has a column a head, or one for all.
    fn weigh(&mut self, wired: &Wired, messages: &str, alpha: &str) -> String {
        let layer = wired.layer;
        let per_head = layer.heads > 1 && layer.attention.is_softmax();
        if !per_head {
            return self.op("Mul", &[messages, alpha], vec![]);
        }
        let (heads, dim) = (i64::from(layer.heads), i64::from(layer.dim));
        let split = self.reshape(messages, &[-1, heads, dim]);
        let alpha = self.reshape(alpha, &[-1, heads, 1]);
        let product = self.op("Mul", &[&split, &alpha], vec![]);
        self.reshape(&product, &[-1, heads * dim])
    }

    /// The two pool Linears on every head of `rows` rows. `count`, where the rows are sums, is how many
    /// biases each holds.
    fn pool(
        &mut self,
        wired: &Wired,
        x: &str,
        rows: usize,
        count: Option<&str>,
    ) -> Result<String, OnnxError> {
        let (heads, dim) = (wired.layer.heads, wired.layer.dim);
        let w0 = self.tensor(&wired.path("pool.0.weight"), &[dim, POOL_WIDTH], dim)?;
        let b0 = self.tensor(&wired.path("pool.0.bias"), &[POOL_WIDTH], POOL_WIDTH)?;
        let w1 = self.tensor(&wired.path("pool.1.weight"), &[POOL_WIDTH, dim], POOL_WIDTH)?;
        let b1 = self.tensor(&wired.path("pool.1.bias"), &[dim], dim)?;
        let flat = self.reshape(x, &[rows as i64 * i64::from(heads), dim.into()]);
        let mut y = self.op("MatMul", &[&flat, &w0], vec![]);
        if count.is_none() {
            y = self.op("Add", &[&y, &b0], vec![]);
        }
        y = self.op("MatMul", &[&y, &w1], vec![]);
        let Some(count) = count else {
            y = self.op("Add", &[&y, &b1], vec![]);
            return Ok(self.reshape(&y, &[rows as i64, i64::from(heads * dim)]));
        };
        // The biases of a sum: count * (b0 W1 + b1), the same for every head.
        let b0 = self.reshape(&b0, &[1, POOL_WIDTH.into()]);
        let bias = self.op("MatMul", &[&b0, &w1], vec![]);
        let bias = self.op("Add", &[&bias, &b1], vec![]);
        let biases = self.op("Mul", &[count, &bias], vec![]);
        let biases = self.reshape(&biases, &[rows as i64, 1, dim.into()]);
        let split = self.reshape(&y, &[rows as i64, heads.into(), dim.into()]);
        let y = self.op("Add", &[&split, &biases], vec![]);
        Ok(self.reshape(&y, &[rows as i64, i64::from(heads * dim)]))
    }

    /// Messages at their targets, (nodes, heads * dim).
    fn aggregate(&mut self, wired: &Wired, messages: &str) -> Result<String, OnnxError> {
        let width = wired.layer.heads * wired.layer.dim;
        let aggregator = wired.layer.aggregator;
        if aggregator == Aggregator::Max {
            return Ok(self.segment_max(messages, width));
        }
        let mut sum = self.segment_sum(messages);
        if self.reading.pools_nodes(aggregator) {
            let degree = self.list(List::Degree);
            sum = self.pool(wired, &sum, self.layout.nodes(), Some(&degree))?;
        }
        if aggregator == Aggregator::Mean {
            let degree = self.list(List::Degree);
            sum = self.op("Div", &[&sum, &degree], vec![]);
        }
        Ok(sum)
    }

    /// (messages, width) cut into blocks of (messages a node, nodes, width). By a gather: tract moves slices
    /// up through everything before them, which makes thousands of operators of a hundred.
    fn blocks(&mut self, x: &str) -> Vec<String> {
        let layout = self.layout;
        (0..layout.blocks.len())
            .map(|block| {
                let rows = self.part(List::Rows, &layout.blocks, block);
                self.op("Gather", &[x, &rows], vec![int("axis", 0)])
            })
            .collect()
    }

    /// Reduced blocks in their order, each (nodes, width), as rows of nodes.
    fn by_node(&mut self, mut parts: Vec<String>, place: List) -> String {
        let rows = if parts.len() == 1 {
            parts.remove(0)
        } else {
            let inputs: Vec<&str> = parts.iter().map(String::as_str).collect();
            self.op("Concat", &inputs, vec![int("axis", 0)])
        };
        self.gather(&rows, place)
    }

    fn segment_sum(&mut self, x: &str) -> String {
        let parts = self.blocks(x);
        let axes = self.numbers(&[0]);
        let sums: Vec<String> = (parts.iter())
            .map(|part| self.op("ReduceSum", &[part, &axes], vec![int("keepdims", 0)]))
            .collect();
        let order = self.layout.order.clone();
        self.by_node(order.iter().map(|&block| sums[block].clone()).collect(), List::Place)
    }

    /// Blocks are folded onto themselves, the widest first, until they are as wide as the next: a
    /// maximum of two large tensors is fast where one over an axis is not.
    fn segment_max(&mut self, x: &str, width: u32) -> String {
        let parts = self.blocks(x);
        let mut open: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (block, part) in self.layout.blocks.clone().iter().zip(parts) {
            open.entry(block.width).or_default().push(part);
        }
        while let Some((messages, parts)) = open.pop_last() {
            let whole = if let [only] = &parts[..] {
                only.clone()
            } else {
                let inputs: Vec<&str> = parts.iter().map(String::as_str).collect();
                self.op("Concat", &inputs, vec![int("axis", 1)])
            };
            if messages <= 1 {
                let rows = self.reshape(&whole, &[-1, width.into()]);
                return self.by_node(vec![rows], List::Place);
            }
            // Of an odd number both halves hold the middle one.
            let half = messages.div_ceil(2);
            let front = self.slots(&whole, 0..half);
            let back = self.slots(&whole, messages - half..messages);
            let folded = self.op("Max", &[&front, &back], vec![]);
            open.entry(half).or_default().push(folded);
        }
        x.to_owned()
    }

    /// Some messages of every node of a block.
    fn slots(&mut self, x: &str, slots: Range<u32>) -> String {
        let slots: Vec<i64> = slots.map(i64::from).collect();
        let slots = self.numbers(&slots);
        self.op("Gather", &[x, &slots], vec![int("axis", 0)])
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
        if self.graph.initializer.iter().all(|tensor| tensor.name != name) {
            let raw_data = value.to_le_bytes().to_vec();
            let data_type = DataType::FLOAT.value();
            let tensor = TensorProto { name: name.to_owned(), data_type, raw_data, ..TensorProto::default() };
            self.graph.initializer.push(tensor);
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

    /// A list of the layout, whole.
    fn list(&mut self, list: List) -> String {
        let name = list.name().to_owned();
        if !self.graph.initializer.iter().any(|tensor| tensor.name == name) {
            let (kind, dims) = list.shape(self.on);
            let length = list.bytes(self.on).len();
            self.constant(&name, list, kind, dims, 0..length);
        }
        name
    }

    /// A block's part of a list, (width, nodes).
    fn part(&mut self, list: List, blocks: &[Block], block: usize) -> String {
        let name = format!("{}{block}", list.name());
        if !self.graph.initializer.iter().any(|tensor| tensor.name == name) {
            let values = |blocks: &[Block]| blocks.iter().map(Block::messages).sum::<u32>() as usize;
            let own = blocks[block];
            let start = size_of::<i32>() * values(&blocks[..block]);
            let range = start..start + size_of::<i32>() * own.messages() as usize;
            let dims = vec![own.width.into(), own.count.into()];
            self.constant(&name, list, DataType::INT32, dims, range);
        }
        name
    }

    /// Bytes of a list as a tensor, where the placement has them.
    fn constant(&mut self, name: &str, list: List, kind: DataType, dims: Vec<i64>, bytes: Range<usize>) {
        let name = name.to_owned();
        let mut tensor = TensorProto { name, dims, data_type: kind.value(), ..TensorProto::default() };
        match self.placement {
            Placement::Inside => tensor.raw_data = list.bytes(self.on)[bytes].to_vec(),
            Placement::Held(location) => {
                let before = List::ALL.into_iter().take_while(|&other| other != list);
                let offset: usize = before.map(|other| other.bytes(self.on).len()).sum();
                tensor.data_location = DataLocation::EXTERNAL.into();
                tensor.external_data = vec![
                    entry("location", location.to_owned()),
                    entry("offset", (offset + bytes.start).to_string()),
                    entry("length", bytes.len().to_string()),
                ];
            }
        }
        self.graph.initializer.push(tensor);
    }
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_owned(), value, ..StringStringEntryProto::default() }
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
