//! Which pairs (c_in, c_out) to measure next: measured points in, points out.
//!
//! First a coarse grid, spread over each layer kind's widths by a seed. Then, round after round, the
//! midpoints of neighbours (and some random pairs) at which a wrong latency is most to be expected: the
//! points around were missed when predicted from the others, and nothing near is known. Weighted by how
//! many layers of that kind a net has. Nothing is assumed of where a device's steps are: on planted
//! staircases such points make a better table than as many random ones.

use std::collections::{BTreeMap, BTreeSet};

use hanas_models::layer::{Layer, LayerKind, LayerType, layers, types};
use hanas_models::resnet::Family;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::pair_field::PairField;

/// Share of the points that the coarse grid may take.
const GRID_SHARE: f64 = 0.4;
/// Input and output widths of a kind's coarse grid, at least and at most.
const GRID_SIDE: (u32, u32) = (3, 6);
/// Rounds that the rest of the points is measured in.
const ROUNDS: usize = 6;
/// Points of a round, at least: fewer are not worth loading a set for.
const LEAST_OF_ROUND: usize = 16;
/// Random pairs of each kind that are considered in a round, beside the midpoints.
const RANDOM_PAIRS: usize = 48;

/// The widths that layers of one kind can have in a family.
#[derive(Debug, Clone, PartialEq)]
pub struct PairDomain {
    /// The kind.
    pub kind: LayerKind,
    /// Smallest and largest input width.
    pub cin: (u32, u32),
    /// Smallest and largest output width.
    pub cout: (u32, u32),
    /// An input width that every net has: the stem's.
    pub always_cin: Option<u32>,
    /// Layers of this kind in the widest net.
    pub layers: f64,
}

/// A measured pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairPoint {
    /// The layer.
    pub layer: Layer,
    /// Its latency, ns.
    pub ns: f64,
}

/// The widths of every layer kind that a family's nets have, each up to `expand` times the base.
#[must_use]
pub fn domains(family: &Family, expand: u32) -> Vec<PairDomain> {
    let mut domains: BTreeMap<LayerKind, PairDomain> = BTreeMap::new();
    for (of, Layer { kind, cin, cout }) in types(family) {
        let cin = if of == LayerType::Stem { (cin, cin) } else { (1, expand * cin) };
        let cout = if of == LayerType::Head { (cout, cout) } else { (1, expand * cout) };
        let always_cin = (of == LayerType::Stem).then_some(cin.0);
        let new = PairDomain { kind, cin, cout, always_cin, layers: 0.0 };
        let domain = domains.entry(kind).or_insert(new);
        domain.cin = (domain.cin.0.min(cin.0), domain.cin.1.max(cin.1));
        domain.cout = (domain.cout.0.min(cout.0), domain.cout.1.max(cout.1));
        domain.always_cin = domain.always_cin.or(always_cin);
    }
    // Widths alternate, so that every block has a shortcut.
    let mut widest = family.base();
    widest.stages.iter_mut().flatten().enumerate().for_each(|(i, block)| block.b += i as u32 + 1);
    for (_, layer) in layers(&widest).unwrap_or_default() {
        if let Some(domain) = domains.get_mut(&layer.kind) {
            domain.layers += 1.0;
        }
    }
    domains.into_values().collect()
}

impl PairDomain {
    /// Whether it has such a layer.
    #[must_use]
    pub fn holds(&self, layer: &Layer) -> bool {
        let within = |range: (u32, u32), width| (range.0..=range.1).contains(&width);
        layer.kind == self.kind && within(self.cin, layer.cin) && within(self.cout, layer.cout)
    }

    fn layer(&self, cin: u32, cout: u32) -> Layer {
        Layer { kind: self.kind, cin, cout }
    }

    /// Corners and edges, and inside them a grid moved by the seed.
    fn grid(&self, side: u32, rng: &mut ChaCha8Rng) -> Vec<Layer> {
        let mut cins = levels(self.cin, side, rng);
        cins.extend(self.always_cin);
        let couts = levels(self.cout, side + 1, rng);
        let cins: BTreeSet<u32> = cins.into_iter().collect();
        cins.into_iter().flat_map(|cin| couts.iter().map(move |&cout| self.layer(cin, cout))).collect()
    }
}

/// About `count` widths of a range, both ends among them, the others moved at random.
fn levels(range: (u32, u32), count: u32, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let (first, last) = range;
    let gap = f64::from(last - first) / f64::from(count - 1);
    let mut inner = |place: u32| {
        let moved = f64::from(place) + rng.random_range(-0.3..0.3);
        first + (gap * moved).round() as u32
    };
    let mut widths: Vec<u32> = (1..count - 1).map(&mut inner).collect();
    widths.extend([first, last]);
    widths.sort_unstable();
    widths.dedup();
    widths
}

/// Chooses pairs of a family until there are enough.
#[derive(Debug, Clone)]
pub struct PairSampler {
    /// The kinds of layers and their widths.
    pub domains: Vec<PairDomain>,
    /// Points to end at, those counted that were there before.
    pub budget: usize,
    /// Seed of the coarse grid and the random pairs.
    pub seed: u64,
}

