//! How many of the replicas that rules ask for the board has room for: the others are held back, with the reason.
//!
//! ```text
//!   what each wants ─┐
//!   Figures ─────────┼─▶ share ─▶ scaled to so many, and why not to more
//!   what is to come ─┘     │
//!                          └──▶ who is held back has the board measured again
//! ```
//!
//! Nobody waits for room for its least, and what runs is not taken from anybody, but where memory is low and another one
//! is still without its least.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::figures::GOOD_FOR;
use super::{Action, Doing, Fleet, Memory, Plan, ReplicaView, World, trouble};
use crate::model::{AppName, Digest, ReplicaName, RevisionName};
use crate::reason::Reason;
use crate::replica::{ContainerState, Trouble};
use crate::rollout;
use crate::scale::{self, Claim, Lack, Room};
use crate::state::{AppRecord, RevisionRecord, State};
use crate::status::Phase;

/// A replica that is not ready uses what it ever will, as far as anybody can wait for it, when it has run for so long.
const WARMS_UP: Duration = Duration::from_mins(1);

/// What a revision is held back to.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// So many replicas.
    count: u32,
    /// So many its rules ask for.
    wants: u32,
    /// Why it has fewer; none while the board is being measured.
    trouble: Option<Trouble>,
}

type Apps = BTreeMap<AppName, AppRecord>;
type Claims = BTreeMap<RevisionName, Claim>;

/// Scales revisions to what the board has room for.
pub(super) fn hold(apps: &mut Apps, world: World<'_>, memory: &mut Memory) {
    let claims = claims(apps, world, memory);
    let mut held = if world.memory_low {
        squeeze(&claims, world, memory)
    } else if claims.values().any(Claim::grows) {
        share(apps, &claims, world, memory)
    } else {
        BTreeMap::new()
    };
    for (name, scaled) in &mut memory.scaled {
        let before = scaled.held.take();
        scaled.held = held.remove(name).map(|held| held.since(before));
    }
    for revision in apps.values_mut().flat_map(|record| &mut record.revisions) {
        let held = memory.scaled.get(&revision.name).and_then(|scaled| scaled.held.as_ref());
        revision.scaled = held.map(|held| held.count).or(revision.scaled);
    }
    let lacks = |held: &Held| held.reason() == Some(Reason::InsufficientMemory);
    memory.figures.short = memory.scaled.values().any(|one| one.held.as_ref().is_some_and(lacks));
}

impl Held {
    fn reason(&self) -> Option<Reason> {
        self.trouble.as_ref().map(|trouble| trouble.reason)
    }

    /// What is told stays as it is while nothing changes but figures, which always do.
    fn since(self, before: Option<Self>) -> Self {
        let stays = |before: &Self| {
            let same = (before.count, before.wants) == (self.count, self.wants);
            same && (self.trouble.is_none() || self.reason() == before.reason())
        };
        before.filter(stays).unwrap_or(self)
    }
}

/// Has the board measured for those that are held back, and says when to look again.
pub(super) fn measure(
    state: &State,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    if world.memory_low {
        // That it ends is told. Another one gives a replica up by then, or not.
        let shed = memory.figures.shed.map(|at| at.after(GOOD_FOR));
        return plan.wake_by(shed.filter(|at| world.now < *at && memory.figures.short));
    }
    for record in state.apps.values() {
        let own = record.revisions.iter().filter(|one| memory.wants(&one.name).is_some());
        let replicas: Vec<ReplicaName> = own
            .flat_map(|one| fleet.replicas(&one.name))
            .map(|replica| replica.name.clone())
            .collect();
        let asked =
            |action: &Action| matches!(action, Action::Survey(app, _) if *app == record.name);
        // Its end is an outcome, which calls the loop.
        let under_way = world.surveying.contains(&record.name) || plan.actions.iter().any(asked);
        if replicas.is_empty() || under_way {
            continue;
        }
        let due = memory.figures.due(&record.name, world.now);
        if world.now < due {
            plan.wake(due);
            continue;
        }
        memory.figures.settle(settled(state, fleet, world), world.now);
        plan.actions.push(Action::Survey(record.name.clone(), replicas));
    }
}

