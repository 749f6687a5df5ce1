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
    Conv { weight: Values, stride: i64, padding: i64 },
    BatchNorm { scale: Values, shift: Values, mean: Values, var: Values },
    Relu,
    Add,
    AvgPool2,
    GlobalAvgPool,
    Linear { weight: Values, bias: Values },
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
            let layer = layer(&descend(root, &node.name), node.op, &mut rng);
            nodes.push(Node { layer, inputs, last_reader: place });
        }
        Ok(Self { nodes })
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
            Layer::Conv { weight, stride: n(stride), padding: n(padding) }
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
        Op::Relu => Layer::Relu,
        Op::Add => Layer::Add,
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
        Layer::Input => x.shallow_clone(),
        Layer::Conv { weight, stride, padding } => x.conv2d(weight, None::<&Values>, *stride, *padding, 1, 1),
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
        Layer::Relu => x.relu(),
        Layer::Add => x + inputs[1],
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
mod tests {
    use super::*;
    use crate::resnet::Family;
    use crate::weights::{seeded, tensors};

    /// Float rounding of a sum over a convolution's window, relative to the largest value.
    const TOLERANCE: f64 = 1e-5;

    fn relative_error(got: &Values, want: &Values) -> f64 {
        let scale = want.abs().max().double_value(&[]).max(1e-12);
        (got - want).abs().max().double_value(&[]) / scale
    }

    fn resnet20() -> Net {
        Family::cifar_resnet(20, 10).unwrap().base().net().unwrap()
    }

    #[test]
    fn variables_are_the_specs_tensors() {
        let store = VarStore::new(Device::Cpu);
        let net = resnet20();
        TorchNet::new(&store.root(), &net, 1).unwrap();
        let got: Vec<(String, Vec<u32>)> =
            weights(&store).into_iter().map(|(name, tensor)| (name, tensor.shape)).collect();
        let mut want = tensors(&net);
        want.sort();
        assert_eq!(got, want);
    }

    #[test]
    fn weights_that_go_in_come_out() {
        let mut store = VarStore::new(Device::Cpu);
        let net = resnet20();
        let module = TorchNet::new(&store.root(), &net, 1).unwrap();
        let given = seeded(&net, 7);
        load(&mut store, &given).unwrap();
        assert_eq!(weights(&store), given);
        let logits = module.forward_t(&Values::zeros([2, 3, 32, 32], (Kind::Float, Device::Cpu)), false);
        assert_eq!(logits.size(), [2, 10]);
    }

    #[test]
    fn one_seed_gives_one_net() {
        let fresh = |seed| {
            let store = VarStore::new(Device::Cpu);
            TorchNet::new(&store.root(), &resnet20(), seed).unwrap();
            weights(&store)
        };
        assert_eq!(fresh(3), fresh(3));
        assert_ne!(fresh(3), fresh(4));
    }

    #[test]
    fn weights_that_do_not_fit_change_nothing() {
        let mut store = VarStore::new(Device::Cpu);
        let net = resnet20();
        TorchNet::new(&store.root(), &net, 1).unwrap();
        let before = weights(&store);
        let mut given = seeded(&net, 7);
        given.get_mut("head.fc.bias").unwrap().shape = vec![9];
        assert!(matches!(load(&mut store, &given), Err(LoadError::Shape { .. })));
        given.remove("head.fc.bias");
        assert!(matches!(load(&mut store, &given), Err(LoadError::Missing(_))));
        given = seeded(&net, 7);
        given.insert("head.fc.scale".to_owned(), Tensor::fill(&[1], |_| 0.0));
        assert!(matches!(load(&mut store, &given), Err(LoadError::Unknown(_))));
        assert_eq!(weights(&store), before);
    }

    /// In eval mode a batch norm is an affine map per channel, so that its convolution can do its work.
    #[test]
    fn a_folded_convolution_equals_convolution_and_batch_norm() {
        let mut net = Net::new("pair", crate::spec::FeatureMap::square(5, 9));
        let op = Op::Conv { cin: 5, cout: 7, kernel: 3, stride: 2, padding: 1 };
        let conv = net.push("conv", op, &[net.input_node()]);
        net.push("bn", Op::BatchNorm { channels: 7 }, &[conv]);
        let mut store = VarStore::new(Device::Cpu);
        let module = TorchNet::new(&store.root(), &net, 1).unwrap();
        load(&mut store, &seeded(&net, 2)).unwrap();

        let variables = store.variables();
        let of = |name: &str| variables[name].detach();
        let gain = of("bn.weight") / (of("bn.running_var") + f64::from(BATCH_NORM_EPSILON)).sqrt();
        let weight = of("conv.weight") * gain.view([7, 1, 1, 1]);
        let bias = of("bn.bias") - of("bn.running_mean") * &gain;
        let x = normal(&[4, 5, 9, 9], 1.0, &mut ChaCha8Rng::seed_from_u64(3));
        let folded = x.conv2d(&weight, Some(&bias), 2, 1, 1, 1);
        let error = relative_error(&module.forward_t(&x, false), &folded);
        assert!(error < TOLERANCE, "{error}");
    }

    #[test]
    fn only_training_moves_running_statistics() {
        let store = VarStore::new(Device::Cpu);
        let module = TorchNet::new(&store.root(), &resnet20(), 1).unwrap();
        let x = normal(&[2, 3, 32, 32], 1.0, &mut ChaCha8Rng::seed_from_u64(3));
        let before = weights(&store);
        let _ = module.forward_t(&x, false);
        assert_eq!(weights(&store), before);
        let _ = module.forward_t(&x, true);
        assert_ne!(weights(&store)["stem.bn.running_mean"], before["stem.bn.running_mean"]);
    }
}
