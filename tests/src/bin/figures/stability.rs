//! Does a second profile choose the same widths, and what does racing save?

use std::ops::ControlFlow;
use std::process::{Child, Command};

use anyhow::{Context, Result};
use hanas::profile::candidates::space_layers;
use hanas::space::SpaceError;
use hanas::space::htas::{HardwareSpace, Settings};
use hanas::space::racing::{Racing, Source, race};
use hanas::space::reruns::compare;
use hanas::space::rules::Rules;
use hanas::store::{ModelSamples, ModelSpec, Store, Visit};
use hanas_models::layer::Layer;
use hanas_models::resnet::Family;
use hanas_tests::program;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::{Figure, agent};

const TASK: &str = "cifar10-resnet20";
/// Images a run: the paper's on a processor.
const BATCH: &str = "4";

/// Processes that keep processors busy until they are dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn start(count: usize) -> Result<Self> {
        let spin = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
        Ok(Self((0..count).map(|_| spin()).collect::<std::io::Result<_>>()?))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Five profiles of the 224 widths, each with its race, compared pair by pair: quiet, then with two busy
/// processes beside them.
pub(crate) fn reruns() -> Result<Vec<Figure>> {
    let quiet = five_runs()?;
    let busy = {
        let _busy = Busy::start(2)?;
        five_runs()?
    };
    let number = |report: &Value, key: &str| report[key].as_f64().with_context(|| format!("no {key}"));
    let how = |what: &str| format!("`hanas space stability --reruns 5`, batch {BATCH}: {what}");
    let least = "choices that are the same or were reported as ties, of the pair of runs that agrees least";
    Ok(vec![
        Figure {
            key: "choices_agree_of_24_quiet_5_reruns_min",
            value: number(&quiet, "same_or_told_min")?,
            goal: ">= 24",
            how: how(least),
        },
        Figure {
            key: "choices_identical_of_24_quiet_5_reruns_min",
            value: number(&quiet, "same_min")?,
            goal: "",
            how: how("choices that are the same, of the pair of runs that agrees least"),
        },
        Figure {
            key: "choices_agree_of_24_busy_5_reruns_min",
            value: number(&busy, "same_or_told_min")?,
            goal: ">= 22",
            how: how(&format!("{least}, two busy processes beside it")),
        },
        Figure {
            key: "choices_identical_of_24_busy_5_reruns_min",
            value: number(&busy, "same_min")?,
            goal: "",
            how: how(
                "choices that are the same, of the pair that agrees least, two busy processes beside it",
            ),
        },
        Figure {
            key: "choices_changed_silently",
            value: number(&quiet, "silent")? + number(&busy, "silent")?,
            goal: "<= 0",
            how: how(
                "changes, over all pairs of runs of both, that the earlier run had not reported as a tie",
            ),
        },
        Figure {
            key: "choices_tied_share_quiet",
            value: number(&quiet, "tied_share")?,
            goal: "",
            how: how(
                "share of the other widths of a group that are reported as ties, mean over choices and runs, quiet",
            ),
        },
        Figure {
            key: "choices_tied_share_busy",
            value: number(&busy, "tied_share")?,
            goal: "",
            how: how("the same, two busy processes beside it"),
        },
        Figure {
            key: "rerun_spearman_224_min",
            value: number(&quiet, "spearman_min")?,
            goal: ">= .98",
            how: how("rank correlation of the 224 latencies, of the pair of runs that agrees least, quiet"),
        },
    ])
}

fn five_runs() -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let agent = agent(&[]);
    let output = Command::new(program("hanas"))
        .current_dir(folder.path())
        .args(["--quiet", "--format", "json", "space", "stability", "--reruns", "5", "--allow-noisy"])
        .args(["--task", TASK, "--batch", BATCH, "--device", agent.url()])
        .output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Rounds over all layers that were recorded, drawn from with replacement: a device that can be asked again and
/// again under the same noise. Whole rounds, so that what disturbed a layer disturbed those beside it too.
struct Recorded<'a> {
    record: &'a [ModelSamples],
    taken: Vec<ModelSamples>,
    rounds: u64,
    rng: ChaCha8Rng,
}

impl<'a> Recorded<'a> {
    fn new(record: &'a [ModelSamples], samples: u32, seed: u64) -> Self {
        let empty = |model: &ModelSamples| ModelSamples { visits: Vec::new(), ..model.clone() };
        let taken = record.iter().map(empty).collect();
        let mut device = Self { record, taken, rounds: 0, rng: ChaCha8Rng::seed_from_u64(seed) };
        device.take(|_| true, samples);
        device
    }

