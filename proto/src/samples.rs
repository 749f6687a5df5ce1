//! Series of timings, packed: the bulk of what a profile sends.
//!
//! ```text
//! series = key count first delta*          (count - 1 deltas)
//! key    = varint        the slot
//! count  = varint        values in the series, at least 1
//! first  = varint        nanoseconds
//! delta  = zigzag varint difference to the value before, nanoseconds
//! ```
//!
//! Varints are LEB128 of a `u64`, as postcard's. A block holds whole series one after another.
//! Runs of one model differ by little, so a value after the first costs two bytes as a rule.

use crate::units::Nanos;

/// The longest encoding of one varint, in bytes.
const VARINT_MAX: usize = 10;

/// Appends series to a buffer that it does not own.
#[derive(Debug)]
pub struct SeriesWriter<'b> {
    buffer: &'b mut [u8],
    used: usize,
}

impl<'b> SeriesWriter<'b> {
    /// Starts at the front of `buffer`.
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, used: 0 }
    }

    /// Appends one series; `false`, with nothing written, where the buffer lacks room or `values` is empty.
    pub fn push(&mut self, key: u16, values: &[Nanos]) -> bool {
        let start = self.used;
        let whole = !values.is_empty()
            && self.varint(u64::from(key))
            && self.varint(values.len() as u64)
            && self.varint(values[0].0)
            && values.windows(2).all(|pair| self.varint(zigzag(pair[1].0.wrapping_sub(pair[0].0))));
        if !whole {
            self.used = start;
        }
        whole
    }

    /// The bytes written so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.used]
    }

    fn varint(&mut self, mut value: u64) -> bool {
        loop {
            let Some(slot) = self.buffer.get_mut(self.used) else { return false };
            self.used += 1;
            let low = (value & 0x7f) as u8;
            value >>= 7;
            *slot = if value == 0 { low } else { low | 0x80 };
            if value == 0 {
                return true;
            }
        }
    }
}

const fn zigzag(delta: u64) -> u64 {
    let delta = delta as i64;
    ((delta << 1) ^ (delta >> 63)) as u64
}

const fn unzigzag(coded: u64) -> u64 {
    (coded >> 1) ^ (coded & 1).wrapping_neg()
}

/// The bytes are not a series: a varint is cut or overlong, or a count does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a block's samples are damaged")]
pub struct Damaged;

/// Reads series one after another. After an error it ends.
#[derive(Debug, Clone)]
pub struct SeriesReader<'a> {
    rest: &'a [u8],
}

impl<'a> SeriesReader<'a> {
    /// Reads from the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn series(&mut self) -> Result<Series<'a>, Damaged> {
        let key = u16::try_from(varint(&mut self.rest)?).map_err(|_| Damaged)?;
        let count = usize::try_from(varint(&mut self.rest)?).map_err(|_| Damaged)?;
        // Each value takes a byte at least: a count beyond that is a lie, found before it is used.
        if count == 0 || count > self.rest.len() {
            return Err(Damaged);
        }
        let start = self.rest;
        for _ in 0..count {
            varint(&mut self.rest)?;
        }
        Ok(Series { key, count, bytes: start, previous: None })
    }
}

impl<'a> Iterator for SeriesReader<'a> {
    type Item = Result<Series<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let series = self.series();
        if series.is_err() {
            self.rest = &[];
        }
        Some(series)
    }
}

/// One series: its key, and its values as an iterator.
#[derive(Debug, Clone)]
pub struct Series<'a> {
    /// The slot.
    pub key: u16,
    count: usize,
    bytes: &'a [u8],
    previous: Option<u64>,
}

impl Iterator for Series<'_> {
    type Item = Nanos;

    fn next(&mut self) -> Option<Nanos> {
        self.count = self.count.checked_sub(1)?;
        // The reader has walked these varints already.
        let coded = varint(&mut self.bytes).ok()?;
        let value = self.previous.map_or(coded, |before| before.wrapping_add(unzigzag(coded)));
        self.previous = Some(value);
        Some(Nanos(value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for Series<'_> {}

fn varint(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    let mut value = 0u64;
    for (place, &byte) in bytes.iter().take(VARINT_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if place == VARINT_MAX - 1 && bits > 1 {
            return Err(Damaged);
        }
        value |= bits << (7 * place);
        if byte & 0x80 == 0 {
            *bytes = &bytes[place + 1..];
            return Ok(value);
        }
    }
    Err(Damaged)
}
