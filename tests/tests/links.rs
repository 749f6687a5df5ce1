//! Links that chatter, hang up or outlive the agent behind them, devices that are slow or in use, and Ctrl-C.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use hanas::latency::verdict::MIN_SAMPLES;
use hanas::link::session::Timeouts;
use hanas::link::{DeviceUrl, LinkError, Session};
use hanas_models::layer::{Layer, LayerKind};
use hanas_models::onnx::{Init, lower};
use hanas_tests::agent::Agent;
use hanas_tests::host::{Ended, Host, finish};
use hanas_tests::line::{PtyBridge, Wire};
use hanas_tests::{planted, program};
use rustix::process::{Pid, Signal, kill_process_group};

const BAUD: u32 = 921_600;

/// Whatever does not come within this does not come.
const PATIENCE: Duration = Duration::from_secs(60);

fn layer(host: &Host) -> PathBuf {
    let kind = LayerKind::Conv { kernel: 3, stride: 1, side: 8 };
    host.file("layer.onnx", lower(&Layer { kind, cin: 3, cout: 4 }.net(), Init::Seeded(1), 1).unwrap())
}

fn bench(host: &Host, device: &str, more: &[&str]) -> Ended {
    let model = layer(host);
    host.run(&[&["bench", model.to_str().unwrap(), "--device", device, "--quiet"], more].concat())
}

fn open(url: &str, timeouts: Timeouts) -> Session {
    Session::open(&url.parse::<DeviceUrl>().unwrap(), timeouts).unwrap()
}

/// A port that writes to whoever connects, for ever.
fn chatterer() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            while stream.write_all(b"U-Boot 2024.01 autoboot\r\n").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    url
}

#[test]
fn a_port_that_chatters_for_ever_is_no_agent() {
    let ended = Host::default().run(&["device", "info", &chatterer()]);
    assert!(ended.complaint(3).contains("no hanas agent answers"), "{}", ended.stderr);
}

/// A serial line with a scripted agent at its end, which can be started again.
struct Line {
    line: PtyBridge,
    script: PathBuf,
}

impl Line {
    fn new(host: &Host) -> Self {
        let script = host.file("script.toml", planted::script(""));
        Self { line: PtyBridge::new(Wire::clean(BAUD)), script }
    }

    fn agent(&self) -> Agent {
        let port = self.line.agent_side.to_str().unwrap();
        Agent::scripted_at(&["--serial", port, "--baud", &BAUD.to_string()], &self.script)
    }

    fn url(&self) -> String {
        format!("serial://{}?baud={BAUD}", self.line.host_side.display())
    }
}

#[test]
fn a_serial_line_that_fell_silent_is_opened_again() {
    let host = Host::default();
    let line = Line::new(&host);
    let mut agent = line.agent();
    let mut session = open(&line.url(), Timeouts { idle: Duration::from_secs(3), ..Timeouts::default() });
    session.ping().unwrap();
    agent.kill();
    let _again = thread::scope(|scope| {
        let starting = scope.spawn(|| {
            // The host has given the line up by then.
            thread::sleep(Duration::from_secs(4));
            line.agent()
        });
        let error = session.ping().unwrap_err();
        assert!(matches!(error, LinkError::Restarted { .. }), "{error}");
        starting.join().unwrap()
    });
    session.ping().unwrap();
}

#[test]
fn an_agent_that_was_started_anew_on_a_line_that_was_not_is_greeted_anew() {
    let host = Host::default();
    let line = Line::new(&host);
    let mut agent = line.agent();
    let mut session = open(&line.url(), Timeouts::default());
    session.clear().unwrap();
    agent.kill();
    let _again = line.agent();
    let asked = Instant::now();
    let error = session.clear().unwrap_err();
    assert!(matches!(error, LinkError::Restarted { .. }), "{error}");
    assert!(asked.elapsed() < Timeouts::default().idle, "no silence was waited for");
    session.clear().unwrap();
}

/// Ctrl-C in a terminal, which all programs of its foreground get, while a device is profiled.
fn interrupted(host: &Host, device: &str) -> Ended {
    let command = ["profile", "--device", device, "--task", "cifar10-resnet20", "--which", "space"];
    let options = ["--samples", "400", "--race", "0", "--allow-noisy", "--quiet"];
    let mut profile = host.command(&[&command[..], &options].concat());
    let profiling = profile.process_group(0).spawn().unwrap();
    let start = Instant::now();
    while host.rounds() < 2 {
        assert!(start.elapsed() < PATIENCE, "rounds become safe");
        thread::sleep(Duration::from_millis(10));
    }
    kill_process_group(Pid::from_child(&profiling), Signal::INT).unwrap();
    finish(profiling)
}

