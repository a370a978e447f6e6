//! What happens: how each event changes the board and the agent.

use std::collections::{BTreeMap, BTreeSet};

use super::asks::{Ask, app_name};
use super::board::{NEVER, Time};
use super::crowd::{Call, Matters};
use super::run::{Checked, Event, Run};
use super::script::{Fall, Happening, Power, Verb};
use super::tally;
use crate::document::TrafficEntry;
use crate::intake::{self, Incoming, Verdict};
use crate::model::{EnvironmentName, ReplicaName};
use crate::plan::Memory;
use crate::probe::{Health, ProbeFailure, ProbeKind};
use crate::replica::ContainerState;
use crate::state::{AppRecord, Wanted};
use crate::status::Source;
use crate::verbs;

impl Run {
    pub(super) fn handle(&mut self, event: Event) -> Checked {
        match event {
            Event::Happens(happening) => self.happen(happening),
            Event::Calm => self.calm_down(),
            Event::Knock => self.knock(),
            Event::Boots => {
                self.board.regain_power(self.now);
                self.agent.settings.boot = self.board.boot();
                self.start_agent();
            }
            Event::AgentStarts if self.board.powered => self.start_agent(),
            Event::Pulse | Event::Look if self.agent.up => self.look(),
            Event::AgentStarts | Event::Told | Event::Pulse | Event::Look => (),
            Event::Looks(begun, early) => {
                let seen = early.or_else(|| self.sighting());
                let after = self.dice.span(1, 30);
                self.soon(after, Event::Looked(begun, seen));
            }
            Event::Looked(begun, seen) => self.looked(begun, seen),
            Event::Settled(wanted) => self.settled(&wanted),
            Event::Fetched(order) => self.fetched(&order),
            Event::Surveyed(app, replicas) => self.surveyed(app, &replicas),
            Event::Makes(order) => self.makes(&order),
            Event::Runs(order) => self.runs(&order)?,
            Event::StartFails(order) => self.start_fails(&order),
            Event::Started(replica, outcome) => self.started(&replica, outcome),
            Event::Arms(order, tier) => self.arms(order, tier),
            Event::Prepared(order, tier, outcome) => self.prepared(&order, tier, outcome),
            Event::Freezes(replica) => self.freezes(replica),
            Event::Frozen(replica, outcome) => self.frozen(&replica, outcome),
            Event::Thaws(order) => self.thaws(&order),
            Event::Calls(call) => self.call(call),
            Event::Flows(app, rate, until) => self.flows(app, rate, until),
            Event::Window => self.end_window(),
            Event::Sampled(key) => self.sampled(key),
            Event::Halves(order, container) => self.halves(order, container),
            Event::Whole(order, container, taken) => self.whole(&order, container, taken)?,
            Event::Restarted(replica, container, outcome) => {
                self.restarted(&replica, &container, outcome);
            }
            Event::Ends(replica) => self.ends(&replica),
            Event::Removed(replica) => self.removed(&replica),
            Event::Stopped(replica, outcome) => self.stopped(&replica, outcome),
            Event::Probes(replica, epoch) => self.probe(&replica, epoch),
            Event::Exits(replica, container, starts) => {
                let known = self.board.replicas.get(&replica);
                if known.is_some_and(|real| real.starts == starts) {
                    self.crash(&replica, &container);
                }
            }
        }
        Ok(())
    }

    fn start_agent(&mut self) {
        if self.agent.up {
            return;
        }
        self.agent.up = true;
        let moment = self.board.moment(self.now);
        self.board.forget_moments(moment);
        let ticket = u64::try_from(moment.0.as_nanos()).unwrap_or(0) + self.dice.roll(1_000_000);
        self.agent.memory = Memory::new(ticket);
        self.look();
        for happening in std::mem::take(&mut self.inbox) {
            self.happen(happening);
        }
    }

