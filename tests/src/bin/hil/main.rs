//! Hardware in the loop: each board of `tests/hil` passes or fails. `make hil` runs it;
//! docs/src/hil.md explains it.
//!
//! A board is checked through the programs that a user has, from the handshake to a small profile with
//! its verdict and space, and its answers are compared with those of an agent on this machine.

mod board;

use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use board::{Board, Expect};
use hanas::link::session::Timeouts;
use hanas::link::{DeviceUrl, Session};
use hanas::task::Task;
use hanas_models::layer::types;
use hanas_models::onnx::{Init, lower};
use hanas_models::weights::seeded;
use hanas_tests::host::Host;
use hanas_tests::same::{TOLERANCE, images, largest_error};
use serde_json::Value;

/// The profiled task, `tests/hil/small.toml`.
const TASK: &str = "small";

/// An agent that is started here has this long until it answers.
const START: Duration = Duration::from_secs(20);

/// Timed runs of each model.
const SAMPLES: &str = "20";

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    match run(&names) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hil: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Checks the named boards, or those that are enabled; returns how many failed.
fn run(names: &[String]) -> Result<usize> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("hil");
    let boards = board::read(&folder)?;
    if let Some(unknown) = names.iter().find(|name| !boards.contains_key(*name)) {
        let known: Vec<&str> = boards.keys().map(String::as_str).collect();
        bail!("there is no tests/hil/{unknown}.toml; boards are {}", known.join(", "));
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, board) in &boards {
        let is_named = names.iter().any(|wanted| wanted == name);
        if !(is_named || names.is_empty() && board.enabled) {
            skipped += 1;
            continue;
        }
        println!("{name}: {}", board.device);
        match check(board, &folder.join(TASK).with_extension("toml")) {
            Ok(()) => {
                passed += 1;
                println!("{name}: pass");
            }
            Err(error) => {
                failed += 1;
                println!("{name}: FAIL: {error:#}");
            }
        }
    }
    if passed + failed == 0 {
        println!(
            "no board is enabled; name some (make hil BOARDS=\"local\") or set enabled = true in a file"
        );
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed)
}

/// All checks, in the order in which a board that is set up anew fails them.
fn check(board: &Board, task: &Path) -> Result<()> {
    let url: DeviceUrl = board.device.parse()?;
    let mut agent = board.start.as_deref().map(Agent::start).transpose()?;
    handshake(&url, &board.expect, agent.as_mut()).context("handshake")?;
    let host = Host::default();
    let device = board.device.as_str();
    round_trip(&host, device).context("round trip")?;
    profile(&host, device, task, &board.expect).context("profile")?;
    if board.expect.numbers {
        numbers(&url, task).context("numbers")?;
    }
    // By now one that could not begin beside another has ended.
    agent.as_mut().map_or(Ok(()), Agent::check)
}

/// An agent that was started for the check.
struct Agent(Child);

impl Agent {
    fn start(command: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut words = command.split_whitespace();
        let first = words.next().context("`start` is empty")?;
        // A program of the project itself is named from the project's folder.
        let program = if first.contains('/') { root.join(first) } else { first.into() };
        let child = Command::new(program)
            .args(words)
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start '{command}'"))?;
        Ok(Self(child))
    }

    /// Refuses one that failed: whoever answers then is another. A command may well end that starts an agent elsewhere.
    fn check(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) if !status.success() => bail!("the command of `start` failed: {status}"),
            _ => Ok(()),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Asked first, so that it ends its worker. Fails only where it has ended already.
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).ok();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) && matches!(self.0.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(20));
        }
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn told(what: &str, found: &str) {
    println!("  {what:<11} {found}");
}

