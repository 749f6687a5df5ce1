//! When a device has settled: warm-up ends by what is seen, not after a fixed count.
//!
//! In: the time of each warm-up round. Out: whether the last [`WINDOW`] rounds are no faster than the
//! [`WINDOW`] before them by more than [`TOLERANCE`]. A processor that wakes up, fills its caches or
//! raises its frequency speeds up from round to round, so only that direction is waited for; a board
//! that slows down by heat does so over minutes, and the verdict's drift tells.

use hanas_proto::Nanos;

/// Rounds compared with as many before them.
pub const WINDOW: usize = 3;

/// A speed-up below this has no part in a choice: a step of 8 channels in 64 is ten times as large.
pub const TOLERANCE: f64 = 0.01;

/// Models run in a warm-up round; more would make a round long and show the same.
pub const MODELS: u16 = 16;

/// Watches warm-up rounds.
#[derive(Debug, Clone, Default)]
pub struct Settling {
    rounds: Vec<Nanos>,
}

impl Settling {
    /// Takes the time of a round.
    pub fn round(&mut self, time: Nanos) {
        self.rounds.push(time);
    }

    /// Whether the device has settled. The fastest round of each window counts: a burst of another
    /// process in one round is no trend.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let Some(start) = self.rounds.len().checked_sub(2 * WINDOW) else { return false };
        let (before, last) = self.rounds[start..].split_at(WINDOW);
        let fastest = |rounds: &[Nanos]| rounds.iter().map(|round| round.0).min().unwrap_or(0) as f64;
        fastest(last) >= (1.0 - TOLERANCE) * fastest(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds_until_settled(time: impl Fn(u32) -> f64) -> Option<u32> {
        let mut settling = Settling::default();
        (0..100).find(|&round| {
            settling.round(Nanos::from_f64(time(round)));
            settling.is_over()
        })
    }

    #[test]
    fn a_steady_device_is_ready_at_once_and_a_waking_one_when_it_is_awake() {
        assert_eq!(rounds_until_settled(|_| 1e6), Some(5));
        // Halves its excess each two rounds: 1% in three rounds is reached at an excess of some 1.5%.
        let waking = rounds_until_settled(|round| 1e6 * (1.0 + 0.5f64.powf(f64::from(round) / 2.0)));
        assert!((10..20).contains(&waking.unwrap()), "{waking:?}");
        let bursts = |round: u32| if round % 3 == 1 { 3e6 } else { 1e6 };
        assert_eq!(rounds_until_settled(bursts), Some(5));
        assert_eq!(rounds_until_settled(|round| 1e9 * 0.9f64.powi(round as i32)), None);
    }
}
