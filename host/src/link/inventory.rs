//! The inventory: names for addresses, in one TOML file.
//!
//! ```toml
//! [devices]
//! pi = "exec:ssh pi ./hanas-agent serve --stdio"
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DeviceUrl, LinkError};

/// Devices by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// Address of every named device.
    #[serde(default)]
    pub devices: BTreeMap<String, String>,
}

/// Where the inventory lies: `$HANAS_DEVICES`, else `devices.toml` in this folder if there, else in the
/// user's configuration folder.
#[must_use]
pub fn default_path() -> PathBuf {
    if let Some(path) = std::env::var_os("HANAS_DEVICES") {
        return path.into();
    }
    let here = PathBuf::from("devices.toml");
    if here.exists() {
        return here;
    }
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    config.map_or(here, |config| config.join("hanas/devices.toml"))
}

impl Inventory {
    /// Reads the file; a missing one is empty.
    ///
    /// # Errors
    /// [`LinkError::Inventory`] where it cannot be read or is not what it should be.
    pub fn read(path: &Path) -> Result<Self, LinkError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(trouble(path, &error)),
        };
        toml::from_str(&text).map_err(|error| trouble(path, &error.message()))
    }

    /// Writes the file whole or not at all.
    ///
    /// # Errors
    /// [`LinkError::Inventory`] where the folder or file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LinkError> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let text = toml::to_string(self).map_err(|error| trouble(path, &error))?;
        fs::create_dir_all(folder).map_err(|error| trouble(folder, &error))?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| trouble(folder, &error))?;
        file.write_all(text.as_bytes()).map_err(|error| trouble(path, &error))?;
        file.persist(path).map_err(|error| trouble(path, &error))?;
        Ok(())
    }

    /// The address behind a name, or the text itself read as an address.
    ///
    /// # Errors
    /// [`LinkError::Address`] where it is neither.
    pub fn resolve(&self, name_or_url: &str) -> Result<DeviceUrl, LinkError> {
        self.devices.get(name_or_url).map_or(name_or_url, String::as_str).parse()
    }
}

fn trouble(path: &Path, reason: &dyn std::fmt::Display) -> LinkError {
    LinkError::Inventory { path: path.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_resolve_to_addresses_and_addresses_to_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/devices.toml");
        let mut inventory = Inventory::read(&path).unwrap();
        inventory.devices.insert("pi".to_owned(), "tcp://pi.local:7700".to_owned());
        inventory.write(&path).unwrap();
        let inventory = Inventory::read(&path).unwrap();
        assert_eq!(inventory.resolve("pi").unwrap().to_string(), "tcp://pi.local:7700");
        assert_eq!(inventory.resolve("local:").unwrap(), DeviceUrl::Local(Vec::new()));
        assert!(inventory.resolve("jetson").is_err());
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devices.toml");
        fs::write(&path, "[device]\npi = 'tcp://pi'\n").unwrap();
        let error = Inventory::read(&path).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{error}");
    }
}
