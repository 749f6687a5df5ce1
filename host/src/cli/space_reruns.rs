//! `hanas space stability --reruns K`: profiles the space K times over and compares the choices.

use clap::Args;
use serde::Serialize;

use super::context::{DeviceArg, Global, QUEUE_TIMEOUT, RUN_TIMEOUT, TaskArg};
use super::output::{Format, Table, json, text};
use super::profile::LayersArg;
use super::profile_race::Racer;
use super::recorder::{Filed, Recorder};
use super::sampling::SamplingArgs;
use super::{Interrupted, NotTrustworthy, Usage};
use crate::profile::candidates::{Which, candidates};
use crate::profile::runner::Ended;
use crate::profile::sampling::Sampling;
use crate::space::htas::{HardwareSpace, Settings};
use crate::space::racing::{Outcome, Racing, race};
use crate::space::reruns::{Reruns, compare};
use crate::space::rules::Rules;

/// How reruns are made.
#[derive(Debug, Args)]
pub(super) struct RerunArgs {
    /// Profile the space this many times anew and compare the choices
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(2..=100))]
    pub(super) reruns: Option<u32>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    layers: LayersArg,
    /// Seconds to wait while another session holds the device
    #[arg(long, default_value_t = QUEUE_TIMEOUT, value_name = "SECONDS")]
    queue_timeout: u64,
    /// Seconds that one load or run may take; more than the agent's --run-limit
    #[arg(long, default_value_t = RUN_TIMEOUT, value_name = "SECONDS")]
    run_timeout: u64,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    reruns: Reruns,
    silent: usize,
    sessions: Vec<Rerun>,
}

#[derive(Serialize)]
struct Rerun {
    session: i64,
    samples: u64,
    race: Outcome,
    trustworthy: bool,
    choices: Vec<Vec<u32>>,
}

/// Runs the command.
pub(super) fn run(
    global: &Global,
    task: &TaskArg,
    device: Option<&str>,
    args: &RerunArgs,
    times: u32,
) -> anyhow::Result<()> {
    let device =
        device.ok_or_else(|| Usage("--reruns measures: name the device with --device".to_owned()))?;
    let (queue_timeout, run_timeout) = (args.queue_timeout, args.run_timeout);
    let device = DeviceArg { device: device.to_owned(), queue_timeout, run_timeout };
    let mut session = global.connect(&device)?;
    let mut store = global.store()?;
    let id = store.device_id(session.facts())?;
    let LayersArg { expand, cin, race: share } = args.layers;
    let list = candidates(&task.task.family, expand, task.batch, Which::Space, cin)?;
    let clock = session.facts().clock_resolution_ns;
    let settings = Settings { expand, cin, ..Settings::new(Rules::project(), task.batch, clock) };
    let (mut spaces, mut sessions) = (Vec::new(), Vec::new());
    for run in 0..times {
        let plan = args.sampling.sampling();
        let sampling = Sampling { seed: plan.seed.wrapping_add(u64::from(run)), ..plan };
        let filed = Filed { device: id, task: &task.task.name, batch: task.batch };
        let mut recorder = Recorder::begin(&mut store, filed, &sampling, &list)?;
        let have = vec![0; list.len()];
        let ended = recorder.measure(global, &mut session, &list, &have, &sampling, "rerun")?;
        let base = list.len() as u64 * u64::from(sampling.samples);
        let racing = Racing::in_portions(sampling.runs, (share * base as f64) as u64);
        let mut racer = Racer {
            global,
            device: &mut session,
            recorder: &mut recorder,
            list: &list,
            sampling,
            query: None,
        };
        let stopped = Interrupted { kept: "finished reruns are kept in the store".to_owned() };
        if ended == Ended::Stopped {
            return Err(stopped.into());
        }
        let (space, outcome) =
            race(&task.task.family, settings, &racing, &mut racer).map_err(anyhow::Error::from)?;
        if outcome.stopped {
            return Err(stopped.into());
        }
        let number = recorder.session.0;
        let trustworthy = recorder.finish(&session)?.trustworthy;
        let choices = space.widths().stages;
        sessions.push(Rerun {
            session: number,
            samples: base + outcome.samples,
            race: outcome,
            trustworthy,
            choices,
        });
        spaces.push(space);
    }
    let noisy = sessions.iter().any(|run| !run.trustworthy);
    print(global, &spaces, sessions)?;
    if noisy && !args.sampling.allow_noisy { Err(NotTrustworthy.into()) } else { Ok(()) }
}

fn print(global: &Global, spaces: &[HardwareSpace], sessions: Vec<Rerun>) -> anyhow::Result<()> {
    let reruns = compare(spaces);
    let report = Report { silent: reruns.silent(), reruns, sessions };
    let mut changes = Table::new(&["stage", "group", "runs", "from", "to", "reported"]);
    for change in &report.reruns.changes {
        changes.row(vec![
            change.stage.to_string(),
            change.cell.clone(),
            format!("{} and {}", change.before, change.after),
            change.from.to_string(),
            change.to.map_or_else(|| "none".to_owned(), |to| to.to_string()),
            if change.told { "as a tie" } else { "not" }.to_owned(),
        ]);
    }
    match global.format {
        Format::Json => json(&report),
        Format::Csv => text(&changes.to_csv()),
        Format::Text => {
            let Reruns {
                runs, choices, same_min, same_or_told_min, same_mean, tied_share, spearman_min, ..
            } = report.reruns;
            let noisy = report.sessions.iter().filter(|run| !run.trustworthy).count();
            let mut page = if report.reruns.changes.is_empty() { String::new() } else { changes.to_text() };
            page.push_str(&format!(
                "{runs} runs, {noisy} of them judged noisy: {same_min} of {choices} choices are the same in the worst pair \
                 of runs, {same_or_told_min} or reported as ties; {same_mean:.1} on average\n\
                 {} changes had not been reported as ties; of a group's other widths {:.0}% are reported as ties on average\n\
                 rank correlation of all widths {spearman_min:.3} or better\n",
                report.silent,
                100.0 * tied_share,
            ));
            text(&page)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        reruns: RerunArgs,
    }

    #[test]
    fn a_device_is_waited_for_as_long_as_the_user_says() {
        let waits = |line: &str| {
            let Line { reruns } = Line::try_parse_from(line.split(' ')).unwrap();
            (reruns.queue_timeout, reruns.run_timeout)
        };
        assert_eq!(waits("stability --reruns 2 --queue-timeout 5 --run-timeout 7"), (5, 7));
        assert_eq!(waits("stability --reruns 2"), (QUEUE_TIMEOUT, RUN_TIMEOUT));
    }
}
