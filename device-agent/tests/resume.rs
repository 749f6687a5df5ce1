//! What a bad link or another host cannot spoil: sessions, jobs, content, the lease.

mod client;

use client::{Agent, Client, PLAN, Taken, assert_whole, timings};
use hanas_models::layer::{Layer, LayerKind};
use hanas_models::onnx::{Init, lower};
use hanas_proto::fault::FaultCode;
use hanas_proto::frame::{CRC_BYTES, encode, framed_len};
use hanas_proto::measure::{LoadOptions, MeasurePlan};
use hanas_proto::{Digest, ToAgent, ToHost};

const LOAD: LoadOptions = LoadOptions { per_node: false, fill: hanas_proto::measure::Fill::Random };

/// A folder and an agent whose runs take 1 ms of the clock and 1000 ns by script, with noise.
fn slow_agent(arguments: &[&str]) -> (tempfile::TempDir, Agent) {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("slow.toml");
    std::fs::write(&script, "default_ns = 1000\nnoise_ns = 500\nsleep_ns_per_run = 1000000\n").unwrap();
    let scripted = ["--runtime", "scripted", "--script", script.to_str().unwrap()];
    let agent = Agent::tcp(&[&scripted, arguments].concat());
    (folder, agent)
}

fn conv() -> Vec<u8> {
    let kind = LayerKind::Conv { kernel: 3, stride: 1, side: 8 };
    lower(&Layer { kind, cin: 3, cout: 4 }.net(), Init::Seeded(1), 2).unwrap()
}

#[test]
fn a_repeated_request_is_answered_again_and_done_once() {
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut client = agent.open(1);
    client.load(0, b"anything", LOAD).unwrap();
    let id = client.id();
    // Twice while it is being done, and again when it is.
    client.send(&ToAgent::Measure { id, job: 1, plan: PLAN });
    client.send(&ToAgent::Measure { id, job: 1, plan: PLAN });
    client.done(id).unwrap();
    let blocks = client.blocks(1);
    client.send(&ToAgent::Measure { id, job: 1, plan: PLAN });
    client.done(id).unwrap();
    client.send(&ToAgent::Ping { id: 99 });
    client.wait(|message| {
        assert!(!matches!(message, ToHost::Block(_)), "nothing is done twice");
        (*message == ToHost::Pong { id: 99 }).then_some(())
    });
    assert_whole(&blocks);

    // Another request for the same job is a mistake, not a repetition.
    let other = client.id();
    client.send(&ToAgent::Measure { id: other, job: 1, plan: PLAN });
    assert_eq!(client.done(other).unwrap_err().code, FaultCode::BadRequest);
}

#[test]
fn a_lost_link_loses_and_doubles_nothing() {
    let (_folder, agent) = slow_agent(&[]);
    let plan = MeasurePlan { rounds: 4, runs: 100, ..PLAN };
    let mut client = agent.open(7);
    client.load(0, &conv(), LOAD).unwrap();
    let id = client.id();
    client.send(&ToAgent::Measure { id, job: 1, plan });
    let mut blocks: Vec<Taken> = Vec::new();
    // Some blocks arrive and are acknowledged, some more arrive and are not, then the link is gone.
    while blocks.len() < 4 {
        blocks.push(client.wait(|message| match message {
            ToHost::Block(block) => Some(Taken::of(block)),
            _ => None,
        }));
        if blocks.len() == 2 {
            client.send(&ToAgent::Ack { job: 1, next: 2 });
        }
    }
    blocks.truncate(3);
    drop(client);

    let mut client = agent.connect();
    assert!(client.hello(7), "the session is known");
    client.send(&ToAgent::Resume { job: 1, next: 3 });
    // Blocks may come before the resumed ones; a host keeps those that continue.
    while !blocks.last().is_some_and(Taken::is_end) {
        let block = client.wait(|message| match message {
            ToHost::Block(block) => Some(Taken::of(block)),
            _ => None,
        });
        if block.seq as usize == blocks.len() {
            blocks.push(block);
        }
    }
    assert_whole(&blocks);
    let times = timings(&blocks, 0);
    assert_eq!(times.len(), 400);

    // The very same job on an agent without any trouble.
    let (_folder, untroubled) = slow_agent(&[]);
    let mut client = untroubled.open(7);
    client.load(0, &conv(), LOAD).unwrap();
    assert_eq!(timings(&client.measure(1, plan), 0), times);
}

