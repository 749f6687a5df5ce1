//! The whole dialogue between two real processes, over every kind of link.

mod client;

use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use client::{Agent, Client, PATIENCE, PLAN, Taken, What, assert_whole, command, timings};
use hanas_models::layer::{Layer, LayerKind};
use hanas_models::onnx::{Init, lower};
use hanas_proto::fault::FaultCode;
use hanas_proto::handshake::{DIALECT, Dialect, Hello, MAGIC};
use hanas_proto::measure::{LoadOptions, MeasurePlan};
use hanas_proto::{ToAgent, ToHost};
use rustix::process::{Pid, Signal, kill_process};
use serialport::{SerialPort, TTYPort};

fn conv() -> Vec<u8> {
    let kind = LayerKind::Conv { kernel: 3, stride: 1, side: 8 };
    lower(&Layer { kind, cin: 3, cout: 4 }.net(), Init::Seeded(1), 2).unwrap()
}

/// From hello to goodbye, in a session that nobody had before.
fn talk(client: &mut Client) {
    static SESSION: AtomicU64 = AtomicU64::new(0xfeed);
    assert!(!client.hello(SESSION.fetch_add(1, Ordering::Relaxed)));
    client.send(&ToAgent::Ping { id: 900 });
    client.wait(|message| (*message == ToHost::Pong { id: 900 }).then_some(()));

    let options = LoadOptions { per_node: true, ..LoadOptions::default() };
    let described = client.load(0, &conv(), options).unwrap();
    assert!(
        described.nodes.iter().any(|(_, op)| op.contains("Conv") || op.contains("MatMul")),
        "{described:?}"
    );
    assert!(described.ports.contains(&(true, "input".into(), "f32 2x3x8x8".into())), "{described:?}");
    assert!(described.ports.contains(&(false, "output".into(), "f32 2x4x8x8".into())), "{described:?}");
    client.load(1, &conv(), LoadOptions::default()).unwrap();

    let plan = MeasurePlan { slots: &[0b11], rounds: 2, warmup: 1, ..PLAN };
    let blocks = client.measure(1, plan);
    assert_whole(&blocks);
    assert_eq!(blocks.last().unwrap().what, What::End("Completed".into()));
    for slot in [0, 1] {
        let times = timings(&blocks, slot);
        assert_eq!(times.len(), 20);
        assert!(times.iter().all(|&ns| ns > 0));
    }
    let contexts: Vec<&What> =
        blocks.iter().map(|block| &block.what).filter(|what| matches!(what, What::Context { .. })).collect();
    assert_eq!(contexts, [&What::Context { round: 0 }, &What::Context { round: 1 }]);
    let nodes = blocks.iter().filter_map(|block| match &block.what {
        What::Nodes { series, .. } => Some(series),
        _ => None,
    });
    let nodes: Vec<&(u16, Vec<u64>)> = nodes.flatten().collect();
    assert_eq!(nodes.len(), 20, "one series a timed run of the slot that was loaded for it");
    assert!(nodes.iter().all(|(slot, times)| *slot == 0 && times.len() == described.nodes.len()));

    let outputs = client.infer(1, &[0; 2 * 3 * 8 * 8 * 4]).unwrap();
    assert_eq!(outputs.len(), 2 * 4 * 8 * 8 * 4);
    let id = client.id();
    client.send(&ToAgent::Clear { id });
    client.done(id).unwrap();
    let id = client.id();
    client.send(&ToAgent::Measure { id, job: 2, plan: PLAN });
    assert!(client.done(id).unwrap_err().text.contains("slot 0 is empty"));
    client.send(&ToAgent::Bye);
}

#[test]
fn over_tcp() {
    let agent = Agent::tcp(&[]);
    assert!(agent.url.starts_with("tcp://127.0.0.1:"), "{}", agent.url);
    talk(&mut agent.connect());
    talk(&mut agent.connect());
}

#[test]
fn over_a_unix_socket_that_a_dead_agent_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let arguments = ["--unix", path.to_str().unwrap()];
    let mut dead = Agent::serve(&arguments);
    dead.end_with(Signal::KILL);
    assert!(path.exists());
    let mut agent = Agent::serve(&arguments);
    assert_eq!(agent.url, format!("unix://{}", path.display()));
    talk(&mut Client::unix(&path));

    let second = command(&arguments).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains("in use by a running agent"));

    assert_eq!(agent.end_with(Signal::INT).code(), Some(130));
    assert!(!path.exists(), "an agent that ends in order leaves nothing");
}

#[test]
fn over_a_serial_line_with_one_host_after_another() {
    let (mut master, slave) = TTYPort::pair().unwrap();
    master.set_timeout(PATIENCE).unwrap();
    let name = slave.name().unwrap();
    let agent = Agent::serve(&["--serial", &name, "--baud", "115200"]);
    assert_eq!(agent.url, format!("serial://{name}?baud=115200"));
    // A boot loader's chatter is on the line, and a host that went away in the middle of a frame.
    std::io::Write::write_all(&mut master, b"U-Boot 2024.01\r\n\x00\x05abc").unwrap();
    talk(&mut Client::new(master.try_clone_native().unwrap(), master.try_clone_native().unwrap()));
    // The next host says hello, and never hears of the first.
    std::io::Write::write_all(&mut master, b"\x07half\x00").unwrap();
    talk(&mut Client::new(master.try_clone_native().unwrap(), master));
}

