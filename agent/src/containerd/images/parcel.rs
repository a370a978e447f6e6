//! What an archive holds for this board: each image with a name, found complete.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use domain::model::Digest;
use domain::reason::Reason;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};

use super::archive::{Archive, Extent, Flow, Packing};
use super::content::Ingest;
use super::manifest::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, Descriptor, Document,
    Documents, MAX_DOCUMENT, Manifest, Selected, choose, corrupt,
};
use super::name::ImageName;
use super::platform::Board;
use super::trouble;
use crate::runtime::RuntimeError;

/// The name in full, as containerd writes it.
pub(super) const NAME: &str = "io.containerd.image.name";
/// The tag alone, or the name in full: tools differ.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// One image of an archive, found complete.
pub(super) struct Parcel {
    pub(super) name: ImageName,
    pub(super) image: Selected,
    /// In the order in which they stand in the archive.
    pub(super) layers: Vec<(Descriptor, Extent)>,
}

/// What `manifest.json` of `docker save` lists.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// An open archive, lent to a blocking thread for each reading.
pub(super) struct ArchiveReader {
    path: PathBuf,
    archive: Option<Archive>,
}

impl ArchiveReader {
    pub(super) async fn open(path: &Path) -> Result<Self, RuntimeError> {
        let file = path.to_owned();
        let archive = blocking(path, move || Archive::open(&file)).await?;
        Ok(Self { path: path.to_owned(), archive: Some(archive) })
    }

    /// Every image that the archive names, for this board.
    pub(super) async fn parcels(&mut self, board: &Board) -> Result<Vec<Parcel>, RuntimeError> {
        let docker = self.docker_images().await?;
        let parcels = match self.json("index.json").await? {
            Some(index) => self.oci_parcels(board, &index, &docker).await?,
            None => self.docker_parcels(board, &docker).await?,
        };
        if parcels.is_empty() {
            return Err(self.nameless());
        }
        Ok(parcels)
    }

    async fn oci_parcels(
        &mut self,
        board: &Board,
        index: &[u8],
        docker: &[DockerImage],
    ) -> Result<Vec<Parcel>, RuntimeError> {
        let parsed = Document::parse(index);
        let Ok(Document::Index(entries, _)) = parsed else {
            return Err(self.corrupt("index.json is no index"));
        };
        let mut named: BTreeMap<ImageName, Vec<Descriptor>> = BTreeMap::new();
        let mut nameless = Vec::new();
        for entry in entries {
            match annotated(&entry) {
                Some(name) => named.entry(name).or_default().push(entry),
                None => nameless.push(entry),
            }
        }
        let mut parcels = Vec::new();
        for (name, entries) in named {
            let root = choose(board, &name.to_string(), &entries)?;
            let image = Selected::find(board, &name.to_string(), root.clone(), self).await?;
            parcels.push(self.parcel(name, image)?);
        }
        if !parcels.is_empty() || nameless.is_empty() {
            return Ok(parcels);
        }
        // Last, the names that the other list gives to the same configuration.
        let title = self.path.display().to_string();
        let root = match nameless.as_slice() {
            [only] => only,
            several => choose(board, &title, several)?,
        };
        let image = Selected::find(board, &title, root.clone(), self).await?;
        let config = image.manifest.config.digest.hex();
        let tags = docker.iter().filter(|image| image.config.contains(&config));
        for name in tags.flat_map(names) {
            let image = Selected::find(board, &title, root.clone(), self).await?;
            parcels.push(self.parcel(name, image)?);
        }
        Ok(parcels)
    }

    /// Checks that every layer is there in its full length.
    fn parcel(&self, name: ImageName, image: Selected) -> Result<Parcel, RuntimeError> {
        let mut layers = Vec::with_capacity(image.manifest.layers.len());
        for layer in &image.manifest.layers {
            let wrong = |why| corrupt(&name.to_string(), &layer.digest, why);
            let extent = self.find(&blob_path(&layer.digest));
            let extent = extent.ok_or_else(|| wrong("is missing from the archive"))?;
            if extent.size != layer.size {
                return Err(wrong("has another length than its descriptor says"));
            }
            layers.push((layer.clone(), extent));
        }
        layers.sort_by_key(|(_, extent)| *extent);
        Ok(Parcel { name, image, layers })
    }

    async fn docker_parcels(
        &mut self,
        board: &Board,
        images: &[DockerImage],
    ) -> Result<Vec<Parcel>, RuntimeError> {
        let mut parcels = Vec::new();
        for image in images {
            for name in names(image) {
                parcels.push(self.docker_parcel(board, name, image).await?);
            }
        }
        Ok(parcels)
    }

    /// Such an archive has no manifest of the usual kind; the one that is made here is the same every time.
    async fn docker_parcel(
        &mut self,
        board: &Board,
        name: ImageName,
        docker: &DockerImage,
    ) -> Result<Parcel, RuntimeError> {
        let config = self.json(&docker.config).await?;
        let config =
            config.ok_or_else(|| self.corrupt(&format!("{} is missing", docker.config)))?;
        let mut layers = Vec::with_capacity(docker.layers.len());
        for path in &docker.layers {
            let extent = self.find(path);
            let extent = extent.ok_or_else(|| self.corrupt(&format!("{path} is missing")))?;
            let (digest, packing) = self.with(move |archive| archive.digest(extent)).await?;
            let media_type = match packing {
                Packing::Plain => DOCKER_LAYER,
                Packing::Gzip => DOCKER_LAYER_GZIP,
            };
            layers.push((Descriptor::plain(media_type, digest, extent.size), extent));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: DOCKER_MANIFEST.to_owned(),
            config: Descriptor::of(DOCKER_CONFIG, &config),
            layers: layers.iter().map(|(layer, _)| layer.clone()).collect(),
        };
        let bytes = serde_json::to_vec(&manifest).expect("a manifest is plain data");
        let documents = vec![(Descriptor::of(DOCKER_MANIFEST, &bytes), bytes)];
        let image = Selected::new(board, &name.to_string(), documents, manifest, config)?;
        for ((layer, _), diff_id) in layers.iter().zip(&image.diff_ids) {
            if layer.media_type == DOCKER_LAYER && layer.digest != *diff_id {
                let why = "is not the layer that the configuration names";
                return Err(corrupt(&name.to_string(), &layer.digest, why));
            }
        }
        layers.sort_by_key(|(_, extent)| *extent);
        Ok(Parcel { name, image, layers })
    }

