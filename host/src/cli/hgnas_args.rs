//! Arguments of `hanas search hgnas`, and what they stand for.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{ArgMatches, Args, FromArgMatches, ValueEnum};

use super::Usage;
use super::context::DeviceArg;
use super::search_args::SearchArgs;
use crate::search::hgnas::finals::FinalConfig;
use crate::search::hgnas::strategy::Strategy;
use crate::task::graph::GraphTask;
use crate::train::child::ChildConfig;

/// `hanas search`: convnets by their strategies, graph nets under `hgnas`.
#[derive(Debug)]
pub(super) enum SearchCommand {
    /// A convnet.
    Conv(Box<SearchArgs>),
    /// A graph net.
    Graph(Box<HgnasArgs>),
}

impl FromArgMatches for SearchCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some((HGNAS, inner)) => {
                HgnasArgs::from_arg_matches(inner).map(|args| Self::Graph(Box::new(args)))
            }
            _ => SearchArgs::from_arg_matches(matches).map(|args| Self::Conv(Box::new(args))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Written by hand: the strategies share their arguments, and graph nets have others.
impl Args for SearchCommand {
    fn augment_args(command: clap::Command) -> clap::Command {
        // After the arguments, whose own comment would take its place.
        let hgnas = HgnasArgs::augment_args(clap::Command::new(HGNAS))
            .about("A graph net by reinforcement learning, evolution or chance (HGNAS, Wang et al. 2023)");
        SearchArgs::augment_args(command).subcommand(hgnas).subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// Name of the subcommand.
const HGNAS: &str = "hgnas";

/// Which space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum SpaceArg {
    /// Heads and dims on GraphNAS's grid; needs no profile
    Graphnas,
    /// Pairs of heads and dim that the device does fast, from its profile
    #[default]
    Hgnas,
}

/// What is rewarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum RewardArg {
    /// Validation accuracy
    Accuracy,
    /// accuracy (latency / T)^-.07, T the median latency of random nets
    #[default]
    Latency,
}

/// Who proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum StrategyArg {
    /// The LSTM controller, by reinforcement learning
    #[default]
    Rl,
    /// Nets drawn at random
    Random,
    /// Regularised evolution
    Evolution,
}

/// A limit as given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    /// `20ms`, `800us`.
    Nanos(f64),
    /// `q25`: a quantile of the latencies of random nets of GraphNAS's space.
    Quantile(f64),
}

impl std::str::FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value = |text: Option<&str>, scale: f64| {
            let number: f64 = text?.trim().parse().ok()?;
            (number.is_finite() && number > 0.0).then_some(number * scale)
        };
        let quantile = value(text.strip_prefix('q'), 0.01).filter(|&share| share <= 1.0);
        quantile
            .map(Self::Quantile)
            .or_else(|| value(text.strip_suffix("ms"), 1e6).map(Self::Nanos))
            .or_else(|| value(text.strip_suffix("us"), 1e3).map(Self::Nanos))
            .or_else(|| value(text.strip_suffix('s'), 1e9).map(Self::Nanos))
            .ok_or_else(|| {
                "write a latency such as 20ms, or a quantile of random nets such as q25".to_owned()
            })
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nanos(ns) => write!(f, "{}us", ns / 1e3),
            Self::Quantile(share) => write!(f, "q{}", 100.0 * share),
        }
    }
}

