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
/// [`TrainError`] where settings make no sense, the net does not fit the graph, or the loss is no number.
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

    /// Trains one net from scratch; its weights are those of the best epoch.
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
            if !val_loss.is_finite() {
                return Err(TrainError::Diverged { epoch, step: 0 });
            }
            epochs = epoch + 1;
            tell(epochs, val_loss);
            let waited = best.as_ref().map_or(0, |best| epoch - best.epoch);
            if best.as_ref().is_none_or(|best| val_loss < best.val_loss) {
                best = Some(Best { epoch, val_loss, scores, weights: weights(&child.store) });
            } else if config.patience.is_some_and(|patience| waited >= patience) {
                break;
            }
        }
        // There is at least one epoch, and its loss was a number.
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
        let config = ChildConfig { rate: 1.0, patience: Some(3), ..ChildConfig::default() };
        let result =
            train_child(&data, &net(&data, &["const/max/relu/2x8", "gat/sum/linear/1x4"]), &config, 1);
        match result {
            Ok(result) => assert_eq!(result.epochs, (result.best_epoch + 4).min(300), "{result:?}"),
            Err(error) => assert!(matches!(error, TrainError::Diverged { .. }), "{error}"),
        }
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
