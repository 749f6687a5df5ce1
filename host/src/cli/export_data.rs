//! `hanas export-data`: raw samples for other programs.

use clap::Args;
use serde::Serialize;

use super::context::Global;
use super::output::{Format, json, text};
use crate::store::{SessionId, SessionRow};

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
    row: SessionRow,
    /// The board's name; `device` is its row's number.
    device_name: String,
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
        let device_name = store.device(row.device)?.map_or_else(String::new, |device| device.name);
        sessions.push(Session { models: models.collect(), device_name, row });
    }
    if let (Some(wanted), true) = (args.session, sessions.is_empty()) {
        anyhow::bail!("there is no session {wanted} in {}", global.store.display());
    }
    if global.format == Format::Json {
        return json(&Sessions { sessions });
    }
    text(&lines(&sessions)?)
}

fn lines(sessions: &[Session]) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut table = csv::Writer::from_writer(&mut bytes);
    table.write_record(["session", "device", "task", "batch", "model", "round", "sample_ns"])?;
    for Session { row, device_name, models } in sessions {
        let (id, batch) = (row.id.0.to_string(), row.batch.to_string());
        for model in models {
            for visit in &model.visits {
                let round = visit.round.to_string();
                for sample in &visit.samples {
                    let ns = sample.0.to_string();
                    table.write_record([&id, device_name, &row.task, &batch, &model.model, &round, &ns])?;
                }
            }
        }
    }
    table.flush()?;
    drop(table);
    Ok(String::from_utf8(bytes)?)
}

#[cfg(test)]
mod tests {
    use hanas_proto::Nanos;

    use super::*;
    use crate::store::{DeviceId, Plan, Visit};

    #[test]
    fn every_sample_names_its_board() {
        let session = SessionId(3);
        let row = SessionRow {
            id: session,
            device: DeviceId(7),
            task: "shapes10-resnet20".to_owned(),
            batch: 1,
            seed: 0,
            plan: Plan { rounds: 1, warmup: 1, runs: 2, visit_limit: Nanos(0) },
            started_unix_ms: 0,
            samples: 2,
            verdict: None,
        };
        let visit = Visit { session, samples: vec![Nanos(5), Nanos(6)], ..Visit::default() };
        let model = Model { model: "null".to_owned(), digest: String::new(), visits: vec![visit] };
        let session = Session { row, device_name: "pi, kitchen".to_owned(), models: vec![model] };
        assert_eq!(
            lines(std::slice::from_ref(&session)).unwrap(),
            "session,device,task,batch,model,round,sample_ns\n\
             3,\"pi, kitchen\",shapes10-resnet20,1,null,0,5\n\
             3,\"pi, kitchen\",shapes10-resnet20,1,null,0,6\n"
        );
        let document = serde_json::to_value(&session).unwrap();
        assert_eq!(document["device"], 7);
        assert_eq!(document["device_name"], "pi, kitchen");
    }
}
