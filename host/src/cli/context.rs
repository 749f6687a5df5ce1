//! What commands share: the store, the device, the task, as the user named them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::interrupt;
use super::output::Format;
use crate::link::inventory::{self, Inventory};
use crate::link::session::Timeouts;
use crate::link::{DeviceUrl, Session};
use crate::store::device::same_setting;
use crate::store::{DeviceId, ModelSamples, SampleQuery, Store};
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

/// Seconds that one load or run may take, where no option says so.
pub(super) const RUN_TIMEOUT: u64 = 300;

/// Which device.
#[derive(Debug, Clone, Args)]
pub(super) struct DeviceArg {
    /// A device's name in the inventory or its address (tcp://, serial://, probe://, unix://, exec:, local:)
    #[arg(long, short, env = "HANAS_DEVICE", value_name = "DEVICE")]
    pub(super) device: String,
    /// Seconds to wait while another session holds the device
    #[arg(long, default_value_t = QUEUE_TIMEOUT, value_name = "SECONDS")]
    pub(super) queue_timeout: u64,
    /// Seconds that one load or run may take; more than the agent's --run-limit
    #[arg(long, default_value_t = RUN_TIMEOUT, value_name = "SECONDS")]
    pub(super) run_timeout: u64,
}

impl DeviceArg {
    /// A device that no option of its own was given for.
    pub(super) const fn new(device: String, queue_timeout: u64) -> Self {
        Self { device, queue_timeout, run_timeout: RUN_TIMEOUT }
    }
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
        let timeouts = Timeouts {
            queue: Duration::from_secs(device.queue_timeout),
            run: Duration::from_secs(device.run_timeout),
            ..Timeouts::default()
        };
        let mut session = Session::open(&self.resolve(&device.device)?, timeouts)?;
        session.when_asked_to_end(interrupt::asked);
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
/// the task last, or the one whose board or row number is named.
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
    // A board whose kernel or agent was renewed since has another row, and the same timings.
    if let Some(asked) = wanted.parse().ok().map(|row| store.device(DeviceId(row))).transpose()?.flatten() {
        for id in devices.iter().copied() {
            if store.device(id)?.is_some_and(|device| same_setting(&device, &asked)) {
                return Ok(id);
            }
        }
    }
    let known: Vec<String> =
        devices.iter().filter_map(|&id| Some(format!("{} {}", id.0, store.device(id).ok()??.name))).collect();
    if known.is_empty() {
        anyhow::bail!(nothing_profiled(task, batch));
    }
    anyhow::bail!(
        "the store has no device '{wanted}' with a profile of {task}; boards go by the name that they gave or by their row: {}",
        known.join(", ")
    )
}

/// Whether sessions that were judged not trustworthy count.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct TrustArg {
    /// Leave out sessions that were judged not trustworthy
    #[arg(long)]
    trustworthy: bool,
}

impl TrustArg {
    /// The query as asked, and its samples, with a note on stderr where sessions disagree in their verdicts.
    pub(super) fn samples<'q>(
        self,
        store: &Store,
        query: SampleQuery<'q>,
    ) -> anyhow::Result<(SampleQuery<'q>, Vec<ModelSamples>)> {
        let strict = SampleQuery { only_trustworthy: true, ..query };
        let (all, trusted) = (store.covered_sessions(&query)?.len(), store.covered_sessions(&strict)?.len());
        if self.trustworthy {
            anyhow::ensure!(
                trusted > 0 || all == 0,
                "none of the {all} sessions was judged trustworthy; profile with --again, or do without --trustworthy"
            );
            return Ok((strict, store.samples(&strict)?));
        }
        if (1..all).contains(&trusted) {
            let doubted = all - trusted;
            eprintln!(
                "note: {doubted} of {all} sessions not judged trustworthy; --trustworthy leaves them out"
            );
        }
        Ok((query, store.samples(&query)?))
    }
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
