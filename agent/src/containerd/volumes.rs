//! A replica's volumes, each a mount on the board that its containers show where they ask for it.
//!
//! ```text
//!   {run_dir}/volumes/<replica>/<volume>               EmptyDir: memory, bounded    Secret: memory, never swapped
//!                                                      storage: a folder or a device of the board
//!   {run_dir}/volumes/<replica>/.parts/<container>/<n> the part of a volume that a subPath names
//! ```
//!
//! Nothing of a volume lies in these folders themselves, so what is left after the mounts are gone is empty.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use domain::document::{Container, Volume, VolumeMount, VolumeSource};
use domain::model::ReplicaName;
use domain::reason::Reason;
use domain::replica::{ReplicaOrder, StoragePlace, Trouble};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde_json::{Value, json};

use super::mounts::{self, Links, Owner};
use super::remains::PARTS;
use super::{remains, storages, survey, vault};

/// The folders of volumes, and where the board keeps those that outlive replicas.
#[derive(Debug, Clone)]
pub(super) struct Volumes {
    folder: PathBuf,
    volumes_dir: PathBuf,
}

impl Volumes {
    pub(super) fn new(run_dir: &Path, volumes_dir: PathBuf) -> Self {
        Self { folder: run_dir.join("volumes"), volumes_dir }
    }

