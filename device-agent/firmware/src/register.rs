//! Peripherals' registers by address.

/// A 32-bit register.
#[derive(Debug, Clone, Copy)]
pub struct Register(u32);

impl Register {
    /// The register at a peripheral's base and an offset.
    pub const fn at(base: u32, offset: u32) -> Self {
        Self(base + offset)
    }

    /// Reads it.
    pub fn read(self) -> u32 {
        // SAFETY: all registers are made in this crate, from the addresses of the chip's manual: aligned,
        // always mapped, and no memory of the program.
        unsafe { core::ptr::read_volatile(self.0 as *const u32) }
    }

    /// Writes it.
    pub fn write(self, value: u32) {
        // SAFETY: as in `read`.
        unsafe { core::ptr::write_volatile(self.0 as *mut u32, value) }
    }

    /// Sets the bits of `mask` to those of `value`.
    pub fn set(self, mask: u32, value: u32) {
        self.write(self.read() & !mask | value & mask);
    }

    /// Waits until some bits are as wanted, for so many looks at most; whether they are.
    pub fn wait(self, mask: u32, value: u32, looks: u32) -> bool {
        (0..looks).any(|_| self.read() & mask == value)
    }
}
