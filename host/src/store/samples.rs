//! Reading timings back: every visit of every model, over all sessions of one device setting.

use std::collections::BTreeMap;

use hanas_proto::{Digest, Nanos};
use rusqlite::{Row, ToSql, named_params};
use serde::{Deserialize, Serialize};

use super::device::SAME_SETTING;
use super::{DeviceId, ModelId, ModelSpec, SessionId, Store, StoreError};

/// The timed runs of one model in one round.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Visit {
    /// The session.
    pub session: SessionId,
    /// The round in it.
    pub round: u32,
    /// Its place in the order in which the store's visits were taken, from 1; 0 where that is not known.
    #[serde(default)]
    pub order: u64,
    /// The timed runs in order.
    pub samples: Vec<Nanos>,
}

/// A model and all its visits, by session and round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSamples {
    /// Its row.
    pub id: ModelId,
    /// BLAKE3 of its ONNX bytes.
    pub digest: Digest,
    /// What it is.
    pub spec: ModelSpec,
    /// Length of its ONNX bytes.
    pub onnx_bytes: u64,
    /// The visits.
    pub visits: Vec<Visit>,
}

/// Which timings are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleQuery<'a> {
    /// A device: all of the same setting count (name, processor, runtime, threads, pinning, governor).
    pub device: DeviceId,
    /// The task; none for all.
    pub task: Option<&'a str>,
    /// Images a run.
    pub batch: u32,
    /// Leaves out sessions that were judged not trustworthy. Sessions without a verdict (running, or
    /// killed and to be resumed) stay in.
    pub only_trustworthy: bool,
}

macro_rules! query_params {
    ($query:expr) => {
        named_params! {
            ":device": $query.device.0, ":task": $query.task, ":batch": $query.batch,
            ":strict": $query.only_trustworthy,
        }
    };
}

/// Sessions that a [`SampleQuery`] covers and that hold samples.
const COVERED: &str = "SELECT s.id FROM sessions s JOIN devices d ON d.id = s.device_id \
    JOIN devices k ON k.id = :device WHERE :setting \
    AND (:task IS NULL OR s.task = :task) AND s.batch = :batch \
    AND EXISTS (SELECT 1 FROM visits WHERE session_id = s.id) \
    AND (NOT :strict OR coalesce((SELECT trustworthy FROM verdicts WHERE session_id = s.id \
         ORDER BY id DESC LIMIT 1), 1))";

fn covered() -> String {
    COVERED.replace(":setting", SAME_SETTING)
}

const VISITS: &str = "SELECT v.id AS visit_id, m.id AS model_id, m.digest, m.spec_json, m.onnx_bytes, v.session_id, v.round, \
    v.samples_ns FROM visits v JOIN models m ON m.id = v.model_id";

impl Store {
    /// All timings that the query covers, by model in the order first stored.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read or holds something else than expected.
    pub fn samples(&self, query: &SampleQuery<'_>) -> Result<Vec<ModelSamples>, StoreError> {
        let sql = format!(
            "{VISITS} WHERE v.session_id IN ({}) AND m.batch = :batch ORDER BY m.id, v.session_id, v.round, v.id",
            covered()
        );
        self.visits(&sql, query_params!(query))
    }

    /// All timings of one session, by model.
    ///
    /// # Errors
    /// As [`Store::samples`].
    pub fn session_samples(&self, session: SessionId) -> Result<Vec<ModelSamples>, StoreError> {
        let sql = format!("{VISITS} WHERE v.session_id = :session ORDER BY m.id, v.round, v.id");
        self.visits(&sql, named_params! { ":session": session.0 })
    }

    /// All timings of these sessions, by model, in the order of [`Store::samples`].
    ///
    /// # Errors
    /// As [`Store::samples`].
    pub fn samples_of(&self, sessions: &[SessionId], batch: u32) -> Result<Vec<ModelSamples>, StoreError> {
        let list: Vec<String> = sessions.iter().map(|session| session.0.to_string()).collect();
        let sql = format!(
            "{VISITS} WHERE v.session_id IN ({}) AND m.batch = :batch ORDER BY m.id, v.session_id, v.round, v.id",
            list.join(",")
        );
        self.visits(&sql, named_params! { ":batch": batch })
    }

