//! Runs the layers that fit a small chip, in floats and in 8-bit integers: `no_std`, no allocation, no
//! unsafe code. Models come in the form of [`hanas_proto::chip`], in which the host has planned the
//! memory.
//!
//! 1. [`model`]: bytes -> a header and layers that were checked against the memory;
//! 2. [`element`]: what floats and 8-bit integers have in common;
//! 3. [`kernels`]: convolutions, pooling and the rest over slices;
//! 4. [`run`]: a layer over the working memory;
//! 5. [`runtime`]: models in slots, timed: a [`hanas_device_core::Models`].
//!
//! The kernels are plain loops that a compiler turns into decent code; they are no match for a vendor's
//! hand-written ones, and a space built from them is that of this runtime.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod element;
pub mod kernels;
pub mod model;
pub mod run;
pub mod runtime;

pub use runtime::ChipRuntime;

use hanas_proto::fault::FaultCode;

/// A request that a chip cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of trouble.
    pub code: FaultCode,
    /// One line for a person.
    pub text: &'static str,
}

impl Trouble {
    const fn not_a_model(text: &'static str) -> Self {
        Self { code: FaultCode::NotAModel, text }
    }

    const fn too_large(text: &'static str) -> Self {
        Self { code: FaultCode::TooLarge, text }
    }

    const fn empty_slot() -> Self {
        Self { code: FaultCode::BadRequest, text: "the slot is empty" }
    }
}

impl hanas_device_core::Trouble for Trouble {
    fn code(&self) -> FaultCode {
        self.code
    }

    fn text(&self) -> &str {
        self.text
    }

    fn too_many_operators(_operators: usize) -> Self {
        Self::too_large("the times of so many operators do not fit into the link's frames")
    }
}
