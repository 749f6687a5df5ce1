//! Measures again only what decides a choice, until it is decided or the budget is used up.
//!
//! In: a [`Source`] that holds the base profile and can measure single layers again. Out: the space from
//! all samples, and how the race ended.
//!
//! First, layers that may change a choice and were not seen undisturbed for sure are measured again
//! ([`confirm`]). Where visits were disturbed, as many others are measured along as witnesses.
//! Confirming takes at most [`CONFIRMING_SHARE`] of the budget.
//!
//! Then, in each heat, the open groups' choices and all tied with them are
//! measured `heat` times more (successive elimination, Even-Dar et al. 2006, with the bootstrap in place
//! of a confidence radius). A rival drops out when its errors part it from the choice; a group closes when a
//! rerun repeats its choice with a probability of 1 - [`Racing::doubt`], or when all rivals left lie on
//! one stair: known to differ by less than [`Racing::margin`]. Groups that would take more than their share of
//! what is left of the budget are left out ([`reach`](super::reach)). What is open when the race ends
//! stays a tie, with its members.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use hanas_models::layer::Layer;
use hanas_models::resnet::Family;
use serde::{Deserialize, Serialize};

use super::htas::{HardwareSpace, Settings};
use super::reach::within_reach;
use super::{SpaceError, confirm};
use crate::store::{ModelSamples, ModelSpec};

/// Largest part of the budget that goes into confirming: half, since what is not confirmed spoils the line and
/// all choices below it.
pub const CONFIRMING_SHARE: f64 = 0.5;

/// How a race is run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Racing {
    /// Probability that a rerun changes a choice, below which the choice is left alone.
    pub doubt: f64,
    /// Share of the latency below which a difference is none: a tenth of a step of 8 channels in 64.
    pub margin: f64,
    /// Timed runs of each open layer in a heat.
    pub heat: u32,
    /// Timed runs that the whole race may take.
    pub budget: u64,
}

impl Default for Racing {
    fn default() -> Self {
        Self { doubt: 0.05, margin: 0.01, heat: 8, budget: 0 }
    }
}

impl Racing {
    /// The usual race with this budget, where runs are made in portions of `runs`: a heat is whole portions.
    #[must_use]
    pub fn in_portions(runs: u16, budget: u64) -> Self {
        let usual = Self::default();
        Self { heat: usual.heat.next_multiple_of(u32::from(runs.max(1))), budget, ..usual }
    }

    /// Timed runs that one heat of these layers takes.
    #[must_use]
    pub fn cost(&self, layers: &[Layer]) -> u64 {
        layers.len() as u64 * u64::from(self.heat)
    }

    /// Timed runs that confirming may take.
    #[must_use]
    pub fn confirming(&self) -> u64 {
        (CONFIRMING_SHARE * self.budget as f64) as u64
    }
}

/// How a race ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Heats run.
    pub heats: u32,
    /// Timed runs taken.
    pub samples: u64,
    /// Choices with a rival that more measuring might part from them.
    pub open: usize,
    /// Layers that were not confirmed and may change a choice.
    pub unconfirmed: usize,
    /// It was stopped from outside.
    pub stopped: bool,
}

/// Where samples come from.
pub trait Source {
    /// Its trouble.
    type Error: From<SpaceError>;

    /// All samples so far.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn samples(&self) -> Result<Vec<ModelSamples>, Self::Error>;

    /// Times each layer `samples` times more; [`ControlFlow::Break`] ends the race.
    ///
    /// # Errors
    /// Where they cannot be measured.
    fn more(&mut self, layers: &[Layer], samples: u32) -> Result<ControlFlow<()>, Self::Error>;
}

