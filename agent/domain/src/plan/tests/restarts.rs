//! Restarts of containers: they get what their replica may still have, and none is ended in vain.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::allowances::Allowances;
use crate::document::Document;
use crate::intake::{self, Incoming, Verdict};
use crate::model::{Digest, Moment, ReplicaName, WallTime};
use crate::plan::{Action, Doing, Fleet, Memory, Plan, Settings, Tier, World, plan};
use crate::probe::Health;
use crate::reason::Reason;
use crate::replica::{ContainerState, ObservedReplica, ResolvedImage};
use crate::state::{AppRecord, EnvironmentRecord, State};
use crate::status::{Phase, Source};
use crate::window::Zones;

const DOCUMENT: &[u8] = b"
name: meter
properties:
  configuration:
    secrets: [{name: token, value: hunter2}]
  template:
    containers:
      - name: main
        image: a/main
        env: [{name: TOKEN, secretRef: token}]
        volumeMounts: [{volumeName: data, mountPath: /data}]
    volumes: [{name: data, storageType: NfsAzureFile, storageName: data}]
skerry:
  devices: [{hostPath: /dev/ttyUSB0}]
  capabilities: {add: [SYS_TIME]}
";
const STORAGES: &[u8] = b"storages: [{name: data, path: /srv/data}]\n";
const BOOT: &str = "boot-1";

fn allowances() -> Allowances {
    Allowances {
        devices: vec!["/dev/ttyUSB*".to_owned()],
        capabilities: vec!["SYS_TIME".to_owned()],
        storages: vec!["/srv".to_owned()],
    }
}

fn incoming<'a>(payload: &'a [u8], allowances: &'a Allowances) -> Incoming<'a> {
    Incoming { source: Source::Mqtt, payload, force: false, allowances }
}

