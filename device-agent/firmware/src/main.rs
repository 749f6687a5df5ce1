//! hanas on an STM32F405 (Cortex-M4F): the device core and the chip runtime over RTT and UART.
//!
//! - [`board`]: the chip's clock tree and pins;
//! - [`clock`]: cycles -> nanoseconds;
//! - [`links`]: RTT and UART; the one that the host speaks on is answered;
//! - [`register`]: the one place that touches memory by address.
//!
//! A panic or a hard fault resets the chip: the host finds a new agent and loads its models again.
#![no_std]
#![no_main]

mod board;
mod clock;
mod links;
mod register;

use cortex_m::peripheral::SCB;
use cortex_m::{Peripherals, singleton};
use cortex_m_rt::{ExceptionFrame, entry, exception};
use hanas_chip_runtime::ChipRuntime;
use hanas_device_core::Clock as _;
use hanas_device_core::device::{Device, Memory};
use hanas_device_core::dialogue::AGENT_VERSION;
use hanas_proto::handshake::{DeviceFacts, ModelForm};

use crate::clock::Cycles;
use crate::links::Links;

/// Memory for a model's maps and weights, in bytes; the host is told and sends nothing larger.
const WORK: usize = 64 * 1024;

/// What is loaded, and what is being sent, in bytes each. A small image of floats is 12 KiB.
const CONTENT: usize = 12 * 1024;

/// Blocks that wait for the host.
const BLOCKS: usize = 6 * 1024;

/// Answers that are kept.
const ANSWERS: usize = 2 * 1024;

/// Models at once: the lists of as many whole nets have room.
const SLOTS: u16 = 16;

#[entry]
fn main() -> ! {
    let Some(core) = Peripherals::take() else { SCB::sys_reset() };
    let hz = board::start_clock();
    let mut clock = Cycles::start(core.DCB, core.DWT, core.SYST, hz);
    let link = Links::open(core.NVIC, hz);
    let (Some(work), Some(contents), Some(content), Some(blocks), Some(answers)) = (
        singleton!(: [u32; WORK / 4] = [0; WORK / 4]),
        singleton!(: [u8; CONTENT] = [0; CONTENT]),
        singleton!(: [u8; CONTENT] = [0; CONTENT]),
        singleton!(: [u8; BLOCKS] = [0; BLOCKS]),
        singleton!(: [u8; ANSWERS] = [0; ANSWERS]),
    ) else {
        SCB::sys_reset()
    };
    let facts = DeviceFacts {
        agent: AGENT_VERSION,
        runtime: concat!("hanas-chip ", env!("CARGO_PKG_VERSION")),
        threads: 1,
        form: ModelForm::Chip,
        name: "stm32f405",
        cpu: board::processor(hz),
        arch: "thumbv7em",
        os: if clock.is_dwt() { "none, cycles by DWT" } else { "none, cycles by SysTick" },
        cores: 1,
        pinned: 1,
        memory_bytes: WORK as u64,
        governor: "",
        clock_resolution_ns: clock.resolution_ns(),
    };
    // The first look sets the counter off.
    clock.now();
    let runtime = ChipRuntime::new(clock.clone(), work, contents);
    let memory = Memory { content, blocks, answers };
    let mut device = Device::new(runtime, clock, link, facts, SLOTS, memory);
    loop {
        device.turn();
    }
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    SCB::sys_reset()
}

#[exception]
unsafe fn HardFault(_: &ExceptionFrame) -> ! {
    SCB::sys_reset()
}
