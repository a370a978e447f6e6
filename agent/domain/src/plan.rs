//! The decision: what to do next, so that what runs becomes what is desired.
//!
//! `plan` is called with the whole state and the whole world, as often as anybody likes: what is being done is part of
//! the world, so nothing is ordered twice. It remembers only what the world cannot tell ([`Memory`]): failures, back-offs, and which address was given last.
//!
//! How a revision comes to the traffic is in [`rollout`](crate::rollout); here is what follows for its replicas.

mod exclusive;
mod figures;
mod fit;
mod fleet;
mod memory;
pub(crate) mod orders;
mod polled;
mod scaling;
mod standby;
mod storages;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::allowances::Allowances;
use crate::model::{AppName, EnvironmentName, Moment, ReplicaName, RevisionName, WallTime};
use crate::probe::HealthReport;
use crate::reason::Reason;
use crate::replica::{FetchOrder, ObservedReplica, ReplicaOrder, Trouble};
use crate::rollout::{self, Step, Told};
use crate::scale::{Demand, Readings};
use crate::state::{AppRecord, EnvironmentRecord, RevisionRecord, State, Wanted};
use crate::window::Zones;

pub use self::figures::Surveyed;
pub use self::fleet::{Fleet, Origin, ReplicaView, Spare, Tier};
pub use self::memory::Memory;
pub use self::scaling::scale;

/// What is known of the world, and of what is being done to it.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// Now.
    pub now: Moment,
    /// The date: it decides nothing but when windows open.
    pub wall: WallTime,
    /// The time zones that are known.
    pub zones: &'a Zones,
    /// The replicas there are records of.
    pub observed: &'a BTreeMap<ReplicaName, ObservedReplica>,
    /// The network namespaces that stand.
    pub namespaces: &'a BTreeSet<ReplicaName>,
    /// What the probes say.
    pub health: &'a HealthReport,
    /// What the ingress is asked for.
    pub demand: &'a Demand,
    /// What was sampled for scale rules.
    pub readings: &'a Readings,
    /// What documents said of environments: where their storages are.
    pub environments: &'a BTreeMap<EnvironmentName, EnvironmentRecord>,
    /// What is being done to replicas.
    pub doing: &'a BTreeMap<ReplicaName, Doing>,
    /// Revisions whose images are being fetched.
    pub fetching: &'a BTreeSet<RevisionName>,
    /// Apps for which the board is being measured.
    pub surveying: &'a BTreeSet<AppName>,
    /// Environments whose network stands.
    pub subnets: &'a BTreeMap<EnvironmentName, Ipv4Net>,
    /// What is wrong with the board as a whole; while containerd is away nothing is ordered from it.
    pub runtime: Option<&'a Trouble>,
    /// Why networks of environments cannot be made to stand.
    pub network: Option<&'a Trouble>,
    /// Processes of the board wait for memory.
    pub memory_low: bool,
    /// The board.
    pub settings: &'a Settings,
}

/// What does not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The device's id.
    pub device: String,
    /// `{environment}` and `{device}` are filled in.
    pub dns_suffix: String,
    /// Where network namespaces stand.
    pub netns_dir: PathBuf,
    /// Which boot this is.
    pub boot: String,
    /// Containers may reach something of the board.
    pub host_allowed: bool,
    /// TCP ports of the board's own, which no app can have.
    pub own_ports: BTreeSet<u16>,
    /// What documents may ask of the board.
    pub allowances: Allowances,
}

impl Settings {
    /// The DNS suffix of an environment, lower case.
    pub fn suffix(&self, environment: &EnvironmentName) -> String {
        self.dns_suffix
            .replace("{environment}", environment.as_str())
            .replace("{device}", &self.device)
            .to_lowercase()
    }
}

/// What is being done to a replica.
#[derive(Debug, Clone, PartialEq)]
pub enum Doing {
    /// Made and started. It counts as one of its revision's.
    Starting(Arc<ReplicaOrder>),
    /// One of its containers is started afresh. It counts, and is not ready.
    Restarting(Arc<ReplicaOrder>),
    /// Made to stand by. It counts not.
    Preparing(Arc<ReplicaOrder>),
    /// Drained and paused, to stand by. It counts no more, unless it is called back.
    Freezing,
    /// Stopped and removed. Left alone: it counts no more, and its address stays taken until it is gone.
    Stopping,
}

