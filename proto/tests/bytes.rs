//! The exact bytes of every message, in both directions. A change here is a change of the protocol.

use hanas_proto::fault::FaultCode;
use hanas_proto::frame::{CRC_BYTES, decode, encode, framed_len};
use hanas_proto::handshake::{
    DeviceFacts, Dialect, FINGERPRINT, Hello, MAGIC, ModelForm, Refusal, RefusalReason, VERSION, Welcome,
};
use hanas_proto::measure::{
    Block, Body, Fill, JobEnd, LoadOptions, Loaded, MeasurePlan, Node, Port, RoundContext,
};
use hanas_proto::{Digest, Nanos, ToAgent, ToHost};

/// As the schema stands. Other bytes below without another number here, or the reverse, is a mistake.
const PINNED_FINGERPRINT: u64 = 0x32a3_6f7b_e4f3_1cb5;

const DIGEST: Digest = Digest([0xdd; 32]);
const DIGEST_HEX: &str = "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";
const DIALECT: Dialect = Dialect { version: 1, fingerprint: 2 };

fn to_agent() -> Vec<(ToAgent<'static>, String)> {
    let hello = Hello { magic: MAGIC, dialect: DIALECT, session: 3, max_frame: 512, host: "a" };
    let options = LoadOptions { per_node: true, fill: Fill::Ones };
    let plan =
        MeasurePlan { slots: &[0x81], rounds: 2, warmup: 1, runs: 50, seed: 9, visit_limit: Nanos(1000) };
    let with_digest = |before: &str, after: &str| format!("{before} {DIGEST_HEX} {after}");
    vec![
        (ToAgent::Hello(hello), "00 684e6153 01 02 03 8004 0161".into()),
        (ToAgent::Ping { id: 300 }, "01 ac02".into()),
        (ToAgent::BlobOpen { id: 1, digest: DIGEST, size: 65536 }, with_digest("02 01", "808004")),
        (ToAgent::BlobChunk { id: 1, offset: 128, data: &[1, 0] }, "03 01 8001 020100".into()),
        (ToAgent::Load { id: 2, slot: 5, digest: DIGEST, options }, with_digest("04 02 05", "01 02")),
        (ToAgent::Clear { id: 3 }, "05 03".into()),
        (ToAgent::Measure { id: 4, job: 7, plan }, "06 04 07 0181 02 01 32 09 e807".into()),
        (ToAgent::Ack { job: 7, next: 3 }, "07 07 03".into()),
        (ToAgent::Resume { job: 7, next: 3 }, "08 07 03".into()),
        (ToAgent::Stop { id: 5, job: 7 }, "09 05 07".into()),
        (ToAgent::Infer { id: 6, slot: 5, inputs: DIGEST }, with_digest("0a 06 05", "")),
        (ToAgent::Bye, "0b".into()),
    ]
}

