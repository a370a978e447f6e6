//! The calls that commands beside a container's process are made of, one function each.

use std::path::Path;

use containerd_client::services::v1::{
    DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, KillRequest, StartRequest,
    WaitRequest,
};
use containerd_client::tonic::{Code, Status};
use domain::reason::Reason;
use prost_types::Any;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::calls::Calls;
use super::connection::failed;
use super::failure::shim_went_away;
use super::lifecycle::{SIGKILL, failure};
use crate::runtime::RuntimeError;

/// containerd knows a process's specification by this name, without a host before it.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// The variable by which a command's process is known, should the shim not know it.
pub(super) const MARK: &str = "SKERRY_EXEC";

/// What is needed of a container's specification.
#[derive(Deserialize)]
struct Spec {
    process: Map<String, Value>,
}

impl Calls {
    /// The specification of a process that runs `command` as the container's own would: its user, variables, folder
    /// and rights. One more variable, [`MARK`], says which command it is.
    pub(super) async fn process(
        &self,
        id: &str,
        exec: &str,
        command: &[String],
    ) -> Result<Vec<u8>, RuntimeError> {
        let request = self.connection.request(GetContainerRequest { id: id.to_owned() });
        let answer = self.connection.client().await?.containers().get(request).await;
        let container =
            answer.map_err(|status| failed("look at a container", &status))?.into_inner().container;
        let spec = container.and_then(|container| container.spec).unwrap_or_default();
        let unreadable = |error: serde_json::Error| {
            let details = format!("the specification of {id} cannot be read: {error}");
            failure(Reason::ContainerdFailed, details)
        };
        let Spec { mut process } = serde_json::from_slice(&spec.value).map_err(unreadable)?;
        process.insert("args".to_owned(), command.into());
        let variables = process.entry("env").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(variables) = variables {
            variables.push(format!("{MARK}={exec}").into());
        }
        serde_json::to_vec(&process).map_err(unreadable)
    }

    /// Makes a command ready to start. The refusal is the caller's to understand.
    ///
    /// Both streams go to the same pipe: with one of them empty the shim of containerd 1.6 crashes.
    pub(super) async fn make_exec(
        &self,
        id: &str,
        exec: &str,
        pipe: &Path,
        process: Vec<u8>,
    ) -> Result<Result<(), Status>, RuntimeError> {
        let pipe = pipe.display().to_string();
        let request = self.connection.request(ExecProcessRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            stdout: pipe.clone(),
            stderr: pipe,
            spec: Some(Any { type_url: PROCESS.to_owned(), value: process }),
            ..ExecProcessRequest::default()
        });
        Ok(self.connection.client().await?.tasks().exec(request).await.map(|_| ()))
    }

    pub(super) async fn start_exec(
        &self,
        id: &str,
        exec: &str,
    ) -> Result<Result<(), Status>, RuntimeError> {
        let (container_id, exec_id) = (id.to_owned(), exec.to_owned());
        let request = self.connection.request(StartRequest { container_id, exec_id });
        Ok(self.connection.client().await?.tasks().start(request).await.map(|_| ()))
    }

    /// Returns when the command has ended, with its exit code. Has no deadline: the caller sets one.
    pub(super) async fn wait_exec(&self, id: &str, exec: &str) -> Result<u32, RuntimeError> {
        let (container_id, exec_id) = (id.to_owned(), exec.to_owned());
        let request = self.connection.endless(WaitRequest { container_id, exec_id });
        match self.connection.client().await?.tasks().wait(request).await {
            Ok(answer) => Ok(answer.into_inner().exit_status),
            Err(status) if gone(&status) => {
                let details = "the container ended before the command did".to_owned();
                Err(failure(Reason::ContainerExited, details))
            }
            Err(status) => Err(failed("wait for a command", &status)),
        }
    }

    pub(super) async fn kill_exec(&self, id: &str, exec: &str) -> Result<(), RuntimeError> {
        let request = self.connection.request(KillRequest {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
            signal: SIGKILL,
            all: false,
        });
        match self.connection.client().await?.tasks().kill(request).await {
            Ok(_) => Ok(()),
            Err(status) if gone(&status) => Ok(()),
            Err(status) => Err(failed("kill a command", &status)),
        }
    }

    /// Deletes a command that has ended, when all it wrote has been passed on. One that runs is refused.
    pub(super) async fn delete_exec(
        &self,
        id: &str,
        exec: &str,
    ) -> Result<Result<(), Status>, RuntimeError> {
        let (container_id, exec_id) = (id.to_owned(), exec.to_owned());
        let request = self.connection.request(DeleteProcessRequest { container_id, exec_id });
        Ok(match self.connection.client().await?.tasks().delete_process(request).await {
            Ok(_) => Ok(()),
            Err(status) if gone(&status) => Ok(()),
            Err(status) => Err(status),
        })
    }
}

/// The command, its container or its shim is not there.
fn gone(status: &Status) -> bool {
    status.code() == Code::NotFound || shim_went_away(status)
}
