//! A board's file: how it is reached, how its agent is started, and what is expected of it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// `tests/hil/NAME.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Board {
    /// Its address, as `--device` takes it.
    pub(crate) device: String,
    /// A command that starts its agent, split at spaces; none where it waits already. Ended afterwards.
    pub(crate) start: Option<String>,
    /// Whether it is checked without being named.
    #[serde(default)]
    pub(crate) enabled: bool,
    /// What it must be and do.
    #[serde(default)]
    pub(crate) expect: Expect,
}

/// What is expected of a board.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expect {
    /// Its architecture; none: any.
    pub(crate) arch: Option<String>,
    /// How its runtime's name begins; none: any.
    pub(crate) runtime: Option<String>,
    /// Whether the profile's verdict must be that it is trustworthy.
    pub(crate) trustworthy: bool,
    /// Whether its answers are compared with this machine's.
    pub(crate) numbers: bool,
}

impl Default for Expect {
    fn default() -> Self {
        Self { arch: None, runtime: None, trustworthy: true, numbers: true }
    }
}

/// The boards of a folder by their files' names. One file is the task that they are profiled with.
pub(crate) fn read(folder: &Path) -> Result<BTreeMap<String, Board>> {
    let mut boards = BTreeMap::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("no folder {}", folder.display()))?;
    for path in entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_none_or(|extension| extension != "toml") || name == super::TASK {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let board = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        boards.insert(name, board);
    }
    Ok(boards)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The boards that come with the project; others are their owner's.
    const SHIPPED: [&str; 6] = ["gpu", "jetson", "local", "qemu-aarch64", "raspberry-pi", "serial"];

    /// Whoever runs the tests has none of the boards.
    #[test]
    fn the_files_can_be_read_and_no_board_is_checked_unasked() {
        let boards = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("hil")).unwrap();
        assert!(SHIPPED.iter().all(|name| boards.contains_key(*name)), "{boards:?}");
        for (name, board) in boards {
            assert!(!board.enabled || !SHIPPED.contains(&name.as_str()), "{name}");
            assert!(board.device.parse::<hanas::link::DeviceUrl>().is_ok(), "{name}: {}", board.device);
        }
    }

    #[test]
    fn a_misspelt_expectation_is_an_error() {
        let error = toml::from_str::<Board>("device = \"local:\"\n[expect]\ntrusty = true\n").unwrap_err();
        assert!(error.to_string().contains("trusty"), "{error}");
    }
}
