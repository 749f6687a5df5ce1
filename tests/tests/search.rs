//! Searching and training as a user does, on a net and images of their own; and what goes wrong there.

#![cfg(feature = "torch")]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hanas_tests::agent::Agent;
use hanas_tests::host::{Host, finish};
use hanas_tests::{own, planted};
use rustix::process::{Pid, Signal, kill_process};

/// Whatever does not come within this does not come.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// A host with the small task, a device on which every whole net takes half a millisecond, and its
/// profile.
struct Bed {
    host: Host,
    agent: Agent,
    task: String,
}

impl Bed {
    fn new() -> Self {
        let host = Host::default();
        let agent = Agent::scripted(&host.file("script.toml", planted::script("")));
        Self::profiled(host, agent)
    }

    fn profiled(host: Host, agent: Agent) -> Self {
        let task = own::task(&host).to_str().unwrap().to_owned();
        let bed = Self { host, agent, task };
        let profile = ["profile", "--samples", "4", "--allow-noisy"];
        let ended = bed.host.run(&bed.on_device(&profile));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        bed
    }

    /// These words with device and task.
    fn on_device<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        let device = ["--device", self.agent.url(), "--task", &self.task, "--batch", "1", "--quiet"];
        [words, &device[..]].concat()
    }

    fn search<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        let small = ["--cost", "paper-f", "--warmup-epochs", "0", "--train-batch", "8"];
        self.on_device(&[&["search"], words, &small[..]].concat())
    }
}

