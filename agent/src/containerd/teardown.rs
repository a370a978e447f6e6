//! The end of a replica: asked, waited for, killed, removed. Goes on after each failure and tells all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::model::{AppName, ReplicaName};
use domain::reason::Reason;
use domain::replica::Trouble;
use futures_util::future::join_all;
use tracing::{debug, info, warn};

use super::image_source::ImageSource;
use super::lifecycle::{SIGKILL, failure};
use super::record::{Record, is_ours};
use super::shims::{self, Shim};
use super::volumes::Volumes;
use super::{Containerd, Shared};
use crate::logger;
use crate::runtime::RuntimeError;

/// A killed process is gone in milliseconds; one in an uninterruptible sleep may take the disk's time.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// containerd has made by then what a killed agent had asked of it.
const LATE_TASKS: Duration = Duration::from_secs(45);

/// A record that is made anew is there again by then.
const RECORD_GAP: Duration = Duration::from_secs(5);

/// Between two tries to see what an earlier run left, while containerd is away.
const SWEEP_WAIT: Duration = Duration::from_secs(10);

/// Stopped replicas of an app whose logs are kept.
const KEPT_LOGS: usize = 5;

/// A container that is to end, and how it is asked to.
pub(super) struct Ending {
    id: String,
    signal: u32,
}

impl<I: ImageSource> Containerd<I> {
    pub(super) async fn stop_all(
        &self,
        replica: &ReplicaName,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let Shared { calls, places, volumes, settings, .. } = &*self.shared;
        let records = calls.containers(Some(replica), Record::of).await?;
        let mut failures = Failures::default();
        failures.note(self.end(records.iter().map(ending).collect(), grace).await);
        for removed in join_all(records.iter().map(|record| self.remove(&record.id))).await {
            failures.note(removed);
        }
        for record in &records {
            self.shared.execs.forget(&record.id);
        }
        if volumes.has(replica) {
            failures.note(self.shared.remove_volumes(replica).await);
        }
        failures.details.extend(places.remove(replica));
        if let Some(app) = app_of(replica) {
            logger::prune(&settings.log_dir, &app, KEPT_LOGS, |replica| places.lives(replica));
        }
        failures.into_result()
    }

    /// Removes what an earlier run left of volumes and files whose replica has no record any more. No look finds them, and
    /// no new replica has their names. containerd may come late.
    pub(super) async fn sweep_files(&self) {
        let Shared { calls, earlier, places, volumes, .. } = &*self.shared;
        if earlier.is_empty() {
            return;
        }
        let records = loop {
            match calls.containers(None, Record::of).await {
                Ok(records) => break records,
                Err(error) => debug!(%error, "volumes of an earlier run are looked at later"),
            }
            tokio::time::sleep(SWEEP_WAIT).await;
        };
        for replica in earlier {
            if records.iter().any(|record| record.replica == *replica) {
                continue;
            }
            let mut failures = Failures::default();
            if volumes.has(replica) {
                failures.note(self.shared.remove_volumes(replica).await);
            }
            failures.details.extend(places.remove(replica));
            match failures.into_result() {
                Ok(()) => info!(%replica, "what an earlier run left is removed"),
                Err(error) => warn!(%replica, %error, "something of an earlier run is left"),
            }
        }
    }

    /// Ends processes without a record: containerd goes on with what a killed agent had asked for, also after the next
    /// one has removed the record. Such a call may take its time, so it is looked for twice.
    pub(super) async fn sweep_tasks(&self) {
        let calls = &self.shared.calls;
        for wait in [Duration::ZERO, LATE_TASKS] {
            tokio::time::sleep(wait).await;
            // Tasks first: a record is made before its task.
            let mut orphans: BTreeSet<String> = loop {
                match calls.tasks().await {
                    Ok(tasks) => break tasks.into_iter().map(|task| task.id).collect(),
                    Err(error) => debug!(%error, "processes are looked at later"),
                }
                tokio::time::sleep(SWEEP_WAIT).await;
            };
            orphans.retain(|id| is_ours(id));
            // Twice: a container that is started afresh has no record for a moment.
            for pause in [Duration::ZERO, RECORD_GAP] {
                tokio::time::sleep(pause).await;
                match calls.containers(None, |container| Some(container.id.clone())).await {
                    Ok(known) => orphans.retain(|id| !known.contains(id)),
                    Err(_) => orphans.clear(),
                }
            }
            for id in orphans {
                let ending = Ending { id: id.clone(), signal: SIGKILL };
                let mut failures = Failures::default();
                failures.note(self.end(vec![ending], Duration::ZERO).await);
                failures.note(calls.delete_task(&id).await);
                failures.note(calls.remove_snapshot(&id).await);
                match failures.into_result() {
                    Ok(()) => info!(id, "a process without a record is removed"),
                    Err(error) => warn!(id, %error, "a process without a record is left"),
                }
            }
            self.sweep_shims().await;
        }
    }

