//! The file systems that containerd keeps images on, and what is free there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use containerd_client::services::v1::PluginsRequest;
use domain::keep::Disk;
use nix::sys::statvfs::statvfs;
use tracing::debug;

use super::Images;
use crate::containerd::connection::failed;
use crate::runtime::RuntimeError;
use crate::space::wide;

/// What the plug-in that keeps blobs is called.
const CONTENT: &str = "io.containerd.content.v1";
/// What those that keep unpacked layers are called.
const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";

/// Where containerd keeps what images are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Roots {
    /// Blobs, as they came.
    pub(super) content: PathBuf,
    /// Layers, unpacked.
    pub(super) snapshots: PathBuf,
}

impl Images {
    /// The folders of containerd, as it says itself; none where it does not say.
    pub(super) async fn roots(&self) -> Result<Option<Roots>, RuntimeError> {
        if let Some(roots) = self.roots.get() {
            return Ok(Some(roots.clone()));
        }
        let request = self.connection.request(PluginsRequest::default());
        let answer = self.connection.client().await?.introspection().plugins(request).await;
        let answer = answer.map_err(|status| failed("ask for the plug-ins", &status))?;
        let exported: BTreeMap<(String, String), PathBuf> = answer
            .into_inner()
            .plugins
            .into_iter()
            .filter_map(|plugin| {
                let root = plugin.exports.get("root")?.into();
                Some(((plugin.r#type, plugin.id), root))
            })
            .collect();
        let root = |kind: &str, id: &str| exported.get(&(kind.to_owned(), id.to_owned())).cloned();
        let Some(snapshots) = root(SNAPSHOTTER, &self.snapshotter) else {
            debug!(snapshotter = self.snapshotter, "containerd does not say where it unpacks");
            return Ok(None);
        };
        let content = root(CONTENT, "content").unwrap_or_else(|| snapshots.clone());
        let roots = Roots { content, snapshots };
        // Two may find out at a time, and find out the same.
        let _ = self.roots.set(roots.clone());
        Ok(Some(roots))
    }

    /// The fuller of the file systems that images lie on; none where nobody can tell.
    pub(super) async fn disk(&self) -> Result<Option<Disk>, RuntimeError> {
        let Some(roots) = self.roots().await? else { return Ok(None) };
        let disks = [measure(&roots.content), measure(&roots.snapshots)];
        Ok(disks.into_iter().flatten().min_by_key(|disk| disk.free))
    }
}

/// Total and free bytes of the file system of a folder, as `df` counts them; none if it cannot be asked.
pub(super) fn measure(folder: &Path) -> Option<Disk> {
    let space = statvfs(folder)
        .inspect_err(|error| debug!(%error, folder = %folder.display(), "cannot measure"))
        .ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(wide(space.fragment_size()));
    let used = wide(space.blocks()).saturating_sub(wide(space.blocks_free()));
    let free = wide(space.blocks_available());
    Some(Disk { total: bytes(used.saturating_add(free)), free: bytes(free) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_measured_and_one_that_is_not_there_is_not() {
        let disk = measure(Path::new("/")).unwrap();
        assert!(disk.free <= disk.total && 0 < disk.total, "{disk:?}");
        assert_eq!(measure(Path::new("/no/such/folder")), None);
    }
}
