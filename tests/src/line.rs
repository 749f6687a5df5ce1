//! A serial line between two programs: two pseudoterminals and the wire between them.
//!
//! A pseudoterminal takes bytes as fast as they come, whatever its baud rate; the wire here carries
//! only as many a second as a real one, and spoils or loses some if asked.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// How often a quiet wire looks whether it is to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A wire with nobody at its end is looked at again after this long.
const NOBODY: Duration = Duration::from_millis(2);

/// What the wire is like, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// Bits a second; a byte takes ten.
    pub baud: u32,
    /// One byte in this many has a bit flipped, at random; 0: none.
    pub flip_one_in: u32,
    /// One byte in this many is lost, at random; 0: none.
    pub lose_one_in: u32,
    /// Seed of the faults.
    pub seed: u64,
}

/// A line with a program at either end.
#[derive(Debug)]
pub struct PtyBridge {
    /// Where the agent opens it.
    pub agent_side: PathBuf,
    /// Where the host opens it.
    pub host_side: PathBuf,
    faults: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    pumps: Vec<JoinHandle<()>>,
}

impl Wire {
    /// A wire without faults.
    #[must_use]
    pub const fn clean(baud: u32) -> Self {
        Self { baud, flip_one_in: 0, lose_one_in: 0, seed: 0 }
    }
}

impl PtyBridge {
    /// Lays a line.
    ///
    /// # Panics
    /// Where the system gives no pseudoterminals.
    #[must_use]
    pub fn new(wire: Wire) -> Self {
        let (agent_end, agent_side) = terminal().expect("the system gives pseudoterminals");
        let (host_end, host_side) = terminal().expect("the system gives pseudoterminals");
        let (agent_end, host_end) = (Arc::new(agent_end), Arc::new(host_end));
        let (faults, stop) = (Arc::default(), Arc::default());
        let pump = |from: &Arc<OwnedFd>, to: &Arc<OwnedFd>, direction: u64| {
            let mut pump = Pump {
                from: Arc::clone(from),
                to: Arc::clone(to),
                wire,
                rng: ChaCha8Rng::seed_from_u64(2 * wire.seed + direction),
                faults: Arc::clone(&faults),
                stop: Arc::clone(&stop),
                free: Instant::now(),
            };
            thread::spawn(move || pump.run())
        };
        let pumps = vec![pump(&host_end, &agent_end, 0), pump(&agent_end, &host_end, 1)];
        Self { agent_side, host_side, faults, stop, pumps }
    }

    /// Bytes spoiled or lost so far.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
}

impl Drop for PtyBridge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for pump in self.pumps.drain(..) {
            pump.join().ok();
        }
    }
}

/// A pseudoterminal without any processing: its own end, and the path of the other.
fn terminal() -> rustix::io::Result<(OwnedFd, PathBuf)> {
    let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&end)?;
    unlockpt(&end)?;
    let path = PathBuf::from(OsString::from_vec(ptsname(&end, Vec::new())?.into_bytes()));
    make_raw(&path)?;
    fcntl_setfl(&end, OFlags::NONBLOCK)?;
    Ok((end, path))
}

/// Else what arrives before the program opens its side would be echoed. The setting outlives this.
fn make_raw(path: &Path) -> rustix::io::Result<()> {
    let side = File::options().read(true).write(true).open(path).map_err(|_| Errno::IO)?;
    let mut settings = tcgetattr(&side)?;
    settings.make_raw();
    tcsetattr(&side, OptionalActions::Now, &settings)
}

/// One direction.
struct Pump {
    from: Arc<OwnedFd>,
    to: Arc<OwnedFd>,
    wire: Wire,
    rng: ChaCha8Rng,
    faults: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// When the wire has carried all it was given.
    free: Instant,
}

impl Pump {
    fn run(&mut self) {
        let mut buffer = [0; 256];
        while !self.stop.load(Ordering::Relaxed) {
            match rustix::io::read(&*self.from, &mut buffer) {
                Ok(read) if read > 0 => self.carry(&buffer[..read]),
                Err(Errno::AGAIN) => wait(&self.from, PollFlags::IN),
                // Nobody has the other side open.
                _ => thread::sleep(NOBODY),
            }
        }
    }

    fn carry(&mut self, bytes: &[u8]) {
        let per_byte = Duration::from_secs(10) / self.wire.baud;
        self.free = self.free.max(Instant::now()) + per_byte * bytes.len() as u32;
        thread::sleep(self.free.saturating_duration_since(Instant::now()));
        let bytes: Vec<u8> = bytes.iter().filter_map(|&byte| self.fault(byte)).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() && !self.stop.load(Ordering::Relaxed) {
            match rustix::io::write(&*self.to, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::AGAIN) => wait(&self.to, PollFlags::OUT),
                Err(_) => thread::sleep(NOBODY),
            }
        }
    }

    /// The byte as it arrives, if it does.
    fn fault(&mut self, byte: u8) -> Option<u8> {
        let mut happens = |one_in: u32| one_in > 0 && self.rng.random_range(0..one_in) == 0;
        let (flipped, lost) = (happens(self.wire.flip_one_in), happens(self.wire.lose_one_in));
        self.faults.fetch_add(u64::from(flipped || lost), Ordering::Relaxed);
        let bit = if flipped { 1 << self.rng.random_range(0..8) } else { 0 };
        (!lost).then_some(byte ^ bit)
    }
}

fn wait(end: &OwnedFd, what: PollFlags) {
    let mut ends = [PollFd::new(end, what)];
    // A signal only makes it look earlier.
    poll(&mut ends, Some(&LOOK)).ok();
    if ends[0].revents().contains(PollFlags::HUP) {
        thread::sleep(NOBODY);
    }
}
