//! A chip on this machine: device core and chip runtime, as the firmware has them, behind a unix socket.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hanas_chip_runtime::ChipRuntime;
use hanas_device_core::device::{Device, MAX_SLOTS, MIN_BLOCKS, Memory};
use hanas_device_core::dialogue::AGENT_VERSION;
use hanas_device_core::{Clock, Link};
use hanas_proto::handshake::{DeviceFacts, ModelForm};
use hanas_proto::measure::RoundContext;
use hanas_proto::units::Nanos;
use tempfile::TempDir;

/// A quiet link is looked at this often.
const LOOK: Duration = Duration::from_micros(100);

/// A chip that runs until it is dropped.
#[derive(Debug)]
pub struct ChipHere {
    folder: TempDir,
    stop: Arc<AtomicBool>,
    device: Option<JoinHandle<()>>,
}

impl ChipHere {
    /// A chip with so much working memory, and as much for content.
    ///
    /// # Panics
    /// Where there can be no socket.
    #[must_use]
    pub fn serve(memory: usize) -> Self {
        let folder = tempfile::tempdir().expect("room for temporary files");
        let listener = UnixListener::bind(folder.path().join("chip")).expect("a socket can be bound");
        listener.set_nonblocking(true).expect("a socket can be set up");
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let device = thread::spawn(move || run(listener, memory, &ended));
        Self { folder, stop, device: Some(device) }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("chip")
    }
}

impl Drop for ChipHere {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(device) = self.device.take() {
            device.join().ok();
        }
    }
}

fn run(listener: UnixListener, memory: usize, stop: &AtomicBool) {
    let (mut work, mut contents) = (vec![0u32; memory / 4], vec![0u8; memory]);
    let (mut content, mut blocks, mut answers) = (vec![0; memory], vec![0; 4 * MIN_BLOCKS], vec![0; 2048]);
    let facts = DeviceFacts {
        agent: AGENT_VERSION,
        runtime: "hanas-chip",
        threads: 1,
        form: ModelForm::Chip,
        name: "chip here",
        cpu: "",
        arch: std::env::consts::ARCH,
        os: "",
        cores: 1,
        pinned: 1,
        memory_bytes: memory as u64,
        governor: "",
        clock_resolution_ns: 1,
    };
    let clock = Watch { start: Instant::now(), round: Nanos(0) };
    let runtime = ChipRuntime::new(clock, &mut work, &mut contents);
    let memory = Memory { content: &mut content, blocks: &mut blocks, answers: &mut answers };
    let link = Socket { listener, stream: None };
    let mut device = Device::new(runtime, clock, link, facts, MAX_SLOTS as u16, memory);
    while !stop.load(Ordering::Relaxed) {
        device.turn();
        thread::sleep(LOOK);
    }
}

#[derive(Debug, Clone, Copy)]
struct Watch {
    start: Instant,
    round: Nanos,
}

impl Clock for Watch {
    fn now(&mut self) -> Nanos {
        Nanos::from_duration(self.start.elapsed())
    }

    fn begin_round(&mut self) {
        self.round = self.now();
    }

    fn end_round(&mut self) -> RoundContext {
        let wall_us = (self.now() - self.round).0 / 1000;
        RoundContext { wall_us, cpu_us: wall_us, ..RoundContext::default() }
    }
}

/// One connection at a time; the next is taken when the last has ended.
#[derive(Debug)]
struct Socket {
    listener: UnixListener,
    stream: Option<UnixStream>,
}

impl Link for Socket {
    fn read(&mut self, into: &mut [u8]) -> usize {
        if self.stream.is_none() {
            self.stream = self.listener.accept().ok().map(|(stream, _)| stream);
            if let Some(stream) = &self.stream {
                stream.set_nonblocking(true).expect("a socket can be set up");
            }
        }
        match self.stream.as_mut().map(|stream| stream.read(into)) {
            Some(Ok(read)) if read > 0 => read,
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => 0,
            _ => {
                self.stream = None;
                0
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        self.stream.as_mut().and_then(|stream| stream.write(bytes).ok()).unwrap_or(0)
    }
}
