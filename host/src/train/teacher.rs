//! The teacher: the base net trained by labels alone, once per net, images and settings, and kept on disk
//! for every run that wants it.

use std::path::{Path, PathBuf};

use hanas_models::spec::Net;

use super::TrainError;
use super::config::TrainConfig;
use super::distil::{Files, Request, train};
use super::frozen::Frozen;
use crate::data::{Data, Normalisation};
use crate::search::checkpoint::{digest, load_weights, save_weights};
use crate::search::progress::Monitor;
use crate::search::run::RunError;

/// A base net that is to be trained, or was, and lies in a folder.
#[derive(Debug)]
pub struct Teacher<'a> {
    net: &'a Net,
    config: &'a TrainConfig,
    data: &'a Data,
    normalisation: &'a Normalisation,
    folder: &'a Path,
    name: String,
}

impl<'a> Teacher<'a> {
    /// The base net of a task. Whatever changes it is in its file's name:
    /// `cifar10-resnet20-n10000-e20-b128-s1-<digest>`.
    #[must_use]
    pub fn new(
        task: &str,
        net: &'a Net,
        config: &'a TrainConfig,
        data: &'a Data,
        normalisation: &'a Normalisation,
        folder: &'a Path,
    ) -> Self {
        let (images, epochs) = (data.train.len(), config.total_epochs());
        let settings = format!("{config:?} {net:?} {}", digest(&data.train, normalisation));
        let settings = blake3::hash(settings.as_bytes()).to_hex();
        let (batch, seed, settings) = (config.batch, config.seed, &settings[..8]);
        let name = format!("{task}-n{images}-e{epochs}-b{batch}-s{seed}-{settings}");
        Self { net, config, data, normalisation, folder, name }
    }

    /// Where it lies once it is trained.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.safetensors", self.name))
    }

    /// It, from its file or trained now and put there; for one caller at a time.
    ///
    /// # Errors
    /// As [`train`]; a training that was stopped goes on at the next call.
    pub fn trained(&self, monitor: &mut Monitor<'_>) -> Result<Frozen, TrainError> {
        let Self { net, config, data, normalisation, folder, ref name } = *self;
        let path = self.file();
        if path.exists() {
            return Frozen::new(net, &load_weights(&path)?);
        }
        std::fs::create_dir_all(folder)
            .map_err(|source| RunError::Write { path: folder.to_owned(), source })?;
        let files = Files {
            checkpoint: folder.join(format!("{name}.checkpoint.safetensors")),
            log: folder.join(format!("{name}.jsonl")),
        };
        let request = Request { config, net, data, normalisation, teacher: None };
        let trained = train(&request, Some(&files), monitor)?;
        save_weights(&path, &trained.weights)?;
        // A checkpoint of a training that is done only takes room.
        std::fs::remove_file(&files.checkpoint).ok();
        Frozen::new(net, &trained.weights)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::data::batches::Batches;
    use crate::data::shapes::shapes10;
    use crate::search::choices::tests::tiny_family;
    use crate::search::config::SgdConfig;
    use crate::search::progress::Event;

    /// A folder of teachers, and the events of all trainings so far.
    struct Bed {
        folder: tempfile::TempDir,
        config: TrainConfig,
        steps: Cell<u32>,
    }

    impl Bed {
        fn new() -> Self {
            tch::set_num_threads(1);
            let sgd = SgdConfig { rate: 0.05, ..SgdConfig::default() };
            let config = TrainConfig { epochs: 2, warmup_epochs: 1, batch: 32, sgd, ..TrainConfig::paper(3) };
            Self { folder: tempfile::tempdir().unwrap(), config, steps: Cell::new(0) }
        }

        fn teacher(&self, net: &Net, data: &Data, normalisation: &Normalisation) -> Frozen {
            let mut watch = |_: Event<'_>| self.steps.set(self.steps.get() + 1);
            let stop = AtomicBool::new(false);
            let mut monitor = Monitor { watch: &mut watch, stop: &stop };
            let folder = self.folder.path();
            Teacher::new("tiny", net, &self.config, data, normalisation, folder)
                .trained(&mut monitor)
                .unwrap()
        }
    }

    #[test]
    fn a_teacher_is_trained_once_and_taught_from() {
        let bed = Bed::new();
        let data = shapes10(400, 100, 16, 1);
        let normalisation = Normalisation::of(&data.train);
        let net = tiny_family(1).base().net().unwrap();
        let first = bed.teacher(&net, &data, &normalisation);
        let trained = bed.steps.get();
        let second = bed.teacher(&net, &data, &normalisation);
        assert!(trained > 0 && bed.steps.get() == trained);
        let images = Batches::new(&data.test, &normalisation).plain(&[0, 1, 2]).images;
        assert!(first.logits(&images).equal(&second.logits(&images)));

        let (config, teacher, stop) = (&bed.config, Some(&first), AtomicBool::new(false));
        let request = Request { config, net: &net, data: &data, normalisation: &normalisation, teacher };
        let student = train(&request, None, &mut Monitor { watch: &mut |_| (), stop: &stop }).unwrap();
        let again = Frozen::new(&net, &student.weights).unwrap().accuracy(&data.test, &normalisation);
        assert!((again - student.test_accuracy).abs() < 1e-12);
    }

    #[test]
    fn other_images_or_another_net_have_a_teacher_of_their_own() {
        let bed = Bed::new();
        let data = shapes10(64, 20, 16, 1);
        let normalisation = Normalisation::of(&data.train);
        let net = tiny_family(1).base().net().unwrap();
        bed.teacher(&net, &data, &normalisation);
        let trained = bed.steps.get();
        bed.teacher(&net, &shapes10(64, 20, 16, 2), &normalisation);
        assert_eq!(bed.steps.get(), 2 * trained);
        bed.teacher(&tiny_family(2).base().net().unwrap(), &data, &normalisation);
        assert_eq!(bed.steps.get(), 3 * trained);
    }
}
