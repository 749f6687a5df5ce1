//! A run over graph nets on the page of `hanas report`.

use hanas_models::gnn::GnnNet;

use super::report::run_name;
use crate::report::line_chart::{LineChart, Series};
use crate::report::net_chart::Net;
use crate::report::page::Page;
use crate::search::hgnas::explore::Trial;
use crate::search::hgnas::finals::Finalist;
use crate::search::hgnas::record::{GnnNetRecord, GnnRunRecord, GnnVerifyRecord};
use crate::search::progress::read_complete_lines;
use crate::search::run::RunDir;
use crate::train::record::GraphTrainRecord;

/// Puts a run's net, the finalists that it was chosen from and the course of its search on the page.
pub(super) fn add_run(page: &mut Page, dir: &RunDir) -> anyhow::Result<()> {
    let record = GnnRunRecord::load(dir)?;
    let name = run_name(dir);
    let strategy = record.strategy.name();
    if let Ok(found) = GnnNetRecord::load(dir) {
        // What another device said of the net is none of this page's.
        let verify = GnnVerifyRecord::load(dir).ok().filter(|verify| verify.device == record.device);
        let trained = GraphTrainRecord::load(dir).ok();
        let test = trained.as_ref().map_or(found.test, |trained| trained.test);
        page.nets.push(Net {
            accuracy: test.map(|of| of.mean),
            latency_ns: Some(verify.as_ref().map_or(found.measured_ns, GnnVerifyRecord::at_pace_ns)),
            latency_se_ns: verify.as_ref().map_or(0.0, |of| of.error_ns * of.at_pace_ns() / of.measured_ns),
            predicted_ns: Some(found.predicted_ns),
            ..net_row(name.clone(), strategy, &found.net, found.limit_ns)
        });
        for (place, other) in found.finalists.iter().enumerate().skip(1) {
            page.nets.push(finalist(&name, place + 1, other, found.limit_ns));
        }
        page.making.notes.push(accuracies(&name, &found, trained.as_ref(), verify.as_ref()));
    }
    let trials: Vec<Trial> = read_complete_lines(&dir.search_log())?;
    if !trials.is_empty() {
        add_search(page, &name, &trials, record.settings.reward.limit_ns);
    }
    Ok(())
}

fn net_row(name: String, strategy: &str, net: &GnnNet, budget_ns: Option<f64>) -> Net {
    let values = |shape: &Vec<u32>| shape.iter().map(|&side| u64::from(side)).product::<u64>();
    Net {
        name,
        strategy: strategy.to_owned(),
        params: net.tensors().iter().map(|(_, shape)| values(shape)).sum(),
        widths: net.to_string(),
        budget_ns,
        ..Net::default()
    }
}

fn finalist(run: &str, place: usize, of: &Finalist, limit_ns: Option<f64>) -> Net {
    Net {
        accuracy: of.test().map(|of| of.mean),
        latency_ns: Some(of.measured_ns),
        predicted_ns: Some(of.predicted_ns),
        ..net_row(format!("{run} no. {place}"), "finalist", &of.net, limit_ns)
    }
}

/// What a reader has to know of a run's accuracies.
fn accuracies(
    name: &str,
    found: &GnnNetRecord,
    trained: Option<&GraphTrainRecord>,
    verify: Option<&GnnVerifyRecord>,
) -> String {
    let runs = trained.map_or(found.runs, |trained| trained.runs);
    let spread = trained.map_or(found.test, |trained| trained.test);
    let mut note = format!(
        "{name}: accuracies of graph nets are means over trainings: of the found net {runs} after it was chosen, of the others those that decided"
    );
    if let Some(of) = spread {
        note.push_str(&format!(": test {:.2}%, standard deviation {:.2}", 100.0 * of.mean, 100.0 * of.sd));
    }
    // Weights that were trained since have not been on the device.
    let now = |verify: &&GnnVerifyRecord| {
        trained.is_none_or(|trained| trained.result.test_accuracy == verify.trained_accuracy)
    };
    if let Some((verify, on_device)) =
        verify.filter(now).and_then(|verify| Some((verify, verify.device_accuracy?)))
    {
        note.push_str(&format!(
            "; the exported weights get {:.2}% as trained and {:.2}% on the device",
            100.0 * verify.trained_accuracy,
            100.0 * on_device
        ));
    }
    note + "."
}

