//! The CIFAR ResNet family of He et al. 2016, 4.2, as TAS searches it (ALGORITHM 1.1, 1.2).
//!
//! Stem: 3x3 convolution, BN, ReLU. Then stages of basic blocks; the first block of every stage but
//! the first halves the map. Block: 3x3 + BN + ReLU, 3x3 + BN, plus shortcut, ReLU. Shortcut: where
//! the block strides, 2x2 average pooling and a bare 1x1 convolution; else, where widths differ, 1x1
//! convolution and BN; else the identity. Head: global average pooling, fully connected.

use serde::{Deserialize, Serialize};

use crate::spec::{FeatureMap, Net, NodeId, Op, SpecError};

/// One stage of a family: blocks of one output size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stage {
    /// Base width of every convolution in it.
    pub width: u32,
    /// Blocks.
    pub blocks: u32,
    /// Stride of the first block's first convolution, 1 or 2.
    pub stride: u32,
}

/// A family: the widest and deepest shape, before widths and depths are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Family {
    /// For people: `resnet20`.
    pub name: String,
    /// Shape of one image.
    pub input: FeatureMap,
    /// Base width of the stem.
    pub stem: u32,
    /// Stages in order.
    pub stages: Vec<Stage>,
    /// Classes.
    pub classes: u32,
}

/// Widths of one block's two convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockWidths {
    /// Output channels of the first convolution.
    pub a: u32,
    /// Output channels of the second, and so of the block.
    pub b: u32,
}

/// A member of a family: every convolution's width, and with the lists' lengths every stage's depth.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConvNet {
    /// The family.
    pub family: Family,
    /// Width of the stem.
    pub stem: u32,
    /// Blocks kept, by stage.
    pub stages: Vec<Vec<BlockWidths>>,
}

impl Family {
    /// ResNet of `depth` 20, 32, 56 or 110 (6n + 2) for 32x32 colour images.
    ///
    /// # Errors
    /// [`SpecError::Family`] for another depth.
    pub fn cifar_resnet(depth: u32, classes: u32) -> Result<Self, SpecError> {
        if !(8..=1202).contains(&depth) || depth % 6 != 2 {
            return Err(SpecError::Family(format!(
                "there is no CIFAR ResNet of depth {depth}; take 20, 32, 56 or 110 (6n + 2)"
            )));
        }
        let blocks = (depth - 2) / 6;
        let stage = |width, stride| Stage { width, blocks, stride };
        Ok(Self {
            name: format!("resnet{depth}"),
            input: FeatureMap::square(3, 32),
            stem: 16,
            stages: vec![stage(16, 1), stage(32, 2), stage(64, 2)],
            classes,
        })
    }

    /// The member with base widths and all blocks.
    #[must_use]
    pub fn base(&self) -> ConvNet {
        let stages = self
            .stages
            .iter()
            .map(|stage| vec![BlockWidths { a: stage.width, b: stage.width }; stage.blocks as usize])
            .collect();
        ConvNet { family: self.clone(), stem: self.stem, stages }
    }

    /// The member that [`ConvNet::summary`] describes.
    ///
    /// # Errors
    /// [`SpecError::Family`] where the line describes none.
    pub fn parse(&self, summary: &str) -> Result<ConvNet, SpecError> {
        let wrong = || {
            let like = self.base().summary();
            SpecError::Family(format!("'{summary}' describes no {}; write it like '{like}'", self.name))
        };
        let width = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
        let block = |text: &str| {
            let (a, b) = text.split_once('-').ok_or_else(wrong)?;
            Ok(BlockWidths { a: width(a)?, b: width(b)? })
        };
        let mut parts = summary.split('|');
        let stem = width(parts.next().unwrap_or_default())?;
        let stage = |part: &str| part.split_whitespace().map(block).collect();
        let stages: Result<_, SpecError> = parts.map(stage).collect();
        let net = ConvNet { family: self.clone(), stem, stages: stages? };
        net.check()?;
        Ok(net)
    }

    /// Side of every stage's output map, in pixels.
    #[must_use]
    pub fn stage_sides(&self) -> Vec<u32> {
        self.stages
            .iter()
            .scan(self.input.height, |side, stage| {
                *side /= stage.stride;
                Some(*side)
            })
            .collect()
    }

