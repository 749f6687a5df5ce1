//! Is a session's profile to be trusted, and if not, why.
//!
//! In: the session's samples by model, its rounds' contexts, facts of the device. Out: a [`Verdict`].
//! Rounds of all models are compared through the round's factor: the median over models of (median of
//! the visit over median of the model). Each threshold is a constant with its reason; what the
//! thresholds let pass moves a low quantile by less than a width step of a layer does (some 5%).

use std::collections::BTreeMap;
use std::fmt;

use hanas_proto::measure::RoundContext;
use serde::{Deserialize, Serialize};

use super::estimate::Blocks;
pub use super::reason::Reason;
use super::trend::{levels, median, trend};
use crate::store::Visit;

/// A 5% quantile of fewer runs than 1/.05 lies outside them.
pub const MIN_SAMPLES: usize = 20;

/// A device that drifts by more moves neighbouring widths past each other.
pub const MAX_DRIFT: f64 = 0.02;

/// A drift counts where chance makes it less often than this (Mann-Kendall).
pub const DRIFT_P: f64 = 0.01;

/// Two levels closer than this are no frequency step; steps of 100 MHz at 2 GHz are 5%.
pub const MIN_STEP: f64 = 0.04;

/// Two groups nearer than this are one hump cut in two: an exponential tail's halves are at 3.1, see
/// [`levels`].
pub const MIN_SEPARATION: f64 = 4.5;

/// A group smaller than this is outliers, not a level.
pub const MIN_MINORITY: f64 = 0.15;

/// More models than this share of all with two levels are a device that has two.
pub const MAX_BIMODAL: f64 = 0.1;

/// Interquartile range over median beyond which a session is noise: .1 of one core's load shows as .02.
pub const MAX_SPREAD: f64 = 0.1;

/// Share of runs beyond Tukey's far fence. A normal distribution has 2e-6, an exponential one .009.
pub const MAX_FAR_OUTLIERS: f64 = 0.05;

/// A clock step above this share of the shortest model's time hides steps of the latency curve.
pub const MAX_CLOCK_STEP: f64 = 0.01;

/// Share of processor time that a hypervisor may take: what it takes, a run loses in pieces of
/// milliseconds, and 1% leaves 95% of 1 ms runs untouched at a slice of 5 ms.
pub const MAX_STEAL: f64 = 0.01;

/// Times a second the worker may lose its processor. A competing process takes 100 to 300 (Linux's
/// slices of 3 to 10 ms), kernel threads a few.
pub const MAX_SWITCHES_PER_S: f64 = 20.0;

/// Processors that others may keep busy: they share caches and memory with the worker.
pub const MAX_OTHER_LOAD: f64 = 0.5;

/// Relative range of the frequency over the rounds.
pub const MAX_FREQUENCY_RANGE: f64 = 0.05;

/// What a verdict is made from.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Every model's visits in this session.
    pub models: &'a [&'a [Visit]],
    /// Runs of each of them that sessions before this one hold; none where there is nothing before.
    pub earlier: &'a [u64],
    /// The rounds' circumstances.
    pub contexts: &'a [(u32, RoundContext)],
    /// Smallest step of the clock, in nanoseconds.
    pub clock_resolution_ns: u32,
    /// Processors online.
    pub cores: u16,
}

/// Whether a profile is to be trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// No reason against it.
    pub trustworthy: bool,
    /// The reasons against it.
    pub reasons: Vec<Reason>,
}

impl fmt::Display for Verdict {
    /// `trustworthy`, or the reasons, one a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.trustworthy {
            return f.write_str("trustworthy");
        }
        f.write_str("not trustworthy:")?;
        self.reasons.iter().try_for_each(|reason| write!(f, "\n  {reason}; {}", reason.remedy()))
    }
}

/// Judges a session.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let mut reasons = Vec::new();
    let earlier = evidence.earlier.iter().copied().chain(std::iter::repeat(0));
    let models: Vec<Model> = evidence
        .models
        .iter()
        .zip(earlier)
        .filter_map(|(visits, earlier)| Model::new(visits, earlier))
        .collect();
    judge_samples(&models, evidence.clock_resolution_ns, &mut reasons);
    judge_rounds(&models, &mut reasons);
    judge_contexts(evidence, &mut reasons);
    Verdict { trustworthy: reasons.is_empty(), reasons }
}

/// What one model's samples say.
struct Model {
    median: f64,
    spread: f64,
    samples: usize,
    /// With those of earlier sessions.
    held: usize,
    far_outliers: usize,
    bimodal: bool,
    /// Median of each round over the model's median.
    rounds: BTreeMap<(i64, u32), f64>,
}

