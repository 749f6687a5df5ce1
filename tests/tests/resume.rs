//! Whoever dies in the middle of a profile: what was measured stays, what is missing is measured then.

use std::thread;
use std::time::{Duration, Instant};

use hanas_tests::agent::{Agent, is_alive};
use hanas_tests::host::{Ended, Host, finish};
use hanas_tests::planted;

const MODELS: usize = 1 + 224;
/// Timed runs of each model, two a round.
const SAMPLES: usize = 20;
/// Timed runs a visit.
const RUNS: usize = 2;
/// A worker warms every model up with 10 to 20 runs and makes three more a round, so that all rounds take
/// it 9,000 runs at least; what is left after this many takes its successor fewer than that.
const DEADLY_RUN: usize = 8_500;
/// Rounds that are safe before somebody is killed.
const SAFE: i64 = 3;
/// Whatever does not come within this does not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// A round then lasts about a tenth of a second: time enough to be killed in.
const SLOW: &str = "sleep_ns_per_run = 100000";

fn profile<'a>(device: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let command = ["profile", "--device", device, "--task", "cifar10-resnet20", "--which", "space"];
    let options = ["--samples", "20", "--runs", "2", "--race", "0", "--allow-noisy", "--quiet"];
    [&command[..], &options[..], more].concat()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn assert_between(host: &Host, least: usize, most: usize) {
    let counts = host.counts();
    assert_eq!(counts.len(), MODELS);
    let odd: Vec<_> = counts.iter().filter(|(_, count)| !(least..=most).contains(*count)).collect();
    assert!(odd.is_empty(), "not {least} to {most} samples of {odd:?}");
    assert_eq!(host.integrity(), "ok");
}

#[test]
fn a_host_that_is_killed_goes_on_where_it_was() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", planted::script(SLOW)));
    let mut killed = host.spawn(&profile(agent.url(), &[]));
    until("rounds become safe", || host.rounds() >= SAFE);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(host.integrity(), "ok");
    let before = host.samples().len();
    assert!(before >= MODELS * RUNS * SAFE as usize && before < MODELS * SAMPLES, "{before} samples");

    let report = host.run(&profile(agent.url(), &["--format", "json"])).json();
    assert_eq!(report["failed"].as_array().unwrap().len(), 0);
    // Rounds are safe whole or not at all, so nothing is measured twice.
    assert_between(&host, SAMPLES, SAMPLES);
}

#[test]
fn a_host_goes_on_over_an_agent_that_was_killed_and_started_again() {
    let host = Host::default();
    let script = host.file("script.toml", planted::script(SLOW));
    let mut agent = Agent::scripted(&script);
    let address = agent.address().to_owned();
    let profiling = host.spawn(&profile(agent.url(), &[]));
    until("rounds become safe", || host.rounds() >= SAFE);
    let workers = agent.workers();
    assert!(!workers.is_empty());
    agent.kill();
    until("workers end with their agent", || !workers.iter().copied().any(is_alive));
    let _again = Agent::scripted_at(&["--tcp", &address], &script);
    let Ended { code, stderr, .. } = finish(profiling);
    assert_eq!(code, Some(0), "{stderr}");
    // The round in which the agent died is measured again, and its runs that had arrived are kept.
    assert_between(&host, SAMPLES, SAMPLES + RUNS);
}

#[test]
fn an_agent_that_stays_away_is_told_in_one_line_and_the_rest_is_measured_later() {
    let host = Host::default();
    let script = host.file("script.toml", planted::script(SLOW));
    let mut agent = Agent::scripted(&script);
    let profiling = host.spawn(&profile(agent.url(), &[]));
    until("rounds become safe", || host.rounds() >= SAFE);
    agent.kill();
    let ended = finish(profiling);
    let complaint = ended.complaint(3);
    assert!(complaint.contains("went away") && complaint.contains("start it again"), "{complaint}");
    assert_eq!(host.integrity(), "ok");

    let agent = Agent::scripted(&script);
    let _ = host.run(&profile(agent.url(), &["--format", "json"])).json();
    assert_between(&host, SAMPLES, SAMPLES + RUNS);
}

#[test]
fn a_model_that_kills_the_worker_fails_and_the_others_are_measured() {
    let host = Host::default();
    // Each worker counts its own runs.
    let script = planted::script(&format!("{SLOW}\ndie_on_run = {DEADLY_RUN}"));
    let agent = Agent::scripted(&host.file("script.toml", script));
    let report = host.run(&profile(agent.url(), &["--format", "json"])).json();
    let failed = report["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 1, "{failed:?}");
    let reason = failed[0]["reason"].as_str().unwrap();
    assert!(reason.contains("worker died"), "{reason}");
    let name = failed[0]["model"].as_str().unwrap();
    let counts = host.counts();
    assert_eq!(counts.len(), MODELS);
    for (model, count) in counts {
        let enough = (SAMPLES..=SAMPLES + RUNS).contains(&count);
        assert!(if model == name { count < SAMPLES } else { enough }, "{count} samples of {model}");
    }
    assert_eq!(host.integrity(), "ok");
}
