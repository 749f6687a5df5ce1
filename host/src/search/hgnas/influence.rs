//! What omega does to the nets that a trained controller draws (the paper's Figure 6), on a table.
//!
//! In: a [`GraphBench`] and omegas. Out: latencies and accuracies of the nets drawn after training, and
//! their quantiles over seeds, beside those of chance.

use serde::{Deserialize, Serialize};

use super::super::SearchError;
use super::super::progress::Monitor;
use super::explore::{Problem, Settings, explore};
use super::reward::{Objective, Reward, quantile};
use super::strategy::Strategy;
use super::surrogate::{Interval, Surrogate};
use crate::data::nas_bench_graph::GraphBench;
use crate::data::stream::{Purpose, stream};

/// A net that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its latency, ns.
    pub latency_ns: f64,
    /// Its validation accuracy.
    pub validation: f64,
}

/// How long a controller is trained, and how much it draws then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effort {
    /// Trials of training.
    pub samples: usize,
    /// Nets drawn after it; those that the table does not list are drawn again.
    pub draws: usize,
}

/// Nets of a controller trained with the paper's reward at `omega` (0 is GraphNAS's), or of chance.
///
/// # Errors
/// [`SearchError`], as [`explore`].
pub fn drawn(
    bench: &GraphBench,
    omega: Option<f64>,
    effort: Effort,
    seed: u64,
    monitor: &mut Monitor<'_>,
) -> Result<Vec<Drawn>, SearchError> {
    let unlisted = || SearchError::Config("the table lists none of a thousand random nets".to_owned());
    let mut problem = Surrogate::new(bench);
    let reference_ns = problem.reference_ns(seed).ok_or_else(unlisted)?;
    let strategy = if omega.is_some() { Strategy::Rl } else { Strategy::Random };
    let mut proposer = strategy.proposer(problem.space(), seed)?;
    if let Some(omega) = omega {
        let reward = Reward { objective: Objective::Latency { reference_ns, omega }, limit_ns: None };
        let settings = Settings { samples: effort.samples, seed, reward };
        explore(&mut problem, &mut *proposer, &settings, None, monitor)?;
    }
    let mut nets = Vec::with_capacity(effort.draws);
    let mut spellings = 0;
    while nets.len() < effort.draws {
        if monitor.stopped() {
            return Err(SearchError::Interrupted);
        }
        let tokens = proposer.propose(&mut stream(seed, Purpose::Experiment, 1, spellings));
        spellings += 1;
        if problem.key(&tokens).is_some() {
            let validation = problem.score(&tokens).map_err(SearchError::Problem)?.validation;
            let latency_ns = problem.latency_ns(&tokens).map_err(SearchError::Problem)?;
            nets.push(Drawn { latency_ns, validation });
        } else if spellings > 1_000 * effort.draws as u64 {
            return Err(unlisted());
        }
    }
    Ok(nets)
}

/// Quantiles of what was drawn: means over seeds with their intervals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The 10% quantile.
    pub low: Interval,
    /// The median.
    pub median: Interval,
    /// The 90% quantile.
    pub high: Interval,
}

impl Quantiles {
    /// Of one list of values a seed; none where there is no seed or a list is empty.
    #[must_use]
    pub fn new(seeds: &[Vec<f64>]) -> Option<Self> {
        let of = |share| {
            let values: Option<Vec<f64>> = seeds.iter().map(|values| quantile(values, share)).collect();
            Interval::new(&values?)
        };
        Some(Self { low: of(0.1)?, median: of(0.5)?, high: of(0.9)? })
    }
}

/// An omega, over seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Influence {
    /// The exponent; none for chance.
    pub omega: Option<f64>,
    /// Latency of the nets drawn, ns.
    pub latency_ns: Quantiles,
    /// Their validation accuracy.
    pub validation: Quantiles,
}

impl Influence {
    /// Sums up the seeds of an omega; none without any.
    #[must_use]
    pub fn new(omega: Option<f64>, seeds: &[Vec<Drawn>]) -> Option<Self> {
        let of = |value: fn(&Drawn) -> f64| {
            Quantiles::new(&seeds.iter().map(|nets| nets.iter().map(value).collect()).collect::<Vec<_>>())
        };
        Some(Self { omega, latency_ns: of(|net| net.latency_ns)?, validation: of(|net| net.validation)? })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::surrogate::tests::table;
    use super::*;

    fn run(omega: Option<f64>, seed: u64) -> Vec<Drawn> {
        let stop = AtomicBool::new(false);
        let mut monitor = Monitor { watch: &mut |_| {}, stop: &stop };
        drawn(&table(), omega, Effort { samples: 600, draws: 100 }, seed, &mut monitor).unwrap()
    }

    #[test]
    fn chance_draws_what_the_table_holds() {
        let nets = run(None, 1);
        assert_eq!((nets.len(), nets == run(None, 1), nets == run(None, 2)), (100, true, false));
        let row = Influence::new(None, &[nets, run(None, 2)]).unwrap();
        let Quantiles { low, median, high } = row.latency_ns;
        assert!(low.mean < median.mean && median.mean < high.mean, "{low:?} {median:?} {high:?}");
        assert!(Influence::new(None, &[]).is_none());
    }

    /// Far beyond the paper's omegas, so that six hundred trials suffice.
    #[cfg(feature = "torch")]
    #[test]
    fn omega_draws_the_controller_to_fast_nets() {
        tch::set_num_threads(1);
        let median =
            |omega| Influence::new(Some(omega), &[run(omega.into(), 3)]).unwrap().latency_ns.median.mean;
        let (without, with) = (median(0.0), median(2.0));
        assert!(with < 0.8 * without, "{with} ns, {without} ns without");
    }
}
