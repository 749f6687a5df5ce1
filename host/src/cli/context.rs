//! What commands share: the store, the device, the task, as the user named them.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::output::Format;
use crate::link::inventory::{self, Inventory};
use crate::link::session::Timeouts;
use crate::link::{DeviceUrl, Session};
use crate::store::{DeviceId, SampleQuery, Store};
use crate::task::{AnyTask, Task, is_graph_task};

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// The profile store, one SQLite file
    #[arg(long, global = true, env = "HANAS_STORE", default_value = "hanas.sqlite", value_name = "FILE")]
    pub(super) store: PathBuf,
    /// The device inventory [default: ./devices.toml, else in the user's configuration folder]
    #[arg(long, global = true, env = "HANAS_DEVICES", value_name = "FILE")]
    pub(super) devices: Option<PathBuf>,
    /// How stdout is written
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(super) format: Format,
    /// No progress bars
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
}

/// Seconds to wait while another session holds the device, where no option says so.
pub(super) const QUEUE_TIMEOUT: u64 = 600;

/// Which device.
#[derive(Debug, Clone, Args)]
pub(super) struct DeviceArg {
    /// A device's name in the inventory or its address (tcp://, serial://, probe://, unix://, exec:, local:)
    #[arg(long, short, env = "HANAS_DEVICE", value_name = "DEVICE")]
    pub(super) device: String,
    /// Seconds to wait while another session holds the device
    #[arg(long, default_value_t = QUEUE_TIMEOUT, value_name = "SECONDS")]
    pub(super) queue_timeout: u64,
}

/// Which task.
#[derive(Debug, Clone, Args)]
pub(super) struct TaskArg {
    /// Net family and data: cifar10-resnet20, shapes10-resnet20, cifar100-resnet56 ..., or a TOML file
    /// that describes your own
    #[arg(long, short, value_name = "TASK")]
    pub(super) task: Task,
    /// Images a run
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(super) batch: u32,
}

/// Which task of either kind.
#[derive(Debug, Clone, Args)]
pub(super) struct AnyTaskArg {
    /// cifar10-resnet20, shapes10-resnet20 ..., a TOML file, or a graph task such as cora-gnn
    #[arg(long, short, value_name = "TASK")]
    pub(super) task: AnyTask,
    /// Images a run; a graph task always runs on its whole graph
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(super) batch: u32,
}

impl Global {
    /// Where the inventory lies.
    pub(super) fn inventory_path(&self) -> PathBuf {
        self.devices.clone().unwrap_or_else(inventory::default_path)
    }

    /// The inventory.
    pub(super) fn inventory(&self) -> anyhow::Result<Inventory> {
        Ok(Inventory::read(&self.inventory_path())?)
    }

    /// The address behind a name.
    pub(super) fn resolve(&self, device: &str) -> anyhow::Result<DeviceUrl> {
        Ok(self.inventory()?.resolve(device)?)
    }

    /// A session with the device; tells on stderr while another session holds it.
    pub(super) fn connect(&self, device: &DeviceArg) -> anyhow::Result<Session> {
        let timeouts =
            Timeouts { queue: std::time::Duration::from_secs(device.queue_timeout), ..Timeouts::default() };
        let mut session = Session::open(&self.resolve(&device.device)?, timeouts)?;
        let name = device.device.clone();
        let mut told = false;
        session.when_queued(move |ahead| {
            if !std::mem::replace(&mut told, true) {
                eprintln!("{name} is in use; waiting for {ahead} session(s) to end");
            }
        });
        Ok(session)
    }

    /// The store, made if it is not there.
    pub(super) fn store(&self) -> anyhow::Result<Store> {
        if let Some(folder) = self.store.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Store::open(&self.store)?)
    }

    /// The store, which must be there.
    pub(super) fn existing_store(&self) -> anyhow::Result<Store> {
        Ok(Store::open_existing(&self.store)?)
    }
}

/// A device as the store knows it, found without asking the device itself: the one that was profiled for
/// the task last, or the one whose board, row number or address is named.
pub(super) fn stored_device(
    store: &Store,
    wanted: Option<&str>,
    task: &str,
    batch: u32,
) -> anyhow::Result<DeviceId> {
    let sessions = store.sessions()?;
    let profiled = sessions.iter().rev().filter(|session| session.task == task && session.batch == batch);
    let mut devices: Vec<DeviceId> = Vec::new();
    for session in profiled {
        if !devices.contains(&session.device) {
            devices.push(session.device);
        }
    }
    let Some(wanted) = wanted else {
        return devices.first().copied().with_context(|| nothing_profiled(task, batch));
    };
    for id in devices.iter().copied() {
        if let Some(device) = store.device(id)?
            && (device.name == wanted || id.0.to_string() == wanted)
        {
            return Ok(id);
        }
    }
    anyhow::bail!("{} (looked for a device named '{wanted}')", nothing_profiled(task, batch))
}

fn nothing_profiled(task: &str, batch: u32) -> String {
    if is_graph_task(task) {
        return format!("no profile of {task}; run `hanas graph profile --task {task} --device ...` first");
    }
    format!(
        "no profile of {task} with batch {batch}; run `hanas profile --task {task} --batch {batch} --device ...` first"
    )
}

/// The samples of a task on a device setting.
pub(super) fn query<'a>(device: DeviceId, task: &'a Task, batch: u32) -> SampleQuery<'a> {
    SampleQuery { device, task: Some(&task.name), batch, only_trustworthy: false }
}
