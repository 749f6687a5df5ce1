//! A graph net on a graph as a tch module: sparse node features in, scores out.
//!
//! Messages lie in blocks ([`layout`](super::layout)), so that a sum or maximum at the targets is one
//! over an axis, and its gradient too. A gather is torch's `embedding`, whose gradient runs row by row on
//! all threads; `index_select`'s does not. Random numbers come from the caller's generator, never from
//! torch's global one.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::nn::Path;
use tch::{Kind, Tensor as Values};

use super::graph::{Graph, SparseRows};
use super::layout::{Layout, Widths};
use super::{
    ATTENTION_SLOPE, Activation, Aggregator, Attention, GnnError, GnnNet, LEAKY_SLOPE, Reading, Wired,
};
use crate::torch::descend;

/// `embedding_bag`'s number for sums.
const SUM: i64 = 0;

/// Dropout: at which rate, with whose numbers.
#[derive(Debug)]
pub struct Noise<'a> {
    /// Share of values that become 0; the others grow by 1 / (1 - rate).
    pub rate: f64,
    /// Where the random numbers come from.
    pub rng: &'a mut ChaCha8Rng,
}

/// A graph as tensors; shared by all nets on it.
#[derive(Debug)]
pub struct TorchGraph {
    /// Messages in each block.
    sizes: Vec<i64>,
    /// Messages a node and nodes of each block.
    blocks: Vec<[i64; 2]>,
    order: Vec<usize>,
    place: Values,
    source: Values,
    target: Values,
    /// (nodes, 1).
    degree: Values,
    /// 1 / sqrt(d_i d_j) of every message, (messages, 1).
    gcn: Values,
}

impl TorchGraph {
    /// The graph's tensors.
    #[must_use]
    pub fn new(graph: &Graph) -> Self {
        // Exact: dropout would tell a filler from the message that it copies.
        let layout = Layout::new(graph, Widths::Exact);
        let index = |list: &[i32]| Values::from_slice(list).to_kind(Kind::Int64);
        let (source, target) = (index(&layout.source), index(&layout.target));
        let degree = Values::from_slice(&layout.degree).view([-1, 1]);
        let gcn = (degree.index_select(0, &source) * degree.index_select(0, &target)).rsqrt();
        Self {
            sizes: layout.blocks.iter().map(|block| block.messages().into()).collect(),
            blocks: layout.blocks.iter().map(|block| [block.width, block.count].map(i64::from)).collect(),
            place: index(&layout.place),
            order: layout.order,
            source,
            target,
            degree,
            gcn,
        }
    }

    /// (messages, ...) reduced at the targets to (nodes, ...).
    fn reduce(&self, messages: &Values, over: impl Fn(Values) -> Values) -> Values {
        let shape = messages.size();
        let parts = messages.split_with_sizes(&self.sizes, 0);
        let reduced: Vec<Values> = (parts.iter().zip(&self.blocks))
            .map(|(part, block)| over(part.reshape([block, &shape[1..]].concat())))
            .collect();
        let ordered: Vec<&Values> = self.order.iter().map(|&block| &reduced[block]).collect();
        rows(&Values::cat(&ordered, 0), &self.place)
    }

    fn sum(&self, messages: &Values) -> Values {
        self.reduce(messages, |part| part.sum_dim_intlist(0i64, false, None::<Kind>))
    }

    fn max(&self, messages: &Values) -> Values {
        self.reduce(messages, |part| part.amax(0i64, false))
    }

    fn from(&self, nodes: &Values) -> Values {
        rows(nodes, &self.source)
    }

    fn to(&self, nodes: &Values) -> Values {
        rows(nodes, &self.target)
    }
}

/// The rows of `x` at `index`, whatever its rank.
fn rows(x: &Values, index: &Values) -> Values {
    let shape = x.size();
    let flat = Values::embedding(&x.reshape([shape[0], -1]), index, -1, false, false);
    flat.view([&[-1], &shape[1..]].concat().as_slice())
}

/// A sparse feature matrix and its tensors.
#[derive(Debug)]
pub struct TorchFeatures {
    rows: SparseRows,
    whole: Bags,
}

/// What `embedding_bag` takes: of every row, columns and values.
#[derive(Debug)]
struct Bags {
    columns: Values,
    starts: Values,
    values: Values,
}

impl Bags {
    fn new(columns: &[i64], starts: &[i64], values: &[f32]) -> Self {
        let [columns, starts] = [columns, starts].map(Values::from_slice);
        Self { columns, starts, values: Values::from_slice(values) }
    }

    /// Rows times a weight of (features, width).
    fn times(&self, weight: &Values) -> Values {
        let per_entry = Some(&self.values);
        Values::embedding_bag(weight, &self.columns, &self.starts, false, SUM, false, per_entry, true).0
    }
}

impl TorchFeatures {
    /// The features' tensors.
    #[must_use]
    pub fn new(rows: SparseRows) -> Self {
        let wide = |list: &[u32]| list.iter().map(|&n| i64::from(n)).collect::<Vec<i64>>();
        let whole = Bags::new(&wide(rows.columns()), &wide(rows.starts()), rows.values());
        Self { rows, whole }
    }