fn handshake(url: &DeviceUrl, expect: &Expect, mut agent: Option<&mut Agent>) -> Result<()> {
    let start = Instant::now();
    let session = loop {
        let opened = Session::open(url, Timeouts::default());
        agent.as_deref_mut().map_or(Ok(()), Agent::check)?;
        match opened {
            Err(_) if agent.is_some() && start.elapsed() < START => sleep(Duration::from_millis(100)),
            opened => break opened?,
        }
    };
    let facts = session.facts();
    told("handshake", &format!("{}, {}, {}, agent {}", facts.cpu, facts.arch, facts.runtime, facts.agent));
    if let Some(arch) = &expect.arch {
        ensure!(facts.arch == *arch, "its architecture is {}, {arch} is expected", facts.arch);
    }
    if let Some(runtime) = &expect.runtime {
        let found = &facts.runtime;
        ensure!(found.starts_with(runtime.as_str()), "its runtime is {found}, {runtime} is expected");
    }
    Ok(())
}

/// What a command prints as JSON; its complaint where it fails, unless that is the verdict.
fn json(host: &Host, arguments: &[&str]) -> Result<Value> {
    let output = host.command(&[arguments, &["--format", "json"]].concat()).output()?;
    if !matches!(output.status.code(), Some(0 | 4)) {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or_default());
    }
    serde_json::from_slice(&output.stdout).context("hanas printed no JSON")
}

fn round_trip(host: &Host, device: &str) -> Result<()> {
    let report = json(host, &["device", "ping", device])?;
    let median = report["median_us"].as_f64().context("no median")?;
    told("round trip", &format!("{median:.0} us"));
    ensure!(median > 0.0, "no time passed");
    Ok(())
}

/// A small profile, its verdict, and the space that is built of it.
fn profile(host: &Host, device: &str, task: &Path, expect: &Expect) -> Result<()> {
    let task = task.to_str().context("a path that is no text")?;
    let of_task = ["--task", task, "--batch", "1"];
    let options = ["--which", "space", "--samples", SAMPLES, "--quiet", "--device", device];
    let report = json(host, &[&["profile"], &of_task[..], &options[..]].concat())?;
    let failed = report["failed"].as_array().context("no list of failures")?;
    ensure!(failed.is_empty(), "{} of {} models failed: {}", failed.len(), report["candidates"], failed[0]);
    let verdict = &report["verdict"];
    let is_trusted = verdict["trustworthy"].as_bool().context("no verdict")?;
    let word = if is_trusted { "trustworthy" } else { "not trustworthy" };
    told("profile", &format!("{} models, {word}", report["candidates"]));
    let samples = host.counts().len();
    ensure!(report["candidates"] == samples, "{samples} of {} models are stored", report["candidates"]);
    ensure!(is_trusted || !expect.trustworthy, "its verdict is {verdict}");
    let space = json(host, &[&["space", "build"], &of_task[..]].concat())?;
    let stages = space["stages"].as_array().context("no stages")?;
    let choices: usize = stages.iter().filter_map(|stage| stage["choices"].as_array()).map(Vec::len).sum();
    ensure!(choices > 0, "the space has no choices");
    told("space", &format!("{choices} choices"));
    Ok(())
}

/// Every layer type of the task and its whole net, on the board and here.
fn numbers(url: &DeviceUrl, task: &Path) -> Result<()> {
    let family = Task::read(task)?.family;
    let mut there = Session::open(url, Timeouts::default())?;
    let mut here = Session::open(&"local:--pin none".parse::<DeviceUrl>()?, Timeouts::default())?;
    let mut nets: Vec<_> = types(&family).into_iter().map(|(_, layer)| layer.net()).collect();
    nets.push(family.base().net()?);
    let mut worst: f32 = 0.0;
    for net in &nets {
        let model = lower(net, Init::Weights(&seeded(net, 3)), 1)?;
        let error = largest_error(&mut here, &mut there, &model, &images(net, 1))
            .with_context(|| net.name.clone())?;
        ensure!(error <= TOLERANCE, "{}: off by {error:.1e} of the largest value", net.name);
        worst = worst.max(error);
    }
    told("numbers", &format!("{} models, largest relative error {worst:.1e}", nets.len()));
    Ok(())
}
