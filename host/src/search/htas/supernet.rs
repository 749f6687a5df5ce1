//! The net of all nets: every convolution with all its widths, every stage with all its depths
//! (ALGORITHM 1.3).

use hanas_models::torch::{LINEAR_DEVIATION, channels_last, normal};
use rand_chacha::ChaCha8Rng;
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, Tensor};

use super::super::choices::Choices;
use super::conv::{Form, SearchedConv, Shape, pad_channels};
use super::cwi::{average, stack};
use super::sample::Sample;
use crate::data::stream::{Purpose, stream};

/// A supernet with its weights.
#[derive(Debug)]
pub struct Supernet {
    /// The weights.
    pub store: VarStore,
    form: Form,
    stem: SearchedConv,
    stages: Vec<Stage>,
    fc: (Tensor, Tensor),
}

#[derive(Debug)]
struct Stage {
    blocks: Vec<Block>,
    /// Numbers of blocks after which the stage may end.
    depths: Vec<u32>,
}

#[derive(Debug)]
struct Block {
    a: SearchedConv,
    b: SearchedConv,
    shortcut: Shortcut,
    /// Row of `a`; `b` has the next.
    row: usize,
}

#[derive(Debug)]
enum Shortcut {
    /// The block's input, added as far as it reaches.
    Identity,
    /// 2x2 average pooling and a bare 1x1 convolution, of the widths that `b` has.
    Pooled(SearchedConv),
    /// 1x1 convolution and batch norms, of the widths that `b` has: where widths differ by design.
    Projected(SearchedConv),
}

impl Supernet {
    /// A supernet with fresh weights.
    #[must_use]
    pub fn new(choices: &Choices, form: Form, seed: u64) -> Self {
        let store = VarStore::new(Device::Cpu);
        let root = store.root();
        let mut rng = stream(seed, Purpose::Init, 0, 0);
        let family = &choices.family;
        let shape = Shape { cin: family.input.channels, kernel: 3, stride: 1, batch_norm: true };
        let stem = SearchedConv::new(&(&root / "stem"), &choices.widths[0], shape, &mut rng);
        let mut cin = widest(&choices.widths[0]);
        let mut stages = Vec::with_capacity(family.stages.len());
        for (s, stage) in family.stages.iter().enumerate() {
            let path = &root / format!("stage{}", s + 1);
            let blocks = (0..stage.blocks as usize).map(|b| {
                let stride = if b == 0 { stage.stride } else { 1 };
                let row = choices.row(s, b);
                let block = Block::new(&(&path / format!("block{b}")), choices, row, cin, stride, &mut rng);
                cin = widest(&choices.widths[row + 1]);
                block
            });
            stages.push(Stage { blocks: blocks.collect(), depths: choices.depths[s].clone() });
        }
        let path = &root / "head" / "fc";
        let classes = i64::from(family.classes);
        let weight = path.var_copy("weight", &normal(&[classes, i64::from(cin)], LINEAR_DEVIATION, &mut rng));
        let fc = (weight, path.zeros("bias", &[classes]));
        Self { store, form, stem, stages, fc }
    }

    /// Class scores of a batch (N, C, H, W) by the sampled widths and gates, on batch statistics.
    pub fn forward(&self, images: &Tensor, sample: &Sample) -> Tensor {
        let images = match self.form {
            Form::Sliced => channels_last(images),
            Form::Padded => images.contiguous(),
        };
        let mix = &sample.rows[0];
        let mut stem = self.stem.forward(&images, mix, self.form, self.stem.channels(mix));
        let mut x = stem.relu_();
        for (stage, gate) in self.stages.iter().zip(&sample.gates) {
            x = self.stage(stage, &x, sample, gate);
        }
        let x = x.mean_dim([2i64, 3].as_slice(), false, Kind::Float);
        let (weight, bias) = &self.fc;
        x.linear(&weight.narrow(1, 0, x.size()[1]), Some(bias))
    }

    fn stage(&self, stage: &Stage, x: &Tensor, sample: &Sample, gate: &Tensor) -> Tensor {
        let mut x = x.shallow_clone();
        let mut ends = Vec::with_capacity(stage.depths.len());
        for (b, block) in stage.blocks.iter().enumerate() {
            x = self.block(block, &x, sample);
            if stage.depths.contains(&(b as u32 + 1)) {
                ends.push(x.shallow_clone());
            }
        }
        if ends.len() == 1 { x } else { self.gated(&ends, gate) }
    }

