use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use hanas_proto::fault::FaultCode;
use hanas_proto::measure::{LoadOptions, RoundContext};
use hanas_proto::samples::SeriesReader;

use super::*;
use crate::Trouble;
use crate::recorder::BLOCK_BYTES;

/// Counts runs; run `n` of a slot takes `times[n]`, and the last of them ever after.
#[derive(Default)]
struct Fake {
    times: BTreeMap<u16, Vec<u64>>,
    runs: BTreeMap<u16, usize>,
    per_node: bool,
    fail_at: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Planted(FaultCode);

impl Trouble for Planted {
    fn code(&self) -> FaultCode {
        self.0
    }
    fn text(&self) -> &str {
        "planted"
    }
    fn too_many_operators(_: usize) -> Self {
        Self(FaultCode::TooLarge)
    }
}

impl Runtime for Fake {
    type Trouble = Planted;

    fn options(&self, slot: u16) -> Option<LoadOptions> {
        let options = LoadOptions { per_node: self.per_node, ..LoadOptions::default() };
        self.times.contains_key(&slot).then_some(options)
    }
    fn run_once(&mut self, slot: u16) -> Result<Nanos, Planted> {
        let run = self.runs.entry(slot).or_default();
        *run += 1;
        if Some(*run) == self.fail_at {
            return Err(Planted(FaultCode::RunFailed));
        }
        let times = &self.times[&slot];
        Ok(Nanos(times[(*run - 1).min(times.len() - 1)]))
    }
    fn run_nodes(&mut self, slot: u16, tell: &mut dyn FnMut(Nanos)) -> Result<Nanos, Planted> {
        let time = self.run_once(slot)?;
        (0..2).for_each(|_| tell(Nanos(time.0 / 2)));
        Ok(time)
    }
}

/// A clock that stands still but for a step at every look.
#[derive(Default)]
struct Steps(u64);

impl Clock for Steps {
    fn now(&mut self) -> Nanos {
        self.0 += 1000;
        Nanos(self.0)
    }
    fn begin_round(&mut self) {}
    fn end_round(&mut self) -> RoundContext {
        RoundContext::default()
    }
}

/// Notes what is emitted; stops after so many questions.
#[derive(Default)]
struct Notes {
    order: Vec<u16>,
    samples: Vec<(u16, u16, Vec<u64>)>,
    nodes: Vec<(u16, u16, Vec<u64>)>,
    contexts: Vec<u16>,
    largest: usize,
    asked: usize,
    stop_after: Option<usize>,
}

impl Desk for Notes {
    fn emit(&mut self, body: Body<'_>) {
        let (list, round, bytes) = match body {
            Body::Samples { round, series } => (&mut self.samples, round, series),
            Body::Nodes { round, series } => (&mut self.nodes, round, series),
            Body::Context { round, .. } => return self.contexts.push(round),
            Body::End(_) => return,
        };
        self.largest = self.largest.max(bytes.len());
        for series in SeriesReader::new(bytes) {
            let series = series.unwrap();
            list.push((round, series.key, series.map(|time| time.0).collect()));
        }
    }
    fn visiting(&mut self, slot: u16) {
        self.order.push(slot);
    }
    fn should_stop(&mut self, _: Nanos) -> bool {
        self.asked += 1;
        self.stop_after.is_some_and(|stop| self.asked > stop)
    }
}

const PLAN: MeasurePlan<'static> =
    MeasurePlan { slots: &[], rounds: 1, warmup: 0, runs: 3, seed: 1, visit_limit: Nanos(0) };

fn run(fake: &mut Fake, plan: MeasurePlan<'_>, slots: &[u16], notes: &mut Notes) -> Outcome<Planted> {
    run_within(fake, plan, slots, notes, 60_000)
}

fn run_within(
    fake: &mut Fake,
    plan: MeasurePlan<'_>,
    slots: &[u16],
    notes: &mut Notes,
    limit: usize,
) -> Outcome<Planted> {
    let mut slots: Vec<Visited> = slots.iter().copied().map(Visited::not_yet).collect();
    let storage = Storage {
        slots: &mut slots,
        times: &mut [Nanos(0); 256],
        nodes: &mut [Nanos(0); 16],
        samples: &mut vec![0; limit.min(BLOCK_BYTES)],
        operators: &mut vec![0; limit],
    };
    measure(fake, &mut Steps::default(), &plan, storage, notes)
}

fn steady(slots: &[u16]) -> Fake {
    Fake {
        times: slots.iter().map(|&slot| (slot, vec![1000 + u64::from(slot)])).collect(),
        ..Fake::default()
    }
}

#[test]
fn every_round_visits_every_slot_once_in_an_order_of_its_own() {
    let slots: Vec<u16> = (0..16).collect();
    let plan = MeasurePlan { rounds: 3, ..PLAN };
    let mut notes = Notes::default();
    assert_eq!(run(&mut steady(&slots), plan, &slots, &mut notes), Outcome::Completed);
    let rounds: Vec<&[u16]> = notes.order.chunks(16).collect();
    for round in &rounds {
        let mut sorted = round.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, slots);
    }
    assert_ne!(rounds[0], rounds[1]);
    assert_eq!(notes.contexts, [0, 1, 2]);
    assert!(notes.samples.iter().all(|(_, slot, times)| *times == [1000 + u64::from(*slot); 3]));
    assert_eq!(notes.samples.len(), 48);

