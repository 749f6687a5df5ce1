//! Estimates and fits -> the hardware-aware space: which widths are worth searching.
//!
//! - [`width`]: the width choices of a convnet family's stages, measured or by rule.

pub mod width;
