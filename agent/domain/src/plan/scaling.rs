//! How many replicas each revision is scaled to now: its rules are asked, and what they say is written on its record,
//! from where everything else reads it. Nothing of this is stored: after a start of the agent what runs is the beginning.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fit::{self, Held};
use super::polled::Rules;
use super::{Doing, Memory, World, trouble};
use crate::document::RevisionsMode;
use crate::model::{AppName, Moment, RevisionName};
use crate::reason::Reason;
use crate::replica::{ContainerState, Trouble};
use crate::scale::{self, Crons, Decision, Scaler, Sight, Terms};
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;

/// What is remembered of how a revision is scaled.
#[derive(Debug, Clone)]
pub(super) struct Scaled {
    scaler: Scaler,
    /// The rule that asks for more than the least.
    by: String,
    /// Why a rule is not known to ask for anything.
    trouble: Option<Trouble>,
    /// Those of its rules that are sampled.
    pub(super) rules: Option<Rules>,
    /// It was at zero and has not been ready since.
    wakes: bool,
    /// What stood by gave way to others, and comes back no more before it was awake.
    gave_up: bool,
    /// When to decide again.
    again: Option<Moment>,
    /// It has fewer replicas than that, for want of room.
    pub(super) held: Option<Held>,
    /// The schedules of its rules, once they were read.
    crons: Option<Crons>,
}

impl Scaled {
    /// As an agent finds it that has just begun. Who asked the one before it to bring it back may be waiting still.
    fn found(record: &AppRecord, revision: &RevisionRecord, world: World<'_>) -> Self {
        let wakes = may_rest(record, revision);
        Self { wakes, ..Self::new(living(revision, world), world.now) }
    }

    fn new(count: u32, now: Moment) -> Self {
        let scaler = Scaler::new(count, now);
        Self {
            scaler,
            by: String::new(),
            trouble: None,
            rules: None,
            wakes: false,
            gave_up: false,
            again: None,
            held: None,
            crons: None,
        }
    }
}

/// Asks the rules of every revision, and writes down what they come to.
pub fn scale(apps: &mut BTreeMap<AppName, AppRecord>, world: World<'_>, memory: &mut Memory) {
    let mut known = std::mem::take(&mut memory.scaled);
    for record in apps.values_mut() {
        let counts: Vec<Option<u32>> = record
            .revisions
            .iter()
            .map(|revision| one(record, revision, world, &mut known, &mut memory.scaled))
            .collect();
        for (revision, count) in record.revisions.iter_mut().zip(counts) {
            revision.scaled = count;
        }
    }
    fit::hold(apps, world, memory);
}

/// How many replicas a revision is scaled to; none where it is not scaled.
fn one(
    record: &AppRecord,
    revision: &RevisionRecord,
    world: World<'_>,
    before: &mut BTreeMap<RevisionName, Scaled>,
    after: &mut BTreeMap<RevisionName, Scaled>,
) -> Option<u32> {
    if record.removed || !revision.active {
        return None;
    }
    if record.stopped || record.scale.replicas.is_some() {
        // It begins with one where that ends.
        after.insert(revision.name.clone(), Scaled::new(1, world.now));
        return None;
    }
    if !matches!(revision.phase, Phase::Probation | Phase::Committed) {
        return None;
    }
    let known = before.remove(&revision.name);
    // What runs is not known before the runtime was seen.
    let fresh = || world.runtime.is_none().then(|| Scaled::found(record, revision, world));
    let mut scaled = known.or_else(fresh)?;
    let awake = 0 < scaled.scaler.count();
    let sight = Sight {
        now: world.now,
        wall: world.wall,
        zones: world.zones,
        asked: world.demand.get(&revision.name).copied().unwrap_or_default(),
        readings: world.readings,
        crons: scaled.crons.get_or_insert_with(|| scale::crons(&revision.template)),
        awake,
    };
    let document = record.document_of(revision);
    let ingress = document.and_then(|document| document.configuration.ingress.as_ref());
    let transport = ingress.map(|ingress| ingress.transport);
    let asks = scale::asks(&revision.name, &revision.template, transport, sight);
    let (min, max) = record.bounds_of(revision);
    // What stands by for one on trial stays awake; what was at zero before that one came stays there.
    let rests = may_rest(record, revision) && !(awake && is_followed(record, revision));
    let cooldown = revision.template.scale.cooldown_period_secs;
    let terms = Terms {
        min,
        max,
        rests: revision.phase == Phase::Committed && rests,
        cooldown: Duration::from_secs(cooldown.into()),
        metrics: asks.metrics,
    };
    let Decision { count, by, again } = scaled.scaler.decide(&terms, world.now);
    scaled.wakes = 0 < count && (scaled.wakes || !awake);
    scaled.gave_up &= count == 0;
    scaled.again = again.into_iter().chain(asks.again).min();
    scaled.by = by;
    scaled.rules = Rules::of(record, revision, scaled.rules.take());
    let unreadable = || scaled.rules.as_ref().and_then(|rules| rules.trouble.clone());
    scaled.trouble = asks.trouble.or_else(unreadable);
    after.insert(revision.name.clone(), scaled);
    Some(count)
}

