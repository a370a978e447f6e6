//! Images of the board as one OCI archive, which goes out in pieces and is never whole anywhere here.
//!
//! ```text
//!   oci-layout  index.json  manifest.json   then each blob once: documents, configurations, layers
//! ```
//!
//! `index.json` keeps the root digests, so that an image has the same name and digest where it is imported. Of an index,
//! only what suits this board is here, and goes along. `manifest.json` is the list that `docker load` reads.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1 as services;
use containerd_client::services::v1::ReadContentResponse;
use containerd_client::tonic::{Code, Streaming};
use domain::model::Digest;
use domain::reason::Reason;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::manifest::{Descriptor, OCI_INDEX, Selected, corrupt};
use super::name::{ImageName, InvalidImageName, Version};
use super::parcel::{NAME, REF_NAME, blob_path};
use super::{Images, trouble};
use crate::containerd::connection::{Connection, failed};
use crate::runtime::RuntimeError;

/// Between two pieces of a blob that containerd reads from its disk.
const PIECE: Duration = Duration::from_mins(1);
/// What tar counts in.
const BLOCK: usize = 512;
/// The end of a tar: two blocks of nothing.
const END: usize = 2 * BLOCK;

/// An archive on its way out.
pub struct Export {
    /// What is in it.
    pub names: Vec<String>,
    /// Its bytes.
    pub size: u64,
    /// The archive. An error ends it, and what came before is no archive.
    pub parts: BoxStream<'static, Result<Bytes, RuntimeError>>,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("names", &self.names).finish_non_exhaustive()
    }
}

/// One file of the archive.
enum Entry {
    /// A small one, at hand.
    Text(String, Vec<u8>),
    /// A blob of the content store.
    Blob(Descriptor),
}

impl Images {
    /// The archive of these images, each looked through beforehand: what is not all here is told before a byte goes out.
    pub async fn export(&self, references: &[String]) -> Result<Export, RuntimeError> {
        // One of them may be about to come from an archive of the board.
        self.preloaded().await;
        let mut images: BTreeMap<ImageName, Selected> = BTreeMap::new();
        for reference in references {
            let invalid =
                |error: InvalidImageName| trouble(Reason::InvalidValue, error.to_string());
            let name: ImageName = reference.parse().map_err(invalid)?;
            let Some(record) = self.local(&name).await? else {
                let details =
                    format!("{name} is not on this board; skerry images ls lists what is");
                return Err(trouble(Reason::ImageNotFound, details));
            };
            let selected = self.selected(&record.name, record.target.digest).await?;
            for layer in &selected.manifest.layers {
                self.check_blob(&name, layer).await?;
            }
            images.insert(name, selected);
        }
        let entries = entries(&images);
        let size = entries.iter().map(Entry::size).sum::<u64>() + END as u64;
        let connection = self.connection.clone();
        let files = stream::iter(entries).flat_map(move |entry| entry.parts(&connection));
        let end = stream::iter([Ok(Bytes::from_static(&[0; END]))]);
        let names = images.keys().map(ToString::to_string).collect();
        Ok(Export { names, size, parts: files.chain(end).boxed() })
    }

    async fn check_blob(&self, name: &ImageName, blob: &Descriptor) -> Result<(), RuntimeError> {
        let request = services::InfoRequest { digest: blob.digest.to_string() };
        let mut client = self.connection.client().await?.content();
        let size = match client.info(self.connection.request(request)).await {
            Ok(answer) => answer.into_inner().info.map_or(0, |info| info.size),
            Err(status) if status.code() == Code::NotFound => {
                return Err(corrupt(&name.to_string(), &blob.digest, "is missing on this board"));
            }
            Err(status) => return Err(failed("look for content", &status)),
        };
        if u64::try_from(size) == Ok(blob.size) {
            return Ok(());
        }
        let why = "has another length than its descriptor says";
        Err(corrupt(&name.to_string(), &blob.digest, why))
    }
}

/// All that stands in the archive, in its order.
fn entries(images: &BTreeMap<ImageName, Selected>) -> Vec<Entry> {
    let (mut index, mut docker) = (Vec::new(), Vec::new());
    let mut texts: BTreeMap<Digest, Vec<u8>> = BTreeMap::new();
    let mut layers: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    for (name, image) in images {
        index.push(described(name, image));
        docker.push(listed(name, image));
        for (document, bytes) in &image.documents {
            texts.insert(document.digest, bytes.clone());
        }
        texts.insert(image.manifest.config.digest, image.config_bytes.clone());
        layers.extend(image.manifest.layers.iter().map(|layer| (layer.digest, layer.clone())));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index });
    let text = |name: &str, value: Value| Entry::Text(name.to_owned(), value.to_string().into());
    let head = [
        text("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
        text("index.json", index),
        text("manifest.json", Value::Array(docker)),
    ];
    let texts = texts.into_iter().map(|(digest, bytes)| Entry::Text(blob_path(&digest), bytes));
    head.into_iter().chain(texts).chain(layers.into_values().map(Entry::Blob)).collect()
}

