//! The container runtime, through the API of containerd alone.
//!
//! ```text
//!   mod        the port `Runtime`, settings          calls      one function per call
//!   lifecycle  make, start, restart                  record     labels and facts ↔ our words
//!   teardown   stop, and what it leaves              user, cgroup, seccomp, failure
//!   standby    freeze, thaw                          freezer    the kernel's file for both
//!   observe    records and tasks → replicas          spec       image + document → OCI specification
//!   exec       the port `Exec`                       exec_calls one function per call
//!   survey     memory in use, locks of apps          listening  ports that apps listen on
//!   watch      events → a pulse                      places     files in /etc, marks
//!   sweep      what an earlier run left              shims      what served nobody any more
//!   devices    nodes of the board                    volumes, vault, storages, mounts, remains
//!   threads    work that a dead disk may keep                   what is mounted for a replica
//! ```
//!
//! A replica has no container of its own that only holds its network: the namespace is made by `netlink` before, and
//! containers join it by path. One shim serves all containers of a replica. Their output goes to `logger`, which
//! outlives the agent, as they do.

mod calls;
mod census;
mod cgroup;
pub mod connection;
mod devices;
mod exec;
mod exec_calls;
mod failure;
mod freezer;
mod image_source;
pub mod images;
mod lifecycle;
mod listening;
mod mounts;
mod observe;
mod places;
mod record;
mod remains;
mod seccomp;
mod shims;
mod spec;
mod standby;
mod storages;
mod survey;
mod sweep;
mod teardown;
#[cfg(test)]
pub(crate) mod testing;
mod threads;
mod user;
mod vault;
mod volumes;
mod watch;
mod within;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::keep::{Cleared, Clearing};
use domain::model::ReplicaName;
use domain::replica::{
    FetchOrder, Listener, ObservedReplica, ReplicaOrder, ResolvedImage, Survey, last_words,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::calls::Calls;
use self::cgroup::Cgroups;
use self::connection::Connection;
use self::exec::Execs;
use self::freezer::Freezer;
use self::observe::{Memory, Traces};
use self::places::{Mark, Places};
use self::record::Record;
use self::threads::Threads;
use self::volumes::Volumes;
use crate::clock::Clock;
use crate::logger;
use crate::runtime::{Meter, Runtime, RuntimeError, Usage};

pub use self::census::{Census, census};
pub use self::image_source::{ImageConfig, ImageSource};

/// The last line with something in it is looked for among so many.
const LAST_LINES: usize = 20;

/// What the adapter is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The namespace of the connection: it names the cgroups too.
    pub namespace: String,
    /// The snapshotter.
    pub snapshotter: String,
    /// The shim.
    pub runtime: String,
    /// Volumes and files of replicas lie below; gone with a reboot, as the replicas are.
    pub run_dir: PathBuf,
    /// Folders of storages that may be made where they are missing lie below.
    pub volumes_dir: PathBuf,
    /// Logs of containers lie below.
    pub log_dir: PathBuf,
    /// Bytes of one log file before it is rotated.
    pub max_log_file_bytes: u64,
    /// Log files of one container, the current one included.
    pub max_log_files: u32,
    /// The binary that shims start as a log sink: this one.
    pub logger: PathBuf,
}

/// The port to containerd. Clones share all.
#[derive(Debug)]
pub struct Containerd<I> {
    images: I,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    calls: Calls,
    settings: Settings,
    places: Places,
    volumes: Volumes,
    /// Those that had volumes or files when the agent started.
    earlier: Vec<ReplicaName>,
    mounting: Threads,
    surveying: Threads,
    /// Memory of what is frozen, to the board.
    offering: Threads,
    cgroups: Cgroups,
    freezer: Freezer,
    open_files: u64,
    clock: Clock,
    memory: Memory,
    execs: Execs,
}

