//! The layers as loops over slices, channels first. Lengths are the caller's to check.

use hanas_proto::chip::{Map, Weights, Window};

use crate::element::Element;

/// A layer's weights, out of the working memory.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a, E: Element> {
    /// The weights.
    pub weights: &'a [E],
    /// One bias an output channel, or none at all.
    pub biases: &'a [E::Sum],
    /// What is done to the sums.
    pub finish: &'a Weights,
}

impl<E: Element> Parameters<'_, E> {
    fn bias(&self, channel: usize) -> E::Sum {
        self.biases.get(channel).copied().unwrap_or_default()
    }
}

/// Where a window lies over one side of a map: the first value under it, and the part of the window that
/// is not over padding.
#[derive(Debug, Clone, Copy)]
struct Span {
    at: usize,
    from: usize,
    to: usize,
}

impl Span {
    fn of(window: Window, position: usize, side: usize) -> Self {
        let start = position * usize::from(window.stride);
        let padding = usize::from(window.padding);
        let from = padding.saturating_sub(start);
        let to = usize::from(window.kernel).min((side + padding).saturating_sub(start));
        Self { at: (start + from).saturating_sub(padding), from, to: to.max(from) }
    }
}

/// The rows of one window over one channel's plane: row of the window, the values under it.
fn rows<E>(plane: &[E], width: usize, y: Span, x: Span) -> impl Iterator<Item = (usize, &[E])> {
    let count = x.to - x.from;
    (y.from..y.to).map(move |row| {
        let start = (y.at + row - y.from) * width + x.at;
        (row, &plane[start..start + count])
    })
}

/// Convolution; `depthwise`: each channel with a kernel of its own.
pub fn conv<E: Element>(
    (input, from): (&[E], Map),
    (output, to): (&mut [E], Map),
    window: Window,
    depthwise: bool,
    parameters: &Parameters<'_, E>,
) {
    if window == POINTWISE && !depthwise {
        return pointwise(input, from, output, parameters);
    }
    let (height, width) = (usize::from(from.height), usize::from(from.width));
    let kernel = usize::from(window.kernel);
    let channels = if depthwise { 1 } else { usize::from(from.channels) };
    let plane = height * width;
    let (rows_out, columns_out) = (usize::from(to.height), usize::from(to.width));
    let filters = parameters.weights.chunks_exact(channels * kernel * kernel);
    for (channel, (filter, out)) in filters.zip(output.chunks_exact_mut(rows_out * columns_out)).enumerate() {
        let first = if depthwise { channel * plane } else { 0 };
        let planes = &input[first..first + channels * plane];
        let bias = parameters.bias(channel);
        for (row, out) in out.chunks_exact_mut(columns_out).enumerate() {
            let y = Span::of(window, row, height);
            for (column, out) in out.iter_mut().enumerate() {
                let x = Span::of(window, column, width);
                let mut sum = bias;
                for (plane, filter) in planes.chunks_exact(plane).zip(filter.chunks_exact(kernel * kernel)) {
                    for (row, values) in rows(plane, width, y, x) {
                        let weights = &filter[row * kernel + x.from..row * kernel + x.to];
                        for (&weight, &value) in weights.iter().zip(values) {
                            sum = E::mac(sum, weight, value);
                        }
                    }
                }
                *out = E::rescaled(sum, parameters.finish);
            }
        }
    }
}

const POINTWISE: Window = Window { kernel: 1, stride: 1, padding: 0 };

/// 1x1 convolution: a fully connected layer at every pixel.
fn pointwise<E: Element>(input: &[E], from: Map, output: &mut [E], parameters: &Parameters<'_, E>) {
    let plane = usize::from(from.height) * usize::from(from.width);
    let filters = parameters.weights.chunks_exact(usize::from(from.channels));
    for (channel, (filter, out)) in filters.zip(output.chunks_exact_mut(plane)).enumerate() {
        let bias = parameters.bias(channel);
        for (pixel, out) in out.iter_mut().enumerate() {
            let values = input[pixel..].iter().step_by(plane);
            let sum = filter.iter().zip(values).fold(bias, |sum, (&w, &value)| E::mac(sum, w, value));
            *out = E::rescaled(sum, parameters.finish);
        }
    }
}

/// Fully connected.
pub fn linear<E: Element>(input: &[E], output: &mut [E], parameters: &Parameters<'_, E>) {
    let rows = parameters.weights.chunks_exact(input.len());
    for (channel, (row, out)) in rows.zip(output).enumerate() {
        let sums = row.iter().zip(input);
        let sum = sums.fold(parameters.bias(channel), |sum, (&w, &value)| E::mac(sum, w, value));
        *out = E::rescaled(sum, parameters.finish);
    }
}

/// What a pooling makes of a window's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Their mean; padding counts as zero.
    Average,
    /// Their maximum; padding does not count.
    Max,
}

/// Pooling of each channel.
pub fn pool<E: Element>(
    (input, from): (&[E], Map),
    (output, to): (&mut [E], Map),
    window: Window,
    pool: Pool,
) {
    let (height, width) = (usize::from(from.height), usize::from(from.width));
    let (rows_out, columns_out) = (usize::from(to.height), usize::from(to.width));
    let area = u32::from(window.kernel) * u32::from(window.kernel);
    for (plane, out) in
        input.chunks_exact(height * width).zip(output.chunks_exact_mut(rows_out * columns_out))
    {
        for (row, out) in out.chunks_exact_mut(columns_out).enumerate() {
            let y = Span::of(window, row, height);
            for (column, out) in out.iter_mut().enumerate() {
                let x = Span::of(window, column, width);
                let values = rows(plane, width, y, x).flat_map(|(_, values)| values);
                *out = match pool {
                    Pool::Average => {
                        E::mean(values.fold(E::Sum::default(), |sum, &value| E::plus(sum, value)), area)
                    }
                    Pool::Max => {
                        values.fold(E::LEAST, |most, &value| if value > most { value } else { most })
                    }
                };
            }
        }
    }
}

/// The mean of each channel.
pub fn global_average<E: Element>(input: &[E], from: Map, output: &mut [E]) {
    let plane = usize::from(from.height) * usize::from(from.width);
    for (plane, out) in input.chunks_exact(plane).zip(output) {
        let sum = plane.iter().fold(E::Sum::default(), |sum, &value| E::plus(sum, value));
        *out = E::mean(sum, plane.len() as u32);
    }
}

/// max(x, 0).
pub fn relu<E: Element>(values: &mut [E]) {
    for value in values {
        if *value < E::ZERO {
            *value = E::ZERO;
        }
    }
}

/// Adds `other` to `values`.
pub fn add<E: Element>(values: &mut [E], other: &[E]) {
    for (value, &more) in values.iter_mut().zip(other) {
        *value = E::clamped(E::plus(E::plus(E::Sum::default(), *value), more));
    }
}
