//! A graph and its nodes' features, as the lowerings take them.

/// An undirected graph. A self-loop on every node is understood and not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    nodes: u32,
    edges: Vec<[u32; 2]>,
}

/// Edges that are no graph's, or features that are no graph's nodes'.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// There are no nodes.
    #[error("the graph has no nodes")]
    Empty,
    /// An edge ends at a node that there is not.
    #[error("edge {edge} joins nodes {u} and {v}, and the nodes are 0 to {last}")]
    Dangling {
        /// Its place in the list, from 0.
        edge: usize,
        /// One end.
        u: u32,
        /// The other end.
        v: u32,
        /// The last node.
        last: u32,
    },
    /// Row starts that do not climb from 0 to the number of entries.
    #[error(
        "the features' row starts do not fit: row {row} of {rows} begins at {start} of {entries} entries"
    )]
    RowStart {
        /// The row.
        row: usize,
        /// Number of rows.
        rows: usize,
        /// Where it begins.
        start: u64,
        /// Number of entries.
        entries: usize,
    },
    /// A feature's number is too large.
    #[error("node {row} has feature {column}, and the features are 0 to {last}")]
    Column {
        /// The node.
        row: usize,
        /// The feature.
        column: u32,
        /// The last feature.
        last: u32,
    },
    /// A feature is infinite or no number.
    #[error("node {row} has a feature that is no finite number")]
    Value {
        /// The node.
        row: usize,
    },
}

impl Graph {
    /// The graph of these edges. Both directions of an edge, repeated edges and self-loops may be given;
    /// each pair of neighbours is kept once.
    ///
    /// # Errors
    /// [`GraphError`] where there are no nodes or an edge ends outside of them.
    pub fn new(nodes: u32, edges: &[[u32; 2]]) -> Result<Self, GraphError> {
        let last = nodes.checked_sub(1).ok_or(GraphError::Empty)?;
        if let Some((edge, &[u, v])) =
            edges.iter().enumerate().find(|(_, ends)| ends.iter().any(|&n| n > last))
        {
            return Err(GraphError::Dangling { edge, u, v, last });
        }
        let mut edges: Vec<[u32; 2]> =
            edges.iter().filter(|[u, v]| u != v).map(|&[u, v]| [u.min(v), u.max(v)]).collect();
        edges.sort_unstable();
        edges.dedup();
        Ok(Self { nodes, edges })
    }

    /// Number of nodes.
    #[must_use]
    pub const fn nodes(&self) -> u32 {
        self.nodes
    }

    /// Pairs of neighbours, the smaller first, ascending.
    #[must_use]
    pub fn edges(&self) -> &[[u32; 2]] {
        &self.edges
    }

    /// Every node's sources of messages: itself, then its neighbours ascending.
    #[must_use]
    pub fn sources(&self) -> Vec<Vec<u32>> {
        let mut lists: Vec<Vec<u32>> = (0..self.nodes).map(|node| vec![node]).collect();
        for &[u, v] in &self.edges {
            lists[u as usize].push(v);
            lists[v as usize].push(u);
        }
        for list in &mut lists {
            list[1..].sort_unstable();
        }
        lists
    }
}

/// A sparse matrix, row by row: row `r` holds the entries `starts[r]..starts[r + 1]`.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseRows {
    width: u32,
    starts: Vec<u32>,
    columns: Vec<u32>,
    values: Vec<f32>,
}

