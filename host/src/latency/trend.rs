//! Tests on short series: does it drift, has it two levels.

/// Total relative change of a series from first to last, and how likely chance makes as much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Slope times length over the median: .08 where the end is 8% above the start.
    pub change: f64,
    /// Two-sided p-value of no trend.
    pub p_value: f64,
}

/// Trend of a series: the slope is the median of all pairwise slopes (Theil 1950, Sen 1968), its p-value
/// Mann's and Kendall's (Mann 1945, Kendall 1975) with correction for continuity. None under 8 values,
/// where the normal approximation does not hold. Of more than a thousand values, medians of neighbours are taken
/// for them: pairs of all would fill the memory.
#[must_use]
pub fn trend(series: &[f64]) -> Option<Trend> {
    let n = series.len();
    if n < 8 {
        return None;
    }
    if n > LONGEST {
        let portions = series.chunks(n.div_ceil(LONGEST));
        return trend(&portions.map(|of| median(&mut of.to_vec())).collect::<Vec<_>>());
    }
    let mut slopes = Vec::with_capacity(n * (n - 1) / 2);
    let mut score = 0.0;
    for (i, &early) in series.iter().enumerate() {
        for (gap, &late) in series[i + 1..].iter().enumerate() {
            let step = late - early;
            slopes.push(step / (gap + 1) as f64);
            score += if step == 0.0 { 0.0 } else { step.signum() };
        }
    }
    let count = n as f64;
    let variance = count * (count - 1.0) * 2.0f64.mul_add(count, 5.0) / 18.0;
    let z = (score.abs() - 1.0).max(0.0) / variance.sqrt();
    let change = median(&mut slopes) * (count - 1.0) / median(&mut series.to_vec());
    Some(Trend { change, p_value: 2.0 * upper_tail(z) })
}

/// Longer series are thinned before pairs of their values are taken.
const LONGEST: usize = 1024;

/// Two levels of a set of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// Distance of the two means over the lower one.
    pub distance: f64,
    /// Distance of the means in pooled standard deviations of the two groups (Ashman, Bird & Zepf 1994).
    pub separation: f64,
    /// Share of the smaller group.
    pub minority: f64,
}

/// Splits values into two groups where the variance within them is smallest (Otsu 1979). None under 8
/// values. A hard split always leaves a gap: halves of a normal distribution have a separation of 2.6,
/// of a uniform one 3.5, of an exponential one 3.1.
#[must_use]
pub fn levels(values: &[f64]) -> Option<Levels> {
    let n = values.len();
    if n < 8 {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Centred first, so that the sums of squares lose no digits.
    let centre = sorted[n / 2];
    let mut prefix = vec![(0.0, 0.0)];
    for value in &sorted {
        let (sum, squares) = prefix[prefix.len() - 1];
        let value = value - centre;
        prefix.push((sum + value, squares + value * value));
    }
    let group = |from: usize, to: usize| {
        let count = (to - from) as f64;
        let mean = (prefix[to].0 - prefix[from].0) / count;
        let within = count.mul_add(-mean * mean, prefix[to].1 - prefix[from].1).max(0.0);
        (mean, within)
    };
    let within = |cut: usize| group(0, cut).1 + group(cut, n).1;
    let cut = (1..n).min_by(|&a, &b| within(a).total_cmp(&within(b)))?;
    let ((low, low_within), (high, high_within)) = (group(0, cut), group(cut, n));
    let spread = ((low_within / cut as f64 + high_within / (n - cut) as f64) / 2.0).sqrt();
    Some(Levels {
        distance: (high - low) / (low + centre),
        separation: if high > low { (high - low) / spread.max(f64::MIN_POSITIVE) } else { 0.0 },
        minority: cut.min(n - cut) as f64 / n as f64,
    })
}

/// The middle value, of an even number the mean of both; NaN of none. Sorts in place.
pub fn median(values: &mut [f64]) -> f64 {
    let n = values.len();
    if n == 0 {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    f64::midpoint(values[(n - 1) / 2], values[n / 2])
}

/// P(Z > z) of a standard normal, z >= 0; absolute error below 7.5e-8 (Abramowitz & Stegun 26.2.17).
#[must_use]
pub fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / 0.231_641_9f64.mul_add(z, 1.0);
    let terms = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let sum = terms.iter().rev().fold(0.0, |sum, term| (sum + term) * t);
    sum * (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{normal, rng};
    use super::*;

    #[test]
    fn a_straight_line_is_a_trend_and_noise_is_none() {
        let line: Vec<f64> = (0..20).map(|i| 100.0 + f64::from(i)).collect();
        let found = trend(&line).unwrap();
        assert!((found.change - 19.0 / 109.5).abs() < 1e-12);
        assert!(found.p_value < 1e-6);
        let false_alarms = (0..400).filter(|&seed| {
            let mut rng = rng(seed);
            let noise: Vec<f64> = (0..20).map(|_| 100.0 + normal(&mut rng)).collect();
            trend(&noise).unwrap().p_value < 0.05
        });
        let share = false_alarms.count() as f64 / 400.0;
        assert!((0.02..0.08).contains(&share), "a 5% test raises 5% false alarms: {share}");
        assert_eq!(trend(&line[..7]), None);
        let long: Vec<f64> = (0..100_000).map(|i| 100.0 + f64::from(i) / 1e4).collect();
        let found = trend(&long).unwrap();
        assert!((found.change - 10.0 / 105.0).abs() < 1e-3 && found.p_value < 1e-6, "{found:?}");
    }

    #[test]
    fn levels_are_told_from_one_hump() {
        let mut rng = rng(4);
        let hump: Vec<f64> = (0..2_000).map(|_| 100.0 + normal(&mut rng)).collect();
        let one = levels(&hump).unwrap();
        assert!((2.4..2.9).contains(&one.separation), "{one:?}");
        let two: Vec<f64> =
            hump.iter().enumerate().map(|(i, x)| if i % 5 == 0 { x + 20.0 } else { *x }).collect();
        let two = levels(&two).unwrap();
        assert!((two.distance - 0.2).abs() < 0.01 && two.separation > 15.0, "{two:?}");
        assert!((two.minority - 0.2).abs() < 0.005);
        assert_eq!(levels(&[5.0; 9]).unwrap().separation, 0.0);
    }

    #[test]
    fn normal_tails_are_the_tables() {
        for (z, p) in [(0.0, 0.5), (1.0, 0.158_655), (1.959_964, 0.025), (3.0, 0.001_35)] {
            assert!((upper_tail(z) - p).abs() < 1e-6, "{z}");
        }
    }
}
