//! A graph from one `.npz`: `edges` (n x 2, or 2 x n as PyTorch Geometric has them), `feat_indptr`,
//! `feat_indices`, `feat_data` (CSR), `labels` (-1 for none), `train`, `val`, `test`, `shape` (nodes, features,
//! classes, pairs in `edges`). Any integer kinds.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use hanas_models::gnn::graph::SparseRows;
use npyz::npz::NpzArchive;
use npyz::{NpyFile, Order};

use super::DataError;
use super::graph::{GraphData, GraphDataError, Split};

/// Most values in an array: a damaged header must not ask for all memory.
const MAX_VALUES: u64 = 1 << 28;

/// Reads a graph.
///
/// # Errors
/// [`DataError`] where the file is no such archive or its arrays make no graph.
pub fn read(path: &Path) -> Result<GraphData, DataError> {
    let damaged = |why: String| DataError::Format { path: path.to_owned(), why };
    // A missing permission is told as such; what follows is about the content.
    let file = File::open(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let mut archive = NpzArchive::new(BufReader::new(file)).map_err(|error| damaged(error.to_string()))?;
    let edges = pairs(&mut archive, "edges").map_err(|why| damaged(format!("array 'edges': {why}")))?;
    let labels = labels(&mut archive, "labels").map_err(|why| damaged(format!("array 'labels': {why}")))?;
    let mut array = |name: &'static str| {
        ints(&mut archive, name).map_err(|why| damaged(format!("array '{name}': {why}")))
    };
    let shape = array("shape")?;
    let [nodes, width, classes, stated] = shape[..] else {
        return Err(damaged(format!("array 'shape' has {} numbers, not 4", shape.len())));
    };
    if edges.len() != stated as usize {
        return Err(damaged(format!("array 'edges' has {} pairs, and 'shape' says {stated}", edges.len())));
    }
    let starts = array("feat_indptr")?;
    let columns = array("feat_indices")?;
    let [train, val, test] = ["train", "val", "test"].map(&mut array);
    let split = Split { train: train?, val: val?, test: test? };
    let values =
        floats(&mut archive, "feat_data").map_err(|why| damaged(format!("array 'feat_data': {why}")))?;
    if starts.len() != nodes as usize + 1 {
        return Err(damaged(format!("array 'feat_indptr' has {} numbers for {nodes} nodes", starts.len())));
    }
    let graph = |source| DataError::Graph { path: path.to_owned(), source };
    let features = SparseRows::new(width, starts, columns, values)
        .map_err(|error| graph(GraphDataError::Graph(error)))?;
    GraphData::new(&edges, features, classes, labels, split).map_err(graph)
}

type Archive = NpzArchive<BufReader<File>>;

fn open<'a>(archive: &'a mut Archive, name: &str) -> Result<NpyFile<impl Read + use<'a>>, String> {
    let file = archive.by_name(name).map_err(|error| error.to_string())?;
    let file = file.ok_or_else(|| "it is missing".to_owned())?;
    if file.len() > MAX_VALUES {
        return Err(format!("it claims {} values", file.len()));
    }
    Ok(file)
}

/// An array of integers as 32-bit numbers.
fn ints(archive: &mut Archive, name: &str) -> Result<Vec<u32>, String> {
    integers(open(archive, name)?, number)
}

/// The same where -1 stands for none.
fn labels(archive: &mut Archive, name: &str) -> Result<Vec<Option<u32>>, String> {
    integers(open(archive, name)?, |wide| if wide == -1 { Some(None) } else { number(wide).map(Some) })
}

/// An array of pairs of integers, n x 2 or 2 x n, in either order of axes. 2 x 2 is read as n x 2.
fn pairs(archive: &mut Archive, name: &str) -> Result<Vec<[u32; 2]>, String> {
    let file = open(archive, name)?;
    // Whether the two of a pair lie side by side; else all first ones lie before all second ones.
    let side_by_side = match file.shape() {
        [_, 2] => file.order() == Order::C,
        [2, _] => file.order() == Order::Fortran,
        other => {
            let sides: Vec<String> = other.iter().map(u64::to_string).collect();
            return Err(format!("its shape is ({}), not (n, 2) or (2, n)", sides.join(", ")));
        }
    };
    let values = integers(file, number)?;
    if side_by_side {
        return Ok(values.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect());
    }
    let (first, second) = values.split_at(values.len() / 2);
    Ok(first.iter().zip(second).map(|(&first, &second)| [first, second]).collect())
}

