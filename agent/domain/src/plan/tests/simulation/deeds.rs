//! Deeds: how what the agent orders is done, in stages, each of which may fail or be the last before the lights go out.

use std::sync::Arc;
use std::time::Duration;

use super::agent::RETRY;
use super::asks::Fate;
use super::board::{Real, Time};
use super::run::{Checked, Event, Outcome, Run};
use super::script::Point;
use super::tally;
use crate::model::{AppName, ReplicaName};
use crate::plan::{Action, Doing};
use crate::reason::Reason;
use crate::replica::{ContainerState, ReplicaOrder, Trouble};

pub(super) fn trouble(reason: Reason) -> Trouble {
    Trouble { reason, details: "so it was thrown".to_owned() }
}

impl Run {
    /// Takes note of what is about to be done.
    pub(super) fn order(&mut self, action: &Action) {
        self.note(|| format!("  {}", short(action)));
        if let Some(app) = self.app_of(action) {
            self.acted.insert(app, self.now);
        }
        let doing = &mut self.agent.doing;
        match action {
            Action::Fetch(order) => drop(self.agent.fetching.insert(order.revision.clone())),
            Action::Survey(app, _) => drop(self.agent.surveying.insert(app.clone())),
            Action::Prepare(order, _) => {
                doing.insert(order.replica.clone(), Doing::Preparing(Arc::clone(order)));
            }
            Action::Freeze(replica, _) => {
                doing.insert(replica.clone(), Doing::Freezing);
                self.spring(replica);
            }
            Action::Start(order) | Action::Wake(order, _) => {
                doing.insert(order.replica.clone(), Doing::Starting(Arc::clone(order)));
            }
            Action::Restart(order, ..) => {
                doing.insert(order.replica.clone(), Doing::Restarting(Arc::clone(order)));
            }
            Action::Stop(replica, _) => {
                let before = doing.insert(replica.clone(), Doing::Stopping);
                self.spring(replica);
                let Some(Doing::Starting(order) | Doing::Preparing(order)) = before else { return };
                // It is given up: who starts it ends it, unless it is too late for that.
                self.agent.given_up.insert(replica.clone());
                let made = Real::made_by(&order).seen;
                self.agent.sight.replicas.entry(replica.clone()).or_insert(made);
                let runs = self.board.replicas.get(replica).is_some_and(Real::lives);
                if !runs {
                    let after = self.dice.span(1, 50);
                    self.soon(after, Event::Removed(replica.clone()));
                }
            }
        }
    }

    /// The app that something is done for.
    fn app_of(&self, action: &Action) -> Option<AppName> {
        match action {
            Action::Start(order)
            | Action::Prepare(order, _)
            | Action::Wake(order, _)
            | Action::Restart(order, ..) => Some(order.app.clone()),
            Action::Freeze(name, _) | Action::Stop(name, _) => {
                self.agent.sight.replicas.get(name).map(|seen| seen.app.clone())
            }
            Action::Survey(app, _) => Some(app.clone()),
            Action::Fetch(_) => None,
        }
    }

    pub(super) fn begin(&mut self, action: Action) {
        match action {
            Action::Fetch(order) => {
                let after = self.dice.span(5, 30_000);
                self.soon(after, Event::Fetched(order));
            }
            Action::Prepare(order, tier) => self.begin_prepare(order, tier),
            Action::Wake(order, tier) => self.begin_wake(order, tier),
            Action::Freeze(replica, patience) => self.begin_freeze(replica, millis(patience)),
            Action::Start(order) => self.begin_start(order),
            Action::Restart(order, container, grace) => {
                let after = 1 + self.dice.span(0, 300).min(millis(grace));
                self.soon(after, Event::Halves(order, container));
            }
            Action::Stop(replica, grace) => self.begin_stop(replica, grace),
            Action::Survey(app, replicas) => {
                let after = self.dice.span(1, 500);
                self.soon(after, Event::Surveyed(app, replicas));
            }
        }
    }

    fn begin_start(&mut self, order: Arc<ReplicaOrder>) {
        let made = self.dice.span(1, 400);
        let runs = made + self.dice.span(1, 3_000);
        let image = order.template.containers.first().map(|main| main.image.clone());
        if self.fails() {
            let fails = if self.dice.once_in(2) { 1 } else { runs };
            if made < fails {
                self.soon(made, Event::Makes(Arc::clone(&order)));
            }
            return self.soon(fails, Event::StartFails(order));
        }
        self.soon(made, Event::Makes(Arc::clone(&order)));
        match Fate::of(&image.unwrap_or_default()) {
            Fate::InitHangs => (),
            Fate::InitFails => self.soon(runs, Event::StartFails(order)),
            Fate::Good
            | Fate::Slow
            | Fate::Late
            | Fate::Missing
            | Fate::Crashes
            | Fate::Deaf
            | Fate::Ailing
            | Fate::Fickle => self.soon(runs, Event::Runs(order)),
        }
    }

