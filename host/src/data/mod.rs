//! Files (or a seed) -> images and labels -> batches.
//!
//! - [`cifar`]: CIFAR-10 and CIFAR-100 in their binary formats;
//! - [`own`]: a user's own pictures by class, or CIFAR's binary format at any size;
//! - [`shapes`]: ten classes of procedural images, made from a seed;
//! - [`nas_bench_graph`]: a table of trained graph nets, for experiments;
//! - [`graph`]: a graph with features, labels and a split; [`npz`], [`planetoid`] (by [`pickle`]) and
//!   [`planted`] make one;
//! - [`mod@stream`]: random numbers addressed by what they are for;
//! - [`batches`] (feature `torch`): shuffled, augmented, normalised batches.

use std::path::PathBuf;

use hanas_models::spec::FeatureMap;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::task::graph::{GraphSizes, NAMED_TASKS};
use stream::{Purpose, stream};

#[cfg(feature = "torch")]
pub mod batches;
pub mod cifar;
pub mod graph;
pub mod nas_bench_graph;
pub mod npz;
pub mod own;
pub mod pickle;
pub mod planetoid;
pub mod planted;
pub mod shapes;
pub mod stream;

/// What to do about a file that cannot be read.
fn mend(source: &std::io::Error) -> &'static str {
    if source.kind() == std::io::ErrorKind::NotFound {
        "put it there or name another folder"
    } else {
        "check its permissions"
    }
}

/// A data set that cannot be read or cut as asked.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file of the set is not there.
    #[error("{folder} holds no {file}; point --data or HANAS_DATA at the folder with the binary version of {set}", folder = folder.display())]
    Missing {
        /// Where it was looked for.
        folder: PathBuf,
        /// The file's name.
        file: &'static str,
        /// The data set.
        set: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; {mend}", path = path.display(), mend = mend(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not as long as its format says.
    #[error("{path} has {bytes} bytes, not {wants}; it is cut short or another format: fetch it again", path = path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The length it should have.
        wants: u64,
    },
    /// A label is no class of the set.
    #[error("{path}: image {image} has label {label}, and there are {classes} classes; the file is damaged: fetch it again", path = path.display())]
    Label {
        /// The file.
        path: PathBuf,
        /// Number of the image in the file, from 0.
        image: usize,
        /// Its label.
        label: u8,
        /// Classes of the set.
        classes: u32,
    },
    /// A file is no whole number of records.
    #[error("{path} has {bytes} bytes, no whole number of records of {record} (a label and the pixels of the task's size); it is cut short or of another size", path = path.display())]
    Records {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: usize,
        /// Length of a record.
        record: usize,
    },
    /// A file or folder without images.
    #[error("{path} holds no images", path = path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
    /// A folder with more or fewer classes than the task.
    #[error("{folder} holds {given} folders of classes, not {wants}; name the number of them in the task's file", folder = folder.display())]
    Classes {
        /// The folder.
        folder: PathBuf,
        /// Folders in it.
        given: usize,
        /// Classes of the task.
        wants: u32,
    },
    /// A class that only one of the parts has.
    #[error("class {folder} is not in train; both parts need the same classes", folder = folder.display())]
    OtherClass {
        /// The class's folder.
        folder: PathBuf,
    },
    /// A file that is no picture, or a damaged one.
    #[error("{path} is no PNG or JPEG picture that can be read: {source}", path = path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// Why.
        source: image::ImageError,
    },
    /// A picture of another size than the task's.
    #[error("{path} is {width}x{height} pixels, not {wants_width}x{wants_height}; pictures are not resized: bring all to the size in the task's file", path = path.display())]
    PictureSize {
        /// The file.
        path: PathBuf,
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// The task's width.
        wants_width: u32,
        /// The task's height.
        wants_height: u32,
    },
    /// A line of a table is not what its header says.
    #[error("{path}, line {line}: {why}; the table is damaged or another one", path = path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 where it is not known.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// A graph is not there.
    #[error("{folder} holds neither {name}.npz nor ind.{name}.x; point --data or HANAS_DATA at the folder with {name}", folder = folder.display())]
    NoGraph {
        /// Where it was looked for.
        folder: PathBuf,
        /// The graph's name.
        name: String,
    },
    /// A user's own graph is not there.
    #[error("{folder} holds no {name}.npz; point --data or HANAS_DATA at its folder (graph-nets.md of the documentation says how to write one), or take {NAMED_TASKS}", folder = folder.display())]
    NoOwnGraph {
        /// Where it was looked for.
        folder: PathBuf,
        /// The graph's name.
        name: String,
    },
    /// A file under the name of a known graph that holds another.
    #[error("{path} holds {holds}; {name} has {wants}; give a graph of your own another name, such as mine.npz and --task mine-gnn", path = path.display())]
    OtherGraph {
        /// The file.
        path: PathBuf,
        /// The graph's name.
        name: String,
        /// What is there.
        holds: Box<GraphSizes>,
        /// What should be there.
        wants: Box<GraphSizes>,
    },
    /// A graph's file is damaged or another format.
    #[error("{path}: {why}; it is damaged or another format (graph-nets.md of the documentation describes it): fetch or write it again", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A graph's parts do not fit.
    #[error("{path}: {source}", path = path.display())]
    Graph {
        /// The file, or the procedural graph's name.
        path: PathBuf,
        /// What does not fit.
        source: graph::GraphDataError,
    },
    /// More images are asked for than there are.
    #[error("{asked} images are asked for and the set has {given}; ask for at most {given}")]
    TooFew {
        /// Images asked for.
        asked: usize,
        /// Images there are.
        given: usize,
    },
}

