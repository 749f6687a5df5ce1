//! What graph nets cost on a device, and what they answer there.

use std::ops::ControlFlow;

use hanas_models::gnn::layout::OnGraph;
use hanas_proto::measure::{LoadOptions, RoundContext};

use super::{Interrupted, interrupt};
use crate::data::graph::GraphData;
use crate::link::Session;
use crate::profile::candidates::Candidate;
use crate::profile::graph_candidates::sampling;
use crate::profile::runner::{Ended, Note, run};
use crate::profile::sampling::Sampling;
use crate::store::{SessionId, Visit};

/// A net's runs and the circumstances.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// The runs of every candidate.
    pub(super) visits: Vec<Vec<Visit>>,
    /// The rounds' circumstances.
    pub(super) contexts: Vec<(u32, RoundContext)>,
}

/// Times candidates, interleaved.
pub(super) fn time(
    session: &mut Session,
    candidates: &[Candidate],
    wanted: &Sampling,
) -> anyhow::Result<Runs> {
    let mut runs = Runs { visits: vec![Vec::new(); candidates.len()], contexts: Vec::new() };
    let have = vec![0; candidates.len()];
    let options = LoadOptions::default();
    let mut failure = None;
    let mut order = 0;
    let ended = run(session, candidates, &have, &sampling(*wanted), options, &mut |note| {
        match note {
            Note::Visit { candidate, serial, runs: samples } => {
                order += 1;
                let visit = Visit { session: SessionId(0), round: serial, order, samples };
                runs.visits[candidate].push(visit);
            }
            Note::Context { serial, context } => runs.contexts.push((serial, context)),
            Note::Failed { candidate, reason } => failure = Some((candidate, reason)),
            Note::Settled { .. } | Note::Loaded { .. } | Note::Operators { .. } => {}
        }
        let stop = failure.is_some() || interrupt::asked();
        Ok(if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if let Some((candidate, reason)) = failure {
        anyhow::bail!("the device cannot run {}: {reason}", candidates[candidate].spec.name());
    }
    if ended == Ended::Stopped {
        let kept = "the same command goes on from what was measured".to_owned();
        return Err(Interrupted { kept }.into());
    }
    Ok(runs)
}

/// Share of the test nodes that the device gets right with a net whose graph is inside its file.
pub(super) fn test_accuracy(session: &mut Session, data: &GraphData, onnx: &[u8]) -> anyhow::Result<f64> {
    session.load_onnx(0, onnx, LoadOptions::default())?;
    let on = OnGraph::new(&data.graph, &data.features);
    let features: Vec<u8> = on.input(&data.features).iter().flat_map(|value| value.to_le_bytes()).collect();
    let inputs = session.upload(&features)?;
    let outputs = session.infer(0, inputs)?;
    let scores: Vec<f32> = outputs.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let wanted = data.nodes() as usize * data.classes as usize;
    anyhow::ensure!(scores.len() == wanted, "the device gives {} scores, not {wanted}", scores.len());
    Ok(data.accuracy(&scores, &data.split.test))
}
