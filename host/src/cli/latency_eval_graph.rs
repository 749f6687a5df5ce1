//! `hanas latency eval --run`: latency models of graph nets side by side.
//!
//! In: the random nets that a search measured. Out: how far each model is off on a tenth of them that none was
//! made of, the same for all: that by which the search judged its predictor.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use hanas_models::gnn::layout::{Layout, Widths};
use hanas_models::gnn::{GnnLayer, GnnNet, Reading};
use serde::{Deserialize, Serialize};

use super::context::Global;
use super::gnn::digest;
use super::graph::load_graph;
use super::latency_eval::{FIGURES, NET_COLUMNS, figures, net_row};
use super::output::{Format, Table, json, text};
use crate::latency::agreement::{Agreement, agreement};
use crate::latency::graph::{GraphFit, GraphShape, MeasuredNet};
use crate::search::hgnas::cache::{Latency, Measuring};
use crate::search::hgnas::predictor::{Gate, Predictor, PredictorConfig, Target, shuffled};
use crate::search::hgnas::record::GnnRunRecord;
use crate::search::hgnas::space::key;
use crate::search::progress::read_complete_lines;
use crate::search::run::{Kind, RunDir};
use crate::task::graph::GraphTask;
use crate::train::child::ChildConfig;

/// The models: prices of what layers do; a net on the latency (paper); a net on what the prices leave.
const MODELS: [&str; 3] = ["structural", "mlp", "residual mlp"];

/// Whose nets.
#[derive(Debug, Args)]
pub(super) struct GraphArgs {
    /// A run of `search hgnas`: models of graph nets, of the random nets that it measured
    #[arg(long, value_name = "RUN", conflicts_with_all = ["task", "batch", "device"])]
    pub(super) run: Option<PathBuf>,
    /// Folder of the run's graph
    #[arg(long, env = "HANAS_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The search's own --latencies, where it had that [default: latencies.jsonl in the run's folder]
    #[arg(long, value_name = "FILE", requires = "run")]
    latencies: Option<PathBuf>,
}

#[derive(Serialize)]
struct Evaluations<'a> {
    run: &'a Path,
    task: String,
    devices: Vec<OnDevice>,
}

/// Models of a device, judged by the same nets.
#[derive(Serialize)]
struct OnDevice {
    device: String,
    measured_nets: usize,
    models: Vec<Judged>,
    nets: Vec<Compared>,
}

#[derive(Serialize)]
struct Judged {
    model: &'static str,
    /// What a search would make of such a predictor.
    gate: &'static str,
    #[serde(flatten)]
    agreement: Agreement,
}

#[derive(Serialize)]
struct Compared {
    net: String,
    measured_ns: f64,
    /// In the order of [`MODELS`].
    predicted_ns: Vec<f64>,
}

/// Runs `hanas latency eval --run`.
pub(super) fn run(global: &Global, folder: &Path, args: &GraphArgs, per_net: bool) -> anyhow::Result<()> {
    let dir = RunDir::open(folder)?;
    anyhow::ensure!(
        dir.kind()? == Kind::Graph,
        "{} is a run over convnets, whose models are those of its --task",
        folder.display()
    );
    let record = GnnRunRecord::load(&dir)?;
    let child: ChildConfig = serde_json::from_str(&record.child).context("run.json: the child's settings")?;
    let task: GraphTask = record.task.parse()?;
    let data = load_graph(&task.data, args.data.as_deref())?;
    let layout = Layout::new(&data.graph, Widths::Rounded);
    let graph = GraphShape { nodes: data.nodes(), edges: layout.messages() as u32 };
    let file = args.latencies.clone().unwrap_or_else(|| dir.file("latencies.jsonl"));
    let measured = measured(&file, &digest(&data), child.reading)?;
    anyhow::ensure!(
        !measured.is_empty(),
        "{} holds no latency of a net on this graph; give the search's own --data, and its --latencies where it had that",
        file.display()
    );
    let judged = |of: &Measured| judged(of, graph, child.reading, record.settings.seed);
    let devices = measured.iter().map(judged).collect::<anyhow::Result<_>>()?;
    print(global, per_net, &Evaluations { run: folder, task: task.name, devices })
}

/// A line of the file, as [`LatencyCache`](crate::search::hgnas::cache::LatencyCache) keeps it.
#[derive(Debug, Deserialize)]
struct Line {
    key: String,
    #[serde(flatten)]
    on: Measuring,
    #[serde(flatten)]
    latency: Latency,
}

