//! Marks: which images were being written when, so that after a power cut it is known what may have been cut.
//!
//! ```text
//!   begin ──▶ blobs, layers, records ──▶ flushed ──▶ the agent ends in good order: gone
//!     │ power cut                          │ power cut
//!     └───────────────┬────────────────────┘
//!            another boot: in doubt ──▶ looked over ──▶ gone
//! ```
//!
//! A mark is one file, named by the image's root digest, and on the disk before the first byte that it speaks of. It
//! stays until the boot has ended well: what was written last is what a card with a cache of its own loses.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use domain::model::Digest;
use domain::reason::Reason;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::manifest::{Descriptor, Manifest, Selected, chain_ids};
use super::trouble;
use crate::runtime::RuntimeError;

/// Images of one boot that are looked over after a cut, although all of them was flushed: the last so many.
const FLUSHED_KEPT: usize = 8;

/// What was being written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The image's full name.
    pub(super) name: String,
    /// In which boot.
    boot: String,
    /// All of it was written, and flushed.
    flushed: bool,
    /// From the root down to the manifest.
    documents: Vec<Descriptor>,
    pub(super) manifest: Manifest,
    diff_ids: Vec<String>,
}

impl Mark {
    /// A mark of what is about to be written.
    pub(super) fn of(name: &str, image: &Selected, boot: &str) -> Self {
        Self {
            name: name.to_owned(),
            boot: boot.to_owned(),
            flushed: false,
            documents: image.documents.iter().map(|(document, _)| document.clone()).collect(),
            manifest: image.manifest.clone(),
            diff_ids: image.diff_ids.iter().map(ToString::to_string).collect(),
        }
    }

    /// The digest that stands for the image; none in a file that is no mark of ours.
    pub(super) fn root(&self) -> Option<Digest> {
        self.documents.first().map(|root| root.digest)
    }

    /// Each blob but the layers.
    pub(super) fn documents(&self) -> impl Iterator<Item = &Descriptor> {
        self.documents.iter().chain([&self.manifest.config])
    }

    /// The chain id of each layer, from the ground up.
    pub(super) fn chain(&self) -> Vec<Digest> {
        let parsed: Vec<Digest> = self.diff_ids.iter().flat_map(|id| id.parse()).collect();
        chain_ids(&parsed)
    }

    /// Whether an image has a part in common with this one.
    pub(super) fn touches(&self, image: &Selected) -> bool {
        let has = |blob: &Descriptor| {
            let layers = image.manifest.layers.iter();
            let documents = image.documents.iter().map(|(document, _)| document);
            let mut all = layers.chain(documents).chain([&image.manifest.config]);
            all.any(|other| other.digest == blob.digest)
        };
        let chain = chain_ids(&image.diff_ids);
        self.documents().chain(&self.manifest.layers).any(has)
            || self.chain().iter().any(|id| chain.contains(id))
    }
}

