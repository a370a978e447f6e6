//! The one that stands by for a revision on trial gives its replica up under memory pressure, once, and no sooner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::allowances::Allowances;
use crate::document::Document;
use crate::intake::{self, Incoming, Verdict};
use crate::model::{Digest, Moment, ReplicaName, WallTime};
use crate::plan::{Action, Memory, Plan, Settings, World, plan};
use crate::probe::Health;
use crate::reason::Reason;
use crate::replica::{ContainerState, ObservedReplica, ResolvedImage};
use crate::rollout::{self, Told};
use crate::state::{AppRecord, Entered, State};
use crate::status::{Phase, Source};
use crate::window::Zones;

const BOOT: &str = "boot-1";

/// Seconds after the trial began; it takes 60.
const ON_TRIAL: u64 = 10;

fn document(tag: &str, strategy: &str) -> Vec<u8> {
    format!(
        "name: meter\nproperties:\n  template:\n    containers: [{{name: main, image: 'a/main:{tag}'}}]\n    \
         scale: {{minReplicas: 2}}\nskerry: {{probationSeconds: 60, updateStrategy: {strategy}}}\n"
    )
    .into_bytes()
}

/// The app as documents make it, one after the other.
fn app(documents: &[Vec<u8>]) -> AppRecord {
    let mut record: Option<AppRecord> = None;
    let allowances = Allowances::default();
    for payload in documents {
        let parsed = intake::take_apart(payload, None).unwrap();
        let Document::App(document) = parsed.document else { panic!("an app") };
        let source = Source::Mqtt;
        let incoming = Incoming { source, payload, force: false, allowances: &allowances };
        let verdict =
            intake::app(record.as_ref(), &parsed.name, *document, parsed.warnings, incoming);
        let Verdict::Changed(next) = verdict else { panic!("{verdict:?}") };
        record = Some(*next);
    }
    let mut record = record.unwrap();
    for revision in &mut record.revisions {
        let reference = revision.template.containers[0].image.clone();
        let (name, digest) = (reference.clone(), Digest::of(reference.as_bytes()));
        let image = ResolvedImage { reference: reference.clone(), name, digest, warning: None };
        revision.images = [(reference, image)].into();
        revision.was_ready = true;
        revision.phase = Phase::Committed;
        revision.entered = Some(Entered { boot: BOOT.to_owned(), at: Moment::default() });
    }
    record
}

/// A board where the second revision is on trial, and the first stands by with one replica.
struct Board {
    state: State,
    memory: Memory,
    /// Ready replicas of each revision.
    ready: [u16; 2],
    low: bool,
    at: u64,
}

impl Board {
    fn new() -> Self {
        Self::with("surge")
    }

    fn with(strategy: &str) -> Self {
        let mut record = app(&[document("1", "surge"), document("2", strategy)]);
        record.revisions[1].phase = Phase::Probation;
        let apps = [(record.name.clone(), record)].into();
        let state = State { apps, ..State::default() };
        Self { state, memory: Memory::new(1), ready: [1, 2], low: false, at: ON_TRIAL }
    }

    fn record(&mut self) -> &mut AppRecord {
        self.state.apps.values_mut().next().unwrap()
    }

    /// How many replicas each revision may have.
    fn allowed(&self) -> Vec<u32> {
        let record = self.state.apps.values().next().unwrap();
        record.revisions.iter().map(|revision| rollout::allowed(record, revision)).collect()
    }

    fn seen(&self) -> BTreeMap<ReplicaName, ObservedReplica> {
        let record = self.state.apps.values().next().unwrap();
        let since = Moment(Duration::from_secs(1));
        let replicas = record.revisions.iter().zip(self.ready).zip(0..);
        let replicas = replicas.flat_map(|((revision, count), number)| {
            (0..count).map(move |n| {
                let seen = ObservedReplica {
                    app: record.name.clone(),
                    revision: revision.name.clone(),
                    environment: record.document().unwrap().environment.clone(),
                    boot: BOOT.to_owned(),
                    template_digest: revision.mark(),
                    grace: None,
                    address: format!("10.213.{number}.{}", 2 + n).parse().unwrap(),
                    containers: [("main".to_owned(), ContainerState::Running { since })].into(),
                };
                (ReplicaName::new(&revision.name, n.into()), seen)
            })
        });
        replicas.collect()
    }

    fn plan(&mut self) -> Plan {
        let observed = self.seen();
        let well = Health { started: true, ready: true, ..Health::default() };
        let record = self.state.apps.values().next().unwrap();
        let environment = record.document().unwrap().environment.clone();
        let settings = Settings {
            device: "pi-1".to_owned(),
            dns_suffix: "internal".to_owned(),
            netns_dir: "/run/skerry/netns".into(),
            boot: BOOT.to_owned(),
            host_allowed: false,
            own_ports: BTreeSet::from([53, 80, 443]),
            allowances: Allowances::default(),
        };
        let world = World {
            now: Moment(Duration::from_secs(self.at)),
            wall: WallTime(Duration::from_hours(500_000)),
            zones: &Zones::default(),
            namespaces: &observed.keys().cloned().collect(),
            health: &observed.keys().map(|name| (name.clone(), well.clone())).collect(),
            observed: &observed,
            demand: &BTreeMap::new(),
            readings: &BTreeMap::new(),
            environments: &BTreeMap::new(),
            doing: &BTreeMap::new(),
            fetching: &BTreeSet::new(),
            surveying: &BTreeSet::new(),
            subnets: &[(environment, "10.213.0.0/16".parse().unwrap())].into(),
            runtime: None,
            network: None,
            memory_low: self.low,
            settings: &settings,
        };
        plan(&self.state, world, &mut self.memory)
    }

