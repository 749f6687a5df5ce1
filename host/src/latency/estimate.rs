//! A model's visits -> its latency with a standard error.
//!
//! Runs within a visit share what the device was doing then, and so do visits that follow each other: a
//! neighbour's load lasts longer than a round. With V visits, a replicate draws V/L blocks of
//! L = V^(1/3) visits in a row (Hall, Horowitz & Jing 1995) with replacement, the last followed by the
//! first, pools their runs and takes the statistic again (circular block bootstrap, Politis & Romano
//! 1992, after Kuensch 1989). Fewer than [`MIN_VISITS`] are cut into pieces of n^(1/3) runs, which are
//! drawn singly.
//!
//! ```text
//! se^2 = V/(V-1) * mean over [`REPLICATES`] replicates of (replicate - estimate)^2  +  resolution^2 / 12
//! ```
//!
//! Errors are compared as if they were normal, but one made of B blocks has only B - 1 degrees of freedom:
//! it is stated wider by [`student`], Student's factor.
//!
//! Around the estimate, not around the replicates' mean: a low quantile of few visits errs upwards, its
//! replicates do so likewise, and the stated error is to cover that too.
//!
//! The bootstrap fails for the minimum (Bickel & Freedman 1981). Near a floor where the density is
//! positive, minima are spaced exponentially: x_(1) - floor has mean and standard deviation t, and
//! (V-i)/V (x_(i+1) - x_(i)) each has mean t (Renyi 1953), x_(i) being the visits' own minima in order.
//! The minimum only errs upwards, so its error is stated as the root mean square, sqrt(2) t, with t the
//! mean over the lower half of the spacings.
//!
//! Everything is seeded: the same samples give the same estimate, bit for bit.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::LatencyError;
use crate::store::Visit;

/// Bootstrap replicates. A standard error from B of them is itself known to 1/sqrt(2B), here 5%.
pub const REPLICATES: usize = 200;

/// Fewer visits than this are cut into pieces to resample.
pub const MIN_VISITS: usize = 8;

/// Tukey's fences (Exploratory Data Analysis, 1977): beyond 1.5 interquartile ranges is an outlier.
pub const FENCE: f64 = 1.5;

/// Beyond 3 interquartile ranges an outlier is far out (Tukey 1977).
pub const FAR_FENCE: f64 = 3.0;

const SEED: u64 = 0x5eed_0001;

/// What of the samples is called the latency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// The fastest run.
    Min,
    /// The quantile of this order, 0 to 1, by linear interpolation (Hyndman & Fan's type 7).
    Quantile(f64),
    /// The quantile of order one half; what the paper takes.
    Median,
}

impl Default for Statistic {
    /// The 5% quantile: nearly as untouched by load as the minimum, and its error can be told.
    fn default() -> Self {
        Self::Quantile(0.05)
    }
}

impl std::fmt::Display for Statistic {
    /// `min`, `q05`, `median`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Min => f.write_str("min"),
            Self::Quantile(q) => write!(f, "q{:02}", (q * 100.0).round()),
            Self::Median => f.write_str("median"),
        }
    }
}

/// A model's latency, and what it was made of. Outliers among the visits given are counted, never dropped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The latency, ns.
    pub value_ns: f64,
    /// Its standard error, ns, with Student's factor.
    pub se_ns: f64,
    /// Degrees of freedom of the error.
    pub freedom: usize,
    /// Median of the samples, ns.
    pub median_ns: f64,
    /// Interquartile range of the samples, ns.
    pub iqr_ns: f64,
    /// Timed runs.
    pub samples: usize,
    /// Visits they came in.
    pub visits: usize,
    /// Runs beyond [`FENCE`].
    pub outliers: usize,
    /// Of those, runs beyond [`FAR_FENCE`].
    pub far_outliers: usize,
}

