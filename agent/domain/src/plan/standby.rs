//! What stands by for a revision at zero: one replica, as far from serving as its document says (`skerry.standby`), so
//! that it comes back before anybody notices.
//!
//! ```text
//!   none      records, root file systems and network      prepared ahead
//!   created   its processes too, none of them started     prepared ahead
//!   frozen    the last one that served, paused            once it has nothing open any more
//! ```

use std::sync::Arc;

use super::{
    Action, Doing, Fleet, Memory, Plan, ReplicaView, Spare, Tier, World, fleet, grace, is_stopping,
    orders, scaling,
};
use crate::document::Standby;
use crate::reason::Reason;
use crate::replica::ReplicaOrder;
use crate::rollout::{self, Told};
use crate::state::{AppRecord, RevisionRecord, Wanted};
use crate::status::Phase;

/// How far from serving a revision is to stand by; none where nothing is to.
pub(super) fn tier(
    record: &AppRecord,
    revision: &RevisionRecord,
    world: World<'_>,
    memory: &Memory,
) -> Option<Tier> {
    let rests = record.wanted_of(revision) == Wanted::Asleep && revision.phase == Phase::Committed;
    let fetches = revision.images.is_empty() || revision.refetch;
    // One that is followed by another makes no plans, and a device is held by those that serve.
    let idle = rests && !fetches && !scaling::is_followed(record, revision);
    if !idle || !revision.template.extras.devices.is_empty() {
        return None;
    }
    // Where memory is low, whoever stands by gives up what it takes of it first.
    let low = is_scarce(world, memory) || memory.gave_up(&revision.name);
    let asked = asked(record, revision);
    Some(if low { Tier::Prepared } else { asked })
}

/// Processes wait for memory, or replicas that are asked for do: they come before those that nobody asks for.
fn is_scarce(world: World<'_>, memory: &Memory) -> bool {
    world.memory_low || memory.is_short()
}

/// What its document asks for.
fn asked(record: &AppRecord, revision: &RevisionRecord) -> Tier {
    match record.document_of(revision).map(|one| one.skerry.standby) {
        None | Some(Standby::None) => Tier::Prepared,
        Some(Standby::Created) => Tier::Created,
        Some(Standby::Frozen) => Tier::Frozen,
    }
}

/// Starts as many of the missing replicas as stand by, or are about to; returns how many are still missing.
pub(super) fn wake(
    record: &AppRecord,
    revision: &RevisionRecord,
    missing: u32,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) -> u32 {
    let mut missing = missing;
    // Who is being paused is called back, and is the nearest of all.
    if 0 < missing
        && let Some(view) = fleet::freezing(record, revision, world, memory)
        && let Some(order) = orders::as_made(record, revision, &view, world)
    {
        plan.actions.push(Action::Wake(Arc::new(order), Tier::Frozen));
        missing -= 1;
    }
    // What is being made is the first to come.
    let preparing = world.doing.values().filter(|doing| prepares(doing, revision)).count();
    missing = missing.saturating_sub(u32::try_from(preparing).unwrap_or(u32::MAX));
    let held = memory.start_retry_at(&revision.name).is_some_and(|at| world.now < at);
    for spare in fleet.spares(&revision.name).iter().filter(|spare| !spare.view.outdated) {
        if missing == 0 || held || is_stopping(&spare.view.name, world, plan) {
            return missing;
        }
        let order = match spare.tier {
            Tier::Frozen => Ok(orders::as_made(record, revision, &spare.view, world)),
            Tier::Prepared | Tier::Created => {
                orders::existing(record, revision, &spare.view, world)
            }
        };
        match order {
            // One that was made of something else goes, and another is made.
            Ok(Some(order)) if is_as_made(spare, &order, memory) => {
                if spare.tier != Tier::Frozen {
                    memory.starts_here(&spare.view.name);
                }
                plan.actions.push(Action::Wake(Arc::new(order), spare.tier));
                missing -= 1;
            }
            Ok(_) => (),
            Err(trouble) => {
                memory.hold_back(&revision.name, trouble, world.now);
                return 0;
            }
        }
    }
    missing
}

/// What is being done for a revision.
fn of_revision<'w>(revision: &RevisionRecord, world: World<'w>) -> impl Iterator<Item = &'w Doing> {
    world.doing.iter().filter_map(|(name, doing)| {
        let seen = world.observed.get(name).is_some_and(|seen| seen.revision == revision.name);
        (seen || prepares(doing, revision)).then_some(doing)
    })
}

fn prepares(doing: &Doing, revision: &RevisionRecord) -> bool {
    matches!(doing, Doing::Preparing(order) if order.revision == revision.name)
}

