//! What the world cannot tell: failures, back-offs, and what was given to whom last. Lost with the agent, and no harm.

mod restarts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::figures::Figures;
use super::scaling::Scaled;
use super::{Doing, World};
use crate::backoff::Backoff;
use crate::model::{EnvironmentName, Moment, ReplicaName, RevisionName};
use crate::reason::Reason;
use crate::replica::{Listener, PullProgress, Pulls, ReplicaOrder, Trouble};
use crate::rollout;
use crate::state::{AppRecord, RevisionRecord, State};

use self::restarts::Restarts;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    fetches: BTreeMap<RevisionName, Failure>,
    starts: BTreeMap<RevisionName, Failure>,
    notes: BTreeMap<RevisionName, Trouble>,
    containers: BTreeMap<ReplicaName, BTreeMap<String, Restarts>>,
    started_here: BTreeSet<ReplicaName>,
    last_address: BTreeMap<EnvironmentName, Ipv4Addr>,
    next_ticket: u64,
    /// Differs from board to board, and with every start of the agent.
    seed: u64,
    /// What each active revision was last asked to be.
    trials: BTreeMap<RevisionName, Trial>,
    /// When this run of the agent last saw revisions with all their replicas ready, as they are asked to be now.
    been_ready: BTreeMap<RevisionName, Moment>,
    /// What was measured of the board.
    pub(super) figures: Figures,
    /// Where replicas listen whose port was found closed.
    listeners: BTreeMap<ReplicaName, Vec<Listener>>,
    /// Replicas that stand by, made whole by this run of the agent.
    prepared: BTreeMap<ReplicaName, Arc<ReplicaOrder>>,
    /// Replicas that were frozen while they were ready, and run again.
    thawed: BTreeSet<ReplicaName>,
    /// Why nothing could be made to stand by for a revision.
    idle: BTreeMap<RevisionName, Failure>,
    /// How far pulls have come.
    pulls: Arc<Pulls>,
    /// Bytes of its images that each revision had when a fetch failed.
    here: BTreeMap<RevisionName, u64>,
    /// How revisions are scaled.
    pub(super) scaled: BTreeMap<RevisionName, Scaled>,
}

/// What an active revision is asked to be. Where that changes its replicas are made or probed anew, by our own doing, and
/// it is no fault of theirs that they are not ready.
#[derive(Debug, Clone)]
struct Trial {
    first_seen: Moment,
    /// When it was last asked to be something else.
    changed: Option<Moment>,
    /// When it was last asked to listen on another port: what was probed before says nothing any more.
    moved: Option<Moment>,
    off: bool,
    environment: Option<EnvironmentName>,
    port: Option<u16>,
    restarts: u64,
}

impl Trial {
    fn of(app: &AppRecord, revision: &RevisionRecord, now: Moment) -> Self {
        let document = app.document_of(revision);
        let ingress = document.and_then(|document| document.configuration.ingress.as_ref());
        Self {
            first_seen: now,
            changed: None,
            moved: None,
            off: rollout::allowed(app, revision) == 0,
            environment: document.map(|document| document.environment.clone()),
            port: ingress.map(|ingress| ingress.target_port),
            restarts: revision.restarts,
        }
    }

    fn is_as(&self, other: &Self) -> bool {
        let terms = |one: &Self| (one.off, one.port, one.restarts);
        terms(self) == terms(other) && self.environment == other.environment
    }
}

#[derive(Debug, Clone)]
struct Failure {
    backoff: Backoff,
    trouble: Trouble,
}

impl Memory {
    /// An empty memory; tickets for replica names start at `ticket`, which differs with every start of the agent.
    pub fn new(ticket: u64) -> Self {
        Self { next_ticket: ticket, seed: ticket, ..Self::default() }
    }

