//! The graph's index lists as constants of a model: inside it, or in content that an agent holds.

use std::ops::Range;

use onnx_protobuf::tensor_proto::{DataLocation, DataType};
use onnx_protobuf::{StringStringEntryProto, TensorProto};
use protobuf::Enum;

use super::{Lowering, Placement};
use crate::gnn::layout::{Block, OnGraph};

/// One of a graph's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Source,
    Target,
    Place,
    Real,
    Degree,
    /// The messages' own numbers; block by block.
    Rows,
    /// Columns of the features' entries; block by block.
    Column,
    FeaturePlace,
}

impl List {
    const ALL: [Self; 8] = [
        Self::Source,
        Self::Target,
        Self::Place,
        Self::Real,
        Self::Degree,
        Self::Rows,
        Self::Column,
        Self::FeaturePlace,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::Place => "place",
            Self::Real => "real",
            Self::Degree => "degree",
            Self::Rows => "rows",
            Self::Column => "column",
            Self::FeaturePlace => "feature_place",
        }
    }

    fn bytes(self, on: &OnGraph) -> Vec<u8> {
        let ints = |list: &[i32]| list.iter().flat_map(|value| value.to_le_bytes()).collect();
        let floats = |list: &[f32]| list.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (messages, entries) = (&on.messages, on.entries.as_ref());
        match self {
            Self::Source => ints(&messages.source),
            Self::Target => ints(&messages.target),
            Self::Place => ints(&messages.place),
            Self::Real => floats(&messages.real),
            Self::Degree => floats(&messages.degree),
            Self::Rows => ints(&(0..messages.messages() as i32).collect::<Vec<_>>()),
            Self::Column => entries.map_or_else(Vec::new, |entries| ints(&entries.column)),
            Self::FeaturePlace => entries.map_or_else(Vec::new, |entries| ints(&entries.place)),
        }
    }

    /// Kind and dimensions of the whole list; a list of floats multiplies rows.
    fn shape(self, on: &OnGraph) -> (DataType, Vec<i64>) {
        let values = (self.bytes(on).len() / size_of::<i32>()) as i64;
        match self {
            Self::Real | Self::Degree => (DataType::FLOAT, vec![values, 1]),
            _ => (DataType::INT32, vec![values]),
        }
    }
}

/// All lists of a graph, one after another, as [`Placement::Held`] refers to them.
#[must_use]
pub fn held(on: &OnGraph) -> Vec<u8> {
    List::ALL.into_iter().flat_map(|list| list.bytes(on)).collect()
}

impl Lowering<'_> {
    /// A list of the layout, whole.
    pub(super) fn list(&mut self, list: List) -> String {
        let name = list.name().to_owned();
        if !self.graph.initializer.iter().any(|tensor| tensor.name == name) {
            let (kind, dims) = list.shape(self.on);
            let length = list.bytes(self.on).len();
            self.constant(&name, list, kind, dims, 0..length);
        }
        name
    }

    /// A block's part of a list, (width, nodes).
    pub(super) fn part(&mut self, list: List, blocks: &[Block], block: usize) -> String {
        let name = format!("{}{block}", list.name());
        if !self.graph.initializer.iter().any(|tensor| tensor.name == name) {
            let values = |blocks: &[Block]| blocks.iter().map(Block::messages).sum::<u32>() as usize;
            let own = blocks[block];
            let start = size_of::<i32>() * values(&blocks[..block]);
            let range = start..start + size_of::<i32>() * own.messages() as usize;
            let dims = vec![own.width.into(), own.count.into()];
            self.constant(&name, list, DataType::INT32, dims, range);
        }
        name
    }

    /// Bytes of a list as a tensor, where the placement has them.
    fn constant(&mut self, name: &str, list: List, kind: DataType, dims: Vec<i64>, bytes: Range<usize>) {
        let name = name.to_owned();
        let mut tensor = TensorProto { name, dims, data_type: kind.value(), ..TensorProto::default() };
        match self.placement {
            Placement::Inside => tensor.raw_data = list.bytes(self.on)[bytes].to_vec(),
            Placement::Held(location) => {
                let before = List::ALL.into_iter().take_while(|&other| other != list);
                let offset: usize = before.map(|other| other.bytes(self.on).len()).sum();
                tensor.data_location = DataLocation::EXTERNAL.into();
                tensor.external_data = vec![
                    entry("location", location.to_owned()),
                    entry("offset", (offset + bytes.start).to_string()),
                    entry("length", bytes.len().to_string()),
                ];
            }
        }
        self.graph.initializer.push(tensor);
    }
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_owned(), value, ..StringStringEntryProto::default() }
}
