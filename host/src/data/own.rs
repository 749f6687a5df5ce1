//! A user's own images: a folder of pictures by class, or CIFAR's binary format at any size.

use std::fs;
use std::path::{Path, PathBuf};

use hanas_models::resnet::Family;
use hanas_models::spec::FeatureMap;
use image::{ImageReader, ImageResult};

use super::{Data, DataError, ImageSet};
use crate::task::own::{DataKind, OwnData};

/// Reads the images for a family's nets.
///
/// # Errors
/// [`DataError`] that names the file or folder: one that is missing or damaged, a picture of another
/// size, a label that is no class.
pub fn read(own: &OwnData, family: &Family) -> Result<Data, DataError> {
    let (shape, classes) = (family.input, family.classes);
    match own.kind {
        DataKind::Folder => pictures(&own.path, shape, classes),
        DataKind::CifarBinary => {
            let part = |name: &'static str| {
                let path = own.path.join(name);
                records(&path, shape, classes).and_then(|set| filled(set, &path))
            };
            Ok(Data { train: part("train.bin")?, test: part("test.bin")? })
        }
    }
}

fn filled(set: ImageSet, path: &Path) -> Result<ImageSet, DataError> {
    if set.is_empty() { Err(DataError::Empty { path: path.to_owned() }) } else { Ok(set) }
}

/// Records of a label byte and the pixels, channel by channel, row by row.
fn records(path: &Path, shape: FeatureMap, classes: u32) -> Result<ImageSet, DataError> {
    let content = fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let record = 1 + shape.len() as usize;
    if content.len() % record != 0 {
        let (path, bytes) = (path.to_owned(), content.len());
        return Err(DataError::Records { path, bytes, record });
    }
    let mut set = ImageSet { shape, classes, images: Vec::new(), labels: Vec::new() };
    set.images.reserve_exact(content.len());
    for (image, record) in content.chunks_exact(record).enumerate() {
        let label = record[0];
        if u32::from(label) >= classes {
            return Err(DataError::Label { path: path.to_owned(), image, label, classes });
        }
        set.labels.push(label);
        set.images.extend_from_slice(&record[1..]);
    }
    Ok(set)
}

/// `train/CLASS/...` and `test/CLASS/...`; classes are numbered in the order of their names.
fn pictures(folder: &Path, shape: FeatureMap, classes: u32) -> Result<Data, DataError> {
    let names = |part: &str| -> Result<Vec<PathBuf>, DataError> {
        let folder = folder.join(part);
        let list: Vec<PathBuf> = entries(&folder)?.into_iter().filter(|path| path.is_dir()).collect();
        if list.len() == classes as usize {
            return Ok(list);
        }
        Err(DataError::Classes { folder, given: list.len(), wants: classes })
    };
    let (train, test) = (names("train")?, names("test")?);
    if let Some((_, other)) = train.iter().zip(&test).find(|(a, b)| a.file_name() != b.file_name()) {
        return Err(DataError::OtherClass { folder: other.clone() });
    }
    let part = |folders: &[PathBuf]| {
        let mut set = ImageSet { shape, classes, images: Vec::new(), labels: Vec::new() };
        for (label, folder) in (0..=u8::MAX).zip(folders) {
            let before = set.len();
            for path in entries(folder)? {
                append(&path, label, &mut set)?;
            }
            if set.len() == before {
                return Err(DataError::Empty { path: folder.clone() });
            }
        }
        Ok(set)
    };
    Ok(Data { train: part(&train)?, test: part(&test)? })
}

