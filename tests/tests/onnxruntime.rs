//! An exported net answers in ONNX Runtime as it does in training. Skipped, with a note, where Python
//! has no `onnxruntime`.

#![cfg(feature = "torch")]

use std::process::Command;

use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::{BlockWidths, Family};
use hanas_models::torch::{TorchNet, load, normal};
use hanas_models::weights::seeded;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::nn::VarStore;
use tch::{Device, Tensor};

/// Largest difference over the largest value: rounding in two orders of summation.
const TOLERANCE: f64 = 1e-4;

const BATCH: i64 = 2;

/// Runs the model of the first file on the floats of the second; prints the shape, writes the third.
const SCRIPT: &str = "
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])
images = numpy.fromfile(sys.argv[2], '<f4').reshape(session.get_inputs()[0].shape)
output, = session.run(['output'], {'input': images})
print('x'.join(map(str, output.shape)))
output.astype('<f4').tofile(sys.argv[3])
";

fn floats(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.contiguous().view([-1]);
    let mut values = vec![0f32; flat.numel()];
    flat.copy_data(&mut values, flat.numel());
    values
}

#[test]
fn an_exported_net_runs_in_onnx_runtime() {
    let python = |arguments: &[&str]| Command::new("python3").args(arguments).output();
    if !python(&["-c", "import numpy, onnxruntime"]).is_ok_and(|output| output.status.success()) {
        println!("note: skipped, for python3 has no onnxruntime; `pip install onnxruntime` brings it");
        return;
    }
    // Every kind of shortcut: identity, projection, strided.
    let mut net = Family::cifar_resnet(20, 10).unwrap().base();
    net.stages[0][1] = BlockWidths { a: 12, b: 24 };
    net.stages[2].pop();
    let net = net.net().unwrap();
    let weights = seeded(&net, 3);
    let mut store = VarStore::new(Device::Cpu);
    let module = TorchNet::new(&store.root(), &net, 1).unwrap();
    load(&mut store, &weights).unwrap();
    let images = normal(&[BATCH, 3, 32, 32], 1.0, &mut ChaCha8Rng::seed_from_u64(1));
    let want = floats(&tch::no_grad(|| module.forward_t(&images, false)));

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, input, output) = (path("net.onnx"), path("images"), path("scores"));
    std::fs::write(&model, lower(&net, Init::Weights(&weights), BATCH as u32).unwrap()).unwrap();
    let bytes: Vec<u8> = floats(&images).iter().flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(&input, bytes).unwrap();
    let ran = python(&["-c", SCRIPT, &model, &input, &output]).unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), "2x10");
    let got = std::fs::read(&output).unwrap();
    let got: Vec<f32> = got.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0, |most: f64, &value| most.max(f64::from(value.abs())));
    let pairs = got.iter().zip(&want);
    let error = pairs.fold(0.0, |most: f64, (&a, &b)| most.max(f64::from((a - b).abs())));
    assert!(largest > 1e-3 && error <= TOLERANCE * largest, "off by {error} of {largest}");
}
