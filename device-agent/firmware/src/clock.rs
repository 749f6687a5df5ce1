//! Cycles of the processor -> nanoseconds.
//!
//! The cycle counter of the trace unit (DWT) counts without taking any time. Where there is none, as in
//! an emulator, SysTick counts the same cycles, with an interrupt every 2^24 of them.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::peripheral::{DCB, DWT, SYST};
use cortex_m_rt::exception;
use hanas_device_core::Clock;
use hanas_proto::measure::RoundContext;
use hanas_proto::units::Nanos;

/// SysTick counts down from here.
const RELOAD: u32 = 0x00ff_ffff;

static HAS_DWT: AtomicBool = AtomicBool::new(false);
/// Times that the counter in use went round.
static WRAPS: AtomicU32 = AtomicU32::new(0);
/// The DWT's counter when it was last looked at.
static LAST: AtomicU32 = AtomicU32::new(0);

/// The processor's cycles as a clock.
#[derive(Debug, Clone)]
pub struct Cycles {
    hz: u32,
    /// Nanoseconds a cycle, in 2^-24.
    scale: u64,
    round: Nanos,
}

impl Cycles {
    /// Sets the counters off, for a processor at `hz`.
    pub fn start(mut dcb: DCB, mut dwt: DWT, mut syst: SYST, hz: u32) -> Self {
        dcb.enable_trace();
        dwt.enable_cycle_counter();
        let before = DWT::cycle_count();
        cortex_m::asm::delay(100);
        HAS_DWT.store(DWT::cycle_count() != before, Ordering::Relaxed);
        if !HAS_DWT.load(Ordering::Relaxed) {
            syst.set_clock_source(SystClkSource::Core);
            syst.set_reload(RELOAD);
            syst.clear_current();
            syst.enable_counter();
            syst.enable_interrupt();
        }
        Self { hz, scale: (1_000_000_000 << 24) / u64::from(hz), round: Nanos(0) }
    }

    /// Whether the DWT counts.
    pub fn is_dwt(&self) -> bool {
        HAS_DWT.load(Ordering::Relaxed)
    }

    /// A cycle, rounded up.
    pub const fn resolution_ns(&self) -> u32 {
        1_000_000_000_u32.div_ceil(self.hz)
    }
}

/// Cycles since the start. Looked at all the time, between runs as well: the DWT goes round in 25 s at
/// 168 MHz, and a single run that takes longer would be short by that.
fn cycles() -> u64 {
    if HAS_DWT.load(Ordering::Relaxed) {
        let now = DWT::cycle_count();
        if now < LAST.swap(now, Ordering::Relaxed) {
            WRAPS.fetch_add(1, Ordering::Relaxed);
        }
        return u64::from(WRAPS.load(Ordering::Relaxed)) << 32 | u64::from(now);
    }
    loop {
        let wraps = WRAPS.load(Ordering::Relaxed);
        let passed = RELOAD - SYST::get_current();
        // The interrupt of a counter that went round comes before the next instruction.
        if WRAPS.load(Ordering::Relaxed) == wraps {
            return u64::from(wraps) << 24 | u64::from(passed);
        }
    }
}

#[exception]
fn SysTick() {
    WRAPS.fetch_add(1, Ordering::Relaxed);
}

impl Clock for Cycles {
    fn now(&mut self) -> Nanos {
        // A division would take longer than some layers do.
        let cycles = cycles();
        let (high, low) = (cycles >> 32, cycles & 0xffff_ffff);
        Nanos(((low * self.scale) >> 24) + ((high * self.scale) << 8))
    }

    fn begin_round(&mut self) {
        self.round = self.now();
    }

    fn end_round(&mut self) -> RoundContext {
        let wall_us = (self.now() - self.round).0 / 1000;
        // Nothing else runs here. There is no calendar: the host knows when it was.
        RoundContext {
            wall_us,
            cpu_us: wall_us,
            frequency_khz: Some(self.hz / 1000),
            ..RoundContext::default()
        }
    }
}
