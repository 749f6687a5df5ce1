//! A graph and its nodes' features as tensors, and dropout.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor as Values};

use crate::gnn::graph::{Graph, SparseRows};
use crate::gnn::layout::{Layout, Widths};

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
    place: Rows,
    source: Rows,
    target: Rows,
    /// (nodes, 1).
    pub(super) degree: Values,
    /// 1 / sqrt(d_i d_j) of every message, (messages, 1).
    pub(super) gcn: Values,
}

impl TorchGraph {
    /// The graph's tensors.
    #[must_use]
    pub fn new(graph: &Graph) -> Self {
        // Exact: dropout would tell a filler from the message that it copies.
        let layout = Layout::new(graph, Widths::Exact);
        let (source, target) = (Rows::new(&layout.source), Rows::new(&layout.target));
        let degree = Values::from_slice(&layout.degree).view([-1, 1]);
        let gcn = (source.of(&degree) * target.of(&degree)).rsqrt();
        Self {
            sizes: layout.blocks.iter().map(|block| block.messages().into()).collect(),
            blocks: layout.blocks.iter().map(|block| [block.width, block.count].map(i64::from)).collect(),
            place: Rows::new(&layout.place),
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
        self.place.of(&Values::cat(&ordered, 0))
    }

    pub(super) fn sum(&self, messages: &Values) -> Values {
        self.reduce(messages, |part| part.sum_dim_intlist(0i64, false, None::<Kind>))
    }

    pub(super) fn max(&self, messages: &Values) -> Values {
        self.reduce(messages, |part| part.amax(0i64, false))
    }

    pub(super) fn from(&self, nodes: &Values) -> Values {
        self.source.of(nodes)
    }

    pub(super) fn to(&self, nodes: &Values) -> Values {
        self.target.of(nodes)
    }
}

/// Which rows a gather takes.
#[derive(Debug)]
struct Rows {
    /// (rows, 1).
    index: Values,
}

impl Rows {
    fn new(list: &[i32]) -> Self {
        Self { index: Values::from_slice(list).to_kind(Kind::Int64).unsqueeze(-1) }
    }

    /// Those rows of `x`, whatever its rank.
    fn of(&self, x: &Values) -> Values {
        let shape = x.size();
        let flat = x.reshape([shape[0], -1]);
        let rows = flat.gather(0, &self.index.expand([-1, flat.size()[1]], false), false);
        rows.view([&[-1], &shape[1..]].concat().as_slice())
    }
}

/// A sparse feature matrix and its tensors.
#[derive(Debug)]
pub struct TorchFeatures {
    rows: SparseRows,
    pub(super) whole: Bags,
}

/// What `embedding_bag` takes: of every row, columns and values.
#[derive(Debug)]
pub(super) struct Bags {
    columns: Values,
    starts: Values,
    pub(super) values: Values,
}

impl Bags {
    fn new(columns: &[i64], starts: &[i64], values: &[f32]) -> Self {
        let [columns, starts] = [columns, starts].map(Values::from_slice);
        Self { columns, starts, values: Values::from_slice(values) }
    }

    /// Rows times a weight of (features, width).
    pub(super) fn times(&self, weight: &Values) -> Values {
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
    pub(super) fn dropped(&self, noise: &mut Noise<'_>) -> Bags {
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
pub(super) fn dropout(x: Values, noise: Option<&mut Noise<'_>>) -> Values {
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
