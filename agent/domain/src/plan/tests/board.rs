//! A board with a will of its own, and dice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::allowances::Allowances;
use crate::intake::{self, Incoming, Verdict};
use crate::model::{AppName, Digest, EnvironmentName, Moment, ReplicaName, RevisionName, WallTime};
use crate::plan::{Action, Doing, Fleet, Memory, Plan, Settings, World, plan};
use crate::probe::{Health, HealthReport};
use crate::reason::Reason;
use crate::replica::{
    ContainerState, ObservedReplica, ReplicaOrder, ResolvedImage, Survey, Trouble,
};
use crate::rollout::{self, Step};
use crate::route::RouteTable;
use crate::state::{AppRecord, State};
use crate::status::{Phase, Source};
use crate::view::{self, Scene};
use crate::window::Zones;

/// The most replicas that a document of these tests asks for.
pub(super) const MOST_REPLICAS: u32 = 3;

/// A sequence of numbers that looks random and is the same for one seed (an xorshift).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[derive(Debug)]
pub(super) struct Board {
    pub(super) state: State,
    pub(super) observed: BTreeMap<ReplicaName, ObservedReplica>,
    pub(super) namespaces: BTreeSet<ReplicaName>,
    pub(super) settings: Settings,
    health: HealthReport,
    doing: BTreeMap<ReplicaName, Doing>,
    fetching: BTreeSet<RevisionName>,
    surveying: BTreeSet<AppName>,
    subnets: BTreeMap<EnvironmentName, Ipv4Net>,
    memory: Memory,
    now: Moment,
    pending: Vec<Action>,
    boots: u32,
    zones: Zones,
    documents: u64,
    last: Plan,
}

impl Board {
    pub(super) fn new() -> Self {
        let subnet = Ipv4Net::new_assert([10, 213, 0, 0].into(), 24);
        Self {
            state: State::default(),
            observed: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            settings: Settings {
                device: "pi-1".to_owned(),
                dns_suffix: "{environment}.{device}.internal".to_owned(),
                netns_dir: "/run/skerry/netns".into(),
                boot: "boot-0".to_owned(),
                host_allowed: false,
                allowances: Allowances::default(),
            },
            health: BTreeMap::new(),
            doing: BTreeMap::new(),
            fetching: BTreeSet::new(),
            surveying: BTreeSet::new(),
            subnets: BTreeMap::from([(EnvironmentName::default(), subnet)]),
            memory: Memory::new(0),
            now: Moment::default(),
            pending: Vec::new(),
            boots: 0,
            zones: Zones::default(),
            documents: 0,
            last: Plan::default(),
        }
    }

    /// Something happens that nobody planned.
    pub(super) fn disturb(&mut self, dice: &mut Dice) {
        match dice.roll(12) {
            0..=1 => self.send(dice),
            2 => self.crash(dice),
            3 if dice.roll(4) == 0 => self.lose_power(dice),
            4 if dice.roll(3) == 0 => self.restart_agent(dice),
            5 => self.sicken(dice),
            _ => (),
        }
        self.now = self.now.after(Duration::from_millis(dice.roll(4000)));
    }

    fn send(&mut self, dice: &mut Dice) {
        let app = if dice.roll(2) == 0 { "one" } else { "two" };
        self.documents += 1;
        let absent = dice.roll(6) == 0;
        let replicas = 1 + dice.roll(u64::from(MOST_REPLICAS));
        let text = format!(
            "name: {app}\nproperties:\n  configuration: {{ingress: {{external: true, targetPort: 80}}}}\n  template:\n    \
             containers: [{{name: main, image: 'a/b:{}'}}]\n    scale: {{minReplicas: {replicas}}}\nskerry: {{absent: {absent}}}\n# {}\n",
            dice.roll(5),
            self.documents,
        );
        let parsed = intake::take_apart(text.as_bytes(), Some(app)).expect("a good document");
        let crate::document::Document::App(document) = parsed.document else { panic!("an app") };
        let incoming = Incoming {
            source: Source::Mqtt,
            payload: text.as_bytes(),
            force: false,
            allowances: &self.settings.allowances,
        };
        let known = self.state.apps.get(&parsed.name);
        let verdict = intake::app(known, &parsed.name, *document, Vec::new(), incoming);
        if let Verdict::Changed(record) = verdict {
            self.state.apps.insert(parsed.name, *record);
        }
    }

    fn crash(&mut self, dice: &mut Dice) {
        for replica in self.observed.values_mut().filter(|_| dice.roll(2) == 0) {
            let state =
                ContainerState::Exited { code: 1, oom: false, at: self.now, words: String::new() };
            replica.containers.insert("main".to_owned(), state);
        }
    }

    fn sicken(&mut self, dice: &mut Dice) {
        for health in self.health.values_mut().filter(|_| dice.roll(2) == 0) {
            health.ready = false;
        }
    }

