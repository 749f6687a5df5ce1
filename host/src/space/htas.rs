//! HTAS's hardware-aware space (paper, 3.1; ALGORITHM 1.6): widths, one curve per output size.
//!
//! In: for each stage the visits of a 3x3 stride-1 convolution at every width 1..eW. Out: for each stage
//! its line and g choices. The N = 1 case of [`select`](super::select).

use std::collections::BTreeMap;

use hanas_models::layer::{Layer, LayerKind};
use hanas_models::resnet::Family;
use serde::{Deserialize, Serialize};

use super::SpaceError;
use super::partition::{Knob, Partition, point_text};
use super::reach::OpenGroup;
use super::rules::Rules;
use super::select::{Choice, Selection};
use super::stability::{Part, Sampled, Stability, select_sampled};
use super::width::WidthSpace;
use crate::latency::disturbed::{Undisturbed, undisturbed};
use crate::latency::estimate;
use crate::profile::cin::Cin;
use crate::store::{ChoiceRow, ModelSamples, ModelSpec, Visit};

/// Version of a space's JSON; raised when a field changes its meaning.
pub const SCHEMA: u32 = 2;

/// How a space is cut and chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Expansion e: widths go up to e times the base.
    pub expand: u32,
    /// Groups g a stage.
    pub groups: u32,
    /// Input widths that curves are measured at.
    #[serde(default)]
    pub cin: Cin,
    /// How choices are made.
    pub rules: Rules,
    /// Images a run.
    pub batch: u32,
    /// Smallest step of the clock, in nanoseconds.
    pub clock_resolution_ns: u32,
    /// Seed of the stability's replicates.
    pub seed: u64,
}

impl Settings {
    /// The paper's e = 2 and g = 8.
    #[must_use]
    pub const fn new(rules: Rules, batch: u32, clock_resolution_ns: u32) -> Self {
        Self { expand: 2, groups: 8, cin: Cin::Base, rules, batch, clock_resolution_ns, seed: 1 }
    }
}

/// One stage's line and choices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageSpace {
    /// The stage, from 0.
    pub stage: usize,
    /// Side of its output map, in pixels.
    pub side: u32,
    /// Input widths that the curve was measured at.
    pub cins: Vec<u32>,
    /// Line, choices and curve; a point is a width.
    #[serde(flatten)]
    pub selection: Selection,
    /// How sure the choices are.
    pub stability: Stability,
}

impl StageSpace {
    /// The input widths for people: `16`, or `8, 16, 24, 32`.
    #[must_use]
    pub fn cins_text(&self) -> String {
        self.cins.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// A family's hardware-aware space on a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HardwareSpace {
    /// See [`SCHEMA`].
    #[serde(rename = "space_schema")]
    pub schema: u32,
    /// The family's name.
    pub family: String,
    /// How it was made.
    pub settings: Settings,
    /// Share of the visits that were set aside, because something else slowed the device down meanwhile.
    #[serde(default)]
    pub disturbed: f64,
    /// The stages in order.
    pub stages: Vec<StageSpace>,
}

impl HardwareSpace {
    /// Builds the space from all stored samples; models that are no candidate are passed over, and disturbed
    /// visits are set aside where the rules say so.
    ///
    /// # Errors
    /// [`SpaceError::Unmeasured`] where a stage has no samples, and as
    /// [`select`](super::select::select).
    pub fn build(family: &Family, samples: &[ModelSamples], settings: Settings) -> Result<Self, SpaceError> {
        let (by_layer, disturbed) = if settings.rules.undisturbed {
            let Undisturbed { samples, disturbed } = undisturbed(samples);
            (visits_by_layer(&samples), disturbed)
        } else {
            (visits_by_layer(samples), 0.0)
        };
        let stages: Result<Vec<StageSpace>, SpaceError> = settings
            .cin
            .layers(family, settings.expand)
            .iter()
            .enumerate()
            .map(|(stage, curves)| {
                let points = sampled(curves, &by_layer, &settings)?;
                if points.is_empty() {
                    return Err(SpaceError::Unmeasured { stage: stage + 1 });
                }
                let most = curves[0].len() as u32;
                let partition = Partition { knobs: vec![Knob::equal("width", most, settings.groups)?] };
                let width = |point: &[u32]| f64::from(point[0]);
                let Settings { clock_resolution_ns, rules, seed, .. } = settings;
                let (selection, stability) =
                    select_sampled(&points, clock_resolution_ns, &partition, width, &rules, seed, &|_| {
                        Ok(None)
                    })?;
                let cins = curves.iter().map(|curve| curve[0].cin).collect();
                let side = curves[0][0].kind.output_side();
                Ok(StageSpace { stage, side, cins, selection, stability })
            })
            .collect();
        Ok(Self { schema: SCHEMA, family: family.name.clone(), settings, disturbed, stages: stages? })
    }

