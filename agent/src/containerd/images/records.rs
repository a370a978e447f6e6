//! Image records: the names that containerd knows images by, and that keep their content from being collected.

use std::collections::BTreeMap;
use std::time::Duration;

use containerd_client::services::v1 as services;
use containerd_client::tonic::Code;
use containerd_client::types;
use domain::model::WallTime;

use super::manifest::Descriptor;
use crate::containerd::connection::{Connection, failed};
use crate::runtime::RuntimeError;

/// On an image that came from an archive: used without asking a registry.
pub(super) const IMPORTED: &str = "skerry.io/imported";
/// On an image that came from an archive: the stamp of the file.
pub(super) const ARCHIVE: &str = "skerry.io/archive";

/// On an image that nobody needs: since when, as RFC 3339.
pub(super) const UNNEEDED: &str = "skerry.io/unneeded-since";

/// On an image that somebody vouches for: the fingerprint of the key, and the digest.
pub(super) const SIGNED_BY: &str = "skerry.io/signed-by";

/// A name and what it stands for.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) target: Descriptor,
    pub(super) labels: BTreeMap<String, String>,
    /// When it was made; none for one that is about to be.
    pub(super) made: Option<WallTime>,
}

impl Record {
    pub(super) fn is_imported(&self) -> bool {
        self.labels.contains_key(IMPORTED)
    }

    /// None for a target that is no sha256: nothing of ours.
    fn read(image: services::Image) -> Option<Self> {
        let target = image.target?;
        let digest = target.digest.parse().ok()?;
        let size = u64::try_from(target.size).ok()?;
        let seconds = image.created_at.and_then(|made| u64::try_from(made.seconds).ok());
        Some(Self {
            name: image.name,
            target: Descriptor::plain(&target.media_type, digest, size),
            labels: image.labels.into_iter().collect(),
            made: seconds.map(|seconds| WallTime(Duration::from_secs(seconds))),
        })
    }
}

/// The record of this name, where there is one.
pub(super) async fn get(
    connection: &Connection,
    name: String,
) -> Result<Option<Record>, RuntimeError> {
    let request = connection.request(services::GetImageRequest { name });
    match connection.client().await?.images().get(request).await {
        Ok(answer) => Ok(answer.into_inner().image.and_then(Record::read)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(failed("look for an image", &status)),
    }
}

/// Every record.
pub(super) async fn list(connection: &Connection) -> Result<Vec<Record>, RuntimeError> {
    let request = connection.request(services::ListImagesRequest::default());
    let answer = connection.client().await?.images().list(request).await;
    let answer = answer.map_err(|status| failed("list images", &status))?;
    Ok(answer.into_inner().images.into_iter().filter_map(Record::read).collect())
}

/// Makes the record, or makes it the record that is asked for.
pub(super) async fn put(connection: &Connection, record: Record) -> Result<(), RuntimeError> {
    let target = types::Descriptor {
        media_type: record.target.media_type,
        digest: record.target.digest.to_string(),
        size: i64::try_from(record.target.size).unwrap_or(i64::MAX),
        ..types::Descriptor::default()
    };
    let image = Some(services::Image {
        name: record.name,
        labels: record.labels.into_iter().collect(),
        target: Some(target),
        ..services::Image::default()
    });
    let mut client = connection.client().await?.images();
    let create = services::CreateImageRequest { image: image.clone(), source_date_epoch: None };
    match client.create(connection.request(create)).await {
        Ok(_) => return Ok(()),
        Err(status) if status.code() == Code::AlreadyExists => (),
        Err(status) => return Err(failed("record an image", &status)),
    }
    let paths = vec!["target".to_owned(), "labels".to_owned()];
    let update_mask = Some(prost_types::FieldMask { paths });
    let update = services::UpdateImageRequest { image, update_mask, source_date_epoch: None };
    let answer = client.update(connection.request(update)).await;
    answer.map(drop).map_err(|status| failed("record an image", &status))
}

/// Sets one label of a record, or with an empty value removes it. A record that is gone needs none.
pub(super) async fn label(
    connection: &Connection,
    name: String,
    key: &str,
    value: String,
) -> Result<(), RuntimeError> {
    let labels = [(key.to_owned(), value)].into_iter().collect();
    let image = Some(services::Image { name, labels, ..services::Image::default() });
    let paths = vec![format!("labels.{key}")];
    let update_mask = Some(prost_types::FieldMask { paths });
    let update = services::UpdateImageRequest { image, update_mask, source_date_epoch: None };
    match connection.client().await?.images().update(connection.request(update)).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(failed("label an image", &status)),
    }
}
