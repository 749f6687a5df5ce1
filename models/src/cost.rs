//! What a net costs on paper: multiply-adds and parameters (ALGORITHM 1.1).

use crate::spec::{Net, Op, SpecError};

/// Multiply-adds of one image through the net's convolutions and fully connected layers; what the
/// paper calls FLOPs. Biases, normalisation, pooling and sums do not count.
///
/// # Errors
/// [`SpecError`] where the net does not fit together.
pub fn macs(net: &Net) -> Result<u64, SpecError> {
    let shapes = net.shapes()?;
    Ok(net
        .nodes
        .iter()
        .zip(shapes)
        .map(|(node, out)| match node.op {
            Op::Conv { cin, kernel, .. } => u64::from(cin) * u64::from(kernel).pow(2) * out.len(),
            Op::Linear { cin, cout } => u64::from(cin) * u64::from(cout),
            _ => 0,
        })
        .sum())
}

/// Trainable parameters: convolution weights, batch norms' scale and shift, fully connected weights
/// and biases.
#[must_use]
pub fn params(net: &Net) -> u64 {
    net.nodes
        .iter()
        .map(|node| match node.op {
            Op::Conv { cin, cout, kernel, .. } => u64::from(cin) * u64::from(cout) * u64::from(kernel).pow(2),
            Op::BatchNorm { channels } => 2 * u64::from(channels),
            Op::Linear { cin, cout } => u64::from(cin + 1) * u64::from(cout),
            _ => 0,
        })
        .sum()
}
