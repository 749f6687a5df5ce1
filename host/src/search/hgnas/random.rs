//! Random search over tokens: the control arm that learns nothing.

use rand_chacha::ChaCha8Rng;

use super::explore::Proposer;
use super::tokens::{TokenSpace, Tokens};

/// Every sequence is as likely as any other, whatever came before.
#[derive(Debug, Clone)]
pub struct RandomSearch {
    space: TokenSpace,
}

impl RandomSearch {
    /// Draws from a space.
    #[must_use]
    pub const fn new(space: TokenSpace) -> Self {
        Self { space }
    }
}

impl Proposer for RandomSearch {
    fn propose(&mut self, rng: &mut ChaCha8Rng) -> Tokens {
        self.space.random(rng)
    }

    fn learn(&mut self, _: &[usize], _: f64) {}

    fn ahead(&self) -> usize {
        usize::MAX
    }
}
