//! The commands that the file of `hanas run` stands for, in their order, and what each stands on.

use std::path::PathBuf;

use clap::Parser;

use super::hgnas_args::{HgnasArgs, SearchCommand};
use super::hgnas_prepare::is_of;
use super::manifest::{Given, Manifest, Options};
use super::steps::{path, words};
use super::{Cli, Command};
use crate::search::config::CostKind;
use crate::search::run::RunDir;
use crate::task::is_graph_task;

/// The net as ONNX, in the run's folder.
pub(super) const NET: &str = "net.onnx";
/// The report, there.
pub(super) const REPORT: &str = "report.html";
/// What the device said of the net, there.
pub(super) const VERIFY: &str = "verify.json";

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Name of its table in the file.
    pub(super) name: &'static str,
    /// Its words.
    pub(super) command: Vec<String>,
    /// The file that is there once it is done, beside the store.
    pub(super) product: Option<PathBuf>,
    /// What it stands on.
    pub(super) after: After,
    /// It ends with a measurement of the net, whose verdict may be its error.
    pub(super) judges: bool,
}

/// What a step's product stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// A profile or a training: what was made with other settings is not made over.
    Settings,
    /// The same, of the device's samples in the store, which the command does not ask for itself.
    Samples,
    /// The trained net: made over whenever it may differ.
    Net,
    /// The same, and of the samples.
    NetAndSamples,
}

impl After {
    /// Whether it is run again where its command changed.
    pub(super) const fn is_made_over(self) -> bool {
        matches!(self, Self::Net | Self::NetAndSamples)
    }

    /// Whether it needs to be told whose samples.
    pub(super) const fn needs_samples(self) -> bool {
        matches!(self, Self::Samples | Self::NetAndSamples)
    }
}

/// The commands that a file stands for; what is wrong with one is said before any runs.
pub(super) fn steps(manifest: &Manifest) -> Result<Vec<Step>, String> {
    let list = if is_graph_task(&manifest.task) { graph(manifest)? } else { conv(manifest)? };
    for step in &list {
        parsed(step)?;
    }
    Ok(list)
}

fn parsed(step: &Step) -> Result<Cli, String> {
    let words = std::iter::once("hanas").chain(step.command.iter().map(String::as_str));
    Cli::try_parse_from(words).map_err(|error| {
        let error = error.to_string();
        let first: Vec<&str> = error.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        format!("[{}]: {}", step.name, first.join(" ").trim_start_matches("error: "))
    })
}

/// What a step asks for that is a search over graph nets; none of other steps.
fn searched(step: &Step) -> Result<Option<Box<HgnasArgs>>, String> {
    Ok(match parsed(step)?.command {
        Command::Search(SearchCommand::Graph(args)) => Some(args),
        _ => None,
    })
}

/// Whether a run is the one that a step searches on the device of a file.
pub(super) fn is_run_of(step: &Step, dir: &RunDir) -> bool {
    let Ok(Some(args)) = searched(step) else { return false };
    is_of(&args, dir).is_ok_and(|run| run.device == args.device.device)
}

/// Profile, space, search, train, export, verify, report.
fn conv(manifest: &Manifest) -> Result<Vec<Step>, String> {
    let (task, device, noisy, images) =
        (manifest.task(), manifest.device(), manifest.noisy(), manifest.images());
    let mut search = manifest.search.clone();
    let strategy = search.remove("strategy").unwrap_or_else(|| "htas".into());
    let strategy = strategy.as_str().ok_or("[search]: strategy is a name, such as \"htas\"")?;
    let out = manifest.out();
    let search = Step {
        name: "search",
        command: [
            words(&["search", strategy, "--out", &out]),
            device.clone(),
            task.clone(),
            manifest.with(&images, &search)?,
        ]
        .concat(),
        product: Some(manifest.out.join("net.json")),
        after: After::Settings,
        judges: false,
    };
    let (by_pairs, paper) = match parsed(&search)?.command {
        Command::Search(SearchCommand::Conv(args)) => (args.cost() == CostKind::Pairwise, args.is_paper()),
        _ => return Err("[search]: graph nets are searched for a graph task, such as cora-gnn".to_owned()),
    };
    let measured = |name, first: &[&str], options| {
        let command = [words(first), device.clone(), task.clone(), manifest.with(&noisy, options)?];
        Ok::<_, String>(Step {
            name,
            command: command.concat(),
            product: None,
            after: After::Settings,
            judges: false,
        })
    };
    let mut list = vec![measured("profile", &["profile"], &manifest.profile)?];
    if by_pairs {
        list.push(measured("pairs", &["profile", "--which", "pairs"], &manifest.pairs)?);
        let fit = [words(&["latency", "fit", "--model", "pairwise"]), task.clone()].concat();
        list.push(samples("fit", fit));
    } else if !manifest.pairs.is_empty() {
        return Err("[pairs]: this search is charged by curves, so no pairs are measured".to_owned());
    }
    let mode =
        if paper && !manifest.space.contains_key("mode") { words(&["--mode", "paper"]) } else { vec![] };
    let space = [words(&["space", "build"]), task.clone(), mode, manifest.with(&[], &manifest.space)?];
    list.push(samples("space", space.concat()));
    list.push(search);
    let train = [words(&["train", &out]), manifest.with(&images, &manifest.train)?];
    list.push(Step {
        name: "train",
        command: train.concat(),
        product: Some(manifest.out.join("weights.safetensors")),
        after: After::Settings,
        judges: false,
    });
    list.extend(manifest.hand_over(&task)?);
    Ok(list)
}

