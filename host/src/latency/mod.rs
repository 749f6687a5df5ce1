//! Raw samples -> estimates with errors -> fitted latency models.
//!
//! - [`fit`]: f(x) = k x^alpha + b (paper, Eq. 1), by least squares;
//! - [`layers`]: one such curve per layer type, and the latency of a whole net as their sum (Eq. 8).

pub mod fit;
pub mod layers;
