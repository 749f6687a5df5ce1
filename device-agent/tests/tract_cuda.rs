//! tract computes on a GPU what it computes on the processor; only where there is a GPU.

#![cfg(feature = "cuda")]

mod client;
mod parity;

use client::{Agent, PLAN, assert_whole};
use parity::{LOAD, Pair, resnet20};

/// The first model waits for the kernels to be compiled.
const ON_GPU: [&str; 4] = ["--runtime", "tract-cuda", "--run-limit", "10m"];

#[test]
#[ignore = "needs a GPU: cargo test --release -p hanas-agent --features cuda --test tract_cuda -- --ignored"]
fn a_gpu_computes_the_same() {
    let mut pair = Pair::open(&ON_GPU);
    pair.compare_convolutional(4);
    pair.compare_graph();
}

#[test]
#[ignore = "needs a GPU: cargo test --release -p hanas-agent --features cuda --test tract_cuda -- --ignored"]
fn a_profile_is_taken_whole_and_by_operator() {
    let agent = Agent::tcp(&ON_GPU);
    let mut client = agent.open(1);
    for per_node in [false, true] {
        let options = hanas_proto::measure::LoadOptions { per_node, ..LOAD };
        let described = client.load(0, &resnet20(1024), options).unwrap();
        assert!(described.nodes.iter().any(|(_, op)| op.contains("DeviceSync")), "{:?}", described.nodes);
        assert_whole(&client.measure(1 + u32::from(per_node), PLAN));
    }
}