/// Nets in the order in which one device measured them, ns.
#[derive(Debug)]
struct Measured {
    device: String,
    nets: Vec<(GnnNet, f64)>,
}

/// Nets that were measured on the data with that digest, read in that way.
fn measured(file: &Path, data: &str, reading: Reading) -> anyhow::Result<Vec<Measured>> {
    let reading = serde_json::to_string(&reading)?;
    let mut devices: Vec<(Measuring, Vec<Line>)> = Vec::new();
    for line in read_complete_lines::<Line>(file)? {
        if line.on.data != data || !line.on.how.starts_with(&reading) {
            continue;
        }
        match devices.iter_mut().find(|(on, _)| *on == line.on) {
            Some((_, lines)) => lines.push(line),
            None => devices.push((line.on.clone(), vec![line])),
        }
    }
    devices.into_iter().map(|(on, lines)| Measured::new(on.device, &lines)).collect()
}

impl Measured {
    /// At the best pace of the device, without the nets that it cannot run; a net counts once.
    fn new(device: String, lines: &[Line]) -> anyhow::Result<Self> {
        let reference_ns = lines.iter().map(|line| line.latency.reference_ns).fold(f64::INFINITY, f64::min);
        let (mut seen, mut nets) = (BTreeSet::new(), Vec::new());
        for line in lines {
            if !seen.insert(&line.key) {
                continue;
            }
            if let Some(ns) = line.latency.at_pace(reference_ns) {
                nets.push((net(&line.key)?, ns));
            }
        }
        Ok(Self { device, nets })
    }
}

/// The net of a [`key`].
fn net(name: &str) -> anyhow::Result<GnnNet> {
    let read = || {
        let (features, rest) = name.split_once('>')?;
        let (layers, classes) = rest.rsplit_once('>')?;
        let layers: Option<Vec<GnnLayer>> = layers.split('>').map(|layer| layer.parse().ok()).collect();
        Some(GnnNet::new(features.parse().ok()?, classes.parse().ok()?, layers?))
    };
    read().with_context(|| format!("'{name}' is no graph net; the file of latencies is damaged"))
}

/// Every model, made of the same nets and held against the same others.
fn judged(measured: &Measured, graph: GraphShape, reading: Reading, seed: u64) -> anyhow::Result<OnDevice> {
    let Measured { device, nets } = measured;
    let trained = |target| Predictor::train(nets, target, PredictorConfig::default(), seed);
    let mlp = trained(Target::Latency)?;
    let residual = trained(Target::Residual { graph, reading })?;
    let mut parts: Vec<&(GnnNet, f64)> = nets.iter().collect();
    let tenth = shuffled(&mut parts, seed);
    let made_of = parts[2 * tenth..].iter().map(|(net, ns)| MeasuredNet { net: net.clone(), graph, ns: *ns });
    let structural = GraphFit::new(&made_of.collect::<Vec<_>>(), reading)?;
    let mut compared = Vec::with_capacity(tenth);
    for (net, measured_ns) in &parts[..tenth] {
        let predicted =
            [Some(structural.predict_ns(net, graph)), mlp.predict_ns(net), residual.predict_ns(net)];
        let predicted_ns = predicted.into_iter().collect::<Option<Vec<f64>>>();
        let predicted_ns = predicted_ns.with_context(|| format!("{} has not two layers", key(net)))?;
        compared.push(Compared { net: key(net), measured_ns: *measured_ns, predicted_ns });
    }
    let models = MODELS.into_iter().enumerate().filter_map(|(place, model)| {
        let pair = |of: &Compared| (of.predicted_ns[place], of.measured_ns);
        let agreement = agreement(&compared.iter().map(pair).collect::<Vec<_>>())?;
        Some(Judged { model, gate: gate(&agreement), agreement })
    });
    let models = models.collect();
    Ok(OnDevice { device: device.clone(), measured_nets: nets.len(), models, nets: compared })
}

/// The stricter gate that an agreement passes.
fn gate(test: &Agreement) -> &'static str {
    if Gate::QUIET.passes(test) {
        "quiet"
    } else if Gate::NOISY.passes(test) {
        "noisy"
    } else {
        "missed"
    }
}

fn print(global: &Global, per_net: bool, found: &Evaluations<'_>) -> anyhow::Result<()> {
    let table = if per_net { by_net(found) } else { by_model(found) };
    match global.format {
        Format::Json => json(found),
        Format::Csv => text(&table.to_csv()),
        Format::Text => text(&table.to_text()),
    }
}

