//! The latency of a graph net as a sum of what its layers do: so many times a node, an edge, a head.
//!
//! In: measured nets on graphs of known size. Out: one price of each term, by least squares on relative
//! errors and never below 0 (Lawson & Hanson 1974), for no work takes negative time. Unlike a net that
//! learned latencies, the sum holds for graphs and sizes that were not measured; what it cannot know
//! (steps of the vector width, caches) is left to a residual model on top.
//!
//! On one graph a price of nodes and one of edges cannot be told apart, which does not matter there. To
//! predict for graphs of another density, measure on graphs of two.

use hanas_models::gnn::{Activation, Aggregator, Attention, GnnNet, POOL_WIDTH, Reading, Wired};
use nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use super::LatencyError;

/// Size of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphShape {
    /// Nodes.
    pub nodes: u32,
    /// Directed edges, self-loops included.
    pub edges: u32,
}

/// What a net is made of; the price of each is what is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Term {
    /// The net: once.
    Net,
    /// The first projection: multiply-adds with all features, of which a sparse one does only a share.
    Features,
    /// The other projections: multiply-adds.
    Dense,
    /// Values of nodes: nodes x heads x dim.
    Node,
    /// Values of messages: edges x heads x dim.
    Edge,
    /// The same beyond so many a message: rows that no longer fit a cache are dearer, piece by piece.
    EdgeBeyond(u32),
    /// Values of nodes that an attention scores before the edges (gat, gat_sym, linear).
    NodeScore,
    /// Values of messages that an attention multiplies (cos, gcn, generalized_linear).
    EdgeScore(Attention),
    /// Attention weights: edges x heads.
    Weight(Attention),
    /// The pool Linears: multiply-adds.
    Pool,
    /// The values between the two pool Linears, as many for a narrow head as for a wide one.
    PoolHidden,
    /// Values of messages whose maximum is taken.
    Max,
    /// Values of nodes that are divided by their degree.
    Mean,
    /// Values that an activation makes.
    Activation(Activation),
}

/// Every term, in the order of the prices.
const TERMS: [Term; 27] = [
    Term::Net,
    Term::Features,
    Term::Dense,
    Term::Node,
    Term::Edge,
    Term::EdgeBeyond(256),
    Term::EdgeBeyond(1024),
    Term::NodeScore,
    Term::EdgeScore(Attention::Cos),
    Term::EdgeScore(Attention::Gcn),
    Term::EdgeScore(Attention::GeneralizedLinear),
    Term::Weight(Attention::Gat),
    Term::Weight(Attention::Cos),
    Term::Weight(Attention::GatSym),
    Term::Weight(Attention::Linear),
    Term::Weight(Attention::GeneralizedLinear),
    Term::Pool,
    Term::PoolHidden,
    Term::Max,
    Term::Mean,
    Term::Activation(Activation::Sigmoid),
    Term::Activation(Activation::Tanh),
    Term::Activation(Activation::Relu),
    Term::Activation(Activation::Softplus),
    Term::Activation(Activation::LeakyRelu),
    Term::Activation(Activation::Relu6),
    Term::Activation(Activation::Elu),
];