/// Profile, space, search (which trains and exports), verify, report.
fn graph(manifest: &Manifest) -> Result<Vec<Step>, String> {
    for (name, options) in
        [("pairs", &manifest.pairs), ("train", &manifest.train), ("export", &manifest.export)]
    {
        if !options.is_empty() {
            return Err(format!("[{name}]: a search for graph nets has no such step"));
        }
    }
    if manifest.batch.is_some() || manifest.images.is_some() {
        return Err("batch and images are for convnets; a graph is run whole".to_owned());
    }
    let task = words(&["--task", &manifest.task]);
    let (device, noisy, data) = (manifest.device(), manifest.noisy(), manifest.data());
    let measured_space = manifest.search.get("space").and_then(toml::Value::as_str) != Some("graphnas");
    let of_space = [&manifest.profile, &manifest.space, &manifest.report];
    if !measured_space && of_space.iter().any(|options| !options.is_empty()) {
        return Err(
            "[profile], [space] and [report] are of a measured space, not of space = \"graphnas\"".to_owned()
        );
    }
    let given = [&noisy[..], &data].concat();
    let search = manifest.with(&given, &manifest.search)?;
    let search =
        [words(&["search", "hgnas", "--out", &manifest.out()]), device.clone(), task.clone(), search];
    let search = Step {
        name: "search",
        command: search.concat(),
        product: Some(manifest.out.join(NET)),
        after: After::Settings,
        judges: true,
    };
    let paper = searched(&search)?.is_some_and(|args| args.paper);
    let mut list = Vec::new();
    if measured_space {
        // What paper mode searches is measured in it.
        let mode = |options: &Options| {
            if paper && !options.contains_key("mode") { words(&["--mode", "paper"]) } else { Vec::new() }
        };
        let profile = manifest.with(&given, &manifest.profile)?;
        let profile = [words(&["graph", "profile"]), device, task.clone(), mode(&manifest.profile), profile];
        list.push(Step {
            name: "profile",
            command: profile.concat(),
            product: None,
            after: After::Settings,
            judges: false,
        });
        let space = manifest.with(&[], &manifest.space)?;
        let space = [words(&["graph", "space"]), task.clone(), mode(&manifest.space), space];
        list.push(samples("space", space.concat()));
    }
    list.push(search);
    // The search leaves its net as ONNX already, and a report is of a profile.
    let handed_over = manifest.hand_over(&task)?.into_iter();
    list.extend(
        handed_over.filter(|step| step.name == "verify" || (step.name == "report" && measured_space)),
    );
    Ok(list)
}

/// A step that stands on the device's samples.
const fn samples(name: &'static str, command: Vec<String>) -> Step {
    Step { name, command, product: None, after: After::Samples, judges: false }
}

