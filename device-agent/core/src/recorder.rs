//! Times in, packed into blocks of a length that suits the link.

use hanas_proto::measure::Body;
use hanas_proto::samples::SeriesWriter;
use hanas_proto::units::Nanos;

use crate::Trouble;
use crate::measure::Desk;

/// A block of samples is emitted when it holds this much, in bytes.
pub const BLOCK_BYTES: usize = 1024;

/// Or when the last was emitted this long ago.
const BLOCK_AGE: Nanos = Nanos(50_000_000);

/// Packs series into blocks, in given memory.
#[derive(Debug)]
pub struct Recorder<'s> {
    samples: Packed<'s>,
    nodes: Packed<'s>,
    flushed: Nanos,
}

impl<'s> Recorder<'s> {
    /// An empty one; the two buffers bound the blocks of either kind.
    pub const fn new(samples: &'s mut [u8], nodes: &'s mut [u8], now: Nanos) -> Self {
        Self {
            samples: Packed { buffer: samples, used: 0 },
            nodes: Packed { buffer: nodes, used: 0 },
            flushed: now,
        }
    }

    /// Whether what waits has waited for long enough.
    #[must_use]
    pub fn is_old(&self, now: Nanos) -> bool {
        now - self.flushed >= BLOCK_AGE
    }

    /// Adds a visit's samples; cut into several series where one does not fit into a block.
    pub fn samples<D: Desk + ?Sized>(
        &mut self,
        round: u16,
        slot: u16,
        times: &[Nanos],
        desk: &mut D,
        now: Nanos,
    ) {
        if times.is_empty() || self.samples.push(slot, times) {
            return;
        }
        if !self.samples.is_empty() {
            self.flush(round, desk, now);
            self.samples(round, slot, times, desk, now);
        } else if times.len() > 1 {
            let (first, second) = times.split_at(times.len() / 2);
            self.samples(round, slot, first, desk, now);
            self.samples(round, slot, second, desk, now);
        }
    }

    /// Adds a run's operators; they are one series and cannot be cut.
    ///
    /// # Errors
    /// [`Trouble::too_many_operators`] where they do not fit into a block.
    pub fn nodes<D: Desk + ?Sized, T: Trouble>(
        &mut self,
        round: u16,
        slot: u16,
        times: &[Nanos],
        desk: &mut D,
        now: Nanos,
    ) -> Result<(), T> {
        if self.nodes.used >= BLOCK_BYTES {
            self.flush(round, desk, now);
        }
        if times.is_empty() || self.nodes.push(slot, times) {
            return Ok(());
        }
        self.flush(round, desk, now);
        if self.nodes.push(slot, times) { Ok(()) } else { Err(T::too_many_operators(times.len())) }
    }

    /// Emits what waits.
    pub fn flush<D: Desk + ?Sized>(&mut self, round: u16, desk: &mut D, now: Nanos) {
        if !self.samples.is_empty() {
            desk.emit(Body::Samples { round, series: self.samples.take() });
        }
        if !self.nodes.is_empty() {
            desk.emit(Body::Nodes { round, series: self.nodes.take() });
        }
        self.flushed = now;
    }
}

/// A buffer of whole series.
#[derive(Debug)]
struct Packed<'s> {
    buffer: &'s mut [u8],
    used: usize,
}

impl Packed<'_> {
    const fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn push(&mut self, key: u16, values: &[Nanos]) -> bool {
        let mut writer = SeriesWriter::new(&mut self.buffer[self.used..]);
        let whole = writer.push(key, values);
        self.used += writer.bytes().len();
        whole
    }

    fn take(&mut self) -> &[u8] {
        &self.buffer[..core::mem::take(&mut self.used)]
    }
}