/// Latency of a model by `statistic`, from all its visits. `clock_resolution_ns` is the smallest step of
/// the clock that took them.
///
/// # Errors
/// [`LatencyError::NoSamples`], and [`LatencyError::Quantile`] for an order outside 0 to 1.
pub fn estimate(
    visits: &[Visit],
    statistic: Statistic,
    clock_resolution_ns: u32,
) -> Result<Estimate, LatencyError> {
    let blocks = Blocks::new(visits)?;
    let value_ns = blocks.value(statistic)?;
    let q = |order| blocks.quantile(order, None);
    let (q1, median_ns, q3) = (q(0.25), q(0.5), q(0.75));
    let iqr_ns = q3 - q1;
    let beyond = |fence: f64| {
        let (low, high) = (fence.mul_add(-iqr_ns, q1), fence.mul_add(iqr_ns, q3));
        blocks.sorted.iter().filter(|(ns, _)| *ns < low || *ns > high).count()
    };
    Ok(Estimate {
        value_ns,
        freedom: blocks.freedom(),
        se_ns: (blocks.standard_error(statistic) * student(blocks.freedom()))
            .hypot(f64::from(clock_resolution_ns) / 12f64.sqrt()),
        median_ns,
        iqr_ns,
        samples: blocks.sorted.len(),
        visits: visits.iter().filter(|visit| !visit.samples.is_empty()).count(),
        outliers: beyond(FENCE),
        far_outliers: beyond(FAR_FENCE),
    })
}

/// How much wider than a normal distribution's Student's t is, at the 95% that two standard errors stand
/// for: t_.975 / z_.975, by the expansion 26.7.5 of Abramowitz & Stegun (1964). 1 for no degree of
/// freedom, where nothing is known anyway.
#[must_use]
pub fn student(freedom: usize) -> f64 {
    if freedom == 0 {
        return 1.0;
    }
    let (z, n) = (1.96f64, freedom as f64);
    let first = (z.powi(3) + z) / 4.0;
    let second = 3.0f64.mul_add(z, 5.0f64.mul_add(z.powi(5), 16.0 * z.powi(3))) / 96.0;
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    (z + first / n + second / n.powi(2) + third / n.powi(3)) / z
}

/// A model's samples, ready to be resampled by visits in a row.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// Ascending; with the visit that a sample is of. A replicate is then a walk with weights.
    sorted: Vec<(f64, u32)>,
    /// Runs of every visit, or piece of one.
    sizes: Vec<usize>,
    /// Visits in a row that are drawn together.
    length: usize,
}

impl Blocks {
    /// Takes visits in the order they were made.
    ///
    /// # Errors
    /// [`LatencyError::NoSamples`] where there is none.
    pub fn new(visits: &[Visit]) -> Result<Self, LatencyError> {
        let filled = visits.iter().filter(|visit| !visit.samples.is_empty());
        let runs: usize = visits.iter().map(|visit| visit.samples.len()).sum();
        let count = filled.clone().count();
        let few = count < MIN_VISITS;
        let cut = if few { (runs as f64).cbrt().ceil() as usize } else { runs };
        let length = if few { 1 } else { (count as f64).cbrt().ceil() as usize };
        let mut blocks = Self { sorted: Vec::with_capacity(runs), sizes: Vec::new(), length };
        for piece in filled.flat_map(|visit| visit.samples.chunks(cut.max(1))) {
            let block = blocks.sizes.len() as u32;
            blocks.sorted.extend(piece.iter().map(|sample| (sample.0 as f64, block)));
            blocks.sizes.push(piece.len());
        }
        blocks.sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        if blocks.sorted.is_empty() { Err(LatencyError::NoSamples) } else { Ok(blocks) }
    }

    /// The statistic of all samples, in nanoseconds.
    ///
    /// # Errors
    /// [`LatencyError::Quantile`] for an order outside 0 to 1.
    pub fn value(&self, statistic: Statistic) -> Result<f64, LatencyError> {
        let order = order(statistic);
        if (0.0..=1.0).contains(&order) {
            Ok(self.quantile(order, None))
        } else {
            Err(LatencyError::Quantile(order))
        }
    }

    /// Degrees of freedom of an error made of these blocks.
    #[must_use]
    pub fn freedom(&self) -> usize {
        (self.sizes.len() / self.length).saturating_sub(1)
    }

