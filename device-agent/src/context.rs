//! The circumstances of a round: counters before and after it, and what the sensors say.
//!
//! Files stay open and are read again: a round of a tiny model is shorter than opening them.

use std::ffi::c_long;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hanas_device_core::Clock;
use hanas_proto::Nanos;
use hanas_proto::measure::RoundContext;
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// /proc/stat counts in ticks of 1/100 s on every Linux, whatever the kernel's own rate.
const TICK_US: u64 = 10_000;

/// A reading younger than a tick is as exact as another one, which takes some 20 us.
const TICK: Duration = Duration::from_micros(TICK_US);

/// Sensors are read this often at most: one over a slow bus takes milliseconds.
const SENSOR_AGE: Duration = Duration::from_millis(100);

/// Where the kernel lists its sensors.
const THERMAL: &str = "/sys/class/thermal";

/// Tells the time, reads counters and sensors.
#[derive(Debug)]
pub struct Probe {
    started: Instant,
    round: Option<Reading>,
    stat: Option<File>,
    counted: Option<(Instant, Processors)>,
    sensors: Vec<File>,
    frequency: Option<File>,
    sensed: Option<Sensed>,
}

#[derive(Debug, Clone, Copy)]
struct Sensed {
    at: Instant,
    temperature_mc: Option<i32>,
    frequency_khz: Option<u32>,
}

/// Counters at one moment.
#[derive(Debug)]
pub struct Reading {
    at: Instant,
    usage: Option<Usage>,
    processors: Option<Processors>,
}

impl Clock for Probe {
    fn now(&mut self) -> Nanos {
        Nanos::from_duration(self.started.elapsed())
    }

    fn begin_round(&mut self) {
        self.round = Some(self.read());
    }

    fn end_round(&mut self) -> RoundContext {
        self.round.take().map_or_else(RoundContext::default, |before| self.since(&before))
    }
}

/// All processors' time since the system started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Processors {
    busy: u64,
    steal: u64,
}

impl Probe {
    /// Opens what there is. `pinned` are the worker's processors as a bit mask; 0 where it is not bound.
    #[must_use]
    pub fn open(pinned: u64) -> Self {
        let cpu = if pinned == 0 { 0 } else { pinned.trailing_zeros() };
        let zones = fs::read_dir(THERMAL).into_iter().flatten().flatten();
        let sensors = zones
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("thermal_zone"))
            .filter_map(|entry| File::open(entry.path().join("temp")).ok())
            .collect();
        let frequency = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq");
        Self {
            started: Instant::now(),
            round: None,
            stat: File::open("/proc/stat").ok(),
            counted: None,
            sensors,
            frequency: File::open(frequency).ok(),
            sensed: None,
        }
    }

    /// The counters now.
    #[must_use]
    pub fn read(&mut self) -> Reading {
        let processors = self.processors();
        Reading { at: Instant::now(), usage: getrusage(UsageWho::RUSAGE_SELF).ok(), processors }
    }

    fn processors(&mut self) -> Option<Processors> {
        if self.counted.is_none_or(|(at, _)| at.elapsed() >= TICK) {
            let processors = self.stat.as_ref().and_then(read_text).and_then(|text| parse_stat(&text));
            self.counted = processors.map(|processors| (Instant::now(), processors));
        }
        self.counted.map(|(_, processors)| processors)
    }

    /// What happened since `before`.
    pub fn since(&mut self, before: &Reading) -> RoundContext {
        let now = self.read();
        let sensed = self.sense();
        let processors = now.processors.zip(before.processors);
        let passed = |of: fn(Processors) -> u64| {
            processors.map(|(now, before)| of(now).saturating_sub(of(before)) * TICK_US)
        };
        let both = now.usage.as_ref().zip(before.usage.as_ref());
        let counted = |of: fn(&Usage) -> c_long| {
            both.map_or(0, |(now, before)| u32::try_from(of(now) - of(before)).unwrap_or(0))
        };
        let cpu_us = |usage: &Usage| (usage.user_time() + usage.system_time()).num_microseconds();
        RoundContext {
            unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, whole_ms),
            wall_us: u64::try_from((now.at - before.at).as_micros()).unwrap_or(u64::MAX),
            cpu_us: both
                .and_then(|(now, before)| u64::try_from(cpu_us(now) - cpu_us(before)).ok())
                .unwrap_or(0),
            steal_us: passed(|processors| processors.steal),
            busy_us: passed(|processors| processors.busy),
            temperature_mc: sensed.temperature_mc,
            frequency_khz: sensed.frequency_khz,
            voluntary_switches: counted(Usage::voluntary_context_switches),
            involuntary_switches: counted(Usage::involuntary_context_switches),
            minor_faults: counted(Usage::minor_page_faults),
            major_faults: counted(Usage::major_page_faults),
        }
    }

    fn sense(&mut self) -> Sensed {
        if let Some(sensed) = self.sensed.filter(|sensed| sensed.at.elapsed() < SENSOR_AGE) {
            return sensed;
        }
        let sensed = Sensed {
            at: Instant::now(),
            temperature_mc: self.sensors.iter().filter_map(read_number).max(),
            frequency_khz: self.frequency.as_ref().and_then(read_number),
        };
        self.sensed = Some(sensed);
        sensed
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The front of a file, read anew.
fn read_text(file: &File) -> Option<String> {
    let mut buffer = [0; 256];
    let read = file.read_at(&mut buffer, 0).ok()?;
    Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

fn read_number<N: std::str::FromStr>(file: &File) -> Option<N> {
    read_text(file)?.trim().parse().ok()
}

/// The line `cpu user nice system idle iowait irq softirq steal ...` (proc(5)).
fn parse_stat(text: &str) -> Option<Processors> {
    let mut fields = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map(|field| field.parse());
    let mut next = || fields.next()?.ok();
    let (user, nice, system): (u64, u64, u64) = (next()?, next()?, next()?);
    let (_idle, _iowait, irq, softirq, steal): (u64, u64, u64, u64, u64) =
        (next()?, next()?, next()?, next()?, next()?);
    Some(Processors { busy: user + nice + system + irq + softirq, steal })
}

/// The smallest step that the clock was seen to make, in nanoseconds.
#[must_use]
pub fn clock_resolution_ns() -> u32 {
    const LOOKS: usize = 1000;
    let step = |_| {
        let start = Instant::now();
        loop {
            let passed = start.elapsed().as_nanos();
            if passed > 0 {
                return passed;
            }
        }
    };
    (0..LOOKS).map(step).min().and_then(|step| u32::try_from(step).ok()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processors_line_is_read_by_its_columns() {
        let text = "cpu  100 20 30 4000 50 6 7 8 9 10\ncpu0 1 2 3\n";
        assert_eq!(parse_stat(text), Some(Processors { busy: 163, steal: 8 }));
        assert_eq!(parse_stat("cpu  1 2 3\n"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn work_shows_in_the_counters() {
        let mut probe = Probe::open(0);
        let before = probe.read();
        let touched = vec![1u8; 8 << 20];
        let mut sum = 0u64;
        while before.at.elapsed() < Duration::from_millis(30) {
            sum += touched.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        }
        let context = probe.since(&before);
        assert!(sum > 0 && context.wall_us >= 30_000);
        assert!(context.cpu_us > 0 && context.minor_faults > 0);
        assert!(context.unix_ms > 1_600_000_000_000);
    }

    #[test]
    fn the_clock_moves() {
        assert!((1..1_000_000).contains(&clock_resolution_ns()));
    }
}
