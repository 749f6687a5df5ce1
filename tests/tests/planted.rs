//! Two processes and a link: what is planted in a device is what its space is made of, whatever the link.

use hanas_tests::agent::Agent;
use hanas_tests::host::{Host, Sample};
use hanas_tests::line::{PtyBridge, Wire};
use hanas_tests::planted;
use serde_json::Value;

const TASK: [&str; 4] = ["--task", "cifar10-resnet20", "--batch", "4"];

/// All widths of the space and the null model.
const MODELS: usize = 1 + 224;

/// Runs of each model where the link is slow: enough for a choice on a device so distinct.
const FEW: usize = 8;

/// A fast line of a microcontroller board: the 100 KB of a profile take seconds.
const BAUD: u32 = 460_800;

fn profile(host: &Host, device: &str, samples: usize) -> Value {
    let samples = samples.to_string();
    // Whether this machine is quiet is of no concern to a device that follows a script.
    // Without a race, so that all models have equally many runs.
    let options = ["--which", "space", "--samples", &samples, "--race", "0", "--allow-noisy", "--quiet"];
    host.json(&[&["profile", "--device", device], &TASK[..], &options[..]].concat())
}

fn choices(host: &Host, mode: &str) -> Vec<Vec<u32>> {
    let space = host.json(&[&["space", "build", "--mode", mode], &TASK[..]].concat());
    let of = |stage: &Value| -> Vec<u32> {
        let choices = stage["choices"].as_array().unwrap().iter();
        choices.map(|choice| u32::try_from(choice["point"][0].as_u64().unwrap()).unwrap()).collect()
    };
    space["stages"].as_array().unwrap().iter().map(of).collect()
}

fn assert_planted(host: &Host) {
    assert_eq!(choices(host, "project"), planted::project_choices());
    assert_eq!(choices(host, "paper"), planted::paper_choices());
}

fn assert_complete(host: &Host, samples: usize) {
    let counts = host.counts();
    assert_eq!(counts.len(), MODELS);
    let odd: Vec<_> = counts.iter().filter(|(_, count)| **count != samples).collect();
    assert!(odd.is_empty(), "not {samples} samples of {odd:?}");
}

/// The same script and order give the same device the same runs: what a perfect link brings.
fn over_tcp(samples: usize) -> Vec<Sample> {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", planted::script("")));
    let _ = profile(&host, agent.url(), samples);
    host.samples()
}

#[test]
fn over_tcp_the_planted_widths_are_found() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", planted::script("")));
    let report = profile(&host, agent.url(), 20);
    assert_eq!(report["candidates"], MODELS);
    assert_eq!(report["failed"].as_array().unwrap().len(), 0);
    assert_complete(&host, 20);
    assert_planted(&host);
    let again = profile(&host, agent.url(), 20);
    assert_eq!((&again["measured_before"], &again["session"]), (&Value::from(MODELS), &Value::Null));
    // The verdict stands, and so does the exit code.
    assert_eq!((&again["verdict"], &again["judged"]), (&report["verdict"], &report["session"]));
    let doubted = ["--which", "space", "--samples", "20", "--race", "0"];
    let doubted = host.run(&[&["profile", "--device", agent.url()], &TASK[..], &doubted[..]].concat());
    let code = if report["verdict"]["trustworthy"] == true { 0 } else { 4 };
    assert_eq!(doubted.code, Some(code), "{}", doubted.stdout);
    assert!(doubted.stdout.contains("nothing was missing\nverdict of session"), "{}", doubted.stdout);
    assert_complete(&host, 20);
}

#[test]
fn over_a_unix_socket_the_planted_widths_are_found() {
    let host = Host::default();
    let script = host.file("script.toml", planted::script(""));
    let socket = host.path("agent.sock");
    let agent = Agent::scripted_at(&["--unix", socket.to_str().unwrap()], &script);
    let _ = profile(&host, agent.url(), FEW);
    assert_complete(&host, FEW);
    assert_planted(&host);
}

#[test]
fn over_a_slow_line_the_planted_widths_are_found() {
    assert_same_over(Wire::clean(BAUD), 0);
}

#[test]
fn over_a_line_that_spoils_bytes_nothing_is_lost_or_doubled() {
    assert_same_over(Wire { flip_one_in: 2_000, seed: 11, ..Wire::clean(BAUD) }, 10);
}

#[test]
fn over_a_line_that_loses_bytes_nothing_is_lost_or_doubled() {
    assert_same_over(Wire { lose_one_in: 2_000, seed: 12, ..Wire::clean(BAUD) }, 10);
}

/// Every run arrives once, at its place, with its very time.
fn assert_same_over(wire: Wire, least_faults: u64) {
    let host = Host::default();
    let script = host.file("script.toml", planted::script(""));
    let line = PtyBridge::new(wire);
    let (agent_side, host_side) = (line.agent_side.to_str().unwrap(), line.host_side.to_str().unwrap());
    let baud = wire.baud.to_string();
    let _agent = Agent::scripted_at(&["--serial", agent_side, "--baud", &baud], &script);
    let _ = profile(&host, &format!("serial://{host_side}?baud={baud}"), FEW);
    assert!(line.faults() >= least_faults, "{} faults on the line", line.faults());
    assert_complete(&host, FEW);
    assert!(host.samples() == over_tcp(FEW), "the samples are not those that a perfect link brings");
    assert_planted(&host);
}

/// A rerun on a device that follows a script may change nothing that was not told, what races adds runs to
/// is little, and what was stored comes out again bit for bit.
#[test]
fn reruns_agree_and_a_replay_is_the_same() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", planted::script("")));
    let options = ["--reruns", "2", "--samples", "20", "--allow-noisy", "--quiet", "--device", agent.url()];
    let report = host.json(&[&["space", "stability"], &TASK[..], &options[..]].concat());
    assert_eq!((&report["runs"], &report["choices"]), (&2.into(), &24.into()));
    assert_eq!(report["silent"], 0, "{}", report["changes"]);
    assert_eq!(report["same_or_told_min"], 24, "{}", report["changes"]);
    // The planted stairs are flat, so noise orders what lies on one.
    assert!(report["spearman_min"].as_f64().unwrap() > 0.9);
    for session in report["sessions"].as_array().unwrap() {
        let (samples, base) = (session["samples"].as_u64().unwrap(), 20 * MODELS as u64);
        assert!((base..2 * base).contains(&samples), "{samples} runs");
    }
    assert_planted(&host);
    let rows = host.json(&["replay"]);
    let rows = rows["results"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "two verdicts, two spaces");
    assert!(rows.iter().all(|row| row["replayed"] == "same"), "{rows:?}");
    let refused = host.run(&["replay", "99"]);
    assert!(refused.complaint(1).contains("no session 99"));
}
