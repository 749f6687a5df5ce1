//! What an experiment was begun with: `experiment.json` in its folder. Steps whose product is there are not run
//! again, so that another call must not have other settings.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Usage;
use crate::search::run::{SCHEMA_VERSION, load, save};

/// The file's name.
const FILE: &str = "experiment.json";

/// Options that change results, as words, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// See [`SCHEMA_VERSION`].
    schema_version: u32,
    /// Values by option.
    options: BTreeMap<String, String>,
}

impl Settings {
    /// These options.
    pub(super) fn new<const N: usize>(options: [(&str, String); N]) -> Self {
        let options = options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { schema_version: SCHEMA_VERSION, options }
    }

    /// Refuses a folder that was begun with others.
    pub(super) fn check(&self, out: &Path) -> anyhow::Result<()> {
        let file = out.join(FILE);
        if !file.exists() {
            return Ok(());
        }
        let begun: Self = load(&file)?;
        let differs = |name: &&String| begun.options.get(*name) != self.options.get(*name);
        let Some(name) = begun.options.keys().chain(self.options.keys()).find(differs) else {
            return Ok(());
        };
        let was = begun.options.get(name).map_or("none", String::as_str);
        let out = out.display();
        Err(Usage(format!("{out} was begun with --{name} {was}; give that or another --out")).into())
    }

    /// Keeps them in a folder that was not begun yet.
    pub(super) fn keep(&self, out: &Path) -> anyhow::Result<()> {
        let file = out.join(FILE);
        if file.exists() { Ok(()) } else { Ok(save(&file, self)?) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_takes_the_settings_that_it_was_begun_with() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let settings =
            |epochs: &str| Settings::new([("batch", "4".to_owned()), ("epochs", epochs.to_owned())]);
        settings("12").check(out).unwrap();
        settings("12").keep(out).unwrap();
        settings("12").check(out).unwrap();
        let refused = settings("1").check(out).unwrap_err();
        assert!(refused.is::<Usage>());
        let said = format!("{} was begun with --epochs 12; give that or another --out", out.display());
        assert_eq!(refused.to_string(), said);
        let more =
            Settings::new([("batch", "4".to_owned()), ("epochs", "12".to_owned()), ("more", String::new())]);
        assert!(more.check(out).unwrap_err().to_string().contains("--more none"));
    }
}
