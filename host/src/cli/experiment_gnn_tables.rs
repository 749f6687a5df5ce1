//! What an experiment over graph nets found, as tables.

use std::collections::BTreeMap;

use serde::Serialize;

use super::output::Table;
use crate::report::contrasts::{Contrast, Mean, Outcome};

/// How many times faster than the control an arm without a limit has to be, the interval excluding 1.
const FASTER: f64 = 1.5;
/// Accuracy that it may lose beside that.
const LOSS: f64 = 0.01;
/// Accuracy that an arm under a limit has to gain, the interval excluding 0.
const GAIN: f64 = 0.005;

/// The arm, and under limits the arms, that success is registered for.
const REGISTERED: &str = "both";

/// What one search came to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) arm: String,
    pub(super) seed: u64,
    pub(super) net: String,
    /// Test accuracy over the final trainings.
    pub(super) test: f64,
    pub(super) test_sd: f64,
    pub(super) trainings: usize,
    /// At the search's pace, as the limit is.
    pub(super) measured_ns: f64,
    pub(super) limit_ns: Option<f64>,
    pub(super) within_limit: Option<bool>,
    pub(super) trustworthy: bool,
    /// Whether it was measured in turns with the others of its seed; otherwise latencies may differ by the
    /// device's pace alone.
    pub(super) in_turns: bool,
}

/// An arm over its seeds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    pub(super) arm: String,
    pub(super) seeds: usize,
    /// Mean test accuracy of the seeds.
    pub(super) test: Mean,
    /// Logarithm of the measured latency in milliseconds: nets of an arm may differ tenfold.
    pub(super) log_ms: Mean,
    /// Against the control; none of the control itself.
    #[serde(flatten)]
    pub(super) against: Option<Against>,
}

/// An arm against its control, seed by seed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Against {
    pub(super) control: String,
    /// Test accuracy over the control's.
    pub(super) gain: Mean,
    /// Logarithm of the control's latency over the arm's.
    pub(super) log_speedup: Mean,
    /// Success as registered, of the arms that it is registered for; a net over its limit is none, and a seed
    /// without a net of the arm or the control leaves none.
    pub(super) success: Option<bool>,
    /// Whether a latency of the arm's or the control's is doubted or was measured apart.
    pub(super) doubted: bool,
}

impl Against {
    /// None where arm and control share no seed.
    fn new(outcomes: &[Outcome], (arm, control): (&str, &str), seeds: &[u64], limited: bool) -> Option<Self> {
        let contrast = Contrast::new(outcomes, arm, control).filter(|_| arm != control)?;
        let gain = contrast.accuracy;
        let log_speedup = Mean { mean: -contrast.log_latency.mean, ..contrast.log_latency };
        let surely = |mean: Mean| mean.half.is_some_and(|half| mean.mean > half);
        let doubted = outcomes.iter().any(|of| of.noisy && (of.arm == arm || of.arm == control));
        let kept = outcomes.iter().all(|of| of.arm != arm || !of.over_budget);
        let reached = if limited {
            gain.mean >= GAIN && surely(gain) && kept
        } else {
            log_speedup.mean > FASTER.ln() && surely(log_speedup) && gain.mean >= -LOSS
        };
        let whole = contrast.seeds == seeds.len();
        let success = (arm.split('-').next() == Some(REGISTERED)).then_some(reached && whole);
        Some(Self { control: control.to_owned(), gain, log_speedup, success, doubted })
    }
}

/// The arms that have searches to show, each with the control that it is held against; `seeds` are all that
/// were to be searched.
pub(super) fn summaries(arms: &[(&str, &str)], seeds: &[u64], rows: &[Row]) -> Vec<Summary> {
    let outcome = |row: &Row| Outcome {
        arm: row.arm.clone(),
        seed: row.seed,
        accuracy: row.test,
        latency_ns: row.measured_ns,
        noisy: !row.trustworthy || !row.in_turns,
        over_budget: row.within_limit == Some(false),
    };
    let outcomes: Vec<Outcome> = rows.iter().map(outcome).collect();
    let summary = |&(arm, control): &(&str, &str)| {
        let own: Vec<&Row> = rows.iter().filter(|row| row.arm == arm).collect();
        let mean = |of: fn(&Row) -> f64| Mean::of(&own.iter().map(|row| of(row)).collect::<Vec<_>>());
        let limited = own.iter().any(|row| row.limit_ns.is_some());
        Some(Summary {
            arm: arm.to_owned(),
            seeds: own.len(),
            test: mean(|row| row.test)?,
            log_ms: mean(|row| (row.measured_ns / 1e6).ln())?,
            against: Against::new(&outcomes, (arm, control), seeds, limited),
        })
    };
    arms.iter().filter_map(summary).collect()
}

