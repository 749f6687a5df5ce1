//! The loop of every strategy: propose tokens, score the architecture they spell, learn from its reward.
//!
//! The log of trials is the checkpoint: a strategy is a function of its seed and of the trials before,
//! and random numbers are addressed by trial and draw, so that a search which reads its log and learns
//! its lines again is the one that was not interrupted. What an architecture scored is in the log too,
//! and nothing is trained or measured twice.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::super::SearchError;
use super::super::progress::{Event, JsonLines, Monitor, read_complete_lines};
use super::reward::Reward;
use super::tokens::{TokenSpace, Tokens};
use crate::data::stream::{Purpose, stream};

/// Why an architecture has no score or latency; whatever the one who finds out reports.
pub type ProblemError = Box<dyn std::error::Error + Send + Sync>;

/// Draws for one trial until one spells an architecture within the limit. At a limit that a share p of
/// the space meets, all miss with probability (1 - p)^200: below 1e-8 for p = .1.
pub const MAX_DRAWS: u64 = 200;

/// What training an architecture gave, as shares of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Accuracy on the validation nodes: what is rewarded.
    pub validation: f64,
    /// Accuracy on the test nodes, for the report alone: no strategy sees it.
    pub test: f64,
}

/// What is searched.
pub trait Problem {
    /// The tokens.
    fn space(&self) -> &TokenSpace;

    /// The canonical name of the architecture that a sequence spells; none where it spells none.
    fn key(&self, tokens: &[usize]) -> Option<String>;

    /// Its latency in nanoseconds; asked for every draw, so it should be cheap.
    ///
    /// # Errors
    /// Whatever keeps it from answering.
    fn latency_ns(&mut self, tokens: &[usize]) -> Result<f64, ProblemError>;

    /// What training it gives; this is the dear part.
    ///
    /// # Errors
    /// Whatever keeps it from answering.
    fn score(&mut self, tokens: &[usize]) -> Result<Score, ProblemError>;

    /// How many architectures it likes to hear of at once; see [`Problem::prepare`].
    fn at_once(&self) -> usize {
        1
    }

    /// Makes the scores of these ready, several at a time, so that [`Problem::score`] has them at once.
    /// It may come back early, with some of them, when `stop` is set.
    ///
    /// # Errors
    /// Whatever keeps it from answering.
    fn prepare(&mut self, _: &[&Tokens], _stop: &AtomicBool) -> Result<(), ProblemError> {
        Ok(())
    }
}

/// A strategy.
pub trait Proposer {
    /// The next sequence to try. It may be asked several times for one trial, where a draw spells no
    /// architecture or one beyond the limit.
    fn propose(&mut self, rng: &mut ChaCha8Rng) -> Tokens;

    /// Hears the reward of a trial.
    fn learn(&mut self, tokens: &[usize], reward: f64);

    /// For how many trials, the next included, its proposals do not depend on rewards that it has yet to hear.
    fn ahead(&self) -> usize {
        1
    }
}

/// One trial, a line of `search.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Number, from 0.
    pub trial: usize,
    /// The sequence.
    pub tokens: Tokens,
    /// Canonical name of the architecture.
    pub key: String,
    /// Its latency by prediction or table, ns.
    pub latency_ns: f64,
    /// What training gave; none where every draw exceeded the limit, and nothing was trained.
    pub score: Option<Score>,
    /// What the strategy heard; of a trial that was not trained it hears nothing.
    pub reward: f64,
    /// Draws until one was within the limit.
    pub draws: u64,
}

/// How long, from which seed and for what.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Trials; an architecture tried again counts again.
    pub samples: usize,
    /// Seed of every draw.
    pub seed: u64,
    /// What is rewarded, and the limit.
    pub reward: Reward,
}

