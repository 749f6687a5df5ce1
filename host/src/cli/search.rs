//! `hanas search`: a net for a device under a latency budget.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hanas_models::resnet::ConvNet;
use hanas_proto::{Bytes, Nanos};
use serde::Serialize;

use super::context::{Global, TaskArg, query};
use super::device_timer::{DeviceTimer, fits, measured_base};
use super::output::{Format, json, text};
use super::search_args::{Budget, SearchArgs};
use super::turns::Turns;
use super::watch::Watch;
use super::{Interrupted, interrupt, space};
use crate::latency::net_model::{ModelKind, NetCost, NetModel};
use crate::profile::sampling::Sampling;
use crate::search::SearchError;
use crate::search::checkpoint::digest;
use crate::search::choices::Choices;
use crate::search::config::{CostKind, Gate, SearchConfig, Strategy};
use crate::search::latency_model::LatencyModel;
use crate::search::progress::peak_memory_bytes;
use crate::search::run::{NetRecord, RunDir, RunRecord, SCHEMA_VERSION};
use crate::search::strategies::{Files, Found, Request, search};
use crate::search::timer::NetTimer;
use crate::store::{ModelSamples, SampleQuery, Store};
use crate::task::Task;

#[derive(Serialize)]
struct Outcome {
    run: PathBuf,
    net: NetRecord,
    base: NetRecord,
    budget_ns: Option<f64>,
    peak_memory_bytes: u64,
}

/// Runs the command.
pub(super) fn run(global: &Global, args: &SearchArgs) -> anyhow::Result<()> {
    let TaskArg { task, batch } = &args.task;
    args.check()?;
    let mut store = global.existing_store()?;
    let mut session = global.connect(&args.device)?;
    let device = store.device_id(session.facts())?;
    let query = query(device, task, *batch);
    let samples = store.samples(&query)?;
    if samples.is_empty() {
        let name = &task.name;
        anyhow::bail!(
            "this device has no profile of {name} with batch {batch}; run `hanas profile --task {name} --batch {batch}` first"
        );
    }
    let clock = session.facts().clock_resolution_ns;
    let (cost, model) = latency_model(args, task, &store, &query, &samples, clock)?;
    let measured = match args.needs_space() {
        true => {
            let space = space::load(&store, &query)?.value;
            space::note_other_mode(&space, args.is_paper());
            Some(space.widths())
        }
        false => None,
    };
    // Before anything is measured or written: images that do not fit are found at once.
    let (data, normalisation) = args.images.load(task)?;
    let base_net = task.family.base();
    let (base_ns, pace) = measured_base(&mut session, &base_net, *batch, &samples, &Sampling::default())?;
    let mut base = NetRecord::new(&base_net)?;
    base.measured_ns = Some(base_ns);
    let config = args.config(cost, base_ns)?;
    let space = config.strategy.space(&task.family, measured.as_ref(), config.seed)?;
    let choices = Choices::new(&task.family, &space)?;
    let record = RunRecord {
        schema_version: SCHEMA_VERSION,
        task: task.clone(),
        device: args.device.device.clone(),
        batch: *batch,
        config: config.clone(),
        space,
        train_images: args.images.images,
        budget: Some(args.budget.to_string()),
        images_digest: Some(digest(&data.train, &normalisation)),
    };
    std::fs::create_dir_all(&args.out).with_context(|| format!("{} cannot be made", args.out.display()))?;
    let _alone = Turns::alone(&args.out)?;
    let (dir, config) = open_run(&args.out, record, args.budget)?;
    let budget_ns = match config.gate {
        Gate::Latency { budget_ns } => Some(budget_ns),
        Gate::Flops { .. } => None,
    };
    if dir.net().is_ok_and(|net| net.measured_ns.is_some()) {
        return print(global, &finished(global, &dir, base, budget_ns)?);
    }
    dir.save_base(&base)?;
    let request = Request {
        config: &config,
        choices: &choices,
        images: &data.train,
        normalisation: &normalisation,
        model: Some(&model),
    };
    let files = Files { checkpoint: dir.search_checkpoint(), log: dir.search_log() };
    let mut timer = DeviceTimer::new(&mut session, model.clone(), *batch, base_net.clone(), pace);
    let mut watch = Watch::new("search", global.quiet);
    let found = search(&request, &mut timer, Some(&files), &mut watch.monitor(interrupt::watch()));
    drop(watch);
    if found.as_ref().is_err_and(wants_other_settings) {
        // Most likely into the same folder.
        dir.abandon();
    }
    let found = found.map_err(|error| ended(error, config.strategy, &dir))?;
    let mut net = record_of(&found, &timer)?;
    dir.save_net(&net)?;
    if net.measured_ns.is_none() {
        // Multiply-adds decided; the net's latency is of interest all the same.
        let measured = timer.measure_ns(&found.net).map_err(SearchError::Timer);
        net.measured_ns = Some(measured.map_err(|error| ended(error, config.strategy, &dir))?);
        dir.save_net(&net)?;
    }
    let peak_memory_bytes = peak_memory_bytes();
    print(global, &Outcome { run: args.out.clone(), net, base, budget_ns, peak_memory_bytes })
}

