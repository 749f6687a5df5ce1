//! The figures of the house: measured over real processes, printed as a table, written as a flat JSON
//! object of numbers to `target/figures.json`. `make bench` runs it; docs/src/figures.md explains it.
//! No figure fails the run: this is measuring, not testing.

mod graph;
mod latency;
mod stability;
#[cfg(feature = "torch")]
mod training;
mod transfer;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use hanas::link::measuring::Plan;
use hanas::link::session::Timeouts;
use hanas::link::{DeviceUrl, Session};
use hanas::profile::candidates::{Candidate, Which, candidates, space_layers};
use hanas::profile::cin::Cin;
use hanas::profile::runner::run;
use hanas::profile::sampling::Sampling;
use hanas::store::ModelSpec;
use hanas_models::layer::Layer;
use hanas_models::onnx::{Init, lower};
use hanas_models::resnet::Family;
use hanas_models::spec::Net;
use hanas_models::weights::seeded;
use hanas_proto::Nanos;
use hanas_proto::measure::LoadOptions;
use hanas_tests::agent::Agent;
use hanas_tests::line::{PtyBridge, Wire};
use tract_onnx::prelude::*;

/// One figure: key, value, goal, how it was measured.
struct Figure {
    key: &'static str,
    value: f64,
    goal: &'static str,
    how: String,
}

/// Measures some figures.
type Measure = fn() -> Result<Vec<Figure>>;

/// What can be measured, by the names that the command takes.
const GROUPS: &[(&str, Measure)] = &[
    ("round-trip", || Ok(vec![null_round_trip()?])),
    ("upload", || Ok(vec![upload()?])),
    ("bytes", || Ok(vec![bytes_per_sample()?])),
    ("overhead", || Ok(vec![beside_tract()?, per_node()?])),
    ("profile", || Ok(vec![profile_tcp()?, profile_serial()?])),
    #[cfg(feature = "torch")]
    ("supernet", || Ok(vec![training::supernet()?])),
    #[cfg(feature = "torch")]
    ("steps", || {
        Ok([training::htas_steps(2)?, training::htas_steps(1)?, vec![training::kd_step()?]]
            .into_iter()
            .flatten()
            .collect())
    }),
    ("graph", graph::figures),
    ("latency", latency::models),
    ("reruns", stability::reruns),
    ("racing", stability::racing),
    ("transfer", transfer::figures),
];

/// Without arguments all groups; else those named, which renews their figures in the file.
fn main() -> Result<()> {
    // As `hanas` and the agent's worker have it.
    #[cfg(feature = "torch")]
    hanas::train::allocator::keep_freed_memory();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(odd) = wanted.iter().find(|name| !GROUPS.iter().any(|(known, _)| known == name)) {
        let known: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
        anyhow::bail!("no figures called {odd}; there are {}", known.join(", "));
    }
    let mut figures = Vec::new();
    for (name, measure) in GROUPS {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        // Hosts and agents of the tests panic where a command fails or hangs; the other groups are measured still.
        let measured = std::panic::catch_unwind(measure);
        match measured.unwrap_or_else(|_| Err(anyhow::anyhow!("a command failed or hung, as told above"))) {
            Ok(found) => {
                found.iter().for_each(|figure| eprintln!("{} = {:.3}", figure.key, figure.value));
                figures.extend(found);
            }
            Err(error) => eprintln!("{name}: not measured: {error:#}"),
        }
    }
    write(&figures, !wanted.is_empty())
}

fn write(figures: &[Figure], renew: bool) -> Result<()> {
    println!("{:<38} {:>12} {:>8}  how", "figure", "value", "goal");
    for Figure { key, value, goal, how } in figures {
        println!("{key:<38} {value:>12.3} {goal:>8}  {how}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/figures.json");
    let mut map = serde_json::Map::new();
    if renew && let Ok(text) = std::fs::read_to_string(&path) {
        map = serde_json::from_str(&text)?;
    }
    map.extend(figures.iter().map(|figure| (figure.key.to_owned(), figure.value.into())));
    std::fs::write(&path, serde_json::to_string_pretty(&map)? + "\n")?;
    Ok(())
}

/// An agent as a user starts it, on a free TCP port.
fn agent(options: &[&str]) -> Agent {
    Agent::start(&[&["--tcp", "127.0.0.1:0"], options].concat())
}

fn open(url: &str) -> Result<Session> {
    Ok(Session::open(&url.parse::<DeviceUrl>()?, Timeouts::default())?)
}

fn quantile(values: &mut [f64], order: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * order).round() as usize]
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