/// Images and their labels, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSet {
    /// Shape of one image.
    pub shape: FeatureMap,
    /// Number of classes.
    pub classes: u32,
    /// Pixels, 0 to 255, image by image, channels first.
    pub images: Vec<u8>,
    /// One label per image.
    pub labels: Vec<u8>,
}

/// What a net trains on and what it is tested with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Training images.
    pub train: ImageSet,
    /// Test images.
    pub test: ImageSet,
}

/// Mean and standard deviation of each channel over the training set, in pixel values 0 to 255.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// Means.
    pub mean: Vec<f32>,
    /// Standard deviations.
    pub deviation: Vec<f32>,
}

impl ImageSet {
    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels of one image.
    #[must_use]
    pub fn image(&self, place: usize) -> &[u8] {
        let len = self.shape.len() as usize;
        &self.images[place * len..(place + 1) * len]
    }

    /// `n` images, of each class as many as of any other (or one less), drawn from a seed.
    ///
    /// # Errors
    /// [`DataError::TooFew`] where the set has fewer.
    pub fn subset(&self, n: usize, seed: u64) -> Result<Self, DataError> {
        if n > self.len() {
            return Err(DataError::TooFew { asked: n, given: self.len() });
        }
        // Dealing the classes out in turn keeps them even whatever the total; the whole set stays whole.
        let by_class = self.by_class(seed, Purpose::Subset);
        let deepest = by_class.iter().map(Vec::len).max().unwrap_or(0);
        let mut places: Vec<usize> = (0..deepest)
            .flat_map(|row| by_class.iter().filter_map(move |class| class.get(row).copied()))
            .take(n)
            .collect();
        places.sort_unstable();
        Ok(self.select(&places))
    }

    /// Places of two halves, each with half of every class (ALGORITHM 1.4): one for the weights, one
    /// for the architecture.
    #[must_use]
    pub fn halves(&self, seed: u64) -> (Vec<usize>, Vec<usize>) {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for class in self.by_class(seed, Purpose::Halves) {
            let (left, right) = class.split_at(class.len() / 2);
            first.extend_from_slice(left);
            second.extend_from_slice(right);
        }
        first.sort_unstable();
        second.sort_unstable();
        (first, second)
    }

