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
mod clearing;
mod environments;
mod ledger;
mod ports;
mod publish;
mod pulls;
mod requests;
mod secrets;
mod standby;
#[cfg(test)]
mod tests;
mod verbs;
mod zones;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use domain::event::Event;
use domain::keep::Cleared;
use domain::model::{AppName, EnvironmentName, Moment, ReplicaName, RevisionName};
use domain::plan::{Doing, Memory, Plan, Settings, Tier, World, plan, scale};
use domain::reason::Reason;
use domain::replica::{Listener, ObservedReplica, ResolvedImage, Survey, Trouble};
use domain::rollout::Told;
use domain::state::State;
use domain::status::Source;
use futures_util::future::BoxFuture;
use ipnet::Ipv4Net;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::clock::{Clock, ZoneFiles};
use crate::course;
use crate::drain::Drain;
use crate::inbox::{INBOX_DEPTH, Kind, Request};
use crate::keys::DeviceKey;
use crate::network::{Network, NetworkError, ObservedNetwork};
use crate::published::{Publisher, Reports};
use crate::runtime::{Runtime, RuntimeError};
use crate::store::{Loaded, Store};
use crate::tasks::Tasks;

use self::zones::Almanac;

/// Looks again this often even if nobody calls: events get lost, and people use other tools.
const RESYNC: Duration = Duration::from_mins(1);

/// Replicas that start at a time: more of them on four slow cores only make all of them late.
const STARTS_AT_A_TIME: usize = 4;

/// What stands by is made one after the other: nobody waits for it.
const PREPARATIONS_AT_A_TIME: usize = 1;

/// A start that takes longer waits for something else than the processor, such as an init container: others may begin.
const TURN: Duration = Duration::from_secs(10);

/// Waits this long after the store, the network or containerd failed.
const RETRY: Duration = Duration::from_secs(2);

/// Events kept for a control plane that does not take them. The oldest go first, and are counted.
const OUTBOX_DEPTH: usize = 1000;

/// Events that a person may ask for, delivered or not.
const RECENT_EVENTS: usize = 256;

/// Rules are looked at again this often, and with each new document: another firewall may come after ours.
const RECHECK: Duration = RESYNC;

/// Names whose first document was refused and that are remembered to be told of.
const REFUSALS_KEPT: usize = 64;

/// Everything the loop holds.
#[derive(Debug)]
pub struct Reconciler<R, N, S> {
    runtime: R,
    network: N,
    drain: Arc<dyn Drain>,
    /// Away only while a commit runs on a thread that may block.
    store: Option<S>,
    clock: Clock,
    settings: Settings,
    tasks: Tasks,
    inbox: mpsc::Receiver<Request>,
    outcomes: (mpsc::UnboundedSender<Outcome>, mpsc::UnboundedReceiver<Outcome>),
    reports: Reports,
    publisher: Publisher,
    device_key: Arc<DeviceKey>,
    /// Secrets whose stored values could not be opened: whose, and their names.
    lost_secrets: Vec<(String, String)>,
    /// Keep events on disk: there is a control plane to take them.
    durable_events: bool,

