//! Graph nets trained for a search: what a score is made of.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use hanas_models::gnn::GnnNet;
use hanas_models::gnn::layout::{Layout, Widths};
use hanas_models::weights::Weights;

use crate::data::graph::GraphData;
use crate::search::hgnas::explore::{ProblemError, Score};
use crate::search::hgnas::problem::{Keep, Scorer};
use crate::train::TrainError;
use crate::train::child::{ChildConfig, ChildResult};
use crate::train::gnn::ChildTrainer;

/// Messages that the graphs of children trained at once have together, at most; a larger graph is trained on
/// alone. It bounds their memory: the widest layer, 16 heads of 256, keeps a handful of tensors of 16 KiB a
/// message.
const MESSAGES_AT_ONCE: usize = 60_000;

/// Trains children on a graph.
pub(super) struct Trainer<'a> {
    data: &'a GraphData,
    trainer: ChildTrainer<'a>,
    config: ChildConfig,
    at_once: usize,
    /// Of each of them.
    threads: i32,
    /// Of a child that is trained alone.
    all_threads: i32,
}

impl<'a> Trainer<'a> {
    /// A trainer on a graph under these settings.
    pub(super) fn new(data: &'a GraphData, config: ChildConfig) -> Self {
        let messages = Layout::new(&data.graph, Widths::Rounded).messages();
        let all_threads = tch::get_num_threads().max(1);
        let at_once = (MESSAGES_AT_ONCE / messages.max(1)).min(all_threads as usize).max(1);
        let threads = (all_threads / at_once as i32).max(1);
        Self { data, trainer: ChildTrainer::new(data), config, at_once, threads, all_threads }
    }

    /// Threads of a child: of those that are trained at once, or of one that is trained alone.
    pub(super) const fn threads(&self, at_once: bool) -> i32 {
        if at_once { self.threads } else { self.all_threads }
    }

    /// A child with its weights, trained on as many threads as those of [`Scorer::score_all`] are: on another
    /// number its last digits would be others.
    pub(super) fn train(&self, net: &GnnNet, seed: u64) -> Result<(ChildResult, Weights), TrainError> {
        tch::set_num_threads(self.threads);
        let trained = self.trainer.train(net, &self.config, seed);
        tch::set_num_threads(self.all_threads);
        trained
    }
}

impl Scorer for Trainer<'_> {
    fn score(&mut self, net: &GnnNet, seed: u64) -> Result<Score, ProblemError> {
        score(&self.trainer, &self.config, net, seed)
    }

    fn at_once(&self) -> usize {
        self.at_once
    }

    /// A few threads for each, often one, which is faster than one child after another on all of them: their
    /// layers are small.
    fn score_all(
        &mut self,
        nets: &[(GnnNet, u64)],
        keep: Keep<'_>,
        stop: &AtomicBool,
    ) -> Result<(), ProblemError> {
        let (data, config, threads, next) = (self.data, &self.config, self.threads, &AtomicUsize::new(0));
        let (tell, scores) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..self.at_once.min(nets.len()) {
                let tell = tell.clone();
                scope.spawn(move || {
                    tch::set_num_threads(threads);
                    let trainer = ChildTrainer::new(data);
                    while !stop.load(Ordering::Relaxed) {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        let Some((net, seed)) = nets.get(place) else { break };
                        // Nobody listens any more where a score could not be kept.
                        if tell.send((place, score(&trainer, config, net, *seed))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(tell);
            scores.into_iter().try_for_each(|(place, score)| keep(place, score?))
        })
    }
}

/// A child's accuracies. One whose loss is no number any more is worth nothing; the search goes on.
fn score(
    trainer: &ChildTrainer<'_>,
    config: &ChildConfig,
    net: &GnnNet,
    seed: u64,
) -> Result<Score, ProblemError> {
    match trainer.train(net, config, seed) {
        Ok((found, _)) => Ok(Score { validation: found.val_accuracy, test: found.test_accuracy }),
        Err(TrainError::Diverged { .. }) => Ok(Score { validation: 0.0, test: 0.0 }),
        Err(error) => Err(error.into()),
    }
}

/// Digest of all that a child is trained and scored on.
pub(super) fn digest(data: &GraphData) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut numbers = |list: &mut dyn Iterator<Item = u32>| {
        let bytes: Vec<u8> = list.flat_map(u32::to_le_bytes).collect();
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    };
    numbers(&mut [data.nodes(), data.classes, data.features.width()].into_iter());
    numbers(&mut data.graph.edges().iter().flatten().copied());
    numbers(&mut data.features.starts().iter().copied());
    numbers(&mut data.features.columns().iter().copied());
    numbers(&mut data.features.values().iter().map(|value| value.to_bits()));
    numbers(&mut data.labels.iter().map(|label| label.map_or(u32::MAX, |label| label)));
    for (_, nodes) in data.split.parts() {
        numbers(&mut nodes.iter().copied());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::planted::graph;

    #[test]
    fn children_at_once_are_those_of_one_after_another() {
        let data = graph(1).unwrap();
        let config = ChildConfig { epochs: 5, ..ChildConfig::default() };
        let mut trainer = Trainer { at_once: 2, threads: 1, ..Trainer::new(&data, config) };
        let net = |first: &str| {
            let layers = [first, "gat/sum/linear/1x4"].iter().map(|text| text.parse().unwrap()).collect();
            GnnNet::new(data.features.width(), data.classes, layers)
        };
        let all: Vec<(GnnNet, u64)> = (1..=6)
            .map(|seed| (net(["gat/sum/elu/2x8", "gcn/max/relu/4x4"][seed % 2]), seed as u64))
            .collect();
        let mut found = vec![None; all.len()];
        let mut keep = |place: usize, score| {
            found[place] = Some(score);
            Ok(())
        };
        let go = AtomicBool::new(false);
        trainer.score_all(&all, &mut keep, &go).unwrap();
        let alone = all.iter().map(|(net, seed)| {
            let result = trainer.train(net, *seed).unwrap().0;
            Some(Score { validation: result.val_accuracy, test: result.test_accuracy })
        });
        assert_eq!(found, alone.collect::<Vec<_>>());

        let mut full = |_, _| Err("the disk is full".into());
        assert_eq!(trainer.score_all(&all, &mut full, &go).unwrap_err().to_string(), "the disk is full");
        let stop = AtomicBool::new(true);
        let mut none = |_, _| panic!("it was stopped before it began");
        trainer.score_all(&all, &mut none, &stop).unwrap();
    }
}