#[test]
fn an_interrupt_is_one_whatever_it_does_to_the_devices_program() {
    let agent = program("hanas-agent").display().to_string();
    let options = |host: &Host| {
        let script = host.file("script.toml", planted::script("sleep_ns_per_run = 100000"));
        format!("--pin none --runtime scripted --script {}", script.display())
    };
    let host = Host::default();
    let local = format!("local:{}", options(&host));
    assert_eq!(interrupted(&host, &local).code, Some(130), "in a group of its own");

    let host = Host::default();
    let exec = format!("exec:{agent} serve --stdio --quiet {}", options(&host));
    assert_eq!(interrupted(&host, &exec).code, Some(130), "the agent leaves it to the host");

    // As ssh does: the command ends, and the agent with it.
    let host = Host::default();
    let served = format!("{agent} serve --stdio --quiet {} <&3 3<&- &", options(&host));
    let lines = ["trap 'kill -9 $!; exit 130' INT", "exec 3<&0", &served, "exec 3<&-", "wait"];
    let shell = host.file("shell", lines.join("\n"));
    let ended = interrupted(&host, &format!("exec:sh {}", shell.display()));
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert_eq!(host.integrity(), "ok");
}

#[test]
fn doctor_tells_what_it_found_where_it_cannot_go_on() {
    let host = Host::default();
    let nowhere = "unix:///nowhere/agent.sock";
    for arguments in [&["doctor", nowhere][..], &["doctor", "--device", nowhere]] {
        let ended = host.run(arguments);
        assert!(ended.complaint(3).contains("no agent at"), "{}", ended.stderr);
        assert!(ended.stdout.contains("libtorch") && ended.stdout.contains("!!  device"), "{}", ended.stdout);
    }
    let elsewhere = "unix:///elsewhere/agent.sock";
    let with_setting = |arguments: &[&str], device: &str| {
        finish(host.command(arguments).env("HANAS_DEVICE", device).spawn().unwrap())
    };
    for ended in [with_setting(&["doctor", nowhere], elsewhere), with_setting(&["doctor"], nowhere)] {
        assert!(ended.complaint(3).contains(nowhere), "{}", ended.stderr);
    }
    let two = host.run(&["doctor", nowhere, "--device", elsewhere]);
    assert!(two.complaint(2).contains("two devices"), "{}", two.stderr);

    let agent = Agent::scripted(&host.file("script.toml", planted::script("")));
    let mut holder = open(agent.url(), Timeouts::default());
    holder.clear().unwrap();
    let ended = host.run(&["doctor", agent.url(), "--queue-timeout", "1", "--quiet"]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    for part in ["governor", "round trip", "in use by another session", "--queue-timeout"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
}

#[test]
fn several_threads_that_are_not_bound_are_no_finding() {
    let host = Host::default();
    let script = host.file("script.toml", planted::script(""));
    let script = ["--runtime", "scripted", "--script", script.to_str().unwrap(), "--threads", "2"];
    let agent = Agent::start(&[&["--tcp", "127.0.0.1:0"], &script[..]].concat());
    let ended = host.run(&["doctor", agent.url(), "--quiet", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let pinning = findings.iter().find(|finding| finding["check"] == "pinning").unwrap();
    assert_eq!(pinning["good"], true, "{pinning}");
}

#[test]
fn a_run_may_take_as_long_as_the_user_says() {
    let host = Host::default();
    let script = host.file("script.toml", planted::script("sleep_ns_per_run = 3600000000000"));
    let agent = Agent::scripted(&script);
    let ended = bench(&host, agent.url(), &["--run-timeout", "1"]);
    let complaint = ended.complaint(3);
    assert!(complaint.contains("within 1s") && complaint.contains("--run-timeout"), "{complaint}");
}

/// A run of 1.5 s, which the script only says: a visit of 2 s has room for the untimed run and one timed one.
#[test]
fn a_slow_model_gets_as_many_runs_as_a_verdict_wants() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", "default_ns = 1500000000\nnoise_ns = 1000\n"));
    let report = bench(&host, agent.url(), &["--allow-noisy", "--format", "json"]).json();
    assert_eq!(report["samples_ns"].as_array().unwrap().len(), MIN_SAMPLES);
    let reasons = report["verdict"]["reasons"].to_string();
    assert!(!reasons.contains("too_few_samples"), "{reasons}");
}

#[test]
fn samples_as_csv_have_their_verdict_beside_them() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", planted::script("")));
    let ended = bench(&host, agent.url(), &["--allow-noisy", "--format", "csv"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("sample_ns\n") && !ended.stdout.contains("verdict"), "{}", ended.stdout);
    assert!(ended.stderr.starts_with("verdict: "), "{}", ended.stderr);
}

#[test]
fn a_device_that_nobody_named_cannot_be_forgotten() {
    let ended = Host::default().run(&["device", "remove", "nosuch"]);
    assert!(ended.complaint(2).contains("no device 'nosuch'"), "{}", ended.stderr);
}
