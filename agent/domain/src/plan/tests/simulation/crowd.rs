//! Who asks apps for something, and the ingress between: its routes, its waiting room, its windows; and the samplers.

use std::collections::{BTreeMap, BTreeSet};

use super::asks::{Fate, app_name};
use super::board::Time;
use super::run::{Checked, Event, Run, broken};
use super::tally;
use crate::model::{AppName, ReplicaName, RevisionName};
use crate::reason::Reason;
use crate::replica::Trouble;
use crate::route::{Picked, RouteTable, Side, Sleep, Ticket};
use crate::scale::{Asked, Demand, Reading, Sample, SampleKey, SamplePlan};

/// Requests are counted in windows of this length.
const WINDOW: Time = 15_000;

/// Nobody waits longer.
const PATIENCE: Time = 240_000;

/// Whoever waits for what is well is served, or sent away with a reason, within this.
const SERVED_WITHIN: Time = 100_000;

/// A flow of requests comes in heaps, so many milliseconds apart.
const PACE: Time = 3_000;

/// Some requests of one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) app: usize,
    /// One of the app's revisions by its own name; else whichever the split picks.
    pub(super) revision: Option<u64>,
    pub(super) count: u64,
    /// Each is open for so long.
    pub(super) long: Time,
    /// What comes of it is looked at in the end.
    pub(super) matters: Matters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matters {
    Yes,
    No,
}

/// The ingress; all of it is lost with the agent.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    pub(super) demand: Demand,
    table: RouteTable,
    waiting: Vec<Place>,
    entries: BTreeMap<RevisionName, Entry>,
    open: Vec<Open>,
    /// Windows follow each other.
    counts: bool,
    number: u32,
    sampled: SamplePlan,
    sampling: BTreeSet<SampleKey>,
}

#[derive(Debug)]
struct Place {
    call: Call,
    host: String,
    revision: RevisionName,
    since: Time,
}

#[derive(Debug, Default)]
struct Entry {
    begun: u64,
    told: bool,
    called: u64,
}

#[derive(Debug)]
struct Open {
    revision: RevisionName,
    replica: ReplicaName,
    count: u64,
    until: Time,
}

enum Found {
    Ready(RevisionName, ReplicaName),
    Asleep(RevisionName),
    Nobody(Reason),
}

impl Crowd {
    /// When the last request that is open at a replica ends.
    pub(super) fn drained_at(&self, replica: &ReplicaName) -> Time {
        let open = self.open.iter().filter(|open| open.replica == *replica);
        open.map(|open| open.until).max().unwrap_or(0)
    }

    /// Revisions that somebody waits for.
    pub(super) fn waited_for(&self) -> BTreeSet<&RevisionName> {
        self.waiting.iter().map(|place| &place.revision).collect()
    }

    fn look(&mut self, host: &str, now: Time) -> Found {
        self.number = self.number.wrapping_add(1);
        let found = match self.table.find(host, &Side::Lan) {
            Ok(found) => found,
            Err(reason) => return Found::Nobody(reason),
        };
        let open = |replica: &ReplicaName| {
            self.open.iter().filter(|open| open.replica == *replica && now < open.until).count()
        };
        let ticket = Ticket::nth(self.number);
        match found.pick(ticket, |backend| Some(open(&backend.replica)), self.number as usize) {
            Ok(Picked::Ready(backend)) => {
                let all = found.service.revisions.iter();
                let of = all.into_iter().find(|(_, replicas)| replicas.contains(backend));
                let revision = of.map(|(revision, _)| revision.clone());
                match revision {
                    Some(revision) => Found::Ready(revision, backend.replica.clone()),
                    None => Found::Nobody(found.service.unready),
                }
            }
            Ok(Picked::Asleep(revision)) => Found::Asleep(revision.clone()),
            Err(reason) => Found::Nobody(reason),
        }
    }

    fn tell(&mut self, revision: &RevisionName, change: impl FnOnce(&mut Asked)) {
        let asked = self.demand.entry(revision.clone()).or_default();
        change(asked);
        if *asked == Asked::default() {
            self.demand.remove(revision);
        }
    }

    fn waits(&self, revision: &RevisionName) -> u64 {
        let places = self.waiting.iter().filter(|place| place.revision == *revision);
        places.map(|place| place.call.count).sum()
    }

    /// Those who waited for a revision are fewer: the last one is told at once.
    fn left(&mut self, revision: &RevisionName, called: u64) {
        let entry = self.entries.entry(revision.clone()).or_default();
        entry.called += called;
        if self.waits(revision) == 0 {
            let entry = self.entries.entry(revision.clone()).or_default();
            let called = std::mem::take(&mut entry.called);
            self.tell(revision, |asked| {
                asked.waiting = 0;
                asked.open += called;
            });
        }
    }