    /// Makes a replica's volumes. Memory keeps what is in it; storages are shown anew, as they are now.
    pub(super) fn make(&self, order: &ReplicaOrder) -> Result<(), Trouble> {
        if order.template.volumes.is_empty() {
            return Ok(());
        }
        vault::check(order)?;
        self.private().map_err(|error| failed(&self.folder, &error))?;
        let board = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let board = survey::kib(&board, "MemTotal:");
        for volume in &order.template.volumes {
            let target = self.target(&order.replica, &volume.name)?;
            fs::create_dir_all(&target).map_err(|error| failed(&target, &error))?;
            let told = |details| trouble(format!("volume {:?}: {details}", volume.name));
            let failed = |error: Errno| told(error.to_string());
            match &volume.source {
                VolumeSource::EmptyDir => {
                    if !mounts::is_mounted(&target) {
                        let bytes = order.template.empty_dir_bytes(volume, board);
                        mounts::mount_memory(&target, bytes).map_err(failed)?;
                    }
                }
                VolumeSource::Secret { items } => {
                    let files = vault::files(order, volume, items)?;
                    if !mounts::is_mounted(&target) {
                        mounts::mount_vault(&target).map_err(failed)?;
                    }
                    vault::fill(&target, &files)?;
                }
                VolumeSource::Storage { storage_name } => {
                    let place = storage(order, volume, storage_name)?;
                    mounts::unmount(&target).map_err(failed)?;
                    storages::show(place, &self.volumes_dir, &target).map_err(told)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the volumes of a replica can be made as the board is now. Makes none.
    pub(super) fn look(&self, order: &ReplicaOrder) -> Result<(), Trouble> {
        vault::check(order)?;
        for volume in &order.template.volumes {
            if let VolumeSource::Storage { storage_name } = &volume.source {
                let place = storage(order, volume, storage_name)?;
                let told = |details| trouble(format!("volume {:?}: {details}", volume.name));
                storages::look(place, &self.volumes_dir).map_err(told)?;
            }
        }
        Ok(())
    }

    /// Shows the parts of volumes that a container asks for by `subPath`, as they are now; missing folders are made.
    ///
    /// The container that shares the volume may change it at any time. What was opened here, and was inside, is what
    /// runc is told of: not a path that could lead elsewhere by then.
    pub(super) fn show_parts(
        &self,
        order: &ReplicaOrder,
        container: &Container,
    ) -> Result<(), Trouble> {
        for (n, mount) in container.volume_mounts.iter().enumerate() {
            if mount.sub_path.is_empty() {
                continue;
            }
            let told = |details| trouble(format!("subPath {:?}: {details}", mount.sub_path));
            let target = self.part(&order.replica, &container.name, n);
            mounts::unmount(&target).map_err(|error| told(error.to_string()))?;
            let owner = match &volume_of(order, mount)?.source {
                VolumeSource::EmptyDir => Some(Owner::ANYONE),
                VolumeSource::Secret { .. } => None,
                VolumeSource::Storage { storage_name } => order
                    .storages
                    .get(storage_name)
                    .filter(|place| !place.read_only)
                    .map(|place| storages::owner(&place.options)),
            };
            let opened = self.open_part(order, mount, owner).map_err(|error| {
                let known = [
                    (Errno::ENOENT, "the volume has no such part"),
                    (Errno::EXDEV, "leads out of the volume"),
                    (Errno::ENOTDIR, "leads through a file"),
                ];
                let known = known.into_iter().find(|(known, _)| *known == error);
                told(known.map_or_else(|| error.to_string(), |(_, text)| text.to_owned()))
            })?;
            stand_in(&opened, &target).map_err(|error| failed(&target, &error))?;
            mounts::bind(&opened, &target).map_err(|error| told(error.to_string()))?;
        }
        Ok(())
    }

    fn open_part(
        &self,
        order: &ReplicaOrder,
        mount: &VolumeMount,
        owner: Option<Owner>,
    ) -> nix::Result<OwnedFd> {
        let root = self.target(&order.replica, &mount.volume_name).map_err(|_| Errno::EINVAL)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = open(&root, flags, Mode::empty())?;
        mounts::open_inside(&root, Path::new(&mount.sub_path), Links::Inside, owner)
    }

    /// The mounts of one container's volumes for its specification, parents before what lies in them.
    pub(super) fn mounts(
        &self,
        order: &ReplicaOrder,
        container: &Container,
    ) -> Result<Vec<Value>, Trouble> {
        let mut wanted: Vec<(usize, &VolumeMount)> =
            container.volume_mounts.iter().enumerate().collect();
        wanted.sort_by(|(_, one), (_, other)| one.mount_path.cmp(&other.mount_path));
        let mut mounts = Vec::with_capacity(wanted.len());
        for (n, mount) in wanted {
            let volume = volume_of(order, mount)?;
            let source = if mount.sub_path.is_empty() {
                self.target(&order.replica, &volume.name)?
            } else {
                self.part(&order.replica, &container.name, n)
            };
            let mut options = vec!["bind", "rprivate", "nosuid", "nodev"];
            let mut read_only = volume.options().read_only;
            match &volume.source {
                VolumeSource::EmptyDir => (),
                VolumeSource::Secret { .. } => read_only = true,
                VolumeSource::Storage { storage_name } => {
                    let place = storage(order, volume, storage_name)?;
                    read_only |= place.read_only;
                    options.extend(storages::flag_words(&place.options));
                }
            }
            options.push(if read_only { "ro" } else { "rw" });
            mounts.push(json!({"destination": mount.mount_path, "type": "bind", "source": source,
                "options": options}));
        }
        Ok(mounts)
    }

    /// The replicas that have volumes, or remains of them.
    pub(super) fn replicas(&self) -> io::Result<Vec<ReplicaName>> {
        let folders = remains::entries(&self.folder)?;
        Ok(folders.iter().filter_map(|folder| folder.file_name()?.to_str()?.parse().ok()).collect())
    }

    /// A replica of this name has volumes, or remains of them.
    pub(super) fn has(&self, replica: &ReplicaName) -> bool {
        self.folder.join(replica.as_str()).exists()
    }

    /// Removes all volumes of a replica but what storages hold; what is not there is fine.
    pub(super) fn remove(&self, replica: &ReplicaName) -> Vec<String> {
        remains::remove(&self.folder.join(replica.as_str()))
    }

    fn target(&self, replica: &ReplicaName, name: &str) -> Result<PathBuf, Trouble> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(trouble(format!("{name:?} cannot be the name of a volume")));
        }
        Ok(self.folder.join(replica.as_str()).join(name))
    }

    fn part(&self, replica: &ReplicaName, container: &str, n: usize) -> PathBuf {
        let parts = self.folder.join(replica.as_str()).join(PARTS);
        parts.join(container).join(n.to_string())
    }

    /// A folder that other users of the board cannot look into: secrets and data of apps lie below.
    fn private(&self) -> io::Result<()> {
        if self.folder.exists() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)
    }
}

fn volume_of<'a>(order: &'a ReplicaOrder, mount: &VolumeMount) -> Result<&'a Volume, Trouble> {
    let found = order.template.volumes.iter().find(|volume| volume.name == mount.volume_name);
    found.ok_or_else(|| trouble(format!("there is no volume {:?}", mount.volume_name)))
}

fn storage<'a>(
    order: &'a ReplicaOrder,
    volume: &Volume,
    name: &str,
) -> Result<&'a StoragePlace, Trouble> {
    order.storages.get(name).ok_or_else(|| Trouble {
        reason: Reason::StorageMissing,
        details: format!("volume {:?}: no storage {name:?}", volume.name),
    })
}

/// Makes something of the same kind at `target`, for the part to be mounted on.
fn stand_in(part: &OwnedFd, target: &Path) -> io::Result<()> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    let is_folder = fs::File::from(part.try_clone()?).metadata()?.is_dir();
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() == is_folder => return Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(_) => (),
    }
    if is_folder { fs::create_dir(target) } else { fs::write(target, "") }
}

fn failed(path: &Path, error: &io::Error) -> Trouble {
    trouble(format!("{}: {error}", path.display()))
}

fn trouble(details: String) -> Trouble {
    Trouble { reason: Reason::VolumeFailed, details }
}
