//! Images: from a registry or an archive to a snapshot that a container can start from.
//!
//! ```text
//!   reference ─▶ record? ──imported──────────────────────────▶ local digest
//!                  │ else                                          ▲
//!                  └─▶ registry: digest ──same as the record's─────┤ refused, or away: with a warning
//!                        └─ other ─▶ pull: layers, config, manifest, unpack, record
//! ```
//!
//! The root digest (of an index, or of a lone manifest) stands for the image. Each is recorded twice: under its name,
//! and under `repository@digest`, so that a revision keeps its bits when the tag moves on. What nobody needs any more goes
//! by `clear`.

mod archive;
mod by_hand;
mod clear;
mod compare;
mod content;
mod disk;
mod export;
mod fetch;
mod flush;
mod import;
mod leases;
mod list;
mod manifest;
mod marks;
mod name;
mod parcel;
mod platform;
mod progress;
mod pull;
mod records;
mod registry;
mod reuse;
mod signature;
mod snapshots;
mod space;
#[cfg(test)]
mod tests;
mod throttle;
mod trust;
mod unpack;
mod verify;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use domain::model::Digest;
use domain::reason::Reason;
use domain::replica::{Pulls, RegistryLogin, ResolvedImage, Trouble};
use tokio::sync::watch;
use tracing::debug;

use self::clear::Asked;
use self::content::Content;
use self::disk::Roots;
use self::flush::{Volume, content_root};
use self::leases::give_back;
use self::manifest::{Descriptor, Selected};
use self::marks::Marks;
use self::name::{ImageName, InvalidImageName, Version};
use self::platform::Board;
use self::progress::Progress;
use self::records::Record;
use self::space::{Shortages, no_space};
use self::throttle::Throttle;
use self::unpack::Snapshots;
use super::connection::Connection;
use crate::clock::Clock;
use crate::config;
use crate::runtime::RuntimeError;

pub use self::by_hand::PulledImage;
pub use self::export::Export;
pub use self::import::ImportedImage;
pub use self::list::ImageInfo;
pub use self::name::full_name;
pub use self::parcel::archived_names;
pub use self::verify::RepairedImage;

/// Whether a file's text holds a public key that signatures of images can be judged by.
pub fn is_public_key(text: &str) -> bool {
    signature::Key::parse(text).is_some()
}

/// Configurations kept in memory: more images than a board runs.
const KNOWN: usize = 32;

/// What an image says of how it is run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// The name of the snapshot of all its layers: the parent of a container's root file system.
    pub chain_id: String,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// The command's first words.
    pub entrypoint: Vec<String>,
    /// The words after the entrypoint.
    pub cmd: Vec<String>,
    /// `user`, `uid`, `user:group`, `uid:gid`; empty is root.
    pub user: String,
    /// Empty is `/`.
    pub working_dir: String,
    /// A name or number; empty is SIGTERM.
    pub stop_signal: String,
}

/// The images of one containerd namespace. Clones share what they know and take turns at pulling.
#[derive(Debug, Clone)]
pub struct Images {
    connection: Connection,
    snapshotter: String,
    config: Arc<config::Images>,
    clock: Clock,
    board: Arc<Board>,
    known: Arc<Mutex<VecDeque<(Digest, ImageConfig)>>>,
    turns: Arc<Turns>,
    preloading: watch::Sender<bool>,
    misfits: Arc<Mutex<VecDeque<Trouble>>>,
    taken: Arc<leases::Taken>,
    asked: Arc<tokio::sync::Mutex<Asked>>,
    /// What the archives on the board gave.
    preloads: Arc<Mutex<BTreeSet<Digest>>>,
    roots: Arc<OnceLock<Roots>>,
    shortages: Arc<Mutex<Shortages>>,
    /// What names stood for when they were last asked for in this run.
    begun: Arc<Mutex<BTreeMap<String, Digest>>>,
    throttle: Arc<Throttle>,
    progress: Arc<Progress>,
    marks: Arc<Marks>,
    repaired: Arc<Mutex<Vec<RepairedImage>>>,
}

/// Archives for other kinds of boards that are remembered, so that an app that wants one can be told.
const MISFITS_KEPT: usize = 32;

