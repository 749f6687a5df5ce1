//! Arguments of `hanas search` -> a search's settings.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Usage;
use super::context::{DeviceArg, TaskArg};
use super::images::ImageArgs;
use crate::search::config::{CostKind, Decode, Gate, SearchConfig, Strategy, Temperature};

/// What to search with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StrategyArg {
    /// Differentiable search in the measured space
    Htas,
    /// Differentiable search in TAS's unaligned grid (see --expand)
    Tas,
    /// Differentiable search in the aligned grid that needs no measuring
    Aligned,
    /// Differentiable search in widths drawn at random, one of each group
    RandomGroups,
    /// Random nets of the measured space
    Random,
    /// The base net made narrower all over
    Uniform,
    /// The trained base net, slimmed step by step (after NetAdapt)
    Netadapt,
}

/// What a search does, where no other option says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum ModeArg {
    /// --gate latency, --cost pairwise (paper-f without a table of pairs), --decode exact
    #[default]
    Project,
    /// --gate flops, --cost paper-f (flops for tas), --decode argmax
    Paper,
}

/// What the architecture is charged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CostArg {
    /// Latency by one curve of output widths per layer type
    PaperF,
    /// Latency by a table of input and output widths per layer kind
    Pairwise,
    /// Multiply-adds
    Flops,
}

/// How logits become a net.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DecodeArg {
    /// The likeliest choice of every row
    Argmax,
    /// The likeliest net within the budget
    Exact,
}

/// What the budget limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum GateArg {
    /// Measured latency
    Latency,
    /// Multiply-adds (the paper's gate); the budget is a share of the base net's
    Flops,
}

/// A budget as given: a share of the base net's cost, or a latency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Budget {
    /// `0.5x`.
    Share(f64),
    /// `12ms`, `800us`, `1.5s`.
    Latency(f64),
}

impl std::fmt::Display for Budget {
    /// As it may be given; latencies in microseconds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share}x"),
            Self::Latency(ns) => write!(f, "{}us", ns / 1e3),
        }
    }
}

impl std::str::FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value = |suffix: &str, scale: f64| {
            let number: f64 = text.strip_suffix(suffix)?.trim().parse().ok()?;
            (number.is_finite() && number > 0.0).then_some(number * scale)
        };
        value("x", 1.0)
            .map(Budget::Share)
            .or_else(|| value("ms", 1e6).map(Budget::Latency))
            .or_else(|| value("us", 1e3).map(Budget::Latency))
            .or_else(|| value("s", 1e9).map(Budget::Latency))
            .ok_or_else(|| {
                "write a latency such as 12ms or 800us, or a share of the base net's such as 0.5x".to_owned()
            })
    }
}

/// Arguments of `hanas search`.
#[derive(Debug, Args)]
pub(super) struct SearchArgs {
    /// What to search with
    #[arg(value_enum)]
    pub(super) strategy: StrategyArg,
    #[command(flatten)]
    pub(super) device: DeviceArg,
    #[command(flatten)]
    pub(super) task: TaskArg,
    #[command(flatten)]
    pub(super) images: ImageArgs,
    /// Latency limit, 12ms, or share of the base net's cost, 0.5x
    #[arg(long)]
    pub(super) budget: Budget,
    /// hanas's own way, or the paper's
    #[arg(long, value_enum, default_value_t)]
    mode: ModeArg,
    /// What the budget limits [default: the mode's]
    #[arg(long, value_enum)]
    gate: Option<GateArg>,
    /// What the architecture is charged for [default: the mode's]
    #[arg(long, value_enum)]
    pub(super) cost: Option<CostArg>,
    /// How the learned logits become a net [default: the mode's]
    #[arg(long, value_enum)]
    decode: Option<DecodeArg>,
    /// Width of TAS's grid, in base widths
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=2))]
    expand: u32,
    /// Seed: the same gives the same net
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The paper's recipe (600 epochs, batch 256) instead of the scaled one (12, 128)
    #[arg(long)]
    paper: bool,
    /// Search epochs
    #[arg(long)]
    epochs: Option<u32>,
    /// Epochs before those that train weights only
    #[arg(long)]
    warmup_epochs: Option<u32>,
    /// Images of a training step
    #[arg(long)]
    train_batch: Option<usize>,
    /// Learning rate of the weights at the start [default: 0.1]
    #[arg(long)]
    rate: Option<f64>,
    /// Gumbel temperature falls in a line from 10 (TAS paper) instead of along a cosine from 5 (its code)
    #[arg(long)]
    linear_temperature: bool,
    /// The run's folder; the same folder and settings go on where a search was interrupted
    #[arg(long, short, value_name = "FOLDER")]
    pub(super) out: PathBuf,
}

impl SearchArgs {
    /// What the architecture is charged for, before it is known whether there is a table of pairs.
    pub(super) fn cost(&self) -> CostKind {
        match (self.cost, self.mode) {
            (Some(CostArg::PaperF), _) => CostKind::Latency,
            (Some(CostArg::Pairwise), _) | (None, ModeArg::Project) => CostKind::Pairwise,
            (Some(CostArg::Flops), _) => CostKind::Flops,
            (None, ModeArg::Paper) if self.strategy == StrategyArg::Tas => CostKind::Flops,
            (None, ModeArg::Paper) => CostKind::Latency,
        }
    }

    /// Whether it searches as the paper does.
    pub(super) const fn is_paper(&self) -> bool {
        matches!(self.mode, ModeArg::Paper)
    }