impl PairSampler {
    /// The pairs to measure next, none of them measured or in `without`; none at all where there are
    /// enough. A function of its arguments: the same points lead to the same choice.
    #[must_use]
    pub fn next(&self, measured: &[PairPoint], without: &BTreeSet<Layer>) -> Vec<Layer> {
        let mut known: BTreeMap<LayerKind, BTreeMap<(u32, u32), f64>> = BTreeMap::new();
        for PairPoint { layer, ns } in measured {
            if self.domains.iter().any(|domain| domain.holds(layer)) {
                known.entry(layer.kind).or_default().insert((layer.cin, layer.cout), *ns);
            }
        }
        let have: usize = known.values().map(BTreeMap::len).sum();
        let left = self.budget.saturating_sub(have);
        let is_new = |layer: &Layer| {
            let points = known.get(&layer.kind);
            !without.contains(layer)
                && points.is_none_or(|points| !points.contains_key(&(layer.cin, layer.cout)))
        };
        let mut grid: Vec<Layer> = self.grid().into_iter().filter(|layer| is_new(layer)).collect();
        grid.truncate(left);
        if !grid.is_empty() {
            return grid;
        }
        let round = self.budget.div_ceil(ROUNDS).max(LEAST_OF_ROUND);
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed.wrapping_add(have as u64));
        let mut open: Vec<Doubtful> = Vec::new();
        let mut fields = BTreeMap::new();
        for domain in &self.domains {
            let Some(points) = known.get(&domain.kind) else { continue };
            let field = PairField::new(points);
            let layers = between(domain, points, &mut rng).into_iter().filter(|layer| is_new(layer));
            open.extend(layers.map(|layer| {
                let ns = domain.layers * field.doubt(f64::from(layer.cin), f64::from(layer.cout));
                Doubtful { layer, ns }
            }));
            fields.insert(domain.kind, field);
        }
        chosen(open, &fields, left.min(round))
    }

    /// The coarse grid of all kinds.
    fn grid(&self) -> Vec<Layer> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let each = GRID_SHARE * self.budget as f64 / self.domains.len().max(1) as f64;
        let side = (each.sqrt() as u32).clamp(GRID_SIDE.0, GRID_SIDE.1);
        self.domains.iter().flat_map(|domain| domain.grid(side, &mut rng)).collect()
    }
}

/// A pair and the error to expect there, times the layers that a net has of it.
struct Doubtful {
    layer: Layer,
    ns: f64,
}

/// Midpoints of neighbours in rows and columns, and random pairs.
fn between(domain: &PairDomain, points: &BTreeMap<(u32, u32), f64>, rng: &mut ChaCha8Rng) -> BTreeSet<Layer> {
    let mut found = BTreeSet::new();
    let mut columns: Vec<(u32, u32)> = points.keys().map(|&(cin, cout)| (cout, cin)).collect();
    columns.sort_unstable();
    let rows: Vec<(u32, u32)> = points.keys().copied().collect();
    for (list, turned) in [(rows, false), (columns, true)] {
        for pair in list.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let middle = pair[0].1.midpoint(pair[1].1);
            let (cin, cout) = if turned { (middle, pair[0].0) } else { (pair[0].0, middle) };
            found.insert(domain.layer(cin, cout));
        }
    }
    for _ in 0..RANDOM_PAIRS {
        let cin = rng.random_range(domain.cin.0..=domain.cin.1);
        found.insert(domain.layer(cin, rng.random_range(domain.cout.0..=domain.cout.1)));
    }
    found
}