/// What every revision asks for that is scaled by rules and free to have it: one on trial has what its trial asks for,
/// and of those that hold a device there can be one.
fn claims(apps: &Apps, world: World<'_>, memory: &Memory) -> Claims {
    let scaled = |revision: &&RevisionRecord| {
        let free = revision.template.extras.devices.is_empty();
        revision.scaled.is_some() && revision.phase == Phase::Committed && free
    };
    let mut claims = Claims::new();
    for record in apps.values() {
        for revision in record.revisions.iter().filter(scaled) {
            let own = living(world).filter(|one| *one.revision == revision.name);
            // Those from before a restart are replaced, which is no growth.
            let (current, outdated): (Vec<_>, Vec<_>) =
                own.partition(|one| one.mark == revision.mark());
            let has = current.len().max(outdated.len());
            let claim = Claim {
                least: record.bounds_of(revision).0.max(1),
                has: u32::try_from(has).unwrap_or(u32::MAX),
                wants: rollout::allowed(record, revision),
                each: each(record, revision, world, memory),
            };
            claims.insert(revision.name.clone(), claim);
        }
    }
    claims
}

/// What one more replica takes: what the largest one uses and a margin; where none was measured, what its containers may
/// use at most.
fn each(record: &AppRecord, revision: &RevisionRecord, world: World<'_>, memory: &Memory) -> u64 {
    let is_one = |replica: &ReplicaName| {
        world.observed.get(replica).is_some_and(|seen| seen.revision == revision.name)
    };
    let containers = revision.template.containers.iter();
    let most = || containers.map(|one| one.resources.memory_bytes).fold(0, u64::saturating_add);
    memory.figures.largest(&record.name, is_one).map_or_else(most, scale::one_more)
}

/// Shares what the board has left.
fn share(
    apps: &Apps,
    claims: &Claims,
    world: World<'_>,
    memory: &Memory,
) -> BTreeMap<RevisionName, Held> {
    let room = match room(apps, claims, world, memory) {
        Ok(room) => room,
        Err(why) => return held(claims, |_, claim| (claim.base(), why.clone())),
    };
    let shares = scale::share(claims, room);
    held(claims, |name, claim| {
        let Some(share) = shares.get(name) else { return (claim.base(), None) };
        let of = format!("{} of {} replicas", share.count, claim.wants);
        let why = share.lacks.map(|lack| match lack {
            Lack::Memory(left) => {
                let (each, left) = (claim.each >> 20, left >> 20);
                let details = format!("{of}: one more needs {each} MiB, and {left} MiB are left");
                trouble(Reason::InsufficientMemory, details)
            }
            Lack::Processors => {
                trouble(Reason::InsufficientCpu, format!("{of}: the processors have no time left"))
            }
        });
        (share.count, why)
    })
}

/// Where processes wait for memory nobody grows beyond its least, and one at a time gives up a replica for as long as
/// another revision is without its least: of those that have more than that the one that wants the least for each it has.
fn squeeze(claims: &Claims, world: World<'_>, memory: &mut Memory) -> BTreeMap<RevisionName, Held> {
    let waits =
        |(name, claim): &(&RevisionName, &Claim)| claim.has < claim.base() || memory.wakes(name);
    let may = |(_, claim): &(&RevisionName, &Claim)| claim.least < claim.base();
    let paced = memory.figures.shed.is_none_or(|at| at.after(GOOD_FOR) <= world.now);
    let gives = (paced && claims.iter().any(|one| waits(&one)))
        .then(|| {
            claims.iter().filter(may).reduce(|known, one| {
                let is_less = scale::is_more(known.1.wants, known.1.has, one.1.wants, one.1.has);
                if is_less { one } else { known }
            })
        })
        .flatten()
        .map(|(name, _)| name);
    if gives.is_some() {
        memory.figures.shed = Some(world.now);
    }
    held(claims, |name, claim| {
        let count = claim.base().saturating_sub(u32::from(gives == Some(name)));
        let details = format!("memory is low: {count} of {} replicas", claim.wants);
        (count, Some(trouble(Reason::InsufficientMemory, details)))
    })
}

/// Those that get fewer than they want.
fn held(
    claims: &Claims,
    gets: impl Fn(&RevisionName, &Claim) -> (u32, Option<Trouble>),
) -> BTreeMap<RevisionName, Held> {
    let of = |(name, claim): (&RevisionName, &Claim)| {
        let (count, trouble) = gets(name, claim);
        let held = Held { count, wants: claim.wants, trouble };
        (count < claim.wants).then(|| (name.clone(), held))
    };
    claims.iter().filter_map(of).collect()
}

