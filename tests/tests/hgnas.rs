//! Graph nets as a user searches them: profile, space, search, training, export, verification and report;
//! a search that is interrupted; and what goes wrong there.

#![cfg(feature = "torch")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hanas_tests::agent::Agent;
use hanas_tests::host::{Host, finish};
use hanas_tests::own_graph;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Whatever does not come within this does not come.
const PATIENCE: Duration = Duration::from_secs(60);

const TASK: [&str; 3] = ["--task", "planted-gnn", "--quiet"];

/// The small settings of every search here; what the predictor is worth after so few nets is no matter.
const SMALL: [&str; 9] =
    ["--latency-nets", "60", "--epochs", "4", "--retrain", "1,2", "--allow-noisy", "--seed", "3"];

fn search<'a>(device: &'a str, out: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    let target = ["--device", device, "--out", out];
    [&["search", "hgnas"], words, &TASK[..], &target[..], &SMALL[..]].concat()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// Of a net's name: `FEATURES>LAYER>LAYER>CLASSES`.
fn first_layer(name: &str) -> &str {
    name.split('>').nth(1).unwrap()
}

/// Heads and dim of the first layer of every trial.
fn pairs_tried(log: &Path) -> BTreeSet<String> {
    let pair = |line: &str| -> String {
        let trial: Value = serde_json::from_str(line).unwrap();
        first_layer(trial["key"].as_str().unwrap()).rsplit('/').next().unwrap().to_owned()
    };
    fs::read_to_string(log).unwrap().lines().map(pair).collect()
}

