//! What an experiment was begun with: `experiment.json` in its folder. Steps whose product is there are not run
//! again, so that another call must not have other settings.

use std::collections::{BTreeMap, BTreeSet};
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

/// Refuses an option without a value, or with one twice: a seed that counts twice narrows the intervals.
pub(super) fn distinct<T: Ord>(option: &str, values: &[T]) -> anyhow::Result<()> {
    let different: BTreeSet<&T> = values.iter().collect();
    if values.is_empty() || different.len() < values.len() {
        return Err(Usage(format!("{option}: name at least one, and each once")).into());
    }
    Ok(())
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
        let begun_with = match begun.options.get(name) {
            None => format!("without --{name}"),
            Some(value) if value.is_empty() => format!("with --{name}"),
            Some(value) => format!("with --{name} {value}"),
        };
        let out = out.display();
        Err(Usage(format!("{out} was begun {begun_with}; give it so or give another --out")).into())
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
        let said = format!("{} was begun with --epochs 12; give it so or give another --out", out.display());
        assert_eq!(refused.to_string(), said);
        let more =
            Settings::new([("batch", "4".to_owned()), ("epochs", "12".to_owned()), ("more", String::new())]);
        assert!(more.check(out).unwrap_err().to_string().contains("begun without --more;"));
    }
}