fn one_run(slots: Vec<u16>, rounds: u16, runs: u16) -> Plan {
    Plan { slots, rounds, warmup: 1, runs, seed: 1, visit_limit: Nanos(0) }
}

fn null_round_trip() -> Result<Figure> {
    let agent = agent(&["--runtime", "null"]);
    let mut session = open(agent.url())?;
    let digest = session.upload(b"null")?;
    session.load(0, digest, LoadOptions::default())?;
    let plan = Plan { warmup: 0, ..one_run(vec![0], 1, 1) };
    let mut times = Vec::new();
    for _ in 0..3_000 {
        let start = Instant::now();
        session.measure(&plan, |_| ControlFlow::Continue(()))?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let value = median(&mut times);
    let how = "median of 3000 jobs of one run, request to last block, host and agent over TCP".to_owned();
    Ok(Figure { key: "null_round_trip_tcp_p50_us", value, goal: "<= 100", how })
}

fn upload() -> Result<Figure> {
    const SIZE: usize = 32 << 20;
    let agent = agent(&["--runtime", "null"]);
    let mut session = open(agent.url())?;
    let mut rates = Vec::new();
    for turn in 0..5u32 {
        let mut state = turn.wrapping_mul(2_654_435_761) | 1;
        let content: Vec<u8> = (0..SIZE)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let start = Instant::now();
        session.upload(&content)?;
        rates.push(SIZE as f64 / 1e6 / start.elapsed().as_secs_f64());
    }
    let how = "median of 5 uploads of 32 MiB random bytes over TCP, digest checked".to_owned();
    Ok(Figure { key: "upload_tcp_mb_per_s", value: median(&mut rates), goal: ">= 200", how })
}

fn resnet20() -> Result<Net> {
    Ok(Family::cifar_resnet(20, 10)?.base().net()?)
}

/// Twenty layers over all output sizes, and ResNet20 whole, with real weights.
fn subjects() -> Result<Vec<Vec<u8>>> {
    let lists = space_layers(&Family::cifar_resnet(20, 10)?, 2);
    let layers: Vec<Layer> = lists.concat().into_iter().step_by(11).take(20).collect();
    let mut nets: Vec<Net> = layers.iter().map(Layer::net).collect();
    nets.push(resnet20()?);
    nets.iter().map(|net| Ok(lower(net, Init::Weights(&seeded(net, 1)), 1)?)).collect()
}

fn bytes_per_sample() -> Result<Figure> {
    let agent = agent(&[]);
    let mut session = open(agent.url())?;
    let subjects = subjects()?;
    for (slot, onnx) in (0u16..).zip(&subjects) {
        let digest = session.upload(onnx)?;
        session.load(slot, digest, LoadOptions::default())?;
    }
    let plan = one_run((0..subjects.len() as u16).collect(), 15, 4);
    let before = session.received_bytes();
    session.measure(&plan, |_| ControlFlow::Continue(()))?;
    let samples = subjects.len() as f64 * 60.0;
    let value = (session.received_bytes() - before) as f64 / samples;
    let how = "all bytes received during a job of 21 models, 15 rounds of 4 runs, per timed run".to_owned();
    Ok(Figure { key: "bytes_per_sample_wire", value, goal: "<= 12", how })
}

/// Runs one model through tract here, pinned to the agent's processor.
fn direct(onnx: &[u8]) -> Result<impl FnMut(usize) -> Result<Vec<f64>>> {
    let model = tract_onnx::onnx().model_for_read(&mut &onnx[..])?.into_optimized()?;
    let shape = model.input_fact(0)?.shape.as_concrete().context("a definite input")?.to_vec();
    let mut state = model.into_runnable()?.spawn()?;
    let len: usize = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| ((i * 7919 % 2000) as f32) / 1000.0 - 1.0).collect();
    let input = Tensor::from_shape(&shape, &values)?.into_tvalue();
    Ok(move |runs: usize| {
        let mut times = Vec::new();
        for _ in 0..runs {
            let inputs = tvec!(input.clone());
            let start = Instant::now();
            let outputs = state.run(inputs)?;
            times.push(start.elapsed().as_nanos() as f64);
            drop(outputs);
        }
        Ok(times)
    })
}

