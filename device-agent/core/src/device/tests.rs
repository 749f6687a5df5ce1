use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use hanas_proto::Digest;
use hanas_proto::frame::{CRC_BYTES, encode};
use hanas_proto::handshake::{DIALECT, Dialect, Hello, MAGIC, ModelForm};
use hanas_proto::measure::{LoadOptions, Node, RoundContext};

use super::*;
use crate::{Part, Runtime};

/// Both directions of a link, seen by the test.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<(VecDeque<u8>, Vec<u8>)>>);

impl Link for Wire {
    fn read(&mut self, into: &mut [u8]) -> usize {
        let mut wire = self.0.borrow_mut();
        let count = into.len().min(wire.0.len());
        into.iter_mut().zip(wire.0.drain(..count)).for_each(|(place, byte)| *place = byte);
        count
    }
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.borrow_mut().1.extend_from_slice(bytes);
        bytes.len()
    }
}

#[derive(Clone, Default)]
struct Steps(Rc<RefCell<u64>>);

impl Clock for Steps {
    fn now(&mut self) -> Nanos {
        *self.0.borrow_mut() += 1000;
        Nanos(*self.0.borrow())
    }
    fn begin_round(&mut self) {}
    fn end_round(&mut self) -> RoundContext {
        RoundContext::default()
    }
}

struct Refusal;

impl Trouble for Refusal {
    fn code(&self) -> FaultCode {
        FaultCode::NotAModel
    }
    fn text(&self) -> &str {
        "no model"
    }
    fn too_many_operators(_: usize) -> Self {
        Self
    }
}

/// Holds content's first byte as latency; says something on the wire at every run, where asked.
#[derive(Default)]
struct Fake {
    slots: [Option<u8>; 4],
    runs: u32,
    wire: Wire,
    interject: Vec<(u32, Vec<u8>)>,
}

impl Runtime for Fake {
    type Trouble = Refusal;
    fn options(&self, slot: u16) -> Option<LoadOptions> {
        self.slots[usize::from(slot)].map(|_| LoadOptions::default())
    }
    fn run_once(&mut self, slot: u16) -> Result<Nanos, Refusal> {
        self.runs += 1;
        for (run, bytes) in &self.interject {
            if *run == self.runs {
                self.wire.0.borrow_mut().0.extend(bytes);
            }
        }
        Ok(Nanos(u64::from(self.slots[usize::from(slot)].unwrap_or_default())))
    }
    fn run_nodes(&mut self, slot: u16, _: &mut dyn FnMut(Nanos)) -> Result<Nanos, Refusal> {
        self.run_once(slot)
    }
}

impl Models for Fake {
    fn load(
        &mut self,
        id: u32,
        slot: u16,
        content: &[u8],
        _: LoadOptions,
        tell: &mut dyn FnMut(Part<'_>),
    ) -> Result<u16, Refusal> {
        self.slots[usize::from(slot)] = None;
        let first = *content.first().filter(|&&first| first > 0).ok_or(Refusal)?;
        self.slots[usize::from(slot)] = Some(first);
        tell(Part::Node(Node { id, index: 0, name: "all", op: "Fake" }));
        Ok(1)
    }
    fn clear(&mut self) {
        self.slots = [None; 4];
    }
    fn infer(&mut self, _: u16, inputs: &[u8], take: &mut dyn FnMut(&[u8])) -> Result<(), Refusal> {
        take(inputs);
        Ok(())
    }
}

const FACTS: DeviceFacts<'static> = DeviceFacts {
    agent: "test",
    runtime: "fake",
    threads: 1,
    form: ModelForm::Chip,
    name: "",
    cpu: "",
    arch: "",
    os: "",
    cores: 1,
    pinned: 1,
    memory_bytes: 1000,
    governor: "",
    clock_resolution_ns: 1,
};

fn bytes(message: &ToAgent<'_>) -> Vec<u8> {
    encode(message, &mut [0; 2048 + CRC_BYTES], &mut [0; framed_len(2048)]).unwrap().to_vec()
}

fn hello(session: u64) -> ToAgent<'static> {
    ToAgent::Hello(Hello { magic: MAGIC, dialect: DIALECT, session, max_frame: 60_000, host: "test" })
}

