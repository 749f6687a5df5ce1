//! Shrinks a derived net until it is measured within the budget (ALGORITHM 1.5): step by step the
//! reduction that saves the most predicted cost per logit given up.

use super::SearchError;
use super::choices::{Choices, Logits, Picks};
use super::meter::{Meter, Side};
use super::timer::NetTimer;

/// A reduction that costs no logit still costs this much, so that the saving decides among such.
const LEAST_LOSS: f64 = 1e-3;

/// A net within the budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Repaired {
    /// Its picks.
    pub picks: Picks,
    /// Its measured cost, in the gate's unit.
    pub cost: f64,
    /// Single-step reductions that it took.
    pub steps: usize,
}

/// The net of `picks`, shrunk until it is measured at no more than the budget and its tolerance.
///
/// # Errors
/// [`SearchError::BudgetTooSmall`] where even the smallest net is above, or what the timer reports.
pub fn repair(
    choices: &Choices,
    logits: &Logits,
    picks: Picks,
    meter: &mut Meter,
    timer: &mut dyn NetTimer,
) -> Result<Repaired, SearchError> {
    let mut repaired = Repaired { cost: meter.measure(&choices.net(&picks), timer)?, picks, steps: 0 };
    while meter.side(repaired.cost) == Side::Above {
        let before = repaired.steps;
        // Shrink by prediction, at least one step, then let measuring have the last word: even the smallest
        // net may be faster than predicted.
        while let Some(next) = cheapest_step(choices, logits, &repaired.picks, meter, timer)? {
            repaired.picks = next;
            repaired.steps += 1;
            if meter.side(meter.estimate(&choices.net(&repaired.picks), timer)?) != Side::Above {
                break;
            }
        }
        if repaired.steps == before {
            let (budget, smallest) = (meter.amount(meter.target()), meter.amount(repaired.cost));
            return Err(SearchError::BudgetTooSmall { budget, smallest });
        }
        repaired.cost = meter.measure(&choices.net(&repaired.picks), timer)?;
    }
    Ok(repaired)
}

/// The picks one reduction further, or nothing where all is smallest.
fn cheapest_step(
    choices: &Choices,
    logits: &Logits,
    picks: &Picks,
    meter: &Meter,
    timer: &dyn NetTimer,
) -> Result<Option<Picks>, SearchError> {
    let now = meter.estimate(&choices.net(picks), timer)?;
    let mut best: Option<(f64, Picks)> = None;
    for (next, loss) in steps(choices, logits, picks) {
        let saving = now - meter.estimate(&choices.net(&next), timer)?;
        // A narrower layer may cost more where it adds a shortcut; such a step comes last.
        let score = if saving > 0.0 { saving / loss.max(LEAST_LOSS) } else { saving };
        if best.as_ref().is_none_or(|(top, _)| score > *top) {
            best = Some((score, next));
        }
    }
    Ok(best.map(|(_, next)| next))
}

/// Every reduction by one choice with the logit it gives up; rows of dropped blocks are left out.
fn steps(choices: &Choices, logits: &Logits, picks: &Picks) -> Vec<(Picks, f64)> {
    let mut rows = vec![0];
    for (stage, &depth) in picks.depths.iter().enumerate() {
        let kept = choices.depths[stage][depth] as usize;
        rows.extend((0..kept).flat_map(|block| [choices.row(stage, block), choices.row(stage, block) + 1]));
    }
    let mut list = Vec::new();
    for row in rows.into_iter().filter(|&row| picks.widths[row] > 0) {
        let mut next = picks.clone();
        next.widths[row] -= 1;
        list.push((next, drop(&logits.widths[row], picks.widths[row])));
    }
    for (stage, &pick) in picks.depths.iter().enumerate().filter(|(_, pick)| **pick > 0) {
        let mut next = picks.clone();
        next.depths[stage] -= 1;
        list.push((next, drop(&logits.depths[stage], pick)));
    }
    list
}

fn drop(row: &[f64], from: usize) -> f64 {
    row[from] - row[from - 1]
}

#[cfg(test)]
mod tests {
    use hanas_models::layer::{Layer, LayerType};
    use hanas_models::resnet::ConvNet;

    use super::super::choices::tests::tiny_choices;
    use super::super::config::Gate;
    use super::super::meter::Amount;
    use super::super::timer::tests::fits;
    use super::super::timer::{FitTimer, TimerError};
    use super::*;