/// The latency model that predicts and charges: the table of pairs where the cost is pairwise and there
/// is one, else the paper's curves. Without a table a cost that was asked for by name is an error, the
/// mode's default gives way with a note.
fn latency_model(
    args: &SearchArgs,
    task: &Task,
    store: &Store,
    query: &SampleQuery<'_>,
    samples: &[ModelSamples],
    clock_ns: u32,
) -> anyhow::Result<(CostKind, LatencyModel)> {
    let cost = args.cost();
    if cost != CostKind::Pairwise {
        return Ok((cost, fits(task, samples, clock_ns, 1.0)?.into()));
    }
    match pairs(task, store, query) {
        Ok(model) => Ok((cost, model)),
        Err(missing) if args.cost.is_some() => Err(missing),
        Err(missing) => {
            eprintln!("note: {missing:#}; this search predicts by the paper's curves (--cost paper-f)");
            Ok((CostKind::Latency, fits(task, samples, clock_ns, 1.0)?.into()))
        }
    }
}

/// The stored table of pairs, if it covers the task's layers.
fn pairs(task: &Task, store: &Store, query: &SampleQuery<'_>) -> anyhow::Result<LatencyModel> {
    let saved = store.load_fit::<NetModel>(query, ModelKind::Pairwise.stored_as())?.with_context(|| {
        format!(
            "there is no table of pairs of {}; `hanas profile --which pairs` and `hanas latency fit --model pairwise` make one",
            task.name
        )
    })?;
    let NetCost::Pairwise(tables) = saved.value.cost else {
        anyhow::bail!("the stored table of pairs is none; run `hanas latency fit --model pairwise` again");
    };
    let model = LatencyModel::Pairs(tables);
    let missing = model.unmeasured(&task.family);
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        anyhow::bail!(
            "the table of pairs lacks {}; run `hanas profile --which pairs` again",
            names.join(", ")
        );
    }
    Ok(model)
}

/// Opens the folder. A run that goes on under the same budget keeps the latency it began with: a share of
/// the base net's is slightly another one whenever that is measured.
fn open_run(path: &Path, mut record: RunRecord, budget: Budget) -> anyhow::Result<(RunDir, SearchConfig)> {
    if let Ok(old) = RunDir::open(path).and_then(|dir| dir.record()) {
        if let (Gate::Latency { budget_ns: then }, Gate::Latency { budget_ns: now }) =
            (old.config.gate, record.config.gate)
        {
            let same = match old.budget {
                Some(_) => old.budget == record.budget,
                None => matches!(budget, Budget::Share(_)) && (now / then - 1.0).abs() < SAME_BUDGET,
            };
            if same {
                record.config.gate = old.config.gate;
            }
        }
        // What an older hanas did not write down is taken for the same.
        record.budget = record.budget.filter(|_| old.budget.is_some());
        record.images_digest = record.images_digest.filter(|_| old.images_digest.is_some());
    }
    let config = record.config.clone();
    Ok((RunDir::create(path, &record)?, config))
}

