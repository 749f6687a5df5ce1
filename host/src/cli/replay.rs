//! `hanas replay`: recorded sessions through the same code again, without a device.

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::context::Global;
use super::graph;
use super::output::{Format, Table, json, text};
use super::recorder::judge_session;
use super::space::SPACE;
use crate::latency::net_model::NetModel;
use crate::space::hgnas::GraphSpace;
use crate::space::htas::HardwareSpace;
use crate::store::{SessionId, SessionRow, Store, StoredResult};
use crate::task::AnyTask;

/// Arguments of `hanas replay`.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Session, by its number in the store [default: all]
    session: Option<i64>,
    /// TOML files of nets of your own: the store has their names only
    #[arg(long = "task", short, value_name = "FILE")]
    tasks: Vec<AnyTask>,
}

/// Whether the same came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Replayed {
    /// Bit for bit.
    Same,
    /// Something else came out.
    Differs,
    /// Nothing is stored to compare with, or its settings are not known here.
    NotCompared,
}

#[derive(Serialize)]
struct Row {
    session: i64,
    what: String,
    replayed: Replayed,
    note: String,
}

#[derive(Serialize)]
struct Report<'a> {
    results: &'a [Row],
}

/// A result that came out differently; exit code 1.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} of {1} results came out differently: this version of hanas computes something else; build them again"
)]
struct Differs(usize, usize);

/// Runs the command.
pub(super) fn run(global: &Global, args: &ReplayArgs) -> anyhow::Result<()> {
    let store = global.existing_store()?;
    let mut sessions = store.sessions()?;
    if let Some(wanted) = args.session {
        sessions.retain(|session| session.id.0 == wanted);
        anyhow::ensure!(
            !sessions.is_empty(),
            "no session {wanted}; `hanas replay` without a number replays all of them"
        );
    }
    let mut rows = Vec::new();
    for session in &sessions {
        rows.push(verdict(&store, session)?);
        // A result is replayed with the last of the sessions that it stands on.
        for result in store.results_up_to(session.id)? {
            rows.push(replay_result(&store, session.id, &result, &args.tasks)?);
        }
    }
    print(global, &rows)?;
    let differ = rows.iter().filter(|row| row.replayed == Replayed::Differs).count();
    if differ > 0 { Err(Differs(differ, rows.len()).into()) } else { Ok(()) }
}

fn verdict(store: &Store, session: &SessionRow) -> anyhow::Result<Row> {
    let device = store.device(session.device)?;
    let row = |replayed, note: &str| Row {
        session: session.id.0,
        what: "verdict".to_owned(),
        replayed,
        note: note.to_owned(),
    };
    let (Some((_, stored)), Some(device)) = (&session.verdict, device) else {
        return Ok(row(Replayed::NotCompared, "the session did not end"));
    };
    let again = judge_session(store, session.id, device.clock_resolution_ns, device.cores)?;
    let same = serde_json::to_value(&again)? == *stored;
    Ok(row(if same { Replayed::Same } else { Replayed::Differs }, ""))
}

fn replay_result(
    store: &Store,
    session: SessionId,
    result: &StoredResult,
    own: &[AnyTask],
) -> anyhow::Result<Row> {
    let row = |replayed, note: String| Row {
        session: session.0,
        what: format!("{} {} ({})", result.kind, result.id, result.model),
        replayed,
        note,
    };
    let task = match own.iter().find(|task| task.name() == result.task) {
        Some(task) => task.clone(),
        None => match result.task.parse() {
            Ok(task) => task,
            Err(error) => {
                let note = format!("{error}; name the file of a net of your own with --task");
                return Ok(row(Replayed::NotCompared, note));
            }
        },
    };
    let again = match rebuild(store, result, task) {
        Ok(Some(again)) => again,
        Ok(None) => return Ok(row(Replayed::NotCompared, "not made from sessions alone".to_owned())),
        Err(error) => return Ok(row(Replayed::NotCompared, format!("{error:#}"))),
    };
    let same = again == result.text;
    Ok(row(if same { Replayed::Same } else { Replayed::Differs }, String::new()))
}

/// The result's JSON, made again from the sessions it stands on by the settings it carries.
fn rebuild(store: &Store, result: &StoredResult, task: AnyTask) -> anyhow::Result<Option<String>> {
    let samples = store.samples_of(&result.sessions, result.batch)?;
    let task = match task {
        AnyTask::Conv(task) => task,
        AnyTask::Graph(task) if graph::SPACES.contains(&result.model.as_str()) => {
            let stored: GraphSpace = serde_json::from_str(&result.text)?;
            let space = GraphSpace::build(task.data.name(), &samples, stored.settings)?;
            return Ok(Some(serde_json::to_string(&space)?));
        }
        AnyTask::Graph(_) => return Ok(None),
    };
    if result.kind == "fit" {
        let model: NetModel = serde_json::from_str(&result.text)?;
        return Ok(Some(serde_json::to_string(&model.refit(&task.family, &samples)?)?));
    }
    if result.model != SPACE {
        return Ok(None);
    }
    let stored: Value = serde_json::from_str(&result.text)?;
    let settings = serde_json::from_value(stored["settings"].clone())?;
    let space = HardwareSpace::build(&task.family, &samples, settings)?;
    Ok(Some(serde_json::to_string(&space)?))
}

fn print(global: &Global, rows: &[Row]) -> anyhow::Result<()> {
    let mut table = Table::new(&["session", "what", "replayed", "note"]);
    for row in rows {
        let replayed = match row.replayed {
            Replayed::Same => "same",
            Replayed::Differs => "differs",
            Replayed::NotCompared => "not compared",
        };
        table.row(vec![row.session.to_string(), row.what.clone(), replayed.to_owned(), row.note.clone()]);
    }
    match global.format {
        Format::Json => json(&Report { results: rows }),
        Format::Csv => text(&table.to_csv()),
        Format::Text => text(&table.to_text()),
    }
}
