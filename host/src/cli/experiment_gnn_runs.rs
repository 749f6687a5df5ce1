//! What lies in the folders of an experiment over graph nets: searches that are done, and why others found
//! nothing. Nothing of another search, device or space passes for the experiment's own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Usage;
use super::experiment_gnn_plans::{Line, Plan};
use super::hgnas_prepare::is_of;
use crate::search::hgnas::record::{GnnNetRecord, GnnRunRecord, GnnVerifyRecord};
use crate::search::hgnas::space::{GnnSpace, Sizes};
use crate::search::run::{RunDir, SCHEMA_VERSION, load, save};

/// How far a search is.
pub(super) enum State {
    /// Searched, trained and verified.
    Done,
    /// Searched, and there was no net.
    None(FoundNone),
    /// Not begun, or not ended.
    Open,
}

impl State {
    /// Of a plan's search.
    pub(super) fn of(plan: &Plan) -> Self {
        if Done::open(&plan.folder).is_some() {
            return Self::Done;
        }
        FoundNone::open(plan).map_or(Self::Open, Self::None)
    }

    /// Whether it is to be searched.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }
}

/// The records of a search that is done.
pub(super) struct Done {
    /// What came out.
    pub(super) net: GnnNetRecord,
    verify: GnnVerifyRecord,
}

impl Done {
    /// Of the search in a folder.
    pub(super) fn open(folder: &Path) -> Option<Self> {
        let dir = RunDir::open(folder).ok()?;
        Some(Self { net: GnnNetRecord::load(&dir).ok()?, verify: GnnVerifyRecord::load(&dir).ok()? })
    }

    /// What the device says of the net; none where another was asked last.
    pub(super) fn verify(&self, device: &str) -> Option<&GnnVerifyRecord> {
        Some(&self.verify).filter(|verify| verify.device == device)
    }
}

/// Whether a run's net was measured in turns with these runs'.
pub(super) fn is_in_turns<'a>(
    verify: &GnnVerifyRecord,
    own: &Path,
    mut others: impl Iterator<Item = &'a Path>,
) -> bool {
    others.all(|other| other == own || verify.in_turns.iter().any(|with| with == other))
}

/// Why a search found no net: `none.json` in its folder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FoundNone {
    /// See [`SCHEMA_VERSION`].
    schema_version: u32,
    /// The device, as the user named it.
    device: String,
    /// The search's options, but for those in [`PLACES`].
    search: Vec<String>,
    /// What it ended with.
    pub(super) why: String,
}

/// Options that say where a search's files are, and whom it takes turns with; the device is told apart.
const PLACES: [&str; 6] = ["--data=", "--device=", "--latencies=", "--out=", "--scores=", "--turns="];

impl FoundNone {
    /// Keeps why a plan's search found nothing, and says so.
    pub(super) fn keep(plan: &Plan, device: &str, why: String) -> anyhow::Result<()> {
        let (schema_version, device, search) = (SCHEMA_VERSION, device.to_owned(), options(plan));
        let none = Self { schema_version, device, search, why };
        save(&file(plan), &none)?;
        eprintln!("{} seed {}: {}", plan.arm, plan.seed, none.told(plan));
        Ok(())
    }

    /// Of a plan's search; a search with other options is another one.
    fn open(plan: &Plan) -> Option<Self> {
        load::<Self>(&file(plan)).ok().filter(|none| none.search == options(plan))
    }

    /// Says so, and what to do.
    pub(super) fn told(&self, plan: &Plan) -> String {
        format!("{}; delete {} to try again", self.why, file(plan).display())
    }
}

fn file(plan: &Plan) -> PathBuf {
    plan.folder.join("none.json")
}

/// The options that make a plan's search what it is.
fn options(plan: &Plan) -> Vec<String> {
    let is_place = |word: &str| PLACES.iter().any(|&place| word.starts_with(place));
    plan.words.iter().filter(|word| !is_place(word)).cloned().collect()
}

/// Refuses what was searched in a plan's folder by other settings or on another device.
pub(super) fn check(plan: &Plan, line: &Line) -> anyhow::Result<()> {
    let searched = match State::of(plan) {
        State::Done => is_of(&line.args, &RunDir::open(&plan.folder)?)?.device,
        State::None(none) => none.device,
        State::Open => return Ok(()),
    };
    if searched == line.args.device.device {
        return Ok(());
    }
    let folder = plan.folder.display();
    Err(Usage(format!("{folder} was searched with --device {searched}; give it so or give another --out"))
        .into())
}

