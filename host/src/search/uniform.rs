//! Uniform scaling: the base net with all widths times one factor, by bisection over measured cost. The
//! control arm that every practitioner has at hand (ALGORITHM 3, H).

use hanas_models::resnet::{BlockWidths, ConvNet, Family};

use super::SearchError;
use super::meter::Meter;
use super::progress::{Event, Monitor};
use super::timer::NetTimer;

/// The largest factor tried: the expansion of the space that others search.
const LARGEST: f64 = 2.0;
/// Halvings; widths are whole numbers, so that far fewer usually settle it.
const HALVINGS: usize = 20;

/// The base net with every width times `factor`, rounded, at least 1.
#[must_use]
pub fn scaled(family: &Family, factor: f64) -> ConvNet {
    let scale = |width: u32| (f64::from(width) * factor).round().max(1.0) as u32;
    let mut net = family.base();
    net.stem = scale(net.stem);
    for block in net.stages.iter_mut().flatten() {
        *block = BlockWidths { a: scale(block.a), b: scale(block.b) };
    }
    net
}

/// The widest uniformly scaled net that is measured within the budget, and its cost.
///
/// # Errors
/// [`SearchError::BudgetTooSmall`] or [`SearchError::BudgetTooLarge`] where no factor up to twice the
/// base meets it, [`SearchError::Interrupted`], or what the timer reports.
pub fn search(
    family: &Family,
    meter: &mut Meter,
    timer: &mut dyn NetTimer,
    monitor: &mut Monitor<'_>,
) -> Result<(ConvNet, f64), SearchError> {
    let budget = meter.amount(meter.target());
    let mut done = 0;
    let mut measure = |net: &ConvNet, meter: &mut Meter| {
        if monitor.stopped() {
            return Err(SearchError::Interrupted);
        }
        let cost = meter.measure(net, timer)?;
        done += 1;
        monitor.tell(Event::Measured { done, total: 2 + HALVINGS });
        Ok(cost)
    };
    let (mut low, mut high) = (0.0, LARGEST);
    let mut best = scaled(family, low);
    let mut cost = measure(&best, meter)?;
    if cost > meter.target() {
        return Err(SearchError::BudgetTooSmall { budget, smallest: meter.amount(cost) });
    }
    let largest = measure(&scaled(family, high), meter)?;
    if largest <= meter.target() {
        return Err(SearchError::BudgetTooLarge { budget, largest: meter.amount(largest) });
    }
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        let net = scaled(family, middle);
        let measured = measure(&net, meter)?;
        if measured <= meter.target() {
            (low, best, cost) = (middle, net, measured);
        } else {
            high = middle;
        }
    }
    Ok((best, cost))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::config::Gate;
    use super::super::timer::FitTimer;
    use super::super::timer::tests::fits;
    use super::*;

    #[test]
    fn the_next_wider_net_would_not_fit() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let mut timer = FitTimer::new(fits(&family), 1.2);
        let budget_ns = 0.5 * timer.measure_ns(&family.base()).unwrap();
        let mut meter = Meter::new(Gate::Latency { budget_ns }, 0.05, &family).unwrap();
        let stop = AtomicBool::new(false);
        let mut seen = Vec::new();
        let mut watch = |event: Event<'_>| {
            if let Event::Measured { done, total } = event {
                seen.push((done, total));
            }
        };
        let mut monitor = Monitor { watch: &mut watch, stop: &stop };
        let (net, cost) = search(&family, &mut meter, &mut timer, &mut monitor).unwrap();
        let total = 2 + HALVINGS;
        assert_eq!(seen, (1..=total).map(|done| (done, total)).collect::<Vec<_>>());
        assert!(cost <= budget_ns && cost > 0.93 * budget_ns, "{}", cost / budget_ns);
        let factor = f64::from(net.stages[2][0].a) / 64.0;
        let wider = timer.measure_ns(&scaled(&family, factor + 1.0 / 32.0)).unwrap();
        assert!(wider > budget_ns);
        assert_eq!(scaled(&family, 1.0), family.base());
    }

    #[test]
    fn budgets_outside_are_refused() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let mut timer = FitTimer::new(fits(&family), 1.0);
        for (budget_ns, small) in [(1.0, true), (1e12, false)] {
            let mut meter = Meter::new(Gate::Latency { budget_ns }, 0.05, &family).unwrap();
            let stop = AtomicBool::new(false);
            let mut monitor = Monitor { watch: &mut |_| (), stop: &stop };
            let error = search(&family, &mut meter, &mut timer, &mut monitor).unwrap_err();
            assert_eq!(matches!(error, SearchError::BudgetTooSmall { .. }), small, "{error}");
        }
    }

    #[test]
    fn it_stops_between_two_measurements() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let mut timer = FitTimer::new(fits(&family), 1.0);
        let budget_ns = 0.5 * timer.predict_ns(&family.base()).unwrap();
        let mut meter = Meter::new(Gate::Latency { budget_ns }, 0.05, &family).unwrap();
        let stop = AtomicBool::new(false);
        let mut watch = |event: Event<'_>| {
            stop.store(matches!(event, Event::Measured { done: 4, .. }), Ordering::Relaxed);
        };
        let stopped =
            search(&family, &mut meter, &mut timer, &mut Monitor { watch: &mut watch, stop: &stop });
        assert!(matches!(stopped, Err(SearchError::Interrupted)));
        assert_eq!(timer.measured, 4);
    }
}
