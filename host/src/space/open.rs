//! Which choices are still open, and what to measure to settle them.

use super::select::{Choice, Selection, combined};

impl Selection {
    /// The open choices, each with its rivals: those that a rerun changes with a probability above
    /// `doubt`, and all that are tied with them; but for those that are known to differ from the choice by
    /// less than `margin` of its latency, with two combined errors counted. Such lie on one stair, and
    /// no measuring parts them.
    ///
    /// All that are tied, not only those that replicates pick: a low quantile falls as runs are added,
    /// so rivals that are measured more often than the others would win for that.
    #[must_use]
    pub fn open(&self, doubt: f64, margin: f64) -> Vec<(&Choice, Vec<Vec<u32>>)> {
        let apart = |choice: &Choice, point: &[u32]| {
            let rival = self.curve.iter().find(|of| of.point == point);
            rival.is_some_and(|of| {
                let gap = (choice.chosen.score_ns - of.score_ns).abs();
                2.0f64.mul_add(combined(&choice.chosen, of), gap) > margin * choice.chosen.m_ns
            })
        };
        let rivals = |choice: &Choice| -> Vec<Vec<u32>> {
            choice.tied.iter().filter(|point| apart(choice, point)).cloned().collect()
        };
        let unsure =
            self.choices.iter().filter(|choice| choice.rerun_same.is_some_and(|same| same < 1.0 - doubt));
        let all = unsure.map(|choice| (choice, rivals(choice)));
        all.filter(|(_, rivals)| !rivals.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::partition::{Knob, Partition};
    use super::super::rules::Rules;
    use super::super::select::{Measured, select};

    #[test]
    fn an_unsure_choice_is_open_but_a_stair_is_a_stair() {
        let ns = [100.0, 108.0, 109.5, 130.0];
        let points = (1..).zip(ns).map(|(x, m_ns)| Measured { point: vec![x], m_ns, se_ns: 4.0 });
        let partition = Partition { knobs: vec![Knob::equal("width", 4, 1).unwrap()] };
        let rules = Rules { tie: 2.0, report: 2.0, z: 0.0, floor: 1, ..Rules::project() };
        let points: Vec<Measured> = points.collect();
        let mut found = select(&points, &partition, |point| f64::from(point[0]), &rules).unwrap();
        found.choices[0].rerun_same = Some(0.8);
        let open = |doubt, margin| -> Vec<(u32, Vec<Vec<u32>>)> {
            let open = found.open(doubt, margin).into_iter();
            open.map(|(choice, rivals)| (choice.chosen.point[0], rivals)).collect()
        };
        assert_eq!(open(0.05, 0.005), [(3, vec![vec![1], vec![2]])]);
        assert_eq!(open(0.25, 0.005), [], "sure enough");
        assert_eq!(open(0.05, 0.2), [], "no difference that matters");
    }
}
