//! The way of an image from an archive into the content store.
//!
//! An archive is checked as a whole before anything of it is written: one that was cut short, or that is for another
//! board, leaves nothing behind.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use domain::model::Digest;
use tracing::info;

use super::archive::stamp;
use super::content::{Blob, Content};
use super::leases::{discard, give_back};
use super::parcel::{ArchiveReader, Parcel, blocking};
use super::records::{self, ARCHIVE, IMPORTED};
use super::space::no_space;
use super::{Images, Labels};
use crate::containerd::connection::Connection;
use crate::runtime::RuntimeError;

/// What is taken for an archive in the folder of preloaded images.
const SUFFIXES: [&str; 3] = [".tar", ".tar.gz", ".tgz"];

/// An image that an archive gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedImage {
    /// The full reference.
    pub name: String,
    /// Of its manifest, or of the index that holds it.
    pub digest: Digest,
    /// It was there already, from the same archive.
    pub unchanged: bool,
}

impl Images {
    /// Makes every image of an archive local and unpacked: an OCI layout, or what `docker save` writes; gzipped or not.
    pub async fn import(&self, path: &Path) -> Result<Vec<ImportedImage>, RuntimeError> {
        let file = path.to_owned();
        let stamp = blocking(path, move || stamp(&file)).await?;
        self.import_stamped(path, &stamp).await.map_err(no_space)
    }

    /// Imports the archives of a folder in the order of their names. Those that are here unchanged cost a look each.
    pub async fn preload(
        &self,
        dir: &Path,
    ) -> Vec<(PathBuf, Result<Vec<ImportedImage>, RuntimeError>)> {
        let folder = dir.to_owned();
        let mut outcomes = Vec::new();
        match blocking(dir, move || archives(&folder)).await {
            Ok(archives) => {
                for path in archives {
                    let outcome = self.preload_one(&path).await;
                    outcomes.push((path, outcome));
                }
            }
            Err(error) => outcomes.push((dir.to_owned(), Err(error))),
        }
        self.preloading.send_replace(false);
        outcomes
    }

    async fn preload_one(&self, path: &Path) -> Result<Vec<ImportedImage>, RuntimeError> {
        let file = path.to_owned();
        let stamp = blocking(path, move || stamp(&file)).await?;
        let recorded = records::list(&self.connection).await?.into_iter();
        let of_it = recorded.filter(|record| record.labels.get(ARCHIVE) == Some(&stamp));
        let mut unchanged = Vec::new();
        for record in of_it {
            // The stamp says what came, and not what is left of it.
            if !self.is_whole(&record).await? {
                unchanged.clear();
                break;
            }
            let (name, digest) = (record.name, record.target.digest);
            unchanged.push(ImportedImage { name, digest, unchanged: true });
        }
        let images = if unchanged.is_empty() {
            self.import_stamped(path, &stamp).await.map_err(no_space)?
        } else {
            unchanged
        };
        let mut preloads = self.preloads.lock().unwrap_or_else(PoisonError::into_inner);
        preloads.extend(images.iter().map(|image| image.digest));
        drop(preloads);
        Ok(images)
    }

    async fn import_stamped(
        &self,
        path: &Path,
        stamp: &str,
    ) -> Result<Vec<ImportedImage>, RuntimeError> {
        let _turn = self.turns.import.lock().await;
        let mut reader = ArchiveReader::open(path).await?;
        let parcels = reader.parcels(&self.board).await;
        let parcels = parcels.inspect_err(|error| self.remember_misfit(error))?;
        for parcel in &parcels {
            self.check_archive(&parcel.name)?;
        }
        let mut imported = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            let digest = parcel.image.root().digest;
            let leased = self.lease("import", digest).await?;
            let done = self.import_leased(&leased, &mut reader, &parcel, stamp).await;
            match done {
                Ok(()) => give_back(&leased).await,
                Err(error) => {
                    discard(&leased).await;
                    return Err(error);
                }
            }
            info!(image = %parcel.name, %digest, archive = %path.display(), "image imported");
            let name = parcel.name.to_string();
            imported.push(ImportedImage { name, digest, unchanged: false });
        }
        Ok(imported)
    }

    async fn import_leased(
        &self,
        leased: &Connection,
        reader: &mut ArchiveReader,
        parcel: &Parcel,
        stamp: &str,
    ) -> Result<(), RuntimeError> {
        let content = Content(leased.clone());
        self.begin(&parcel.name, &parcel.image).await?;
        for (layer, extent) in &parcel.layers {
            let ingest = format!("skerry-import-{}", layer.digest);
            // What a power cut left of one has the right length and the wrong bytes, and the archive is at hand.
            content.clear(&ingest).await?;
            if let Blob::Missing(mut writer) = content.open(&ingest, layer).await?
                && let Err(error) = reader.carry(*extent, &mut writer).await
            {
                content.abort(*writer).await;
                return Err(error);
            }
        }
        let imported = (IMPORTED.to_owned(), "archive".to_owned());
        // The stamp stands on the name alone: only the name says what the archive gave last.
        let labels = Labels {
            pinned: BTreeMap::from([imported.clone()]),
            named: BTreeMap::from([imported, (ARCHIVE.to_owned(), stamp.to_owned())]),
        };
        self.complete(leased, &parcel.name, &parcel.image, labels).await
    }
}

/// The archives of a folder; a folder that does not exist has none.
pub(super) fn archives(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut archives = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) && path.is_file() {
            archives.push(path);
        }
    }
    archives.sort();
    Ok(archives)
}
