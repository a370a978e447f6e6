//! Ports: where a replica listens whose target port was found closed, so that its status can say so.

use std::time::Duration;

use domain::model::ReplicaName;
use domain::replica::Listener;
use futures_util::FutureExt as _;

use super::act::listening;
use super::{Deed, Outcome, Reconciler};
use crate::network::Network;
use crate::runtime::{Runtime, RuntimeError};
use crate::store::Store;

/// An app may begin to listen later: it is asked again after so long, as long as its port is closed.
const AGAIN: Duration = Duration::from_secs(5);

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Asks where those listen whose port is closed.
    pub(super) fn ask_ports(&mut self) {
        let now = self.clock.now();
        let health = self.reports.health.borrow().clone();
        self.asked_ports.retain(|name, _| health.contains_key(name));
        let refused = health.iter().filter(|(name, health)| {
            let last = self.asked_ports.get(*name);
            health.failure.as_ref().is_some_and(|failure| failure.refused)
                && last.is_none_or(|last| AGAIN <= now.since(*last))
        });
        let names: Vec<ReplicaName> = refused.map(|(name, _)| name.clone()).collect();
        for replica in names {
            self.asked_ports.insert(replica.clone(), now);
            let runtime = self.runtime.clone();
            let lost = Outcome::Listens(replica.clone(), Ok(Vec::new()));
            let work = listening(runtime, replica).boxed();
            self.begin(Deed { name: "ports", work, lost });
        }
    }

    pub(super) fn listens(
        &mut self,
        replica: ReplicaName,
        listeners: Result<Vec<Listener>, RuntimeError>,
    ) {
        // What cannot be found out is not said.
        self.memory.listens(replica, listeners.unwrap_or_default());
    }
}
