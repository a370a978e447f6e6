//! The loop that keeps what is at what should be.
//!
//! One task owns the state. It wakes for a reason, takes in what it was told, asks [`plan`](domain::plan::plan) what to
//! do, has it done by short tasks beside it, publishes what others need to know, and sleeps. It never waits for
//! containerd or for the network itself: a round that hangs there hangs in one of those short tasks, and the loop goes
//! on taking documents. It waits for the disk only, because what is acknowledged must be durable.
//!
//! ```text
//!   inbox ────▶ requests ──┐
//!   outcomes ─▶ absorb ────┼─▶ round: plan ─▶ steps stored ─▶ published ─▶ actions ─▶ short tasks ─┐
//!   reports ───────────────┘                                                                        │
//!      ▲                                                                                            │
//!      └──────────────────────────────── outcomes ◀─────────────────────────────────────────────────┘
//! ```

mod absorb;
mod act;
mod publish;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use domain::event::Event;
use domain::model::{AppName, EnvironmentName, Moment, ReplicaName, RevisionName};
use domain::plan::{Doing, Memory, Plan, Settings, Step, World, plan};
use domain::reason::Reason;
use domain::replica::{ObservedReplica, ResolvedImage, Trouble};
use domain::state::{Changes, State};
use domain::status::{Phase, Source};
use futures_util::future::BoxFuture;
use ipnet::Ipv4Net;
use tokio::sync::{Semaphore, mpsc};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::inbox::{INBOX_DEPTH, Request};
use crate::network::{Network, NetworkError, ObservedNetwork};
use crate::published::{Publisher, Reports};
use crate::runtime::{Runtime, RuntimeError};
use crate::store::{Loaded, Store, StoreError};
use crate::tasks::Tasks;

/// Looks again this often even if nobody calls: events get lost, and people use other tools.
const RESYNC: Duration = Duration::from_secs(30);

/// Replicas that start at a time: more of them on four slow cores only make all of them late.
const STARTS_AT_A_TIME: usize = 4;

/// Waits this long after the store, the network or containerd failed.
const RETRY: Duration = Duration::from_secs(2);

/// Events kept for a control plane that does not take them. The oldest go first, and are counted.
const OUTBOX_DEPTH: usize = 1000;

/// Events that a person may ask for, delivered or not.
const RECENT_EVENTS: usize = 256;

/// Rules are looked at again this often: another firewall may come after ours.
const RECHECK: Duration = Duration::from_secs(10);

/// Names whose first document was refused and that are remembered to be told of.
const REFUSALS_KEPT: usize = 64;

/// Everything the loop holds.
#[derive(Debug)]
pub struct Reconciler<R, N, S> {
    runtime: R,
    network: N,
    /// Away only while a commit runs on a thread that may block.
    store: Option<S>,
    clock: Clock,
    settings: Settings,
    tasks: Tasks,
    inbox: mpsc::Receiver<Request>,
    outcomes: (mpsc::UnboundedSender<Outcome>, mpsc::UnboundedReceiver<Outcome>),
    reports: Reports,
    publisher: Publisher,
    /// Keep events on disk: there is a control plane to take them.
    durable_events: bool,

    state: State,
    outbox: Vec<Event>,
    recent: VecDeque<Event>,
    unsaved_events: Vec<Event>,
    memory: Memory,
    refusals: BTreeMap<String, Refused>,
    sight: Sight,
    nets: Nets,
    doing: BTreeMap<ReplicaName, Doing>,
    fetching: BTreeSet<RevisionName>,
    starts: Arc<Semaphore>,
    storage_trouble: Option<Trouble>,
    rounds: u64,
}

/// Why the latest document of a name was refused.
#[derive(Debug, Clone)]
struct Refused {
    source: Source,
    finding: domain::document::Finding,
}

/// What was seen, and how fresh it is.
#[derive(Debug, Default)]
struct Sight {
    replicas: BTreeMap<ReplicaName, ObservedReplica>,
    namespaces: BTreeSet<ReplicaName>,
    /// Counts looks begun and deeds ended, so that a look that began before a deed ended does not undo it.
    sequence: u64,
    /// When each deed ended that no later look has confirmed.
    ended: BTreeMap<ReplicaName, u64>,
    looking: bool,
    /// Something happened since the look that is under way began.
    stale: bool,
    /// When to look next.
    next: Moment,
    trouble: Option<Trouble>,
}

/// The networks of environments.
#[derive(Debug, Default)]
struct Nets {
    subnets: BTreeMap<EnvironmentName, Ipv4Net>,
    /// What the rules were last made for; none before the first time.
    settled: Option<BTreeSet<EnvironmentName>>,
    settling: bool,
    /// When to look whether the rules still stand, and whether somebody else's are in the way.
    check_at: Moment,
    /// What stood before was looked at.
    seen: bool,
    retry_at: Moment,
    trouble: Option<Trouble>,
    /// What stands in the way without stopping anything.
    remarks: Vec<Trouble>,
}

/// Something to be done beside the loop: what it is called, and how it is done.
type Deed = (&'static str, BoxFuture<'static, Outcome>);

