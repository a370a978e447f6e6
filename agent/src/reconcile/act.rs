//! Deeds: what a plan asks for, done by short tasks that report back.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use domain::model::{EnvironmentName, Moment, ReplicaName};
use domain::plan::{Action, Doing, Tier};
use domain::reason::Reason;
use domain::replica::{ReplicaOrder, Trouble};
use futures_util::FutureExt as _;
use ipnet::Ipv4Net;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, info_span, warn};

use super::absorb::half_made;
use super::{Deed, Outcome, RECHECK, RESYNC, RETRY, Reconciler, TURN};
use crate::course::{self, Step};
use crate::network::{Network, NetworkError};
use crate::runtime::{Runtime, RuntimeError};
use crate::store::Store;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Looks at containers and networks. One look at a time: what happens during one calls for another.
    pub(super) fn look(&mut self) {
        // A look that hangs is no reason to spin; when it ends it says when the next one is due.
        self.sight.next = self.clock.now().after(RESYNC);
        if self.sight.looking {
            self.sight.stale = true;
            return;
        }
        self.sight.looking = true;
        self.sight.stale = false;
        self.sight.sequence += 1;
        let begun = self.sight.sequence;
        let (runtime, network) = (self.runtime.clone(), self.network.clone());
        let look = async move {
            let (replicas, network) = tokio::join!(runtime.observe(), network.observe());
            let held = replicas.as_ref().map(|replicas| runtime.held(replicas)).unwrap_or_default();
            Outcome::Looked { begun, replicas, network, held }
        };
        let away = RuntimeError::Unavailable(lost("look").details);
        let lost = Outcome::Looked {
            begun,
            replicas: Err(away),
            network: Err(NetworkError(lost("look"))),
            held: BTreeMap::new(),
        };
        self.begin(Deed { name: "look", work: look.boxed(), lost });
    }

    /// Takes note of what is about to be done, and says how.
    pub(super) fn order(&mut self, action: Action) -> Deed {
        match action {
            Action::Fetch(order) => {
                info!(revision = %order.revision, images = ?order.images, "fetch");
                self.fetching.insert(order.revision.clone());
                let (runtime, revision) = (self.runtime.clone(), order.revision.clone());
                let fetch = async move {
                    let revision = order.revision.clone();
                    Outcome::Fetched(revision, runtime.fetch(order).await)
                };
                let failed = Err(RuntimeError::Failed(lost("fetch")));
                Deed {
                    name: "fetch",
                    work: fetch.boxed(),
                    lost: Outcome::Fetched(revision, failed),
                }
            }
            Action::Start(order) => self.order_start(order, None),
            Action::Wake(order, tier) => self.order_start(order, Some(tier)),
            Action::Prepare(order, tier) => self.order_prepare(order, tier),
            Action::Freeze(replica, patience) => self.order_freeze(replica, patience),
            Action::Restart(order, container, grace) => {
                info!(replica = %order.replica, container, "restart");
                let doing = Doing::Restarting(Arc::clone(&order));
                self.doing.insert(order.replica.clone(), doing);
                let runtime = self.runtime.clone();
                let failed = Err(RuntimeError::Failed(lost("restart")));
                let lost = Outcome::Restarted(order.replica.clone(), container.clone(), failed);
                let restart = async move {
                    let result = runtime.restart(&order, &container, grace).await;
                    Outcome::Restarted(order.replica.clone(), container, result)
                };
                Deed { name: "restart", work: restart.boxed(), lost }
            }
            Action::Stop(replica, grace) => self.order_stop(replica, grace),
            Action::Survey(app, replicas) => {
                self.surveying.insert(app.clone());
                let runtime = self.runtime.clone();
                let failed = Err(RuntimeError::Failed(lost("survey")));
                let lost = Outcome::Surveyed(app.clone(), failed);
                let survey = async move { Outcome::Surveyed(app, runtime.survey(replicas).await) };
                Deed { name: "survey", work: survey.boxed(), lost }
            }
        }
    }

    /// A new replica, or one that stands by.
    pub(super) fn order_start(
        &mut self,
        order: Arc<ReplicaOrder>,
        stands_by: Option<Tier>,
    ) -> Deed {
        let tier = stands_by.map_or("", Tier::word);
        info!(replica = %order.replica, address = %order.place.address, tier, "start");
        course::planned(&order.revision, tier);
        let starting = Doing::Starting(Arc::clone(&order));
        let before = self.doing.insert(order.replica.clone(), starting);
        if let Some(Doing::Freezing) = before
            && let Some(deed) = self.call_off_freeze(&order.replica)
        {
            return deed;
        }
        let (runtime, network) = (self.runtime.clone(), self.network.clone());
        let lost = Outcome::Started(order.replica.clone(), Err(lost("start")));
        let starts = Arc::clone(&self.starts);
        let given_up = CancellationToken::new();
        self.give_up.insert(order.replica.clone(), given_up.clone());
        let start = async move {
            let started = async {
                if stands_by == Some(Tier::Frozen) {
                    return start(&runtime, &network, &order, stands_by).await;
                }
                let turn = starts.acquire().await;
                let mut work = pin!(start(&runtime, &network, &order, stands_by));
                if let Ok(result) = time::timeout(TURN, &mut work).await {
                    return result;
                }
                drop(turn);
                work.await
            };
            let result = given_up.run_until_cancelled(started).await;
            let Some(result) = result else {
                // Here and not beside it: what a start still does would be in a stop's way.
                let result = stop(&runtime, &network, &order.replica, Duration::ZERO).await;
                return Outcome::Stopped(order.replica.clone(), result);
            };
            if result.is_err() {
                // What was half made is taken away at once; what cannot be now is found by the next look, by the network
                // if by nothing else.
                let _ = stop(&runtime, &network, &order.replica, Duration::ZERO).await;
            }
            Outcome::Started(order.replica.clone(), result)
        };
        Deed { name: "start", work: start.boxed(), lost }
    }

    fn order_stop(&mut self, replica: ReplicaName, grace: Duration) -> Deed {
        info!(%replica, ?grace, "stop");
        let before = self.doing.insert(replica.clone(), Doing::Stopping);
        if let Some(Doing::Starting(order) | Doing::Preparing(order)) = before
            && let Some(given_up) = self.give_up.remove(&replica)
        {
            // It never served. Whoever starts it ends it; its address is taken until then.
            self.sight.replicas.entry(replica).or_insert_with(|| half_made(&order));
            return give_up("give up", given_up);
        }
        let (runtime, network) = (self.runtime.clone(), self.network.clone());
        let lost = Outcome::Stopped(replica.clone(), Err(lost("stop")));
        // Without a grace there is nothing to wait for: it never served, or it shall go at once.
        let drained = (!grace.is_zero()).then(|| self.drain.drained(&replica));
        let stop = async move {
            if let Some(drained) = drained
                && time::timeout(grace, drained).await.is_err()
            {
                info!(%replica, ?grace, "requests are open still, and the grace is over");
            }
            let result = stop(&runtime, &network, &replica, grace).await;
            if result.is_err() {
                // It is still there, so the next plan stops it again: not before this wait is over.
                time::sleep(RETRY).await;
            }
            Outcome::Stopped(replica, result)
        };
        Deed { name: "stop", work: stop.boxed(), lost }
    }

    /// Makes the networks of these environments stand, if they are not the ones that do.
    pub(super) fn settle(&mut self, wanted: &BTreeSet<EnvironmentName>, now: Moment) {
        let fresh = wanted.is_empty() || now < self.nets.check_at;
        let well = fresh && self.nets.trouble.is_none();
        let settled = well && self.nets.settled.as_ref() == Some(wanted);
        let waits = self.nets.trouble.is_some() && now < self.nets.retry_at;
        // Before the first look a bridge that stands would be given another subnet.
        if settled || self.nets.settling || waits || !self.nets.seen {
            return;
        }
        self.nets.settling = true;
        self.nets.check_at = now.after(RECHECK);
        let known: BTreeMap<EnvironmentName, Ipv4Net> = self
            .nets
            .subnets
            .iter()
            .filter(|(name, _)| wanted.contains(*name))
            .map(|(name, subnet)| (name.clone(), *subnet))
            .collect();
        let (network, wanted) = (self.network.clone(), wanted.clone());
        let settle = async move { Outcome::Settled(settle(&network, &wanted, known).await) };
        let lost = Outcome::Settled(Err(NetworkError(lost("settle"))));
        self.begin(Deed { name: "settle", work: settle.boxed(), lost });
    }

    /// Has something done beside the loop.
    pub(super) fn begin(&self, deed: Deed) {
        let Deed { name, work, lost } = deed;
        let outcomes = self.outcomes.0.clone();
        self.tasks.spawn_short(info_span!("deed", name), async move {
            let outcome = AssertUnwindSafe(work).catch_unwind().await.unwrap_or(lost);
            // The loop may be gone by then: the agent stops, and the next one looks for itself.
            let _ = outcomes.send(outcome);
        });
    }
}

