//! Graph nets as what is searched: a token space, somebody who trains a net, somebody who knows its
//! latency, and the cache in between.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use hanas_models::gnn::GnnNet;
use hanas_proto::Bytes;

use super::cache::ScoreCache;
use super::explore::{Problem, ProblemError, Score};
use super::space::{GnnSpace, key};
use super::tokens::{TokenSpace, Tokens};

/// Nets for each that is trained at once in a portion: trainings take differently long, and only at a portion's
/// end does one wait for another.
const PORTION: usize = 4;

/// Takes scores as they come, with their nets' places.
pub type Keep<'a> = &'a mut dyn FnMut(usize, Score) -> Result<(), ProblemError>;

/// A net whose training needs more memory than there is. A search scores it 0, in its log alone: with more memory it
/// is trained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{net} would take about {needs} to train, {free} are free")]
pub struct TooLarge {
    /// Its name.
    pub net: String,
    /// What it takes.
    pub needs: Bytes,
    /// What it may take.
    pub free: Bytes,
}

/// Trains graph nets. The command line answers with the graph and torch, tests from a formula.
pub trait Scorer {
    /// Trains a net from scratch under a seed; its accuracies.
    ///
    /// # Errors
    /// [`TooLarge`], or whatever else keeps it from training.
    fn score(&mut self, net: &GnnNet, seed: u64) -> Result<Score, ProblemError>;

    /// How many nets it trains at once, where it is given several.
    fn at_once(&self) -> usize {
        1
    }

    /// Trains several nets, each under its seed, and hands out every score as it comes. Those that are
    /// [too large](TooLarge) are left out. Begins with no other when `stop` is set.
    ///
    /// # Errors
    /// Whatever keeps it from training, or `keep` reports.
    fn score_all(
        &mut self,
        nets: &[(GnnNet, u64)],
        keep: Keep<'_>,
        stop: &AtomicBool,
    ) -> Result<(), ProblemError> {
        for (place, (net, seed)) in nets.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match self.score(net, *seed) {
                Err(error) if error.is::<TooLarge>() => {}
                score => keep(place, score?)?,
            }
        }
        Ok(())
    }
}

/// Nets that are best given to [`prepare`] at once.
pub fn portion(scorer: &dyn Scorer) -> usize {
    match scorer.at_once() {
        0 | 1 => 1,
        more => PORTION * more,
    }
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
        match trained(&self.net(tokens)?, self.seed, self.scorer, self.cache) {
            Err(error) if error.is::<TooLarge>() => {
                eprintln!("note: {error}: scored 0");
                Ok(Score { validation: 0.0, test: 0.0 })
            }
            score => score,
        }
    }

    fn at_once(&self) -> usize {
        portion(self.scorer)
    }

    fn prepare(&mut self, list: &[&Tokens], stop: &AtomicBool) -> Result<(), ProblemError> {
        let nets: Vec<(GnnNet, u64)> = list
            .iter()
            .map(|tokens| Ok((self.net(tokens)?, self.seed)))
            .collect::<Result<_, ProblemError>>()?;
        prepare(&nets, self.scorer, self.cache, stop)
    }
}

/// The name of a training in the cache.
fn name(net: &GnnNet, seed: u64) -> String {
    format!("{}#{seed}", key(net))
}

/// Sees to it that these trainings are in the cache, several at once where the scorer does that; some are
/// left out when `stop` is set meanwhile, and those that are [too large](TooLarge).
///
/// # Errors
/// As [`trained`].
pub fn prepare(
    nets: &[(GnnNet, u64)],
    scorer: &mut dyn Scorer,
    cache: &mut ScoreCache,
    stop: &AtomicBool,
) -> Result<(), ProblemError> {
    let mut seen = BTreeSet::new();
    let mut is_new = |net: &GnnNet, seed| {
        let name = name(net, seed);
        cache.get(&name).is_none() && seen.insert(name)
    };
    let unknown: Vec<(GnnNet, u64)> = nets.iter().filter(|(net, seed)| is_new(net, *seed)).cloned().collect();
    let mut keep = |place: usize, score| {
        let (net, seed) = &unknown[place];
        Ok(cache.put(&name(net, *seed), score)?)
    };
    scorer.score_all(&unknown, &mut keep, stop)
}

/// A net's score under a seed, out of the cache or trained and kept.
///
/// # Errors
/// [`TooLarge`], or whatever else keeps the net from training or the cache from being written.
pub fn trained(
    net: &GnnNet,
    seed: u64,
    scorer: &mut dyn Scorer,
    cache: &mut ScoreCache,
) -> Result<Score, ProblemError> {
    let name = name(net, seed);
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
    use crate::data::stream::{Purpose, stream};

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
        let setting = Setting { child: "formula".to_owned(), data: "none".to_owned(), threads: 1 };
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

    /// As [`Formula`], without the memory for 16 heads.
    struct Small(Formula);

    impl Scorer for Small {
        fn score(&mut self, net: &GnnNet, seed: u64) -> Result<Score, ProblemError> {
            if net.layers[0].heads == 16 {
                return Err(TooLarge { net: key(net), needs: Bytes(3 << 30), free: Bytes(1 << 30) }.into());
            }
            self.0.score(net, seed)
        }
    }

    #[test]
    fn what_is_too_large_scores_0_and_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (mut cache, mut scorer) = (cache(folder.path()), Small(Formula::default()));
        let space = GnnSpace::graphnas(50, 3);
        let find = |is_large: bool| {
            let mut drawn =
                (0..200).map(|number| space.tokens().random(&mut stream(1, Purpose::Proposal, number, 0)));
            drawn.find(|tokens| (space.net(tokens).unwrap().layers[0].heads == 16) == is_large).unwrap()
        };
        let (large, small) = (find(true), find(false));
        let mut latency = latency;
        let mut problem = GnnProblem::new(&space, &mut scorer, &mut latency, &mut cache, 1);
        problem.prepare(&[&large, &small], &AtomicBool::new(false)).unwrap();
        assert_eq!(problem.score(&large).unwrap(), Score { validation: 0.0, test: 0.0 });
        assert!(problem.score(&small).unwrap().validation > 0.5);
        assert_eq!(cache.len(), 1);
        // A training that counts is not made up.
        let error = trained(&space.net(&large).unwrap(), 2, &mut scorer, &mut cache).unwrap_err();
        assert!(
            error.is::<TooLarge>() && error.to_string().contains("about 3.0 GiB to train, 1.0 GiB are free")
        );
        assert_eq!((cache.len(), scorer.0.trained), (1, 1));
    }
}