impl Model {
    fn new(visits: &[Visit], earlier: u64) -> Option<Self> {
        let estimate = super::estimate(visits, super::Statistic::Median, 0).ok()?;
        let middle = estimate.median_ns.max(1.0);
        let samples = || visits.iter().flat_map(|visit| &visit.samples).map(|sample| sample.0 as f64);
        let rounds = visits.iter().filter_map(|visit| {
            let own = Blocks::new(std::slice::from_ref(visit)).ok()?.value(super::Statistic::Median).ok()?;
            Some(((visit.session.0, visit.round), own / middle))
        });
        Some(Self {
            median: middle,
            spread: estimate.iqr_ns / middle,
            samples: estimate.samples,
            held: estimate.samples.saturating_add(usize::try_from(earlier).unwrap_or(usize::MAX)),
            far_outliers: estimate.far_outliers,
            bimodal: two_levels(&samples().collect::<Vec<_>>()).is_some(),
            rounds: rounds.collect(),
        })
    }
}

/// Distance and minority, where the values lie on two levels. The logarithm keeps a few runs of many
/// times the usual length from taking the split for themselves.
fn two_levels(values: &[f64]) -> Option<(f64, f64)> {
    let logs: Vec<f64> = values.iter().map(|value| value.max(f64::MIN_POSITIVE).ln()).collect();
    let mut sorted = logs.clone();
    let middle = median(&mut sorted);
    let inside: Vec<f64> = logs.into_iter().filter(|log| (log - middle).abs() < 0.5).map(f64::exp).collect();
    let found = levels(&inside)?;
    let two =
        found.separation > MIN_SEPARATION && found.minority >= MIN_MINORITY && found.distance > MIN_STEP;
    two.then_some((found.distance, found.minority))
}

fn judge_samples(models: &[Model], clock_resolution_ns: u32, reasons: &mut Vec<Reason>) {
    let poor = models.iter().filter(|model| model.held < MIN_SAMPLES).count();
    let fewest = models.iter().map(|model| model.held).min().unwrap_or(0);
    if poor > 0 || models.is_empty() {
        reasons.push(Reason::TooFewSamples { models: poor, fewest });
    }
    let count = models.len().max(1) as f64;
    let bimodal = models.iter().filter(|model| model.bimodal).count() as f64 / count;
    if bimodal > MAX_BIMODAL {
        reasons.push(Reason::Bimodal { models: bimodal });
    }
    let spread = median(&mut models.iter().map(|model| model.spread).collect::<Vec<_>>());
    if spread > MAX_SPREAD {
        reasons.push(Reason::Spread { spread });
    }
    let runs: usize = models.iter().map(|model| model.samples).sum();
    let far: usize = models.iter().map(|model| model.far_outliers).sum();
    let share = far as f64 / runs.max(1) as f64;
    if share > MAX_FAR_OUTLIERS {
        reasons.push(Reason::Outliers { share });
    }
    let shortest = models.iter().map(|model| model.median).fold(f64::INFINITY, f64::min);
    let share = f64::from(clock_resolution_ns) / shortest;
    if share > MAX_CLOCK_STEP {
        reasons.push(Reason::Clock { share });
    }
}

fn judge_rounds(models: &[Model], reasons: &mut Vec<Reason>) {
    let mut factors: BTreeMap<(i64, u32), Vec<f64>> = BTreeMap::new();
    for (round, factor) in models.iter().flat_map(|model| &model.rounds) {
        factors.entry(*round).or_default().push(*factor);
    }
    let series: Vec<f64> = factors.values_mut().map(|of_round| median(of_round)).collect();
    if let Some(found) = trend(&series)
        && found.change.abs() > MAX_DRIFT
        && found.p_value < DRIFT_P
    {
        reasons.push(Reason::Drift { change: found.change, p_value: found.p_value });
    }
    if let Some((distance, minority)) = two_levels(&series) {
        reasons.push(Reason::Steps { distance, minority });
    }
}

