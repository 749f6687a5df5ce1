use std::vec;
use std::vec::Vec;

use hanas_proto::chip::{Header, Layer, MAGIC, Weights, Window};
use hanas_proto::fault::FaultCode;
use hanas_proto::measure::RoundContext;

use super::*;

/// A clock that steps at every look.
#[derive(Clone, Copy, Default)]
struct Steps(u64);

impl Clock for Steps {
    fn now(&mut self) -> Nanos {
        self.0 += 10;
        Nanos(self.0)
    }
    fn begin_round(&mut self) {}
    fn end_round(&mut self) -> RoundContext {
        RoundContext::default()
    }
}

const fn map(at: u32, channels: u16, side: u16) -> Map {
    Map { at, channels, height: side, width: side }
}

const WINDOW: Window = Window { kernel: 3, stride: 1, padding: 1 };

const fn weights(at: u32, source: Source) -> Weights {
    Weights { at, bias: true, relu: false, multiplier: 1, shift: 0, source }
}

fn bytes_of(header: Header, layers: &[Layer], given: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let mut used = postcard::to_slice(&header, &mut bytes).unwrap().len();
    for layer in layers {
        used += postcard::to_slice(layer, &mut bytes[used..]).unwrap().len();
    }
    bytes.truncate(used);
    bytes.extend_from_slice(given);
    bytes
}

fn model(
    elements: Elements,
    memory: u32,
    input: Map,
    output: Map,
    layers: &[Layer],
    given: &[u8],
) -> Vec<u8> {
    let header = Header { magic: MAGIC, elements, memory, layers: layers.len() as u16, input, output };
    bytes_of(header, layers, given)
}

fn infer(content: &[u8], inputs: &[u8]) -> Result<Vec<u8>, Trouble> {
    let (mut work, mut contents) = (vec![0xffff_ffff; 4096], vec![0; 8192]);
    let mut runtime = ChipRuntime::new(Steps::default(), &mut work, &mut contents);
    runtime.load(1, 0, content, LoadOptions::default(), &mut |_| {})?;
    let mut out = Vec::new();
    runtime.infer(0, inputs, &mut |bytes| out.extend_from_slice(bytes))?;
    Ok(out)
}

/// What a convolution is by its definition, with padding written out.
fn slow_conv(
    input: &[i64],
    (channels, side): (usize, usize),
    filters: &[i64],
    biases: &[i64],
    window: Window,
    depthwise: bool,
) -> Vec<i64> {
    let (kernel, stride, padding) =
        (usize::from(window.kernel), usize::from(window.stride), usize::from(window.padding));
    let padded = side + 2 * padding;
    let at = |channel: usize, y: usize, x: usize| {
        let inside = (padding..padding + side).contains(&y) && (padding..padding + side).contains(&x);
        if inside { input[(channel * side + y - padding) * side + x - padding] } else { 0 }
    };
    let out = (padded - kernel) / stride + 1;
    let mut values = Vec::new();
    for (o, bias) in biases.iter().enumerate() {
        for y in 0..out {
            for x in 0..out {
                let mut sum = *bias;
                for c in 0..if depthwise { 1 } else { channels } {
                    let from = if depthwise { o } else { c };
                    let filter = if depthwise { o } else { o * channels + c };
                    for ky in 0..kernel {
                        for kx in 0..kernel {
                            sum += filters[(filter * kernel + ky) * kernel + kx]
                                * at(from, y * stride + ky, x * stride + kx);
                        }
                    }
                }
                values.push(sum);
            }
        }
    }
    values
}

/// Small whole numbers, so that sums are exact in either type.
fn numbers(seed: u32, count: usize, most: i64) -> Vec<i64> {
    let mut draw = Draw::new(seed);
    (0..count).map(|_| i64::from(draw.bits() >> 8) % (2 * most + 1) - most).collect()
}

