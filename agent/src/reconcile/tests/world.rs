//! A board made of maps, and a loop on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use domain::keep::{Cleared, Clearing, Removed};
use domain::model::{AppName, EnvironmentName, ReplicaName};
use domain::plan::Settings;
use domain::probe::{Health, HealthReport};
use domain::reason::Reason;
use domain::replica::{
    ContainerState, FetchOrder, Listener, ObservedReplica, Place, ProcessorTime, ReplicaOrder,
    ResolvedImage, Secret, StoragePlace, Survey, Trouble,
};
use domain::route::{RouteTable, Sleep};
use domain::scale::{self, Asked, Demand, SamplePlan};
use domain::state::{AppRecord, Changes, State};
use domain::status::{AppStatus, EnvironmentStatus, Source};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ipnet::Ipv4Net;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tracing::info_span;

use crate::clock::{Clock, ZoneFiles};
use crate::drain::Drain;
use crate::inbox::{Accepted, INBOX_DEPTH, Inbox, KnownSecret, Refusal, Request, Run, Subject};
use crate::keys::Keys;
use crate::network::{Network, NetworkError, ObservedNetwork};
use crate::published::{Published, Reports, channels};
use crate::reconcile::{Parts, Reconciler};
use crate::runtime::{Runtime, RuntimeError};
use crate::store::{Loaded, Store, StoreError};
use crate::tasks::Tasks;

/// An hour of the board's time, which costs the test none.
const PATIENCE: Duration = Duration::from_hours(1);

/// What a replica uses that runs or is frozen, and one whose processes wait to be started.
pub(super) const REPLICA_MIB: u64 = 50;
pub(super) const ARMED_MIB: u64 = 5;

/// A document of one app.
pub(super) fn document(app: &str, tag: &str, generation: u64) -> String {
    format!(
        "name: {app}\nproperties:\n  configuration:\n    ingress: {{external: true, targetPort: 8080}}\n  template:\n    \
         containers: [{{name: main, image: 'registry.example/{app}:{tag}'}}]\n    scale: {{minReplicas: 1}}\n\
         skerry: {{generation: {generation}}}\n"
    )
}

/// What there is, and what is to go wrong.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) replicas: BTreeMap<ReplicaName, ObservedReplica>,
    pub(super) namespaces: BTreeSet<ReplicaName>,
    pub(super) environments: BTreeMap<EnvironmentName, Ipv4Net>,
    pub(super) stored: State,
    pub(super) starts: u32,
    pub(super) missing_images: BTreeSet<String>,
    pub(super) away: Option<RuntimeError>,
    pub(super) hangs: bool,
    /// Replicas of these apps start and never get there, as with an init container that does not end.
    pub(super) endless: BTreeSet<String>,
    /// Whoever is to be paused never quite stands still.
    pub(super) restless: bool,
    /// Why no image can be fetched.
    pub(super) fetch_trouble: Option<Trouble>,
    /// What was ordered to be cleared.
    pub(super) clearings: Vec<Clearing>,
    /// Images that go at the next clearing.
    pub(super) unneeded: Vec<Removed>,
    pub(super) image_warning: Option<Trouble>,
    pub(super) store_trouble: Option<Trouble>,
    /// No volume can be made.
    pub(super) volume_trouble: Option<Trouble>,
    /// No volume can be taken away.
    pub(super) stop_trouble: Option<Trouble>,
    /// How often each replica could not be stopped.
    pub(super) vain_stops: BTreeMap<ReplicaName, u32>,
    /// The storages of the latest order.
    pub(super) storages: BTreeMap<String, StoragePlace>,
    /// What the board has for replicas, in MiB; 0 where it does not tell.
    pub(super) memory_mib: u64,
    /// How busy its processors are, in per cent, from the last measurement on.
    pub(super) busy: u64,
    processors: ProcessorTime,
    /// The first measurement.
    up_since: Option<Instant>,
    /// How often it was measured.
    pub(super) surveys: u32,
    /// Requests are open, to whichever replica.
    pub(super) open: bool,
    /// When each replica was told to stop.
    pub(super) stops: BTreeMap<ReplicaName, Instant>,
    /// The secrets that the latest replica was given.
    pub(super) given: BTreeMap<String, Secret>,
    /// Values that the store could not open.
    pub(super) lost_secrets: Vec<(String, String)>,
    boot: u32,
}

