//! Snapshots as they lie on the disk: where their files are, what stands on them, and how they go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use containerd_client::services::v1::snapshots as request;
use containerd_client::tonic::Code;
use containerd_client::types::Mount;
use tracing::debug;

use super::unpack::Snapshots;
use crate::containerd::connection::failed;
use crate::runtime::RuntimeError;

/// Blows at a snapshot that somebody builds upon meanwhile.
const TRIES: usize = 3;

impl Snapshots<'_> {
    /// The folder with the files of the uppermost layer of a snapshot, by way of a look at it that is named `key`.
    /// None where the snapshotter keeps them in no folder, or has collected it meanwhile.
    pub(super) async fn folder(
        &self,
        key: &str,
        snapshot: &str,
    ) -> Result<Option<PathBuf>, RuntimeError> {
        self.remove(key).await?;
        let message = request::ViewSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
            parent: snapshot.to_owned(),
            ..request::ViewSnapshotRequest::default()
        };
        let mut client = self.connection.client().await?.snapshots();
        let mounts = match client.view(self.connection.request(message)).await {
            Ok(mounts) => mounts,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(failed("look into a snapshot", &status)),
        };
        self.remove(key).await?;
        Ok(mounts.into_inner().mounts.last().and_then(uppermost))
    }

    /// Removes a snapshot with all that stands on it, from the top down. What runs on it must have ended.
    pub(super) async fn fell(&self, root: &str) -> Result<(), RuntimeError> {
        let mut felled = self.try_fell(root).await;
        for _ in 1..TRIES {
            if felled.is_ok() {
                break;
            }
            // Something was put upon it, or collected, between the look and the blow.
            felled = self.try_fell(root).await;
        }
        felled
    }

    async fn try_fell(&self, root: &str) -> Result<(), RuntimeError> {
        let parents = self.parents().await?;
        let mut falling = vec![root.to_owned()];
        let mut next = 0;
        while let Some(parent) = falling.get(next).cloned() {
            let upon = parents.iter().filter(|(_, below)| **below == parent);
            falling.extend(upon.map(|(name, _)| name.clone()));
            next += 1;
        }
        for name in falling.iter().rev() {
            self.remove(name).await?;
            debug!(name, "a snapshot that was cut is removed, or stood on one");
        }
        Ok(())
    }

    /// Every snapshot, and which one it stands on.
    async fn parents(&self) -> Result<BTreeMap<String, String>, RuntimeError> {
        let doing = "list snapshots";
        let message = request::ListSnapshotsRequest {
            snapshotter: self.snapshotter.to_owned(),
            filters: Vec::new(),
        };
        let mut client = self.connection.client().await?.snapshots();
        let listed = client.list(self.connection.request(message)).await;
        let mut listed = listed.map_err(|status| failed(doing, &status))?.into_inner();
        let mut parents = BTreeMap::new();
        while let Some(part) = listed.message().await.map_err(|status| failed(doing, &status))? {
            parents.extend(part.info.into_iter().map(|info| (info.name, info.parent)));
        }
        Ok(parents)
    }

    /// Has the snapshotter remove folders that it does not know: of one that was made in the moment of a power cut the
    /// number is given out again, and then nothing can be made any more.
    pub(super) async fn sweep(&self) -> Result<(), RuntimeError> {
        let message = request::CleanupRequest { snapshotter: self.snapshotter.to_owned() };
        let mut client = self.connection.client().await?.snapshots();
        match client.cleanup(self.connection.request(message)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::Unimplemented => Ok(()),
            Err(status) => Err(failed("clean up snapshots", &status)),
        }
    }
}

/// The folder whose files lie over all others in a mount that is only read.
fn uppermost(mount: &Mount) -> Option<PathBuf> {
    let lower = mount.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    match mount.r#type.as_str() {
        "bind" => Some(mount.source.clone().into()),
        _ => lower.and_then(|all| all.split(':').next()).map(PathBuf::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_uppermost_layer_are_in_the_first_lower_directory() {
        let mut mount = Mount { r#type: "bind".to_owned(), ..Mount::default() };
        mount.source = "/s/1/fs".to_owned();
        assert_eq!(uppermost(&mount), Some("/s/1/fs".into()));
        mount.r#type = "overlay".to_owned();
        mount.options = vec!["index=off".to_owned(), "lowerdir=/s/2/fs:/s/1/fs".to_owned()];
        assert_eq!(uppermost(&mount), Some("/s/2/fs".into()));
        mount.options.clear();
        assert_eq!(uppermost(&mount), None);
    }
}
