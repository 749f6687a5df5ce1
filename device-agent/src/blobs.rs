//! Content by digest: chunks in, files whose digest was checked out.
//!
//! A file gets its final name only when it is whole and its digest is right, so whatever has that name
//! can be trusted but for the disk; a file found at start is checked once more before its first use.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hanas_proto::Digest;
use hanas_proto::fault::FaultCode;

/// Contents that may be under way at once; the one longest untouched gives way.
const MAX_UPLOADS: usize = 16;

/// Largest contents that the folder holds at most; the least recently used give way.
const FOLDER_CONTENTS: u64 = 8;

/// Content that cannot be taken or given.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Over the cap.
    #[error("the content is {size} bytes and the agent takes {max}; start it with a larger --max-model")]
    TooLarge {
        /// Announced size, in bytes.
        size: u64,
        /// The cap, in bytes.
        max: u64,
    },
    /// All of it arrived and it is something else.
    #[error("the content's digest is not the announced one")]
    BadDigest,
    /// Neither held nor announced.
    #[error("no content {0} is held")]
    Unknown(Digest),
    /// A chunk reaches beyond the announced size.
    #[error("a chunk reaches to byte {end} of content of {size} bytes")]
    OutOfBounds {
        /// Where the chunk ends.
        end: u64,
        /// Announced size.
        size: u64,
    },
    /// The disk failed.
    #[error("the agent's disk: {0}")]
    Disk(#[from] io::Error),
}

impl BlobError {
    /// The kind of trouble, for the host.
    #[must_use]
    pub const fn code(&self) -> FaultCode {
        match self {
            Self::TooLarge { .. } => FaultCode::TooLarge,
            Self::BadDigest => FaultCode::BadDigest,
            Self::Unknown(_) => FaultCode::UnknownBlob,
            Self::OutOfBounds { .. } => FaultCode::BadRequest,
            Self::Disk(_) => FaultCode::Agent,
        }
    }
}

/// What a chunk did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Contiguous bytes held from the start.
    pub held: u64,
    /// Whether the host should hear of it at once: the content is whole, or the chunk did not fit on.
    pub is_news: bool,
}

/// All content that the agent holds.
#[derive(Debug)]
pub struct Blobs {
    folder: PathBuf,
    max_bytes: u64,
    whole: HashMap<Digest, Whole>,
    uploads: HashMap<Digest, Upload>,
    /// Counts uses, to tell which content was used last.
    clock: u64,
}

#[derive(Debug)]
struct Whole {
    size: u64,
    checked: bool,
    used: u64,
}

#[derive(Debug)]
struct Upload {
    file: File,
    hasher: blake3::Hasher,
    held: u64,
    size: u64,
    used: u64,
}