impl World {
    /// Power comes back: records stand, nothing runs, no namespace, no bridge.
    pub(super) fn reboot(&mut self) {
        self.boot += 1;
        self.namespaces.clear();
        self.environments.clear();
        self.lose_all();
    }

    /// Measures the board, where all replicas take as much.
    fn measure(&mut self, wanted: Vec<ReplicaName>) -> Survey {
        self.surveys += 1;
        let up = self.up_since.get_or_insert_with(Instant::now).elapsed();
        let all = u64::try_from(up.as_millis()).unwrap() + 1;
        let passed = all.saturating_sub(self.processors.all);
        self.processors.busy += passed * self.busy / 100;
        self.processors.all = all;
        if self.memory_mib == 0 {
            return Survey { processors: self.processors, ..Survey::default() };
        }
        let use_of = |state: &ContainerState| match state {
            ContainerState::Running { .. } | ContainerState::Frozen { .. } => REPLICA_MIB,
            ContainerState::Armed => ARMED_MIB,
            ContainerState::Created | ContainerState::Exited { .. } => 0,
        };
        let containers = self.replicas.values().flat_map(|one| one.containers.values());
        let used = containers.map(use_of).sum();
        Survey {
            available: self.memory_mib.saturating_sub(used) << 20,
            total: self.memory_mib << 20,
            working_sets: wanted.into_iter().map(|name| (name, REPLICA_MIB << 20)).collect(),
            locked_by: None,
            processors: self.processors,
        }
    }

    /// Every container's process is gone without a trace.
    pub(super) fn lose_all(&mut self) {
        for state in self.replicas.values_mut().flat_map(|replica| replica.containers.values_mut())
        {
            *state = ContainerState::Created;
        }
    }
}

#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<World>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    async fn reach(&self) -> Result<(), RuntimeError> {
        let (away, hangs) = {
            let world = self.lock();
            let away = world.away.as_ref().map(|_| RuntimeError::Unavailable("away".to_owned()));
            (away, world.hangs)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        away.map_or(Ok(()), Err)
    }
}

impl Runtime for Shared {
    async fn observe(&self) -> Result<BTreeMap<ReplicaName, ObservedReplica>, RuntimeError> {
        self.reach().await?;
        Ok(self.lock().replicas.clone())
    }

    async fn fetch(&self, order: FetchOrder) -> Result<Vec<ResolvedImage>, RuntimeError> {
        self.reach().await?;
        if let Some(trouble) = self.lock().fetch_trouble.clone() {
            return Err(RuntimeError::Failed(trouble));
        }
        let resolve = |reference: String| {
            if self.lock().missing_images.contains(&reference) {
                let details = format!("{reference} is not there");
                return Err(RuntimeError::Failed(Trouble {
                    reason: Reason::ImageNotFound,
                    details,
                }));
            }
            let digest = domain::model::Digest::of(reference.as_bytes());
            let warning = self.lock().image_warning.clone();
            Ok(ResolvedImage { name: reference.clone(), reference, digest, warning })
        };
        order.images.into_iter().map(resolve).collect()
    }

    async fn clear(&self, order: Clearing) -> Result<Cleared, RuntimeError> {
        self.reach().await?;
        let mut world = self.lock();
        world.clearings.push(order);
        Ok(Cleared { removed: std::mem::take(&mut world.unneeded), freed: 5 << 20 })
    }

