//! What was made of samples: fits and spaces. Each names the sessions it stands on, and is stale as
//! soon as there are newer ones. Nothing is overwritten: the last of a kind counts.

use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::session::json;
use super::{SampleQuery, SessionId, Store, StoreError, unix_ms};

/// A fit or space as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved<T> {
    /// The thing.
    pub value: T,
    /// Its row.
    pub id: i64,
    /// When it was made, milliseconds since 1970.
    pub created_unix_ms: i64,
    /// The sessions it stands on.
    pub sessions: Vec<SessionId>,
    /// Later sessions of its device setting, task and batch: it is stale if any. Earlier ones that it does not stand
    /// on were left out when it was made; nor do those count that are not to be trusted, where all of its own are.
    pub newer: Vec<SessionId>,
}

impl<T> Saved<T> {
    /// Whether there are sessions that it does not know.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        !self.newer.is_empty()
    }
}

/// One choice of a space, flat, for readers of SQL.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChoiceRow {
    /// Which curve: `stage 1`.
    pub part: String,
    /// The group: `1..4`.
    pub cell: String,
    /// The choice: `4`.
    pub point: String,
    /// Measured latency.
    pub latency_ns: f64,
    /// Its standard error.
    pub latency_se_ns: f64,
    /// The fitted curve there.
    pub fitted_ns: f64,
    /// The score that won.
    pub score_ns: f64,
    /// Probability that a rerun picks the same.
    pub rerun_probability: Option<f64>,
    /// Members that are not separated from it, separated by spaces.
    pub tied_points: String,
}

/// A fit or space as stored, whatever it is: for a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResult {
    /// `fit` or `space`.
    pub kind: &'static str,
    /// Its row.
    pub id: i64,
    /// The task's name.
    pub task: String,
    /// Images a run.
    pub batch: u32,
    /// Which latency model or space.
    pub model: String,
    /// Its JSON, as it was written.
    pub text: String,
    /// The sessions it stands on, ascending.
    pub sessions: Vec<SessionId>,
}

/// A table of results and the table of what they stand on.
#[derive(Clone, Copy)]
enum Kind {
    Fit,
    Space,
}

impl Kind {
    const fn tables(self) -> (&'static str, &'static str) {
        match self {
            Self::Fit => ("fits", "fit_sessions"),
            Self::Space => ("spaces", "space_sessions"),
        }
    }
}

/// What every result is filed under. A result is made of one query's samples.
fn insert(
    tx: &Transaction<'_>,
    kind: Kind,
    query: &SampleQuery<'_>,
    model: &str,
    value: &impl Serialize,
    sessions: &[SessionId],
) -> rusqlite::Result<i64> {
    let (table, links) = kind.tables();
    let task = query.task.unwrap_or_default();
    let values = params![query.device.0, task, query.batch, model, json(value)?, unix_ms()];
    tx.execute(&format!("INSERT INTO {table} VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6)"), values)?;
    let id = tx.last_insert_rowid();
    let mut link = tx.prepare(&format!("INSERT INTO {links} VALUES (?1, ?2)"))?;
    for session in sessions {
        link.execute([id, session.0])?;
    }
    Ok(id)
}

impl Store {
    /// Stores a latency model (`layers`, `pairwise`) made of the samples that `query` covers now.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be written.
    pub fn save_fit(
        &mut self,
        query: &SampleQuery<'_>,
        model: &str,
        value: &impl Serialize,
    ) -> Result<i64, StoreError> {
        let sessions = self.covered_sessions(query)?;
        self.write(|tx| insert(tx, Kind::Fit, query, model, value, &sessions))
    }

    /// The last latency model of this kind for the query's device, task and batch.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read or the value is of another version.
    pub fn load_fit<T: DeserializeOwned>(
        &self,
        query: &SampleQuery<'_>,
        model: &str,
    ) -> Result<Option<Saved<T>>, StoreError> {
        self.load(Kind::Fit, query, model)
    }