/// What a deed that panicked leaves behind. It is tried again as after any failure.
pub(super) fn lost(deed: &str) -> Trouble {
    let details = format!("the {deed} ended in a panic; the journal tells where");
    Trouble { reason: Reason::ContainerdFailed, details }
}

pub(super) async fn listening<R: Runtime>(runtime: R, replica: ReplicaName) -> Outcome {
    let listeners = runtime.listening(&replica).await;
    Outcome::Listens(replica, listeners)
}

/// Tells a deed that nobody wants what it does any more; its own outcome follows.
pub(super) fn give_up(name: &'static str, given_up: CancellationToken) -> Deed {
    let work = async move {
        given_up.cancel();
        Outcome::GivenUp
    };
    Deed { name, work: work.boxed(), lost: Outcome::GivenUp }
}

async fn start<R: Runtime, N: Network>(
    runtime: &R,
    network: &N,
    order: &ReplicaOrder,
    stands_by: Option<Tier>,
) -> Result<(), Trouble> {
    let replica = &order.replica;
    let started = match stands_by {
        Some(Tier::Frozen) => runtime.thaw(replica).await,
        Some(Tier::Created | Tier::Prepared) => runtime.start(order).await,
        None => {
            make(runtime, network, order).await?;
            runtime.start(order).await
        }
    };
    debug!(%replica, "started");
    course::over(&order.revision, Step::Started);
    started.map_err(|error| error.trouble())
}

