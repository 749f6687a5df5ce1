//! CIFAR-10 and CIFAR-100 in their binary formats: records of one (two) label bytes and 3,072 pixels,
//! red, green, blue, row by row.

use std::fs;
use std::path::{Path, PathBuf};

use hanas_models::spec::FeatureMap;

use super::{Data, DataError, ImageSet};

const PIXELS: usize = 3 * 32 * 32;

/// A binary format.
struct Format {
    set: &'static str,
    /// The folder that the official archive unpacks to.
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    train_images: usize,
    test_images: usize,
    /// Label bytes before the pixels; the last of them is the label.
    label_bytes: usize,
    classes: u32,
}

const CIFAR10: Format = Format {
    set: "cifar10",
    folder: "cifar-10-batches-bin",
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    train_images: 10_000,
    test_images: 10_000,
    label_bytes: 1,
    classes: 10,
};

const CIFAR100: Format = Format {
    set: "cifar100",
    folder: "cifar-100-binary",
    train: &["train.bin"],
    test: "test.bin",
    train_images: 50_000,
    test_images: 10_000,
    // Coarse, then fine.
    label_bytes: 2,
    classes: 100,
};

/// CIFAR-10 from a folder that holds `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, or
/// that holds the folder `cifar-10-batches-bin` with them.
///
/// # Errors
/// [`DataError`] where a file is missing, has another length or labels that are no class.
pub fn cifar10(folder: &Path) -> Result<Data, DataError> {
    CIFAR10.read(folder)
}

/// CIFAR-100 with its fine labels from a folder that holds `train.bin` and `test.bin`, or that holds
/// the folder `cifar-100-binary` with them.
///
/// # Errors
/// As [`cifar10`].
pub fn cifar100(folder: &Path) -> Result<Data, DataError> {
    CIFAR100.read(folder)
}

impl Format {
    fn read(&self, folder: &Path) -> Result<Data, DataError> {
        let mut train = self.empty();
        for file in self.train {
            self.append(&self.find(folder, file)?, self.train_images, &mut train)?;
        }
        let mut test = self.empty();
        self.append(&self.find(folder, self.test)?, self.test_images, &mut test)?;
        Ok(Data { train, test })
    }

    fn empty(&self) -> ImageSet {
        let shape = FeatureMap::square(3, 32);
        ImageSet { shape, classes: self.classes, images: Vec::new(), labels: Vec::new() }
    }

    fn find(&self, folder: &Path, file: &'static str) -> Result<PathBuf, DataError> {
        [folder.join(file), folder.join(self.folder).join(file)]
            .into_iter()
            .find(|path| path.is_file())
            .ok_or_else(|| DataError::Missing { folder: folder.to_owned(), file, set: self.set })
    }

    fn append(&self, path: &Path, images: usize, set: &mut ImageSet) -> Result<(), DataError> {
        let read = |source| DataError::Read { path: path.to_owned(), source };
        let record = self.label_bytes + PIXELS;
        let wants = (images * record) as u64;
        // The length first: another file may be far larger than memory.
        let bytes = fs::metadata(path).map_err(read)?.len();
        if bytes != wants {
            return Err(DataError::Size { path: path.to_owned(), bytes, wants });
        }
        let content = fs::read(path).map_err(read)?;
        set.images.reserve_exact(images * PIXELS);
        for (image, record) in content.chunks_exact(record).enumerate() {
            let (labels, pixels) = record.split_at(self.label_bytes);
            let label = labels[self.label_bytes - 1];
            if u32::from(label) >= self.classes {
                return Err(DataError::Label { path: path.to_owned(), image, label, classes: self.classes });
            }
            set.labels.push(label);
            set.images.extend_from_slice(pixels);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records whose pixels and label follow from their number.
    fn file(path: &Path, images: usize, label_bytes: usize, classes: usize) {
        let mut content = Vec::with_capacity(images * (label_bytes + PIXELS));
        for i in 0..images {
            content.extend(std::iter::repeat_n(0, label_bytes - 1));
            content.push((i % classes) as u8);
            content.extend(std::iter::repeat_n((i % 251) as u8, PIXELS));
        }
        fs::write(path, content).unwrap();
    }

    #[test]
    fn cifar10_is_read_from_its_own_folder_or_the_one_above() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("cifar-10-batches-bin");
        fs::create_dir(&folder).unwrap();
        for name in CIFAR10.train.iter().chain([&CIFAR10.test]) {
            file(&folder.join(name), 10_000, 1, 10);
        }
        let data = cifar10(above.path()).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (50_000, 10_000));
        assert_eq!(data.train.labels[20_007], 7);
        assert!(data.train.image(20_300).iter().all(|&pixel| pixel == (300 % 251) as u8));
        assert_eq!(cifar10(&folder).unwrap(), data);

        let cut = folder.join("data_batch_3.bin");
        fs::write(&cut, vec![0; 30_729_999]).unwrap();
        let error = cifar10(above.path()).unwrap_err();
        assert!(matches!(error, DataError::Size { bytes: 30_729_999, wants: 30_730_000, .. }), "{error}");
        fs::remove_file(&cut).unwrap();
        let error = cifar10(above.path()).unwrap_err().to_string();
        assert!(error.contains("data_batch_3.bin") && error.contains("--data"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn cifar100_takes_the_fine_label_and_checks_it() {
        let folder = tempfile::tempdir().unwrap();
        file(&folder.path().join("train.bin"), 50_000, 2, 100);
        file(&folder.path().join("test.bin"), 10_000, 2, 100);
        assert_eq!(cifar100(folder.path()).unwrap().train.labels[4_242], 42);

        let mut content = fs::read(folder.path().join("test.bin")).unwrap();
        content[3 * (2 + PIXELS) + 1] = 100;
        fs::write(folder.path().join("test.bin"), content).unwrap();
        let error = cifar100(folder.path()).unwrap_err();
        assert!(matches!(error, DataError::Label { image: 3, label: 100, classes: 100, .. }), "{error}");
    }
}
