//! Strategies against a table in which every net's accuracy and latency is known: what a search costs
//! nothing to try, many seeds over (ALGORITHM 3).
//!
//! In: a [`GraphBench`]. Out: for every arm and latency limit, how far the net it chose lies below the
//! best that the table holds within the limit, over seeds. Tokens are the shape and four operations; a
//! spelling that the table does not list is drawn again, one that is another's twin scores as that one.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::super::SearchError;
use super::super::progress::Monitor;
use super::explore::{Problem, ProblemError, Score, Settings, Trial, best, explore};
use super::reward::{OMEGA, Objective, Reward, median, quantile};
use super::strategy::Strategy;
use super::tokens::TokenSpace;
use crate::data::nas_bench_graph::{BenchNet, GraphBench, LINKS, OPERATIONS, canonical};
use crate::data::stream::{Purpose, stream};

/// Random architectures whose median latency is T (ALGORITHM 2.5).
pub const REFERENCE_NETS: usize = 100;
/// Resamples of a confidence interval.
const RESAMPLES: usize = 2_000;

/// A table as a search sees it.
#[derive(Debug, Clone)]
pub struct Surrogate<'a> {
    bench: &'a GraphBench,
    space: TokenSpace,
}

impl<'a> Surrogate<'a> {
    /// A table's shapes and operations as tokens.
    #[must_use]
    pub fn new(bench: &'a GraphBench) -> Self {
        let categories = [("link", LINKS.len()), ("operation", OPERATIONS.len())];
        Self { bench, space: TokenSpace::new(&categories, &[0, 1, 1, 1, 1]) }
    }

    fn net(&self, tokens: &[usize]) -> Option<(u32, &'a BenchNet)> {
        let [link, operations @ ..] = tokens else { return None };
        let operations: [usize; 4] = operations.try_into().ok()?;
        let number = canonical(*link, operations.map(|token| token as u8))?;
        Some((number, self.bench.nets.get(&number)?))
    }

    fn listed(&self, tokens: &[usize]) -> Result<&'a BenchNet, ProblemError> {
        let net = self.net(tokens).map(|(_, net)| net);
        net.ok_or_else(|| format!("the table does not list {tokens:?}").into())
    }

    /// T: the median latency of random architectures, ns; none where the table lists none of a
    /// thousand drawn.
    #[must_use]
    pub fn reference_ns(&self, seed: u64) -> Option<f64> {
        let mut rng = stream(seed, Purpose::RandomNets, 0, 1);
        let draws = (0..10 * REFERENCE_NETS).filter_map(|_| self.net(&self.space.random(&mut rng)));
        median(&draws.take(REFERENCE_NETS).map(|(_, net)| net.latency_ns).collect::<Vec<_>>())
    }
}

impl Problem for Surrogate<'_> {
    fn space(&self) -> &TokenSpace {
        &self.space
    }

    fn key(&self, tokens: &[usize]) -> Option<String> {
        self.net(tokens).map(|(number, _)| number.to_string())
    }

    fn latency_ns(&mut self, tokens: &[usize]) -> Result<f64, ProblemError> {
        Ok(self.listed(tokens)?.latency_ns)
    }

    fn score(&mut self, tokens: &[usize]) -> Result<Score, ProblemError> {
        let BenchNet { validation, test, .. } = *self.listed(tokens)?;
        Ok(Score { validation, test })
    }
}

/// One way to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    /// Who proposes.
    pub strategy: Strategy,
    /// Whether the reward holds the latency (the paper's) or is accuracy alone.
    pub latency_reward: bool,
    /// Whether the limit holds for every trial; otherwise only the choice at the end knows it.
    pub limited: bool,
}

impl Arm {
    /// All arms, in the order of a report.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let arm = |strategy, latency_reward, limited| Self { strategy, latency_reward, limited };
        vec![
            arm(Strategy::Rl, false, false),
            arm(Strategy::Rl, true, false),
            arm(Strategy::Rl, false, true),
            arm(Strategy::Rl, true, true),
            arm(Strategy::Random, false, false),
            arm(Strategy::Random, false, true),
            arm(Strategy::Evolution, false, false),
            arm(Strategy::Evolution, false, true),
        ]
    }

    /// For people: `RL, latency reward, hard limit`.
    #[must_use]
    pub fn name(&self) -> String {
        let strategy = match self.strategy {
            Strategy::Rl => "RL",
            Strategy::Random => "random",
            Strategy::Evolution => "evolution",
        };
        let reward = match (self.strategy, self.latency_reward) {
            (Strategy::Random, _) => "",
            (_, true) => ", latency reward",
            (_, false) => ", accuracy",
        };
        format!("{strategy}{reward}{}", if self.limited { ", hard limit" } else { "" })
    }

    /// Runs it on a table.
    ///
    /// # Errors
    /// [`SearchError`], as [`explore`].
    pub fn run(
        &self,
        bench: &GraphBench,
        limit_ns: f64,
        samples: usize,
        seed: u64,
        monitor: &mut Monitor<'_>,
    ) -> Result<Vec<Trial>, SearchError> {
        let mut problem = Surrogate::new(bench);
        let unlisted = || SearchError::Config("the table lists none of a thousand random nets".to_owned());
        let objective = if self.latency_reward {
            let reference_ns = problem.reference_ns(seed).ok_or_else(unlisted)?;
            Objective::Latency { reference_ns, omega: OMEGA }
        } else {
            Objective::Accuracy
        };
        let reward = Reward { objective, limit_ns: self.limited.then_some(limit_ns) };
        let mut proposer = self.strategy.proposer(&problem.space, seed)?;
        explore(&mut problem, &mut *proposer, &Settings { samples, seed, reward }, None, monitor)
    }
}

