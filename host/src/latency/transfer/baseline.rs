//! Simpler predictions, from the same measurements: what the method has to beat, and what bounds it.

use std::collections::BTreeSet;

use nalgebra::{DMatrix, DVector};

use super::Panel;
use super::panel::ridged;
use super::table::operators;
use crate::latency::rank::spearman;

/// Singular values below this share of the largest count as 0.
const RANK_TOLERANCE: f64 = 1e-9;

/// Keeps the bounding regression solvable where references are alike.
const RIDGE: f64 = 1e-6;

/// Latencies of the one reference whose order of the measured nets is nearest to the new device's (the
/// first of equals). `measured` are nets and their latencies.
#[must_use]
pub fn single(latencies: &[Vec<Option<f64>>], measured: &[(usize, f64)]) -> Vec<f64> {
    let truth: Vec<f64> = measured.iter().map(|(_, latency)| *latency).collect();
    let column = |reference: usize| move |row: &Vec<Option<f64>>| row[reference].unwrap_or(0.0);
    let agreement = |reference: usize| {
        let seen: Vec<f64> = measured.iter().map(|(net, _)| column(reference)(&latencies[*net])).collect();
        spearman(&seen, &truth).unwrap_or(-1.0)
    };
    let references = (0..latencies.first().map_or(0, Vec::len)).map(|of| (agreement(of), of));
    let best = references.reduce(|a, b| if b.0 > a.0 { b } else { a }).map_or(0, |(_, of)| of);
    latencies.iter().map(column(best)).collect()
}

/// Least squares of the latency on a constant and how often each operator occurs, the solution of least
/// norm where several are equal. None where the names are no cells of operators.
#[must_use]
pub fn op_counts(nets: &[String], measured: &[(usize, f64)]) -> Option<Vec<f64>> {
    let names: BTreeSet<&str> = nets.iter().flat_map(|net| operators(net)).collect();
    if names.len() < 2 || names.len() > nets.len() / 2 {
        return None;
    }
    let count = |net: usize| {
        let cell = operators(&nets[net]);
        let of = |name: &&str| cell.iter().filter(|found| *found == name).count() as f64;
        std::iter::once(1.0).chain(names.iter().map(of)).collect::<Vec<f64>>()
    };
    let counts: Vec<f64> = measured.iter().flat_map(|(net, _)| count(*net)).collect();
    let counts = DMatrix::from_row_slice(measured.len(), names.len() + 1, &counts);
    let latencies = DVector::from_iterator(measured.len(), measured.iter().map(|(_, latency)| *latency));
    let svd = counts.svd(true, true);
    let coefficients = svd.solve(&latencies, RANK_TOLERANCE * svd.singular_values.max()).ok()?;
    Some((0..nets.len()).map(|net| DVector::from_vec(count(net)).dot(&coefficients)).collect())
}

/// Regression of the latency on the references' and on the features, from many nets: what any linear
/// combination of them can reach, no matter how well it is found. An order, not a latency.
#[must_use]
pub fn regression(panel: &Panel, features: Option<&[Vec<f64>]>, measured: &[(usize, f64)]) -> Vec<f64> {
    let width = features.and_then(|features| features.first()).map_or(0, Vec::len);
    let mut all = panel.rows.clone().resize_horizontally(panel.references() + width, 0.0);
    for (mut row, features) in all.row_iter_mut().zip(features.unwrap_or_default()) {
        features.iter().enumerate().for_each(|(i, &feature)| row[panel.references() + i] = feature);
    }
    let nets: Vec<usize> = measured.iter().map(|(net, _)| *net).collect();
    let mut rows = all.select_rows(&nets);
    let means = rows.row_mean();
    rows.row_iter_mut().for_each(|mut row| row -= &means);
    let latencies = DVector::from_iterator(measured.len(), measured.iter().map(|(_, latency)| *latency));
    let moment = rows.tr_mul(&latencies);
    let weights = ridged(rows.tr_mul(&rows), RIDGE).cholesky().map(|factor| factor.solve(&moment));
    let weights = weights.unwrap_or_else(|| DVector::zeros(all.ncols()));
    (all * weights).as_slice().to_vec()
}
