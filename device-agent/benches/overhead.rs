//! What the agent costs: round trip, upload, and its timings beside tract called directly.
//!
//! Prints one line a figure; `cargo bench -p hanas-agent`. Agent and direct runs alternate, on the same
//! processor, and are compared by their lowest twentieth, which a busy machine disturbs least.

#[path = "../tests/client/mod.rs"]
mod client;

use std::time::Instant;

use client::{Agent, Client, PLAN, timings};
use hanas_agent::runtime::tract::Tract;
use hanas_agent::runtime::{Runtime, Timed};
use hanas_models::layer::{Layer, LayerKind};
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::Family;
use hanas_proto::measure::{LoadOptions, MeasurePlan};
use hanas_proto::{Digest, Nanos, ToAgent, ToHost};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const LOAD: LoadOptions = LoadOptions { per_node: false, fill: hanas_proto::measure::Fill::Random };

fn main() {
    round_trip();
    upload();
    let kind = LayerKind::Conv { kernel: 3, stride: 1, side: 32 };
    let conv = lower(&Layer { kind, cin: 16, cout: 16 }.net(), Init::Seeded(1), 1).unwrap();
    let resnet = Family::cifar_resnet(20, 10).unwrap().base().net().unwrap();
    let resnet = lower(&resnet, Init::Seeded(1), 1).unwrap();
    beside_tract("conv3x3/1@32 16->16", &conv, 2000);
    beside_tract("resnet20", &resnet, 100);
}

/// A job of one run of the null model, from the request's first byte to the last block's.
fn round_trip() {
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut client = agent.open(1);
    client.load(0, b"null", LOAD).unwrap();
    let mut trips = Vec::new();
    for job in 0..5000 {
        let start = Instant::now();
        client.send(&ToAgent::Measure { id: 1000 + job, job, plan: MeasurePlan { runs: 1, ..PLAN } });
        let end = client.wait(|message| match message {
            ToHost::Block(block) => {
                matches!(block.body, hanas_proto::measure::Body::End(_)).then_some(block.seq)
            }
            _ => None,
        });
        trips.push(start.elapsed().as_nanos() as u64);
        client.send(&ToAgent::Ack { job, next: end + 1 });
    }
    let (low, mid, high) = (quantile(&trips, 0.05), quantile(&trips, 0.5), quantile(&trips, 0.95));
    println!("null job round trip: median {} (q05 {}, q95 {})", Nanos(mid), Nanos(low), Nanos(high));
    let mut pings = Vec::new();
    for id in 0..5000 {
        let start = Instant::now();
        client.send(&ToAgent::Ping { id });
        client.wait(|message| (*message == ToHost::Pong { id }).then_some(()));
        pings.push(start.elapsed().as_nanos() as u64);
    }
    println!("ping: median {}", Nanos(quantile(&pings, 0.5)));
}

/// Content in chunks of 64 KiB with the agent's window kept full.
fn upload() {
    const SIZE: usize = 256 << 20;
    const CHUNK: usize = 64 * 1024;
    const WINDOW: usize = 16;
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut client = agent.open(1);
    let mut state = 1u64;
    let data: Vec<u8> = (0..SIZE)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let digest = Digest(*blake3::hash(&data).as_bytes());
    let start = Instant::now();
    client.send(&ToAgent::BlobOpen { id: 1, digest, size: SIZE as u64 });
    let mut held = client.held(1).unwrap() as usize;
    let mut next = held;
    while held < SIZE {
        while next < SIZE && next < held + WINDOW * CHUNK {
            let end = SIZE.min(next + CHUNK);
            send_chunk(&mut client, next, &data[next..end]);
            next = end;
        }
        held = client.held(1).unwrap() as usize;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("upload: {:.0} MB/s ({} MiB)", SIZE as f64 / seconds / 1e6, SIZE >> 20);
}

fn send_chunk(client: &mut Client, offset: usize, data: &[u8]) {
    client.send(&ToAgent::BlobChunk { id: 1, offset: offset as u64, data });
}

fn beside_tract(name: &str, model: &[u8], runs: u16) {
    const ROUNDS: u32 = 15;
    let agent = Agent::tcp(&[]);
    let mut client = agent.open(1);
    client.load(0, model, LOAD).unwrap();
    client.load(1, model, LoadOptions { per_node: true, ..LOAD }).unwrap();
    pin_to_last();
    let mut tract = Tract::new(1, 1 << 30);
    tract.load(0, model, LOAD).unwrap();
    let (mut direct, mut plain, mut per_node) = (Vec::new(), Vec::new(), Vec::new());
    for job in 0..ROUNDS {
        let plan = MeasurePlan { runs, warmup: 5, ..PLAN };
        plain.extend(timings(&client.measure(2 * job, plan), 0));
        for _ in 0..5 {
            tract.run_once(0).unwrap();
        }
        direct.extend((0..runs).map(|_| tract.run_once(0).unwrap().0));
        per_node.extend(timings(&client.measure(2 * job + 1, MeasurePlan { slots: &[2], ..plan }), 1));
    }
    let [direct, plain, per_node] = [direct, plain, per_node].map(|times| quantile(&times, 0.05) as f64);
    println!(
        "{name}: direct {}, agent {:+.2}%, per node {:+.2}% over the agent's plain runs",
        Nanos(direct as u64),
        100.0 * (plain / direct - 1.0),
        100.0 * (per_node / plain - 1.0),
    );
}

/// To the worker's own processor: this process sleeps while the worker runs, and the other way round.
fn pin_to_last() {
    let usable = sched_getaffinity(None).unwrap();
    let last = (0..CpuSet::MAX_CPU).rfind(|&cpu| usable.is_set(cpu)).unwrap();
    let mut set = CpuSet::new();
    set.set(last);
    sched_setaffinity(None, &set).unwrap();
}

fn quantile(times: &[u64], share: f64) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}