    /// Ends shims whose container has no record and that serve no other.
    async fn sweep_shims(&self) {
        let Shared { calls, settings, .. } = &*self.shared;
        let mut idle: BTreeSet<Shim> = BTreeSet::new();
        // Twice, as for processes.
        for pause in [Duration::ZERO, RECORD_GAP] {
            tokio::time::sleep(pause).await;
            let namespace = settings.namespace.clone();
            let found = tokio::task::spawn_blocking(move || shims::idle(&namespace)).await;
            let found: BTreeSet<Shim> =
                found.ok().and_then(Result::ok).into_iter().flatten().collect();
            let known = calls.containers(None, |container| Some(container.id.clone())).await;
            let Ok(known) = known else { return };
            let first = pause.is_zero();
            let lone = found.into_iter().filter(|shim| !known.contains(&shim.id));
            idle = lone.filter(|shim| first || idle.contains(shim)).collect();
            if idle.is_empty() {
                return;
            }
        }
        for shim in idle {
            match shims::end(&shim).await {
                Ok(()) => info!(id = shim.id, pid = shim.pid, "a shim that served nobody is ended"),
                Err(error) => warn!(id = shim.id, pid = shim.pid, %error, "a shim serves nobody"),
            }
        }
    }

    /// Asks each to end, waits, and kills what is left. What has no process has ended, and what was never started has
    /// nothing to end in order. A frozen one is thawed: it could not even die.
    pub(super) async fn end(
        &self,
        endings: Vec<Ending>,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let calls = &self.shared.calls;
        let each = endings.iter().map(|Ending { id, signal }| async move {
            if let Err(error) = self.shared.thaw_one(id) {
                warn!(id, %error, "it may not heed a signal");
            }
            // Until the start it is runc's own process, which heeds some signals and not the one of every image.
            let asks = !grace.is_zero() && !calls.is_armed(id).await;
            if asks {
                // Waiting begins before the signal goes out. A signal that cannot be sent is followed by a kill.
                let asked = async { calls.kill(id, *signal, false).await };
                let ended = async { tokio::try_join!(calls.wait(id), asked) };
                if let Ok(Ok(_)) = tokio::time::timeout(grace, ended).await {
                    return Ok(());
                }
            }
            let ended = async { tokio::try_join!(calls.wait(id), calls.kill(id, SIGKILL, true)) };
            match tokio::time::timeout(KILL_WAIT, ended).await {
                Ok(result) => result.map(|_| ()),
                Err(_) => Err(failure(Reason::ContainerdFailed, format!("{id} outlives a kill"))),
            }
        });
        let mut failures = Failures::default();
        for result in join_all(each).await {
            failures.note(result);
        }
        failures.into_result()
    }

    /// Removes what is left of a container that has ended: task, record, root file system, in this order.
    pub(super) async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let calls = &self.shared.calls;
        let mut failures = Failures::default();
        failures.note(calls.delete_task(id).await);
        failures.note(calls.delete_container(id).await);
        failures.note(calls.remove_snapshot(id).await);
        failures.into_result()
    }
}

impl Shared {
    async fn remove_volumes(&self, replica: &ReplicaName) -> Result<(), RuntimeError> {
        let gone = replica.clone();
        let remove = move |volumes: &Volumes| match volumes.remove(&gone) {
            failures if failures.is_empty() => Ok(()),
            failures => Err(Trouble { reason: Reason::VolumeFailed, details: failures.join("; ") }),
        };
        self.on_mounts(replica, remove).await
    }
}

/// Teardown goes on after a failure and tells all of them.
#[derive(Default)]
struct Failures {
    unavailable: Option<RuntimeError>,
    details: Vec<String>,
}

impl Failures {
    fn note(&mut self, result: Result<(), RuntimeError>) {
        match result {
            Ok(()) => (),
            Err(RuntimeError::Failed(trouble)) => self.details.push(trouble.details),
            Err(error) => self.unavailable = Some(error),
        }
    }

    fn into_result(self) -> Result<(), RuntimeError> {
        match self.unavailable {
            Some(error) => Err(error),
            None if self.details.is_empty() => Ok(()),
            None => Err(failure(Reason::ContainerdFailed, self.details.join("; "))),
        }
    }
}

/// How the container of `record` is asked to end.
pub(super) fn ending(record: &Record) -> Ending {
    Ending { id: record.id.clone(), signal: record.facts.stop_signal }
}

/// The app in a replica's name: all before the two dashes, which no app's name has.
fn app_of(replica: &ReplicaName) -> Option<AppName> {
    replica.as_str().split_once("--")?.0.parse().ok()
}
