//! An app whose replicas become fewer: whoever asks for it just then, and those that stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::allowances::Allowances;
use crate::document::Document;
use crate::intake::{self, Incoming, Verdict};
use crate::model::{Digest, Moment, ReplicaName, WallTime};
use crate::plan::{Action, Doing, Fleet, Memory, Plan, Settings, Tier, World, plan, scale};
use crate::probe::{Health, ProbePlan};
use crate::replica::{ContainerState, ObservedReplica, ResolvedImage};
use crate::scale::{Asked, Demand};
use crate::state::{AppRecord, State};
use crate::status::{Phase, Source};
use crate::verbs;
use crate::view;
use crate::window::Zones;

const BOOT: &str = "boot-1";

const DOCUMENT: &[u8] = b"
name: meter
properties:
  configuration: {ingress: {targetPort: 80}}
  template:
    containers: [{name: main, image: a/main}]
    scale: {minReplicas: 0, cooldownPeriod: 10}
skerry: {standby: frozen}
";

fn app() -> AppRecord {
    let parsed = intake::take_apart(DOCUMENT, None).unwrap();
    let Document::App(document) = parsed.document else { panic!("an app") };
    let allowances = Allowances::default();
    let incoming =
        Incoming { source: Source::Mqtt, payload: DOCUMENT, force: false, allowances: &allowances };
    let verdict = intake::app(None, &parsed.name, *document, parsed.warnings, incoming);
    let Verdict::Changed(mut record) = verdict else { panic!("{verdict:?}") };
    let revision = &mut record.revisions[0];
    (revision.phase, revision.active, revision.was_ready) = (Phase::Committed, true, true);
    let image = ResolvedImage {
        reference: "a/main".to_owned(),
        name: "a/main".to_owned(),
        digest: Digest::of(b"main"),
        warning: None,
    };
    revision.images.insert(image.reference.clone(), image);
    *record
}

/// A board with replicas of the app.
struct Board {
    state: State,
    memory: Memory,
    doing: BTreeMap<ReplicaName, Doing>,
    asked: Asked,
    /// The only container of each.
    mains: Vec<ContainerState>,
    ready: bool,
    at: u64,
}

impl Board {
    /// The app was asked for until now.
    fn new() -> Self {
        let record = app();
        let mut board = Self {
            state: State { apps: [(record.name.clone(), record)].into(), ..State::default() },
            memory: Memory::new(1),
            doing: BTreeMap::new(),
            asked: Asked { begun: 1, ..Asked::default() },
            mains: vec![ContainerState::Running { since: Moment(Duration::from_secs(10)) }],
            ready: true,
            at: 1000,
        };
        assert_eq!(board.plan().actions, []);
        board.asked = Asked::default();
        assert_eq!(board.plan().actions, []);
        board
    }

    fn replica(&self) -> ReplicaName {
        let record = self.state.apps.values().next().unwrap();
        ReplicaName::new(&record.revisions[0].name, 0)
    }

    fn plan(&mut self) -> Plan {
        self.look(|state, world, memory| {
            scale(&mut state.apps, world, memory);
            plan(state, world, memory)
        })
    }

    fn probes(&mut self) -> ProbePlan {
        self.look(|state, world, memory| view::probes(state, &Fleet::of(state, world, memory)))
    }