#[test]
fn a_graph_net_goes_all_the_way() {
    let host = Host::default();
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    let device = ["--device", agent.url()];
    let verify = |more: &[&str]| {
        let words = ["verify", "run", "--samples", "4", "--allow-noisy", "--quiet"];
        host.json(&[&words[..], &device[..], more].concat())
    };
    let few = ["--pairs", "84", "--samples", "4", "--allow-noisy"];
    let profiled = host.run(&[&["graph", "profile"], &TASK[..], &device[..], &few[..]].concat());
    assert_eq!(profiled.code, Some(0), "{}", profiled.stderr);
    let space = host.json(&[&["graph", "space"], &TASK[..]].concat());
    let pair = |choice: &Value| format!("{}x{}", choice["point"][0], choice["point"][1]);
    let choices: BTreeSet<String> = space["choices"].as_array().unwrap().iter().map(pair).collect();
    assert_eq!(choices.len(), 42);
    let shown = host.run(&["space", "show", "--task", "planted-gnn"]).stdout;
    assert!(choices.iter().all(|choice| shown.contains(choice)) && shown.contains("2597 skipped"), "{shown}");

    let found = host.json(&search(
        agent.url(),
        "run",
        &["--space", "hgnas", "--strategy", "random", "--samples", "6"],
    ));
    let tried = pairs_tried(&host.path("run/search.jsonl"));
    assert!(!tried.is_empty() && tried.is_subset(&choices), "{tried:?}");
    assert_eq!(found["net"]["runs"], 2);
    let kept = read(&host.path("run/train.json"));
    let accuracy = kept["result"]["test_accuracy"].as_f64().unwrap();
    assert_eq!(found["verify"]["trained_accuracy"].as_f64(), Some(accuracy));
    assert_eq!(found["verify"]["device_accuracy"].as_f64(), Some(accuracy));

    // The random nets that it measured judge the latency models, the same of them all, its own among them.
    let judged = host.json(&["latency", "eval", "--run", "run"]);
    let models = judged["devices"][0]["models"].as_array().unwrap();
    let names: Vec<&str> = models.iter().map(|of| of["model"].as_str().unwrap()).collect();
    assert_eq!(names, ["structural", "mlp", "residual mlp"]);
    assert!(models.iter().all(|of| of["nets"] == 6), "{judged}");
    assert_eq!(models[2]["mape"], found["net"]["predictor"]["mape"]);
    let by_net = host.run(&["latency", "eval", "--run", "run", "--per-net", "--format", "csv"]).stdout;
    assert_eq!(by_net.lines().count(), 1 + 6 * 3, "{by_net}");
    let both = ["latency", "eval", "--run", "run", "--task", "cifar10-resnet20"];
    assert_eq!(host.run(&both).code, Some(2));

    // Trained again it is the same net, and export gives it out.
    let onnx = fs::read(host.path("run/net.onnx")).unwrap();
    let again = host.json(&["train", "run", "--quiet"]);
    assert_eq!((&again["seed"], &again["result"]), (&kept["seed"], &kept["result"]));
    assert!(fs::read(host.path("run/net.onnx")).unwrap() == onnx);
    let _ = host.json(&["export", "run", "--output", "out.onnx"]);
    assert!(fs::read(host.path("out.onnx")).unwrap() == onnx);
    assert_eq!(verify(&[])["device_accuracy"].as_f64(), Some(accuracy));

    // Trained otherwise it is another net, and the device follows.
    let other = host.json(&["train", "run", "--runs", "2", "--epochs", "5", "--seed", "9", "--quiet"]);
    assert_eq!((&other["runs"], &other["result"]["epochs"]), (&2.into(), &5.into()));
    assert!(fs::read(host.path("run/net.onnx")).unwrap() != onnx);
    assert_eq!(verify(&["--check-images", "0"])["device_accuracy"], Value::Null);
    assert_eq!(verify(&[])["device_accuracy"], other["result"]["test_accuracy"]);

    let report = host.run(&["report", "run", "--task", "planted-gnn", "--output", "page.html"]);
    assert_eq!(report.code, Some(0), "{}", report.stderr);
    let page = fs::read_to_string(host.path("page.html")).unwrap();
    let net = first_layer(found["net"]["summary"].as_str().unwrap());
    for part in
        [net, "run: validation accuracy", "heads x dim", "Search space of graph nets", "% on the device"]
    {
        assert!(page.contains(part), "{part}");
    }
    let replayed = host.json(&["replay"]);
    let what = |of: &&Value| of["what"].as_str().unwrap().contains("hgnas");
    let spaces: Vec<&Value> = replayed["results"].as_array().unwrap().iter().filter(what).collect();
    assert!(!spaces.is_empty() && spaces.iter().all(|of| of["replayed"] == "same"), "{replayed}");

    // A net that answers otherwise than it was trained is found out.
    let altered = fs::read_to_string(host.path("run/train.json")).unwrap();
    let mut altered: Value = serde_json::from_str(&altered).unwrap();
    altered["result"]["test_accuracy"] = 0.123.into();
    fs::write(host.path("run/train.json"), altered.to_string()).unwrap();
    let words = ["verify", "run", "--samples", "4", "--allow-noisy", "--quiet"];
    let refused = host.run(&[&words[..], &device[..]].concat());
    assert!(refused.complaint(1).contains("otherwise than training"), "{}", refused.stderr);
    // And what does not fit a graph net is named.
    assert!(
        host.run(&["train", "run", "--no-teacher"]).complaint(2).contains("--no-teacher is for convnets")
    );
    assert!(host.run(&["export", "run", "--batch", "2"]).complaint(2).contains("whole graph"));
    fs::remove_file(host.path("run/train.json")).unwrap();
    assert!(host.run(&[&words[..], &device[..]].concat()).complaint(1).contains("hanas train run"));
    let untrained =
        ["graph", "train", "--task", "planted-gnn", "--layers", "gat/sum/linear/1x1", "--epochs", "0"];
    assert!(host.run(&untrained).complaint(2).contains("epochs"));
    let profile = host.run(&[&["profile"], &TASK[..], &device[..]].concat());
    assert_eq!(profile.code, Some(2));
    assert!(profile.stderr.contains("hanas graph profile --task planted-gnn"), "{}", profile.stderr);
}

