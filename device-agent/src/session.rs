//! What is kept for one host across lost links: answers given, requests accepted, jobs' blocks.
//!
//! Requests and blocks in, frames out. No I/O but the session's [`Outbox`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use hanas_device_core::session;
use hanas_device_core::shelf::Shelf;

use crate::connection::Outbox;

/// Answers that are kept to be given again.
const ANSWERS: usize = 64;

/// Bytes of answers that are kept; an inference's outputs beyond it are computed again.
const ANSWER_BYTES: usize = 4 << 20;

/// Requests that may wait at once.
pub const MAX_WAITING: usize = 1024;

/// Unacknowledged bytes beyond which the worker is held up.
pub const MAX_UNACKNOWLEDGED: usize = 16 << 20;

/// Finished jobs that are remembered, so that a late `Measure` of one is not done twice.
const FINISHED_JOBS: usize = 256;

/// What a request asks of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Load a slot.
    Load {
        /// The slot.
        slot: u16,
    },
    /// Empty all slots.
    Clear,
    /// Run a job.
    Measure {
        /// The job.
        job: u32,
    },
    /// Run a slot once.
    Infer {
        /// The slot.
        slot: u16,
    },
}

/// An accepted request, as it goes to the worker.
#[derive(Debug)]
pub struct Request {
    /// The host's number of it.
    pub id: u32,
    /// What it asks.
    pub task: Task,
    /// The order's bytes on the pipe.
    pub order: Vec<u8>,
}

/// Frames in allocated memory.
#[derive(Debug, Default)]
pub struct Heap(VecDeque<(u32, Vec<u8>)>);

impl Shelf for Heap {
    fn push(&mut self, key: u32, bytes: &[u8]) -> bool {
        self.0.push_back((key, bytes.to_vec()));
        true
    }

    fn pop(&mut self) -> Option<usize> {
        self.0.pop_front().map(|(_, bytes)| bytes.len())
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    fn each(&self, skip: usize, take: &mut dyn FnMut(&[u8])) {
        self.0.iter().skip(skip).for_each(|(_, bytes)| take(bytes));
    }

    fn find(&self, key: u32) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, bytes)| &bytes[..])
    }
}

/// One job's blocks.
pub type Job = session::Job<Heap>;

/// One host's state.
#[derive(Debug)]
pub struct Session {
    /// Who it is, for logs.
    pub host: String,
    /// Longest payload it takes, in bytes.
    pub max_frame: u32,
    /// Where it is reached; none while the link is lost.
    pub link: Option<Arc<Outbox>>,
    /// Since when the link is lost.
    pub lost: Option<Instant>,
    /// Accepted and not yet begun, oldest first.
    pub waiting: VecDeque<Request>,
    /// What the worker is at.
    pub running: Option<Request>,
    /// The running request's answer so far.
    answer: Vec<u8>,
    answers: session::Answers<Heap>,
    jobs: BTreeMap<u32, Job>,
    unacknowledged: usize,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            host: String::new(),
            max_frame: 0,
            link: None,
            lost: None,
            waiting: VecDeque::new(),
            running: None,
            answer: Vec::new(),
            answers: session::Answers::new(Heap::default(), ANSWERS, ANSWER_BYTES),
            jobs: BTreeMap::new(),
            unacknowledged: 0,
        }
    }
}

impl Session {
    /// Adds frames to what is sent next, where a link is there.
    pub fn push(&self, frames: &[u8]) {
        if let Some(link) = &self.link {
            link.push(frames);
        }
    }

    /// Sends what was added.
    pub fn flush(&self) {
        if let Some(link) = &self.link {
            link.flush();
        }
    }

    /// The answer to `id`, where it was given already.
    #[must_use]
    pub fn answered(&self, id: u32) -> Option<&[u8]> {
        self.answers.answered(id)
    }

    /// Whether `id` was accepted and is not answered.
    #[must_use]
    pub fn is_pending(&self, id: u32) -> bool {
        self.running.iter().chain(&self.waiting).any(|request| request.id == id)
    }

    /// Sends a piece of the running request's answer.
    pub fn answer_piece(&mut self, frame: &[u8]) {
        self.push(frame);
        if self.answer.len() <= ANSWER_BYTES {
            self.answer.extend_from_slice(frame);
        }
    }

