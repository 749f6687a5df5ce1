//! The likeliest net within a limit, exactly: dynamic programming over the chain of widths and the
//! depth of every stage (ALGORITHM 1.5), instead of taking every row's argmax and hoping.
//!
//! In: the learned logits, a price for every layer, a limit. Out: of all nets whose price is within the
//! limit the one with the highest score. The score is the sum of log-probabilities of the choices, each
//! relative to its row's best: 0 is the argmax net. A row of a dropped block counts 0, for it costs
//! nothing to leave it at its best. The price of a block knows its input width, so that a 1x1 shortcut
//! is paid for wherever widths differ.
//!
//! The limit is cut into [`STEPS`] steps and the price of the stem, of each block and of the head is
//! rounded up to whole steps: the result never exceeds the limit, and no net is better whose price is
//! below the limit by one step for each of those. Within that rounding the result is exact.

use hanas_models::layer::{Layer, LayerType, Place, block_layers, head_layer, stem_layer};
use hanas_models::resnet::BlockWidths;

use super::SearchError;
use super::choices::{Choices, Logits, Picks};
use super::meter::{Meter, Side};
use super::timer::NetTimer;

/// Steps that the limit is cut into. ResNet20 has eleven roundings: at most .3% of the limit is lost.
pub const STEPS: usize = 4_000;

/// Times that a measured net may correct the prices before the best net so far is taken.
const ROUNDS: usize = 6;

/// What a layer costs, in the limit's unit.
pub type Price<'a> = dyn Fn(LayerType, &Layer) -> Result<f64, SearchError> + 'a;

/// The likeliest net within a limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Its picks; rows of dropped blocks stay at their best.
    pub picks: Picks,
    /// Sum of log-probabilities, relative to the argmax net's.
    pub score: f64,
}

/// The likeliest net whose price is within `limit`; none where there is no such net.
///
/// # Errors
/// What the price reports.
pub fn decode(
    choices: &Choices,
    logits: &Logits,
    limit: f64,
    price: &Price<'_>,
) -> Result<Option<Decoded>, SearchError> {
    let chain = Chain { choices, logits, step: limit / STEPS as f64, price };
    let (mut table, family) = (chain.stem()?, &choices.family);
    let mut side = family.input.height;
    let mut stages = Vec::with_capacity(family.stages.len());
    for (stage, shape) in family.stages.iter().enumerate() {
        let mut blocks: Vec<Block> = Vec::with_capacity(shape.blocks as usize);
        for block in 0..shape.blocks as usize {
            let stride = if block == 0 { shape.stride } else { 1 };
            let from = blocks.last().map_or(&table, |before| &before.out);
            let at = Place { stage, stride, side };
            blocks.push(chain.block(at, choices.row(stage, block), from)?);
            side /= stride;
        }
        let ends = chain.ends(stage, &blocks);
        table = ends.out.clone();
        stages.push((blocks, ends));
    }
    let Some((mut at, score)) = chain.best_end(&table)? else {
        return Ok(None);
    };
    let mut picks = choices.argmax(logits);
    for (stage, (blocks, ends)) in stages.iter().enumerate().rev() {
        let (depth, pick) = ends.back[at.width][at.spent];
        picks.depths[stage] = depth;
        at.width = pick;
        for block in blocks[..choices.depths[stage][depth] as usize].iter().rev() {
            let (from, a) = block.back[at.width][at.spent];
            (picks.widths[block.row], picks.widths[block.row + 1]) = (a, at.width);
            at = State { width: from, spent: at.spent - block.steps[from][a][at.width] };
        }
    }
    picks.widths[0] = at.width;
    Ok(Some(Decoded { picks, score }))
}

/// Decodes under the meter's target, measures the net, and decodes again with prices corrected by the
/// measurement, until a net is measured within the tolerance below the target, or nothing changes any
/// more. The likeliest net that was measured at no more than the target; where none was, at no more than
/// the target and its tolerance; where none was, the smallest net, for [`repair`](super::repair) to
/// judge.
///
/// # Errors
/// What the timer reports.
pub fn within(
    choices: &Choices,
    logits: &Logits,
    meter: &mut Meter,
    timer: &mut dyn NetTimer,
) -> Result<Picks, SearchError> {
    let mut best: Option<(bool, Decoded)> = None;
    let mut seen: Vec<Picks> = Vec::new();
    for _ in 0..ROUNDS {
        let price = |kind: LayerType, layer: &Layer| meter.layer_cost(kind, layer, &*timer);
        // Where the prices leave room for none, the smallest net is measured: they may be wrong.
        let smallest = || Decoded { picks: choices.smallest(), score: f64::NEG_INFINITY };
        let found = decode(choices, logits, meter.target(), &price)?.unwrap_or_else(smallest);
        if seen.contains(&found.picks) {
            break;
        }
        seen.push(found.picks.clone());
        let cost = meter.measure(&choices.net(&found.picks), timer)?;
        let (side, kept) = (meter.side(cost), cost <= meter.target());
        let full = kept && (side == Side::Within && found.score.is_finite() || found.score == 0.0);
        let better = |(was_kept, other): &(bool, Decoded)| (kept, found.score) >= (*was_kept, other.score);
        if side != Side::Above && best.as_ref().is_none_or(better) {
            best = Some((kept, found));
        }
        if full {
            break;
        }
    }
    Ok(best.map_or_else(|| choices.smallest(), |(_, best)| best.picks))
}

