//! A trained net that is only asked: the teacher, and whatever is tested.

use hanas_models::spec::Net;
use hanas_models::torch::{TorchNet, load};
use hanas_models::weights::Weights;
use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::TrainError;
use crate::data::batches::{Batch, Batches};
use crate::data::{ImageSet, Normalisation};
use crate::search::htas::step::correct;

/// Images per batch where nothing is trained.
const TEST_BATCH: usize = 250;

/// A net with weights that do not move.
#[derive(Debug)]
pub struct Frozen {
    net: TorchNet,
    _store: VarStore,
}

impl Frozen {
    /// The net with these weights.
    ///
    /// # Errors
    /// [`TrainError`] where the net does not fit together or the weights do not fit it.
    pub fn new(net: &Net, weights: &Weights) -> Result<Self, TrainError> {
        let mut store = VarStore::new(Device::Cpu);
        let mut module = TorchNet::new(&store.root(), net, 0)?;
        load(&mut store, weights)?;
        store.freeze();
        module.fold_batch_norms();
        Ok(Self { net: module, _store: store })
    }

    /// Logits of a batch, by running statistics.
    pub fn logits(&self, images: &Tensor) -> Tensor {
        tch::no_grad(|| self.net.forward_t(images, false))
    }

    /// Share of a set's images that it classifies right.
    #[must_use]
    pub fn accuracy(&self, images: &ImageSet, normalisation: &Normalisation) -> f64 {
        accuracy(&self.net, images, normalisation)
    }
}

/// Share of a set's images that a net classifies right, in eval mode.
#[must_use]
pub fn accuracy(net: &TorchNet, images: &ImageSet, normalisation: &Normalisation) -> f64 {
    let batches = Batches::new(images, normalisation);
    let places: Vec<usize> = (0..images.len()).collect();
    let hits: u64 = places
        .chunks(TEST_BATCH)
        .map(|places| {
            let Batch { images, labels } = batches.plain(places);
            correct(&tch::no_grad(|| net.forward_t(&images, false)), &labels)
        })
        .sum();
    hits as f64 / images.len().max(1) as f64
}
