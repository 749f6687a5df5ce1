//! When a device has settled: warm-up ends by what is seen, not after a fixed count.
//!
//! In: a session with loaded models. Out: whether the last [`WINDOW`] rounds are no faster than the
//! [`WINDOW`] before them by more than [`TOLERANCE`]. Slow models leave after the first round: nets of
//! seconds would make a warm-up of minutes, and tell no more of the device than fast ones. A processor that
//! wakes up, fills its caches or raises its frequency speeds up from round to round, so only that direction
//! is waited for; a board that slows down by heat does so over minutes, and the verdict's drift tells.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use hanas_proto::Nanos;
use hanas_proto::fault::FaultCode;

use crate::link::measuring::{Event, Outcome, Plan};
use crate::link::{LinkError, Session};

/// Rounds compared with as many before them.
pub const WINDOW: usize = 3;

/// A speed-up below this has no part in a choice: a step of 8 channels in 64 is ten times as large.
pub const TOLERANCE: f64 = 0.01;

/// Models run in a warm-up round; more would make a round long and show the same.
pub const MODELS: u16 = 16;

/// What a round after the first may take: of the models, the fastest that fit in together are run, at least one.
pub const ROUND: Nanos = Nanos(1_000_000_000);

/// How a warm-up ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The device was run in.
    Over {
        /// Rounds that took.
        rounds: u16,
        /// It did settle; else the most that the plan allows were run.
        settled: bool,
    },
    /// A model met trouble, which the timed rounds will meet as well and tell.
    Trouble,
    /// The worker died; its slots are gone.
    Died,
}

/// Runs the plan's models, one round a job, until the device has settled, `most` rounds at most. These runs are
/// not kept: what they are slow by, the device is no longer when it is measured.
///
/// # Errors
/// [`LinkError`] where the link cannot be mended.
pub fn settle(session: &mut Session, mut plan: Plan, most: u16) -> Result<Ended, LinkError> {
    let mut rounds = 0;
    let mut settling = Settling::default();
    while rounds < most && !settling.is_over() {
        let mut times: BTreeMap<u16, Nanos> = BTreeMap::new();
        let outcome = session.measure(&plan, |event| {
            if let Event::Visit { slot, runs, .. } = event {
                times.entry(slot).or_default().0 += runs.iter().map(|run| run.0).sum::<u64>();
            }
            ControlFlow::Continue(())
        })?;
        match outcome {
            Outcome::Completed => {}
            Outcome::Faulted { code: FaultCode::WorkerDied, .. } => return Ok(Ended::Died),
            _ => return Ok(Ended::Trouble),
        }
        if rounds == 0 {
            plan.slots = fastest(&times, ROUND);
        }
        settling.round(Nanos(plan.slots.iter().filter_map(|slot| times.get(slot)).map(|time| time.0).sum()));
        rounds += 1;
    }
    Ok(Ended::Over { rounds, settled: settling.is_over() })
}

/// The fastest models that fit into `limit` together, in the order of their slots; at least one where there is any.
fn fastest(times: &BTreeMap<u16, Nanos>, limit: Nanos) -> Vec<u16> {
    let mut by_time: Vec<(Nanos, u16)> = times.iter().map(|(&slot, &time)| (time, slot)).collect();
    by_time.sort_unstable();
    let mut sum = 0u64;
    let fits = |&&(time, _): &&(Nanos, u16)| {
        let first = sum == 0;
        sum = sum.saturating_add(time.0);
        first || sum <= limit.0
    };
    let mut slots: Vec<u16> = by_time.iter().take_while(fits).map(|&(_, slot)| slot).collect();
    slots.sort_unstable();
    slots
}

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
    fn slow_models_leave_after_the_first_round() {
        let of = |times: &[u64], limit| {
            fastest(&(0u16..).zip(times.iter().map(|&time| Nanos(time))).collect(), Nanos(limit))
        };
        assert_eq!(of(&[300, 5, 40, 10], 1000), [0, 1, 2, 3]);
        assert_eq!(of(&[300, 5, 40, 10], 55), [1, 2, 3]);
        assert_eq!(of(&[300, 5, 40, 10], 54), [1, 3]);
        assert_eq!(of(&[300, 500], 10), [0], "one is always left");
        assert_eq!(of(&[], 10), [] as [u16; 0]);
        assert_eq!(of(&[u64::MAX, u64::MAX], 10), [0]);
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
