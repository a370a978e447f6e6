//! The fleet: what is known of every replica, joined from what was seen, probed and ordered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Doing, Memory, World};
use crate::document::Container;
use crate::model::{Digest, EnvironmentName, ReplicaName, RevisionName};
use crate::probe::Health;
use crate::replica::{ContainerState, ObservedReplica, ReplicaOrder};
use crate::rollout;
use crate::state::{AppRecord, RevisionRecord, State};

/// Every replica that counts, by revision.
#[derive(Debug)]
pub struct Fleet<'a> {
    revisions: BTreeMap<&'a RevisionName, (&'a RevisionRecord, Vec<ReplicaView<'a>>)>,
    /// What stands by, by revision: it counts as no replica.
    spares: BTreeMap<&'a RevisionName, Vec<Spare<'a>>>,
}

/// A replica that stands by for its revision.
#[derive(Debug, Clone)]
pub struct Spare<'a> {
    /// What is known of it.
    pub view: ReplicaView<'a>,
    /// How far it is from serving.
    pub tier: Tier,
}

/// How far a replica that stands by is from serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Its records, root file systems and network stand.
    Prepared,
    /// Its processes are made, and wait to be started.
    Created,
    /// It was ready, and is paused.
    Frozen,
}

impl Tier {
    /// The word that stands in a status.
    pub fn word(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Created => "created",
            Self::Frozen => "frozen",
        }
    }

    /// What the containers of a replica come to, where they stand by as a whole.
    fn of(observed: &ObservedReplica, revision: &RevisionRecord) -> Option<Self> {
        let mut containers = revision.template.containers.iter();
        let tier = |container: &Container| match observed.containers.get(&container.name)? {
            ContainerState::Created => Some(Self::Prepared),
            ContainerState::Armed => Some(Self::Created),
            ContainerState::Frozen { .. } => Some(Self::Frozen),
            ContainerState::Running { .. } | ContainerState::Exited { .. } => None,
        };
        let first = tier(containers.next()?)?;
        containers.all(|one| tier(one) == Some(first)).then_some(first)
    }
}

/// Who has started a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This run of the agent.
    Here,
    /// An earlier run of the agent.
    Earlier,
    /// It was paused while it was ready, and runs again.
    Freezer,
}

/// All that is known of one replica.
#[derive(Debug, Clone)]
pub struct ReplicaView<'a> {
    /// Its name.
    pub name: ReplicaName,
    /// What was seen of it, once it was seen.
    pub observed: Option<&'a ObservedReplica>,
    /// What is being done to it.
    pub doing: Option<&'a Doing>,
    /// Where it is.
    pub address: Ipv4Addr,
    /// What the probes say of it as it runs now.
    pub health: Option<&'a Health>,
    /// All its containers run and every probe is content.
    pub ready: bool,
    /// Restarts of all its containers.
    pub restart_count: u32,
    /// Who has started it.
    pub origin: Origin,
    /// Made before its revision was last restarted by a person: it serves until its successors do.
    pub outdated: bool,
}

impl<'a> Fleet<'a> {
    /// Joins what is known.
    pub fn of(state: &'a State, world: World<'a>, memory: &Memory) -> Self {
        let (mut revisions, mut spares) = (BTreeMap::new(), BTreeMap::new());
        for app in state.apps.values() {
            for revision in &app.revisions {
                let views = replicas(app, revision, world, memory);
                let tier = |view: &ReplicaView<'_>| spare_tier(view, revision, memory);
                let (idle, views): (Vec<_>, Vec<_>) =
                    views.into_iter().partition(|view| tier(view).is_some());
                let idle = idle.into_iter().filter_map(|view| {
                    let tier = tier(&view)?;
                    Some(Spare { view, tier })
                });
                spares.insert(&revision.name, idle.collect());
                revisions.insert(&revision.name, (revision, views));
            }
        }
        Self { revisions, spares }
    }

    /// What stands by for a revision.
    pub fn spares(&self, revision: &RevisionName) -> &[Spare<'a>] {
        self.spares.get(revision).map_or(&[], Vec::as_slice)
    }

    /// The replicas of a revision that count: not those that are being stopped.
    pub fn replicas(&self, revision: &RevisionName) -> &[ReplicaView<'a>] {
        self.revisions.get(revision).map_or(&[], |(_, views)| views.as_slice())
    }

