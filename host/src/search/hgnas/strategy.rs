//! Who proposes: a name on the command line and in a run's record -> a fresh strategy.

use serde::{Deserialize, Serialize};

use super::super::SearchError;
use super::evolution::Evolution;
use super::explore::Proposer;
use super::random::RandomSearch;
use super::tokens::TokenSpace;

/// Who proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The controller, by reinforcement learning.
    Rl,
    /// Chance, see [`RandomSearch`].
    Random,
    /// Regularised evolution, see [`Evolution`].
    Evolution,
}

impl Strategy {
    /// Its name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rl => "rl",
            Self::Random => "random",
            Self::Evolution => "evolution",
        }
    }

    /// A fresh strategy over a space. Without feature `torch` there is no controller.
    ///
    /// # Errors
    /// [`SearchError::Config`] where it is not built in.
    pub fn proposer(self, space: &TokenSpace, seed: u64) -> Result<Box<dyn Proposer>, SearchError> {
        match self {
            Self::Random => Ok(Box::new(RandomSearch::new(space.clone()))),
            Self::Evolution => Ok(Box::new(Evolution::new(space.clone()))),
            #[cfg(feature = "torch")]
            Self::Rl => {
                use super::controller::{Controller, ControllerConfig};
                Ok(Box::new(Controller::new(space.clone(), ControllerConfig::default(), seed)))
            }
            #[cfg(not(feature = "torch"))]
            Self::Rl => {
                let _ = seed;
                let complaint = "the controller needs a hanas with feature torch; take random or evolution";
                Err(SearchError::Config(complaint.to_owned()))
            }
        }
    }
}
