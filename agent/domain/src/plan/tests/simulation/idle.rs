//! Deeds for what stands by: made ahead, frozen, woken.

use std::sync::Arc;

use super::asks::Fate;
use super::board::{Real, Time};
use super::deeds::trouble;
use super::run::{Event, Outcome, Run};
use super::script::Point;
use super::tally;
use crate::model::ReplicaName;
use crate::plan::{Doing, Tier};
use crate::reason::Reason;
use crate::replica::{ContainerState, ReplicaOrder};

impl Run {
    pub(super) fn begin_prepare(&mut self, order: Arc<ReplicaOrder>, tier: Tier) {
        let made = self.dice.span(1, 400);
        let ends = made + self.dice.span(1, 2_000);
        if self.fails() {
            let fails = if self.dice.once_in(2) { 1 } else { ends };
            if made < fails {
                self.soon(made, Event::Makes(Arc::clone(&order)));
            }
            return self.soon(fails, Event::Prepared(order, tier, Outcome::Failed));
        }
        self.soon(made, Event::Makes(Arc::clone(&order)));
        self.soon(ends, Event::Arms(order, tier));
    }

    /// It stands by on the board, and the agent does not know yet.
    pub(super) fn arms(&mut self, order: Arc<ReplicaOrder>, tier: Tier) {
        let name = &order.replica;
        if !matches!(self.agent.doing.get(name), Some(Doing::Preparing(_))) {
            return;
        }
        let Some(real) = self.board.replicas.get_mut(name) else {
            return self.soon(1, Event::Prepared(order, tier, Outcome::Failed));
        };
        if tier != Tier::Prepared {
            for state in real.seen.containers.values_mut() {
                *state = ContainerState::Armed;
            }
        }
        if self.falls_at(Point::Armed) {
            return;
        }
        let after = self.dice.span(1, 60);
        self.soon(after, Event::Prepared(order, tier, Outcome::Well));
    }

    pub(super) fn prepared(&mut self, order: &Arc<ReplicaOrder>, tier: Tier, outcome: Outcome) {
        let name = &order.replica;
        match self.agent.doing.get(name) {
            Some(Doing::Preparing(_)) => (),
            Some(Doing::Stopping) => return self.started_too_late(name),
            Some(Doing::Starting(_) | Doing::Restarting(_) | Doing::Freezing) | None => return,
        }
        self.agent.doing.remove(name);
        self.end(name);
        match outcome {
            Outcome::Well => {
                tally::add(&mut self.tally, tier.word());
                let mut seen = Real::made_by(order).seen;
                for state in seen.containers.values_mut() {
                    *state = match tier {
                        Tier::Prepared => ContainerState::Created,
                        Tier::Created | Tier::Frozen => ContainerState::Armed,
                    };
                }
                self.agent.sight.replicas.insert(name.clone(), seen);
                self.agent.sight.namespaces.insert(name.clone());
                self.agent.memory.prepared(order);
            }
            Outcome::Failed => {
                if !self.fails() {
                    self.board.replicas.remove(name);
                    self.board.namespaces.remove(name);
                }
                self.agent.sight.replicas.remove(name);
                self.agent.sight.namespaces.remove(name);
                let now = self.board.moment(self.now);
                let failed = trouble(Reason::ContainerStartFailed);
                self.agent.memory.idle_failed(order.revision.clone(), failed, now);
            }
        }
        self.look();
    }

    /// What stands by is started: nothing of it is made any more.
    pub(super) fn begin_wake(&mut self, order: Arc<ReplicaOrder>, tier: Tier) {
        if tier == Tier::Frozen {
            let after = self.dice.span(0, 20);
            let event = if self.fails() { Event::StartFails(order) } else { Event::Thaws(order) };
            return self.soon(after, event);
        }
        let runs = self.dice.span(1, if tier == Tier::Created { 60 } else { 3_000 });
        let main = order.template.containers.first().map(|main| main.image.clone());
        let hangs =
            tier == Tier::Prepared && Fate::of(&main.unwrap_or_default()) == Fate::InitHangs;
        if self.fails() {
            self.soon(runs, Event::StartFails(order));
        } else if !hangs {
            self.soon(runs, Event::Runs(order));
        }
    }

    pub(super) fn thaws(&mut self, order: &Arc<ReplicaOrder>) {
        let name = &order.replica;
        if !self.still_starts(name) {
            return;
        }
        let since = self.board.moment(self.now);
        let Some(real) = self.board.replicas.get_mut(name) else {
            return self.soon(1, Event::StartFails(Arc::clone(order)));
        };
        for state in real.seen.containers.values_mut() {
            if matches!(state, ContainerState::Frozen { .. }) {
                *state = ContainerState::Running { since };
            }
        }
        tally::add(&mut self.tally, "thawed");
        if self.falls_at(Point::Ran) {
            return;
        }
        let after = self.dice.span(1, 20);
        self.soon(after, Event::Started(name.clone(), Outcome::Well));
    }

    /// Pauses a replica when what is open there has ended, for which there is so long.
    pub(super) fn begin_freeze(&mut self, name: ReplicaName, patience: Time) {
        let drained = self.agent.crowd.drained_at(&name).max(self.now);
        if self.now + patience < drained {
            return self.soon(patience, Event::Frozen(name, Outcome::Failed));
        }
        let after = drained - self.now + self.dice.span(1, 50);
        let failed = self.fails();
        let event =
            if failed { Event::Frozen(name, Outcome::Failed) } else { Event::Freezes(name) };
        self.soon(after, event);
    }

    pub(super) fn freezes(&mut self, name: ReplicaName) {
        if self.agent.up && !matches!(self.agent.doing.get(&name), Some(Doing::Freezing)) {
            // It was called back.
            return;
        }
        let since = self.board.moment(self.now);
        let real = self.board.replicas.get_mut(&name).filter(|real| real.runs());
        let Some(real) = real else {
            return self.soon(1, Event::Frozen(name, Outcome::Failed));
        };
        for state in real.seen.containers.values_mut() {
            *state = ContainerState::Frozen { since };
        }
        if self.falls_at(Point::Froze) {
            return;
        }
        let after = self.dice.span(1, 20);
        self.soon(after, Event::Frozen(name, Outcome::Well));
    }

    pub(super) fn frozen(&mut self, name: &ReplicaName, outcome: Outcome) {
        if !matches!(self.agent.doing.get(name), Some(Doing::Freezing)) {
            return;
        }
        self.agent.doing.remove(name);
        self.end(name);
        let now = self.board.moment(self.now);
        let Some(seen) = self.agent.sight.replicas.get_mut(name) else { return self.look() };
        match outcome {
            Outcome::Well => {
                tally::add(&mut self.tally, "frozen");
                for state in seen.containers.values_mut() {
                    *state = ContainerState::Frozen { since: now };
                }
            }
            Outcome::Failed => {
                let revision = seen.revision.clone();
                let failed = trouble(Reason::ContainerdFailed);
                self.agent.memory.idle_failed(revision, failed, now);
            }
        }
        self.look();
    }
}
