//! A convolution of all its widths at once (ALGORITHM 1.3, steps 4 to 7).
//!
//! Two sampled widths x1 and x2 share their first channels, and with them, in training mode, their
//! batch statistics. So one convolution of max(x1, x2) channels and one normalisation serve both, and
//! all that is left (each width's scale and shift, the interpolation, the weighted sum) is linear over
//! channels: one 1x1 convolution with a matrix that is computed from the small parameters alone,
//! sum_j u_j M_j diag(scale_j), and the shift sum_j u_j M_j shift_j.
//!
//! A supernet is only ever run on batch statistics, in weight and architecture steps alike, and its
//! winner is trained from scratch. So its batch norms keep no running statistics: there are none that
//! an architecture step could move.

use hanas_models::torch::kaiming_fan_out;
use hanas_models::weights::BATCH_NORM_EPSILON;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;
use tch::nn::Path;

use super::cwi::{average, stack};
use super::sample::Mix;

/// How a supernet computes; the same function either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Sliced weights, one convolution and one normalisation for both widths.
    Sliced,
    /// As the reference code: zero-padded input, full-width convolution, one batch norm, interpolation
    /// and product per sampled width. For comparison.
    Padded,
}

/// Shape of a convolution with searched widths.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Most input channels.
    pub cin: u32,
    /// Kernel side.
    pub kernel: u32,
    /// Stride.
    pub stride: u32,
    /// Whether batch norms follow.
    pub batch_norm: bool,
}

/// A convolution with searched widths and its batch norms.
#[derive(Debug)]
pub struct SearchedConv {
    /// Ascending.
    widths: Vec<u32>,
    shape: Shape,
    /// (widest, most input channels, kernel, kernel).
    weight: Tensor,
    /// Scale and shift of one batch norm per width, (widths, widest); a row's tail is never used.
    affine: Option<(Tensor, Tensor)>,
}

impl SearchedConv {
    /// Fresh variables under `path`.
    #[must_use]
    pub fn new(path: &Path<'_>, widths: &[u32], shape: Shape, rng: &mut ChaCha8Rng) -> Self {
        let most = i64::from(widths.iter().copied().max().unwrap_or(0));
        let kernel = i64::from(shape.kernel);
        let weight = kaiming_fan_out(&[most, i64::from(shape.cin), kernel, kernel], rng);
        let weight = (path / "conv").var_copy("weight", &weight);
        let affine = shape.batch_norm.then(|| {
            let (path, size) = (path / "bn", [widths.len() as i64, most]);
            (path.ones("weight", &size), path.zeros("bias", &size))
        });
        Self { widths: widths.to_vec(), shape, weight, affine }
    }

    /// Channels that come out for a mix.
    #[must_use]
    pub fn channels(&self, mix: &Mix) -> i64 {
        self.picked(mix).into_iter().max().map_or(0, i64::from)
    }

    fn picked(&self, mix: &Mix) -> Vec<u32> {
        mix.picks.iter().map(|&pick| self.widths[pick]).collect()
    }

    /// The weighted sum of the sampled widths' maps, with zeros for channels up to `channels`.
    pub fn forward(&self, x: &Tensor, mix: &Mix, form: Form, channels: i64) -> Tensor {
        match form {
            Form::Sliced => self.sliced(x, mix, channels),
            Form::Padded => {
                let y = self.padded(x, mix);
                pad_channels(&y, channels)
            }
        }
    }

    fn sliced(&self, x: &Tensor, mix: &Mix, channels: i64) -> Tensor {
        let count = mix.picks.len() as i64;
        let (most, cin) = (self.channels(mix), x.size()[1]);
        let weight = self.weight.narrow(0, 0, most).narrow(1, 0, cin);
        let parts = stack(&self.picked(mix)) * mix.weights.view([count, 1, 1]);
        let rows = |matrix: Tensor| {
            if channels > most { matrix.constant_pad_nd([0, 0, 0, channels - most]) } else { matrix }
        };
        let Some((scale, shift)) = &self.affine else {
            // Without a batch norm between, the mixing goes into the weight itself.
            let mixing = rows(parts.sum_dim_intlist(0i64, false, None));
            let kernel = i64::from(self.shape.kernel);
            let mixed = mixing.matmul(&weight.reshape([most, -1])).view([-1, cin, kernel, kernel]);
            return self.convolve(x, &mixed);
        };
        let picks: Vec<i64> = mix.picks.iter().map(|&pick| pick as i64).collect();
        let picks = Tensor::from_slice(&picks);
        let of = |all: &Tensor| all.index_select(0, &picks).narrow(1, 0, most).unsqueeze(1);
        let mixing = rows((&parts * of(scale)).sum_dim_intlist(0i64, false, None));
        let shift = (&parts * of(shift)).sum_dim_intlist([0i64, 2].as_slice(), false, None);
        let shift = if channels > most { shift.constant_pad_nd([0, channels - most]) } else { shift };
        let normal = normalise(&self.convolve(x, &weight), None);
        normal.conv2d(&mixing.view([channels.max(most), most, 1, 1]), Some(&shift), 1, 0, 1, 1)
    }

    fn padded(&self, x: &Tensor, mix: &Mix) -> Tensor {
        let most = self.channels(mix);
        let full = self.convolve(&pad_channels(x, i64::from(self.shape.cin)), &self.weight);
        let mut sum: Option<Tensor> = None;
        for (j, &pick) in mix.picks.iter().enumerate() {
            let width = i64::from(self.widths[pick]);
            let mut y = full.narrow(1, 0, width);
            if let Some((scale, shift)) = &self.affine {
                let of = |all: &Tensor| all.get(pick as i64).narrow(0, 0, width);
                y = normalise(&y, Some((&of(scale), &of(shift))));
            }
            let y = average(&y, most) * mix.weights.get(j as i64);
            sum = Some(match sum {
                Some(sum) => sum + y,
                None => y,
            });
        }
        // A mix has at least one width.
        sum.unwrap_or(full)
    }

    fn convolve(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        let padding = i64::from(self.shape.kernel / 2);
        x.conv2d(weight, None::<&Tensor>, i64::from(self.shape.stride), padding, 1, 1)
    }
}

/// Batch normalisation by the batch's own statistics.
fn normalise(x: &Tensor, affine: Option<(&Tensor, &Tensor)>) -> Tensor {
    let (scale, shift) = affine.unzip();
    // The momentum is of no effect without running statistics.
    x.batch_norm(scale, shift, None, None, true, 0.0, f64::from(BATCH_NORM_EPSILON), false)
}

/// The map with zero channels behind it up to `channels`.
pub fn pad_channels(x: &Tensor, channels: i64) -> Tensor {
    let missing = channels - x.size()[1];
    if missing > 0 { x.constant_pad_nd([0, 0, 0, 0, 0, missing]) } else { x.shallow_clone() }
}