    /// The devices that replicas of a revision hold; nothing is known of a revision that is gone.
    pub(super) fn devices(&self, revision: &RevisionName) -> Option<Vec<&'a str>> {
        let (revision, _) = self.revisions.get(revision)?;
        let devices = revision.template.extras.devices.iter();
        Some(devices.map(|device| device.host_path.as_str()).collect())
    }

    /// The revisions that have all the replicas they may have, ready.
    pub(super) fn complete<'s>(
        &'s self,
        state: &'s State,
    ) -> impl Iterator<Item = &'s RevisionName> {
        state.apps.values().flat_map(move |app| {
            let all = app.revisions.iter().filter(|revision| revision.active);
            let complete = all.filter(move |revision| {
                let needed = rollout::needed(app, revision);
                1 <= needed && needed <= self.renewed(&revision.name)
            });
            complete.map(|revision| &revision.name)
        })
    }

    /// How many of them are ready that were made since the last restart by a person.
    fn renewed(&self, revision: &RevisionName) -> u32 {
        let all = self.replicas(revision).iter();
        let renewed = all.filter(|replica| replica.ready && !replica.outdated).count();
        u32::try_from(renewed).unwrap_or(u32::MAX)
    }

    /// How many of them are ready.
    pub fn ready(&self, revision: &RevisionName) -> u32 {
        let ready = self.replicas(revision).iter().filter(|replica| replica.ready).count();
        u32::try_from(ready).unwrap_or(u32::MAX)
    }
}

/// Whether a replica stands by. What is only recorded does where this run of the agent has seen it made whole: else it
/// may be what is left of a start.
fn spare_tier(view: &ReplicaView<'_>, revision: &RevisionRecord, memory: &Memory) -> Option<Tier> {
    let tier = Tier::of(view.observed.filter(|_| view.doing.is_none())?, revision)?;
    (tier != Tier::Prepared || memory.prepared_by(&view.name).is_some()).then_some(tier)
}

/// In the environment that its app is in now: a change of it needs new replicas, in the other network.
pub(super) fn is_at_home(
    app: &AppRecord,
    revision: &RevisionRecord,
    environment: &EnvironmentName,
) -> bool {
    app.document_of(revision).is_none_or(|document| document.environment == *environment)
}

/// Whether a replica with this mark was made of this revision, be it before a restart.
pub(super) fn is_of(revision: &RevisionRecord, mark: Digest) -> bool {
    revision.mark() == mark || revision.is_earlier_mark(mark)
}

/// A replica of a revision that is being paused, and could serve on.
pub(super) fn freezing<'a>(
    app: &AppRecord,
    revision: &'a RevisionRecord,
    world: World<'a>,
    memory: &Memory,
) -> Option<ReplicaView<'a>> {
    let (name, observed) = world.observed.iter().find(|(name, observed)| {
        matches!(world.doing.get(*name), Some(Doing::Freezing))
            && observed.revision == revision.name
            && observed.template_digest == revision.mark()
            && is_at_home(app, revision, &observed.environment)
            && is_of_this_boot(name, observed, world)
    })?;
    Some(view(name, Some(observed), None, revision, world, memory))
}

fn replicas<'a>(
    app: &AppRecord,
    revision: &'a RevisionRecord,
    world: World<'a>,
    memory: &Memory,
) -> Vec<ReplicaView<'a>> {
    let seen = world.observed.iter().filter(|(name, observed)| {
        observed.revision == revision.name
            && is_of(revision, observed.template_digest)
            && is_at_home(app, revision, &observed.environment)
            && is_of_this_boot(name, observed, world)
            && !matches!(
                world.doing.get(*name),
                Some(Doing::Stopping | Doing::Preparing(_) | Doing::Freezing)
            )
    });
    let mut views: Vec<ReplicaView<'_>> = seen
        .map(|(name, observed)| view(name, Some(observed), None, revision, world, memory))
        .collect();
    for (name, doing) in world.doing {
        // A restart takes the only record of a replica away for a moment; the replica is still there.
        let (Doing::Starting(order) | Doing::Restarting(order)) = doing else { continue };
        let counts =
            order.revision == revision.name && is_at_home(app, revision, &order.environment);
        if counts && !world.observed.contains_key(name) {
            views.push(view(name, None, Some(order), revision, world, memory));
        }
    }
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

