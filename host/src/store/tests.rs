use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use hanas_models::layer::{Layer, LayerKind};
use hanas_proto::measure::RoundContext;
use hanas_proto::{Digest, Nanos};

use super::*;

const TASK: &str = "cifar10-resnet20";

fn device() -> Device {
    Device {
        name: "board".to_owned(),
        runtime: "tract 0.23.9".to_owned(),
        threads: 1,
        cores: 4,
        pinned: u64::MAX,
        memory_bytes: 1 << 30,
        clock_resolution_ns: 1,
        ..Device::default()
    }
}

fn model(cout: u32) -> ModelRecord {
    let kind = LayerKind::Conv { kernel: 3, stride: 1, side: 32 };
    let spec = ModelSpec::Layer { layer: Layer { kind, cin: 16, cout } };
    let mut digest = [7; 32];
    digest[0] = cout as u8;
    ModelRecord { digest: Digest(digest), spec, batch: 1, onnx_bytes: 300 }
}

fn session(device: DeviceId) -> NewSession<'static> {
    let plan = Plan { rounds: 2, warmup: 1, runs: 3, visit_limit: Nanos(0) };
    NewSession { device, task: TASK, batch: 1, seed: u64::MAX, plan }
}

fn query(device: DeviceId) -> SampleQuery<'static> {
    SampleQuery { device, task: Some(TASK), batch: 1, only_trustworthy: false }
}

/// A store with one session: two models, two rounds each.
fn filled(path: &Path) -> (Store, DeviceId, SessionId) {
    let mut store = Store::open(path).unwrap();
    let device = store.device_id(&device()).unwrap();
    let session = store.begin_session(&session(device)).unwrap();
    let models = store.add_models(&[model(8), model(16)]).unwrap();
    for round in 0..2 {
        let samples = [Nanos(73_120), Nanos(73_450), Nanos(u64::from(round))];
        let rows = models.iter().map(|&model| VisitRow { model, round, samples: &samples });
        store.append_visits(session, &rows.collect::<Vec<_>>()).unwrap();
        let context = RoundContext { wall_us: 5, temperature_mc: Some(-40), ..RoundContext::default() };
        store.append_context(session, round, &context).unwrap();
    }
    (store, device, session)
}

#[test]
fn what_goes_in_comes_out_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hanas.db");
    let (store, id, session) = filled(&path);
    drop(store);
    let mut store = Store::open_existing(&path).unwrap();
    assert_eq!(store.device_id(&device()).unwrap(), id, "the same facts are the same row");
    assert_eq!(store.device(id).unwrap(), Some(device()));
    let samples = store.samples(&query(id)).unwrap();
    assert_eq!(samples, store.session_samples(session).unwrap());
    assert_eq!(samples.len(), 2);
    assert_eq!(samples[1].spec, model(16).spec);
    assert_eq!(samples[1].digest, model(16).digest);
    let last = vec![Nanos(73_120), Nanos(73_450), Nanos(1)];
    let order = samples[0].visits[1].order;
    assert!(order > samples[0].visits[0].order && samples[0].visits[0].order > 0);
    assert_eq!(samples[0].visits[1], Visit { session, round: 1, order, samples: last });
    assert_eq!(store.counts(&query(id)).unwrap()[&model(8).digest], 6);
    let contexts = store.contexts(session).unwrap();
    assert_eq!((contexts.len(), contexts[1].0, contexts[1].1.temperature_mc), (2, 1, Some(-40)));
    let row = &store.sessions().unwrap()[0];
    assert_eq!((row.seed, row.samples, row.verdict.clone()), (u64::MAX, 12, None));
}

#[test]
fn another_setting_or_batch_is_not_mixed_in() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, id, _) = filled(&folder.path().join("hanas.db"));
    let newer_agent = store.device_id(&Device { agent: "9".to_owned(), ..device() }).unwrap();
    let two_threads = store.device_id(&Device { threads: 2, ..device() }).unwrap();
    assert_ne!(newer_agent, id);
    assert_eq!(store.samples(&query(newer_agent)).unwrap().len(), 2);
    assert!(store.samples(&query(two_threads)).unwrap().is_empty());
    assert!(store.samples(&SampleQuery { batch: 4, ..query(id) }).unwrap().is_empty());
    assert!(store.samples(&SampleQuery { task: Some("other"), ..query(id) }).unwrap().is_empty());
    assert_eq!(store.samples(&SampleQuery { task: None, ..query(id) }).unwrap().len(), 2);
}

#[test]
fn the_last_verdict_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, id, session) = filled(&folder.path().join("hanas.db"));
    let strict = SampleQuery { only_trustworthy: true, ..query(id) };
    assert_eq!(store.samples(&strict).unwrap().len(), 2, "no verdict yet");
    store.finish_session(session, false, &"noisy").unwrap();
    assert!(store.samples(&strict).unwrap().is_empty());
    store.finish_session(session, true, &"judged again").unwrap();
    assert_eq!(store.samples(&strict).unwrap().len(), 2);
}