/// Runs the race.
///
/// # Errors
/// The source's, and [`SpaceError`] as [`HardwareSpace::build`].
pub fn race<S: Source>(
    family: &Family,
    settings: Settings,
    racing: &Racing,
    source: &mut S,
) -> Result<(HardwareSpace, Outcome), S::Error> {
    let mut outcome = Outcome { heats: 0, samples: 0, open: 0, unconfirmed: 0, stopped: false };
    let mut confirming = racing.confirming();
    loop {
        let samples = source.samples()?;
        let space = HardwareSpace::build(family, &samples, settings)?;
        let unconfirmed = confirm::wanted(family, &space, &samples, racing.margin);
        outcome.unconfirmed = unconfirmed.len();
        outcome.open = space.open(racing.doubt, racing.margin);
        let mut wanted = confirming_heat(unconfirmed, &space, family);
        if wanted.is_empty() || racing.cost(&wanted) > confirming {
            wanted = deciding_heat(&space, &samples, racing, racing.budget - outcome.samples);
            confirming = 0;
        }
        let cost = racing.cost(&wanted);
        confirming = confirming.saturating_sub(cost);
        if wanted.is_empty() || outcome.stopped || outcome.samples + cost > racing.budget {
            return Ok((space, outcome));
        }
        outcome.stopped = source.more(&wanted, racing.heat)?.is_break();
        outcome.heats += 1;
        outcome.samples += cost;
    }
}

/// Whether a race on these samples would measure anything.
///
/// # Errors
/// [`SpaceError`] as [`HardwareSpace::build`].
pub fn is_open(
    family: &Family,
    settings: Settings,
    racing: &Racing,
    samples: &[ModelSamples],
) -> Result<bool, SpaceError> {
    let space = HardwareSpace::build(family, samples, settings)?;
    let unconfirmed = confirm::wanted(family, &space, samples, racing.margin);
    let confirming = confirming_heat(unconfirmed, &space, family);
    let deciding = deciding_heat(&space, samples, racing, racing.budget);
    let affordable = |heat: &[Layer], budget: u64| !heat.is_empty() && racing.cost(heat) <= budget;
    Ok(affordable(&confirming, racing.confirming()) || affordable(&deciding, racing.budget))
}

/// The layers that are not confirmed, and their witnesses where visits were disturbed.
fn confirming_heat(mut unconfirmed: Vec<Layer>, space: &HardwareSpace, family: &Family) -> Vec<Layer> {
    if space.disturbed > 0.0 {
        unconfirmed.extend(confirm::witnesses(&unconfirmed, family, space.settings));
    }
    unconfirmed
}

/// The layers of the open groups that can be settled with `left` timed runs.
fn deciding_heat(space: &HardwareSpace, samples: &[ModelSamples], racing: &Racing, left: u64) -> Vec<Layer> {
    let taken: BTreeMap<Layer, u64> = samples
        .iter()
        .filter_map(|model| match model.spec {
            ModelSpec::Layer { layer } => {
                Some((layer, model.visits.iter().map(|of| of.samples.len() as u64).sum()))
            }
            _ => None,
        })
        .collect();
    let groups = space.open_groups(racing.doubt, racing.margin);
    let taken = |layer: &Layer| taken.get(layer).copied().unwrap_or(0);
    within_reach(groups, racing.doubt, taken, left).into_iter().flat_map(|group| group.layers).collect()
}

#[cfg(test)]
mod tests {
    use hanas_proto::Digest;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::latency::synthetic::{Noise, rng, scaled_visits};
    use crate::profile::candidates::space_layers;
    use crate::space::rules::Rules;
    use crate::store::ModelId;

    /// Runs a visit.
    const RUNS: usize = 4;

    /// A device whose latency is known: stairs of 8 channels, each tenth of a percent dearer per width,
    /// so that the widest of a stair never wins by nature and only the noise blurs it.
    struct Planted {
        rng: ChaCha8Rng,
        models: Vec<ModelSamples>,
        asked: Vec<Layer>,
    }

    fn planted_ns(layer: &Layer) -> f64 {
        let step = 30_000.0 * f64::from(layer.cout.div_ceil(8));
        // 8 and 16 of a group have nearly one score.
        let cheap = match layer.cout % 16 {
            0 => 4_500.0,
            8 => 3_000.0,
            _ => 0.0,
        };
        60_000.0 + step - cheap + 300.0 * f64::from(layer.cout % 8)
    }

    impl Planted {
        fn new(family: &Family, seed: u64, base_visits: u32) -> Self {
            let layers = space_layers(family, 2).concat();
            let model = |layer: &Layer| ModelSamples {
                id: ModelId(0),
                digest: Digest([0; 32]),
                spec: ModelSpec::Layer { layer: *layer },
                onnx_bytes: 0,
                visits: Vec::new(),
            };
            let models = layers.iter().map(model).collect();
            let mut planted = Self { rng: rng(seed), models, asked: Vec::new() };
            planted.take(&layers, base_visits);
            planted
        }

