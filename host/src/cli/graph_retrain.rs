//! `hanas train` of a run over graph nets: weights and ONNX of the net that its search found.

use std::path::Path;

use hanas_models::gnn::layout::OnGraph;
use hanas_models::gnn::onnx::{Placement, lower};
use hanas_models::onnx::Init;
use hanas_proto::Bytes;
use serde::Serialize;

use super::context::Global;
use super::gnn::{Trainer, digest};
use super::graph_run::GraphRun;
use super::output::{Format, json, text};
use super::progress::Progress;
use super::{Interrupted, interrupt};
use crate::data::graph::GraphData;
use crate::search::checkpoint::save_weights;
use crate::search::hgnas::cache::{ScoreCache, Setting};
use crate::search::hgnas::explore::Score;
use crate::search::hgnas::finals::Spread;
use crate::search::hgnas::problem::{portion, prepare, trained};
use crate::search::hgnas::record::GnnRunRecord;
use crate::search::progress::peak_memory_bytes;
use crate::search::run::{RunDir, SCHEMA_VERSION, write_whole};
use crate::train::child::ChildConfig;
use crate::train::record::GraphTrainRecord;

/// What the user may change.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changes {
    /// 300 epochs without an early end.
    pub(super) paper: bool,
    /// Epochs.
    pub(super) epochs: Option<u32>,
    /// The first seed.
    pub(super) seed: Option<u64>,
    /// Trainings.
    pub(super) runs: Option<u64>,
}

/// Settings, first seed and one score a seed; scores that are known already are not trained for.
struct Plan {
    config: ChildConfig,
    first_seed: u64,
    runs: u64,
    known: Vec<Score>,
}

impl Plan {
    /// Unchanged, the trainings are those of the search's end, whose scores the run holds.
    fn new(run: &GraphRun, search_seed: u64, changes: Changes) -> Self {
        let mut config = run.child;
        if changes.paper {
            config = ChildConfig { epochs: ChildConfig::paper().epochs, patience: None, ..config };
        }
        config.epochs = changes.epochs.unwrap_or(config.epochs);
        let best = run.net.finalists.first();
        let own_seed = best.map_or(search_seed.wrapping_add(1), |best| best.first_seed(search_seed));
        let first_seed = changes.seed.unwrap_or(own_seed);
        let found = best.map_or_else(Vec::new, |best| best.scores.clone());
        let known = if config == run.child && first_seed == own_seed { found } else { Vec::new() };
        let runs = changes.runs.unwrap_or(known.len().max(1) as u64);
        Self { config, first_seed, runs, known: known.into_iter().take(runs as usize).collect() }
    }
}

#[derive(Serialize)]
struct Outcome<'a> {
    run: &'a Path,
    net: &'a str,
    #[serde(flatten)]
    record: GraphTrainRecord,
    peak_memory_bytes: u64,
}

/// Runs the command.
pub(super) fn run(
    global: &Global,
    dir: &RunDir,
    folder: Option<&Path>,
    changes: Changes,
) -> anyhow::Result<()> {
    let run = GraphRun::open(dir)?;
    let data = run.data(folder)?;
    let record = retrain(global, &run, &data, changes)?;
    let peak_memory_bytes = peak_memory_bytes();
    let outcome = Outcome { run: dir.path(), net: &run.net.summary, record, peak_memory_bytes };
    print(global, &outcome)
}

/// Trains as often as planned, then once more under the best seed, whose weights and ONNX are kept.
pub(super) fn retrain(
    global: &Global,
    run: &GraphRun,
    data: &GraphData,
    changes: Changes,
) -> anyhow::Result<GraphTrainRecord> {
    let search_seed = GnnRunRecord::load(&run.dir)?.settings.seed;
    let Plan { config, first_seed, runs, known: mut scores } = Plan::new(run, search_seed, changes);
    config.check().map_err(super::Usage)?;
    let mut trainer = Trainer::new(data, config);
    if let Some(why) = trainer.too_large(&run.net.net) {
        anyhow::bail!("{why}; close other programs and give the same command again");
    }
    if (scores.len() as u64) < runs {
        let (child, threads) = (serde_json::to_string(&config)?, trainer.threads(true));
        let setting = Setting { child, data: digest(data), threads };
        let mut cache = ScoreCache::open(&run.dir.file("scores.jsonl"), setting)?;
        let mut progress = Progress::new("train", runs, global.quiet);
        interrupt::watch();
        let seeds: Vec<u64> =
            (scores.len() as u64..runs).map(|number| first_seed.wrapping_add(number)).collect();
        for seeds in seeds.chunks(portion(&trainer)) {
            let nets: Vec<_> = seeds.iter().map(|&seed| (run.net.net.clone(), seed)).collect();
            let ready = prepare(&nets, &mut trainer, &mut cache, interrupt::watch());
            ready.map_err(|error| anyhow::anyhow!(error))?;
            if interrupt::asked() {
                let kept = "the same command goes on from the last training".to_owned();
                return Err(Interrupted { kept }.into());
            }
            for (net, seed) in &nets {
                let score = trained(net, *seed, &mut trainer, &mut cache);
                scores.push(score.map_err(|error| anyhow::anyhow!(error))?);
            }
            progress.at(scores.len() as u64, "trainings");
        }
    }
    let best = (0..scores.len()).max_by(|&a, &b| scores[a].validation.total_cmp(&scores[b].validation));
    let seed = first_seed.wrapping_add(best.unwrap_or(0) as u64);
    let (result, weights) = trainer.train(&run.net.net, seed)?;
    save_weights(&run.dir.weights(), &weights)?;
    let on = OnGraph::new(&data.graph, &data.features);
    let onnx = lower(&run.net.net, &on, config.reading, Init::Weights(&weights), Placement::Inside)?;
    write_whole(&run.dir.onnx(), &onnx)?;
    let spread = |of: fn(&Score) -> f64| Spread::new(&scores.iter().map(of).collect::<Vec<_>>());
    let record = GraphTrainRecord {
        schema_version: SCHEMA_VERSION,
        config,
        runs: scores.len(),
        validation: spread(|score| score.validation),
        test: spread(|score| score.test),
        seed,
        result,
    };
    record.save(&run.dir)?;
    Ok(record)
}

fn print(global: &Global, outcome: &Outcome<'_>) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return json(outcome);
    }
    let GraphTrainRecord { runs, validation, test, seed, result, .. } = &outcome.record;
    let run = outcome.run.display();
    text(&format!(
        "{}\nover {runs} training(s): validation {}, test {}\nkept seed {seed}: validation {:.2}%, test {:.2}%, at epoch {} of {}\npeak memory {}\nnext: hanas export {run}; hanas verify {run} --device ...\n",
        outcome.net,
        percent(*validation),
        percent(*test),
        100.0 * result.val_accuracy,
        100.0 * result.test_accuracy,
        result.best_epoch + 1,
        result.epochs,
        Bytes(outcome.peak_memory_bytes),
    ))
}

/// A mean and deviation in percent.
pub(super) fn percent(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |of| format!("{:.2}% (sd {:.2})", 100.0 * of.mean, 100.0 * of.sd))
}