    /// How many blocks a stage may keep (TAS): 1, 3, 5, ... and all of them; {1, 2, 3} for three.
    #[must_use]
    pub fn depth_choices(&self, stage: usize) -> Vec<u32> {
        let n = self.stages[stage].blocks;
        if n <= 3 {
            return (1..=n).collect();
        }
        let mut choices: Vec<u32> = (1..=n).step_by(2).collect();
        if choices.last() != Some(&n) {
            choices.push(n);
        }
        choices
    }
}

impl ConvNet {
    /// The net as a graph.
    ///
    /// # Errors
    /// [`SpecError::Family`] where a width is zero, a stage is empty or too deep, or the stages do
    /// not match the family's.
    pub fn net(&self) -> Result<Net, SpecError> {
        self.check()?;
        let mut net = Net::new(self.family.name.clone(), self.family.input);
        let mut at = Cursor { node: net.input_node(), channels: self.family.input.channels };
        at = conv_bn(&mut net, "stem", at, Shape::conv3(self.stem, 1), true);
        for (s, (blocks, stage)) in self.stages.iter().zip(&self.family.stages).enumerate() {
            for (b, widths) in blocks.iter().enumerate() {
                let stride = if b == 0 { stage.stride } else { 1 };
                at = basic_block(&mut net, &format!("stage{}.block{b}", s + 1), at, *widths, stride);
            }
        }
        let pooled = net.push("head.pool", Op::GlobalAvgPool, &[at.node]);
        net.push("head.fc", Op::Linear { cin: at.channels, cout: self.family.classes }, &[pooled]);
        Ok(net)
    }

    /// Widths of all convolutions in the supernet's row order: stem, then a and b of each block.
    #[must_use]
    pub fn widths(&self) -> Vec<u32> {
        let blocks = self.stages.iter().flatten().flat_map(|block| [block.a, block.b]);
        std::iter::once(self.stem).chain(blocks).collect()
    }

    /// One line for people: `16 | 16-16 16-16 | 32-32 | 64-64`.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = self.stem.to_string();
        for stage in &self.stages {
            text.push_str(" |");
            for block in stage {
                text.push_str(&format!(" {}-{}", block.a, block.b));
            }
        }
        text
    }

    fn check(&self) -> Result<(), SpecError> {
        let family = &self.family;
        if self.stages.len() != family.stages.len() {
            let (n, wants) = (self.stages.len(), family.stages.len());
            return Err(SpecError::Family(format!("{} has {wants} stages, not {n}", family.name)));
        }
        if self.widths().contains(&0) {
            return Err(SpecError::Family("a convolution needs at least one channel".to_owned()));
        }
        for (s, (blocks, stage)) in self.stages.iter().zip(&family.stages).enumerate() {
            if blocks.is_empty() || blocks.len() > stage.blocks as usize {
                let (n, most) = (blocks.len(), stage.blocks);
                return Err(SpecError::Family(format!("stage {} keeps 1 to {most} blocks, not {n}", s + 1)));
            }
        }
        Ok(())
    }
}

/// Where the net under construction ends.
#[derive(Clone, Copy)]
struct Cursor {
    node: NodeId,
    channels: u32,
}

/// Shape of a convolution that keeps the map's size but for its stride.
#[derive(Clone, Copy)]
struct Shape {
    cout: u32,
    kernel: u32,
    stride: u32,
}

impl Shape {
    const fn conv3(cout: u32, stride: u32) -> Self {
        Self { cout, kernel: 3, stride }
    }

    const fn conv1(cout: u32) -> Self {
        Self { cout, kernel: 1, stride: 1 }
    }
}

fn conv(net: &mut Net, path: &str, from: Cursor, shape: Shape) -> Cursor {
    let Shape { cout, kernel, stride } = shape;
    let op = Op::Conv { cin: from.channels, cout, kernel, stride, padding: kernel / 2 };
    Cursor { node: net.push(format!("{path}.conv"), op, &[from.node]), channels: cout }
}

fn conv_bn(net: &mut Net, path: &str, from: Cursor, shape: Shape, relu: bool) -> Cursor {
    let at = conv(net, path, from, shape);
    let op = Op::BatchNorm { channels: at.channels };
    let mut node = net.push(format!("{path}.bn"), op, &[at.node]);
    if relu {
        node = net.push(format!("{path}.relu"), Op::Relu, &[node]);
    }
    Cursor { node, ..at }
}

