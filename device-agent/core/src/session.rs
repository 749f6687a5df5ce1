//! What outlives a lost link: answers given, and a job's blocks until the host has them.

use crate::shelf::Shelf;

/// One job's blocks, from the first that is not acknowledged.
#[derive(Debug, Default)]
pub struct Job<S> {
    blocks: S,
    first: u32,
    ended: bool,
}

impl<S: Shelf> Job<S> {
    /// A job without blocks, over empty storage.
    pub const fn new(blocks: S) -> Self {
        Self { blocks, first: 0, ended: false }
    }

    /// The number that the next block gets.
    pub fn next(&self) -> u32 {
        self.first + self.blocks.count() as u32
    }

    /// Whether its last block was taken.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether it has ended and the host has all of it.
    pub fn is_over(&self) -> bool {
        self.ended && self.blocks.count() == 0
    }

    /// The storage.
    pub const fn blocks(&self) -> &S {
        &self.blocks
    }

    /// Keeps the next block's frame; `false` where there is no room.
    pub fn keep(&mut self, frame: &[u8], is_end: bool) -> bool {
        let kept = self.blocks.push(self.next(), frame);
        self.ended |= kept && is_end;
        kept
    }

    /// Forgets the blocks before `next`; returns the bytes that are free again.
    pub fn acknowledge(&mut self, next: u32) -> usize {
        let mut freed = 0;
        while self.first < next
            && let Some(safe) = self.blocks.pop()
        {
            self.first += 1;
            freed += safe;
        }
        freed
    }

    /// Hands out the blocks from `next` on again.
    pub fn resume(&self, next: u32, mut send: impl FnMut(&[u8])) {
        self.blocks.each(next.saturating_sub(self.first) as usize, &mut send);
    }

    /// Begins another job in the same storage.
    pub fn restart(&mut self) {
        while self.blocks.pop().is_some() {}
        (self.first, self.ended) = (0, false);
    }
}

/// Answers that are kept to be given again: a request is done once, however often it is asked.
#[derive(Debug)]
pub struct Answers<S> {
    kept: S,
    bytes: usize,
    max_count: usize,
    max_bytes: usize,
}

impl<S: Shelf> Answers<S> {
    /// None yet; keeps at most so many and so many bytes of them.
    pub const fn new(kept: S, max_count: usize, max_bytes: usize) -> Self {
        Self { kept, bytes: 0, max_count, max_bytes }
    }

    /// The answer to `id`, where it was given already: its frames one after another.
    pub fn answered(&self, id: u32) -> Option<&[u8]> {
        self.kept.find(id)
    }

    /// Keeps an answer, in place of the oldest where there is no room. One that has no room at all is
    /// not kept and would be made again.
    pub fn remember(&mut self, id: u32, frames: &[u8]) {
        if frames.len() > self.max_bytes {
            return;
        }
        while self.kept.count() >= self.max_count || self.bytes + frames.len() > self.max_bytes {
            let Some(gone) = self.kept.pop() else { break };
            self.bytes -= gone;
        }
        while !self.kept.push(id, frames) {
            let Some(gone) = self.kept.pop() else { return };
            self.bytes -= gone;
        }
        self.bytes += frames.len();
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        while self.kept.pop().is_some() {}
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::shelf::Arena;

    #[test]
    fn blocks_are_numbered_without_gaps_and_kept_until_acknowledged() {
        let mut storage = [0; 64];
        let mut job = Job::new(Arena::new(&mut storage));
        for frame in [b"aa", b"bb", b"cc"] {
            assert!(job.keep(frame, frame == b"cc"));
        }
        assert_eq!((job.next(), job.has_ended(), job.is_over()), (3, true, false));
        assert_eq!(job.acknowledge(2), 4);
        assert_eq!(job.acknowledge(1), 0, "an old acknowledgement takes nothing back");
        let mut again = Vec::new();
        job.resume(0, |frame| again.push(frame.to_vec()));
        assert_eq!(again, [b"cc"]);
        assert_eq!(job.acknowledge(u32::MAX), 2);
        assert_eq!((job.next(), job.is_over()), (3, true));
    }

    #[test]
    fn a_block_without_room_has_no_number() {
        let mut storage = [0; 20];
        let mut job = Job::new(Arena::new(&mut storage));
        assert!(job.keep(b"0123456789", false) && !job.keep(b"0", true));
        assert_eq!((job.next(), job.has_ended()), (1, false));
    }

    #[test]
    fn the_oldest_answers_give_way() {
        let mut storage = [0; 40];
        let mut answers = Answers::new(Arena::new(&mut storage), 8, 1000);
        for id in 0..4 {
            answers.remember(id, b"12345");
        }
        assert_eq!((answers.answered(0), answers.answered(1)), (None, Some(&b"12345"[..])));
        assert_eq!(answers.answered(3), Some(&b"12345"[..]));
        answers.remember(9, &[0; 100]);
        assert_eq!(answers.answered(9), None);
    }
}