/// Two measurements of one base net differ by less than this share; for runs of an older hanas, which did
/// not write down the budget as it was given.
const SAME_BUDGET: f64 = 0.2;

/// What a finished search found. It is not derived again: with fresh measurements it may be another net,
/// whose weights those of the folder are not.
fn finished(
    global: &Global,
    dir: &RunDir,
    base_now: NetRecord,
    budget_ns: Option<f64>,
) -> anyhow::Result<Outcome> {
    let run = dir.path().to_owned();
    if !global.quiet {
        eprintln!("note: the search in {} is finished; this is what it found", run.display());
    }
    let base = dir.base().unwrap_or(base_now);
    Ok(Outcome { run, net: dir.net()?, base, budget_ns, peak_memory_bytes: peak_memory_bytes() })
}

fn record_of(found: &Found, timer: &DeviceTimer<'_>) -> anyhow::Result<NetRecord> {
    let net: &ConvNet = &found.net;
    let mut record = NetRecord::new(net)?;
    record.predicted_ns = timer.predict_ns(net).ok();
    record.measured_ns = found.measured_ns;
    record.repair_steps = found.repair_steps;
    Ok(record)
}

/// Whether another budget or rate is what comes next.
const fn wants_other_settings(error: &SearchError) -> bool {
    matches!(
        error,
        SearchError::BudgetTooSmall { .. }
            | SearchError::BudgetTooLarge { .. }
            | SearchError::NoneFits { .. }
            | SearchError::Diverged { .. }
    )
}

/// A search that found no net, and what to do.
fn ended(error: SearchError, strategy: Strategy, dir: &RunDir) -> anyhow::Error {
    let interrupted = match &error {
        SearchError::Interrupted => true,
        // While a net was measured.
        SearchError::Timer(error) => error.is::<Interrupted>(),
        _ => false,
    };
    if interrupted {
        let kept = match strategy {
            Strategy::Random | Strategy::Uniform => "nothing is kept; the same command begins anew",
            _ => "the same command goes on from the last epoch",
        };
        return Interrupted { kept: kept.to_owned() }.into();
    }
    if matches!(error, SearchError::Diverged { .. }) {
        let elsewhere = if dir.search_checkpoint().exists() { " and another --out" } else { "" };
        return anyhow::anyhow!("{error}; give a lower --rate{elsewhere}");
    }
    error.into()
}