#[test]
fn acknowledged_blocks_are_gone_and_others_come_as_often_as_asked() {
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut client = agent.open(1);
    client.load(0, b"anything", LOAD).unwrap();
    let blocks = client.measure(1, PLAN);
    assert_eq!(blocks.len(), 3, "samples, context, end");
    client.send(&ToAgent::Resume { job: 1, next: 1 });
    assert_eq!(client.blocks(1), blocks[1..]);
    client.send(&ToAgent::Ack { job: 1, next: 2 });
    client.send(&ToAgent::Resume { job: 1, next: 0 });
    assert_eq!(client.blocks(1), blocks[2..]);
}

#[test]
fn a_second_hello_on_another_link_takes_over() {
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut first = agent.open(5);
    first.load(0, b"anything", LOAD).unwrap();
    let mut second = agent.connect();
    assert!(second.hello(5));
    assert!(first.is_hung_up());
    assert_whole(&second.measure(1, PLAN));
}

#[test]
fn a_second_session_waits_and_gets_its_turn() {
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut first = agent.open(1);
    first.load(0, b"anything", LOAD).unwrap();
    let mut second = agent.open(2);
    let digest = second.upload(b"anything").unwrap();
    second.send(&ToAgent::Load { id: 50, slot: 3, digest, options: LOAD });
    for _ in 0..3 {
        // Said at once, and again about every second.
        let ahead = second.wait(|message| match message {
            ToHost::Queued { id: 50, ahead } => Some(*ahead),
            _ => None,
        });
        assert_eq!(ahead, 1);
    }
    // Meanwhile the first is not disturbed.
    assert_whole(&first.measure(1, PLAN));
    first.send(&ToAgent::Bye);
    second.done(50).unwrap();
    // Nothing of the first is left.
    second.send(&ToAgent::Measure { id: 51, job: 1, plan: PLAN });
    assert!(second.done(51).unwrap_err().text.contains("slot 0 is empty"));
    assert_whole(&second.measure(2, MeasurePlan { slots: &[0b1000], ..PLAN }));
}

#[test]
fn a_lost_holders_lease_passes_on_in_the_midst_of_its_job() {
    let (_folder, agent) = slow_agent(&["--lease-ttl", "200ms"]);
    let mut first = agent.open(1);
    first.load(0, &conv(), LOAD).unwrap();
    let id = first.id();
    first.send(&ToAgent::Measure { id, job: 1, plan: MeasurePlan { rounds: 1000, runs: 1000, ..PLAN } });
    first.done(id).unwrap();
    let mut second = agent.open(2);
    let digest = second.upload(&conv()).unwrap();
    second.send(&ToAgent::Load { id: 50, slot: 0, digest, options: LOAD });
    second.wait(|message| matches!(message, ToHost::Queued { id: 50, .. }).then_some(()));
    drop(first);
    second.done(50).unwrap();
    assert_whole(&second.measure(1, PLAN));
    assert!(!agent.connect().hello(1), "the first session is over");
}

#[test]
fn content_survives_corruption_loss_and_repetition() {
    let folder = tempfile::tempdir().unwrap();
    let cache = ["--runtime", "null", "--cache-dir", folder.path().to_str().unwrap()];
    let data: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    let digest = Digest(*blake3::hash(&data).as_bytes());
    let agent = Agent::tcp(&cache);
    let mut client = agent.open(1);
    client.send(&ToAgent::BlobOpen { id: 1, digest, size: data.len() as u64 });
    assert_eq!(client.held(1), Ok(0));
    let mut held = 0;
    let mut sent = 0u32;
    while held < data.len() {
        let end = data.len().min(held + 10_000);
        let chunk = ToAgent::BlobChunk { id: 1, offset: held as u64, data: &data[held..end] };
        sent += 1;
        match sent % 4 {
            // A changed byte: the frame is dropped. A missing frame: the next chunk does not fit on.
            0 => {
                let (mut scratch, mut out) = (vec![0; 20_000 + CRC_BYTES], vec![0; framed_len(20_000)]);
                let mut frame = encode(&chunk, &mut scratch, &mut out).unwrap().to_vec();
                frame[5_000] ^= 0x55;
                client.writer.write_all(&frame).unwrap();
                let beyond = data.len().min(end + 10_000);
                client.send(&ToAgent::BlobChunk { id: 1, offset: end as u64, data: &data[end..beyond] });
            }
            // The same twice.
            1 => {
                client.send(&chunk);
                client.held(1).unwrap();
                client.send(&chunk);
            }
            _ => client.send(&chunk),
        }
        held = client.held(1).unwrap() as usize;
    }
    drop(agent);

    // A new agent on the same folder has it, and no half of anything else.
    let agent = Agent::tcp(&cache);
    let mut client = agent.open(1);
    client.send(&ToAgent::BlobOpen { id: 1, digest, size: data.len() as u64 });
    assert_eq!(client.held(1), Ok(data.len() as u64));
    client.load(0, &data, LOAD).unwrap();
}