impl SparseRows {
    /// The matrix of these rows.
    ///
    /// # Errors
    /// [`GraphError`] where the lists do not fit together.
    pub fn new(
        width: u32,
        starts: Vec<u32>,
        columns: Vec<u32>,
        values: Vec<f32>,
    ) -> Result<Self, GraphError> {
        let rows = starts.len().saturating_sub(1);
        let entries = columns.len().min(values.len());
        let misfit =
            |row: usize, start: u32| GraphError::RowStart { row, rows, start: start.into(), entries };
        for (row, pair) in starts.windows(2).enumerate() {
            if pair[0] > pair[1] {
                return Err(misfit(row, pair[0]));
            }
        }
        let fits = starts.first() == Some(&0)
            && starts.last().is_some_and(|&end| end as usize == entries)
            && columns.len() == values.len();
        if !fits {
            return Err(misfit(rows, starts.last().copied().unwrap_or(0)));
        }
        let made = Self { width, starts, columns, values };
        for row in 0..rows {
            let last = width.saturating_sub(1);
            if let Some((column, _)) = made.row(row).find(|&(column, _)| column >= width) {
                return Err(GraphError::Column { row, column, last });
            }
            if made.row(row).any(|(_, value)| !value.is_finite()) {
                return Err(GraphError::Value { row });
            }
        }
        Ok(made)
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of columns.
    #[must_use]
    pub const fn width(&self) -> u32 {
        self.width
    }

    /// Where each row begins, and the number of entries.
    #[must_use]
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }

    /// Columns of the entries.
    #[must_use]
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// Values of the entries.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Column and value of every entry of a row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let range = self.starts[row] as usize..self.starts[row + 1] as usize;
        self.columns[range.clone()].iter().copied().zip(self.values[range].iter().copied())
    }

    /// Every row divided by its sum; a row whose sum is 0 stays as it is.
    #[must_use]
    pub fn row_normalised(mut self) -> Self {
        for row in 0..self.rows() {
            let range = self.starts[row] as usize..self.starts[row + 1] as usize;
            let sum: f32 = self.values[range.clone()].iter().sum();
            if sum != 0.0 {
                self.values[range].iter_mut().for_each(|value| *value /= sum);
            }
        }
        self
    }

    /// All values, zeros too, row by row.
    #[must_use]
    pub fn dense(&self) -> Vec<f32> {
        let width = self.width as usize;
        let mut dense = vec![0.0; self.rows() * width];
        for row in 0..self.rows() {
            for (column, value) in self.row(row) {
                dense[row * width + column as usize] += value;
            }
        }
        dense
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_of_neighbours_is_kept_once() {
        let graph = Graph::new(4, &[[2, 0], [0, 2], [1, 1], [0, 1], [0, 1]]).unwrap();
        assert_eq!(graph.edges(), [[0, 1], [0, 2]]);
        assert_eq!(graph.sources(), [vec![0, 1, 2], vec![1, 0], vec![2, 0], vec![3]]);
    }

    #[test]
    fn edges_into_nowhere_are_refused() {
        let error = Graph::new(3, &[[0, 1], [1, 3]]).unwrap_err();
        assert_eq!(error, GraphError::Dangling { edge: 1, u: 1, v: 3, last: 2 });
        assert_eq!(Graph::new(0, &[]), Err(GraphError::Empty));
    }

    #[test]
    fn sparse_rows_are_checked_and_normalised() {
        let rows = SparseRows::new(3, vec![0, 2, 2, 3], vec![0, 2, 1], vec![1.0, 3.0, 5.0]).unwrap();
        let normal = rows.row_normalised();
        assert_eq!(normal.dense(), [0.25, 0.0, 0.75, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
        let bad = |starts: &[u32], columns: &[u32], values: &[f32]| {
            SparseRows::new(3, starts.to_vec(), columns.to_vec(), values.to_vec()).unwrap_err()
        };
        assert!(matches!(bad(&[0, 2, 1], &[0], &[1.0]), GraphError::RowStart { row: 1, .. }));
        assert!(matches!(bad(&[0, 2], &[0], &[1.0]), GraphError::RowStart { .. }));
        assert!(matches!(bad(&[], &[], &[]), GraphError::RowStart { .. }));
        assert!(matches!(bad(&[0, 1], &[3], &[1.0]), GraphError::Column { column: 3, last: 2, .. }));
        assert!(matches!(bad(&[0, 1], &[1], &[f32::NAN]), GraphError::Value { row: 0 }));
    }
}