impl<I: Clone> Clone for Containerd<I> {
    fn clone(&self) -> Self {
        Self { images: self.images.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<I: ImageSource> Containerd<I> {
    /// An adapter that calls nobody yet.
    pub fn new(connection: Connection, settings: Settings, images: I, clock: Clock) -> Self {
        let execs = Execs::new(&settings.run_dir);
        let (snapshotter, runtime) = (settings.snapshotter.clone(), settings.runtime.clone());
        let volumes = Volumes::new(&settings.run_dir, settings.volumes_dir.clone());
        let places = Places::new(settings.run_dir.clone());
        let mut earlier = volumes.replicas().unwrap_or_else(|error| {
            warn!(%error, "volumes of an earlier run, if any, are left");
            Vec::new()
        });
        earlier.extend(places.replicas());
        earlier.sort();
        earlier.dedup();
        let cgroups = Cgroups::detect();
        let shared = Shared {
            calls: Calls { connection, snapshotter, runtime },
            places,
            volumes,
            earlier,
            mounting: Threads::new("mounts", lifecycle::MOUNT_LIMIT),
            surveying: Threads::new("survey", survey::DEADLINE),
            offering: Threads::new("offer", standby::OFFER_WAIT),
            settings,
            freezer: cgroups.freezer(),
            cgroups,
            open_files: spec::own_open_files(),
            clock,
            memory: Memory::default(),
            execs,
        };
        Self { images, shared: Arc::new(shared) }
    }

    /// Bumps `pulses` whenever there is something new to observe, until told to stop. containerd may come late. Ends
    /// beside it what commands an earlier run left, and removes what it left of replicas that are no more.
    pub async fn watch(self, pulses: tokio::sync::watch::Sender<u64>, stop: CancellationToken) {
        let Shared { calls, settings, execs, .. } = &*self.shared;
        let connection = calls.connection.clone();
        let watch = watch::watch(connection, settings.namespace.clone(), pulses, stop.clone());
        let processes = |id: &str| self.shared.cgroups.processes(&self.cgroup_path(id));
        let files = stop.run_until_cancelled(self.sweep_files());
        let tasks = stop.run_until_cancelled(self.sweep_tasks());
        let init = stop.run_until_cancelled(self.sweep_init());
        tokio::join!(watch, execs.sweep(calls, processes, &stop), files, tasks, init);
    }

    fn cgroup_path(&self, id: &str) -> String {
        self.shared.cgroup_path(id)
    }
}

impl Shared {
    fn cgroup_path(&self, id: &str) -> String {
        format!("/{}/{id}", self.settings.namespace)
    }
}

impl Traces for Shared {
    fn started(&self, record: &Record) -> bool {
        self.places.is_set(&record.replica, &record.container, Mark::Started)
    }

    fn done(&self, record: &Record) -> bool {
        self.places.is_set(&record.replica, &record.container, Mark::Done)
    }

    fn oom_killed(&self, record: &Record) -> bool {
        self.cgroups.oom_killed(&self.cgroup_path(&record.id))
    }

    fn frozen(&self, record: &Record) -> bool {
        self.freezer.is_frozen(&self.cgroup_path(&record.id))
    }

    fn words(&self, record: &Record) -> String {
        let Record { app, revision, replica, container, .. } = record;
        let path = logger::container_log(&self.settings.log_dir, app, revision, replica, container);
        let since = self.places.set_at(replica, container, Mark::Started);
        let lines = since.map(|since| logger::written_since(path, since, LAST_LINES));
        last_words(&lines.unwrap_or_default().join("\n"))
    }
}

impl<I: ImageSource> Runtime for Containerd<I> {
    async fn observe(&self) -> Result<BTreeMap<ReplicaName, ObservedReplica>, RuntimeError> {
        let Shared { calls, memory, clock, .. } = &*self.shared;
        let (records, tasks) = tokio::try_join!(calls.containers(None, Record::of), calls.tasks())?;
        Ok(memory.fold(records, tasks, &*self.shared, clock.now()))
    }

    async fn fetch(&self, order: FetchOrder) -> Result<Vec<ResolvedImage>, RuntimeError> {
        // One after the other: a board's link and its disk are the bottleneck, and layers are often shared.
        let mut resolved = Vec::with_capacity(order.images.len());
        for reference in &order.images {
            resolved.push(self.images.ensure(reference, &order.logins).await?);
        }
        Ok(resolved)
    }

    async fn clear(&self, order: Clearing) -> Result<Cleared, RuntimeError> {
        self.images.clear(order).await
    }

    async fn create(&self, order: &ReplicaOrder) -> Result<(), RuntimeError> {
        self.create_all(order).await
    }

    async fn arm(&self, order: &ReplicaOrder) -> Result<(), RuntimeError> {
        self.arm_all(order).await
    }

    async fn start(&self, order: &ReplicaOrder) -> Result<(), RuntimeError> {
        self.start_all(order).await
    }

    async fn freeze(&self, replica: &ReplicaName) -> Result<(), RuntimeError> {
        self.freeze_all(replica).await
    }

    async fn thaw(&self, replica: &ReplicaName) -> Result<(), RuntimeError> {
        self.thaw_all(replica).await
    }

    async fn restart(
        &self,
        order: &ReplicaOrder,
        container: &str,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        self.restart_one(order, container, grace).await
    }

    async fn stop(&self, replica: &ReplicaName, grace: Duration) -> Result<(), RuntimeError> {
        self.stop_all(replica, grace).await
    }

    async fn survey(&self, replicas: Vec<ReplicaName>) -> Result<Survey, RuntimeError> {
        self.survey_of(&replicas).await
    }

    fn held(
        &self,
        observed: &BTreeMap<ReplicaName, ObservedReplica>,
    ) -> BTreeMap<ReplicaName, u64> {
        self.held_by(observed)
    }

    async fn listening(&self, replica: &ReplicaName) -> Result<Vec<Listener>, RuntimeError> {
        self.listeners_of(replica).await
    }
}

impl<I: ImageSource> Meter for Containerd<I> {
    async fn usage(
        &self,
        replicas: Vec<ReplicaName>,
    ) -> Result<BTreeMap<ReplicaName, Usage>, RuntimeError> {
        self.usage_of(&replicas).await
    }
}
