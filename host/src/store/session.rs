//! Writing one profile: a session, its models, then visits and contexts batch by batch.

use hanas_models::gnn::{GnnNet, Reading};
use hanas_models::layer::Layer;
use hanas_models::resnet::ConvNet;
use hanas_proto::measure::RoundContext;
use hanas_proto::{Digest, Nanos};
use rusqlite::{OptionalExtension, Row, named_params, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DeviceId, Store, StoreError, int, unix_ms};

/// A row of `sessions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct SessionId(pub i64);

/// A row of `models`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelId(pub i64);

/// What a session sets out to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewSession<'a> {
    /// The device.
    pub device: DeviceId,
    /// The task's name.
    pub task: &'a str,
    /// Images a run.
    pub batch: u32,
    /// Seed of the visiting order.
    pub seed: u64,
    /// How much is measured.
    pub plan: Plan,
}

/// How much a session measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Rounds.
    pub rounds: u32,
    /// Untimed runs a visit.
    pub warmup: u32,
    /// Timed runs a visit.
    pub runs: u32,
    /// A visit ends early after this long; zero: never.
    pub visit_limit: Nanos,
}

/// What a timed model is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum ModelSpec {
    /// Does nothing: its time is the harness's own.
    Null,
    /// One layer.
    Layer {
        /// The layer.
        layer: Layer,
    },
    /// A whole net.
    Net {
        /// The net.
        net: ConvNet,
    },
    /// A user's own ONNX file.
    File {
        /// Its name.
        name: String,
    },
    /// A graph net on a whole graph.
    Graph {
        /// The net.
        net: GnnNet,
        /// How it is read.
        reading: Reading,
        /// The graph's name.
        graph: String,
    },
}

impl ModelSpec {
    /// One line for people: `conv3x3/1@32 16->24`.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Layer { layer } => layer.to_string(),
            Self::Net { net } => format!("{} {}", net.family.name, net.summary()),
            Self::File { name } => name.clone(),
            Self::Graph { net, graph, .. } => format!("{graph} {net}"),
        }
    }
}

/// A model to be timed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRecord {
    /// BLAKE3 of its ONNX bytes.
    pub digest: Digest,
    /// What it is.
    pub spec: ModelSpec,
    /// Images a run.
    pub batch: u32,
    /// Length of its ONNX bytes.
    pub onnx_bytes: u64,
}

/// The timed runs of one model in one round, as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisitRow<'a> {
    /// The model.
    pub model: ModelId,
    /// The round, counted over the whole session.
    pub round: u32,
    /// The timed runs in order.
    pub samples: &'a [Nanos],
}

/// A session as stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionRow {
    /// Its row.
    pub id: SessionId,
    /// The device.
    pub device: DeviceId,
    /// The task's name.
    pub task: String,
    /// Images a run.
    pub batch: u32,
    /// Seed of the visiting order.
    pub seed: u64,
    /// How much was to be measured.
    pub plan: Plan,
    /// Start, milliseconds since 1970.
    pub started_unix_ms: i64,
    /// Timed runs stored.
    pub samples: u64,
    /// The verdict: trustworthy or not, and why, as JSON; none while it runs, or where it was killed.
    pub verdict: Option<(bool, Value)>,
}

impl Store {
    /// Opens a session.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be written.
    pub fn begin_session(&mut self, session: &NewSession<'_>) -> Result<SessionId, StoreError> {
        let plan = session.plan;
        self.write(|tx| {
            tx.execute(
                "INSERT INTO sessions VALUES (NULL, :device, :task, :batch, :seed, :rounds, :warmup, :runs, \
                 :limit, :version, :now)",
                named_params! {
                    ":device": session.device.0, ":task": session.task, ":batch": session.batch,
                    ":seed": session.seed.to_string(), ":rounds": plan.rounds, ":warmup": plan.warmup,
                    ":runs": plan.runs, ":limit": int(plan.visit_limit.0),
                    ":version": env!("CARGO_PKG_VERSION"), ":now": unix_ms(),
                },
            )?;
            Ok(SessionId(tx.last_insert_rowid()))
        })
    }

    /// The rows of models, in their order; those that are not there yet are added.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be written.
    pub fn add_models(&mut self, models: &[ModelRecord]) -> Result<Vec<ModelId>, StoreError> {
        self.write(|tx| {
            let mut find = tx.prepare("SELECT id FROM models WHERE digest = ?1")?;
            let mut add = tx.prepare("INSERT INTO models VALUES (NULL, ?1, ?2, ?3, ?4, ?5)")?;
            models
                .iter()
                .map(|model| {
                    let digest = model.digest.to_string();
                    if let Some(id) = find.query_row([&digest], |row| row.get(0)).optional()? {
                        return Ok(ModelId(id));
                    }
                    let spec = json(&model.spec)?;
                    let bytes = int(model.onnx_bytes);
                    add.execute(params![digest, model.spec.name(), spec, model.batch, bytes])?;
                    Ok(ModelId(tx.last_insert_rowid()))
                })
                .collect()
        })
    }

