//! A graph from the original Planetoid files (Yang et al. 2016): `ind.NAME.x`, `tx`, `allx`, `y`, `ty`,
//! `ally`, `graph` and `test.index`, in the public split.
//!
//! `allx` holds the nodes before the test nodes, `tx` the test nodes in the order of `test.index`.
//! Citeseer's test nodes have gaps: nodes without features and label.

use std::fs;
use std::path::{Path, PathBuf};

use hanas_models::gnn::graph::SparseRows;

use super::DataError;
use super::graph::{GraphData, GraphDataError, Split};
use super::pickle::{Array, PickleError, Value, load};

/// Validation nodes follow the training nodes.
const VALIDATION_NODES: u32 = 500;

/// Rows of column and value.
type Rows = Vec<Vec<(u32, f32)>>;

/// Reads the graph `name` from a folder.
///
/// # Errors
/// [`DataError`] where a file is missing or not what it should be, or they make no graph.
pub fn read(folder: &Path, name: &str) -> Result<GraphData, DataError> {
    let file = |what: &str| File { path: folder.join(format!("ind.{name}.{what}")) };
    let (_, train) = file("y").one_hot()?;
    let (width, mut features) = file("allx").csr()?;
    let (classes, mut labels) = file("ally").one_hot()?;
    let (test_width, test_features) = file("tx").csr()?;
    let (_, test_labels) = file("ty").one_hot()?;
    let index_file = file("test.index");
    let order = index_file.numbers()?;

    let first = features.len();
    let fits = test_features.len() == order.len()
        && test_labels.len() == order.len()
        && labels.len() == first
        && width == test_width
        && order.iter().all(|&node| node as usize >= first);
    if !fits {
        let why = format!(
            "{} test nodes, {} rows in tx, {} in ty; {first} in allx, {} in ally",
            order.len(),
            test_features.len(),
            test_labels.len(),
            labels.len()
        );
        return Err(index_file.damaged(why));
    }
    let nodes = order.iter().max().map_or(first, |&last| last as usize + 1);
    // As many at most as the graph file has lists: a damaged index must not ask for all memory.
    let lists = file("graph").lists()?;
    if nodes != lists.len() {
        return Err(index_file.damaged(format!("{nodes} nodes, and the graph has {}", lists.len())));
    }
    features.resize(nodes, Vec::new());
    labels.resize(nodes, None);
    for ((&node, row), label) in order.iter().zip(test_features).zip(test_labels) {
        (features[node as usize], labels[node as usize]) = (row, label);
    }
    let trained = train.len() as u32;
    let mut test = order;
    test.sort_unstable();
    let split =
        Split { train: (0..trained).collect(), val: (trained..trained + VALIDATION_NODES).collect(), test };
    let edges: Vec<[u32; 2]> =
        lists.iter().flat_map(|(node, list)| list.iter().map(move |&other| [*node, other])).collect();
    let graph = |source| DataError::Graph { path: file("graph").path, source };
    let features = pack(width, features).map_err(graph)?;
    GraphData::new(&edges, features, classes, labels, split).map_err(graph)
}

fn pack(width: u32, rows: Rows) -> Result<SparseRows, GraphDataError> {
    let mut starts = vec![0];
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    for mut row in rows {
        row.sort_unstable_by_key(|&(column, _)| column);
        for (column, value) in row {
            columns.push(column);
            values.push(value);
        }
        starts.push(columns.len() as u32);
    }
    Ok(SparseRows::new(width, starts, columns, values)?)
}

struct File {
    path: PathBuf,
}

impl File {
    fn damaged(&self, why: impl Into<String>) -> DataError {
        DataError::Format { path: self.path.clone(), why: why.into() }
    }

    fn bytes(&self) -> Result<Vec<u8>, DataError> {
        fs::read(&self.path).map_err(|source| DataError::Read { path: self.path.clone(), source })
    }

    fn value(&self) -> Result<Value, DataError> {
        load(&self.bytes()?).map_err(|error: PickleError| self.damaged(error.to_string()))
    }