/// Pauses one of the replicas that are to go, where the last one that served is to stand by; returns the others.
pub(super) fn freeze_one<'v, 'w>(
    record: &AppRecord,
    revision: &RevisionRecord,
    current: Vec<&'v ReplicaView<'w>>,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &Memory,
    plan: &mut Plan,
) -> Vec<&'v ReplicaView<'w>> {
    let stands = !fleet.spares(&revision.name).is_empty() || is_under_way(revision, world);
    let failed = memory.idle_retry_at(&revision.name).is_some();
    if tier(record, revision, world, memory) != Some(Tier::Frozen) || stands || failed {
        return current;
    }
    let Some(chosen) = current.iter().position(|replica| replica.ready) else { return current };
    let mut rest = current;
    let chosen = rest.remove(chosen);
    plan.actions.push(Action::Freeze(chosen.name.clone(), grace(revision)));
    rest
}

/// Has one replica stand by where one is to, and those go that are not to.
pub(super) fn keep(
    record: &AppRecord,
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    let wanted = tier(record, revision, world, memory);
    if is_scarce(world, memory) && wanted.is_some() && Tier::Prepared < asked(record, revision) {
        memory.give_up(&revision.name);
    }
    // What cannot be woken yet, for want of something that comes back, is not thrown away.
    let living = fleet.replicas(&revision.name).len();
    let missing = living < rollout::allowed(record, revision) as usize;
    let fits = |spare: &Spare<'_>| {
        let near = match wanted {
            // After a start of the board nobody has served yet.
            Some(Tier::Frozen) => Tier::Created <= spare.tier,
            Some(tier) => tier == spare.tier,
            None => missing,
        };
        let made = || match orders::existing(record, revision, &spare.view, world) {
            Ok(Some(order)) => is_as_made(spare, &order, memory),
            Ok(None) | Err(_) => true,
        };
        near && !spare.view.outdated && made()
    };
    let mut kept = false;
    for spare in fleet.spares(&revision.name) {
        let woken = plan.actions.iter().any(
            |action| matches!(action, Action::Wake(order, _) if order.replica == spare.view.name),
        );
        if woken {
            continue;
        }
        let fits = fits(spare);
        if kept || !fits {
            plan.actions.push(Action::Stop(spare.view.name.clone(), grace(revision)));
            plan.told.extend(given_up(record, spare, wanted, world, memory));
        }
        kept |= fits;
    }
    let Some(wanted) = wanted else { return };
    let freezes = plan.actions.iter().any(|action| matches!(action, Action::Freeze(..)));
    // Those that leave have gone first: what must be alone may run before a start.
    let leaves = 0 < living || leaves(record, world);
    if kept || freezes || leaves || is_under_way(revision, world) {
        return;
    }
    if let Some(at) = memory.idle_retry_at(&revision.name).filter(|at| world.now < *at) {
        return plan.wake(at);
    }
    // What stands in its way is told when it is wanted.
    if let Ok(Some(order)) = orders::fresh(record, revision, world, memory) {
        plan.actions.push(Action::Prepare(Arc::new(order), wanted.min(Tier::Created)));
    }
}

/// It is made of what it would be made of now: a secret or a storage may have changed since. What served keeps what it
/// was started with, as whatever runs does.
fn is_as_made(spare: &Spare<'_>, order: &ReplicaOrder, memory: &Memory) -> bool {
    spare.tier == Tier::Frozen || memory.prepared_by(&spare.view.name) == Some(order)
}

/// What is told of one that goes for want of memory.
fn given_up(
    record: &AppRecord,
    spare: &Spare<'_>,
    wanted: Option<Tier>,
    world: World<'_>,
    memory: &Memory,
) -> Option<Told> {
    let revision = spare.view.observed?.revision.clone();
    let goes = is_scarce(world, memory) && wanted.is_some_and(|wanted| wanted < spare.tier);
    let message = format!("{} stood by as {}", spare.view.name, spare.tier.word());
    let reason = Reason::StandbyGivenUp;
    goes.then(|| Told { app: record.name.clone(), revision, reason, message })
}

/// A replica of the app is on its way out.
fn leaves(record: &AppRecord, world: World<'_>) -> bool {
    world.observed.iter().any(|(name, seen)| {
        let doing = world.doing.get(name);
        seen.app == record.name && matches!(doing, Some(Doing::Stopping | Doing::Freezing))
    })
}

/// Something is being made to stand by for a revision.
fn is_under_way(revision: &RevisionRecord, world: World<'_>) -> bool {
    of_revision(revision, world).any(|doing| matches!(doing, Doing::Preparing(_) | Doing::Freezing))
}