/// A width, as an index, and the steps spent up to it.
#[derive(Clone, Copy)]
struct State {
    width: usize,
    spent: usize,
}

/// The best score for every width of a map and every number of steps spent; minus infinity where there
/// is no such net.
#[derive(Clone)]
struct Table {
    widths: Vec<u32>,
    best: Vec<Vec<f64>>,
}

/// A block's table and how each of its states came about.
struct Block {
    row: usize,
    /// Steps by input width, a and b.
    steps: Vec<Vec<Vec<usize>>>,
    /// Input width and a, by b and steps spent.
    back: Vec<Vec<(usize, usize)>>,
    out: Table,
}

/// The table after a stage, over its depths.
struct Ends {
    /// Depth and the last block's b, by width and steps spent.
    back: Vec<Vec<(usize, usize)>>,
    out: Table,
}

struct Chain<'a> {
    choices: &'a Choices,
    logits: &'a Logits,
    step: f64,
    price: &'a Price<'a>,
}

impl Table {
    fn new(widths: Vec<u32>) -> Self {
        Self { best: vec![vec![f64::NEG_INFINITY; STEPS + 1]; widths.len()], widths }
    }
}

impl Chain<'_> {
    /// Whole steps of these layers; `None` where they alone are beyond the limit.
    fn steps(&self, layers: impl Iterator<Item = (LayerType, Layer)>) -> Result<Option<usize>, SearchError> {
        let price: Result<f64, SearchError> = layers.map(|(kind, layer)| (self.price)(kind, &layer)).sum();
        let steps = (price?.max(0.0) / self.step).ceil();
        Ok((steps <= STEPS as f64).then_some(steps as usize))
    }

    fn stem(&self) -> Result<Table, SearchError> {
        let widths = &self.choices.widths[0];
        let mut table = Table::new(widths.clone());
        for (pick, &width) in widths.iter().enumerate() {
            let layer = stem_layer(&self.choices.family, width);
            if let Some(steps) = self.steps(std::iter::once(layer))? {
                table.best[pick][steps] = below_best(&self.logits.widths[0], pick);
            }
        }
        Ok(table)
    }

    fn block(&self, at: Place, row: usize, from: &Table) -> Result<Block, SearchError> {
        let (a_widths, b_widths) = (&self.choices.widths[row], &self.choices.widths[row + 1]);
        let mut out = Table::new(b_widths.clone());
        let mut back = vec![vec![(0, 0); STEPS + 1]; b_widths.len()];
        let mut all_steps = vec![vec![vec![0; b_widths.len()]; a_widths.len()]; from.widths.len()];
        for (input, &cin) in from.widths.iter().enumerate() {
            for (pick_a, &a) in a_widths.iter().enumerate() {
                for (pick_b, &b) in b_widths.iter().enumerate() {
                    let layers = block_layers(at, cin, BlockWidths { a, b });
                    let Some(steps) = self.steps(layers)? else { continue };
                    all_steps[input][pick_a][pick_b] = steps;
                    let gain = below_best(&self.logits.widths[row], pick_a)
                        + below_best(&self.logits.widths[row + 1], pick_b);
                    let reached = &from.best[input][..=STEPS - steps];
                    let (best, back) = (&mut out.best[pick_b][steps..], &mut back[pick_b][steps..]);
                    for ((before, best), back) in reached.iter().zip(best).zip(back) {
                        if before + gain > *best {
                            (*best, *back) = (before + gain, (input, pick_a));
                        }
                    }
                }
            }
        }
        Ok(Block { row, steps: all_steps, back, out })
    }

    /// The stage's end: for every width and steps spent the best of all depths.
    fn ends(&self, stage: usize, blocks: &[Block]) -> Ends {
        let depths = &self.choices.depths[stage];
        let last = |depth: usize| &blocks[depths[depth] as usize - 1];
        let mut widths: Vec<u32> =
            (0..depths.len()).flat_map(|depth| last(depth).out.widths.clone()).collect();
        widths.sort_unstable();
        widths.dedup();
        let mut out = Table::new(widths);
        let mut back = vec![vec![(0, 0); STEPS + 1]; out.widths.len()];
        for depth in 0..depths.len() {
            let gain = below_best(&self.logits.depths[stage], depth);
            let table = &last(depth).out;
            for (pick, width) in table.widths.iter().enumerate() {
                let place = out.widths.partition_point(|other| other < width);
                for (spent, before) in table.best[pick].iter().enumerate() {
                    if before + gain > out.best[place][spent] {
                        out.best[place][spent] = before + gain;
                        back[place][spent] = (depth, pick);
                    }
                }
            }
        }
        Ends { back, out }
    }

    /// The best state that leaves room for the head.
    fn best_end(&self, table: &Table) -> Result<Option<(State, f64)>, SearchError> {
        let mut best = None;
        let mut top = f64::NEG_INFINITY;
        for (width, &cin) in table.widths.iter().enumerate() {
            let head = head_layer(&self.choices.family, cin);
            let Some(steps) = self.steps(std::iter::once(head))? else { continue };
            for (spent, &score) in table.best[width][..=STEPS - steps].iter().enumerate() {
                if score > top {
                    top = score;
                    best = Some((State { width, spent }, score));
                }
            }
        }
        Ok(best)
    }
}

/// Log-probability of a choice less that of its row's best: a softmax's sum cancels.
fn below_best(row: &[f64], pick: usize) -> f64 {
    row[pick] - row.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests;
