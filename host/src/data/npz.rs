//! A graph from one `.npz`: `edges` (n x 2), `feat_indptr`, `feat_indices`, `feat_data` (CSR), `labels`
//! (-1 for none), `train`, `val`, `test`, `shape` (nodes, features, classes, edges). Any integer kinds.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use hanas_models::gnn::graph::SparseRows;
use npyz::NpyFile;
use npyz::npz::NpzArchive;

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
    let mut array = |name: &'static str| {
        ints(&mut archive, name).map_err(|why| damaged(format!("array '{name}': {why}")))
    };
    let shape = array("shape")?;
    let [nodes, width, classes, _] = shape[..] else {
        return Err(damaged(format!("array 'shape' has {} numbers, not 4", shape.len())));
    };
    let edges = array("edges")?;
    let starts = array("feat_indptr")?;
    let columns = array("feat_indices")?;
    let labels = array("labels")?;
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
    let edges: Vec<[u32; 2]> = edges.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
    // -1 arrived as the largest number.
    let labels = labels.into_iter().map(|label| (label != u32::MAX).then_some(label)).collect();
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

/// An array of integers as 32-bit numbers; -1 becomes the largest.
fn ints(archive: &mut Archive, name: &str) -> Result<Vec<u32>, String> {
    let mut file = open(archive, name)?;
    macro_rules! try_kinds {
        ($($kind:ty),*) => {$(
            file = match file.try_data::<$kind>() {
                Ok(values) => return values.map(|value| narrow(value.map_err(|error| error.to_string())?)).collect(),
                Err(file) => file,
            };
        )*};
    }
    try_kinds!(u32, i32, u16, i16, u8, i8, i64, u64);
    Err(format!("it holds {}, not integers", file.dtype().descr()))
}

fn narrow<T: TryInto<i64> + Copy + std::fmt::Display>(value: T) -> Result<u32, String> {
    let narrow = match value.try_into() {
        Ok(-1) => Some(u32::MAX),
        Ok(wide) => u32::try_from(wide).ok().filter(|&number| number != u32::MAX),
        Err(_) => None,
    };
    narrow.ok_or_else(|| format!("{value} is out of range"))
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
mod tests {
    use npyz::WriterBuilder;
    use npyz::npz::NpzWriter;

    use super::*;

    /// A path of three nodes and one alone, without a label.
    fn arrays() -> Vec<(&'static str, Vec<i64>)> {
        vec![
            ("shape", vec![4, 2, 2, 2]),
            ("edges", vec![0, 1, 1, 2]),
            ("feat_indptr", vec![0, 1, 2, 3, 3]),
            ("feat_indices", vec![0, 1, 0]),
            ("labels", vec![0, 1, 0, -1]),
            ("train", vec![0]),
            ("val", vec![1]),
            ("test", vec![2]),
        ]
    }

    fn write(path: &Path, arrays: &[(&str, Vec<i64>)]) {
        let mut npz = NpzWriter::create(path).unwrap();
        for (name, values) in arrays {
            let array = npz.array::<i64>(name, Default::default()).unwrap();
            let mut array = array.default_dtype().shape(&[values.len() as u64]).begin_nd().unwrap();
            array.extend(values.iter().copied()).unwrap();
            array.finish().unwrap();
        }
        let array = npz.array::<f32>("feat_data", Default::default()).unwrap();
        let mut array = array.default_dtype().shape(&[3]).begin_nd().unwrap();
        array.extend([1.0, 2.0, 3.0]).unwrap();
        array.finish().unwrap();
    }

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
        write(&path, &arrays);
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
    fn what_is_wrong_is_told_in_a_line_with_the_file() {
        let error = |name: &str, values: &[i64]| changed(name, values).unwrap_err().to_string();
        for (name, values, part) in [
            ("edges", &[0, 1, 1, 7][..], "edge 1 joins nodes 1 and 7"),
            ("edges", &[0, -5], "array 'edges': -5 is out of range"),
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
