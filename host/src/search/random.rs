//! Random search: nets drawn evenly from the space; of those below the budget the one nearest to it.
//! The control arm that shows what the supernet adds (ALGORITHM 3, G).

use super::SearchError;
use super::choices::{Choices, Picks};
use super::meter::Meter;
use super::progress::{Event, Monitor};
use super::timer::NetTimer;
use crate::data::stream::{Purpose, stream};

/// Measurements before giving up: each one corrects the estimates of all that follow.
const MEASUREMENTS: usize = 16;

/// The net nearest below the budget among `nets` random ones, by measurement, and its cost.
///
/// # Errors
/// [`SearchError::NoneFits`] where none came out within, [`SearchError::Interrupted`], or what the timer
/// reports.
pub fn search(
    choices: &Choices,
    nets: usize,
    seed: u64,
    meter: &mut Meter,
    timer: &mut dyn NetTimer,
    monitor: &mut Monitor<'_>,
) -> Result<(Picks, f64), SearchError> {
    let mut rng = stream(seed, Purpose::RandomNets, 0, 0);
    let mut pool: Vec<Picks> = (0..nets.max(1)).map(|_| choices.random(&mut rng)).collect();
    let mut nearest = f64::INFINITY;
    for done in 1..=MEASUREMENTS {
        if monitor.stopped() {
            return Err(SearchError::Interrupted);
        }
        let Some(place) = candidate(&pool, choices, meter, timer)? else {
            break;
        };
        let picks = pool.swap_remove(place);
        let cost = meter.measure(&choices.net(&picks), timer)?;
        monitor.tell(Event::Measured { done, total: MEASUREMENTS });
        if cost <= meter.target() {
            return Ok((picks, cost));
        }
        nearest = nearest.min(cost);
    }
    let (budget, nearest) = (meter.amount(meter.target()), meter.amount(nearest));
    Err(SearchError::NoneFits { budget, tried: nets, nearest })
}

/// Where the net with the highest estimate below the target stands; without any below, the lowest.
fn candidate(
    pool: &[Picks],
    choices: &Choices,
    meter: &Meter,
    timer: &dyn NetTimer,
) -> Result<Option<usize>, SearchError> {
    let mut best: Option<(usize, f64)> = None;
    for (place, picks) in pool.iter().enumerate() {
        let cost = meter.estimate(&choices.net(picks), timer)?;
        let better = match best {
            None => true,
            Some((_, top)) if cost <= meter.target() => top > meter.target() || cost > top,
            Some((_, top)) => cost < top && top > meter.target(),
        };
        if better {
            best = Some((place, cost));
        }
    }
    Ok(best.map(|(place, _)| place))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::choices::tests::tiny_choices;
    use super::super::config::Gate;
    use super::super::timer::FitTimer;
    use super::super::timer::tests::fits;
    use super::*;

    fn run(share: f64, seed: u64) -> Result<(Picks, f64), SearchError> {
        let (mut told, stop) = (0, AtomicBool::new(false));
        let mut watch = |event: Event<'_>| told += usize::from(matches!(event, Event::Measured { .. }));
        let found = watched(share, seed, &mut Monitor { watch: &mut watch, stop: &stop });
        assert!((1..=MEASUREMENTS).contains(&told));
        found
    }

    fn watched(share: f64, seed: u64, monitor: &mut Monitor<'_>) -> Result<(Picks, f64), SearchError> {
        let choices = tiny_choices(2);
        let mut timer = FitTimer::new(fits(&choices.family), 1.3);
        let largest = timer.measure_ns(&choices.net(&choices.largest())).unwrap();
        let budget_ns = share * largest;
        let mut meter = Meter::new(Gate::Latency { budget_ns }, 0.05, &choices.family)?;
        let (picks, cost) = search(&choices, 300, seed, &mut meter, &mut timer, monitor)?;
        Ok((picks, cost / budget_ns))
    }

    #[test]
    fn the_net_lies_just_below_the_budget_and_follows_from_the_seed() {
        let (picks, share) = run(0.6, 1).unwrap();
        assert!(share <= 1.0 && share > 0.95, "{share}");
        assert_eq!(run(0.6, 1).unwrap().0, picks);
        assert_ne!(run(0.6, 2).unwrap().0, picks);
    }

    #[test]
    fn it_stops_before_the_next_measurement() {
        let mut measured = 0;
        let mut watch = |_: Event<'_>| measured += 1;
        let stopped = watched(0.6, 1, &mut Monitor { watch: &mut watch, stop: &AtomicBool::new(true) });
        assert!(matches!(stopped, Err(SearchError::Interrupted)));
        assert_eq!(measured, 0);
    }

    #[test]
    fn an_impossible_budget_is_an_error() {
        assert!(matches!(run(0.01, 1), Err(SearchError::NoneFits { .. })));
    }
}