/// Share by which latencies are still those of one limit.
const SAME_LIMIT: f64 = 0.001;

/// What is wrong with the limits: a quantile's differ from arm to arm of a seed.
pub(super) fn limits_apart(rows: &[Row]) -> Vec<String> {
    let mut limits: BTreeMap<(u64, &str), (f64, f64)> = BTreeMap::new();
    for row in rows {
        let (Some((_, quantile)), Some(limit)) = (row.arm.rsplit_once("-q"), row.limit_ns) else { continue };
        let (low, high) = limits.entry((row.seed, quantile)).or_insert((limit, limit));
        *low = f64::min(*low, limit);
        *high = f64::max(*high, limit);
    }
    let apart = limits.into_iter().filter(|(_, (low, high))| *high > (1.0 + SAME_LIMIT) * *low);
    let note = |((seed, quantile), (low, high)): ((u64, &str), (f64, f64))| {
        let (low, high) = (low / 1e6, high / 1e6);
        format!(
            "the arms of seed {seed} had different limits of q{quantile}, {low:.3} to {high:.3} ms; another --out searches them under one"
        )
    };
    apart.map(note).collect()
}

/// The nets, one a search.
pub(super) fn nets_table(rows: &[Row]) -> Table {
    let mut table = Table::new(&["arm", "seed", "net", "test %", "sd", "ms", "limit ms", "verdict"]);
    for row in rows {
        let marks = [
            (row.within_limit == Some(false), "over the limit"),
            (!row.trustworthy, "not trustworthy"),
            (!row.in_turns, "not in turns"),
        ];
        let verdict: Vec<&str> = marks.iter().filter(|(holds, _)| *holds).map(|(_, mark)| *mark).collect();
        let ms = |ns: f64| format!("{:.3}", ns / 1e6);
        table.row(vec![
            row.arm.clone(),
            row.seed.to_string(),
            row.net.clone(),
            format!("{:.2}", 100.0 * row.test),
            format!("{:.2}", 100.0 * row.test_sd),
            ms(row.measured_ns),
            row.limit_ns.map_or_else(String::new, ms),
            verdict.join("; "),
        ]);
    }
    table
}

