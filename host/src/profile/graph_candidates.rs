//! Graph nets to measure on one graph (ALGORITHM 2.5): reference nets for pairs of heads and dim, and any
//! other net. A candidate is a few kilobytes of ONNX; the graph's lists are content that an agent is sent
//! once and that every candidate refers to. Features are made by the agent: latency is none of their
//! values' business.

use std::sync::Arc;

use hanas_models::gnn::graph::{Graph, SparseRows};
use hanas_models::gnn::layout::OnGraph;
use hanas_models::gnn::onnx::{Placement, held, lower};
use hanas_models::gnn::{GnnNet, Reading};
use hanas_models::onnx::Init;
use hanas_proto::Digest;

use super::ProfileError;
use super::candidates::Candidate;
use super::sampling::Sampling;
use crate::store::ModelSpec;

/// Seed of the first weight of every candidate.
const WEIGHT_SEED: u32 = 1;

/// A whole graph a run.
pub const BATCH: u32 = 1;

/// Candidates loaded at once: an agent holds a net's first weight twice, up to 15 MB on Cora.
const SET_SIZE: u16 = 64;

/// A graph that nets are measured on.
#[derive(Debug, Clone)]
pub struct GraphSubject {
    name: String,
    features: u32,
    classes: u32,
    on: OnGraph,
    held: Arc<[u8]>,
    location: String,
}

impl GraphSubject {
    /// The graph of that name with its features and number of classes.
    #[must_use]
    pub fn new(name: &str, graph: &Graph, features: &SparseRows, classes: u32) -> Self {
        let on = OnGraph::new(graph, features);
        let held: Arc<[u8]> = held(&on).into();
        let location = format!("blake3:{}", Digest(*blake3::hash(&held).as_bytes()));
        Self { name: name.to_owned(), features: features.width(), classes, on, held, location }
    }

    /// Any net on the graph, with seeded weights.
    ///
    /// # Errors
    /// [`ProfileError`] where the net does not fit together.
    pub fn candidate(&self, net: &GnnNet, reading: Reading) -> Result<Candidate, ProfileError> {
        let placement = Placement::Held(&self.location);
        let onnx = lower(net, &self.on, reading, Init::Seeded(WEIGHT_SEED), placement)?;
        let spec = ModelSpec::Graph { net: net.clone(), reading, graph: self.name.clone() };
        Ok(Candidate { held: Some(self.held.clone()), ..Candidate::of_file(spec, BATCH, onnx) })
    }

    /// The net by whose latency the device's pace is told: a GAT of two layers, the first of 8 heads and
    /// 8 dims.
    #[must_use]
    pub fn pace_net(&self) -> GnnNet {
        self.reference(8, 8)
    }

    /// The net that stands for a pair of heads and dim.
    #[must_use]
    pub fn reference(&self, heads: u32, dim: u32) -> GnnNet {
        GnnNet::reference(self.features, self.classes, heads, dim)
    }
}

/// The null model and the reference net of every pair (heads, dim).
///
/// # Errors
/// [`ProfileError`] where a pair makes no net.
pub fn candidates(
    subject: &GraphSubject,
    pairs: &[[u32; 2]],
    reading: Reading,
) -> Result<Vec<Candidate>, ProfileError> {
    let pair = |&[heads, dim]: &[u32; 2]| subject.candidate(&subject.reference(heads, dim), reading);
    let null = Candidate::new(ModelSpec::Null, BATCH);
    std::iter::once(null).chain(pairs.iter().map(pair)).collect()
}

/// The pair that a spec's reference net stands for; none for any other model.
#[must_use]
pub fn pair_of(spec: &ModelSpec) -> Option<[u32; 2]> {
    let ModelSpec::Graph { net, .. } = spec else { return None };
    let first = net.layers.first()?;
    let reference = GnnNet::reference(net.features, net.classes, first.heads, first.dim);
    (*net == reference).then_some([first.heads, first.dim])
}

/// How graph nets are sampled: fewer at once than layers of convnets.
#[must_use]
pub fn sampling(sampling: Sampling) -> Sampling {
    Sampling { set_size: sampling.set_size.min(SET_SIZE), ..sampling }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_share_the_graph_and_differ() {
        let graph = Graph::new(50, &[[0, 1], [1, 2], [40, 41]]).unwrap();
        let features = SparseRows::new(30, (0..=50).collect(), vec![1; 50], vec![1.0; 50]).unwrap();
        let subject = GraphSubject::new("tiny", &graph, &features, 3);
        let list = candidates(&subject, &[[1, 4], [8, 8], [16, 80]], Reading::project()).unwrap();
        assert_eq!(
            list.iter().map(|of| pair_of(&of.spec)).collect::<Vec<_>>(),
            [None, Some([1, 4]), Some([8, 8]), Some([16, 80])]
        );
        assert_eq!(list[2].spec.name(), "tiny gat/sum/elu/8x8 gat/sum/linear/1x3");
        let held: Vec<_> = list[1..].iter().map(|of| of.held.clone().unwrap()).collect();
        assert!(held.iter().all(|of| Arc::ptr_eq(of, &held[0])));
        assert_ne!(list[1].digest, list[2].digest);
        let other = GnnNet::new(30, 3, vec!["gcn/max/elu/8x8".parse().unwrap()]);
        assert_eq!(pair_of(&subject.candidate(&other, Reading::paper()).unwrap().spec), None);
    }

    #[test]
    fn a_spec_survives_json() {
        let net = GnnNet::reference(30, 3, 8, 8);
        let spec = ModelSpec::Graph { net, reading: Reading::paper(), graph: "tiny".to_owned() };
        let text = serde_json::to_string(&spec).unwrap();
        assert!(text.contains(r#""what":"graph""#) && text.contains(r#""attention":"gat""#), "{text}");
        assert_eq!(serde_json::from_str::<ModelSpec>(&text).unwrap(), spec);
    }
}