/// The best of a table within a latency limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// The limit as a quantile of the table's latencies.
    pub share: f64,
    /// The limit, ns.
    pub limit_ns: f64,
    /// Highest validation accuracy.
    pub validation: f64,
    /// Test accuracy of that net.
    pub test: f64,
    /// Lowest validation accuracy: what a run that found nothing is charged with.
    pub worst: f64,
    /// Median validation accuracy, the floor of `volume`.
    pub median: f64,
    /// Area under the Pareto front, above `median`, in ns.
    pub volume: f64,
}

impl Truth {
    /// What a table holds within the quantile of its latencies.
    ///
    /// None where nothing lies within.
    #[must_use]
    pub fn new(bench: &GraphBench, share: f64) -> Option<Self> {
        let latencies: Vec<f64> = bench.nets.values().map(|net| net.latency_ns).collect();
        let limit_ns = quantile(&latencies, share)?;
        let within: Vec<&BenchNet> = bench.nets.values().filter(|net| net.latency_ns <= limit_ns).collect();
        let accuracies: Vec<f64> = within.iter().map(|net| net.validation).collect();
        let best = within.iter().max_by(|a, b| {
            a.validation.total_cmp(&b.validation).then(b.latency_ns.total_cmp(&a.latency_ns))
        })?;
        let median = median(&accuracies)?;
        let points: Vec<(f64, f64)> = within.iter().map(|net| (net.latency_ns, net.validation)).collect();
        Some(Self {
            share,
            limit_ns,
            validation: best.validation,
            test: best.test,
            worst: accuracies.iter().copied().fold(f64::INFINITY, f64::min),
            median,
            volume: volume(&points, limit_ns, median),
        })
    }

    /// How a run's trials compare.
    #[must_use]
    pub fn compare(&self, trials: &[Trial]) -> Outcome {
        let chosen = best(trials, self.limit_ns);
        let score = chosen.and_then(|trial| trial.score);
        let point = |trial: &Trial| {
            trial
                .score
                .filter(|_| trial.latency_ns <= self.limit_ns)
                .map(|s| (trial.latency_ns, s.validation))
        };
        let points: Vec<(f64, f64)> = trials.iter().filter_map(point).collect();
        let keys: std::collections::BTreeSet<&str> = trials.iter().map(|trial| trial.key.as_str()).collect();
        Outcome {
            regret: self.validation - score.map_or(self.worst, |score| score.validation),
            front_regret: 1.0 - volume(&points, self.limit_ns, self.median) / self.volume,
            test: score.map(|score| score.test),
            distinct: keys.len(),
        }
    }
}

/// Area that the points' Pareto front dominates, left of a latency and above an accuracy.
fn volume(points: &[(f64, f64)], limit: f64, floor: f64) -> f64 {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut area, mut height) = (0.0, floor);
    for (latency, accuracy) in sorted {
        if accuracy > height {
            area += (limit - latency) * (accuracy - height);
            height = accuracy;
        }
    }
    area
}

/// One run against the truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Validation accuracy missed.
    pub regret: f64,
    /// Share of the area under the true Pareto front that was missed.
    pub front_regret: f64,
    /// Test accuracy of the chosen net; none where nothing was found within the limit.
    pub test: Option<f64>,
    /// Different architectures among the trials.
    pub distinct: usize,
}

/// A mean and its 95% confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The percentile bootstrap's: regrets are skewed and bounded. None of an empty list.
    #[must_use]
    pub fn new(values: &[f64]) -> Option<Self> {
        let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
        let mut rng = stream(0, Purpose::Experiment, 0, 0);
        let mut resample = || {
            let drawn: Vec<f64> = values.iter().map(|_| values[rng.random_range(0..values.len())]).collect();
            mean(&drawn)
        };
        let means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
        (!values.is_empty()).then(|| Self {
            mean: mean(values),
            low: quantile(&means, 0.025).unwrap_or(f64::NAN),
            high: quantile(&means, 0.975).unwrap_or(f64::NAN),
        })
    }
}