/// The records, root file systems and network of a replica.
pub(super) async fn make<R: Runtime, N: Network>(
    runtime: &R,
    network: &N,
    order: &ReplicaOrder,
) -> Result<(), Trouble> {
    let replica = &order.replica;
    let attach = async {
        let attached = network.attach(replica, &order.place).await;
        debug!(%replica, "attached");
        course::over(&order.revision, Step::Network);
        attached
    };
    let create = async {
        let created = runtime.create(order).await;
        debug!(%replica, "created");
        course::over(&order.revision, Step::Recorded);
        created
    };
    let (attached, created) = tokio::join!(attach, create);
    attached.map_err(|error| error.0)?;
    created.map_err(|error| error.trouble())
}

pub(super) async fn stop<R: Runtime, N: Network>(
    runtime: &R,
    network: &N,
    replica: &ReplicaName,
    grace: Duration,
) -> Result<(), Trouble> {
    runtime.stop(replica, grace).await.map_err(|error| {
        warn!(%replica, %error, "cannot stop");
        error.trouble()
    })?;
    network.detach(replica).await.map_err(|error| error.0)
}

async fn settle<N: Network>(
    network: &N,
    wanted: &BTreeSet<EnvironmentName>,
    mut subnets: BTreeMap<EnvironmentName, Ipv4Net>,
) -> Result<(BTreeMap<EnvironmentName, Ipv4Net>, Vec<Trouble>), NetworkError> {
    let missing: Vec<&EnvironmentName> =
        wanted.iter().filter(|name| !subnets.contains_key(*name)).collect();
    if !missing.is_empty() {
        let taken: BTreeSet<Ipv4Net> = subnets.values().copied().collect();
        let free = network.free_subnets().await?;
        let mut free = free.into_iter().filter(|subnet| !taken.contains(subnet));
        for name in missing {
            let details = || format!("no /24 is left for the environment {name}");
            let subnet = free.next().ok_or_else(|| {
                NetworkError(Trouble { reason: Reason::AddressPoolExhausted, details: details() })
            })?;
            subnets.insert(name.clone(), subnet);
        }
    }
    let remarks = network.settle(&subnets).await?;
    Ok((subnets, remarks))
}