/// Its bounds and its rules allow it to have no replica.
fn may_rest(record: &AppRecord, revision: &RevisionRecord) -> bool {
    record.bounds_of(revision).0 == 0 && !scale::needs_a_replica(&revision.template)
}

/// Another one is to take over from it.
pub(super) fn is_followed(record: &AppRecord, revision: &RevisionRecord) -> bool {
    let newer = record.revisions.iter().rev().take_while(|one| one.name != revision.name);
    record.mode() == RevisionsMode::Single && newer.into_iter().any(|one| one.active)
}

/// Replicas of a revision that run, or are about to.
fn living(revision: &RevisionRecord, world: World<'_>) -> u32 {
    let stops = |name| matches!(world.doing.get(name), Some(Doing::Stopping));
    let seen = world.observed.iter().filter(|(name, seen)| {
        let runs = seen.containers.values().any(|state| {
            matches!(state, ContainerState::Running { .. } | ContainerState::Exited { .. })
        });
        let ours = seen.revision == revision.name && seen.boot == world.settings.boot;
        ours && runs && !stops(*name)
    });
    u32::try_from(seen.count()).unwrap_or(u32::MAX)
}

impl Memory {
    /// Sends an app to zero, from where the next request or event brings it back. Refused where something keeps it.
    pub fn send_to_zero(&mut self, record: &AppRecord) -> Result<(), Trouble> {
        let refuse = |details: String| Err(trouble(Reason::KeepsReplicas, details));
        if record.scale.replicas.is_some() {
            return refuse("the app is pinned".to_owned());
        }
        let active = || record.revisions.iter().filter(|revision| revision.active);
        if let Some(kept) = active().find(|revision| !may_rest(record, revision)) {
            let (min, _) = record.bounds_of(kept);
            let why = match min {
                0 => "a rule looks at what it uses".to_owned(),
                _ => format!("minReplicas is {min}"),
            };
            return refuse(format!("{}: {why}", kept.name));
        }
        if let Some(moves) = active().find(|revision| revision.phase != Phase::Committed) {
            return refuse(format!("{} is on its way", moves.name));
        }
        for revision in active() {
            if let Some(scaled) = self.scaled.get_mut(&revision.name) {
                scaled.scaler.dismiss();
            }
        }
        Ok(())
    }

    /// When the rules are to be asked again.
    pub(super) fn scale_again(&self) -> Option<Moment> {
        self.scaled.values().filter_map(|scaled| scaled.again).min()
    }

    /// What stands by for it makes room, until it was awake once more.
    pub(super) fn give_up(&mut self, revision: &RevisionName) {
        if let Some(scaled) = self.scaled.get_mut(revision) {
            scaled.gave_up = true;
        }
    }

    pub(super) fn gave_up(&self, revision: &RevisionName) -> bool {
        self.scaled.get(revision).is_some_and(|scaled| scaled.gave_up)
    }

    /// It was at zero, and is on its way back.
    pub(crate) fn wakes(&self, revision: &RevisionName) -> bool {
        self.scaled.get(revision).is_some_and(|scaled| scaled.wakes)
    }

    /// It is back.
    pub(super) fn woke(&mut self, revision: &RevisionName) {
        if let Some(scaled) = self.scaled.get_mut(revision) {
            scaled.wakes = false;
        }
    }

    /// The rule that asks for more replicas of a revision than the least; empty if none.
    pub fn scaled_by(&self, revision: &RevisionName) -> &str {
        self.scaled.get(revision).map_or("", |scaled| scaled.by.as_str())
    }

    /// Why a revision has not as many replicas as its rules ask for, or why one of them is not known to ask for anything.
    pub fn scale_trouble(&self, revision: &RevisionName) -> Option<&Trouble> {
        let held = self.held_by_board(revision);
        held.or_else(|| self.scaled.get(revision)?.trouble.as_ref())
    }
}
