//! HGNAS's hardware-aware space (ALGORITHM 2.5): heads and hidden size of a graph attention layer, two
//! knobs in 42 cells. The graph nets of Wang et al. 2023, not the "HGNAS" of Zhou et al. for point
//! clouds.

use std::collections::{BTreeMap, BTreeSet};

use hanas_models::gnn::Reading;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::SpaceError;
use super::adaptive::{Known, Surface};
use super::partition::{Cell, Interval, Knob, Partition, point_text};
use super::rules::Rules;
use super::select::{Choice, Measured, Selection};
use super::stability::{Sampled, Stability, select_sampled};
use crate::latency::disturbed::undisturbed;
use crate::latency::estimate;
use crate::latency::fit::Fitted;
use crate::profile::graph_candidates::pair_of;
use crate::store::{ChoiceRow, ModelSamples, ModelSpec};

/// Version of a space's JSON; raised when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// Pairs whose product is larger are left out.
pub const MAX_PRODUCT: u32 = 1_280;

/// The 42 cells over (heads, dim).
///
/// # Errors
/// None in fact; the intervals are constants.
pub fn partition() -> Result<Partition, SpaceError> {
    Ok(Partition {
        knobs: vec![
            Knob::up_to("heads", &[1, 2, 4, 6, 8, 16])?,
            Knob::up_to("dim", &[4, 8, 16, 32, 64, 128, 256])?,
        ],
    })
}

/// Whether a pair of heads and dim belongs to the space.
#[must_use]
pub fn allowed(point: &[u32]) -> bool {
    point.iter().product::<u32>() <= MAX_PRODUCT
}

/// x of a pair: heads times dim, the layer's output width.
#[must_use]
pub fn feature(point: &[u32]) -> f64 {
    f64::from(point.iter().product::<u32>())
}

/// Every pair of the space, cell by cell.
///
/// # Errors
/// As [`partition`].
pub fn pairs() -> Result<Vec<[u32; 2]>, SpaceError> {
    by_cell().map(|cells| cells.concat())
}

pub(super) fn by_cell() -> Result<Vec<Vec<[u32; 2]>>, SpaceError> {
    let pair = |point: Vec<u32>| <[u32; 2]>::try_from(point).ok().filter(|pair| allowed(pair));
    let cells = partition()?.cells();
    Ok(cells.iter().map(|cell| cell.points().into_iter().filter_map(pair).collect()).collect())
}

/// `count` pairs, or all where there are fewer: from every cell in turn, in an order drawn from a seed. A
/// larger count with the same seed holds the smaller one.
///
/// # Errors
/// As [`partition`].
pub fn some_pairs(count: usize, seed: u64) -> Result<Vec<[u32; 2]>, SpaceError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut cells = by_cell()?;
    for cell in &mut cells {
        cell.shuffle(&mut rng);
    }
    let deepest = cells.iter().map(Vec::len).max().unwrap_or(0);
    let dealt = (0..deepest).flat_map(|row| cells.iter().filter_map(move |cell| cell.get(row).copied()));
    Ok(dealt.take(count).collect())
}

fn known(measured: &[Measured]) -> BTreeMap<[u32; 2], Known> {
    let known = |of: &Measured| {
        let pair = <[u32; 2]>::try_from(of.point.as_slice()).ok()?;
        Some((pair, Known { ns: of.m_ns, se_ns: of.se_ns }))
    };
    measured.iter().filter_map(known).collect()
}

/// The latencies of a graph's pairs, by what is stored of their reference nets.
///
/// # Errors
/// [`SpaceError`] where samples allow no estimate.
pub fn known_pairs(
    samples: &[ModelSamples],
    settings: &GraphSettings,
) -> Result<BTreeMap<[u32; 2], Known>, SpaceError> {
    let quiet = settings.rules.undisturbed.then(|| undisturbed(samples).samples);
    let mut known = BTreeMap::new();
    for model in quiet.as_deref().unwrap_or(samples) {
        if let Some(pair) = pair_in(settings.reading, &model.spec) {
            let found = estimate(&model.visits, settings.rules.statistic, settings.clock_resolution_ns)?;
            known.insert(pair, Known { ns: found.value_ns, se_ns: found.se_ns });
        }
    }
    Ok(known)
}

