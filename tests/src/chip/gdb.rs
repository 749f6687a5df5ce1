//! QEMU's gdb stub as a debug port: memory, registers, halt and run.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long QEMU may take to open its socket, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The stub's number of the program status.
pub const STATUS: u32 = 25;

/// `nop; b` back to it. A loop of one instruction is taken for a breakpoint by probe-rs, which steps over it.
pub const ENDLESS_LOOP: [u16; 2] = [0xBF00, 0xE7FD];

/// Bytes of memory that the stub sends in one packet, at most.
const PACKET: usize = 1024;

/// A connection to the stub.
#[derive(Debug)]
pub struct Gdb {
    stream: UnixStream,
    received: Vec<u8>,
    halted: bool,
}

impl Gdb {
    /// Connects; the processor stands.
    ///
    /// # Errors
    /// The system's, or where nothing answers.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut gdb = Self { stream, received: Vec::new(), halted: true };
        // QEMU numbers the registers after the description that was asked for.
        gdb.ask("qXfer:features:read:target.xml:0,ffb")?;
        gdb.ask("?")?;
        Ok(gdb)
    }

    /// Has the processor run an endless loop in memory at `ram`: without vectors it would lock up, which
    /// ends QEMU.
    ///
    /// # Errors
    /// The system's.
    pub fn idle(&mut self, ram: u32) -> io::Result<()> {
        const THUMB: u32 = 1 << 24;
        self.write(ram, &ENDLESS_LOOP.map(u16::to_le_bytes).concat())?;
        for (register, value) in [(13, ram + 0x1000), (15, ram), (STATUS, THUMB)] {
            self.set_register(register, value)?;
        }
        self.run()
    }

    fn send(&mut self, command: &str) -> io::Result<()> {
        let sum = command.bytes().fold(0u8, u8::wrapping_add);
        self.stream.write_all(format!("+${command}#{sum:02x}").as_bytes())
    }

    fn receive(&mut self) -> io::Result<String> {
        loop {
            if let Some(packet) = self.packet() {
                return Ok(packet);
            }
            let mut buffer = [0; 65536];
            let read = self.stream.read(&mut buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.received.extend_from_slice(&buffer[..read]);
        }
    }

    fn packet(&mut self) -> Option<String> {
        let start = self.received.iter().position(|&byte| byte == b'$')?;
        let end = start + self.received[start..].iter().position(|&byte| byte == b'#')?;
        if self.received.len() < end + 3 {
            return None;
        }
        let packet = String::from_utf8_lossy(&self.received[start + 1..end]).into_owned();
        self.received.drain(..end + 3);
        Some(packet)
    }

    /// One command and its answer; the processor must be halted.
    ///
    /// # Errors
    /// The system's.
    pub fn ask(&mut self, command: &str) -> io::Result<String> {
        self.send(command)?;
        self.receive()
    }

    /// Stops the processor.
    ///
    /// # Errors
    /// The system's.
    pub fn halt(&mut self) -> io::Result<()> {
        if !self.is_halted()? {
            self.stream.write_all(&[3])?;
            self.receive()?;
            self.halted = true;
        }
        Ok(())
    }

    /// Lets the processor run.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&mut self) -> io::Result<()> {
        if self.halted {
            self.send("c")?;
            self.halted = false;
        }
        Ok(())
    }

    /// Whether it stands; it may have met a breakpoint.
    ///
    /// # Errors
    /// The system's.
    pub fn is_halted(&mut self) -> io::Result<bool> {
        if !self.halted {
            self.stream.set_nonblocking(true)?;
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer);
            self.stream.set_nonblocking(false)?;
            if let Ok(read) = read {
                self.received.extend_from_slice(&buffer[..read]);
            }
            self.halted = self.packet().is_some();
        }
        Ok(self.halted)
    }

    fn stopped<T>(&mut self, act: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        let ran = !self.is_halted()?;
        self.halt()?;
        let done = act(self)?;
        if ran {
            self.run()?;
        }
        Ok(done)
    }

    /// Reads memory; where there is none, zeros.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&mut self, address: u32, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let part = PACKET.min(len - bytes.len());
            let from = address.wrapping_add(bytes.len() as u32);
            let answer = self.stopped(|gdb| gdb.ask(&format!("m{from:x},{part:x}")))?;
            let mut read = from_hex(&answer).unwrap_or_default();
            read.resize(part, 0);
            bytes.extend(read);
        }
        Ok(bytes)
    }

    /// Writes memory.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self, address: u32, bytes: &[u8]) -> io::Result<()> {
        let command = format!("M{address:x},{:x}:{}", bytes.len(), to_hex(bytes));
        self.stopped(|gdb| gdb.ask(&command)).map(drop)
    }

    /// Reads a register by the stub's number.
    ///
    /// # Errors
    /// The system's.
    pub fn register(&mut self, number: u32) -> io::Result<u32> {
        let answer = self.stopped(|gdb| gdb.ask(&format!("p{number:x}")))?;
        let bytes = from_hex(&answer).unwrap_or_default();
        Ok(bytes.iter().take(4).rev().fold(0, |word, &byte| word << 8 | u32::from(byte)))
    }

    /// Writes a register.
    ///
    /// # Errors
    /// The system's.
    pub fn set_register(&mut self, number: u32, value: u32) -> io::Result<()> {
        let command = format!("P{number:x}={}", to_hex(&value.to_le_bytes()));
        self.stopped(|gdb| gdb.ask(&command)).map(drop)
    }

    /// Resets the machine; the processor stands at its first instruction.
    ///
    /// # Errors
    /// The system's.
    pub fn reset(&mut self) -> io::Result<()> {
        self.halt()?;
        self.send(&format!("qRcmd,{}", to_hex(b"system_reset")))?;
        while self.receive()? != "OK" {}
        // The machine resets when the monitor has answered.
        thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    /// Runs one instruction.
    ///
    /// # Errors
    /// The system's.
    pub fn step(&mut self) -> io::Result<()> {
        self.halt()?;
        self.ask("s").map(drop)
    }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal digits as bytes; none where they are none.
#[must_use]
pub fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair.filter(|pair| pair.len() == 2)?, 16).ok()).collect()
}