/// One of each at a time: a second one would only slow the first, on one uplink and one flash chip.
#[derive(Debug, Default)]
struct Turns {
    pull: tokio::sync::Mutex<()>,
    import: tokio::sync::Mutex<()>,
    unpack: tokio::sync::Mutex<()>,
    clear: tokio::sync::Mutex<()>,
    prepare: tokio::sync::Mutex<()>,
}

impl Images {
    /// Images of the connection's namespace; nothing is asked yet.
    pub fn new(
        connection: Connection,
        snapshotter: String,
        config: config::Images,
        clock: Clock,
    ) -> Self {
        Self {
            throttle: Arc::new(Throttle::new(config.max_bytes_per_second)),
            connection,
            snapshotter,
            config: Arc::new(config),
            clock,
            board: Arc::new(Board::this()),
            known: Arc::default(),
            turns: Arc::default(),
            preloading: watch::Sender::new(false),
            misfits: Arc::default(),
            taken: Arc::default(),
            asked: Arc::default(),
            preloads: Arc::default(),
            roots: Arc::default(),
            shortages: Arc::default(),
            begun: Arc::default(),
            progress: Arc::default(),
            marks: Arc::default(),
            repaired: Arc::default(),
        }
    }

    /// The same, and what is being written is marked in this folder, for the case that a power cut ends the boot.
    #[must_use]
    pub fn marked(mut self, dir: PathBuf, boot: String) -> Self {
        self.marks = Arc::new(Marks::open(dir, boot));
        self
    }

    /// Makes the image local and unpacked, and says which bits the reference stands for.
    ///
    /// What was imported, and what a digest names, is used without asking. For other tags the registry is asked; if it
    /// cannot be reached, has lost the tag or wants other credentials, the local copy is taken with a warning that says
    /// so. Where somebody must vouch for the
    /// image, nothing is fetched, unpacked or used before somebody did.
    pub async fn ensure(
        &self,
        reference: &str,
        logins: &[RegistryLogin],
    ) -> Result<ResolvedImage, RuntimeError> {
        self.ensure_local(reference, logins).await.map_err(no_space)
    }

    async fn ensure_local(
        &self,
        reference: &str,
        logins: &[RegistryLogin],
    ) -> Result<ResolvedImage, RuntimeError> {
        let invalid = |error: InvalidImageName| trouble(Reason::InvalidValue, error.to_string());
        let name: ImageName = reference.parse().map_err(invalid)?;
        self.ask_for(name.to_string()).await;
        let mut local = self.local(&name).await?;
        let missing = match &local {
            Some(local) => local.is_imported() && !self.is_whole(local).await?,
            None => true,
        };
        if missing && *self.preloading.borrow() {
            // It may be about to come from an archive: that is no reason to ask a registry that may be out of reach.
            self.preloaded().await;
            local = self.local(&name).await?;
        }
        let resolved = |digest, warning| ResolvedImage {
            reference: reference.to_owned(),
            name: name.to_string(),
            digest,
            warning,
        };
        if let Some(local) = &local
            && let Some(digest) = self.settled(&name, local).await?
        {
            return Ok(resolved(digest, None));
        }
        let refusal = match self.update(reference, &name, local.as_ref(), logins).await? {
            Ok(digest) => return Ok(resolved(digest, None)),
            Err(refusal) => refusal,
        };
        // Whatever the registry says, away, empty or closed to us: what is here runs, if it is whole and trusted.
        if let Some(local) = local {
            self.check_local(&name, &local).await?;
            if self.is_whole(&local).await? {
                let (digest, mut why) = (local.target.digest, refusal.into_error().trouble());
                why.details = format!("{}; the local copy {digest} is used", why.details);
                return Ok(resolved(digest, Some(why)));
            }
        }
        Err(self.misfit(&name).unwrap_or_else(|| refusal.into_error()))
    }

    /// What a local image stands for, where no registry has a say in it: it was imported, or a digest names it.
    async fn settled(
        &self,
        name: &ImageName,
        local: &Record,
    ) -> Result<Option<Digest>, RuntimeError> {
        let settled = local.is_imported() || matches!(name.version(), Version::Digest(_));
        let settled = settled && self.check_local(name, local).await.is_ok();
        Ok((settled && self.is_whole(local).await?).then_some(local.target.digest))
    }

