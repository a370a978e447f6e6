//! Gates: what may keep a revision from starting beside the one that serves, or from taking over from it.

use std::time::Duration;

use crate::model::Moment;
use crate::plan::{Action, Fleet, Memory, Plan, Surveyed, World, orders};
use crate::reason::Reason;
use crate::replica::{Survey, Trouble};
use crate::rollout::diagnosis;
use crate::scale;
use crate::state::{AppRecord, RevisionRecord};
use crate::window;

/// What was measured longer ago says nothing of the board as it is.
const FRESH: Duration = Duration::from_secs(5);

/// The board's date may be set while it waits for a window: looked at again this often at the least.
const CLOCK_CHECK: Duration = Duration::from_hours(1);

/// Between two looks at a board that has no room, or at an app that keeps its lock.
const AGAIN: Duration = Duration::from_secs(10);

/// The one that serves is waited for so long after the agent first saw it; one that is broken is not.
const COMES_UP: Duration = Duration::from_mins(1);

/// Whether its replicas may start beside those that serve.
pub(super) fn may_start(
    record: &AppRecord,
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) -> bool {
    if one_before(record, revision).is_some()
        && let Err(trouble) = orders::check(record, revision, world)
    {
        // It heals by itself; until then the one that serves need not stop for it.
        memory.note(&revision.name, trouble);
        return false;
    }
    let surges = !super::stops_first(record, revision);
    let copies = if surges { u64::from(super::target(record, revision)) } else { 0 };
    passes(record, revision, copies, fleet, world, memory, plan)
}

/// Whether it may take the traffic over.
pub(super) fn may_switch(
    record: &AppRecord,
    revision: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) -> bool {
    passes(record, revision, 0, fleet, world, memory, plan)
}

fn passes(
    record: &AppRecord,
    revision: &RevisionRecord,
    copies: u64,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &mut Memory,
    plan: &mut Plan,
) -> bool {
    let Some(before) = one_before(record, revision) else { return true };
    if let Err((trouble, again)) = in_window(record, revision, world) {
        memory.note(&revision.name, trouble);
        plan.wake_by(again);
        return false;
    }
    if fleet.replicas(&before.name).is_empty() && record.wanted_of(before).count() == 0 {
        return true;
    }
    if let Some(at) = comes_up(record, before, fleet, world, memory) {
        // After a power cut the one that serves comes first: what it uses is not known before.
        let details = format!("{} starts first", before.name);
        memory.note(&revision.name, Trouble { reason: Reason::ContainerStarting, details });
        plan.wake(at);
        return false;
    }
    let known = memory.survey(&record.name).cloned();
    let obstacle = known.as_ref().and_then(|known| known.obstacle(copies));
    let age = known.as_ref().map(|known| world.now.since(known.at));
    let good_for = if obstacle.is_some() { AGAIN } else { FRESH };
    if let Some(trouble) = &obstacle {
        memory.note(&revision.name, trouble.clone());
    }
    match (known, age) {
        (Some(known), Some(age)) if age < good_for => {
            if obstacle.is_some() {
                plan.wake(known.at.after(AGAIN));
            }
            obstacle.is_none()
        }
        (_, _) => {
            if world.runtime.is_none() && !world.surveying.contains(&record.name) {
                let replicas = fleet.replicas(&before.name).iter();
                let replicas = replicas.map(|replica| replica.name.clone()).collect();
                plan.actions.push(Action::Survey(record.name.clone(), replicas));
            }
            false
        }
    }
}

/// The revision that it would take over from.
fn one_before<'a>(record: &'a AppRecord, revision: &RevisionRecord) -> Option<&'a RevisionRecord> {
    let single = record.mode() == crate::document::RevisionsMode::Single;
    record.serving().filter(|serving| single && serving.name != revision.name)
}

/// Until when the one that serves is waited for, while it comes up after a power cut or a start of the agent. One that has
/// stopped to make room does not come.
fn comes_up(
    record: &AppRecord,
    before: &RevisionRecord,
    fleet: &Fleet<'_>,
    world: World<'_>,
    memory: &Memory,
) -> Option<Moment> {
    let views = fleet.replicas(&before.name);
    let fails = views.iter().any(|view| {
        diagnosis::of_replica(before, view, memory)
            .is_some_and(|trouble| diagnosis::is_failure(trouble.reason))
    });
    let stands =
        0 < fleet.ready(&before.name) || memory.last_ready(&before.name).is_some() || fails;
    let made_room = super::allowed(record, before) == 0;
    if stands || made_room || memory.trouble(&before.name).is_some() {
        return None;
    }
    let until = memory.first_seen(&before.name).unwrap_or(world.now).after(COMES_UP);
    (world.now < until).then_some(until)
}

/// Why the window of the app's document is closed, and when it opens.
fn in_window(
    record: &AppRecord,
    revision: &RevisionRecord,
    world: World<'_>,
) -> Result<(), (Trouble, Option<Moment>)> {
    let document = record.document_of(revision);
    let Some(window) = document.and_then(|document| document.skerry.update_window.as_ref()) else {
        return Ok(());
    };
    match window::closed(window, world.now, world.wall, world.zones) {
        None => Ok(()),
        Some((trouble, again)) => {
            // The board's date may be set while it waits.
            let again = again.map(|at| at.min(world.now.after(CLOCK_CHECK)));
            Err((trouble, again))
        }
    }
}

impl Surveyed {
    /// What stands in the way of so many more copies.
    fn obstacle(&self, copies: u64) -> Option<Trouble> {
        let survey = match &self.survey {
            Ok(survey) => survey,
            Err(trouble) => return Some(trouble.clone()),
        };
        if let Some(replica) = &survey.locked_by {
            let details = format!("{replica} keeps /run/skerry/lock");
            return Some(Trouble { reason: Reason::LockedByApp, details });
        }
        let details = shortage(survey, copies)?;
        Some(Trouble { reason: Reason::InsufficientMemory, details })
    }
}

/// What lacks for so many more copies of what was measured, in words.
fn shortage(survey: &Survey, copies: u64) -> Option<String> {
    let largest = survey.working_sets.values().max()?;
    let each = scale::one_more(*largest);
    let need = each.saturating_mul(copies);
    (survey.available < need).then(|| {
        format!(
            "{copies} more of {} MiB each need {} MiB, and {} MiB are available",
            each >> 20,
            need >> 20,
            survey.available >> 20
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ReplicaName;

    fn survey(available: u64, used: u64) -> Survey {
        let replica: ReplicaName = "a--1-22222".parse().unwrap();
        Survey {
            available: available << 20,
            working_sets: [(replica, used << 20)].into(),
            ..Survey::default()
        }
    }

    #[test]
    fn a_second_copy_needs_what_the_first_one_uses_and_a_margin() {
        assert_eq!(shortage(&survey(126, 100), 1), None);
        let words = "1 more of 126 MiB each need 126 MiB, and 125 MiB are available";
        assert_eq!(shortage(&survey(125, 100), 1).as_deref(), Some(words));
        assert_eq!(shortage(&survey(252, 100), 2), None);
        assert!(shortage(&survey(251, 100), 2).is_some());
        assert_eq!(shortage(&Survey::default(), 1), None, "nothing was measured");
    }
}