/// The paper's reading, space and limit: the controller knows nothing of the limit, and nets that are drawn
/// after the search are measured against it.
#[test]
fn the_papers_mode_goes_all_the_way_under_a_limit() {
    let host = Host::default();
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    let mode = ["--mode", "paper"];
    let few = ["--pairs", "84", "--samples", "4", "--allow-noisy", "--device", agent.url()];
    let profiled = host.run(&[&["graph", "profile"], &TASK[..], &mode, &few[..]].concat());
    assert_eq!(profiled.code, Some(0), "{}", profiled.stderr);
    let space = host.json(&[&["graph", "space"], &TASK[..], &mode].concat());
    assert_eq!(space["choices"].as_array().unwrap().len(), 42);
    let words = search(agent.url(), "run", &["--paper", "--limit", "q30", "--samples", "5"]);
    let searched = host.run(&words);
    // The net may be slower at the end than when it was chosen: that is told, and what was found is kept.
    let done = searched.code == Some(0) || searched.complaint(1).contains("over its limit");
    assert!(done, "{}", searched.stderr);
    let record = |name: &str| read(&host.path(&format!("run/{name}.json")));
    let (begun, net, verify) = (record("run"), record("net"), record("verify"));
    let limit = begun["drawn_limit_ns"].as_f64().unwrap();
    assert_eq!(begun["settings"]["reward"]["limit_ns"], Value::Null);
    assert_eq!(begun["space"]["sizes"]["heads_only"], false);
    assert_eq!(lines(&host.path("run/search.jsonl")), 5);
    // All that were measured within the limit, and not the five that stand trial elsewhere.
    let finalists = net["finalists"].as_array().unwrap();
    assert!(finalists.len() > 5, "{net}");
    assert!(finalists.iter().all(|of| of["measured_ns"].as_f64().unwrap() <= limit), "{net}");
    let trainings = |of: &Value, name: &str| of[name].as_array().map_or(0, Vec::len);
    assert_eq!((trainings(&finalists[0], "chosen_by"), trainings(&finalists[0], "scores")), (1, 2));
    assert!(finalists[1..].iter().all(|of| trainings(of, "scores") == 1));
    // The net that is kept is the best of the trainings after the choice, under a seed of theirs.
    let kept = record("train");
    assert!([5, 6].map(Value::from).contains(&kept["seed"]), "{kept}");
    let best = finalists[0]["scores"].as_array().unwrap().iter().map(|of| of["validation"].as_f64().unwrap());
    assert_eq!(kept["result"]["val_accuracy"].as_f64(), best.reduce(f64::max));
    assert_eq!(verify["device_accuracy"], verify["trained_accuracy"]);
}

/// What no machine has the memory for is refused before it is begun.
#[test]
fn a_net_that_memory_does_not_hold_is_told() {
    let host = Host::default();
    let wide = ["gat/max/elu/16x256"; 2_000];
    let words = ["graph", "train", "--task", "planted-gnn", "--layers"];
    let refused = host.run(&[&words[..], &wide, &["gat/sum/linear/1x4"]].concat());
    let complaint = refused.complaint(1);
    assert!(complaint.contains("GiB to train") && complaint.contains("fewer heads"), "{complaint}");
}

/// A graph of a user's own goes the way of the known ones, by the name of its file.
#[test]
fn a_graph_of_ones_own_is_profiled_and_searched() {
    let host = Host::default();
    own_graph::write(&host.path("my_graph.npz"));
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    let target = ["--task", "my_graph-gnn", "--data", ".", "--device", agent.url(), "--quiet"];
    let few = ["--pairs", "84", "--samples", "4", "--allow-noisy"];
    let profiled = host.run(&[&["graph", "profile"], &target[..], &few[..]].concat());
    assert_eq!(profiled.code, Some(0), "{}", profiled.stderr);
    let space = host.json(&["graph", "space", "--task", "my_graph-gnn"]);
    assert_eq!(space["graph"], "my_graph");
    let words = ["--space", "hgnas", "--strategy", "random", "--samples", "2", "--out", "run"];
    let search = [&["search", "hgnas"], &target[..], &words[..], &SMALL[..]].concat();
    let paper = host.run(&[&search[..], &["--paper"]].concat());
    assert!(paper.complaint(1).contains("graph space --mode paper"), "{}", paper.stderr);
    let found = host.json(&search);
    let net = found["net"]["summary"].as_str().unwrap();
    let (features, classes) = (own_graph::FEATURES, own_graph::CLASSES);
    assert!(net.starts_with(&format!("{features}>")) && net.ends_with(&format!(">{classes}")), "{net}");
    assert_eq!(found["verify"]["device_accuracy"], found["verify"]["trained_accuracy"]);
    assert!(host.run(&["train", "run", "--quiet"]).complaint(2).contains("my_graph.npz with --data"));

    // Its latencies are known by its graph.
    let judge = ["latency", "eval", "--run", "run"];
    assert!(host.run(&judge).complaint(2).contains("my_graph.npz with --data"));
    let judged = host.json(&[&judge[..], &["--data", "."]].concat());
    assert_eq!(judged["devices"][0]["measured_nets"], 60);
    let _ = host.file("none.jsonl", "");
    let none = host.run(&[&judge[..], &["--data", ".", "--latencies", "none.jsonl"]].concat());
    assert!(none.complaint(1).contains("none.jsonl holds no latency"), "{}", none.stderr);

    // A name without a file is told what it might be.
    let other = ["graph", "profile", "--task", "kora-gnn", "--data", ".", "--device", agent.url()];
    let refused = host.run(&other);
    for part in ["no kora.npz", "cora-gnn", "graph-nets.md"] {
        assert!(refused.complaint(1).contains(part), "{}", refused.stderr);
    }
    // And another graph does not pass for a published one.
    fs::rename(host.path("my_graph.npz"), host.path("cora.npz")).unwrap();
    let passed = ["graph", "profile", "--task", "cora-gnn", "--data", ".", "--device", agent.url()];
    assert!(host.run(&passed).complaint(1).contains(" edges, 12 features, 3 classes and a split of "));
}