/// What the board has left, less what those will take that are on their way; else why nobody knows, unless it is only
/// being measured. All that want to grow are measured first, as the order of demand is among them.
fn room(
    apps: &Apps,
    claims: &Claims,
    world: World<'_>,
    memory: &Memory,
) -> Result<Room, Option<Trouble>> {
    let grows = |revision: &RevisionRecord| claims.get(&revision.name).is_some_and(Claim::grows);
    let mut all = apps.values().filter(|record| record.revisions.iter().any(grows));
    if all.any(|record| memory.figures.due(&record.name, world.now) <= world.now) {
        return Err(None);
    }
    let latest = memory.figures.latest().ok_or(None)?;
    let survey = latest.survey.as_ref().map_err(|why| Some(why.clone()))?;
    let processors = memory.figures.processors(world.now).ok_or(None)?;
    // A board that does not tell what it has is taken to have enough.
    let memory =
        if survey.total == 0 { u64::MAX } else { to_come(apps, survey.available, world, memory) };
    Ok(Room { memory, processors })
}

/// What is left of so many bytes for others than those that are on their way.
fn to_come(apps: &Apps, available: u64, world: World<'_>, memory: &Memory) -> u64 {
    let takes = living(world).filter(|one| one.runs && !memory.figures.is_settled(one.name));
    let takes = takes.map(|one| {
        let record = apps.get(one.app);
        let revision = record.and_then(|record| Some((record, record.revision(one.revision)?)));
        revision.map_or(0, |(record, revision)| each(record, revision, world, memory))
    });
    takes.fold(available, u64::saturating_sub)
}

/// A replica that runs or is about to, of whatever revision.
struct Living<'a> {
    name: &'a ReplicaName,
    app: &'a AppName,
    revision: &'a RevisionName,
    mark: Digest,
    /// Processes of it run, or are being started.
    runs: bool,
}

fn living(world: World<'_>) -> impl Iterator<Item = Living<'_>> {
    let seen = world.observed.iter().filter_map(move |(name, seen)| {
        let starts = match world.doing.get(name) {
            Some(Doing::Starting(_) | Doing::Restarting(_)) => true,
            Some(Doing::Stopping | Doing::Preparing(_) | Doing::Freezing) => return None,
            None => false,
        };
        let mut states = seen.containers.values();
        let runs = starts || states.any(|state| matches!(state, ContainerState::Running { .. }));
        let ended =
            || seen.containers.values().any(|state| matches!(state, ContainerState::Exited { .. }));
        let lives = seen.boot == world.settings.boot && (runs || ended());
        let mark = seen.template_digest;
        lives.then_some(Living { name, app: &seen.app, revision: &seen.revision, mark, runs })
    });
    let starts = world.doing.iter().filter_map(move |(name, doing)| match doing {
        Doing::Starting(order) | Doing::Restarting(order) if !world.observed.contains_key(name) => {
            let mark = order.template_digest;
            Some(Living { name, app: &order.app, revision: &order.revision, mark, runs: true })
        }
        Doing::Starting(_)
        | Doing::Restarting(_)
        | Doing::Stopping
        | Doing::Preparing(_)
        | Doing::Freezing => None,
    });
    seen.chain(starts)
}

/// Replicas that use by now what they will use.
fn settled(state: &State, fleet: &Fleet<'_>, world: World<'_>) -> BTreeSet<ReplicaName> {
    let warm = |state: &ContainerState| match state {
        ContainerState::Running { since } => since.after(WARMS_UP) <= world.now,
        ContainerState::Created
        | ContainerState::Armed
        | ContainerState::Frozen { .. }
        | ContainerState::Exited { .. } => false,
    };
    let is_settled = |replica: &&ReplicaView<'_>| {
        let long = replica.observed.is_some_and(|seen| seen.containers.values().any(warm));
        replica.ready || replica.doing.is_none() && long
    };
    let revisions = state.apps.values().flat_map(|record| &record.revisions);
    let replicas = revisions.flat_map(|revision| fleet.replicas(&revision.name));
    replicas.filter(is_settled).map(|replica| replica.name.clone()).collect()
}

impl Memory {
    /// So many replicas the rules of a revision ask for, where it is held back to fewer.
    pub fn wants(&self, revision: &RevisionName) -> Option<u32> {
        Some(self.scaled.get(revision)?.held.as_ref()?.wants)
    }

    /// Why a revision is held back; none while the board is being measured.
    pub(super) fn held_by_board(&self, revision: &RevisionName) -> Option<&Trouble> {
        self.scaled.get(revision)?.held.as_ref()?.trouble.as_ref()
    }

    /// Replicas that are asked for find no memory.
    pub(super) fn is_short(&self) -> bool {
        self.figures.short
    }
}
