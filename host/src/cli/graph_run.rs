//! Runs over graph nets as `hanas verify` and `hanas export` read them: no libtorch.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use hanas_proto::Nanos;

use super::NotTrustworthy;
use super::graph::load_graph;
use super::graph_answers::test_accuracy;
use super::nets::at_pace;
use super::pace::Pace;
use crate::data::graph::GraphData;
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::graph_candidates::{BATCH, GraphSubject, sampling as plan};
use crate::profile::sampling::Sampling;
use crate::search::hgnas::record::{GnnNetRecord, GnnRunRecord, GnnVerifyRecord, TOLERANCE};
use crate::search::run::{RunDir, SCHEMA_VERSION, save};
use crate::store::ModelSpec;
use crate::task::graph::GraphTask;
use crate::train::child::ChildConfig;
use crate::train::record::GraphTrainRecord;

/// A run over graph nets that has found its net.
pub(super) struct GraphRun {
    /// Its folder.
    pub(super) dir: RunDir,
    /// What came out.
    pub(super) net: GnnNetRecord,
    /// How its children were trained.
    pub(super) child: ChildConfig,
    /// Its task.
    pub(super) task: GraphTask,
    /// The device it was searched on, as the user named it.
    device: String,
}

impl GraphRun {
    /// Reads the run in a folder.
    pub(super) fn open(dir: &RunDir) -> anyhow::Result<Self> {
        let record = GnnRunRecord::load(dir)?;
        let net = GnnNetRecord::load(dir).context("the search has not found its net yet")?;
        let child = serde_json::from_str(&record.child).context("run.json: the child's settings")?;
        let task = record.task.parse()?;
        Ok(Self { dir: dir.clone(), net, child, task, device: record.device })
    }

    /// The run's graph.
    pub(super) fn data(&self, folder: Option<&Path>) -> anyhow::Result<GraphData> {
        load_graph(&self.task.data, folder)
    }

    /// What training came to.
    pub(super) fn trained(&self) -> anyhow::Result<GraphTrainRecord> {
        let run = self.dir.path().display();
        GraphTrainRecord::load(&self.dir)
            .with_context(|| format!("{run} is not trained yet; run `hanas train {run}` first"))
    }

    /// The trained net as it is measured.
    fn candidate(&self, onnx: Vec<u8>) -> Candidate {
        let (net, reading) = (self.net.net.clone(), self.child.reading);
        let spec = ModelSpec::Graph { net, reading, graph: self.task.data.name().to_owned() };
        Candidate::of_file(spec, BATCH, onnx)
    }

    /// The trained net with its graph, as training left it.
    pub(super) fn onnx(&self) -> anyhow::Result<Vec<u8>> {
        let path = self.dir.onnx();
        let run = self.dir.path().display();
        fs::read(&path)
            .with_context(|| format!("cannot read {}; `hanas train {run}` makes it", path.display()))
    }
}

/// What runs are verified with.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The device, as the user named it.
    pub(super) device: &'a str,
    /// The runs' graph; without it the device's pace is not known.
    pub(super) data: Option<&'a GraphData>,
    /// Whether the device is to classify the test nodes.
    pub(super) answers: bool,
    /// How often the nets are timed.
    pub(super) sampling: Sampling,
}

