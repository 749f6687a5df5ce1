//! RTT and UART. Whichever the host spoke on last is answered.

use core::cell::RefCell;

use cortex_m::interrupt::{CriticalSection, Mutex, free};
use cortex_m::peripheral::NVIC;
use cortex_m_rt::exception;
use hanas_device_core::Link;
use rtt_target::{ChannelMode, DownChannel, UpChannel, rtt_init};

use crate::board;
use crate::register::Register;

/// Bits a second on the UART.
const BAUD: u32 = 115_200;

const USART1: u32 = 0x4001_1000;
const STATUS: Register = Register::at(USART1, 0x00);
const DATA: Register = Register::at(USART1, 0x04);
const RATE: Register = Register::at(USART1, 0x08);
const CONTROL: Register = Register::at(USART1, 0x0C);

const RECEIVED: u32 = 1 << 5;
const TRANSMIT_EMPTY: u32 = 1 << 7;
/// Receiver, transmitter, interrupt at a received byte, on.
const ENABLE: u32 = 1 << 2 | 1 << 3 | 1 << 5 | 1 << 13;

/// The first UART's interrupt.
const IRQ: u8 = 37;

#[derive(Debug, Clone, Copy)]
struct Line(u8);

// SAFETY: the number is that of the chip's vector table.
unsafe impl cortex_m::interrupt::InterruptNumber for Line {
    fn number(self) -> u16 {
        u16::from(self.0)
    }
}

/// Bytes that came while the processor was at something else.
struct Received {
    bytes: [u8; 2048],
    from: usize,
    count: usize,
}

static RECEIVED_BYTES: Mutex<RefCell<Received>> =
    Mutex::new(RefCell::new(Received { bytes: [0; _], from: 0, count: 0 }));

fn received<T>(section: &CriticalSection, act: impl FnOnce(&mut Received) -> T) -> Option<T> {
    RECEIVED_BYTES.borrow(section).try_borrow_mut().ok().map(|mut received| act(&mut received))
}

#[exception]
unsafe fn DefaultHandler(irq: i16) {
    if irq != i16::from(IRQ) {
        cortex_m::peripheral::SCB::sys_reset();
    }
    free(|section| {
        received(section, |received| {
            while STATUS.read() & RECEIVED != 0 {
                let byte = DATA.read() as u8;
                // A byte without room is lost; the frame's checksum tells, and the host asks again.
                if received.count < received.bytes.len() {
                    let place = (received.from + received.count) % received.bytes.len();
                    received.bytes[place] = byte;
                    received.count += 1;
                }
            }
        });
    });
}

/// Both links.
pub struct Links {
    up: UpChannel,
    down: DownChannel,
    on_uart: bool,
}

impl Links {
    /// Opens both, for a processor at `hz`.
    pub fn open(_nvic: NVIC, hz: u32) -> Self {
        let channels = rtt_init! {
            up: { 0: { size: 4096, mode: ChannelMode::NoBlockTrim, name: "hanas" } }
            down: { 0: { size: 2048, name: "hanas" } }
        };
        board::connect_uart();
        RATE.write(board::uart_bus_hz(hz) / BAUD);
        CONTROL.write(ENABLE);
        // SAFETY: the handler shares nothing but what its mutex guards.
        unsafe { NVIC::unmask(Line(IRQ)) };
        Self { up: channels.up.0, down: channels.down.0, on_uart: false }
    }
}

impl Link for Links {
    fn read(&mut self, into: &mut [u8]) -> usize {
        let read = self.down.read(into);
        if read > 0 {
            self.on_uart = false;
            return read;
        }
        let read = free(|section| {
            received(section, |received| {
                let count = received.count.min(into.len());
                for place in &mut into[..count] {
                    *place = received.bytes[received.from];
                    received.from = (received.from + 1) % received.bytes.len();
                }
                received.count -= count;
                count
            })
        });
        let read = read.unwrap_or(0);
        self.on_uart |= read > 0;
        read
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        if !self.on_uart {
            return self.up.write(bytes);
        }
        let mut count = 0;
        for &byte in bytes {
            if STATUS.read() & TRANSMIT_EMPTY == 0 {
                break;
            }
            DATA.write(u32::from(byte));
            count += 1;
        }
        count
    }
}