    fn begin_stop(&mut self, replica: ReplicaName, grace: Duration) {
        // One that was given up while it started ends by itself.
        let observed = self.board.replicas.get(&replica);
        if self.agent.given_up.contains(&replica) {
            return;
        }
        let grace = millis(grace);
        let ends = match observed {
            Some(real) if real.is_there() && self.dice.once_in(6) => grace,
            Some(real) if real.is_there() => self.dice.span(1, 2_000).min(grace),
            Some(_) | None => 1,
        };
        // What is open there ends first.
        let drained = self.agent.crowd.drained_at(&replica).saturating_sub(self.now);
        let ends = ends + drained.min(grace);
        if self.fails() {
            if self.dice.once_in(2) {
                self.at(self.now + ends, Event::Ends(replica.clone()));
            }
            return self.soon(ends + RETRY, Event::Stopped(replica, Outcome::Failed));
        }
        // The signal is sent: it ends whether the agent lives to see it or not.
        self.at(self.now + ends, Event::Ends(replica.clone()));
        let after = ends + self.dice.span(1, 400);
        self.soon(after, Event::Removed(replica));
    }

    /// A start that was not given up goes on.
    pub(super) fn makes(&mut self, order: &Arc<ReplicaOrder>) {
        let prepares = matches!(self.agent.doing.get(&order.replica), Some(Doing::Preparing(_)));
        if prepares || self.still_starts(&order.replica) {
            self.board.replicas.insert(order.replica.clone(), Real::made_by(order));
            self.board.namespaces.insert(order.replica.clone());
            self.falls_at(Point::Made);
        }
    }

    pub(super) fn still_starts(&self, replica: &ReplicaName) -> bool {
        matches!(self.agent.doing.get(replica), Some(Doing::Starting(_)))
    }

    pub(super) fn runs(&mut self, order: &Arc<ReplicaOrder>) -> Checked {
        let name = &order.replica;
        if !self.still_starts(name) {
            return Ok(());
        }
        let waits = |state: &ContainerState| {
            matches!(state, ContainerState::Created | ContainerState::Armed)
        };
        let known = self.board.replicas.get(name);
        if !known.is_some_and(|real| real.seen.containers.values().all(waits)) {
            // Somebody took its records away meanwhile, or ended what waited to be started.
            self.soon(1, Event::StartFails(Arc::clone(order)));
            return Ok(());
        }
        let names = order.template.containers.iter().map(|one| one.name.clone()).collect();
        self.begin_containers(name, names)?;
        if self.falls_at(Point::Ran) {
            return Ok(());
        }
        let after = self.dice.span(1, 60);
        self.soon(after, Event::Started(name.clone(), Outcome::Well));
        Ok(())
    }

    fn begin_containers(&mut self, name: &ReplicaName, containers: Vec<String>) -> Checked {
        let since = self.board.moment(self.now);
        let Some(real) = self.board.replicas.get_mut(name) else { return Ok(()) };
        let main = containers.iter().any(|one| one == "main");
        for container in containers {
            real.seen.containers.insert(container, ContainerState::Running { since });
        }
        self.proved.remove(name);
        if main && let Some(ends) = real.begin(self.now, &mut self.dice) {
            let starts = real.starts;
            self.at(ends, Event::Exits(name.clone(), "main".to_owned(), starts));
        }
        self.check_run(name)
    }

    pub(super) fn start_fails(&mut self, order: &Arc<ReplicaOrder>) {
        let name = &order.replica;
        if !self.still_starts(name) {
            return;
        }
        // What was half made is taken away at once; where that fails too, a later look finds it.
        if !self.fails() {
            self.board.replicas.remove(name);
            self.board.namespaces.remove(name);
        }
        self.started(name, Outcome::Failed);
    }

    pub(super) fn started(&mut self, name: &ReplicaName, outcome: Outcome) {
        let order = match self.agent.doing.get(name) {
            Some(Doing::Starting(order)) => Arc::clone(order),
            Some(Doing::Stopping) => {
                tally::add(&mut self.tally, "late start");
                return self.started_too_late(name);
            }
            Some(Doing::Restarting(_) | Doing::Preparing(_) | Doing::Freezing) | None => return,
        };
        self.agent.doing.remove(name);
        self.end(name);
        match outcome {
            Outcome::Well => {
                let since = self.board.moment(self.now);
                let mut seen = Real::made_by(&order).seen;
                for state in seen.containers.values_mut() {
                    *state = ContainerState::Running { since };
                }
                let before = self.agent.sight.replicas.insert(name.clone(), seen);
                let frozen =
                    |state: &ContainerState| matches!(state, ContainerState::Frozen { .. });
                if before.is_some_and(|seen| seen.containers.values().any(frozen)) {
                    self.agent.memory.thawed(name);
                }
                self.agent.sight.namespaces.insert(name.clone());
                self.agent.memory.started(&order.revision);
            }
            Outcome::Failed => {
                self.agent.sight.replicas.remove(name);
                self.agent.sight.namespaces.remove(name);
                let now = self.board.moment(self.now);
                let failed = trouble(Reason::ContainerStartFailed);
                self.agent.memory.start_failed(order.revision.clone(), failed, now);
            }
        }
        self.look();
    }

