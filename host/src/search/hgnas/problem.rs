//! Graph nets as what is searched: a token space, somebody who trains a net, somebody who knows its
//! latency, and the cache in between.

use hanas_models::gnn::GnnNet;

use super::cache::ScoreCache;
use super::explore::{Problem, ProblemError, Score};
use super::space::{GnnSpace, key};
use super::tokens::TokenSpace;

/// Trains graph nets. The command line answers with the graph and torch, tests from a formula.
pub trait Scorer {
    /// Trains a net from scratch under a seed; its accuracies.
    ///
    /// # Errors
    /// Whatever keeps it from training.
    fn score(&mut self, net: &GnnNet, seed: u64) -> Result<Score, ProblemError>;
}

/// Answers with the latency of a net in nanoseconds, predicted or measured.
pub type Latency<'a> = &'a mut dyn FnMut(&GnnNet) -> Result<f64, ProblemError>;

/// A space of graph nets with everything that a search asks for.
pub struct GnnProblem<'a> {
    space: &'a GnnSpace,
    tokens: TokenSpace,
    scorer: &'a mut dyn Scorer,
    latency: Latency<'a>,
    cache: &'a mut ScoreCache,
    seed: u64,
}

impl std::fmt::Debug for GnnProblem<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GnnProblem").field("space", &self.space).finish_non_exhaustive()
    }
}

impl<'a> GnnProblem<'a> {
    /// A problem whose children are trained under one seed; a net in the cache is not trained again.
    pub fn new(
        space: &'a GnnSpace,
        scorer: &'a mut dyn Scorer,
        latency: Latency<'a>,
        cache: &'a mut ScoreCache,
        seed: u64,
    ) -> Self {
        Self { tokens: space.tokens(), space, scorer, latency, cache, seed }
    }

    fn net(&self, tokens: &[usize]) -> Result<GnnNet, ProblemError> {
        self.space.net(tokens).ok_or_else(|| format!("{tokens:?} spells no net of the space").into())
    }
}

impl Problem for GnnProblem<'_> {
    fn space(&self) -> &TokenSpace {
        &self.tokens
    }

    fn key(&self, tokens: &[usize]) -> Option<String> {
        self.space.net(tokens).as_ref().map(key)
    }

    fn latency_ns(&mut self, tokens: &[usize]) -> Result<f64, ProblemError> {
        let net = self.net(tokens)?;
        (self.latency)(&net)
    }

    fn score(&mut self, tokens: &[usize]) -> Result<Score, ProblemError> {
        trained(&self.net(tokens)?, self.seed, self.scorer, self.cache)
    }
}

/// A net's score under a seed, out of the cache or trained and kept.
///
/// # Errors
/// Whatever keeps the net from training, or the cache from being written.
pub fn trained(
    net: &GnnNet,
    seed: u64,
    scorer: &mut dyn Scorer,
    cache: &mut ScoreCache,
) -> Result<Score, ProblemError> {
    let name = format!("{}#{seed}", key(net));
    if let Some(score) = cache.get(&name) {
        return Ok(score);
    }
    let score = scorer.score(net, seed)?;
    cache.put(&name, score)?;
    Ok(score)
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use super::super::super::progress::Monitor;
    use super::super::cache::Setting;
    use super::super::explore::tests::settings;
    use super::super::explore::{Trial, explore};
    use super::super::strategy::Strategy;
    use super::*;

    /// Wide first layers are accurate; a seed adds its own half percent.
    #[derive(Debug, Default)]
    pub(in super::super) struct Formula {
        pub(in super::super) trained: usize,
    }

    impl Scorer for Formula {
        fn score(&mut self, net: &GnnNet, seed: u64) -> Result<Score, ProblemError> {
            self.trained += 1;
            let first = net.layers[0];
            let validation = 0.5 + 0.04 * f64::from(first.heads * first.dim).log2();
            let luck = 0.005 * ((seed % 3) as f64 - 1.0);
            Ok(Score { validation: validation + luck, test: validation - 0.1 - luck })
        }
    }

    /// Latency grows with the first layer's width.
    pub(in super::super) fn latency(net: &GnnNet) -> Result<f64, ProblemError> {
        Ok(1e4 * f64::from(net.layers[0].heads * net.layers[0].dim))
    }

    pub(in super::super) fn cache(folder: &Path) -> ScoreCache {
        let setting = Setting { child: "formula".to_owned(), data: "none".to_owned() };
        ScoreCache::open(&folder.join("scores.jsonl"), setting).unwrap()
    }

    pub(in super::super) fn trials(cache: &mut ScoreCache, formula: &mut Formula) -> Vec<Trial> {
        let space = GnnSpace::graphnas(50, 3);
        let stop = AtomicBool::new(false);
        let mut monitor = Monitor { watch: &mut |_| {}, stop: &stop };
        let mut proposer = Strategy::Evolution.proposer(&space.tokens(), 1).unwrap();
        let mut latency = latency;
        let mut problem = GnnProblem::new(&space, formula, &mut latency, cache, 1);
        explore(&mut problem, &mut *proposer, &settings(Some(1e6)), None, &mut monitor).unwrap()
    }

    #[test]
    fn nothing_is_trained_twice() {
        let folder = tempfile::tempdir().unwrap();
        let mut formula = Formula::default();
        let first = trials(&mut cache(folder.path()), &mut formula);
        let keys: std::collections::BTreeSet<&str> = first.iter().map(|trial| trial.key.as_str()).collect();
        assert_eq!(formula.trained, keys.len());
        assert!(keys.len() < first.len(), "evolution tries some again");
        assert_eq!(trials(&mut cache(folder.path()), &mut formula), first);
        assert_eq!(formula.trained, keys.len());
        assert!(first.iter().all(|trial| trial.latency_ns <= 1e6));
    }
}