fn to_host() -> Vec<(ToHost<'static>, &'static str)> {
    let device = DeviceFacts {
        agent: "0.1",
        runtime: "r",
        threads: 1,
        form: ModelForm::Onnx,
        name: "n",
        cpu: "c",
        arch: "a",
        os: "o",
        cores: 4,
        pinned: 8,
        memory_bytes: 1024,
        governor: "g",
        clock_resolution_ns: 25,
    };
    let welcome = Welcome {
        dialect: DIALECT,
        resumed: true,
        max_frame: 512,
        window: 16,
        max_blob: 65536,
        slots: 8,
        device,
    };
    let context = RoundContext {
        unix_ms: 1,
        wall_us: 2,
        cpu_us: 3,
        steal_us: None,
        busy_us: Some(4),
        temperature_mc: Some(-5),
        frequency_khz: Some(300),
        voluntary_switches: 5,
        involuntary_switches: 6,
        minor_faults: 7,
        major_faults: 8,
    };
    let block = |body| ToHost::Block(Block { job: 7, seq: 1, body });
    let fault = JobEnd::Fault { code: FaultCode::WorkerDied, slot: 5, text: "x" };
    vec![
        (
            ToHost::Welcome(welcome),
            "00 01 02 01 8004 10 808004 08 03302e31 0172 01 00 016e 0163 0161 016f 04 08 8008 0167 19",
        ),
        (
            ToHost::Refused(Refusal { dialect: DIALECT, agent: "0.1", reason: RefusalReason::NotPaired }),
            "01 01 02 03302e31 01",
        ),
        (ToHost::Pong { id: 300 }, "02 ac02"),
        (ToHost::BlobHeld { id: 1, held: 128 }, "03 01 8001"),
        (ToHost::Node(Node { id: 2, index: 0, name: "n", op: "Conv" }), "04 02 00 016e 04436f6e76"),
        (
            ToHost::Port(Port { id: 2, index: 4, is_input: true, name: "x", fact: "f32 1" }),
            "05 02 04 01 0178 056633322031",
        ),
        (
            ToHost::Loaded(Loaded { id: 2, slot: 5, nodes: 3, ports: 2, took: Nanos(1000) }),
            "06 02 05 03 02 e807",
        ),
        (ToHost::Done { id: 4 }, "07 04"),
        (block(Body::Samples { round: 2, series: &[5, 1, 9] }), "08 07 01 00 02 03050109"),
        (block(Body::Nodes { round: 2, series: &[5, 1, 9] }), "08 07 01 01 02 03050109"),
        (
            block(Body::Context { round: 2, context }),
            "08 07 01 02 02 01 02 03 00 0104 0109 01ac02 05 06 07 08",
        ),
        (block(Body::End(JobEnd::Completed)), "08 07 01 03 00"),
        (block(Body::End(JobEnd::Stopped)), "08 07 01 03 01"),
        (block(Body::End(fault)), "08 07 01 03 02 07 05 0178"),
        (ToHost::Output { id: 6, offset: 128, data: &[1, 0] }, "09 06 8001 020100"),
        (ToHost::Fault { id: 6, code: FaultCode::Unsupported, text: "x" }, "0a 06 05 0178"),
        (ToHost::Queued { id: 6, ahead: 2 }, "0b 06 02"),
        (ToHost::Heartbeat { uptime_ms: 300 }, "0c ac02"),
    ]
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

fn payload(message: &impl serde::Serialize) -> Vec<u8> {
    let mut buffer = [0; 512];
    postcard::to_slice(message, &mut buffer).unwrap().to_vec()
}

#[test]
fn every_message_to_the_agent_has_its_bytes() {
    for (number, (message, hex)) in to_agent().into_iter().enumerate() {
        assert_eq!(payload(&message), bytes(&hex), "{message:?}");
        assert_eq!(decode::<ToAgent<'_>>(&bytes(&hex)), Ok(message));
        assert_eq!(bytes(&hex)[0], number as u8, "variants in order, none left out");
    }
}

#[test]
fn every_message_to_the_host_has_its_bytes() {
    let mut variants = Vec::new();
    for (message, hex) in to_host() {
        assert_eq!(payload(&message), bytes(hex), "{message:?}");
        assert_eq!(decode::<ToHost<'_>>(&bytes(hex)), Ok(message));
        variants.push(bytes(hex)[0]);
    }
    variants.dedup();
    assert_eq!(variants, (0..=12).collect::<Vec<u8>>(), "variants in order, none left out");
}

#[test]
fn codes_have_their_numbers() {
    let fault = |code| payload(&code)[0];
    let codes = [
        FaultCode::BadRequest,
        FaultCode::UnknownBlob,
        FaultCode::BadDigest,
        FaultCode::TooLarge,
        FaultCode::NotAModel,
        FaultCode::Unsupported,
        FaultCode::RunFailed,
        FaultCode::WorkerDied,
        FaultCode::Busy,
        FaultCode::Agent,
        FaultCode::NoSession,
    ];
    assert_eq!(codes.map(fault), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    let fills = [Fill::Random, Fill::Zeros, Fill::Ones].map(|fill| payload(&fill)[0]);
    assert_eq!(fills, [0, 1, 2]);
    assert_eq!([ModelForm::Onnx, ModelForm::Chip].map(|form| payload(&form)[0]), [0, 1]);
    assert_eq!([RefusalReason::Dialect, RefusalReason::NotPaired].map(|r| payload(&r)[0]), [0, 1]);
}

#[test]
fn a_frame_has_its_bytes() {
    let mut scratch = [0; 64];
    let mut out = [0; 64];
    // Payload 01 ac 02 and its CRC-32 as zlib computes it; no zero, so one COBS group of 7 bytes.
    let frame = encode(&ToAgent::Ping { id: 300 }, &mut scratch, &mut out).unwrap();
    assert_eq!(frame, bytes("08 01ac02 ec213f12 00"));
    // Payload 05 00: the zero becomes the distance to the next one.
    let frame = encode(&ToAgent::Clear { id: 0 }, &mut scratch, &mut out).unwrap();
    assert_eq!(frame, bytes("02 05 05 bae6ae3c 00"));
    assert!(frame.len() <= framed_len(2));
    assert_eq!(CRC_BYTES, 4);
}

#[test]
fn the_schema_is_the_one_these_bytes_are_of() {
    assert_eq!(FINGERPRINT, PINNED_FINGERPRINT, "{FINGERPRINT:#018x}");
    assert_eq!((VERSION, MAGIC), (1, *b"hNaS"));
}

#[test]
fn no_message_and_more_than_a_message_are_errors() {
    for hex in
        ["", "0c", "ff", "01", "01 ac", "01 ac02 00", "03 01 8001 05 01", "00 684e6153 01 02 03 8004 01ff"]
    {
        assert!(decode::<ToAgent<'_>>(&bytes(hex)).is_err(), "{hex}");
    }
    for hex in ["", "0d", "02", "02 ac02 00", "08 07 01 04", "0a 06 0b 0178", "0a 06 05 0578"] {
        assert!(decode::<ToHost<'_>>(&bytes(hex)).is_err(), "{hex}");
    }
}