#[test]
fn over_stdin_and_stdout_as_through_ssh() {
    let mut agent = command(&["--stdio"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut client = Client::new(agent.stdout.take().unwrap(), agent.stdin.take().unwrap());
    talk(&mut client);
    drop(client);
    assert!(agent.wait().unwrap().success(), "it ends with its link");
}

#[test]
fn over_stdin_and_stdout_an_interrupt_is_the_hosts_to_handle() {
    let mut agent = command(&["--stdio"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut client = Client::new(agent.stdout.take().unwrap(), agent.stdin.take().unwrap());
    talk(&mut client);
    // As a terminal does, to all programs of its foreground.
    kill_process(Pid::from_child(&agent), Signal::INT).unwrap();
    talk(&mut client);
    drop(client);
    assert!(agent.wait().unwrap().success(), "it ends with its link");
}

#[test]
fn another_dialect_is_refused_and_the_agents_own_named() {
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut client = agent.connect();
    let dialect = Dialect { version: 9, ..DIALECT };
    client.send(&ToAgent::Hello(Hello { magic: MAGIC, dialect, session: 1, max_frame: 512, host: "old" }));
    let refusal = client.wait(|message| match message {
        ToHost::Refused(refusal) => Some((refusal.dialect, refusal.agent.to_owned())),
        _ => None,
    });
    assert_eq!(refusal, (DIALECT, env!("CARGO_PKG_VERSION").to_owned()));
}

#[test]
fn an_agent_that_knows_no_session_says_so() {
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut client = agent.connect();
    client.send(&ToAgent::Ping { id: 5 });
    let fault = client.done(5).unwrap_err();
    assert_eq!(fault.code, FaultCode::NoSession);
    assert!(fault.text.contains("say hello first"));
}

#[test]
fn a_quiet_link_gets_heartbeats() {
    let agent = Agent::tcp(&["--runtime", "null"]);
    let mut client = agent.open(1);
    let beat = |message: &ToHost<'_>| match message {
        ToHost::Heartbeat { uptime_ms } => Some(*uptime_ms),
        _ => None,
    };
    let first = client.wait(beat);
    assert!(client.wait(beat) > first);
}

#[test]
fn a_stop_ends_a_job_between_runs_and_what_was_taken_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("slow.toml");
    std::fs::write(&script, "default_ns = 1000\nsleep_ns_per_run = 1000000\n").unwrap();
    let agent = Agent::tcp(&["--runtime", "scripted", "--script", script.to_str().unwrap()]);
    let mut client = agent.open(1);
    client.load(0, &conv(), LoadOptions::default()).unwrap();
    let id = client.id();
    client.send(&ToAgent::Measure { id, job: 1, plan: MeasurePlan { rounds: 1000, runs: 1000, ..PLAN } });
    client.done(id).unwrap();
    let mut early = vec![client.wait(|message| match message {
        ToHost::Block(block) => Some(Taken::of(block)),
        _ => None,
    })];
    let stop = client.id();
    client.send(&ToAgent::Stop { id: stop, job: 1 });
    early.extend(client.blocks(1));
    assert_whole(&early);
    assert_eq!(early.last().unwrap().what, What::End("Stopped".into()));
    assert!(!timings(&early, 0).is_empty());
    // The slots are as they were.
    assert_whole(&client.measure(2, PLAN));
}

#[test]
fn the_command_line_refuses_what_is_not_safe_or_not_there() {
    let run = |arguments: &[&str]| {
        let output = command(arguments).stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&["--tcp", "0.0.0.0:7700"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("ssh -L") && text.lines().count() == 1, "{text}");
    assert_eq!(run(&[]).0, Some(2));
    assert_eq!(run(&["--tcp", "127.0.0.1:0", "--memory-limit", "lots"]).0, Some(2));
    let (code, text) = run(&["--tcp", "127.0.0.1:0", "--pin", "999"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("processor 999") && text.contains("--pin none"), "{text}");
    let (code, text) = run(&["--tcp", "127.0.0.1:0", "--pin", "0", "--threads", "2"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("--threads 1") && text.lines().count() == 1, "{text}");
    let (code, text) = run(&["--serial", "/dev/no-such-port"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("/dev/no-such-port"), "{text}");
    if cfg!(not(feature = "ort")) {
        let (code, text) = run(&["--tcp", "127.0.0.1:0", "--runtime", "ort"]);
        assert_eq!(code, Some(1));
        assert!(text.contains("--features ort") && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn the_worker_ends_with_its_supervisor_however_that_ends_and_whatever_it_runs() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("endless.toml");
    std::fs::write(&script, "default_ns = 1000\nsleep_ns_per_run = 3600000000000\n").unwrap();
    for signal in [Signal::KILL, Signal::INT, Signal::TERM] {
        let mut agent = Agent::tcp(&["--runtime", "scripted", "--script", script.to_str().unwrap()]);
        let mut client = agent.open(1);
        client.load(0, &conv(), LoadOptions::default()).unwrap();
        let id = client.id();
        client.send(&ToAgent::Measure { id, job: 1, plan: PLAN });
        let workers = agent.workers();
        assert_eq!(workers.len(), 1);
        agent.end_with(signal);
        let worker = format!("/proc/{}/stat", workers[0]);
        // A process that was not waited for is there as a zombie: it has ended all the same.
        let runs = || std::fs::read_to_string(&worker).is_ok_and(|stat| !stat.contains(") Z "));
        let start = std::time::Instant::now();
        while runs() {
            assert!(start.elapsed() < PATIENCE, "{signal:?}");
            std::thread::yield_now();
        }
    }
}
