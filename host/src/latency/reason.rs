//! What can be wrong with a profile, in words, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::estimate::FAR_FENCE;
use super::verdict::MIN_SAMPLES;

/// One cause of distrust. Shares and changes are relative: .05 is 5%.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// Models with fewer runs than [`MIN_SAMPLES`].
    TooFewSamples {
        /// Such models.
        models: usize,
        /// Runs of the poorest.
        fewest: usize,
    },
    /// The device got slower or faster all along.
    Drift {
        /// Change from first to last round.
        change: f64,
        /// Its p-value.
        p_value: f64,
    },
    /// Rounds lie on two levels.
    Steps {
        /// How far the slow level is above the fast.
        distance: f64,
        /// Share of rounds on the rarer level.
        minority: f64,
    },
    /// Many models' runs lie on two levels.
    Bimodal {
        /// Share of models.
        models: f64,
    },
    /// Runs of a model differ much.
    Spread {
        /// Interquartile range over median, of the median model.
        spread: f64,
    },
    /// Many runs are far slower than their model's others.
    Outliers {
        /// Share of runs.
        share: f64,
    },
    /// The clock's step is coarse against the shortest model.
    Clock {
        /// Step over median time.
        share: f64,
    },
    /// A hypervisor took processor time.
    Steal {
        /// Share of all processors' time.
        share: f64,
    },
    /// The worker lost its processor often.
    Switches {
        /// Times a second.
        per_s: f64,
    },
    /// Other processes kept processors busy.
    OtherLoad {
        /// Processors busy besides the worker.
        processors: f64,
    },
    /// The processor's frequency changed between rounds.
    Frequency {
        /// Lowest seen, kHz.
        lowest_khz: u32,
        /// Highest seen, kHz.
        highest_khz: u32,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| 100.0 * share;
        match *self {
            Self::TooFewSamples { models, fewest } => {
                write!(f, "{models} models have fewer than {MIN_SAMPLES} timed runs, the fewest {fewest}")
            }
            Self::Drift { change, p_value } => {
                write!(
                    f,
                    "times drift by {:+.1}% from first to last round (p {p_value:.1e})",
                    percent(change)
                )
            }
            Self::Steps { distance, minority } => write!(
                f,
                "rounds lie on two levels {:.1}% apart, {:.0}% of them on the rarer",
                percent(distance),
                percent(minority)
            ),
            Self::Bimodal { models } => {
                write!(f, "{:.0}% of the models have runs on two levels", percent(models))
            }
            Self::Spread { spread } => {
                write!(f, "half of a model's runs differ by {:.1}% and more", percent(spread))
            }
            Self::Outliers { share } => write!(
                f,
                "{:.1}% of the runs are more than {FAR_FENCE} interquartile ranges off",
                percent(share)
            ),
            Self::Clock { share } => {
                write!(f, "the clock's step is {:.1}% of the shortest model's time", percent(share))
            }
            Self::Steal { share } => {
                write!(f, "a hypervisor took {:.1}% of the processor time", percent(share))
            }
            Self::Switches { per_s } => write!(f, "the worker lost its processor {per_s:.0} times a second"),
            Self::OtherLoad { processors } => {
                write!(f, "other processes kept {processors:.1} processors busy")
            }
            Self::Frequency { lowest_khz, highest_khz } => {
                write!(f, "the processor ran at {} to {} MHz", lowest_khz / 1_000, highest_khz / 1_000)
            }
        }
    }
}

impl Reason {
    /// What to do about it, as an end of a sentence.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::TooFewSamples { .. } => "profile again, it goes on where it stopped",
            Self::Drift { .. } => "let the device warm up or cool it, then profile again",
            Self::Steps { .. } | Self::Frequency { .. } => {
                "set the performance governor, switch turbo off or cool the device"
            }
            Self::Bimodal { .. } => "pin the agent with --pin and set the performance governor",
            Self::Spread { .. } | Self::Outliers { .. } | Self::OtherLoad { .. } => {
                "end what else runs on the device"
            }
            Self::Clock { .. } => "raise the batch",
            Self::Steal { .. } => "measure on a machine of your own, not a shared virtual one",
            Self::Switches { .. } => "pin the agent with --pin and end what else runs on the device",
        }
    }
}