fn by_model(found: &Evaluations<'_>) -> Table {
    let mut table = Table::new(&[&["device", "model"][..], &FIGURES, &["gate"]].concat());
    for of in &found.devices {
        for Judged { model, gate, agreement } in &of.models {
            let names = vec![of.device.clone(), (*model).to_owned()];
            table.row([names, figures(agreement).to_vec(), vec![(*gate).to_owned()]].concat());
        }
    }
    table
}

fn by_net(found: &Evaluations<'_>) -> Table {
    let mut table = Table::new(&NET_COLUMNS);
    for of in &found.devices {
        for net in &of.nets {
            for (model, &predicted_ns) in MODELS.into_iter().zip(&net.predicted_ns) {
                table.row(net_row(&of.device, &net.net, model, net.measured_ns, predicted_ns));
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::latency::graph::tests::{CORA, device_ns, random_net};

    const READING: Reading = Reading { compat_src_softmax: false, pool_per_node: false };

    #[test]
    fn all_models_are_judged_by_the_nets_that_judge_the_predictor() {
        tch::set_num_threads(1);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let nets: Vec<(GnnNet, f64)> = std::iter::repeat_with(|| random_net(&mut rng))
            .take(100)
            .map(|net| {
                let ns = device_ns(&net, CORA, 1);
                (net, ns)
            })
            .collect();
        let measured = Measured { device: "vm".to_owned(), nets };
        let found = judged(&measured, CORA, READING, 7).unwrap();
        let [structural, mlp, residual] = &found.models[..] else { panic!("three models") };
        // A device that is a sum of prices.
        assert!(structural.agreement.mape < 0.01 && structural.gate == "quiet", "{:?}", structural.agreement);
        assert_eq!((found.measured_nets, mlp.agreement.nets), (100, 10));
        for (of, target) in
            [(mlp, Target::Latency), (residual, Target::Residual { graph: CORA, reading: READING })]
        {
            let alone = Predictor::train(&measured.nets, target, PredictorConfig::default(), 7).unwrap();
            assert_eq!(of.agreement, *alone.test());
        }
    }

    #[test]
    fn measured_nets_are_read_by_graph_reading_and_device() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latencies.jsonl");
        let how = format!("{} 16", serde_json::to_string(&READING).unwrap());
        let name = "9>gat/sum/elu/8x8>gcn/max/linear/2x4>4";
        let line = |device: &str, how: &str, data: &str, key: &str, ns: &str, reference_ns: f64| {
            let (device, how, data) = (device.to_owned(), how.to_owned(), data.to_owned());
            let on = serde_json::to_value(Measuring { device, how, data }).unwrap();
            let mut line = serde_json::json!({ "key": key, "reference_ns": reference_ns });
            line["ns"] = serde_json::from_str(ns).unwrap();
            line.as_object_mut().unwrap().extend(on.as_object().unwrap().clone());
            format!("{line}\n")
        };
        let lines = [
            line("pi", &how, "cora", name, "500.0", 200.0),
            line("pi", "otherwise 16", "cora", "9>gat/sum/elu/8x8>4", "1.0", 100.0),
            line("pi", &how, "citeseer", "9>gat/sum/elu/8x8>4", "1.0", 1.0),
            line("vm", &how, "cora", name, "70.0", 30.0),
            line("pi", &how, "cora", name, "999.0", 200.0),
            line("pi", &how, "cora", "9>gat/sum/elu/1x4>4", "null", 100.0),
        ];
        std::fs::write(&path, lines.concat()).unwrap();
        let found = measured(&path, "cora", READING).unwrap();
        let [pi, vm] = &found[..] else { panic!("{found:?}") };
        // At the pace of the fastest reference net; what the device cannot run is left out.
        assert_eq!((pi.nets.len(), pi.nets[0].1, vm.nets[0].1), (1, 250.0, 70.0));
        assert_eq!(key(&pi.nets[0].0), name);
        assert!(measured(&path, "pubmed", READING).unwrap().is_empty());
        for bad in ["", "9>4", "9>gat/sum/elu>4", "x>gat/sum/elu/8x8>4", "9>gat/sum/elu/8x8>"] {
            assert!(net(bad).unwrap_err().to_string().contains("is no graph net"), "{bad}");
        }
    }
}
