//! The way of an image from a registry into the content store.

use std::collections::BTreeMap;

use domain::model::Digest;
use domain::reason::Reason;
use domain::replica::{RegistryLogin, Trouble};
use tracing::{debug, info};

use super::content::{Blob, Content, Ingest};
use super::leases::{discard, give_back};
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
        let leased = self.lease("pull", digest).await?;
        let pulled = self.pull_leased(&leased, name, registry, digest).await;
        match &pulled {
            Ok(()) => give_back(&leased).await,
            // Passing: under the same lease, the next try goes on where this one stopped.
            Err(
                RuntimeError::Unavailable(_)
                | RuntimeError::Failed(Trouble { reason: Reason::RegistryUnreachable, .. }),
            ) => (),
            Err(RuntimeError::Forbidden(_) | RuntimeError::Failed(_)) => discard(&leased).await,
        }
        pulled
    }

    async fn pull_leased(
        &self,
        leased: &Connection,
        name: &ImageName,
        registry: &mut Registry,
        digest: Digest,
    ) -> Result<(), RuntimeError> {
        let root = Descriptor::plain("", digest, 0);
        let image = Selected::find(&self.board, &name.to_string(), root, registry).await?;
        for layer in &image.manifest.layers {
            fetch(leased, registry, layer).await?;
        }
        self.complete(leased, name, &image, Labels::default()).await?;
        info!(image = %name, %digest, "image pulled");
        Ok(())
    }
}

/// Brings one layer into the store, from where an earlier try stopped.
async fn fetch(
    leased: &Connection,
    registry: &Registry,
    layer: &Descriptor,
) -> Result<(), RuntimeError> {
    let content = Content(leased.clone());
    let ingest = format!("skerry-pull-{}", layer.digest);
    let Blob::Missing(mut writer) = content.open(&ingest, layer).await? else { return Ok(()) };
    let fetched = stream(registry, layer, &mut writer).await;
    match &fetched {
        Ok(()) | Err(RuntimeError::Unavailable(_) | RuntimeError::Forbidden(_)) => (),
        Err(RuntimeError::Failed(Trouble { reason: Reason::RegistryUnreachable, .. })) => {
            writer.keep().await;
        }
        // What came is wrong, or cannot be kept: to go on with it would never end well.
        Err(RuntimeError::Failed(_)) => content.abort(*writer).await,
    }
    fetched
}

async fn stream(
    registry: &Registry,
    layer: &Descriptor,
    writer: &mut Ingest,
) -> Result<(), RuntimeError> {
    if writer.offset() < layer.size {
        let asked = registry.blob(&layer.digest, writer.offset()).await;
        let mut pieces = asked.map_err(Refusal::into_error)?;
        while let Some(piece) = pieces.next().await.map_err(Refusal::into_error)? {
            writer.write(&piece).await?;
        }
    }
    writer.commit(BTreeMap::new()).await.map(drop)
}