    async fn create(&self, order: &ReplicaOrder) -> Result<(), RuntimeError> {
        self.reach().await?;
        if let Some(trouble) = self.lock().volume_trouble.clone() {
            return Err(RuntimeError::Failed(trouble));
        }
        self.lock().storages.clone_from(&order.storages);
        self.lock().given.clone_from(&order.secrets);
        let containers = order.template.containers.iter();
        let replica = ObservedReplica {
            app: order.app.clone(),
            revision: order.revision.clone(),
            environment: order.environment.clone(),
            boot: order.boot.clone(),
            template_digest: order.template_digest,
            grace: order.template.grace(),
            address: order.place.address,
            containers: containers.map(|one| (one.name.clone(), ContainerState::Created)).collect(),
        };
        self.lock().replicas.insert(order.replica.clone(), replica);
        Ok(())
    }

    async fn arm(&self, order: &ReplicaOrder) -> Result<(), RuntimeError> {
        self.reach().await?;
        let mut world = self.lock();
        assert!(world.namespaces.contains(&order.replica), "a process needs the namespace");
        let replica = world.replicas.get_mut(&order.replica).expect("created before");
        for state in replica.containers.values_mut() {
            if *state == ContainerState::Created {
                *state = ContainerState::Armed;
            }
        }
        Ok(())
    }

