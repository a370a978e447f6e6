//! The calls that replicas are made of, one function each. What is already so is success; nothing is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use containerd_client::services::v1::container::Runtime as RuntimeName;
use containerd_client::services::v1::snapshots::{
    ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteTaskRequest, GetRequest, KillRequest, ListContainersRequest, ListTasksRequest,
    StartRequest, WaitRequest,
};
use containerd_client::tonic::{Code, Status};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process, Status as TaskStatus};
use domain::model::ReplicaName;
use prost_types::Any;

use super::connection::{Connection, failed};
use super::failure::shim_went_away;
use super::record::REPLICA;
use crate::runtime::RuntimeError;

/// containerd knows the specification by this name, without a host before it.
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// A task that was just killed may not be gone yet for a moment: this often it is asked again, each time later.
const DELETE_TRIES: u32 = 8;

/// The first wait; 8 of them, doubled up to half a second each, are about 2 s.
const DELETE_WAIT: Duration = Duration::from_millis(20);

/// containerd clears up after a dead shim in about a tenth of a second.
const CLEANUP_WAIT: Duration = Duration::from_millis(50);

/// The connection, and the names of the two plug-ins that are used.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    pub(super) connection: Connection,
    pub(super) snapshotter: String,
    pub(super) runtime: String,
}

/// A container to be recorded.
#[derive(Debug)]
pub(super) struct NewContainer {
    pub(super) id: String,
    pub(super) image: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) extensions: BTreeMap<String, Any>,
    pub(super) spec: Vec<u8>,
}

impl Calls {
    /// Our containers, of one replica or of all. They come one by one: all in one answer could outgrow a message.
    pub(super) async fn containers<T>(
        &self,
        replica: Option<&ReplicaName>,
        mut keep: impl FnMut(&Container) -> Option<T>,
    ) -> Result<Vec<T>, RuntimeError> {
        let filter = match replica {
            Some(name) => format!("labels.\"{REPLICA}\"==\"{name}\""),
            None => format!("labels.\"{REPLICA}\""),
        };
        let request = self.connection.request(ListContainersRequest { filters: vec![filter] });
        let refused = |status: Status| failed("list containers", &status);
        let mut containers = self.connection.client().await?.containers();
        let mut stream = containers.list_stream(request).await.map_err(refused)?.into_inner();
        let mut kept = Vec::new();
        while let Some(message) = stream.message().await.map_err(refused)? {
            kept.extend(message.container.as_ref().and_then(&mut keep));
        }
        Ok(kept)
    }

    /// Every process in the namespace.
    pub(super) async fn tasks(&self) -> Result<Vec<Process>, RuntimeError> {
        let request = self.connection.request(ListTasksRequest::default());
        let answer = self.connection.client().await?.tasks().list(request).await;
        Ok(answer.map_err(|status| failed("list tasks", &status))?.into_inner().tasks)
    }

