//! Rank correlation (Spearman's) of two lists, and how high ties let it be.

/// Ranks from 1; equal values share the mean of theirs.
#[must_use]
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = before as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&place| ranks[place] = mean);
        before += equal.len();
    }
    ranks
}

/// Spearman's rho (1904) of two equally long lists, with mean ranks for ties: Pearson's correlation of
/// the ranks. None where one list is all ties.
#[must_use]
pub fn spearman(left: &[f64], right: &[f64]) -> Option<f64> {
    pearson(&ranks(left), &ranks(right))
}

/// The highest rho that any prediction without ties can reach against these values.
#[must_use]
pub fn tie_ceiling(values: &[f64]) -> Option<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut places = vec![0.0; values.len()];
    order.iter().enumerate().for_each(|(place, &of)| places[of] = place as f64);
    pearson(&ranks(values), &places)
}

/// Pearson's correlation; none where one list is constant.
#[must_use]
pub fn pearson(left: &[f64], right: &[f64]) -> Option<f64> {
    let count = left.len() as f64;
    let mean = |list: &[f64]| list.iter().sum::<f64>() / count;
    let (a, b) = (mean(left), mean(right));
    let (mut both, mut left_squares, mut right_squares) = (0.0, 0.0, 0.0);
    for (x, y) in left.iter().zip(right) {
        let (x, y) = (x - a, y - b);
        both += x * y;
        left_squares += x * x;
        right_squares += y * y;
    }
    let most = f64::sqrt(left_squares * right_squares);
    (most > 0.0).then(|| both / most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spearman_knows_order_and_ties() {
        let with = |right: [f64; 4]| spearman(&[1.0, 2.0, 3.0, 4.0], &right);
        assert!((with([10.0, 20.0, 30.0, 400.0]).unwrap() - 1.0).abs() < 1e-12);
        assert!((with([4.0, 3.0, 2.0, 1.0]).unwrap() + 1.0).abs() < 1e-12);
        // By hand: ranks 1, 2.5, 2.5, 4 against 1..4.
        assert!((with([1.0, 2.0, 2.0, 3.0]).unwrap() - 4.5 / (4.5f64 * 5.0).sqrt()).abs() < 1e-12);
        assert_eq!(with([1.0; 4]), None);
    }
}
