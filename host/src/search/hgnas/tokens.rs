//! Categories of tokens, and the sequences of them that spell architectures.
//!
//! A token is an index into its category's values. Positions of one category share a decoder in the
//! controller, whatever layer they belong to.

use rand::{Rng, RngExt};

/// A sequence of tokens: what a strategy proposes.
pub type Tokens = Vec<usize>;

/// What one token can say.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Category {
    /// For people and for the controller's parameters: `attention`.
    pub name: String,
    /// Values to choose from.
    pub size: usize,
}

/// Which tokens spell an architecture.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TokenSpace {
    /// The categories.
    pub categories: Vec<Category>,
    /// The category of each position, as an index.
    pub sequence: Vec<usize>,
}

impl TokenSpace {
    /// A space of named categories; `sequence` indexes them.
    #[must_use]
    pub fn new(categories: &[(&str, usize)], sequence: &[usize]) -> Self {
        let category = |&(name, size): &(&str, usize)| Category { name: name.to_owned(), size };
        Self { categories: categories.iter().map(category).collect(), sequence: sequence.to_vec() }
    }

    /// Tokens of a sequence.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sequence.len()
    }

    /// Whether there is nothing to choose.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequence.is_empty()
    }

    /// Values to choose from at a position.
    #[must_use]
    pub fn choices(&self, position: usize) -> usize {
        self.categories[self.sequence[position]].size
    }

    /// Whether every position says something, and tokens are what it can say.
    #[must_use]
    pub fn holds(&self, tokens: &[usize]) -> bool {
        tokens.len() == self.len()
            && tokens.iter().enumerate().all(|(place, &token)| token < self.choices(place))
    }

    /// How many sequences there are.
    #[must_use]
    pub fn sequences(&self) -> f64 {
        (0..self.len()).map(|place| self.choices(place) as f64).product()
    }

    /// A sequence drawn evenly.
    pub fn random(&self, rng: &mut impl Rng) -> Tokens {
        (0..self.len()).map(|place| rng.random_range(0..self.choices(place))).collect()
    }

    /// The sequence with one token changed, place and new value drawn evenly. A space without any choice
    /// gives it back.
    pub fn mutate(&self, tokens: &[usize], rng: &mut impl Rng) -> Tokens {
        let free: Vec<usize> = (0..self.len()).filter(|&place| self.choices(place) > 1).collect();
        let mut changed = tokens.to_vec();
        if !free.is_empty() {
            let place = free[rng.random_range(0..free.len())];
            // One of the others: those from the present value on stand one higher.
            let other = rng.random_range(0..self.choices(place) - 1);
            changed[place] = other + usize::from(other >= tokens[place]);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::stream::{Purpose, stream};

    #[test]
    fn mutations_change_one_token_to_any_other() {
        let space = TokenSpace::new(&[("a", 3), ("fixed", 1), ("b", 2)], &[0, 1, 2, 0]);
        assert_eq!(space.sequences(), 18.0);
        let mut rng = stream(1, Purpose::Proposal, 0, 0);
        let from = [1, 0, 0, 2];
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..400 {
            let to = space.mutate(&from, &mut rng);
            assert!(space.holds(&to));
            assert_eq!(from.iter().zip(&to).filter(|(a, b)| a != b).count(), 1);
            seen.insert(to);
        }
        assert_eq!(seen.len(), 2 + 1 + 2);
        assert!(!space.holds(&[0, 1, 0, 0]) && !space.holds(&[0, 0, 0]));
    }
}
