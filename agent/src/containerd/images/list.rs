//! The images on the board, for people.

use std::collections::BTreeSet;
use std::path::Path;

use domain::model::{Digest, WallTime};

use super::Images;
use super::archive::stamp;
use super::import::archives;
use super::name::ImageName;
use super::parcel::blocking;
use super::records::{self, ARCHIVE, Record};
use crate::runtime::RuntimeError;

/// An image on the board, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The full reference.
    pub name: String,
    /// Of its manifest, or of the index that holds it.
    pub digest: Digest,
    /// Bytes of its layers and configuration as they were fetched; 0 where they are not all there.
    pub size: u64,
    /// `linux/arm64/v8`; empty where it is not all there, or not for this board.
    pub platform: String,
    /// It came from an archive, and no registry is asked.
    pub imported: bool,
    /// That archive lies in the folder of preloaded images.
    pub preloaded: bool,
    /// Since when these bits are here under this name.
    pub since: Option<WallTime>,
}

impl Images {
    /// Every image on the board, by name.
    pub async fn list(&self) -> Result<Vec<ImageInfo>, RuntimeError> {
        let mut records = records::list(&self.connection).await?;
        records.sort_by(|a, b| a.name.cmp(&b.name));
        let archives = stamps(&self.config.preload_dir).await?;
        let named: BTreeSet<Digest> = records
            .iter()
            .filter(|record| !record.name.contains('@'))
            .map(|record| record.target.digest)
            .collect();
        let mut infos = Vec::with_capacity(records.len());
        for record in &records {
            let digest = record.target.digest;
            // The second record of an image that also has a name is bookkeeping.
            if record.name.contains('@') && named.contains(&digest) {
                continue;
            }
            let (size, platform) = match self.selected(&record.name, digest).await {
                Ok(found) => {
                    let layers: u64 = found.manifest.layers.iter().map(|layer| layer.size).sum();
                    (layers + found.manifest.config.size, found.platform.to_string())
                }
                Err(RuntimeError::Failed(_)) => (0, String::new()),
                Err(error @ (RuntimeError::Unavailable(_) | RuntimeError::Forbidden(_))) => {
                    return Err(error);
                }
            };
            infos.push(ImageInfo {
                name: record.name.clone(),
                digest,
                size,
                platform,
                imported: record.is_imported(),
                preloaded: record.labels.get(ARCHIVE).is_some_and(|of| archives.contains(of)),
                since: since(record, &records),
            });
        }
        Ok(infos)
    }
}

/// A name stays when its tag moves on. The record of the bits was made when they came.
fn since(record: &Record, all: &[Record]) -> Option<WallTime> {
    let name: Option<ImageName> = record.name.parse().ok();
    let pinned = name.map(|name| name.pinned(record.target.digest).to_string());
    let bits = all.iter().find(|other| Some(&other.name) == pinned.as_ref());
    bits.unwrap_or(record).made
}

/// The stamps of the archives in the folder of preloaded images. One that cannot be read is none.
async fn stamps(dir: &Path) -> Result<BTreeSet<String>, RuntimeError> {
    let folder = dir.to_owned();
    blocking(dir, move || {
        let archives = archives(&folder).unwrap_or_default();
        Ok(archives.iter().filter_map(|archive| stamp(archive).ok()).collect())
    })
    .await
}
