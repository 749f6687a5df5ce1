//! A Black Magic Probe (remote protocol 1) over TCP, in front of QEMU's gdb stub: what probe-rs attaches
//! to. What QEMU lacks of a Cortex-M's debug unit is answered here.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Machine;
use super::gdb::{Gdb, STATUS, from_hex, to_hex};

/// Debug halting control and status, core register selector and data, exception monitor control, fault
/// status, application interrupt and reset control (ARMv7-M, C1.6 and B3.2).
const DHCSR: u32 = 0xE000_EDF0;
const DCRSR: u32 = 0xE000_EDF4;
const DCRDR: u32 = 0xE000_EDF8;
const DEMCR: u32 = 0xE000_EDFC;
const DFSR: u32 = 0xE000_ED30;
const AIRCR: u32 = 0xE000_ED0C;
/// The breakpoint unit's comparators.
const COMPARATORS: std::ops::Range<u32> = 0xE000_2008..0xE000_2020;
/// IDCODE of the debug port.
const DPIDR: u32 = 0x2BA0_1477;

/// The probe, until it is dropped.
#[derive(Debug)]
pub struct ProbeBridge {
    port: u16,
    machine: Machine,
    gdb: Arc<Mutex<Gdb>>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl ProbeBridge {
    /// Serves one host after another on a free port.
    ///
    /// # Panics
    /// Where there is no port.
    #[must_use]
    pub fn new(gdb: Gdb, machine: Machine) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
        listener.set_nonblocking(true).expect("a socket can be set up");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let (gdb, stop) = (Arc::new(Mutex::new(gdb)), Arc::new(AtomicBool::new(false)));
        let mut unit = Unit::new(Arc::clone(&gdb), machine);
        let ended = Arc::clone(&stop);
        let server = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A host that goes away ends its connection, not the probe.
                    Ok((stream, _)) => unit.serve(stream, &ended).unwrap_or_default(),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { port, machine, gdb, stop, server: Some(server) }
    }

    /// Its address as `hanas` writes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("probe://1d50:6018:127.0.0.1:{}?chip={}", self.port, self.machine.chip)
    }

    /// The chip behind the probe's back.
    ///
    /// # Panics
    /// Where QEMU does not answer.
    pub fn chip<T>(&self, act: impl FnOnce(&mut Gdb) -> io::Result<T>) -> T {
        act(&mut self.gdb.lock().unwrap_or_else(PoisonError::into_inner)).expect("QEMU answers")
    }
}

impl Drop for ProbeBridge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            server.join().ok();
        }
    }
}

/// The debug unit as the probe sees it.
struct Unit {
    gdb: Arc<Mutex<Gdb>>,
    /// Registers that keep what was written.
    registers: HashMap<u32, u32>,
    access_port: HashMap<u32, u32>,
    control: u32,
    debug_control: u32,
    was_reset: bool,
    /// Breakpoint planted where a flash algorithm returns to.
    planted: Option<u32>,
    shifted_out: u64,
    shifted_in: u64,
    has_shifted: bool,
}

impl Unit {
    fn new(gdb: Arc<Mutex<Gdb>>, machine: Machine) -> Self {
        let mut registers = HashMap::new();
        // A ROM table with the system control space, each with its component's identification.
        for (base, class, part) in
            [(0xE00F_F000u32, 1u32, 0x4C4u32), (0xE000_E000, 0xE, machine.control_space)]
        {
            registers.extend([
                (base + 0xFF0, 0x0D),
                (base + 0xFF4, class << 4),
                (base + 0xFF8, 0x05),
                (base + 0xFFC, 0xB1),
                (base + 0xFE0, part & 0xff),
                (base + 0xFE4, 0xB0 | part >> 8),
                (base + 0xFE8, 0x0B),
                (base + 0xFEC, 0),
                (base + 0xFD0, 4),
            ]);
        }
        registers.extend([
            (0xE00F_F000, 0xFFF0_F003),
            (0xE00F_FFCC, 1),
            (0xE000_ED00, machine.processor),
            (0xE000_2000, 0x260),
            (0xE004_2000, 0x1007_6413),
        ]);
        Self {
            gdb,
            registers,
            access_port: HashMap::from([(0, 0x2300_0052), (4, 0)]),
            control: 0xF000_0000,
            debug_control: 0,
            was_reset: false,
            planted: None,
            shifted_out: 0,
            shifted_in: 0,
            has_shifted: false,
        }
    }

