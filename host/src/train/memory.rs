//! Memory: what training a graph net takes, and what there is.

use std::fs;
use std::path::Path;

use hanas_models::gnn::{Aggregator, Attention, GnnLayer, GnnNet, POOL_WIDTH, Reading, Wired};

use crate::data::graph::GraphData;

/// Bytes of a value.
const VALUE: f64 = 4.0;

/// Tensors of a row a node that a layer has at once.
const OF_NODES: f64 = 4.0;

/// Tensors of a value a message and head that a softmax has at once.
const OF_HEADS: f64 = 12.0;

/// Copies of the weights: they, their gradients, Adam's means, the best epoch's, and what passes.
const OF_WEIGHTS: f64 = 6.0;

/// Bytes of an entry of the features, dropped out anew at every step.
const ENTRY: f64 = 32.0;

/// What of a graph counts.
#[derive(Debug, Clone, Copy)]
struct Size {
    nodes: f64,
    messages: f64,
    entries: f64,
}

/// Bytes that training a net on a graph takes at its peak, about and rather more. Counted tensor by tensor and held
/// against two nets on Pubmed.
#[must_use]
pub fn peak_bytes(data: &GraphData, net: &GnnNet, reading: Reading) -> u64 {
    let nodes = f64::from(data.nodes());
    let messages = nodes + 2.0 * data.graph.edges().len() as f64;
    peak(Size { nodes, messages, entries: data.features.values().len() as f64 }, net, reading) as u64
}

/// All layers keep tensors for the way back, on which one layer after the other needs some more.
fn peak(size: Size, net: &GnnNet, reading: Reading) -> f64 {
    let (mut kept, mut beside) = (ENTRY * size.entries, 0.0f64);
    for wired in net.wired() {
        let row = VALUE * f64::from(wired.layer.width());
        let (stay, pass) = tensors(&wired.layer, reading);
        kept += stay * size.messages * row;
        kept += size.nodes * (OF_NODES * row + pooled_row(&wired, reading));
        if wired.layer.attention.is_softmax() {
            kept += OF_HEADS * VALUE * size.messages * f64::from(wired.layer.heads);
        }
        beside = beside.max(pass * size.messages * row);
    }
    let values = |(_, shape): &(String, Vec<u32>)| shape.iter().map(|&side| f64::from(side)).product::<f64>();
    let weights: f64 = net.tensors().iter().map(values).sum();
    kept + beside + OF_WEIGHTS * VALUE * weights
}

/// Tensors of a row a message that a layer keeps for its gradient, and those that it needs beside them for it.
fn tensors(layer: &GnnLayer, reading: Reading) -> (f64, f64) {
    let GnnLayer { attention, aggregator, dim, .. } = *layer;
    // What scores are made of; the paper's softmax takes every message the other way round as well.
    let ends = match attention {
        Attention::Cos => 2.0,
        Attention::GeneralizedLinear => 1.0,
        _ => 0.0,
    };
    let scores = if reading.compat_src_softmax { 2.0 * ends } else { ends };
    // What weights or dropout multiply.
    let sent = if attention == Attention::Gcn { 0.0 } else { 1.0 };
    if !pools_messages(aggregator, reading) {
        return (scores + sent, if attention == Attention::Gcn { 2.0 } else { 3.0 });
    }
    let hidden = f64::from(POOL_WIDTH) / f64::from(dim);
    let largest = if aggregator == Aggregator::Max { 1.0 } else { 0.0 };
    (scores + sent + 1.0 + hidden + largest, (1.0 + hidden).max(2.0))
}

/// Whether the pool Linears run on every message.
const fn pools_messages(aggregator: Aggregator, reading: Reading) -> bool {
    aggregator.has_pool() && !reading.pools_nodes(aggregator)
}

/// Bytes of a node between pool Linears that run on nodes, on the way there and back.
fn pooled_row(wired: &Wired, reading: Reading) -> f64 {
    if !reading.pools_nodes(wired.layer.aggregator) {
        return 0.0;
    }
    2.0 * VALUE * f64::from(wired.layer.heads) * f64::from(POOL_WIDTH)
}

