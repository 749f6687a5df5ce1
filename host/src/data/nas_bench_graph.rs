//! NAS-Bench-Graph (Qin et al., NeurIPS 2022 Datasets and Benchmarks): a table of 26,206 trained graph
//! nets with accuracy and latency, as CSV, plain or gzipped.
//!
//! A net has four computing nodes. Each takes one input, the raw features (0) or an earlier node, and
//! computes one of nine operations; leaves are joined into the output. There are nine such shapes
//! ([`LINKS`]), and a net's number is its shape's place followed by four operation digits. Shapes and
//! operations are those of the benchmark's published description, in its order.
//!
//! Many of the 9 x 9^4 = 59,049 spellings are one net. [`canonical`] finds its listed number: a skip
//! operation passes its input on, so one inside a path, without siblings, or straight from the raw
//! features goes to the front, where it changes nothing; of the orders that spell one of the nine
//! shapes, the least counts. On the published table every spelling but that of four skips, which is no
//! net, leads to a listed number, and every listed number leads to itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use super::DataError;

/// The shapes: where each of the four nodes takes its input.
pub const LINKS: [[u8; 4]; 9] = [
    [0, 0, 0, 0],
    [0, 0, 0, 1],
    [0, 0, 1, 1],
    [0, 0, 1, 2],
    [0, 0, 1, 3],
    [0, 1, 1, 1],
    [0, 1, 1, 2],
    [0, 1, 2, 2],
    [0, 1, 2, 3],
];

/// The operations, by digit.
pub const OPERATIONS: [&str; 9] = ["gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip"];

/// Digit of the operation that passes its input on.
const SKIP: u8 = 8;

/// What the table says of a net on one graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BenchNet {
    /// Accuracy on the validation nodes.
    pub validation: f64,
    /// Accuracy on the test nodes.
    pub test: f64,
    /// Latency, ns. The table gives no unit; its numbers are taken as seconds.
    pub latency_ns: f64,
}

/// The nets of a table on one graph, by number.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphBench {
    /// Nets by number.
    pub nets: BTreeMap<u32, BenchNet>,
}

