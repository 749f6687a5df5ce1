//! Tables of nets measured on many devices: each device in turn is taken for new, the others for its
//! references.
//!
//! A table is CSV, plain or under gzip: a header, the nets' names in the first column, and one column of
//! milliseconds for every device setting, named `DEVICE_ms`. Settings of one device differ in a number at
//! the end, its batch: `1080ti_1_ms` and `1080ti_256_ms`. A net whose name is a cell of operators
//! (`|conv~0|+|pool~0|skip~1|`, as in NAS-Bench-201) has features: which operator stands at which place.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::baseline::{self, op_counts};
use super::rank::{spearman, tie_ceiling};
use super::{Panel, Sample};
use crate::latency::LatencyError;

/// Random sets of nets that the chosen set is held against.
const RANDOM_SETS: u64 = 10;

/// Two-sided 95% of a normal distribution, in standard errors.
const Z95: f64 = 1.96;

/// Latencies of nets on devices.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Device settings.
    pub devices: Vec<String>,
    /// Nets.
    pub nets: Vec<String>,
    /// Milliseconds, a list a net, a number a device; none where the cell is empty.
    pub ms: Vec<Vec<Option<f64>>>,
}

/// How well one device is predicted from the others.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceResult {
    /// The device setting.
    pub device: String,
    /// Spearman's correlation over all nets not measured, all other settings being references.
    pub spearman: f64,
    /// Share of those nets whose latency lies within 1.96 standard errors of its prediction.
    pub within_95: f64,
    /// Median absolute error over the latency.
    pub median_error: f64,
    /// The correlation where all settings of the same device are left out; none where nothing is left.
    pub strict: Option<f64>,
    /// The correlation from features alone: predicted nets were measured on no device.
    pub features: Option<f64>,
    /// The same with nets drawn at random instead of chosen: mean over 10 sets.
    pub random: f64,
    /// Baseline: the one reference whose order of the chosen nets is nearest.
    pub single: f64,
    /// Baseline: linear regression of the latency on counts of operators.
    pub op_counts: Option<f64>,
    /// Ceiling of a regression on the references: half of all nets measured, tested on the rest.
    pub half_measured: f64,
    /// Ceiling from ties: what a perfect prediction without ties reaches.
    pub ties: f64,
    /// The nets measured.
    pub measured: Vec<String>,
}

/// Means over devices.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Means {
    /// Of [`DeviceResult::spearman`].
    pub spearman: f64,
    /// Of [`DeviceResult::within_95`].
    pub within_95: f64,
    /// Of [`DeviceResult::median_error`].
    pub median_error: f64,
    /// Of [`DeviceResult::strict`]; none where a device has none.
    pub strict: Option<f64>,
    /// Of [`DeviceResult::features`].
    pub features: Option<f64>,
    /// Of [`DeviceResult::random`].
    pub random: f64,
    /// Of [`DeviceResult::single`].
    pub single: f64,
    /// Of [`DeviceResult::op_counts`].
    pub op_counts: Option<f64>,
    /// Of [`DeviceResult::half_measured`].
    pub half_measured: f64,
    /// Of [`DeviceResult::ties`].
    pub ties: f64,
}

impl Means {
    /// Means of some results.
    #[must_use]
    pub fn of(results: &[DeviceResult]) -> Self {
        let mean = |of: fn(&DeviceResult) -> f64| results.iter().map(of).sum::<f64>() / results.len() as f64;
        let option = |of: fn(&DeviceResult) -> Option<f64>| {
            let sum: Option<f64> = results.iter().map(of).sum();
            sum.map(|sum| sum / results.len() as f64)
        };
        Self {
            spearman: mean(|of| of.spearman),
            within_95: mean(|of| of.within_95),
            median_error: mean(|of| of.median_error),
            strict: option(|of| of.strict),
            features: option(|of| of.features),
            random: mean(|of| of.random),
            single: mean(|of| of.single),
            op_counts: option(|of| of.op_counts),
            half_measured: mean(|of| of.half_measured),
            ties: mean(|of| of.ties),
        }
    }
}

/// A device taken for new, and what is known of the nets.
struct Trial<'t> {
    table: &'t Table,
    target: usize,
    /// Nets that the target has measured.
    known: Vec<usize>,
    samples: usize,
}

/// Correlation, coverage and error over the nets not measured.
struct Score {
    spearman: f64,
    within_95: f64,
    median_error: f64,
}

