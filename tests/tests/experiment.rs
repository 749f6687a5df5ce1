//! Many commands by one, as a user gives it: the comparison of searches, and the whole way to a net. Nothing
//! is run twice.

#![cfg(feature = "torch")]

use hanas_tests::agent::Agent;
use hanas_tests::host::Host;
use hanas_tests::own;

/// Nets cost what their convolutions do.
const SCRIPT: &str = "default_ns = 2000\nnoise_ns = 40\nseed = 5\n\
    [convolution]\nfloor_ns = 3000\ntile = 8\nps_per_weight = 900\n";

#[test]
fn an_experiment_runs_its_steps_once_and_compares_the_arms() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", SCRIPT));
    let task = own::task(&host).to_str().unwrap().to_owned();
    let small = ["--budget", "0.9x", "--epochs", "1", "--warmup-epochs", "0", "--train-epochs", "1"];
    let what = ["--arms", "D,E", "--seeds", "1,2", "--train-batch", "8", "--quiet", "--format", "json"];
    // What is scripted computes nothing.
    let what = [&what[..], &["--check-images", "0"]].concat();
    let on = ["experiment", "cnn", "--device", agent.url(), "--task", &task, "--batch", "1"];
    let command = [&on[..], &small, &what].concat();
    let first = host.run(&command);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert_eq!(first.stderr.matches(" search htas ").count(), 2, "{}", first.stderr);
    let report = first.json();
    assert_eq!(report["outcomes"].as_array().unwrap().len(), 4, "{report}");
    let contrast = &report["contrasts"][0];
    assert_eq!((contrast["arm"].as_str(), contrast["than"].as_str()), (Some("D"), Some("E")));
    assert_eq!(contrast["seeds"], 2);
    assert!(contrast["accuracy"]["half"].is_number(), "{contrast}");
    let again = host.run(&command);
    assert_eq!(again.json()["outcomes"], report["outcomes"], "{}", again.stderr);
    assert!(!again.stderr.contains("hanas --store"), "nothing is run again: {}", again.stderr);
    let other: Vec<&str> = command.iter().map(|&word| if word == "0.9x" { "0.8x" } else { word }).collect();
    assert!(host.run(&other).complaint(2).contains("begun with --budget 0.9x"));
    let table = host.run(&[&command[..], &["--table"]].concat());
    assert_eq!(table.json(), report);
    assert!(table.stderr.is_empty(), "{}", table.stderr);
    assert!(host.path("arms/log/D-1.txt").exists());

    // Pairs measured now would change what the other arms were charged.
    let later: Vec<&str> = command.iter().map(|&word| if word == "D,E" { "D,I" } else { word }).collect();
    assert!(host.run(&later).complaint(2).contains("name I in the first call"));

    // Latencies are held against each other only where they were measured together.
    let file = host.path("arms/E-1/verify.json");
    let mut verify: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(verify["in_turns"], serde_json::json!(["arms/D-1", "arms/E-1"]));
    let together = verify["in_turns"].take();
    verify["in_turns"] = serde_json::json!(["arms/E-1"]);
    std::fs::write(&file, verify.to_string()).unwrap();
    let table = host.run(&[&command[..], &["--table"]].concat()).json();
    let marked = table["outcomes"].as_array().unwrap().iter().filter(|of| of["in_turns"] == false);
    assert_eq!(marked.count(), 1, "{table}");
    let apart = host.run(&command);
    assert_eq!(apart.code, Some(0), "{}", apart.stderr);
    assert_eq!(apart.stderr.matches("hanas --store").count(), 1, "{}", apart.stderr);
    assert!(apart.stderr.contains(" verify "), "{}", apart.stderr);

    // Nor does what another device said of them count.
    verify["in_turns"] = together;
    verify["device"] = "elsewhere".into();
    std::fs::write(&file, verify.to_string()).unwrap();
    let table = host.run(&[&command[..], &["--table"]].concat());
    assert_eq!(table.json()["outcomes"].as_array().unwrap().len(), 3);
    assert!(table.stderr.contains("arms/E-1 was last measured on elsewhere"), "{}", table.stderr);
    let asked = host.run(&command);
    assert_eq!(asked.code, Some(0), "{}", asked.stderr);
    assert_eq!(asked.stderr.matches("hanas --store").count(), 1, "{}", asked.stderr);
    assert!(asked.stderr.contains(" verify "), "{}", asked.stderr);
}

