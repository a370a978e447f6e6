//! A replica's containers: made, started, started again. Each verb does what is left to do; `teardown` ends them.
//!
//! ```text
//!   make     record + root file system
//!   arm      init containers, each to its end ─▶ processes of the others, which wait
//!   start    init containers, each to its end ─▶ the others, in order
//!   restart  end ─▶ remove ─▶ make ─▶ start, in the same network and volumes
//! ```

use std::str::FromStr as _;
use std::time::Duration;

use containerd_client::tonic::{Code, Status};
use containerd_client::types::v1::Status as TaskStatus;
use domain::document::Container;
use domain::model::ReplicaName;
use domain::reason::Reason;
use domain::replica::{ReplicaOrder, ResolvedImage, Trouble};
use futures_util::future::{join_all, try_join_all};
use nix::sys::signal::Signal;
use tracing::{debug, warn};

use super::calls::NewContainer;
use super::devices;
use super::failure::{shim_went_away, start_failure};
use super::image_source::{ImageConfig, ImageSource};
use super::places::Mark;
use super::record::{Record, Role, container_id, describe};
use super::spec::{self, Ingredients, spec};
use super::teardown::ending;
use super::user::{self, User};
use super::volumes::Volumes;
use super::{Containerd, Shared, mounts};
use crate::course::{self, Step};
use crate::logger;
use crate::runtime::RuntimeError;

/// A shim that is just leaving is met once in a restart; more often is a failure of another kind.
const CREATE_TRIES: u32 = 5;

/// The first wait before another try, doubled each time: about a third of a second in all.
const CREATE_WAIT: Duration = Duration::from_millis(20);

/// A disk that was not taken out properly may have to be repaired by the kernel first.
pub(super) const MOUNT_LIMIT: Duration = Duration::from_mins(1);

const SIGTERM: u32 = Signal::SIGTERM as u32;
pub(super) const SIGKILL: u32 = Signal::SIGKILL as u32;

/// A container's process as it was found when it was to be made.
enum Task {
    /// Made, not started.
    Ready,
    /// Running since before.
    Runs,
    /// It has ended with this code.
    Ended(u32),
}

impl<I: ImageSource> Containerd<I> {
    pub(super) async fn create_all(&self, order: &ReplicaOrder) -> Result<(), RuntimeError> {
        self.shared.furnish(order).await?;
        let init = order.template.init_containers.iter().map(|container| (container, Role::Init));
        let main = order.template.containers.iter().map(|container| (container, Role::Main));
        let to_make = init.chain(main).filter(|(container, _)| {
            !self.shared.places.is_set(&order.replica, &container.name, Mark::Done)
        });
        try_join_all(to_make.map(|(container, role)| self.make(order, container, role))).await?;
        Ok(())
    }

    /// Makes the record and the root file system of one container.
    async fn make(
        &self,
        order: &ReplicaOrder,
        container: &Container,
        role: Role,
    ) -> Result<(), RuntimeError> {
        let calls = &self.shared.calls;
        let image = local(order, container)?;
        let config = self.images.config(image).await?;
        let id = container_id(&order.replica, &container.name);
        let describe = |user: &User| {
            self.described(order, container, role, (&image.name, &config), user)
                .map_err(RuntimeError::Failed)
        };
        if user::is_root(&config.user) {
            let record = calls.create_container(describe(&User::default())?);
            tokio::try_join!(record, calls.prepare(&id, &config.chain_id))?;
            return Ok(());
        }
        // Names of users are in files of the image, so the root file system comes first.
        let mounts = calls.prepare(&id, &config.chain_id).await?;
        let user =
            user::resolve(&config.user, |path| user::file_of(&mounts, path)).map_err(|why| {
                failure(
                    Reason::ContainerStartFailed,
                    format!("container {:?}: {why}", container.name),
                )
            })?;
        calls.create_container(describe(&user)?).await
    }