/// What one run measured another does not measure again: no two measurements give 60 equal times.
#[test]
fn runs_share_the_latencies_of_their_random_nets() {
    let host = Host::default();
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    let run = |out: &str, samples: &str| {
        let words = ["--space", "graphnas", "--strategy", "random", "--samples", samples];
        let words = [&words[..], &["--latencies", "shared.jsonl"]].concat();
        let _ = host.json(&search(agent.url(), out, &words));
        fs::read(host.path("shared.jsonl")).unwrap()
    };
    let first = run("a", "2");
    assert_eq!(lines(&host.path("shared.jsonl")), 60);
    // A finished search is told and not made again: there are weights of what it found.
    let mut net = read(&host.path("a/net.json"));
    net["measured_ns"] = 123.5.into();
    fs::write(host.path("a/net.json"), net.to_string()).unwrap();
    assert!(run("a", "2") == first);
    assert_eq!(read(&host.path("a/net.json")), net);
    assert!(run("b", "3") == first && !host.path("a/latencies.jsonl").exists());
    // Measured in turns they know of each other.
    let device = ["--device", agent.url()];
    let words = ["verify", "a", "b", "--samples", "4", "--allow-noisy", "--quiet"];
    let both = host.json(&[&words[..], &device[..]].concat());
    let runs = both["runs"].as_array().unwrap();
    assert_eq!((runs.len(), runs[1]["run"].as_str()), (2, Some("b")));
    assert!(runs.iter().all(|run| run["in_turns"].as_array().unwrap().len() == 2), "{both}");
    assert!(runs.iter().all(|run| run["device_accuracy"] == run["trained_accuracy"]), "{both}");
    assert!(runs.iter().all(|run| run["slower"].is_number()), "{both}");
    // Which net tells the pace depends on how nets are read.
    let [read_so, read_else] = [r#"compat_src_softmax\":false"#, r#"compat_src_softmax\":true"#];
    let record = fs::read_to_string(host.path("b/run.json")).unwrap();
    fs::write(host.path("b/run.json"), record.replace(read_so, read_else)).unwrap();
    let apart = host.run(&[&words[..], &device[..]].concat());
    assert!(apart.complaint(2).contains("--paper"), "{}", apart.stderr);
}

/// With the same latencies a search that was interrupted makes the trials of one that was not.
#[test]
fn an_interrupted_search_is_the_uninterrupted_one() {
    let host = Host::default();
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    for (strategy, whole, cut) in [("evolution", "a", "b"), ("rl", "c", "d")] {
        let words = ["--space", "graphnas", "--strategy", strategy, "--samples", "16"];
        let log = |run: &str| host.path(run).join("search.jsonl");
        if whole != "a" {
            fs::create_dir(host.path(whole)).unwrap();
            fs::copy(host.path("a/latencies.jsonl"), host.path("c/latencies.jsonl")).unwrap();
        }
        let _ = host.json(&search(agent.url(), whole, &words));
        fs::create_dir(host.path(cut)).unwrap();
        fs::copy(host.path("a/latencies.jsonl"), host.path(cut).join("latencies.jsonl")).unwrap();
        let child = host.spawn(&search(agent.url(), cut, &words));
        let start = Instant::now();
        while lines(&log(cut)) < 2 {
            assert!(start.elapsed() < PATIENCE, "no trial ends");
            thread::sleep(Duration::from_millis(2));
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let ended = finish(child);
        let kept = ended.stderr.contains("goes on from the last trial");
        assert!(ended.code == Some(130) && kept, "{:?}: {}", ended.code, ended.stderr);
        assert!(lines(&log(cut)) < 16, "it was interrupted in time");
        let other =
            search(agent.url(), cut, &["--space", "graphnas", "--strategy", strategy, "--samples", "17"]);
        assert!(host.run(&other).complaint(1).contains("holds another run"));
        let found = host.json(&search(agent.url(), cut, &words));
        assert_eq!(found["verify"]["device_accuracy"], found["verify"]["trained_accuracy"]);
        assert!(fs::read(log(cut)).unwrap() == fs::read(log(whole)).unwrap(), "{strategy}");
    }
    ctrl_c_twice_ends_a_training_at_once(&host, agent.url(), &host.path("a/latencies.jsonl"));
}

/// Without a crash, though libtorch is at work; an experiment with its searches.
fn ctrl_c_twice_ends_a_training_at_once(host: &Host, device: &str, latencies: &Path) {
    let endless = |word| if word == "4" { "1000000" } else { word };
    let search = search(device, "alone", &["--space", "graphnas", "--patience", "1000000"]);
    let experiment =
        ["experiment", "gnn", "--device", device, "--out", "runs", "--arms", "graphnas", "--seeds", "3"];
    let more = ["--jobs", "2", "--", "--patience", "1000000"];
    let experiment = [&experiment[..], &TASK[..], &more, &SMALL[..SMALL.len() - 2]].concat();
    for (words, shared, begun) in [(search, "alone", "alone"), (experiment, "runs", "runs/graphnas-s3")] {
        fs::create_dir(host.path(shared)).unwrap();
        fs::copy(latencies, host.path(shared).join("latencies.jsonl")).unwrap();
        let child = host.spawn(&words.into_iter().map(endless).collect::<Vec<_>>());
        let start = Instant::now();
        while !host.path(begun).join("run.json").exists() {
            assert!(start.elapsed() < PATIENCE, "no training begins");
            thread::sleep(Duration::from_millis(2));
        }
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(500));
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        }
        let ended = finish(child);
        let told = ended.stderr.contains("once more to end at once\n") && !ended.stderr.contains("panicked");
        assert!(ended.code == Some(130) && told, "{shared}: {:?}: {}", ended.code, ended.stderr);
    }
    let log = fs::read_to_string(host.path("runs/log/graphnas-s3.txt")).unwrap();
    assert!(log.contains("once more to end at once\n") && !log.contains("panicked"), "{log}");
}

