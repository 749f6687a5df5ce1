//! A small graph of a user's own as one `.npz`, its edges as PyTorch Geometric has them.

use std::path::Path;

use npyz::WriterBuilder;
use npyz::npz::NpzWriter;

/// Nodes.
const NODES: i64 = 40;
/// Features: four of each class.
pub const FEATURES: i64 = 12;
/// Classes, taken by turns.
pub const CLASSES: i64 = 3;

/// Writes it.
///
/// # Panics
/// Where it cannot be written.
pub fn write(path: &Path) {
    let mut npz = NpzWriter::create(path).expect("a file can be made");
    let mut put = |name: &str, shape: &[u64], values: &[i64]| {
        let array = npz.array::<i64>(name, Default::default()).expect("an archive takes arrays");
        let mut array = array.default_dtype().shape(shape).begin_nd().expect("an archive takes arrays");
        array.extend(values.iter().copied()).expect("an array takes values");
        array.finish().expect("an array takes so many values");
    };
    let (from, to): (Vec<i64>, Vec<i64>) = edges().into_iter().unzip();
    let count = from.len();
    put("edges", &[2, count as u64], &[from, to].concat());
    put("shape", &[4], &[NODES, FEATURES, CLASSES, count as i64]);
    let mut list = |name: &str, values: Vec<i64>| put(name, &[values.len() as u64], &values);
    let own = FEATURES / CLASSES;
    list("feat_indptr", (0..=NODES).collect());
    list("feat_indices", (0..NODES).map(|node| node % CLASSES * own + node / CLASSES % own).collect());
    list("labels", (0..NODES).map(|node| node % CLASSES).collect());
    list("train", (0..9).collect());
    list("val", (9..21).collect());
    list("test", (21..NODES).collect());
    let array = npz.array::<f32>("feat_data", Default::default()).expect("an archive takes arrays");
    let shape = [NODES as u64];
    let mut array = array.default_dtype().shape(&shape).begin_nd().expect("an archive takes arrays");
    array.extend((0..NODES).map(|_| 1.0)).expect("an array takes values");
    array.finish().expect("an array takes so many values");
}

/// A ring and its chords to the next node of the class, in both directions.
fn edges() -> Vec<(i64, i64)> {
    let pair = |(node, step): (i64, i64)| (node, (node + step) % NODES);
    let steps = (0..NODES).flat_map(|node| [(node, 1), (node, CLASSES)]);
    steps.map(pair).flat_map(|(from, to)| [(from, to), (to, from)]).collect()
}