/// The integers of an array as they lie in the file, each made what it stands for.
fn integers<R: Read, V>(mut file: NpyFile<R>, narrow: impl Fn(i64) -> Option<V>) -> Result<Vec<V>, String> {
    macro_rules! try_kinds {
        ($($kind:ty),*) => {$(
            file = match file.try_data::<$kind>() {
                Ok(values) => {
                    let narrowed = |(at, value): (usize, std::io::Result<$kind>)| {
                        narrowed(at, value.map_err(|error| error.to_string())?, &narrow)
                    };
                    return values.enumerate().map(narrowed).collect();
                }
                Err(file) => file,
            };
        )*};
    }
    try_kinds!(u32, i32, u16, i16, u8, i8, i64, u64);
    Err(format!("it holds {}, not integers", file.dtype().descr()))
}

fn narrowed<T: TryInto<i64> + Copy + std::fmt::Display, V>(
    at: usize,
    value: T,
    narrow: impl Fn(i64) -> Option<V>,
) -> Result<V, String> {
    let narrow = value.try_into().ok().and_then(narrow);
    narrow.ok_or_else(|| format!("{value} at index {at} is out of range"))
}

/// A number of something; the largest is none, it is a -1 of unsigned numbers.
fn number(wide: i64) -> Option<u32> {
    u32::try_from(wide).ok().filter(|&number| number != u32::MAX)
}

