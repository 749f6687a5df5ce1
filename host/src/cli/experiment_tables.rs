//! What an experiment over convnets found, as tables.

use super::output::Table;
use crate::report::contrasts::{Contrast, Mean, Outcome};

/// Accuracy and latency of every net.
pub(super) fn nets_table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new(&["arm", "seed", "accuracy %", "latency us", "verdict"]);
    for Outcome { arm, seed, accuracy, latency_ns, noisy, over_budget } in outcomes {
        let marks = [(*over_budget, "over budget"), (*noisy, "not trustworthy")];
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
        let outcome = |over_budget, noisy| Outcome {
            arm: "D".to_owned(),
            seed: 1,
            accuracy: 0.5,
            latency_ns: 1e6,
            noisy,
            over_budget,
        };
        let table = nets_table(&[outcome(false, false), outcome(true, false), outcome(true, true)]).to_csv();
        let ends: Vec<&str> = table.lines().skip(1).filter_map(|line| line.rsplit(',').next()).collect();
        assert_eq!(ends, ["", "over budget", "over budget; not trustworthy"], "{table}");
    }
}
