//! The limits that a worker puts on itself before it loads anything.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::facts::online;
use crate::settings::{Pin, WorkerSettings};

/// Processors that can be told to hosts: those of a 64-bit mask.
const TELLABLE: usize = 64;

/// A limit that the system does not take.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The address space cannot be limited.
    #[error("cannot limit its memory to {bytes} bytes: {error}; try another --memory-limit")]
    Memory {
        /// The limit.
        bytes: u64,
        /// Why.
        error: io::Error,
    },
    /// The processor cannot be had.
    #[error("cannot be bound to processor {cpu}: {error}; take --pin none or one of {usable}")]
    Pin {
        /// The processor.
        cpu: usize,
        /// Why.
        error: io::Error,
        /// Processors that could be had.
        usable: String,
    },
    /// The host could not be told.
    #[error(
        "cannot be bound to processor {0}: hosts hear of the first {most}; take --pin none or one of them",
        most = TELLABLE
    )]
    PinBeyond(usize),
}

/// Limits memory, switches core dumps off, binds the process. Returns the processors it is bound to
/// as a bit mask; 0 where it is not bound.
///
/// # Errors
/// [`LimitError`] where the system refuses.
pub fn apply(settings: &WorkerSettings) -> Result<u64, LimitError> {
    let bytes = settings.memory_limit_bytes;
    let limit = |size| Rlimit { current: Some(size), maximum: Some(size) };
    // A dump of gigabytes helps nobody and fills the board's disk. Where even this is refused, it is off.
    setrlimit(Resource::Core, limit(0)).ok();
    setrlimit(Resource::As, limit(bytes))
        .map_err(|error| LimitError::Memory { bytes, error: error.into() })?;
    let usable = usable_cpus();
    let cpu = match settings.pin {
        Pin::Off => None,
        Pin::Cpu(cpu) if cpu >= TELLABLE => return Err(LimitError::PinBeyond(cpu)),
        Pin::Cpu(cpu) => Some(cpu),
        Pin::Auto => chosen(&usable, online(), settings.threads),
    };
    let Some(cpu) = cpu else { return Ok(0) };
    let refused = |error: io::Error| LimitError::Pin { cpu, error, usable: format!("{usable:?}") };
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| refused(error.into()))?;
    Ok(1u64 << cpu)
}

/// The processor of `--pin auto`: the last that can be told, for the first has the most interrupts to serve.
/// None where the system has only one, or the threads need more.
fn chosen(usable: &[usize], online: u16, threads: u16) -> Option<usize> {
    let last = usable.iter().rev().copied().find(|&cpu| cpu < TELLABLE);
    last.filter(|_| online > 1 && threads == 1)
}

fn usable_cpus() -> Vec<usize> {
    // Without the call there is nothing to choose from, and so no binding.
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_processor_is_chosen_that_a_host_can_be_told() {
        assert_eq!(chosen(&[0, 1, 2, 3], 4, 1), Some(3));
        assert_eq!(chosen(&(0..128).collect::<Vec<_>>(), 128, 1), Some(63));
        assert_eq!(chosen(&[60, 70, 80], 128, 1), Some(60));
        assert_eq!(chosen(&[70, 80], 128, 1), None);
        assert_eq!(chosen(&[2], 4, 1), Some(2), "where it is confined to");
        assert_eq!(chosen(&[0], 1, 1), None);
        assert_eq!(chosen(&[0, 1, 2, 3], 4, 4), None);
    }
}