fn floats(archive: &mut Archive, name: &str) -> Result<Vec<f32>, String> {
    let file = open(archive, name)?;
    let file = match file.try_data::<f32>() {
        Ok(values) => return values.collect::<Result<_, _>>().map_err(|error| error.to_string()),
        Err(file) => file,
    };
    match file.try_data::<f64>() {
        Ok(values) => {
            let narrow = values.map(|value| value.map(|value| value as f32));
            narrow.collect::<Result<_, _>>().map_err(|error| error.to_string())
        }
        Err(file) => Err(format!("it holds {}, not floats", file.dtype().descr())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use npyz::WriterBuilder;
    use npyz::npz::NpzWriter;

    use super::*;

    /// Edges as they lie in a file: shape, order of axes, numbers.
    type Edges<'a> = (&'a [u64], Order, &'a [i64]);

    /// All but the edges of a path of three nodes and one alone, without a label.
    fn arrays() -> Vec<(&'static str, Vec<i64>)> {
        vec![
            ("shape", vec![4, 2, 2, 2]),
            ("feat_indptr", vec![0, 1, 2, 3, 3]),
            ("feat_indices", vec![0, 1, 0]),
            ("labels", vec![0, 1, 0, -1]),
            ("train", vec![0]),
            ("val", vec![1]),
            ("test", vec![2]),
        ]
    }

    fn write(path: &Path, arrays: &[(&str, Vec<i64>)], (shape, order, edges): Edges<'_>) {
        let mut npz = NpzWriter::create(path).unwrap();
        for (name, values) in arrays {
            let array = npz.array::<i64>(name, Default::default()).unwrap();
            let mut array = array.default_dtype().shape(&[values.len() as u64]).begin_nd().unwrap();
            array.extend(values.iter().copied()).unwrap();
            array.finish().unwrap();
        }
        let array = npz.array::<i64>("edges", Default::default()).unwrap();
        let mut array = array.default_dtype().order(order).shape(shape).begin_nd().unwrap();
        array.extend(edges.iter().copied()).unwrap();
        array.finish().unwrap();
        let array = npz.array::<f32>("feat_data", Default::default()).unwrap();
        let mut array = array.default_dtype().shape(&[3]).begin_nd().unwrap();
        array.extend([1.0, 2.0, 3.0]).unwrap();
        array.finish().unwrap();
    }

    /// Writes a graph of 4 nodes, 2 features and 2 classes.
    pub(crate) fn write_small(path: &Path) {
        write(path, &arrays(), (&[2, 2], Order::C, &[0, 1, 1, 2]));
    }

    /// The graph with an array changed, or without it.
    fn changed(name: &str, values: &[i64]) -> Result<GraphData, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.npz");
        let mut arrays = arrays();
        for (own, list) in &mut arrays {
            if *own == name {
                *list = values.to_vec();
            }
        }
        arrays.retain(|(_, list)| !list.is_empty());
        let edges = if name == "edges" { values } else { &[0, 1, 1, 2] };
        write(&path, &arrays, (&[edges.len() as u64 / 2, 2], Order::C, edges));
        read(&path)
    }

    /// The graph with these edges, of which it says that there are so many.
    fn joined(stated: i64, edges: Edges<'_>) -> Result<GraphData, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.npz");
        let mut arrays = arrays();
        arrays[0].1[3] = stated;
        write(&path, &arrays, edges);
        read(&path)
    }

    #[test]
    fn a_graph_is_read() {
        let data = changed("", &[]).unwrap();
        assert_eq!(data.graph.edges(), [[0, 1], [1, 2]]);
        assert_eq!(data.labels, [Some(0), Some(1), Some(0), None]);
        assert_eq!(data.features.dense(), [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn edges_are_read_in_every_layout() {
        let flat = [0, 1, 1, 2, 0, 3];
        let halves = [0, 1, 0, 1, 2, 3];
        for edges in [
            (&[3, 2][..], Order::C, &flat[..]),
            (&[3, 2], Order::Fortran, &halves),
            (&[2, 3], Order::C, &halves),
            (&[2, 3], Order::Fortran, &flat),
        ] {
            let data = joined(3, edges).unwrap();
            assert_eq!(data.graph.edges(), [[0, 1], [0, 3], [1, 2]], "{edges:?}");
        }
        // As many pairs as sides: one a row, in either order of axes.
        for (order, edges) in [(Order::C, [0, 1, 2, 3]), (Order::Fortran, [0, 2, 1, 3])] {
            let data = joined(2, (&[2, 2], order, &edges)).unwrap();
            assert_eq!(data.graph.edges(), [[0, 1], [2, 3]], "{order:?}");
        }
        let none = joined(0, (&[0, 2], Order::C, &[])).unwrap();
        assert!(none.graph.edges().is_empty());
    }

    #[test]
    fn edges_of_another_shape_or_number_are_refused() {
        let flat = [0, 1, 1, 2, 0, 3];
        let error = |stated, shape: &[u64]| joined(stated, (shape, Order::C, &flat)).unwrap_err().to_string();
        for (shape, said) in [(&[6][..], "(6)"), (&[6, 1], "(6, 1)"), (&[1, 3, 2], "(1, 3, 2)")] {
            let text = error(3, shape);
            let said = format!("array 'edges': its shape is {said}, not (n, 2) or (2, n)");
            assert!(text.contains(&said) && text.contains("small.npz") && !text.contains('\n'), "{text}");
        }
        let text = error(6, &[3, 2]);
        assert!(text.contains("array 'edges' has 3 pairs, and 'shape' says 6"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_told_in_a_line_with_the_file() {
        let error = |name: &str, values: &[i64]| changed(name, values).unwrap_err().to_string();
        for (name, values, part) in [
            ("edges", &[0, 1, 1, 7][..], "edge 1 joins nodes 1 and 7"),
            ("edges", &[0, -5], "array 'edges': -5 at index 1 is out of range"),
            ("edges", &[0, 1, -1, 2], "array 'edges': -1 at index 2 is out of range"),
            ("feat_indices", &[0, 1, -1], "array 'feat_indices': -1 at index 2 is out of range"),
            ("test", &[-1], "array 'test': -1 at index 0 is out of range"),
            ("labels", &[0, -2, 0, -1], "array 'labels': -2 at index 1 is out of range"),
            ("labels", &[], "array 'labels': it is missing"),
            ("labels", &[0, 1, 0], "there are 3 labels for 4 nodes"),
            ("train", &[3], "node 3 of the train part of the split has no label"),
            ("val", &[], "array 'val': it is missing"),
            ("shape", &[4, 2, 3, 2], "no node has class 2 of 3"),
            ("shape", &[4, 2], "array 'shape' has 2 numbers, not 4"),
            ("shape", &[9, 2, 2, 2], "array 'feat_indptr' has 5 numbers for 9 nodes"),
            ("feat_indices", &[0, 1, 2], "node 2 has feature 2"),
        ] {
            let text = error(name, values);
            assert!(text.contains(part) && text.contains("small.npz") && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cora.npz");
        for content in [&b""[..], b"PK\x03\x04", b"labels,0,1"] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(read(&path), Err(DataError::Format { .. })));
        }
        assert!(matches!(read(&folder.path().join("none.npz")), Err(DataError::Read { .. })));
    }
}
