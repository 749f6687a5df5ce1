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

use super::graph::Graph;

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

impl Layout {
    /// The layout of a graph.
    #[must_use]
    pub fn new(graph: &Graph, widths: Widths) -> Self {
        let sources = graph.sources();
        let mut by_width: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (node, list) in sources.iter().enumerate() {
            let width = match widths {
                Widths::Exact => list.len() as u32,
                Widths::Rounded => rounded(list.len() as u32),
            };
            by_width.entry(width).or_default().push(node);
        }
        let widths: Vec<u32> = by_width.keys().copied().collect();
        let members: Vec<Vec<usize>> = by_width.into_values().collect();
        let blocks: Vec<Block> = widths
            .iter()
            .zip(&members)
            .map(|(&width, nodes)| Block { width, count: nodes.len() as u32 })
            .collect();
        let (mut source, mut target, mut real) = (Vec::new(), Vec::new(), Vec::new());
        for (&width, nodes) in widths.iter().zip(&members) {
            for (slot, &node) in
                (0..width as usize).flat_map(|slot| nodes.iter().map(move |node| (slot, node)))
            {
                let from = sources[node].get(slot).map_or(node, |&from| from as usize);
                source.push(from as i32);
                target.push(node as i32);
                real.push(if slot < sources[node].len() { 1.0 } else { 0.0 });
            }
        }
        let order = merge_order(&widths);
        let mut place = vec![0; sources.len()];
        for (row, &node) in order.iter().flat_map(|&block| &members[block]).enumerate() {
            place[node] = row as i32;
        }
        let degree = sources.iter().map(|list| list.len() as f32).collect();
        Self { blocks, order, source, target, real, place, degree }
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

    #[test]
    fn merging_takes_the_widest_down() {
        // 12 -> 6, beside 6; both -> 3, beside 3; all -> 2 -> 1, beside 1.
        assert_eq!(merge_order(&[1, 3, 6, 12]), [0, 1, 2, 3]);
        assert_eq!(merge_order(&[2, 5]), [0, 1]);
        assert!(merge_order(&[]).is_empty());
    }
}
