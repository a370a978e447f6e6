//! Leases: what keeps an image's parts while they are on their way, and how those of an earlier run end.
//!
//! A lease bears the name of its work, so that an agent that comes after one that was killed goes on under the same
//! one. Where nothing was left to go on with, nobody takes it up again, and it is ended here.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use containerd_client::services::v1::{ListRequest, ListResourcesRequest};
use domain::keep::Needs;
use domain::model::{Digest, WallTime};
use tokio::sync::Mutex;
use tracing::{debug, info};

use super::content::{Content, PULL};
use super::name::ImageName;
use super::{Images, records};
use crate::clock::rfc3339;
use crate::containerd::connection::{Connection, failed};
use crate::runtime::RuntimeError;

/// A lease outlives an agent that was killed at a pull by this much, so that the next one can go on with it.
const LEASE: Duration = Duration::from_hours(72);

/// What the name of each begins with.
const PREFIX: &str = "skerry-";

/// Names that were asked for and are remembered: more than a board runs.
const BEGUN_KEPT: usize = 256;

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

impl Images {
    /// Takes note of what a name stands for: its pull is about to begin, or goes on.
    pub(super) fn asks_for(&self, name: &ImageName, root: Digest) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if BEGUN_KEPT <= begun.len() {
            begun.pop_first();
        }
        begun.insert(name.to_string(), root);
    }

    /// Ends pulls that stopped half way and that nobody waits for, with what came of them. Says whether there were any.
    ///
    /// Which image a lease of an earlier run belongs to is known once all that is waited for was asked for; until then
    /// they stay.
    pub(super) async fn end_useless_pulls(&self, needs: &Needs) -> Result<bool, RuntimeError> {
        // While somebody pulls, nothing is half way.
        let Ok(_turn) = self.turns.pull.try_lock() else { return Ok(false) };
        let recorded = records::list(&self.connection).await?;
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_known = |name: &String| {
            begun.contains_key(name) || recorded.iter().any(|record| record.name == *name)
        };
        let all_known = needs.references.iter().all(is_known);
        let wanted: BTreeSet<String> = needs
            .references
            .iter()
            .filter_map(|name| begun.get(name))
            .chain(&needs.digests)
            .map(Digest::hex)
            .collect();
        let of_this_run: BTreeSet<String> = begun.values().map(Digest::hex).collect();
        let (useless, kept): (Vec<String>, Vec<String>) =
            self.pull_leases().await?.into_iter().partition(|id| {
                let root = id.rsplit_once('-').map_or("", |(_, root)| root);
                !wanted.contains(root) && (all_known || of_this_run.contains(root))
            });
        let mut shared = BTreeSet::new();
        for id in &kept {
            shared.extend(self.ingests(id).await?);
        }
        let content = Content(self.connection.clone());
        for id in &useless {
            for ingest in self.ingests(id).await?.difference(&shared) {
                content.clear(ingest).await?;
            }
            self.connection.under(id).discard().await?;
            info!(id, "a pull that stopped half way and that nobody waits for is given up");
        }
        Ok(!useless.is_empty())
    }

    async fn pull_leases(&self) -> Result<Vec<String>, RuntimeError> {
        let request = self.connection.request(ListRequest::default());
        let listed = self.connection.client().await?.leases().list(request).await;
        let listed = listed.map_err(|status| failed("list leases", &status))?.into_inner().leases;
        let ids = listed.into_iter().map(|lease| lease.id);
        Ok(ids.filter(|id| id.starts_with(PULL)).collect())
    }

    /// What a lease keeps that is not whole.
    async fn ingests(&self, id: &str) -> Result<BTreeSet<String>, RuntimeError> {
        let request = self.connection.request(ListResourcesRequest { id: id.to_owned() });
        let listed = self.connection.client().await?.leases().list_resources(request).await;
        let listed = listed.map_err(|status| failed("look into a lease", &status))?;
        let resources = listed.into_inner().resources.into_iter();
        Ok(resources.filter(|one| one.r#type == "ingests").map(|one| one.id).collect())
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