#[test]
fn a_space_goes_stale_with_a_newer_session() {
    let folder = tempfile::tempdir().unwrap();
    let (mut store, id, first) = filled(&folder.path().join("hanas.db"));
    let choice = ChoiceRow { part: "stage 1".to_owned(), point: "8".to_owned(), ..ChoiceRow::default() };
    store.save_space(&query(id), "htas", &vec![8_u32], &[choice]).unwrap();
    let saved = store.load_space::<Vec<u32>>(&query(id), "htas").unwrap().unwrap();
    assert_eq!((saved.value.as_slice(), saved.sessions.as_slice()), (&[8][..], &[first][..]));
    assert!(!saved.is_stale());
    let second = store.begin_session(&session(id)).unwrap();
    assert!(!store.load_space::<Vec<u32>>(&query(id), "htas").unwrap().unwrap().is_stale());
    let models = store.add_models(&[model(8)]).unwrap();
    let visit = VisitRow { model: models[0], round: 0, samples: &[Nanos(1)] };
    store.append_visits(second, &[visit]).unwrap();
    let saved = store.load_space::<Vec<u32>>(&query(id), "htas").unwrap().unwrap();
    assert_eq!(saved.newer, [second]);
    let held = |session| store.runs_until(session).unwrap().into_values().collect::<Vec<_>>();
    assert_eq!((held(first), held(second)), (vec![6, 6], vec![7, 6]), "later sessions do not count");
    store.finish_session(first, false, &"noisy").unwrap();
    let strict = SampleQuery { only_trustworthy: true, ..query(id) };
    store.save_space(&strict, "htas", &vec![8_u32], &[]).unwrap();
    let saved = store.load_space::<Vec<u32>>(&query(id), "htas").unwrap().unwrap();
    assert_eq!(saved.sessions, [second]);
    assert!(!saved.is_stale(), "what was left out is not newer");
    let third = store.begin_session(&session(id)).unwrap();
    store.append_visits(third, &[visit]).unwrap();
    let newer = |store: &Store| store.load_space::<Vec<u32>>(&query(id), "htas").unwrap().unwrap().newer;
    assert_eq!(newer(&store), [third]);
    store.finish_session(third, false, &"noisy").unwrap();
    assert!(newer(&store).is_empty());
    assert!(store.load_fit::<Vec<u32>>(&query(id), "layers").unwrap().is_none());
}

#[test]
fn any_client_sees_single_samples_and_changes_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hanas.db");
    drop(filled(&path));
    let client = Connection::open(&path).unwrap();
    let count = |sql: &str| client.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM samples"), 12);
    assert_eq!(count("SELECT max(sample_ns) FROM samples WHERE model = 'conv3x3/1@32 16->16'"), 73_450);
    for sql in ["UPDATE visits SET runs = 1", "DELETE FROM sessions"] {
        let refused = client.execute(sql, []).unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{refused}");
    }
}

#[test]
fn a_newer_or_foreign_file_is_refused_with_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newer.db");
    drop(filled(&path));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 9, known: schema::VERSION, .. }), "{error}");
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "not a database, but long enough for its header to be looked at ".repeat(20))
        .unwrap();
    assert!(matches!(Store::open(&text), Err(StoreError::NotAStore { .. })));
    let foreign = folder.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(Store::open(&foreign), Err(StoreError::NotAStore { .. })));
    let missing = folder.path().join("missing.db");
    assert!(matches!(Store::open_existing(&missing), Err(StoreError::Missing { .. })));
    assert!(!missing.exists());
}

#[test]
fn a_locked_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hanas.db");
    let (mut store, id, _) = filled(&path);
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = store.begin_session(&session(id)).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    store.begin_session(&session(id)).unwrap();
}

const CHILD: &str = "HANAS_TEST_KILLED_WRITER";

/// Writes batches until it is killed; run by the test below in a process of its own.
#[test]
fn killed_writer() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let (mut store, _, session) = filled(Path::new(&path));
    let models = store.add_models(&[model(8)]).unwrap();
    for round in 2.. {
        let rows = [VisitRow { model: models[0], round, samples: &[Nanos(1); 500] }; 20];
        store.append_visits(session, &rows).unwrap();
        println!("committed {round}");
    }
}

#[test]
fn a_killed_process_loses_no_committed_batch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hanas.db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["store::tests::killed_writer", "--exact", "--nocapture"])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let last = lines
        .filter_map(|line| line.unwrap().split_once("committed ").and_then(|(_, n)| n.parse::<u32>().ok()))
        .find(|&round| round >= 12)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let store = Store::open_existing(&path).unwrap();
    let whole: String = store.connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    let samples = store.samples(&query(store.devices().unwrap()[0].0)).unwrap();
    let mut rows_per_round = std::collections::BTreeMap::<u32, u32>::new();
    for visit in samples[0].visits.iter().filter(|visit| visit.round >= 2) {
        *rows_per_round.entry(visit.round).or_default() += 1;
    }
    assert!(rows_per_round.values().all(|&rows| rows == 20), "a batch is there whole or not at all");
    assert!(rows_per_round.contains_key(&last));
}
