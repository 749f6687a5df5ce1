//! A user's own family and data, described in a TOML file (see `docs/src/own-nets.md`).

use std::fs;
use std::path::{Path, PathBuf};

use hanas_models::resnet::{Family, Stage};
use hanas_models::spec::FeatureMap;
use serde::{Deserialize, Serialize};

use super::{DataSet, Task, TaskError};

/// A user's own images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnData {
    /// How they are stored.
    pub kind: DataKind,
    /// Their folder, absolute.
    pub path: PathBuf,
}

/// How a user's own images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// PNG or JPEG files, `train/CLASS/...` and `test/CLASS/...`.
    Folder,
    /// `train.bin` and `test.bin`: records of a label byte and the pixels, channel by channel.
    CifarBinary,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    net: NetTable,
    data: DataTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetTable {
    size: u32,
    channels: u32,
    classes: u32,
    stem: u32,
    stages: Vec<StageTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StageTable {
    width: u32,
    blocks: u32,
    stride: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataTable {
    kind: DataKind,
    path: PathBuf,
}

impl Task {
    /// The task that a TOML file describes. The data's path is relative to the file.
    ///
    /// # Errors
    /// [`TaskError`] where the file cannot be read, has a key that means nothing, or describes no net.
    pub fn read(path: &Path) -> Result<Self, TaskError> {
        let read = |source| TaskError::Read { path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(read)?;
        let File { name, net, data } = toml::from_str(&text).map_err(|error| TaskError::Parse {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count()),
            what: error.message().lines().collect::<Vec<_>>().join("; "),
        })?;
        let wrong = |what: String| TaskError::Wrong { path: path.to_owned(), what };
        check_name(&name).map_err(wrong)?;
        let family = net.family(&name).map_err(wrong)?;
        let folder = std::path::absolute(path).map_err(read)?;
        let path = folder.parent().unwrap_or(Path::new("/")).join(data.path);
        Ok(Self { name, family, data: DataSet::Own(OwnData { kind: data.kind, path }) })
    }
}

/// Names become parts of file names and keys of the store.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(format!("name '{name}' must be 1 to 64 of a-z, 0-9, - and _"));
    }
    if name.parse::<Task>().is_ok() {
        return Err(format!("'{name}' is a task that hanas brings with it; take another name"));
    }
    Ok(())
}

impl NetTable {
    fn family(self, name: &str) -> Result<Family, String> {
        let Self { size, channels, classes, stem, stages } = self;
        let within = |what: &str, value: u32, least: u32, most: u32| {
            let fits = (least..=most).contains(&value);
            if fits { Ok(()) } else { Err(format!("{what} = {value} must be {least} to {most}")) }
        };
        within("net.size", size, 4, 512)?;
        if channels != 1 && channels != 3 {
            return Err(format!("net.channels = {channels} must be 1 (grey) or 3 (colour)"));
        }
        within("net.classes", classes, 2, 256)?;
        // Eight groups of widths up to twice the base need a base of four.
        within("net.stem", stem, 4, 1024)?;
        within("the number of net.stages", stages.len() as u32, 1, 8)?;
        let mut side = size;
        for (number, stage) in stages.iter().enumerate() {
            let key = |of: &str| format!("{of} of stage {}", number + 1);
            within(&key("width"), stage.width, 4, 1024)?;
            within(&key("blocks"), stage.blocks, 1, 64)?;
            within(&key("stride"), stage.stride, 1, 2)?;
            if side % stage.stride != 0 {
                let at = number + 1;
                return Err(format!(
                    "stage {at} halves a map of {side}x{side}; take a net.size that is divisible"
                ));
            }
            side /= stage.stride;
        }
        let stage = |StageTable { width, blocks, stride }| Stage { width, blocks, stride };
        Ok(Family {
            name: name.to_owned(),
            input: FeatureMap::square(channels, size),
            stem,
            stages: stages.into_iter().map(stage).collect(),
            classes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "gestures"

[net]
size = 48
channels = 1
classes = 5
stem = 8
stages = [
    { width = 8, blocks = 2, stride = 1 },
    { width = 16, blocks = 1, stride = 2 },
]

[data]
kind = "folder"
path = "pictures"
"#;

    fn read(text: &str) -> Result<Task, TaskError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("task.toml");
        fs::write(&path, text).unwrap();
        let task = path.to_str().unwrap().parse();
        if let Ok(Task { data: DataSet::Own(own), .. }) = &task {
            assert_eq!(own.path, folder.path().join("pictures"));
        }
        task
    }

    #[test]
    fn a_file_is_a_task() {
        let task = read(GOOD).unwrap();
        assert_eq!((task.name.as_str(), task.family.stages.len()), ("gestures", 2));
        assert_eq!(task.family.base().summary(), "8 | 8-8 8-8 | 16-16");
        assert_eq!(task.family.base().net().unwrap().input, FeatureMap::square(1, 48));
        let again: Task = serde_json::from_str(&serde_json::to_string(&task).unwrap()).unwrap();
        assert_eq!(again, task);
    }

    #[test]
    fn what_is_wrong_is_named_in_one_line() {
        for (from, to, hint) in [
            ("stem = 8", "stem = 8\nsteps = 3", "line 9: unknown field `steps`"),
            ("classes = 5\n", "", "missing field `classes`"),
            ("stride = 2", "stride = 3", "stride of stage 2 = 3 must be 1 to 2"),
            ("size = 48", "size = 47", "halves a map of 47x47"),
            ("channels = 1", "channels = 2", "1 (grey) or 3"),
            ("\"gestures\"", "\"cifar10-resnet20\"", "take another name"),
            ("\"gestures\"", "\"a/b\"", "must be 1 to 64 of"),
            ("\"folder\"", "\"zip\"", "line 15: unknown variant `zip`"),
            ("[net]", "[net", "line 4"),
        ] {
            let error = read(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(hint) && error.contains("task.toml"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error = "nowhere.toml".parse::<Task>().unwrap_err().to_string();
        assert!(error.contains("cannot read nowhere.toml"), "{error}");
    }
}
