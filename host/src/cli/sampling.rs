//! Options of how often to run, shared by every command that measures.

use clap::Args;

use crate::profile::sampling::Sampling;

/// How often.
#[derive(Debug, Clone, Args)]
pub(super) struct SamplingArgs {
    /// Timed runs of each model
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) samples: u32,
    /// Timed runs in a row before another model has its turn
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(super) runs: u16,
    /// Untimed runs before those
    #[arg(long, default_value_t = 1)]
    pub(super) warmup: u16,
    /// Seed of the visiting order
    #[arg(long, default_value_t = 0)]
    pub(super) order_seed: u64,
    /// Go on with a measurement that is judged not trustworthy (else exit code 4)
    #[arg(long)]
    pub(super) allow_noisy: bool,
}

impl SamplingArgs {
    /// The plan.
    pub(super) fn sampling(&self) -> Sampling {
        Sampling {
            samples: self.samples,
            runs: self.runs,
            warmup: self.warmup,
            seed: self.order_seed,
            ..Sampling::default()
        }
    }
}