    async fn local(&self, name: &ImageName) -> Result<Option<Record>, RuntimeError> {
        records::get(&self.connection, name.to_string()).await
    }

    /// Archives are about to be imported: until [`Self::preload`] is over, images that are not here are waited for.
    pub fn expect_preload(&self) {
        self.preloading.send_replace(true);
    }

    async fn preloaded(&self) {
        let mut preloading = self.preloading.subscribe();
        // The sender lives as long as this does.
        drop(preloading.wait_for(|preloading| !preloading).await);
    }

    /// An archive had this image, for another kind of board: that says more than a registry that nobody asked for it.
    fn misfit(&self, name: &ImageName) -> Option<RuntimeError> {
        let misfits = self.misfits.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = format!("{name} ");
        let found = misfits.iter().find(|misfit| misfit.details.starts_with(&begins));
        found.cloned().map(RuntimeError::Failed)
    }

    fn remember_misfit(&self, error: &RuntimeError) {
        let RuntimeError::Failed(trouble) = error else { return };
        if trouble.reason != Reason::ImagePlatformMismatch {
            return;
        }
        let mut misfits = self.misfits.lock().unwrap_or_else(PoisonError::into_inner);
        if !misfits.contains(trouble) {
            misfits.push_back(trouble.clone());
            let surplus = misfits.len().saturating_sub(MISFITS_KEPT);
            misfits.drain(..surplus);
        }
    }

    /// How the image is run. Costs no call for an image that `ensure` gave in this life of the agent.
    pub async fn config(&self, image: &ResolvedImage) -> Result<ImageConfig, RuntimeError> {
        match self.known(image.digest) {
            Some(config) => Ok(config),
            None => self.prepare(&image.name, image.digest).await,
        }
    }

    /// Forgets what is known of an image. For a caller that was refused its chain as a parent: asked again, `config`
    /// looks, and unpacks the image once more if its snapshot has gone.
    pub fn forget(&self, image: &ResolvedImage) {
        self.forget_digest(image.digest);
    }