    /// It was given up in the moment in which it ended: the next plan finds it.
    pub(super) fn started_too_late(&mut self, name: &ReplicaName) {
        self.agent.given_up.remove(name);
        self.agent.doing.remove(name);
        self.end(name);
        self.agent.sight.ended.remove(name);
        self.look();
    }

    /// The first half of a restart: the container and its record are gone, and with its only container the replica.
    pub(super) fn halves(&mut self, order: Arc<ReplicaOrder>, container: String) {
        let name = &order.replica;
        if self.fails() || !self.board.replicas.contains_key(name) {
            let after = self.dice.span(1, 50);
            return self.soon(after, Event::Restarted(name.clone(), container, Outcome::Failed));
        }
        let real = self.board.replicas.get_mut(name).expect("it was asked for");
        real.seen.containers.remove(&container);
        let taken = real.seen.containers.is_empty().then(|| self.board.replicas.remove(name));
        if self.falls_at(Point::Halved) {
            return;
        }
        let after = self.dice.span(1, 500);
        self.soon(after, Event::Whole(order, container, taken.flatten().map(Box::new)));
    }

    pub(super) fn whole(
        &mut self,
        order: &Arc<ReplicaOrder>,
        container: String,
        taken: Option<Box<Real>>,
    ) -> Checked {
        let name = &order.replica;
        if let Some(real) = taken {
            self.board.replicas.insert(name.clone(), *real);
        }
        let after = self.dice.span(1, 60);
        if self.fails() || !self.board.namespaces.contains(name) {
            let made = self.board.replicas.get_mut(name);
            if let Some(real) = made {
                real.seen.containers.insert(container.clone(), ContainerState::Created);
            }
            self.soon(after, Event::Restarted(name.clone(), container, Outcome::Failed));
            return Ok(());
        }
        self.begin_containers(name, vec![container.clone()])?;
        self.soon(after, Event::Restarted(name.clone(), container, Outcome::Well));
        Ok(())
    }

    pub(super) fn restarted(&mut self, name: &ReplicaName, container: &str, outcome: Outcome) {
        let Some(Doing::Restarting(order)) = self.agent.doing.get(name).cloned() else { return };
        self.agent.doing.remove(name);
        self.end(name);
        let now = self.board.moment(self.now);
        let known = self.agent.sight.replicas.entry(name.clone());
        let known = known.or_insert_with(|| Real::made_by(&order).seen);
        let failed = match outcome {
            Outcome::Well => {
                let state = ContainerState::Running { since: now };
                known.containers.insert(container.to_owned(), state);
                None
            }
            Outcome::Failed => Some(trouble(Reason::ContainerStartFailed)),
        };
        self.agent.memory.restarted(name, container, failed, now);
        self.look();
    }

    /// The processes of a replica that was told to stop end.
    pub(super) fn ends(&mut self, name: &ReplicaName) {
        let at = self.board.moment(self.now);
        let Some(real) = self.board.replicas.get_mut(name) else { return };
        for state in real.seen.containers.values_mut() {
            if *state != ContainerState::Created && !matches!(state, ContainerState::Exited { .. })
            {
                *state = ContainerState::Exited { code: 0, oom: false, at, words: String::new() };
            }
        }
        if self.agent.up && !self.falls_at(Point::Ended) {
            self.soon(1, Event::Pulse);
        }
    }

    /// The rest of a replica goes too.
    pub(super) fn removed(&mut self, name: &ReplicaName) {
        if !matches!(self.agent.doing.get(name), Some(Doing::Stopping)) {
            return;
        }
        self.agent.given_up.remove(name);
        if self.is_containerd_away() {
            return self.soon(RETRY, Event::Stopped(name.clone(), Outcome::Failed));
        }
        self.board.replicas.remove(name);
        self.board.namespaces.remove(name);
        self.stopped(name, Outcome::Well);
    }

    pub(super) fn stopped(&mut self, name: &ReplicaName, outcome: Outcome) {
        self.agent.doing.remove(name);
        self.end(name);
        match outcome {
            Outcome::Well => {
                self.agent.sight.replicas.remove(name);
                self.agent.sight.namespaces.remove(name);
            }
            Outcome::Failed => drop(self.agent.sight.ended.remove(name)),
        }
        self.look();
    }
}

fn millis(time: Duration) -> Time {
    Time::try_from(time.as_millis()).unwrap_or(0)
}

fn short(action: &Action) -> String {
    match action {
        Action::Fetch(order) => format!("fetch {}", order.revision),
        Action::Prepare(order, tier) => {
            format!("prepare {} at {}: {}", order.replica, order.place.address, tier.word())
        }
        Action::Wake(order, tier) => format!("wake {}: {}", order.replica, tier.word()),
        Action::Freeze(replica, patience) => format!("freeze {replica} within {patience:?}"),
        Action::Start(order) => format!("start {} at {}", order.replica, order.place.address),
        Action::Restart(order, container, _) => format!("restart {container} of {}", order.replica),
        Action::Stop(replica, grace) => format!("stop {replica} within {grace:?}"),
        Action::Survey(app, replicas) => format!("survey for {app}: {replicas:?}"),
    }
}