    /// A device on which the smallest net takes half of what is predicted, and all others what is.
    struct SmallIsFast {
        timer: FitTimer,
        smallest: ConvNet,
    }

    impl NetTimer for SmallIsFast {
        fn layer_ns(&self, kind: LayerType, layer: &Layer) -> Result<f64, TimerError> {
            self.timer.layer_ns(kind, layer)
        }

        fn measure_ns(&mut self, net: &ConvNet) -> Result<f64, TimerError> {
            let factor = if *net == self.smallest { 0.5 } else { 1.0 };
            Ok(factor * self.timer.predict_ns(net)?)
        }
    }

    fn logits(choices: &Choices) -> Logits {
        let rows = |lists: &[Vec<u32>]| {
            lists.iter().enumerate().map(|(i, list)| vec![0.01 * i as f64; list.len()]).collect()
        };
        Logits { widths: rows(&choices.widths), depths: rows(&choices.depths) }
    }

    #[test]
    fn a_net_above_its_budget_is_shrunk_until_it_measures_within() {
        let choices = tiny_choices(2);
        // The device is slower than predicted, so that prediction alone would let the net pass.
        let mut timer = FitTimer::new(fits(&choices.family), 1.4);
        let largest = choices.net(&choices.largest());
        let budget_ns = 0.6 * 1.4 * timer.predict_ns(&largest).unwrap();
        let mut meter = Meter::new(Gate::Latency { budget_ns }, 0.05, &choices.family).unwrap();
        let fixed = repair(&choices, &logits(&choices), choices.largest(), &mut meter, &mut timer).unwrap();
        assert!(fixed.cost <= 1.05 * budget_ns && fixed.cost > 0.8 * budget_ns, "{}", fixed.cost / budget_ns);
        assert!(fixed.steps > 1);
        let again = timer.measure_ns(&choices.net(&fixed.picks)).unwrap();
        assert!((again / fixed.cost - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_dear_logit_is_spared() {
        let choices = tiny_choices(1);
        let mut timer = FitTimer::new(fits(&choices.family), 1.0);
        let mut logits = logits(&choices);
        // The last row must stay wide; all others are free.
        logits.widths[6] = vec![0.0, 0.0, 0.0, 1e6];
        let budget_ns = 0.85 * timer.predict_ns(&choices.net(&choices.largest())).unwrap();
        let mut meter = Meter::new(Gate::Latency { budget_ns }, 0.05, &choices.family).unwrap();
        let fixed = repair(&choices, &logits, choices.largest(), &mut meter, &mut timer).unwrap();
        assert_eq!(fixed.picks.widths[6], 3);
    }

    /// Where no net is predicted within the budget, the smallest is measured before the search gives up.
    #[test]
    fn the_smallest_net_is_judged_by_its_own_measurement() {
        let choices = tiny_choices(2);
        let smallest = choices.net(&choices.smallest());
        let timer = FitTimer::new(fits(&choices.family), 1.0);
        let predicted = timer.predict_ns(&smallest).unwrap();
        let mut timer = SmallIsFast { timer, smallest: smallest.clone() };
        let mut repaired = |budget_ns: f64| {
            let mut meter = Meter::new(Gate::Latency { budget_ns }, 0.05, &choices.family).unwrap();
            repair(&choices, &logits(&choices), choices.largest(), &mut meter, &mut timer)
        };
        let fixed = repaired(0.6 * predicted).unwrap();
        assert_eq!((choices.net(&fixed.picks), fixed.cost), (smallest, 0.5 * predicted));
        let Err(SearchError::BudgetTooSmall { smallest, .. }) = repaired(0.1 * predicted) else { panic!() };
        assert_eq!(smallest, Amount::Nanos(0.5 * predicted));
    }

    #[test]
    fn a_budget_below_the_smallest_net_is_an_error() {
        let choices = tiny_choices(1);
        let mut timer = FitTimer::new(fits(&choices.family), 1.0);
        let mut meter = Meter::new(Gate::Latency { budget_ns: 10.0 }, 0.05, &choices.family).unwrap();
        let error = repair(&choices, &logits(&choices), choices.largest(), &mut meter, &mut timer);
        assert!(matches!(error, Err(SearchError::BudgetTooSmall { .. })));
    }
}
