//! Channel-wise interpolation: c channels become C >= c by adaptive averaging,
//! `out[o] = mean(in[floor(o c / C) : ceil((o + 1) c / C)])` (ALGORITHM 1.3, step 6).
//!
//! It is linear over channels, hence a C x c matrix, and so a 1x1 convolution that merges with the
//! other linear steps around it.

use tch::Tensor;

/// The matrix's entries, row by row, each row padded with zeros to `columns`.
fn entries(from: u32, to: u32, columns: u32) -> Vec<f32> {
    let mut matrix = vec![0f32; (to * columns) as usize];
    for row in 0..to {
        let low = row * from / to;
        let high = ((row + 1) * from).div_ceil(to);
        for column in low..high {
            matrix[(row * columns + column) as usize] = 1.0 / (high - low) as f32;
        }
    }
    matrix
}

/// The interpolation from `from` to `to` channels as a matrix (to, from).
pub fn matrix(from: u32, to: u32) -> Tensor {
    Tensor::from_slice(&entries(from, to, from)).view([i64::from(to), i64::from(from)])
}

/// A map (N, c, H, W) interpolated to `to` channels as the reference code does it.
pub fn average(map: &Tensor, to: i64) -> Tensor {
    let size = map.size();
    if size[1] == to {
        return map.shallow_clone();
    }
    // Without a batch dimension (C, D, H, W) the pooling takes our images for its channels.
    map.adaptive_avg_pool3d([to, size[2], size[3]])
}

/// For every one of `widths` its interpolation to the widest of them, as (k, C, C) with zeros for the
/// columns that a narrower map does not have. Made anew each time: a stage with many depths meets more
/// lists of widths than memory holds, and next to a convolution it is nothing.
pub fn stack(widths: &[u32]) -> Tensor {
    let to = widths.iter().copied().max().unwrap_or(0);
    let all: Vec<f32> = widths.iter().flat_map(|&from| entries(from, to, to)).collect();
    let (count, to) = (widths.len() as i64, i64::from(to));
    Tensor::from_slice(&all).view([count, to, to])
}

#[cfg(test)]
mod tests {
    use hanas_models::torch::normal;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Float rounding of a mean of at most a few channels.
    const TOLERANCE: f64 = 1e-6;

    #[test]
    fn the_matrix_is_the_formula_and_the_reference_codes_average() {
        for (c, to) in [(3, 3), (3, 4), (4, 6), (9, 32), (19, 64), (7, 12), (1, 5)] {
            let map = normal(&[2, i64::from(c), 3, 3], 1.0, &mut ChaCha8Rng::seed_from_u64(1));
            let size = [i64::from(to), i64::from(c), 1, 1];
            let by_matrix = map.conv2d(&matrix(c, to).view(size), None::<&Tensor>, 1, 0, 1, 1);
            let by_average = average(&map, i64::from(to));
            let difference = (&by_matrix - &by_average).abs().max().double_value(&[]);
            assert!(difference < TOLERANCE, "{c} -> {to}: {difference}");
            for o in 0..to {
                let (low, high) = (i64::from(o * c / to), i64::from(((o + 1) * c).div_ceil(to)));
                let mean =
                    (low..high).map(|i| map.double_value(&[1, i, 2, 0])).sum::<f64>() / (high - low) as f64;
                let got = by_matrix.double_value(&[1, i64::from(o), 2, 0]);
                assert!((got - mean).abs() < TOLERANCE, "{c} -> {to}, channel {o}: {got}, not {mean}");
            }
        }
    }

    #[test]
    fn stacked_matrices_end_in_zero_columns() {
        let stack = stack(&[2, 4]);
        assert_eq!(stack.size(), [2, 4, 4]);
        assert!(stack.get(0).narrow(1, 0, 2).equal(&matrix(2, 4)));
        assert!((stack.get(0).narrow(1, 2, 2).abs().max().double_value(&[])).abs() < TOLERANCE);
        assert!(stack.get(1).equal(&matrix(4, 4)));
    }
}