/// What was said, in words that a test can compare.
fn said(wire: &Wire) -> Vec<std::string::String> {
    let bytes = std::mem::take(&mut wire.0.borrow_mut().1);
    let mut deframer = Deframer::new([0; framed_len(MAX_FRAME)]);
    let (mut rest, mut words) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (taken, step) = deframer.feed(rest);
        rest = &rest[taken..];
        let Step::Frame(payload) = step else { continue };
        words.push(match decode::<ToHost<'_>>(payload).unwrap() {
            ToHost::Welcome(welcome) => std::format!("welcome {}", welcome.resumed),
            ToHost::Block(Block { job, seq, body }) => {
                let body = match body {
                    Body::Samples { .. } => "samples",
                    Body::Nodes { .. } => "nodes",
                    Body::Context { .. } => "context",
                    Body::End(JobEnd::Completed) => "completed",
                    Body::End(_) => "stopped",
                };
                std::format!("{job}.{seq} {body}")
            }
            ToHost::Fault { id, code, .. } => std::format!("{id} fault {code:?}"),
            ToHost::Loaded(loaded) => std::format!("{} loaded", loaded.id),
            ToHost::Node(node) => std::format!("{} node", node.id),
            ToHost::Done { id } => std::format!("{id} done"),
            ToHost::BlobHeld { held, .. } => std::format!("held {held}"),
            ToHost::Output { data, .. } => std::format!("output {}", data.len()),
            other => std::format!("{other:?}"),
        });
    }
    words.retain(|word| !word.starts_with("Heartbeat"));
    words
}