    /// The images at these places.
    #[must_use]
    pub fn select(&self, places: &[usize]) -> Self {
        Self {
            shape: self.shape,
            classes: self.classes,
            images: places.iter().flat_map(|&place| self.image(place)).copied().collect(),
            labels: places.iter().map(|&place| self.labels[place]).collect(),
        }
    }

    /// Each class's places in a seeded order.
    fn by_class(&self, seed: u64, purpose: Purpose) -> Vec<Vec<usize>> {
        let mut classes = vec![Vec::new(); self.classes as usize];
        for (place, &label) in self.labels.iter().enumerate() {
            classes[label as usize].push(place);
        }
        for (label, class) in classes.iter_mut().enumerate() {
            class.shuffle(&mut stream(seed, purpose, 0, label as u64));
        }
        classes
    }
}

impl Normalisation {
    /// CIFAR-10's (ALGORITHM 1.4).
    #[must_use]
    pub fn cifar10() -> Self {
        Self { mean: vec![125.3, 123.0, 113.9], deviation: vec![63.0, 62.1, 66.7] }
    }

    /// CIFAR-100's (ALGORITHM 1.4).
    #[must_use]
    pub fn cifar100() -> Self {
        Self { mean: vec![129.3, 124.1, 112.4], deviation: vec![68.2, 65.4, 70.4] }
    }

    /// That of a set, computed.
    #[must_use]
    pub fn of(set: &ImageSet) -> Self {
        let channels = set.shape.channels as usize;
        let plane = set.shape.height as usize * set.shape.width as usize;
        let mut sums = vec![(0u64, 0u64); channels];
        for (place, pixels) in set.images.chunks_exact(plane).enumerate() {
            let (sum, squares) = &mut sums[place % channels];
            for &pixel in pixels {
                *sum += u64::from(pixel);
                *squares += u64::from(pixel).pow(2);
            }
        }
        let count = (set.len() * plane).max(1) as f64;
        let moments = sums.iter().map(|&(sum, squares)| {
            let mean = sum as f64 / count;
            // A set of one colour has no deviation; 1 keeps its zeros finite.
            let deviation = (squares as f64 / count - mean * mean).max(0.0).sqrt().max(1.0);
            (mean as f32, deviation as f32)
        });
        let (mean, deviation) = moments.unzip();
        Self { mean, deviation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> ImageSet {
        let labels: Vec<u8> = (0..60).map(|i| if i < 40 { 0 } else { 1 + i % 2 }).collect();
        let images = (0..60).flat_map(|i| [i, 2 * i, 3 * i]).collect();
        ImageSet { shape: FeatureMap::square(3, 1), classes: 3, images, labels }
    }

    fn count(set: &ImageSet) -> [usize; 3] {
        [0, 1, 2].map(|class| set.labels.iter().filter(|&&label| label == class).count())
    }

    #[test]
    fn a_subset_takes_classes_evenly() {
        let subset = set().subset(20, 5).unwrap();
        let mut counts = count(&subset);
        counts.sort_unstable();
        assert_eq!(counts, [6, 7, 7]);
        assert_eq!(subset, set().subset(20, 5).unwrap());
        assert_ne!(subset, set().subset(20, 6).unwrap());
        assert_eq!(set().subset(60, 5).unwrap(), set());
        assert!(matches!(set().subset(61, 5), Err(DataError::TooFew { asked: 61, given: 60 })));
    }

    #[test]
    fn halves_split_every_class() {
        let (first, second) = set().halves(1);
        assert_eq!(count(&set().select(&first)), [20, 5, 5]);
        assert_eq!(count(&set().select(&second)), [20, 5, 5]);
        let mut all = [first, second].concat();
        all.sort_unstable();
        assert_eq!(all, (0..60).collect::<Vec<_>>());
    }

    #[test]
    fn normalisation_is_mean_and_deviation_of_each_channel() {
        let Normalisation { mean, deviation } = Normalisation::of(&set());
        assert_eq!(mean, [29.5, 59.0, 88.5]);
        // A uniform run of 60: sqrt((60^2 - 1) / 12).
        assert!((deviation[0] - 17.318).abs() < 1e-3, "{deviation:?}");
    }
}
