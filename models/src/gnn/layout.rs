//! A graph's messages laid out so that reducing them at their targets needs no scatter.
//!
//! Nodes with equally many incoming messages form a block. A block of `count` nodes and `width` messages
//! each lists its messages slot by slot: first the first message of every node, then the second. Values
//! of messages, `(messages, k)`, are then `(width, count, k)` within a block, and a sum or maximum at the
//! targets is one over the first axis. A runtime does that at the speed of memory; a scatter goes row by
//! row (in tract 0.23 a GAT layer of 8 x 8 on Cora took three times as long with `ScatterND`).
//!
//! [`Widths::Rounded`] keeps the number of blocks small: a node is given a few messages more, all
//! copies of its self-loop. A maximum does not feel them; a sum multiplies by [`Layout::real`] first.

use std::collections::BTreeMap;

use super::graph::{Graph, SparseRows};

/// Most entries of features in a block: with its weights' rows, of 64 values or so, it stays in a cache.
const MAX_ENTRIES: usize = 4_096;

/// Most different numbers of entries for which each has blocks of its own.
const MAX_LENGTHS: usize = 64;

/// Features are multiplied entry by entry below this share of entries. Above it a dense product wins: it
/// does more, but several times faster. Cora has 1.3%, Citeseer 0.9%, Pubmed 10%.
const SPARSE_BELOW: f64 = 0.03;

/// Which widths blocks have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Widths {
    /// Every number of messages that occurs.
    Exact,
    /// Up to 8 exactly, then 12, 16, 24, 32, 48 ...: few blocks, and at most half as many messages more.
    Rounded,
}

/// Nodes with equally many messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Messages of a node.
    pub width: u32,
    /// Nodes.
    pub count: u32,
}

impl Block {
    /// Messages of all nodes.
    #[must_use]
    pub const fn messages(&self) -> u32 {
        self.width * self.count
    }
}

/// A graph's messages, self-loops included, in blocks of ascending width.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// The blocks.
    pub blocks: Vec<Block>,
    /// Order in which reduced blocks are put one after another; see [`merge_order`].
    pub order: Vec<usize>,
    /// Every message's source.
    pub source: Vec<i32>,
    /// Every message's target.
    pub target: Vec<i32>,
    /// 1, or 0 for a message that only fills its block.
    pub real: Vec<f32>,
    /// Row of every node in the reduced blocks, put one after another in [`order`](Self::order).
    pub place: Vec<i32>,
    /// Every node's number of true messages.
    pub degree: Vec<f32>,
}

/// Lists of unequal lengths in blocks of equal ones.
struct Arranged {
    blocks: Vec<Block>,
    /// The lists of each block.
    members: Vec<Vec<usize>>,
    /// The list and the place in it of every slot, block by block, first places first; the place may lie
    /// beyond the list's end.
    slots: Vec<(usize, usize)>,
}

/// Arranges lists by their lengths; at most `most` slots a block.
fn arrange(lengths: &[usize], width_of: impl Fn(u32) -> u32, most: usize) -> Arranged {
    let mut by_width: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (list, &length) in lengths.iter().enumerate() {
        by_width.entry(width_of(length as u32)).or_default().push(list);
    }
    let (mut blocks, mut members, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    for (width, lists) in by_width {
        for lists in lists.chunks((most / width.max(1) as usize).max(1)) {
            blocks.push(Block { width, count: lists.len() as u32 });
            slots.extend((0..width as usize).flat_map(|place| lists.iter().map(move |&list| (list, place))));
            members.push(lists.to_vec());
        }
    }
    Arranged { blocks, members, slots }
}

/// Row of every list in the blocks' lists, put one after another in an order.
fn places(lists: usize, order: impl Iterator<Item = usize>, members: &[Vec<usize>]) -> Vec<i32> {
    let mut place = vec![0; lists];
    for (row, &list) in order.flat_map(|block| &members[block]).enumerate() {
        place[list] = row as i32;
    }
    place
}

impl Layout {
    /// The layout of a graph.
    #[must_use]
    pub fn new(graph: &Graph, widths: Widths) -> Self {
        let sources = graph.sources();
        let lengths: Vec<usize> = sources.iter().map(Vec::len).collect();
        let width_of = |length| match widths {
            Widths::Exact => length,
            Widths::Rounded => rounded(length),
        };
        let Arranged { blocks, members, slots } = arrange(&lengths, width_of, usize::MAX);
        let of =
            |&(node, slot): &(usize, usize)| sources[node].get(slot).map_or(node as i32, |&from| from as i32);
        let is_real = |&(node, slot): &(usize, usize)| if slot < lengths[node] { 1.0 } else { 0.0 };
        let widths: Vec<u32> = blocks.iter().map(|block| block.width).collect();
        let order = merge_order(&widths);
        Self {
            source: slots.iter().map(of).collect(),
            target: slots.iter().map(|&(node, _)| node as i32).collect(),
            real: slots.iter().map(is_real).collect(),
            place: places(lengths.len(), order.iter().copied(), &members),
            degree: lengths.iter().map(|&length| length as f32).collect(),
            blocks,
            order,
        }
    }

    /// Number of nodes.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.place.len()
    }

    /// Number of messages, those that only fill included.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.source.len()
    }

    /// Whether some messages only fill their blocks.
    #[must_use]
    pub fn has_fillers(&self) -> bool {
        self.real.contains(&0.0)
    }
}