/// An arm under a limit, over seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The arm.
    pub arm: Arm,
    /// The limit as a quantile of the table's latencies.
    pub share: f64,
    /// Runs.
    pub seeds: usize,
    /// Validation accuracy missed.
    pub regret: Interval,
    /// Share of the area under the Pareto front missed.
    pub front_regret: Interval,
    /// Test accuracy of the nets chosen; none where no run chose one.
    pub test: Option<Interval>,
    /// Runs that found nothing within the limit.
    pub missed: usize,
    /// Different architectures tried, on average.
    pub distinct: f64,
}

impl Row {
    /// Sums up the runs of an arm; none without runs.
    #[must_use]
    pub fn new(arm: Arm, share: f64, outcomes: &[Outcome]) -> Option<Self> {
        let of = |value: fn(&Outcome) -> f64| Interval::new(&outcomes.iter().map(value).collect::<Vec<_>>());
        let tests: Vec<f64> = outcomes.iter().filter_map(|outcome| outcome.test).collect();
        Some(Self {
            arm,
            share,
            seeds: outcomes.len(),
            regret: of(|outcome| outcome.regret)?,
            front_regret: of(|outcome| outcome.front_regret)?,
            missed: outcomes.len() - tests.len(),
            test: Interval::new(&tests),
            distinct: of(|outcome| outcome.distinct as f64)?.mean,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::data::nas_bench_graph::tests::numbers;

    /// A table of every seventh net: accuracy grows with the first operation, latency with all.
    pub(crate) fn table() -> GraphBench {
        let net = |number: u32| {
            let digits = [1_000, 100, 10, 1].map(|unit| f64::from(number / unit % 10));
            let validation = 0.5 + 0.03 * digits[0] + 0.01 * digits[3];
            let latency_ns = 1e6 * (1.0 + digits.iter().sum::<f64>());
            (number, BenchNet { validation, test: validation - 0.02, latency_ns })
        };
        GraphBench { nets: numbers().into_iter().step_by(7).map(net).collect() }
    }

    #[test]
    fn areas_are_those_of_the_staircase() {
        let points = [(2.0, 0.6), (1.0, 0.5), (3.0, 0.55), (4.0, 0.9)];
        // (5-1)*(.5-.4) + (5-2)*(.6-.5) + (5-4)*(.9-.6)
        assert!((volume(&points, 5.0, 0.4) - 1.0).abs() < 1e-12);
        assert_eq!(volume(&[(1.0, 0.3)], 5.0, 0.4), 0.0);
    }

    #[test]
    fn arms_keep_limits_and_follow_from_the_seed() {
        let bench = table();
        let truth = Truth::new(&bench, 0.25).unwrap();
        let stop = AtomicBool::new(false);
        let mut monitor = Monitor { watch: &mut |_| {}, stop: &stop };
        let mut run = |arm: Arm, seed| arm.run(&bench, truth.limit_ns, 40, seed, &mut monitor).unwrap();
        for arm in Arm::all() {
            if arm.strategy == Strategy::Rl && cfg!(not(feature = "torch")) {
                continue;
            }
            let trials = run(arm, 1);
            assert_eq!(trials, run(arm, 1), "{}", arm.name());
            assert!(!arm.limited || trials.iter().all(|trial| trial.latency_ns <= truth.limit_ns));
            let outcome = truth.compare(&trials);
            assert!((0.0..0.5).contains(&outcome.regret) && (0.0..=1.0).contains(&outcome.front_regret));
            let row = Row::new(arm, 0.25, &[outcome, truth.compare(&run(arm, 2))]).unwrap();
            assert!(row.regret.low <= row.regret.mean && row.regret.mean <= row.regret.high);
        }
    }

    #[test]
    fn a_run_that_saw_everything_has_no_regret() {
        let bench = table();
        let truth = Truth::new(&bench, 0.5).unwrap();
        let trial = |(number, net): (&u32, &BenchNet)| Trial {
            trial: 0,
            tokens: Vec::new(),
            key: number.to_string(),
            latency_ns: net.latency_ns,
            score: Some(Score { validation: net.validation, test: net.test }),
            reward: 0.0,
            draws: 1,
        };
        let all: Vec<Trial> = bench.nets.iter().map(trial).collect();
        let outcome = truth.compare(&all);
        assert!(outcome.regret.abs() < 1e-12 && outcome.front_regret.abs() < 1e-12);
        assert_eq!((outcome.test, outcome.distinct), (Some(truth.test), bench.nets.len()));
        let none = truth.compare(&[]);
        assert_eq!((none.test, none.front_regret), (None, 1.0));
        assert!((none.regret - (truth.validation - truth.worst)).abs() < 1e-12);
    }
}
