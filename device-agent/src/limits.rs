//! The limits that a worker puts on itself before it loads anything.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::settings::{Pin, WorkerSettings};

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
        Pin::Cpu(cpu) => Some(cpu),
        // The last one: the first has the most interrupts to serve.
        Pin::Auto => usable.last().copied().filter(|_| usable.len() > 1 && settings.threads == 1),
    };
    let Some(cpu) = cpu else { return Ok(0) };
    let refused = |error| LimitError::Pin { cpu, error, usable: format!("{usable:?}") };
    if cpu >= CpuSet::MAX_CPU {
        return Err(refused(io::ErrorKind::InvalidInput.into()));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| refused(error.into()))?;
    Ok(u32::try_from(cpu).ok().and_then(|cpu| 1u64.checked_shl(cpu)).unwrap_or(0))
}

fn usable_cpus() -> Vec<usize> {
    // Without the call there is nothing to choose from, and so no binding.
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}