    /// Ends a window; tells whether anybody was there.
    fn end_window(&mut self, now: Time) -> bool {
        self.open.retain(|open| now < open.until);
        let mut demand = Demand::new();
        for (revision, entry) in &mut self.entries {
            let open = self.open.iter().filter(|open| open.revision == *revision);
            let places = self.waiting.iter().filter(|place| place.revision == *revision);
            let asked = Asked {
                begun: entry.begun,
                open: open.map(|open| open.count).sum(),
                waiting: places.map(|place| place.call.count).sum(),
            };
            *entry = Entry { begun: 0, told: 0 < entry.begun, called: 0 };
            if asked != Asked::default() {
                demand.insert(revision.clone(), asked);
            }
        }
        self.counts = !demand.is_empty();
        self.demand = demand;
        self.counts
    }
}

impl Run {
    /// Requests come.
    pub(super) fn call(&mut self, call: Call) {
        let app = app_name(call.app);
        if !self.agent.up {
            return self.answer(&call, Err(Reason::NoReadyReplica));
        }
        let Some(host) = self.host(&app, call.revision) else {
            return self.answer(&call, Err(Reason::UnknownHost));
        };
        let now = self.now;
        match self.agent.crowd.look(&host, now) {
            Found::Ready(revision, replica) => {
                self.begins(&call, revision, replica);
                self.answer(&call, Ok(0));
            }
            Found::Asleep(revision) => {
                self.note(|| format!("  waits for {revision}"));
                tally::add(&mut self.tally, "waits for a replica");
                let crowd = &mut self.agent.crowd;
                let first = crowd.waits(&revision) == 0;
                crowd.waiting.push(Place { call, host, revision: revision.clone(), since: now });
                crowd.entries.entry(revision.clone()).or_default();
                if first {
                    crowd.tell(&revision, |asked| asked.waiting = 1);
                }
                self.count();
            }
            Found::Nobody(reason) => self.answer(&call, Err(reason)),
        }
    }

    /// The host name that a call is for.
    fn host(&self, app: &AppName, revision: Option<u64>) -> Option<String> {
        let record = self.agent.state.apps.get(app)?;
        let environment = &record.in_force()?.environment;
        let suffix = self.agent.settings.suffix(environment);
        let Some(pick) = revision else { return Some(format!("{app}.{suffix}")) };
        let active: Vec<_> = record.revisions.iter().filter(|one| one.active).collect();
        let at = usize::try_from(pick % (active.len() as u64).max(1)).unwrap_or(0);
        active.get(at).map(|one| format!("{}.{suffix}", one.name))
    }

    fn begins(&mut self, call: &Call, revision: RevisionName, replica: ReplicaName) {
        let until = self.now + call.long;
        let crowd = &mut self.agent.crowd;
        let entry = crowd.entries.entry(revision.clone()).or_default();
        entry.begun += call.count;
        if !std::mem::replace(&mut entry.told, true) {
            crowd.tell(&revision, |asked| asked.begun = asked.begun.max(1));
        }
        crowd.open.push(Open { revision, replica, count: call.count, until });
        self.count();
    }

    /// Windows follow each other from now on.
    fn count(&mut self) {
        if !std::mem::replace(&mut self.agent.crowd.counts, true) {
            self.soon(WINDOW, Event::Window);
        }
    }

    pub(super) fn end_window(&mut self) {
        let now = self.now;
        let (impatient, waiting): (Vec<Place>, _) = std::mem::take(&mut self.agent.crowd.waiting)
            .into_iter()
            .partition(|place| place.since + PATIENCE <= now);
        self.agent.crowd.waiting = waiting;
        for place in impatient {
            self.agent.crowd.left(&place.revision, 0);
            self.answer(&place.call, Err(Reason::NoReadyReplica));
        }
        if self.agent.crowd.end_window(now) {
            self.soon(WINDOW, Event::Window);
        }
    }