    /// The statistic of one replicate: as many visits, in blocks drawn with replacement, in nanoseconds.
    pub fn replicate(&self, statistic: Statistic, rng: &mut ChaCha8Rng) -> f64 {
        let visits = self.sizes.len();
        let mut weights = vec![0; visits];
        let mut left = visits;
        while left > 0 {
            let start = rng.random_range(0..visits);
            for step in 0..self.length.min(left) {
                weights[(start + step) % visits] += 1;
            }
            left = left.saturating_sub(self.length);
        }
        self.quantile(order(statistic), Some(&weights))
    }

    fn standard_error(&self, statistic: Statistic) -> f64 {
        let blocks = self.sizes.len() as f64;
        if self.sizes.len() < 2 {
            // One run: nothing is known about its error, and the value itself bounds it.
            return self.sorted[0].0;
        }
        if statistic == Statistic::Min {
            return self.minimum_error();
        }
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let values: Vec<f64> = (0..REPLICATES).map(|_| self.replicate(statistic, &mut rng)).collect();
        let value = self.quantile(order(statistic), None);
        let squares: f64 = values.iter().map(|replicate| (replicate - value).powi(2)).sum();
        (squares / REPLICATES as f64 * blocks / (blocks - 1.0)).sqrt()
    }

    fn minimum_error(&self) -> f64 {
        let mut seen = vec![false; self.sizes.len()];
        let first_of_block = |&&(_, block): &&(f64, u32)| !std::mem::replace(&mut seen[block as usize], true);
        let minima: Vec<f64> = self.sorted.iter().filter(first_of_block).map(|&(ns, _)| ns).collect();
        let count = minima.len() as f64;
        let used = (minima.len() / 2).max(1);
        let spacings = (1..=used).map(|i| (count - i as f64) / count * (minima[i] - minima[i - 1]));
        std::f64::consts::SQRT_2 * spacings.sum::<f64>() / used as f64
    }

    /// Quantile where each sample counts as often as its block was drawn; once without weights.
    fn quantile(&self, order: f64, weights: Option<&[usize]>) -> f64 {
        let Some(weights) = weights else {
            let place = order * (self.sorted.len() - 1) as f64;
            let (low, high) = (self.sorted[place.floor() as usize].0, self.sorted[place.ceil() as usize].0);
            return (high - low).mul_add(place.fract(), low);
        };
        let total: usize = weights.iter().zip(&self.sizes).map(|(weight, size)| weight * size).sum();
        let place = order * (total - 1) as f64;
        let (wants_low, wants_high) = (place.floor() as usize, place.ceil() as usize);
        let (mut passed, mut low) = (0, None);
        for &(ns, block) in &self.sorted {
            passed += weights[block as usize];
            if low.is_none() && passed > wants_low {
                low = Some(ns);
            }
            if let Some(low) = low
                && passed > wants_high
            {
                return (ns - low).mul_add(place.fract(), low);
            }
        }
        low.unwrap_or_default()
    }
}