    /// The choices as a space to search in. A stage whose every cell was dropped has no widths.
    #[must_use]
    pub fn widths(&self) -> WidthSpace {
        let of = |stage: &StageSpace| -> Vec<u32> {
            stage.selection.choices.iter().map(|choice| choice.chosen.point[0]).collect()
        };
        WidthSpace { stages: self.stages.iter().map(of).collect() }
    }

    /// Probability that a rerun of the whole profile gives the very same space.
    #[must_use]
    pub fn rerun_same(&self) -> f64 {
        self.stages.iter().map(|stage| stage.stability.all).product()
    }

    /// How many choices a rerun repeats on average, and how many there are.
    #[must_use]
    pub fn mean_same(&self) -> (f64, usize) {
        let each = self.stages.iter().map(|stage| stage.stability.mean_same()).sum();
        (each, self.stages.iter().map(|stage| stage.selection.choices.len()).sum())
    }

    /// One sentence on the visits that were set aside; none where none was.
    #[must_use]
    pub fn set_aside(&self) -> Option<String> {
        let percent = 100.0 * self.disturbed;
        let text = format!(
            "{percent:.0}% of the visits were set aside: something else slowed the device down meanwhile."
        );
        (self.disturbed > 0.0).then_some(text)
    }

    /// The groups whose choice is open, with the layers that would settle it if measured again; see
    /// [`Selection::open`](super::select::Selection::open).
    #[must_use]
    pub fn open_groups(&self, doubt: f64, margin: f64) -> Vec<OpenGroup> {
        let of_stage = |stage: &StageSpace| -> Vec<OpenGroup> {
            let kind = LayerKind::Conv { kernel: 3, stride: 1, side: stage.side };
            let layers = |point: &Vec<u32>| -> Vec<Layer> {
                stage.cins.iter().map(|&cin| Layer { kind, cin, cout: point[0] }).collect()
            };
            let group = |(choice, rivals): (&Choice, Vec<Vec<u32>>)| {
                let points = std::iter::once(&choice.chosen.point).chain(&rivals);
                OpenGroup { lead: choice.lead(), layers: points.flat_map(layers).collect() }
            };
            stage.selection.open(doubt, margin).into_iter().map(group).collect()
        };
        self.stages.iter().flat_map(of_stage).collect()
    }

    /// How many choices are open.
    #[must_use]
    pub fn open(&self, doubt: f64, margin: f64) -> usize {
        self.open_groups(doubt, margin).len()
    }