impl Term {
    /// How much of it a layer has.
    fn of(self, wired: &Wired, graph: GraphShape, reading: &Reading) -> f64 {
        let layer = wired.layer;
        let (nodes, edges) = (f64::from(graph.nodes), f64::from(graph.edges));
        let (heads, width) = (f64::from(layer.heads), f64::from(layer.heads) * f64::from(layer.dim));
        let only = |applies: bool, amount: f64| if applies { amount } else { 0.0 };
        // Where the pool Linears run.
        let places = if reading.pools_nodes(layer.aggregator) { nodes } else { edges };
        match self {
            Self::Net => 0.0,
            Self::Features => only(wired.index == 0, nodes * f64::from(wired.input) * width),
            Self::Dense => only(wired.index > 0, nodes * f64::from(wired.input) * width),
            Self::Node => nodes * width,
            Self::Edge => edges * width,
            Self::EdgeBeyond(values) => edges * (width - f64::from(values)).max(0.0),
            Self::NodeScore => {
                let scored = [Attention::Gat, Attention::GatSym, Attention::Linear];
                only(scored.contains(&layer.attention), nodes * width)
            }
            Self::EdgeScore(attention) => only(layer.attention == attention, edges * width),
            Self::Weight(attention) => only(layer.attention == attention, edges * heads),
            Self::Pool => only(layer.aggregator.has_pool(), 2.0 * places * width * f64::from(POOL_WIDTH)),
            Self::PoolHidden => only(layer.aggregator.has_pool(), places * heads * f64::from(POOL_WIDTH)),
            Self::Max => only(layer.aggregator == Aggregator::Max, edges * width),
            Self::Mean => only(layer.aggregator == Aggregator::Mean, nodes * width),
            Self::Activation(activation) => {
                only(layer.activation == activation, nodes * f64::from(wired.output()))
            }
        }
    }
}

/// A measured net.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredNet {
    /// The net.
    pub net: GnnNet,
    /// The graph it ran on.
    pub graph: GraphShape,
    /// Its latency, ns.
    pub ns: f64,
}

/// Prices of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphFit {
    /// How the nets were lowered.
    pub reading: Reading,
    /// Price of each term, ns. Of fixed length, so that prices of other terms, as another version kept them, are
    /// no prices of these.
    prices_ns: [f64; TERMS.len()],
}

impl GraphFit {
    /// Fits prices to measured nets, all lowered alike.
    ///
    /// # Errors
    /// [`LatencyError::TooFewPoints`] for fewer nets than terms, [`LatencyError::BadPoint`] for a
    /// latency that is not positive.
    pub fn new(nets: &[MeasuredNet], reading: Reading) -> Result<Self, LatencyError> {
        if nets.len() < TERMS.len() {
            return Err(LatencyError::TooFewPoints { points: nets.len(), needs: TERMS.len() });
        }
        if let Some(bad) = nets.iter().find(|of| !(of.ns.is_finite() && of.ns > 0.0)) {
            return Err(LatencyError::BadPoint { x: f64::from(bad.graph.nodes), ns: bad.ns, se_ns: 0.0 });
        }
        let rows: Vec<Vec<f64>> = nets.iter().map(|of| amounts(&of.net, of.graph, &reading)).collect();
        // Each row over its latency: errors count relative to it.
        let relative = DMatrix::from_fn(nets.len(), TERMS.len(), |row, term| rows[row][term] / nets[row].ns);
        let scales: Vec<f64> = relative.column_iter().map(|column| column.norm()).collect();
        let scaled = DMatrix::from_fn(nets.len(), TERMS.len(), |row, term| match scales[term] {
            0.0 => 0.0,
            scale => relative[(row, term)] / scale,
        });
        let found = non_negative(&scaled, &DVector::from_element(nets.len(), 1.0));
        let price = |term: usize| if scales[term] > 0.0 { found[term] / scales[term] } else { 0.0 };
        Ok(Self { reading, prices_ns: std::array::from_fn(price) })
    }

    /// Predicted latency, in nanoseconds; at least 1, so that ratios to it are finite.
    #[must_use]
    pub fn predict_ns(&self, net: &GnnNet, graph: GraphShape) -> f64 {
        let amounts = amounts(net, graph, &self.reading);
        amounts.iter().zip(&self.prices_ns).map(|(amount, price)| amount * price).sum::<f64>().max(1.0)
    }

    /// Name and price in nanoseconds of every term.
    pub fn prices(&self) -> impl Iterator<Item = (String, f64)> {
        TERMS.iter().map(|term| format!("{term:?}")).zip(self.prices_ns.iter().copied())
    }
}

