//! The arms of `hanas experiment cnn`, each as the search that it is, and what is held against what.

use clap::ValueEnum;

/// Arms of the experiment; what each is stands in docs/src/results/htas-cifar10-plan.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Arm {
    /// TAS, e = 1, by multiply-adds
    #[value(name = "A")]
    A,
    /// TAS, e = 1, by latency
    #[value(name = "B")]
    B,
    /// TAS, e = 2
    #[value(name = "C")]
    C,
    /// HTAS as the paper has it
    #[value(name = "D")]
    D,
    /// Aligned grid
    #[value(name = "E")]
    E,
    /// Random widths of each group
    #[value(name = "F")]
    F,
    /// Random nets
    #[value(name = "G")]
    G,
    /// One factor for all widths
    #[value(name = "H")]
    H,
    /// After NetAdapt
    #[value(name = "N")]
    N,
    /// HTAS in hanas's own mode
    #[value(name = "I")]
    I,
    /// I by curves
    #[value(name = "I1")]
    I1,
    /// I decoded by argmax
    #[value(name = "I2")]
    I2,
    /// Aligned grid in hanas's own mode
    #[value(name = "J")]
    J,
}

impl Arm {
    /// As the protocol names it.
    pub(super) fn name(self) -> String {
        format!("{self:?}")
    }

    /// Its part of the `hanas search` command: strategy, mode, what it is charged, how it is decoded.
    pub(super) const fn search(self) -> &'static [&'static str] {
        match self {
            Self::A => &["tas", "--expand", "1", "--mode", "paper", "--cost", "flops"],
            Self::B => &["tas", "--expand", "1", "--mode", "paper", "--cost", "paper-f"],
            Self::C => &["tas", "--expand", "2", "--mode", "paper", "--cost", "paper-f"],
            Self::D => &["htas", "--mode", "paper", "--cost", "paper-f"],
            Self::E => &["aligned", "--mode", "paper", "--cost", "paper-f"],
            Self::F => &["random-groups", "--mode", "paper", "--cost", "paper-f"],
            Self::G => &["random", "--mode", "paper", "--cost", "paper-f"],
            Self::H => &["uniform", "--mode", "paper", "--cost", "paper-f"],
            Self::N => &["netadapt", "--mode", "paper", "--cost", "paper-f"],
            Self::I => &["htas", "--mode", "project", "--cost", "pairwise", "--decode", "exact"],
            Self::I1 => &["htas", "--mode", "project", "--cost", "paper-f", "--decode", "exact"],
            Self::I2 => &["htas", "--mode", "project", "--cost", "pairwise", "--decode", "argmax"],
            Self::J => &["aligned", "--mode", "project", "--cost", "pairwise", "--decode", "exact"],
        }
    }

    /// Whether it is charged by the table of pairs.
    pub(super) fn needs_pairs(self) -> bool {
        self.search().contains(&"pairwise")
    }

    /// The rule by which the space is chosen that it searches.
    pub(super) fn mode(self) -> &'static str {
        if self.search().contains(&"project") { "project" } else { "paper" }
    }
}

/// Contrasts as registered.
pub(super) const CONTRASTS: [(Arm, Arm); 12] = [
    (Arm::B, Arm::A),
    (Arm::C, Arm::B),
    (Arm::D, Arm::C),
    (Arm::D, Arm::E),
    (Arm::D, Arm::F),
    (Arm::I, Arm::D),
    (Arm::I, Arm::I1),
    (Arm::I, Arm::I2),
    (Arm::I, Arm::J),
    (Arm::D, Arm::G),
    (Arm::I, Arm::H),
    (Arm::I, Arm::N),
];