/// One thing to do. Each is done beside the others; its outcome comes back through the memory.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make a revision's images local.
    Fetch(FetchOrder),
    /// Make and start a replica.
    Start(Arc<ReplicaOrder>),
    /// Make a replica that stands by, as far as this.
    Prepare(Arc<ReplicaOrder>, Tier),
    /// Start what stands by, of whom nothing is to be made any more. One that is being paused is not paused, and serves on.
    Wake(Arc<ReplicaOrder>, Tier),
    /// Pause a replica once it has nothing open any more, for which it has this long.
    Freeze(ReplicaName, Duration),
    /// Start one of its containers afresh; where it still runs, it has this long from SIGTERM to SIGKILL.
    Restart(Arc<ReplicaOrder>, String, Duration),
    /// Stop a replica and remove all of it, its network too.
    Stop(ReplicaName, Duration),
    /// Measure the board, and these replicas on it, for an app.
    Survey(AppName, Vec<ReplicaName>),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Steps to take first. While there are any, plan again after them.
    pub steps: Vec<Step>,
    /// Things to do.
    pub actions: Vec<Action>,
    /// What is to be told of them.
    pub told: Vec<Told>,
    /// Environments whose network has to stand.
    pub environments: BTreeSet<EnvironmentName>,
    /// When to look again, if nothing happens before.
    pub wake_at: Option<Moment>,
}

impl Plan {
    pub(crate) fn wake_by(&mut self, at: Option<Moment>) {
        if let Some(at) = at {
            self.wake(at);
        }
    }

    pub(crate) fn wake(&mut self, at: Moment) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }
}

/// What to do next.
pub fn plan(state: &State, world: World<'_>, memory: &mut Memory) -> Plan {
    memory.learn(state, world);
    let fleet = Fleet::of(state, world, memory);
    memory.see_ready(fleet.complete(state), world.now);
    let mut plan = Plan::default();
    plan.wake_by(memory.scale_again());
    for record in state.apps.values() {
        let step = rollout::advance(record, &fleet, world, memory, &mut plan);
        plan.steps.extend(step);
    }
    for record in state.apps.values() {
        let own = record.revisions.iter().filter(|revision| revision.active);
        let documents =
            record.document().into_iter().chain(own.filter_map(|one| record.document_of(one)));
        plan.environments.extend(documents.map(|document| document.environment.clone()));
    }
    // The network of an environment outlives its last app by that app's replicas.
    plan.environments.extend(world.observed.values().map(|replica| replica.environment.clone()));
    if world.runtime.is_some() {
        return plan;
    }
    fit::measure(state, &fleet, world, memory, &mut plan);
    stop_strays(state, world, memory, &mut plan);
    for record in state.apps.values() {
        // What goes makes room for what comes, and that in the same plan: nothing may call for another for a while.
        let comes = |revision: &&RevisionRecord| 0 < rollout::allowed(record, revision);
        let (come, go): (Vec<_>, Vec<_>) = record.revisions.iter().partition(comes);
        for revision in go.into_iter().chain(come) {
            order_revision(record, revision, &fleet, world, memory, &mut plan);
        }
    }
    plan
}

/// Stops what no desired state asks for: replicas of apps and revisions that are gone, and of an earlier boot.
fn stop_strays(state: &State, world: World<'_>, memory: &Memory, plan: &mut Plan) {
    for (name, observed) in world.observed {
        if world.doing.contains_key(name) {
            continue;
        }
        let record = state.apps.get(&observed.app);
        let revision = record.and_then(|record| record.revision(&observed.revision));
        let at_home = match (record, revision) {
            (Some(record), Some(revision)) => {
                fleet::is_at_home(record, revision, &observed.environment)
            }
            (_, _) => true,
        };
        let of_this_boot = fleet::is_of_this_boot(name, observed, world);
        let wanted = revision.is_some_and(|revision| {
            of_this_boot && at_home && fleet::is_of(revision, observed.template_digest)
        });
        if !wanted {
            // What is left of an earlier boot does not run.
            let grace = observed.grace.unwrap_or(DEFAULT_GRACE);
            let grace = if of_this_boot { grace } else { Duration::ZERO };
            plan.actions.push(Action::Stop(name.clone(), grace));
        }
    }
    stop_vain_starts(state, world, memory, plan);
    for name in world.namespaces {
        if !world.observed.contains_key(name) && !world.doing.contains_key(name) {
            plan.actions.push(Action::Stop(name.clone(), Duration::ZERO));
        }
    }
}

