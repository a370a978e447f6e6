//! What must be in the end of apps that scale: the number that their rules ask for, one that stands by for each at
//! zero, and then nothing more.

use super::asks::{Fate, app_name};
use super::board::{Real, Time};
use super::crowd::{Call, Matters};
use super::elastic;
use super::run::{Checked, Event, Run, broken};
use super::sleepers::rests;
use super::tally;
use super::wants::{bounds, is_followed, is_single};
use crate::document::Standby;
use crate::plan::Tier;
use crate::replica::ContainerState;
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;

/// Nothing is done any more for so long before the end.
const QUIET: Time = 5 * 60_000;

/// A request is answered within this, also where its app was at zero.
const ANSWERED_WITHIN: Time = 60_000;

impl Run {
    /// Somebody asks for every app that can serve, while nothing goes wrong.
    pub(super) fn knock(&mut self) {
        if self.asked.values().all(|ask| ask.elastic.is_none()) {
            return;
        }
        let apps: Vec<usize> = self.asked.keys().copied().collect();
        self.answers.clear();
        for app in apps {
            let record = self.agent.state.apps.get(&app_name(app));
            if record.is_some_and(|record| self.is_to_answer(record)) {
                let (count, long, matters) = (1, 10, Matters::Yes);
                self.knocked.insert(app);
                self.soon(1, Event::Calls(Call { app, revision: None, count, long, matters }));
            }
        }
    }

    fn is_to_answer(&self, record: &AppRecord) -> bool {
        let document = record.in_force();
        let reached = document.is_some_and(|one| one.configuration.ingress.is_some());
        let mut active = record.revisions.iter().filter(|one| one.active && one.has_served());
        let well = active.all(|one| is_well(one) && !self.is_contended(one));
        reached
            && well
            && is_single(record)
            && record.serving().is_some()
            && !record.stopped
            && record.scale.replicas != Some(0)
    }

    pub(super) fn check_rest(&mut self, end: Time) -> Checked {
        self.check_answers()?;
        let mut all_rest = true;
        for (number, _) in self.asked.clone() {
            let Some(record) = self.agent.state.apps.get(&app_name(number)) else { continue };
            let active = || record.revisions.iter().filter(|one| one.active);
            active().try_for_each(|one| self.check_count(record, one))?;
            if active().any(|one| rests(record, one)) {
                tally::add(&mut self.tally, "rests");
            }
            let record = self.agent.state.apps.get(&app_name(number)).expect("it was there");
            let active = || record.revisions.iter().filter(|one| one.active);
            let settled = |one: &RevisionRecord| {
                is_well(one) && one.phase == Phase::Committed && !self.is_blocked(one)
            };
            let by_clock = self.next_by_clock(record).is_some();
            if active().all(settled) {
                let acted = self.acted.get(&record.name).copied().unwrap_or(0);
                if end < acted + QUIET && !by_clock {
                    let details = format!("{} at {acted}, the end is {end}", record.name);
                    return broken("does not come to rest", details);
                }
            } else {
                all_rest = false;
            }
        }
        let next = self.agent.state.apps.values().filter_map(|one| self.next_by_clock(one)).min();
        match (self.agent.wake, next) {
            (None, _) => {
                tally::add(&mut self.tally, "nothing calls");
                Ok(())
            }
            (Some(_), _) if !all_rest => Ok(()),
            (Some(wake), Some(_)) if end <= wake => Ok(()),
            (Some(wake), Some(next)) if next <= wake + 1_000 => Ok(()),
            (Some(wake), next) => {
                let details = format!("at {wake}; the clock calls at {next:?}");
                broken("wakes though everything rests", details)
            }
        }
    }

    /// Whoever asks is answered.
    fn check_answers(&self) -> Checked {
        for app in &self.knocked {
            match self.answers.get(app) {
                Some(Ok(waited)) if *waited <= ANSWERED_WITHIN => (),
                other => {
                    let details = format!("{}: {other:?}", app_name(*app));
                    return broken("whoever asks is not answered", details);
                }
            }
        }
        Ok(())
    }

