//! Trains a graph net on its graph: the whole graph each step (ALGORITHM 2.3).

use hanas_models::gnn::GnnNet;
use hanas_models::gnn::torch::{Noise, TorchFeatures, TorchGnn, TorchGraph};
use hanas_models::torch::{floats, weights};
use hanas_models::weights::Weights;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::TrainError;
use super::child::{ChildConfig, ChildResult};
use crate::data::graph::GraphData;
use crate::data::stream::{Purpose, stream};
use crate::search::config::AdamConfig;
use crate::search::optim::{Adam, trainable};

/// Adam's decays of its means, PyTorch's.
const BETAS: [f64; 2] = [0.9, 0.999];

/// Trains one net from scratch.
///
/// # Errors
/// [`TrainError`] where settings make no sense, the net does not fit the graph, or the loss is no number from the
/// first epoch on.
pub fn train_child(
    graph: &GraphData,
    net: &GnnNet,
    config: &ChildConfig,
    seed: u64,
) -> Result<ChildResult, TrainError> {
    ChildTrainer::new(graph).train(net, config, seed).map(|(result, _)| result)
}

/// A graph made ready to train many nets on.
#[derive(Debug)]
pub struct ChildTrainer<'a> {
    data: &'a GraphData,
    graph: TorchGraph,
    features: TorchFeatures,
    train: Labelled,
    val: Labelled,
}

/// Nodes and their classes as tensors.
#[derive(Debug)]
struct Labelled {
    nodes: Tensor,
    classes: Tensor,
}

impl Labelled {
    fn new(data: &GraphData, nodes: &[u32]) -> Self {
        let wide = |list: &[u32]| Tensor::from_slice(&list.iter().map(|&n| i64::from(n)).collect::<Vec<_>>());
        Self { nodes: wide(nodes), classes: wide(&data.classes_of(nodes)) }
    }

    fn loss(&self, scores: &Tensor) -> Tensor {
        scores.index_select(0, &self.nodes).log_softmax(-1, Kind::Float).nll_loss(&self.classes)
    }
}

/// One net in training.
#[derive(Debug)]
pub struct Child<'a> {
    trainer: &'a ChildTrainer<'a>,
    store: VarStore,
    module: TorchGnn,
    adam: Adam,
    dropout: f64,
    seed: u64,
}

impl<'a> ChildTrainer<'a> {
    /// The graph's tensors.
    #[must_use]
    pub fn new(data: &'a GraphData) -> Self {
        Self {
            data,
            graph: TorchGraph::new(&data.graph),
            features: TorchFeatures::new(data.features.clone()),
            train: Labelled::new(data, &data.split.train),
            val: Labelled::new(data, &data.split.val),
        }
    }

    /// Trains one net from scratch; its weights are those of the best epoch. Training ends where the loss is no
    /// number any more.
    ///
    /// # Errors
    /// As [`train_child`].
    pub fn train(
        &self,
        net: &GnnNet,
        config: &ChildConfig,
        seed: u64,
    ) -> Result<(ChildResult, Weights), TrainError> {
        self.train_told(net, config, seed, &mut |_, _| {})
    }

    /// As [`ChildTrainer::train`]; `tell` hears the epochs done and the validation loss of the last.
    ///
    /// # Errors
    /// As [`train_child`].
    pub fn train_told(
        &self,
        net: &GnnNet,
        config: &ChildConfig,
        seed: u64,
        tell: &mut dyn FnMut(u32, f64),
    ) -> Result<(ChildResult, Weights), TrainError> {
        let mut child = self.child(net, config, seed)?;
        let mut best: Option<Best> = None;
        let mut epochs = 0;
        for epoch in 0..config.epochs {
            child.step(epoch);
            let scores = child.scores();
            let val_loss = self.val.loss(&scores).double_value(&[]);
            let least = best.as_ref().map(|best| (best.epoch, best.val_loss));
            let course = course(least, epoch, val_loss, config.patience);
            if course != Course::Lost {
                epochs = epoch + 1;
                tell(epochs, val_loss);
            }
            match course {
                Course::Best => {
                    best = Some(Best { epoch, val_loss, scores, weights: weights(&child.store) });
                }
                Course::On => {}
                Course::Over | Course::Lost => break,
            }
        }
        // There is at least one epoch; its loss was no number.
        let best = best.ok_or(TrainError::Diverged { epoch: 0, step: 0 })?;
        let scores = floats(&best.scores);
        let accuracy = |nodes: &[u32]| self.data.accuracy(&scores, nodes);
        let result = ChildResult {
            best_epoch: best.epoch,
            epochs,
            val_loss: best.val_loss,
            val_accuracy: accuracy(&self.data.split.val),
            test_accuracy: accuracy(&self.data.split.test),
        };
        Ok((result, best.weights))
    }

