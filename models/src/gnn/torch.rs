//! A graph net on a graph as a tch module: sparse node features in, scores out.
//!
//! Messages lie in blocks ([`layout`](super::layout)), so that a sum or maximum at the targets is one
//! over an axis, and its gradient too. A gather is torch's `gather` along an index that is one for all
//! columns, whose gradient sorts the index and adds rows at the speed of memory; those of `index_select`
//! and `embedding` go through a tensor a row. A softmax's division comes after summing, at the nodes.
//! Random numbers come from the caller's generator, never from torch's global one.

mod data;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::nn::Path;
use tch::{Kind, Tensor as Values};

use data::dropout;
pub use data::{Noise, TorchFeatures, TorchGraph};

use super::{
    ATTENTION_SLOPE, Activation, Aggregator, Attention, GnnError, GnnNet, LEAKY_SLOPE, Reading, Wired,
};
use crate::torch::descend;

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

/// Attention weights, and what they have to be divided by: one value a target and head, above 0, so that
/// reduced messages can be divided instead.
struct Weights {
    alpha: Values,
    sums: Option<Values>,
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
        let pools_edges = self.pool.is_some() && !reading.pools_nodes(layer.aggregator);
        let mut sums: Option<Values> = None;
        let messages = match layer.attention {
            Attention::Const => dropout(sent, noise),
            Attention::Gcn => sent * graph.gcn.view([-1, 1, 1]),
            _ => {
                let Weights { mut alpha, sums: of_target } = self.softmax(graph, &z, reading);
                if pools_edges {
                    // Their biases are not divided.
                    alpha = of_target
                        .as_ref()
                        .map_or_else(|| alpha.shallow_clone(), |sums| &alpha / graph.to(sums));
                } else {
                    sums = of_target;
                }
                sent * dropout(alpha, noise.take()).unsqueeze(-1)
            }
        };
        let pooled = match &self.pool {
            Some(pool) if pools_edges => pool.apply(&messages, None),
            _ => messages,
        };
        let mut y = match layer.aggregator {
            Aggregator::Max => graph.max(&pooled),
            _ => graph.sum(&pooled),
        };
        if let Some(sums) = sums {
            y = y.divide(&sums.unsqueeze(-1));
        }
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
    fn softmax(&self, graph: &TorchGraph, z: &Values, reading: Reading) -> Weights {
        let scores = self.scores(graph, z, false);
        // The shift cancels: no gradient runs through it.
        if reading.compat_src_softmax {
            let turned = self.scores(graph, z, true);
            let largest = tch::no_grad(|| graph.max(&turned));
            let sums = graph.sum(&(turned - graph.to(&largest)).exp());
            let alpha = (scores - graph.from(&largest)).exp() / graph.from(&sums);
            return Weights { alpha, sums: None };
        }
        let largest = tch::no_grad(|| graph.max(&scores));
        let alpha = (scores - graph.to(&largest)).exp();
        let sums = graph.sum(&alpha);
        Weights { alpha, sums: Some(sums) }
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