const fn order(statistic: Statistic) -> f64 {
    match statistic {
        Statistic::Min => 0.0,
        Statistic::Quantile(q) => q,
        Statistic::Median => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Noise, rng, visits};
    use super::*;

    /// Truth within this many of the stated errors; a normal error would be in 99.1% of trials.
    const WITHIN_SE: f64 = 2.6;
    const TRIALS: u64 = 300;

    /// Where visits differ more than the runs in them, a q05 of fewer than some 3/.05 visits is little
    /// more than the fastest visit, and the coverage falls (94% with 40).
    const ROUNDS: u32 = 60;

    /// Share of seeded trials whose stated error covers the truth.
    fn coverage(noise: Noise, statistic: Statistic, truth_ns: f64) -> f64 {
        let covered = (0..TRIALS).filter(|&seed| {
            let visits = visits(&mut rng(seed), noise, ROUNDS, 10);
            let estimate = estimate(&visits, statistic, 1).unwrap();
            (estimate.value_ns - truth_ns).abs() <= WITHIN_SE * estimate.se_ns
        });
        covered.count() as f64 / TRIALS as f64
    }

    /// The statistic of a sample so large that its own error does not matter.
    fn truth(noise: Noise, statistic: Statistic) -> f64 {
        Blocks::new(&visits(&mut rng(9), noise, 40_000, 10)).unwrap().value(statistic).unwrap()
    }

    #[test]
    fn stated_errors_cover_the_truth_for_stationary_noise() {
        for noise in [Noise::Gaussian, Noise::HeavyTail, Noise::Bimodal, Noise::VisitOffsets, Noise::Bursts] {
            for statistic in [Statistic::default(), Statistic::Median] {
                let share = coverage(noise, statistic, truth(noise, statistic));
                assert!(share >= 0.95, "{noise:?} {statistic}: {share}");
            }
        }
        let share = coverage(Noise::HeavyTail, Statistic::Min, Noise::FLOOR_NS);
        assert!(share >= 0.95, "minimum against the floor: {share}");
    }

    #[test]
    fn more_runs_are_surer() {
        let se = |rounds| {
            let visits = visits(&mut rng(1), Noise::Gaussian, rounds, 10);
            estimate(&visits, Statistic::default(), 1).unwrap().se_ns
        };
        let ratio = se(20) / se(320);
        assert!((2.5..6.5).contains(&ratio), "16 times the visits, a quarter of the error: {ratio}");
    }

    #[test]
    fn few_visits_state_wider_errors() {
        // Tables: t_.975 is 4.303, 2.776, 2.262 and 2.045 for 2, 4, 9 and 29 degrees of freedom.
        for (freedom, t) in [(2, 4.303), (4, 2.776), (9, 2.262), (29, 2.045)] {
            let error = student(freedom) * 1.96 / t - 1.0;
            assert!(error.abs() < 0.04, "{freedom}: {error}");
        }
        assert!((student(100_000) - 1.0).abs() < 1e-4);
    }

    #[test]
    fn quantiles_interpolate_and_outliers_are_counted() {
        let samples = [10, 20, 30, 40, 1_000].map(hanas_proto::Nanos).to_vec();
        let visit = Visit { samples, ..Visit::default() };
        let all = estimate(std::slice::from_ref(&visit), Statistic::Quantile(0.125), 1).unwrap();
        assert_eq!((all.value_ns, all.median_ns, all.iqr_ns), (15.0, 30.0, 20.0));
        assert_eq!((all.samples, all.visits, all.outliers, all.far_outliers), (5, 1, 1, 1));
        assert_eq!(estimate(&[visit], Statistic::Min, 1).unwrap().value_ns, 10.0);
    }

    #[test]
    fn a_replicate_walks_like_a_sort() {
        let visits = visits(&mut rng(3), Noise::HeavyTail, 12, 5);
        let blocks = Blocks::new(&visits).unwrap();
        let weights: Vec<usize> = (0..12).map(|block| block % 3).collect();
        let mut pooled: Vec<f64> = Vec::new();
        for (visit, &weight) in visits.iter().zip(&weights) {
            pooled.extend(visit.samples.iter().map(|sample| sample.0 as f64).cycle().take(5 * weight));
        }
        pooled.sort_by(f64::total_cmp);
        for order in [0.0, 0.05, 0.33, 0.5, 1.0] {
            let place = order * (pooled.len() - 1) as f64;
            let (low, high) = (pooled[place.floor() as usize], pooled[place.ceil() as usize]);
            let slow = low + (high - low) * place.fract();
            assert!((blocks.quantile(order, Some(&weights)) - slow).abs() < 1e-9, "{order}");
        }
    }

    #[test]
    fn nothing_and_nonsense_are_refused() {
        let empty = Visit::default();
        assert_eq!(estimate(&[empty], Statistic::Min, 1), Err(LatencyError::NoSamples));
        let visit = Visit { samples: vec![hanas_proto::Nanos(1)], ..Visit::default() };
        let error = estimate(&[visit], Statistic::Quantile(5.0), 1).unwrap_err();
        assert_eq!(error, LatencyError::Quantile(5.0));
    }
}