/// Runs a strategy; with a log, goes on after its trials.
///
/// # Errors
/// [`SearchError`]; [`SearchError::Interrupted`] after a trial whose line is written.
pub fn explore(
    problem: &mut dyn Problem,
    proposer: &mut dyn Proposer,
    settings: &Settings,
    log: Option<&Path>,
    monitor: &mut Monitor<'_>,
) -> Result<Vec<Trial>, SearchError> {
    let mut trials: Vec<Trial> = match log {
        Some(path) => read_complete_lines(path)?,
        None => Vec::new(),
    };
    trials.truncate(settings.samples);
    for trial in &trials {
        if !problem.space().holds(&trial.tokens) {
            let complaint =
                format!("trial {} of the log is of another space; give another folder", trial.trial);
            return Err(SearchError::Config(complaint));
        }
        learn(proposer, trial);
    }
    let mut lines = log.map(|path| JsonLines::open(path, trials.len())).transpose()?;
    while trials.len() < settings.samples {
        let left = settings.samples - trials.len();
        let portion = proposer.ahead().min(problem.at_once());
        let count = portion.clamp(1, left);
        let next = (trials.len()..).take(count);
        let drawn: Vec<Trial> =
            next.map(|number| draw(problem, proposer, settings, number)).collect::<Result<_, _>>()?;
        // The last of a portion, too, is trained as the others were.
        if portion > 1 {
            let within = drawn.iter().filter(|trial| settings.reward.allows(trial.latency_ns));
            let tokens: Vec<&Tokens> = within.map(|trial| &trial.tokens).collect();
            problem.prepare(&tokens, monitor.stop).map_err(SearchError::Problem)?;
        }
        for trial in drawn {
            if monitor.stopped() {
                return Err(SearchError::Interrupted);
            }
            let trial = scored(problem, settings.reward, trial)?;
            learn(proposer, &trial);
            if let Some(lines) = &mut lines {
                lines.push(&trial)?;
            }
            monitor.tell(Event::Trial { trial: &trial, samples: settings.samples });
            trials.push(trial);
        }
    }
    Ok(trials)
}

/// A trial that was not trained teaches nothing: it was the fastest drawn, the last to be kept away from.
fn learn(proposer: &mut dyn Proposer, trial: &Trial) {
    if trial.score.is_some() {
        proposer.learn(&trial.tokens, trial.reward);
    }
}

/// A trial that was drawn, with its score and reward; one beyond the limit is not trained and earns nothing.
fn scored(problem: &mut dyn Problem, reward: Reward, trial: Trial) -> Result<Trial, SearchError> {
    if !reward.allows(trial.latency_ns) {
        return Ok(trial);
    }
    let score = problem.score(&trial.tokens).map_err(SearchError::Problem)?;
    let reward = reward.value(score.validation, trial.latency_ns);
    Ok(Trial { score: Some(score), reward, ..trial })
}

/// Draws until an architecture is within the limit. Where none is, the fastest drawn is the trial.
fn draw(
    problem: &mut dyn Problem,
    proposer: &mut dyn Proposer,
    settings: &Settings,
    number: usize,
) -> Result<Trial, SearchError> {
    let Settings { seed, reward, .. } = *settings;
    let trial = number;
    let mut fastest: Option<Trial> = None;
    for draw in 0..MAX_DRAWS {
        let tokens = proposer.propose(&mut stream(seed, Purpose::Proposal, number as u32, draw));
        let Some(key) = problem.key(&tokens) else { continue };
        let latency_ns = problem.latency_ns(&tokens).map_err(SearchError::Problem)?;
        let drawn = Trial { trial, tokens, key, latency_ns, score: None, reward: 0.0, draws: draw + 1 };
        if reward.allows(latency_ns) {
            return Ok(drawn);
        }
        if fastest.as_ref().is_none_or(|of| latency_ns < of.latency_ns) {
            fastest = Some(Trial { draws: MAX_DRAWS, ..drawn });
        }
    }
    fastest.ok_or_else(|| {
        SearchError::Config(format!("none of {MAX_DRAWS} draws spells an architecture; the space is empty"))
    })
}

/// The trained trial with the best validation accuracy within a limit; of equals the faster, then the
/// earlier.
#[must_use]
pub fn best(trials: &[Trial], limit_ns: f64) -> Option<&Trial> {
    ranked(trials, limit_ns).into_iter().next()
}

