//! How choices are made: the paper's rules and the project's own.

use serde::{Deserialize, Serialize};

use crate::latency::Statistic;

/// Which points of a cell may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Candidates {
    /// All.
    #[default]
    All,
    /// Those that no point of larger x anywhere equals in latency (within a tie): the widest of each
    /// latency level. A line's misfit cannot favour a whole block then; cells without one fall empty.
    Staircase,
}

/// How choices are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// What of the samples is the latency.
    pub statistic: Statistic,
    /// Exponent of the fitted line.
    pub alpha: f64,
    /// Standard errors that are taken off a score: a point that is not known well has to be better.
    pub z: f64,
    /// Combined standard errors within which two points are equal, so that the larger x is taken.
    pub tie: f64,
    /// Combined standard errors within which a point is reported as tied with the choice: to the best where
    /// its x is larger than the choice's, else, less `tie`, to the choice.
    pub report: f64,
    /// Smallest coordinate that may be chosen.
    pub floor: u32,
    /// Which points may be chosen.
    pub candidates: Candidates,
    /// Whether disturbed visits are set aside (see [`disturbed`](crate::latency::disturbed)).
    #[serde(default)]
    pub undisturbed: bool,
}

impl Rules {
    /// What the paper does: median, plain argmax, any width.
    #[must_use]
    pub const fn paper() -> Self {
        let statistic = Statistic::Median;
        let candidates = Candidates::All;
        Self {
            statistic,
            alpha: 1.0,
            z: 0.0,
            tie: 0.0,
            report: 0.0,
            floor: 1,
            candidates,
            undisturbed: false,
        }
    }

    /// The project's own: low quantile, errors counted, no width under 4. Two combined errors are a 5%
    /// test that the points differ; 5 leave a rerun, whose errors are as large, no room to choose what
    /// was not reported: the difference of two runs has sqrt(2) times the error, so a lead of 5 errors
    /// falls under 2, and one of 3 under 0, where that difference is 3/sqrt(2) = 2.1 of its own errors, for
    /// one pair in 50.
    #[must_use]
    pub const fn project() -> Self {
        let statistic = Statistic::Quantile(0.05);
        let candidates = Candidates::All;
        Self { statistic, alpha: 1.0, z: 1.0, tie: 2.0, report: 5.0, floor: 4, candidates, undisturbed: true }
    }
}
