//! The end of a replica: asked, waited for, killed, removed. Goes on after each failure and tells all of them.

use std::time::Duration;

use domain::model::{AppName, ReplicaName};
use domain::reason::Reason;
use domain::replica::Trouble;
use futures_util::future::join_all;
use tracing::warn;

use super::image_source::ImageSource;
use super::lifecycle::{SIGKILL, failure};
use super::record::Record;
use super::volumes::Volumes;
use super::{Containerd, Shared};
use crate::logger;
use crate::runtime::RuntimeError;

/// A killed process is gone in milliseconds; one in an uninterruptible sleep may take the disk's time.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Stopped replicas of an app whose logs are kept.
const KEPT_LOGS: usize = 5;

/// A container that is to end, and how it is asked to.
pub(super) struct Ending {
    pub(super) id: String,
    pub(super) signal: u32,
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
    pub(super) async fn remove_volumes(&self, replica: &ReplicaName) -> Result<(), RuntimeError> {
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
pub(super) struct Failures {
    unavailable: Option<RuntimeError>,
    pub(super) details: Vec<String>,
}

impl Failures {
    pub(super) fn note(&mut self, result: Result<(), RuntimeError>) {
        match result {
            Ok(()) => (),
            Err(RuntimeError::Failed(trouble)) => self.details.push(trouble.details),
            Err(error) => self.unavailable = Some(error),
        }
    }

    pub(super) fn into_result(self) -> Result<(), RuntimeError> {
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