    fn block(&self, block: &Block, x: &Tensor, sample: &Sample) -> Tensor {
        let (mix_a, mix_b) = (&sample.rows[block.row], &sample.rows[block.row + 1]);
        let run = |conv: &SearchedConv, x: &Tensor, mix, channels| conv.forward(x, mix, self.form, channels);
        let inner = run(&block.a, x, mix_a, block.a.channels(mix_a)).relu_();
        let width = block.b.channels(mix_b);
        let (shortcut, channels) = match &block.shortcut {
            Shortcut::Identity => (x.shallow_clone(), width.max(x.size()[1])),
            Shortcut::Pooled(conv) => {
                let pooled = x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>);
                (run(conv, &pooled, mix_b, width), width)
            }
            Shortcut::Projected(conv) => (run(conv, x, mix_b, width), width),
        };
        // The narrower side counts as zero beyond its channels: the wider one's tail is kept.
        let mut sum = run(&block.b, &inner, mix_b, channels);
        // The mixing convolution before it needs its output for no gradient.
        sum.g_add_(&pad_channels(&shortcut, channels)).relu_()
    }

    /// The maps at all depth choices, interpolated to the widest and weighted by the gate.
    fn gated(&self, ends: &[Tensor], gate: &Tensor) -> Tensor {
        let widths: Vec<u32> = ends.iter().map(|end| end.size()[1] as u32).collect();
        let widest = i64::from(widest(&widths));
        let stack = (self.form == Form::Sliced).then(|| stack(&widths));
        let weighted = ends.iter().enumerate().map(|(k, end)| {
            let (weight, width) = (gate.get(k as i64), end.size()[1]);
            match &stack {
                Some(stack) if width < widest => {
                    let matrix = stack.get(k as i64).narrow(1, 0, width) * weight;
                    end.conv2d(&matrix.reshape([widest, width, 1, 1]), None::<&Tensor>, 1, 0, 1, 1)
                }
                _ => average(end, widest) * weight,
            }
        });
        // A stage has at least one depth.
        weighted.reduce(|sum, next| sum + next).unwrap_or_else(|| ends[0].shallow_clone())
    }
}

impl Block {
    fn new(
        path: &Path<'_>,
        choices: &Choices,
        row: usize,
        cin: u32,
        stride: u32,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let (widths_a, widths_b) = (&choices.widths[row], &choices.widths[row + 1]);
        let conv = |cin, stride| Shape { cin, kernel: 3, stride, batch_norm: true };
        let a = SearchedConv::new(&(path / "a"), widths_a, conv(cin, stride), rng);
        let b = SearchedConv::new(&(path / "b"), widths_b, conv(widest(widths_a), 1), rng);
        let mut bare = |batch_norm| {
            let shape = Shape { cin, kernel: 1, stride: 1, batch_norm };
            SearchedConv::new(&(path / "shortcut"), widths_b, shape, rng)
        };
        let shortcut = if stride == 2 {
            Shortcut::Pooled(bare(false))
        } else if cin == widest(widths_b) {
            Shortcut::Identity
        } else {
            Shortcut::Projected(bare(true))
        };
        Self { a, b, shortcut, row }
    }
}