    /// The choices as flat rows for the store.
    #[must_use]
    pub fn rows(&self) -> Vec<ChoiceRow> {
        let row = |stage: &StageSpace, choice: &Choice| ChoiceRow {
            part: format!("stage {}", stage.stage + 1),
            cell: choice.cell.to_string(),
            point: point_text(&choice.chosen.point),
            latency_ns: choice.chosen.m_ns,
            latency_se_ns: choice.chosen.se_ns,
            fitted_ns: choice.chosen.f_ns,
            score_ns: choice.chosen.score_ns,
            rerun_probability: choice.rerun_same,
            tied_points: choice.tied.iter().map(|point| point_text(point)).collect::<Vec<_>>().join(" "),
        };
        self.stages
            .iter()
            .flat_map(|stage| stage.selection.choices.iter().map(move |choice| row(stage, choice)))
            .collect()
    }
}

fn visits_by_layer(samples: &[ModelSamples]) -> BTreeMap<Layer, Vec<Visit>> {
    let mut all: BTreeMap<Layer, Vec<Visit>> = BTreeMap::new();
    for model in samples {
        if let ModelSpec::Layer { layer } = model.spec {
            all.entry(layer).or_default().extend_from_slice(&model.visits);
        }
    }
    all
}

/// A stage's points. Of several curves each counts the same: it is divided by its own mean, and the sum
/// scaled back to the mean of all, so that latencies stay nanoseconds. A line through a weighted sum is
/// the weighted sum of the lines, so the score is the mean of the curves' normalised scores.
fn sampled(
    curves: &[Vec<Layer>],
    by_layer: &BTreeMap<Layer, Vec<Visit>>,
    settings: &Settings,
) -> Result<Vec<Sampled>, SpaceError> {
    let measured = |layer: &Layer| by_layer.get(layer).filter(|visits| !visits.is_empty());
    let complete: Vec<usize> = (0..curves.first().map_or(0, Vec::len))
        .filter(|&width| curves.iter().all(|curve| measured(&curve[width]).is_some()))
        .collect();
    let mut means = Vec::with_capacity(curves.len());
    for curve in curves {
        let mut sum = 0.0;
        for visits in complete.iter().filter_map(|&width| measured(&curve[width])) {
            sum += estimate(visits, settings.rules.statistic, settings.clock_resolution_ns)?.value_ns;
        }
        means.push(sum / complete.len().max(1) as f64);
    }
    let overall = means.iter().sum::<f64>() / means.len().max(1) as f64;
    let weight = |mean: f64| if curves.len() == 1 { 1.0 } else { overall / (mean * curves.len() as f64) };
    let point = |&width: &usize| Sampled {
        point: vec![curves[0][width].cout],
        parts: curves
            .iter()
            .zip(&means)
            .map(|(curve, &mean)| Part {
                weight: weight(mean),
                visits: measured(&curve[width]).cloned().unwrap_or_default(),
            })
            .collect(),
    };
    Ok(complete.iter().map(point).collect())
}

#[cfg(test)]
mod tests {
    use hanas_proto::Digest;

    use super::*;
    use crate::latency::synthetic::{Noise, rng, scaled_visits};
    use crate::profile::candidates::space_layers;
    use crate::store::ModelId;

    /// Widths that are planted as cheap.
    const CHEAP: [u32; 4] = [6, 19, 37, 101];

    /// m(x) = base + step ceil(x/16), and [`CHEAP`] widths. No group lies on two stairs: that would be
    /// a tie by its nature.
    fn planted_ns(layer: &Layer) -> f64 {
        let saved = if CHEAP.contains(&layer.cout) { 25_000.0 } else { 0.0 };
        40_000.0 + 16_000.0 * f64::from(layer.cout.div_ceil(16)) - saved
    }

    fn device(family: &Family, noise: Option<Noise>, seed: u64) -> Vec<ModelSamples> {
        let mut rng = rng(seed);
        space_layers(family, 2)
            .concat()
            .into_iter()
            .map(|layer| {
                let visits = match noise {
                    Some(noise) => scaled_visits(&mut rng, noise, 30, 5, planted_ns(&layer)),
                    None => {
                        let exact = hanas_proto::Nanos::from_f64(planted_ns(&layer));
                        vec![crate::store::Visit { samples: vec![exact; 20], ..Default::default() }]
                    }
                };
                let spec = ModelSpec::Layer { layer };
                ModelSamples { id: ModelId(0), digest: Digest([0; 32]), spec, onnx_bytes: 0, visits }
            })
            .collect()
    }