    /// Whether a container can be made again as the board is now: one that runs, if badly, is not ended in vain.
    async fn look(&self, order: &ReplicaOrder, container: &Container) -> Result<(), RuntimeError> {
        let image = self.images.config(local(order, container)?).await?;
        spec::environment(order, container, &image).map_err(RuntimeError::Failed)?;
        devices::look(&order.template.extras.devices).map_err(RuntimeError::Failed)?;
        if order.template.volumes.is_empty() {
            return Ok(());
        }
        let (order, replica) = (order.clone(), order.replica.clone());
        self.shared.on_mounts(&replica, move |volumes| volumes.look(&order)).await
    }

    fn described(
        &self,
        order: &ReplicaOrder,
        container: &Container,
        role: Role,
        (image_name, image): (&str, &ImageConfig),
        user: &User,
    ) -> Result<NewContainer, Trouble> {
        let Shared { places, volumes, cgroups, open_files, .. } = &*self.shared;
        let id = container_id(&order.replica, &container.name);
        let mut mounts = volumes.mounts(order, container)?;
        mounts.extend(places.mounts(order, container));
        let spec = spec(&Ingredients {
            order,
            container,
            image,
            user,
            mounts,
            devices: devices::look(&order.template.extras.devices)?,
            cgroups,
            cgroup_path: &self.cgroup_path(&id),
            open_files: *open_files,
        })?;
        let signal = stop_signal(&image.stop_signal);
        let (labels, extensions) = describe(order, &container.name, role, signal);
        Ok(NewContainer { id, image: image_name.to_owned(), labels, extensions, spec })
    }

    pub(super) async fn arm_all(&self, order: &ReplicaOrder) -> Result<(), RuntimeError> {
        let ended = self.initialise(order).await?;
        for container in &order.template.containers {
            self.task(order, container, Role::Main).await?;
        }
        self.clear_away(order, &ended).await;
        Ok(())
    }

    pub(super) async fn start_all(&self, order: &ReplicaOrder) -> Result<(), RuntimeError> {
        let ended = self.initialise(order).await?;
        for container in &order.template.containers {
            self.begin(order, container, Role::Main).await?;
        }
        self.clear_away(order, &ended).await;
        Ok(())
    }

    /// Runs the init containers that are not done. The ids of all of them: their remains are to be cleared away.
    async fn initialise(&self, order: &ReplicaOrder) -> Result<Vec<String>, RuntimeError> {
        // The shim leaves with its last container. So an init container's remains stay until a later one has come,
        // and one shim serves the replica from its first to its last.
        let mut ended = Vec::new();
        for container in &order.template.init_containers {
            if !self.shared.places.is_set(&order.replica, &container.name, Mark::Done) {
                self.run_to_end(order, container).await?;
            }
            ended.push(container_id(&order.replica, &container.name));
        }
        Ok(ended)
    }

    async fn clear_away(&self, order: &ReplicaOrder, ended: &[String]) {
        for removed in join_all(ended.iter().map(|id| self.remove(id))).await {
            if let Err(error) = removed {
                warn!(replica = %order.replica, %error, "an init container's remains are left until the stop");
            }
        }
    }

    async fn run_to_end(
        &self,
        order: &ReplicaOrder,
        container: &Container,
    ) -> Result<(), RuntimeError> {
        let Shared { calls, places, .. } = &*self.shared;
        let id = container_id(&order.replica, &container.name);
        let code = match self.task(order, container, Role::Init).await? {
            Task::Ended(code) => code,
            Task::Runs => calls.wait(&id).await?.unwrap_or(SIGKILL + 128),
            // The wait is under way before the start, so that the shortest life is not missed.
            Task::Ready => {
                let start = self.start_task(order, container, &id);
                let (code, ()) = tokio::try_join!(calls.wait(&id), start)?;
                code.unwrap_or(SIGKILL + 128)
            }
        };
        if code == 0 {
            places.set(&order.replica, &container.name, Mark::Done);
            return Ok(());
        }
        // The next try has a fresh root file system.
        self.remove(&id).await?;
        places.clear(&order.replica, &container.name, Mark::Started);
        let details = format!("init container {:?} exited with {code}", container.name);
        Err(failure(Reason::InitContainerFailed, details))
    }

