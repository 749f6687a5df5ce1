//! The STM32F405's clock tree, and the pins of its first UART. Numbers are of the reference manual RM0090.

use crate::register::Register;

const RCC: u32 = 0x4002_3800;
const FLASH: u32 = 0x4002_3C00;
const GPIOA: u32 = 0x4002_0000;

const RCC_CR: Register = Register::at(RCC, 0x00);
const RCC_PLLCFGR: Register = Register::at(RCC, 0x04);
const RCC_CFGR: Register = Register::at(RCC, 0x08);
const RCC_AHB1ENR: Register = Register::at(RCC, 0x30);
const RCC_APB2ENR: Register = Register::at(RCC, 0x44);
const FLASH_ACR: Register = Register::at(FLASH, 0x00);
const GPIOA_MODER: Register = Register::at(GPIOA, 0x00);
const GPIOA_PUPDR: Register = Register::at(GPIOA, 0x0C);
const GPIOA_AFRH: Register = Register::at(GPIOA, 0x24);

const HSI_READY: u32 = 1 << 1;
const PLL_ON: u32 = 1 << 24;
const PLL_READY: u32 = 1 << 25;

/// What the processor runs at after a reset, from the internal oscillator.
const RESET_HZ: u32 = 16_000_000;

/// And with the phase-locked loop.
const FULL_HZ: u32 = 168_000_000;

/// Looks at a clock that does not come before it is given up: some milliseconds.
const LOOKS: u32 = 100_000;

/// Brings the processor to 168 MHz from the internal oscillator; what it runs at then, in Hz.
pub fn start_clock() -> u32 {
    if RCC_CR.read() & HSI_READY == 0 {
        // No chip runs without its oscillator: an emulator without clock tree, whose processor runs at
        // the machine's frequency.
        return FULL_HZ;
    }
    // Five wait states at 168 MHz and 3.3 V (table 10); prefetch and both caches, as firmware has them.
    FLASH_ACR.write(0x0705);
    // 16 MHz / 16 * 336 / 2; the 48 MHz output / 7 is not used.
    RCC_PLLCFGR.write(16 | 336 << 6 | 7 << 24);
    RCC_CR.set(PLL_ON, PLL_ON);
    if !RCC_CR.wait(PLL_READY, PLL_READY, LOOKS) {
        return RESET_HZ;
    }
    // APB1 at a quarter, APB2 at half; then the switch.
    RCC_CFGR.write(0b101 << 10 | 0b100 << 13);
    RCC_CFGR.set(0b11, 0b10);
    if RCC_CFGR.wait(0b11 << 2, 0b10 << 2, LOOKS) { FULL_HZ } else { RESET_HZ }
}

/// What the processor is called.
pub const fn processor(hz: u32) -> &'static str {
    if hz == FULL_HZ { "Cortex-M4F at 168 MHz" } else { "Cortex-M4F at 16 MHz" }
}

/// Frequency of the bus that the first UART is on.
pub const fn uart_bus_hz(hz: u32) -> u32 {
    if hz == FULL_HZ { hz / 2 } else { hz }
}

/// Gives PA9 and PA10 to the first UART; an open line reads as idle.
pub fn connect_uart() {
    RCC_AHB1ENR.set(1, 1);
    RCC_APB2ENR.set(1 << 4, 1 << 4);
    GPIOA_AFRH.set(0xff << 4, 0x77 << 4);
    GPIOA_PUPDR.set(0b11 << 20, 0b01 << 20);
    GPIOA_MODER.set(0b1111 << 18, 0b1010 << 18);
}