        fn take(&mut self, layers: &[Layer], visits: u32) {
            for model in &mut self.models {
                let ModelSpec::Layer { layer } = model.spec else { continue };
                if layers.contains(&layer) {
                    let ns = planted_ns(&layer);
                    model.visits.extend(scaled_visits(&mut self.rng, Noise::Gaussian, visits, RUNS, ns));
                }
            }
        }

        fn samples_taken(&self) -> usize {
            self.models.iter().flat_map(|model| &model.visits).map(|visit| visit.samples.len()).sum()
        }
    }

    impl Source for Planted {
        type Error = SpaceError;

        fn samples(&self) -> Result<Vec<ModelSamples>, SpaceError> {
            Ok(self.models.clone())
        }

        fn more(&mut self, layers: &[Layer], samples: u32) -> Result<ControlFlow<()>, SpaceError> {
            self.asked.extend_from_slice(layers);
            self.take(layers, samples / RUNS as u32);
            Ok(ControlFlow::Continue(()))
        }
    }

    fn settings() -> Settings {
        Settings::new(Rules::project(), 1, 1)
    }

    #[test]
    fn only_open_groups_are_measured_again_and_end_settled() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let mut device = Planted::new(&family, 1, 3);
        let before = HardwareSpace::build(&family, &device.samples().unwrap(), settings()).unwrap();
        assert!(before.open(0.05, 0.01) > 0, "the base profile must leave something to do");
        let racing = Racing { budget: 200_000, ..Racing::default() };
        let (space, outcome) = race(&family, settings(), &racing, &mut device).unwrap();
        assert_eq!((outcome.open, outcome.stopped), (0, false), "{outcome:?}");
        assert!(outcome.heats > 0 && !device.asked.is_empty());
        let asked: std::collections::BTreeSet<Layer> = device.asked.iter().copied().collect();
        assert!(asked.len() < 224, "some layers never decide anything");
        // The planted answer: multiples of 8.
        for stage in &space.stages {
            for choice in &stage.selection.choices {
                let width = choice.chosen.point[0];
                assert!(width.is_multiple_of(8) || stage.side == 32, "{width} in {}", choice.cell);
            }
        }
        assert_eq!(device.samples_taken() as u64, 224 * 12 + outcome.samples);
    }

    #[test]
    fn where_all_visits_differ_confirming_is_no_endless_task() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let mut device = Planted::new(&family, 4, 8);
        let mut rng = rng(5);
        for visit in device.models.iter_mut().flat_map(|model| &mut model.visits) {
            let slower = crate::latency::synthetic::normal(&mut rng).abs() * 0.1;
            visit.samples.iter_mut().for_each(|run| run.0 += (slower * run.0 as f64) as u64);
        }
        let space = HardwareSpace::build(&family, &device.models, settings()).unwrap();
        let open = confirm::wanted(&family, &space, &device.models, 0.01);
        assert!(open.len() < 224 / 20, "{} of 224", open.len());
        let racing = Racing { budget: 224 * 20, ..Racing::default() };
        let (_, outcome) = race(&family, settings(), &racing, &mut device).unwrap();
        assert!(device.asked.len() > open.len(), "the rest of the budget is raced: {outcome:?}");
    }

    #[test]
    fn a_heat_is_whole_portions() {
        let heat = |runs| Racing::in_portions(runs, 1).heat;
        assert_eq!([1, 4, 5, 100].map(heat), [8, 8, 10, 100]);
    }

    #[test]
    fn a_budget_is_kept_and_what_is_open_is_told() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let mut device = Planted::new(&family, 1, 3);
        let racing = Racing { budget: 16, ..Racing::default() };
        let (space, outcome) = race(&family, settings(), &racing, &mut device).unwrap();
        assert!(outcome.samples <= 16 && outcome.open > 0, "{outcome:?}");
        let tied = space.stages.iter().flat_map(|stage| &stage.selection.choices);
        assert!(tied.filter(|choice| !choice.tied.is_empty()).count() >= outcome.open);
    }
}
