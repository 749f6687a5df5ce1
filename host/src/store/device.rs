//! Who was measured.

use rusqlite::{OptionalExtension, Row, named_params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, int, unix_ms};
pub use crate::link::Facts as Device;

/// A row of `devices`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub i64);

/// `d` is of the setting of `k`: what decides timings is equal. The agent's version, the kernel and
/// the memory may differ.
pub(super) const SAME_SETTING: &str = "d.name = k.name AND d.cpu = k.cpu AND d.arch = k.arch \
    AND d.runtime = k.runtime AND d.threads = k.threads AND d.pinned_mask = k.pinned_mask \
    AND d.governor = k.governor";

/// As [`SAME_SETTING`] says.
#[must_use]
pub fn same_setting(one: &Device, other: &Device) -> bool {
    let what = |of: &Device| {
        let Device { name, cpu, arch, runtime, threads, pinned, governor, .. } = of.clone();
        (name, cpu, arch, runtime, threads, pinned, governor)
    };
    what(one) == what(other)
}

const COLUMNS: &str = "id, name, agent, runtime, threads, cpu, arch, os, cores, pinned_mask, memory_bytes, \
    governor, clock_resolution_ns";

impl Store {
    /// The row of a device; it is added where these very facts are not there yet.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be written.
    pub fn device_id(&mut self, device: &Device) -> Result<DeviceId, StoreError> {
        let known = self.devices()?.into_iter().find(|(_, known)| known == device);
        if let Some((id, _)) = known {
            return Ok(id);
        }
        self.write(|tx| {
            tx.execute(
                "INSERT INTO devices VALUES (NULL, :name, :agent, :runtime, :threads, :cpu, :arch, :os, \
                 :cores, :pinned, :memory, :governor, :clock, :now)",
                named_params! {
                    ":name": device.name, ":agent": device.agent, ":runtime": device.runtime,
                    ":threads": device.threads, ":cpu": device.cpu, ":arch": device.arch,
                    ":os": device.os, ":cores": device.cores, ":pinned": format!("{:x}", device.pinned),
                    ":memory": int(device.memory_bytes), ":governor": device.governor,
                    ":clock": device.clock_resolution_ns, ":now": unix_ms(),
                },
            )?;
            Ok(DeviceId(tx.last_insert_rowid()))
        })
    }

    /// All devices, in the order first seen.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read.
    pub fn devices(&self) -> Result<Vec<(DeviceId, Device)>, StoreError> {
        let read = || -> rusqlite::Result<Vec<_>> {
            let mut rows = self.connection.prepare(&format!("SELECT {COLUMNS} FROM devices ORDER BY id"))?;
            rows.query_map([], device)?.collect()
        };
        read().map_err(|error| self.fail(error))
    }

    /// One device.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read.
    pub fn device(&self, id: DeviceId) -> Result<Option<Device>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM devices WHERE id = ?1");
        let row = self.connection.query_row(&sql, [id.0], device).optional();
        Ok(row.map_err(|error| self.fail(error))?.map(|(_, device)| device))
    }
}

fn device(row: &Row<'_>) -> rusqlite::Result<(DeviceId, Device)> {
    let mask: String = row.get("pinned_mask")?;
    let device = Device {
        name: row.get("name")?,
        agent: row.get("agent")?,
        runtime: row.get("runtime")?,
        threads: row.get("threads")?,
        cpu: row.get("cpu")?,
        arch: row.get("arch")?,
        os: row.get("os")?,
        cores: row.get("cores")?,
        pinned: u64::from_str_radix(&mask, 16).unwrap_or(0),
        memory_bytes: row.get::<_, i64>("memory_bytes")?.unsigned_abs(),
        governor: row.get("governor")?,
        clock_resolution_ns: row.get("clock_resolution_ns")?,
    };
    Ok((DeviceId(row.get("id")?), device))
}
