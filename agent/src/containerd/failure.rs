//! Why a container did not start, found in what runc says, in words that help the one who wrote the document.

use containerd_client::tonic::{Code, Status};
use domain::reason::Reason;
use domain::replica::Trouble;

use super::connection::{failed, is_full};
use crate::runtime::RuntimeError;

/// The meaning of a refused `Create` or `Start` of a process.
pub(super) fn start_failure(container: &str, status: &Status) -> RuntimeError {
    if matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::PermissionDenied
    ) {
        return failed("start a container", status);
    }
    if is_full(status) {
        return failed(&format!("start container {container:?}"), status);
    }
    let trouble = start_trouble(container, status.message());
    RuntimeError::Failed(trouble)
}

fn start_trouble(container: &str, message: &str) -> Trouble {
    let line = message.lines().rfind(|line| !line.trim().is_empty()).unwrap_or(message);
    let line = line.trim().trim_end_matches(": unknown");
    let Some((_, about)) = line.split_once("exec: ") else {
        let details = format!("container {container:?}: {line}");
        return Trouble { reason: Reason::ContainerStartFailed, details };
    };
    let command = about.split('"').nth(1).unwrap_or(about);
    let is = |text: &str| about.contains(text);
    if is("executable file not found") || is("no such file or directory") {
        let details = format!("container {container:?}: the image has no command {command:?}");
        return Trouble { reason: Reason::CommandNotFound, details };
    }
    if is("permission denied") || is("exec format error") || is("is a directory") {
        let why = about.rsplit(": ").next().unwrap_or(about);
        let details = format!("container {container:?}: cannot execute {command:?}: {why}");
        return Trouble { reason: Reason::CommandNotExecutable, details };
    }
    let details = format!("container {container:?}: {line}");
    Trouble { reason: Reason::ContainerStartFailed, details }
}

/// The shim was on its way out when it was asked: the next try finds, or makes, another.
pub(super) fn shim_went_away(status: &Status) -> bool {
    let message = status.message();
    ["ttrpc: closed", "connection refused", "connection reset", "context canceled"]
        .iter()
        .any(|sign| message.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, reason: Reason, details: &str) {
        let found = start_trouble("main", message);
        assert_eq!((found.reason, found.details.as_str()), (reason, details));
    }

    #[test]
    fn runc_is_translated() {
        let head = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process";
        check(
            &format!("{head}: exec: \"nosuch\": executable file not found in $PATH: unknown"),
            Reason::CommandNotFound,
            "container \"main\": the image has no command \"nosuch\"",
        );
        check(
            &format!("{head}: exec: \"/nosuch\": stat /nosuch: no such file or directory: unknown"),
            Reason::CommandNotFound,
            "container \"main\": the image has no command \"/nosuch\"",
        );
        check(
            &format!("{head}: exec: \"/etc/passwd\": permission denied: unknown"),
            Reason::CommandNotExecutable,
            "container \"main\": cannot execute \"/etc/passwd\": permission denied",
        );
        check(
            "first\nerror mounting \"/x\": no such file or directory: unknown\n",
            Reason::ContainerStartFailed,
            "container \"main\": error mounting \"/x\": no such file or directory",
        );
    }
}