fn packed(elements: Elements, values: &[i64], is_sum: bool) -> Vec<u8> {
    let mut bytes: Vec<u8> = match (elements, is_sum) {
        (Elements::F32, _) => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
        (Elements::I8, true) => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
        (Elements::I8, false) => values.iter().map(|&v| v as i8 as u8).collect(),
    };
    if is_sum || elements == Elements::I8 {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn unpacked(elements: Elements, bytes: &[u8]) -> Vec<i64> {
    match elements {
        Elements::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as i64).collect()
        }
        Elements::I8 => bytes.iter().map(|&b| i64::from(b as i8)).collect(),
    }
}

#[test]
fn convolutions_are_what_they_are_by_definition() {
    for elements in [Elements::F32, Elements::I8] {
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (3, 1, 0), (5, 2, 2)] {
            for depthwise in [false, true] {
                let window = Window { kernel, stride, padding };
                let (cin, cout, side) = (3, if depthwise { 3 } else { 4 }, 7);
                let taps = usize::from(kernel) * usize::from(kernel);
                let input = numbers(1, cin * side * side, 3);
                let filters = numbers(2, taps * if depthwise { cin } else { cin * cout }, 1);
                let biases = numbers(3, cout, 5);
                let expected = slow_conv(&input, (cin, side), &filters, &biases, window, depthwise);
                let out = window.positions(side as u32).unwrap() as u16;
                let parameters = weights(4000, Source::Given { at: 0 });
                let op =
                    if depthwise { Op::Depthwise(window, parameters) } else { Op::Conv(window, parameters) };
                let (from, to) = (map(0, cin as u16, side as u16), map(1000, cout as u16, out));
                let given = [packed(elements, &filters, false), packed(elements, &biases, true)].concat();
                let content =
                    model(elements, 8000, from, to, &[Layer { op, input: from, output: to }], &given);
                let mut inputs = packed(elements, &input, false);
                inputs.truncate(input.len() * elements.bytes() as usize);
                let found = unpacked(elements, &infer(&content, &inputs).unwrap());
                assert_eq!(found, expected, "{elements:?} {window:?} depthwise {depthwise}");
            }
        }
    }
}

#[test]
fn a_chain_of_the_other_layers_is_what_it_is_by_hand() {
    let (input, pooled, sum, mean) = (map(0, 1, 4), map(64, 1, 2), map(128, 1, 2), map(192, 1, 1));
    let half = Window { kernel: 2, stride: 2, padding: 0 };
    let layers = [
        Layer { op: Op::AveragePool(half), input, output: pooled },
        Layer { op: Op::MaxPool(half), input, output: sum },
        Layer { op: Op::Add { other: pooled.at }, input: sum, output: sum },
        Layer { op: Op::Relu, input: sum, output: sum },
        Layer { op: Op::GlobalAveragePool, input: sum, output: mean },
    ];
    let content = model(Elements::F32, 400, input, mean, &layers, &[]);
    // Means 1, -4, 2, 0; maxima 4, -1, 2, 3; sums 5, -5 -> 0, 4, 3; mean 3.
    let values = [4, 0, -1, -7, 0, 0, -4, -4, 2, 2, 3, -3, 2, 2, -3, 3];
    let inputs = packed(Elements::F32, &values, false);
    assert_eq!(unpacked(Elements::F32, &infer(&content, &inputs).unwrap()), [3]);
}

#[test]
fn sums_of_8_bits_are_rescaled_rounded_and_clamped() {
    let (input, output) = (map(0, 4, 1), map(4, 3, 1));
    let parameters = Weights { multiplier: 3, shift: 2, relu: false, ..weights(8, Source::Given { at: 0 }) };
    let rows = [[1, 1, 1, 1], [100, 100, 100, 100], [-1, 0, 0, 0]].concat();
    let given = [packed(Elements::I8, &rows, false), packed(Elements::I8, &[0, 0, -1], true)].concat();
    let layer = Layer { op: Op::Linear(parameters), input, output };
    let content = model(Elements::I8, 64, input, output, &[layer], &given);
    let found = unpacked(Elements::I8, &infer(&content, &[1, 2, 3, 5]).unwrap());
    // 11 * 3 / 4 = 8.25; 1100 * 3 / 4 is clamped; -2 * 3 / 4 = -1.5, half up.
    assert_eq!(found, [8, 127, -1]);
}

