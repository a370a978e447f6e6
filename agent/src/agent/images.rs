//! What the local API does with images, by the adapter that has them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use domain::model::Digest;
use domain::replica::{PullProgress, Pulls, Trouble};
use domain::view::ImageUse;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::{oneshot, watch};

use crate::api::sources::{Exported, Image, ImageStore, PullNews, PullOrder};
use crate::containerd::images::{ImageInfo, Images, PulledImage, full_name};
use crate::inbox::{Inbox, Request};
use crate::runtime::RuntimeError;

/// The images of containerd.
#[derive(Debug)]
pub(super) struct BoardImages {
    images: Images,
    inbox: Inbox,
}

impl BoardImages {
    pub(super) fn new(images: Images, inbox: Inbox) -> Self {
        Self { images, inbox }
    }

    /// Which apps run which images. A loop that is ending has none.
    async fn uses(&self) -> Vec<ImageUse> {
        let (reply, answer) = oneshot::channel();
        if self.inbox.send(Request::ImageUses { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

impl ImageStore for BoardImages {
    async fn list(&self) -> Result<Vec<Image>, Trouble> {
        let images = self.images.list().await.map_err(|error| error.trouble())?;
        let users = Users::of(&self.uses().await);
        Ok(images.into_iter().map(|info| shown(info, &users)).collect())
    }

    async fn import(&self, archive: &Path) -> Result<Vec<String>, Trouble> {
        let imported = self.images.import(archive).await.map_err(|error| error.trouble())?;
        // What waits for one of them need not wait out its back-off; a loop that has ended needs no news.
        let _ = self.inbox.send(Request::ImagesChanged).await;
        Ok(imported.into_iter().map(|image| image.name).collect())
    }

    fn pull(&self, order: PullOrder) -> BoxStream<'static, Result<PullNews, Trouble>> {
        let mut levels = self.images.pulls();
        levels.mark_changed();
        let (images, inbox, reference) =
            (self.images.clone(), self.inbox.clone(), order.reference.clone());
        let work = async move {
            let pulled = images.pull_by_hand(&order.reference, order.login).await?;
            let _ = inbox.send(Request::ImagesChanged).await;
            Ok(pulled)
        };
        let pulling = Pulling { levels, reference, work: work.boxed() };
        stream::unfold(Some(pulling), |pulling| async move {
            let (news, pulling) = pulling?.next().await;
            Some((news, pulling))
        })
        .boxed()
    }

    async fn export(&self, references: &[String]) -> Result<Exported, Trouble> {
        let export = self.images.export(references).await.map_err(|error| error.trouble())?;
        let parts = export.parts.map(|part| part.map_err(|error| error.trouble())).boxed();
        Ok(Exported { names: export.names, size_bytes: export.size, parts })
    }
}

/// A pull that somebody looks on at.
struct Pulling {
    levels: watch::Receiver<Arc<Pulls>>,
    reference: String,
    work: BoxFuture<'static, Result<PulledImage, RuntimeError>>,
}

impl Pulling {
    /// What is new; nothing is left after the last word.
    async fn next(mut self) -> (Result<PullNews, Trouble>, Option<Self>) {
        loop {
            tokio::select! {
                done = &mut self.work => {
                    return (done.map(here).map_err(|error| error.trouble()), None);
                }
                // The sender lives as long as the work does.
                Ok(()) = self.levels.changed() => {
                    let pull = self.levels.borrow_and_update().get(&self.reference).copied();
                    // One that was broken off is of an earlier try.
                    if let Some(pull) = pull.filter(PullProgress::is_active) {
                        return (Ok(PullNews::Progress(pull)), Some(self));
                    }
                }
            }
        }
    }
}

fn here(image: PulledImage) -> PullNews {
    let PulledImage { name, digest, imported } = image;
    PullNews::Here { name, digest, imported }
}

/// Who runs what: by the bits where they are known, else by the name.
#[derive(Default)]
struct Users {
    of_bits: BTreeMap<Digest, BTreeSet<String>>,
    of_names: BTreeMap<String, BTreeSet<String>>,
}

impl Users {
    fn of(uses: &[ImageUse]) -> Self {
        let mut found = Self::default();
        for ImageUse { by, reference, digest } in uses {
            let known = match (digest, full_name(reference)) {
                (Some(digest), _) => found.of_bits.entry(*digest).or_default(),
                (None, Some(name)) => found.of_names.entry(name).or_default(),
                (None, None) => continue,
            };
            known.insert(by.to_string());
        }
        found
    }

    fn find(&self, image: &ImageInfo) -> Vec<String> {
        let known = [self.of_bits.get(&image.digest), self.of_names.get(&image.name)];
        let known: BTreeSet<&String> = known.into_iter().flatten().flatten().collect();
        known.into_iter().cloned().collect()
    }
}

fn shown(info: ImageInfo, users: &Users) -> Image {
    let apps = users.find(&info);
    let ImageInfo { name, digest, size, platform, imported, preloaded, since } = info;
    let digest = digest.to_string();
    Image { name, digest, size_bytes: size, platform, imported, preloaded, since, apps }
}
