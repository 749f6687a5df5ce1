//! Regularised evolution (Real et al., "Regularized evolution for image classifier architecture
//! search", AAAI 2019): the best of a few parents has a child with one token changed, and the oldest
//! member dies, however good.

use std::collections::VecDeque;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::explore::Proposer;
use super::tokens::{TokenSpace, Tokens};

/// Members alive at once. The paper has 100 for 20,000 trials; a search of 200 needs generations.
pub const POPULATION: usize = 20;
/// Members that compete to be the parent; the paper takes a quarter of the population.
pub const TOURNAMENT: usize = 5;

/// A population, oldest first.
#[derive(Debug, Clone)]
pub struct Evolution {
    space: TokenSpace,
    members: VecDeque<(Tokens, f64)>,
}

impl Evolution {
    /// An empty population; its first members are drawn at random.
    #[must_use]
    pub const fn new(space: TokenSpace) -> Self {
        Self { space, members: VecDeque::new() }
    }
}

impl Proposer for Evolution {
    fn propose(&mut self, rng: &mut ChaCha8Rng) -> Tokens {
        if self.members.len() < POPULATION {
            return self.space.random(rng);
        }
        let rivals = (0..TOURNAMENT).map(|_| &self.members[rng.random_range(0..self.members.len())]);
        let parent = rivals.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(tokens, _)| tokens.clone());
        match parent {
            Some(parent) => self.space.mutate(&parent, rng),
            None => self.space.random(rng),
        }
    }

    fn learn(&mut self, tokens: &[usize], reward: f64) {
        self.members.push_back((tokens.to_vec(), reward));
        if self.members.len() > POPULATION {
            self.members.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::stream::{Purpose, stream};

    #[test]
    fn it_climbs_where_tokens_count_alone() {
        let space = TokenSpace::new(&[("digit", 9)], &[0; 6]);
        let value = |tokens: &[usize]| tokens.iter().sum::<usize>() as f64 / 48.0;
        let best_of = |proposer: &mut dyn Proposer| {
            let draw = |step| {
                let tokens = proposer.propose(&mut stream(5, Purpose::Proposal, 0, step));
                proposer.learn(&tokens, value(&tokens));
                value(&tokens)
            };
            (0..300).map(draw).fold(0.0, f64::max)
        };
        let evolved = best_of(&mut Evolution::new(space.clone()));
        let drawn = best_of(&mut super::super::random::RandomSearch::new(space));
        assert!(evolved > 0.93 && evolved > drawn + 0.05, "{evolved} {drawn}");
    }

    #[test]
    fn the_oldest_dies_however_good() {
        let mut evolution = Evolution::new(TokenSpace::new(&[("digit", 9)], &[0; 2]));
        evolution.learn(&[8, 8], 1.0);
        for place in 0..POPULATION {
            evolution.learn(&[0, place % 9], 0.1);
        }
        assert_eq!(evolution.members.len(), POPULATION);
        assert!(evolution.members.iter().all(|(tokens, _)| tokens != &[8, 8]));
    }
}