/// An image in `index.json`.
fn described(name: &ImageName, image: &Selected) -> Value {
    let name = name.to_string();
    let mut entry = serde_json::to_value(image.root()).expect("a descriptor is plain data");
    entry["annotations"] = json!({ NAME: name, REF_NAME: name });
    entry["platform"] = serde_json::to_value(&image.platform).expect("a platform is plain data");
    entry
}

/// An image in `manifest.json`. What is named by a digest has no tag.
fn listed(name: &ImageName, image: &Selected) -> Value {
    let tags = match name.version() {
        Version::Tag(_) => json!([name.to_string()]),
        Version::Digest(_) => Value::Null,
    };
    let layers = image.manifest.layers.iter().map(|layer| blob_path(&layer.digest));
    let layers: Vec<String> = layers.collect();
    let config = blob_path(&image.manifest.config.digest);
    json!({ "Config": config, "RepoTags": tags, "Layers": layers })
}

impl Entry {
    fn length(&self) -> u64 {
        match self {
            Self::Text(_, bytes) => bytes.len() as u64,
            Self::Blob(blob) => blob.size,
        }
    }

    /// Its bytes in the archive.
    fn size(&self) -> u64 {
        self.length().next_multiple_of(BLOCK as u64) + BLOCK as u64
    }

    fn parts(self, connection: &Connection) -> BoxStream<'static, Result<Bytes, RuntimeError>> {
        let length = self.length();
        let padding = length.next_multiple_of(BLOCK as u64) - length;
        let padding = usize::try_from(padding).unwrap_or_default();
        let padding = stream::iter([Ok(Bytes::from(vec![0; padding]))]);
        match self {
            Self::Text(name, bytes) => {
                let head = header(&name, length);
                stream::iter([head, Ok(bytes.into())]).chain(padding).boxed()
            }
            Self::Blob(blob) => {
                let head = stream::iter([header(&blob_path(&blob.digest), length)]);
                head.chain(body(connection.clone(), blob)).chain(padding).boxed()
            }
        }
    }
}

/// The same file gives the same header: no time and no owner go in.
fn header(name: &str, size: u64) -> Result<Bytes, RuntimeError> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).map_err(|error| {
        trouble(Reason::ImageCorrupt, format!("{name} fits no archive: {error}"))
    })?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

/// A blob as it comes from containerd, checked on the way.
struct Reading {
    pieces: Streaming<ReadContentResponse>,
    sum: Sha256,
    left: u64,
    blob: Descriptor,
}

fn body(
    connection: Connection,
    blob: Descriptor,
) -> impl futures_util::Stream<Item = Result<Bytes, RuntimeError>> + Send + 'static {
    let opened = async move {
        let digest = blob.digest.to_string();
        let request = services::ReadContentRequest { digest, offset: 0, size: 0 };
        let mut client = connection.client().await?.content();
        let asked = timeout(PIECE, client.read(connection.endless(request))).await;
        let answer = asked.map_err(|_| late())?;
        let pieces = answer.map_err(|status| failed("read content", &status))?.into_inner();
        let left = blob.size;
        Ok::<_, RuntimeError>(Reading { pieces, sum: Sha256::new(), left, blob })
    };
    stream::once(opened).map_ok(|reading| stream::try_unfold(reading, Reading::next)).try_flatten()
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, RuntimeError> {
        let piece = timeout(PIECE, self.pieces.message()).await.map_err(|_| late())?;
        match piece.map_err(|status| failed("read content", &status))? {
            Some(piece) => {
                let left = self.left.checked_sub(piece.data.len() as u64);
                self.left = left.ok_or_else(|| self.wrong("is longer than its descriptor says"))?;
                self.sum.update(&piece.data);
                Ok(Some((piece.data.into(), self)))
            }
            None if self.left != 0 => Err(self.wrong("is shorter than its descriptor says")),
            None if hex::encode(self.sum.clone().finalize()) != self.blob.digest.hex() => {
                Err(self.wrong("has other content than its digest says"))
            }
            None => Ok(None),
        }
    }

    fn wrong(&self, why: &str) -> RuntimeError {
        trouble(Reason::ImageCorrupt, format!("{} {why}", self.blob.digest))
    }
}

fn late() -> RuntimeError {
    RuntimeError::Unavailable("no answer while content was read".to_owned())
}
