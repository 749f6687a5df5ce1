//! The best of a search, measured and trained again and again: one training's accuracy is partly luck,
//! and the luckiest of many trials is luckier than it is good.
//!
//! In: trials. Out: finalists in the order of their mean validation accuracy in the trainings that choose. The
//! first is trained further, and mean and deviation of that are what is reported. A net whose measured latency
//! exceeds the limit is no finalist, whatever was predicted.

use std::sync::atomic::{AtomicBool, Ordering};

use hanas_models::gnn::GnnNet;
use serde::{Deserialize, Serialize};

use super::super::SearchError;
use super::super::meter::Amount;
use super::super::progress::{Event, Monitor};
use super::cache::ScoreCache;
use super::explore::{Score, Trial, ranked};
use super::problem::{Latency, Scorer, portion, prepare, trained};
use super::space::GnnSpace;

/// Nets measured for one finalist wanted, before giving up.
const MEASURED_PER_FINALIST: usize = 10;

/// What to do where no trial keeps the limit; the folder holds the search as it was.
const ANEW: &str = "raise --limit or --samples with another --out (`--scores OLD/scores.jsonl --latencies OLD/latencies.jsonl` keep what was trained and measured)";

/// How often who is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalConfig {
    /// Nets that are trained again.
    pub finalists: usize,
    /// Trainings of each.
    pub runs: u64,
    /// Trainings of the best of them, once it is chosen.
    pub final_runs: u64,
}

impl FinalConfig {
    /// The paper's: the top 5, 20 times; the best of them 100 times (ALGORITHM 2.4).
    pub const PAPER: Self = Self { finalists: 5, runs: 20, final_runs: 100 };
    /// What a desk machine allows.
    pub const SCALED: Self = Self { finalists: 5, runs: 3, final_runs: 10 };
}

/// A net trained several times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finalist {
    /// The net.
    pub net: GnnNet,
    /// Latency by prediction, ns.
    pub predicted_ns: f64,
    /// Latency as measured, ns.
    pub measured_ns: f64,
    /// One score a training; of the best, a training after it was chosen.
    pub scores: Vec<Score>,
    /// Of the best, the scores that it was chosen by, which would bring their luck into the mean. Runs of
    /// earlier versions have them among the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chosen_by: Vec<Score>,
}

/// A mean and the sample's standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation; 0 of one value.
    pub sd: f64,
}

impl Spread {
    /// Of a list, with n - 1 below the sum; none of an empty list.
    #[must_use]
    pub fn new(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (!values.is_empty()).then(|| Self { mean, sd: (squares / (count - 1.0).max(1.0)).sqrt() })
    }
}

impl Finalist {
    /// One that is yet to be trained.
    #[must_use]
    pub const fn new(net: GnnNet, predicted_ns: f64, measured_ns: f64) -> Self {
        Self { net, predicted_ns, measured_ns, scores: Vec::new(), chosen_by: Vec::new() }
    }

    /// Seed of the first of its scores, in a search under `search_seed`; the next have the seeds after it.
    #[must_use]
    pub const fn first_seed(&self, search_seed: u64) -> u64 {
        training_seed(search_seed, self.chosen_by.len() as u64)
    }

    /// Validation accuracy over its [`scores`](Self::scores).
    #[must_use]
    pub fn validation(&self) -> Option<Spread> {
        Spread::new(&self.scores.iter().map(|score| score.validation).collect::<Vec<_>>())
    }

    /// Test accuracy over its [`scores`](Self::scores): for the report, not for any choice.
    #[must_use]
    pub fn test(&self) -> Option<Spread> {
        Spread::new(&self.scores.iter().map(|score| score.test).collect::<Vec<_>>())
    }
}