fn app() -> AppRecord {
    let parsed = intake::take_apart(DOCUMENT, None).unwrap();
    let Document::App(document) = parsed.document else { panic!("an app") };
    let allowed = allowances();
    let incoming = incoming(DOCUMENT, &allowed);
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

fn environment() -> EnvironmentRecord {
    let parsed = intake::take_environment_apart(STORAGES, "default").unwrap();
    let allowed = allowances();
    let incoming = incoming(STORAGES, &allowed);
    let verdict =
        intake::environment(None, &parsed.name, parsed.document, parsed.warnings, incoming);
    let Verdict::Changed(record) = verdict else { panic!("{verdict:?}") };
    *record
}

/// A board with one replica, whose only container ended or is condemned.
struct Board {
    state: State,
    settings: Settings,
    memory: Memory,
    /// What is being done to the replica.
    doing: Option<Doing>,
    /// What it was made of, where that is not its revision as it is now.
    mark: Option<Digest>,
}

impl Board {
    fn new() -> Self {
        let (app, environment) = (app(), environment());
        let state = State {
            apps: [(app.name.clone(), app)].into(),
            environments: [(environment.name.clone(), environment)].into(),
            ..State::default()
        };
        let settings = Settings {
            device: "pi-1".to_owned(),
            dns_suffix: "internal".to_owned(),
            netns_dir: "/run/skerry/netns".into(),
            boot: BOOT.to_owned(),
            host_allowed: false,
            own_ports: BTreeSet::from([53, 80, 443]),
            allowances: allowances(),
        };
        Self { state, settings, memory: Memory::new(1), doing: None, mark: None }
    }

    fn record(&mut self) -> &mut AppRecord {
        self.state.apps.values_mut().next().unwrap()
    }

    fn plan(&mut self, main: &ContainerState) -> Plan {
        self.with(main, plan)
    }

    /// What follows where the replica's only container is in this state.
    fn with<T>(
        &mut self,
        main: &ContainerState,
        follow: impl FnOnce(&State, World<'_>, &mut Memory) -> T,
    ) -> T {
        let record = self.state.apps.values().next().unwrap();
        let revision = &record.revisions[0];
        let name = ReplicaName::new(&revision.name, 7);
        let environment = record.document().unwrap().environment.clone();
        let seen = ObservedReplica {
            app: record.name.clone(),
            revision: revision.name.clone(),
            environment: environment.clone(),
            boot: BOOT.to_owned(),
            template_digest: self.mark.unwrap_or(revision.mark()),
            grace: None,
            address: "10.213.0.5".parse().unwrap(),
            containers: [("main".to_owned(), main.clone())].into(),
        };
        let health = Health { unhealthy: vec!["main".to_owned()], ..Health::default() };
        let world = World {
            now: Moment(Duration::from_secs(1000)),
            wall: WallTime(Duration::from_hours(500_000)),
            zones: &Zones::default(),
            observed: &[(name.clone(), seen)].into(),
            namespaces: &[name.clone()].into(),
            doing: &self.doing.iter().map(|doing| (name.clone(), doing.clone())).collect(),
            health: &[(name, health)].into(),
            demand: &BTreeMap::new(),
            readings: &BTreeMap::new(),
            environments: &self.state.environments,
            fetching: &BTreeSet::new(),
            surveying: &BTreeSet::new(),
            subnets: &[(environment, "10.213.0.0/24".parse().unwrap())].into(),
            runtime: None,
            network: None,
            memory_low: false,
            settings: &self.settings,
        };
        follow(&self.state, world, &mut self.memory)
    }

    fn told(&self) -> Option<Reason> {
        let revision = &self.state.apps.values().next().unwrap().revisions[0];
        self.memory.trouble(&revision.name).map(|trouble| trouble.reason)
    }
}

fn exited() -> ContainerState {
    let at = Moment(Duration::from_secs(10));
    ContainerState::Exited { code: 1, oom: false, at, words: String::new() }
}

fn condemned() -> ContainerState {
    ContainerState::Running { since: Moment(Duration::from_secs(10)) }
}

#[test]
fn a_container_that_ended_or_is_condemned_is_started_afresh() {
    for main in [exited(), condemned()] {
        let mut board = Board::new();
        let planned = board.plan(&main);
        assert!(matches!(planned.actions.as_slice(), [Action::Restart(..)]), "{planned:?}");
        assert_eq!(board.told(), None);
    }
}

#[test]
fn what_stands_by_counts_as_no_replica_and_is_woken_and_what_was_cut_short_goes() {
    let frozen = ContainerState::Frozen { since: Moment(Duration::from_secs(10)) };
    for (main, tier) in [
        (ContainerState::Armed, Some(Tier::Created)),
        (frozen, Some(Tier::Frozen)),
        (ContainerState::Created, None),
    ] {
        let mut board = Board::new();
        board.with(&main, |state, world, memory| {
            let fleet = Fleet::of(state, world, memory);
            let revision = &state.apps.values().next().unwrap().revisions[0];
            let spares: Vec<Tier> =
                fleet.spares(&revision.name).iter().map(|spare| spare.tier).collect();
            assert_eq!(spares, tier.into_iter().collect::<Vec<_>>(), "{main:?}");
            let replicas = fleet.replicas(&revision.name);
            assert_eq!(replicas.is_empty(), tier.is_some(), "{main:?}");
            assert!(replicas.iter().all(|one| one.is_half_made(revision)), "{main:?}");
        });
        // Even where a probe condemned it before it was put to sleep. What an earlier run of the agent made ahead is made
        // anew: a secret may have changed since.
        let planned = board.plan(&main);
        let as_asked = match (planned.actions.as_slice(), tier) {
            ([Action::Wake(_, woken)], Some(Tier::Frozen)) => *woken == Tier::Frozen,
            ([Action::Stop(..), ..], None | Some(Tier::Created)) => true,
            _ => false,
        };
        assert!(as_asked, "{main:?}: {planned:?}");
    }
}

#[test]
fn one_that_is_being_paused_is_called_back_rather_than_another_started() {
    let runs = ContainerState::Running { since: Moment(Duration::from_secs(10)) };
    let mut board = Board::new();
    board.doing = Some(Doing::Freezing);
    let planned = board.plan(&runs);
    let [Action::Wake(order, Tier::Frozen)] = planned.actions.as_slice() else {
        panic!("{planned:?}")
    };
    let revision = board.record().revisions[0].name.clone();
    assert_eq!(order.replica, ReplicaName::new(&revision, 7));
    // Once it is on its way nothing more is called for.
    board.doing = Some(Doing::Starting(std::sync::Arc::clone(order)));
    assert_eq!(board.plan(&runs).actions, []);
    // Nobody wants it back, or one of another make is wanted.
    board.doing = Some(Doing::Freezing);
    board.record().stopped = true;
    assert_eq!(board.plan(&runs).actions, []);
    board.record().stopped = false;
    board.mark = Some(board.record().revisions[0].mark());
    board.record().revisions[0].restarts += 1;
    let planned = board.plan(&runs);
    assert!(!planned.actions.iter().any(|one| matches!(one, Action::Wake(..))), "{planned:?}");
}

/// Something that a replica was made with is taken away; and what is then said of it.
type Taken = (fn(&mut Board), Reason);

#[test]
fn a_container_is_not_started_afresh_with_what_its_replica_may_have_no_more() {
    let taken: [Taken; 5] = [
        (|board| board.settings.allowances.devices.clear(), Reason::DeviceNotAllowed),
        (|board| board.settings.allowances.capabilities.clear(), Reason::CapabilityNotAllowed),
        (|board| board.settings.allowances.storages.clear(), Reason::StorageNotAllowed),
        (|board| board.state.environments.clear(), Reason::StorageMissing),
        (|board| board.record().secrets.clear(), Reason::SecretValueMissing),
    ];
    for (take, reason) in taken {
        for main in [exited(), condemned()] {
            let mut board = Board::new();
            take(&mut board);
            let planned = board.plan(&main);
            assert_eq!(planned.actions, [], "{reason}: what runs is not ended in vain");
            assert_eq!(board.told(), Some(reason));
        }
    }
}