    /// A fresh net, to step by hand.
    ///
    /// # Errors
    /// As [`train_child`], but for the loss.
    pub fn child(&self, net: &GnnNet, config: &ChildConfig, seed: u64) -> Result<Child<'_>, TrainError> {
        config.check().map_err(TrainError::Config)?;
        let (features, classes) = (self.data.features.width(), self.data.classes);
        if (net.features, net.classes) != (features, classes) {
            return Err(TrainError::Config(format!(
                "the net is for {} features and {} classes, and the graph has {features} and {classes}",
                net.features, net.classes
            )));
        }
        let store = VarStore::new(Device::Cpu);
        let module = TorchGnn::new(&store.root(), net, config.reading, seed)?;
        let adam = AdamConfig { rate: config.rate, betas: BETAS, decay: config.decay };
        let adam = Adam::new(adam, trainable(&store));
        Ok(Child { trainer: self, store, module, adam, dropout: config.dropout, seed })
    }
}

struct Best {
    epoch: u32,
    val_loss: f64,
    scores: Tensor,
    weights: Weights,
}

/// What an epoch's validation loss says of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    /// The lowest so far.
    Best,
    /// No better, and training goes on.
    On,
    /// No better for as long as patience lasts.
    Over,
    /// No number, as all after it.
    Lost,
}

/// Of an epoch's loss; `least` is the epoch with the lowest before it, and that loss.
fn course(least: Option<(u32, f64)>, epoch: u32, loss: f64, patience: Option<u32>) -> Course {
    match least {
        _ if !loss.is_finite() => Course::Lost,
        Some((_, lowest)) if loss < lowest => Course::Best,
        Some((at, _)) if patience.is_some_and(|patience| epoch - at >= patience) => Course::Over,
        Some(_) => Course::On,
        None => Course::Best,
    }
}

impl Child<'_> {
    /// One step on the training nodes.
    pub fn step(&mut self, epoch: u32) {
        let mut rng = stream(self.seed, Purpose::GraphDropout, epoch, 0);
        let noise = Noise { rate: self.dropout, rng: &mut rng };
        let scores = self.module.forward(&self.trainer.graph, &self.trainer.features, Some(noise));
        self.adam.step(&self.trainer.train.loss(&scores));
    }

    /// What the net says of every node, without dropout.
    pub fn scores(&self) -> Tensor {
        tch::no_grad(|| self.module.forward(&self.trainer.graph, &self.trainer.features, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::planted::graph;

    fn net(data: &GraphData, layers: &[&str]) -> GnnNet {
        let layers = layers.iter().map(|text| text.parse().unwrap()).collect();
        GnnNet::new(data.features.width(), data.classes, layers)
    }

    #[test]
    fn a_net_learns_the_planted_classes() {
        let data = graph(1).unwrap();
        let config = ChildConfig { epochs: 100, ..ChildConfig::default() };
        let net = net(&data, &["gat/sum/elu/4x8", "gcn/sum/linear/1x4"]);
        let result = train_child(&data, &net, &config, 1).unwrap();
        // A guess is right for a quarter.
        assert!(result.val_accuracy > 0.6 && result.test_accuracy > 0.6, "{result:?}");
        assert_eq!(result, train_child(&data, &net, &config, 1).unwrap());
        assert_ne!(result.val_loss, train_child(&data, &net, &config, 2).unwrap().val_loss);
    }

    #[test]
    fn patience_ends_a_training_that_gets_no_better() {
        let data = graph(1).unwrap();
        let config = ChildConfig { rate: 0.1, patience: Some(3), ..ChildConfig::default() };
        let net = net(&data, &["const/max/relu/2x8", "gat/sum/linear/1x4"]);
        let result = train_child(&data, &net, &config, 1).unwrap();
        assert_eq!(result.epochs, (result.best_epoch + 4).min(300), "{result:?}");
    }

    #[test]
    fn a_loss_that_is_no_number_ends_training_and_leaves_the_best_before_it() {
        let least = Some((4, 0.5));
        assert_eq!(course(None, 0, 0.5, Some(2)), Course::Best);
        assert_eq!(course(least, 5, 0.4, Some(2)), Course::Best);
        assert_eq!([5, 6].map(|epoch| course(least, epoch, 0.5, Some(2))), [Course::On, Course::Over]);
        assert_eq!(course(least, 99, 0.6, None), Course::On);
        for loss in [f64::NAN, f64::INFINITY] {
            assert_eq!([None, least].map(|least| course(least, 5, loss, None)), [Course::Lost; 2]);
        }
        // From the first epoch on: there is nothing to keep.
        let data = graph(1).unwrap();
        let config = ChildConfig { rate: 1e30, ..ChildConfig::default() };
        let net = net(&data, &["gcn/sum/linear/2x8", "gcn/sum/linear/1x4"]);
        let error = train_child(&data, &net, &config, 1).unwrap_err();
        assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
    }

    #[test]
    fn nets_of_another_graph_are_refused() {
        let data = graph(1).unwrap();
        let error = train_child(&data, &GnnNet::reference(1_433, 7, 8, 8), &ChildConfig::default(), 1);
        assert!(error.unwrap_err().to_string().contains("1433 features and 7 classes"));
        let config = ChildConfig { dropout: 1.0, ..ChildConfig::default() };
        assert!(train_child(&data, &net(&data, &["gat/sum/elu/1x4"]), &config, 1).is_err());
    }
}