fn widest(widths: &[u32]) -> u32 {
    widths.iter().copied().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::super::choices::tests::tiny_choices;
    use super::super::sample::{ArchLogits, draw};
    use super::*;

    /// Float sums in another order, through all layers, relative to the largest value.
    const TOLERANCE: f64 = 1e-4;
    /// The same and back: batch norms over a few pixels blow rounding up.
    const GRADIENT_TOLERANCE: f64 = 1e-3;

    fn relative_error(got: &Tensor, want: &Tensor) -> f64 {
        let scale = want.abs().max().double_value(&[]).max(1e-9);
        (got - want).abs().max().double_value(&[]) / scale
    }

    fn images(choices: &Choices) -> Tensor {
        let side = i64::from(choices.family.input.height);
        normal(&[8, 3, side, side], 1.0, &mut ChaCha8Rng::seed_from_u64(5))
    }

    /// Scores, and the gradients of every weight and logit.
    fn both(choices: &Choices, form: Form, seed: u64) -> (Tensor, Vec<(String, Tensor)>) {
        let net = Supernet::new(choices, form, 1);
        let logits = ArchLogits::new(choices, 1);
        // Scales and shifts away from 1 and 0, or their places would not matter.
        for (name, mut variable) in net.store.variables() {
            if name.contains(".bn.") {
                let mut rng = ChaCha8Rng::seed_from_u64(name.len() as u64);
                let _ = tch::no_grad(|| variable.g_add_(&normal(&variable.size(), 0.3, &mut rng)));
            }
        }
        let sample = draw(&logits, 1.0, &mut ChaCha8Rng::seed_from_u64(seed));
        let scores = net.forward(&images(choices), &sample);
        let mut variables: Vec<(String, Tensor)> =
            net.store.variables().into_iter().chain(logits.store.variables()).collect();
        variables.sort_by(|(a, _), (b, _)| a.cmp(b));
        let inputs: Vec<&Tensor> = variables.iter().map(|(_, variable)| variable).collect();
        let loss =
            (&scores * normal(&scores.size(), 1.0, &mut ChaCha8Rng::seed_from_u64(9))).sum(Kind::Float);
        let gradients = Tensor::run_backward(&[&loss], &inputs, false, false);
        let named = variables.into_iter().map(|(name, _)| name).zip(gradients);
        (scores.detach(), named.filter(|(_, gradient)| gradient.defined()).collect())
    }

    #[test]
    fn sliced_equals_padded_forward_and_backward() {
        let mut choices = tiny_choices(3);
        // Widths that nothing divides.
        choices.widths[3] = vec![2, 3, 5, 8];
        choices.widths[4] = vec![1, 5, 7, 8];
        for seed in 0..3 {
            let (sliced, gradients) = both(&choices, Form::Sliced, seed);
            let (padded, references) = both(&choices, Form::Padded, seed);
            let error = relative_error(&sliced, &padded);
            assert!(error < TOLERANCE, "scores differ by {error}");
            assert_eq!(gradients.len(), references.len());
            for ((name, gradient), (_, reference)) in gradients.iter().zip(&references) {
                let error = relative_error(gradient, reference);
                assert!(
                    error < GRADIENT_TOLERANCE || reference.abs().max().double_value(&[]) < 1e-5,
                    "{name}: {error}"
                );
            }
        }
    }

    #[test]
    fn stages_of_other_widths_without_stride_are_projected() {
        let mut choices = tiny_choices(1);
        choices.family.stages[1].stride = 1;
        let (sliced, gradients) = both(&choices, Form::Sliced, 1);
        let (padded, _) = both(&choices, Form::Padded, 1);
        assert!(relative_error(&sliced, &padded) < TOLERANCE);
        assert!(gradients.iter().any(|(name, _)| name == "stage2.block0.shortcut.bn.weight"));
    }

    /// With one width per row and gates that are hard, the supernet is the plain net of that depth.
    #[test]
    fn a_hard_gate_ends_the_stage_there() {
        let mut choices = tiny_choices(3);
        for row in &mut choices.widths {
            *row = vec![*row.last().unwrap()];
        }
        let net = Supernet::new(&choices, Form::Sliced, 1);
        let logits = ArchLogits::new(&choices, 1);
        let mut sample = draw(&logits, 1.0, &mut ChaCha8Rng::seed_from_u64(1));
        sample.gates = (0..3).map(|_| Tensor::from_slice(&[1f32, 0.0, 0.0])).collect();
        let scores = net.forward(&images(&choices), &sample);
        let mut shallow = Supernet::new(&choices, Form::Sliced, 1);
        for stage in &mut shallow.stages {
            stage.blocks.truncate(1);
            stage.depths = vec![1];
        }
        let error = relative_error(&scores, &shallow.forward(&images(&choices), &sample));
        assert!(error < TOLERANCE, "{error}");
    }

    #[test]
    fn gates_weigh_interpolated_maps() {
        let choices = tiny_choices(2);
        let net = Supernet::new(&choices, Form::Sliced, 1);
        let ends = [
            normal(&[2, 3, 4, 4], 1.0, &mut ChaCha8Rng::seed_from_u64(1)),
            normal(&[2, 5, 4, 4], 1.0, &mut ChaCha8Rng::seed_from_u64(2)),
        ];
        let got = net.gated(&ends, &Tensor::from_slice(&[0.3f32, 0.7]));
        let want = average(&ends[0], 5) * 0.3 + &ends[1] * 0.7;
        assert!(relative_error(&got, &want) < TOLERANCE);
    }
}