impl GraphBench {
    /// Reads the columns of a graph, `cora` or `citeseer`.
    ///
    /// # Errors
    /// [`DataError`] where the file cannot be read, lacks the columns, or holds what is no number.
    pub fn read(path: &Path, graph: &str) -> Result<Self, DataError> {
        let unreadable = |source| DataError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let gzipped = path.extension().is_some_and(|extension| extension == "gz");
        let source: Box<dyn Read> = if gzipped { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
        let damaged = |line: u64, why: String| DataError::Table { path: path.to_owned(), line, why };
        let mut table = csv::Reader::from_reader(source);
        let header = table.headers().map_err(|error| damaged(1, error.to_string()))?.clone();
        let column = |name: String| {
            let place = header.iter().position(|of| of == name);
            place.ok_or_else(|| damaged(1, format!("there is no column '{name}'")))
        };
        let columns = [
            column("hash".to_owned())?,
            column(format!("{graph}_valid_perf"))?,
            column(format!("{graph}_perf"))?,
            column(format!("{graph}_latency"))?,
        ];
        let mut nets = BTreeMap::new();
        for row in table.records() {
            let row = row.map_err(|error| {
                damaged(error.position().map_or(0, csv::Position::line), error.to_string())
            })?;
            let line = row.position().map_or(0, csv::Position::line);
            let number = |place: usize| {
                let text = row.get(columns[place]).unwrap_or_default();
                let value = text.trim().parse::<f64>().ok().filter(|value| value.is_finite());
                value.ok_or_else(|| damaged(line, format!("'{text}' is no number")))
            };
            let net = BenchNet { validation: number(1)?, test: number(2)?, latency_ns: number(3)? * 1e9 };
            if net.latency_ns <= 0.0 {
                return Err(damaged(line, "a latency is not positive".to_owned()));
            }
            nets.insert(number(0)? as u32, net);
        }
        if nets.is_empty() {
            return Err(damaged(1, "there is no net".to_owned()));
        }
        Ok(Self { nets })
    }
}

/// The listed number of the net with this shape and these operations.
///
/// None for a shape or operation that does not exist. Four skips are no net of the published table, so
/// the number they get is in none.
#[must_use]
pub fn canonical(link: usize, operations: [u8; 4]) -> Option<u32> {
    if operations.iter().any(|&operation| usize::from(operation) >= OPERATIONS.len()) {
        return None;
    }
    let mut parents = *LINKS.get(link)?;
    let mut kept = [true; 4];
    while let Some(node) = (0..4).find(|&node| kept[node] && idle(node, &parents, &kept, operations)) {
        kept[node] = false;
        let parent = parents[node];
        for heir in parents.iter_mut().filter(|heir| usize::from(**heir) == node + 1) {
            *heir = parent;
        }
    }
    let front = kept.iter().filter(|&&kept| !kept).count();
    // What was taken out comes first, in a row; the rest follows it.
    let mut nodes: Vec<(u8, u8)> = (0..front).map(|place| (place as u8, SKIP)).collect();
    let place = |node: u8| match node {
        0 => front as u8,
        node => {
            let before = kept[..usize::from(node)].iter().filter(|&&kept| kept).count();
            (front + before) as u8
        }
    };
    let rest = (0..4).filter(|&node| kept[node]);
    nodes.extend(rest.map(|node| (place(parents[node]), operations[node])));
    ORDERS.iter().filter_map(|order| spell(&nodes, order)).min()
}

/// Whether a node only passes on what another place would pass on as well.
fn idle(node: usize, parents: &[u8; 4], kept: &[bool; 4], operations: [u8; 4]) -> bool {
    let others = || (0..4).filter(|&other| kept[other] && other != node);
    let has_heirs = others().any(|other| usize::from(parents[other]) == node + 1);
    let has_siblings = others().any(|other| parents[other] == parents[node]);
    operations[node] == SKIP && (has_heirs || !has_siblings || parents[node] == 0)
}

/// The number of a net whose nodes are renamed in an order, where that is one of the nine shapes.
fn spell(nodes: &[(u8, u8)], order: &[usize; 4]) -> Option<u32> {
    let renamed = |node: u8| match node {
        0 => Some(0),
        node => order.iter().position(|&of| of + 1 == usize::from(node)).map(|place| place as u8 + 1),
    };
    let mut link = [0; 4];
    for (place, &node) in order.iter().enumerate() {
        link[place] = renamed(nodes.get(node)?.0)?;
    }
    let shape = LINKS.iter().position(|of| *of == link)?;
    Some(order.iter().fold(shape as u32, |number, &node| 10 * number + u32::from(nodes[node].1)))
}

/// Every order of four nodes.
const ORDERS: [[usize; 4]; 24] = orders();

const fn orders() -> [[usize; 4]; 24] {
    let mut all = [[0; 4]; 24];
    let (mut count, mut code) = (0, 0);
    while code < 256 {
        let order = [code / 64, code / 16 % 4, code / 4 % 4, code % 4];
        let seen = (1 << order[0]) | (1 << order[1]) | (1 << order[2]) | (1 << order[3]);
        if seen == 15 {
            all[count] = order;
            count += 1;
        }
        code += 1;
    }
    all
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;
    use std::io::Write;

    use super::*;

    /// Every canonical number; four skips are left out as in the published table.
    pub(crate) fn numbers() -> BTreeSet<u32> {
        let digits = |code: u32| [code / 729, code / 81 % 9, code / 9 % 9, code % 9].map(|d| d as u8);
        let all = (0..9).flat_map(|link| (0..6561).map(move |code| (link, digits(code))));
        all.filter(|(_, operations)| *operations != [SKIP; 4])
            .filter_map(|(link, operations)| canonical(link, operations))
            .collect()
    }

    #[test]
    fn spellings_lead_to_the_published_number_of_nets() {
        let numbers = numbers();
        assert_eq!(numbers.len(), 26_206);
        for &number in &numbers {
            let digit = |place: u32| (number / 10_u32.pow(place) % 10) as u8;
            let operations = [digit(3), digit(2), digit(1), digit(0)];
            assert_eq!(canonical(number as usize / 10_000, operations), Some(number));
        }
    }

    #[test]
    fn idle_skips_go_to_the_front() {
        // A chain gcn, skip, gat, skip computes what skip, skip, gcn, gat does.
        assert_eq!(canonical(8, [1, 8, 0, 8]), Some(88_810));
        // A skip beside another leaf is a skip connection and stays: gcn, then gat beside skip.
        assert_eq!(canonical(5, [1, 8, 0, 4]), Some(51_048));
        // Siblings have no order.
        assert_eq!(canonical(0, [3, 1, 2, 0]), Some(123));
        assert_eq!((canonical(9, [0; 4]), canonical(0, [9, 0, 0, 0])), (None, None));
    }

    #[test]
    fn a_table_is_read_plain_and_gzipped() {
        let folder = tempfile::tempdir().unwrap();
        let text = "hash,cora_valid_perf,cora_perf,cora_latency\n123,0.8,0.7,0.004\n51048,.5,.4,0.002\n";
        let plain = folder.path().join("a.csv");
        std::fs::write(&plain, text).unwrap();
        let gzipped = folder.path().join("a.csv.gz");
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&gzipped).unwrap(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let bench = GraphBench::read(&plain, "cora").unwrap();
        assert_eq!(bench, GraphBench::read(&gzipped, "cora").unwrap());
        assert_eq!(bench.nets[&123], BenchNet { validation: 0.8, test: 0.7, latency_ns: 4e6 });
        let error = GraphBench::read(&plain, "citeseer").unwrap_err().to_string();
        assert!(error.contains("citeseer_valid_perf"), "{error}");
        std::fs::write(&plain, text.replace("0.002", "fast")).unwrap();
        let error = GraphBench::read(&plain, "cora").unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("'fast'"), "{error}");
    }
}
