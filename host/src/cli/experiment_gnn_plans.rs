//! The searches of `hanas experiment gnn`: every arm at every seed, as a command line.

use std::path::{Path, PathBuf};

use clap::Parser;

use super::Usage;
use super::experiment_gnn::GnnArgs;
use super::hgnas_args::HgnasArgs;

/// An arm without a limit, and the options that make it; the first is what the others are held against.
const FREE: [(&str, &[&str]); 6] = [
    (GRAPHNAS, &["--space", "graphnas", "--reward", "accuracy"]),
    ("space", &["--space", "hgnas", "--reward", "accuracy"]),
    ("reward", &["--space", "graphnas", "--reward", "latency"]),
    ("both", &["--space", "hgnas", "--reward", "latency"]),
    ("random", &["--space", "graphnas", "--strategy", "random", "--reward", "accuracy"]),
    ("random-space", &["--space", "hgnas", "--strategy", "random", "--reward", "accuracy"]),
];
/// Arms under each limit.
const LIMITED: [(&str, &[&str]); 4] = [
    (GRAPHNAS, &["--space", "graphnas", "--reward", "accuracy"]),
    ("both", &["--space", "hgnas", "--reward", "latency"]),
    ("random-space", &["--space", "hgnas", "--strategy", "random", "--reward", "accuracy"]),
    ("evolution-space", &["--space", "hgnas", "--strategy", "evolution", "--reward", "accuracy"]),
];
const GRAPHNAS: &str = "graphnas";

/// One search.
pub(super) struct Plan {
    pub(super) arm: String,
    /// The arm that it is held against.
    pub(super) control: String,
    pub(super) seed: u64,
    pub(super) folder: PathBuf,
    pub(super) words: Vec<String>,
}

/// The command line of a search, to be parsed as one.
#[derive(Debug, Parser)]
pub(super) struct Line {
    #[command(flatten)]
    pub(super) args: HgnasArgs,
}

/// All searches, seed by seed.
pub(super) fn plans(args: &GnnArgs) -> anyhow::Result<Vec<Plan>> {
    let mut arms: Vec<(String, String, Vec<String>)> = Vec::new();
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    for (name, words) in FREE {
        arms.push((name.to_owned(), GRAPHNAS.to_owned(), owned(words)));
    }
    for limit in &args.limits {
        for (name, words) in LIMITED {
            let more = owned(&["--limit", &format!("q{limit}")]);
            arms.push((
                format!("{name}-q{limit}"),
                format!("{GRAPHNAS}-q{limit}"),
                [owned(words), more].concat(),
            ));
        }
    }
    let unknown = args.arms.iter().find(|wanted| arms.iter().all(|(name, ..)| name != *wanted));
    if let Some(unknown) = unknown {
        let names: Vec<&str> = arms.iter().map(|(name, ..)| name.as_str()).collect();
        return Err(Usage(format!("there is no arm '{unknown}'; there are {}", names.join(", "))).into());
    }
    arms.retain(|(name, ..)| args.arms.is_empty() || args.arms.contains(name));
    let text = |path: &Path| path.display().to_string();
    let mut plans = Vec::new();
    // Seed by seed, so that what is there after an interruption is comparable.
    for &seed in &args.seeds {
        for (arm, control, words) in &arms {
            let folder = args.out.join(format!("{arm}-s{seed}"));
            let own = [
                "hgnas".to_owned(),
                format!("--task={}", args.task.name),
                format!("--data={}", text(&args.data)),
                format!("--device={}", args.device),
                format!("--out={}", text(&folder)),
                format!("--scores={}", text(&args.out.join("scores.jsonl"))),
                format!("--latencies={}", text(&args.out.join("latencies.jsonl"))),
                format!("--seed={seed}"),
            ];
            let turns = format!("--turns={}", text(&args.out.join("turns")));
            let turns = if args.jobs > 1 { vec![turns] } else { Vec::new() };
            let words = [&own[..], &turns, words, &args.more].concat();
            plans.push(Plan { arm: arm.clone(), control: control.clone(), seed, folder, words });
        }
    }
    Ok(plans)
}

/// The command line, parsed.
pub(super) fn line(plan: &Plan) -> anyhow::Result<Line> {
    let line = Line::try_parse_from(&plan.words).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        Usage(format!("{}: {}", plan.arm, first.trim_start_matches("error: ")))
    })?;
    line.args.finals()?;
    line.args.child().check().map_err(Usage)?;
    Ok(line)
}

/// Every arm of these searches once, with its control.
pub(super) fn arms(plans: &[Plan]) -> Vec<(&str, &str)> {
    let mut arms = Vec::new();
    for plan in plans {
        let arm = (plan.arm.as_str(), plan.control.as_str());
        if !arms.contains(&arm) {
            arms.push(arm);
        }
    }
    arms
}

#[cfg(test)]
mod tests {
    use super::super::experiment_settings::distinct;
    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: GnnArgs,
    }

    fn parse(more: &[&str]) -> GnnArgs {
        let words = ["gnn", "--task", "planted-gnn", "--device", "d", "--out", "runs"];
        Command::parse_from([&words[..], more].concat()).args
    }

    #[test]
    fn every_arm_is_a_search_of_its_own() {
        let plans = plans(&parse(&["--seeds", "2,3", "--", "--samples", "5"])).unwrap();
        assert_eq!(plans.len(), 2 * (6 + 2 * 4));
        let folders: std::collections::BTreeSet<&PathBuf> = plans.iter().map(|plan| &plan.folder).collect();
        assert_eq!(folders.len(), plans.len());
        for plan in &plans {
            let args = line(plan).unwrap().args;
            assert_eq!((args.samples(), args.seed, args.out), (5, plan.seed, plan.folder.clone()));
            assert_eq!(args.limit.is_some(), plan.arm.contains("-q"));
            assert!(plans.iter().any(|other| other.arm == plan.control));
        }
    }

    #[test]
    fn what_makes_no_search_is_said_before_any_runs() {
        let wrong = plans(&parse(&["--arms", "both,neither"])).err().unwrap().to_string();
        assert!(wrong.contains("'neither'") && wrong.contains("both-q25"), "{wrong}");
        for seeds in [&[][..], &[3, 1, 3]] {
            assert_eq!(super::super::exit_code(&distinct("--seeds", seeds).unwrap_err()), 2);
        }
        for more in [["--epochs", "0"], ["--retrain", "5,0"]] {
            let plans = plans(&parse(&[&["--"], &more[..]].concat())).unwrap();
            assert_eq!(super::super::exit_code(&line(&plans[0]).unwrap_err()), 2, "{more:?}");
        }
        let plans = plans(&parse(&["--", "--sample", "5"])).unwrap();
        let wrong = line(&plans[0]).unwrap_err();
        assert!(super::super::exit_code(&wrong) == 2 && wrong.to_string().contains("--sample"), "{wrong}");
    }
}
