//! What an earlier run of the agent left behind, removed beside the loop: files of replicas that are no more, processes
//! without a record, root file systems without one, init containers that are done, and shims that serve nobody.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::model::ReplicaName;
use tracing::{debug, info, warn};

use super::image_source::ImageSource;
use super::lifecycle::SIGKILL;
use super::observe::Traces;
use super::record::{Record, Role, is_ours};
use super::shims::{self, Shim};
use super::teardown::{Ending, Failures};
use super::{Containerd, Shared};

/// containerd has made by then what a killed agent had asked of it.
const LATE_TASKS: Duration = Duration::from_secs(45);

/// A record that is made anew is there again by then.
const RECORD_GAP: Duration = Duration::from_secs(5);

/// Between two tries to see what an earlier run left, while containerd is away.
const SWEEP_WAIT: Duration = Duration::from_secs(10);

impl<I: ImageSource> Containerd<I> {
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
            // Our own come and go by the second look.
            if wait.is_zero() {
                self.sweep_snapshots().await;
            }
            self.sweep_shims().await;
        }
    }

    async fn sweep_snapshots(&self) {
        for id in self.snapshots_without_a_record().await {
            match self.shared.calls.remove_snapshot(&id).await {
                Ok(()) => info!(id, "a root file system without a record is removed"),
                Err(error) => warn!(id, %error, "a root file system without a record is left"),
            }
        }
    }

    /// Root file systems of containers that have no record: an agent was killed between the removal of both.
    async fn snapshots_without_a_record(&self) -> BTreeSet<String> {
        let calls = &self.shared.calls;
        let mut lone = match calls.snapshots().await {
            Ok(names) => names,
            Err(error) => {
                debug!(%error, "root file systems are looked at later");
                return BTreeSet::new();
            }
        };
        lone.retain(|id| is_ours(id));
        // A root file system is made before its record, so twice too.
        for pause in [Duration::ZERO, RECORD_GAP] {
            if lone.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            match calls.containers(None, |container| Some(container.id.clone())).await {
                Ok(known) => lone.retain(|id| !known.contains(id)),
                Err(_) => lone.clear(),
            }
        }
        lone
    }

    /// Removes init containers that are done, of replicas that were started: the agent that started them was killed
    /// before it could. One whose replica is still to be started is left to the start, or to the second look.
    pub(super) async fn sweep_init(&self) {
        let calls = &self.shared.calls;
        for wait in [Duration::ZERO, LATE_TASKS] {
            tokio::time::sleep(wait).await;
            let (records, tasks) = loop {
                match tokio::try_join!(calls.containers(None, Record::of), calls.tasks()) {
                    Ok(found) => break found,
                    Err(error) => debug!(%error, "init containers are looked at later"),
                }
                tokio::time::sleep(SWEEP_WAIT).await;
            };
            for id in self.done(&records, |id| tasks.iter().any(|task| task.id == id)) {
                match self.remove(id).await {
                    Ok(()) => info!(id, "an init container that was done is removed"),
                    Err(error) => warn!(id, %error, "an init container stays until the stop"),
                }
            }
        }
    }

    /// Init containers that are done and whose replica has a process of each of the others.
    fn done<'a>(&self, records: &'a [Record], has_task: impl Fn(&str) -> bool) -> Vec<&'a str> {
        let started = |replica: &ReplicaName| {
            let mut mains = records
                .iter()
                .filter(|one| one.replica == *replica && one.facts.role == Role::Main)
                .peekable();
            mains.peek().is_some() && mains.all(|one| has_task(&one.id))
        };
        let done = records.iter().filter(|record| {
            record.facts.role == Role::Init
                && Traces::done(&*self.shared, record)
                && started(&record.replica)
        });
        done.map(|record| record.id.as_str()).collect()
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
}
