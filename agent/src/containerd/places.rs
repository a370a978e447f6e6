//! A replica's folders on the board: volumes, the files in `/etc` that name its network, and marks of how far it came.
//!
//! ```text
//!   {run_dir}/volumes/<replica>/<volume>/
//!   {run_dir}/etc/<replica>/hosts resolv.conf hostname <container>.started <container>.done
//! ```
//!
//! Nothing is mounted here: mounts stand in the specification and runc makes them inside the container's namespace.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use domain::document::{Container, Volume, VolumeMount, VolumeSource};
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

    /// Makes the folders and files of a replica; those that are there keep their content.
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
        for volume in &order.template.volumes {
            self.make_volume(order, volume)?;
        }
        Ok(())
    }

    fn make_volume(&self, order: &ReplicaOrder, volume: &Volume) -> Result<(), Trouble> {
        let path = self.volume(&order.replica, &volume.name)?;
        let io = |error: io::Error| failed(&path, &error);
        match &volume.source {
            VolumeSource::EmptyDir => {
                self.private("volumes").and_then(|()| open_folder(&path)).map_err(io)
            }
            VolumeSource::Secret { items } => {
                self.private("volumes").and_then(|()| fs::create_dir_all(&path)).map_err(io)?;
                let all =
                    || order.secrets.keys().map(|name| (name.as_str(), name.as_str())).collect();
                let chosen = || {
                    items
                        .iter()
                        .map(|item| (item.secret_ref.as_str(), item.path.as_str()))
                        .collect()
                };
                let files: Vec<_> = if items.is_empty() { all() } else { chosen() };
                for (secret, file) in files {
                    let Some(value) = order.secrets.get(secret) else {
                        return Err(Trouble {
                            reason: Reason::SecretValueMissing,
                            details: format!(
                                "volume {:?}: the secret {secret:?} has no value",
                                volume.name
                            ),
                        });
                    };
                    let file = path.join(relative(file)?);
                    let folder = file.parent().unwrap_or(&path);
                    fs::create_dir_all(folder)
                        .and_then(|()| fs::write(&file, &value.0))
                        .and_then(|()| fs::set_permissions(&file, Permissions::from_mode(0o644)))
                        .map_err(|error| failed(&file, &error))?;
                }
                Ok(())
            }
            VolumeSource::Storage { storage_name } => Err(Trouble {
                reason: Reason::StorageMissing,
                details: format!("volume {:?}: no storage {storage_name:?}", volume.name),
            }),
        }
    }

    /// The mounts of one container's volumes, parents before what lies in them, then the files in `/etc`.
    pub(super) fn mounts(
        &self,
        order: &ReplicaOrder,
        container: &Container,
    ) -> Result<Vec<Value>, Trouble> {
        let mut wanted: Vec<&VolumeMount> = container.volume_mounts.iter().collect();
        wanted.sort_by(|one, other| one.mount_path.cmp(&other.mount_path));
        let mut mounts = Vec::new();
        for mount in &wanted {
            let volume =
                order.template.volumes.iter().find(|volume| volume.name == mount.volume_name);
            let Some(volume) = volume else {
                return Err(trouble(format!("there is no volume {:?}", mount.volume_name)));
            };
            let source = inside(&self.volume(&order.replica, &volume.name)?, &mount.sub_path)?;
            let asked = volume.mount_options.as_deref().unwrap_or_default();
            let read_only = matches!(volume.source, VolumeSource::Secret { .. })
                || asked.split(',').any(|option| option.trim() == "ro");
            mounts.push(bind(&source, &mount.mount_path, read_only));
        }
        for file in ["hosts", "resolv.conf", "hostname"] {
            let target = format!("/etc/{file}");
            if wanted.iter().all(|mount| mount.mount_path != target) {
                mounts.push(bind(&self.etc(&order.replica).join(file), &target, false));
            }
        }
        Ok(mounts)
    }

    /// Removes all of a replica; what is not there is fine.
    pub(super) fn remove(&self, replica: &ReplicaName) -> Vec<String> {
        let folders = [self.run_dir.join("volumes").join(replica.as_str()), self.etc(replica)];
        let mut failures = Vec::new();
        for folder in folders {
            match fs::remove_dir_all(&folder) {
                Ok(()) => (),
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                Err(error) => failures.push(format!("cannot remove {}: {error}", folder.display())),
            }
        }
        failures
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

    fn volume(&self, replica: &ReplicaName, name: &str) -> Result<PathBuf, Trouble> {
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(trouble(format!("{name:?} cannot be the name of a volume")));
        }
        Ok(self.run_dir.join("volumes").join(replica.as_str()).join(name))
    }

    /// A folder that other users of the board cannot look into: secrets and data of apps lie below.
    fn private(&self, name: &str) -> io::Result<()> {
        let folder = self.run_dir.join(name);
        if folder.exists() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }
}

/// A replica's host name: its own name, the last characters of it where that is too long.
pub(super) fn hostname(replica: &ReplicaName) -> &str {
    let name = replica.as_str();
    name[name.len().saturating_sub(MAX_HOSTNAME_BYTES)..].trim_start_matches('-')
}

/// A folder that any user of a container may write to, as an `emptyDir` is.
fn open_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o777))
}

/// The path of `sub_path` in a volume, made where it is missing.
///
/// No link on the way is followed: a container could have laid it, and it would lead to the board's own files.
fn inside(volume: &Path, sub_path: &str) -> Result<PathBuf, Trouble> {
    let mut path = volume.to_owned();
    for component in relative(sub_path)?.components() {
        path.push(component);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                return Err(trouble(format!("subPath {sub_path:?} leads over a symbolic link")));
            }
            Ok(_) => (),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                open_folder(&path).map_err(|error| failed(&path, &error))?;
            }
            Err(error) => return Err(failed(&path, &error)),
        }
    }
    Ok(path)
}

/// A path that stays below where it is joined to.
fn relative(path: &str) -> Result<PathBuf, Trouble> {
    let mut kept = PathBuf::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(trouble(format!("{path:?} leads out of the volume")));
        }
        kept.push(part);
    }
    Ok(kept)
}

fn bind(source: &Path, target: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]})
}

fn failed(path: &Path, error: &io::Error) -> Trouble {
    trouble(format!("{}: {error}", path.display()))
}

fn trouble(details: String) -> Trouble {
    Trouble { reason: Reason::VolumeFailed, details }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_never_leads_out_of_its_volume() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("v");
        fs::create_dir(&volume).unwrap();
        assert_eq!(inside(&volume, "a/b").unwrap(), volume.join("a/b"));
        assert!(volume.join("a/b").is_dir());
        assert!(inside(&volume, "../x").is_err());
        std::os::unix::fs::symlink("/etc", volume.join("link")).unwrap();
        assert!(inside(&volume, "link").is_err());
        assert!(inside(&volume, "link/new").is_err());
        assert!(!Path::new("/etc/new").exists());
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
