//! Agents that do what ours does seldom or never, and what the host makes of it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::thread;

use hanas::link::session::Timeouts;
use hanas::link::{DeviceUrl, LinkError, Session};
use hanas::profile::ProfileError;
use hanas::profile::candidates::Candidate;
use hanas::profile::runner::{Ended, Note, run};
use hanas::profile::sampling::Sampling;
use hanas::store::ModelSpec;
use hanas_device_core::measure::chosen;
use hanas_proto::fault::FaultCode;
use hanas_proto::frame::{CRC_BYTES, Deframer, Step, decode, encode, framed_len};
use hanas_proto::handshake::{DIALECT, DeviceFacts, ModelForm, Welcome};
use hanas_proto::measure::{Block, Body, JobEnd, LoadOptions, Loaded, NO_SLOT, RoundContext};
use hanas_proto::samples::SeriesWriter;
use hanas_proto::{Digest, Nanos, ToAgent, ToHost};

/// Longest payload that the agent takes, in bytes.
const MAX_FRAME: usize = 66 * 1024;

/// Longest payload that it sends.
const MOST_SAID: usize = 1024;

const FACTS: DeviceFacts<'static> = DeviceFacts {
    agent: "odd",
    runtime: "none",
    threads: 1,
    form: ModelForm::Onnx,
    name: "",
    cpu: "",
    arch: "",
    os: "",
    cores: 1,
    pinned: 1,
    memory_bytes: 1 << 30,
    governor: "",
    clock_resolution_ns: 1,
};

/// What a test answers itself.
enum Asked<'a> {
    Job { slots: &'a [u16], rounds: u16 },
    Stop { id: u32 },
}

/// Why a model is not loaded beside so many others.
type Refuse = fn(usize, Digest) -> Option<FaultCode>;

/// The agent's end of the link, and the job that it tells of.
struct Agent {
    stream: TcpStream,
    job: u32,
    seq: u32,
    refuse: Refuse,
}

impl Agent {
    fn say(&mut self, message: &ToHost<'_>) {
        let (mut scratch, mut out) = (vec![0; MOST_SAID + CRC_BYTES], vec![0; framed_len(MOST_SAID)]);
        let frame = encode(message, &mut scratch, &mut out).unwrap();
        // The host may have hung up.
        self.stream.write_all(frame).ok();
    }

    fn block(&mut self, body: Body<'_>) {
        let (job, seq) = (self.job, self.seq);
        self.seq += 1;
        self.say(&ToHost::Block(Block { job, seq, body }));
    }

    fn visit(&mut self, round: u16, slot: u16) {
        self.visit_of(round, slot, Nanos(1000));
    }

    fn visit_of(&mut self, round: u16, slot: u16, time: Nanos) {
        let mut buffer = [0; 64];
        let mut series = SeriesWriter::new(&mut buffer);
        assert!(series.push(slot, &[time]));
        self.block(Body::Samples { round, series: series.bytes() });
    }

    fn context(&mut self, round: u16) {
        self.block(Body::Context { round, context: RoundContext::default() });
    }

    fn round(&mut self, round: u16, slots: &[u16]) {
        for &slot in slots {
            self.visit(round, slot);
        }
        self.context(round);
    }

    fn end(&mut self, end: JobEnd<'_>) {
        self.block(Body::End(end));
    }

    /// A job as it should be.
    fn complete(&mut self, slots: &[u16], rounds: u16) {
        for round in 0..rounds {
            self.round(round, slots);
        }
        self.end(JobEnd::Completed);
    }

    fn serve(&mut self, mut act: impl FnMut(&mut Self, Asked<'_>)) {
        let mut reader = self.stream.try_clone().unwrap();
        let (mut buffer, mut deframer) = (vec![0; MAX_FRAME], Deframer::new(vec![0; framed_len(MAX_FRAME)]));
        let (mut begun, mut loaded) = (BTreeSet::new(), 0);
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            let mut bytes = &buffer[..read];
            while !bytes.is_empty() {
                let (taken, step) = deframer.feed(bytes);
                bytes = &bytes[taken..];
                let Step::Frame(payload) = step else { continue };
                match decode::<ToAgent<'_>>(payload).unwrap() {
                    ToAgent::Hello(_) => self.say(&ToHost::Welcome(Welcome {
                        dialect: DIALECT,
                        resumed: false,
                        max_frame: MAX_FRAME as u32,
                        window: 16,
                        max_blob: 1 << 20,
                        slots: 512,
                        device: FACTS,
                    })),
                    ToAgent::Clear { id } => {
                        loaded = 0;
                        self.say(&ToHost::Done { id });
                    }
                    ToAgent::BlobOpen { id, size, .. } => self.say(&ToHost::BlobHeld { id, held: size }),
                    ToAgent::Load { id, slot, digest, .. } => {
                        if let Some(code) = (self.refuse)(loaded, digest) {
                            self.say(&ToHost::Fault { id, code, text: "no room" });
                            continue;
                        }
                        loaded += 1;
                        let took = Nanos(1);
                        self.say(&ToHost::Loaded(Loaded { id, slot, nodes: 0, ports: 0, took }));
                    }
                    ToAgent::Measure { id, job, plan } => {
                        self.say(&ToHost::Done { id });
                        if begun.insert(job) {
                            (self.job, self.seq) = (job, 0);
                            let slots: Vec<u16> = chosen(plan.slots).collect();
                            act(self, Asked::Job { slots: &slots, rounds: plan.rounds });
                        }
                    }
                    ToAgent::Stop { id, .. } => act(self, Asked::Stop { id }),
                    _ => {}
                }
            }
        }
    }
}