/// How much of every term a net has.
fn amounts(net: &GnnNet, graph: GraphShape, reading: &Reading) -> Vec<f64> {
    let amount = |&term: &Term| match term {
        Term::Net => 1.0,
        term => net.wired().map(|wired| term.of(&wired, graph, reading)).sum(),
    };
    TERMS.iter().map(amount).collect()
}

/// Below this share of the target a gradient is rounding.
const GRADIENT_TOLERANCE: f64 = 1e-10;

/// The x >= 0 that minimises |A x - b|, by the active set of Lawson & Hanson (1974, ch. 23).
fn non_negative(a: &DMatrix<f64>, b: &DVector<f64>) -> DVector<f64> {
    let terms = a.ncols();
    let mut x = DVector::zeros(terms);
    let mut free: Vec<usize> = Vec::new();
    let tolerance = GRADIENT_TOLERANCE * b.norm();
    // Each round frees one term; a term can be bound again, and a few rounds a term are known to do.
    for _ in 0..3 * terms {
        let gradient = a.tr_mul(&(b - a * &x));
        let bound = (0..terms).filter(|term| !free.contains(term));
        let next = bound.max_by(|&i, &j| gradient[i].total_cmp(&gradient[j]));
        let Some(next) = next.filter(|&term| gradient[term] > tolerance) else { break };
        free.push(next);
        loop {
            let Ok(solved) = a.select_columns(&free).svd(true, true).solve(b, f64::EPSILON) else {
                return x;
            };
            if solved.iter().all(|&z| z > 0.0) {
                x.fill(0.0);
                free.iter().zip(solved.iter()).for_each(|(&term, &z)| x[term] = z);
                break;
            }
            // Towards the solution until the first term meets 0; it is bound from then on.
            let pairs = free.iter().zip(solved.iter()).filter(|&(_, &z)| z <= 0.0);
            let way = pairs.map(|(&term, &z)| x[term] / (x[term] - z)).fold(1.0, f64::min);
            for (&term, &z) in free.iter().zip(solved.iter()) {
                x[term] += way * (z - x[term]);
            }
            let least = tolerance.min(1e-14);
            free.retain(|&term| x[term] > least);
            (0..terms).filter(|term| !free.contains(term)).for_each(|term| x[term] = 0.0);
            if free.is_empty() {
                break;
            }
        }
    }
    x
}

#[cfg(test)]
pub(crate) mod tests {
    use hanas_models::gnn::GnnLayer;
    use rand::{Rng, RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::agreement::agreement;
    use super::*;

    /// A graph of Cora's size.
    pub(crate) const CORA: GraphShape = GraphShape { nodes: 2_708, edges: 13_264 };

    /// A net of GraphNAS's space, with any size of head in between.
    pub(crate) fn random_net(rng: &mut impl Rng) -> GnnNet {
        let mut layer = || GnnLayer {
            attention: Attention::ALL[rng.random_range(0..Attention::ALL.len())],
            aggregator: Aggregator::ALL[rng.random_range(0..Aggregator::ALL.len())],
            activation: Activation::ALL[rng.random_range(0..Activation::ALL.len())],
            heads: [1, 2, 4, 6, 8, 16][rng.random_range(0..6)],
            dim: rng.random_range(4..=80),
        };
        let layers = vec![layer(), layer()];
        GnnNet::new(1_433, 7, layers)
    }

    /// A device with a price of each term and none of some, which runs heads in steps of `step` values.
    pub(crate) fn device_ns(net: &GnnNet, graph: GraphShape, step: u32) -> f64 {
        let mut padded = net.clone();
        padded.layers.iter_mut().for_each(|layer| layer.dim = layer.dim.div_ceil(step) * step);
        amounts(&padded, graph, &Reading::default()).iter().zip(planted()).map(|(x, price)| x * price).sum()
    }

    fn planted() -> Vec<f64> {
        let price = |(place, term): (usize, &Term)| match term {
            Term::Net => 2e5,
            Term::Features | Term::Dense => 0.002,
            Term::Pool => 0.001,
            Term::PoolHidden => 0.05,
            Term::Node => 0.3,
            Term::Edge => 0.9,
            Term::Activation(Activation::Relu | Activation::Relu6) | Term::Mean => 0.0,
            Term::Weight(_) => 4.0 + place as f64,
            _ => 0.4 + 0.1 * place as f64,
        };
        TERMS.iter().enumerate().map(price).collect()
    }

    /// Nets on two graphs by turns.
    fn measured(count: usize, step: u32, noise: f64, seed: u64) -> Vec<MeasuredNet> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut one = |place: usize| {
            let net = random_net(&mut rng);
            let graph = [CORA, GraphShape { nodes: 500, edges: 9_000 }][place % 2];
            let ns = device_ns(&net, graph, step) * (1.0 + rng.random_range(-noise..=noise));
            MeasuredNet { net, graph, ns }
        };
        (0..count).map(&mut one).collect()
    }