    /// Stores a space (`htas`, `hgnas`, `hgnas-paper`) made of the samples that `query` covers now.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be written.
    pub fn save_space(
        &mut self,
        query: &SampleQuery<'_>,
        model: &str,
        value: &impl Serialize,
        choices: &[ChoiceRow],
    ) -> Result<i64, StoreError> {
        let sessions = self.covered_sessions(query)?;
        self.write(|tx| {
            let id = insert(tx, Kind::Space, query, model, value, &sessions)?;
            let mut add =
                tx.prepare("INSERT INTO choices VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?;
            for row in choices {
                let (m, se, f, s) = (row.latency_ns, row.latency_se_ns, row.fitted_ns, row.score_ns);
                let (part, cell, point, tied) = (&row.part, &row.cell, &row.point, &row.tied_points);
                add.execute(params![id, part, cell, point, m, se, f, s, row.rerun_probability, tied])?;
            }
            Ok(id)
        })
    }

    /// The last space of this kind for the query's device, task and batch.
    ///
    /// # Errors
    /// As [`Store::load_fit`].
    pub fn load_space<T: DeserializeOwned>(
        &self,
        query: &SampleQuery<'_>,
        model: &str,
    ) -> Result<Option<Saved<T>>, StoreError> {
        self.load(Kind::Space, query, model)
    }

    /// Fits and spaces of which this session is the last that they stand on.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read.
    pub fn results_up_to(&self, session: SessionId) -> Result<Vec<StoredResult>, StoreError> {
        let read = |kind: Kind, name: &'static str| -> rusqlite::Result<Vec<StoredResult>> {
            let (table, links) = kind.tables();
            let sql = format!(
                "SELECT r.id, r.task, r.batch, r.model, r.value_json, group_concat(l.session_id) FROM {table} r \
                 JOIN (SELECT * FROM {links} ORDER BY session_id) l ON l.owner_id = r.id \
                 GROUP BY r.id HAVING max(l.session_id) = ?1 ORDER BY r.id"
            );
            let mut rows = self.connection.prepare(&sql)?;
            rows.query_map([session.0], |row| {
                let list: String = row.get(5)?;
                let mut sessions: Vec<SessionId> =
                    list.split(',').filter_map(|id| id.parse().ok()).map(SessionId).collect();
                sessions.sort_unstable();
                let (id, task, batch) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(StoredResult {
                    kind: name,
                    id,
                    task,
                    batch,
                    model: row.get(3)?,
                    text: row.get(4)?,
                    sessions,
                })
            })?
            .collect()
        };
        let mut all = read(Kind::Fit, "fit").map_err(|error| self.fail(error))?;
        all.extend(read(Kind::Space, "space").map_err(|error| self.fail(error))?);
        Ok(all)
    }

    fn load<T: DeserializeOwned>(
        &self,
        kind: Kind,
        query: &SampleQuery<'_>,
        model: &str,
    ) -> Result<Option<Saved<T>>, StoreError> {
        let (table, links) = kind.tables();
        let sql = format!(
            "SELECT r.id, r.value_json, r.created_unix_ms FROM {table} r JOIN devices d ON d.id = r.device_id \
             JOIN devices k ON k.id = ?1 WHERE {} AND r.task = ?2 AND r.batch = ?3 AND r.model = ?4 \
             ORDER BY r.id DESC LIMIT 1",
            super::device::SAME_SETTING
        );
        let values = params![query.device.0, query.task.unwrap_or_default(), query.batch, model];
        let row = self
            .connection
            .query_row(&sql, values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()
            .map_err(|error| self.fail(error))?;
        let Some((id, text, created_unix_ms)): Option<(i64, String, i64)> = row else { return Ok(None) };
        let value = serde_json::from_str(&text)
            .map_err(|error| StoreError::Damaged { what: "fit or space", why: error.to_string() })?;
        let read = || -> rusqlite::Result<Vec<SessionId>> {
            let sql = format!("SELECT session_id FROM {links} WHERE owner_id = ?1 ORDER BY session_id");
            let mut rows = self.connection.prepare(&sql)?;
            rows.query_map([id], |row| row.get(0).map(SessionId))?.collect()
        };
        let sessions = read().map_err(|error| self.fail(error))?;
        let mut newer = self.covered_sessions(query)?;
        newer.retain(|session| sessions.last().is_none_or(|last| session > last));
        // One that is not to be trusted is no reason to build anew what stands on those that are.
        let trusted = self.covered_sessions(&SampleQuery { only_trustworthy: true, ..*query })?;
        if sessions.iter().all(|session| trusted.contains(session)) {
            newer.retain(|session| trusted.contains(session));
        }
        Ok(Some(Saved { value, id, created_unix_ms, sessions, newer }))
    }
}
