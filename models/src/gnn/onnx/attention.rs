//! Weights of messages (ALGORITHM 2.2).

use super::Lowering;
use super::lists::List;
use crate::gnn::{ATTENTION_SLOPE, Attention, Wired};
use crate::onnx::{OnnxError, float, int};

/// Weights of messages.
pub(super) struct Weights {
    /// (messages, heads) or (messages, 1).
    pub(super) weights: String,
    /// The same with 0 for what only fills a block, where that is at hand.
    pub(super) real: Option<String>,
    /// What they have to be divided by, (nodes, heads), at the messages or, since it is one value a target
    /// and above 0, after reducing them.
    pub(super) sums: Option<String>,
}

impl Weights {
    const fn new(weights: String) -> Self {
        Self { weights, real: None, sums: None }
    }
}

impl Lowering<'_> {
    /// Weights of messages; none where all are 1.
    pub(super) fn attention(&mut self, wired: &Wired, z: &str) -> Result<Option<Weights>, OnnxError> {
        match wired.layer.attention {
            Attention::Const => Ok(None),
            Attention::Gcn => {
                let degree = self.list(List::Degree);
                let root = self.op("Sqrt", &[&degree], vec![]);
                let norm = self.op("Reciprocal", &[&root], vec![]);
                let (left, right) = (self.gather(&norm, List::Target), self.gather(&norm, List::Source));
                Ok(Some(Weights::new(self.op("Mul", &[&left, &right], vec![]))))
            }
            _ => self.softmax(wired, z).map(Some),
        }
    }

    /// Exponentials of the messages' scores with their sums over the messages of one target; or, as the
    /// reference has it, divided by those over the messages of one source.
    fn softmax(&mut self, wired: &Wired, z: &str) -> Result<Weights, OnnxError> {
        let parts = self.score_parts(wired, z)?;
        let scores = self.scores(wired, &parts, List::Target, List::Source);
        if self.reading.compat_src_softmax {
            return Ok(Weights::new(self.by_source(wired, &parts, &scores)));
        }
        // A tanh needs no shift against overflow.
        let scores = if wired.layer.attention == Attention::Linear {
            scores
        } else {
            let largest = self.segment_max(&scores, wired.layer.heads);
            self.less(&scores, &largest, List::Target)
        };
        let weights = self.op("Exp", &[&scores], vec![]);
        let real = self.real(&weights);
        let sums = self.segment_sum(&real);
        Ok(Weights { weights, real: Some(real), sums: Some(sums) })
    }

    /// A softmax over the messages that leave a node. The graph is undirected: a block's messages, taken
    /// the other way round, are those.
    fn by_source(&mut self, wired: &Wired, parts: &[String; 2], scores: &str) -> String {
        let turned = self.scores(wired, parts, List::Source, List::Target);
        let (scores, turned) = if wired.layer.attention == Attention::Linear {
            (scores.to_owned(), turned)
        } else {
            let largest = self.segment_max(&turned, wired.layer.heads);
            (self.less(scores, &largest, List::Source), self.less(&turned, &largest, List::Target))
        };
        let weights = self.op("Exp", &[&scores], vec![]);
        let turned = self.op("Exp", &[&turned], vec![]);
        let turned = self.real(&turned);
        let sums = self.segment_sum(&turned);
        let sums = self.gather(&sums, List::Source);
        self.op("Div", &[&weights, &sums], vec![])
    }

    /// Values of messages less those of their nodes.
    fn less(&mut self, of: &str, nodes: &str, list: List) -> String {
        let by = self.gather(nodes, list);
        self.op("Sub", &[of, &by], vec![])
    }

    /// Values of messages, 0 for those that only fill a block.
    pub(super) fn real(&mut self, of: &str) -> String {
        if !self.layout.has_fillers() {
            return of.to_owned();
        }
        let real = self.list(List::Real);
        self.op("Mul", &[of, &real], vec![])
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
}