    /// Takes steps until there are none: what was told, and what is to be done then.
    fn settle(&mut self) -> (Vec<Told>, Vec<Action>) {
        let mut told = Vec::new();
        for _ in 0..10 {
            let plan = self.plan();
            if plan.steps.is_empty() {
                return (told, plan.actions);
            }
            for step in plan.steps {
                told.extend(step.told);
                self.state.apps.insert(step.record.name.clone(), *step.record);
            }
        }
        panic!("steps never end: {told:?}")
    }

    fn reasons(&mut self) -> Vec<Reason> {
        self.settle().0.into_iter().map(|told| told.reason).collect()
    }
}

#[track_caller]
fn check(change: impl FnOnce(&mut Board), reasons: &[Reason], allowed: &[u32]) {
    let mut board = Board::new();
    board.low = true;
    change(&mut board);
    assert_eq!(board.reasons(), reasons);
    assert_eq!(board.allowed(), allowed);
}

#[test]
fn it_gives_up_under_pressure_and_only_for_one_that_serves() {
    check(|board| board.low = false, &[], &[1, 2]);
    check(|_| (), &[Reason::StandbyGivenUp], &[0, 2]);
    check(|board| board.ready = [1, 1], &[Reason::StandbyGivenUp], &[0, 2]);
    check(|board| board.ready = [1, 0], &[], &[1, 2]);
    // Before the trial, and after it.
    let starts = |board: &mut Board| {
        board.record().revisions[1].phase = Phase::Starting;
        board.record().revisions[1].was_ready = false;
        board.ready = [2, 1];
    };
    check(starts, &[], &[2, 2]);
    check(|board| board.at = 61, &[Reason::RevisionCommitted, Reason::RevisionRetired], &[0, 2]);
    // Where nobody stands by there is nothing to give up.
    check(|board| *board = Board { low: true, ..Board::with("recreate") }, &[], &[0, 2]);
    check(|board| board.record().stopped = true, &[], &[0, 0]);
}

#[test]
fn its_replica_is_stopped_and_that_is_told_once() {
    let mut board = Board::new();
    board.low = true;
    let (told, actions) = board.settle();
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((told.reason, told.revision.as_str()), (Reason::StandbyGivenUp, "meter--0000002"));
    assert_eq!(told.message, "meter--0000001 stood by");
    let [Action::Stop(name, _)] = actions.as_slice() else { panic!("{actions:?}") };
    assert!(name.as_str().starts_with("meter--0000001"), "{name}");
    board.ready = [0, 2];
    assert_eq!(board.settle(), (vec![], vec![]), "it is not told again, and nothing starts");
}

#[test]
fn it_comes_back_with_the_failure_of_the_trial_and_not_with_memory() {
    let mut board = Board::new();
    board.low = true;
    board.settle();
    board.ready = [0, 2];
    // The pressure goes, and comes, and the agent starts anew: within the trial nothing follows from it.
    for low in [false, true, false] {
        board.low = low;
        board.memory = Memory::new(2);
        assert_eq!(board.settle(), (vec![], vec![]));
    }
    board.ready = [0, 0];
    let (told, actions) = board.settle();
    let reasons: Vec<Reason> = told.iter().map(|told| told.reason).collect();
    assert_eq!(reasons, [Reason::RevisionRolledBack]);
    let starts = actions.iter().filter(
        |action| matches!(action, Action::Start(order) if order.revision.as_str() == "meter--0000001"),
    );
    assert_eq!((starts.count(), actions.len()), (2, 2), "{actions:?}");
}

#[test]
fn the_next_trial_has_a_standby_again() {
    let mut board = Board::new();
    board.low = true;
    board.settle();
    board.low = false;
    // It is tried once more: by force, or by a person.
    let trial = &mut board.record().revisions[1];
    trial.begin();
    (trial.refetch, trial.phase) = (false, Phase::Probation);
    trial.was_ready = true;
    assert_eq!(board.allowed(), [1, 2]);
}

#[test]
fn a_newer_revision_waits_for_nobody_who_gave_up() {
    let mut board = Board::new();
    board.low = true;
    board.settle();
    (board.ready, board.low) = ([0, 2], false);
    let third = app(&[document("1", "surge"), document("2", "surge"), document("3", "surge")]);
    let mut third = third.revisions[2].clone();
    (third.phase, third.was_ready) = (Phase::Staged, false);
    board.record().revisions.push(third);
    board.memory = Memory::new(3);
    let (told, actions) = board.settle();
    assert_eq!(told, [], "the board is measured first");
    assert!(matches!(actions.as_slice(), [Action::Survey(..)]), "{actions:?}");
    assert_eq!(board.allowed(), [0, 2, 0]);
}