    /// When a schedule of an app next begins or ends.
    fn next_by_clock(&self, record: &AppRecord) -> Option<Time> {
        let mut active = record.revisions.iter().filter(|one| one.active);
        let any = active.any(|one| elastic::has_clock(&one.template.scale));
        any.then(|| elastic::next_by_clock(self.now))
    }

    /// A revision has as many replicas as its rules ask for, and one that stands by where they ask for none.
    fn check_count(&self, record: &AppRecord, revision: &RevisionRecord) -> Checked {
        let (least, most) = bounds(record, revision);
        let asks =
            elastic::asks_at_rest(&revision.template.scale, self.now, self.value(&record.name));
        if let Some(count) = revision.scaled
            && revision.phase == Phase::Committed
        {
            let bounded = |asked: u32| match asked {
                0 => least,
                asked => asked.clamp(least.max(1), most),
            };
            let (from, to) = (bounded(*asks.start()), bounded(*asks.end()));
            // What stands by for a trial stays awake; a person may have sent it to zero; and it may not fall asleep
            // where somebody follows it.
            let followed = is_followed(record, revision);
            let to = if followed { to.max(1) } else { to };
            let sent = self.agent.dismissed.contains(&record.name) && least == 0;
            let from = if sent || followed { from.min(least) } else { from };
            if count < from || to < count {
                let details = format!("{}: {count}, not {from} to {to}", revision.name);
                return broken("scales to something else than its rules ask for", details);
            }
        }
        self.check_spares(record, revision)
    }

    fn check_spares(&self, record: &AppRecord, revision: &RevisionRecord) -> Checked {
        let of = self.board.replicas.iter().filter(|(name, real)| {
            real.seen.revision == revision.name && !self.agent.doing.contains_key(*name)
        });
        let tiers: Vec<Tier> = of.filter_map(|(_, real)| tier(real)).collect();
        if self.is_just_scaled(record) {
            return Ok(());
        }
        let details = || format!("{}: {tiers:?} stand by", revision.name);
        if revision.scaled == Some(0) && revision.refetch && is_well(revision) {
            return broken("at zero, and to be fetched when it is woken", details());
        }
        if !rests(record, revision) {
            if tiers.is_empty() {
                return Ok(());
            }
            return broken("something stands by for nobody", details());
        }
        let asked = match record.document_of(revision).map(|one| one.skerry.standby) {
            None | Some(Standby::None) => [Tier::Prepared; 2],
            Some(Standby::Created) => [Tier::Created; 2],
            // After a start of the board nobody has served yet.
            Some(Standby::Frozen) => [Tier::Frozen, Tier::Created],
        };
        match tiers.as_slice() {
            [one] if asked.contains(one) => Ok(()),
            // Until it was awake once more.
            [Tier::Prepared] if self.pressed => Ok(()),
            _ => broken("not the one that was asked for stands by", details()),
        }
    }

    /// The clock has called a moment ago.
    pub(super) fn is_just_scaled(&self, record: &AppRecord) -> bool {
        let acted = self.acted.get(&record.name).copied().unwrap_or(0);
        self.next_by_clock(record).is_some() && self.now < acted + 60_000
    }
}

fn is_well(revision: &RevisionRecord) -> bool {
    Fate::of(&revision.template.containers[0].image).is_well()
}

/// What a replica on the board stands by as.
pub(super) fn tier(real: &Real) -> Option<Tier> {
    let all = |is: fn(&ContainerState) -> bool| real.seen.containers.values().all(is);
    if all(|state| *state == ContainerState::Created) {
        return Some(Tier::Prepared);
    }
    if all(|state| *state == ContainerState::Armed) {
        return Some(Tier::Created);
    }
    all(|state| matches!(state, ContainerState::Frozen { .. })).then_some(Tier::Frozen)
}
