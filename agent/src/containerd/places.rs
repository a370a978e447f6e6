//! A replica's files on the board: those in `/etc` that name its network, and marks of how far it came.
//!
//! ```text
//!   {run_dir}/etc/<replica>/hosts resolv.conf hostname <container>.started <container>.done
//! ```

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use domain::document::Container;
use domain::model::ReplicaName;
use domain::reason::Reason;
use domain::replica::{ReplicaOrder, Trouble};
use serde_json::{Value, json};

/// A name is cut to what a host name may have.
const MAX_HOSTNAME_BYTES: usize = 63;

/// What is remembered of a container beside its record, and gone with a reboot as its process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Its process was started: if it is gone, it has ended.
    Started,
    /// An init container that ended with 0 and is not to run again.
    Done,
}

impl Mark {
    fn suffix(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Done => "done",
        }
    }
}

/// The folders below `run_dir`.
#[derive(Debug, Clone)]
pub(super) struct Places {
    run_dir: PathBuf,
}

impl Places {
    pub(super) fn new(run_dir: PathBuf) -> Self {
        Self { run_dir }
    }

    /// Makes the files of a replica; those that are there keep their content.
    pub(super) fn make(&self, order: &ReplicaOrder) -> Result<(), Trouble> {
        let etc = self.etc(&order.replica);
        self.private("etc")
            .and_then(|()| fs::create_dir_all(&etc))
            .map_err(|error| failed(&etc, &error))?;
        let (name, address) = (hostname(&order.replica), order.place.address);
        let search = match order.dns_search.as_str() {
            "" => String::new(),
            list => format!("search {list}\n"),
        };
        let files = [
            (
                "hosts",
                format!(
                    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{name}\n"
                ),
            ),
            ("resolv.conf", format!("nameserver {}\n{search}", order.place.gateway)),
            ("hostname", format!("{name}\n")),
        ];
        for (file, text) in files {
            let path = etc.join(file);
            if !path.exists() {
                fs::write(&path, text).map_err(|error| failed(&path, &error))?;
            }
        }
        Ok(())
    }

    /// The mounts of the files in `/etc`, but those that a volume takes the place of.
    pub(super) fn mounts(&self, order: &ReplicaOrder, container: &Container) -> Vec<Value> {
        let free = |target: &String| {
            container.volume_mounts.iter().all(|mount| mount.mount_path != *target)
        };
        let etc = self.etc(&order.replica);
        let files = ["hosts", "resolv.conf", "hostname"]
            .map(|file| (etc.join(file), format!("/etc/{file}")));
        let files = files.into_iter().filter(|(_, target)| free(target));
        files
            .map(|(source, target)| {
                json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"]})
            })
            .collect()
    }

    /// Removes all of a replica; what is not there is fine.
    pub(super) fn remove(&self, replica: &ReplicaName) -> Vec<String> {
        let folder = self.etc(replica);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                vec![format!("cannot remove {}: {error}", folder.display())]
            }
            Ok(()) | Err(_) => Vec::new(),
        }
    }

    /// The replicas that have files.
    pub(super) fn replicas(&self) -> BTreeSet<ReplicaName> {
        replicas_in(&self.run_dir.join("etc"))
    }

    /// A replica of this name was made and not stopped yet.
    pub(super) fn lives(&self, replica: &str) -> bool {
        self.run_dir.join("etc").join(replica).exists()
    }

    /// Sets a mark. One that cannot be set costs a repetition, no more.
    pub(super) fn set(&self, replica: &ReplicaName, container: &str, mark: Mark) {
        let _ = fs::write(self.mark(replica, container, mark), "");
    }

    pub(super) fn clear(&self, replica: &ReplicaName, container: &str, mark: Mark) {
        let _ = fs::remove_file(self.mark(replica, container, mark));
    }

    pub(super) fn is_set(&self, replica: &ReplicaName, container: &str, mark: Mark) -> bool {
        self.mark(replica, container, mark).exists()
    }

    /// The containers of a replica whose processes were started, but for init containers that are done.
    pub(super) fn started(&self, replica: &ReplicaName) -> Vec<String> {
        let files = fs::read_dir(self.etc(replica)).into_iter().flatten().flatten();
        let suffix = format!(".{}", Mark::Started.suffix());
        let names = files
            .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(&suffix)?.to_owned()));
        names.filter(|container| !self.is_set(replica, container, Mark::Done)).collect()
    }

    /// When a mark was set, by the board's date.
    pub(super) fn set_at(
        &self,
        replica: &ReplicaName,
        container: &str,
        mark: Mark,
    ) -> Option<SystemTime> {
        fs::metadata(self.mark(replica, container, mark)).and_then(|file| file.modified()).ok()
    }

    fn mark(&self, replica: &ReplicaName, container: &str, mark: Mark) -> PathBuf {
        self.etc(replica).join(format!("{container}.{}", mark.suffix()))
    }

    fn etc(&self, replica: &ReplicaName) -> PathBuf {
        self.run_dir.join("etc").join(replica.as_str())
    }

    /// A folder that other users of the board cannot look into.
    fn private(&self, name: &str) -> io::Result<()> {
        let folder = self.run_dir.join(name);
        if folder.exists() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }
}

/// The replicas that have a folder of their own in `folder`.
pub(super) fn replicas_in(folder: &Path) -> BTreeSet<ReplicaName> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A replica's host name: its own name, the last characters of it where that is too long.
pub(super) fn hostname(replica: &ReplicaName) -> &str {
    let name = replica.as_str();
    name[name.len().saturating_sub(MAX_HOSTNAME_BYTES)..].trim_start_matches('-')
}

fn failed(path: &Path, error: &io::Error) -> Trouble {
    Trouble { reason: Reason::VolumeFailed, details: format!("{}: {error}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_replicas_are_told_from_others() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a--1-22222", "lost+found"] {
            fs::create_dir_all(folder.path().join("etc").join(name)).unwrap();
        }
        let places = Places::new(folder.path().to_owned());
        assert_eq!(places.replicas(), ["a--1-22222".parse().unwrap()].into());
    }

    #[test]
    fn a_long_replica_name_still_gives_a_host_name() {
        let long = format!("{}--{}-22222", "a".repeat(32), "b".repeat(29));
        let replica: ReplicaName = long.parse().unwrap();
        assert!(hostname(&replica).len() <= 63 && hostname(&replica).ends_with("-22222"));
        let short: ReplicaName = "a--1-22222".parse().unwrap();
        assert_eq!(hostname(&short), "a--1-22222");
    }
}
