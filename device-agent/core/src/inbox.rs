//! Content in memory: the one that came last, under its checked digest.

use hanas_proto::Digest;
use hanas_proto::fault::FaultCode;

/// Holds one content.
#[derive(Debug)]
pub struct Inbox<'s> {
    storage: &'s mut [u8],
    digest: Option<Digest>,
    size: usize,
    held: usize,
}

/// Content that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxError {
    /// It is larger than the storage.
    TooLarge,
    /// What came is not what was announced.
    BadDigest,
    /// A piece of something else.
    NotAnnounced,
    /// Nothing is held under the digest.
    NotHeld,
}

impl InboxError {
    /// What kind of trouble it is.
    #[must_use]
    pub const fn code(self) -> FaultCode {
        match self {
            Self::TooLarge => FaultCode::TooLarge,
            Self::BadDigest => FaultCode::BadDigest,
            Self::NotAnnounced => FaultCode::BadRequest,
            Self::NotHeld => FaultCode::UnknownBlob,
        }
    }

    /// One line for a person.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::TooLarge => "the content is larger than this chip takes at once",
            Self::BadDigest => "the content's digest is not the announced one",
            Self::NotAnnounced => "a chunk of content that was not announced",
            Self::NotHeld => "this content is not held; send it again",
        }
    }
}

impl<'s> Inbox<'s> {
    /// An empty one; the storage bounds the content.
    pub const fn new(storage: &'s mut [u8]) -> Self {
        Self { storage, digest: None, size: 0, held: 0 }
    }

    /// The largest content that is taken, in bytes.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// Forgets what is held.
    pub const fn clear(&mut self) {
        (self.digest, self.size, self.held) = (None, 0, 0);
    }

    /// Announces content, in place of what is held if that is another; how much of it is there already.
    ///
    /// # Errors
    /// [`InboxError::TooLarge`].
    pub fn announce(&mut self, digest: Digest, size: u64) -> Result<u64, InboxError> {
        let fits = usize::try_from(size).ok().filter(|&size| size <= self.storage.len());
        let size = fits.ok_or(InboxError::TooLarge)?;
        if self.digest != Some(digest) || self.size != size {
            (self.digest, self.size, self.held) = (Some(digest), size, 0);
            if size == 0 {
                self.check()?;
            }
        }
        Ok(self.held as u64)
    }

    /// Takes a piece of what was announced last; how much is there now. A piece that does not begin
    /// there changes nothing.
    ///
    /// # Errors
    /// [`InboxError`] where nothing was announced, the piece goes beyond the end, or the digest is wrong
    /// in the end.
    pub fn chunk(&mut self, offset: u64, data: &[u8]) -> Result<u64, InboxError> {
        if self.digest.is_none() {
            return Err(InboxError::NotAnnounced);
        }
        if offset != self.held as u64 || data.is_empty() {
            return Ok(self.held as u64);
        }
        let room = self.storage[..self.size].get_mut(self.held..self.held + data.len());
        room.ok_or(InboxError::TooLarge)?.copy_from_slice(data);
        self.held += data.len();
        if self.held == self.size {
            self.check()?;
        }
        Ok(self.held as u64)
    }

    /// Whole content under its digest.
    ///
    /// # Errors
    /// [`InboxError::NotHeld`].
    pub fn content(&self, digest: Digest) -> Result<&[u8], InboxError> {
        let whole = self.digest == Some(digest) && self.held == self.size;
        if whole { Ok(&self.storage[..self.size]) } else { Err(InboxError::NotHeld) }
    }

    fn check(&mut self) -> Result<(), InboxError> {
        let digest = Digest(*blake3::hash(&self.storage[..self.size]).as_bytes());
        if self.digest == Some(digest) {
            return Ok(());
        }
        self.clear();
        Err(InboxError::BadDigest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(content: &[u8]) -> Digest {
        Digest(*blake3::hash(content).as_bytes())
    }

    #[test]
    fn content_comes_in_pieces_and_is_held_when_its_digest_is_right() {
        let mut storage = [0; 8];
        let mut inbox = Inbox::new(&mut storage);
        let wanted = digest(b"abcdef");
        assert_eq!(inbox.announce(wanted, 6), Ok(0));
        assert_eq!(inbox.chunk(0, b"abc"), Ok(3));
        assert_eq!(inbox.chunk(0, b"abc"), Ok(3), "a piece that came before");
        assert_eq!(inbox.content(wanted), Err(InboxError::NotHeld));
        assert_eq!(inbox.announce(wanted, 6), Ok(3), "announced again, it goes on");
        assert_eq!(inbox.chunk(3, b"def"), Ok(6));
        assert_eq!(inbox.content(wanted), Ok(&b"abcdef"[..]));
        assert_eq!(inbox.announce(wanted, 6), Ok(6), "held: nothing is sent");
    }

    #[test]
    fn what_is_too_large_or_damaged_is_refused() {
        let mut storage = [0; 8];
        let mut inbox = Inbox::new(&mut storage);
        assert_eq!(inbox.chunk(0, b"a"), Err(InboxError::NotAnnounced));
        assert_eq!(inbox.announce(digest(b""), 9), Err(InboxError::TooLarge));
        assert_eq!(inbox.announce(digest(b""), u64::MAX), Err(InboxError::TooLarge));
        assert_eq!(inbox.announce(digest(b"ab"), 2), Ok(0));
        assert_eq!(inbox.chunk(0, b"abc"), Err(InboxError::TooLarge));
        assert_eq!(inbox.chunk(0, b"ax"), Err(InboxError::BadDigest));
        assert_eq!(inbox.content(digest(b"ab")), Err(InboxError::NotHeld));
    }
}