    /// Whether the strategy needs the measured space.
    pub(super) const fn needs_space(&self) -> bool {
        matches!(self.strategy, StrategyArg::Htas | StrategyArg::Random)
    }

    /// Refuses settings that make no search, before a device is asked.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.config(self.cost(), 1.0).map(drop)
    }

    /// The search's settings on a device that takes `base_ns` for the base net, charged for `cost`.
    pub(super) fn config(&self, cost: CostKind, base_ns: f64) -> anyhow::Result<SearchConfig> {
        let gate = self.gate(base_ns)?;
        let strategy = self.strategy();
        let mut config = if self.paper {
            SearchConfig::paper(strategy, gate, self.seed)
        } else {
            SearchConfig::scaled(strategy, gate, self.seed)
        };
        config.cost = cost;
        config.decode = match (self.decode, self.mode) {
            (Some(DecodeArg::Argmax), _) | (None, ModeArg::Paper) => Decode::Argmax,
            (Some(DecodeArg::Exact), _) | (None, ModeArg::Project) => Decode::Exact,
        };
        config.epochs = self.epochs.unwrap_or(config.epochs);
        config.warmup_epochs = self.warmup_epochs.unwrap_or(config.warmup_epochs);
        config.batch = self.train_batch.unwrap_or(config.batch);
        config.weights.rate = self.rate.unwrap_or(config.weights.rate);
        if self.linear_temperature {
            config.temperature = Temperature::LINEAR;
        }
        config.check().map_err(|error| Usage(error.to_string()))?;
        Ok(config)
    }

    const fn strategy(&self) -> Strategy {
        match self.strategy {
            StrategyArg::Htas => Strategy::Htas,
            StrategyArg::Tas => Strategy::Tas { expand: self.expand },
            StrategyArg::Aligned => Strategy::Aligned,
            StrategyArg::RandomGroups => Strategy::RandomGroups,
            StrategyArg::Random => Strategy::Random,
            StrategyArg::Uniform => Strategy::Uniform,
            StrategyArg::Netadapt => Strategy::NetAdapt,
        }
    }

    fn gate(&self, base_ns: f64) -> Result<Gate, Usage> {
        let gate = match (self.gate, self.mode) {
            (Some(gate), _) => gate,
            (None, ModeArg::Project) => GateArg::Latency,
            (None, ModeArg::Paper) => GateArg::Flops,
        };
        match (gate, self.budget) {
            (GateArg::Latency, Budget::Share(share)) => Ok(Gate::Latency { budget_ns: share * base_ns }),
            (GateArg::Latency, Budget::Latency(budget_ns)) => Ok(Gate::Latency { budget_ns }),
            (GateArg::Flops, Budget::Share(ratio)) => Ok(Gate::Flops { ratio }),
            (GateArg::Flops, Budget::Latency(_)) => Err(Usage(
                "--gate flops (the default of --mode paper) takes a share of the base net such as --budget 0.5x"
                    .to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SearchArgs,
    }

    fn parse(words: &str) -> SearchArgs {
        let line = format!("search {words} --device d --task shapes10-resnet20 --out o");
        Line::parse_from(line.split_whitespace()).args
    }

    fn config(words: &str) -> SearchConfig {
        let args = parse(&format!("{words} --budget 0.5x"));
        args.config(args.cost(), 4e6).unwrap()
    }

    #[test]
    fn settings_that_make_no_search_are_wrong_arguments() {
        for none in ["--epochs 0 --budget 1x", "--train-batch 0 --budget 1x", "--rate 0 --budget 1x"] {
            assert!(parse(&format!("htas {none}")).check().unwrap_err().is::<Usage>(), "{none}");
        }
        assert!(parse("htas --gate flops --budget 1ms").check().unwrap_err().is::<Usage>());
        assert!(parse("htas --budget 1ms").check().is_ok());
    }

    #[test]
    fn a_budget_is_written_as_it_is_given() {
        for (given, written) in
            [("0.5x", "0.5x"), ("500us", "500us"), ("0.5ms", "500us"), ("1.5s", "1500000us")]
        {
            assert_eq!(given.parse::<Budget>().unwrap().to_string(), written);
        }
    }

    /// Each star can be had alone in either mode, so that it has a control arm.
    #[test]
    fn modes_are_defaults_and_switches_go_before() {
        let latency = Gate::Latency { budget_ns: 2e6 };
        let flops = Gate::Flops { ratio: 0.5 };
        for (words, gate, cost, decode) in [
            ("htas", latency, CostKind::Pairwise, Decode::Exact),
            ("htas --cost paper-f", latency, CostKind::Latency, Decode::Exact),
            ("htas --decode argmax", latency, CostKind::Pairwise, Decode::Argmax),
            ("htas --mode paper", flops, CostKind::Latency, Decode::Argmax),
            ("htas --mode paper --gate latency --decode exact", latency, CostKind::Latency, Decode::Exact),
            ("tas --mode paper", flops, CostKind::Flops, Decode::Argmax),
            ("tas --mode paper --gate latency", latency, CostKind::Flops, Decode::Argmax),
            ("tas --mode paper --gate latency --cost paper-f", latency, CostKind::Latency, Decode::Argmax),
        ] {
            let config = config(words);
            assert_eq!((config.gate, config.cost, config.decode), (gate, cost, decode), "{words}");
        }
    }

    #[test]
    fn the_weights_rate_is_the_recipes_unless_given() {
        assert_eq!(
            config("htas").weights,
            SearchConfig::scaled(Strategy::Htas, config("htas").gate, 1).weights
        );
        assert_eq!(config("htas --rate 0.02").weights.rate, 0.02);
    }
}
