//! Expected cost of the net that the logits describe, differentiable in them (ALGORITHM 1.5).
//!
//! With p = softmax(a): `E[x] = sum p x` of every row; block b of a stage counts with rho_b, the
//! probability that the stage keeps it. A 1x1 shortcut without stride counts with the probability that
//! the widths it joins differ, because only then the derived net has one.

use hanas_models::layer::{LayerKind, LayerType, Place};
use tch::{Kind, Tensor};

use super::super::choices::Choices;
use super::super::latency_model::LatencyModel;
use super::sample::ArchLogits;

/// What a layer costs.
#[derive(Debug, Clone, Copy)]
pub enum LayerCost<'a> {
    /// Nanoseconds: by the fitted curve of its type at E\[cout\] (HTAS, Eq. 8), or by the table of its
    /// kind at (E\[cin\], E\[cout\]).
    Latency(&'a LatencyModel),
    /// Multiply-adds, as the product of E\[cin\] and E\[cout\] (TAS).
    Flops,
}

/// A layer as the expectation sees it.
struct Expected<'t> {
    kind: LayerType,
    layer: LayerKind,
    cin: &'t Tensor,
    cout: &'t Tensor,
}

impl LayerCost<'_> {
    fn of(&self, at: &Expected<'_>) -> Tensor {
        match self {
            Self::Latency(LatencyModel::Curves(fits)) => match fits.of(at.kind) {
                Some(fit) => at.cout.pow_tensor_scalar(fit.alpha) * fit.k_ns + fit.b_ns,
                None => at.cout.zeros_like(),
            },
            Self::Latency(LatencyModel::Pairs(pairs)) => match pairs.grids.get(&at.layer) {
                Some(grid) => {
                    let slope = grid.slope(at.cin.double_value(&[]), at.cout.double_value(&[]));
                    // Zero in value: they carry the table's derivatives.
                    let rise = |x: &Tensor, per: f64| (x - x.detach()) * per;
                    rise(at.cin, slope.per_cin_ns) + rise(at.cout, slope.per_cout_ns) + slope.ns
                }
                None => at.cout.zeros_like(),
            },
            Self::Flops => {
                let kernel = match at.layer {
                    LayerKind::Conv { kernel, .. } => kernel,
                    LayerKind::Shortcut { .. } | LayerKind::Head { .. } => 1,
                };
                let per_pair = f64::from(kernel).powi(2) * f64::from(at.layer.output_side()).powi(2);
                at.cin * at.cout * per_pair
            }
        }
    }

    /// What turns the sum over layers into the cost of a whole net.
    const fn calibration(&self) -> f64 {
        match self {
            Self::Latency(model) => model.calibration(),
            Self::Flops => 1.0,
        }
    }
}

/// A row's widths: what may come in or out of a layer.
struct Row {
    /// Probability of each choice.
    p: Tensor,
    /// The choices, ascending.
    widths: Vec<u32>,
    /// E\[x\].
    mean: Tensor,
}

/// The map between two blocks: one row, or after a stage a choice of rows by its depth.
struct Joint<'t> {
    mean: Tensor,
    rows: Vec<(Tensor, &'t Row)>,
}

