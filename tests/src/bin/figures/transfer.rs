//! How well a new device is predicted from ten measured nets.

use std::path::Path;

use anyhow::{Context, Result};
use hanas::latency::transfer::table::{Scores, Table};

use super::Figure;

/// Names a table of NAS-Bench-201's nets on many devices, which is not part of the house.
const TABLE: &str = "HANAS_NAS_BENCH_201";

pub(crate) fn figures() -> Result<Vec<Figure>> {
    let path = std::env::var_os(TABLE)
        .with_context(|| format!("{TABLE} names no table (CSV) of NAS-Bench-201's latencies"))?;
    let scores = Scores::mean(&Table::read(Path::new(&path))?.evaluate(10, 0)?);
    let figure = |key, value, references: &str| {
        let how = format!(
            "10 nets chosen and measured, all others predicted; mean over the table's device settings, references: {references}"
        );
        Figure { key, value, goal: ">= .95", how }
    };
    let strict = scores.strict.context("no reference is left")?;
    Ok(vec![
        figure("transfer_10_samples_mean_spearman", scores.spearman, "all other settings"),
        figure("transfer_10_samples_mean_spearman_strict", strict, "settings of other devices"),
    ])
}