    state: State,
    outbox: Vec<Event>,
    recent: VecDeque<Event>,
    unsaved_events: Vec<Event>,
    /// Dropped from the outbox and still on the disk.
    leaving: Vec<u64>,
    memory: Memory,
    refusals: BTreeMap<(Kind, String), Refused>,
    sight: Sight,
    nets: Nets,
    doing: BTreeMap<ReplicaName, Doing>,
    fetching: BTreeSet<RevisionName>,
    surveying: BTreeSet<AppName>,
    /// Quarters of each pull that were told of as an event.
    quarters_told: BTreeMap<String, u8>,
    /// When those were last asked for their ports whose target port is closed.
    asked_ports: BTreeMap<ReplicaName, Moment>,
    starts: Arc<Semaphore>,
    preparations: Arc<Semaphore>,
    /// How each start that is under way is given up, and each freeze.
    give_up: BTreeMap<ReplicaName, CancellationToken>,
    clearing: Clear,
    storage_trouble: Option<Trouble>,
    almanac: Almanac,
    rounds: u64,
    /// Who wants to know of the next round that is complete.
    awaited: Vec<oneshot::Sender<()>>,
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

/// The images that nobody needs.
#[derive(Debug, Default)]
struct Clear {
    /// They are being looked through.
    busy: bool,
    /// When they are next.
    at: Moment,
    /// When somebody without room last had them looked through.
    room_at: Option<Moment>,
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

/// Something to be done beside the loop.
struct Deed {
    name: &'static str,
    work: BoxFuture<'static, Outcome>,
    /// What is said to have come of it if it panics: nothing may be left waiting for it.
    lost: Outcome,
}

/// What came of something that was done beside the loop.
#[derive(Debug)]
enum Outcome {
    Looked {
        begun: u64,
        replicas: Result<BTreeMap<ReplicaName, ObservedReplica>, RuntimeError>,
        network: Result<ObservedNetwork, NetworkError>,
        /// What replicas that stand by hold of the board's memory.
        held: BTreeMap<ReplicaName, u64>,
    },
    Settled(Result<(BTreeMap<EnvironmentName, Ipv4Net>, Vec<Trouble>), NetworkError>),
    Fetched(RevisionName, Result<Vec<ResolvedImage>, RuntimeError>),
    Started(ReplicaName, Result<(), Trouble>),
    Prepared(ReplicaName, Tier, Result<(), Trouble>),
    Frozen(ReplicaName, Result<(), Trouble>),
    /// A freeze was called off.
    CalledBack(ReplicaName, Result<(), Trouble>),
    Restarted(ReplicaName, String, Result<(), RuntimeError>),
    Stopped(ReplicaName, Result<(), Trouble>),
    Cleared(Result<Cleared, RuntimeError>),
    Surveyed(AppName, Result<Survey, RuntimeError>),
    Listens(ReplicaName, Result<Vec<Listener>, RuntimeError>),
    /// A start or a freeze was told that nobody wants it any more; its own outcome follows.
    GivenUp,
}

/// What the loop is made of.
#[derive(Debug)]
pub struct Parts<R, N, S> {
    /// The container runtime.
    pub runtime: R,
    /// The board's network.
    pub network: N,
    /// Whoever serves requests.
    pub drain: Arc<dyn Drain>,
    /// Durable state.
    pub store: S,
    /// What it held at start.
    pub loaded: Loaded,
    /// The clock.
    pub clock: Clock,
    /// The board's time zones.
    pub zone_files: ZoneFiles,
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
    /// What opens sealed values.
    pub device_key: Arc<DeviceKey>,
}

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Puts the loop together.
    pub fn new(parts: Parts<R, N, S>) -> Self {
        // Tickets must differ from those of every earlier run on this boot: nanoseconds since boot do.
        let ticket = u64::try_from(parts.clock.now().0.as_nanos()).unwrap_or(0);
        let mut this = Self {
            runtime: parts.runtime,
            network: parts.network,
            drain: parts.drain,
            store: Some(parts.store),
            clock: parts.clock,
            settings: parts.settings,
            tasks: parts.tasks,
            inbox: parts.inbox,
            outcomes: mpsc::unbounded_channel(),
            reports: parts.reports,
            publisher: parts.publisher,
            device_key: parts.device_key,
            lost_secrets: parts.loaded.lost_secrets,
            durable_events: parts.durable_events,
            state: parts.loaded.state,
            recent: parts.loaded.outbox.iter().cloned().collect(),
            outbox: parts.loaded.outbox,
            unsaved_events: Vec::new(),
            leaving: Vec::new(),
            memory: Memory::new(ticket),
            refusals: BTreeMap::new(),
            sight: Sight::default(),
            nets: Nets::default(),
            doing: BTreeMap::new(),
            fetching: BTreeSet::new(),
            surveying: BTreeSet::new(),
            quarters_told: BTreeMap::new(),
            asked_ports: BTreeMap::new(),
            starts: Arc::new(Semaphore::new(STARTS_AT_A_TIME)),
            preparations: Arc::new(Semaphore::new(PREPARATIONS_AT_A_TIME)),
            give_up: BTreeMap::new(),
            clearing: Clear { at: parts.clock.now().after(clearing::FIRST), ..Clear::default() },
            storage_trouble: None,
            almanac: Almanac::new(parts.zone_files),
            rounds: 0,
            awaited: Vec::new(),
        };
        if let Some(words) = parts.loaded.rebuilt {
            this.emit(Reason::StoreRebuilt, None, None, None, words);
        }
        if let Some(trouble) = this.lost_values() {
            this.emit(trouble.reason, None, None, None, trouble.details);
        }
        this
    }

