//! What stands by: made ahead, or paused once it has nothing open any more.

use std::sync::Arc;
use std::time::Duration;

use domain::model::ReplicaName;
use domain::plan::{Doing, Tier};
use domain::reason::Reason;
use domain::replica::{ContainerState, ReplicaOrder, Trouble};
use futures_util::FutureExt as _;
use tokio::time;
use tracing::{info, warn};

use super::absorb::observed;
use super::act::{lost, make, stop};
use super::{Deed, Outcome, Reconciler};
use crate::network::Network;
use crate::runtime::{Runtime, RuntimeError};
use crate::store::Store;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Makes a replica that stands by.
    pub(super) fn order_prepare(&mut self, order: Arc<ReplicaOrder>, tier: Tier) -> Deed {
        info!(replica = %order.replica, tier = tier.word(), "stand by");
        self.doing.insert(order.replica.clone(), Doing::Preparing(Arc::clone(&order)));
        let (runtime, network) = (self.runtime.clone(), self.network.clone());
        let lost = Outcome::Prepared(order.replica.clone(), tier, Err(lost("preparation")));
        let starts = Arc::clone(&self.starts);
        let prepare = async move {
            // Whoever starts for somebody goes first: this is for nobody yet.
            let turn = starts.acquire().await;
            let prepared = async {
                make(&runtime, &network, &order).await?;
                if tier == Tier::Prepared {
                    return Ok(());
                }
                runtime.arm(&order).await.map_err(|error| error.trouble())
            };
            let result = prepared.await;
            if result.is_err() {
                // What cannot be taken away now is found by the next look.
                let _ = stop(&runtime, &network, &order.replica, Duration::ZERO).await;
            }
            drop(turn);
            Outcome::Prepared(order.replica.clone(), tier, result)
        };
        Deed { name: "prepare", work: prepare.boxed(), lost }
    }

    pub(super) fn prepared(
        &mut self,
        replica: &ReplicaName,
        tier: Tier,
        result: Result<(), Trouble>,
    ) {
        let Some(Doing::Preparing(order)) = self.doing.remove(replica) else { return };
        self.end(replica);
        match result {
            Ok(()) => {
                let state = match tier {
                    Tier::Prepared => ContainerState::Created,
                    Tier::Created | Tier::Frozen => ContainerState::Armed,
                };
                let containers = order.template.containers.iter();
                let states = containers.map(|one| (one.name.clone(), state.clone()));
                self.sight.replicas.insert(replica.clone(), observed(&order, states.collect()));
                self.sight.namespaces.insert(replica.clone());
                self.memory.prepared(&order);
            }
            Err(trouble) => {
                warn!(%replica, reason = %trouble.reason, details = trouble.details, "cannot stand by");
                self.sight.replicas.remove(replica);
                self.sight.namespaces.remove(replica);
                self.memory.idle_failed(order.revision.clone(), trouble, self.clock.now());
            }
        }
        self.look();
    }

    /// Pauses a replica that serves nobody any more. One that still does when `patience` is over is not paused.
    pub(super) fn order_freeze(&mut self, replica: ReplicaName, patience: Duration) -> Deed {
        info!(%replica, "freeze");
        self.doing.insert(replica.clone(), Doing::Freezing);
        let (runtime, drained) = (self.runtime.clone(), self.drain.drained(&replica));
        let lost = Outcome::Frozen(replica.clone(), Err(lost("freeze")));
        let freeze = async move {
            let result = match time::timeout(patience, drained).await {
                Ok(()) => runtime.freeze(&replica).await,
                Err(_) => Err(RuntimeError::Failed(Trouble {
                    reason: Reason::ContainerdFailed,
                    details: "requests are open still, and the grace is over".to_owned(),
                })),
            };
            Outcome::Frozen(replica, result.map_err(|error| error.trouble()))
        };
        Deed { name: "freeze", work: freeze.boxed(), lost }
    }

    pub(super) fn frozen(&mut self, replica: &ReplicaName, result: Result<(), Trouble>) {
        if !matches!(self.doing.get(replica), Some(Doing::Freezing)) {
            return;
        }
        self.doing.remove(replica);
        self.end(replica);
        let now = self.clock.now();
        let Some(seen) = self.sight.replicas.get_mut(replica) else { return self.look() };
        match result {
            Ok(()) => {
                for state in seen.containers.values_mut() {
                    *state = ContainerState::Frozen { since: now };
                }
            }
            Err(trouble) => {
                warn!(%replica, reason = %trouble.reason, details = trouble.details, "not frozen");
                self.memory.idle_failed(seen.revision.clone(), trouble, now);
            }
        }
        self.look();
    }
}