    async fn docker_images(&mut self) -> Result<Vec<DockerImage>, RuntimeError> {
        match self.json("manifest.json").await? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| self.corrupt(&format!("manifest.json: {error}"))),
            None => Ok(Vec::new()),
        }
    }

    /// A small file of the archive.
    async fn json(&mut self, name: &str) -> Result<Option<Vec<u8>>, RuntimeError> {
        match self.find(name) {
            Some(extent) => {
                self.with(move |archive| archive.read(extent, MAX_DOCUMENT)).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// Brings a layer to the store.
    pub(super) async fn carry(
        &mut self,
        extent: Extent,
        writer: &mut Ingest,
    ) -> Result<(), RuntimeError> {
        let done = writer.offset().min(extent.size);
        let rest = Extent { offset: extent.offset + done, size: extent.size - done };
        // Two: one piece is read while the other is written.
        let (pieces, arriving) = mpsc::channel::<Bytes>(2);
        let reading = self.with(move |archive| {
            archive.stream(rest, |piece| match pieces.blocking_send(piece) {
                Ok(()) => Flow::Go,
                Err(_) => Flow::Stop,
            })
        });
        let writing = async {
            // Moved in: a reader whose pieces nobody takes stops.
            let mut arriving = arriving;
            while let Some(piece) = arriving.recv().await {
                writer.write(&piece).await?;
            }
            Ok(())
        };
        let (read, written) = tokio::join!(reading, writing);
        read?;
        written?;
        writer.commit(BTreeMap::new()).await.map(drop)
    }

    fn find(&self, name: &str) -> Option<Extent> {
        self.archive.as_ref()?.find(name)
    }

    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Archive) -> io::Result<T> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let mut archive = self.archive.take().ok_or_else(|| self.corrupt("cannot be read"))?;
        let lent = spawn_blocking(move || {
            let result = work(&mut archive);
            (archive, result)
        });
        let (archive, result) = lent.await.map_err(|error| panicked(&error))?;
        self.archive = Some(archive);
        result.map_err(|error| unreadable(&self.path, &error))
    }

    fn corrupt(&self, why: &str) -> RuntimeError {
        trouble(Reason::ImageCorrupt, format!("{}: {why}", self.path.display()))
    }

    fn nameless(&self) -> RuntimeError {
        let details = format!(
            "{} names no image: neither by {NAME}, nor by a full {REF_NAME}, nor by RepoTags",
            self.path.display()
        );
        trouble(Reason::ImageCorrupt, details)
    }
}

/// The names of all images in an archive, whatever board they are for. Blocks.
pub fn archived_names(path: &Path) -> io::Result<Vec<String>> {
    let mut archive = Archive::open(path)?;
    let mut found = BTreeSet::new();
    if let Some(extent) = archive.find("index.json") {
        let bytes = archive.read(extent, MAX_DOCUMENT)?;
        let Ok(Document::Index(entries, _)) = Document::parse(&bytes) else {
            return Err(io::Error::other("index.json is no index"));
        };
        found.extend(entries.iter().filter_map(annotated));
    }
    if let Some(extent) = archive.find("manifest.json")
        && found.is_empty()
    {
        let bytes = archive.read(extent, MAX_DOCUMENT)?;
        let images: Vec<DockerImage> = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
        found.extend(images.iter().flat_map(names));
    }
    Ok(found.iter().map(ToString::to_string).collect())
}

impl Documents for ArchiveReader {
    async fn document(&mut self, which: &Descriptor) -> Result<Vec<u8>, RuntimeError> {
        let found = self.json(&blob_path(&which.digest)).await?;
        found.ok_or_else(|| self.corrupt(&format!("{} is missing", which.digest)))
    }
}

pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The name that the annotations of an entry give. A tag alone is none.
fn annotated(entry: &Descriptor) -> Option<ImageName> {
    let full = |text: &&str| text.contains([':', '/']);
    let text = entry.annotation(NAME).or(entry.annotation(REF_NAME).filter(full))?;
    text.parse().ok()
}

fn names(image: &DockerImage) -> Vec<ImageName> {
    let tags = image.repo_tags.iter().flatten();
    tags.filter_map(|tag| tag.parse().ok()).collect()
}

/// Work on files, away from the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    let done = spawn_blocking(work).await.map_err(|error| panicked(&error))?;
    done.map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> RuntimeError {
    let hidden = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
    let is_hidden = hidden.contains(&error.kind());
    let reason = if is_hidden { Reason::ImageNotFound } else { Reason::ImageCorrupt };
    trouble(reason, format!("cannot read {}: {error}", path.display()))
}

fn panicked(error: &JoinError) -> RuntimeError {
    trouble(Reason::ImageCorrupt, format!("the reading of an archive broke off: {error}"))
}
