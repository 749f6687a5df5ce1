//! Lowering to tch: spec in, a trainable module out, and weights across the border in both directions.
//!
//! The graph is interpreted node by node, so that there is no second description of any net. A
//! variable's path is its node's name, and a variable store holds exactly what
//! [`weights::tensors`](crate::weights::tensors) lists.
//!
//! Random values come from a ChaCha stream, not from torch's global generator: one seed gives one net,
//! whatever else the process draws.

use std::f64::consts::TAU;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, Tensor as Values};

use crate::spec::{Net, Op, SpecError};
use crate::weights::{BATCH_NORM_EPSILON, Tensor, Weights};

/// Share of the newest batch in a batch norm's running statistics, as PyTorch has it.
pub const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// Standard deviation of fresh fully connected weights (ALGORITHM 1.1).
pub const LINEAR_DEVIATION: f64 = 0.01;

/// Weights that do not fit a net's variables.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The net has a variable that the weights do not give.
    #[error("the weights do not fit the net: {0} is missing")]
    Missing(String),
    /// A tensor has another shape than its variable.
    #[error("the weights do not fit the net: {name} is {given:?}, not {wants:?}")]
    Shape {
        /// Path of the variable.
        name: String,
        /// Shape of the given tensor.
        given: Vec<u32>,
        /// Shape of the variable.
        wants: Vec<i64>,
    },
    /// The weights give a tensor that the net does not have.
    #[error("the weights do not fit the net: it has no {0}")]
    Unknown(String),
}

/// A net as a tch module.
#[derive(Debug)]
pub struct TorchNet {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    layer: Layer,
    inputs: Vec<usize>,
    /// The last node that reads this one's output, which may be dropped after it.
    last_reader: usize,
}

#[derive(Debug)]
enum Layer {
    Input,
    Conv {
        weight: Values,
        bias: Option<Values>,
        stride: i64,
        padding: i64,
    },
    BatchNorm {
        scale: Values,
        shift: Values,
        mean: Values,
        var: Values,
    },
    /// What a folded batch norm leaves: nothing.
    Pass,
    Relu {
        in_place: bool,
    },
    /// In place: into the first input.
    Add {
        in_place: bool,
    },
    AvgPool2,
    GlobalAvgPool,
    Linear {
        weight: Values,
        bias: Values,
    },
}

impl TorchNet {
    /// The net's module with fresh variables under `root`: convolutions Kaiming-normal by fan-out,
    /// batch norms 1 and 0, fully connected layers N(0, .01) without bias (ALGORITHM 1.1).
    ///
    /// # Errors
    /// [`SpecError`] where the net does not fit together.
    pub fn new(root: &Path<'_>, net: &Net, seed: u64) -> Result<Self, SpecError> {
        net.shapes()?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut nodes: Vec<Node> = Vec::with_capacity(net.nodes.len());
        for (place, node) in net.nodes.iter().enumerate() {
            let inputs: Vec<usize> = node.inputs.iter().map(|id| id.0).collect();
            for &input in &inputs {
                nodes[input].last_reader = place;
            }
            let layer = match node.op {
                Op::Relu => Layer::Relu { in_place: net.may_overwrite(place) },
                Op::Add => Layer::Add { in_place: net.may_overwrite(place) },
                op => layer(&descend(root, &node.name), op, &mut rng),
            };
            nodes.push(Node { layer, inputs, last_reader: place });
        }
        Ok(Self { nodes })
    }