    /// Stores visits in one transaction: all of them or none. Visits without samples are left out.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be written.
    pub fn append_visits(&mut self, session: SessionId, visits: &[VisitRow<'_>]) -> Result<(), StoreError> {
        self.write(|tx| {
            let mut add = tx.prepare_cached("INSERT INTO visits VALUES (NULL, ?1, ?2, ?3, ?4, ?5)")?;
            for visit in visits.iter().filter(|visit| !visit.samples.is_empty()) {
                let runs = int(visit.samples.len() as u64);
                add.execute(params![session.0, visit.model.0, visit.round, runs, listed(visit.samples)])?;
            }
            Ok(())
        })
    }

    /// Stores the circumstances of a round.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be written.
    pub fn append_context(
        &mut self,
        session: SessionId,
        round: u32,
        context: &RoundContext,
    ) -> Result<(), StoreError> {
        self.write(|tx| {
            let mut add = tx.prepare_cached(
                "INSERT INTO contexts VALUES (NULL, :session, :round, :ended, :wall, :cpu, :steal, :busy, \
                 :temperature, :frequency, :voluntary, :involuntary, :minor, :major)",
            )?;
            add.execute(named_params! {
                ":session": session.0, ":round": round, ":ended": int(context.unix_ms),
                ":wall": int(context.wall_us), ":cpu": int(context.cpu_us),
                ":steal": context.steal_us.map(int), ":busy": context.busy_us.map(int),
                ":temperature": context.temperature_mc, ":frequency": context.frequency_khz,
                ":voluntary": context.voluntary_switches, ":involuntary": context.involuntary_switches,
                ":minor": context.minor_faults, ":major": context.major_faults,
            })?;
            Ok(())
        })
    }

    /// Closes a session with its verdict. Judged again later, the last verdict counts.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be written.
    pub fn finish_session(
        &mut self,
        session: SessionId,
        trustworthy: bool,
        verdict: &impl Serialize,
    ) -> Result<(), StoreError> {
        self.write(|tx| {
            let values = params![session.0, unix_ms(), trustworthy, json(verdict)?];
            tx.execute("INSERT INTO verdicts VALUES (NULL, ?1, ?2, ?3, ?4)", values)?;
            Ok(())
        })
    }

    /// All sessions in the order started.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read.
    pub fn sessions(&self) -> Result<Vec<SessionRow>, StoreError> {
        let read = || -> rusqlite::Result<Vec<_>> {
            let mut rows = self.connection.prepare(
                "SELECT s.*, (SELECT coalesce(sum(runs), 0) FROM visits WHERE session_id = s.id) AS samples, \
                 v.trustworthy, v.verdict_json FROM sessions s LEFT JOIN verdicts v ON v.id = \
                 (SELECT max(id) FROM verdicts WHERE session_id = s.id) ORDER BY s.id",
            )?;
            rows.query_map([], session_row)?.collect()
        };
        read().map_err(|error| self.fail(error))
    }

    /// The circumstances of a session's rounds, in order.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read.
    pub fn contexts(&self, session: SessionId) -> Result<Vec<(u32, RoundContext)>, StoreError> {
        let read = || -> rusqlite::Result<Vec<_>> {
            let mut rows =
                self.connection.prepare("SELECT * FROM contexts WHERE session_id = ?1 ORDER BY round, id")?;
            rows.query_map([session.0], context_row)?.collect()
        };
        read().map_err(|error| self.fail(error))
    }
}

fn session_row(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let unsigned = |name| row.get::<_, i64>(name).map(i64::unsigned_abs);
    let verdict = match row.get::<_, Option<String>>("verdict_json")? {
        Some(text) => Some((row.get("trustworthy")?, serde_json::from_str(&text).unwrap_or(Value::Null))),
        None => None,
    };
    Ok(SessionRow {
        id: SessionId(row.get("id")?),
        device: DeviceId(row.get("device_id")?),
        task: row.get("task")?,
        batch: row.get("batch")?,
        seed: row.get::<_, String>("seed")?.parse().unwrap_or(0),
        plan: Plan {
            rounds: row.get("rounds")?,
            warmup: row.get("warmup_runs_per_visit")?,
            runs: row.get("timed_runs_per_visit")?,
            visit_limit: Nanos(unsigned("visit_limit_ns")?),
        },
        started_unix_ms: row.get("started_unix_ms")?,
        samples: unsigned("samples")?,
        verdict,
    })
}

fn context_row(row: &Row<'_>) -> rusqlite::Result<(u32, RoundContext)> {
    let unsigned = |name| row.get::<_, i64>(name).map(i64::unsigned_abs);
    let perhaps = |name| row.get::<_, Option<i64>>(name).map(|value| value.map(i64::unsigned_abs));
    let context = RoundContext {
        unix_ms: unsigned("ended_unix_ms")?,
        wall_us: unsigned("wall_us")?,
        cpu_us: unsigned("cpu_us")?,
        steal_us: perhaps("steal_us")?,
        busy_us: perhaps("busy_us")?,
        temperature_mc: row.get("temperature_millicelsius")?,
        frequency_khz: row.get("frequency_khz")?,
        voluntary_switches: row.get("voluntary_switches")?,
        involuntary_switches: row.get("involuntary_switches")?,
        minor_faults: row.get("minor_faults")?,
        major_faults: row.get("major_faults")?,
    };
    Ok((row.get("round")?, context))
}

/// `73120,73450`.
fn listed(samples: &[Nanos]) -> String {
    let numbers: Vec<String> = samples.iter().map(|sample| sample.0.to_string()).collect();
    numbers.join(",")
}

/// A value as JSON text, with its failure as SQLite's kind.
pub(super) fn json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