/// Expected cost, in nanoseconds or multiply-adds, as a scalar of 64 bits.
#[must_use = "it has no other effect"]
pub fn expected(choices: &Choices, logits: &ArchLogits, cost: LayerCost<'_>) -> Tensor {
    let softmax = |row: &Tensor| row.to_kind(Kind::Double).softmax(0, Kind::Double);
    let row = |(row, widths): (&Tensor, &Vec<u32>)| {
        let p = softmax(row);
        let mean = (&p * vector(widths)).sum(Kind::Double);
        Row { p, widths: widths.clone(), mean }
    };
    let rows: Vec<Row> = logits.widths.iter().zip(&choices.widths).map(row).collect();
    let family = &choices.family;
    let constant = |x: u32| Tensor::from(f64::from(x));
    let one = Tensor::from(1.0f64);

    let mut side = family.input.height;
    let (cin, cout) = (&constant(family.input.channels), &rows[0].mean);
    let layer = LayerKind::Conv { kernel: 3, stride: 1, side };
    let mut total = cost.of(&Expected { kind: LayerType::Stem, layer, cin, cout });
    let mut input = Joint::of(&one, &rows[0]);
    for (s, stage) in family.stages.iter().enumerate() {
        let depth = softmax(&logits.depths[s]);
        let mut ends = Vec::new();
        for b in 0..stage.blocks as usize {
            let stride = if b == 0 { stage.stride } else { 1 };
            let at = choices.row(s, b);
            let place = Place { stage: s, stride, side };
            let block = block(cost, place, &input, [&rows[at], &rows[at + 1]]);
            side /= stride;
            total += block * kept(&depth, &choices.depths[s], b);
            input = Joint::of(&one, &rows[at + 1]);
            if let Some(k) = choices.depths[s].iter().position(|&kept| kept as usize == b + 1) {
                ends.push((depth.get(k as i64), &rows[at + 1]));
            }
        }
        input = Joint::over(ends);
    }
    let (cin, cout) = (&input.mean, &constant(family.classes));
    let layer = LayerKind::Head { side };
    total += cost.of(&Expected { kind: LayerType::Head, layer, cin, cout });
    total * cost.calibration()
}

/// Expected cost of one block that is there: a, b and its shortcut.
fn block(cost: LayerCost<'_>, at: Place, input: &Joint<'_>, [a, b]: [&Row; 2]) -> Tensor {
    let Place { stage, stride, side } = at;
    let conv = |stride, side, cin, cout| {
        let layer = LayerKind::Conv { kernel: 3, stride, side };
        cost.of(&Expected { kind: LayerType::Conv { stage, stride }, layer, cin, cout })
    };
    let kind = LayerType::Shortcut { stage, stride };
    let layer = LayerKind::Shortcut { stride, side };
    let shortcut = cost.of(&Expected { kind, layer, cin: &input.mean, cout: &b.mean });
    let there = if stride == 2 { Tensor::from(1.0f64) } else { 1.0 - input.matches(b) };
    conv(stride, side, &input.mean, &a.mean) + conv(1, side / stride, &a.mean, &b.mean) + shortcut * there
}

/// rho_b: probability that the stage keeps more than `block` blocks.
fn kept(depth: &Tensor, choices: &[u32], block: usize) -> Tensor {
    let first = choices.iter().position(|&kept| kept as usize > block).unwrap_or(choices.len()) as i64;
    depth.narrow(0, first, choices.len() as i64 - first).sum(Kind::Double)
}

impl<'t> Joint<'t> {
    fn of(one: &Tensor, row: &'t Row) -> Self {
        Self { mean: row.mean.shallow_clone(), rows: vec![(one.shallow_clone(), row)] }
    }