    fn forget_digest(&self, root: Digest) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(digest, _)| *digest != root);
    }

    fn shortages(&self) -> MutexGuard<'_, Shortages> {
        self.shortages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn preloads(&self) -> BTreeSet<Digest> {
        self.preloads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How far pulls have come, for whoever looks on.
    pub fn pulls(&self) -> watch::Receiver<Arc<Pulls>> {
        self.progress.brisk()
    }

    /// How far pulls have come, at the pace of statuses.
    pub fn slow_pulls(&self) -> watch::Receiver<Arc<Pulls>> {
        self.progress.slow()
    }

    /// Whether a recorded image can be run; one with a part missing can be fetched again.
    async fn is_whole(&self, record: &Record) -> Result<bool, RuntimeError> {
        match self.prepare(&record.name, record.target.digest).await {
            Ok(_) => Ok(true),
            Err(RuntimeError::Failed(Trouble { reason: Reason::ImageCorrupt, details })) => {
                debug!(image = record.name, details, "a local image is not whole");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that a local image is unpacked.
    async fn prepare(&self, name: &str, root: Digest) -> Result<ImageConfig, RuntimeError> {
        if let Some(config) = self.known(root)
            && self.snapshots(&self.connection).contains(&config.chain_id).await?
        {
            return Ok(config);
        }
        self.settle(|mark| mark.root() == Some(root)).await?;
        let selected = self.selected(name, root).await?;
        self.settle_for(&selected).await?;
        // They would take the same lease, and the first would give it back under the feet of the second.
        let _turn = self.turns.prepare.lock().await;
        if !self.snapshots(&self.connection).contains(&selected.config.chain_id).await? {
            let leased = self.lease("unpack", root).await?;
            let unpacked = self.unpack_marked(&leased, name, &selected).await;
            give_back(&leased).await;
            unpacked?;
        }
        self.remember(root, &selected.config);
        Ok(selected.config)
    }

    async fn selected(&self, name: &str, root: Digest) -> Result<Selected, RuntimeError> {
        let mut content = Content(self.connection.clone());
        Selected::find(&self.board, name, Descriptor::plain("", root, 0), &mut content).await
    }

    /// What is left to do once the layers are there: the documents with their references, the snapshots, the records.
    async fn complete(
        &self,
        leased: &Connection,
        name: &ImageName,
        image: &Selected,
        labels: Labels,
    ) -> Result<(), RuntimeError> {
        let content = Content(leased.clone());
        let manifest = &image.manifest;
        let chain = format!("containerd.io/gc.ref.snapshot.{}", self.snapshotter);
        let keeps = BTreeMap::from([(chain, image.config.chain_id.clone())]);
        content.put(&manifest.config, &image.config_bytes, keeps).await?;
        let reference =
            |key: String, digest| (format!("containerd.io/gc.ref.content.{key}"), digest);
        let alike = reuse::alike(&content, image).await?;
        let layers = manifest.layers.iter().enumerate();
        let stand_ins = alike.values().enumerate();
        let mut keeps: BTreeMap<String, String> = layers
            .map(|(n, layer)| reference(format!("l.{n}"), layer.digest.to_string()))
            .chain(
                stand_ins.map(|(n, blob)| reference(format!("alike.{n}"), blob.digest.to_string())),
            )
            .chain([reference("config".to_owned(), manifest.config.digest.to_string())])
            .collect();
        for (blob, bytes) in image.documents.iter().rev() {
            content.put(blob, bytes, keeps).await?;
            keeps = BTreeMap::from([reference("m.0".to_owned(), blob.digest.to_string())]);
        }
        self.unpack(leased, &name.to_string(), image).await?;
        // The folders that blobs were renamed into, too: a record must not name what a power cut takes away.
        Volume::of(content_root(leased).await?).await?.flush().await?;
        let root = image.root();
        let _asked = self.asked.lock().await;
        for (name, labels) in
            [(name.pinned(root.digest), labels.pinned), (name.clone(), labels.named)]
        {
            let (name, target) = (name.to_string(), root.clone());
            let record = Record { name, target, labels, made: None };
            records::put(leased, record).await?;
        }
        self.marks.flushed(&name.to_string(), image).await?;
        self.remember(root.digest, &image.config);
        Ok(())
    }

    /// Before the first byte of an image is written: nothing that it is built on is in doubt, and it is marked.
    async fn begin(&self, name: &ImageName, image: &Selected) -> Result<(), RuntimeError> {
        self.settle_for(image).await?;
        self.marks.begin(&name.to_string(), image).await
    }

    async fn unpack_marked(
        &self,
        leased: &Connection,
        name: &str,
        image: &Selected,
    ) -> Result<(), RuntimeError> {
        self.marks.begin(name, image).await?;
        self.unpack(leased, name, image).await?;
        self.marks.flushed(name, image).await
    }

    async fn unpack(
        &self,
        leased: &Connection,
        name: &str,
        image: &Selected,
    ) -> Result<(), RuntimeError> {
        let _turn = self.turns.unpack.lock().await;
        let alike = reuse::alike(&Content(leased.clone()), image).await?;
        let unpacked = self.snapshots(leased).unpack(image, &alike).await;
        if let Err(RuntimeError::Failed(Trouble { reason: Reason::ImageCorrupt, .. })) = &unpacked {
            // A blob that is there is not what it should be: left alone, it would be taken for present again.
            self.marks.doubt(name, image);
        }
        unpacked
    }

    fn snapshots<'a>(&'a self, connection: &'a Connection) -> Snapshots<'a> {
        Snapshots { connection, snapshotter: &self.snapshotter }
    }

    fn known(&self, root: Digest) -> Option<ImageConfig> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(digest, _)| *digest == root).map(|(_, config)| config.clone())
    }

    fn remember(&self, root: Digest, config: &ImageConfig) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(digest, _)| *digest != root);
        known.truncate(KNOWN - 1);
        known.push_front((root, config.clone()));
    }
}

/// The labels of an image's two records.
#[derive(Debug, Default)]
struct Labels {
    named: BTreeMap<String, String>,
    pinned: BTreeMap<String, String>,
}

fn trouble(reason: Reason, details: String) -> RuntimeError {
    RuntimeError::Failed(Trouble { reason, details })
}