/// The best by their one training whose measured latency is within the limit, in that order.
///
/// # Errors
/// [`SearchError::NoFinalist`] where none of the best is measured within the limit,
/// [`SearchError::Interrupted`], or what measuring reports.
pub fn choose(
    space: &GnnSpace,
    trials: &[Trial],
    limit_ns: Option<f64>,
    config: &FinalConfig,
    measure: Latency<'_>,
    stop: &AtomicBool,
) -> Result<Vec<Finalist>, SearchError> {
    let limit = limit_ns.unwrap_or(f64::INFINITY);
    let mut found = Vec::new();
    let (mut tried, mut nearest) = (0, f64::INFINITY);
    let most = config.finalists * MEASURED_PER_FINALIST;
    for trial in ranked(trials, limit).into_iter().take(most) {
        if found.len() == config.finalists {
            break;
        }
        if stop.load(Ordering::Relaxed) {
            return Err(SearchError::Interrupted);
        }
        let net = space.net(&trial.tokens);
        let net = net.ok_or_else(|| SearchError::Config(format!("{} is of another space", trial.key)))?;
        let measured_ns = measure(&net).map_err(SearchError::Problem)?;
        tried += 1;
        nearest = nearest.min(measured_ns);
        // Infinite where the device cannot run it.
        if measured_ns.is_finite() && measured_ns <= limit {
            let predicted_ns = trial.latency_ns;
            found.push(Finalist::new(net, predicted_ns, measured_ns));
        }
    }
    if found.is_empty() {
        return Err(SearchError::NoFinalist(match (limit_ns, nearest.is_finite()) {
            _ if tried == 0 && trials.iter().any(|trial| trial.score.is_some()) => {
                "no child's training came to anything; the notes above say why".to_owned()
            }
            _ if tried == 0 => format!("no trial was within the limit; {ANEW}"),
            (Some(limit), true) => format!(
                "none of the {tried} best nets was measured within {}; the nearest took {}; {ANEW}",
                Amount::Nanos(limit),
                Amount::Nanos(nearest)
            ),
            _ => format!("the device can run none of the {tried} best nets; give a --limit"),
        }));
    }
    Ok(found)
}

/// Who trains finalists.
pub struct Jury<'a> {
    /// Trains.
    pub scorer: &'a mut dyn Scorer,
    /// Keeps scores, so that an interrupted final goes on.
    pub cache: &'a mut ScoreCache,
    /// Told every training; stops.
    pub monitor: Monitor<'a>,
}

impl std::fmt::Debug for Jury<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jury").field("monitor", &self.monitor).finish_non_exhaustive()
    }
}

impl Jury<'_> {
    /// Finalists trained, the best first.
    ///
    /// # Errors
    /// [`SearchError::Interrupted`], or what training reports.
    pub fn decide(
        &mut self,
        mut finalists: Vec<Finalist>,
        config: &FinalConfig,
        seed: u64,
    ) -> Result<Vec<Finalist>, SearchError> {
        let again = config.runs..config.runs.saturating_add(config.final_runs);
        let mut progress = (0, finalists.len() * config.runs as usize + again.clone().count());
        let each = (0..finalists.len()).flat_map(|place| (0..config.runs).map(move |run| (place, run)));
        self.train(&mut finalists, &each.collect::<Vec<_>>(), seed, &mut progress)?;
        let mean = |finalist: &Finalist| finalist.validation().map_or(0.0, |spread| spread.mean);
        finalists.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
        if let Some(best) = finalists.first_mut() {
            best.chosen_by = std::mem::take(&mut best.scores);
        }
        self.train(&mut finalists, &again.map(|run| (0, run)).collect::<Vec<_>>(), seed, &mut progress)?;
        Ok(finalists)
    }

    /// Trains finalists, each given by its place and the number of the training.
    fn train(
        &mut self,
        finalists: &mut [Finalist],
        trainings: &[(usize, u64)],
        seed: u64,
        (done, total): &mut (usize, usize),
    ) -> Result<(), SearchError> {
        for some in trainings.chunks(portion(self.scorer)) {
            let training = |&(place, run): &(usize, u64)| {
                let finalist: &Finalist = &finalists[place];
                (finalist.net.clone(), training_seed(seed, run))
            };
            let nets: Vec<(GnnNet, u64)> = some.iter().map(training).collect();
            prepare(&nets, self.scorer, self.cache, self.monitor.stop).map_err(SearchError::Problem)?;
            for (&(place, _), (net, seed)) in some.iter().zip(&nets) {
                if self.monitor.stopped() {
                    return Err(SearchError::Interrupted);
                }
                let score = trained(net, *seed, self.scorer, self.cache).map_err(SearchError::Problem)?;
                *done += 1;
                self.monitor.tell(Event::Final { done: *done, total: *total, validation: score.validation });
                finalists[place].scores.push(score);
            }
        }
        Ok(())
    }
}