fn judge_contexts(evidence: &Evidence<'_>, reasons: &mut Vec<Reason>) {
    let contexts = || evidence.contexts.iter().map(|(_, context)| context);
    let wall_us: u64 = contexts().map(|context| context.wall_us).sum();
    if wall_us == 0 {
        return;
    }
    let wall_us = wall_us as f64;
    let steal_us: u64 = contexts().filter_map(|context| context.steal_us).sum();
    let share = steal_us as f64 / (wall_us * f64::from(evidence.cores.max(1)));
    if share > MAX_STEAL {
        reasons.push(Reason::Steal { share });
    }
    let switches: u64 = contexts().map(|context| u64::from(context.involuntary_switches)).sum();
    let per_s = switches as f64 / (wall_us / 1e6);
    if per_s > MAX_SWITCHES_PER_S {
        reasons.push(Reason::Switches { per_s });
    }
    let others = |context: &RoundContext| Some(context.busy_us?.saturating_sub(context.cpu_us));
    let processors = contexts().filter_map(others).sum::<u64>() as f64 / wall_us;
    if processors > MAX_OTHER_LOAD {
        reasons.push(Reason::OtherLoad { processors });
    }
    let frequencies = || contexts().filter_map(|context| context.frequency_khz);
    if let (Some(lowest_khz), Some(highest_khz)) = (frequencies().min(), frequencies().max())
        && f64::from(highest_khz - lowest_khz) > MAX_FREQUENCY_RANGE * f64::from(highest_khz)
    {
        reasons.push(Reason::Frequency { lowest_khz, highest_khz });
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Noise, rng, scaled_visits, visits};
    use super::*;

    fn quiet() -> RoundContext {
        RoundContext {
            wall_us: 1_000_000,
            cpu_us: 990_000,
            steal_us: Some(0),
            busy_us: Some(1_050_000),
            frequency_khz: Some(1_800_000),
            involuntary_switches: 3,
            ..RoundContext::default()
        }
    }

    fn judged(noise: Noise, seed: u64, runs: usize, contexts: &[(u32, RoundContext)]) -> Verdict {
        let mut rng = rng(seed);
        // One generator per model but the rounds' trend in common, as on a device.
        let models: Vec<Vec<Visit>> = (1..=12)
            .map(|model| scaled_visits(&mut rng, noise, 20, runs, 20_000.0 * f64::from(model)))
            .collect();
        let models: Vec<&[Visit]> = models.iter().map(Vec::as_slice).collect();
        judge(&Evidence { models: &models, earlier: &[], contexts, clock_resolution_ns: 30, cores: 2 })
    }

    #[test]
    fn clean_sessions_pass() {
        for seed in 0..50 {
            for noise in [Noise::Gaussian, Noise::HeavyTail, Noise::VisitOffsets] {
                let verdict = judged(noise, seed, 5, &[(0, quiet())]);
                assert!(verdict.trustworthy, "{noise:?} {seed}: {verdict}");
            }
        }
    }

    #[test]
    fn planted_trouble_is_named() {
        for seed in 0..20 {
            let drift = judged(Noise::Drift, seed, 5, &[]);
            assert!(
                drift.reasons.iter().any(
                    |reason| matches!(reason, Reason::Drift { change, .. } if (change - 0.08).abs() < 0.02)
                ),
                "{drift}"
            );
            let step = judged(Noise::Step, seed, 5, &[]);
            assert!(
                step.reasons.iter().any(
                    |reason| matches!(reason, Reason::Steps { distance, .. } if (distance - 0.12).abs() < 0.02)
                ),
                "{step}"
            );
            let bimodal = judged(Noise::Bimodal, seed, 5, &[]);
            assert!(
                bimodal.reasons.iter().any(|reason| matches!(reason, Reason::Bimodal { .. })),
                "{bimodal}"
            );
            let bursts = judged(Noise::Bursts, seed, 5, &[]);
            assert!(
                bursts.reasons.iter().any(|reason| matches!(reason, Reason::Outliers { .. })),
                "{bursts}"
            );
        }
    }

    #[test]
    fn too_few_runs_or_none_are_not_trusted() {
        let few = judged(Noise::Gaussian, 1, 0, &[]);
        assert!(!few.trustworthy);
        let short = visits(&mut rng(1), Noise::Gaussian, 3, 5);
        let models: &[&[Visit]] = &[&short];
        let evidence = Evidence { models, earlier: &[], contexts: &[], clock_resolution_ns: 1, cores: 1 };
        assert_eq!(judge(&evidence).reasons, [Reason::TooFewSamples { models: 1, fewest: 15 }]);
        // What is left of a profile that was interrupted may be less than a profile.
        assert!(judge(&Evidence { earlier: &[5], ..evidence }).trustworthy);
        assert_eq!(
            judge(&Evidence { earlier: &[4], ..evidence }).reasons,
            [Reason::TooFewSamples { models: 1, fewest: 19 }]
        );
    }

    #[test]
    fn contexts_and_clock_are_heard() {
        let with = |change: fn(&mut RoundContext)| {
            let mut context = quiet();
            change(&mut context);
            judged(Noise::Gaussian, 1, 5, &[(0, quiet()), (1, context)]).reasons
        };
        assert!(
            matches!(with(|c| c.steal_us = Some(80_000))[..], [Reason::Steal { share }] if share == 0.02)
        );
        assert!(matches!(with(|c| c.involuntary_switches = 200)[..], [Reason::Switches { .. }]));
        assert!(matches!(with(|c| c.busy_us = Some(2_000_000))[..], [Reason::OtherLoad { .. }]));
        assert!(matches!(with(|c| c.frequency_khz = Some(1_200_000))[..], [Reason::Frequency { .. }]));
        assert!(with(|_| ()).is_empty());
        let model = visits(&mut rng(1), Noise::Gaussian, 20, 5);
        let models: &[&[Visit]] = &[&model];
        let coarse = Evidence { models, earlier: &[], contexts: &[], clock_resolution_ns: 10_000, cores: 1 };
        assert!(judge(&coarse).reasons.iter().any(|reason| matches!(reason, Reason::Clock { .. })));
    }

    #[test]
    fn a_verdict_survives_the_store() {
        let verdict = judged(Noise::Step, 1, 5, &[]);
        let text = serde_json::to_string(&verdict).unwrap();
        assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict);
        assert!(verdict.to_string().starts_with("not trustworthy:\n  "));
    }
}