    fn over(rows: Vec<(Tensor, &'t Row)>) -> Self {
        let weighted: Vec<Tensor> = rows.iter().map(|(p, row)| p * &row.mean).collect();
        Self { mean: Tensor::stack(&weighted, 0).sum(Kind::Double), rows }
    }

    /// Probability that it has as many channels as a row's choice.
    fn matches(&self, row: &Row) -> Tensor {
        let pairs = self.rows.iter().map(|(p, from)| p * from.matches(row));
        pairs.reduce(|sum, next| sum + next).unwrap_or_else(|| Tensor::from(0.0f64))
    }
}

impl Row {
    fn matches(&self, other: &Self) -> Tensor {
        let equal: Vec<f64> = self
            .widths
            .iter()
            .flat_map(|left| other.widths.iter().map(move |right| f64::from(u8::from(left == right))))
            .collect();
        let equal = Tensor::from_slice(&equal).view([self.widths.len() as i64, other.widths.len() as i64]);
        self.p.dot(&equal.mv(&other.p))
    }
}

fn vector(widths: &[u32]) -> Tensor {
    Tensor::from_slice(&widths.iter().map(|&width| f64::from(width)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use hanas_models::cost::macs;

    use super::super::super::choices::tests::tiny_choices;
    use super::super::super::choices::{Logits, Picks};
    use super::super::super::latency_model::tests::pairs;
    use super::super::super::timer::tests::fits;
    use super::*;

    /// Logits are 32-bit floats; the sums are 64-bit.
    const TOLERANCE: f64 = 1e-6;

    fn set(logits: &ArchLogits, values: &Logits) {
        let pairs = logits.widths.iter().zip(&values.widths).chain(logits.depths.iter().zip(&values.depths));
        for (tensor, row) in pairs {
            let row: Vec<f32> = row.iter().map(|&x| x as f32).collect();
            tch::no_grad(|| tensor.shallow_clone().copy_(&Tensor::from_slice(&row)));
        }
    }

    fn random_logits(choices: &Choices) -> Logits {
        let mut x = 0.37f64;
        let mut next = || {
            x = (x * 97.13).fract();
            2.0 * x - 1.0
        };
        let mut rows =
            |lists: &[Vec<u32>]| lists.iter().map(|list| list.iter().map(|_| next()).collect()).collect();
        Logits { widths: rows(&choices.widths), depths: rows(&choices.depths) }
    }

    fn softmax(row: &[f64]) -> Vec<f64> {
        let sum: f64 = row.iter().map(|x| x.exp()).sum();
        row.iter().map(|x| x.exp() / sum).collect()
    }

    /// The same in plain numbers, written out for the tiny family of two blocks per stage.
    fn reference(
        choices: &Choices,
        logits: &Logits,
        layer: impl Fn(LayerType, u32, u32, f64, f64) -> f64,
    ) -> f64 {
        let p: Vec<Vec<f64>> = logits.widths.iter().map(|row| softmax(row)).collect();
        let mean =
            |r: usize| -> f64 { p[r].iter().zip(&choices.widths[r]).map(|(p, &w)| p * f64::from(w)).sum() };
        let same = |r: usize, q: usize| -> f64 {
            let mut sum = 0.0;
            for (i, left) in choices.widths[r].iter().enumerate() {
                for (j, right) in choices.widths[q].iter().enumerate() {
                    sum += if left == right { p[r][i] * p[q][j] } else { 0.0 };
                }
            }
            sum
        };
        let mut total = layer(LayerType::Stem, 3, 16, 3.0, mean(0));
        let (mut e_in, mut from): (f64, Vec<(f64, usize)>) = (mean(0), vec![(1.0, 0)]);
        for (stage, side, stride) in [(0, 16, 1), (1, 8, 2), (2, 4, 2)] {
            let d = softmax(&logits.depths[stage]);
            for block in 0..2 {
                let (a, b) = (1 + 4 * stage + 2 * block, 2 + 4 * stage + 2 * block);
                let stride = if block == 0 { stride } else { 1 };
                let rho = if block == 0 { 1.0 } else { d[1] };
                let there = if stride == 2 {
                    1.0
                } else {
                    1.0 - from.iter().map(|&(w, r)| w * same(r, b)).sum::<f64>()
                };
                total += rho
                    * (layer(LayerType::Conv { stage, stride }, 3, side, e_in, mean(a))
                        + layer(LayerType::Conv { stage, stride: 1 }, 3, side, mean(a), mean(b))
                        + there * layer(LayerType::Shortcut { stage, stride }, 1, side, e_in, mean(b)));
                (e_in, from) = (mean(b), vec![(1.0, b)]);
            }
            let (first, second) = (2 + 4 * stage, 4 + 4 * stage);
            e_in = d[0] * mean(first) + d[1] * mean(second);
            from = vec![(d[0], first), (d[1], second)];
        }
        total + layer(LayerType::Head, 1, 1, e_in, 10.0)
    }

    #[test]
    fn expectations_are_the_plain_sums() {
        let choices = tiny_choices(2);
        let (values, logits) = (random_logits(&choices), ArchLogits::new(&choices, 1));
        set(&logits, &values);
        let fits = fits(&choices.family);
        let model = LatencyModel::Curves(fits.clone());
        let got = expected(&choices, &logits, LayerCost::Latency(&model)).double_value(&[]);
        let curve = |kind, _, _, _, cout| fits.of(kind).unwrap().at(cout);
        let want = fits.calibration * reference(&choices, &values, curve);
        assert!((got / want - 1.0).abs() < TOLERANCE, "{got} ns, not {want}");

        let got = expected(&choices, &logits, LayerCost::Flops).double_value(&[]);
        let product = |_, kernel: u32, side: u32, cin, cout| {
            f64::from(kernel).powi(2) * f64::from(side).powi(2) * cin * cout
        };
        let want = reference(&choices, &values, product);
        assert!((got / want - 1.0).abs() < TOLERANCE, "{got} multiply-adds, not {want}");
    }

    /// Where the logits are certain of one net, the expectation is that net's cost.
    #[test]
    fn certain_logits_cost_what_their_net_costs() {
        let choices = tiny_choices(2);
        let picks = Picks { widths: (0..13).map(|row| row % 4).collect(), depths: vec![1, 0, 1] };
        let certain = |lists: &[Vec<u32>], picks: &[usize]| {
            let row = |(list, &pick): (&Vec<u32>, &usize)| {
                (0..list.len()).map(|i| if i == pick { 60.0 } else { 0.0 }).collect()
            };
            lists.iter().zip(picks).map(row).collect()
        };
        let values = Logits {
            widths: certain(&choices.widths, &picks.widths),
            depths: certain(&choices.depths, &picks.depths),
        };
        let logits = ArchLogits::new(&choices, 1);
        set(&logits, &values);
        assert_eq!(choices.argmax(&logits.values()), picks);
        let net = choices.net(&picks);
        let got = expected(&choices, &logits, LayerCost::Flops).double_value(&[]);
        let want = macs(&net.net().unwrap()).unwrap() as f64;
        assert!((got / want - 1.0).abs() < TOLERANCE, "{got}, not {want}");
        let family = &choices.family;
        for model in [LatencyModel::Curves(fits(family)), LatencyModel::Pairs(pairs(family))] {
            let got = expected(&choices, &logits, LayerCost::Latency(&model)).double_value(&[]);
            let want = model.predict_ns(&net).unwrap();
            assert!((got / want - 1.0).abs() < TOLERANCE, "{got}, not {want}");
        }
    }

    #[test]
    fn cost_falls_towards_narrower_and_shallower() {
        let choices = tiny_choices(2);
        let logits = ArchLogits::new(&choices, 1);
        let family = &choices.family;
        let (curves, pairs) = (LatencyModel::Curves(fits(family)), LatencyModel::Pairs(pairs(family)));
        for cost in [LayerCost::Flops, LayerCost::Latency(&curves), LayerCost::Latency(&pairs)] {
            let inputs: Vec<&Tensor> = logits.widths.iter().chain(&logits.depths).collect();
            let total = expected(&choices, &logits, cost).log();
            for gradient in Tensor::run_backward(&[&total], &inputs, false, false) {
                let last = gradient.size()[0] - 1;
                assert!(
                    gradient.double_value(&[0]) < 0.0 && gradient.double_value(&[last]) > 0.0,
                    "{cost:?}"
                );
            }
        }
    }

    /// The table's cost has the derivatives of its finite differences.
    #[test]
    fn pairwise_gradients_are_finite_differences() {
        // Doubles inside, logits in single precision: a step large enough to be seen in them, small enough
        // to stay between two of the table's nodes.
        const STEP: f64 = 1e-3;
        let choices = tiny_choices(2);
        let model = LatencyModel::Pairs(pairs(&choices.family));
        let cost = LayerCost::Latency(&model);
        let logits = ArchLogits::new(&choices, 1);
        let values = random_logits(&choices);
        set(&logits, &values);
        let inputs: Vec<&Tensor> = logits.widths.iter().collect();
        let total = expected(&choices, &logits, cost);
        let gradients = Tensor::run_backward(&[&total], &inputs, false, false);
        for row in [0, 1, 2, 6, 12] {
            let at = |by: f64| {
                let mut moved = values.clone();
                moved.widths[row][2] += by;
                set(&logits, &moved);
                expected(&choices, &logits, cost).double_value(&[])
            };
            let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let got = gradients[row].double_value(&[2]);
            assert!((got / difference - 1.0).abs() < 0.01, "row {row}: {got}, not {difference}");
        }
    }
}
