//! How far latency models are off on nets that they were not made of.

use anyhow::{Context, Result};
use hanas_tests::host::Host;

use super::{Figure, agent};

/// Fits both latency models through the command line and holds them against random nets.
pub(crate) fn models() -> Result<Vec<Figure>> {
    const NETS: &str = "50";
    let (host, agent) = (Host::default(), agent(&[]));
    let task = ["--task", "cifar10-resnet20", "--batch", "1"];
    for which in [&["all"][..], &["pairs"], &["nets", "--nets", NETS]] {
        let options = ["profile", "--device", agent.url(), "--allow-noisy", "--quiet", "--which"];
        let _ = host.json(&[&options[..], which, &task].concat());
    }
    let _ = host.json(&[&["latency", "fit"], &task[..]].concat());
    let found = host.json(&[&["latency", "eval"], &task[..]].concat());
    let models = found["devices"][0]["models"].as_array().context("eval names models")?;
    let of = |model: &str, key: &str| {
        let row = models.iter().find(|row| row["model"] == model);
        row.and_then(|row| row[key].as_f64()).with_context(|| format!("no {key} of the {model} model"))
    };
    let how = |model: &str| -> Result<String> {
        let (mape, bias) = (100.0 * of(model, "mape")?, 100.0 * of(model, "bias")?);
        Ok(format!(
            "{NETS} random ResNet20s, batch 1, held out; {model} model, mean error {mape:.1}%, bias {bias:+.1}%"
        ))
    };
    let pairwise = how("pairwise")?;
    Ok(vec![
        Figure {
            key: "pairwise_within_10pct",
            value: 100.0 * of("pairwise", "within_10pct")?,
            goal: ">= 90",
            how: pairwise.clone(),
        },
        Figure {
            key: "pairwise_spearman",
            value: of("pairwise", "spearman_rho")?,
            goal: ">= .98",
            how: pairwise,
        },
        Figure {
            key: "paper_f_within_10pct",
            value: 100.0 * of("paper", "within_10pct")?,
            goal: "",
            how: how("paper")?,
        },
    ])
}
