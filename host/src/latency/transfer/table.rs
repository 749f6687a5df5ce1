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
use super::{Panel, Sample, Scale};
use crate::latency::LatencyError;
use crate::latency::rank::{spearman, tie_ceiling};

/// Random sets of nets that the chosen set is held against.
const RANDOM_SETS: usize = 10;

/// Nets of one space differ by what they are sums of.
const SCALE: Scale = Scale::Linear;

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

/// What a device's nets were predicted from, and how well: Spearman's correlations over the nets that
/// were not measured on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Scores {
    /// The method: from the nets' features where they have some, else as `latencies`.
    pub spearman: f64,
    /// The method where all settings of the same device are left out of the references; none where no
    /// reference is left.
    pub strict: Option<f64>,
    /// The method from the reference latencies of the nets themselves, without features.
    pub latencies: f64,
    /// The same where all settings of the same device are left out.
    pub latencies_strict: Option<f64>,
    /// The method with nets drawn at random instead of chosen: mean over 10 sets.
    pub random: f64,
    /// Baseline: the one reference whose order of the chosen nets is nearest.
    pub single: f64,
    /// Baseline: linear regression of the latency on counts of operators, from the chosen nets.
    pub op_counts: Option<f64>,
    /// The same from the random sets.
    pub op_counts_random: Option<f64>,
    /// Ceiling of regressions on references and features: half of all nets measured, the rest predicted.
    pub half_measured: f64,
    /// Ceiling from ties: what a perfect prediction without ties reaches.
    pub ties: f64,
    /// Share of the nets whose latency lies within 1.96 standard errors of the method's prediction.
    pub within_95: f64,
    /// Median absolute error of the method over the latency.
    pub median_error: f64,
}

/// How well one device is predicted from the others.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceResult {
    /// The device setting.
    pub device: String,
    /// Figures.
    #[serde(flatten)]
    pub scores: Scores,
    /// The nets measured.
    pub measured: Vec<String>,
}

impl Scores {
    /// Means over devices; optional figures only where all have them.
    #[must_use]
    pub fn mean(results: &[DeviceResult]) -> Self {
        let count = results.len().max(1) as f64;
        let mean =
            |of: fn(&Self) -> f64| results.iter().map(|result| of(&result.scores)).sum::<f64>() / count;
        let option = |of: fn(&Self) -> Option<f64>| {
            let sum: Option<f64> = results.iter().map(|result| of(&result.scores)).sum();
            sum.map(|sum| sum / count)
        };
        Self {
            spearman: mean(|of| of.spearman),
            strict: option(|of| of.strict),
            latencies: mean(|of| of.latencies),
            latencies_strict: option(|of| of.latencies_strict),
            random: mean(|of| of.random),
            single: mean(|of| of.single),
            op_counts: option(|of| of.op_counts),
            op_counts_random: option(|of| of.op_counts_random),
            half_measured: mean(|of| of.half_measured),
            ties: mean(|of| of.ties),
            within_95: mean(|of| of.within_95),
            median_error: mean(|of| of.median_error),
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
        let is_stranger = |device: &usize| board(&self.devices[*device]) != board(&self.devices[target]);
        let strangers: Vec<usize> = others.iter().copied().filter(is_stranger).collect();
        let by_latencies = Panel::measured(&self.columns(&others), SCALE)?;
        let panel = self.panel(&others, features)?;
        let chosen = trial.choose(&panel);
        let score = trial.score(&panel, &chosen)?;
        let strict = |features| {
            let panel = (!strangers.is_empty()).then(|| self.panel(&strangers, features)).transpose()?;
            panel.map(|panel| trial.spearman(&panel)).transpose()
        };
        let measured = trial.latencies(&chosen);
        let counted = |nets: &[usize]| {
            op_counts(&self.nets, &trial.latencies(nets)).map(|predicted| trial.order(nets, &predicted))
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = |count: usize| -> Vec<usize> {
            let places = index::sample(&mut rng, trial.known.len(), count.min(trial.known.len()));
            places.into_iter().map(|place| trial.known[place]).collect()
        };
        let sets: Vec<Vec<usize>> = (0..RANDOM_SETS).map(|_| draw(samples)).collect();
        let half = draw(trial.known.len() / 2);
        let mut random = 0.0;
        for nets in &sets {
            random += trial.score(&panel, nets)?.spearman / sets.len() as f64;
        }
        let counted_random: Option<f64> = sets.iter().map(|nets| counted(nets)).sum();
        let bound = baseline::regression(&by_latencies, features, &trial.latencies(&half));
        let scores = Scores {
            spearman: score.spearman,
            strict: strict(features)?,
            latencies: trial.spearman(&by_latencies)?,
            latencies_strict: strict(None)?,
            random,
            single: trial.order(&chosen, &baseline::single(&self.columns(&others), &measured)),
            op_counts: counted(&chosen),
            op_counts_random: counted_random.map(|sum| sum / sets.len() as f64),
            half_measured: trial.order(&half, &bound),
            ties: tie_ceiling(&trial.truth(&trial.known)).unwrap_or(0.0),
            within_95: score.within_95,
            median_error: score.median_error,
        };
        let measured = chosen.iter().map(|&net| self.nets[net].clone()).collect();
        Ok(DeviceResult { device: self.devices[target].clone(), scores, measured })
    }

    fn panel(&self, references: &[usize], features: Option<&[Vec<f64>]>) -> Result<Panel, LatencyError> {
        let latencies = self.columns(references);
        match features {
            Some(features) => Panel::described(&latencies, features, SCALE),
            None => Panel::measured(&latencies, SCALE),
        }
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
    fn order(&self, measured: &[usize], predicted: &[f64]) -> f64 {
        let rest = self.rest(measured);
        let predicted: Vec<f64> = rest.iter().map(|&net| predicted[net]).collect();
        spearman(&predicted, &self.truth(&rest)).unwrap_or(0.0)
    }

    /// The nets that the panel asks for.
    fn choose(&self, panel: &Panel) -> Vec<usize> {
        panel.choose(self.samples, |net| self.table.ms[net][self.target].is_some())
    }

    /// Correlation with the nets that the panel asks for.
    fn spearman(&self, panel: &Panel) -> Result<f64, LatencyError> {
        Ok(self.score(panel, &self.choose(panel))?.spearman)
    }

    fn score(&self, panel: &Panel, measured: &[usize]) -> Result<Score, LatencyError> {
        let sample = |(model, latency)| Sample { model, latency, se: 0.0 };
        let samples: Vec<Sample> = self.latencies(measured).into_iter().map(sample).collect();
        let adapted = panel.adapt(&samples)?;
        let rest = self.rest(measured);
        let predicted: Vec<f64> = rest.iter().map(|&net| adapted.predict(net).latency).collect();
        let truth = self.truth(&rest);
        let is_within = |(net, ms): &(&usize, &f64)| adapted.surprise(**net, **ms).abs() < Z95;
        let within = rest.iter().zip(&truth).filter(is_within).count();
        let mut errors: Vec<f64> =
            predicted.iter().zip(&truth).map(|(predicted, ms)| (predicted / ms - 1.0).abs()).collect();
        errors.sort_by(f64::total_cmp);
        Ok(Score {
            spearman: spearman(&predicted, &truth).unwrap_or(0.0),
            within_95: within as f64 / rest.len().max(1) as f64,
            median_error: errors.get(errors.len() / 2).copied().unwrap_or(0.0),
        })
    }
}