/// Bytes that a process can still have; none where the system does not tell.
#[must_use]
pub fn free_bytes() -> Option<u64> {
    let machine = 1_024 * value(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(left_in_groups(Path::new("/sys/fs/cgroup"), &groups).map_or(machine, |group| group.min(machine)))
}

/// The least that is left to a process's control group and to those that it lies in; none where none has a limit.
fn left_in_groups(root: &Path, groups: &str) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = root.join(own.trim_start_matches('/'));
    folder.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(left_in).min()
}

fn left_in(group: &Path) -> Option<u64> {
    let text = |name: &str| fs::read_to_string(group.join(name)).unwrap_or_default();
    // Without a limit it says `max`.
    let limit: u64 = text("memory.max").trim().parse().ok()?;
    let used: u64 = text("memory.current").trim().parse().ok()?;
    // What is kept of files is given up first.
    let stat = text("memory.stat");
    let files: u64 = ["active_file", "inactive_file"].iter().filter_map(|name| value(&stat, name)).sum();
    Some(limit.saturating_sub(used.saturating_sub(files)))
}

/// The number after a line's first word.
fn value(text: &str, name: &str) -> Option<u64> {
    let words = |line: &str| {
        let mut words = line.split_whitespace();
        if words.next() == Some(name) { words.next()?.parse().ok() } else { None }
    };
    text.lines().find_map(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(layers: &[&str]) -> GnnNet {
        GnnNet::new(500, 3, layers.iter().map(|text| text.parse().unwrap()).collect())
    }

    const PUBMED: Size = Size { nodes: 19_717.0, messages: 108_365.0, entries: 988_031.0 };

    #[test]
    fn what_was_measured_on_pubmed_is_met() {
        for (first, measured) in [("gat/sum/elu/16x256", 7.6), ("generalized_linear/max/elu/16x256", 11.9)] {
            let bytes = peak(PUBMED, &net(&[first, "gat/sum/linear/1x3"]), Reading::project());
            let ratio = bytes / f64::from(1 << 30) / measured;
            assert!((1.0..1.1).contains(&ratio), "{first}: {ratio}");
        }
    }

    #[test]
    fn wider_and_deeper_nets_and_pools_on_messages_take_more() {
        let of = |layers: &[&str], reading| peak(PUBMED, &net(layers), reading);
        let last = "gat/sum/linear/1x3";
        let project = Reading::project();
        let one = of(&["gat/mean/elu/8x8", last], project);
        assert!(of(&["gat/mean/elu/8x16", last], project) > one);
        assert!(of(&["gat/mean/elu/8x8", "gat/mean/elu/8x8", last], project) > 1.5 * one);
        assert!(of(&["gat/mean/elu/8x8", last], Reading::paper()) > 2.0 * one);
        assert!(of(&["cos/mean/elu/8x8", last], project) > one);
    }

    #[test]
    fn the_tightest_group_counts_and_files_are_no_burden() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("a/b");
        fs::create_dir_all(&own).unwrap();
        let put = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        put("a/memory.max", "1000\n");
        put("a/memory.current", "600\n");
        put("a/memory.stat", "anon 450\nactive_file 70\ninactive_file 30\n");
        put("a/b/memory.max", "max\n");
        put("a/b/memory.current", "600\n");
        assert_eq!(left_in_groups(root.path(), "0::/a/b\n"), Some(500));
        put("a/b/memory.max", "700\n");
        assert_eq!(left_in_groups(root.path(), "1:cpu:/x\n0::/a/b\n"), Some(100));
        assert_eq!(left_in_groups(root.path(), "0::/\n"), None);
        assert_eq!(left_in_groups(root.path(), "4:memory:/a/b\n"), None);
        assert_eq!(value("MemTotal: 9 kB\nMemAvailable:   7 kB\n", "MemAvailable:"), Some(7));
    }
}