fn print(global: &Global, outcome: &Outcome) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return json(outcome);
    }
    let show =
        |ns: Option<f64>| ns.map_or_else(|| "not measured".to_owned(), |ns| Nanos::from_f64(ns).to_string());
    let Outcome { run, net, base, budget_ns, peak_memory_bytes } = outcome;
    text(&format!(
        "{}\nmultiply-adds {:.2} M (base {:.2} M), parameters {:.3} M (base {:.3} M)\nmeasured {} (base {}, budget {})\npeak memory {}\nnext: hanas train {}\n",
        net.summary,
        net.macs as f64 / 1e6,
        base.macs as f64 / 1e6,
        net.params as f64 / 1e6,
        base.params as f64 / 1e6,
        show(net.measured_ns),
        show(base.measured_ns),
        show(*budget_ns),
        Bytes(*peak_memory_bytes),
        run.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::meter::Amount;
    use crate::space::width::WidthSpace;

    #[test]
    fn a_search_without_a_net_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let record = serde_json::json!({ "schema_version": SCHEMA_VERSION });
        let dir = RunDir::create(folder.path(), &record).unwrap();
        let said = |error, strategy| ended(error, strategy, &dir).to_string();
        let asked = || SearchError::Timer(Box::new(Interrupted { kept: String::new() }));
        let on = "interrupted; the same command goes on from the last epoch";
        for error in [SearchError::Interrupted, asked()] {
            assert_eq!(said(error, Strategy::Htas), on);
        }
        assert!(said(asked(), Strategy::Uniform).contains("begins anew"));
        let diverged = || said(SearchError::Diverged { epoch: 2, step: 7 }, Strategy::Htas);
        assert!(diverged().ends_with("the learning rate is too high; give a lower --rate"));
        std::fs::write(dir.search_checkpoint(), "").unwrap();
        assert!(diverged().ends_with("give a lower --rate and another --out"));
    }

    #[test]
    fn a_search_without_a_net_gives_its_folder_back() {
        let (budget, nearest) = (Amount::Nanos(1e6), Amount::Nanos(2e6));
        assert!(wants_other_settings(&SearchError::NoneFits { budget, tried: 2, nearest }));
        assert!(wants_other_settings(&SearchError::Diverged { epoch: 0, step: 1 }));
        assert!(!wants_other_settings(&SearchError::Interrupted), "it goes on");
    }

    fn record(budget: Budget, budget_ns: f64) -> RunRecord {
        let task: Task = "shapes10-resnet20".parse().unwrap();
        RunRecord {
            schema_version: SCHEMA_VERSION,
            device: "local".to_owned(),
            batch: 4,
            config: SearchConfig::scaled(Strategy::Htas, Gate::Latency { budget_ns }, 1),
            space: WidthSpace::aligned(&task.family, 2, 8),
            train_images: None,
            budget: Some(budget.to_string()),
            images_digest: Some("0123".to_owned()),
            task,
        }
    }

    /// The latency limit with which a folder takes a search; none where it holds another run.
    fn open(path: &Path, budget: &str, budget_ns: f64) -> Option<f64> {
        let budget: Budget = budget.parse().unwrap();
        match open_run(path, record(budget, budget_ns), budget) {
            Ok((_, SearchConfig { gate: Gate::Latency { budget_ns }, .. })) => Some(budget_ns),
            Ok(_) => unreachable!("the gate is one of latency"),
            Err(error) => {
                assert!(error.to_string().contains("holds another run"), "{error}");
                None
            }
        }
    }

    #[test]
    fn a_run_goes_on_under_the_budget_that_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let (share, latency) = (folder.path().join("share"), folder.path().join("latency"));
        for (budget, now, limit) in
            [("0.5x", 1e6, Some(1e6)), ("0.50x", 1.3e6, Some(1e6)), ("0.51x", 1e6, None), ("1ms", 1e6, None)]
        {
            assert_eq!(open(&share, budget, now), limit, "{budget}");
        }
        for (budget, now, limit) in
            [("1ms", 1e6, Some(1e6)), ("1000us", 1e6, Some(1e6)), ("1.1ms", 1.1e6, None), ("0.5x", 1e6, None)]
        {
            assert_eq!(open(&latency, budget, now), limit, "{budget}");
        }
    }

    #[test]
    fn a_run_of_an_older_hanas_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut old = serde_json::to_value(record(Budget::Share(0.5), 1e6)).unwrap();
        for key in ["budget", "images_digest"] {
            old.as_object_mut().unwrap().remove(key).unwrap();
        }
        std::fs::write(folder.path().join("run.json"), old.to_string()).unwrap();
        for (budget, now, limit) in [
            ("0.5x", 1.1e6, Some(1e6)),
            ("0.5x", 1.3e6, None),
            ("1ms", 1e6, Some(1e6)),
            ("1.1ms", 1.1e6, None),
        ] {
            assert_eq!(open(folder.path(), budget, now), limit, "{budget}");
        }
    }

    #[test]
    fn a_run_on_other_images_is_another_run() {
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget::Share(0.5);
        assert!(open(folder.path(), "0.5x", 1e6).is_some());
        let other = RunRecord { images_digest: Some("4567".to_owned()), ..record(budget, 1e6) };
        let error = open_run(folder.path(), other, budget).unwrap_err();
        assert!(error.to_string().contains("holds another run"), "{error}");
    }
}
