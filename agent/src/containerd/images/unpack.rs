//! Layers into snapshots. A committed snapshot is complete, verified, and on the disk.

use std::path::PathBuf;
use std::time::Duration;

use containerd_client::services::v1 as services;
use containerd_client::services::v1::snapshots as request;
use containerd_client::tonic::Code;
use containerd_client::types::{self, Mount};
use domain::model::Digest;
use domain::reason::Reason;
use tracing::debug;

use super::content::Content;
use super::flush::Volume;
use super::manifest::{Descriptor, Selected, chain_ids};
use super::reuse::Alike;
use super::{reuse, trouble};
use crate::containerd::connection::{Connection, failed};
use crate::runtime::RuntimeError;

/// For one layer: a gigabyte onto a slow card.
const APPLY: Duration = Duration::from_mins(20);

/// Walks over the layers. The second is under a lease from the ground up, so a third is for containerd's whims.
const TRIES: usize = 3;

/// The snapshots of one snapshotter, as one lease (or none) sees them.
#[derive(Debug)]
pub(super) struct Snapshots<'a> {
    pub(super) connection: &'a Connection,
    pub(super) snapshotter: &'a str,
}

impl Snapshots<'_> {
    /// Whether there is a snapshot of this name.
    pub(super) async fn contains(&self, key: &str) -> Result<bool, RuntimeError> {
        let message = request::StatSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let mut client = self.connection.client().await?.snapshots();
        match client.stat(self.connection.request(message)).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(failed("look for a snapshot", &status)),
        }
    }

    /// Makes every layer of the image a snapshot. Needs a lease, and one caller at a time.
    ///
    /// A lower layer of some other image may be found, and be collected before it is built upon: then it is made anew,
    /// under the lease this time. `alike` stands in for layers that are not here.
    pub(super) async fn unpack(&self, image: &Selected, alike: &Alike) -> Result<(), RuntimeError> {
        for _ in 0..TRIES {
            if self.unpack_once(image, alike).await? == Ground::Firm {
                return Ok(());
            }
        }
        let details = format!("the layers of {} go as they come", image.root().digest);
        Err(trouble(Reason::ContainerdFailed, details))
    }

    async fn unpack_once(&self, image: &Selected, alike: &Alike) -> Result<Ground, RuntimeError> {
        let mut parent = String::new();
        let chain = chain_ids(&image.diff_ids);
        for ((layer, diff_id), id) in image.manifest.layers.iter().zip(&image.diff_ids).zip(chain) {
            let id = id.to_string();
            if !self.contains(&id).await? {
                let stand_in = alike.get(&layer.digest);
                let from = stand_in.unwrap_or(layer);
                let unpacked = self.unpack_layer(from, diff_id, &parent, &id).await;
                if let (Some(stand_in), Err(error)) = (stand_in, &unpacked)
                    && error.trouble().reason == Reason::ImageCorrupt
                {
                    // Left there it would stand in again; without it the layer is fetched.
                    Content(self.connection.clone()).remove(&stand_in.digest).await?;
                }
                if unpacked? == Ground::Gone {
                    return Ok(Ground::Gone);
                }
            }
            parent = id;
        }
        Ok(Ground::Firm)
    }

    async fn unpack_layer(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        parent: &str,
        id: &str,
    ) -> Result<Ground, RuntimeError> {
        let key = format!("skerry-unpack-{id}");
        // Left by an agent that was killed at it: nobody knows how far it came.
        self.remove(&key).await?;
        let Some(mounts) = self.prepare(&key, parent).await? else { return Ok(Ground::Gone) };
        let unpacked = self.fill(layer, diff_id, mounts, &key, id).await;
        if unpacked.is_err()
            && let Err(error) = self.remove(&key).await
        {
            debug!(%error, key, "an unfinished snapshot stays until the next try");
        }
        unpacked.map(|()| Ground::Firm)
    }

    /// None if there is no such parent.
    async fn prepare(&self, key: &str, parent: &str) -> Result<Option<Vec<Mount>>, RuntimeError> {
        let message = request::PrepareSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..request::PrepareSnapshotRequest::default()
        };
        let mut client = self.connection.client().await?.snapshots();
        match client.prepare(self.connection.request(message)).await {
            Ok(answer) => Ok(Some(answer.into_inner().mounts)),
            Err(status) if status.code() == Code::NotFound && !parent.is_empty() => Ok(None),
            Err(status) => Err(failed("prepare a snapshot", &status)),
        }
    }

    async fn fill(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        mounts: Vec<Mount>,
        key: &str,
        id: &str,
    ) -> Result<(), RuntimeError> {
        // Opened before: of an error of the disk, those are told who had it open when it came.
        let volume = Volume::of(mounts.last().and_then(directory)).await?;
        let applied = self.apply(layer, mounts).await?;
        if applied != diff_id.to_string() {
            let details = format!("{} unpacks to {applied} instead of {diff_id}", layer.digest);
            return Err(trouble(Reason::ImageCorrupt, details));
        }
        // For another image that has it packed otherwise; where it fails, that one is fetched.
        if let Err(error) =
            reuse::note(&Content(self.connection.clone()), &layer.digest, diff_id).await
        {
            debug!(%error, layer = %layer.digest, "what it unpacks to is not noted");
        }
        volume.flush().await?;
        let message = request::CommitSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            name: id.to_owned(),
            key: key.to_owned(),
            ..request::CommitSnapshotRequest::default()
        };
        let mut client = self.connection.client().await?.snapshots();
        match client.commit(self.connection.request(message)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => self.remove(key).await,
            Err(status) => Err(failed("commit a snapshot", &status)),
        }
    }

    async fn apply(&self, layer: &Descriptor, mounts: Vec<Mount>) -> Result<String, RuntimeError> {
        let diff = types::Descriptor {
            media_type: layer.media_type.clone(),
            digest: layer.digest.to_string(),
            size: i64::try_from(layer.size).unwrap_or(i64::MAX),
            ..types::Descriptor::default()
        };
        // `sync_fs` is known from containerd 2.0 on; older ones ignore it.
        let message = services::ApplyRequest {
            diff: Some(diff),
            mounts,
            sync_fs: true,
            ..services::ApplyRequest::default()
        };
        let mut call = self.connection.endless(message);
        call.set_timeout(APPLY);
        match self.connection.client().await?.diff().apply(call).await {
            Ok(answer) => Ok(answer.into_inner().applied.unwrap_or_default().digest),
            Err(status) if status.code() == Code::NotFound => {
                let details = format!("{} is gone from the content store", layer.digest);
                Err(trouble(Reason::ImageCorrupt, details))
            }
            Err(status) => Err(failed(&format!("unpack {}", layer.digest), &status)),
        }
    }

    pub(super) async fn remove(&self, key: &str) -> Result<(), RuntimeError> {
        let message = request::RemoveSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
        };
        let mut client = self.connection.client().await?.snapshots();
        match client.remove(self.connection.request(message)).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(failed("remove a snapshot", &status)),
        }
    }
}

/// What a layer is put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// It is there, and the layer upon it.
    Firm,
    /// It was collected a moment ago.
    Gone,
}

/// The folder that an unpacked layer was written to.
fn directory(mount: &Mount) -> Option<PathBuf> {
    let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
    match mount.r#type.as_str() {
        "bind" => Some(mount.source.clone().into()),
        _ => upper.map(PathBuf::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_layer_is_its_upper_directory_or_the_bind_mount() {
        let mut mount = Mount { r#type: "bind".to_owned(), ..Mount::default() };
        mount.source = "/s/1/fs".to_owned();
        assert_eq!(directory(&mount), Some("/s/1/fs".into()));
        mount.r#type = "overlay".to_owned();
        mount.options = vec!["workdir=/s/2/work".to_owned(), "upperdir=/s/2/fs".to_owned()];
        assert_eq!(directory(&mount), Some("/s/2/fs".into()));
    }
}
