//! `hanas export-data`: raw samples for other programs.

use clap::Args;
use serde::Serialize;

use super::context::Global;
use super::output::{Format, json, text};
use crate::store::SessionId;

/// Arguments of `hanas export-data`.
#[derive(Debug, Args)]
pub(super) struct ExportDataArgs {
    /// Only this session [default: all]
    #[arg(long, value_name = "NUMBER")]
    session: Option<i64>,
}

#[derive(Serialize)]
struct Sessions {
    sessions: Vec<Session>,
}

#[derive(Serialize)]
struct Session {
    #[serde(flatten)]
    row: crate::store::SessionRow,
    models: Vec<Model>,
}

#[derive(Serialize)]
struct Model {
    model: String,
    digest: String,
    visits: Vec<crate::store::Visit>,
}

/// Runs the command: CSV (also for `--format text`) has one line a timed run, JSON one document.
pub(super) fn run(global: &Global, args: &ExportDataArgs) -> anyhow::Result<()> {
    let store = global.existing_store()?;
    let mut sessions = Vec::new();
    for row in store.sessions()? {
        if args.session.is_some_and(|wanted| SessionId(wanted) != row.id) {
            continue;
        }
        let models = store.session_samples(row.id)?.into_iter().map(|model| Model {
            model: model.spec.name(),
            digest: model.digest.to_string(),
            visits: model.visits,
        });
        sessions.push(Session { models: models.collect(), row });
    }
    if let (Some(wanted), true) = (args.session, sessions.is_empty()) {
        anyhow::bail!("there is no session {wanted} in {}", global.store.display());
    }
    if global.format == Format::Json {
        return json(&Sessions { sessions });
    }
    let mut lines = String::from("session,task,batch,model,round,sample_ns\n");
    for session in &sessions {
        for model in &session.models {
            for visit in &model.visits {
                for sample in &visit.samples {
                    let (id, row) = (session.row.id.0, &session.row);
                    let line = format!(
                        "{id},{},{},{},{},{}\n",
                        row.task, row.batch, model.model, visit.round, sample.0
                    );
                    lines.push_str(&line);
                }
            }
        }
    }
    text(&lines)
}
