//! Architecture logits, and what one step draws from them: two widths of every row with their weights,
//! and a gate for every depth (ALGORITHM 1.3, steps 1 to 3).

use hanas_models::torch::normal;
use rand::{Rng, RngExt};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::super::choices::{Choices, Logits};
use crate::data::stream::{Purpose, stream};

/// Standard deviation of fresh logits (ALGORITHM 1.2).
const DEVIATION: f64 = 0.01;
/// Added to every probability before drawing, as the reference code does.
const FLOOR: f64 = 1e-7;

/// Logits of every width and depth, in a variable store of their own.
#[derive(Debug)]
pub struct ArchLogits {
    /// The store.
    pub store: VarStore,
    /// By row of widths.
    pub widths: Vec<Tensor>,
    /// By stage.
    pub depths: Vec<Tensor>,
}

impl ArchLogits {
    /// Fresh logits, N(0, .01^2).
    #[must_use]
    pub fn new(choices: &Choices, seed: u64) -> Self {
        let store = VarStore::new(Device::Cpu);
        let mut rng = stream(seed, Purpose::Init, 0, 1);
        let mut rows = |what: &str, lists: &[Vec<u32>]| -> Vec<Tensor> {
            let path = store.root() / what;
            let row = |(i, list): (usize, &Vec<u32>)| {
                path.var_copy(&format!("{i}"), &normal(&[list.len() as i64], DEVIATION, &mut rng))
            };
            lists.iter().enumerate().map(row).collect()
        };
        let (widths, depths) = (rows("width", &choices.widths), rows("depth", &choices.depths));
        Self { store, widths, depths }
    }

    /// The logits as plain numbers.
    #[must_use]
    pub fn values(&self) -> Logits {
        let rows = |tensors: &[Tensor]| tensors.iter().map(values).collect();
        Logits { widths: rows(&self.widths), depths: rows(&self.depths) }
    }
}

/// A vector's values.
fn values(tensor: &Tensor) -> Vec<f64> {
    let mut list = vec![0f64; tensor.numel()];
    tensor.detach().to_kind(Kind::Double).copy_data(&mut list, tensor.numel());
    list
}

/// Widths drawn of one row, and how much each counts.
#[derive(Debug)]
pub struct Mix {
    /// Two different choices, or one where the row has no more.
    pub picks: Vec<usize>,
    /// Their weights, which sum to 1; differentiable in the logits.
    pub weights: Tensor,
}

/// What one step draws.
#[derive(Debug)]
pub struct Sample {
    /// By row of widths.
    pub rows: Vec<Mix>,
    /// By stage: the weight of every depth choice; differentiable in the logits.
    pub gates: Vec<Tensor>,
}

/// Draws a sample at a temperature. Under [`tch::no_grad`] its weights are constants, which is all that
/// a weight step needs.
pub fn draw(logits: &ArchLogits, temperature: f64, rng: &mut impl Rng) -> Sample {
    let mut rows = Vec::with_capacity(logits.widths.len());
    for row in &logits.widths {
        let z = gumbel_scores(row, temperature, rng);
        let picks = two_distinct(&values(&z.softmax(0, Kind::Float)), rng);
        let places: Vec<i64> = picks.iter().map(|&pick| pick as i64).collect();
        let weights = z.index_select(0, &Tensor::from_slice(&places)).softmax(0, Kind::Float);
        rows.push(Mix { picks, weights });
    }
    let gates = logits
        .depths
        .iter()
        .map(|row| gumbel_scores(row, temperature, rng).softmax(0, Kind::Float))
        .collect();
    Sample { rows, gates }
}

/// z = (log softmax(a) + Gumbel noise) / temperature.
fn gumbel_scores(row: &Tensor, temperature: f64, rng: &mut impl Rng) -> Tensor {
    let noise: Vec<f32> = (0..row.numel())
        .map(|_| {
            // Uniform in (0, 1): neither logarithm may see a zero.
            let uniform = rng.random::<f64>().clamp(1e-12, 1.0 - 1e-12);
            -(-uniform.ln()).ln() as f32
        })
        .collect();
    (row.log_softmax(0, Kind::Float) + Tensor::from_slice(&noise)) / temperature
}

/// Two different indices, drawn one after the other with these probabilities.
fn two_distinct(probabilities: &[f64], rng: &mut impl Rng) -> Vec<usize> {
    let mut weights: Vec<f64> = probabilities.iter().map(|p| p + FLOOR).collect();
    let mut picks = Vec::with_capacity(2);
    for _ in 0..weights.len().min(2) {
        let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
        // Rounding may leave a rest after the last weight: then it is the last that can be drawn.
        let mut pick = weights.iter().rposition(|&w| w > 0.0).unwrap_or(0);
        for (place, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            if left < *weight {
                pick = place;
                break;
            }
            left -= weight;
        }
        weights[pick] = 0.0;
        picks.push(pick);
    }
    picks
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::super::super::choices::tests::tiny_choices;
    use super::*;

    #[test]
    fn two_are_drawn_as_often_as_they_should() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut first, mut second) = ([0; 3], [0; 3]);
        const DRAWS: u32 = 20_000;
        for _ in 0..DRAWS {
            let picks = two_distinct(&[0.5, 0.3, 0.2], &mut rng);
            assert_ne!(picks[0], picks[1]);
            first[picks[0]] += 1;
            second[picks[1]] += 1;
        }
        // P(second = 0) = .3 * .5/.7 + .2 * .5/.8; four standard errors of a share are .014.
        let share = |count: u32| f64::from(count) / f64::from(DRAWS);
        assert!((share(first[0]) - 0.5).abs() < 0.015);
        assert!((share(second[0]) - (0.3 * 0.5 / 0.7 + 0.2 * 0.5 / 0.8)).abs() < 0.015);
        assert_eq!(two_distinct(&[1.0], &mut rng), [0]);
    }

    #[test]
    fn weights_and_gates_sum_to_one_and_follow_the_seed() {
        let choices = tiny_choices(2);
        let logits = ArchLogits::new(&choices, 1);
        let sample = |seed| draw(&logits, 2.0, &mut ChaCha8Rng::seed_from_u64(seed));
        let (a, b, c) = (sample(1), sample(1), sample(2));
        for weights in a.rows.iter().map(|mix| &mix.weights).chain(&a.gates) {
            assert!((weights.sum(Kind::Double).double_value(&[]) - 1.0).abs() < 1e-6);
        }
        let picks = |s: &Sample| s.rows.iter().map(|mix| mix.picks.clone()).collect::<Vec<_>>();
        assert_eq!(picks(&a), picks(&b));
        assert_ne!(picks(&a), picks(&c));
        assert!(a.gates[0].equal(&b.gates[0]));
    }

    /// A cold softmax of scores without ties is one of them.
    #[test]
    fn cold_gates_are_hard() {
        let choices = tiny_choices(2);
        let logits = ArchLogits::new(&choices, 1);
        let sample = draw(&logits, 1e-3, &mut ChaCha8Rng::seed_from_u64(1));
        assert!(sample.gates.iter().all(|gate| gate.max().double_value(&[]) > 0.999));
    }
}
