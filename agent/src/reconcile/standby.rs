//! What stands by: made ahead, or paused once it has nothing open any more.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use domain::model::ReplicaName;
use domain::plan::{Doing, Tier};
use domain::reason::Reason;
use domain::replica::{ContainerState, ReplicaOrder, Trouble};
use futures_util::FutureExt as _;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::absorb::observed;
use super::act::{give_up, lost, make, stop};
use super::{Deed, Outcome, Reconciler, TURN};
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
        let turns = Arc::clone(&self.preparations);
        let given_up = CancellationToken::new();
        self.give_up.insert(order.replica.clone(), given_up.clone());
        let prepare = async move {
            let prepared = async {
                // One at a time, and in no start's way: this is for nobody yet.
                let turn = turns.acquire().await;
                let mut work = pin!(ahead(&runtime, &network, &order, tier));
                if let Ok(result) = time::timeout(TURN, &mut work).await {
                    return result;
                }
                drop(turn);
                work.await
            };
            let Some(result) = given_up.run_until_cancelled(prepared).await else {
                let result = stop(&runtime, &network, &order.replica, Duration::ZERO).await;
                return Outcome::Stopped(order.replica.clone(), result);
            };
            if result.is_err() {
                // What cannot be taken away now is found by the next look.
                let _ = stop(&runtime, &network, &order.replica, Duration::ZERO).await;
            }
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
        self.give_up.remove(replica);
        let order = match self.doing.get(replica) {
            Some(Doing::Preparing(order)) => Arc::clone(order),
            // It was given up in the moment in which it ended.
            Some(Doing::Stopping) => return self.started_too_late(replica),
            Some(Doing::Starting(_) | Doing::Restarting(_) | Doing::Freezing) | None => return,
        };
        self.doing.remove(replica);
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
        let (runtime, network) = (self.runtime.clone(), self.network.clone());
        let drained = self.drain.drained(&replica);
        let lost = Outcome::Frozen(replica.clone(), Err(lost("freeze")));
        let called_off = CancellationToken::new();
        self.give_up.insert(replica.clone(), called_off.clone());
        let freeze = async move {
            let frozen = async {
                match time::timeout(patience, drained).await {
                    Ok(()) => runtime.freeze(&replica).await,
                    Err(_) => Err(RuntimeError::Failed(Trouble {
                        reason: Reason::ContainerdFailed,
                        details: "requests are open still, and the grace is over".to_owned(),
                    })),
                }
            };
            let Some(result) = called_off.run_until_cancelled(frozen).await else {
                // Here and not beside it: what a freeze still does would be in a thaw's way.
                let result = runtime.thaw(&replica).await;
                if result.is_err() {
                    let _ = stop(&runtime, &network, &replica, Duration::ZERO).await;
                }
                return Outcome::CalledBack(replica, result.map_err(|error| error.trouble()));
            };
            Outcome::Frozen(replica, result.map_err(|error| error.trouble()))
        };
        Deed { name: "freeze", work: freeze.boxed(), lost }
    }

    /// Has a replica serve on that is being paused. None where that is just over: then it is woken as any other.
    pub(super) fn call_off_freeze(&mut self, replica: &ReplicaName) -> Option<Deed> {
        let called_off = self.give_up.remove(replica)?;
        Some(give_up("call off", called_off))
    }

    pub(super) fn called_back(&mut self, replica: &ReplicaName, result: Result<(), Trouble>) {
        if !matches!(self.doing.get(replica), Some(Doing::Starting(_))) {
            return;
        }
        if result.is_err() {
            return self.started(replica, result);
        }
        self.doing.remove(replica);
        self.end(replica);
        self.memory.thawed(replica);
        self.look();
    }

    pub(super) fn frozen(&mut self, replica: &ReplicaName, result: Result<(), Trouble>) {
        self.give_up.remove(replica);
        match self.doing.get(replica) {
            Some(Doing::Freezing) => (),
            Some(Doing::Starting(order)) => {
                // It was called off in the moment in which it ended. It was ready then.
                let order = Arc::clone(order);
                self.memory.thawed(replica);
                let thaw = self.order_start(order, Some(Tier::Frozen));
                return self.begin(thaw);
            }
            Some(Doing::Restarting(_) | Doing::Preparing(_) | Doing::Stopping) | None => return,
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

/// As much of a replica as can be made before anybody asks for it.
async fn ahead<R: Runtime, N: Network>(
    runtime: &R,
    network: &N,
    order: &ReplicaOrder,
    tier: Tier,
) -> Result<(), Trouble> {
    make(runtime, network, order).await?;
    if tier == Tier::Prepared {
        return Ok(());
    }
    runtime.arm(order).await.map_err(|error| error.trouble())
}