    /// Timed runs there are of every model: what a resumed profile need not measure again.
    ///
    /// # Errors
    /// As [`Store::samples`].
    pub fn counts(&self, query: &SampleQuery<'_>) -> Result<BTreeMap<Digest, u64>, StoreError> {
        let sql = format!(
            "SELECT m.digest, sum(v.runs) AS runs FROM visits v JOIN models m ON m.id = v.model_id \
             WHERE v.session_id IN ({}) AND m.batch = :batch GROUP BY m.id",
            covered()
        );
        let read = || -> rusqlite::Result<Vec<(String, i64)>> {
            let mut rows = self.connection.prepare(&sql)?;
            rows.query_map(query_params!(query), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let rows = read().map_err(|error| self.fail(error))?;
        rows.into_iter().map(|(hex, runs)| Ok((digest(&hex)?, runs.unsigned_abs()))).collect()
    }

    /// Timed runs that a session and those before it in its device setting, task and batch hold, by model.
    ///
    /// # Errors
    /// As [`Store::samples`].
    pub fn runs_until(&self, session: SessionId) -> Result<BTreeMap<ModelId, u64>, StoreError> {
        let sql = format!(
            "SELECT v.model_id, sum(v.runs) FROM sessions t JOIN devices k ON k.id = t.device_id \
             JOIN sessions s ON s.task = t.task AND s.batch = t.batch AND s.id <= t.id \
             JOIN devices d ON d.id = s.device_id JOIN visits v ON v.session_id = s.id \
             WHERE t.id = ?1 AND {SAME_SETTING} GROUP BY v.model_id"
        );
        let read = || -> rusqlite::Result<BTreeMap<_, _>> {
            let mut rows = self.connection.prepare(&sql)?;
            let row = |row: &Row<'_>| Ok((ModelId(row.get(0)?), row.get::<_, i64>(1)?.unsigned_abs()));
            rows.query_map([session.0], row)?.collect()
        };
        read().map_err(|error| self.fail(error))
    }

    /// The sessions that the query covers: what a fit or a space made of its samples stands on.
    ///
    /// # Errors
    /// As [`Store::samples`].
    pub fn covered_sessions(&self, query: &SampleQuery<'_>) -> Result<Vec<SessionId>, StoreError> {
        let read = || -> rusqlite::Result<Vec<_>> {
            let mut rows = self.connection.prepare(&format!("{} ORDER BY s.id", covered()))?;
            rows.query_map(query_params!(query), |row| row.get(0).map(SessionId))?.collect()
        };
        read().map_err(|error| self.fail(error))
    }

    fn visits(&self, sql: &str, params: &[(&str, &dyn ToSql)]) -> Result<Vec<ModelSamples>, StoreError> {
        let read = || -> rusqlite::Result<Vec<VisitText>> {
            let mut rows = self.connection.prepare(sql)?;
            rows.query_map(params, visit_text)?.collect()
        };
        let mut models: Vec<ModelSamples> = Vec::new();
        for row in read().map_err(|error| self.fail(error))? {
            if models.last().is_none_or(|last| last.id != row.model) {
                models.push(row.model()?);
            }
            if let Some(model) = models.last_mut() {
                model.visits.push(row.visit()?);
            }
        }
        Ok(models)
    }
}

/// A visit as it stands in the file.
struct VisitText {
    model: ModelId,
    digest: String,
    spec: String,
    onnx_bytes: u64,
    session: SessionId,
    round: u32,
    order: u64,
    samples: String,
}

fn visit_text(row: &Row<'_>) -> rusqlite::Result<VisitText> {
    Ok(VisitText {
        model: ModelId(row.get("model_id")?),
        digest: row.get("digest")?,
        spec: row.get("spec_json")?,
        onnx_bytes: row.get::<_, i64>("onnx_bytes")?.unsigned_abs(),
        session: SessionId(row.get("session_id")?),
        round: row.get("round")?,
        order: row.get::<_, i64>("visit_id")?.unsigned_abs(),
        samples: row.get("samples_ns")?,
    })
}

impl VisitText {
    fn model(&self) -> Result<ModelSamples, StoreError> {
        let spec = serde_json::from_str(&self.spec)
            .map_err(|error| StoreError::Damaged { what: "model spec", why: error.to_string() })?;
        let digest = digest(&self.digest)?;
        Ok(ModelSamples { id: self.model, digest, spec, onnx_bytes: self.onnx_bytes, visits: Vec::new() })
    }

    fn visit(&self) -> Result<Visit, StoreError> {
        let samples: Result<Vec<Nanos>, _> =
            self.samples.split(',').map(|text| text.parse().map(Nanos)).collect();
        let samples = samples.map_err(|_| StoreError::Damaged {
            what: "samples",
            why: format!("session {}, round {}: not a list of numbers", self.session.0, self.round),
        })?;
        Ok(Visit { session: self.session, round: self.round, order: self.order, samples })
    }
}

fn digest(hex: &str) -> Result<Digest, StoreError> {
    let byte = |at: usize| hex.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let mut bytes = [0; 32];
    for (at, slot) in bytes.iter_mut().enumerate() {
        *slot = byte(at).ok_or_else(|| StoreError::Damaged { what: "model digest", why: hex.to_owned() })?;
    }
    Ok(Digest(bytes))
}