impl Manifest {
    /// Export, verify and report, as of every run.
    fn hand_over(&self, task: &[String]) -> Result<Vec<Step>, String> {
        let out = self.out();
        let [net, report] = [NET, REPORT].map(|name| self.out.join(name));
        let batch: Vec<Given> = self.batch.iter().map(|batch| ("batch", Some(batch.to_string()))).collect();
        let export = [words(&["export", &out, "--output", &path(&net)]), self.with(&batch, &self.export)?];
        let given = [self.noisy(), self.images()].concat();
        let verify = [words(&["verify", &out]), self.device(), self.with(&given, &self.verify)?];
        let page = [
            words(&["report", &out, "--output", &path(&report)]),
            task.to_vec(),
            self.with(&[], &self.report)?,
        ];
        let step = |name, command: Vec<String>, product, after| Step {
            name,
            command,
            product: Some(product),
            after,
            judges: name == "verify",
        };
        Ok(vec![
            step("export", export.concat(), net, After::Net),
            step("verify", verify.concat(), self.out.join(VERIFY), After::Net),
            step("report", page.concat(), report, After::NetAndSamples),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(file: &str) -> Result<Vec<String>, String> {
        let manifest: Manifest = toml::from_str(file).map_err(|error| error.to_string())?;
        Ok(steps(&manifest)?.iter().map(|step| step.command.join(" ")).collect())
    }

    const CONV: &str =
        "device = 'pi'\ntask = 'cifar10-resnet20'\nout = 'runs/pi'\nbatch = 1\ndata = 'cifar'\n";

    #[test]
    fn a_file_stands_for_the_commands_of_the_readme() {
        let made = made(&format!("{CONV}allow-noisy = true\n[search]\nbudget = '0.5x'\nepochs = 20\n"));
        assert_eq!(
            made.unwrap(),
            [
                "profile --device pi --task cifar10-resnet20 --batch=1 --allow-noisy",
                "profile --which pairs --device pi --task cifar10-resnet20 --batch=1 --allow-noisy",
                "latency fit --model pairwise --task cifar10-resnet20 --batch=1",
                "space build --task cifar10-resnet20 --batch=1",
                "search htas --out runs/pi --device pi --task cifar10-resnet20 --batch=1 --data=cifar \
                 --budget=0.5x --epochs=20",
                "train runs/pi --data=cifar",
                "export runs/pi --output runs/pi/net.onnx --batch=1",
                "verify runs/pi --device pi --allow-noisy --data=cifar",
                "report runs/pi --output runs/pi/report.html --task cifar10-resnet20 --batch=1",
            ]
        );
    }

    #[test]
    fn the_papers_search_goes_by_the_papers_space() {
        let space = |more: &str| {
            made(&format!("{CONV}[search]\nbudget = '0.5x'\nmode = 'paper'\n{more}")).unwrap()[1].clone()
        };
        assert_eq!(space(""), "space build --task cifar10-resnet20 --batch=1 --mode paper");
        assert_eq!(
            space("[space]\nmode = 'project'"),
            "space build --task cifar10-resnet20 --batch=1 --mode=project"
        );
    }

    #[test]
    fn a_graph_task_is_profiled_and_searched_as_graphs_are() {
        let file = "device = 'pi'\ntask = 'planted-gnn'\nout = 'runs/g'\n[search]\nlimit = 'q25'\n";
        let measured = made(file).unwrap();
        assert_eq!(measured[0], "graph profile --device pi --task planted-gnn");
        assert_eq!(measured[2], "search hgnas --out runs/g --device pi --task planted-gnn --limit=q25");
        let grid = made(&format!("{file}space = 'graphnas'\n")).unwrap();
        assert!(grid[0].contains("--space=graphnas"), "{grid:?}");
        assert_eq!(grid.len(), 2, "search, verify: {grid:?}");
    }

    #[test]
    fn the_papers_graph_search_goes_by_the_papers_pairs() {
        let file = "device = 'pi'\ntask = 'planted-gnn'\nout = 'runs/g'\n";
        let paper = |more: &str| made(&format!("{file}[search]\npaper = true\n{more}")).unwrap();
        let both = paper("");
        assert_eq!(both[0], "graph profile --device pi --task planted-gnn --mode paper");
        assert_eq!(both[1], "graph space --task planted-gnn --mode paper");
        assert_eq!(both[2], "search hgnas --out runs/g --device pi --task planted-gnn --paper");
        let given = paper("[profile]\nmode = 'paper'\n[space]\nmode = 'project'\n");
        assert_eq!(given[0], "graph profile --device pi --task planted-gnn --mode=paper");
        assert_eq!(given[1], "graph space --task planted-gnn --mode=project");
    }

    #[test]
    fn what_makes_no_command_is_said_with_its_table() {
        for (more, said) in [
            ("[search]\nepoch = 3\nbudget = '0.5x'", "[search]: unexpected argument '--epoch'"),
            ("[search]\nepochs = 3", "--budget"),
            ("[search]\nbudget = '0.5x'\nstrategy = 'hgnas'", "[search]"),
            ("[search]\nbudget = '0.5x'\nmode = 'paper'\n[pairs]\npairs = 9", "[pairs]"),
            ("[search]\nbudget = '0.5x'\n[verify]\nsamples = {}", "samples is"),
            ("[search]\nbudget = '0.5x'\n[space]\ndevice = 'x'", "device stands at the top"),
            ("[serch]\nbudget = '0.5x'", "serch"),
        ] {
            let wrong = made(&format!("{CONV}{more}")).unwrap_err();
            assert!(wrong.contains(said), "{wrong}");
        }
        let wrong = made("device = 'd'\ntask = 'cora-gnn'\nout = 'o'\nbatch = 4").unwrap_err();
        assert!(wrong.contains("batch"), "{wrong}");
    }
}