/// The pair that a model stands for in a reading. Whose graph it is says the session's task: a graph that goes by
/// two names makes the same models, which are stored under the first.
fn pair_in(reading: Reading, spec: &ModelSpec) -> Option<[u32; 2]> {
    match spec {
        ModelSpec::Graph { reading: of, .. } if *of == reading => pair_of(spec).filter(|pair| allowed(pair)),
        _ => None,
    }
}

/// How a graph's space is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GraphSettings {
    /// How choices are made.
    pub rules: Rules,
    /// How the measured nets are read.
    pub reading: Reading,
    /// Smallest step of the clock, in nanoseconds.
    pub clock_resolution_ns: u32,
    /// Seed of the stability's replicates.
    pub seed: u64,
    /// Whether the line runs through the latencies of all pairs, guessed where they were not measured
    /// ([`super::adaptive`]); else through the measured ones, which the paper has all of.
    #[serde(default)]
    pub guessed_line: bool,
}

/// A graph's hardware-aware space on a device: one pair of heads and dim a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphSpace {
    /// See [`SCHEMA`].
    #[serde(rename = "space_schema")]
    pub schema: u32,
    /// The graph's name.
    pub graph: String,
    /// How it was made.
    pub settings: GraphSettings,
    /// Line, choices and measured points; a point is (heads, dim).
    #[serde(flatten)]
    pub selection: Selection,
    /// How sure the choices are.
    pub stability: Stability,
}

/// A row of the map of cells.
#[derive(Debug, Clone, PartialEq)]
pub struct MapRow<'a> {
    /// The heads that it is of.
    pub heads: Interval,
    /// Intervals of dim, ascending, each with its cell's choice.
    pub cells: Vec<(Interval, Option<&'a Choice>)>,
}

impl GraphSpace {
    /// Builds the space from the stored samples of a graph; models that are no reference net in that reading
    /// are passed over. Cells without a measured pair are dropped.
    ///
    /// # Errors
    /// [`SpaceError::NoPairs`] where nothing was measured, and as [`select`](super::select::select).
    pub fn build(graph: &str, samples: &[ModelSamples], settings: GraphSettings) -> Result<Self, SpaceError> {
        let quiet = settings.rules.undisturbed.then(|| undisturbed(samples).samples);
        let of = |model: &ModelSamples| {
            let pair = pair_in(settings.reading, &model.spec)?;
            Some(Sampled::single(pair.to_vec(), model.visits.clone()))
        };
        let points: Vec<Sampled> = quiet.as_deref().unwrap_or(samples).iter().filter_map(of).collect();
        if points.is_empty() {
            return Err(SpaceError::NoPairs { graph: graph.to_owned() });
        }
        let GraphSettings { rules, clock_resolution_ns, seed, guessed_line, .. } = settings;
        let line = |measured: &[Measured]| -> Result<Option<Fitted>, SpaceError> {
            let known = if guessed_line { known(measured) } else { BTreeMap::new() };
            Ok(Surface::new(&known)?.map(|surface| surface.line))
        };
        let (selection, stability) =
            select_sampled(&points, clock_resolution_ns, &partition()?, feature, &rules, seed, &line)?;
        Ok(Self { schema: SCHEMA, graph: graph.to_owned(), settings, selection, stability })
    }

    /// The chosen pairs, in the order of their cells.
    #[must_use]
    pub fn choices(&self) -> Vec<[u32; 2]> {
        let pair = |point: &Vec<u32>| <[u32; 2]>::try_from(point.as_slice()).ok();
        self.selection.choices.iter().filter_map(|choice| pair(&choice.chosen.point)).collect()
    }