/// Accuracy and latency over a search's trials.
fn add_search(page: &mut Page, run: &str, trials: &[Trial], limit_ns: Option<f64>) {
    let at = |trial: &Trial| (trial.trial + 1) as f64;
    let mut best = 0.0f64;
    let mut so_far = Vec::new();
    for (place, validation) in trials.iter().filter_map(|of| Some((at(of), of.score?.validation))) {
        best = best.max(validation);
        so_far.push((place, 100.0 * best));
    }
    let scored = trials.iter().filter_map(|of| Some((at(of), 100.0 * of.score?.validation))).collect();
    let series = |name: &str, points| Series { name: name.to_owned(), points };
    let chart = |title: String, y_label: &str, series| LineChart {
        title,
        x_label: "trial".to_owned(),
        y_label: y_label.to_owned(),
        series,
    };
    let accuracies = vec![series("trial", scored), series("best so far", so_far)];
    page.curves.push(chart(format!("{run}: validation accuracy"), "accuracy, %", accuracies));
    let mut costs =
        vec![series("predicted", trials.iter().map(|of| (at(of), of.latency_ns / 1e6)).collect())];
    if let Some(limit) = limit_ns {
        costs.push(series("limit", trials.iter().map(|of| (at(of), limit / 1e6)).collect()));
    }
    page.curves.push(chart(format!("{run}: latency of the trials"), "ms", costs));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::search::run::{SCHEMA_VERSION, save};
    use crate::train::child::{ChildConfig, ChildResult};

    fn net() -> GnnNetRecord {
        GnnNetRecord {
            schema_version: SCHEMA_VERSION,
            net: GnnNet::reference(64, 4, 2, 8),
            summary: String::new(),
            predicted_ns: 2e6,
            measured_ns: 2e6,
            reference_ns: None,
            limit_ns: None,
            validation: None,
            test: None,
            runs: 1,
            trained: 1,
            predictor: None,
            finalists: Vec::new(),
        }
    }

    fn verify(device: &str) -> GnnVerifyRecord {
        GnnVerifyRecord {
            schema_version: SCHEMA_VERSION,
            device: device.to_owned(),
            measured_ns: 1e6,
            error_ns: 1e4,
            slower: None,
            in_turns: Vec::new(),
            limit_ns: None,
            within_limit: None,
            trained_accuracy: 0.75,
            device_accuracy: Some(0.75),
            doubts: Vec::new(),
        }
    }

    #[test]
    fn latencies_are_those_of_the_runs_own_device() {
        let folder = tempfile::tempdir().unwrap();
        let run = json!({
            "schema_version": SCHEMA_VERSION, "method": "hgnas", "task": "planted-gnn", "device": "board",
            "space": { "features": 64, "classes": 4, "sizes": { "kind": "grid" } }, "strategy": "rl",
            "settings": {
                "samples": 1, "seed": 1, "reward": { "objective": { "kind": "accuracy" }, "limit_ns": null }
            },
            "child": "{}", "finals": { "finalists": 5, "runs": 1, "final_runs": 2 },
        });
        save(&folder.path().join("run.json"), &run).unwrap();
        save(&folder.path().join("net.json"), &net()).unwrap();
        let dir = RunDir::open(folder.path()).unwrap();
        let shown = |device: &str| {
            save(&dir.file("verify.json"), &verify(device)).unwrap();
            let mut page = Page::default();
            add_run(&mut page, &dir).unwrap();
            let on_device = page.making.notes[0].contains("on the device");
            (page.nets[0].latency_ns, page.nets[0].latency_se_ns, on_device)
        };
        assert_eq!(shown("board"), (Some(1e6), 1e4, true));
        assert_eq!(shown("elsewhere"), (Some(2e6), 0.0, false));
    }

    #[test]
    fn answers_of_older_weights_are_not_those_of_newer_ones() {
        let note = |test_accuracy| {
            let result =
                ChildResult { best_epoch: 1, epochs: 2, val_loss: 1.0, val_accuracy: 0.5, test_accuracy };
            let trained = GraphTrainRecord {
                schema_version: SCHEMA_VERSION,
                config: ChildConfig::default(),
                runs: 1,
                validation: None,
                test: None,
                seed: 1,
                result,
            };
            accuracies("run", &net(), Some(&trained), Some(&verify("board")))
        };
        assert!(note(0.75).ends_with("get 75.00% as trained and 75.00% on the device."), "{}", note(0.75));
        assert!(!note(0.5).contains("on the device"), "{}", note(0.5));
    }
}
