//! Shims that serve nobody: what is left where an agent was killed while containerd made a process for it.
//!
//! containerd has forgotten such a shim, so no call tells of it: it is looked for among the board's processes. It is
//! ended only where its container has no record and nothing but log sinks are its children, twice in a row.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::record::is_ours;

/// A shim that was asked to end takes milliseconds.
const END_WAIT: Duration = Duration::from_secs(3);

/// Between two looks whether it has ended.
const PACE: Duration = Duration::from_millis(50);

/// A shim of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shim {
    pub(super) pid: i32,
    /// The container that it was started for, the first one of its replica.
    pub(super) id: String,
}

/// One process of the board.
#[derive(Debug)]
struct Process {
    parent: i32,
    words: Vec<String>,
}

/// The shims of a containerd namespace, for containers of ours, that have no children but log sinks.
pub(super) fn idle(namespace: &str) -> io::Result<Vec<Shim>> {
    let processes = processes()?;
    let busy = |pid: i32| processes.values().any(|one| one.parent == pid && !is_sink(&one.words));
    let shims = processes.iter().filter_map(|(pid, one)| {
        let id = container_of(&one.words, namespace)?;
        Some(Shim { pid: *pid, id: id.to_owned() })
    });
    Ok(shims.filter(|shim| !busy(shim.pid)).collect())
}

/// Ends a shim: asked first, so that it takes its socket with it.
pub(super) async fn end(shim: &Shim) -> Result<(), Errno> {
    let pid = Pid::from_raw(shim.pid);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        match kill(pid, signal) {
            Ok(()) => (),
            Err(Errno::ESRCH) => return Ok(()),
            Err(error) => return Err(error),
        }
        let gone = async {
            while kill(pid, None) != Err(Errno::ESRCH) {
                tokio::time::sleep(PACE).await;
            }
        };
        if tokio::time::timeout(END_WAIT, gone).await.is_ok() {
            return Ok(());
        }
    }
    Err(Errno::EBUSY)
}

fn processes() -> io::Result<BTreeMap<i32, Process>> {
    let mut processes = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that ends while it is looked at is none.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if let Some(parent) = parent_in(&stat) {
            let words = words.split('\0').map(str::to_owned).collect();
            processes.insert(pid, Process { parent, words });
        }
    }
    Ok(processes)
}

/// The parent of a process, while it runs.
pub(super) fn parent_of(pid: i32) -> Option<i32> {
    parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The parent in `/proc/PID/stat`: the second word behind the name, which may hold anything but ends in the last bracket.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn is_sink(words: &[String]) -> bool {
    words.get(1).is_some_and(|word| word == "logger")
}

/// The container that a shim of this namespace was started for, if it is one of ours.
fn container_of<'a>(words: &'a [String], namespace: &str) -> Option<&'a str> {
    let is_shim = words.first()?.contains("containerd-shim");
    let after = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1).map(String::as_str)
    };
    let ours = is_shim && after("-namespace") == Some(namespace);
    after("-id").filter(|id| ours && is_ours(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_shim_of_ours_is_told_from_others() {
        let id = "sk-0123456789abcdef01234567";
        let line =
            format!("/usr/bin/containerd-shim-runc-v2 -namespace skerry -id {id} -address a");
        assert_eq!(container_of(&words(&line), "skerry"), Some(id));
        assert_eq!(container_of(&words(&line), "k8s.io"), None);
        let theirs = "/usr/bin/containerd-shim-runc-v2 -namespace skerry -id other -address a";
        assert_eq!(container_of(&words(theirs), "skerry"), None);
        let tool = format!("grep -namespace skerry -id {id}");
        assert_eq!(container_of(&words(&tool), "skerry"), None);
    }

    #[test]
    fn the_parent_is_found_behind_a_name_with_brackets_and_spaces() {
        assert_eq!(parent_in("12 (a) b) S 34 12 12 0 -1"), Some(34));
        assert_eq!(parent_in(""), None);
    }
}
