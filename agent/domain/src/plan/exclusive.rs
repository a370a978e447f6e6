//! What only one replica may hold: the place of the one before it where that must stop first, and devices.

use super::{Action, Doing, Fleet, Plan, World, trouble};
use crate::model::{AppName, ReplicaName, RevisionName};
use crate::reason::Reason;
use crate::replica::Trouble;
use crate::rollout;
use crate::state::{AppRecord, RevisionRecord};

/// Who still holds what a new replica needs for itself alone. Those that are on their way out hold it until they are
/// gone (DESIGN 8).
pub(super) fn holder(
    record: &AppRecord,
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    plan: &Plan,
) -> Option<Trouble> {
    if rollout::stops_first(record, revision) {
        let counts = |one: &Present<'_>| {
            let views = fleet.replicas(&revision.name);
            *one.revision == revision.name
                && (one.planned
                    || views.iter().any(|view| view.name == *one.name && !view.outdated))
        };
        let before = present(world, plan).find(|one| *one.app == record.name && !counts(one));
        if let Some(before) = before {
            let details = format!("{} is still there", before.name);
            return Some(trouble(Reason::WaitingForStop, details));
        }
    }
    let devices = &revision.template.extras.devices;
    if devices.is_empty() {
        return None;
    }
    present(world, plan).find_map(|one| {
        // What is known of no revision may hold anything.
        let Some(theirs) = fleet.devices(one.revision) else {
            let details = format!("{} may hold a device", one.name);
            return Some(trouble(Reason::DeviceBusy, details));
        };
        let shared = devices.iter().find(|own| theirs.contains(&own.host_path.as_str()))?;
        let details = format!("{} holds {}", one.name, shared.host_path);
        Some(trouble(Reason::DeviceBusy, details))
    })
}

struct Present<'a> {
    app: &'a AppName,
    name: &'a ReplicaName,
    revision: &'a RevisionName,
    planned: bool,
}

/// Every replica of this boot that there is, or is about to be.
fn present<'a>(world: World<'a>, plan: &'a Plan) -> impl Iterator<Item = Present<'a>> {
    let seen = world.observed.iter().filter(move |(_, seen)| seen.boot == world.settings.boot).map(
        |(name, seen)| Present { app: &seen.app, name, revision: &seen.revision, planned: false },
    );
    let doing = world.doing.iter().filter_map(move |(name, doing)| match doing {
        Doing::Starting(order) | Doing::Restarting(order) | Doing::Preparing(order) => {
            let unseen = !world.observed.contains_key(name);
            unseen.then_some(Present {
                app: &order.app,
                name,
                revision: &order.revision,
                planned: true,
            })
        }
        Doing::Stopping | Doing::Freezing => None,
    });
    let planned = plan.actions.iter().filter_map(|action| match action {
        Action::Start(order) | Action::Wake(order, _) => Some(Present {
            app: &order.app,
            name: &order.replica,
            revision: &order.revision,
            planned: true,
        }),
        Action::Fetch(_)
        | Action::Prepare(..)
        | Action::Freeze(..)
        | Action::Restart(..)
        | Action::Stop(..)
        | Action::Survey(..) => None,
    });
    seen.chain(doing).chain(planned)
}