    /// A root file system on top of `parent`, named `key`.
    pub(super) async fn prepare(
        &self,
        key: &str,
        parent: &str,
    ) -> Result<Vec<Mount>, RuntimeError> {
        let request = self.connection.request(PrepareSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..PrepareSnapshotRequest::default()
        });
        match self.connection.client().await?.snapshots().prepare(request).await {
            Ok(answer) => Ok(answer.into_inner().mounts),
            Err(status) if status.code() == Code::AlreadyExists => {
                Ok(self.mounts(key).await?.unwrap_or_default())
            }
            Err(status) => Err(failed("prepare a root file system", &status)),
        }
    }

    /// How a root file system is mounted, if there is one of this name.
    pub(super) async fn mounts(&self, key: &str) -> Result<Option<Vec<Mount>>, RuntimeError> {
        let snapshotter = self.snapshotter.clone();
        let request = self.connection.request(MountsRequest { snapshotter, key: key.to_owned() });
        match self.connection.client().await?.snapshots().mounts(request).await {
            Ok(answer) => Ok(Some(answer.into_inner().mounts)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed("look at a root file system", &status)),
        }
    }

    /// The names of all root file systems and layers.
    pub(super) async fn snapshots(&self) -> Result<BTreeSet<String>, RuntimeError> {
        let snapshotter = self.snapshotter.clone();
        let request = ListSnapshotsRequest { snapshotter, ..ListSnapshotsRequest::default() };
        let refused = |status: Status| failed("list root file systems", &status);
        let mut snapshots = self.connection.client().await?.snapshots();
        let request = self.connection.request(request);
        let mut stream = snapshots.list(request).await.map_err(refused)?.into_inner();
        let mut names = BTreeSet::new();
        while let Some(message) = stream.message().await.map_err(refused)? {
            names.extend(message.info.into_iter().map(|info| info.name));
        }
        Ok(names)
    }

    pub(super) async fn remove_snapshot(&self, key: &str) -> Result<(), RuntimeError> {
        let snapshotter = self.snapshotter.clone();
        let request =
            self.connection.request(RemoveSnapshotRequest { snapshotter, key: key.to_owned() });
        let answer = self.connection.client().await?.snapshots().remove(request).await;
        absent_is_fine("remove a root file system", answer.map(|_| ()))
    }

    pub(super) async fn create_container(&self, new: NewContainer) -> Result<(), RuntimeError> {
        let container = Container {
            snapshot_key: new.id.clone(),
            id: new.id,
            image: new.image,
            labels: new.labels.into_iter().collect(),
            extensions: new.extensions.into_iter().collect(),
            snapshotter: self.snapshotter.clone(),
            runtime: Some(RuntimeName { name: self.runtime.clone(), options: None }),
            spec: Some(Any { type_url: SPEC.to_owned(), value: new.spec }),
            ..Container::default()
        };
        let request =
            self.connection.request(CreateContainerRequest { container: Some(container) });
        match self.connection.client().await?.containers().create(request).await {
            Ok(_) => Ok(()),
            // The id is a hash of names that are never used twice: what has it is ours.
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(failed("create a container", &status)),
        }
    }

    pub(super) async fn delete_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = self.connection.request(DeleteContainerRequest { id: id.to_owned() });
        let answer = self.connection.client().await?.containers().delete(request).await;
        absent_is_fine("delete a container", answer.map(|_| ()))
    }

    /// Makes the process ready to start. The refusal is the caller's to understand.
    ///
    /// Both streams go to the same sink: with one of them empty the shim of containerd 1.6 crashes.
    pub(super) async fn create_task(
        &self,
        id: &str,
        rootfs: Vec<Mount>,
        streams: &str,
    ) -> Result<Result<(), Status>, RuntimeError> {
        let request = self.connection.request(CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            stdout: streams.to_owned(),
            stderr: streams.to_owned(),
            ..CreateTaskRequest::default()
        });
        Ok(self.connection.client().await?.tasks().create(request).await.map(|_| ()))
    }

    pub(super) async fn start_task(&self, id: &str) -> Result<Result<u32, Status>, RuntimeError> {
        let container_id = id.to_owned();
        let request =
            self.connection.request(StartRequest { container_id, ..StartRequest::default() });
        let answer = self.connection.client().await?.tasks().start(request).await;
        Ok(answer.map(|answer| answer.into_inner().pid))
    }

    /// The process of a container, if it has one.
    pub(super) async fn task(&self, id: &str) -> Result<Option<Process>, RuntimeError> {
        let container_id = id.to_owned();
        let request = self.connection.request(GetRequest { container_id, ..GetRequest::default() });
        match self.connection.client().await?.tasks().get(request).await {
            Ok(answer) => Ok(answer.into_inner().process),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed("look at a task", &status)),
        }
    }

    /// A container's process is known to be made and not started.
    pub(super) async fn is_armed(&self, id: &str) -> bool {
        self.task(id).await.ok().flatten().is_some_and(|task| task.status() == TaskStatus::Created)
    }

    /// Returns when the process has ended, at once if there is none. Has no deadline: the caller sets one.
    pub(super) async fn wait(&self, id: &str) -> Result<Option<u32>, RuntimeError> {
        loop {
            let container_id = id.to_owned();
            let request =
                self.connection.endless(WaitRequest { container_id, ..WaitRequest::default() });
            match self.connection.client().await?.tasks().wait(request).await {
                Ok(answer) => return Ok(Some(answer.into_inner().exit_status)),
                Err(status) if status.code() == Code::NotFound => return Ok(None),
                // Its shim died: containerd kills what is left and then forgets the task.
                Err(status) if shim_went_away(&status) => tokio::time::sleep(CLEANUP_WAIT).await,
                Err(status) => return Err(failed("wait for a task", &status)),
            }
        }
    }

    /// Sends a signal to the first process of a container, or to `all` of them.
    pub(super) async fn kill(&self, id: &str, signal: u32, all: bool) -> Result<(), RuntimeError> {
        let container_id = id.to_owned();
        let request = self.connection.request(KillRequest {
            container_id,
            signal,
            all,
            ..KillRequest::default()
        });
        match self.connection.client().await?.tasks().kill(request).await {
            Err(status) if shim_went_away(&status) => Ok(()),
            answer => absent_is_fine("send a signal", answer.map(|_| ())),
        }
    }

    /// Deletes the process's remains, once it has ended.
    pub(super) async fn delete_task(&self, id: &str) -> Result<(), RuntimeError> {
        let mut wait = DELETE_WAIT;
        for left in (0..DELETE_TRIES).rev() {
            let request =
                self.connection.request(DeleteTaskRequest { container_id: id.to_owned() });
            match self.connection.client().await?.tasks().delete(request).await {
                Ok(_) => return Ok(()),
                Err(status) if status.code() == Code::NotFound => return Ok(()),
                Err(status) if left == 0 => return Err(failed("delete a task", &status)),
                Err(_) => tokio::time::sleep(wait).await,
            }
            wait = (wait * 2).min(Duration::from_millis(500));
        }
        Ok(())
    }
}

fn absent_is_fine(doing: &str, answer: Result<(), Status>) -> Result<(), RuntimeError> {
    match answer {
        Ok(()) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(failed(doing, &status)),
    }
}