    let mut again = Notes::default();
    run(&mut steady(&slots), plan, &slots, &mut again);
    assert_eq!(again.order, notes.order, "the same seed is the same order");
    let mut other = Notes::default();
    run(&mut steady(&slots), MeasurePlan { seed: 2, ..plan }, &slots, &mut other);
    assert_ne!(other.order, notes.order);
}

#[test]
fn a_first_visit_warms_up_until_the_times_stand_still() {
    // Falls for ten runs, then stands: stationary when the last ten hold two equal medians.
    let times: Vec<u64> = (0..10).map(|n| 20_000 - 1_000 * n).chain([10_000]).collect();
    let mut fake = Fake { times: BTreeMap::from([(4, times)]), ..Fake::default() };
    let mut notes = Notes::default();
    run(&mut fake, MeasurePlan { rounds: 2, ..PLAN }, &[4], &mut notes);
    let warm_ups = fake.runs[&4] - 6;
    assert!((15..WARM_RUNS).contains(&warm_ups), "{warm_ups}");
    assert!(notes.samples.iter().all(|(_, _, times)| *times == [10_000; 3]));
}

#[test]
fn warming_up_ends_at_its_limits() {
    // Never still.
    let restless: Vec<u64> = (1..100).map(|n| 1000 * n * n).collect();
    let mut fake = Fake { times: BTreeMap::from([(0, restless)]), ..Fake::default() };
    run(&mut fake, PLAN, &[0], &mut Notes::default());
    assert_eq!(fake.runs[&0], WARM_RUNS + 3);
    // Slow.
    let mut fake = Fake { times: BTreeMap::from([(0, vec![60_000_000])]), ..Fake::default() };
    run(&mut fake, PLAN, &[0], &mut Notes::default());
    assert_eq!(fake.runs[&0], 2 + 3);
}

#[test]
fn a_visit_has_a_limit_and_one_timed_run_at_least() {
    let mut fake = steady(&[0]);
    let mut notes = Notes::default();
    let plan = MeasurePlan { runs: 100, warmup: 50, visit_limit: Nanos(2500), ..PLAN };
    run(&mut fake, plan, &[0], &mut notes);
    assert_eq!(notes.samples, [(0, 0, vec![1000])], "three runs to warm up used the visit's time up");
    let mut notes = Notes::default();
    run(&mut steady(&[0]), MeasurePlan { warmup: 0, ..plan }, &[0], &mut notes);
    assert_eq!(notes.samples, [(0, 0, vec![1000; 3])]);
}

#[test]
fn a_long_visit_is_cut_into_small_blocks_and_loses_nothing() {
    let mut fake = Fake {
        times: BTreeMap::from([(9, (0..30_000u64).map(|n| 1 + n * 7919 % 100_000).collect())]),
        ..Fake::default()
    };
    let mut notes = Notes::default();
    run(&mut fake, MeasurePlan { runs: 20_000, ..PLAN }, &[9], &mut notes);
    assert!(notes.largest <= BLOCK_BYTES);
    let all: Vec<u64> = notes.samples.iter().flat_map(|(_, _, times)| times.clone()).collect();
    let skipped = fake.runs[&9] - 20_000;
    assert_eq!(all, fake.times[&9][skipped..skipped + 20_000]);
}

#[test]
fn operators_are_timed_one_series_a_run() {
    let mut fake = Fake { per_node: true, ..steady(&[2]) };
    let mut notes = Notes::default();
    run(&mut fake, PLAN, &[2], &mut notes);
    assert_eq!(notes.nodes, vec![(0, 2, vec![501, 501]); 3]);
    assert_eq!(notes.samples, [(0, 2, vec![1002; 3])]);
    let outcome = run_within(&mut fake, PLAN, &[2], &mut Notes::default(), 4);
    assert_eq!(outcome, Outcome::Fault { slot: 2, trouble: Planted(FaultCode::TooLarge) });
}

#[test]
fn a_plan_that_asks_for_nothing_or_for_an_empty_slot_is_not_begun() {
    let fake = steady(&[0, 9]);
    let of = |slots, rounds, runs| check(&MeasurePlan { slots, rounds, runs, ..PLAN }, &fake);
    assert_eq!(of(&[1, 2], 1, 1), Ok(()));
    assert_eq!(of(&[3, 2], 1, 1), Err(PlanError::EmptySlot(1)));
    for empty in [of(&[0, 0], 1, 1), of(&[1], 0, 1), of(&[1], 1, 0)] {
        assert_eq!(empty, Err(PlanError::Empty));
    }
    assert_eq!(chosen(&[0x81, 2]).collect::<Vec<_>>(), [0, 7, 9]);
}

#[test]
fn what_was_taken_before_a_stop_or_a_fault_is_emitted() {
    let mut notes = Notes { stop_after: Some(12), ..Notes::default() };
    let outcome = run(&mut steady(&[0]), MeasurePlan { runs: 50, ..PLAN }, &[0], &mut notes);
    assert_eq!(outcome, Outcome::Stopped);
    assert_eq!(notes.samples, [(0, 0, vec![1000; 2])], "ten runs to warm up, two timed");
    assert_eq!(notes.contexts, [0]);

    let mut notes = Notes::default();
    let mut fake = Fake { fail_at: Some(13), ..steady(&[0]) };
    let outcome = run(&mut fake, MeasurePlan { runs: 50, ..PLAN }, &[0], &mut notes);
    assert!(matches!(outcome, Outcome::Fault { slot: 0, .. }));
    assert_eq!(notes.samples, [(0, 0, vec![1000; 2])]);
}