    /// Takes note of what happened in the world, and forgets what is gone.
    pub(super) fn learn(&mut self, state: &State, world: World<'_>) {
        for (name, observed) in world.observed {
            // What is seen of a start half way is nothing that happened: whoever starts it tells what came of it.
            let doing = world.doing.get(name);
            if matches!(doing, Some(Doing::Starting(_) | Doing::Restarting(_))) {
                continue;
            }
            for (container, seen) in &observed.containers {
                let known = self.containers.entry(name.clone()).or_default();
                known.entry(container.clone()).or_default().see(seen, world.now);
            }
        }
        let revisions: BTreeSet<&RevisionName> =
            state.apps.values().flat_map(|app| &app.revisions).map(|known| &known.name).collect();
        self.fetches.retain(|name, _| revisions.contains(name));
        self.here.retain(|name, _| revisions.contains(name));
        self.starts.retain(|name, _| revisions.contains(name));
        self.notes.clear();
        let there = |name: &ReplicaName| {
            world.observed.contains_key(name) || world.doing.contains_key(name)
        };
        self.containers.retain(|name, _| there(name));
        self.listeners.retain(|name, _| there(name));
        self.prepared.retain(|name, _| there(name));
        self.thawed.retain(there);
        self.idle.retain(|name, _| revisions.contains(name));
        self.started_here.retain(there);
        self.figures.forget(|app| state.apps.contains_key(app), there);
        let all = state.apps.values().flat_map(|app| &app.revisions);
        let active: BTreeSet<&RevisionName> =
            all.filter(|revision| revision.active).map(|revision| &revision.name).collect();
        self.trials.retain(|name, _| active.contains(name));
        self.been_ready.retain(|name, _| active.contains(name));
        for app in state.apps.values() {
            for revision in app.revisions.iter().filter(|revision| revision.active) {
                self.ask(app, revision, world.now);
            }
        }
    }

    /// Takes note of what a revision is asked to be.
    fn ask(&mut self, app: &AppRecord, revision: &RevisionRecord, now: Moment) {
        let trial = Trial::of(app, revision, now);
        let Some(known) = self.trials.get_mut(&revision.name) else {
            self.trials.insert(revision.name.clone(), trial);
            return;
        };
        if !known.is_as(&trial) {
            let moved = if known.port == trial.port { known.moved } else { Some(now) };
            *known = Trial { first_seen: known.first_seen, changed: Some(now), moved, ..trial };
            self.been_ready.remove(&revision.name);
        }
    }