    async fn freeze(&self, replica: &ReplicaName) -> Result<(), RuntimeError> {
        self.reach().await?;
        let restless = {
            let mut world = self.lock();
            let restless = world.restless;
            let replica = world.replicas.get_mut(replica).expect("it was observed");
            for state in replica.containers.values_mut() {
                if !matches!(state, ContainerState::Frozen { .. }) {
                    assert!(
                        matches!(state, ContainerState::Running { .. }),
                        "only what runs is frozen"
                    );
                    *state = ContainerState::Frozen { since: domain::model::Moment::default() };
                }
            }
            restless
        };
        if restless {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn thaw(&self, replica: &ReplicaName) -> Result<(), RuntimeError> {
        self.reach().await?;
        let mut world = self.lock();
        let replica = world.replicas.get_mut(replica).expect("it was observed");
        for state in replica.containers.values_mut() {
            if matches!(state, ContainerState::Frozen { .. }) {
                *state = ContainerState::Running { since: domain::model::Moment::default() };
            }
        }
        Ok(())
    }

    async fn start(&self, order: &ReplicaOrder) -> Result<(), RuntimeError> {
        self.reach().await?;
        let endless = self.lock().endless.contains(&order.template.containers[0].image);
        if endless {
            std::future::pending::<()>().await;
        }
        let mut world = self.lock();
        assert!(world.namespaces.contains(&order.replica), "a start needs the namespace");
        world.starts += 1;
        let replica = world.replicas.get_mut(&order.replica).expect("created before");
        for state in replica.containers.values_mut() {
            *state = ContainerState::Running { since: domain::model::Moment::default() };
        }
        Ok(())
    }

    async fn restart(
        &self,
        order: &ReplicaOrder,
        container: &str,
        _: Duration,
    ) -> Result<(), RuntimeError> {
        self.reach().await?;
        let mut world = self.lock();
        let replica = world.replicas.get_mut(&order.replica).expect("it was observed");
        let state = ContainerState::Running { since: domain::model::Moment::default() };
        replica.containers.insert(container.to_owned(), state);
        Ok(())
    }

    async fn stop(&self, replica: &ReplicaName, _: Duration) -> Result<(), RuntimeError> {
        self.reach().await?;
        let mut world = self.lock();
        if let Some(trouble) = world.stop_trouble.clone() {
            *world.vain_stops.entry(replica.clone()).or_default() += 1;
            return Err(RuntimeError::Failed(trouble));
        }
        world.replicas.remove(replica);
        world.stops.insert(replica.clone(), Instant::now());
        Ok(())
    }

    async fn survey(&self, replicas: Vec<ReplicaName>) -> Result<Survey, RuntimeError> {
        self.reach().await?;
        Ok(self.lock().measure(replicas))
    }

    fn held(
        &self,
        observed: &BTreeMap<ReplicaName, ObservedReplica>,
    ) -> BTreeMap<ReplicaName, u64> {
        let idle = observed
            .iter()
            .filter(|(_, seen)| seen.containers.values().any(ContainerState::stands_by));
        idle.map(|(name, _)| (name.clone(), ARMED_MIB << 20)).collect()
    }

    async fn listening(&self, _: &ReplicaName) -> Result<Vec<Listener>, RuntimeError> {
        self.reach().await?;
        Ok(Vec::new())
    }
}

impl Drain for Shared {
    fn drained(&self, _: &ReplicaName) -> BoxFuture<'static, ()> {
        let shared = self.clone();
        let drained = async move {
            while shared.lock().open {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        drained.boxed()
    }
}

impl Network for Shared {
    async fn observe(&self) -> Result<ObservedNetwork, NetworkError> {
        let world = self.lock();
        Ok(ObservedNetwork {
            environments: world.environments.clone(),
            namespaces: world.namespaces.clone(),
            addresses: Vec::new(),
        })
    }

    async fn settle(
        &self,
        environments: &BTreeMap<EnvironmentName, Ipv4Net>,
    ) -> Result<Vec<Trouble>, NetworkError> {
        self.lock().environments.clone_from(environments);
        Ok(Vec::new())
    }

    async fn free_subnets(&self) -> Result<Vec<Ipv4Net>, NetworkError> {
        Ok((0..8).map(|n| Ipv4Net::new_assert([10, 213, n, 0].into(), 24)).collect())
    }

    async fn attach(&self, replica: &ReplicaName, _: &Place) -> Result<(), NetworkError> {
        self.lock().namespaces.insert(replica.clone());
        Ok(())
    }

    async fn detach(&self, replica: &ReplicaName) -> Result<(), NetworkError> {
        self.lock().namespaces.remove(replica);
        Ok(())
    }

    fn netns(&self, replica: &ReplicaName) -> PathBuf {
        PathBuf::from("/run/skerry/netns").join(replica.as_str())
    }
}

impl Store for Shared {
    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let mut world = self.lock();
        if let Some(trouble) = world.store_trouble.clone() {
            return Err(StoreError(trouble));
        }
        for app in &changes.apps {
            world.stored.apps.insert(app.name.clone(), app.clone());
        }
        for one in &changes.environments {
            world.stored.environments.insert(one.name.clone(), one.clone());
        }
        if let Some(device) = &changes.device {
            world.stored.device = device.clone();
        }
        Ok(())
    }
}

/// A loop on a board, with a prober that finds everything well until it is told to hold.
#[derive(Debug)]
pub(super) struct Board {
    shared: Shared,
    inbox: Inbox,
    published: Published,
    tasks: Tasks,
    pulse: watch::Sender<u64>,
    demand: watch::Sender<Arc<Demand>>,
    held: watch::Sender<bool>,
    low: watch::Sender<bool>,
    public_key: String,
}

impl Board {
    pub(super) fn start() -> Self {
        Self::on(Shared(Arc::default()))
    }

    fn on(shared: Shared) -> Self {
        let (levels, published) = channels();
        let (inbox, requests) = mpsc::channel(INBOX_DEPTH);
        let (pulse, runtime) = watch::channel(0);
        let (health, health_rx) = watch::channel(Arc::default());
        let (held, held_rx) = watch::channel(false);
        let (demand, demand_rx) = watch::channel(Arc::default());
        let (low, low_rx) = watch::channel(false);
        let tasks = Tasks::default();
        let (state, boot, lost_secrets) = {
            let world = shared.lock();
            (world.stored.clone(), world.boot, world.lost_secrets.clone())
        };
        let settings = Settings {
            device: "pi-1".to_owned(),
            dns_suffix: "{environment}.{device}.internal".to_owned(),
            netns_dir: "/run/skerry/netns".into(),
            boot: format!("boot-{boot}"),
            host_allowed: false,
            own_ports: BTreeSet::from([53, 80, 443]),
            allowances: domain::allowances::Allowances {
                storages: vec!["/srv/allowed".to_owned(), "LABEL=data".to_owned()],
                ..domain::allowances::Allowances::default()
            },
        };
        let keys = tempfile::tempdir().unwrap();
        let keys = Keys::load(keys.path(), None).unwrap();
        let public_key = keys.device.public();
        let reconciler = Reconciler::new(Parts {
            device_key: Arc::new(keys.device),
            runtime: shared.clone(),
            network: shared.clone(),
            drain: Arc::new(shared.clone()),
            store: shared.clone(),
            loaded: Loaded { state, lost_secrets, ..Loaded::default() },
            clock: Clock::default(),
            zone_files: ZoneFiles::of_the_board(),
            settings,
            tasks: tasks.clone(),
            inbox: requests,
            reports: Reports {
                health: health_rx,
                demand: demand_rx,
                readings: watch::channel(Arc::default()).1,
                lan_names: watch::channel(Arc::default()).1,
                runtime,
                listeners: watch::channel(Arc::default()).1,
                pulls: watch::channel(Arc::default()).1,
                pressure: low_rx,
            },
            publisher: levels,
            durable_events: true,
        });
        tasks.spawn(info_span!("reconcile"), |stop| reconciler.run(stop));
        let probes = published.probes.clone();
        tasks.spawn(info_span!("probe"), |stop| async move {
            tokio::select! {
                () = stop.cancelled() => (),
                () = probe(probes, held_rx, health) => (),
            }
        });
        Self { shared, inbox, published, tasks, pulse, demand, held, low, public_key }
    }

    /// The agent ends and starts again; the board runs on.
    pub(super) async fn restart(self) -> Self {
        self.tasks.shut_down(Duration::from_secs(5)).await;
        Self::on(self.shared)
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.shared.lock()
    }

    pub(super) fn stored(&self, app: &str) -> AppRecord {
        self.world().stored.apps[&app.parse::<AppName>().unwrap()].clone()
    }

    /// Something happened to a container, and an event told of it.
    pub(super) fn pulse(&self) {
        self.pulse.send_modify(|n| *n += 1);
    }

    /// From now on the prober learns nothing new.
    pub(super) fn hold_health(&self) {
        self.held.send_replace(true);
    }

    /// Processes wait for memory.
    pub(super) fn press(&self) {
        self.low.send_replace(true);
    }

    /// Memory is low, or is not any more.
    pub(super) fn press_or_not(&self, low: bool) {
        self.low.send_replace(low);
    }

    pub(super) fn release_health(&self) {
        self.held.send_replace(false);
    }

    pub(super) fn crash_all(&self, code: u32) {
        let at = Clock::default().now();
        for state in
            self.world().replicas.values_mut().flat_map(|replica| replica.containers.values_mut())
        {
            *state = ContainerState::Exited { code, oom: false, at, words: String::new() };
        }
        self.pulse();
    }

    pub(super) async fn send(&self, app: &str, document: &str) -> Result<Accepted, Refusal> {
        self.document(Source::Mqtt, Subject::App(app.to_owned()), document, false).await
    }

    pub(super) async fn send_from(
        &self,
        source: Source,
        document: &str,
        force: bool,
    ) -> Result<Accepted, Refusal> {
        self.document(source, Subject::Itself, document, force).await
    }

    async fn document(
        &self,
        source: Source,
        subject: Subject,
        text: &str,
        force: bool,
    ) -> Result<Accepted, Refusal> {
        let payload = Bytes::from(text.to_owned());
        self.ask(|reply| Request::Document { source, subject, payload, force, reply }).await
    }

    pub(super) async fn scale(&self, app: &str, text: &str) -> Result<(), Refusal> {
        let (app, payload) = (app.to_owned(), Bytes::from(text.to_owned()));
        self.ask(|reply| Request::Scale { app, payload, reply }).await
    }

    pub(super) async fn to_zero(&self, app: &str) -> Result<(), Refusal> {
        let app = app.parse().unwrap();
        self.ask(|reply| Request::ToZero { app, reply }).await
    }

    /// The ingress tells what is asked of a revision.
    pub(super) fn ask_for(&self, revision: &str, asked: Asked) {
        let name = revision.parse().unwrap();
        self.demand.send_modify(|demand| {
            Arc::make_mut(demand).insert(name, asked);
        });
    }

    /// Whether a request for a revision would wait for it.
    pub(super) fn sleep_of(&self, app: &str, revision: &str) -> Option<Sleep> {
        let routes = self.published.routes.borrow().clone();
        let apps = &routes.environments[&EnvironmentName::default()].apps;
        apps[&app.parse::<AppName>().unwrap()].asleep.get(revision).copied()
    }

    pub(super) async fn run(&self, app: &str, run: Run) -> Result<(), Refusal> {
        let app = app.parse().unwrap();
        self.ask(|reply| Request::Run { app, run, reply }).await
    }

    pub(super) async fn set_secret(
        &self,
        app: &str,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), Refusal> {
        let (app, name) = (app.parse().unwrap(), name.to_owned());
        let value = value.map(|value| Secret(value.to_owned()));
        self.ask(|reply| Request::Secret { app, name, value, reply }).await
    }

    pub(super) async fn secrets(&self, app: &str) -> Vec<KnownSecret> {
        let app = app.parse().unwrap();
        self.ask(|reply| Request::Secrets { app, reply }).await.unwrap()
    }

    /// What values may be sealed with for this board.
    pub(super) fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Everything that is published, as text.
    pub(super) fn said(&self) -> String {
        format!("{:?}", self.published)
    }

    pub(super) fn troubles(&self) -> Vec<Trouble> {
        self.published.device.borrow().troubles.clone()
    }

    pub(super) async fn send_job(&self, job: &str, document: &str) -> Result<Accepted, Refusal> {
        self.document(Source::Mqtt, Subject::Job(job.to_owned()), document, false).await
    }

    pub(super) async fn send_environment(
        &self,
        environment: &str,
        document: &str,
    ) -> Result<Accepted, Refusal> {
        let subject = Subject::Environment(environment.to_owned());
        self.document(Source::Mqtt, subject, document, false).await
    }

    pub(super) async fn delete_environment(
        &self,
        source: Source,
        environment: &str,
    ) -> Result<(), Refusal> {
        let environment = environment.parse().unwrap();
        self.ask(|reply| Request::DeleteEnvironment { source, environment, reply }).await
    }

    /// Waits for an environment's status.
    pub(super) async fn until_environment(
        &mut self,
        environment: &str,
        wanted: impl Fn(&EnvironmentStatus) -> bool,
    ) -> EnvironmentStatus {
        let of = |statuses: &domain::status::Statuses| {
            statuses.environments.get(environment).filter(|status| wanted(status)).cloned()
        };
        let level = self.published.statuses.wait_for(|statuses| of(statuses).is_some());
        let reached = timeout(PATIENCE, level).await.expect("reached in time");
        of(&reached.expect("the loop runs")).expect("it was reached")
    }

    pub(super) async fn delete(&self, source: Source, app: &str) -> Result<(), Refusal> {
        let app = app.parse().unwrap();
        self.ask(|reply| Request::Delete { source, app, force: false, reply }).await
    }

    pub(super) fn statuses(&self) -> Arc<domain::status::Statuses> {
        self.published.statuses.borrow().clone()
    }

    /// Waits until something is sampled in this way.
    pub(super) async fn until_sampled(&mut self, wanted: impl Fn(&scale::Source) -> bool) {
        let some = |plan: &Arc<SamplePlan>| plan.values().any(|sample| wanted(&sample.source));
        let level = self.published.samples.wait_for(some);
        timeout(PATIENCE, level).await.expect("sampled in time").expect("the loop runs");
    }

    /// How often an event of this reason was told.
    pub(super) fn told(&self, reason: Reason) -> usize {
        let events = self.published.recent.borrow().clone();
        events.iter().filter(|event| event.reason == reason).count()
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Request,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(request(reply)).await.expect("the loop runs");
        timeout(PATIENCE, answer).await.expect("an answer in time").expect("an answer")
    }

    /// Waits for an app's status.
    pub(super) async fn until(
        &mut self,
        app: &str,
        wanted: impl Fn(&AppStatus) -> bool,
    ) -> AppStatus {
        let mut statuses = self.published.statuses.clone();
        let level = statuses.wait_for(|statuses| statuses.apps.get(app).is_some_and(&wanted));
        if let Ok(reached) = timeout(PATIENCE, level).await {
            return reached.expect("the loop runs").apps[app].clone();
        }
        let last = self.published.statuses.borrow().apps.get(app).cloned();
        panic!("waited in vain; the last status: {last:#?}")
    }

    pub(super) async fn until_no_trouble(&mut self) {
        let level = self.published.device.wait_for(|device| device.troubles.is_empty());
        timeout(PATIENCE, level).await.expect("quiet in time").expect("the loop runs");
    }

    pub(super) async fn until_removed(&mut self, app: &str) {
        let app: AppName = app.parse().unwrap();
        let level = self.published.statuses.wait_for(|statuses| statuses.removed.contains(&app));
        timeout(PATIENCE, level).await.expect("removed in time").expect("the loop runs");
    }

    /// Waits for something that no status tells.
    pub(super) async fn until_world(&mut self, wanted: impl Fn(&World) -> bool) {
        let level = async {
            while !wanted(&self.shared.lock()) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, level).await.expect("the world in time");
    }

    /// What the ingress goes by.
    pub(super) fn routes(&self) -> Arc<RouteTable> {
        self.published.routes.borrow().clone()
    }

    /// Where the ingress would send a request.
    pub(super) fn backends(&self, app: &str) -> Vec<String> {
        let routes = self.published.routes.borrow().clone();
        let service = &routes.environments[&EnvironmentName::default()].apps
            [&app.parse::<AppName>().unwrap()];
        let shares =
            service.split.iter().filter_map(|share| service.revisions.get(&share.revision));
        shares.flatten().map(|backend| backend.address.to_string()).collect()
    }

    pub(super) fn unready(&self, app: &str) -> Reason {
        let routes = self.published.routes.borrow().clone();
        routes.environments[&EnvironmentName::default()].apps[&app.parse::<AppName>().unwrap()]
            .unready
    }
}

/// Finds every target well at once, but nothing new while it is held.
async fn probe(
    mut probes: watch::Receiver<Arc<domain::probe::ProbePlan>>,
    mut held: watch::Receiver<bool>,
    health: watch::Sender<Arc<HealthReport>>,
) {
    loop {
        let plan = probes.borrow_and_update().clone();
        let holds = *held.borrow_and_update();
        let known = health.borrow().clone();
        let report: HealthReport = plan
            .iter()
            .map(|(name, target)| {
                let old = known.get(name).filter(|old| old.epoch == target.epoch).cloned();
                let well =
                    Health { epoch: target.epoch, started: true, ready: true, ..Health::default() };
                let now =
                    if holds { Health { epoch: target.epoch, ..Health::default() } } else { well };
                (name.clone(), old.filter(|old| old.ready || holds).unwrap_or(now))
            })
            .collect();
        if *known != report {
            health.send_replace(Arc::new(report));
        }
        tokio::select! {
            changed = probes.changed() => if changed.is_err() { return },
            changed = held.changed() => if changed.is_err() { return },
        }
    }
}
