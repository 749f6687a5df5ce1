//! Chips without a chip: the firmware's parts on this machine, driven by the real host.

use hanas::link::session::Timeouts;
use hanas::link::{DeviceUrl, LinkError, Session};
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::Family;
use hanas_models::spec::{FeatureMap, Net, Op};
use hanas_models::weights::seeded;
use hanas_proto::measure::LoadOptions;
use hanas_tests::agent::Agent;
use hanas_tests::chip::here::ChipHere;
use hanas_tests::chip::mobile;
use hanas_tests::host::Host;
use hanas_tests::own;

/// Largest error of an output, as a share of the largest output.
const TOLERANCE: f32 = 1e-4;

fn open(url: &str) -> Session {
    Session::open(&url.parse::<DeviceUrl>().unwrap(), Timeouts::default()).unwrap()
}

fn outputs(session: &mut Session, onnx: &[u8], input: &[u8]) -> Vec<f32> {
    session.load_onnx(0, onnx, LoadOptions::default()).unwrap();
    let inputs = session.upload(input).unwrap();
    let bytes = session.infer(0, inputs).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn assert_same(net: &Net, chip: &mut Session, agent: &mut Session) {
    let onnx = lower(net, Init::Weights(&seeded(net, 3)), 1).unwrap();
    assert_same_onnx(&net.name, &onnx, net.input.len() as usize, chip, agent);
}

fn assert_same_onnx(name: &str, onnx: &[u8], inputs: usize, chip: &mut Session, agent: &mut Session) {
    let values = (0..inputs).map(|n| ((n * 37 % 101) as f32 / 50.0 - 1.0).to_le_bytes());
    let input: Vec<u8> = values.flatten().collect();
    let (ours, theirs) = (outputs(chip, onnx, &input), outputs(agent, onnx, &input));
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let largest = theirs.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert!((ours - theirs).abs() <= TOLERANCE * largest, "{name}: {ours} and {theirs}");
    }
    assert!(largest > 0.0);
}

#[test]
fn whole_nets_compute_on_a_chip_what_tract_computes() {
    let chip = ChipHere::serve(4 << 20);
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    let (mut chip, mut agent) = (open(&chip.url()), open(agent.url()));
    let net = Family::cifar_resnet(20, 10).unwrap().base().net().unwrap();
    assert_same(&net, &mut chip, &mut agent);

    let mut odd = Net::new("odd", FeatureMap { channels: 3, height: 9, width: 7 });
    let input = odd.input_node();
    let op = Op::Conv { cin: 3, cout: 5, kernel: 5, stride: 2, padding: 1 };
    let conv = odd.push("conv", op, &[input]);
    let point = odd.push("point", Op::Conv { cin: 5, cout: 2, kernel: 1, stride: 1, padding: 0 }, &[conv]);
    let relu = odd.push("relu", Op::Relu, &[point]);
    let sum = odd.push("sum", Op::Add, &[relu, point]);
    odd.push("pool", Op::AvgPool2, &[sum]);
    assert_same(&odd, &mut chip, &mut agent);

    assert_same_onnx("mobile", &mobile::onnx(), mobile::INPUT, &mut chip, &mut agent);
}

#[test]
fn a_chip_is_profiled_and_its_space_built_and_what_does_not_fit_is_not_sent() {
    let host = Host::default();
    let task = own::task(&host).display().to_string();
    // The widest layers of the small task do not fit.
    let chip = ChipHere::serve(5600);
    let url = chip.url();
    let common = ["--device", &url, "--task", &task, "--batch", "1"];
    let options = ["--which", "space", "--samples", "8", "--runs", "2", "--race", "0", "--allow-noisy"];
    let report = host.json(&[&["profile"], &common[..], &options].concat());
    let failed = report["failed"].as_array().unwrap();
    assert!(!failed.is_empty() && failed.len() < 10, "{failed:?}");
    for failure in failed {
        let reason = failure["reason"].as_str().unwrap();
        assert!(reason.contains("it was not sent"), "{reason}");
    }
    // The null model, 8 and 16 widths.
    assert_eq!(host.counts().len() + failed.len(), 1 + 8 + 16);
    assert!(host.counts().values().all(|&count| count == 8));
    let info = host.json(&["device", "info", &url]);
    assert_eq!(info["runtime"], "hanas-chip f32");
}

#[test]
fn a_chip_takes_one_image_at_a_time_and_says_so() {
    let chip = ChipHere::serve(1 << 20);
    let mut session = open(&chip.url());
    let net = Family::cifar_resnet(20, 10).unwrap().base().net().unwrap();
    let four = session.load_onnx(0, &lower(&net, Init::Seeded(1), 4).unwrap(), LoadOptions::default());
    let Err(LinkError::Fault { text, .. }) = four else { panic!("{four:?}") };
    assert!(text.contains("--batch 1"), "{text}");
    let described = session.load_onnx(0, &lower(&net, Init::Seeded(1), 1).unwrap(), LoadOptions::default());
    let Err(LinkError::Fault { text, .. }) = described else { panic!("{described:?}") };
    assert!(text.contains("of the chip's 1.0 MiB"), "{text}");
}
