//! Layers whose content is here already, packed otherwise: they are not fetched, and unpacked from what is here.
//!
//! An image names its layers twice: by the digest of what is fetched, and by that of what comes out of it (the diff id).
//! A registry that packs anew, or an archive whose layers are not packed at all, changes the first and not the second.
//! So each blob that was unpacked is labelled with its diff id, by the label that containerd's other clients use too.

use std::collections::BTreeMap;

use containerd_client::services::v1 as services;
use containerd_client::tonic::Status;
use domain::model::Digest;
use tracing::debug;

use super::content::{Blob, Content};
use super::manifest::{Descriptor, Selected};
use crate::containerd::connection::failed;
use crate::runtime::RuntimeError;

/// On a blob: the digest of what it unpacks to.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// For containerd, any packing: it looks at the first bytes where a type says that there is one, and takes what has none
/// as it is.
const PACKED: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What stands in for layers that are not here, by the digest of the layer.
pub(super) type Alike = BTreeMap<Digest, Descriptor>;

/// Looks for blobs that unpack to the same as layers of the image that are not here. What is found stays under the lease.
pub(super) async fn alike(leased: &Content, image: &Selected) -> Result<Alike, RuntimeError> {
    let layers = || image.manifest.layers.iter().zip(&image.diff_ids);
    let filters = layers().flat_map(|(layer, diff_id)| {
        let is = |field: &str, digest: &Digest| format!("{field}==\"{digest}\"");
        let label = format!("labels.\"{UNCOMPRESSED}\"");
        [is("digest", &layer.digest), is("digest", diff_id), is(&label, diff_id)]
    });
    let blobs = list(leased, filters.collect()).await?;
    let mut alike = Alike::new();
    for (layer, diff_id) in layers().filter(|(layer, _)| !blobs.contains_key(&layer.digest)) {
        let same = |(digest, (_, unpacked)): &(&Digest, &(u64, Option<Digest>))| {
            *digest == diff_id || unpacked.as_ref() == Some(diff_id)
        };
        let Some((digest, (size, _))) = blobs.iter().find(same) else { continue };
        let blob = Descriptor::plain(PACKED, *digest, *size);
        // To open what is there is to take it under the lease.
        match leased.open(&format!("skerry-alike-{digest}"), &blob).await? {
            Blob::Present => {
                debug!(layer = %layer.digest, blob = %digest, "the same content is here");
                alike.insert(layer.digest, blob);
            }
            Blob::Missing(begun) => leased.abort(*begun).await,
        }
    }
    Ok(alike)
}

/// Notes what a blob unpacks to.
pub(super) async fn note(
    content: &Content,
    blob: &Digest,
    diff_id: &Digest,
) -> Result<(), RuntimeError> {
    let label = (UNCOMPRESSED.to_owned(), diff_id.to_string());
    content.label(blob, BTreeMap::from([label])).await
}

/// Blobs with their sizes, and what they unpack to where that is known.
async fn list(
    content: &Content,
    filters: Vec<String>,
) -> Result<BTreeMap<Digest, (u64, Option<Digest>)>, RuntimeError> {
    let refused = |status: Status| failed("look for content", &status);
    let Content(connection) = content;
    let request = connection.request(services::ListContentRequest { filters });
    let mut client = connection.client().await?.content();
    let mut stream = client.list(request).await.map_err(refused)?.into_inner();
    let mut blobs = BTreeMap::new();
    while let Some(part) = stream.message().await.map_err(refused)? {
        blobs.extend(part.info.into_iter().filter_map(|info| {
            let unpacked = info.labels.get(UNCOMPRESSED).and_then(|text| text.parse().ok());
            let size = u64::try_from(info.size).ok()?;
            Some((info.digest.parse().ok()?, (size, unpacked)))
        }));
    }
    Ok(blobs)
}