/// Refuses searches in measured spaces that are not one: such a space was built anew between them. A search that
/// found nothing has no part in this.
pub(super) fn one_space(plans: &[Plan]) -> anyhow::Result<()> {
    let mut found = plans.iter().filter_map(|plan| Some((plan, measured_space(plan)?)));
    let Some((first, space)) = found.next() else { return Ok(()) };
    let Some((other, _)) = found.find(|(_, of)| *of != space) else { return Ok(()) };
    let (first, other) = (first.folder.display(), other.folder.display());
    Err(Usage(format!("{first} and {other} were searched in different spaces; give another --out")).into())
}

/// Refuses to begin a search in a measured space beside searches in another: it was built anew since.
pub(super) fn still_the_space(plans: &[Plan], space: &GnnSpace) -> anyhow::Result<()> {
    let another = |plan: &&Plan| measured_space(plan).is_some_and(|of| of != *space);
    let Some(plan) = plans.iter().find(another) else { return Ok(()) };
    let folder = plan.folder.display();
    Err(Usage(format!("{folder} was searched in another space than the last one built; give another --out"))
        .into())
}

/// The space of a search that is done or begun, where it was measured.
fn measured_space(plan: &Plan) -> Option<GnnSpace> {
    if matches!(State::of(plan), State::None(_)) {
        return None;
    }
    let space = GnnRunRecord::load(&RunDir::open(&plan.folder).ok()?).ok()?.space;
    matches!(space.sizes, Sizes::Pairs { .. }).then_some(space)
}

#[cfg(test)]
mod tests {
    use hanas_models::gnn::GnnNet;
    use serde_json::json;

    use super::super::exit_code;
    use super::super::experiment_gnn_plans::line;
    use super::*;

    fn plan(out: &Path, arm: &str) -> Plan {
        let folder = out.join(arm);
        let place = format!("--out={}", folder.display());
        let words = ["hgnas", "--task=planted-gnn", "--device=board", &place, "--reward=accuracy"];
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Plan { arm: arm.to_owned(), control: "graphnas".to_owned(), seed: 1, folder, words }
    }

    /// A search in a plan's folder, on a device and over pairs of heads and dim.
    fn begin(plan: &Plan, device: &str, pairs: &[(u32, u32)]) {
        let args = line(plan).unwrap().args;
        let run = json!({
            "schema_version": SCHEMA_VERSION, "method": "hgnas", "task": "planted-gnn", "device": device,
            "space": GnnSpace::hgnas(64, 4, pairs.to_vec(), true).unwrap(), "strategy": "rl",
            "settings": {
                "samples": args.samples(), "seed": 1,
                "reward": { "objective": { "kind": "accuracy" }, "limit_ns": null },
            },
            "child": serde_json::to_string(&args.child()).unwrap(), "finals": args.finals().unwrap(),
        });
        std::fs::create_dir_all(&plan.folder).unwrap();
        save(&plan.folder.join("run.json"), &run).unwrap();
    }

    /// What came out of it, and what a device says of that.
    fn end(plan: &Plan, device: &str, in_turns: &[&Plan]) {
        let net = json!({
            "schema_version": SCHEMA_VERSION, "net": GnnNet::reference(64, 4, 2, 8), "summary": "",
            "predicted_ns": 1e6, "measured_ns": 1e6, "limit_ns": null, "validation": null, "test": null,
            "runs": 1, "trained": 1, "predictor": null, "finalists": [],
        });
        save(&plan.folder.join("net.json"), &net).unwrap();
        let in_turns: Vec<&PathBuf> = in_turns.iter().map(|plan| &plan.folder).collect();
        let verify = json!({
            "schema_version": SCHEMA_VERSION, "device": device, "measured_ns": 2e6, "error_ns": 1e4,
            "in_turns": in_turns, "limit_ns": null, "within_limit": null, "trained_accuracy": 0.5,
            "device_accuracy": null, "doubts": [],
        });
        save(&plan.folder.join("verify.json"), &verify).unwrap();
    }