/// A device of which the test has the other end.
fn with_device(
    fake: impl FnOnce(&Wire) -> Fake,
    blocks: usize,
    act: impl FnOnce(&mut dyn FnMut(&[ToAgent<'_>]) -> Vec<std::string::String>),
) {
    let wire = Wire::default();
    let (mut content, mut blocks, mut answers) = (vec![0; 64], vec![0; blocks], vec![0; 512]);
    let memory = Memory { content: &mut content, blocks: &mut blocks, answers: &mut answers };
    let fake = fake(&wire);
    let mut device = Device::new(fake, Steps::default(), wire.clone(), FACTS, 4, memory);
    act(&mut |messages| {
        for message in messages {
            wire.0.borrow_mut().0.extend(bytes(message));
        }
        device.turn();
        said(&wire)
    });
}

const PLAN: MeasurePlan<'static> =
    MeasurePlan { slots: &[1], rounds: 2, warmup: 0, runs: 3, seed: 1, visit_limit: Nanos(0) };
const MODEL: &[u8] = &[7, 8, 9];

fn digest() -> Digest {
    Digest(*blake3::hash(MODEL).as_bytes())
}

fn load(id: u32) -> [ToAgent<'static>; 3] {
    [
        ToAgent::BlobOpen { id, digest: digest(), size: MODEL.len() as u64 },
        ToAgent::BlobChunk { id, offset: 0, data: MODEL },
        ToAgent::Load { id: id + 1, slot: 0, digest: digest(), options: LoadOptions::default() },
    ]
}

#[test]
fn a_model_is_sent_loaded_and_timed_and_each_request_is_done_once() {
    with_device(
        |_| Fake::default(),
        8192,
        |say| {
            assert_eq!(say(&[ToAgent::Clear { id: 1 }]), ["1 fault NoSession"], "no hello yet");
            assert_eq!(say(&[hello(5)]), ["welcome false"]);
            assert_eq!(say(&load(2)), ["held 0", "held 3", "3 node", "3 loaded"]);
            let again = ToAgent::Load { id: 3, slot: 0, digest: digest(), options: LoadOptions::default() };
            assert_eq!(say(&[again]), ["3 node", "3 loaded"]);
            let job = ToAgent::Measure { id: 4, job: 1, plan: PLAN };
            let blocks = ["1.0 samples", "1.1 context", "1.2 samples", "1.3 context", "1.4 completed"];
            assert_eq!(say(core::slice::from_ref(&job)), [&["4 done"][..], &blocks].concat());
            assert_eq!(say(&[job]), ["4 done"], "asked again, it is answered and not done again");
            assert_eq!(say(&[ToAgent::Resume { job: 1, next: 3 }]), blocks[3..]);
            assert_eq!(say(&[ToAgent::Resume { job: 1, next: 0 }]), blocks[3..], "the rest was safe");
            assert_eq!(say(&[hello(5), ToAgent::Resume { job: 1, next: 4 }]), ["welcome true", blocks[4]]);
            let used = ToAgent::Measure { id: 5, job: 1, plan: PLAN };
            assert_eq!(say(&[used]), ["5 fault BadRequest"]);
            assert_eq!(
                say(&[ToAgent::Infer { id: 6, slot: 0, inputs: digest() }]),
                ["output 3", "output 0", "6 done"]
            );
            assert_eq!(
                say(&[hello(6), ToAgent::Measure { id: 1, job: 1, plan: PLAN }]),
                ["welcome false", "1 fault BadRequest"]
            );
        },
    );
}

#[test]
fn another_protocol_is_refused_and_anothers_chatter_not_answered() {
    with_device(
        |_| Fake::default(),
        4096,
        |say| {
            let ToAgent::Hello(hello) = hello(1) else { unreachable!() };
            let other = Hello { dialect: Dialect { version: 9, ..DIALECT }, ..hello };
            let words = say(&[ToAgent::Hello(other)]);
            assert!(words.len() == 1 && words[0].starts_with("Refused"), "{words:?}");
            assert_eq!(say(&[ToAgent::Hello(Hello { magic: *b"modm", ..hello })]).len(), 0);
        },
    );
}

#[test]
fn a_running_job_stops_when_told_and_turns_away_what_needs_the_runtime() {
    let heard = [bytes(&ToAgent::Clear { id: 8 }), bytes(&ToAgent::Stop { id: 9, job: 1 })].concat();
    with_device(
        |wire| Fake { wire: wire.clone(), interject: vec![(30, heard)], ..Fake::default() },
        8192,
        |say| {
            say(&[hello(5)]);
            say(&load(2));
            let plan = MeasurePlan { runs: 1000, ..PLAN };
            let words = say(&[ToAgent::Measure { id: 4, job: 1, plan }]);
            let expected = ["4 done", "8 fault Busy", "9 done", "1.0 samples", "1.1 context", "1.2 stopped"];
            assert_eq!(words, expected);
            assert_eq!(say(&[ToAgent::Clear { id: 10 }]), ["10 done"]);
        },
    );
}

#[test]
fn blocks_without_room_wait_for_the_host_and_none_is_lost() {
    // Acknowledges all that can have come, each time that a message is looked for in vain.
    struct Host(Wire, u32);
    impl Link for Host {
        fn read(&mut self, into: &mut [u8]) -> usize {
            let read = self.0.read(into);
            if read == 0 {
                self.1 += 1;
                let ack = bytes(&ToAgent::Ack { job: 1, next: self.1 / 50 });
                // A device that has nothing to do must find nothing to hear.
                if self.1 < 20_000 {
                    self.0.0.borrow_mut().0.extend(ack);
                }
            }
            read
        }
        fn write(&mut self, bytes: &[u8]) -> usize {
            self.0.write(bytes)
        }
    }
    let wire = Wire::default();
    let (mut content, mut blocks, mut answers) = ([0; 64], [0; MIN_BLOCKS], [0; 512]);
    let memory = Memory { content: &mut content, blocks: &mut blocks, answers: &mut answers };
    let mut device = Device::new(Fake::default(), Steps::default(), Host(wire.clone(), 0), FACTS, 4, memory);
    let plan = MeasurePlan { rounds: 40, ..PLAN };
    for message in [&[hello(5)][..], &load(2), &[ToAgent::Measure { id: 4, job: 1, plan }]].concat() {
        wire.0.borrow_mut().0.extend(bytes(&message));
    }
    device.turn();
    let words = said(&wire);
    let blocks: Vec<_> = words.iter().filter(|word| word.starts_with("1.")).collect();
    assert_eq!(blocks.len(), 81);
    assert_eq!(blocks[80], "1.80 completed");
}

#[test]
fn a_new_host_ends_a_job_that_runs() {
    let newcomer = bytes(&hello(6));
    with_device(
        |wire| Fake { wire: wire.clone(), interject: vec![(30, newcomer)], ..Fake::default() },
        8192,
        |say| {
            say(&[hello(5)]);
            say(&load(2));
            let plan = MeasurePlan { runs: 1000, ..PLAN };
            let words = say(&[ToAgent::Measure { id: 4, job: 1, plan }]);
            assert_eq!(words, ["4 done", "welcome false"], "no block of the old job follows");
            let job = ToAgent::Measure { id: 1, job: 1, plan: PLAN };
            assert_eq!(say(&[job]), ["1 fault BadRequest"], "its slots are empty");
        },
    );
}