    fn serve(&mut self, mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (mut held, mut buffer) = (Vec::new(), [0; 4096]);
        while !stop.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => held.extend_from_slice(&buffer[..read]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error),
            }
            while let Some(end) = held.iter().position(|&byte| byte == b'#') {
                let packet: Vec<u8> = held.drain(..=end).collect();
                let text = String::from_utf8_lossy(&packet[..end]).into_owned();
                if let Some((_, command)) = text.split_once('!') {
                    let answer = self.answer(command)?;
                    stream.write_all(format!("&{answer}#").as_bytes())?;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, command: &str) -> io::Result<String> {
        // Fields of fixed width; one that is cut is a probe-rs that speaks otherwise.
        let hex = |from: usize, to: usize| {
            let digits = command.get(from..to).ok_or(io::ErrorKind::InvalidData)?;
            u32::from_str_radix(digits, 16).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
        };
        let word = |word: u32| format!("K{}", to_hex(&word.to_le_bytes()));
        Ok(match command.get(..2).unwrap_or(command) {
            "GA" => "KBMP in front of QEMU".to_owned(),
            "HC" => "K1".to_owned(),
            "GV" => "K3.3".to_owned(),
            "So" => self.shift_out(hex(2, 4)?, u64::from_str_radix(&command[4..], 16).unwrap_or(0)),
            "Si" => self.shift_in(hex(2, 4)?),
            "HL" => {
                if hex(6, 10)? == 4 {
                    // Power that is asked for is acknowledged.
                    let value = hex(10, 18)?;
                    self.control = value & 0x0fff_ffff | (value & 0x5000_0000) << 1 | value & 0x5000_0000;
                }
                "K0".to_owned()
            }
            "Hd" => word(match hex(6, 10)? & 0xf {
                0 => DPIDR,
                4 => self.control,
                _ => 0,
            }),
            "Ha" => {
                let (port, register) = (hex(4, 6)?, hex(6, 10)? & 0xff);
                let kept = self.access_port.get(&register).copied().unwrap_or(0);
                word(match register {
                    _ if port != 0 => 0,
                    0xFC => 0x2477_0011,
                    0xF8 => 0xE00F_F003,
                    0xF4 => 0,
                    _ => kept,
                })
            }
            "HA" => {
                self.access_port.insert(hex(6, 10)? & 0xff, hex(10, 18)?);
                "K0".to_owned()
            }
            "HM" => {
                let bytes = self.read(hex(14, 22)?, hex(22, 30)? as usize)?;
                format!("K{}", to_hex(&bytes))
            }
            "Hm" => {
                let (address, len) = (hex(16, 24)?, hex(24, 32)? as usize);
                let bytes = command.get(32..32 + 2 * len).and_then(from_hex).unwrap_or_default();
                self.write(address, &bytes)?;
                "K0".to_owned()
            }
            "SS" | "SO" | "SI" => "K0".to_owned(),
            other if other.starts_with('G') => "K0".to_owned(),
            _ => "N0".to_owned(),
        })
    }

    /// Keeps the last 64 bits that were shifted out, the newest on top.
    fn shift_out(&mut self, bits: u32, value: u64) -> String {
        let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        self.shifted_out = self.shifted_out.checked_shr(bits).unwrap_or(0)
            | (value & mask) << 64u32.saturating_sub(bits).min(63);
        self.has_shifted = true;
        "K0".to_owned()
    }

    /// The answer to the request in the last eight bits: acknowledgement, value, parity.
    fn shift_in(&mut self, bits: u32) -> String {
        if std::mem::take(&mut self.has_shifted) {
            let request = self.shifted_out >> 56;
            let reads_debug_port = request & 4 != 0 && request & 2 == 0;
            let value = match (request >> 3 & 3) << 2 {
                0 if reads_debug_port => DPIDR,
                4 if reads_debug_port => self.control,
                _ => 0,
            };
            self.shifted_in = 1 | u64::from(value) << 3 | u64::from(value.count_ones() & 1) << 35;
        }
        let mask = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        let answer = self.shifted_in & mask;
        self.shifted_in = self.shifted_in.checked_shr(bits).unwrap_or(0);
        format!("K{answer:x}")
    }

    fn gdb<T>(&self, act: impl FnOnce(&mut Gdb) -> io::Result<T>) -> io::Result<T> {
        act(&mut self.gdb.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn kept(&self, register: u32) -> u32 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    fn read(&mut self, address: u32, len: usize) -> io::Result<Vec<u8>> {
        if address >> 20 != 0xE00 {
            return self.gdb(|gdb| gdb.read(address, len));
        }
        let skipped = (address & 3) as usize;
        let mut bytes = Vec::new();
        for word in 0..(skipped + len).div_ceil(4) as u32 {
            bytes.extend(self.read_register((address & !3) + 4 * word)?.to_le_bytes());
        }
        Ok(bytes[skipped..skipped + len].to_vec())
    }

    fn write(&mut self, address: u32, bytes: &[u8]) -> io::Result<()> {
        if address >> 20 != 0xE00 {
            return self.gdb(|gdb| gdb.write(address, bytes));
        }
        for (place, word) in (0u32..).zip(bytes.chunks(4)) {
            let value = word.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            self.write_register(address + 4 * place, value)?;
        }
        Ok(())
    }

    fn read_register(&mut self, address: u32) -> io::Result<u32> {
        Ok(match address {
            DHCSR => {
                let halted = u32::from(self.gdb(Gdb::is_halted)?);
                let reset = u32::from(std::mem::take(&mut self.was_reset));
                self.debug_control & 0xf | 1 << 16 | halted << 17 | reset << 25
            }
            // A vector catch, or a request to halt.
            DFSR => self.kept(DFSR) | if self.kept(DEMCR) & 1 != 0 { 8 } else { 1 },
            _ => self.kept(address),
        })
    }

    fn write_register(&mut self, address: u32, value: u32) -> io::Result<()> {
        match address {
            DHCSR if value >> 16 == 0xA05F => self.control_debug(value & 0xffff)?,
            DHCSR => {}
            DCRSR => {
                let register = value & 0x7f;
                let number = if register == 16 { STATUS } else { register };
                if value >> 16 & 1 != 0 {
                    let value = self.kept(DCRDR);
                    self.gdb(|gdb| gdb.set_register(number, value))?;
                } else {
                    let value = if register <= 16 { self.gdb(|gdb| gdb.register(number))? } else { 0 };
                    self.registers.insert(DCRDR, value);
                }
            }
            AIRCR if value & 4 != 0 => {
                self.gdb(Gdb::reset)?;
                self.was_reset = true;
                if self.kept(DEMCR) & 1 == 0 {
                    self.gdb(Gdb::run)?;
                }
            }
            _ if COMPARATORS.contains(&address) => {
                let place = |value: u32| value & 0x1fff_fffc | if value >> 30 == 2 { 2 } else { 0 };
                let before = self.kept(address);
                self.gdb(|gdb| {
                    gdb.halt()?;
                    if before & 1 != 0 {
                        gdb.ask(&format!("z1,{:x},2", place(before)))?;
                    }
                    if value & 1 != 0 {
                        gdb.ask(&format!("Z1,{:x},2", place(value)))?;
                    }
                    gdb.run()
                })?;
                self.registers.insert(address, value);
            }
            _ => {
                self.registers.insert(address, value);
            }
        }
        Ok(())
    }

    fn control_debug(&mut self, value: u32) -> io::Result<()> {
        self.debug_control = value;
        let planted = &mut self.planted;
        let mut gdb = self.gdb.lock().unwrap_or_else(PoisonError::into_inner);
        if value & 4 != 0 {
            return gdb.step();
        }
        if value & 2 != 0 {
            return gdb.halt();
        }
        if gdb.is_halted()? {
            // A flash algorithm returns to a breakpoint instruction in memory, on which QEMU would lock
            // up: the stub's own breakpoint is met first.
            if let Some(old) = planted.take() {
                gdb.ask(&format!("z0,{old:x},2"))?;
            }
            let link = gdb.register(14)? & !1;
            if link >> 28 == 2 {
                gdb.ask(&format!("Z0,{link:x},2"))?;
                *planted = Some(link);
            }
        }
        gdb.run()
    }
}