/// What a folder holds, by name; hidden files are left out.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let read = |source| DataError::Read { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn append(path: &Path, label: u8, set: &mut ImageSet) -> Result<(), DataError> {
    let read = |source| DataError::Read { path: path.to_owned(), source };
    let open = || ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(read);
    let picture = |source| DataError::Picture { path: path.to_owned(), source };
    // The size first: a damaged header may ask for any memory.
    let (width, height) = open()?.into_dimensions().map_err(picture)?;
    let FeatureMap { channels, height: wants_height, width: wants_width } = set.shape;
    if (width, height) != (wants_width, wants_height) {
        let path = path.to_owned();
        return Err(DataError::PictureSize { path, width, height, wants_width, wants_height });
    }
    let decoded: ImageResult<_> = open()?.decode();
    let decoded = decoded.map_err(picture)?;
    let pixels = if channels == 1 { decoded.into_luma8().into_raw() } else { decoded.into_rgb8().into_raw() };
    let channels = channels as usize;
    for channel in 0..channels {
        set.images.extend(pixels.iter().skip(channel).step_by(channels));
    }
    set.labels.push(label);
    Ok(())
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    fn family(channels: u32) -> Family {
        let mut family = Family::cifar_resnet(8, 2).unwrap();
        family.input = FeatureMap::square(channels, 4);
        family
    }

    /// Two classes, one picture each, `PNG` in train and `JPEG` in test.
    fn folder() -> (tempfile::TempDir, OwnData) {
        let folder = tempfile::tempdir().unwrap();
        for (part, end) in [("train", "png"), ("test", "jpeg")] {
            for (class, blue) in [("cat", 0u8), ("dog", 200)] {
                let path = folder.path().join(part).join(class);
                fs::create_dir_all(&path).unwrap();
                let picture = RgbImage::from_fn(4, 4, |x, y| Rgb([x as u8, 10 * y as u8, blue]));
                picture.save(path.join(format!("a.{end}"))).unwrap();
                fs::write(path.join(".hidden"), "no picture").unwrap();
            }
        }
        let own = OwnData { kind: DataKind::Folder, path: folder.path().to_owned() };
        (folder, own)
    }

    #[test]
    fn pictures_become_planes_with_their_class() {
        let (_folder, own) = folder();
        let data = read(&own, &family(3)).unwrap();
        assert_eq!((data.train.labels.as_slice(), data.test.len()), (&[0, 1][..], 2));
        let dog = data.train.image(1);
        assert_eq!(dog[..5], [0, 1, 2, 3, 0]);
        assert_eq!(dog[16..21], [0, 0, 0, 0, 10]);
        assert!(dog[32..].iter().all(|&blue| blue == 200));
        assert_eq!(read(&own, &family(1)).unwrap().train.image(0).len(), 16);
    }

    #[test]
    fn wrong_pictures_and_folders_are_named() {
        let (folder, own) = folder();
        let complaint = |hints: [&str; 2]| {
            let error = read(&own, &family(3)).unwrap_err().to_string();
            assert!(hints.iter().all(|hint| error.contains(hint)) && !error.contains('\n'), "{error}");
        };
        let odd = folder.path().join("train/dog/b.png");
        RgbImage::new(5, 4).save(&odd).unwrap();
        complaint(["train/dog/b.png", "is 5x4 pixels, not 4x4"]);
        fs::write(&odd, "text").unwrap();
        complaint(["train/dog/b.png", "PNG or JPEG"]);
        fs::remove_file(&odd).unwrap();
        fs::rename(folder.path().join("test/dog"), folder.path().join("test/wolf")).unwrap();
        complaint(["test/wolf", "not in train"]);
        fs::remove_dir_all(folder.path().join("test/wolf")).unwrap();
        complaint(["test", "1 folders of classes, not 2"]);
        fs::create_dir(folder.path().join("test/dog")).unwrap();
        complaint(["test/dog", "holds no images"]);
        fs::remove_dir_all(folder.path().join("test")).unwrap();
        complaint(["test", "cannot read"]);
    }

    #[test]
    fn records_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let own = OwnData { kind: DataKind::CifarBinary, path: folder.path().to_owned() };
        let record = |label: u8| [&[label][..], &[7; 48]].concat();
        fs::write(folder.path().join("test.bin"), record(1)).unwrap();
        let train = |content: Vec<u8>| {
            fs::write(folder.path().join("train.bin"), content).unwrap();
            read(&own, &family(3))
        };
        let data = train([record(1), record(0)].concat()).unwrap();
        assert_eq!((data.train.labels.as_slice(), data.train.image(1)), (&[1, 0][..], &[7; 48][..]));
        let error = train([record(1), record(2)].concat()).unwrap_err();
        assert!(matches!(error, DataError::Label { image: 1, label: 2, classes: 2, .. }), "{error}");
        let error = train(vec![0; 50]).unwrap_err();
        assert!(matches!(error, DataError::Records { bytes: 50, record: 49, .. }), "{error}");
        assert!(matches!(train(Vec::new()), Err(DataError::Empty { .. })));
    }
}