fn beside_tract() -> Result<Figure> {
    let agent = agent(&[]);
    let mut session = open(agent.url())?;
    let pinned = session.facts().pinned;
    let mut extra = Vec::new();
    for onnx in subjects()? {
        let digest = session.upload(&onnx)?;
        session.load(0, digest, LoadOptions::default())?;
        let mut direct = direct(&onnx)?;
        let (mut agent_ns, mut direct_ns) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            let _pin = Pin::to(pinned)?;
            direct(3)?;
            direct_ns.extend(direct(10)?);
            drop(_pin);
            let plan = Plan { warmup: 3, ..one_run(vec![0], 1, 10) };
            session.measure(&plan, |event| {
                if let hanas::link::measuring::Event::Visit { runs, .. } = event {
                    agent_ns.extend(runs.iter().map(|run| run.0 as f64));
                }
                ControlFlow::Continue(())
            })?;
        }
        extra.push(100.0 * (quantile(&mut agent_ns, 0.25) / quantile(&mut direct_ns, 0.25) - 1.0));
    }
    let worst = extra.iter().copied().fold(f64::MIN, f64::max);
    let how = format!(
        "lower quartiles of 100 runs each in alternating tens on one processor; median over ResNet20 and 20 layers, worst {worst:.1}"
    );
    Ok(Figure { key: "agent_vs_direct_tract_median_pct", value: median(&mut extra), goal: "<= 2", how })
}

/// Pins this thread while it lives.
struct Pin(rustix::thread::CpuSet);

impl Pin {
    fn to(mask: u64) -> Result<Self> {
        let before = rustix::thread::sched_getaffinity(None)?;
        let mut set = rustix::thread::CpuSet::new();
        for cpu in (0..64).filter(|cpu| mask >> cpu & 1 == 1) {
            set.set(cpu);
        }
        if mask != 0 {
            rustix::thread::sched_setaffinity(None, &set)?;
        }
        Ok(Self(before))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let _ = rustix::thread::sched_setaffinity(None, &self.0);
    }
}

fn per_node() -> Result<Figure> {
    let agent = agent(&[]);
    let mut session = open(agent.url())?;
    let net = resnet20()?;
    let onnx = lower(&net, Init::Weights(&seeded(&net, 1)), 1)?;
    let digest = session.upload(&onnx)?;
    session.load(0, digest, LoadOptions::default())?;
    session.load(1, digest, LoadOptions { per_node: true, ..LoadOptions::default() })?;
    let mut times = [Vec::new(), Vec::new()];
    session.measure(&one_run(vec![0, 1], 40, 5), |event| {
        if let hanas::link::measuring::Event::Visit { slot, runs, .. } = event {
            times[usize::from(slot)].extend(runs.iter().map(|run| run.0 as f64));
        }
        ControlFlow::Continue(())
    })?;
    let [plain, per_node] = &mut times;
    let value = 100.0 * (median(per_node) / median(plain) - 1.0);
    let how = "ResNet20, medians of 200 runs each, interleaved in one job".to_owned();
    Ok(Figure { key: "per_node_profiling_slowdown_pct", value, goal: "<= 5", how })
}

fn the_224() -> Result<Vec<Candidate>> {
    let mut list = candidates(&Family::cifar_resnet(20, 10)?, 2, 1, Which::Space, Cin::Base)?;
    list.retain(|candidate| candidate.spec != ModelSpec::Null);
    Ok(list)
}

/// Profiles the 224 widths, 60 runs each, from an empty agent; wall seconds.
fn profile(url: &str) -> Result<f64> {
    let list = the_224()?;
    let have = vec![0; list.len()];
    let mut session = open(url)?;
    let start = Instant::now();
    let mut samples = 0;
    run(&mut session, &list, &have, &Sampling::default(), LoadOptions::default(), &mut |note| {
        if let hanas::profile::runner::Note::Visit { runs, .. } = note {
            samples += runs.len();
        }
        Ok(ControlFlow::Continue(()))
    })?;
    anyhow::ensure!(samples == 224 * 60, "{samples} samples");
    Ok(start.elapsed().as_secs_f64())
}

fn profile_tcp() -> Result<Figure> {
    let mut times = Vec::new();
    for _ in 0..3 {
        let agent = agent(&[]);
        times.push(profile(agent.url())?);
    }
    let how =
        "224 layers at batch 1, 60 timed and 15 untimed runs each, load included; median of 3".to_owned();
    Ok(Figure { key: "profile_224x60_tcp_s", value: median(&mut times), goal: "<= 3", how })
}

fn profile_serial() -> Result<Figure> {
    let line = PtyBridge::new(Wire::clean(115_200));
    let path = line.agent_side.to_string_lossy().into_owned();
    let _agent = Agent::start(&["--serial", &path, "--baud", "115200"]);
    let url = format!("serial://{}?baud=115200", line.host_side.display());
    let how = "the same through two pseudo-terminals limited to 11520 bytes a second each way".to_owned();
    Ok(Figure { key: "profile_224x60_115200_baud_s", value: profile(&url)?, goal: "<= 60", how })
}
