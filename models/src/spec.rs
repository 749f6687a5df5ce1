//! A net as a graph of layers: the one description that ONNX, tch and the cost formulas share.
//!
//! Nodes stand in execution order, so an input always names an earlier node. Names are the paths of
//! weights: a convolution `stage1.block0.a.conv` owns the tensor `stage1.block0.a.conv.weight`.

use serde::{Deserialize, Serialize};

/// One image's feature map, channels first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FeatureMap {
    /// Channels.
    pub channels: u32,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl FeatureMap {
    /// A square map of `side` x `side`.
    #[must_use]
    pub const fn square(channels: u32, side: u32) -> Self {
        Self { channels, height: side, width: side }
    }

    /// Values in the map.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.channels as u64 * self.height as u64 * self.width as u64
    }

    /// Whether the map holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Place of a node in its [`Net`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub usize);

/// What a node computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// The net's input.
    Input,
    /// 2-d convolution without bias, square kernel.
    Conv {
        /// Input channels.
        cin: u32,
        /// Output channels.
        cout: u32,
        /// Kernel side.
        kernel: u32,
        /// Stride.
        stride: u32,
        /// Zero padding on every side.
        padding: u32,
    },
    /// Batch normalisation over channels.
    BatchNorm {
        /// Channels.
        channels: u32,
    },
    /// max(x, 0).
    Relu,
    /// Sum of two maps of one shape.
    Add,
    /// 2x2 average pooling, stride 2.
    AvgPool2,
    /// Mean over rows and columns; leaves a vector of channels.
    GlobalAvgPool,
    /// Fully connected layer with bias.
    Linear {
        /// Input features.
        cin: u32,
        /// Output features.
        cout: u32,
    },
}

/// A named operation and where its inputs come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Path of its weights; unique in the net.
    pub name: String,
    /// What it computes.
    #[serde(flatten)]
    pub op: Op,
    /// Earlier nodes, in the operation's order.
    pub inputs: Vec<NodeId>,
}

/// A net: one input, one output (its last node).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Net {
    /// For people and for the ONNX graph's name.
    pub name: String,
    /// Shape of one input image.
    pub input: FeatureMap,
    /// Operations in execution order; the first is [`Op::Input`].
    pub nodes: Vec<Node>,
}

/// A spec that does not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// An operation got another number of channels than it is made for.
    #[error("{node}: takes {wants} channels and is given {given}")]
    Channels {
        /// The node.
        node: String,
        /// Channels it is made for.
        wants: u32,
        /// Channels it is given.
        given: u32,
    },
    /// The two sides of a sum differ.
    #[error("{node}: adds maps of different shapes, {left:?} and {right:?}")]
    Shapes {
        /// The node.
        node: String,
        /// Left side.
        left: FeatureMap,
        /// Right side.
        right: FeatureMap,
    },
    /// A node has the wrong number of inputs, or names itself or a later one.
    #[error("{node}: its inputs do not fit its operation")]
    Inputs {
        /// The node.
        node: String,
    },
    /// A width, depth or size that the family does not have.
    #[error("{0}")]
    Family(String),
}

impl Net {
    /// A net that is just its input.
    #[must_use]
    pub fn new(name: impl Into<String>, input: FeatureMap) -> Self {
        let node = Node { name: "input".to_owned(), op: Op::Input, inputs: Vec::new() };
        Self { name: name.into(), input, nodes: vec![node] }
    }

    /// The input's node.
    #[must_use]
    pub const fn input_node(&self) -> NodeId {
        NodeId(0)
    }

    /// Appends an operation and returns its place.
    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec() });
        NodeId(self.nodes.len() - 1)
    }

    /// The shape of every node's output, one image; a vector has height and width 1.
    ///
    /// # Errors
    /// [`SpecError`] where the operations do not fit together.
    pub fn shapes(&self) -> Result<Vec<FeatureMap>, SpecError> {
        let mut shapes: Vec<FeatureMap> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let shape = self.shape_of(node, &shapes)?;
            shapes.push(shape);
        }
        Ok(shapes)
    }

    /// The shape of the output, one image.
    ///
    /// # Errors
    /// As [`Net::shapes`].
    pub fn output(&self) -> Result<FeatureMap, SpecError> {
        Ok(self.shapes()?.pop().unwrap_or(self.input))
    }

    fn shape_of(&self, node: &Node, shapes: &[FeatureMap]) -> Result<FeatureMap, SpecError> {
        let misfit = || SpecError::Inputs { node: node.name.clone() };
        let arity = match node.op {
            Op::Input => 0,
            Op::Add => 2,
            _ => 1,
        };
        if node.inputs.len() != arity {
            return Err(misfit());
        }
        let given = |place: usize| shapes.get(node.inputs[place].0).copied().ok_or_else(misfit);
        let expect = |wants: u32, given: u32| {
            if wants == given {
                Ok(())
            } else {
                Err(SpecError::Channels { node: node.name.clone(), wants, given })
            }
        };
        Ok(match node.op {
            Op::Input => self.input,
            Op::Conv { cin, cout, kernel, stride, padding } => {
                let map = given(0)?;
                expect(cin, map.channels)?;
                let side = |n: u32| (n + 2 * padding).checked_sub(kernel).map(|n| n / stride + 1);
                let (height, width) = side(map.height).zip(side(map.width)).ok_or_else(misfit)?;
                FeatureMap { channels: cout, height, width }
            }
            Op::BatchNorm { channels } => {
                let map = given(0)?;
                expect(channels, map.channels)?;
                map
            }
            Op::Relu => given(0)?,
            Op::Add => {
                let (left, right) = (given(0)?, given(1)?);
                if left != right {
                    return Err(SpecError::Shapes { node: node.name.clone(), left, right });
                }
                left
            }
            Op::AvgPool2 => {
                let map = given(0)?;
                FeatureMap { height: map.height / 2, width: map.width / 2, ..map }
            }
            Op::GlobalAvgPool => FeatureMap { height: 1, width: 1, ..given(0)? },
            Op::Linear { cin, cout } => {
                let map = given(0)?;
                expect(cin, map.channels)?;
                FeatureMap { channels: cout, height: 1, width: 1 }
            }
        })
    }
}