/// Two searches at once, of which each does by itself what it would alone; and one that finds nothing.
#[test]
fn searches_go_side_by_side() {
    let host = Host::default();
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    let small = ["--latency-nets", "60", "--epochs", "4", "--retrain", "1,2", "--allow-noisy"];
    let compare = |out: &str, arms: &str, more: &[&str]| {
        let words = ["experiment", "gnn", "--jobs", "2", "--seeds", "1", "--limits", "50", "--arms", arms];
        let on = ["--device", agent.url(), "--out", out, "--format", "json", "--"];
        host.run(&[&words[..], &TASK[..], &on[..], &small[..], more].concat())
    };
    let arms = "graphnas,random";
    let report = compare("runs", arms, &["--samples", "3"]).json();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!((rows.len(), report["failed"].as_array().unwrap().len()), (2, 0), "{report}");
    for run in ["runs/graphnas-s1", "runs/random-s1"] {
        let verify = read(&host.path(run).join("verify.json"));
        assert_eq!(verify["in_turns"].as_array().unwrap().len(), 2, "{verify}");
    }
    let log = fs::read_to_string(host.path("runs/log/random-s1.txt")).unwrap();
    assert!(log.contains("search hgnas") && log.contains("3 architectures trained"), "{log}");
    // Both ask for the same random nets, which the second finds measured.
    assert!(lines(&host.path("runs/latencies.jsonl")) <= 60);
    let again = compare("runs", arms, &["--samples", "3"]).json();
    assert_eq!(again["rows"], report["rows"], "nothing is searched again");
    let other = compare("runs", arms, &["--samples", "2"]);
    assert!(other.complaint(1).contains("graphnas-s1 holds another run"), "{}", other.stderr);

    // A net that answers otherwise than it was trained is an error, after the table.
    let file = host.path("runs/random-s1/verify.json");
    let mut verify = read(&file);
    verify["device_accuracy"] = 0.123.into();
    fs::write(&file, verify.to_string()).unwrap();
    let otherwise = compare("runs", arms, &["--samples", "3"]);
    assert!(otherwise.code == Some(1) && otherwise.stdout.contains("\"rows\""), "{}", otherwise.stderr);
    assert!(otherwise.stderr.contains("random seed 1: the device classifies"), "{}", otherwise.stderr);

    // What another device said of a net does not count: all of its seed are measured again.
    verify["device"] = "elsewhere".into();
    fs::write(&file, verify.to_string()).unwrap();
    let again = compare("runs", arms, &["--samples", "3"]);
    assert_eq!(again.json()["rows"].as_array().unwrap().len(), 2, "{}", again.stderr);
    assert!(again.stderr.contains("measuring 2 net(s) in turns"), "{}", again.stderr);
    assert_eq!(read(&file)["device"], agent.url());
    // And what was searched on another is refused.
    let file = host.path("runs/random-s1/run.json");
    let mut run = read(&file);
    run["device"] = "elsewhere".into();
    fs::write(&file, run.to_string()).unwrap();
    let other = compare("runs", arms, &["--samples", "3"]);
    assert!(other.complaint(2).contains("searched with --device elsewhere"), "{}", other.stderr);

    fs::create_dir(host.path("other")).unwrap();
    fs::copy(host.path("runs/latencies.jsonl"), host.path("other/latencies.jsonl")).unwrap();
    let nothing = || compare("other", "reward", &["--samples", "2", "--limit", "1us"]);
    let report = nothing().json();
    assert!(report["failed"][0]["why"].as_str().unwrap().contains("raise --limit"), "{report}");
    // It is not tried again.
    let log = host.path("other/log/reward-s1.txt");
    let tried = lines(&log);
    let again = nothing();
    assert_eq!((again.json()["failed"].clone(), lines(&log)), (report["failed"].clone(), tried));
    assert!(again.stderr.contains("delete other/reward-s1/none.json to try again"), "{}", again.stderr);
    fs::remove_file(host.path("other/reward-s1/none.json")).unwrap();
    assert_eq!(nothing().json()["failed"], report["failed"]);
    assert!(lines(&log) > tried, "it is tried again");
    let words = ["--space", "graphnas", "--strategy", "random", "--samples", "2", "--limit", "1us"];
    let words = [&words[..], &["--latencies", "runs/latencies.jsonl"]].concat();
    let none = host.run(&search(agent.url(), "none", &words));
    assert!(none.complaint(6).contains("raise --limit"), "{}", none.stderr);
}

