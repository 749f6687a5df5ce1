//! Noise with a known truth, for tests: a model of 100 us under the troubles that boards have.

use hanas_proto::Nanos;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::store::{SessionId, Visit};

/// Kinds of noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Noise {
    /// 100 us with a standard deviation of 1%.
    Gaussian,
    /// 100 us plus an exponential tail of 1% of which each twentieth member is ten times as long.
    HeavyTail,
    /// Four of ten runs take 15% longer.
    Bimodal,
    /// Every visit has an offset of its own (1%), runs in it differ by .3%.
    VisitOffsets,
    /// Each run in ten takes 2 to 4 times as long.
    Bursts,
    /// Gaussian, and 8% slower at the end than at the start.
    Drift,
    /// Gaussian, and from the middle on 12% slower: a frequency step.
    Step,
}

impl Noise {
    /// What no run is faster than under [`Noise::HeavyTail`], ns.
    pub(crate) const FLOOR_NS: f64 = 100_000.0;

    fn sample(self, rng: &mut ChaCha8Rng, offset: f64, progress: f64) -> f64 {
        let factor = match self {
            Self::Gaussian => 0.01f64.mul_add(normal(rng), 1.0),
            Self::HeavyTail => {
                let scale: f64 = if rng.random_bool(0.05) { 0.1 } else { 0.01 };
                scale.mul_add(-(1.0 - rng.random::<f64>()).ln(), 1.0)
            }
            Self::Bimodal => 0.01f64.mul_add(normal(rng), if rng.random_bool(0.4) { 1.15 } else { 1.0 }),
            Self::VisitOffsets => 1.0 + 0.01 * offset + 0.003 * normal(rng),
            Self::Bursts if rng.random_bool(0.1) => rng.random_range(2.0..4.0),
            Self::Bursts => 0.01f64.mul_add(normal(rng), 1.0),
            Self::Drift => 0.01f64.mul_add(normal(rng), 0.08f64.mul_add(progress, 1.0)),
            Self::Step => 0.01f64.mul_add(normal(rng), if progress < 0.5 { 1.0 } else { 1.12 }),
        };
        Self::FLOOR_NS * factor
    }
}

/// Rounds of one model, one visit each.
pub(crate) fn visits(rng: &mut ChaCha8Rng, noise: Noise, rounds: u32, runs: usize) -> Vec<Visit> {
    scaled_visits(rng, noise, rounds, runs, Noise::FLOOR_NS)
}

/// The same noise around another latency.
pub(crate) fn scaled_visits(
    rng: &mut ChaCha8Rng,
    noise: Noise,
    rounds: u32,
    runs: usize,
    base_ns: f64,
) -> Vec<Visit> {
    (0..rounds)
        .map(|round| {
            let offset = normal(rng);
            let progress = f64::from(round) / f64::from(rounds);
            let scale = base_ns / Noise::FLOOR_NS;
            let run = |_| Nanos::from_f64(scale * noise.sample(rng, offset, progress));
            Visit { session: SessionId(1), round, order: 0, samples: (0..runs).map(run).collect() }
        })
        .collect()
}

/// A seeded generator.
pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A standard normal number (Box & Muller 1958).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