    /// Node numbers, one a line.
    fn numbers(&self) -> Result<Vec<u32>, DataError> {
        let text = String::from_utf8(self.bytes()?).map_err(|_| self.damaged("it is no text"))?;
        let parse =
            |line: &str| line.trim().parse().map_err(|_| self.damaged(format!("'{line}' is no node")));
        text.lines().map(parse).collect()
    }

    /// Columns and rows of a CSR matrix.
    fn csr(&self) -> Result<(u32, Rows), DataError> {
        let Value::Csr(attributes) = self.value()? else { return Err(self.damaged("it is no CSR matrix")) };
        let of = |name: &str| {
            let found = attributes.iter().find(|(key, _)| *key == Value::Bytes(name.as_bytes().to_vec()));
            found.map(|(_, value)| value).ok_or_else(|| self.damaged(format!("the matrix has no {name}")))
        };
        let array = |name: &str| match of(name)? {
            Value::Array(array) => Ok(array),
            _ => Err(self.damaged(format!("the matrix's {name} is no array"))),
        };
        let size = |value: Option<&Value>| match value {
            Some(Value::Int(size)) => u32::try_from(*size).ok(),
            _ => None,
        };
        let Value::Tuple(shape) = of("_shape")? else { return Err(self.damaged("the matrix has no shape")) };
        let shape = size(shape.first()).zip(size(shape.get(1)));
        let (rows, width) = shape.ok_or_else(|| self.damaged("the matrix has no shape"))?;
        let (starts, columns) = (self.whole(array("indptr")?)?, self.whole(array("indices")?)?);
        let values = array("data")?.values().into_iter().map(|value| value as f32).collect();
        let matrix = SparseRows::new(width, starts, columns, values);
        let matrix = matrix.map_err(|error| self.damaged(error.to_string()))?;
        if matrix.rows() != rows as usize {
            return Err(self.damaged(format!("the matrix has {} rows, not {rows}", matrix.rows())));
        }
        Ok((width, (0..matrix.rows()).map(|row| matrix.row(row).collect()).collect()))
    }

    fn whole(&self, array: &Array) -> Result<Vec<u32>, DataError> {
        let whole = |value: f64| {
            let fits = (0.0..=f64::from(u32::MAX)).contains(&value) && value.fract() == 0.0;
            fits.then_some(value as u32).ok_or_else(|| self.damaged(format!("{value} is no index")))
        };
        array.values().into_iter().map(whole).collect()
    }

    /// Number of classes and every row's class; a row of zeros has none.
    fn one_hot(&self) -> Result<(u32, Vec<Option<u32>>), DataError> {
        let Value::Array(array) = self.value()? else { return Err(self.damaged("it is no array")) };
        let [_, classes] = array.shape[..] else {
            return Err(self.damaged("it is no array of two dimensions"));
        };
        let values = array.values();
        let class = |row: &[f64]| row.iter().position(|&value| value != 0.0).map(|class| class as u32);
        Ok((classes as u32, values.chunks_exact(classes.max(1)).map(class).collect()))
    }

    /// Every node with its neighbours.
    fn lists(&self) -> Result<Vec<(u32, Vec<u32>)>, DataError> {
        let Value::Dict(entries) = self.value()? else {
            return Err(self.damaged("it is no dictionary of lists"));
        };
        let node = |value: &Value| match value {
            Value::Int(node) => u32::try_from(*node).ok(),
            _ => None,
        };
        let entry = |(key, list): &(Value, Value)| match list {
            Value::List(list) => node(key).zip(list.iter().map(node).collect()),
            _ => None,
        };
        let lists: Option<Vec<_>> = entries.iter().map(entry).collect();
        lists.ok_or_else(|| self.damaged("it is no dictionary of lists of nodes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_something_else_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path(), "cora").unwrap_err();
        assert!(matches!(&error, DataError::Read { path, .. } if path.ends_with("ind.cora.y")), "{error}");
        assert!(error.to_string().ends_with("put it there or name another folder"), "{error}");
        for content in [&b"not a pickle"[..], b"\x80\x02N.", b""] {
            fs::write(folder.path().join("ind.cora.y"), content).unwrap();
            let error = read(folder.path(), "cora").unwrap_err();
            assert!(matches!(error, DataError::Format { .. }), "{error}");
            assert!(error.to_string().contains("ind.cora.y"));
        }
    }
}