/// A session with an agent that answers jobs and stops as `act` does.
fn open(act: impl FnMut(&mut Agent, Asked<'_>) + Send + 'static) -> Session {
    open_refusing(|_, _| None, act)
}

/// The same with an agent that does not load every model.
fn open_refusing(refuse: Refuse, act: impl FnMut(&mut Agent, Asked<'_>) + Send + 'static) -> Session {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        Agent { stream, job: 0, seq: 0, refuse }.serve(act);
    });
    Session::open(&url.parse::<DeviceUrl>().unwrap(), Timeouts::default()).unwrap()
}

/// Four runs of each candidate, one a visit.
fn sampling() -> Sampling {
    Sampling { samples: 4, runs: 1, warmup: 0, settle: 0, ..Sampling::default() }
}

/// Profiles three candidates; the runs of each, and which failed.
fn profile(session: &mut Session) -> Result<(Vec<usize>, Vec<usize>), ProfileError> {
    profile_as(session, &sampling())
}

fn profile_as(session: &mut Session, sampling: &Sampling) -> Result<(Vec<usize>, Vec<usize>), ProfileError> {
    let (mut runs, mut failed) = (vec![0; 3], Vec::new());
    let ended = run(session, &three(), &[0; 3], sampling, LoadOptions::default(), &mut |note| {
        match note {
            Note::Visit { candidate, runs: of_visit, .. } => runs[candidate] += of_visit.len(),
            Note::Failed { candidate, .. } => failed.push(candidate),
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    assert_eq!(ended, Ended::Completed);
    Ok((runs, failed))
}

fn three() -> [Candidate; 3] {
    ["a", "b", "c"].map(|name| {
        Candidate::of_file(ModelSpec::File { name: name.to_owned() }, 1, name.as_bytes().to_vec())
    })
}

#[test]
fn a_run_that_fails_costs_the_others_no_samples() {
    let mut jobs = 0;
    let mut session = open(move |agent, asked| {
        let Asked::Job { slots, rounds } = asked else { return };
        jobs += 1;
        if jobs > 1 {
            return agent.complete(slots, rounds);
        }
        // In the second round, before the last had its turn.
        agent.round(0, slots);
        agent.visit(1, 0);
        agent.context(1);
        agent.end(JobEnd::Fault { code: FaultCode::RunFailed, slot: 1, text: "a row beyond the table" });
    });
    assert_eq!(profile(&mut session).unwrap(), (vec![4, 1, 4], vec![1]));
}

#[test]
fn slots_that_nobody_asked_for_are_told_and_no_panic() {
    let visits: fn(&mut Agent) = |agent| {
        agent.visit(0, 7);
        agent.context(0);
        agent.end(JobEnd::Completed);
    };
    let fails: fn(&mut Agent) =
        |agent| agent.end(JobEnd::Fault { code: FaultCode::RunFailed, slot: 7, text: "it fails" });
    for act in [visits, fails] {
        let mut session = open(move |agent, asked| match asked {
            Asked::Job { .. } => act(agent),
            Asked::Stop { id } => agent.say(&ToHost::Done { id }),
        });
        let error = profile(&mut session).unwrap_err();
        assert!(matches!(error, ProfileError::Link(LinkError::OutOfTurn { .. })), "{error}");
        assert!(error.to_string().contains("slot 7"), "{error}");
    }
}

#[test]
fn a_worker_that_dies_before_its_first_visit_costs_no_candidate() {
    let mut jobs = 0;
    let mut session = open(move |agent, asked| {
        let Asked::Job { slots, rounds } = asked else { return };
        jobs += 1;
        if jobs > 1 {
            return agent.complete(slots, rounds);
        }
        agent.end(JobEnd::Fault { code: FaultCode::WorkerDied, slot: NO_SLOT, text: "it was killed" });
    });
    assert_eq!(profile(&mut session).unwrap(), (vec![4, 4, 4], vec![]));
}

/// An agent that does its jobs as it should.
fn complete(agent: &mut Agent, asked: Asked<'_>) {
    if let Asked::Job { slots, rounds } = asked {
        agent.complete(slots, rounds);
    }
}

#[test]
fn slow_models_wait_for_the_warm_up_once() {
    let (told, asked_for) = mpsc::channel();
    let mut session = open(move |agent, asked| {
        let Asked::Job { slots, rounds } = asked else { return };
        told.send((slots.to_vec(), rounds)).unwrap();
        for round in 0..rounds {
            for &slot in slots {
                agent.visit_of(round, slot, if slot == 1 { Nanos(3_000_000_000) } else { Nanos(2_000) });
            }
            agent.context(round);
        }
        agent.end(JobEnd::Completed);
    });
    let settling = Sampling { settle: 20, ..sampling() };
    assert_eq!(profile_as(&mut session, &settling).unwrap(), (vec![4, 4, 4], vec![]));
    drop(session);
    let mut jobs = vec![(vec![0, 1, 2], 1)];
    jobs.extend(vec![(vec![0, 2], 1); 5]);
    jobs.push((vec![0, 1, 2], 4));
    assert_eq!(asked_for.iter().collect::<Vec<_>>(), jobs);
}

#[test]
fn what_does_not_load_beside_others_is_measured_after_them() {
    let refusals: [Refuse; 4] = [
        |loaded, _| (loaded > 1).then_some(FaultCode::TooLarge),
        |loaded, _| (loaded > 0).then_some(FaultCode::TooLarge),
        |loaded, _| (loaded > 1).then_some(FaultCode::WorkerDied),
        |loaded, _| (loaded > 0).then_some(FaultCode::WorkerDied),
    ];
    for refuse in refusals {
        assert_eq!(profile(&mut open_refusing(refuse, complete)).unwrap(), (vec![4, 4, 4], vec![]));
    }
}

#[test]
fn the_anchor_is_measured_again_with_what_had_no_room() {
    let anchored = Sampling { anchored: true, ..sampling() };
    let few = Sampling { set_size: 2, ..anchored };
    let runs = |refuse: Refuse, sampling: &Sampling| {
        profile_as(&mut open_refusing(refuse, complete), sampling).unwrap()
    };
    assert_eq!(runs(|_, _| None, &anchored), (vec![4, 4, 4], vec![]));
    // One at a time beside it: two parts, or two sets.
    for code in [FaultCode::TooLarge, FaultCode::WorkerDied] {
        let refuse: Refuse = match code {
            FaultCode::TooLarge => |loaded, _| (loaded > 1).then_some(FaultCode::TooLarge),
            _ => |loaded, _| (loaded > 1).then_some(FaultCode::WorkerDied),
        };
        assert_eq!(runs(refuse, &anchored), (vec![8, 4, 4], vec![]));
    }
    assert_eq!(runs(|_, _| None, &few), (vec![8, 4, 4], vec![]));
    // None beside it: alone, without end it would try.
    assert_eq!(
        runs(|loaded, _| (loaded > 0).then_some(FaultCode::TooLarge), &anchored),
        (vec![8, 4, 4], vec![])
    );
    // It fails itself.
    let fails: Refuse = |_, digest| (digest == three()[0].digest).then_some(FaultCode::TooLarge);
    assert_eq!(runs(fails, &few), (vec![0, 4, 4], vec![0]));
}

#[test]
fn what_does_not_load_alone_either_fails_and_the_others_are_measured() {
    let refusals: [Refuse; 2] = [
        |_, digest| (digest == three()[1].digest).then_some(FaultCode::TooLarge),
        |_, digest| (digest == three()[1].digest).then_some(FaultCode::WorkerDied),
    ];
    for refuse in refusals {
        assert_eq!(profile(&mut open_refusing(refuse, complete)).unwrap(), (vec![4, 0, 4], vec![1]));
    }
    let none: Refuse = |_, _| Some(FaultCode::TooLarge);
    assert_eq!(profile(&mut open_refusing(none, complete)).unwrap(), (vec![0, 0, 0], vec![0, 1, 2]));
}

#[test]
fn a_stop_that_is_lost_is_said_again() {
    let mut stops = 0;
    let mut session = open(move |agent, asked| match asked {
        Asked::Job { slots, .. } => agent.round(0, slots),
        Asked::Stop { id } => {
            stops += 1;
            if stops == 2 {
                agent.say(&ToHost::Done { id });
                agent.end(JobEnd::Stopped);
            }
        }
    });
    let options = LoadOptions::default();
    let ended = run(&mut session, &three(), &[0; 3], &sampling(), options, &mut |note| {
        let visited = matches!(note, Note::Visit { .. });
        Ok(if visited { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    assert_eq!(ended.unwrap(), Ended::Stopped);
}