    /// The matrix.
    #[must_use]
    pub const fn rows(&self) -> &SparseRows {
        &self.rows
    }

    /// Dropped out: only what is left is multiplied.
    fn dropped(&self, noise: &mut Noise<'_>) -> Bags {
        let kept = (self.rows.values().len() as f64 * (1.0 - noise.rate)) as usize;
        let (mut columns, mut values) = (Vec::with_capacity(kept), Vec::with_capacity(kept));
        let mut starts = vec![0];
        let grow = (1.0 / (1.0 - noise.rate)) as f32;
        let keep = threshold(noise.rate);
        for row in 0..self.rows.rows() {
            for (column, value) in self.rows.row(row) {
                if noise.rng.random::<u32>() >= keep {
                    columns.push(i64::from(column));
                    values.push(value * grow);
                }
            }
            starts.push(columns.len() as i64);
        }
        Bags::new(&columns, &starts, &values)
    }
}

/// A 32-bit number at or above this keeps its value.
fn threshold(rate: f64) -> u32 {
    (rate * f64::from(u32::MAX)) as u32
}

/// Values dropped out; as they are without noise.
fn dropout(x: Values, noise: Option<&mut Noise<'_>>) -> Values {
    let Some(noise) = noise else { return x };
    if noise.rate == 0.0 {
        return x;
    }
    let grow = (1.0 / (1.0 - noise.rate)) as f32;
    let keep = threshold(noise.rate);
    let mut words = vec![0u32; x.numel()];
    noise.rng.fill(&mut words[..]);
    let mask: Vec<f32> = words.into_iter().map(|word| if word >= keep { grow } else { 0.0 }).collect();
    &x * Values::from_slice(&mask).view(x.size().as_slice())
}

/// A graph net as a tch module.
#[derive(Debug)]
pub struct TorchGnn {
    layers: Vec<Layer>,
    reading: Reading,
}

#[derive(Debug)]
struct Layer {
    wired: Wired,
    weight: Values,
    /// Left and right, (heads, dim).
    attention: Option<[Values; 2]>,
    /// The vector that the heads share, (dim).
    shared: Option<Values>,
    pool: Option<Pool>,
    bias: Values,
}

#[derive(Debug)]
struct Pool {
    weights: [Values; 2],
    biases: [Values; 2],
}

impl TorchGnn {
    /// The net's module with fresh variables under `root`: weights Glorot-uniform, biases 0.
    ///
    /// # Errors
    /// [`GnnError`] where the net does not fit together.
    pub fn new(root: &Path<'_>, net: &GnnNet, reading: Reading, seed: u64) -> Result<Self, GnnError> {
        net.check()?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let layers = net.wired().map(|wired| Layer::new(root, wired, &mut rng)).collect();
        Ok(Self { layers, reading })
    }

    /// Scores of the classes, (nodes, classes); with noise, as training has it.
    pub fn forward(
        &self,
        graph: &TorchGraph,
        features: &TorchFeatures,
        mut noise: Option<Noise<'_>>,
    ) -> Values {
        let mut x: Option<Values> = None;
        for layer in &self.layers {
            let z = match x {
                None => match noise.as_mut().filter(|noise| noise.rate > 0.0) {
                    Some(noise) => features.dropped(noise).times(&layer.weight),
                    None => features.whole.times(&layer.weight),
                },
                Some(x) => dropout(x, noise.as_mut()).matmul(&layer.weight),
            };
            x = Some(layer.forward(graph, &z, self.reading, noise.as_mut()));
        }
        // A net has at least one layer: it was checked.
        x.unwrap_or_else(|| features.whole.values.shallow_clone())
    }
}

impl Layer {
    fn new(root: &Path<'_>, wired: Wired, rng: &mut ChaCha8Rng) -> Self {
        let mut made = Vec::new();
        for (name, shape) in wired.tensors() {
            let (folder, last) = name.rsplit_once('.').unwrap_or(("", &name));
            let values = initial(last, &shape, rng);
            made.push((name.clone(), descend(root, folder).var_copy(last, &values)));
        }
        let of = |what: &str| {
            let name = wired.path(what);
            made.iter().find(|(made, _)| *made == name).map(|(_, values)| values.shallow_clone())
        };
        let pair = |left: &str, right: &str| of(left).zip(of(right)).map(|(left, right)| [left, right]);
        let pool = pair("pool.0.weight", "pool.1.weight")
            .zip(pair("pool.0.bias", "pool.1.bias"))
            .map(|(weights, biases)| Pool { weights, biases });
        Self {
            wired,
            // Every layer has both.
            weight: of("weight").unwrap_or_default(),
            attention: pair("attention.left", "attention.right"),
            shared: of("attention.shared"),
            pool,
            bias: of("bias").unwrap_or_default(),
        }
    }

