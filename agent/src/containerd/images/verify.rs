//! What a power cut may have cut is looked over before it is used, and made anew where it was.
//!
//! ```text
//!   mark of another boot ─▶ every blob read: not what its digest says ─▶ removed, also from the disk
//!                        └▶ every layer, from the ground up: its files beside its blob
//!                             └─ the first that differs, or has no blob ─▶ it falls, with all that stands on it
//! ```
//!
//! What was removed is then missing, and what is missing is unpacked, imported or fetched again by whoever wants it.

use bytes::Bytes;
use domain::model::Digest;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::compare::{Arriving, Compared, Place, compare};
use super::content::{Content, Scanned};
use super::leases::discard;
use super::manifest::{Descriptor, Selected};
use super::marks::Mark;
use super::{Images, records};
use crate::containerd::connection::Connection;
use crate::report::Chain;
use crate::runtime::RuntimeError;

/// An image that had been cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairedImage {
    /// Its full name.
    pub name: String,
    /// What was cut, and removed.
    pub damage: String,
}

/// Pieces of a blob on their way to be compared: one is read while another is compared.
const PIECES: usize = 2;

impl Images {
    /// After a start: looks over everything that an earlier boot did not end well with, and unpacks again what of it was
    /// cut and can be. What cannot be looked over yet is an error, and stays in doubt.
    pub async fn look_over(&self) -> Result<(), RuntimeError> {
        self.snapshots(&self.connection).sweep().await?;
        let mut failed = None;
        for mark in self.marks.doubts(|_| true) {
            let root = mark.root();
            if let Err(error) = self.settle(|other| other.root() == root).await {
                warn!(image = mark.name, error = %Chain(&error), "an image stays in doubt");
                failed = Some(error);
            } else if let Some(root) = root {
                self.make_whole(root).await;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Images that were found cut and put in order since this was asked last.
    pub fn repaired(&self) -> Vec<RepairedImage> {
        std::mem::take(&mut *self.lock_repaired())
    }

    /// Before the agent ends in good order: what it wrote in this boot is on the disk, and beyond doubt.
    pub fn end_well(&self) {
        self.marks.end_well();
    }

    /// Looks over what has a part in common with an image that is about to be used.
    pub(super) async fn settle_for(&self, image: &Selected) -> Result<(), RuntimeError> {
        self.settle(|mark| mark.touches(image)).await
    }

    /// Looks over marks that are like this, where they are in doubt.
    pub(super) async fn settle(&self, like: impl Fn(&Mark) -> bool) -> Result<(), RuntimeError> {
        if self.marks.doubts(&like).is_empty() {
            return Ok(());
        }
        let _turn = self.marks.turn.lock().await;
        for mark in self.marks.doubts(&like) {
            let Some(root) = mark.root() else { continue };
            let leased = self.lease("verify", root).await?;
            let damage = self.verify(&leased, &mark).await;
            // Waits until what was removed is gone from the disk: what lies there would be taken for the blob anew.
            discard(&leased).await;
            let damage = damage?;
            self.marks.settled(&mark).await?;
            if damage.is_empty() {
                info!(
                    image = mark.name,
                    "what is there of an image that may have been cut is whole"
                );
                continue;
            }
            let damage = damage.join("; ");
            warn!(image = mark.name, damage, "an image was cut, and is made anew");
            self.lock_repaired().push(RepairedImage { name: mark.name, damage });
        }
        Ok(())
    }

    /// Unpacks an image again where its layers fell and its blobs are there.
    async fn make_whole(&self, root: Digest) {
        let recorded = records::list(&self.connection).await.unwrap_or_default();
        let Some(record) = recorded.iter().find(|record| record.target.digest == root) else {
            return;
        };
        // Whoever wants it is told why it is not.
        if let Err(error) = self.is_whole(record).await {
            info!(image = record.name, error = %Chain(&error), "not whole yet");
        }
    }

    /// Removes what was cut of an image, and says what that was.
    async fn verify(&self, leased: &Connection, mark: &Mark) -> Result<Vec<String>, RuntimeError> {
        let content = Content(leased.clone());
        let snapshots = self.snapshots(leased);
        let (mut damage, mut struck) = (Vec::new(), Vec::new());
        for document in mark.documents() {
            if content.scan(&document.digest, None).await? == Scanned::Damaged {
                struck.push(document.digest);
                damage.push(format!("document {}", document.digest));
            }
        }
        // Of a layer that fell, those above are gone too; of their blobs each is looked at all the same. What was
        // unpacked in this boot was not cut, and containers run on it.
        let mut stands = self.marks.is_of_an_earlier_boot(mark);
        for (index, (layer, id)) in mark.manifest.layers.iter().zip(mark.chain()).enumerate() {
            let id = id.to_string();
            stands = stands && snapshots.contains(&id).await?;
            let place = if index == 0 { Place::Ground } else { Place::Above };
            let (scanned, compared) = if stands {
                self.beside(leased, layer, &id, place).await?
            } else {
                (content.scan(&layer.digest, None).await?, Compared::Same)
            };
            if scanned == Scanned::Damaged {
                struck.push(layer.digest);
                damage.push(format!("layer {}", layer.digest));
            }
            let why = match (scanned, compared) {
                (Scanned::Whole, Compared::Same) => continue,
                (Scanned::Whole, Compared::Differs(why)) => why,
                (Scanned::Absent | Scanned::Damaged, _) => "its layer is not there".to_owned(),
            };
            if stands {
                snapshots.fell(&id).await?;
                damage.push(format!("unpacked layer {}: {why}", layer.digest));
                stands = false;
            }
        }
        // Last: without them nothing refers to the rest any more, and it may be collected as it is looked at.
        for digest in struck {
            content.remove(&digest).await?;
        }
        Ok(damage)
    }

    /// Reads a layer once: for its digest, and beside the files that were unpacked of it.
    async fn beside(
        &self,
        leased: &Connection,
        layer: &Descriptor,
        id: &str,
        place: Place,
    ) -> Result<(Scanned, Compared), RuntimeError> {
        let content = Content(leased.clone());
        let key = format!("skerry-look-{id}");
        let Some(dir) = self.snapshots(leased).folder(&key, id).await? else {
            let scanned = content.scan(&layer.digest, None).await?;
            return Ok((scanned, Compared::Differs("its files are in no folder".to_owned())));
        };
        let (pieces, arriving) = mpsc::channel::<Bytes>(PIECES);
        let comparing = spawn_blocking(move || compare(Arriving::new(arriving), &dir, place));
        let scanned = content.scan(&layer.digest, Some(pieces)).await?;
        let broken = |error| Compared::Differs(format!("the comparison broke off: {error}"));
        Ok((scanned, comparing.await.unwrap_or_else(broken)))
    }

    fn lock_repaired(&self) -> std::sync::MutexGuard<'_, Vec<RepairedImage>> {
        self.repaired.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