/// The arms, with 95% intervals where there are several seeds; latencies as geometric means.
pub(super) fn arms_table(arms: &[Summary]) -> Table {
    let mut table =
        Table::new(&["arm", "seeds", "test %", "ms", "against", "points", "times faster", "success"]);
    let interval = |of: Mean, show: &dyn Fn(f64) -> f64| {
        let text = |value: f64| format!("{:.2}", show(value));
        let Mean { mean, half } = of;
        half.map_or_else(
            || text(mean),
            |half| format!("{} ({} to {})", text(mean), text(mean - half), text(mean + half)),
        )
    };
    let percent = |value: f64| 100.0 * value;
    for Summary { arm, seeds, test, log_ms, against } in arms {
        let mut cells = vec![arm.clone(), seeds.to_string()];
        cells.extend([interval(*test, &percent), interval(*log_ms, &f64::exp)]);
        cells.extend(against.as_ref().map_or_else(Default::default, |of| {
            let success = match of.success {
                Some(true) if of.doubted => "yes, by doubted latencies",
                Some(true) => "yes",
                Some(false) => "no",
                None => "",
            };
            let faster = interval(of.log_speedup, &f64::exp);
            [of.control.clone(), interval(of.gain, &percent), faster, success.to_owned()]
        }));
        table.row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(arm: &str, seed: u64, test: f64, measured_ns: f64) -> Row {
        Row {
            arm: arm.to_owned(),
            seed,
            net: "net".to_owned(),
            test,
            test_sd: 0.01,
            trainings: 10,
            measured_ns,
            limit_ns: None,
            within_limit: None,
            trustworthy: true,
            in_turns: true,
        }
    }

    const ARMS: [(&str, &str); 2] = [("graphnas", "graphnas"), ("both", "graphnas")];

    fn against(rows: &[Row]) -> Against {
        summaries(&ARMS, &[1, 2, 3], rows)[1].against.clone().unwrap()
    }

    #[test]
    fn arms_are_held_against_the_control_of_their_seed() {
        let rows = [row("graphnas", 1, 0.8, 8e6), row("both", 1, 0.79, 2e6), row("both", 2, 0.5, 1e6)];
        let found = summaries(&ARMS, &[1, 2, 3], &rows);
        assert_eq!(found.iter().map(|of| of.seeds).collect::<Vec<_>>(), [1, 2]);
        assert!(found[0].against.is_none());
        let both = against(&rows);
        assert!((both.log_speedup.mean.exp() - 4.0).abs() < 1e-12 && both.log_speedup.half.is_none());
        assert!(
            (both.gain.mean + 0.01).abs() < 1e-12 && both.success == Some(false),
            "one seed decides nothing"
        );
        let table = arms_table(&found).to_csv();
        assert!(table.contains("both,2") && table.contains("4.00,no"), "{table}");
        assert!(nets_table(&rows).to_csv().lines().nth(1).unwrap().ends_with("80.00,1.00,8.000,,"));
    }

    #[test]
    fn a_net_that_was_measured_apart_is_marked() {
        let apart = Row { in_turns: false, trustworthy: false, ..row("both", 1, 0.8, 2e6) };
        let table = nets_table(&[row("graphnas", 1, 0.8, 8e6), apart]).to_csv();
        let ends: Vec<&str> = table.lines().skip(1).filter_map(|line| line.rsplit(',').next()).collect();
        assert_eq!(ends, ["", "not trustworthy; not in turns"], "{table}");
    }

    #[test]
    fn limits_of_one_quantile_are_one() {
        let limited = |arm: &str, seed, ms: f64| Row { limit_ns: Some(1e6 * ms), ..row(arm, seed, 0.8, 8e6) };
        let same = [limited("graphnas-q25", 1, 10.0), limited("random-space-q25", 1, 10.005)];
        let others = [limited("both-q50", 1, 20.0), limited("both-q25", 2, 11.0), row("both", 1, 0.8, 2e6)];
        assert!(limits_apart(&[&same[..], &others].concat()).is_empty());
        let notes = limits_apart(&[&same[..], &others, &[limited("both-q25", 1, 10.2)]].concat());
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].starts_with("the arms of seed 1 had different limits of q25, 10.000 to 10.200 ms;"));
    }

    #[test]
    fn success_is_the_registered_one() {
        let seeds = |arm: &str, tests: [f64; 3], ms: [f64; 3], limit_ns: Option<f64>| {
            let row =
                |place: usize| Row { limit_ns, ..row(arm, place as u64 + 1, tests[place], 1e6 * ms[place]) };
            (0..3).map(row).collect::<Vec<_>>()
        };
        let success = |tests, ms, limit| {
            let control = seeds("graphnas", [0.82; 3], [30.0; 3], limit);
            against(&[control, seeds("both", tests, ms, limit)].concat()).success.unwrap()
        };
        assert!(success([0.82, 0.81, 0.815], [10.0, 9.0, 11.0], None));
        assert!(!success([0.82, 0.81, 0.79], [10.0, 9.0, 11.0], None), "more than a point is lost");
        assert!(!success([0.82; 3], [10.0, 9.0, 60.0], None), "the interval holds 1");
        assert!(!success([0.82; 3], [25.0; 3], None), "surely, but little");
        assert!(success([0.83, 0.829, 0.831], [40.0; 3], Some(5e7)));
        assert!(!success([0.86, 0.82, 0.82], [10.0; 3], Some(5e7)), "the interval holds 0");
    }

    #[test]
    fn a_seed_without_a_net_leaves_no_success() {
        let arm = |arm: &str, ms: f64| (1..=3).map(|seed| row(arm, seed, 0.82, ms)).collect::<Vec<_>>();
        let (control, both) = (arm("graphnas", 30e6), arm("both", 10e6));
        let success = |control: &[Row], both: &[Row]| against(&[control, both].concat()).success;
        assert_eq!(success(&control, &both), Some(true));
        assert_eq!(success(&control, &both[..2]), Some(false));
        assert_eq!(success(&control[1..], &both), Some(false));
        let apart = Row { in_turns: false, ..control[0].clone() };
        let told =
            |control: &[Row]| arms_table(&summaries(&ARMS, &[1, 2, 3], &[control, &both].concat())).to_csv();
        assert!(told(&control).ends_with(",yes\n"), "{}", told(&control));
        assert!(told(&[&[apart], &control[1..]].concat()).contains("yes, by doubted latencies"));
    }
}