#[test]
fn content_that_is_not_what_was_announced_is_refused() {
    let agent = Agent::tcp(&["--runtime", "null", "--max-model", "1K"]);
    let mut client = agent.open(1);
    let digest = Digest([7; 32]);
    client.send(&ToAgent::BlobOpen { id: 1, digest, size: 4 });
    client.held(1).unwrap();
    client.send(&ToAgent::BlobChunk { id: 1, offset: 0, data: b"evil" });
    assert_eq!(client.held(1).unwrap_err().code, FaultCode::BadDigest);
    client.send(&ToAgent::Load { id: 2, slot: 0, digest, options: LOAD });
    assert_eq!(client.done(2).unwrap_err().code, FaultCode::UnknownBlob);
    client.send(&ToAgent::BlobOpen { id: 3, digest, size: 1025 });
    assert_eq!(client.held(3).unwrap_err().code, FaultCode::TooLarge);
    client.send(&ToAgent::BlobOpen { id: 4, digest, size: 4 });
    client.held(4).unwrap();
    client.send(&ToAgent::BlobChunk { id: 4, offset: 3, data: b"xx" });
    assert_eq!(client.held(4).unwrap_err().code, FaultCode::BadRequest);
}

#[test]
fn noise_and_nonsense_on_the_link_are_passed_over() {
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut client = agent.connect();
    let mut noise: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    noise.extend([vec![1; 300_000], vec![0; 10]].concat());
    client.writer.write_all(&noise).unwrap();
    client.hello(1);
    client.writer.write_all(&noise).unwrap();
    let digest = client.upload(b"anything").unwrap();
    // Requests beyond every bound.
    client.send(&ToAgent::Load { id: 90, slot: u16::MAX, digest, options: LOAD });
    assert_eq!(client.done(90).unwrap_err().code, FaultCode::BadRequest);
    for (id, slots, rounds) in [(91, &[0xff; 60_000][..], 1), (92, &[], 1), (93, &[1], 0), (94, &[2], 1)] {
        client.send(&ToAgent::Measure { id, job: id, plan: MeasurePlan { slots, rounds, ..PLAN } });
        assert_eq!(client.done(id).unwrap_err().code, FaultCode::BadRequest, "{id}");
    }
    client.send(&ToAgent::Stop { id: 95, job: 1234 });
    assert_eq!(client.done(95).unwrap_err().code, FaultCode::BadRequest);
    client.send(&ToAgent::Ack { job: 1234, next: u32::MAX });
    client.send(&ToAgent::Resume { job: 1234, next: u32::MAX });
    client.load(0, b"anything", LOAD).unwrap();
    assert_whole(&client.measure(1, PLAN));
}

#[test]
fn a_host_that_does_not_listen_holds_nobody_else_up() {
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut deaf = agent.open(1);
    deaf.load(0, b"anything", LOAD).unwrap();
    let plan = MeasurePlan { rounds: u16::MAX, runs: 1000, ..PLAN };
    deaf.send(&ToAgent::Measure { id: 90, job: 1, plan });
    let mut other: Client = agent.open(2);
    for id in 100..200 {
        other.send(&ToAgent::Ping { id });
        other.wait(|message| (*message == ToHost::Pong { id }).then_some(()));
    }
    other.upload(&vec![3; 1_000_000]).unwrap();
}