    /// Folds every batch norm into the convolution before it: the same function by running statistics,
    /// in fewer passes over the maps. The module is then good for answers only: it no longer follows
    /// its variables, and has no batch statistics.
    pub fn fold_batch_norms(&mut self) {
        for place in 0..self.nodes.len() {
            let Layer::BatchNorm { scale, shift, mean, var } = &self.nodes[place].layer else { continue };
            let from = self.nodes[place].inputs[0];
            if self.nodes[from].last_reader != place {
                continue;
            }
            let Layer::Conv { weight, bias: None, stride, padding } = &self.nodes[from].layer else {
                continue;
            };
            let folded = tch::no_grad(|| {
                let gain = scale / (var + f64::from(BATCH_NORM_EPSILON)).sqrt();
                let bias = Some(shift - mean * &gain);
                Layer::Conv {
                    weight: weight * gain.view([-1, 1, 1, 1]),
                    bias,
                    stride: *stride,
                    padding: *padding,
                }
            });
            self.nodes[from].layer = folded;
            self.nodes[place].layer = Layer::Pass;
        }
    }

    /// Logits of a batch (N, C, H, W). With `train`, batch norms use the batch's statistics and move
    /// their running ones; without, they use the running ones.
    pub fn forward_t(&self, images: &Values, train: bool) -> Values {
        let mut values: Vec<Option<Values>> = Vec::with_capacity(self.nodes.len());
        for (place, node) in self.nodes.iter().enumerate() {
            let value = match &node.layer {
                Layer::Input => channels_last(images),
                layer => {
                    let inputs: Vec<&Values> =
                        node.inputs.iter().filter_map(|&input| values[input].as_ref()).collect();
                    apply(layer, &inputs, train)
                }
            };
            for &input in &node.inputs {
                if self.nodes[input].last_reader == place {
                    values[input] = None;
                }
            }
            values.push(Some(value));
        }
        // A net has at least its input.
        values.pop().flatten().unwrap_or_else(|| images.shallow_clone())
    }
}

impl Net {
    /// Whether a node may write into its first input: it alone reads it, and the node that made it needs
    /// it for no gradient.
    fn may_overwrite(&self, place: usize) -> bool {
        let from = self.nodes[place].inputs[0];
        let readers = self.nodes.iter().flat_map(|node| &node.inputs).filter(|input| **input == from);
        let made_by = self.nodes[from.0].op;
        readers.count() == 1 && matches!(made_by, Op::Conv { .. } | Op::BatchNorm { .. } | Op::Add)
    }
}

impl tch::nn::ModuleT for TorchNet {
    fn forward_t(&self, images: &Values, train: bool) -> Values {
        TorchNet::forward_t(self, images, train)
    }
}

fn layer(path: &Path<'_>, op: Op, rng: &mut ChaCha8Rng) -> Layer {
    let n = i64::from;
    match op {
        Op::Input => Layer::Input,
        Op::Conv { cin, cout, kernel, stride, padding } => {
            let weight = kaiming_fan_out(&[n(cout), n(cin), n(kernel), n(kernel)], rng);
            let weight = path.var_copy("weight", &weight);
            Layer::Conv { weight, bias: None, stride: n(stride), padding: n(padding) }
        }
        Op::BatchNorm { channels } => {
            let shape = [n(channels)];
            Layer::BatchNorm {
                scale: path.ones("weight", &shape),
                shift: path.zeros("bias", &shape),
                mean: path.zeros_no_train("running_mean", &shape),
                var: path.ones_no_train("running_var", &shape),
            }
        }
        Op::Relu => Layer::Relu { in_place: false },
        Op::Add => Layer::Add { in_place: false },
        Op::AvgPool2 => Layer::AvgPool2,
        Op::GlobalAvgPool => Layer::GlobalAvgPool,
        Op::Linear { cin, cout } => {
            let weight = path.var_copy("weight", &normal(&[n(cout), n(cin)], LINEAR_DEVIATION, rng));
            Layer::Linear { weight, bias: path.zeros("bias", &[n(cout)]) }
        }
    }
}

