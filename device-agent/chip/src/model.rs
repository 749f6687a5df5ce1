//! Bytes -> a header and its layers, checked against the memory that there is.

use hanas_proto::chip::{
    ALIGN, Elements, Header, Layer, MAGIC, Map, Op, Source, Weights, Window, aligned, weight_bytes,
};

use crate::Trouble;

/// Layers of a model at most.
pub const MAX_LAYERS: usize = hanas_device_core::device::MAX_OPERATORS;

/// A model out of its bytes. It takes kilobytes, of which a chip's stack has few: there is one, which is read
/// into and not moved.
#[derive(Debug)]
pub struct Model {
    /// What stands before the layers.
    pub header: Header,
    /// The layers, in order; those beyond `header.layers` are none.
    layers: [Option<Layer>; MAX_LAYERS],
    /// Where the weights that the model brings begin.
    given_from: usize,
}

/// How many weights and biases a layer has.
#[must_use]
pub fn counts(layer: &Layer) -> Option<(Weights, u64, u64)> {
    let (cin, cout) = (u64::from(layer.input.channels), u64::from(layer.output.channels));
    let (weights, count, biases) = match layer.op {
        Op::Conv(window, weights) => (weights, cin * cout * area(window), cout),
        Op::Depthwise(window, weights) => (weights, cin * area(window), cout),
        Op::Linear(weights) => (weights, layer.input.len() * layer.output.len(), layer.output.len()),
        _ => return None,
    };
    Some((weights, count, if weights.bias { biases } else { 0 }))
}

const fn area(window: Window) -> u64 {
    window.kernel as u64 * window.kernel as u64
}

impl Model {
    /// A model of no layers.
    #[must_use]
    pub const fn none() -> Self {
        let nowhere = Map { at: 0, channels: 0, height: 0, width: 0 };
        let header = Header {
            magic: MAGIC,
            elements: Elements::F32,
            memory: 0,
            layers: 0,
            input: nowhere,
            output: nowhere,
        };
        Self { header, layers: [None; MAX_LAYERS], given_from: 0 }
    }

    /// Reads and checks a model for a working memory of that many bytes, in place of what was here. What is
    /// left after an error is not to be run.
    ///
    /// # Errors
    /// [`Trouble`] that says what is wrong.
    pub fn read(&mut self, content: &[u8], memory: usize) -> Result<(), Trouble> {
        let not = Trouble::not_a_model;
        let (header, mut rest): (Header, _) =
            postcard::take_from_bytes(content).map_err(|_| not("the content is not a chip's model"))?;
        if header.magic != MAGIC {
            return Err(not("the content is not a chip's model of this version"));
        }
        if header.memory as usize > memory {
            return Err(Trouble::too_large("the model takes more working memory than the chip has"));
        }
        let (wanted, beyond) = self
            .layers
            .split_at_mut_checked(usize::from(header.layers))
            .ok_or_else(|| Trouble::too_large("the model has too many layers"))?;
        for place in wanted {
            let (layer, after) =
                postcard::take_from_bytes(rest).map_err(|_| not("the model's layers are cut"))?;
            *place = Some(layer);
            rest = after;
        }
        beyond.fill(None);
        (self.header, self.given_from) = (header, content.len() - rest.len());
        self.check(rest.len() as u64)
    }

    /// Weights that the model brings, of the bytes that it was read from.
    #[must_use]
    pub fn given<'c>(&self, content: &'c [u8]) -> &'c [u8] {
        content.get(self.given_from..).unwrap_or_default()
    }

    /// The layers.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().flatten()
    }

    fn check(&self, given: u64) -> Result<(), Trouble> {
        let not = Trouble::not_a_model;
        let Header { elements, memory, input, output, .. } = self.header;
        let mut weights_from = u64::from(memory);
        for layer in self.layers() {
            if let Some((weights, count, biases)) = counts(layer) {
                let bytes = weight_bytes(elements, count, biases);
                if weights.at % ALIGN != 0 || u64::from(weights.at) + bytes > u64::from(memory) {
                    return Err(not("a layer's weights lie outside of the memory"));
                }
                if weights.shift >= 63 {
                    return Err(not("a layer's shift is too large"));
                }
                if let Source::Given { at } = weights.source
                    && (at % ALIGN != 0 || u64::from(at) + bytes > given)
                {
                    return Err(not("a layer's weights are not in the model"));
                }
                weights_from = weights_from.min(u64::from(weights.at));
            }
        }
        let lies = |map: &Map| {
            map.at.is_multiple_of(ALIGN)
                && !map.is_empty()
                && u64::from(map.at) + bytes(elements, map) <= weights_from
        };
        if !lies(&input) || !lies(&output) {
            return Err(not("an input or output lies outside of the memory"));
        }
        for layer in self.layers() {
            if !lies(&layer.input) || !lies(&layer.output) {
                return Err(not("a layer's map lies outside of the memory or over weights"));
            }
            if overlap(elements, &layer.output, &input) {
                return Err(not("a layer writes over the model's input"));
            }
            check_layer(elements, layer, weights_from)?;
        }
        Ok(())
    }
}

fn check_layer(elements: Elements, layer: &Layer, weights_from: u64) -> Result<(), Trouble> {
    let Layer { op, input, output } = layer;
    let windowed = |window: Window| {
        let positions = |side: u16| window.positions(u32::from(side)).map(u64::from);
        positions(input.height) == Some(u64::from(output.height))
            && positions(input.width) == Some(u64::from(output.width))
            && window.padding < window.kernel
    };
    let same_channels = input.channels == output.channels;
    let same_shape = Map { at: 0, ..*input } == Map { at: 0, ..*output };
    let (fits, in_place) = match *op {
        Op::Conv(window, _) => (windowed(window), false),
        Op::Depthwise(window, _) | Op::AveragePool(window) | Op::MaxPool(window) => {
            (windowed(window) && same_channels, false)
        }
        Op::Linear(_) => (true, false),
        Op::GlobalAveragePool => (same_channels && output.len() == u64::from(output.channels), false),
        Op::Relu => (same_shape, true),
        Op::Add { other } => {
            let other = Map { at: other, ..*input };
            let lies = other.at.is_multiple_of(ALIGN)
                && u64::from(other.at) + bytes(elements, &other) <= weights_from;
            (same_shape && lies && !overlap(elements, &other, output), true)
        }
    };
    if !fits {
        return Err(Trouble::not_a_model("a layer's shapes do not fit its operator"));
    }
    if overlap(elements, input, output) && !(in_place && input.at == output.at) {
        return Err(Trouble::not_a_model("a layer writes over its own input"));
    }
    Ok(())
}

/// Bytes of a map, aligned.
const fn bytes(elements: Elements, map: &Map) -> u64 {
    aligned(map.len() * elements.bytes() as u64)
}

const fn overlap(elements: Elements, one: &Map, other: &Map) -> bool {
    (one.at as u64) < other.at as u64 + bytes(elements, other)
        && (other.at as u64) < one.at as u64 + bytes(elements, one)
}