/// Seed of a finalist's training number `run`. Not the search's own: that training chose the net, and would bring
/// its luck along.
const fn training_seed(search_seed: u64, run: u64) -> u64 {
    search_seed.wrapping_add(1 + run)
}

#[cfg(test)]
mod tests {
    use super::super::problem::tests::{Formula, cache, latency, trials};
    use super::*;

    const CONFIG: FinalConfig = FinalConfig { finalists: 3, runs: 3, final_runs: 6 };

    fn decide(factor: f64, limit_ns: f64) -> (Result<Vec<Finalist>, SearchError>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = cache(folder.path());
        let mut formula = Formula::default();
        let trials = trials(&mut cache, &mut formula);
        formula.trained = 0;
        let mut measure = |net: &GnnNet| latency(net).map(|ns| factor * ns);
        let stop = AtomicBool::new(false);
        let mut told = Vec::new();
        let mut watch = |event: Event<'_>| {
            if let Event::Final { done, total, .. } = event {
                told.push((done, total));
            }
        };
        let monitor = Monitor { watch: &mut watch, stop: &stop };
        let mut jury = Jury { scorer: &mut formula, cache: &mut cache, monitor };
        let space = GnnSpace::graphnas(50, 3);
        let found = choose(&space, &trials, Some(limit_ns), &CONFIG, &mut measure, &stop)
            .and_then(|chosen| jury.decide(chosen, &CONFIG, 1));
        assert!(told.iter().enumerate().all(|(place, &told)| told == (place + 1, 15)), "{told:?}");
        (found, formula.trained)
    }

    #[test]
    fn finalists_are_measured_within_the_limit_and_trained_anew() {
        let (found, trained) = decide(1.2, 1e6);
        let found = found.unwrap();
        assert_eq!((found.len(), trained), (3, 3 * 3 + 6));
        assert!(found.iter().all(|of| of.measured_ns <= 1e6 && of.measured_ns > of.predicted_ns));
        assert_eq!(found.iter().map(|of| of.scores.len()).collect::<Vec<_>>(), [6, 3, 3]);
        assert_eq!(found.iter().map(|of| of.chosen_by.len()).collect::<Vec<_>>(), [3, 0, 0]);
        assert_eq!((found[0].first_seed(1), found[1].first_seed(1)), (5, 2));
        let means: Vec<f64> = found.iter().map(|of| of.validation().unwrap().mean).collect();
        assert!(means[0] >= means[1] - 1e-12 && means[1] >= means[2] - 1e-12, "{means:?}");
        // Seeds 5 to 10 are each of the three lucks twice.
        assert!((found[0].test().unwrap().sd - 0.005 * (4.0f64 / 5.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn a_device_that_is_slower_than_predicted_leaves_none() {
        let (found, trained) = decide(1e4, 1e6);
        let none = found.unwrap_err();
        assert!(matches!(none, SearchError::NoFinalist(_)), "{none}");
        for part in ["the nearest took", "with another --out", "--scores OLD/scores.jsonl"] {
            assert!(none.to_string().contains(part), "{none}");
        }
        assert_eq!(trained, 0);
        let (found, _) = decide(f64::INFINITY, 1e6);
        assert!(found.unwrap_err().to_string().contains("can run none"));
    }

    #[test]
    fn spreads_are_of_samples() {
        assert_eq!(Spread::new(&[1.0, 3.0]), Some(Spread { mean: 2.0, sd: 2f64.sqrt() }));
        assert_eq!((Spread::new(&[1.0]), Spread::new(&[])), (Some(Spread { mean: 1.0, sd: 0.0 }), None));
    }
}
