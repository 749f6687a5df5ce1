//! A new board from few measurements: scripted devices whose latencies are sums of the same two causes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hanas_tests::agent::Agent;
use hanas_tests::host::Host;
use serde_json::Value;

const TASK: [&str; 4] = ["--task", "cifar10-resnet20", "--batch", "4"];

/// Timed runs of each model: scripted devices are quiet.
const RUNS: &str = "8";

/// Largest relative error of a prediction: noise is .2% of the shortest model on every device.
const TOLERANCE: f64 = 0.03;

/// A device's time for a layer of `width` output channels on a map of `side`: work to a power, and stairs.
fn ns(width: u32, side: u32, scale: f64, power: f64, stairs: f64) -> u64 {
    let work = f64::from(width) * f64::from(side).powf(1.5);
    let stair = f64::from(width.div_ceil(8) * 8) / f64::from(width);
    (scale * work.powf(power) * stair.powf(stairs)) as u64
}

fn script(scale: f64, power: f64, stairs: f64) -> String {
    let mut script = "default_ns = 500000\nnoise_ns = 100\nseed = 7\n".to_owned();
    for (side, widths) in [(32, 32), (16, 64), (8, 128)] {
        for width in 1..=widths {
            let ns = ns(width, side, scale, power, stairs);
            let _ = write!(script, "[[latency]]\noutput = \"4x{width}x{side}x{side}\"\nns = {ns}\n");
        }
    }
    script
}

/// An agent of its own device setting: on one machine the number of threads tells them apart.
fn agent(host: &Host, threads: usize, script: &str) -> Agent {
    let file = host.file(&format!("{threads}.toml"), script);
    Agent::scripted_at(&["--tcp", "127.0.0.1:0", "--threads", &threads.to_string()], &file)
}

fn profile(host: &Host, agent: &Agent) {
    let options = ["--which", "space", "--samples", RUNS, "--allow-noisy", "--quiet"];
    let report = host.json(&[&["profile", "--device", agent.url()], &TASK[..], &options[..]].concat());
    assert_eq!(report["measured_before"], 0);
}

fn adapt(host: &Host, device: &str, references: &str, more: &[&str]) -> Value {
    let options = ["--timed-runs", RUNS, "--allow-noisy", "--quiet", "--samples", "5"];
    let which = ["latency", "adapt", "--device", device, "--references", references];
    host.json(&[&which, &TASK[..], &options[..], more].concat())
}

/// Predicted latency of each layer, ns.
fn predicted(report: &Value) -> BTreeMap<String, (f64, f64)> {
    let rows = report["predicted"].as_array().unwrap().iter();
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
    rows.map(|row| {
        let name = row["model"].as_str().unwrap().to_owned();
        (name, (number(row, "predicted_ns"), number(row, "predicted_se_ns")))
    })
    .collect()
}

#[test]
fn five_models_tell_the_other_220() {
    let host = Host::default();
    let references = [(400.0, 0.6, 0.2), (300.0, 0.7, 0.6), (2_000.0, 0.5, 1.0)];
    for (i, (scale, power, stairs)) in references.into_iter().enumerate() {
        profile(&host, &agent(&host, 1 + i, &script(scale, power, stairs)));
    }
    let new = (900.0, 0.65, 0.5);
    let agent = agent(&host, 4, &script(new.0, new.1, new.2));
    let dry = adapt(&host, agent.url(), "1,2,3", &["--dry-run"]);
    let report = adapt(&host, agent.url(), "1,2,3", &[]);
    let names = |rows: &Value| -> Vec<String> {
        rows.as_array().unwrap().iter().map(|row| row["model"].as_str().unwrap().to_owned()).collect()
    };
    let planned: Vec<&str> =
        dry["measured"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names(&report["measured"]), planned);
    let found = predicted(&report);
    assert_eq!((planned.len(), found.len()), (5, 224 - 5));
    for (side, base, widths) in [(32, 16, 32), (16, 32, 64), (8, 64, 128)] {
        for width in 1..=widths {
            let Some(&(latency, se)) = found.get(&format!("conv3x3/1@{side} {base}->{width}")) else {
                continue;
            };
            let error = latency / ns(width, side, new.0, new.1, new.2) as f64 - 1.0;
            assert!(error.abs() < TOLERANCE, "{width} at {side}: {error}");
            assert!(se > 0.0 && se < 0.2 * latency);
        }
    }
}

#[test]
fn what_cannot_be_learned_from_is_told() {
    let host = Host::default();
    let agent = agent(&host, 1, &script(400.0, 0.6, 0.2));
    profile(&host, &agent);
    let adapt = |references: &str| {
        let which = ["latency", "adapt", "--device", agent.url(), "--references", references, "--quiet"];
        host.run(&[&which, &TASK[..]].concat())
    };
    assert!(adapt("nobody").complaint(1).contains("no device 'nobody'"));
    assert!(adapt("1,1").complaint(2).contains("named twice"));
    assert!(adapt("1").complaint(2).contains("is one of the references"));
}
