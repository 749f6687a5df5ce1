//! Graph nets trained for a search: what a score is made of.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use hanas_models::gnn::layout::{Layout, Widths};
use hanas_models::gnn::{GnnNet, Reading};
use hanas_models::weights::Weights;
use hanas_proto::Bytes;

use crate::data::graph::GraphData;
use crate::search::hgnas::explore::{ProblemError, Score};
use crate::search::hgnas::problem::{Keep, Scorer, TooLarge};
use crate::search::hgnas::space::key;
use crate::train::TrainError;
use crate::train::child::{ChildConfig, ChildResult};
use crate::train::gnn::ChildTrainer;
use crate::train::memory::{free_bytes, peak_bytes};

/// Messages that the graphs of children trained at once have together, at most; a larger graph is trained on
/// alone. It bounds their memory: the widest layer, 16 heads of 256, keeps a handful of tensors of 16 KiB a
/// message.
const MESSAGES_AT_ONCE: usize = 60_000;

/// Share of the free memory that children may take.
const SHARE: f64 = 0.9;

/// A child that takes no more is trained whatever is free: the allocator keeps about as much of what others freed.
const SMALL: u64 = 1 << 30;

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
    /// Whether children are trained alone.
    alone: bool,
    /// Bytes that are free.
    free: fn() -> Option<u64>,
}

impl<'a> Trainer<'a> {
    /// A trainer on a graph under these settings.
    pub(super) fn new(data: &'a GraphData, config: ChildConfig) -> Self {
        let messages = Layout::new(&data.graph, Widths::Rounded).messages();
        let all_threads = tch::get_num_threads().max(1);
        let at_once = (MESSAGES_AT_ONCE / messages.max(1)).min(all_threads as usize).max(1);
        let threads = (all_threads / at_once as i32).max(1);
        let (alone, free) = (false, free_bytes);
        Self { data, trainer: ChildTrainer::new(data), config, at_once, threads, all_threads, alone, free }
    }

    /// Has children trained at once, where several are given, or each alone from now on; the threads of each. They
    /// are the same for all, however many there are: on another number a child's last digits would be others.
    pub(super) const fn threads(&mut self, at_once: bool) -> i32 {
        self.alone = !at_once;
        self.of_each()
    }

    const fn of_each(&self) -> i32 {
        if self.alone { self.all_threads } else { self.threads }
    }

    /// A child with its weights, trained on as many threads as those that are trained at once.
    pub(super) fn train(&self, net: &GnnNet, seed: u64) -> Result<(ChildResult, Weights), TrainError> {
        self.on(self.threads, || self.trainer.train(net, &self.config, seed))
    }

    fn on<T>(&self, threads: i32, work: impl FnOnce() -> T) -> T {
        tch::set_num_threads(threads);
        let done = work();
        tch::set_num_threads(self.all_threads);
        done
    }

    /// Bytes that a child takes at its peak, about.
    fn needs(&self, net: &GnnNet) -> u64 {
        peak_bytes(self.data, net, self.config.reading)
    }

    /// Why a child cannot be trained now, if it cannot.
    pub(super) fn too_large(&self, net: &GnnNet) -> Option<TooLarge> {
        too_large(net, self.needs(net), self.room())
    }

    fn room(&self) -> u64 {
        room((self.free)())
    }
}

/// Why a net cannot be trained on a graph now, if it cannot.
pub(super) fn too_large_on(data: &GraphData, net: &GnnNet, reading: Reading) -> Option<TooLarge> {
    too_large(net, peak_bytes(data, net, reading), room(free_bytes()))
}

fn too_large(net: &GnnNet, needs: u64, room: u64) -> Option<TooLarge> {
    (needs > room.max(SMALL)).then(|| TooLarge { net: key(net), needs: Bytes(needs), free: Bytes(room) })
}

/// Bytes that children may take together; all where the system does not tell.
fn room(free: Option<u64>) -> u64 {
    free.map_or(u64::MAX, |free| (SHARE * free as f64) as u64)
}

impl Scorer for Trainer<'_> {
    fn score(&mut self, net: &GnnNet, seed: u64) -> Result<Score, ProblemError> {
        if let Some(too_large) = self.too_large(net) {
            return Err(too_large.into());
        }
        self.on(self.of_each(), || score(&self.trainer, &self.config, net, seed))
    }

    fn at_once(&self) -> usize {
        if self.alone { 1 } else { self.at_once }
    }

    /// A few threads for each, often one, which is faster than one child after another on all of them: their
    /// layers are small. Fewer at once where memory is short.
    fn score_all(
        &mut self,
        nets: &[(GnnNet, u64)],
        keep: Keep<'_>,
        stop: &AtomicBool,
    ) -> Result<(), ProblemError> {
        let room = self.room().max(SMALL);
        let needs: Vec<u64> = nets.iter().map(|(net, _)| self.needs(net)).collect();
        let fitting: Vec<usize> = (0..nets.len()).filter(|&place| needs[place] <= room).collect();
        let largest = fitting.iter().map(|&place| needs[place]).max().unwrap_or(1).max(1);
        let beside = usize::try_from(room / largest).unwrap_or(usize::MAX);
        let workers = self.at_once().min(fitting.len()).min(beside);
        let (data, config, threads) = (self.data, &self.config, self.of_each());
        let (fitting, next) = (&fitting, &AtomicUsize::new(0));
        let (tell, scores) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..workers {
                let tell = tell.clone();
                scope.spawn(move || {
                    tch::set_num_threads(threads);
                    let trainer = ChildTrainer::new(data);
                    while !stop.load(Ordering::Relaxed) {
                        let Some(&place) = fitting.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                        let (net, seed) = &nets[place];
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

        assert_eq!((trainer.threads(false), trainer.at_once()), (trainer.all_threads, 1));
        assert_eq!((trainer.threads(true), trainer.at_once()), (1, 2));
    }

    #[test]
    fn what_takes_more_memory_than_is_free_is_not_trained() {
        let data = graph(1).unwrap();
        let config = ChildConfig { epochs: 1, ..ChildConfig::default() };
        let free: fn() -> Option<u64> = || Some(2 << 30);
        let mut trainer = Trainer { free, ..Trainer::new(&data, config) };
        let net = |first: &str| {
            let layers = [first, "gat/sum/linear/1x4"].iter().map(|text| text.parse().unwrap()).collect();
            GnnNet::new(data.features.width(), data.classes, layers)
        };
        let (small, large) = (net("gcn/sum/elu/2x8"), net("gat/sum/elu/16x65536"));
        let error = trainer.score(&large, 1).unwrap_err();
        let said = error.to_string();
        assert!(error.is::<TooLarge>() && said.ends_with("GiB to train, 1.8 GiB are free"), "{said}");
        let mut kept = Vec::new();
        let mut keep = |place: usize, _: Score| {
            kept.push(place);
            Ok(())
        };
        trainer.score_all(&[(large, 1), (small.clone(), 1)], &mut keep, &AtomicBool::new(false)).unwrap();
        assert_eq!(kept, [1]);
        // So little is what the allocator keeps.
        trainer.free = || Some(0);
        assert!(trainer.score(&small, 1).is_ok());
    }
}