/// The trained architectures within a limit, each once, in the order of [`best`]; not those whose training came to
/// nothing.
#[must_use]
pub fn ranked(trials: &[Trial], limit_ns: f64) -> Vec<&Trial> {
    let validation = |trial: &Trial| trial.score.map_or(0.0, |score| score.validation);
    let mut seen = std::collections::BTreeSet::new();
    let fits = |trial: &&Trial| validation(trial) > 0.0 && trial.latency_ns <= limit_ns;
    let mut list: Vec<&Trial> =
        trials.iter().filter(fits).filter(|trial| seen.insert(trial.key.as_str())).collect();
    list.sort_by(|a, b| validation(b).total_cmp(&validation(a)).then(a.latency_ns.total_cmp(&b.latency_ns)));
    list
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::evolution::Evolution;
    use super::super::random::RandomSearch;
    use super::super::reward::Objective;
    use super::*;

    /// Accuracy and latency planted by tokens: high tokens are accurate and slow; 0-0 spells nothing.
    #[derive(Debug)]
    pub(crate) struct Planted {
        pub(crate) space: TokenSpace,
        pub(crate) scored: usize,
        /// Portions in which it is told what will be asked for, and what was told.
        at_once: usize,
        told: Vec<Vec<Tokens>>,
    }

    impl Planted {
        pub(crate) fn new() -> Self {
            Self {
                space: TokenSpace::new(&[("a", 5), ("b", 4)], &[0, 1, 0, 1]),
                scored: 0,
                at_once: 1,
                told: Vec::new(),
            }
        }
    }

    impl Problem for Planted {
        fn space(&self) -> &TokenSpace {
            &self.space
        }

        fn key(&self, tokens: &[usize]) -> Option<String> {
            (tokens[..2] != [0, 0]).then(|| format!("{tokens:?}"))
        }

        fn latency_ns(&mut self, tokens: &[usize]) -> Result<f64, ProblemError> {
            Ok(1e6 * (1 + tokens.iter().sum::<usize>()) as f64)
        }

        fn score(&mut self, tokens: &[usize]) -> Result<Score, ProblemError> {
            self.scored += 1;
            let validation = (tokens[0] * 3 + tokens[1] + tokens[2] + tokens[3]) as f64 / 22.0;
            Ok(Score { validation, test: validation - 0.01 })
        }

        fn at_once(&self) -> usize {
            self.at_once
        }

        fn prepare(&mut self, list: &[&Tokens], _: &AtomicBool) -> Result<(), ProblemError> {
            self.told.push(list.iter().map(|&tokens| tokens.clone()).collect());
            Ok(())
        }
    }

    #[test]
    fn what_does_not_hang_on_rewards_is_told_in_portions() {
        let explored = |proposer: &mut dyn Proposer, at_once| {
            let stop = AtomicBool::new(false);
            let mut monitor = Monitor { watch: &mut |_| {}, stop: &stop };
            let mut problem = Planted { at_once, ..Planted::new() };
            let trials = explore(&mut problem, proposer, &settings(Some(6e6)), None, &mut monitor).unwrap();
            (trials, problem.told)
        };
        let space = Planted::new().space;
        let (alone, untold) = explored(&mut RandomSearch::new(space.clone()), 1);
        let (trials, told) = explored(&mut RandomSearch::new(space.clone()), 8);
        assert!(untold.is_empty() && trials == alone);
        assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 8, 8, 8, 8, 8, 4]);
        assert_eq!(told.concat(), trials.into_iter().map(|trial| trial.tokens).collect::<Vec<_>>());

        assert!(explored(&mut Evolution::new(space), 8).1.is_empty(), "it hears of every trial");
    }

    pub(crate) fn settings(limit_ns: Option<f64>) -> Settings {
        let reward = Reward { objective: Objective::Accuracy, limit_ns };
        Settings { samples: 60, seed: 4, reward }
    }

    #[test]
    fn the_limit_is_kept_and_the_best_within_is_found() {
        let stop = AtomicBool::new(false);
        let mut monitor = Monitor { watch: &mut |_| {}, stop: &stop };
        let mut problem = Planted::new();
        let mut evolution = Evolution::new(problem.space.clone());
        let trials = explore(&mut problem, &mut evolution, &settings(Some(6e6)), None, &mut monitor).unwrap();
        assert_eq!((trials.len(), problem.scored), (60, 60));
        assert!(trials.iter().all(|trial| trial.latency_ns <= 6e6 && trial.tokens[..2] != [0, 0]));
        // 4 in the first place and one more anywhere: the best that 5 units of tokens allow.
        let best = best(&trials, 6e6).unwrap();
        assert_eq!((best.tokens[0], best.score.unwrap().validation), (4, 13.0 / 22.0));
        assert!(trials.iter().any(|trial| trial.draws > 1));
    }

    /// Proposes the same again and again, and keeps what it hears.
    struct Listener(usize);

    impl Proposer for Listener {
        fn propose(&mut self, _: &mut ChaCha8Rng) -> Tokens {
            vec![4, 3, 4, 3]
        }

        fn learn(&mut self, _: &[usize], _: f64) {
            self.0 += 1;
        }
    }

    #[test]
    fn a_trial_that_was_not_trained_teaches_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let heard = |limit_ns, samples, name: &str| {
            let mut listener = Listener(0);
            let settings = Settings { samples, ..settings(limit_ns) };
            let log = folder.path().join(name);
            run_until(&mut listener, &settings, &log, usize::MAX).0.unwrap();
            listener.0
        };
        assert_eq!((heard(Some(1e5), 3, "over"), heard(None, 3, "within")), (0, 3));
        // Out of the log as well.
        assert_eq!((heard(Some(1e5), 5, "over"), heard(None, 5, "within")), (0, 5));
    }

    #[test]
    fn what_no_draw_meets_is_not_trained() {
        let stop = AtomicBool::new(false);
        let mut monitor = Monitor { watch: &mut |_| {}, stop: &stop };
        let mut problem = Planted::new();
        let mut random = RandomSearch::new(problem.space.clone());
        let settings = Settings { samples: 3, ..settings(Some(1e5)) };
        let trials = explore(&mut problem, &mut random, &settings, None, &mut monitor).unwrap();
        assert_eq!(problem.scored, 0);
        assert!(trials.iter().all(|trial| trial.score.is_none() && trial.reward == 0.0));
        assert_eq!(best(&trials, f64::MAX), None);
    }

    #[test]
    fn an_interrupted_search_goes_on_as_if_it_had_not_been() {
        let folder = tempfile::tempdir().unwrap();
        let whole = evolved(&folder.path().join("whole.jsonl"), usize::MAX).0.unwrap();
        let path = folder.path().join("cut.jsonl");
        let (stopped, scored) = evolved(&path, 25);
        assert!(matches!(stopped, Err(SearchError::Interrupted)));
        assert_eq!(scored, 25);
        // A kill may leave half a line.
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"trial\":25,\"tok");
        std::fs::write(&path, text).unwrap();
        let (resumed, scored) = evolved(&path, usize::MAX);
        assert_eq!((resumed.unwrap(), scored), (whole.clone(), 35));
        assert_eq!(read_complete_lines::<Trial>(&path).unwrap(), whole);
    }

    /// Stops after so many trials; how many were scored comes back too.
    pub(crate) fn run_until(
        proposer: &mut dyn Proposer,
        settings: &Settings,
        log: &Path,
        trials: usize,
    ) -> (Result<Vec<Trial>, SearchError>, usize) {
        let stop = AtomicBool::new(false);
        let mut count = 0;
        let mut watch = |_: Event<'_>| {
            count += 1;
            stop.store(count >= trials, Ordering::Relaxed);
        };
        let mut monitor = Monitor { watch: &mut watch, stop: &stop };
        let mut problem = Planted::new();
        let found = explore(&mut problem, proposer, settings, Some(log), &mut monitor);
        (found, problem.scored)
    }

    fn evolved(log: &Path, trials: usize) -> (Result<Vec<Trial>, SearchError>, usize) {
        run_until(&mut Evolution::new(Planted::new().space), &settings(None), log, trials)
    }
}
