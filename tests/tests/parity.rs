//! One spec, two lowerings: what tch computes, tract computes, for every kind of layer and whole nets.

#![cfg(feature = "torch")]

use hanas::data::Normalisation;
use hanas::data::batches::Batches;
use hanas::data::shapes::shapes10;
use hanas::link::session::Timeouts;
use hanas::link::{DeviceUrl, Session};
use hanas::train::config::TrainConfig;
use hanas::train::distil::Student;
use hanas_models::layer::{Layer, LayerKind};
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::{BlockWidths, ConvNet, Family};
use hanas_models::spec::Net;
use hanas_models::torch::{TorchNet, load, normal, weights};
use hanas_models::weights::{Weights, seeded};
use hanas_proto::measure::LoadOptions;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

/// Largest difference over the largest value: rounding in two orders of summation.
const TOLERANCE: f64 = 1e-4;

/// Not one: a batch must not be taken apart wrongly either.
const BATCH: i64 = 2;

fn session() -> Session {
    let url: DeviceUrl = "local:--pin none".parse().unwrap();
    Session::open(&url, Timeouts::default()).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.contiguous().view([-1]);
    let mut values = vec![0f32; flat.numel()];
    flat.copy_data(&mut values, flat.numel());
    values
}

fn by_torch(net: &Net, weights: &Weights, images: &Tensor) -> Vec<f32> {
    let mut store = VarStore::new(Device::Cpu);
    let module = TorchNet::new(&store.root(), net, 1).unwrap();
    load(&mut store, weights).unwrap();
    floats(&tch::no_grad(|| module.forward_t(images, false)))
}

fn by_tract(session: &mut Session, net: &Net, weights: &Weights, images: &Tensor) -> Vec<f32> {
    let batch = u32::try_from(images.size()[0]).unwrap();
    let digest = session.upload(&lower(net, Init::Weights(weights), batch).unwrap()).unwrap();
    session.load(0, digest, LoadOptions::default()).unwrap();
    let bytes: Vec<u8> = floats(images).iter().flat_map(|value| value.to_le_bytes()).collect();
    let inputs = session.upload(&bytes).unwrap();
    let outputs = session.infer(0, inputs).unwrap();
    outputs.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn assert_parity(session: &mut Session, net: &Net, weights: &Weights, images: &Tensor) {
    let (torch, tract) = (by_torch(net, weights, images), by_tract(session, net, weights, images));
    assert_eq!(torch.len(), tract.len(), "{}", net.name);
    let largest = torch.iter().fold(0.0, |most: f64, &value| most.max(f64::from(value.abs())));
    assert!(largest > 1e-3 && largest.is_finite(), "{}: outputs up to {largest}", net.name);
    let pairs = torch.iter().zip(&tract);
    let error = pairs.fold(0.0, |most: f64, (&a, &b)| most.max(f64::from((a - b).abs())));
    assert!(error <= TOLERANCE * largest, "{}: off by {error} of {largest}", net.name);
}

fn random_images(net: &Net, seed: u64) -> Tensor {
    let [channels, height, width] = [net.input.channels, net.input.height, net.input.width].map(i64::from);
    normal(&[BATCH, channels, height, width], 1.0, &mut ChaCha8Rng::seed_from_u64(seed))
}

#[test]
fn every_kind_of_layer() {
    let mut session = session();
    let conv = |kernel, stride, side| LayerKind::Conv { kernel, stride, side };
    let shortcut = |stride, side| LayerKind::Shortcut { stride, side };
    let kinds = [
        (conv(3, 1, 32), 3, 16),
        (conv(3, 1, 16), 17, 35),
        (conv(3, 2, 32), 16, 32),
        (conv(3, 2, 16), 5, 9),
        (conv(1, 1, 16), 12, 7),
        (shortcut(1, 16), 12, 31),
        (shortcut(2, 16), 12, 31),
        (LayerKind::Head { side: 8 }, 64, 10),
    ];
    for (place, (kind, cin, cout)) in (0..).zip(kinds) {
        let net = Layer { kind, cin, cout }.net();
        assert_parity(&mut session, &net, &seeded(&net, place), &random_images(&net, 100 + place));
    }
}

/// ResNet32-C of the paper's Table 9: odd widths, shortcuts of all sorts, shortened stages.
fn table_9_cpu_net() -> ConvNet {
    let pairs = |list: &[(u32, u32)]| list.iter().map(|&(a, b)| BlockWidths { a, b }).collect();
    let last = pairs(&[(107, 107), (128, 92), (128, 107), (15, 128), (15, 128)]);
    let family = Family::cifar_resnet(32, 100).unwrap();
    ConvNet { family, stem: 20, stages: vec![pairs(&[(4, 4)]), pairs(&[(8, 35)]), last] }
}

#[test]
fn whole_nets() {
    let mut session = session();
    for net in [Family::cifar_resnet(20, 10).unwrap().base(), table_9_cpu_net()] {
        let net = net.net().unwrap();
        assert_parity(&mut session, &net, &seeded(&net, 21), &random_images(&net, 22));
    }
}

/// Trained weights are not like drawn ones: running statistics have moved, and they differ by channel.
#[test]
fn a_trained_net() {
    const STEPS: usize = 6;
    const TRAIN_BATCH: usize = 32;
    let net = Family::cifar_resnet(20, 10).unwrap().base().net().unwrap();
    let data = shapes10(STEPS * TRAIN_BATCH, 50, net.input.height, 1);
    let normalisation = Normalisation::of(&data.train);
    let batches = Batches::new(&data.train, &normalisation);
    let mut student = Student::new(&net, &TrainConfig::scaled(1), None).unwrap();
    let fresh = weights(&student.store);
    for step in 0..STEPS {
        let places: Vec<usize> = (step * TRAIN_BATCH..(step + 1) * TRAIN_BATCH).collect();
        student.step(&batches.plain(&places), 0.05);
    }
    let trained = weights(&student.store);
    assert_ne!(trained["stem.bn.running_mean"], fresh["stem.bn.running_mean"]);
    let test = Batches::new(&data.test, &normalisation).plain(&(0..50).collect::<Vec<_>>());
    let images = test.images.to_kind(Kind::Float);
    assert_parity(&mut session(), &net, &trained, &images);
}
