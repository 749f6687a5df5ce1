//! Runs over graph nets as `hanas verify` and `hanas export` read them: no libtorch.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use hanas_proto::Nanos;

use super::graph::load_graph;
use super::graph_answers::test_accuracy;
use super::nets::{in_turns, latencies};
use crate::data::graph::GraphData;
use crate::latency::verdict::{Evidence, judge};
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::graph_candidates::{BATCH, sampling as plan};
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
}

impl GraphRun {
    /// Reads the run in a folder.
    pub(super) fn open(dir: &RunDir) -> anyhow::Result<Self> {
        let record = GnnRunRecord::load(dir)?;
        let net = GnnNetRecord::load(dir).context("the search has not found its net yet")?;
        let child = serde_json::from_str(&record.child).context("run.json: the child's settings")?;
        let task = record.task.parse()?;
        Ok(Self { dir: dir.clone(), net, child, task })
    }

    /// The run's graph.
    pub(super) fn data(&self, folder: Option<&Path>) -> anyhow::Result<GraphData> {
        load_graph(self.task.data, folder)
    }

    /// What training came to.
    pub(super) fn trained(&self) -> anyhow::Result<GraphTrainRecord> {
        let run = self.dir.path().display();
        GraphTrainRecord::load(&self.dir)
            .with_context(|| format!("{run} is not trained yet; run `hanas train {run}` first"))
    }

    /// The trained net with its graph, as training left it.
    pub(super) fn onnx(&self) -> anyhow::Result<Vec<u8>> {
        let path = self.dir.onnx();
        let run = self.dir.path().display();
        fs::read(&path)
            .with_context(|| format!("cannot read {}; `hanas train {run}` makes it", path.display()))
    }

    /// Times the trained net on the device and, with the graph at hand, lets the device classify its test
    /// nodes; keeps and returns what came of it, and whether the times are trustworthy.
    pub(super) fn verify(
        &self,
        session: &mut Session,
        device: &str,
        data: Option<&GraphData>,
        sampling: &Sampling,
    ) -> anyhow::Result<(GnnVerifyRecord, bool)> {
        let (trained, onnx) = (self.trained()?, self.onnx()?);
        let (net, reading) = (self.net.net.clone(), self.child.reading);
        let spec = ModelSpec::Graph { net, reading, graph: self.task.data.name().to_owned() };
        let candidate = Candidate::of_file(spec, BATCH, onnx.clone());
        let runs = in_turns(session, &[candidate], &plan(*sampling))?;
        let (clock, cores) = (session.facts().clock_resolution_ns, session.facts().cores);
        let latency = latencies(session, &runs.visits)?[0];
        let models: Vec<_> = runs.visits.iter().map(Vec::as_slice).collect();
        let verdict =
            judge(&Evidence { models: &models, contexts: &runs.contexts, clock_resolution_ns: clock, cores });
        session.clear()?;
        let device_accuracy = data.map(|data| test_accuracy(session, data, &onnx)).transpose()?;
        let limit_ns = self.net.limit_ns;
        let verify = GnnVerifyRecord {
            schema_version: SCHEMA_VERSION,
            device: device.to_owned(),
            measured_ns: latency.value_ns,
            error_ns: latency.se_ns,
            limit_ns,
            within_limit: limit_ns.map(|limit| latency.value_ns <= (1.0 + TOLERANCE) * limit),
            trained_accuracy: trained.result.test_accuracy,
            device_accuracy,
            doubts: verdict.reasons.iter().map(ToString::to_string).collect(),
        };
        save(&self.dir.file("verify.json"), &verify)?;
        Ok((verify, verdict.trustworthy))
    }
}

/// What makes a verification a failure, whatever the times are worth.
pub(super) fn judged(verify: &GnnVerifyRecord) -> anyhow::Result<()> {
    anyhow::ensure!(
        verify.device_accuracy.is_none_or(|accuracy| accuracy == verify.trained_accuracy),
        "the device classifies the test nodes otherwise than training does"
    );
    anyhow::ensure!(verify.within_limit != Some(false), "the net is over its limit on this device");
    Ok(())
}

/// A net's verification as rows for people.
pub(super) fn lines(net: &GnnNetRecord, verify: &GnnVerifyRecord) -> String {
    let show = |ns: f64| Nanos::from_f64(ns).to_string();
    let mut lines = String::new();
    let mut row = |name: &str, value: String| lines.push_str(&format!("{name:<28}{value}\n"));
    row("measured", format!("{} (standard error {})", show(verify.measured_ns), show(verify.error_ns)));
    let predicted = net.predicted_ns;
    let off = 100.0 * (predicted / verify.measured_ns - 1.0);
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