/// Times the trained nets of runs on one graph in turns with each other and the reference net, at the pace
/// of the search if the device comes to it, and lets the device classify the test nodes; keeps and returns
/// what came of it, in the order of the runs, and whether the times are trustworthy.
pub(super) fn verify(
    runs: &[GraphRun],
    session: &mut Session,
    asked: &Asked<'_>,
) -> anyhow::Result<(Vec<GnnVerifyRecord>, bool)> {
    let trained: Vec<(GraphTrainRecord, Vec<u8>)> =
        runs.iter().map(|run| Ok((run.trained()?, run.onnx()?))).collect::<anyhow::Result<_>>()?;
    let mut candidates: Vec<Candidate> =
        runs.iter().zip(&trained).map(|(run, (_, onnx))| run.candidate(onnx.clone())).collect();
    if let (Some(data), Some(first)) = (asked.data, runs.first()) {
        let subject = GraphSubject::new(first.task.data.name(), &data.graph, &data.features, data.classes);
        candidates.push(subject.candidate(&subject.pace_net(), first.child.reading)?);
    }
    // Another device's pace says nothing of this one's, and without one from before whatever is measured is
    // the pace.
    let here = runs.iter().filter(|run| run.device == asked.device);
    let before = here.filter_map(|run| run.net.reference_ns).reduce(f64::min);
    let pace = Pace::new(before.unwrap_or(f64::INFINITY));
    let reference = asked.data.map(|_| runs.len());
    let taken = at_pace(session, &candidates, reference, &plan(asked.sampling), pace)?;
    session.clear()?;
    // The pace that `taken` is held against over that of a run's own search.
    let own = |run: &GraphRun| {
        let own = run.net.reference_ns.filter(|_| run.device == asked.device);
        own.zip(before).map_or(1.0, |(own, before)| before / own)
    };
    let mut records = Vec::with_capacity(runs.len());
    for ((run, (trained, onnx)), latency) in runs.iter().zip(&trained).zip(&taken.measured.latencies) {
        let data = asked.data.filter(|_| asked.answers);
        let verify = GnnVerifyRecord {
            schema_version: SCHEMA_VERSION,
            device: asked.device.to_owned(),
            measured_ns: latency.value_ns,
            error_ns: latency.se_ns,
            // Than in its own search; those of the others may have been faster.
            slower: asked.data.map(|_| taken.slower * own(run)),
            in_turns: runs.iter().map(|run| run.dir.path().to_owned()).collect(),
            limit_ns: run.net.limit_ns,
            within_limit: None,
            trained_accuracy: trained.result.test_accuracy,
            device_accuracy: data.map(|data| test_accuracy(session, data, onnx)).transpose()?,
            doubts: taken.measured.doubts.clone(),
        };
        let within = |limit: f64| verify.at_pace_ns() <= (1.0 + TOLERANCE) * limit;
        let verify = GnnVerifyRecord { within_limit: verify.limit_ns.map(within), ..verify };
        save(&run.dir.file("verify.json"), &verify)?;
        records.push(verify);
    }
    Ok((records, taken.measured.trustworthy))
}

/// Refuses answers that are not those of training.
pub(super) fn agreed<'a>(verified: impl IntoIterator<Item = &'a GnnVerifyRecord>) -> anyhow::Result<()> {
    for verify in verified {
        anyhow::ensure!(
            verify.device_accuracy.is_none_or(|accuracy| accuracy == verify.trained_accuracy),
            "the device classifies the test nodes otherwise than training does"
        );
    }
    Ok(())
}

/// What verifications come to: answers that are not those of training are a failure whatever the times are
/// worth, and times that are not trusted say nothing of a limit.
pub(super) fn judged<'a>(
    verified: impl IntoIterator<Item = &'a GnnVerifyRecord> + Clone,
    trusted: bool,
) -> anyhow::Result<()> {
    agreed(verified.clone())?;
    if !trusted {
        return Err(NotTrustworthy.into());
    }
    for verify in verified {
        anyhow::ensure!(verify.within_limit != Some(false), "the net is over its limit on this device");
    }
    Ok(())
}

/// A net's verification as rows for people.
pub(super) fn lines(net: &GnnNetRecord, verify: &GnnVerifyRecord) -> String {
    let show = |ns: f64| Nanos::from_f64(ns).to_string();
    let mut lines = String::new();
    let mut row = |name: &str, value: String| lines.push_str(&format!("{name:<28}{value}\n"));
    row("measured", format!("{} (standard error {})", show(verify.measured_ns), show(verify.error_ns)));
    let at_pace = verify.at_pace_ns();
    if at_pace != verify.measured_ns {
        let slower = verify.measured_ns / at_pace;
        row("at the search's pace", format!("{} (the device is {slower:.2}x slower)", show(at_pace)));
    }
    let predicted = net.predicted_ns;
    let off = 100.0 * (predicted / at_pace - 1.0);
    row("predicted", format!("{} ({off:+.1}%)", show(predicted)));
    if let (Some(limit), Some(within)) = (verify.limit_ns, verify.within_limit) {
        row("limit", format!("{} ({})", show(limit), if within { "kept" } else { "missed" }));
    }
    row("test accuracy as trained", format!("{:.2}%", 100.0 * verify.trained_accuracy));
    if let Some(accuracy) = verify.device_accuracy {
        row("test accuracy on the device", format!("{:.2}%", 100.0 * accuracy));
    }
    let doubts = &verify.doubts;
    row("verdict", if doubts.is_empty() { "trustworthy".to_owned() } else { doubts.join("; ") });
    lines
}