    /// The routes changed, perhaps: everybody who waits is looked at again.
    pub(super) fn call_in(&mut self, table: RouteTable) {
        let now = self.now;
        if self.agent.crowd.table == table {
            return;
        }
        self.agent.crowd.table = table;
        for place in std::mem::take(&mut self.agent.crowd.waiting) {
            let before = place.revision.clone();
            match self.agent.crowd.look(&place.host, now) {
                Found::Asleep(revision) => {
                    let crowd = &mut self.agent.crowd;
                    let moved = revision != before;
                    if moved && crowd.waits(&revision) == 0 {
                        crowd.entries.entry(revision.clone()).or_default();
                        crowd.tell(&revision, |asked| asked.waiting = 1);
                    }
                    crowd.waiting.push(Place { revision, ..place });
                }
                Found::Ready(revision, replica) => {
                    self.begins(&place.call, revision, replica);
                    self.agent.crowd.left(&before, place.call.count);
                    self.answer(&place.call, Ok(now - place.since));
                }
                Found::Nobody(reason) => self.answer(&place.call, Err(reason)),
            }
        }
        // Those who wait for nobody any more are told of.
        let told: Vec<RevisionName> = self.agent.crowd.demand.keys().cloned().collect();
        for revision in told {
            let asked = self.agent.crowd.demand.get(&revision).copied().unwrap_or_default();
            if 0 < asked.waiting && self.agent.crowd.waits(&revision) == 0 {
                self.agent.crowd.left(&revision, 0);
            }
        }
    }

    fn answer(&mut self, call: &Call, answer: Result<Time, Reason>) {
        self.note(|| format!("  {} for {}: {answer:?}", call.count, app_name(call.app)));
        if call.matters == Matters::Yes {
            self.answers.insert(call.app, answer);
        }
        if answer.is_ok_and(|waited| 0 < waited) {
            tally::add(&mut self.tally, "was waited for");
        }
    }

    /// A heap of a flow of requests.
    pub(super) fn flows(&mut self, app: usize, rate: u64, until: Time) {
        if self.calm || until <= self.now {
            return;
        }
        let (long, count) = (self.dice.span(1, 2_000), rate * PACE / 1_000);
        self.call(Call { app, revision: None, count, long, matters: Matters::No });
        self.at(self.now + PACE, Event::Flows(app, rate, until));
    }

    /// What is sampled from now on.
    pub(super) fn sample(&mut self, plan: SamplePlan) {
        self.agent.readings.retain(|key, _| plan.contains_key(key));
        let begins: Vec<SampleKey> =
            plan.keys().filter(|key| !self.agent.crowd.sampling.contains(*key)).cloned().collect();
        self.agent.crowd.sampled = plan;
        for key in begins {
            self.agent.crowd.sampling.insert(key.clone());
            let after = self.dice.span(1, 300);
            self.soon(after, Event::Sampled(key));
        }
    }

    pub(super) fn sampled(&mut self, key: SampleKey) {
        let Some(sample) = self.agent.crowd.sampled.get(&key).cloned() else {
            self.agent.crowd.sampling.remove(&key);
            return;
        };
        let Sample { app, every, target, activation, .. } = sample;
        let value = self.value(&app);
        let failed = !self.calm && self.now < self.troubles.deeds && self.dice.once_in(3);
        let reading = if failed {
            let details = "so it was thrown".to_owned();
            Reading::Failed(Trouble { reason: Reason::ScalerFailed, details })
        } else {
            Reading::Value { value, target, activation }
        };
        self.agent.readings.insert(key.clone(), reading);
        self.soon(Time::try_from(every.as_millis()).unwrap_or(1), Event::Sampled(key));
    }

    /// What an app's source says.
    pub(super) fn value(&self, app: &AppName) -> f64 {
        let known = self.values.iter().find(|(number, _)| app_name(**number) == *app);
        known.map_or(0.0, |(_, value)| f64::from(*value))
    }

    /// Nobody waits without end for what is well.
    pub(super) fn check_waiting(&self) -> Checked {
        for place in &self.agent.crowd.waiting {
            let record = self.agent.state.apps.get(&app_name(place.call.app));
            let revision = record.and_then(|record| record.revision(&place.revision));
            let well = revision.is_some_and(|one| {
                let fate = Fate::of(&one.template.containers[0].image);
                fate.is_well() && !self.is_contended(one)
            });
            if well && place.since + SERVED_WITHIN < self.now {
                let details = format!("for {} since {}", place.revision, place.since);
                return broken("somebody waits without end", details);
            }
            let asleep = self.agent.crowd.table.environments.values().any(|environment| {
                let service = environment.apps.get(&app_name(place.call.app));
                let sleep = service.and_then(|service| service.asleep.get(&place.revision));
                sleep == Some(&Sleep::Wakes)
            });
            if !asleep {
                let details = format!("for {} since {}", place.revision, place.since);
                return broken("somebody waits for what is not about to come", details);
            }
        }
        Ok(())
    }
}