fn apply(layer: &Layer, inputs: &[&Values], train: bool) -> Values {
    let x = inputs[0];
    match layer {
        Layer::Input | Layer::Pass => x.shallow_clone(),
        Layer::Conv { weight, bias, stride, padding } => {
            x.conv2d(weight, bias.as_ref(), *stride, *padding, 1, 1)
        }
        Layer::BatchNorm { scale, shift, mean, var } => x.batch_norm(
            Some(scale),
            Some(shift),
            Some(mean),
            Some(var),
            train,
            BATCH_NORM_MOMENTUM,
            f64::from(BATCH_NORM_EPSILON),
            false,
        ),
        Layer::Relu { in_place: true } => x.shallow_clone().relu_(),
        Layer::Relu { in_place: false } => x.relu(),
        Layer::Add { in_place: true } => x.shallow_clone().g_add_(inputs[1]),
        Layer::Add { in_place: false } => x + inputs[1],
        Layer::AvgPool2 => x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>),
        Layer::GlobalAvgPool => x.mean_dim([2i64, 3].as_slice(), false, Kind::Float),
        Layer::Linear { weight, bias } => x.linear(weight, Some(bias)),
    }
}

/// The same values with channels innermost in memory, so that torch's CPU convolutions need not reorder
/// maps. Measured for convolution, batch norm and ReLU, forward and back (batch 128, widths 24, 48, 96):
/// 14 to 19% less time on one thread; two threads of a busy machine showed no clear gain.
pub fn channels_last(images: &Values) -> Values {
    images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Convolution weights N(0, 2 / fan-out), shape (out, in, rows, columns).
pub fn kaiming_fan_out(shape: &[i64], rng: &mut impl Rng) -> Values {
    let fan_out: i64 = shape[0] * shape[2..].iter().product::<i64>();
    normal(shape, (2.0 / fan_out as f64).sqrt(), rng)
}

/// Values N(0, deviation^2), by Box and Muller.
pub fn normal(shape: &[i64], deviation: f64, rng: &mut impl Rng) -> Values {
    let len = shape.iter().product::<i64>() as usize;
    let mut values = Vec::with_capacity(len + 1);
    while values.len() < len {
        let radius = deviation * (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let angle = TAU * rng.random::<f64>();
        values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    Values::from_slice(&values[..len]).view(shape)
}

/// The variables' values, on the CPU.
#[must_use]
pub fn weights(store: &VarStore) -> Weights {
    store.variables().into_iter().map(|(name, values)| (name, export(&values))).collect()
}

fn export(values: &Values) -> Tensor {
    Tensor { shape: values.size().iter().map(|&d| d as u32).collect(), data: floats(values) }
}

/// The values, row-major, on the CPU.
#[must_use]
pub fn floats(values: &Values) -> Vec<f32> {
    let flat = values.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
    let mut data = vec![0f32; flat.numel()];
    flat.copy_data(&mut data, flat.numel());
    data
}

/// Sets every variable of the store to the weight of its name.
///
/// # Errors
/// [`LoadError`] where names or shapes differ; the store is then unchanged.
pub fn load(store: &mut VarStore, weights: &Weights) -> Result<(), LoadError> {
    let variables = store.variables();
    if let Some(name) = weights.keys().find(|name| !variables.contains_key(*name)) {
        return Err(LoadError::Unknown(name.clone()));
    }
    let mut pairs = Vec::with_capacity(variables.len());
    for (name, variable) in variables {
        let tensor = weights.get(&name).ok_or_else(|| LoadError::Missing(name.clone()))?;
        let wants = variable.size();
        if !tensor.shape.iter().map(|&d| i64::from(d)).eq(wants.iter().copied()) {
            return Err(LoadError::Shape { name, given: tensor.shape.clone(), wants });
        }
        pairs.push((variable, tensor));
    }
    tch::no_grad(|| {
        for (mut variable, tensor) in pairs {
            let values = Values::from_slice(&tensor.data).view(variable.size().as_slice());
            variable.copy_(&values);
        }
    });
    Ok(())
}

/// The path of a dotted name.
#[must_use]
pub fn descend<'a>(root: &Path<'a>, name: &str) -> Path<'a> {
    let mut parts = name.split('.');
    let first = root / parts.next().unwrap_or_default();
    parts.fold(first, |path, part| path / part)
}

#[cfg(test)]
mod tests;
