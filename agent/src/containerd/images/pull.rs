//! The way of an image from a registry into the content store.

use domain::model::Digest;
use domain::replica::RegistryLogin;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tracing::{debug, info};

use super::content::Content;
use super::fetch::Fetch;
use super::leases::give_back;
use super::manifest::{Descriptor, Selected};
use super::name::ImageName;
use super::progress::Advance;
use super::records::Record;
use super::registry::{Refusal, Registry};
use super::trust::Vouched;
use super::{Images, Labels, reuse};
use crate::containerd::connection::Connection;
use crate::runtime::RuntimeError;

impl Images {
    /// Asks the registry what the name stands for, and fetches that where it is not here. The inner error is the
    /// registry's.
    pub(super) async fn update(
        &self,
        reference: &str,
        name: &ImageName,
        local: Option<&Record>,
        logins: &[RegistryLogin],
    ) -> Result<Result<Digest, Refusal>, RuntimeError> {
        self.recall_shortage(name)?;
        let (mut registry, digest) = match self.resolve(name, logins).await {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.ask_for(digest.to_string()).await;
        self.asks_for(name, digest);
        let fetched = async {
            let vouched = self.vouch(name, &mut registry, digest, local).await?;
            if let Some(local) = local.filter(|local| local.target.digest == digest)
                && self.is_whole(local).await?
            {
                return self.note(name, local, vouched).await;
            }
            self.pull(reference, name, &mut registry, digest, vouched).await
        };
        match fetched.await {
            Ok(()) => Ok(Ok(digest)),
            // What a registry refuses in the middle is a refusal like one at the door.
            Err(RuntimeError::Failed(trouble)) => {
                Refusal::of(trouble).map(Err).map_err(RuntimeError::Failed)
            }
            Err(error @ (RuntimeError::Unavailable(_) | RuntimeError::Forbidden(_))) => Err(error),
        }
    }

    /// The first of the mirrors, else the registry itself, that knows the name.
    async fn resolve(
        &self,
        name: &ImageName,
        logins: &[RegistryLogin],
    ) -> Result<(Registry, Digest), Refusal> {
        let mut refused = Refusal::NotFound(format!("{name} is nowhere to be asked for"));
        for host in Registry::hosts(name, &self.config) {
            let found = async {
                let registry = Registry::open(name, host, logins, &self.config).await?;
                let digest = registry.resolve().await?;
                Ok((registry, digest))
            };
            match found.await {
                Ok(found) => return Ok(found),
                // The last one asked is the registry itself, and its word counts.
                Err(refusal) => {
                    debug!(image = %name, ?refusal, "not here");
                    refused = refusal;
                }
            }
        }
        Err(refused)
    }

    async fn pull(
        &self,
        reference: &str,
        name: &ImageName,
        registry: &mut Registry,
        digest: Digest,
        vouched: Vouched,
    ) -> Result<(), RuntimeError> {
        let _turn = self.turns.pull.lock().await;
        let root = Descriptor::plain("", digest, 0);
        let image = Selected::find(&self.board, &name.to_string(), root, registry).await?;
        self.check_room(name, &image, registry).await?;
        let leased = self.lease("pull", digest).await?;
        self.begin(name, &image).await?;
        let alike = reuse::alike(&Content(leased.clone()), &image).await?;
        let mut layers = distinct(&image.manifest.layers);
        layers.retain(|layer| !alike.contains_key(&layer.digest));
        let advance = self.progress.begin(reference, &layers);
        // A try that fails leaves its lease: under it, the next one goes on where this one stopped.
        self.pull_layers(&leased, registry, &layers, &advance).await?;
        advance.unpacking();
        let labels = Labels { named: vouched.clone(), pinned: vouched };
        self.complete(&leased, name, &image, labels).await?;
        advance.finish();
        give_back(&leased).await;
        info!(image = %name, %digest, "image pulled");
        Ok(())
    }

    async fn pull_layers(
        &self,
        leased: &Connection,
        registry: &Registry,
        layers: &[&Descriptor],
        advance: &Advance<'_>,
    ) -> Result<(), RuntimeError> {
        let fetches: Vec<BoxFuture<'_, Result<(), RuntimeError>>> = layers
            .iter()
            .enumerate()
            .map(|(index, layer)| {
                let content = Content(leased.clone());
                let throttle = &self.throttle;
                Fetch { throttle, content, registry, layer, index, advance }.run().boxed()
            })
            .collect();
        let at_a_time = self.config.max_concurrent_layers;
        stream::iter(fetches).buffer_unordered(at_a_time).try_collect::<()>().await
    }
}

/// The same layer may come twice in an image, most often the empty one.
fn distinct(layers: &[Descriptor]) -> Vec<&Descriptor> {
    let mut distinct: Vec<&Descriptor> = Vec::with_capacity(layers.len());
    for layer in layers {
        if distinct.iter().all(|known| known.digest != layer.digest) {
            distinct.push(layer);
        }
    }
    distinct
}