/// TOML in, ONNX out, and the device's answers are those of training.
#[test]
fn a_net_of_ones_own_goes_all_the_way() {
    let host = Host::default();
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    let bed = Bed::profiled(host, agent);
    let host = &bed.host;
    let space = host.run(&["space", "build", "--task", &bed.task, "--batch", "1"]);
    assert_eq!(space.code, Some(0), "{}", space.stderr);
    let found = host.json(&bed.search(&["htas", "--budget", "0.9x", "--epochs", "3", "--out", "run"]));
    let (measured, budget) = (&found["net"]["measured_ns"], &found["budget_ns"]);
    assert!(measured.as_f64().unwrap() <= 1.05 * budget.as_f64().unwrap(), "{measured} of {budget}");
    assert!(found["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    let train = ["train", "run", "--epochs", "6", "--train-batch", "8", "--quiet"];
    let trained = host.json(&train);
    assert!(trained["test_accuracy"].as_f64().unwrap() > 0.8, "{trained}");
    assert_eq!(trained["normalisation"]["mean"].as_array().unwrap().len(), 1);
    let exported = host.json(&["export", "run", "--output", "net.onnx"]);
    assert!(exported["bytes"].as_u64().unwrap() > 1_000);
    let verify = ["verify", "run", "--device", bed.agent.url(), "--samples", "4", "--allow-noisy", "--quiet"];
    let ended = host.run(&[&verify[..], &["--format", "json"]].concat());
    // Over the budget is possible on a machine that is busy; wrong answers are not.
    assert!(matches!(ended.code, Some(0 | 1)), "{}", ended.stderr);
    let verified: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(verified["on_device"]["images"], own::TRAIN / 2);
    let difference =
        verified["on_device"]["accuracy"].as_f64().unwrap() - trained["test_accuracy"].as_f64().unwrap();
    assert!(difference.abs() < 1e-9, "{verified}");
}

#[test]
fn a_device_that_is_lost_in_a_search_has_its_own_exit_code() {
    let mut bed = Bed::new();
    let long = bed.search(&["aligned", "--budget", "500us", "--epochs", "100000", "--out", "run"]);
    let search = bed.host.spawn(&long);
    until("an epoch ends", || lines(&bed.host.path("run/search.jsonl")) > 1);
    bed.agent.kill();
    let ended = finish(search);
    let complaint = ended.complaint(3);
    assert!(complaint.contains("cannot time a net: "), "{complaint}");
}

#[test]
fn budgets_out_of_reach_say_what_can_be_had() {
    let bed = Bed::new();
    let refused = |budget: &str| {
        let ended = bed.host.run(&bed.search(&["aligned", "--budget", budget, "--out", "run"]));
        assert!(!bed.host.path("run").exists(), "the folder is free for another budget");
        ended.complaint(1).to_owned()
    };
    let small = refused("1us");
    assert!(small.contains("the smallest costs 0.50") && small.contains("raise --budget"), "{small}");
    let large = refused("90ms");
    assert!(large.contains("the largest costs 0.50") && large.contains("lower --budget"), "{large}");
}

/// Multiply-adds decide, and the device still says how fast the net is.
#[test]
fn a_net_found_by_multiply_adds_is_measured_at_the_end() {
    let bed = Bed::new();
    let search = ["uniform", "--mode", "paper", "--budget", "0.5x", "--out", "run"];
    let found = bed.host.json(&bed.search(&search));
    assert!(found["budget_ns"].is_null(), "{found}");
    let measured = found["net"]["measured_ns"].as_f64().unwrap();
    assert!((0.4e6..0.6e6).contains(&measured), "{found}");
    let kept: serde_json::Value =
        serde_json::from_slice(&fs::read(bed.host.path("run/net.json")).unwrap()).unwrap();
    assert_eq!(kept["measured_ns"].as_f64(), Some(measured));
}

#[test]
fn a_run_of_another_task_or_with_other_settings_is_refused() {
    let bed = Bed::new();
    let search = ["aligned", "--budget", "500us", "--epochs", "1", "--out", "run"];
    let words = |seed| bed.search(&[&search[..], &["--seed", seed]].concat());
    let found = bed.host.run(&words("1"));
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    assert!(bed.host.run(&words("2")).complaint(1).contains("holds another run"));
    let toml = fs::read_to_string(&bed.task).unwrap().replace("\"dots\"\n\n", "\"spots\"\n\n");
    let other = bed.host.file("spots.toml", toml).to_str().unwrap().to_owned();
    let device = ["--device", bed.agent.url(), "--task", &other, "--batch", "1", "--quiet"];
    let profile = [&["profile", "--samples", "4", "--allow-noisy"], &device[..]].concat();
    assert_eq!(bed.host.run(&profile).code, Some(0));
    let search = [&["search", "--cost", "paper-f"], &search[..], &device[..]].concat();
    assert!(bed.host.run(&search).complaint(1).contains("holds another run"));
}

/// A search that is given again tells what it found, whatever the device says now: there may be weights of
/// it. Another budget is another run.
#[test]
fn a_finished_search_is_told_and_not_made_again() {
    let bed = Bed::new();
    let host = &bed.host;
    let words = |budget| bed.search(&["aligned", "--budget", budget, "--epochs", "1", "--out", "run"]);
    let first = host.json(&words("1x"));
    let (file, base) = (host.path("run/net.json"), fs::read(host.path("run/base.json")).unwrap());
    let mut net = first["net"].clone();
    net["measured_ns"] = serde_json::json!(123.5);
    fs::write(&file, net.to_string()).unwrap();
    let again = host.json(&words("1x"));
    assert_eq!(again["net"], net);
    assert_eq!((&again["base"], &again["budget_ns"]), (&first["base"], &first["budget_ns"]));
    assert_eq!(fs::read_to_string(&file).unwrap(), net.to_string());
    assert_eq!(fs::read(host.path("run/base.json")).unwrap(), base);
    for other in ["1.05x", "500us"] {
        assert!(host.run(&words(other)).complaint(1).contains("holds another run"), "{other}");
    }
}

#[test]
fn a_training_with_other_settings_or_without_images_is_refused() {
    let bed = Bed::new();
    let host = &bed.host;
    let search = bed.search(&["aligned", "--budget", "500us", "--epochs", "1", "--out", "run"]);
    let none = ["--images", "0"];
    let refused = host.run(&[&search[..], &none].concat());
    assert!(refused.complaint(2).contains("--images 0"));
    let no_rate = ["--rate", "0"];
    assert!(host.run(&[&search[..], &no_rate].concat()).complaint(2).contains("--rate"));
    assert!(!host.path("run").exists());
    assert_eq!(host.run(&search).code, Some(0));
    let train = ["train", "run", "--epochs", "1", "--train-batch", "8", "--quiet"];
    assert!(host.run(&[&train[..], &none].concat()).complaint(2).contains("--images 0"));
    assert!(host.run(&[&train[..], &no_rate].concat()).complaint(2).contains("--rate"));
    assert!(!host.path("run/weights.safetensors").exists());
    assert_eq!(host.run(&train).code, Some(0));
    let alone = host.run(&[&train[..], &["--no-teacher"]].concat());
    assert!(alone.complaint(1).contains("written with other settings"));
}

/// A disk that fills up while a checkpoint is written leaves the old one, from which training goes on.
#[test]
fn a_full_disk_leaves_the_old_checkpoint() {
    let bed = Bed::new();
    let host = &bed.host;
    let found = host.run(&bed.search(&["aligned", "--budget", "500us", "--epochs", "1", "--out", "run"]));
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    let train = ["train", "run", "--no-teacher", "--epochs", "100000", "--train-batch", "8", "--quiet"];
    let child = host.spawn(&train);
    let checkpoint = host.path("run/train.checkpoint.safetensors");
    until("a checkpoint is written", || checkpoint.is_file());
    assert!(host.run(&train).complaint(1).contains("another hanas is at work in run"));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(finish(child).code, Some(130));
    let before = fs::read(&checkpoint).unwrap();
    // Enough for a log that has just begun, not for a checkpoint.
    fs::write(host.path("run/train.jsonl"), "").unwrap();
    assert!(before.len() > 8 * 512);
    let ended = finish(host.without_room(8, &train).spawn().unwrap());
    let complaint = ended.complaint(1);
    assert!(complaint.contains("cannot write") && complaint.contains("the old checkpoint"), "{complaint}");
    assert!(fs::read(&checkpoint).unwrap() == before);
    let left = fs::read_dir(host.path("run")).unwrap().flatten();
    assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count(), 0);
}

#[test]
fn images_that_do_not_fit_the_task_are_named() {
    let bed = Bed::new();
    let search = bed.search(&["aligned", "--budget", "500us", "--epochs", "1", "--out", "run"]);
    let train = bed.host.path("dots/train.bin");
    let good = fs::read(&train).unwrap();
    fs::write(&train, &good[1..]).unwrap();
    assert!(bed.host.run(&search).complaint(1).contains("no whole number of records of 65"));
    fs::write(&train, [&[2], &good[1..]].concat()).unwrap();
    assert!(bed.host.run(&search).complaint(1).contains("image 0 has label 2, and there are 2 classes"));
    let few = [&search[..], &["--images", "65"]].concat();
    fs::write(&train, good).unwrap();
    assert!(bed.host.run(&few).complaint(1).contains("65 images are asked for and the set has 64"));
    assert!(!bed.host.path("run").exists());
}
