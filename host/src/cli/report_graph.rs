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
        let verify = GnnVerifyRecord::load(dir).ok();
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
    let mut note =
        format!("{name}: accuracies of graph nets are means over trainings, of the found net {runs}");
    if let Some(of) = spread {
        note.push_str(&format!(": test {:.2}%, standard deviation {:.2}", 100.0 * of.mean, 100.0 * of.sd));
    }
    if let Some((verify, on_device)) = verify.and_then(|verify| Some((verify, verify.device_accuracy?))) {
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
