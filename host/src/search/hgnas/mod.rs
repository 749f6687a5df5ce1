//! HGNAS: graph nets searched by reinforcement learning under a latency (ALGORITHM 2). The graph nets of
//! Wang et al. 2023 on the controller of GraphNAS (Gao et al. 2020); the "HGNAS" of Zhou et al. for
//! point clouds is another method.
//!
//! In reading order:
//!
//! 1. [`tokens`]: categories of tokens and the sequences of them that spell architectures;
//! 2. [`space`]: the spaces of GraphNAS and HGNAS, and the graph nets that their sequences spell;
//! 3. [`reward`]: what a strategy is told about an architecture;
//! 4. [`explore`]: the loop of proposing, scoring and learning, its log and how it resumes;
//! 5. [`random`], [`evolution`]: two strategies that need no controller;
//! 6. [`controller`] (feature `torch`): the LSTM and its REINFORCE update;
//! 7. [`strategy`]: one of these by name;
//! 8. [`cache`]: scores on disk, so that no architecture is trained twice;
//! 9. [`problem`]: graph nets as what is searched: a space, who trains, who knows latencies;
//! 10. [`predictor`] (feature `torch`): latency of a graph net without measuring it;
//! 11. [`finals`]: the best of a search, measured and trained again and again;
//! 12. [`drawn`]: nets drawn from a strategy after its search, the paper's way to keep a limit;
//! 13. [`record`]: what a run was asked for and what came out;
//! 14. [`surrogate`]: all strategies against a table whose best nets are known;
//! 15. [`influence`]: what the reward's exponent does to the nets that a controller draws.

pub mod cache;
#[cfg(feature = "torch")]
pub mod controller;
pub mod drawn;
pub mod evolution;
pub mod explore;
pub mod finals;
pub mod influence;
#[cfg(feature = "torch")]
pub mod predictor;
pub mod problem;
pub mod random;
pub mod record;
pub mod reward;
pub mod space;
pub mod strategy;
pub mod surrogate;
pub mod tokens;
