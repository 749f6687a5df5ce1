//! Nets drawn from a strategy once its search is over: how the paper keeps a limit (Tables 11 and 12). Its controller
//! knows of none; a hundred of its nets are drawn, and of those within the limit the one with the best mean
//! accuracy counts.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use hanas_models::gnn::GnnNet;

use super::super::SearchError;
use super::super::meter::Amount;
use super::explore::{ProblemError, Proposer};
use super::finals::Finalist;
use super::space::{GnnSpace, key};
use crate::data::stream::{Purpose, stream};

/// Nets drawn.
pub const DRAWS: u32 = 100;

/// The different nets among [`DRAWS`] of a strategy that has learned its trials.
#[must_use]
pub fn draw(space: &GnnSpace, proposer: &mut dyn Proposer, seed: u64) -> Vec<GnnNet> {
    let mut seen = BTreeSet::new();
    let drawn = (0..DRAWS)
        .filter_map(|number| space.net(&proposer.propose(&mut stream(seed, Purpose::Drawn, number, 0))));
    drawn.filter(|net| seen.insert(key(net))).collect()
}

/// Nets that are measured in turns at once.
const AT_ONCE: usize = 25;

/// Answers with the measured latencies of nets in nanoseconds.
pub type Latencies<'a> = &'a mut dyn FnMut(&[GnnNet]) -> Result<Vec<f64>, ProblemError>;

/// Those of which the device measures that they keep a limit, each with its latency by prediction.
///
/// # Errors
/// [`SearchError::NoFinalist`] where there is none, [`SearchError::Interrupted`], or what measuring reports.
pub fn within(
    nets: &[(GnnNet, f64)],
    limit_ns: f64,
    measure: Latencies<'_>,
    stop: &AtomicBool,
) -> Result<Vec<Finalist>, SearchError> {
    let (drawn, mut found, mut nearest) = (nets.len(), Vec::new(), f64::INFINITY);
    for some in nets.chunks(AT_ONCE) {
        if stop.load(Ordering::Relaxed) {
            return Err(SearchError::Interrupted);
        }
        let list: Vec<GnnNet> = some.iter().map(|(net, _)| net.clone()).collect();
        let measured = measure(&list).map_err(SearchError::Problem)?;
        for (net, (predicted_ns, measured_ns)) in
            list.into_iter().zip(some.iter().map(|of| of.1).zip(measured))
        {
            nearest = nearest.min(measured_ns);
            if measured_ns <= limit_ns {
                found.push(Finalist::new(net, predicted_ns, measured_ns));
            }
        }
    }
    if found.is_empty() {
        return Err(SearchError::NoFinalist(if nearest.is_finite() {
            format!(
                "none of the {drawn} nets that were drawn after the search is within {}; the nearest took {}; raise --limit, or search without --paper, whose trials all keep it",
                Amount::Nanos(limit_ns),
                Amount::Nanos(nearest)
            )
        } else {
            format!("the device can run none of the {drawn} nets that were drawn after the search")
        }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::problem::tests::latency;
    use super::super::random::RandomSearch;
    use super::*;

    fn nets() -> Vec<(GnnNet, f64)> {
        let space = GnnSpace::graphnas(50, 3);
        let drawn = draw(&space, &mut RandomSearch::new(space.tokens()), 4);
        drawn.into_iter().map(|net| (net, 7.0)).collect()
    }

    #[test]
    fn a_hundred_draws_are_the_same_again_and_each_net_is_there_once() {
        let names: BTreeSet<String> = nets().iter().map(|(net, _)| key(net)).collect();
        assert!(names.len() == nets().len() && (90..=100).contains(&names.len()), "{}", names.len());
        assert_eq!(nets(), nets());
    }

    #[test]
    fn what_is_measured_within_the_limit_is_a_finalist() {
        let stop = AtomicBool::new(false);
        let mut measure = |list: &[GnnNet]| list.iter().map(latency).collect();
        let found = within(&nets(), 1e6, &mut measure, &stop).unwrap();
        let fits = |(net, _): &(GnnNet, f64)| latency(net).unwrap() <= 1e6;
        assert!(found.len() == nets().iter().filter(|of| fits(of)).count() && found.len() < nets().len());
        assert!(found.iter().all(|of| of.measured_ns <= 1e6 && of.predicted_ns == 7.0));
        let none = within(&nets(), 1.0, &mut measure, &stop).unwrap_err();
        assert!(matches!(none, SearchError::NoFinalist(_)) && none.to_string().contains("nearest"), "{none}");
        let mut fails = |list: &[GnnNet]| Ok(vec![f64::INFINITY; list.len()]);
        let none = within(&nets(), 1e6, &mut fails, &stop).unwrap_err();
        assert!(none.to_string().contains("can run none"), "{none}");
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(within(&nets(), 1e6, &mut measure, &stop), Err(SearchError::Interrupted)));
    }
}