fn basic_block(net: &mut Net, path: &str, from: Cursor, widths: BlockWidths, stride: u32) -> Cursor {
    let a = conv_bn(net, &format!("{path}.a"), from, Shape::conv3(widths.a, stride), true);
    let b = conv_bn(net, &format!("{path}.b"), a, Shape::conv3(widths.b, 1), false);
    let shortcut_path = format!("{path}.shortcut");
    let shortcut = shortcut(net, &shortcut_path, from, widths.b, stride);
    let sum = net.push(format!("{path}.add"), Op::Add, &[b.node, shortcut.node]);
    Cursor { node: net.push(format!("{path}.relu"), Op::Relu, &[sum]), channels: widths.b }
}

fn shortcut(net: &mut Net, path: &str, from: Cursor, cout: u32, stride: u32) -> Cursor {
    if stride == 2 {
        let pooled = net.push(format!("{path}.pool"), Op::AvgPool2, &[from.node]);
        conv(net, path, Cursor { node: pooled, ..from }, Shape::conv1(cout))
    } else if from.channels != cout {
        conv_bn(net, path, from, Shape::conv1(cout), false)
    } else {
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{macs, params};

    fn pairs(list: &[(u32, u32)]) -> Vec<BlockWidths> {
        list.iter().map(|&(a, b)| BlockWidths { a, b }).collect()
    }

    /// The paper's "Manual" rows (Tables 4 and 5): all eight numbers.
    #[test]
    fn base_nets_cost_what_the_paper_says() {
        for (depth, mmacs, mparams) in
            [(20, 40.81, 0.272), (32, 69.12, 0.467), (56, 125.75, 0.856), (110, 253.15, 1.731)]
        {
            let net = Family::cifar_resnet(depth, 10).unwrap().base().net().unwrap();
            let got = macs(&net).unwrap() as f64 / 1e6;
            assert!((got - mmacs).abs() < 0.005, "R{depth}: {got} M multiply-adds");
            let got = params(&net) as f64 / 1e6;
            assert!((got - mparams).abs() < 0.0005, "R{depth}: {got} M parameters");
        }
    }

    /// Both nets of the paper's Table 9 (CIFAR-100).
    #[test]
    fn table_9_nets_cost_what_the_paper_says() {
        let family = Family::cifar_resnet(32, 100).unwrap();
        let last_c = pairs(&[(107, 107), (128, 92), (128, 107), (15, 128), (15, 128)]);
        let cpu = ConvNet {
            family: family.clone(),
            stem: 20,
            stages: vec![pairs(&[(4, 4)]), pairs(&[(8, 35)]), last_c],
        };
        let last_g = pairs(&[(128, 128), (32, 64), (128, 128)]);
        let gpu = ConvNet { family, stem: 32, stages: vec![pairs(&[(6, 6)]), pairs(&[(64, 64)]), last_g] };
        for (net, mmacs, mparams) in [(cpu, 47.00, 0.72), (gpu, 47.04, 0.58)] {
            let net = net.net().unwrap();
            let got = macs(&net).unwrap() as f64 / 1e6;
            assert!((got - mmacs).abs() < 0.005, "{got} M multiply-adds");
            let got = params(&net) as f64 / 1e6;
            assert!((got - mparams).abs() < 0.005, "{got} M parameters");
        }
    }

    #[test]
    fn depth_choices_are_the_reference_codes() {
        let choices = |depth| Family::cifar_resnet(depth, 10).unwrap().depth_choices(0);
        assert_eq!(choices(20), [1, 2, 3]);
        assert_eq!(choices(32), [1, 3, 5]);
        assert_eq!(choices(56), [1, 3, 5, 7, 9]);
        assert_eq!(choices(110), [1, 3, 5, 7, 9, 11, 13, 15, 17, 18]);
    }

    #[test]
    fn a_summary_is_read_back() {
        let family = Family::cifar_resnet(20, 10).unwrap();
        let mut net = family.base();
        net.stages[1] = pairs(&[(7, 40)]);
        assert_eq!(family.parse(&net.summary()).unwrap(), net);
        for wrong in ["", "16", "16 | 16 | 32-32 | 64-64", "16 | 16-16 | 32-32 | 0-64", "x | 1-1 | 1-1 | 1-1"]
        {
            assert!(matches!(family.parse(wrong), Err(SpecError::Family(_))), "{wrong}");
        }
    }

    #[test]
    fn a_member_that_is_none_is_refused() {
        let mut net = Family::cifar_resnet(20, 10).unwrap().base();
        net.stages[1].clear();
        assert!(matches!(net.net(), Err(SpecError::Family(_))));
        assert!(matches!(Family::cifar_resnet(21, 10), Err(SpecError::Family(_))));
    }
}