/// What came of something that was done beside the loop.
#[derive(Debug)]
enum Outcome {
    Looked {
        begun: u64,
        replicas: Result<BTreeMap<ReplicaName, ObservedReplica>, RuntimeError>,
        network: Result<ObservedNetwork, NetworkError>,
    },
    Settled(Result<(BTreeMap<EnvironmentName, Ipv4Net>, Vec<Trouble>), NetworkError>),
    Fetched(RevisionName, Result<Vec<ResolvedImage>, RuntimeError>),
    Started(ReplicaName, Result<(), Trouble>),
    Restarted(ReplicaName, String, Result<(), RuntimeError>),
    Stopped(ReplicaName, Result<(), Trouble>),
}

/// What the loop is made of.
#[derive(Debug)]
pub struct Parts<R, N, S> {
    /// The container runtime.
    pub runtime: R,
    /// The board's network.
    pub network: N,
    /// Durable state.
    pub store: S,
    /// What it held at start.
    pub loaded: Loaded,
    /// The clock.
    pub clock: Clock,
    /// What does not change.
    pub settings: Settings,
    /// For short tasks.
    pub tasks: Tasks,
    /// What is asked.
    pub inbox: mpsc::Receiver<Request>,
    /// What is reported.
    pub reports: Reports,
    /// What is published.
    pub publisher: Publisher,
    /// There is a control plane that takes events.
    pub durable_events: bool,
}

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Puts the loop together.
    pub fn new(parts: Parts<R, N, S>) -> Self {
        // Tickets must differ from those of every earlier run on this boot: nanoseconds since boot do.
        let ticket = u64::try_from(parts.clock.now().0.as_nanos()).unwrap_or(0);
        let mut this = Self {
            runtime: parts.runtime,
            network: parts.network,
            store: Some(parts.store),
            clock: parts.clock,
            settings: parts.settings,
            tasks: parts.tasks,
            inbox: parts.inbox,
            outcomes: mpsc::unbounded_channel(),
            reports: parts.reports,
            publisher: parts.publisher,
            durable_events: parts.durable_events,
            state: parts.loaded.state,
            recent: parts.loaded.outbox.iter().cloned().collect(),
            outbox: parts.loaded.outbox,
            unsaved_events: Vec::new(),
            memory: Memory::new(ticket),
            refusals: BTreeMap::new(),
            sight: Sight::default(),
            nets: Nets::default(),
            doing: BTreeMap::new(),
            fetching: BTreeSet::new(),
            starts: Arc::new(Semaphore::new(STARTS_AT_A_TIME)),
            storage_trouble: None,
            rounds: 0,
        };
        if let Some(words) = parts.loaded.rebuilt {
            this.emit(Reason::StoreRebuilt, None, None, None, words);
        }
        this
    }

    /// Runs until `stop` fires. The apps run on.
    pub async fn run(mut self, stop: CancellationToken) {
        self.look();
        loop {
            let rest = self.round().await;
            // Every arm is safe to cancel, and no arm's body awaits anything but the disk.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(outcome) = self.outcomes.1.recv() => self.absorb_all(outcome).await,
                Some(request) = self.inbox.recv() => self.take(request).await,
                Ok(()) = self.reports.runtime.changed() => self.look(),
                Ok(()) = self.reports.health.changed() => debug!("health changed"),
                Ok(()) = self.reports.lan_names.changed() => debug!("names on the LAN changed"),
                Ok(()) = self.reports.listeners.changed() => debug!("listeners changed"),
                () = time::sleep_until(self.clock.instant(rest)) => debug!("timer"),
            }
        }
        self.save_events().await;
    }

    /// One decision and what follows from it. Returns when to look again if nothing happens before.
    async fn round(&mut self) -> Moment {
        let mut plan = self.plan();
        // Steps are stored before anything follows from them; each allows further ones, so this ends.
        while !plan.steps.is_empty() {
            if let Err(error) = self.take_steps(&plan.steps).await {
                warn!(%error, "a step cannot be stored");
                plan.actions.clear();
                break;
            }
            plan = self.plan();
        }
        let now = self.clock.now();
        if self.sight.next <= now {
            self.look();
        }
        if self.rounds == 0 && self.sight.sequence <= 1 && self.sight.looking {
            // Before the first look there is nothing to decide by.
            return now.after(RESYNC);
        }
        self.rounds += 1;
        self.settle(&plan.environments, now);
        let deeds: Vec<Deed> = std::mem::take(&mut plan.actions)
            .into_iter()
            .map(|action| self.order(action))
            .collect();
        // What is ordered is published before it is done: a replica that is about to stop gets no request any more.
        self.publish();
        for deed in deeds {
            self.begin(deed);
        }
        self.save_events().await;
        self.publish_events();
        self.rest(&plan, now)
    }

    fn rest(&self, plan: &Plan, now: Moment) -> Moment {
        let mut rest = self.sight.next;
        if let Some(at) = plan.wake_at {
            rest = rest.min(at);
        }
        if self.nets.trouble.is_some() {
            rest = rest.min(self.nets.retry_at);
        }
        if !self.nets.subnets.is_empty() && !self.nets.settling {
            rest = rest.min(self.nets.check_at);
        }
        if self.storage_trouble.is_some() {
            rest = rest.min(now.after(RETRY));
        }
        rest
    }

    fn plan(&mut self) -> Plan {
        let world = World {
            now: self.clock.now(),
            observed: &self.sight.replicas,
            namespaces: &self.sight.namespaces,
            health: &self.reports.health.borrow_and_update().clone(),
            doing: &self.doing,
            fetching: &self.fetching,
            subnets: &self.nets.subnets,
            runtime: self.sight.trouble.as_ref(),
            network: self.nets.trouble.as_ref(),
            settings: &self.settings,
        };
        plan(&self.state, world, &mut self.memory)
    }

    async fn take_steps(&mut self, steps: &[Step]) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        for step in steps {
            let (Step::Commit(app, revision) | Step::Retire(app, revision)) = step;
            let known = changes.apps.iter().position(|record| record.name == *app);
            let at = known.unwrap_or_else(|| {
                changes.apps.extend(self.state.apps.get(app).cloned());
                changes.apps.len() - 1
            });
            let Some(record) = changes.apps.get_mut(at) else { continue };
            let found = record.revisions.iter_mut().find(|known| known.name == *revision);
            let Some(found) = found else { continue };
            let reason = match step {
                Step::Commit(..) => {
                    found.phase = Phase::Committed;
                    found.was_ready = true;
                    Reason::RevisionReady
                }
                Step::Retire(..) => {
                    found.active = false;
                    Reason::RevisionRetired
                }
            };
            prune(record);
            info!(%app, %revision, %reason, "step");
            self.emit(reason, Some(app), Some(revision), None, String::new());
        }
        self.commit(changes).await
    }

    /// Makes changes durable, then takes them over.
    async fn commit(&mut self, mut changes: Changes) -> Result<(), StoreError> {
        if self.durable_events {
            changes.events.clone_from(&self.unsaved_events);
        }
        if changes.device.is_none() && !changes.events.is_empty() {
            changes.device = Some(self.state.device.clone());
        }
        let mut store = self.store.take().expect("the store comes back from every commit");
        let committed = tokio::task::spawn_blocking(move || {
            let result = store.commit(&changes);
            (store, changes, result)
        });
        let (store, changes, result) = committed.await.expect("a commit does not panic");
        self.store = Some(store);
        self.storage_trouble = result.as_ref().err().map(|error| error.0.clone());
        result?;
        self.unsaved_events.clear();
        for app in changes.apps {
            self.state.apps.insert(app.name.clone(), app);
        }
        for job in changes.jobs {
            self.state.jobs.insert(job.name.clone(), job);
        }
        if let Some(device) = changes.device {
            self.state.device = device;
        }
        self.outbox.retain(|event| !changes.delivered.contains(&event.id));
        Ok(())
    }

    /// Notes an event; it is stored with the next commit, at the latest at the end of the round.
    fn emit(
        &mut self,
        reason: Reason,
        app: Option<&AppName>,
        revision: Option<&RevisionName>,
        replica: Option<&ReplicaName>,
        message: String,
    ) {
        let id = self.state.device.next_event;
        self.state.device.next_event += 1;
        let event = Event {
            id,
            time: self.clock.wall(),
            app: app.cloned(),
            revision: revision.cloned(),
            replica: replica.cloned(),
            reason,
            message,
        };
        self.outbox.push(event.clone());
        self.recent.push_back(event.clone());
        let surplus = self.recent.len().saturating_sub(RECENT_EVENTS);
        self.recent.drain(..surplus);
        self.unsaved_events.push(event);
    }

    /// Stores the events of this round, and drops the oldest that there is no room for.
    async fn save_events(&mut self) {
        if self.unsaved_events.is_empty() {
            return;
        }
        let surplus = self.outbox.len().saturating_sub(OUTBOX_DEPTH);
        let dropped: Vec<u64> = self.outbox.drain(..surplus).map(|event| event.id).collect();
        self.state.device.dropped_events += dropped.len() as u64;
        if !self.durable_events {
            self.unsaved_events.clear();
            return;
        }
        self.unsaved_events.retain(|event| !dropped.contains(&event.id));
        let changes = Changes { delivered: dropped, ..Changes::default() };
        if let Err(error) = self.commit(changes).await {
            warn!(%error, "events cannot be stored; they are kept in memory");
        }
    }
}

/// Keeps as many inactive revisions as the document allows (ACA: 100), the oldest go first.
fn prune(record: &mut domain::state::AppRecord) {
    const KEPT: u32 = 100;
    let allowed =
        record.document().and_then(|document| document.configuration.max_inactive_revisions);
    let allowed = allowed.unwrap_or(KEPT) as usize;
    let inactive = record.revisions.iter().filter(|revision| !revision.active).count();
    let mut surplus = inactive.saturating_sub(allowed);
    record.revisions.retain(|revision| {
        let goes = !revision.active && 0 < surplus;
        surplus -= usize::from(goes);
        !goes
    });
}
