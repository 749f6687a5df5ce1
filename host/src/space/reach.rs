//! Which open groups a race can settle with what is left of its budget.
//!
//! In: the open groups, each with how probably its choice beats the likeliest rival, and how often its layers
//! ran. Errors fall with the root of the number of runs, so that a lead of z errors takes
//! `runs (Z/z)^2` runs to become one of Z. Out: the groups that this brings to their goal within an equal
//! share of what is left; the others would only use it up, and stay the ties they are.

use hanas_models::layer::Layer;

use crate::latency::trend::upper_tail;

/// A group whose choice a rerun may change.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenGroup {
    /// Probability that the choice beats the likeliest rival in a rerun.
    pub lead: f64,
    /// The choice's layers and those of all tied with it.
    pub layers: Vec<Layer>,
}

impl OpenGroup {
    /// Timed runs that bring the lead to 1 - `doubt`, after the `taken` of its layers; infinitely many where
    /// there is no lead.
    fn needed(&self, doubt: f64, taken: u64) -> f64 {
        let (lead, goal) = (errors(1.0 - self.lead), errors(doubt));
        if lead > 0.0 { taken as f64 * ((goal / lead).powi(2) - 1.0) } else { f64::INFINITY }
    }
}

/// The groups that can be settled, those left `doubt` being settled; `taken` are a layer's timed runs so far,
/// `left` those that the race may still take.
#[must_use]
pub fn within_reach(
    groups: Vec<OpenGroup>,
    doubt: f64,
    taken: impl Fn(&Layer) -> u64,
    left: u64,
) -> Vec<OpenGroup> {
    let share = left as f64 / groups.len().max(1) as f64;
    let can = |group: &OpenGroup| group.needed(doubt, group.layers.iter().map(&taken).sum()) <= share;
    groups.into_iter().filter(can).collect()
}

/// The lead in standard errors that fails with this probability; 0 from a half on.
fn errors(probability: f64) -> f64 {
    const MOST: f64 = 8.0;
    let (mut low, mut high) = (0.0, MOST);
    if probability >= 0.5 {
        return 0.0;
    }
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if upper_tail(middle) > probability { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use hanas_models::layer::LayerKind;

    use super::*;

    fn layer(cout: u32) -> Layer {
        Layer { kind: LayerKind::Conv { kernel: 3, stride: 1, side: 32 }, cin: 16, cout }
    }

    #[test]
    fn errors_are_those_of_the_normal_distribution() {
        for (probability, wanted) in [(0.05, 1.645), (0.158_655, 1.0), (0.5, 0.0), (0.9, 0.0)] {
            assert!((errors(probability) - wanted).abs() < 1e-3, "{probability}");
        }
    }

    #[test]
    fn what_would_only_use_the_budget_up_is_left() {
        let group = |lead, cout| OpenGroup { lead, layers: vec![layer(cout), layer(cout + 1)] };
        // One error of lead: (1.645)^2 - 1 = 1.7 times the runs so far. A fifth of it: 67 times.
        let groups = vec![group(0.841_345, 4), group(0.579_26, 8), group(0.5, 12)];
        let leads = |left| -> Vec<f64> {
            let reached = within_reach(groups.clone(), 0.05, |_| 10, left);
            reached.iter().map(|group| group.lead).collect()
        };
        // A third of what is left for each: 34 runs and 1333 runs.
        assert_eq!(leads(90), [0.0; 0]);
        assert_eq!(leads(120), [0.841_345]);
        assert_eq!(leads(4_200), [0.841_345, 0.579_26]);
        assert_eq!(leads(u64::MAX), [0.841_345, 0.579_26]);
    }
}