    /// Takes note of revisions that have all their replicas, ready.
    pub(super) fn see_ready<'a>(
        &mut self,
        ready: impl Iterator<Item = &'a RevisionName>,
        now: Moment,
    ) {
        for name in ready {
            self.woke(name);
            match self.been_ready.get_mut(name) {
                Some(last) => *last = now,
                None => drop(self.been_ready.insert(name.clone(), now)),
            }
        }
    }

    /// When a revision last had all its replicas ready, as far as this run of the agent knows.
    pub(crate) fn last_ready(&self, revision: &RevisionName) -> Option<Moment> {
        self.been_ready.get(revision).copied()
    }

    pub(crate) fn first_seen(&self, revision: &RevisionName) -> Option<Moment> {
        self.trials.get(revision).map(|known| known.first_seen)
    }

    /// When a revision was last asked to be something else than before, by this run of the agent.
    pub(crate) fn changed(&self, revision: &RevisionName) -> Option<Moment> {
        self.trials.get(revision).and_then(|known| known.changed)
    }

    /// A replica whose port was found closed listens there.
    pub fn listens(&mut self, replica: ReplicaName, listeners: Vec<Listener>) {
        self.listeners.insert(replica, listeners);
    }

    pub(crate) fn listeners(&self, replica: &ReplicaName) -> &[Listener] {
        self.listeners.get(replica).map(Vec::as_slice).unwrap_or_default()
    }

    /// When a revision was last asked to listen on another port, by this run of the agent.
    pub(crate) fn moved(&self, revision: &RevisionName) -> Option<Moment> {
        self.trials.get(revision).and_then(|known| known.moved)
    }

    /// The images of a revision could not be fetched.
    pub fn fetch_failed(&mut self, revision: RevisionName, trouble: Trouble, now: Moment) {
        let most = most_wait(&trouble);
        let seed = self.seed.wrapping_add(seed_of(&revision));
        fail(&mut self.fetches, revision, trouble, now, |backoff| {
            backoff.fail_apart(now, seed);
            backoff.wait_at_most(now, most);
        });
    }

    /// Takes note of how far pulls have come.
    pub fn pulling(&mut self, pulls: Arc<Pulls>) {
        self.pulls = pulls;
    }

    /// A fetch of a revision with these images is about to be told as failed. Where it brought something, the one before
    /// is forgotten: the line is bad, not gone, and the wait begins at the least again.
    pub fn fetch_went_on<'a>(
        &mut self,
        revision: &RevisionName,
        references: impl Iterator<Item = &'a str>,
    ) {
        let pulls = references.filter_map(|reference| self.pulls.get(reference));
        let here = pulls.map(|pull| pull.bytes_done).sum();
        let before = self.here.insert(revision.clone(), here).unwrap_or(0);
        if before < here {
            self.fetches.remove(revision);
        }
    }

    /// The pull of one of these images, where one goes on.
    pub(crate) fn pull_of<'a>(
        &'a self,
        mut references: impl Iterator<Item = &'a str>,
    ) -> Option<(&'a str, &'a PullProgress)> {
        references.find_map(|reference| {
            let pull = self.pulls.get(reference).filter(|pull| pull.is_active())?;
            Some((reference, pull))
        })
    }

    /// The images of a revision are there.
    pub fn fetched(&mut self, revision: &RevisionName) {
        self.fetches.remove(revision);
        self.here.remove(revision);
    }

    /// New images came from elsewhere: every fetch may be tried again at once.
    pub fn images_changed(&mut self) {
        self.fetches.clear();
    }

    /// Images were removed: what had no room may be tried again at once.
    pub fn room_came(&mut self) {
        self.fetches.retain(|_, failure| failure.trouble.reason != Reason::ImageNoSpace);
    }

    /// The document behind a revision changed, its secrets perhaps: what failed may be tried again at once.
    pub fn desired_changed(&mut self, revision: &RevisionName) {
        self.fetches.remove(revision);
        self.starts.remove(revision);
    }

    /// A replica of a revision could not be started.
    pub fn start_failed(&mut self, revision: RevisionName, trouble: Trouble, now: Moment) {
        let most = most_wait(&trouble);
        fail(&mut self.starts, revision, trouble, now, |backoff| backoff.fail_within(now, most));
    }

    /// A replica was started.
    pub fn started(&mut self, revision: &RevisionName) {
        self.starts.remove(revision);
    }

    /// A replica stands by; its records are whole.
    pub fn prepared(&mut self, order: &Arc<ReplicaOrder>) {
        self.prepared.insert(order.replica.clone(), Arc::clone(order));
        self.idle.remove(&order.revision);
    }

    /// What a replica that stands by was made of, where this run of the agent has made it.
    pub(super) fn prepared_by(&self, replica: &ReplicaName) -> Option<&ReplicaOrder> {
        self.prepared.get(replica).map(Arc::as_ref)
    }

    /// No replica of a revision could be made to stand by.
    pub fn idle_failed(&mut self, revision: RevisionName, trouble: Trouble, now: Moment) {
        fail(&mut self.idle, revision, trouble, now, |backoff| backoff.fail(now, now));
    }

    pub(super) fn idle_retry_at(&self, revision: &RevisionName) -> Option<Moment> {
        self.idle.get(revision).map(|failure| failure.backoff.retry_at())
    }

    /// A replica was thawed: it was ready before.
    pub fn thawed(&mut self, replica: &ReplicaName) {
        self.thawed.insert(replica.clone());
    }

    /// It is started now, by this run of the agent, whoever has made it.
    pub(super) fn starts_here(&mut self, replica: &ReplicaName) {
        self.started_here.insert(replica.clone());
    }

    pub(super) fn is_thawed(&self, replica: &ReplicaName) -> bool {
        self.thawed.contains(replica)
    }

    /// Something keeps a revision from starting. Where that is no fault of its own and heals by itself, its time to
    /// become ready begins when it can.
    pub(super) fn hold_back(&mut self, revision: &RevisionName, trouble: Trouble, now: Moment) {
        let heals = [Reason::WaitingForStop, Reason::SecretValueMissing, Reason::StorageMissing];
        if let Some(trial) = self.trials.get_mut(revision)
            && heals.contains(&trouble.reason)
        {
            trial.changed = Some(now);
        }
        self.note(revision, trouble);
    }

    pub(crate) fn note(&mut self, revision: &RevisionName, trouble: Trouble) {
        self.notes.insert(revision.clone(), trouble);
    }

    /// What keeps a revision from having the replicas it shall have.
    pub fn trouble(&self, revision: &RevisionName) -> Option<&Trouble> {
        let failure = self.fetches.get(revision).or_else(|| self.starts.get(revision));
        self.notes.get(revision).or_else(|| failure.map(|failure| &failure.trouble))
    }

    pub(super) fn fetch_retry_at(&self, revision: &RevisionName) -> Option<Moment> {
        self.fetches.get(revision).map(|failure| failure.backoff.retry_at())
    }

    pub(super) fn start_retry_at(&self, revision: &RevisionName) -> Option<Moment> {
        self.starts.get(revision).map(|failure| failure.backoff.retry_at())
    }

    /// The trouble of a revision whose replicas failed to start more often than this in a row.
    pub(crate) fn start_loop(&self, revision: &RevisionName, restarts: u32) -> Option<&Trouble> {
        let failure = self.starts.get(revision)?;
        (restarts < failure.backoff.failures()).then_some(&failure.trouble)
    }

    /// It was started by an earlier run of the agent.
    pub(super) fn is_adopted(&self, replica: &ReplicaName) -> bool {
        !self.started_here.contains(replica)
    }

    pub(super) fn ticket(&mut self) -> u64 {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.next_ticket
    }

    pub(super) fn give(
        &mut self,
        environment: &EnvironmentName,
        replica: &ReplicaName,
        address: Ipv4Addr,
    ) {
        self.last_address.insert(environment.clone(), address);
        self.started_here.insert(replica.clone());
    }

    pub(super) fn last_address(&self, environment: &EnvironmentName) -> Option<Ipv4Addr> {
        self.last_address.get(environment).copied()
    }
}

