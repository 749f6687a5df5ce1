//! SGD with Nesterov momentum, and Adam, as PyTorch computes them. tch's own optimisers cannot hand
//! out their state, and a search that resumes without its momentum is another search.

use tch::Tensor;

use super::checkpoint::{CheckpointError, Tensors};
use super::config::{AdamConfig, SgdConfig};

/// SGD over named variables.
#[derive(Debug)]
pub struct Sgd {
    config: SgdConfig,
    slots: Vec<SgdSlot>,
}

#[derive(Debug)]
struct SgdSlot {
    name: String,
    variable: Tensor,
    /// None until the variable first has a gradient.
    velocity: Option<Tensor>,
}

/// Adam over named variables, weight decay added to the gradient.
#[derive(Debug)]
pub struct Adam {
    config: AdamConfig,
    slots: Vec<AdamSlot>,
    steps: i32,
}

#[derive(Debug)]
struct AdamSlot {
    name: String,
    variable: Tensor,
    mean: Tensor,
    square: Tensor,
}

/// Trainable variables in the order of their names.
#[must_use]
pub fn trainable(store: &tch::nn::VarStore) -> Vec<(String, Tensor)> {
    let mut list: Vec<_> =
        store.variables().into_iter().filter(|(_, variable)| variable.requires_grad()).collect();
    list.sort_by(|(a, _), (b, _)| a.cmp(b));
    list
}

impl Sgd {
    /// An optimiser without momentum yet.
    #[must_use]
    pub fn new(config: SgdConfig, variables: Vec<(String, Tensor)>) -> Self {
        let slot = |(name, variable)| SgdSlot { name, variable, velocity: None };
        Self { config, slots: variables.into_iter().map(slot).collect() }
    }

    /// Lowers `loss` by one step at `rate`. Variables that the loss does not reach stay as they are.
    pub fn step(&mut self, loss: &Tensor, rate: f64) {
        let SgdConfig { momentum, decay, .. } = self.config;
        let inputs: Vec<&Tensor> = self.slots.iter().map(|slot| &slot.variable).collect();
        let gradients = Tensor::run_backward(&[loss], &inputs, false, false);
        tch::no_grad(|| {
            for (slot, gradient) in self.slots.iter_mut().zip(gradients) {
                if !gradient.defined() {
                    continue;
                }
                let gradient = gradient + &slot.variable * decay;
                let velocity = match slot.velocity.take() {
                    Some(mut velocity) => {
                        let _ = velocity.g_mul_scalar_(momentum).g_add_(&gradient);
                        velocity
                    }
                    None => gradient.copy(),
                };
                let step = (gradient + &velocity * momentum) * -rate;
                let _ = slot.variable.g_add_(&step);
                slot.velocity = Some(velocity);
            }
        });
    }

    /// The momentum, for a checkpoint.
    #[must_use]
    pub fn state(&self) -> Tensors {
        let velocity = |slot: &SgdSlot| {
            slot.velocity.as_ref().map(|velocity| (slot.name.clone(), velocity.shallow_clone()))
        };
        self.slots.iter().filter_map(velocity).collect()
    }

    /// Goes on from a checkpoint's momentum.
    pub fn restore(&mut self, state: &Tensors) {
        for slot in &mut self.slots {
            slot.velocity = state.get(&slot.name).map(Tensor::copy);
        }
    }
}

/// Added to the root of Adam's square mean, as PyTorch does.
const ADAM_EPSILON: f64 = 1e-8;

impl Adam {
    /// An optimiser that has not stepped yet.
    #[must_use]
    pub fn new(config: AdamConfig, variables: Vec<(String, Tensor)>) -> Self {
        let slot = |(name, variable): (String, Tensor)| AdamSlot {
            name,
            mean: variable.zeros_like(),
            square: variable.zeros_like(),
            variable,
        };
        Self { config, slots: variables.into_iter().map(slot).collect(), steps: 0 }
    }