    #[test]
    fn what_another_device_said_leaves_a_search_done_and_does_not_count() {
        let out = tempfile::tempdir().unwrap();
        let (first, second) = (plan(out.path(), "space"), plan(out.path(), "both"));
        begin(&first, "board", &[(2, 8)]);
        assert!(State::of(&first).is_open());
        end(&first, "elsewhere", &[&first, &second]);
        let done = Done::open(&first.folder).unwrap();
        assert!(matches!(State::of(&first), State::Done) && done.verify("board").is_none());
        let verify = done.verify("elsewhere").unwrap();
        assert_eq!(verify.at_pace_ns(), 2e6);
        let folders = [first.folder.as_path(), second.folder.as_path()];
        assert!(is_in_turns(verify, &first.folder, folders.into_iter()));
        let third = out.path().join("third");
        assert!(!is_in_turns(verify, &first.folder, [third.as_path()].into_iter()));
    }

    #[test]
    fn a_search_of_another_device_or_with_other_settings_is_refused() {
        let out = tempfile::tempdir().unwrap();
        let searched = |device: &str| {
            let plan = plan(out.path(), device);
            begin(&plan, device, &[(2, 8)]);
            end(&plan, device, &[]);
            check(&plan, &line(&plan).unwrap())
        };
        searched("board").unwrap();
        let refused = searched("elsewhere").unwrap_err();
        assert_eq!(exit_code(&refused), 2);
        assert!(
            refused.to_string().contains("was searched with --device elsewhere; give it so"),
            "{refused}"
        );
        let mut other = plan(out.path(), "board");
        other.words.push("--samples=7".to_owned());
        let refused = check(&other, &line(&other).unwrap()).unwrap_err();
        assert!(refused.to_string().contains("holds another run"), "{refused}");
    }

    #[test]
    fn a_search_that_found_nothing_is_passed_over_until_its_record_is_deleted() {
        let out = tempfile::tempdir().unwrap();
        let mut plan = plan(out.path(), "both");
        std::fs::create_dir(&plan.folder).unwrap();
        FoundNone::keep(&plan, "board", "no net; raise --limit".to_owned()).unwrap();
        let State::None(none) = State::of(&plan) else { panic!("it is kept") };
        assert_eq!(none.why, "no net; raise --limit");
        let delete = format!("; delete {} to try again", plan.folder.join("none.json").display());
        assert!(none.told(&plan).ends_with(&delete));
        check(&plan, &line(&plan).unwrap()).unwrap();
        // Side by side with others it is the same search, with more trials another.
        plan.words.push("--turns=turns".to_owned());
        assert!(!State::of(&plan).is_open());
        plan.words.push("--samples=7".to_owned());
        assert!(State::of(&plan).is_open());
        plan.words.truncate(5);
        FoundNone::keep(&plan, "elsewhere", "no net".to_owned()).unwrap();
        assert_eq!(exit_code(&check(&plan, &line(&plan).unwrap()).unwrap_err()), 2);
        std::fs::remove_file(plan.folder.join("none.json")).unwrap();
        assert!(State::of(&plan).is_open());
    }

    #[test]
    fn a_space_that_was_built_anew_in_between_is_refused() {
        let out = tempfile::tempdir().unwrap();
        let plans = ["space", "both", "random-space"].map(|arm| plan(out.path(), arm));
        begin(&plans[0], "board", &[(2, 8), (4, 8)]);
        begin(&plans[1], "board", &[(2, 8), (4, 8)]);
        one_space(&plans).unwrap();
        let space = |pairs: &[(u32, u32)]| GnnSpace::hgnas(64, 4, pairs.to_vec(), true).unwrap();
        still_the_space(&plans, &space(&[(2, 8), (4, 8)])).unwrap();
        let refused = still_the_space(&plans, &space(&[(2, 8), (4, 16)])).unwrap_err();
        assert!(refused.to_string().contains("in another space than the last one built"), "{refused}");
        begin(&plans[2], "board", &[(2, 8), (4, 16)]);
        let refused = one_space(&plans).unwrap_err();
        assert_eq!(exit_code(&refused), 2);
        assert!(refused.to_string().ends_with("were searched in different spaces; give another --out"));
        FoundNone::keep(&plans[2], "board", "no net".to_owned()).unwrap();
        one_space(&plans).unwrap();
    }
}
