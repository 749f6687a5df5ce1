//! Messages at their targets: weighted, pooled, reduced (ALGORITHM 2.2).

use std::collections::BTreeMap;
use std::ops::Range;

use super::Lowering;
use super::attention::Weights;
use super::lists::List;
use crate::gnn::{Aggregator, POOL_WIDTH, Wired};
use crate::onnx::{OnnxError, int};

/// Widest row whose weights are spread by a matrix product; a broadcast costs a wider one less.
const MAX_SPREAD: u32 = 128;

/// Whether a layer's weights have a column a head; else there is one head, or one weight for all.
const fn per_head(wired: &Wired) -> bool {
    wired.layer.heads > 1 && wired.layer.attention.is_softmax()
}

/// Whether those weights are spread by a matrix product.
const fn is_spread(wired: &Wired) -> bool {
    per_head(wired) && wired.layer.heads * wired.layer.dim <= MAX_SPREAD
}

/// Whether they are broadcast.
const fn is_split(wired: &Wired) -> bool {
    per_head(wired) && !is_spread(wired)
}

impl Lowering<'_> {
    /// Messages at their targets, (nodes, heads * dim), weighted.
    pub(super) fn messages(
        &mut self,
        wired: &Wired,
        z: &str,
        weights: Option<Weights>,
    ) -> Result<String, OnnxError> {
        let aggregator = wired.layer.aggregator;
        if aggregator.has_pool() && !self.reading.pools_nodes(aggregator) {
            return self.pooled_messages(wired, z, weights);
        }
        // What only fills a block must not reach a sum.
        let of_sum = aggregator != Aggregator::Max;
        let (alpha, sums) = match weights {
            Some(Weights { weights, real, sums }) => {
                let real = if of_sum { real.unwrap_or_else(|| self.real(&weights)) } else { weights };
                (Some(real), sums)
            }
            None if of_sum && self.layout.has_fillers() => (Some(self.list(List::Real)), None),
            None => (None, None),
        };
        let parts = self.sent(wired, z, alpha.as_deref());
        let mut reduced = self.reduce(wired, parts);
        if is_split(wired) {
            reduced = self.reshape(&reduced, &[-1, i64::from(wired.layer.heads * wired.layer.dim)]);
        }
        if let Some(sums) = sums {
            reduced = self.per_head(wired, "Div", &reduced, &sums);
        }
        self.after(wired, reduced)
    }

    /// The same where every message passes the pools: their biases are not weighted, and after them it is
    /// too late to divide.
    fn pooled_messages(
        &mut self,
        wired: &Wired,
        z: &str,
        weights: Option<Weights>,
    ) -> Result<String, OnnxError> {
        let mut messages = self.gather(z, List::Source);
        if let Some(Weights { weights, sums, .. }) = weights {
            let alpha = match sums {
                Some(sums) => {
                    let sums = self.gather(&sums, List::Target);
                    self.op("Div", &[&weights, &sums], vec![])
                }
                None => weights,
            };
            messages = self.per_head(wired, "Mul", &messages, &alpha);
        }
        messages = self.pool(wired, &messages, self.layout.messages(), None)?;
        if wired.layer.aggregator != Aggregator::Max {
            messages = self.real(&messages);
        }
        let parts = self.blocks(&messages);
        let reduced = self.reduce(wired, parts);
        self.after(wired, reduced)
    }

    /// Weighted messages block by block, (messages a node, nodes, heads * dim), or with heads and dim apart
    /// where [`is_split`]: a block is small enough to stay in a cache until it is reduced.
    fn sent(&mut self, wired: &Wired, z: &str, alpha: Option<&str>) -> Vec<String> {
        let layout = self.layout;
        let (heads, dim) = (i64::from(wired.layer.heads), i64::from(wired.layer.dim));
        let spread = (alpha.is_some() && is_spread(wired)).then(|| self.spread(wired));
        let (z, alpha) = match alpha {
            Some(alpha) if is_split(wired) => {
                (self.reshape(z, &[-1, heads, dim]), Some(self.reshape(alpha, &[-1, heads, 1])))
            }
            alpha => (z.to_owned(), alpha.map(str::to_owned)),
        };
        (0..layout.blocks.len())
            .map(|block| {
                let sources = self.part(List::Source, &layout.blocks, block);
                let messages = self.op("Gather", &[&z, &sources], vec![int("axis", 0)]);
                let Some(alpha) = &alpha else { return messages };
                let rows = self.part(List::Rows, &layout.blocks, block);
                let mut alpha = self.op("Gather", &[alpha, &rows], vec![int("axis", 0)]);
                if let Some(spread) = &spread {
                    alpha = self.op("MatMul", &[&alpha, spread], vec![]);
                }
                self.op("Mul", &[&messages, &alpha], vec![])
            })
            .collect()
    }

    /// Rows (.., heads * dim) with a value a head, or one for all.
    fn per_head(&mut self, wired: &Wired, op: &str, x: &str, by: &str) -> String {
        let layer = wired.layer;
        if !per_head(wired) {
            return self.op(op, &[x, by], vec![]);
        }
        let (heads, dim) = (i64::from(layer.heads), i64::from(layer.dim));
        let split = self.reshape(x, &[-1, heads, dim]);
        let by = self.reshape(by, &[-1, heads, 1]);
        let result = self.op(op, &[&split, &by], vec![]);
        self.reshape(&result, &[-1, heads * dim])
    }

    /// The matrix that copies a value a head to all values of that head, (heads, heads * dim). A product
    /// with it takes heads^2 dim operations, but not the dear broadcast over short rows.
    fn spread(&mut self, wired: &Wired) -> String {
        let (heads, dim) = (wired.layer.heads, wired.layer.dim);
        let one = |place: u32| if place.is_multiple_of(heads + 1) { 1.0 } else { 0.0 };
        let eye =
            self.floats(&format!("eye{heads}"), &[heads, heads, 1], (0..heads * heads).map(one).collect());
        let shape = self.numbers(&[heads, heads, dim].map(i64::from));
        let wide = self.op("Expand", &[&eye, &shape], vec![]);
        self.reshape(&wide, &[heads.into(), i64::from(heads * dim)])
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

    /// Blocks of messages at their targets.
    fn reduce(&mut self, wired: &Wired, parts: Vec<String>) -> String {
        if wired.layer.aggregator == Aggregator::Max {
            self.max_of_blocks(parts, wired.layer.heads * wired.layer.dim)
        } else {
            self.sum_of_blocks(&parts)
        }
    }

    /// What is left to do at the targets: pools that run there, the mean's division.
    fn after(&mut self, wired: &Wired, mut reduced: String) -> Result<String, OnnxError> {
        let aggregator = wired.layer.aggregator;
        if self.reading.pools_nodes(aggregator) {
            let degree = self.list(List::Degree);
            reduced = self.pool(wired, &reduced, self.layout.nodes(), Some(&degree))?;
        }
        if aggregator == Aggregator::Mean {
            let degree = self.list(List::Degree);
            reduced = self.op("Div", &[&reduced, &degree], vec![]);
        }
        Ok(reduced)
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
    pub(super) fn by_node(&mut self, mut parts: Vec<String>, place: List) -> String {
        let rows = if parts.len() == 1 {
            parts.remove(0)
        } else {
            let inputs: Vec<&str> = parts.iter().map(String::as_str).collect();
            self.op("Concat", &inputs, vec![int("axis", 0)])
        };
        self.gather(&rows, place)
    }

    pub(super) fn segment_sum(&mut self, x: &str) -> String {
        let parts = self.blocks(x);
        self.sum_of_blocks(&parts)
    }

    fn sum_of_blocks(&mut self, parts: &[String]) -> String {
        let axes = self.numbers(&[0]);
        let sums: Vec<String> = (parts.iter())
            .map(|part| self.op("ReduceSum", &[part, &axes], vec![int("keepdims", 0)]))
            .collect();
        let order = self.layout.order.clone();
        self.by_node(order.iter().map(|&block| sums[block].clone()).collect(), List::Place)
    }

    pub(super) fn segment_max(&mut self, x: &str, width: u32) -> String {
        let parts = self.blocks(x);
        self.max_of_blocks(parts, width)
    }

    /// Blocks are folded onto themselves, the widest first, until they are as wide as the next: a
    /// maximum of two large tensors is fast where one over an axis is not.
    fn max_of_blocks(&mut self, parts: Vec<String>, width: u32) -> String {
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
        // A graph has at least one block, which ends in the loop.
        String::new()
    }

    /// Some messages of every node of a block.
    fn slots(&mut self, x: &str, slots: Range<u32>) -> String {
        let slots: Vec<i64> = slots.map(i64::from).collect();
        let slots = self.numbers(&slots);
        self.op("Gather", &[x, &slots], vec![int("axis", 0)])
    }
}