    fn lose_power(&mut self, dice: &mut Dice) {
        self.boots += 1;
        self.settings.boot = format!("boot-{}", self.boots);
        self.namespaces.clear();
        for replica in self.observed.values_mut() {
            replica.containers.insert("main".to_owned(), ContainerState::Created);
        }
        self.restart_agent(dice);
    }

    /// The agent forgets what it was doing; some of it was done.
    fn restart_agent(&mut self, dice: &mut Dice) {
        let pending = std::mem::take(&mut self.pending);
        for action in pending {
            match action {
                Action::Start(order) if dice.roll(2) == 0 => self.half_make(&order),
                Action::Fetch(_)
                | Action::Start(_)
                | Action::Restart(..)
                | Action::Stop(..)
                | Action::Survey(..) => (),
            }
        }
        self.doing.clear();
        self.fetching.clear();
        self.surveying.clear();
        self.health.clear();
        self.memory = Memory::new(u64::from(self.boots) << 32 | dice.roll(1 << 31));
    }

    fn half_make(&mut self, order: &ReplicaOrder) {
        self.namespaces.insert(order.replica.clone());
        self.observed.insert(order.replica.clone(), replica(order, ContainerState::Created));
    }

    /// Nothing goes wrong any more.
    pub(super) fn calm(&mut self) {
        self.now = self.now.after(Duration::from_secs(700));
    }

    /// The loop's round, on this board.
    pub(super) fn round(&mut self, dice: &mut Dice, trouble: bool) {
        self.now = self.now.after(Duration::from_secs(2));
        self.examine(dice, trouble);
        let mut plan = self.plan();
        while !plan.steps.is_empty() {
            for step in std::mem::take(&mut plan.steps) {
                self.step(step);
            }
            plan = self.plan();
        }
        for action in plan.actions.drain(..) {
            match &action {
                Action::Fetch(order) => drop(self.fetching.insert(order.revision.clone())),
                Action::Start(order) => {
                    drop(
                        self.doing
                            .insert(order.replica.clone(), Doing::Starting(Arc::clone(order))),
                    );
                }
                Action::Restart(order, ..) => {
                    // The record of a container is made anew, and a look may fall between.
                    if dice.roll(2) == 0 {
                        self.observed.remove(&order.replica);
                    }
                    drop(
                        self.doing
                            .insert(order.replica.clone(), Doing::Restarting(Arc::clone(order))),
                    );
                }
                Action::Stop(replica, _) => {
                    // A start that is given up ends there.
                    self.pending.retain(
                        |one| !matches!(one, Action::Start(order) if order.replica == *replica),
                    );
                    drop(self.doing.insert(replica.clone(), Doing::Stopping));
                }
                Action::Survey(app, _) => drop(self.surveying.insert(app.clone())),
            }
            self.pending.push(action);
        }
        self.last = plan;
        let pending = std::mem::take(&mut self.pending);
        for action in pending {
            if trouble && dice.roll(3) == 0 {
                self.pending.push(action); // it takes its time
            } else {
                self.finish(action, trouble && dice.roll(4) == 0);
            }
        }
    }

    fn plan(&mut self) -> Plan {
        let (state, memory) = (&self.state, &mut self.memory);
        let world = World {
            now: self.now,
            wall: WallTime(self.now.0),
            zones: &self.zones,
            observed: &self.observed,
            namespaces: &self.namespaces,
            health: &self.health,
            environments: &self.state.environments,
            doing: &self.doing,
            fetching: &self.fetching,
            surveying: &self.surveying,
            subnets: &self.subnets,
            runtime: None,
            network: None,
            settings: &self.settings,
        };
        plan(state, world, memory)
    }

    /// The prober looks at what runs.
    fn examine(&mut self, dice: &mut Dice, trouble: bool) {
        let probes = {
            let scene = self.scene_parts();
            view::probes(&self.state, &scene)
        };
        self.health.retain(|name, _| probes.contains_key(name));
        for (name, target) in probes {
            if trouble && dice.roll(3) == 0 {
                continue;
            }
            let well =
                Health { epoch: target.epoch, started: true, ready: true, ..Health::default() };
            self.health.insert(name, well);
        }
    }