/// The marks of a board.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Where they are kept, and what this boot is called. None keeps none.
    place: Option<(PathBuf, String)>,
    doubts: Mutex<Vec<Mark>>,
    /// One is looked over at a time.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl Marks {
    /// Reads what an earlier boot left in `dir`.
    pub(super) fn open(dir: PathBuf, boot: String) -> Self {
        let mut doubts = Vec::new();
        for path in files(&dir) {
            match read(&path) {
                Ok(mark) if mark.boot != boot => doubts.push(mark),
                Ok(_) => (),
                Err(error) => {
                    // It was whole before it got its name, so this is no cut of ours. Nothing can be looked over by it.
                    warn!(path = %path.display(), %error, "a mark of an image cannot be read");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Self {
            place: Some((dir, boot)),
            doubts: Mutex::new(doubts),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Says, durably, that an image is about to be written.
    pub(super) async fn begin(&self, name: &str, image: &Selected) -> Result<(), RuntimeError> {
        let Some((dir, boot)) = self.place.clone() else { return Ok(()) };
        self.write(dir, Mark::of(name, image, &boot)).await
    }

    /// Says that all of it is written and flushed.
    pub(super) async fn flushed(&self, name: &str, image: &Selected) -> Result<(), RuntimeError> {
        let Some((dir, boot)) = self.place.clone() else { return Ok(()) };
        let mark = Mark { flushed: true, ..Mark::of(name, image, &boot) };
        self.write(dir.clone(), mark).await?;
        blocking(&dir.clone(), move || forget_oldest(&dir)).await
    }

    async fn write(&self, dir: PathBuf, mark: Mark) -> Result<(), RuntimeError> {
        blocking(&dir.clone(), move || write(&dir, &mark)).await
    }

    /// Whether a power cut may lie between the mark and now.
    pub(super) fn is_of_an_earlier_boot(&self, mark: &Mark) -> bool {
        self.place.as_ref().is_some_and(|(_, boot)| *boot != mark.boot)
    }

    /// Blobs of an image turn out to be damaged in this boot: they are looked over before they are used again.
    pub(super) fn doubt(&self, name: &str, image: &Selected) {
        let boot = self.place.as_ref().map(|(_, boot)| boot.as_str()).unwrap_or_default();
        let mark = Mark::of(name, image, boot);
        let mut doubts = self.lock();
        doubts.retain(|known| known.root() != mark.root());
        doubts.push(mark);
    }

    /// Those in doubt that are like this.
    pub(super) fn doubts(&self, like: impl Fn(&Mark) -> bool) -> Vec<Mark> {
        self.lock().iter().filter(|mark| like(mark)).cloned().collect()
    }

    /// An image was looked over: what is there of it can be trusted.
    pub(super) async fn settled(&self, mark: &Mark) -> Result<(), RuntimeError> {
        let dir = self.place.as_ref().map(|(dir, _)| dir);
        if let (Some(dir), Some(root)) = (dir, mark.root()) {
            let path = dir.join(root.hex());
            blocking(dir, move || absent_is_fine(fs::remove_file(path))).await?;
        }
        self.lock().retain(|known| known.root() != mark.root());
        Ok(())
    }

    /// The agent ends in good order, so that what it flushed in this boot is beyond doubt.
    pub(super) fn end_well(&self) {
        let Some((dir, _)) = &self.place else { return };
        let doubts = self.doubts(|_| true);
        for path in files(dir) {
            if let Ok(mark) = read(&path)
                && mark.flushed
                && !doubts.contains(&mark)
            {
                // What stays is looked over once more than needed.
                let _ = fs::remove_file(path);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Mark>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The marks of a folder, and not what was to become one.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_none()).collect()
}

fn read(path: &Path) -> io::Result<Mark> {
    let mark: Mark = serde_json::from_slice(&fs::read(path)?)?;
    match mark.root() {
        Some(_) => Ok(mark),
        None => Err(io::Error::other("it names no image")),
    }
}

fn write(dir: &Path, mark: &Mark) -> io::Result<()> {
    let root = mark.root().ok_or_else(|| io::Error::other("an image without a manifest"))?;
    if !dir.exists() {
        fs::create_dir_all(dir)?;
        File::open(dir.parent().unwrap_or(dir))?.sync_all()?;
    }
    let (path, new) = (dir.join(root.hex()), dir.join(format!("{}.new", root.hex())));
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(mark)?)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    File::open(dir)?.sync_all()
}

fn forget_oldest(dir: &Path) -> io::Result<()> {
    let mut flushed: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    for path in files(dir) {
        if read(&path).is_ok_and(|mark| mark.flushed) {
            flushed.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    flushed.sort();
    let surplus = flushed.len().saturating_sub(FLUSHED_KEPT);
    flushed.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

async fn blocking(
    dir: &Path,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), RuntimeError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| {
        let full = error.kind() == io::ErrorKind::StorageFull;
        let reason = if full { Reason::StorageFull } else { Reason::StorageFailed };
        trouble(reason, format!("cannot mark an image in {}: {error}", dir.display()))
    })
}