    fn look<T>(&mut self, look: impl FnOnce(&mut State, World<'_>, &mut Memory) -> T) -> T {
        let record = self.state.apps.values().next().unwrap();
        let revision = &record.revisions[0];
        let environment = record.document().unwrap().environment.clone();
        let seen = |main: &ContainerState| ObservedReplica {
            app: record.name.clone(),
            revision: revision.name.clone(),
            environment: environment.clone(),
            boot: BOOT.to_owned(),
            template_digest: revision.mark(),
            grace: None,
            address: "10.213.0.5".parse().unwrap(),
            containers: [("main".to_owned(), main.clone())].into(),
        };
        let named = |(n, main)| (ReplicaName::new(&revision.name, n), seen(main));
        let observed: BTreeMap<_, _> = (0..).zip(&self.mains).map(named).collect();
        let demand: Demand = [(revision.name.clone(), self.asked)].into();
        let settings = Settings {
            device: "pi-1".to_owned(),
            dns_suffix: "internal".to_owned(),
            netns_dir: "/run/skerry/netns".into(),
            boot: BOOT.to_owned(),
            host_allowed: false,
            own_ports: BTreeSet::from([53, 80, 443]),
            allowances: Allowances::default(),
        };
        let health = Health { started: true, ready: self.ready, ..Health::default() };
        let world = World {
            now: Moment(Duration::from_secs(self.at)),
            wall: WallTime(Duration::from_hours(500_000)),
            zones: &Zones::default(),
            namespaces: &observed.keys().cloned().collect(),
            health: &observed.keys().map(|name| (name.clone(), health.clone())).collect(),
            observed: &observed,
            demand: &demand,
            readings: &BTreeMap::new(),
            environments: &BTreeMap::new(),
            doing: &self.doing,
            fetching: &BTreeSet::new(),
            surveying: &BTreeSet::new(),
            subnets: &[(environment, "10.213.0.0/24".parse().unwrap())].into(),
            runtime: None,
            network: None,
            memory_low: false,
            settings: &settings,
        };
        look(&mut self.state, world, &mut self.memory)
    }

    /// The cool-down is over, and the replica is being frozen.
    fn freezing() -> Self {
        let mut board = Self::new();
        board.at += 10;
        let actions = board.plan().actions;
        assert!(matches!(actions.as_slice(), [Action::Freeze(..)]), "{actions:?}");
        board.doing.insert(board.replica(), Doing::Freezing);
        board
    }
}

#[test]
fn whoever_asks_while_the_last_replica_is_being_frozen_gets_that_one() {
    for open in [0, 3] {
        let mut board = Board::freezing();
        board.asked = Asked { waiting: 1, open, begun: 0 };
        let actions = board.plan().actions;
        let [Action::Wake(order, Tier::Frozen)] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(order.replica, board.replica());
        board.doing.insert(board.replica(), Doing::Starting(Arc::clone(order)));
        assert_eq!(board.plan().actions, []);
        // It may be paused for a moment still, and would answer no probe.
        assert_eq!(board.probes(), ProbePlan::default());
        board.doing.clear();
        assert_eq!(board.probes().len(), 1);
    }
}

#[test]
fn what_is_restarted_at_zero_is_fetched_and_stands_by_before_anybody_asks() {
    let mut board = Board::freezing();
    board.doing.clear();
    board.mains = vec![ContainerState::Frozen { since: Moment(Duration::from_secs(1010)) }];
    assert_eq!(board.plan().actions, []);
    let record = board.state.apps.values_mut().next().unwrap();
    let name = record.revisions[0].name.clone();
    verbs::restart(record, &name).unwrap();
    let actions = board.plan().actions;
    let fetches =
        |action: &Action| matches!(action, Action::Fetch(order) if order.revision == name);
    assert!(actions.iter().any(fetches), "{actions:?}");
}

#[test]
fn what_stays_is_started_again_in_time_while_others_are_stopped() {
    let mut board = Board::new();
    let at = Moment(Duration::from_secs(1000));
    let ended = ContainerState::Exited { code: 1, oom: false, at, words: String::new() };
    board.mains = vec![ended; 2];
    board.state.apps.values_mut().next().unwrap().scale.replicas = Some(1);
    let planned = board.plan();
    assert!(matches!(planned.actions.as_slice(), [Action::Stop(..)]), "{planned:?}");
    assert_eq!(planned.wake_at, Some(at.after(Duration::from_secs(1))), "its back-off ends");
}

#[test]
fn one_that_could_not_be_frozen_serves_on() {
    let mut board = Board::freezing();
    board.asked.waiting = 1;
    board.plan();
    board.doing.clear();
    assert_eq!(board.plan().actions, []);
}

#[test]
fn one_that_is_found_on_its_way_is_waited_for_by_an_agent_that_begins_anew() {
    let mut board = Board::new();
    let name = board.state.apps.values().next().unwrap().revisions[0].name.clone();
    assert!(!board.memory.wakes(&name));
    (board.memory, board.ready) = (Memory::new(2), false);
    assert_eq!(board.plan().actions, []);
    assert!(board.memory.wakes(&name), "who asked the agent before this one is not turned away");
    board.ready = true;
    assert_eq!(board.plan().actions, []);
    assert!(!board.memory.wakes(&name));
}
