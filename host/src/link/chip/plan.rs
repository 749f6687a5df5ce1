//! Values -> places in a chip's working memory: maps below, as close as their lifetimes let them, weights
//! above.

use hanas_proto::chip::{Elements, Layer, Map, Op, Source, Weights, aligned, weight_bytes};
use hanas_proto::fault::FaultCode;

use super::graph::{Graph, GraphLayer, Kind, Parameters, Tensor, Value};
use super::{LinkError, refused};

/// Spread of 8-bit activations that drawn weights are scaled to keep.
const SHIFT: u8 = 24;
/// Standard deviation of uniform whole numbers from -127 to 127.
const DRAWN_SPREAD: f64 = 73.6;

/// A model with places.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Layers in order.
    pub layers: Vec<Layer>,
    /// The input.
    pub input: Map,
    /// The output.
    pub output: Map,
    /// Working memory that it takes, in bytes.
    pub memory: u64,
    /// Weights that it brings.
    pub given: Vec<u8>,
}

/// Finds places for everything.
///
/// # Errors
/// [`LinkError::Fault`] where values are given that 8 bits cannot hold, or more memory is needed than an
/// address has.
pub fn plan(graph: &Graph, elements: Elements) -> Result<Planned, LinkError> {
    let places = places(graph, elements);
    let map = |value: Value| {
        let shape = graph.shapes[value];
        // A place beyond 32 bits is beyond any limit, which is told below.
        let at = places[value].start as u32;
        Map { at, channels: shape.channels, height: shape.height, width: shape.width }
    };
    let mut memory = places.iter().map(|place| place.end).max().unwrap_or(0);
    let mut given = Vec::new();
    let mut layers = Vec::new();
    for GraphLayer { kind, input, output } in &graph.layers {
        let mut weights = |parameters: &Parameters| {
            let at = memory;
            let biases = if parameters.biases.is_some() { graph.shapes[*output].channels } else { 0 };
            memory += weight_bytes(elements, parameters.count, u64::from(biases));
            placed(parameters, elements, at as u32, &mut given)
        };
        let op = match kind {
            Kind::Conv(window, parameters) => Op::Conv(*window, weights(parameters)?),
            Kind::Depthwise(window, parameters) => Op::Depthwise(*window, weights(parameters)?),
            Kind::Linear(parameters) => Op::Linear(weights(parameters)?),
            Kind::AveragePool(window) => Op::AveragePool(*window),
            Kind::MaxPool(window) => Op::MaxPool(*window),
            Kind::GlobalAveragePool => Op::GlobalAveragePool,
            Kind::Relu => Op::Relu,
            Kind::Add(other) => Op::Add { other: map(*other).at },
        };
        layers.push(Layer { op, input: map(*input), output: map(*output) });
    }
    if memory > u64::from(u32::MAX) {
        return Err(refused(FaultCode::TooLarge, "the model is larger than any chip's memory"));
    }
    Ok(Planned { layers, input: map(0), output: map(graph.output), memory, given })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    start: u64,
    end: u64,
}

/// Every value's place: the lowest that is free for as long as the value is read. The input stays to the
/// end, so that it need not be filled anew for every run.
fn places(graph: &Graph, elements: Elements) -> Vec<Place> {
    let end = graph.layers.len();
    let mut last_read = vec![0; graph.shapes.len()];
    for (place, layer) in graph.layers.iter().enumerate() {
        last_read[layer.input] = place;
        if let Kind::Add(other) = layer.kind {
            last_read[other] = place;
        }
    }
    last_read[0] = end;
    last_read[graph.output] = end;

    let size = |value: Value| aligned(graph.shapes[value].len() * u64::from(elements.bytes()));
    let mut places = vec![Place { start: 0, end: 0 }; graph.shapes.len()];
    places[0].end = size(0);
    let mut living: Vec<Value> = vec![0];
    for (at, layer) in graph.layers.iter().enumerate() {
        let dies = last_read[layer.input] == at && layer.input != 0;
        let in_place = match layer.kind {
            Kind::Relu => dies,
            Kind::Add(other) => dies && other != layer.input,
            _ => false,
        };
        places[layer.output] = if in_place {
            places[layer.input]
        } else {
            lowest(living.iter().map(|&value| places[value]).collect(), size(layer.output))
        };
        living.push(layer.output);
        living.retain(|&value| last_read[value] > at);
    }
    places
}

/// The lowest gap of that size between occupied places.
fn lowest(mut occupied: Vec<Place>, size: u64) -> Place {
    occupied.sort_by_key(|place| place.start);
    let mut start = 0;
    for place in occupied {
        if place.start >= start + size {
            break;
        }
        start = start.max(place.end);
    }
    Place { start, end: start + size }
}

fn placed(
    parameters: &Parameters,
    elements: Elements,
    at: u32,
    given: &mut Vec<u8>,
) -> Result<Weights, LinkError> {
    let Parameters { weights, biases, fan_in, relu, .. } = parameters;
    let (multiplier, shift) = match elements {
        Elements::F32 => (1, 0),
        Elements::I8 => {
            // Sums of so many products keep the spread of what goes in.
            let spread = (*fan_in as f64).sqrt() * DRAWN_SPREAD;
            ((f64::from(1 << SHIFT) / spread).round().max(1.0) as i32, SHIFT)
        }
    };
    let source = match weights {
        Tensor::Drawn { seed, scale } => {
            if matches!(biases, Some(Tensor::Given(_))) {
                return Err(refused(
                    FaultCode::Unsupported,
                    "chips do not run drawn weights with given biases",
                ));
            }
            // Uniform with the normal's variance.
            Source::Drawn { seed: *seed, scale: scale * 3f32.sqrt() }
        }
        Tensor::Given(_) if elements == Elements::I8 => {
            let text = "8 bits are for profiling models, whose weights are drawn: hanas does not quantise";
            return Err(refused(FaultCode::Unsupported, text));
        }
        Tensor::Given(values) => {
            let place = given.len() as u32;
            let biases = match biases {
                Some(Tensor::Given(biases)) => &biases[..],
                Some(Tensor::Drawn { .. }) => {
                    let text = "chips do not run given weights with drawn biases";
                    return Err(refused(FaultCode::Unsupported, text));
                }
                None => &[],
            };
            given.extend(values.iter().chain(biases).flat_map(|value| value.to_le_bytes()));
            Source::Given { at: place }
        }
    };
    Ok(Weights { at, bias: biases.is_some(), relu: *relu, multiplier, shift, source })
}
