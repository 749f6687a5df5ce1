//! How fast the device is while nets are measured.
//!
//! A net is measured in turns with one whose latency is known from before. On a device that is slower
//! meanwhile, a net that fits its limit would otherwise be shrunk or given up for nothing.

use std::time::{Duration, Instant};

use super::interrupt;
use crate::latency::disturbed::DISTURBANCE;
#[cfg(feature = "torch")]
use crate::latency::disturbed::at_pace;

/// Between two tries to measure on a device that is slower than it was: a spell of another guest or a warm
/// processor passes.
const WAITS: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];

/// A wait is no longer than so many times what measuring takes: what is measured at once is better measured
/// again at once.
const WAIT_PER_TRY: u32 = 10;

/// How often a wait looks whether the user asked to end.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What was measured, and at what pace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Paced<T> {
    /// What was measured.
    pub(super) measured: T,
    /// How many times slower the device was than it had been.
    pub(super) slower: f64,
}

impl<T> Paced<T> {
    /// Whether that is more than a disturbance.
    pub(super) fn is_slow(&self) -> bool {
        self.slower > 1.0 + DISTURBANCE
    }

    /// A latency as it would have been at the pace from before.
    #[cfg(feature = "torch")]
    pub(super) fn corrected(&self, ns: f64) -> f64 {
        at_pace(ns, self.slower)
    }
}

/// How fast the device is, by a net whose latency is known.
pub(super) struct Pace {
    /// The lowest latency of that net so far.
    known_ns: f64,
    /// Waiting has not been in vain.
    patient: bool,
}

impl Pace {
    /// The known net takes `known_ns` on the device when nothing else slows it down.
    pub(super) const fn new(known_ns: f64) -> Self {
        Self { known_ns, patient: true }
    }

    /// Measures, and again after a wait while the device is slower than it was; what was measured at the
    /// best pace. `measure` gives what it measured and the known net's latency, ns, in turns with it. A
    /// device that stayed slow is not waited for again until it has recovered.
    pub(super) fn best<T>(
        &mut self,
        mut measure: impl FnMut() -> anyhow::Result<(T, f64)>,
    ) -> anyhow::Result<Paced<T>> {
        let mut once = |pace: &mut Self| {
            let (measured, known_ns) = measure()?;
            anyhow::Ok(Paced { measured, slower: pace.slower(known_ns) })
        };
        let start = Instant::now();
        let mut best = once(self)?;
        if best.is_slow() && self.patient {
            let waits = WAITS.map(|wait| wait.min(WAIT_PER_TRY * start.elapsed()));
            let (longest, slower) = (waits.iter().sum::<Duration>().as_secs(), best.slower);
            if longest > 0 {
                eprintln!(
                    "note: the device is {slower:.1} times slower than it was; waiting up to {longest} s"
                );
            }
            for wait in waits {
                if !best.is_slow() || interrupted_within(wait) {
                    break;
                }
                let again = once(self)?;
                if again.slower < best.slower {
                    best = again;
                }
            }
        }
        self.patient = !best.is_slow();
        Ok(best)
    }

    /// A net's latency as it is undisturbed, ns: at the best pace, and corrected where that is slow.
    #[cfg(feature = "torch")]
    pub(super) fn undisturbed(
        &mut self,
        measure: impl FnMut() -> anyhow::Result<(f64, f64)>,
    ) -> anyhow::Result<f64> {
        let best = self.settled(measure)?;
        Ok(best.corrected(best.measured))
    }

    /// What was measured at the best pace; a note says where that is slow, and latencies are to be corrected.
    #[cfg(feature = "torch")]
    pub(super) fn settled<T>(
        &mut self,
        measure: impl FnMut() -> anyhow::Result<(T, f64)>,
    ) -> anyhow::Result<Paced<T>> {
        let was_patient = self.patient;
        let best = self.best(measure)?;
        if best.is_slow() && was_patient && !interrupt::asked() {
            let slower = best.slower;
            eprintln!(
                "note: it stays {slower:.1} times slower; latencies are corrected by that. End what else runs on it and measure the result again with `hanas verify`"
            );
        }
        Ok(best)
    }

    /// How many times slower the device is now that its known net takes `known_ns`.
    fn slower(&mut self, known_ns: f64) -> f64 {
        self.known_ns = self.known_ns.min(known_ns);
        known_ns / self.known_ns
    }
}

/// Waits; true, and at once, when the user asks to end.
fn interrupted_within(wait: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < wait && !interrupt::asked() {
        std::thread::sleep(LOOK_EVERY.min(wait.saturating_sub(start.elapsed())));
    }
    interrupt::asked()
}

#[cfg(all(test, feature = "torch"))]
mod tests {
    use super::*;

    #[test]
    fn a_slow_device_is_told_by_the_known_net() {
        let mut pace = Pace::new(100.0);
        assert_eq!(pace.slower(160.0), 1.6);
        assert_eq!(Paced { measured: (), slower: 1.6 }.corrected(80.0), 50.0);
        assert_eq!(Paced { measured: (), slower: 1.02 }.corrected(80.0), 80.0, "the same pace");
        // The first measurement had met a slow device itself.
        assert_eq!(pace.slower(50.0), 1.0);
        assert_eq!(pace.slower(100.0), 2.0);
    }

    #[test]
    fn a_spell_is_waited_for() {
        let mut pace = Pace::new(100.0);
        let mut answers = [(300.0, 200.0), (150.0, 102.0)].into_iter();
        assert_eq!(pace.undisturbed(|| Ok(answers.next().unwrap())).unwrap(), 150.0);
        assert!(answers.next().is_none());
    }

    #[test]
    fn a_device_that_stays_slow_is_waited_for_once() {
        let mut pace = Pace { patient: false, ..Pace::new(100.0) };
        let mut taken = 0;
        let mut measure = |known_ns: f64| {
            pace.undisturbed(|| {
                taken += 1;
                Ok((300.0, known_ns))
            })
            .unwrap()
        };
        assert_eq!(measure(200.0), 150.0);
        assert_eq!(measure(100.0), 300.0);
        assert_eq!(taken, 2);
        assert!(pace.patient, "it has recovered");
    }
}