#[test]
fn what_does_not_fit_or_overlaps_is_refused() {
    let (input, output) = (map(0, 2, 4), map(128, 2, 4));
    let conv =
        Layer { op: Op::Conv(WINDOW, weights(256, Source::Drawn { seed: 1, scale: 1.0 })), input, output };
    let of = |layer: Layer, memory| {
        let content = model(Elements::F32, memory, input, layer.output, &[layer], &[]);
        infer(&content, &[0; 128]).map_err(|trouble| trouble.code)
    };
    assert!(of(conv, 408).is_ok());
    assert_eq!(of(conv, 404), Err(FaultCode::NotAModel), "weights beyond the end");
    assert_eq!(of(conv, 40_000), Err(FaultCode::TooLarge));
    for wrong in [map(124, 2, 4), map(160, 2, 4), map(130, 2, 4), map(128, 2, 3), map(128, 0, 4)] {
        assert_eq!(of(Layer { output: wrong, ..conv }, 408), Err(FaultCode::NotAModel), "{wrong:?}");
    }
    assert_eq!(of(Layer { op: Op::Relu, output: input, ..conv }, 408), Err(FaultCode::NotAModel));
    assert_eq!(infer(b"hello", &[]), Err(Trouble::not_a_model("the content is not a chip's model")));
}

#[test]
fn slots_share_the_working_memory_and_keep_their_weights_apart() {
    let (input, output) = (map(0, 2, 4), map(128, 2, 4));
    let of = |seed| {
        let parameters = weights(256, Source::Drawn { seed, scale: 1.0 });
        let layer = Layer { op: Op::Conv(WINDOW, parameters), input, output };
        model(Elements::F32, 408, input, output, &[layer], &[])
    };
    let (mut work, mut contents) = (vec![0; 102], vec![0; 150]);
    let mut runtime = ChipRuntime::new(Steps::default(), &mut work, &mut contents);
    let options = LoadOptions { per_node: true, ..LoadOptions::default() };
    let mut facts = Vec::new();
    let nodes = runtime.load(9, 0, &of(1), options, &mut |part| {
        if let Part::Port(port) = part {
            facts.push(std::string::String::from(port.fact));
        }
    });
    assert_eq!((nodes, facts), (Ok(1), vec!["f32 1x2x4x4".into(), "f32 1x2x4x4".into()]));
    runtime.load(9, 1, &of(2), options, &mut |_| {}).unwrap();
    let outputs = |runtime: &mut ChipRuntime<'_, Steps>, slot| {
        let mut out = Vec::new();
        runtime.infer(slot, &[0x3f; 128], &mut |bytes| out.extend_from_slice(bytes)).unwrap();
        out
    };
    let (first, second) = (outputs(&mut runtime, 0), outputs(&mut runtime, 1));
    assert_ne!(first, second);
    assert_eq!(runtime.run_once(1), Ok(Nanos(10)));
    assert_eq!(outputs(&mut runtime, 0), first);
    let mut nodes = Vec::new();
    runtime.run_nodes(0, &mut |time| nodes.push(time)).unwrap();
    assert_eq!(nodes, [Nanos(10)]);
    // Replaced, its room is free again: a third would not fit beside two.
    for _ in 0..3 {
        runtime.load(9, 0, &of(1), options, &mut |_| {}).unwrap();
    }
    assert_eq!(outputs(&mut runtime, 1), second);
    let full = runtime.load(9, 2, &[of(3), vec![0; 100]].concat(), options, &mut |_| {});
    assert_eq!(full.map_err(|trouble| trouble.code), Err(FaultCode::TooLarge));
    runtime.clear();
    assert_eq!(runtime.run_once(0), Err(Trouble::empty_slot()));
}