    /// What must come out: in each group the cheap width, else the widest.
    fn expected(family: &Family) -> Vec<Vec<u32>> {
        let stage = |layers: &Vec<Layer>| {
            let size = layers.len() / 8;
            let cheap = |group: &[Layer]| {
                let planted = group.iter().find(|layer| CHEAP.contains(&layer.cout));
                planted.map(|layer| layer.cout)
            };
            let widest = |group: &[Layer]| group[group.len() - 1].cout;
            layers.chunks(size).map(|group| cheap(group).unwrap_or_else(|| widest(group))).collect()
        };
        space_layers(family, 2).iter().map(stage).collect()
    }

    #[test]
    fn a_planted_staircase_gives_exactly_its_24_choices() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        for rules in [Rules::paper(), Rules::project()] {
            let space =
                HardwareSpace::build(&family, &device(&family, None, 0), Settings::new(rules, 1, 1)).unwrap();
            assert_eq!(space.widths().stages, expected(&family), "exact, {rules:?}");
            assert_eq!((space.rerun_same(), space.mean_same()), (1.0, (24.0, 24)));
        }
        for noise in [Noise::Gaussian, Noise::HeavyTail, Noise::Bursts] {
            for seed in 0..3 {
                let samples = device(&family, Some(noise), seed);
                let settings = Settings::new(Rules::project(), 1, 1);
                let space = HardwareSpace::build(&family, &samples, settings).unwrap();
                assert_eq!(space.widths().stages, expected(&family), "{noise:?} {seed}");
                assert!(space.mean_same().0 > 23.0, "{noise:?} {seed}: {:?}", space.mean_same());
            }
        }
    }

    #[test]
    fn the_line_is_the_devices_own() {
        // Without stairs the curve is a line, and its coefficients come back through noise.
        let family = Family::cifar_resnet(20, 10).unwrap();
        let mut rng = rng(5);
        let samples: Vec<ModelSamples> = space_layers(&family, 2)
            .concat()
            .into_iter()
            .map(|layer| ModelSamples {
                id: ModelId(0),
                digest: Digest([0; 32]),
                spec: ModelSpec::Layer { layer },
                onnx_bytes: 0,
                visits: scaled_visits(
                    &mut rng,
                    Noise::HeavyTail,
                    30,
                    5,
                    1_000.0f64.mul_add(f64::from(layer.cout), 20_000.0),
                ),
            })
            .collect();
        let space = HardwareSpace::build(&family, &samples, Settings::new(Rules::project(), 1, 1)).unwrap();
        for stage in &space.stages {
            // A low quantile of this noise lies .05% above the floor.
            let fit = stage.selection.fitted.fit;
            assert!((fit.k_ns / 1_000.0 - 1.0).abs() < 0.005, "{fit:?}");
            assert!((fit.b_ns / 20_000.0 - 1.0).abs() < 0.01, "{fit:?}");
        }
    }

    #[test]
    fn a_space_survives_json_and_names_what_is_missing() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let samples = device(&family, Some(Noise::Gaussian), 1);
        let settings = Settings::new(Rules::project(), 1, 1);
        let space = HardwareSpace::build(&family, &samples, settings).unwrap();
        let text = serde_json::to_string(&space).unwrap();
        let again: HardwareSpace = serde_json::from_str(&text).unwrap();
        assert_eq!((again.widths(), again.schema), (space.widths(), SCHEMA));
        assert_eq!(space.rows().len(), 24);
        assert_eq!(space.rows()[0].cell, "1..4");
        let error = HardwareSpace::build(&family, &samples[..32], settings).unwrap_err();
        assert_eq!(error, SpaceError::Unmeasured { stage: 2 });
    }
}
