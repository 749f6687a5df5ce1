//! A layer over the working memory.

use core::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};
use hanas_proto::chip::{Layer, Map, Op, Weights, aligned};
use hanas_proto::fault::FaultCode;

use crate::Trouble;
use crate::element::Element;
use crate::kernels::{self, Parameters, Pool};
use crate::model::counts;

const BROKEN: Trouble =
    Trouble { code: FaultCode::RunFailed, text: "a layer's places overlap or lie outside of the memory" };

/// Runs one layer. That its places lie apart was checked when the model was loaded; here it would be an
/// error and no more.
///
/// # Errors
/// [`Trouble`] where it does not.
pub fn layer<E: Element>(layer: &Layer, memory: &mut [u32]) -> Result<(), Trouble> {
    let Layer { op, input: from, output: to } = *layer;
    if let Some((finish, count, biases)) = counts(layer) {
        let places = [words::<E>(&from), words::<E>(&to), weight_words::<E>(&finish, count, biases)];
        let [input, output, weights] = memory.get_disjoint_mut(places).map_err(|_| BROKEN)?;
        let (weights, rest) = weights.split_at(weight_len::<E>(count));
        let weights = &cast_slice::<u32, E>(weights)[..count as usize];
        let parameters = Parameters { weights, biases: cast_slice(rest), finish: &finish };
        let (input, output) = (values::<E>(input, &from), values_mut::<E>(output, &to));
        match op {
            Op::Conv(window, _) => kernels::conv((input, from), (output, to), window, false, &parameters),
            Op::Depthwise(window, _) => kernels::conv((input, from), (output, to), window, true, &parameters),
            _ => kernels::linear(input, output, &parameters),
        }
        return Ok(());
    }
    match op {
        Op::Relu | Op::Add { .. } => elementwise::<E>(layer, memory),
        _ => {
            let places = [words::<E>(&from), words::<E>(&to)];
            let [input, output] = memory.get_disjoint_mut(places).map_err(|_| BROKEN)?;
            let (input, output) = (values::<E>(input, &from), values_mut::<E>(output, &to));
            match op {
                Op::AveragePool(window) => kernels::pool((input, from), (output, to), window, Pool::Average),
                Op::MaxPool(window) => kernels::pool((input, from), (output, to), window, Pool::Max),
                _ => kernels::global_average(input, from, output),
            }
            Ok(())
        }
    }
}

fn elementwise<E: Element>(layer: &Layer, memory: &mut [u32]) -> Result<(), Trouble> {
    let Layer { op, input: from, output: to } = *layer;
    if from.at != to.at {
        let [input, output] =
            memory.get_disjoint_mut([words::<E>(&from), words::<E>(&to)]).map_err(|_| BROKEN)?;
        output.copy_from_slice(input);
    }
    match op {
        Op::Add { other } => {
            let other = Map { at: other, ..from };
            let places = [words::<E>(&to), words::<E>(&other)];
            let [output, other_words] = memory.get_disjoint_mut(places).map_err(|_| BROKEN)?;
            kernels::add(values_mut::<E>(output, &to), values::<E>(other_words, &other));
        }
        _ => {
            let output = memory.get_mut(words::<E>(&to)).ok_or(BROKEN)?;
            kernels::relu(values_mut::<E>(output, &to));
        }
    }
    Ok(())
}

const WORD: usize = size_of::<u32>();

/// The words that a map takes.
pub(crate) fn words<E>(map: &Map) -> Range<usize> {
    let start = map.at as usize / WORD;
    start..start + aligned(map.len() * size_of::<E>() as u64) as usize / WORD
}

/// The words that weights alone take.
pub(crate) fn weight_len<E>(count: u64) -> usize {
    aligned(count * size_of::<E>() as u64) as usize / WORD
}

/// The words that weights and biases take.
pub(crate) fn weight_words<E>(weights: &Weights, count: u64, biases: u64) -> Range<usize> {
    let start = weights.at as usize / WORD;
    start..start + weight_len::<E>(count) + biases as usize
}

fn values<'m, E: Element>(words: &'m [u32], map: &Map) -> &'m [E] {
    &cast_slice(words)[..map.len() as usize]
}

pub(crate) fn values_mut<'m, E: Element>(words: &'m mut [u32], map: &Map) -> &'m mut [E] {
    &mut cast_slice_mut(words)[..map.len() as usize]
}