/// A search that is finished is known as such, though `hanas run` has forgotten it; and its device is asked anew.
#[test]
fn one_file_passes_over_a_search_that_is_finished() {
    let host = Host::default();
    let agent = Agent::serve(&["--tcp", "127.0.0.1:0"]);
    let file = format!(
        "device = '{}'\ntask = 'planted-gnn'\nout = 'net'\nallow-noisy = true\n\
         [search]\nspace = 'graphnas'\nstrategy = 'random'\nsamples = 2\nlatency-nets = 60\nepochs = 4\n\
         retrain = [1, 2]\nseed = 3\n[verify]\nsamples = 4\n",
        agent.url()
    );
    let _ = host.file("hanas.toml", file);
    let run = || host.run(&["run", "--quiet", "--format", "json"]);
    let first = run();
    let accuracy = first.json()["device_accuracy"].clone();
    assert!(accuracy.is_number() && first.stderr.contains(" search hgnas "), "{}", first.stderr);
    let net = fs::read(host.path("net/net.json")).unwrap();
    fs::remove_file(host.path("net/pipeline.json")).unwrap();
    let again = run();
    assert_eq!(again.json()["device_accuracy"], accuracy, "{}", again.stderr);
    assert!(again.stderr.contains("this search is finished"), "{}", again.stderr);
    assert!(fs::read(host.path("net/net.json")).unwrap() == net);
}