    fn take(&mut self, wanted: impl Fn(&ModelSpec) -> bool, samples: u32) {
        let recorded = self.record.iter().map(|of| of.visits.len()).min().unwrap_or(0);
        let runs = self.record.iter().flat_map(|of| &of.visits).map(|visit| visit.samples.len()).max();
        if recorded == 0 {
            return;
        }
        for _ in 0..(samples as usize).div_ceil(runs.unwrap_or(1).max(1)) {
            let round = self.rng.random_range(0..recorded);
            self.rounds += 1;
            for (of, taken) in self.record.iter().zip(&mut self.taken).filter(|(of, _)| wanted(&of.spec)) {
                let visit = of.visits[round].clone();
                let order = (self.rounds << 32) + visit.order;
                taken.visits.push(Visit { round: self.rounds as u32, order, ..visit });
            }
        }
    }
}

impl Source for Recorded<'_> {
    type Error = SpaceError;

    fn samples(&self) -> Result<Vec<ModelSamples>, SpaceError> {
        Ok(self.taken.clone())
    }

    fn more(&mut self, layers: &[Layer], samples: u32) -> Result<ControlFlow<()>, SpaceError> {
        self.take(|spec| matches!(spec, ModelSpec::Layer { layer } if layers.contains(layer)), samples);
        Ok(ControlFlow::Continue(()))
    }
}

/// Timed runs of every layer in the record.
const RECORDED: u32 = 480;
/// Profiles simulated for each plan.
const REPLICATES: u64 = 40;
/// Timed runs of every layer before the race: the three visits that can confirm a layer.
const BASE: u32 = 12;
/// Plans that racing is compared with.
const FIXED: [u32; 15] = [12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 192, 320];

/// Samples of base and race together over samples of the smallest fixed plan whose reruns agree as well.
pub(crate) fn racing() -> Result<Vec<Figure>> {
    let family = Family::cifar_resnet(20, 10)?;
    let record = record()?;
    let settings = Settings::new(Rules::project(), 1, 1);
    let layers = space_layers(&family, 2).concat().len() as f64;
    let (mut spaces, mut raced) = (Vec::new(), 0);
    for seed in 0..REPLICATES {
        let mut device = Recorded::new(&record, BASE, seed);
        let racing = Racing { budget: u64::from(BASE) * layers as u64 * 4, ..Racing::default() };
        let (space, outcome) = race(&family, settings, &racing, &mut device)?;
        spaces.push(space);
        raced += outcome.samples;
    }
    let spent = f64::from(BASE) + raced as f64 / (REPLICATES as f64 * layers);
    let agreed = compare(&spaces).same_mean;
    let mut best = (0, 0.0);
    for samples in FIXED {
        let build =
            |seed| HardwareSpace::build(&family, &Recorded::new(&record, samples, seed).taken, settings);
        let spaces: Result<Vec<HardwareSpace>, SpaceError> = (100..100 + REPLICATES).map(build).collect();
        best = (samples, compare(&spaces?).same_mean);
        eprintln!("fixed {samples}: {:.2} of 24 agree; racing {spent:.0}: {agreed:.2}", best.1);
        if best.1 >= agreed {
            break;
        }
    }
    let reached = if best.1 >= agreed { "as well as" } else { "not yet as well as" };
    let how = format!(
        "a record of {RECORDED} runs of each of 224 layers at batch 1, replayed: racing from {BASE} runs takes {spent:.0} runs a \
         layer and {agreed:.2} of 24 choices agree between reruns; {} fixed runs agree {reached} that ({:.2}); {REPLICATES} \
         reruns each",
        best.0, best.1
    );
    Ok(vec![Figure { key: "racing_samples_vs_fixed", value: spent / f64::from(best.0), goal: "<= .5", how }])
}

fn record() -> Result<Vec<ModelSamples>> {
    let folder = tempfile::tempdir()?;
    let agent = agent(&[]);
    let samples = RECORDED.to_string();
    let output = Command::new(program("hanas"))
        .current_dir(folder.path())
        .args(["--quiet", "profile", "--which", "space", "--race", "0", "--allow-noisy", "--batch", "1"])
        .args(["--samples", &samples, "--task", TASK, "--device", agent.url()])
        .output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let store = Store::open_existing(&folder.path().join("hanas.sqlite"))?;
    let session = store.sessions()?.first().context("no session")?.id;
    let mut record = store.session_samples(session)?;
    record.retain(|model| matches!(model.spec, ModelSpec::Layer { .. }));
    Ok(record)
}