    /// Sends the last piece of the running request's answer, and keeps the whole.
    pub fn answer_end(&mut self, id: u32, frame: &[u8]) {
        self.answer_piece(frame);
        let whole = std::mem::take(&mut self.answer);
        self.answers.remember(id, &whole);
    }

    /// Sends a whole answer and keeps it.
    pub fn answer(&mut self, id: u32, frame: &[u8]) {
        self.push(frame);
        self.answers.remember(id, frame);
    }

    /// Opens a job; `false` where its number was used before.
    pub fn open_job(&mut self, job: u32) -> bool {
        if self.jobs.contains_key(&job) {
            return false;
        }
        if self.jobs.values().filter(|job| job.is_over()).count() >= FINISHED_JOBS
            && let Some(oldest) = self.jobs.iter().find(|(_, job)| job.is_over()).map(|(&number, _)| number)
        {
            self.jobs.remove(&oldest);
        }
        self.jobs.insert(job, Job::default());
        true
    }

    /// Forgets a job that never began.
    pub fn drop_job(&mut self, job: u32) {
        self.jobs.remove(&job);
    }

    /// A job by its number.
    #[must_use]
    pub fn job(&self, job: u32) -> Option<&Job> {
        self.jobs.get(&job)
    }

    /// Keeps and sends a job's next block.
    pub fn block(&mut self, job: u32, frame: &[u8], is_end: bool) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.keep(frame, is_end);
            self.unacknowledged += frame.len();
        }
        self.push(frame);
    }

    /// Forgets a job's blocks before `next`.
    pub fn acknowledge(&mut self, job: u32, next: u32) {
        if let Some(job) = self.jobs.get_mut(&job) {
            self.unacknowledged -= job.acknowledge(next);
        }
    }

    /// Sends a job's blocks from `next` on again.
    pub fn resume(&self, job: u32, next: u32) {
        if let Some(job) = self.jobs.get(&job) {
            job.resume(next, |frame| self.push(frame));
        }
    }

    /// Whether so much waits for the host that the worker should be held up.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unacknowledged > MAX_UNACKNOWLEDGED || self.link.as_ref().is_some_and(|link| link.is_full())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_until_many_newer_ones_were_given() {
        let mut session = Session::default();
        for id in 0..=ANSWERS as u32 {
            session.answer(id, &id.to_le_bytes());
        }
        assert_eq!(session.answered(0), None);
        assert_eq!(session.answered(1), Some(&1u32.to_le_bytes()[..]));
    }

    #[test]
    fn an_answer_in_pieces_is_kept_whole_and_a_huge_one_is_not() {
        let mut session = Session::default();
        session.answer_piece(b"node ");
        session.answer_end(7, b"loaded");
        assert_eq!(session.answered(7), Some(&b"node loaded"[..]));
        session.answer_piece(&vec![1; ANSWER_BYTES]);
        session.answer_end(8, b"done");
        assert_eq!(session.answered(8), None);
        assert_eq!(session.answered(7), Some(&b"node loaded"[..]));
    }

    #[test]
    fn blocks_are_kept_until_acknowledged_and_numbered_without_gaps() {
        let mut session = Session::default();
        assert!(session.open_job(3));
        assert!(!session.open_job(3), "a job's number is used once");
        for block in [b"aa", b"bb", b"cc"] {
            session.block(3, block, block == b"cc");
        }
        session.acknowledge(3, 2);
        session.acknowledge(3, 1);
        let job = session.job(3).unwrap();
        assert_eq!((job.blocks().count(), job.next(), job.has_ended()), (1, 3, true));
        assert_eq!(session.unacknowledged, 2);
        session.acknowledge(3, u32::MAX);
        assert_eq!(session.unacknowledged, 0);
        assert_eq!(session.job(3).unwrap().next(), 3);
    }

    #[test]
    fn old_finished_jobs_are_forgotten_and_unfinished_ones_never() {
        let mut session = Session::default();
        session.open_job(0);
        for job in 1..=FINISHED_JOBS as u32 + 1 {
            session.open_job(job);
            session.block(job, b"end", true);
            session.acknowledge(job, 1);
        }
        assert!(session.open_job(10_000));
        assert!(session.job(0).is_some());
        assert!(session.job(1).is_none());
    }
}
