//! The way of an image from a registry into the content store.

use domain::model::Digest;
use domain::reason::Reason;
use domain::replica::{RegistryLogin, Trouble};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tracing::{debug, info};

use super::content::Content;
use super::fetch::Fetch;
use super::leases::give_back;
use super::manifest::{Descriptor, Selected};
use super::name::ImageName;
use super::records::Record;
use super::registry::{Refusal, Registry};
use super::{Images, Labels};
use crate::containerd::connection::Connection;
use crate::runtime::RuntimeError;

impl Images {
    /// Asks the registry what the name stands for, and fetches that where it is not here. The inner error is the
    /// registry's.
    pub(super) async fn update(
        &self,
        name: &ImageName,
        local: Option<&Record>,
        logins: &[RegistryLogin],
    ) -> Result<Result<Digest, Refusal>, RuntimeError> {
        let (mut registry, digest) = match self.resolve(name, logins).await {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some(local) = local.filter(|local| local.target.digest == digest)
            && self.is_whole(local).await?
        {
            return Ok(Ok(digest));
        }
        match self.pull(name, &mut registry, digest).await {
            Ok(()) => Ok(Ok(digest)),
            Err(RuntimeError::Failed(Trouble { reason: Reason::RegistryUnreachable, details })) => {
                Ok(Err(Refusal::Unreachable(details)))
            }
            Err(error) => Err(error),
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
        name: &ImageName,
        registry: &mut Registry,
        digest: Digest,
    ) -> Result<(), RuntimeError> {
        let _turn = self.turns.pull.lock().await;
        let root = Descriptor::plain("", digest, 0);
        let image = Selected::find(&self.board, &name.to_string(), root, registry).await?;
        let leased = self.lease("pull", digest).await?;
        // A try that fails leaves its lease: under it, the next one goes on where this one stopped.
        self.pull_layers(&leased, registry, &image).await?;
        self.complete(&leased, name, &image, Labels::default()).await?;
        give_back(&leased).await;
        info!(image = %name, %digest, "image pulled");
        Ok(())
    }

    async fn pull_layers(
        &self,
        leased: &Connection,
        registry: &Registry,
        image: &Selected,
    ) -> Result<(), RuntimeError> {
        let mut layers: Vec<&Descriptor> = Vec::with_capacity(image.manifest.layers.len());
        for layer in &image.manifest.layers {
            // The same layer may come twice, most often the empty one.
            if layers.iter().all(|known| known.digest != layer.digest) {
                layers.push(layer);
            }
        }
        let fetches: Vec<BoxFuture<'_, Result<(), RuntimeError>>> = layers
            .into_iter()
            .map(|layer| Fetch { images: self, content: Content(leased.clone()), registry, layer })
            .map(|fetch| fetch.run().boxed())
            .collect();
        let at_a_time = self.config.max_concurrent_layers;
        stream::iter(fetches).buffer_unordered(at_a_time).try_collect::<()>().await
    }
}