/// Gives up starts that nobody waits for any more: an init container may never end.
fn stop_vain_starts(state: &State, world: World<'_>, memory: &Memory, plan: &mut Plan) {
    for (name, doing) in world.doing {
        let (Doing::Starting(order) | Doing::Preparing(order)) = doing else { continue };
        let idles = |record: &AppRecord, revision: &RevisionRecord| {
            matches!(doing, Doing::Preparing(_))
                && standby::tier(record, revision, world, memory).is_some()
        };
        let wanted = state.apps.get(&order.app).is_some_and(|record| {
            let revision = record.revision(&order.revision);
            revision.is_some_and(|revision| {
                revision.mark() == order.template_digest
                    && fleet::is_at_home(record, revision, &order.environment)
                    && (0 < rollout::allowed(record, revision) || idles(record, revision))
            })
        });
        if !wanted {
            plan.actions.push(Action::Stop(name.clone(), Duration::ZERO));
        }
    }
}

/// ACA's grace from SIGTERM to SIGKILL.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

fn grace(revision: &RevisionRecord) -> Duration {
    revision.template.grace().unwrap_or(DEFAULT_GRACE)
}

/// Fetches, starts, restarts and stops for one revision.
fn order_revision(
    record: &AppRecord,
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    let fetch = revision.images.is_empty() || revision.refetch;
    // What is at zero is fetched too: whoever wakes it is not to wait for a registry.
    let wanted = record.wanted_of(revision);
    if fetch && (0 < wanted.count() || wanted == Wanted::Asleep) {
        order_fetch(record, revision, world, memory, plan);
    }
    let allowed = rollout::allowed(record, revision);
    let replicas = fleet.replicas(&revision.name);
    let (broken, living): (Vec<&ReplicaView<'_>>, Vec<_>) =
        replicas.iter().partition(|replica| replica.is_half_made(revision));
    for replica in broken {
        plan.actions.push(Action::Stop(replica.name.clone(), Duration::ZERO));
    }
    let (outdated, current): (Vec<&ReplicaView<'_>>, Vec<_>) =
        living.into_iter().partition(|replica| replica.outdated);
    let count = count(&current);
    let ready = count_of(current.iter().filter(|replica| replica.ready));
    // Those from before a restart serve until their successors do, or stop first where they must.
    let alone =
        rollout::stops_first(record, revision) || !revision.template.extras.devices.is_empty();
    if allowed <= ready || alone && !fetch {
        stop_surplus(revision, outdated, 0, plan);
    } else {
        restart_all(record, revision, &outdated, world, memory, plan);
    }
    if allowed < count {
        let current = standby::freeze_one(record, revision, current, fleet, world, memory, plan);
        stop_surplus(revision, current.clone(), allowed, plan);
        // Those that stay do not wait for those that go.
        let stays = |replica: &&ReplicaView<'_>| !is_stopping(&replica.name, world, plan);
        let current: Vec<_> = current.into_iter().filter(stays).collect();
        restart_all(record, revision, &current, world, memory, plan);
        return standby::keep(record, revision, fleet, world, memory, plan);
    }
    restart_all(record, revision, &current, world, memory, plan);
    let missing = allowed.saturating_sub(count).min(room(record, fleet, world, plan));
    if 0 < missing && !fetch {
        let missing = standby::wake(record, revision, missing, fleet, world, memory, plan);
        start_missing(record, revision, missing, fleet, world, memory, plan);
    }
    standby::keep(record, revision, fleet, world, memory, plan);
}

fn restart_all(
    record: &AppRecord,
    revision: &RevisionRecord,
    replicas: &[&ReplicaView<'_>],
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    for replica in replicas {
        restart_containers(record, revision, replica, world, memory, plan);
    }
}

fn count(replicas: &[&ReplicaView<'_>]) -> u32 {
    count_of(replicas.iter())
}

fn count_of<T>(replicas: impl Iterator<Item = T>) -> u32 {
    u32::try_from(replicas.count()).unwrap_or(u32::MAX)
}

/// How many more replicas an app may have: as many as its active revisions may have together. Those of a revision
/// that was superseded before it ever served, or of an app of this name that was removed, go first; those from before
/// a restart do not count, as their successors come beside them.
fn room(record: &AppRecord, fleet: &Fleet<'_>, world: World<'_>, plan: &Plan) -> u32 {
    let allowed: u32 = record.revisions.iter().map(|one| rollout::allowed(record, one)).sum();
    let stopping = |name: &ReplicaName| is_stopping(name, world, plan);
    let outdated = |name: &ReplicaName| {
        let views = record.revisions.iter().flat_map(|one| fleet.replicas(&one.name));
        views.into_iter().any(|view| view.outdated && view.name == *name)
    };
    let idle = |name: &ReplicaName| {
        let stands_by = record.revisions.iter().flat_map(|one| fleet.spares(&one.name));
        let becomes = matches!(world.doing.get(name), Some(Doing::Preparing(_) | Doing::Freezing));
        becomes || stands_by.into_iter().any(|spare| spare.view.name == *name)
    };
    let seen = world
        .observed
        .iter()
        .filter(|(name, seen)| seen.app == record.name && fleet::is_of_this_boot(name, seen, world))
        .filter(|(name, _)| !stopping(name) && !outdated(name) && !idle(name));
    let ordered = world.doing.iter().filter(|(name, doing)| match doing {
        Doing::Starting(order) | Doing::Restarting(order) => {
            order.app == record.name && !world.observed.contains_key(*name) && !stopping(name)
        }
        Doing::Stopping | Doing::Preparing(_) | Doing::Freezing => false,
    });
    let starts = |action: &&Action| match action {
        Action::Start(order) | Action::Wake(order, _) => order.app == record.name,
        Action::Fetch(_)
        | Action::Prepare(..)
        | Action::Freeze(..)
        | Action::Restart(..)
        | Action::Stop(..)
        | Action::Survey(..) => false,
    };
    let planned = plan.actions.iter().filter(starts);
    let living = count_of(seen) + count_of(ordered) + count_of(planned);
    allowed.saturating_sub(living)
}

fn is_stopping(name: &ReplicaName, world: World<'_>, plan: &Plan) -> bool {
    let ordered = |action: &Action| matches!(action, Action::Stop(one, _) if one == name);
    matches!(world.doing.get(name), Some(Doing::Stopping)) || plan.actions.iter().any(ordered)
}

fn order_fetch(
    record: &AppRecord,
    revision: &RevisionRecord,
    world: World<'_>,
    memory: &Memory,
    plan: &mut Plan,
) {
    if world.fetching.contains(&revision.name) {
        return;
    }
    match memory.fetch_retry_at(&revision.name) {
        Some(at) if world.now < at => plan.wake(at),
        Some(_) | None => plan.actions.push(Action::Fetch(orders::fetch(record, revision))),
    }
}

/// Those that serve least go first: not ready, then youngest.
fn stop_surplus(
    revision: &RevisionRecord,
    mut living: Vec<&ReplicaView<'_>>,
    wanted: u32,
    plan: &mut Plan,
) {
    living.sort_by_key(|replica| (!replica.ready, replica.name.clone()));
    for replica in living.into_iter().skip(wanted as usize) {
        let starts = matches!(replica.doing, Some(Doing::Starting(_)));
        if wanted == 0 && starts {
            continue; // given up with the other vain starts
        }
        if replica.doing.is_none() || starts {
            plan.actions.push(Action::Stop(replica.name.clone(), grace(revision)));
        }
    }
}

fn restart_containers(
    record: &AppRecord,
    revision: &RevisionRecord,
    replica: &ReplicaView<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    if replica.doing.is_some() {
        return;
    }
    for container in replica.down_containers(revision) {
        let at = memory.restart_at(&replica.name, container);
        if world.now < at {
            plan.wake(at);
            continue;
        }
        match orders::existing(record, revision, replica, world) {
            Ok(Some(order)) => {
                let own = replica.health.and_then(|health| health.graces.get(container)).copied();
                let grace = own.unwrap_or_else(|| grace(revision));
                plan.actions.push(Action::Restart(Arc::new(order), container.to_owned(), grace));
                return; // one at a time: the others follow when this one is done
            }
            // The network of its environment does not stand yet: the loop calls again when it does.
            Ok(None) => (),
            Err(trouble) => {
                memory.note(&revision.name, trouble);
                return;
            }
        }
    }
}

fn start_missing(
    record: &AppRecord,
    revision: &RevisionRecord,
    missing: u32,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    if let Some(at) = memory.start_retry_at(&revision.name).filter(|at| world.now < *at) {
        plan.wake(at);
        return;
    }
    for _ in 0..missing {
        if let Some(trouble) = exclusive::holder(record, revision, fleet, world, plan) {
            // Its end is an outcome, which calls the loop.
            memory.hold_back(&revision.name, trouble, world.now);
            return;
        }
        match orders::fresh(record, revision, world, memory) {
            Ok(Some(order)) => plan.actions.push(Action::Start(Arc::new(order))),
            // The network of its environment does not stand yet: the loop calls again when it does.
            Ok(None) => return,
            Err(trouble) => {
                memory.hold_back(&revision.name, trouble, world.now);
                return;
            }
        }
    }
}

/// The order of one replica failed for want of something that only a person can give.
pub(crate) fn trouble(reason: Reason, details: impl Into<String>) -> Trouble {
    Trouble { reason, details: details.into() }
}