    fn forward(
        &self,
        graph: &TorchGraph,
        z: &Values,
        reading: Reading,
        mut noise: Option<&mut Noise<'_>>,
    ) -> Values {
        let layer = self.wired.layer;
        let z = z.view([-1, layer.heads.into(), layer.dim.into()]);
        let sent = graph.from(&z);
        let messages = match layer.attention {
            Attention::Const => dropout(sent, noise),
            Attention::Gcn => sent * graph.gcn.view([-1, 1, 1]),
            _ => {
                let alpha = self.softmax(graph, &z, reading);
                sent * dropout(alpha, noise.take()).unsqueeze(-1)
            }
        };
        let pooled = match &self.pool {
            Some(pool) if !reading.pools_nodes(layer.aggregator) => pool.apply(&messages, None),
            _ => messages,
        };
        let mut y = match layer.aggregator {
            Aggregator::Max => graph.max(&pooled),
            _ => graph.sum(&pooled),
        };
        let degree = graph.degree.view([-1, 1, 1]);
        if let Some(pool) = self.pool.as_ref().filter(|_| reading.pools_nodes(layer.aggregator)) {
            y = pool.apply(&y, Some(&degree));
        }
        if layer.aggregator == Aggregator::Mean {
            y /= degree;
        }
        let y = if self.wired.is_last { y.mean_dim(1i64, false, None::<Kind>) } else { y.flatten(1, -1) };
        activate(layer.activation, &(y + &self.bias))
    }

    /// Attention weights, (messages, heads).
    fn softmax(&self, graph: &TorchGraph, z: &Values, reading: Reading) -> Values {
        let scores = self.scores(graph, z, false);
        let (grouped, back) = if reading.compat_src_softmax {
            (self.scores(graph, z, true), true)
        } else {
            (scores.shallow_clone(), false)
        };
        let at = |nodes: &Values| if back { graph.from(nodes) } else { graph.to(nodes) };
        // The shift cancels: no gradient runs through it.
        let largest = tch::no_grad(|| graph.max(&grouped));
        let sums = graph.sum(&(grouped - graph.to(&largest)).exp());
        (scores - at(&largest)).exp() / at(&sums)
    }

    /// Scores of messages, or, `turned`, of the same edges the other way round.
    fn scores(&self, graph: &TorchGraph, z: &Values, turned: bool) -> Values {
        let Some([left, right]) = &self.attention else {
            return Values::zeros([0], (Kind::Float, z.device()));
        };
        let to = |x: &Values| if turned { graph.from(x) } else { graph.to(x) };
        let from = |x: &Values| if turned { graph.to(x) } else { graph.from(x) };
        let heads = |x: Values| x.sum_dim_intlist(-1i64, false, None::<Kind>);
        match self.wired.layer.attention {
            Attention::Linear => from(&heads(z * (left + right)).tanh()),
            Attention::Cos => heads(to(&(z * (left * right))) * from(z)),
            Attention::GeneralizedLinear => {
                let bent = (to(&(z * left)) + from(&(z * right))).tanh();
                match &self.shared {
                    Some(shared) => bent.matmul(shared),
                    None => heads(bent),
                }
            }
            attention => {
                let (left, right) = (heads(z * left), heads(z * right));
                let there = leaky(&(to(&left) + from(&right)), ATTENTION_SLOPE);
                if attention == Attention::GatSym {
                    there + leaky(&(from(&left) + to(&right)), ATTENTION_SLOPE)
                } else {
                    there
                }
            }
        }
    }
}

impl Pool {
    /// Both Linears on the last axis. `count`, where rows are sums, is how many biases each holds.
    fn apply(&self, x: &Values, count: Option<&Values>) -> Values {
        let [w0, w1] = &self.weights;
        let [b0, b1] = &self.biases;
        match count {
            None => (x.matmul(w0) + b0).matmul(w1) + b1,
            Some(count) => x.matmul(w0).matmul(w1) + count * (b0.unsqueeze(0).matmul(w1).squeeze_dim(0) + b1),
        }
    }
}

fn leaky(x: &Values, slope: f32) -> Values {
    x.clamp_min(0.0) + x.clamp_max(0.0) * f64::from(slope)
}

fn activate(activation: Activation, x: &Values) -> Values {
    match activation {
        Activation::Sigmoid => x.sigmoid(),
        Activation::Tanh => x.tanh(),
        Activation::Relu => x.relu(),
        Activation::Linear => x.shallow_clone(),
        Activation::Softplus => x.softplus(),
        Activation::LeakyRelu => leaky(x, LEAKY_SLOPE),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Elu => x.elu(),
    }
}

/// Glorot-uniform weights, zero biases.
fn initial(name: &str, shape: &[u32], rng: &mut impl Rng) -> Values {
    let dims: Vec<i64> = shape.iter().map(|&d| i64::from(d)).collect();
    let len = shape.iter().product::<u32>() as usize;
    if name == "bias" {
        return Values::zeros(dims.as_slice(), (Kind::Float, tch::Device::Cpu));
    }
    // A vector is a matrix of one column.
    let fans = shape[0] + shape.get(1).copied().unwrap_or(1);
    let bound = (6.0 / fans as f32).sqrt();
    let values: Vec<f32> = (0..len).map(|_| rng.random_range(-bound..bound)).collect();
    Values::from_slice(&values).view(dims.as_slice())
}