    /// Runs until `stop` fires. The apps run on.
    pub async fn run(mut self, stop: CancellationToken) {
        self.publisher.round.send_replace(self.clock.now());
        self.look();
        loop {
            let rest = self.round().await;
            self.publisher.round.send_replace(self.clock.now());
            // Every arm is safe to cancel, and no arm's body awaits anything but the disk.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(outcome) = self.outcomes.1.recv() => self.absorb_all(outcome).await,
                Some(request) = self.inbox.recv() => self.take(request).await,
                Ok(()) = self.reports.runtime.changed() => self.look(),
                Ok(()) = self.reports.health.changed() => debug!("health changed"),
                Ok(()) = self.reports.demand.changed() => {
                    debug!("demand changed");
                    course::told();
                }
                Ok(()) = self.reports.readings.changed() => debug!("a sample was taken"),
                Ok(()) = self.reports.lan_names.changed() => debug!("names on the LAN changed"),
                Ok(()) = self.reports.listeners.changed() => debug!("listeners changed"),
                Ok(()) = self.reports.pulls.changed() => self.note_pulls(),
                Ok(()) = self.reports.pressure.changed() => debug!("memory pressure changed"),
                () = time::sleep_until(self.clock.instant(rest)) => debug!("timer"),
            }
        }
        self.save_events().await;
    }

    /// One decision and what follows from it. Returns when to look again if nothing happens before.
    async fn round(&mut self) -> Moment {
        self.almanac.refresh(&self.state, self.clock.now()).await;
        // Before the first look there is nothing to decide by: what nobody saw yet is no reason to roll back, nor to start.
        let blind = self.rounds == 0 && self.sight.sequence <= 1 && self.sight.looking;
        let mut plan = if blind { Plan::default() } else { self.plan() };
        // Steps are stored before anything follows from them; each allows further ones, so this ends.
        while !plan.steps.is_empty() {
            if let Err(error) = self.take_steps(std::mem::take(&mut plan.steps)).await {
                // What was planned beside it follows from what is stored, and goes on.
                warn!(%error, "a step cannot be stored");
                break;
            }
            plan = self.plan();
        }
        let now = self.clock.now();
        // In a flood of requests the loop never comes to wait for the pulse.
        let pulse = self.reports.runtime.has_changed().is_ok_and(|changed| changed);
        if pulse || self.sight.next <= now {
            self.reports.runtime.mark_unchanged();
            self.look();
        }
        if blind {
            return now.after(RESYNC);
        }
        self.rounds += 1;
        self.settle(&plan.environments, now);
        for Told { app, revision, reason, message } in std::mem::take(&mut plan.told) {
            self.emit(reason, Some(&app), Some(&revision), None, message);
        }
        let deeds: Vec<Deed> = std::mem::take(&mut plan.actions)
            .into_iter()
            .map(|action| self.order(action))
            .collect();
        // What is ordered is published before it is done: a replica that is about to stop gets no request any more.
        self.publish();
        for deed in deeds {
            self.begin(deed);
        }
        self.ask_ports();
        self.clear_images(now);
        self.save_events().await;
        self.publish_events();
        for reply in std::mem::take(&mut self.awaited) {
            // Who asked may have stopped meanwhile.
            let _ = reply.send(());
        }
        self.rest(&plan, now)
    }

    fn rest(&self, plan: &Plan, now: Moment) -> Moment {
        let mut rest = self.sight.next;
        if let Some(at) = plan.wake_at {
            rest = rest.min(at);
        }
        // What is under way ends with an outcome, which wakes the loop: a date that has passed would only make it spin.
        if !self.nets.settling {
            match self.nets.trouble {
                Some(_) => rest = rest.min(self.nets.retry_at),
                None if self.nets.subnets.is_empty() => (),
                None => rest = rest.min(self.nets.check_at),
            }
        }
        if !self.clearing.busy {
            rest = rest.min(self.clearing.at);
        }
        if self.storage_trouble.is_some() {
            rest = rest.min(now.after(RETRY));
        }
        rest
    }

    fn plan(&mut self) -> Plan {
        let demand = self.reports.demand.borrow_and_update().clone();
        let readings = self.reports.readings.borrow_and_update().clone();
        let world = World {
            now: self.clock.now(),
            wall: self.clock.wall(),
            zones: &self.almanac.zones,
            observed: &self.sight.replicas,
            namespaces: &self.sight.namespaces,
            health: &self.reports.health.borrow_and_update().clone(),
            demand: &demand,
            readings: &readings,
            environments: &self.state.environments,
            doing: &self.doing,
            fetching: &self.fetching,
            surveying: &self.surveying,
            subnets: &self.nets.subnets,
            runtime: self.sight.trouble.as_ref(),
            network: self.nets.trouble.as_ref(),
            memory_low: *self.reports.pressure.borrow_and_update(),
            settings: &self.settings,
        };
        scale(&mut self.state.apps, world, &mut self.memory);
        plan(&self.state, world, &mut self.memory)
    }
}
