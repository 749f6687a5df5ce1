//! What an experiment over convnets found, as tables.

use serde::Serialize;

use super::output::Table;
use crate::report::contrasts::{Contrast, Mean, Outcome};

/// What a net came to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    /// Whether it was measured in turns with the others of its seed; otherwise latencies may differ by the
    /// device's pace alone.
    pub(super) in_turns: bool,
}

/// Accuracy and latency of every net.
pub(super) fn nets_table(rows: &[Row]) -> Table {
    let mut table = Table::new(&["arm", "seed", "accuracy %", "latency us", "verdict"]);
    for Row { outcome, in_turns } in rows {
        let Outcome { arm, seed, accuracy, latency_ns, noisy, over_budget } = outcome;
        let marks =
            [(*over_budget, "over budget"), (*noisy, "not trustworthy"), (!*in_turns, "not in turns")];
        let verdict: Vec<&str> = marks.iter().filter(|(holds, _)| *holds).map(|(_, mark)| *mark).collect();
        table.row(vec![
            arm.clone(),
            seed.to_string(),
            format!("{:.2}", 100.0 * accuracy),
            format!("{:.1}", latency_ns / 1e3),
            verdict.join("; "),
        ]);
    }
    table
}

/// Differences of arms, with their intervals.
pub(super) fn contrasts_table(contrasts: &[Contrast]) -> Table {
    let mut table =
        Table::new(&["contrast", "seeds", "accuracy, points", "latency ratio", "better as registered"]);
    for Contrast { arm, than, seeds, accuracy, log_latency: Mean { mean, half }, reached } in contrasts {
        let points = 100.0 * accuracy.mean;
        let ratio = half.map_or_else(
            || format!("{:.3}", mean.exp()),
            |half| format!("{:.3} ({:.3} to {:.3})", mean.exp(), (mean - half).exp(), (mean + half).exp()),
        );
        table.row(vec![
            format!("{arm} - {than}"),
            seeds.to_string(),
            accuracy.half.map_or_else(
                || format!("{points:+.2}"),
                |half| format!("{points:+.2} +- {:.2}", 100.0 * half),
            ),
            ratio,
            if *reached { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_net_over_its_budget_is_marked() {
        let row = |over_budget, noisy, in_turns| {
            let (arm, seed, accuracy, latency_ns) = ("D".to_owned(), 1, 0.5, 1e6);
            Row { outcome: Outcome { arm, seed, accuracy, latency_ns, noisy, over_budget }, in_turns }
        };
        let rows = [row(false, false, true), row(true, false, true), row(true, true, false)];
        let table = nets_table(&rows).to_csv();
        let ends: Vec<&str> = table.lines().skip(1).filter_map(|line| line.rsplit(',').next()).collect();
        assert_eq!(ends, ["", "over budget", "over budget; not trustworthy; not in turns"], "{table}");
    }
}