    /// Lowers `loss` by one step. Only these variables' gradients are computed.
    pub fn step(&mut self, loss: &Tensor) {
        let AdamConfig { rate, betas: [b1, b2], decay } = self.config;
        let inputs: Vec<&Tensor> = self.slots.iter().map(|slot| &slot.variable).collect();
        let gradients = Tensor::run_backward(&[loss], &inputs, false, false);
        self.steps += 1;
        let (c1, c2) = (1.0 - b1.powi(self.steps), 1.0 - b2.powi(self.steps));
        tch::no_grad(|| {
            for (slot, gradient) in self.slots.iter_mut().zip(gradients) {
                if !gradient.defined() {
                    continue;
                }
                let gradient = gradient + &slot.variable * decay;
                let _ = slot.mean.g_mul_scalar_(b1).g_add_(&(&gradient * (1.0 - b1)));
                let _ = slot.square.g_mul_scalar_(b2).g_add_(&(gradient.square() * (1.0 - b2)));
                let step = (&slot.mean * (-rate / c1)) / ((&slot.square / c2).sqrt() + ADAM_EPSILON);
                let _ = slot.variable.g_add_(&step);
            }
        });
    }

    /// Means, square means and the number of steps, for a checkpoint.
    #[must_use]
    pub fn state(&self) -> Tensors {
        let mut state = Tensors::new();
        for slot in &self.slots {
            state.insert(format!("mean/{}", slot.name), slot.mean.shallow_clone());
            state.insert(format!("square/{}", slot.name), slot.square.shallow_clone());
        }
        state.insert("steps".to_owned(), Tensor::from(i64::from(self.steps)));
        state
    }

    /// Goes on from a checkpoint's state.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`] where a variable's state is not in it.
    pub fn restore(&mut self, state: &Tensors) -> Result<(), CheckpointError> {
        let of = |name: String| state.get(&name).ok_or(CheckpointError::Missing(name));
        self.steps = of("steps".to_owned())?.int64_value(&[]) as i32;
        for slot in &mut self.slots {
            slot.mean = of(format!("mean/{}", slot.name))?.copy();
            slot.square = of(format!("square/{}", slot.name))?.copy();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::nn::{Init, OptimizerConfig, VarStore};
    use tch::{Device, Kind};

    use super::*;

    /// Rounding of the same float operations in another order.
    const TOLERANCE: f64 = 1e-6;

    fn store() -> (VarStore, Tensor) {
        let store = VarStore::new(Device::Cpu);
        let x = store.root().var("x", &[3], Init::Const(0.0));
        tch::no_grad(|| x.shallow_clone().copy_(&Tensor::from_slice(&[1f32, -2.0, 3.0])));
        (store, x)
    }

    fn loss(x: &Tensor) -> Tensor {
        (x.square() * Tensor::from_slice(&[1f32, 2.0, 0.5])).sum(Kind::Float) + x.sin().sum(Kind::Float)
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn sgd_steps_as_torch_does() {
        let ((ours, x), (theirs, y)) = (store(), store());
        let config = SgdConfig { rate: 0.05, momentum: 0.9, decay: 1e-2 };
        let mut sgd = Sgd::new(config, trainable(&ours));
        let torch = tch::nn::Sgd { momentum: 0.9, dampening: 0.0, wd: 1e-2, nesterov: true };
        let mut torch = torch.build(&theirs, 0.05).unwrap();
        for _ in 0..20 {
            sgd.step(&loss(&x), 0.05);
            torch.backward_step(&loss(&y));
            assert!(distance(&x, &y) < TOLERANCE, "{}", distance(&x, &y));
        }
    }

    #[test]
    fn adam_steps_as_torch_does_and_resumes() {
        let ((ours, x), (theirs, y)) = (store(), store());
        let config = AdamConfig { rate: 0.05, betas: [0.5, 0.999], decay: 1e-2 };
        let mut adam = Adam::new(config, trainable(&ours));
        let torch = tch::nn::Adam { beta1: 0.5, beta2: 0.999, wd: 1e-2, eps: 1e-8, amsgrad: false };
        let mut torch = torch.build(&theirs, 0.05).unwrap();
        for step in 0..20 {
            if step == 10 {
                let state = adam.state();
                adam = Adam::new(config, trainable(&ours));
                adam.restore(&state).unwrap();
            }
            adam.step(&loss(&x));
            torch.backward_step(&loss(&y));
            assert!(distance(&x, &y) < TOLERANCE, "{}", distance(&x, &y));
        }
    }
}