    /// Makes a container run; one that runs, or that has run and ended, is left as it is, but for being frozen.
    async fn begin(
        &self,
        order: &ReplicaOrder,
        container: &Container,
        role: Role,
    ) -> Result<(), RuntimeError> {
        let task = self.task(order, container, role).await?;
        let id = container_id(&order.replica, &container.name);
        self.shared.thaw_one(&id)?;
        match task {
            Task::Runs | Task::Ended(_) => Ok(()),
            Task::Ready => self.start_task(order, container, &id).await,
        }
    }

    /// Makes a container's process ready, and its record and root file system where they are missing.
    async fn task(
        &self,
        order: &ReplicaOrder,
        container: &Container,
        role: Role,
    ) -> Result<Task, RuntimeError> {
        let calls = &self.shared.calls;
        let id = container_id(&order.replica, &container.name);
        // Armed before, most likely; whatever is in the way of this look is told by the next call.
        if let Some(task) = calls.task(&id).await.ok().flatten().and_then(|task| found(Some(task)))
        {
            return Ok(task);
        }
        let streams = self.shared.streams(order, &container.name);
        self.shared.show_parts(order, container).await?;
        let mut wait = CREATE_WAIT;
        for tries in 1.. {
            let rootfs = match calls.mounts(&id).await? {
                Some(mounts) => mounts,
                None => {
                    self.make(order, container, role).await?;
                    calls.mounts(&id).await?.unwrap_or_default()
                }
            };
            let Err(status) = calls.create_task(&id, rootfs, &streams).await? else {
                return Ok(Task::Ready);
            };
            let again = tries < CREATE_TRIES;
            if status.code() == Code::AlreadyExists {
                if let Some(task) = found(calls.task(&id).await?) {
                    return Ok(task);
                }
            } else if status.code() == Code::NotFound && again && record_is_missing(&status) {
                self.make(order, container, role).await?;
                continue;
            } else if !shim_went_away(&status) {
                return Err(start_failure(&container.name, &status));
            }
            if !again {
                return Err(start_failure(&container.name, &status));
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        unreachable!("the loop returns at its last try")
    }

    async fn start_task(
        &self,
        order: &ReplicaOrder,
        container: &Container,
        id: &str,
    ) -> Result<(), RuntimeError> {
        let Shared { calls, places, memory, clock, .. } = &*self.shared;
        debug!(replica = %order.replica, container = container.name, "process made");
        course::over(&order.revision, Step::Made);
        places.set(&order.replica, &container.name, Mark::Started);
        let status = match calls.start_task(id).await? {
            Ok(pid) => {
                memory.started(id, pid, clock.now());
                return Ok(());
            }
            Err(status) => status,
        };
        // A process that could not start leaves nothing to look at but what is in the way of the next try.
        let _ = calls.kill(id, SIGKILL, true).await;
        let _ = calls.delete_task(id).await;
        places.clear(&order.replica, &container.name, Mark::Started);
        Err(start_failure(&container.name, &status))
    }

    pub(super) async fn restart_one(
        &self,
        order: &ReplicaOrder,
        name: &str,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let Some(container) = order.template.containers.iter().find(|one| one.name == name) else {
            let details = format!("the template has no container {name:?}");
            return Err(failure(Reason::ContainerStartFailed, details));
        };
        self.look(order, container).await?;
        let id = container_id(&order.replica, name);
        let records = self.shared.calls.containers(Some(&order.replica), Record::of).await?;
        for record in &records {
            self.shared.thaw_one(&record.id)?;
        }
        let running = records.iter().filter(|record| record.id == id).map(ending).collect();
        self.end(running, grace).await?;
        self.remove(&id).await?;
        self.shared.places.clear(&order.replica, name, Mark::Started);
        self.shared.furnish(order).await?;
        self.make(order, container, Role::Main).await?;
        self.begin(order, container, Role::Main).await
    }
}

impl Shared {
    /// Makes the volumes and files of a replica.
    async fn furnish(&self, order: &ReplicaOrder) -> Result<(), RuntimeError> {
        self.places.make(order).map_err(RuntimeError::Failed)?;
        if order.template.volumes.is_empty() {
            return Ok(());
        }
        let order = order.clone();
        let replica = order.replica.clone();
        self.on_mounts(&replica, move |volumes| volumes.make(&order)).await
    }

    /// Just before its process is made: an init container may have made what a `subPath` names.
    async fn show_parts(
        &self,
        order: &ReplicaOrder,
        container: &Container,
    ) -> Result<(), RuntimeError> {
        if container.volume_mounts.iter().all(|mount| mount.sub_path.is_empty()) {
            return Ok(());
        }
        let (order, container) = (order.clone(), container.clone());
        let replica = order.replica.clone();
        self.on_mounts(&replica, move |volumes| volumes.show_parts(&order, &container)).await
    }

    /// Mounts wait for disks, and a disk that fails makes them wait for long.
    pub(super) async fn on_mounts(
        &self,
        replica: &ReplicaName,
        work: impl FnOnce(&Volumes) -> Result<(), Trouble> + Send + 'static,
    ) -> Result<(), RuntimeError> {
        let volumes = self.volumes.clone();
        let there = move || mounts::on_the_board(|| work(&volumes));
        let failed = |details: String| failure(Reason::VolumeFailed, details);
        match self.mounting.run(replica.as_str(), there).await {
            Ok(Ok(done)) => done.map_err(RuntimeError::Failed),
            Ok(Err(error)) => Err(failed(format!("cannot join the board's mounts: {error}"))),
            Err(error) => Err(failed(format!("the mounts of {replica}: {error}"))),
        }
    }

    /// Where the output of a container goes.
    fn streams(&self, order: &ReplicaOrder, container: &str) -> String {
        let settings = &self.settings;
        let (app, revision) = (&order.app, &order.revision);
        let path =
            logger::container_log(&settings.log_dir, app, revision, &order.replica, container);
        let (max_file_bytes, max_files) = (settings.max_log_file_bytes, settings.max_log_files);
        logger::Order { path, max_file_bytes, max_files }.uri(&settings.logger)
    }
}

/// The image that a container is made from.
fn local<'a>(
    order: &'a ReplicaOrder,
    container: &Container,
) -> Result<&'a ResolvedImage, RuntimeError> {
    order.images.get(&container.image).ok_or_else(|| {
        let details = format!("container {:?}: {} is not local", container.name, container.image);
        failure(Reason::ImageNotFound, details)
    })
}