impl Table {
    /// Reads a table; a name that ends with `.gz` is unpacked.
    ///
    /// # Errors
    /// [`LatencyError::Table`] where the file cannot be read, has no device column, or has a cell that is
    /// no positive number.
    pub fn read(path: &Path) -> Result<Self, LatencyError> {
        let trouble = |why: &dyn ToString| LatencyError::Table {
            path: path.display().to_string(),
            why: why.to_string(),
        };
        let file = BufReader::new(File::open(path).map_err(|error| trouble(&error))?);
        let is_packed = path.extension().is_some_and(|end| end == "gz");
        let source: Box<dyn Read> =
            if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        Self::parse(source).map_err(|why| trouble(&why))
    }

    fn parse(source: impl Read) -> Result<Self, String> {
        let mut reader = csv::Reader::from_reader(source);
        let header = reader.headers().map_err(|error| error.to_string())?;
        let columns: Vec<(usize, String)> = header
            .iter()
            .enumerate()
            .filter_map(|(i, name)| Some((i, name.strip_suffix("_ms")?.to_owned())))
            .collect();
        if columns.len() < 2 {
            return Err("fewer than two columns end in _ms; each device needs one".to_owned());
        }
        let (mut nets, mut ms) = (Vec::new(), Vec::new());
        for record in reader.records() {
            let record = record.map_err(|error| error.to_string())?;
            nets.push(record.get(0).unwrap_or_default().to_owned());
            let cell = |(i, name): &(usize, String)| match record.get(*i).map_or("", str::trim) {
                "" => Ok(None),
                text => match text.parse() {
                    Ok(ms) if ms > 0.0 && f64::is_finite(ms) => Ok(Some(ms)),
                    _ => Err(format!("row {}, {name}_ms: '{text}' is no positive number", nets.len())),
                },
            };
            ms.push(columns.iter().map(cell).collect::<Result<_, _>>()?);
        }
        Ok(Self { devices: columns.into_iter().map(|(_, name)| name).collect(), nets, ms })
    }

    /// Takes every device for new in turn: `samples` nets are chosen from what the others say, measured,
    /// and all others predicted. The seed is that of the random sets and halves.
    ///
    /// # Errors
    /// [`LatencyError`] where the devices have too few nets in common.
    pub fn evaluate(&self, samples: usize, seed: u64) -> Result<Vec<DeviceResult>, LatencyError> {
        let features = self.features();
        (0..self.devices.len())
            .map(|target| self.device(target, samples, seed, features.as_deref()))
            .collect()
    }

    fn device(
        &self,
        target: usize,
        samples: usize,
        seed: u64,
        features: Option<&[Vec<f64>]>,
    ) -> Result<DeviceResult, LatencyError> {
        let known = (0..self.nets.len()).filter(|&net| self.ms[net][target].is_some()).collect();
        let trial = Trial { table: self, target, known, samples };
        let others: Vec<usize> = (0..self.devices.len()).filter(|&device| device != target).collect();
        let stranger = |device: &usize| board(&self.devices[*device]) != board(&self.devices[target]);
        let strangers: Vec<usize> = others.iter().copied().filter(stranger).collect();
        let panel = Panel::measured(&self.columns(&others))?;
        let chosen = panel.choose(samples, |net| self.ms[net][target].is_some());
        let score = trial.score(&panel, &chosen)?;
        let strict = (!strangers.is_empty()).then(|| {
            let panel = Panel::measured(&self.columns(&strangers))?;
            trial.chosen(&panel)
        });
        let by_features =
            features.map(|features| trial.chosen(&Panel::described(&self.columns(&others), features)?));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let random = (0..RANDOM_SETS).map(|_| {
            let places = index::sample(&mut rng, trial.known.len(), samples.min(trial.known.len()));
            let nets: Vec<usize> = places.into_iter().map(|place| trial.known[place]).collect();
            Ok(trial.score(&panel, &nets)?.spearman)
        });
        let random: f64 = random.sum::<Result<f64, LatencyError>>()?;
        let half = index::sample(&mut rng, trial.known.len(), trial.known.len() / 2);
        let half: Vec<usize> = half.into_iter().map(|place| trial.known[place]).collect();
        Ok(DeviceResult {
            device: self.devices[target].clone(),
            spearman: score.spearman,
            within_95: score.within_95,
            median_error: score.median_error,
            strict: strict.transpose()?,
            features: by_features.transpose()?,
            random: random / RANDOM_SETS as f64,
            single: trial.of(&chosen, &baseline::single(&self.columns(&others), &trial.latencies(&chosen))),
            op_counts: op_counts(&self.nets, &trial.latencies(&chosen)).map(|all| trial.of(&chosen, &all)),
            half_measured: trial.of(&half, &baseline::regression(&panel, &trial.latencies(&half))),
            ties: tie_ceiling(&trial.truth(&trial.known)).unwrap_or(0.0),
            measured: chosen.iter().map(|&net| self.nets[net].clone()).collect(),
        })
    }

