//! Replicas that stand by: armed, frozen, woken again. Which of its containers were started is known from marks, so a
//! replica is woken without a word to containerd.
//!
//! ```text
//!   create ─▶ arm ─▶ start ─▶ freeze ─▶ thaw
//!             runc waits      the freezer's file holds; stop, restart and start thaw first
//! ```

use std::time::Duration;

use containerd_client::types::v1::{Process, Status};
use domain::model::ReplicaName;
use domain::reason::Reason;
use tokio::time;
use tracing::{debug, warn};

use super::freezer::{Freezer, Order};
use super::image_source::ImageSource;
use super::lifecycle::failure;
use super::record::{Record, Role, container_id};
use super::{Containerd, Shared};
use crate::runtime::RuntimeError;

/// Commands in a container, such as a probe's, mostly end in less.
const COMMANDS_LIMIT: Duration = Duration::from_secs(5);

/// Processes stand still in about a millisecond, but for one that waits for a disk, or many on a busy board.
const STILL_LIMIT: Duration = Duration::from_secs(3);

/// Between two looks whether they do.
const STILL_PACE: Duration = Duration::from_millis(1);

/// After so many looks in vain all may run for a moment. On v1 (Linux 6.18) processes that fork without end were not all
/// frozen in 8 of 300 tries, told once; told again at each look they were in 600 of 600, in 2 ms.
const LOOKS: u32 = 50;

/// A freeze waits so long for memory to be taken back, which goes on without it and ends with a thaw.
pub(super) const OFFER_WAIT: Duration = Duration::from_millis(250);

/// Groups that are thawed again unless they are kept: a freeze may fail, or be cut short.
struct Frozen<'a> {
    freezer: &'a Freezer,
    groups: Vec<String>,
    kept: bool,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for group in &self.groups {
            if let Err(error) = self.freezer.thaw(group) {
                warn!(group, %error, "a container is left frozen");
            }
        }
    }
}

impl<I: ImageSource> Containerd<I> {
    pub(super) async fn freeze_all(&self, replica: &ReplicaName) -> Result<(), RuntimeError> {
        let Shared { execs, freezer, .. } = &*self.shared;
        let failed = |why: String| failure(Reason::ContainerdFailed, why);
        let ids = self.shared.started(replica).await?;
        if ids.is_empty() {
            return Err(failed(format!("nothing of {replica} runs that could be frozen")));
        }
        let groups: Vec<String> = ids.iter().map(|id| self.cgroup_path(id)).collect();
        let mut frozen = Frozen { freezer, groups, kept: false };
        let told = execs.between(&ids, || tell_all(freezer, &frozen.groups));
        let told = time::timeout(COMMANDS_LIMIT, told).await;
        told.map_err(|_| failed(format!("a command in {replica} does not end")))?
            .map_err(failed)?;
        let stands = time::timeout(STILL_LIMIT, stillness(freezer, &frozen.groups)).await;
        stands.map_err(|_| failed(format!("a process of {replica} does not stand still")))?;
        frozen.kept = true;
        self.shared.offer_memory(replica, &frozen.groups).await;
        Ok(())
    }

    pub(super) async fn thaw_all(&self, replica: &ReplicaName) -> Result<(), RuntimeError> {
        let ids = self.shared.started(replica).await?;
        let thawed: Vec<_> = ids.iter().filter_map(|id| self.shared.thaw_one(id).err()).collect();
        thawed.into_iter().next().map_or(Ok(()), Err)
    }
}

impl Shared {
    /// Thaws one container: before it is started or gets a signal, whoever froze it.
    pub(super) fn thaw_one(&self, id: &str) -> Result<(), RuntimeError> {
        self.freezer.thaw(&self.cgroup_path(id)).map_err(|error| {
            failure(Reason::ContainerdFailed, format!("{id} cannot be thawed: {error}"))
        })
    }

    /// The ids of the replica's containers that were started in this boot, init containers aside.
    async fn started(&self, replica: &ReplicaName) -> Result<Vec<String>, RuntimeError> {
        let marked = self.places.started(replica);
        if !marked.is_empty() {
            return Ok(marked.iter().map(|container| container_id(replica, container)).collect());
        }
        // None was, or the marks are lost, which they are with all files below the folder for them.
        let calls = &self.calls;
        let (records, tasks) =
            tokio::try_join!(calls.containers(Some(replica), Record::of), calls.tasks())?;
        let runs = |record: &Record| {
            let own = tasks.iter().find(|task| task.id == record.id);
            let runs = |task: &Process| matches!(task.status(), Status::Running | Status::Paused);
            record.facts.role == Role::Main && own.is_some_and(runs)
        };
        Ok(records.into_iter().filter(runs).map(|record| record.id).collect())
    }

    async fn offer_memory(&self, replica: &ReplicaName, groups: &[String]) {
        if !groups.iter().any(|group| self.freezer.takes_memory(group)) {
            return;
        }
        let (cgroups, freezer, groups) =
            (self.cgroups.clone(), self.freezer.clone(), groups.to_vec());
        let offer = move || {
            for group in groups {
                freezer.offer(&group, cgroups.working_set(&group));
            }
        };
        if let Err(error) = self.offering.run(replica.as_str(), offer).await {
            debug!(%replica, %error, "its memory is still being taken back");
        }
    }
}

/// Waits until all that were told stand still; those that do not are told again.
async fn stillness(freezer: &Freezer, groups: &[String]) {
    let mut looks = 0_u32;
    while !are_still(freezer, groups, looks) {
        looks = looks.saturating_add(1);
        time::sleep(STILL_PACE).await;
    }
}

fn are_still(freezer: &Freezer, groups: &[String], looks: u32) -> bool {
    let mut still = true;
    for group in groups.iter().filter(|group| !freezer.is_still(group)) {
        still = false;
        // What cannot be told is as little still at the next look.
        let _ = match looks % LOOKS {
            0 if 0 < looks => freezer.thaw(group),
            _ => freezer.tell(group, Order::Freeze),
        };
    }
    still
}

/// All or an error: one that does not run cannot stand by.
fn tell_all(freezer: &Freezer, groups: &[String]) -> Result<(), String> {
    if let Some(group) = groups.iter().find(|group| !freezer.is_populated(group)) {
        return Err(format!("nothing runs in {group} that could be frozen"));
    }
    for group in groups {
        freezer
            .tell(group, Order::Freeze)
            .map_err(|error| format!("{group} cannot be frozen: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn what_does_not_stand_still_is_told_again_and_now_and_then_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let freezer = Freezer::below(folder.path(), false);
        let file = |group: &str| folder.path().join("freezer").join(group).join("freezer.state");
        let groups = ["still".to_owned(), "moving".to_owned()];
        for group in &groups {
            fs::create_dir_all(file(group).parent().map(Path::to_owned).unwrap()).unwrap();
        }
        fs::write(file("still"), "FROZEN\n").unwrap();
        for (looks, told) in
            [(0, "FROZEN"), (1, "FROZEN"), (LOOKS, "THAWED"), (LOOKS + 1, "FROZEN")]
        {
            // A file of the kernel's would still say so after each word that is written to it.
            fs::write(file("moving"), "FREEZING").unwrap();
            assert!(!are_still(&freezer, &groups, looks));
            assert_eq!(fs::read_to_string(file("moving")).unwrap()[..6], *told, "{looks}");
            assert_eq!(fs::read_to_string(file("still")).unwrap(), "FROZEN\n");
        }
        fs::write(file("moving"), "FROZEN\n").unwrap();
        assert!(are_still(&freezer, &groups, LOOKS));
    }
}