/// The most doubtful, one after the other; each takes from the others' doubt what it will say of them.
fn chosen(mut open: Vec<Doubtful>, fields: &BTreeMap<LayerKind, PairField>, wanted: usize) -> Vec<Layer> {
    let mut chosen = Vec::new();
    let widths = |layer: &Layer| (f64::from(layer.cin), f64::from(layer.cout));
    while chosen.len() < wanted {
        let most = (0..open.len()).max_by(|&a, &b| open[a].ns.total_cmp(&open[b].ns));
        let Some(most) = most.filter(|&most| open[most].ns > 0.0) else { break };
        let Doubtful { layer, .. } = open.swap_remove(most);
        if let Some(field) = fields.get(&layer.kind) {
            for other in open.iter_mut().filter(|other| other.layer.kind == layer.kind) {
                let alike = field.likeness(widths(&layer), widths(&other.layer));
                other.ns *= (1.0 - alike.powi(2)).max(0.0).sqrt();
            }
        }
        chosen.push(layer);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::super::pairwise::PairGrid;
    use super::*;

    const KIND: LayerKind = LayerKind::Conv { kernel: 3, stride: 1, side: 8 };
    const WIDEST: u32 = 128;
    const BUDGET: usize = 240;
    /// Of a table through that many points, over the mean latency.
    const MOST_ERROR: f64 = 0.02;
    const LESS_THAN_RANDOM: f64 = 0.9;

    fn sampler(seed: u64) -> PairSampler {
        let whole = (1, WIDEST);
        let domain = PairDomain { kind: KIND, cin: whole, cout: whole, always_cin: Some(3), layers: 5.0 };
        PairSampler { domains: vec![domain], budget: BUDGET, seed }
    }

    /// Tiles of `step` output channels; each costs what the input channels, in blocks of 4, cost it.
    fn tiles(step: u32, layer: &Layer) -> f64 {
        let (tiles, blocks) = (layer.cout.div_ceil(step) * step, layer.cin.div_ceil(4) * 4);
        f64::from(tiles) * 11.0f64.mul_add(f64::from(blocks), 150.0) + 20_000.0
    }

    /// Points of a device as the sampler asks for them.
    fn sampled(sampler: &PairSampler, device: impl Fn(&Layer) -> f64) -> Vec<PairPoint> {
        let mut points: Vec<PairPoint> = Vec::new();
        loop {
            let next = sampler.next(&points, &BTreeSet::new());
            if next.is_empty() {
                return points;
            }
            points.extend(next.into_iter().map(|layer| PairPoint { layer, ns: device(&layer) }));
        }
    }

    /// Mean error over all pairs of a table through these points, over the mean latency.
    fn error(points: &[PairPoint], device: impl Fn(&Layer) -> f64) -> f64 {
        let points: Vec<_> =
            points.iter().map(|point| (point.layer.cin, point.layer.cout, point.ns)).collect();
        let grid = PairGrid::new(&points).unwrap();
        let (mut missed, mut all) = (0.0, 0.0);
        for cin in 1..=WIDEST {
            for cout in 1..=WIDEST {
                let ns = device(&Layer { kind: KIND, cin, cout });
                missed += (grid.at(f64::from(cin), f64::from(cout)) - ns).abs();
                all += ns;
            }
        }
        missed / all
    }

    /// Error of a table through the sampler's points over that of one through as many random points.
    fn over_random(seed: u64, device: impl Fn(&Layer) -> f64) -> f64 {
        let points = sampled(&sampler(seed), &device);
        assert_eq!(points.len(), BUDGET);
        let mut rng = ChaCha8Rng::seed_from_u64(seed + 100);
        let random = std::iter::repeat_with(|| {
            let (cin, cout) = (rng.random_range(1..=WIDEST), rng.random_range(1..=WIDEST));
            let layer = Layer { kind: KIND, cin, cout };
            PairPoint { layer, ns: device(&layer) }
        });
        let random: Vec<PairPoint> = random.take(BUDGET).collect();
        let found = error(&points, &device);
        assert!(found < MOST_ERROR, "{found}");
        found / error(&random, &device)
    }

    #[test]
    fn staircases_are_found_better_than_at_random() {
        for step in [8, 16] {
            let ratio = over_random(0, |layer| tiles(step, layer));
            assert!(ratio < LESS_THAN_RANDOM, "steps of {step}: {ratio}");
        }
    }

    #[test]
    fn steps_in_one_half_are_found_better_than_at_random() {
        let device = |layer: &Layer| if layer.cout <= WIDEST / 2 { 20_000.0 } else { tiles(16, layer) };
        let ratio = over_random(0, device);
        assert!(ratio < LESS_THAN_RANDOM, "{ratio}");
    }

    #[test]
    fn the_choice_is_a_function_of_what_is_known() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let sampler = PairSampler { domains: domains(&family, 2), budget: 500, seed: 3 };
        let grid = sampler.next(&[], &BTreeSet::new());
        assert!((100..=250).contains(&grid.len()), "{} points in the grid", grid.len());
        assert!(grid.iter().all(|layer| sampler.domains.iter().any(|domain| domain.holds(layer))));
        let all: BTreeSet<Layer> = grid.iter().copied().collect();
        assert_eq!(all.len(), grid.len());
        let point = |&layer: &Layer| PairPoint { layer, ns: tiles(8, &layer) };
        let points: Vec<PairPoint> = grid.iter().map(point).collect();
        let next = sampler.next(&points, &BTreeSet::new());
        assert_eq!(next, sampler.next(&points, &BTreeSet::new()));
        assert!(!next.is_empty() && next.iter().all(|layer| !all.contains(layer)));
        // What cannot be measured is not asked for again.
        let without: BTreeSet<Layer> = next.iter().copied().collect();
        assert!(sampler.next(&points, &without).iter().all(|layer| !without.contains(layer)));
    }

    #[test]
    fn every_layer_of_a_net_has_its_domain() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let domains = domains(&family, 2);
        for net in crate::profile::candidates::held_out_nets(&family, 2, 20, 0) {
            for (_, layer) in layers(&net).unwrap() {
                assert!(domains.iter().any(|domain| domain.holds(&layer)), "{layer}");
            }
        }
        let of = |kind| domains.iter().find(|domain| domain.kind == kind).unwrap();
        let first = of(LayerKind::Conv { kernel: 3, stride: 1, side: 32 });
        assert_eq!((first.cin, first.cout, first.always_cin, first.layers), ((1, 32), (1, 32), Some(3), 7.0));
        let head = of(LayerKind::Head { side: 8 });
        assert_eq!((head.cin, head.cout), ((1, 128), (10, 10)));
    }
}
