//! What floats and 8-bit integers have in common.

use bytemuck::Pod;
use hanas_proto::chip::Weights;

/// A number of a model.
pub trait Element: Pod + PartialOrd {
    /// What sums are kept in; biases are of this type.
    type Sum: Pod + Default;
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// The least: what a maximum begins with.
    const LEAST: Self;

    /// `sum + weight * value`.
    fn mac(sum: Self::Sum, weight: Self, value: Self) -> Self::Sum;
    /// `sum + value`.
    fn plus(sum: Self::Sum, value: Self) -> Self::Sum;
    /// A layer's output from its sum.
    fn rescaled(sum: Self::Sum, weights: &Weights) -> Self;
    /// The mean of so many values from their sum.
    fn mean(sum: Self::Sum, count: u32) -> Self;
    /// A sum as a value, clamped.
    fn clamped(sum: Self::Sum) -> Self;
    /// A weight from 32 random bits.
    fn drawn(bits: u32, scale: f32) -> Self;
}

impl Element for f32 {
    type Sum = Self;
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const LEAST: Self = Self::NEG_INFINITY;

    fn mac(sum: Self, weight: Self, value: Self) -> Self {
        sum + weight * value
    }

    fn plus(sum: Self, value: Self) -> Self {
        sum + value
    }

    fn rescaled(sum: Self, weights: &Weights) -> Self {
        if weights.relu && sum < 0.0 { 0.0 } else { sum }
    }

    fn mean(sum: Self, count: u32) -> Self {
        sum / count as Self
    }

    fn clamped(sum: Self) -> Self {
        sum
    }

    /// Uniform in `[-scale, scale)`.
    fn drawn(bits: u32, scale: f32) -> Self {
        const HALF: f32 = (1 << 23) as f32;
        ((bits >> 8) as Self / HALF - 1.0) * scale
    }
}

impl Element for i8 {
    type Sum = i32;
    const ZERO: Self = 0;
    const ONE: Self = 1;
    const LEAST: Self = Self::MIN;

    fn mac(sum: i32, weight: Self, value: Self) -> i32 {
        sum.wrapping_add(i32::from(weight) * i32::from(value))
    }

    fn plus(sum: i32, value: Self) -> i32 {
        sum.wrapping_add(i32::from(value))
    }

    /// `(sum * multiplier) >> shift`, rounded half up and clamped to -127..=127.
    fn rescaled(sum: i32, weights: &Weights) -> Self {
        let product = i64::from(sum) * i64::from(weights.multiplier);
        let half = (1i64 << weights.shift) >> 1;
        let value = (product + half) >> weights.shift;
        let least = if weights.relu { 0 } else { -127 };
        value.clamp(least, 127) as Self
    }

    /// Rounded half away from zero.
    fn mean(sum: i32, count: u32) -> Self {
        let count = (count as i32).max(1);
        let half = if sum < 0 { -(count / 2) } else { count / 2 };
        Self::clamped((sum + half) / count)
    }

    fn clamped(sum: i32) -> Self {
        sum.clamp(-127, 127) as Self
    }

    fn drawn(bits: u32, _scale: f32) -> Self {
        ((bits >> 24) as Self).max(-127)
    }
}

/// Random bits that are the same everywhere: Numerical Recipes' linear congruential generator, of whose
/// bits the upper ones are used.
#[derive(Debug, Clone)]
pub struct Draw(u32);

impl Draw {
    /// Of that seed.
    #[must_use]
    pub const fn new(seed: u32) -> Self {
        Self(seed)
    }

    /// The next 32 bits.
    pub const fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0
    }
}