    /// The open choices and all tied with them; see [`Selection::open`].
    #[must_use]
    pub fn contested(&self, doubt: f64, margin: f64) -> Vec<[u32; 2]> {
        let open = self.selection.open(doubt, margin).into_iter();
        let points =
            open.flat_map(|(choice, rivals)| std::iter::once(choice.chosen.point.clone()).chain(rivals));
        let pairs: BTreeSet<[u32; 2]> = points.filter_map(|point| <[u32; 2]>::try_from(point).ok()).collect();
        pairs.into_iter().collect()
    }

    /// What the choices stand on, in a sentence or two.
    #[must_use]
    pub fn summary(&self) -> String {
        let Selection { choices, dropped, curve, .. } = &self.selection;
        let all = pairs().map_or(0, |pairs| pairs.len());
        let ties = choices.iter().filter(|choice| !choice.tied.is_empty()).count();
        format!(
            "{} choices from {} measured pairs of {all}, {} skipped; {} cells dropped. A rerun repeats {:.1} of the choices on average; {ties} are ties with another pair.",
            choices.len(),
            curve.len(),
            all.saturating_sub(curve.len()),
            dropped.len(),
            self.stability.mean_same()
        )
    }

    /// The map of the cells: for each interval of heads its row, the cells over the intervals of dim, with
    /// their choices; none where a cell was dropped.
    #[must_use]
    pub fn map(&self) -> Vec<MapRow<'_>> {
        let choice = |cell: &Cell| self.selection.choices.iter().find(|choice| choice.cell == *cell);
        let mut rows: Vec<MapRow<'_>> = Vec::new();
        for cell in partition().map(|partition| partition.cells()).unwrap_or_default() {
            let [heads, dim] = cell.0[..] else { continue };
            if rows.last().is_none_or(|row| row.heads != heads) {
                rows.push(MapRow { heads, cells: Vec::new() });
            }
            if let Some(row) = rows.last_mut() {
                row.cells.push((dim, choice(&cell)));
            }
        }
        rows
    }

    /// The choices as flat rows for the store.
    #[must_use]
    pub fn rows(&self) -> Vec<ChoiceRow> {
        let row = |choice: &Choice| ChoiceRow {
            part: "heads x dim".to_owned(),
            cell: choice.cell.to_string(),
            point: point_text(&choice.chosen.point),
            latency_ns: choice.chosen.m_ns,
            latency_se_ns: choice.chosen.se_ns,
            fitted_ns: choice.chosen.f_ns,
            score_ns: choice.chosen.score_ns,
            rerun_probability: choice.rerun_same,
            tied_points: choice.tied.iter().map(|point| point_text(point)).collect::<Vec<_>>().join(" "),
        };
        self.selection.choices.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::Rules;
    use super::super::select::{DropReason, select};
    use super::*;

    fn pairs(cell: &Cell) -> Vec<Vec<u32>> {
        cell.points().into_iter().filter(|point| allowed(point)).collect()
    }

    #[test]
    fn there_are_42_cells_and_2681_pairs() {
        let cells = partition().unwrap().cells();
        assert_eq!(cells.len(), 42);
        let counts: Vec<usize> = cells.iter().map(|cell| pairs(cell).len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 2_681);
        assert!(counts.iter().all(|&count| count > 0));
        let worst = cells.iter().zip(&counts).find(|(cell, _)| cell.to_string() == "9..16 x 129..256");
        assert_eq!(worst.map(|(_, &count)| count), Some(14));
    }

    #[test]
    fn some_pairs_come_from_every_cell() {
        assert_eq!(some_pairs(42, 1).unwrap().len(), 42);
        let cells = partition().unwrap().cells();
        let of =
            |pair: &[u32; 2]| cells.iter().position(|cell| cell.points().contains(&pair.to_vec())).unwrap();
        let seen: std::collections::BTreeSet<usize> = some_pairs(42, 1).unwrap().iter().map(of).collect();
        assert_eq!(seen.len(), 42);
        assert_eq!(some_pairs(100, 1).unwrap()[..42], some_pairs(42, 1).unwrap());
        assert_ne!(some_pairs(42, 1).unwrap(), some_pairs(42, 2).unwrap());
        let mut all = some_pairs(usize::MAX, 3).unwrap();
        all.sort_unstable();
        let mut wanted = super::pairs().unwrap();
        wanted.sort_unstable();
        assert_eq!(all, wanted);
    }

    #[test]
    fn a_space_is_built_from_stored_samples_of_its_own_reading() {
        use hanas_models::gnn::GnnNet;
        use hanas_proto::{Digest, Nanos};

        use crate::store::{ModelId, Visit};
        let planted: Vec<[u32; 2]> = some_pairs(42, 9).unwrap();
        let model = |pair: &[u32; 2], reading: Reading, ns: f64| ModelSamples {
            id: ModelId(0),
            digest: Digest([0; 32]),
            spec: ModelSpec::Graph {
                net: GnnNet::reference(30, 3, pair[0], pair[1]),
                reading,
                // The name under which the graph was stored first.
                graph: "little".to_owned(),
            },
            onnx_bytes: 0,
            visits: vec![Visit { samples: vec![Nanos::from_f64(ns); 20], ..Visit::default() }],
        };
        let latency =
            |pair: &[u32; 2]| 2e6 + 1_000.0 * feature(pair) - if planted.contains(pair) { 3e5 } else { 0.0 };
        let project = Reading::project();
        let mut samples: Vec<ModelSamples> =
            some_pairs(400, 9).unwrap().iter().map(|pair| model(pair, project, latency(pair))).collect();
        samples.extend(some_pairs(50, 4).unwrap().iter().map(|pair| model(pair, Reading::paper(), 1.0)));
        let settings = GraphSettings {
            rules: Rules { floor: 1, ..Rules::project() },
            reading: Reading::project(),
            clock_resolution_ns: 1,
            seed: 1,
            guessed_line: true,
        };
        let space = GraphSpace::build("tiny", &samples, settings).unwrap();
        assert_eq!(space.choices(), planted);
        assert_eq!(space.rows().len(), 42);
        let map = space.map();
        assert!(map.len() == 6 && map.iter().all(|row| row.cells.len() == 7));
        assert_eq!(map[1].heads.to_string(), "2");
        assert_eq!(map[1].cells[2].1.unwrap().chosen.point, planted[9]);
        let paper = GraphSettings { reading: Reading::paper(), ..settings };
        assert!(matches!(GraphSpace::build("tiny", &samples[..400], paper), Err(SpaceError::NoPairs { .. })));
    }

    #[test]
    fn a_planted_pair_wins_in_every_cell() {
        let partition = partition().unwrap();
        let planted: Vec<Vec<u32>> =
            partition.cells().iter().map(|cell| pairs(cell).swap_remove(0)).collect();
        let measure = |point: Vec<u32>| {
            let saved = if planted.contains(&point) { 3e5 } else { 0.0 };
            Measured { m_ns: 2e6 + 1_000.0 * feature(&point) - saved, se_ns: 1_000.0, point }
        };
        let points: Vec<Measured> = partition.cells().iter().flat_map(pairs).map(measure).collect();
        let rules = Rules { floor: 1, ..Rules::project() };
        let found = select(&points, &partition, feature, &rules).unwrap();
        let chosen: Vec<Vec<u32>> = found.choices.iter().map(|choice| choice.chosen.point.clone()).collect();
        assert_eq!(chosen, planted);
        assert!((found.fitted.fit.k_ns / 1_000.0 - 1.0).abs() < 0.1);
        // A tighter limit empties the last cell, which is told and not fatal.
        let tight: Vec<Measured> = points.into_iter().filter(|of| feature(&of.point) <= 1_100.0).collect();
        let found = select(&tight, &partition, feature, &rules).unwrap();
        assert_eq!((found.choices.len(), found.dropped.len()), (41, 1));
        assert_eq!(found.dropped[0].reason, DropReason::Empty);
        assert_eq!(found.dropped[0].cell.to_string(), "9..16 x 129..256");
    }
}