pub(super) fn failure(reason: Reason, details: String) -> RuntimeError {
    RuntimeError::Failed(Trouble { reason, details })
}

fn found(task: Option<containerd_client::types::v1::Process>) -> Option<Task> {
    let task = task?;
    Some(match task.status() {
        TaskStatus::Created | TaskStatus::Unknown => Task::Ready,
        TaskStatus::Running | TaskStatus::Paused | TaskStatus::Pausing => Task::Runs,
        TaskStatus::Stopped => Task::Ended(task.exit_status),
    })
}

/// The shim says "not found" of other things too, such as a program.
fn record_is_missing(status: &Status) -> bool {
    status.message().starts_with("container ")
}

/// `SIGTERM`, `TERM` or a number, as images have it; what cannot be read is a SIGTERM.
fn stop_signal(text: &str) -> u32 {
    let text = text.trim();
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) { number } else { SIGTERM };
    }
    let name = if text.starts_with("SIG") { text.to_owned() } else { format!("SIG{text}") };
    if let Some(offset) = name.strip_prefix("SIGRTMIN+").and_then(|n| n.parse::<u32>().ok()) {
        // The C libraries keep the first two real-time signals for themselves: the first to use is 34.
        return if offset <= 30 { 34 + offset } else { SIGTERM };
    }
    Signal::from_str(&name).map_or(SIGTERM, |signal| signal as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_are_read_as_images_write_them() {
        for (text, number) in [
            ("", 15),
            ("SIGQUIT", 3),
            ("QUIT", 3),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("nonsense", 15),
            ("0", 15),
        ] {
            assert_eq!(stop_signal(text), number, "{text}");
        }
    }
}