impl Blobs {
    /// Content in `folder`, which is made where it is missing; at most `max_bytes` each.
    ///
    /// # Errors
    /// The operating system's, where the folder cannot be made or read.
    pub fn open_folder(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut whole = HashMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(digest) = parse_digest(&name) {
                whole.insert(digest, Whole { size: entry.metadata()?.len(), checked: false, used: 0 });
            } else if is_left_over(&name) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder: folder.to_owned(), max_bytes, whole, uploads: HashMap::new(), clock: 0 })
    }

    /// Announces content; returns how much of it is held.
    ///
    /// # Errors
    /// [`BlobError`] where it is too large or the disk fails.
    pub fn announce(&mut self, digest: Digest, size: u64) -> Result<u64, BlobError> {
        if size > self.max_bytes {
            return Err(BlobError::TooLarge { size, max: self.max_bytes });
        }
        if self.is_held(digest)? {
            let held = self.whole[&digest].size;
            return if held == size { Ok(held) } else { Err(BlobError::BadDigest) };
        }
        let used = self.tick();
        if let Some(upload) = self.uploads.get_mut(&digest)
            && upload.size == size
        {
            upload.used = used;
            return Ok(upload.held);
        }
        self.make_room(size)?;
        let file = File::create(self.part(digest))?;
        let upload = Upload { file, hasher: blake3::Hasher::new(), held: 0, size, used };
        self.uploads.insert(digest, upload);
        if size == 0 { self.finish(digest).map(|()| 0) } else { Ok(0) }
    }

    /// Takes a chunk. One that does not continue what is held changes nothing.
    ///
    /// # Errors
    /// [`BlobError`]; after a wrong digest or a disk failure the content is forgotten.
    pub fn chunk(&mut self, digest: Digest, offset: u64, data: &[u8]) -> Result<Taken, BlobError> {
        if let Some(whole) = self.whole.get(&digest) {
            return Ok(Taken { held: whole.size, is_news: true });
        }
        let used = self.tick();
        let upload = self.uploads.get_mut(&digest).ok_or(BlobError::Unknown(digest))?;
        upload.used = used;
        let end = offset.saturating_add(data.len() as u64);
        if end > upload.size {
            return Err(BlobError::OutOfBounds { end, size: upload.size });
        }
        if offset != upload.held {
            return Ok(Taken { held: upload.held, is_news: true });
        }
        if let Err(error) = upload.file.write_all(data) {
            self.forget(digest);
            return Err(error.into());
        }
        upload.hasher.update(data);
        upload.held = end;
        let is_news = end == upload.size;
        if is_news {
            self.finish(digest)?;
        }
        Ok(Taken { held: end, is_news })
    }

    /// Where whole content lies.
    ///
    /// # Errors
    /// [`BlobError::Unknown`] where it is not held, or not whole.
    pub fn path(&mut self, digest: Digest) -> Result<PathBuf, BlobError> {
        if self.is_held(digest)? { Ok(self.file(digest)) } else { Err(BlobError::Unknown(digest)) }
    }

    /// Whether whole content is held; checks what was found at start, and marks it used.
    fn is_held(&mut self, digest: Digest) -> Result<bool, BlobError> {
        let used = self.tick();
        let path = self.file(digest);
        let Some(whole) = self.whole.get_mut(&digest) else { return Ok(false) };
        whole.used = used;
        if !whole.checked {
            let mut hasher = blake3::Hasher::new();
            let read = File::open(&path).and_then(|file| hasher.update_reader(file).map(|_| ()));
            whole.checked = read.is_ok() && hasher.finalize().as_bytes() == &digest.0;
        }
        let sound = whole.checked && path.exists();
        if !sound {
            self.whole.remove(&digest);
            remove(&path)?;
        }
        Ok(sound)
    }

    fn finish(&mut self, digest: Digest) -> Result<(), BlobError> {
        let Some(upload) = self.uploads.remove(&digest) else { return Err(BlobError::Unknown(digest)) };
        if upload.hasher.finalize().as_bytes() != &digest.0 {
            remove(&self.part(digest))?;
            return Err(BlobError::BadDigest);
        }
        fs::rename(self.part(digest), self.file(digest))?;
        self.whole.insert(digest, Whole { size: upload.size, checked: true, used: upload.used });
        Ok(())
    }

    fn forget(&mut self, digest: Digest) {
        self.uploads.remove(&digest);
        // What cannot be removed now is removed at the next start.
        fs::remove_file(self.part(digest)).ok();
    }

    /// Lets old content go so that `size` bytes more fit under the folder's cap.
    fn make_room(&mut self, size: u64) -> Result<(), BlobError> {
        while self.uploads.len() >= MAX_UPLOADS {
            let oldest = self.uploads.iter().min_by_key(|(_, upload)| upload.used).map(|(&digest, _)| digest);
            let Some(oldest) = oldest else { break };
            self.forget(oldest);
        }
        let cap = self.max_bytes.saturating_mul(FOLDER_CONTENTS);
        let announced: u64 = self.uploads.values().map(|upload| upload.size).sum();
        let mut total = self.whole.values().map(|whole| whole.size).sum::<u64>() + announced + size;
        while total > cap {
            let oldest = self.whole.iter().min_by_key(|(_, whole)| whole.used).map(|(&digest, _)| digest);
            let Some(oldest) = oldest else { break };
            total -= self.whole.remove(&oldest).map_or(0, |whole| whole.size);
            remove(&self.file(oldest))?;
        }
        Ok(())
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn file(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// Unfinished content carries the agent's process number: two agents may share a folder.
    fn part(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}.{}.part", std::process::id()))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The digest that is a file's name.
pub(crate) fn parse_digest(name: &str) -> Option<Digest> {
    let is_name = name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let hash = blake3::Hash::from_hex(name).ok().filter(|_| is_name)?;
    Some(Digest(*hash.as_bytes()))
}

/// Whether a file is the unfinished content of an agent that is no more.
fn is_left_over(name: &str) -> bool {
    name.strip_suffix(".part")
        .and_then(|name| name.split_once('.'))
        .and_then(|(_, process)| process.parse::<u32>().ok())
        .is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(data: &[u8]) -> Digest {
        Digest(*blake3::hash(data).as_bytes())
    }

    fn blobs(folder: &Path) -> Blobs {
        Blobs::open_folder(folder, 1000).unwrap()
    }

    #[test]
    fn content_arrives_in_order_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut blobs = blobs(folder.path());
        let (data, name) = (b"abcdef", digest(b"abcdef"));
        assert_eq!(blobs.announce(name, 6).unwrap(), 0);
        assert_eq!(blobs.chunk(name, 0, &data[..2]).unwrap(), Taken { held: 2, is_news: false });
        assert_eq!(blobs.chunk(name, 4, &data[4..]).unwrap(), Taken { held: 2, is_news: true });
        assert_eq!(blobs.chunk(name, 0, &data[..2]).unwrap(), Taken { held: 2, is_news: true });
        assert!(matches!(blobs.path(name), Err(BlobError::Unknown(_))), "half of it is not it");
        assert_eq!(blobs.chunk(name, 2, &data[2..]).unwrap(), Taken { held: 6, is_news: true });
        assert_eq!(fs::read(blobs.path(name).unwrap()).unwrap(), data);
        assert_eq!(blobs.announce(name, 6).unwrap(), 6);
    }

    #[test]
    fn damaged_content_is_forgotten_and_can_come_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut blobs = blobs(folder.path());
        let name = digest(b"good");
        blobs.announce(name, 4).unwrap();
        assert!(matches!(blobs.chunk(name, 0, b"evil"), Err(BlobError::BadDigest)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(blobs.announce(name, 4).unwrap(), 0);
        assert_eq!(blobs.chunk(name, 0, b"good").unwrap().held, 4);
    }

    #[test]
    fn caps_hold_before_a_file_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let mut blobs = blobs(folder.path());
        let name = digest(b"x");
        assert!(matches!(blobs.announce(name, 1001), Err(BlobError::TooLarge { size: 1001, max: 1000 })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        blobs.announce(name, 1).unwrap();
        assert!(matches!(blobs.chunk(name, 0, b"xy"), Err(BlobError::OutOfBounds { end: 2, size: 1 })));
        assert!(blobs.chunk(name, u64::MAX, b"xy").is_err());
    }

    #[test]
    fn a_named_folder_survives_a_restart_and_rot_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (good, rotten) = (digest(b"good"), digest(b"fresh"));
        {
            let mut blobs = blobs(folder.path());
            for (name, data) in [(good, &b"good"[..]), (rotten, b"fresh")] {
                blobs.announce(name, data.len() as u64).unwrap();
                blobs.chunk(name, 0, data).unwrap();
            }
            fs::write(blobs.path(rotten).unwrap(), b"rotte").unwrap();
        }
        let mut blobs = blobs(folder.path());
        assert_eq!(blobs.announce(good, 4).unwrap(), 4);
        assert_eq!(blobs.announce(rotten, 5).unwrap(), 0);
    }

    #[test]
    fn the_folder_has_a_cap_and_old_content_gives_way() {
        let folder = tempfile::tempdir().unwrap();
        let mut blobs = blobs(folder.path());
        let contents: Vec<Vec<u8>> = (0..=8u8).map(|n| vec![n; 1000]).collect();
        for data in &contents {
            blobs.announce(digest(data), 1000).unwrap();
            blobs.chunk(digest(data), 0, data).unwrap();
            blobs.path(digest(&contents[0])).unwrap();
        }
        assert!(blobs.path(digest(&contents[0])).is_ok(), "used all along");
        assert!(blobs.path(digest(&contents[1])).is_err(), "used longest ago");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 8);
    }

    #[test]
    fn empty_content_is_whole_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut blobs = blobs(folder.path());
        assert_eq!(blobs.announce(digest(b""), 0).unwrap(), 0);
        assert!(blobs.path(digest(b"")).is_ok());
    }
}
