//! Frames kept in order under a number: the oldest goes first.
//!
//! [`Shelf`] is what sessions ask of such storage; [`Arena`] is one in given memory. A system with an
//! allocator brings its own.

/// Keeps byte strings in order.
pub trait Shelf {
    /// Adds one behind the others; `false`, with nothing kept, where there is no room.
    fn push(&mut self, key: u32, bytes: &[u8]) -> bool;
    /// Forgets the oldest and returns its length; none where there is none.
    fn pop(&mut self) -> Option<usize>;
    /// How many there are.
    fn count(&self) -> usize;
    /// Hands out all but the first `skip`, oldest first.
    fn each(&self, skip: usize, take: &mut dyn FnMut(&[u8]));
    /// The oldest under that number.
    fn find(&self, key: u32) -> Option<&[u8]>;
}

/// Number and length before each entry.
const HEAD: usize = 8;

/// A shelf in given memory: entries lie one behind the other, the oldest first.
#[derive(Debug)]
pub struct Arena<'s> {
    storage: &'s mut [u8],
    used: usize,
    count: usize,
}

impl<'s> Arena<'s> {
    /// An empty one.
    pub const fn new(storage: &'s mut [u8]) -> Self {
        Self { storage, used: 0, count: 0 }
    }

    /// Whether an entry of `len` bytes has room.
    #[must_use]
    pub const fn has_room(&self, len: usize) -> bool {
        self.storage.len() - self.used >= HEAD + len
    }

    fn entries(&self) -> Entries<'_> {
        Entries { rest: &self.storage[..self.used] }
    }
}

struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = self.rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        self.rest = rest;
        Some((u32::from_le_bytes(*key), bytes))
    }
}

impl Shelf for Arena<'_> {
    fn push(&mut self, key: u32, bytes: &[u8]) -> bool {
        if !self.has_room(bytes.len()) {
            return false;
        }
        let entry = &mut self.storage[self.used..self.used + HEAD + bytes.len()];
        entry[..4].copy_from_slice(&key.to_le_bytes());
        entry[4..HEAD].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        entry[HEAD..].copy_from_slice(bytes);
        self.used += HEAD + bytes.len();
        self.count += 1;
        true
    }

    fn pop(&mut self) -> Option<usize> {
        let len = self.entries().next()?.1.len();
        self.storage.copy_within(HEAD + len..self.used, 0);
        self.used -= HEAD + len;
        self.count -= 1;
        Some(len)
    }

    fn count(&self) -> usize {
        self.count
    }

    fn each(&self, skip: usize, take: &mut dyn FnMut(&[u8])) {
        self.entries().skip(skip).for_each(|(_, bytes)| take(bytes));
    }

    fn find(&self, key: u32) -> Option<&[u8]> {
        self.entries().find(|(known, _)| *known == key).map(|(_, bytes)| bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn entries_come_out_in_order_and_what_has_no_room_is_not_half_kept() {
        let mut storage = [0; 40];
        let mut arena = Arena::new(&mut storage);
        assert!(arena.push(1, b"one") && arena.push(2, b"three"));
        assert!(!arena.push(3, &[0; 9]), "8 bytes are left after three heads");
        assert!(arena.push(3, &[7; 8]));
        assert_eq!((arena.find(2), arena.find(4)), (Some(&b"three"[..]), None));
        assert_eq!(arena.pop(), Some(3));
        let mut seen = Vec::new();
        arena.each(1, &mut |bytes| seen.push(bytes.to_vec()));
        assert_eq!(seen, [[7; 8]]);
        assert!(arena.push(4, b"xyz"), "the room of the first is free again");
        assert_eq!((arena.pop(), arena.pop(), arena.pop(), arena.pop()), (Some(5), Some(8), Some(3), None));
        assert_eq!(arena.count(), 0);
    }
}