/// Sparse features in blocks of nodes with about as many entries: their product with a weight is a sum of
/// the weight's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Entries {
    /// The blocks.
    pub blocks: Vec<Block>,
    /// Every slot's column; 0 where it only fills its block, and is multiplied by 0.
    pub column: Vec<i32>,
    /// Row of every node in the summed blocks, put one after another.
    pub place: Vec<i32>,
    /// Whether each node's values are all alike, as those of a normalised bag of words are. Then blocks are
    /// filled up nowhere but for nodes without entries, and there is one value a node.
    pub alike: bool,
    /// The node and the number of its entry that stands in each slot.
    slots: Vec<(usize, usize)>,
}

impl Entries {
    /// The entries' layout.
    #[must_use]
    pub fn new(features: &SparseRows) -> Self {
        let lengths: Vec<usize> = (0..features.rows()).map(|row| features.row(row).count()).collect();
        let mut distinct = lengths.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let alike = distinct.len() <= MAX_LENGTHS && is_alike(features);
        // A node without features gets one of value 0.
        let width_of = |length: u32| if alike { length.max(1) } else { rounded(length.max(1)) };
        let Arranged { blocks, members, slots } = arrange(&lengths, width_of, MAX_ENTRIES);
        let rows: Vec<Vec<u32>> =
            (0..features.rows()).map(|row| features.row(row).map(|(column, _)| column).collect()).collect();
        let column =
            slots.iter().map(|&(row, entry)| rows[row].get(entry).map_or(0, |&c| c as i32)).collect();
        let place = places(lengths.len(), 0..blocks.len(), &members);
        Self { blocks, column, place, alike, slots }
    }

    /// The features' values, slot by slot, 0 where a slot only fills its block; of nodes whose values are
    /// all alike one each, 0 without entries.
    #[must_use]
    pub fn values(&self, features: &SparseRows) -> Vec<f32> {
        if self.alike {
            let first = |row| features.row(row).next().map_or(0.0, |(_, value)| value);
            return (0..features.rows()).map(first).collect();
        }
        let value = |&(row, entry): &(usize, usize)| {
            let start = features.starts()[row] as usize;
            let end = features.starts()[row + 1] as usize;
            features.values()[start..end].get(entry).copied().unwrap_or(0.0)
        };
        self.slots.iter().map(value).collect()
    }
}

/// Whether every row's values are one value.
fn is_alike(features: &SparseRows) -> bool {
    (0..features.rows()).all(|row| {
        let mut values = features.row(row).map(|(_, value)| value);
        values.next().is_none_or(|first| values.all(|value| value == first))
    })
}

/// A graph and its features as a model takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct OnGraph {
    /// The messages.
    pub messages: Layout,
    /// The features' entries, where they are sparse; a model then takes their values, else all features.
    pub entries: Option<Entries>,
}

impl OnGraph {
    /// A graph with its features, in the form that runs fastest.
    #[must_use]
    pub fn new(graph: &Graph, features: &SparseRows) -> Self {
        let all = features.rows() as f64 * f64::from(features.width());
        let is_sparse = (features.values().len() as f64) < SPARSE_BELOW * all;
        Self {
            messages: Layout::new(graph, Widths::Rounded),
            entries: is_sparse.then(|| Entries::new(features)),
        }
    }

    /// What the model's input holds.
    #[must_use]
    pub fn input(&self, features: &SparseRows) -> Vec<f32> {
        match &self.entries {
            Some(entries) => entries.values(features),
            None => features.dense(),
        }
    }
}

const fn rounded(width: u32) -> u32 {
    if width <= 8 {
        return width;
    }
    let power = width.next_power_of_two();
    let three_quarters = power / 4 * 3;
    if width <= three_quarters { three_quarters } else { power }
}