    fn scene_parts(&self) -> Fleet<'_> {
        Fleet::of(&self.state, self.world(), &self.memory)
    }

    fn world(&self) -> World<'_> {
        World {
            now: self.now,
            wall: WallTime(self.now.0),
            zones: &self.zones,
            observed: &self.observed,
            namespaces: &self.namespaces,
            health: &self.health,
            environments: &self.state.environments,
            doing: &self.doing,
            fetching: &self.fetching,
            surveying: &self.surveying,
            subnets: &self.subnets,
            runtime: None,
            network: None,
            settings: &self.settings,
        }
    }

    pub(super) fn routes(&self) -> RouteTable {
        let fleet = self.scene_parts();
        let names = BTreeMap::new();
        let scene = Scene {
            state: &self.state,
            fleet: &fleet,
            world: self.world(),
            memory: &self.memory,
            lan_names: &names,
        };
        view::routes(scene)
    }

    fn step(&mut self, step: Step) {
        self.state.apps.insert(step.record.name.clone(), *step.record);
    }

    fn finish(&mut self, action: Action, fails: bool) {
        let trouble =
            || Trouble { reason: Reason::ContainerStartFailed, details: "dice".to_owned() };
        match action {
            Action::Fetch(order) if fails => {
                self.fetching.remove(&order.revision);
                self.memory.fetch_failed(order.revision, trouble(), self.now);
            }
            Action::Fetch(order) => {
                self.fetching.remove(&order.revision);
                self.memory.fetched(&order.revision);
                let images: BTreeMap<_, _> = order.images.iter().map(image).collect();
                for app in self.state.apps.values_mut() {
                    let (boot, now) = (&self.settings.boot, self.now);
                    rollout::staged(app, &order.revision, images.clone(), boot, now);
                }
            }
            Action::Start(order) => {
                self.doing.remove(&order.replica);
                if fails {
                    self.half_make(&order);
                    self.memory.start_failed(order.revision.clone(), trouble(), self.now);
                } else {
                    self.namespaces.insert(order.replica.clone());
                    let state = ContainerState::Running { since: self.now };
                    self.observed.insert(order.replica.clone(), replica(&order, state));
                    self.memory.started(&order.revision);
                }
            }
            Action::Restart(order, container, _) => {
                self.doing.remove(&order.replica);
                self.memory.restarted(&order.replica, &container, fails.then(trouble), self.now);
                if !fails {
                    let made = || replica(&order, ContainerState::Created);
                    let known = self.observed.entry(order.replica.clone()).or_insert_with(made);
                    known.containers.insert(container, ContainerState::Running { since: self.now });
                }
            }
            Action::Survey(app, _) => {
                self.surveying.remove(&app);
                let survey = if fails { Err(trouble()) } else { Ok(Survey::default()) };
                self.memory.surveyed(app, survey, self.now);
            }
            // The loop, too, holds on to a stop that failed until it is time to try again.
            Action::Stop(..) if fails => self.pending.push(action),
            Action::Stop(replica, _) => {
                self.doing.remove(&replica);
                self.observed.remove(&replica);
                self.namespaces.remove(&replica);
            }
        }
    }

    pub(super) fn doing_of(&self, replica: &ReplicaName) -> &'static str {
        match self.doing.get(replica) {
            None => "rests",
            Some(Doing::Starting(_)) => "starts",
            Some(Doing::Restarting(_)) => "restarts",
            Some(Doing::Stopping) => "stops",
        }
    }

    pub(super) fn stops(&self, replica: &ReplicaName) -> bool {
        matches!(self.doing.get(replica), Some(Doing::Stopping))
    }

    pub(super) fn is_ready(&self, replica: &ReplicaName) -> bool {
        let runs = self.observed.get(replica).is_some_and(|observed| {
            observed
                .containers
                .values()
                .all(|state| matches!(state, ContainerState::Running { .. }))
        });
        runs && self.health.get(replica).is_some_and(|health| health.ready)
    }

    /// Nothing is done and nothing is left to do.
    pub(super) fn is_settled(&self) -> bool {
        let committed = |record: &AppRecord| {
            let newest = record.revisions.iter().rev().find(|one| one.active);
            let ready = newest.map_or(0, |newest| self.scene_parts().ready(&newest.name));
            record.removed
                || record.latest().is_some_and(|latest| {
                    matches!(latest.phase, Phase::Committed | Phase::RolledBack)
                }) && ready == record.wanted_replicas().count()
        };
        self.pending.is_empty()
            && self.last.actions.is_empty()
            && self.doing.is_empty()
            && self.state.apps.values().all(committed)
            && self.observed.len() == self.expected()
    }

    fn expected(&self) -> usize {
        self.state.apps.values().map(|record| record.wanted_replicas().count() as usize).sum()
    }
}

fn image(reference: &String) -> (String, ResolvedImage) {
    let digest = Digest::of(reference.as_bytes());
    let (name, warning) = (reference.clone(), None);
    (reference.clone(), ResolvedImage { reference: reference.clone(), name, digest, warning })
}

fn replica(order: &ReplicaOrder, state: ContainerState) -> ObservedReplica {
    let app: &AppName = &order.app;
    ObservedReplica {
        app: app.clone(),
        revision: order.revision.clone(),
        environment: order.environment.clone(),
        boot: order.boot.clone(),
        template_digest: order.template_digest,
        address: order.place.address,
        containers: BTreeMap::from([("main".to_owned(), state)]),
    }
}