/// Arguments of `hanas search hgnas`.
#[derive(Debug, Args)]
pub(super) struct HgnasArgs {
    #[command(flatten)]
    pub(super) device: DeviceArg,
    /// The graph: cora-gnn, citeseer-gnn, pubmed-gnn, planted-gnn, which needs no files, or NAME-gnn for your own NAME.npz
    #[arg(long, short, value_name = "TASK")]
    pub(super) task: GraphTask,
    /// Folder of the graph's files (NAME.npz, or the Planetoid files ind.NAME.*)
    #[arg(long, env = "HANAS_DATA", value_name = "FOLDER", default_value = ".")]
    pub(super) data: PathBuf,
    /// Which space
    #[arg(long, value_enum, default_value_t)]
    pub(super) space: SpaceArg,
    /// What is rewarded
    #[arg(long, value_enum, default_value_t)]
    pub(super) reward: RewardArg,
    /// Latency that no trial may exceed: 20ms, or q25, a quantile of random nets. With --paper it holds for 100 nets
    /// drawn after the search instead, of which the best within it is taken
    #[arg(long)]
    pub(super) limit: Option<Limit>,
    /// Who proposes
    #[arg(long, value_enum, default_value_t)]
    strategy: StrategyArg,
    /// Trials [default: 200, with --paper 1000]
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    samples: Option<usize>,
    /// Random nets measured for the latency predictor [default: 200, with --paper 600]; up to 600 where it misses
    /// its gate. T and quantiles are of half of them, of 100 at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(60..))]
    latency_nets: Option<u32>,
    /// Epochs of a child [default: 100, with --paper 300]
    #[arg(long)]
    epochs: Option<u32>,
    /// Epochs without a lower validation loss after which a child's training ends [default: 20, with --paper never]
    #[arg(long)]
    patience: Option<u32>,
    /// Trainings of each of the 5 finalists, and of the best of them after it was chosen [default: 3,10; with --paper
    /// 20,100]
    #[arg(long, value_name = "N,N", value_delimiter = ',', num_args = 1)]
    retrain: Vec<u64>,
    /// The paper's settings instead of the scaled ones
    #[arg(long)]
    pub(super) paper: bool,
    /// Seed: the same gives the same trials, as far as latencies are the same
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Scores of trained children, shared by runs [default: scores.jsonl in the run's folder]
    #[arg(long, value_name = "FILE")]
    pub(super) scores: Option<PathBuf>,
    /// Latencies of random nets, shared by runs on one device [default: latencies.jsonl in the run's folder]
    #[arg(long, value_name = "FILE")]
    pub(super) latencies: Option<PathBuf>,
    /// Searches given the same file measure one at a time, while none of them trains: for a device that is
    /// the machine that trains
    #[arg(long, value_name = "FILE")]
    pub(super) turns: Option<PathBuf>,
    /// Go on where the latency predictor misses its gate or the last measurement is doubted
    #[arg(long)]
    pub(super) allow_noisy: bool,
    /// The run's folder; the same folder and settings go on where a search was interrupted
    #[arg(long, short, value_name = "FOLDER")]
    pub(super) out: PathBuf,
}

impl HgnasArgs {
    /// How a child is trained.
    pub(super) fn child(&self) -> ChildConfig {
        let mut child = if self.paper { ChildConfig::paper() } else { ChildConfig::scaled() };
        child.epochs = self.epochs.unwrap_or(child.epochs);
        child.patience = self.patience.or(child.patience);
        child
    }

    /// How the best are trained again.
    pub(super) fn finals(&self) -> anyhow::Result<FinalConfig> {
        let plan = if self.paper { FinalConfig::PAPER } else { FinalConfig::SCALED };
        match self.retrain[..] {
            [] => Ok(plan),
            [runs, final_runs] if runs > 0 && final_runs > 0 => Ok(FinalConfig { runs, final_runs, ..plan }),
            _ => Err(Usage("--retrain takes two numbers above 0, such as 3,10".to_owned()).into()),
        }
    }

    /// Who proposes.
    pub(super) const fn strategy(&self) -> Strategy {
        match self.strategy {
            StrategyArg::Rl => Strategy::Rl,
            StrategyArg::Random => Strategy::Random,
            StrategyArg::Evolution => Strategy::Evolution,
        }
    }

    /// Trials.
    pub(super) fn samples(&self) -> usize {
        self.samples.unwrap_or(if self.paper { 1_000 } else { 200 })
    }

    /// Random nets measured.
    pub(super) fn latency_nets(&self) -> u32 {
        self.latency_nets.unwrap_or(if self.paper { 600 } else { 200 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        search: SearchCommand,
    }

    fn parse(line: &str) -> Result<SearchCommand, clap::Error> {
        <Line as clap::Parser>::try_parse_from(line.split(' ')).map(|line| line.search)
    }

    #[test]
    fn graph_nets_and_convnets_share_a_command() {
        let graph = parse("search hgnas --task cora-gnn --device d --limit q25 --retrain 3,9 --out r");
        let Ok(SearchCommand::Graph(args)) = graph else { panic!("{graph:?}") };
        assert_eq!((args.limit, args.finals().unwrap().final_runs), (Some(Limit::Quantile(0.25)), 9));
        let conv = "search htas --task shapes10-resnet20 --device d --budget 0.5x --out r";
        assert!(matches!(parse(conv), Ok(SearchCommand::Conv(_))));
        assert!(parse("search htas --task shapes10-resnet20 --device d --out r").is_err());
        assert!(parse("search hgnas --task cora-resnet20 --device d --out r").is_err());
        assert!(parse("search hgnas --task cora-gnn --device d --out r --samples 0").is_err());
    }

    #[test]
    fn a_limit_is_kept_as_it_was_given() {
        for text in ["20ms", "0.1ms", "800us", "1.7s", "q25", "q7.5", "q29"] {
            let limit: Limit = text.parse().unwrap();
            let again: Limit = limit.to_string().parse().unwrap();
            assert_eq!(limit.to_string(), again.to_string(), "{text}");
        }
        assert_eq!("20ms".parse::<Limit>().unwrap().to_string(), "20000us");
    }

    #[test]
    fn limits_are_latencies_or_quantiles() {
        assert_eq!("20ms".parse(), Ok(Limit::Nanos(2e7)));
        assert_eq!("q50".parse(), Ok(Limit::Quantile(0.5)));
        for bad in ["q0", "q101", "20", "-1ms", "fast"] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }
}