/// A full disk has room from one moment to the next, and nobody tells.
fn most_wait(trouble: &Trouble) -> Duration {
    const FOR_ROOM: Duration = Duration::from_secs(30);
    let of_room = [Reason::ImageNoSpace, Reason::StorageFull].contains(&trouble.reason);
    if of_room { FOR_ROOM } else { Duration::MAX }
}

fn fail(
    failures: &mut BTreeMap<RevisionName, Failure>,
    revision: RevisionName,
    trouble: Trouble,
    now: Moment,
    count: impl FnOnce(&mut Backoff),
) {
    let entry = failures.entry(revision);
    let failure =
        entry.or_insert_with(|| Failure { backoff: Backoff::default(), trouble: trouble.clone() });
    // Replicas that were started together fail together, and that is one failure.
    if failure.backoff.retry_at() <= now {
        count(&mut failure.backoff);
    }
    failure.trouble = trouble;
}

/// FNV-1a of its name: revisions that fail together are not tried again together.
fn seed_of(revision: &RevisionName) -> u64 {
    let name = revision.to_string();
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    fn at(secs: u64) -> Moment {
        Moment(Duration::from_secs(secs))
    }

    fn trouble() -> Trouble {
        Trouble { reason: Reason::ContainerStartFailed, details: "why".to_owned() }
    }

    #[test]
    fn a_fetch_that_brought_something_waits_as_after_the_first_failure() {
        let (mut memory, revision) = (Memory::new(7), "a--1".parse::<RevisionName>().unwrap());
        let here = |bytes_done| {
            let pull = PullProgress { bytes: 1000, bytes_done, ..PullProgress::default() };
            Arc::new(Pulls::from([("a:1".to_owned(), pull)]))
        };
        let mut now = at(1000);
        let mut waits = Vec::new();
        for bytes in [0, 0, 0, 0, 500, 500] {
            memory.pulling(here(bytes));
            memory.fetch_went_on(&revision, ["a:1"].into_iter());
            memory.fetch_failed(revision.clone(), trouble(), now);
            let retry = memory.fetch_retry_at(&revision).unwrap();
            waits.push(retry.since(now).as_secs_f64().ceil());
            now = retry;
        }
        // The jitter takes less than half of each.
        assert!(
            4.0 < waits[3] && waits[3] <= 8.0 && waits[4] <= 1.0 && waits[5] <= 2.0,
            "{waits:?}"
        );
    }

    #[test]
    fn replicas_that_fail_together_are_one_failure() {
        let (mut memory, revision) = (Memory::new(0), "a--1".parse::<RevisionName>().unwrap());
        for _ in 0..3 {
            memory.start_failed(revision.clone(), trouble(), at(1000));
        }
        assert_eq!(memory.start_retry_at(&revision), Some(at(1001)));
    }
}