    fn settled(&mut self, wanted: &BTreeSet<EnvironmentName>) {
        self.agent.nets.settling = false;
        let known = self.agent.nets.subnets.clone();
        let mut subnets: BTreeMap<_, _> =
            known.into_iter().filter(|(name, _)| wanted.contains(name)).collect();
        for name in wanted {
            let taken: Vec<_> = subnets.values().copied().collect();
            let mut free =
                (0..=255).map(|n| ipnet::Ipv4Net::new_assert([10, 213, n, 0].into(), 24));
            let free = free.find(|subnet| !taken.contains(subnet)).expect("few environments");
            subnets.entry(name.clone()).or_insert(free);
        }
        self.board.bridges.clone_from(&subnets);
        self.agent.nets.settled = Some(wanted.clone());
        self.agent.nets.subnets = subnets;
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Send(..)
            | Happening::Delete(_)
            | Happening::Scale(..)
            | Happening::Run(..)
            | Happening::Verb(..)
                if !self.agent.up || self.now < self.troubles.disk =>
            {
                // It is refused for now, and comes again.
                if self.agent.up {
                    let again = self.troubles.disk + 1_000;
                    self.at(again, Event::Happens(happening));
                } else {
                    self.inbox.push(happening);
                }
            }
            Happening::Send(number, ask) => self.take_document(number, ask),
            Happening::Delete(number) => {
                self.change(number, |record| {
                    record.received.remove(&Source::Mqtt);
                    intake::remove(record);
                });
                self.asked.remove(&number);
            }
            Happening::Scale(number, target) => self.change(number, |record| record.scale = target),
            Happening::Run(number, power) => {
                self.change(number, |record| record.stopped = power == Power::Off);
            }
            Happening::Verb(number, pick, verb) => self.verb(number, pick, verb),
            Happening::Crash(number) => {
                if let Some(name) = self.running(number) {
                    let containers = &self.board.replicas[&name].seen.containers;
                    let names: Vec<_> = containers.keys().cloned().collect();
                    let container = self.dice.pick(&names).unwrap_or_default();
                    self.crash(&name, &container);
                }
            }
            Happening::CrashApp(number) => {
                let app = app_name(number);
                let of_app = self.board.replicas.iter().filter(|(_, real)| real.seen.app == app);
                let names: Vec<_> = of_app.map(|(name, _)| name.clone()).collect();
                for name in &names {
                    self.crash(name, "main");
                }
            }
            Happening::Sicken(number, long) => self.sicken(number, long),
            Happening::Condemn(number) => {
                if let Some(name) = self.running(number) {
                    let now = self.now;
                    self.board
                        .replicas
                        .entry(name.clone())
                        .and_modify(|real| real.condemned_at = now);
                    self.have_probed(&name);
                }
            }
            Happening::Vanish(number) => {
                if let Some(name) = self.running(number) {
                    self.board.replicas.remove(&name);
                    self.at(self.now + 2, Event::Pulse);
                }
            }
            Happening::KillAgent(away) => self.fall(Fall::Agent, away),
            Happening::CutPower(away) => self.fall(Fall::Power, away),
            Happening::Ambush(point, fall, away) => self.ambush = Some((point, fall, away)),
            Happening::LoseContainerd(long) => {
                self.troubles.containerd = self.now + long;
                self.soon(1, Event::Pulse);
                self.at(self.now + long, Event::Pulse);
            }
            Happening::FillDisk(long) => self.troubles.disk = self.now + long,
            Happening::Trouble(long) => self.troubles.deeds = self.now + long,
            Happening::Crowd(long) => self.troubles.memory = self.now + long,
            // The level is told when it rises and when it falls.
            Happening::Press(long) => {
                self.troubles.pressure = self.now + long;
                self.pressed = true;
                self.at(self.now + long, Event::Told);
            }
            Happening::Lock(long) => self.troubles.locks = self.now + long,
            Happening::Call(call) => self.call(call),
            Happening::Flow(app, rate, long) => self.flows(app, rate, self.now + long),
            Happening::Load(app, value) => drop(self.values.insert(app, value)),
            Happening::Spring(app, after) => self.spring = Some((app, after)),
            Happening::Rest(app) => self.send_to_zero(app),
        }
    }

    fn calm_down(&mut self) {
        self.calm = true;
        self.ambush = None;
        self.troubles.deeds = self.now;
        self.troubles.memory = self.now;
        self.troubles.pressure = self.now;
        self.spring = None;
        self.troubles.locks = self.now;
        for real in self.board.replicas.values_mut() {
            if real.fate.is_well() {
                real.sick_until = real.sick_until.min(self.now);
            }
        }
        let names: Vec<_> = self.board.replicas.keys().cloned().collect();
        for name in names {
            self.have_probed(&name);
        }
    }

    fn take_document(&mut self, number: usize, ask: Ask) {
        let name = app_name(number);
        let payload = ask.payload();
        let allowances = self.agent.settings.allowances.clone();
        let incoming = Incoming {
            source: Source::Mqtt,
            payload: &payload,
            force: false,
            allowances: &allowances,
        };
        let known = self.agent.state.apps.get(&name);
        let verdict = intake::app(known, &name, ask.document(&name), Vec::new(), incoming);
        self.note(|| format!("  is {}", word(&verdict)));
        let Verdict::Changed(record) = verdict else { return };
        for revision in &record.revisions {
            self.agent.memory.desired_changed(&revision.name);
        }
        if record.removed {
            self.asked.remove(&number);
        } else {
            self.asked.insert(number, ask);
        }
        self.agent.state.apps.insert(name, *record);
    }

    /// A person sends an app to zero.
    fn send_to_zero(&mut self, number: usize) {
        let name = app_name(number);
        let known = self.agent.state.apps.get(&name);
        let Some(record) = known.filter(|one| self.agent.up && one.accepted.is_some()) else {
            return;
        };
        let done = self.agent.memory.send_to_zero(record);
        self.note(|| format!("  {:?}", done.as_ref().map_err(|refused| &refused.details)));
        if done.is_ok() {
            tally::add(&mut self.tally, "sent to zero");
            self.agent.dismissed.insert(name);
        }
    }

    /// Somebody asks for an app in the moment in which its last replica goes.
    pub(super) fn spring(&mut self, replica: &ReplicaName) {
        let Some((app, after)) = self.spring else { return };
        let name = app_name(app);
        let seen = self.agent.sight.replicas.get(replica).filter(|seen| seen.app == name);
        let record = self.agent.state.apps.get(&name);
        let rests = record.is_some_and(|one| one.wanted_replicas() == Wanted::Asleep);
        if seen.is_none() || !rests {
            return;
        }
        self.spring = None;
        tally::add(&mut self.tally, "asked as it goes");
        let call = Call { app, revision: None, count: 1, long: 5, matters: Matters::No };
        self.at(self.now + after, Event::Calls(call));
    }

    fn change(&mut self, number: usize, change: impl FnOnce(&mut AppRecord)) {
        let known = self.agent.state.apps.get_mut(&app_name(number));
        if let Some(record) = known.filter(|record| record.accepted.is_some()) {
            change(record);
        }
    }

    /// What a person does to a revision, where it is allowed.
    fn verb(&mut self, number: usize, pick: u64, verb: Verb) {
        let Some(record) = self.agent.state.apps.get(&app_name(number)) else { return };
        if record.accepted.is_none() {
            return;
        }
        let mut record = record.clone();
        let names: Vec<_> = record.revisions.iter().map(|one| one.name.clone()).collect();
        let at = usize::try_from(pick % (names.len() as u64).max(1)).unwrap_or(0);
        let Some(name) = names.get(at) else { return };
        let done = match verb {
            Verb::Activate => verbs::activate(&mut record, name),
            Verb::Deactivate => verbs::deactivate(&mut record, name),
            Verb::Restart => verbs::restart(&mut record, name),
            Verb::Copy => verbs::copy(&mut record, name, None).map(drop),
            Verb::Direct(weight) => {
                let entry = TrafficEntry {
                    revision: Some(name.clone()),
                    weight,
                    ..TrafficEntry::default()
                };
                verbs::direct(&mut record, &[entry], &[]).map(drop)
            }
            Verb::Label => {
                let label = ("blue".to_owned(), Some(name.clone()));
                verbs::direct(&mut record, &[], &[label]).map(drop)
            }
        };
        self.note(|| format!("  {name}: {:?}", done.as_ref().map_err(|refused| &refused.message)));
        if done.is_ok() {
            if verb == Verb::Restart {
                tally::add(&mut self.tally, "restart by hand");
            }
            self.agent.memory.desired_changed(name);
            self.agent.state.apps.insert(record.name.clone(), record);
        }
    }

    /// The replica that a number stands for, of those that run.
    fn running(&self, number: u64) -> Option<ReplicaName> {
        let all = self.board.replicas.iter().filter(|(_, real)| real.is_there());
        let names: Vec<_> = all.map(|(name, _)| name.clone()).collect();
        let at = usize::try_from(number % (names.len() as u64).max(1)).unwrap_or(0);
        names.get(at).cloned()
    }

    fn crash(&mut self, name: &ReplicaName, container: &str) {
        let at = self.board.moment(self.now);
        let Some(real) = self.board.replicas.get_mut(name) else { return };
        let Some(state) = real.seen.containers.get_mut(container) else { return };
        if matches!(state, ContainerState::Running { .. }) || state.stands_by() {
            *state = ContainerState::Exited { code: 1, oom: false, at, words: String::new() };
            let after = self.dice.span(1, 100);
            self.soon(after, Event::Pulse);
        }
    }

    fn sicken(&mut self, number: u64, long: Time) {
        let Some(name) = self.running(number).filter(|_| !self.calm) else { return };
        let now = self.now;
        self.board.replicas.entry(name.clone()).and_modify(|real| {
            real.sick_from = now;
            real.sick_until = now + long;
        });
        self.have_probed(&name);
    }

    fn have_probed(&mut self, name: &ReplicaName) {
        if let Some(target) = self.agent.probed.get(name) {
            let (after, epoch) = (self.dice.span(1, 3_000), target.epoch);
            self.soon(after, Event::Probes(name.clone(), epoch));
        }
    }

    /// The prober asks, and tells what it got.
    fn probe(&mut self, name: &ReplicaName, epoch: u64) {
        if self.agent.probed.get(name).is_none_or(|target| target.epoch != epoch) {
            return;
        }
        let Some(real) = self.board.replicas.get(name) else { return };
        let ready = real.is_ready(self.now);
        let condemned = real.lives() && real.condemned_at <= self.now;
        let next = real.changes_at(self.now);
        if ready {
            self.proved.insert(name.clone());
        }
        let health = Health {
            epoch,
            started: ready,
            ready,
            failure: (!ready).then(no_answer),
            graces: BTreeMap::new(),
            unhealthy: if condemned { vec!["main".to_owned()] } else { Vec::new() },
        };
        self.agent.health.insert(name.clone(), health);
        if let Some(next) = next.filter(|next| *next != NEVER) {
            let late = self.dice.span(0, 1_500);
            self.soon(next - self.now + late, Event::Probes(name.clone(), epoch));
        }
    }
}

fn no_answer() -> ProbeFailure {
    let text = "no answer".to_owned();
    let (kind, container) = (ProbeKind::Readiness, "main".to_owned());
    ProbeFailure { kind, container, text, refused: false, port: None }
}

fn word<R>(verdict: &Verdict<R>) -> String {
    match verdict {
        Verdict::Unchanged => "unchanged".to_owned(),
        Verdict::Changed(_) => "taken".to_owned(),
        Verdict::Refused(findings) => {
            let first = findings.first().map(|finding| finding.message.clone());
            format!("refused: {}", first.unwrap_or_default())
        }
    }
}