#[test]
fn a_step_that_fails_names_itself_and_where_its_words_are() {
    let host = Host::default();
    let task = own::task(&host).to_str().unwrap().to_owned();
    let nowhere = ["experiment", "cnn", "--device", "tcp://127.0.0.1:1", "--task", &task, "--quiet"];
    let ended = host.run(&nowhere);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.contains("hanas profile") && last.contains("profile.txt"), "{last}");
    let unknown = host.run(&["experiment", "cnn", "--device", "x", "--task", "cifar10-vgg"]);
    assert_eq!(unknown.code, Some(2), "{}", unknown.stderr);
}

/// A file for `hanas run`; what is scripted computes nothing, so its answers are not checked.
fn manifest(device: &str, task: &str, more: &str) -> String {
    format!(
        "device = '{device}'\ntask = '{task}'\nbatch = 1\nout = 'net'\nallow-noisy = true\n\
         [pairs]\npairs = 60\n\
         [search]\nbudget = '0.9x'\nepochs = 1\nwarmup-epochs = 0\ntrain-batch = 8\n\
         [train]\nepochs = 1\ntrain-batch = 8\n[verify]\ncheck-images = 0\n{more}"
    )
}

#[test]
fn one_file_goes_all_the_way_and_only_what_changed_is_run_again() {
    let host = Host::default();
    let agent = Agent::scripted(&host.file("script.toml", SCRIPT));
    let task = own::task(&host).to_str().unwrap().to_owned();
    let _ = host.file("hanas.toml", manifest(agent.url(), &task, ""));
    let plan = host.run(&["run", "--dry-run"]);
    assert_eq!(plan.stdout.lines().count(), 9, "{} {}", plan.stdout, plan.stderr);
    assert!(!host.path("net").exists());

    // After the store's path, `--devices` and its path.
    let told = |stderr: &str| -> Vec<String> {
        let lines = stderr.lines().filter_map(|line| line.strip_prefix("hanas --store "));
        lines.map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect()
    };
    let first = host.run(&["run", "--quiet"]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let all = ["profile", "profile", "latency", "space", "search", "train", "export", "verify", "report"];
    assert_eq!(told(&first.stderr), all);
    assert!(first.stdout.contains("kept") && first.stdout.contains("net/report.html"), "{}", first.stdout);
    assert!(host.path("net/net.onnx").is_file() && host.path("net/report.html").is_file());

    let again = host.run(&["run", "--quiet"]);
    assert_eq!((again.code, again.stdout), (Some(0), first.stdout), "{}", again.stderr);
    assert!(told(&again.stderr).is_empty(), "{}", again.stderr);

    let _ = host.file("hanas.toml", manifest(agent.url(), &task, "samples = 30\n"));
    let changed = host.run(&["run", "--quiet", "--format", "json"]);
    assert_eq!(changed.json()["within_budget"], true, "{}", changed.stderr);
    assert_eq!(told(&changed.stderr), ["verify", "report"]);

    // What another device said of the net is none of this one's.
    let file = host.path("net/verify.json");
    let mut verify: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    verify["device"] = "elsewhere".into();
    std::fs::write(&file, verify.to_string()).unwrap();
    let asked = host.run(&["run", "--quiet", "--format", "json"]);
    assert_eq!(asked.json()["device"], agent.url(), "{}", asked.stderr);
    assert_eq!(told(&asked.stderr), ["verify", "report"]);

    let other = manifest(agent.url(), &task, "").replace("[pairs]\npairs = 60", "[pairs]\npairs = 70");
    let _ = host.file("hanas.toml", other);
    assert!(host.run(&["run"]).complaint(2).contains("another [pairs]"));
    let _ = host.file("hanas.toml", manifest(agent.url(), &task, "sample = 30\n"));
    let wrong = host.run(&["run"]);
    assert!(wrong.complaint(2).contains("[verify]: unexpected argument '--sample'"), "{}", wrong.stderr);
    let missing = host.run(&["run", "nowhere.toml"]);
    assert!(missing.complaint(1).contains("nowhere.toml"), "{}", missing.stderr);
}