    /// The table of some devices.
    fn columns(&self, devices: &[usize]) -> Vec<Vec<Option<f64>>> {
        self.ms.iter().map(|row| devices.iter().map(|&device| row[device]).collect()).collect()
    }

    /// One-hot operators by place; none where the nets' names are no cells of equally many operators.
    fn features(&self) -> Option<Vec<Vec<f64>>> {
        let cells: Vec<Vec<&str>> = self.nets.iter().map(|net| operators(net)).collect();
        let places = cells.first()?.len();
        if places < 2 || cells.iter().any(|cell| cell.len() != places) {
            return None;
        }
        let names: BTreeSet<(usize, &str)> =
            cells.iter().flat_map(|cell| cell.iter().copied().enumerate()).collect();
        let row = |cell: &Vec<&str>| {
            names.iter().map(|&(place, name)| f64::from(u8::from(cell[place] == name))).collect()
        };
        Some(cells.iter().map(row).collect())
    }
}

/// The operators of a cell, without the nodes that they read.
pub(super) fn operators(net: &str) -> Vec<&str> {
    let parts = net.split(['|', '+']).filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('~').map_or(part, |(name, _)| name)).collect()
}

/// A device setting's device: the name without a batch at its end.
fn board(setting: &str) -> &str {
    match setting.rsplit_once('_') {
        Some((board, batch)) if batch.bytes().all(|byte| byte.is_ascii_digit()) => board,
        _ => setting,
    }
}

impl Trial<'_> {
    /// Latencies of some nets on the new device.
    fn latencies(&self, nets: &[usize]) -> Vec<(usize, f64)> {
        nets.iter().filter_map(|&net| Some((net, self.table.ms[net][self.target]?))).collect()
    }

    fn truth(&self, nets: &[usize]) -> Vec<f64> {
        self.latencies(nets).into_iter().map(|(_, ms)| ms).collect()
    }

    /// The nets that are to be predicted when these were measured.
    fn rest(&self, measured: &[usize]) -> Vec<usize> {
        let measured: BTreeSet<usize> = measured.iter().copied().collect();
        self.known.iter().copied().filter(|net| !measured.contains(net)).collect()
    }

    /// Correlation of a prediction of all nets over those not measured; 0 where it has no order.
    fn of(&self, measured: &[usize], predicted: &[f64]) -> f64 {
        let rest = self.rest(measured);
        let predicted: Vec<f64> = rest.iter().map(|&net| predicted[net]).collect();
        spearman(&predicted, &self.truth(&rest)).unwrap_or(0.0)
    }

    /// Correlation with nets that the panel chooses.
    fn chosen(&self, panel: &Panel) -> Result<f64, LatencyError> {
        let chosen = panel.choose(self.samples, |net| self.table.ms[net][self.target].is_some());
        Ok(self.score(panel, &chosen)?.spearman)
    }

    fn score(&self, panel: &Panel, measured: &[usize]) -> Result<Score, LatencyError> {
        let sample = |(model, latency)| Sample { model, latency, se: 0.0 };
        let samples: Vec<Sample> = self.latencies(measured).into_iter().map(sample).collect();
        let adapted = panel.adapt(&samples)?;
        let rest = self.rest(measured);
        let predicted: Vec<_> = rest.iter().map(|&net| adapted.predict(net)).collect();
        let truth = self.truth(&rest);
        let pairs = || predicted.iter().zip(&truth);
        // Errors are relative ones, so that latencies are compared on the logarithm's scale.
        let is_within =
            |of: &super::Prediction, ms: f64| (ms / of.latency).ln().abs() < Z95 * of.se / of.latency;
        let within = pairs().filter(|(of, ms)| is_within(of, **ms)).count();
        let mut errors: Vec<f64> = pairs().map(|(of, ms)| (of.latency / ms - 1.0).abs()).collect();
        errors.sort_by(f64::total_cmp);
        let latencies: Vec<f64> = predicted.iter().map(|of| of.latency).collect();
        Ok(Score {
            spearman: spearman(&latencies, &truth).unwrap_or(0.0),
            within_95: within as f64 / rest.len().max(1) as f64,
            median_error: errors.get(errors.len() / 2).copied().unwrap_or(0.0),
        })
    }
}
