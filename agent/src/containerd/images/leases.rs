//! Leases: what keeps an image's parts while they are on their way, and how those of an earlier run end.
//!
//! A lease bears the name of its work, so that an agent that comes after one that was killed goes on under the same
//! one. Where nothing was left to go on with, nobody takes it up again, and it is ended here.

use std::collections::BTreeSet;
use std::time::Duration;

use containerd_client::services::v1::ListRequest;
use domain::model::{Digest, WallTime};
use tokio::sync::Mutex;
use tracing::{debug, info};

use super::{Images, records};
use crate::clock::rfc3339;
use crate::containerd::connection::{Connection, failed};
use crate::runtime::RuntimeError;

/// A lease outlives an agent that was killed at a pull by this much, so that the next one can go on with it.
const LEASE: Duration = Duration::from_hours(72);

/// What the name of each begins with.
const PREFIX: &str = "skerry-";

/// Names of leases that this run has taken, until those of earlier runs are ended.
#[derive(Debug)]
pub(super) struct Taken(Mutex<Option<BTreeSet<String>>>);

impl Default for Taken {
    fn default() -> Self {
        Self(Mutex::new(Some(BTreeSet::new())))
    }
}

impl Images {
    /// A lease for work on one image. Its name is that of an earlier try, which it goes on with.
    pub(super) async fn lease(&self, work: &str, root: Digest) -> Result<Connection, RuntimeError> {
        let WallTime(now) = self.clock.wall();
        let expires = rfc3339(WallTime(now + LEASE));
        let id = format!("{PREFIX}{work}-{}", root.hex());
        if let Some(taken) = &mut *self.taken.0.lock().await {
            taken.insert(id.clone());
        }
        self.connection.leased(&id, expires).await
    }

    /// Ends the leases that an earlier run left with their work done: their image is recorded, and the record keeps
    /// what they kept. Those of unfinished work stay, for whoever goes on with it. Does nothing a second time.
    pub async fn end_finished_leases(&self) -> Result<(), RuntimeError> {
        // Nothing is taken meanwhile: what is taken afterwards is made anew.
        let mut guard = self.taken.0.lock().await;
        let Some(taken) = &*guard else { return Ok(()) };
        let request = self.connection.request(ListRequest::default());
        let listed = self.connection.client().await?.leases().list(request).await;
        let listed = listed.map_err(|status| failed("list leases", &status))?.into_inner().leases;
        let recorded = records::list(&self.connection).await?;
        let recorded: BTreeSet<String> =
            recorded.iter().map(|record| record.target.digest.hex()).collect();
        let finished = listed.into_iter().map(|lease| lease.id).filter(|id| {
            let root = id.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('-'));
            !taken.contains(id) && root.is_some_and(|(_, root)| recorded.contains(root))
        });
        for id in finished {
            self.connection.under(&id).release().await?;
            info!(id, "a lease of an earlier run is ended");
        }
        *guard = None;
        Ok(())
    }
}

/// Ends a lease whose work is done. If that fails the lease expires, and no harm comes of it.
pub(super) async fn give_back(leased: &Connection) {
    if let Err(error) = leased.release().await {
        debug!(%error, "a lease stays until it expires");
    }
}

/// Ends a lease whose work came to nothing, and frees the disk of it.
pub(super) async fn discard(leased: &Connection) {
    if let Err(error) = leased.discard().await {
        debug!(%error, "a lease stays until it expires");
    }
}