fn view<'a>(
    name: &ReplicaName,
    observed: Option<&'a ObservedReplica>,
    order: Option<&ReplicaOrder>,
    revision: &RevisionRecord,
    world: World<'a>,
    memory: &Memory,
) -> ReplicaView<'a> {
    let restart_count = memory.restart_count(name);
    let doing = world.doing.get(name);
    let health = world.health.get(name).filter(|health| health.epoch == u64::from(restart_count));
    let runs = observed.is_some_and(|observed| all_run(observed, revision));
    // What was ready when it was frozen is ready when it is thawed, until a probe says otherwise.
    let thawed = memory.is_thawed(name);
    let ready = runs && doing.is_none() && health.map_or(thawed, |health| health.ready);
    let origin = match (thawed, memory.is_adopted(name)) {
        (true, _) => Origin::Freezer,
        (false, true) => Origin::Earlier,
        (false, false) => Origin::Here,
    };
    let ordered = order.map(|order| (order.place.address, order.template_digest));
    let seen = observed.map(|observed| (observed.address, observed.template_digest));
    let (address, mark) = seen.or(ordered).unwrap_or((Ipv4Addr::UNSPECIFIED, revision.digest));
    ReplicaView {
        name: name.clone(),
        observed,
        doing,
        address,
        health,
        ready,
        restart_count,
        origin,
        outdated: mark != revision.mark(),
    }
}

impl<'a> ReplicaView<'a> {
    /// It was ready before this run of the agent, or its last pause, as far as anybody knows.
    pub fn is_adopted(&self) -> bool {
        self.origin != Origin::Here
    }

    /// Its records stand and none of its containers ever ran, init containers aside, nor is it being started: a start
    /// that was cut short.
    pub(super) fn is_half_made(&self, revision: &RevisionRecord) -> bool {
        let cut = |observed: &ObservedReplica| {
            let names = || revision.template.containers.iter().map(|one| &one.name);
            let state = |name| observed.containers.get(name);
            let none_ran = names()
                .all(|name| state(name).is_none_or(|state| *state == ContainerState::Created));
            // What stands by does so as a whole, and is none of these.
            none_ran || names().any(|name| state(name).is_some_and(ContainerState::stands_by))
        };
        self.doing.is_none() && self.observed.is_some_and(cut)
    }

    /// All its containers run, ready or not. One that stands by does not.
    pub fn is_running(&self, revision: &RevisionRecord) -> bool {
        let run = self.observed.is_some_and(|observed| all_run(observed, revision));
        run && self.down_containers(revision).next().is_none()
    }

    /// Its containers that are to be started afresh: ended by themselves, or condemned by a probe. What stands by is
    /// not down: it waits to be woken.
    pub(crate) fn down_containers<'r>(
        &'r self,
        revision: &'r RevisionRecord,
    ) -> impl Iterator<Item = &'r str> + use<'r, 'a> {
        let condemned = self.health.map(|health| health.unhealthy.as_slice()).unwrap_or_default();
        revision.template.containers.iter().map(|container| container.name.as_str()).filter(
            move |name| match self.observed.and_then(|observed| observed.containers.get(*name)) {
                Some(ContainerState::Running { .. }) => {
                    condemned.iter().any(|condemned| condemned == name)
                }
                Some(ContainerState::Created | ContainerState::Exited { .. }) => true,
                Some(ContainerState::Armed | ContainerState::Frozen { .. }) => false,
                None => self.observed.is_some(),
            },
        )
    }
}

fn all_run(observed: &ObservedReplica, revision: &RevisionRecord) -> bool {
    revision.template.containers.iter().all(|container| {
        matches!(observed.containers.get(&container.name), Some(ContainerState::Running { .. }))
    })
}

/// Made since the board came up, and its network still stands. While it is being started the network may be to come.
pub(super) fn is_of_this_boot(
    name: &ReplicaName,
    observed: &ObservedReplica,
    world: World<'_>,
) -> bool {
    observed.boot == world.settings.boot
        && (world.namespaces.contains(name) || world.doing.contains_key(name))
}

/// Every address that somebody has, or still has.
pub(super) fn addresses(world: World<'_>) -> BTreeSet<Ipv4Addr> {
    let ordered = world.doing.values().filter_map(|doing| match doing {
        Doing::Starting(order) | Doing::Restarting(order) | Doing::Preparing(order) => {
            Some(order.place.address)
        }
        Doing::Stopping | Doing::Freezing => None,
    });
    world.observed.values().map(|observed| observed.address).chain(ordered).collect()
}
