//! Variables, weights across the border, and what the modules compute.

use super::*;
use crate::resnet::Family;
use crate::weights::{seeded, tensors};

/// Float rounding of a sum over a convolution's window, relative to the largest value.
const TOLERANCE: f64 = 1e-5;

fn relative_error(got: &Values, want: &Values) -> f64 {
    let scale = want.abs().max().double_value(&[]).max(1e-12);
    (got - want).abs().max().double_value(&[]) / scale
}

fn resnet20() -> Net {
    Family::cifar_resnet(20, 10).unwrap().base().net().unwrap()
}

#[test]
fn variables_are_the_specs_tensors() {
    let store = VarStore::new(Device::Cpu);
    let net = resnet20();
    TorchNet::new(&store.root(), &net, 1).unwrap();
    let got: Vec<(String, Vec<u32>)> =
        weights(&store).into_iter().map(|(name, tensor)| (name, tensor.shape)).collect();
    let mut want = tensors(&net);
    want.sort();
    assert_eq!(got, want);
}

/// Folded or not, in place or not: one function; and whatever is overwritten, no gradient needs.
#[test]
fn shortcuts_in_the_computation_change_nothing() {
    let mut store = VarStore::new(Device::Cpu);
    let net = resnet20();
    let mut module = TorchNet::new(&store.root(), &net, 1).unwrap();
    load(&mut store, &seeded(&net, 7)).unwrap();
    let images = normal(&[4, 3, 32, 32], 1.0, &mut ChaCha8Rng::seed_from_u64(1));
    let gradients = |module: &TorchNet| {
        let mut inputs: Vec<(String, Values)> =
            store.variables().into_iter().filter(|(_, values)| values.requires_grad()).collect();
        inputs.sort_by(|(a, _), (b, _)| a.cmp(b));
        let inputs: Vec<Values> = inputs.into_iter().map(|(_, values)| values).collect();
        let loss = module.forward_t(&images, false).square().sum(Kind::Float);
        Values::run_backward(&[&loss], &inputs.iter().collect::<Vec<_>>(), false, false)
    };
    let in_place = gradients(&module);
    let plain = module.forward_t(&images, false);
    for node in &mut module.nodes {
        match &mut node.layer {
            Layer::Relu { in_place } | Layer::Add { in_place } => *in_place = false,
            _ => {}
        }
    }
    for (got, want) in in_place.iter().zip(gradients(&module)) {
        assert!(relative_error(got, &want) < TOLERANCE);
    }
    module.fold_batch_norms();
    assert!(module.nodes.iter().all(|node| !matches!(node.layer, Layer::BatchNorm { .. })));
    let error = relative_error(&module.forward_t(&images, false), &plain);
    assert!(error < TOLERANCE, "{error}");
}

#[test]
fn weights_that_go_in_come_out() {
    let mut store = VarStore::new(Device::Cpu);
    let net = resnet20();
    let module = TorchNet::new(&store.root(), &net, 1).unwrap();
    let given = seeded(&net, 7);
    load(&mut store, &given).unwrap();
    assert_eq!(weights(&store), given);
    let logits = module.forward_t(&Values::zeros([2, 3, 32, 32], (Kind::Float, Device::Cpu)), false);
    assert_eq!(logits.size(), [2, 10]);
}

#[test]
fn one_seed_gives_one_net() {
    let fresh = |seed| {
        let store = VarStore::new(Device::Cpu);
        TorchNet::new(&store.root(), &resnet20(), seed).unwrap();
        weights(&store)
    };
    assert_eq!(fresh(3), fresh(3));
    assert_ne!(fresh(3), fresh(4));
}

#[test]
fn weights_that_do_not_fit_change_nothing() {
    let mut store = VarStore::new(Device::Cpu);
    let net = resnet20();
    TorchNet::new(&store.root(), &net, 1).unwrap();
    let before = weights(&store);
    let mut given = seeded(&net, 7);
    given.get_mut("head.fc.bias").unwrap().shape = vec![9];
    assert!(matches!(load(&mut store, &given), Err(LoadError::Shape { .. })));
    given.remove("head.fc.bias");
    assert!(matches!(load(&mut store, &given), Err(LoadError::Missing(_))));
    given = seeded(&net, 7);
    given.insert("head.fc.scale".to_owned(), Tensor::fill(&[1], |_| 0.0));
    assert!(matches!(load(&mut store, &given), Err(LoadError::Unknown(_))));
    assert_eq!(weights(&store), before);
}

/// In eval mode a batch norm is an affine map per channel, so that its convolution can do its work.
#[test]
fn a_folded_convolution_equals_convolution_and_batch_norm() {
    let mut net = Net::new("pair", crate::spec::FeatureMap::square(5, 9));
    let op = Op::Conv { cin: 5, cout: 7, kernel: 3, stride: 2, padding: 1 };
    let conv = net.push("conv", op, &[net.input_node()]);
    net.push("bn", Op::BatchNorm { channels: 7 }, &[conv]);
    let mut store = VarStore::new(Device::Cpu);
    let module = TorchNet::new(&store.root(), &net, 1).unwrap();
    load(&mut store, &seeded(&net, 2)).unwrap();

    let variables = store.variables();
    let of = |name: &str| variables[name].detach();
    let gain = of("bn.weight") / (of("bn.running_var") + f64::from(BATCH_NORM_EPSILON)).sqrt();
    let weight = of("conv.weight") * gain.view([7, 1, 1, 1]);
    let bias = of("bn.bias") - of("bn.running_mean") * &gain;
    let x = normal(&[4, 5, 9, 9], 1.0, &mut ChaCha8Rng::seed_from_u64(3));
    let folded = x.conv2d(&weight, Some(&bias), 2, 1, 1, 1);
    let error = relative_error(&module.forward_t(&x, false), &folded);
    assert!(error < TOLERANCE, "{error}");
}

#[test]
fn only_training_moves_running_statistics() {
    let store = VarStore::new(Device::Cpu);
    let module = TorchNet::new(&store.root(), &resnet20(), 1).unwrap();
    let x = normal(&[2, 3, 32, 32], 1.0, &mut ChaCha8Rng::seed_from_u64(3));
    let before = weights(&store);
    let _ = module.forward_t(&x, false);
    assert_eq!(weights(&store), before);
    let _ = module.forward_t(&x, true);
    assert_ne!(weights(&store)["stem.bn.running_mean"], before["stem.bn.running_mean"]);
}
