//! The tables, as SQL.
//!
//! ```text
//! devices  <- sessions <- visits -> models        visits.samples_ns = '73120,73450,...'
//!                      <- contexts                 one row per round
//!                      <- verdicts                 the last one counts
//! fits, spaces -> fit_sessions, space_sessions     what each stands on
//! spaces   <- choices
//! samples (view)                                   one row per timed run
//! ```

/// Stands in every store's header (`PRAGMA application_id`): `hNaS`, as on the wire.
pub const APPLICATION_ID: u32 = u32::from_be_bytes(hanas_proto::handshake::MAGIC);

/// Version of the tables (`PRAGMA user_version`).
pub const VERSION: u32 = 1;

const TABLES: &str = "
CREATE TABLE devices (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    agent TEXT NOT NULL,
    runtime TEXT NOT NULL,
    threads INTEGER NOT NULL,
    cpu TEXT NOT NULL,
    arch TEXT NOT NULL,
    os TEXT NOT NULL,
    cores INTEGER NOT NULL,
    pinned_mask TEXT NOT NULL,          -- hexadecimal, '0' where not pinned
    memory_bytes INTEGER NOT NULL,
    governor TEXT NOT NULL,
    clock_resolution_ns INTEGER NOT NULL,
    first_seen_unix_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES devices(id),
    task TEXT NOT NULL,
    batch INTEGER NOT NULL,
    seed TEXT NOT NULL,                 -- decimal; may exceed SQLite's integers
    rounds INTEGER NOT NULL,
    warmup_runs_per_visit INTEGER NOT NULL,
    timed_runs_per_visit INTEGER NOT NULL,
    visit_limit_ns INTEGER NOT NULL,    -- 0: none
    hanas_version TEXT NOT NULL,
    started_unix_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE models (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,        -- BLAKE3 of the ONNX bytes, hexadecimal
    name TEXT NOT NULL,
    spec_json TEXT NOT NULL,
    batch INTEGER NOT NULL,
    onnx_bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE visits (
    id INTEGER PRIMARY KEY,
    session_id INTEGER NOT NULL REFERENCES sessions(id),
    model_id INTEGER NOT NULL REFERENCES models(id),
    round INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    samples_ns TEXT NOT NULL            -- in the order taken, separated by commas
) STRICT;
CREATE INDEX visits_by_session ON visits(session_id, model_id, round);
CREATE TABLE contexts (
    id INTEGER PRIMARY KEY,
    session_id INTEGER NOT NULL REFERENCES sessions(id),
    round INTEGER NOT NULL,
    ended_unix_ms INTEGER NOT NULL,
    wall_us INTEGER NOT NULL,
    cpu_us INTEGER NOT NULL,
    steal_us INTEGER,
    busy_us INTEGER,
    temperature_millicelsius INTEGER,
    frequency_khz INTEGER,
    voluntary_switches INTEGER NOT NULL,
    involuntary_switches INTEGER NOT NULL,
    minor_faults INTEGER NOT NULL,
    major_faults INTEGER NOT NULL
) STRICT;
CREATE INDEX contexts_by_session ON contexts(session_id, round);
CREATE TABLE verdicts (
    id INTEGER PRIMARY KEY,
    session_id INTEGER NOT NULL REFERENCES sessions(id),
    ended_unix_ms INTEGER NOT NULL,
    trustworthy INTEGER NOT NULL,
    verdict_json TEXT NOT NULL
) STRICT;
CREATE TABLE fits (
    id INTEGER PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES devices(id),
    task TEXT NOT NULL,
    batch INTEGER NOT NULL,
    model TEXT NOT NULL,                -- which latency model, 'layers' or 'pairwise'
    value_json TEXT NOT NULL,
    created_unix_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE fit_sessions (
    owner_id INTEGER NOT NULL REFERENCES fits(id),
    session_id INTEGER NOT NULL REFERENCES sessions(id)
) STRICT;
CREATE TABLE spaces (
    id INTEGER PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES devices(id),
    task TEXT NOT NULL,
    batch INTEGER NOT NULL,
    model TEXT NOT NULL,                -- which space, 'htas' or 'hgnas'
    value_json TEXT NOT NULL,
    created_unix_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE space_sessions (
    owner_id INTEGER NOT NULL REFERENCES spaces(id),
    session_id INTEGER NOT NULL REFERENCES sessions(id)
) STRICT;
CREATE TABLE choices (
    space_id INTEGER NOT NULL REFERENCES spaces(id),
    part TEXT NOT NULL,                 -- which curve, 'stage 1'
    cell TEXT NOT NULL,                 -- the group, '1..4'
    point TEXT NOT NULL,                -- the choice, '4'
    latency_ns REAL NOT NULL,
    latency_se_ns REAL NOT NULL,
    fitted_ns REAL NOT NULL,
    score_ns REAL NOT NULL,
    rerun_probability REAL,
    tied_points TEXT NOT NULL           -- separated by spaces
) STRICT;
CREATE VIEW samples AS
    SELECT visits.session_id, visits.model_id, models.name AS model, visits.round,
           run.key AS run, run.value AS sample_ns
    FROM visits
    JOIN models ON models.id = visits.model_id, json_each('[' || visits.samples_ns || ']') AS run;
";

const APPEND_ONLY: [&str; 11] = [
    "devices",
    "sessions",
    "models",
    "visits",
    "contexts",
    "verdicts",
    "fits",
    "fit_sessions",
    "spaces",
    "space_sessions",
    "choices",
];

/// The statements that turn an empty file into a store.
#[must_use]
pub fn create() -> String {
    let mut sql = TABLES.to_owned();
    for table in APPEND_ONLY {
        for act in ["UPDATE", "DELETE"] {
            sql.push_str(&format!(
                "CREATE TRIGGER {table}_refuse_{} BEFORE {act} ON {table} \
                 BEGIN SELECT RAISE(ABORT, 'a hanas store is append-only'); END;\n",
                act.to_lowercase()
            ));
        }
    }
    sql.push_str(&format!("PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {VERSION};\n"));
    sql
}