/// Order of blocks after a maximum by halves: the widest is folded onto itself until it is as wide as the
/// next, then both go on as one.
#[must_use]
pub fn merge_order(widths: &[u32]) -> Vec<usize> {
    let mut parts: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (block, &width) in widths.iter().enumerate() {
        parts.entry(width).or_default().push(block);
    }
    while let Some((width, blocks)) = parts.pop_last() {
        if width <= 1 {
            return blocks;
        }
        parts.entry(width.div_ceil(2)).or_default().extend(blocks);
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A star of 12 nodes around node 0, and a node on its own.
    fn star() -> Graph {
        let edges: Vec<[u32; 2]> = (1..12).map(|node| [0, node]).collect();
        Graph::new(13, &edges).unwrap()
    }

    #[test]
    fn widths_round_up_by_at_most_half() {
        let widths = [1, 2, 7, 8, 9, 12, 13, 17, 25, 33, 169];
        assert_eq!(widths.map(rounded), [1, 2, 7, 8, 12, 12, 16, 24, 32, 48, 192]);
    }

    #[test]
    fn blocks_hold_every_message_once() {
        for widths in [Widths::Exact, Widths::Rounded] {
            let layout = Layout::new(&star(), widths);
            let mut messages: Vec<(i32, i32)> = (layout.target.iter().zip(&layout.source))
                .zip(&layout.real)
                .filter(|(_, real)| **real == 1.0)
                .map(|((&target, &source), _)| (target, source))
                .collect();
            messages.sort_unstable();
            let wanted: Vec<(i32, i32)> = (star().sources().iter().enumerate())
                .flat_map(|(target, list)| list.iter().map(move |&source| (target as i32, source as i32)))
                .collect();
            assert_eq!(
                messages,
                wanted.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
            );
            let filled = layout.blocks.iter().map(Block::messages).sum::<u32>();
            assert_eq!(filled as usize, layout.messages());
        }
        assert!(!Layout::new(&star(), Widths::Exact).has_fillers());
    }

    #[test]
    fn places_lead_back_to_the_nodes() {
        let layout = Layout::new(&star(), Widths::Exact);
        // Reduce the targets' own numbers: each row of the reduced blocks is its node.
        let mut start = 0;
        let mut rows = Vec::new();
        for block in &layout.blocks {
            rows.push(layout.target[start..start + block.count as usize].to_vec());
            start += block.messages() as usize;
        }
        let rows: Vec<i32> = layout.order.iter().flat_map(|&block| rows[block].clone()).collect();
        let back: Vec<i32> = layout.place.iter().map(|&place| rows[place as usize]).collect();
        assert_eq!(back, (0..13).collect::<Vec<i32>>());
    }

    /// Summing values times one-hot rows rebuilds the dense matrix.
    #[test]
    fn entries_hold_the_features() {
        let starts: Vec<u32> = vec![0, 2, 2, 12, 13];
        let columns = [vec![3, 7], (0..10).collect(), vec![19]].concat();
        let mixed: Vec<f32> = (1..14).map(|n| n as f32).collect();
        let bags = [vec![0.5; 2], vec![0.1; 10], vec![1.0]].concat();
        for (values, alike) in [(mixed, false), (bags, true)] {
            let features = SparseRows::new(20, starts.clone(), columns.clone(), values).unwrap();
            let entries = Entries::new(&features);
            assert_eq!(entries.alike, alike);
            let values = entries.values(&features);
            let mut rows: Vec<Vec<f32>> = Vec::new();
            let mut start = 0;
            for block in &entries.blocks {
                for node in 0..block.count {
                    let mut row = vec![0.0; 20];
                    for slot in 0..block.width {
                        let at = start + (slot * block.count + node) as usize;
                        row[entries.column[at] as usize] += if alike { 1.0 } else { values[at] };
                    }
                    rows.push(row);
                }
                start += block.messages() as usize;
            }
            let sums = entries.place.iter().map(|&place| rows[place as usize].clone());
            let scale = |(node, row): (usize, Vec<f32>)| -> Vec<f32> {
                row.into_iter().map(|sum| if alike { sum * values[node] } else { sum }).collect()
            };
            let rebuilt: Vec<f32> = sums.enumerate().flat_map(scale).collect();
            assert_eq!(rebuilt, features.dense());
        }
    }

    #[test]
    fn merging_takes_the_widest_down() {
        // 12 -> 6, beside 6; both -> 3, beside 3; all -> 2 -> 1, beside 1.
        assert_eq!(merge_order(&[1, 3, 6, 12]), [0, 1, 2, 3]);
        assert_eq!(merge_order(&[2, 5]), [0, 1]);
        assert!(merge_order(&[]).is_empty());
    }
}