    #[test]
    fn planted_prices_come_back() {
        let fit = GraphFit::new(&measured(200, 1, 0.0, 1), Reading::default()).unwrap();
        for ((name, found), planted) in fit.prices().zip(planted()) {
            // A term that is next to nothing in every net is known less well than it counts.
            assert!((found - planted).abs() <= 1e-4 * planted.max(0.01), "{name}: {found} for {planted}");
        }
    }

    #[test]
    fn noise_and_steps_leave_it_within_ten_percent_on_nets_and_graphs_unseen() {
        let fit = GraphFit::new(&measured(300, 8, 0.03, 2), Reading::default()).unwrap();
        assert!(fit.prices().all(|(_, price)| price >= 0.0));
        for graph in [CORA, GraphShape { nodes: 3_327, edges: 12_431 }] {
            let pairs: Vec<(f64, f64)> = measured(100, 8, 0.0, 3)
                .iter()
                .map(|of| (fit.predict_ns(&of.net, graph), device_ns(&of.net, graph, 8)))
                .collect();
            let found = agreement(&pairs).unwrap();
            assert!(found.mape < 0.1 && found.kendall_tau.unwrap() > 0.9, "{found:?}");
        }
    }

    #[test]
    fn least_squares_stays_at_zero_where_it_would_go_below() {
        // Without the bound x = (1.5, -.5); on the bound the mean of b.
        let a = DMatrix::from_row_slice(2, 2, &[1.0, 1.0, 1.0, 3.0]);
        let b = DVector::from_row_slice(&[1.0, 0.0]);
        let found = non_negative(&a, &b);
        assert!((found[0] - 0.5).abs() < 1e-12 && found[1] == 0.0, "{found}");
        let inside = non_negative(&a, &DVector::from_row_slice(&[3.0, 5.0]));
        assert!((inside[0] - 2.0).abs() < 1e-12 && (inside[1] - 1.0).abs() < 1e-12, "{inside}");
    }

    #[test]
    fn prices_of_other_terms_are_refused() {
        let fit = GraphFit::new(&measured(60, 1, 0.0, 5), Reading::default()).unwrap();
        let mut kept = serde_json::to_value(&fit).unwrap();
        assert_eq!(serde_json::from_value::<GraphFit>(kept.clone()).unwrap(), fit);
        kept["prices_ns"].as_array_mut().unwrap().truncate(23);
        assert!(serde_json::from_value::<GraphFit>(kept).is_err());
    }

    #[test]
    fn too_few_or_impossible_nets_are_refused() {
        let nets = measured(30, 1, 0.0, 4);
        let few = GraphFit::new(&nets[..20], Reading::default());
        assert_eq!(few, Err(LatencyError::TooFewPoints { points: 20, needs: 27 }));
        let mut bad = nets;
        bad[7].ns = 0.0;
        assert!(matches!(GraphFit::new(&bad, Reading::default()), Err(LatencyError::BadPoint { .. })));
    }
}
