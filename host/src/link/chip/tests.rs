use hanas_models::layer::{Layer as Spec, LayerKind};
use hanas_models::onnx::{Init, lower as onnx};
use hanas_models::resnet::Family;
use hanas_models::spec::Net;
use hanas_models::weights::seeded;
use hanas_proto::chip::{Layer, Op, Source};
use onnx_protobuf::{Message, ModelProto};

use super::*;

const ROOM: ChipLimits = ChipLimits { memory: Bytes::mib(64), content: Bytes::mib(64) };

fn layer(kind: LayerKind, cin: u32, cout: u32) -> Net {
    Spec { kind, cin, cout }.net()
}

fn read(bytes: &[u8]) -> (Header, Vec<Layer>) {
    let (header, mut rest): (Header, _) = postcard::take_from_bytes(bytes).unwrap();
    let mut layers = Vec::new();
    for _ in 0..header.layers {
        let (layer, after) = postcard::take_from_bytes(rest).unwrap();
        layers.push(layer);
        rest = after;
    }
    (header, layers)
}

#[test]
fn a_profiling_layer_is_some_dozen_bytes_with_its_relu_inside() {
    let net = layer(LayerKind::Conv { kernel: 3, stride: 1, side: 8 }, 4, 8);
    let model = onnx(&net, Init::Seeded(7), 1).unwrap();
    let bytes = lower(&model, Elements::F32, ROOM).unwrap();
    assert!(bytes.len() < 80, "{} bytes", bytes.len());
    let (header, layers) = read(&bytes);
    let [Layer { op: Op::Conv(window, weights), input, output }] = layers[..] else { panic!("{layers:?}") };
    assert_eq!((window.kernel, window.stride, window.padding), (3, 1, 1));
    assert!(weights.relu && weights.bias && matches!(weights.source, Source::Drawn { seed: 7, .. }));
    assert_eq!((input.at, output.at, weights.at), (0, 4 * 64 * 4, 12 * 64 * 4));
    assert_eq!(header.memory, 12 * 64 * 4 + 4 * 8 * 9 * 4 + 8 * 4);
    let (header, _) = read(&lower(&model, Elements::I8, ROOM).unwrap());
    assert_eq!(header.memory, 12 * 64 + 4 * 8 * 9 + 8 * 4);
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_size() {
    let net = layer(LayerKind::Conv { kernel: 3, stride: 1, side: 32 }, 16, 32);
    let model = onnx(&net, Init::Seeded(1), 1).unwrap();
    let chip = ChipLimits { memory: Bytes(72 << 10), content: Bytes(12 << 10) };
    let refusal = lower(&model, Elements::F32, chip).unwrap_err().to_string();
    assert!(refusal.contains("210.1 KiB of the chip's 72.0 KiB"), "{refusal}");
    assert!(lower(&model, Elements::I8, chip).is_ok());
    let batch = lower(&onnx(&net, Init::Seeded(1), 4).unwrap(), Elements::F32, ROOM).unwrap_err();
    assert!(batch.to_string().contains("--batch 1"), "{batch}");
    let given = onnx(&net, Init::Weights(&seeded(&net, 1)), 1).unwrap();
    let given = lower(&given, Elements::I8, ROOM).unwrap_err();
    assert!(given.to_string().contains("does not quantise"), "{given}");
    assert!(lower(b"hello", Elements::F32, ROOM).is_err());
}

#[test]
fn weights_of_a_shape_that_no_layer_has_are_refused() {
    let net = layer(LayerKind::Conv { kernel: 3, stride: 1, side: 8 }, 4, 8);
    let model = onnx(&net, Init::Weights(&seeded(&net, 1)), 1).unwrap();
    let mut model = ModelProto::parse_from_bytes(&model).unwrap();
    let conv = model.graph.node.iter().find(|node| node.op_type == "Conv").unwrap().input[1].clone();
    let graph = model.graph.as_mut().unwrap();
    let weights = graph.initializer.iter_mut().find(|tensor| tensor.name == conv).unwrap();
    weights.dims.clear();
    weights.raw_data.clear();
    weights.float_data = vec![1.0];
    let refusal = lower(&model.write_to_bytes().unwrap(), Elements::F32, ROOM).unwrap_err();
    assert!(refusal.to_string().contains("a single number"), "{refusal}");
}

#[test]
fn a_net_with_shortcuts_reuses_memory_and_keeps_its_input() {
    let net = Family::cifar_resnet(20, 10).unwrap().base().net().unwrap();
    let model = onnx(&net, Init::Seeded(1), 1).unwrap();
    let (header, layers) = read(&lower(&model, Elements::I8, ROOM).unwrap());
    assert!(layers.iter().all(|layer| layer.output.at >= 3 * 32 * 32));
    let maps: u32 = layers.iter().map(|layer| layer.output.at + layer.output.len() as u32).max().unwrap();
    // The input, and at most three maps of 16 x 32 x 32 at a time.
    assert_eq!(maps, 3 * 32 * 32 + 3 * 16 * 32 * 32);
    assert!(header.memory > 260_000, "all weights are there");
    assert!(layers.len() <= MAX_LAYERS && layers.iter().any(|layer| matches!(layer.op, Op::Add { .. })));
}
