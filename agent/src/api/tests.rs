//! The API over a real socket, with a loop that remembers what it was asked.

mod verbs;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::document::{Finding, TrafficEntry};
use domain::event::Event;
use domain::model::{AppName, Digest, RevisionName, WallTime};
use domain::reason::Reason;
use domain::replica::{PullProgress, Trouble};
use domain::reweigh::reweigh;
use domain::status::{
    AppStatus, EnvironmentStatus, HealthState, Phase, ProvisioningState, ReplicaRunningState,
    ReplicaStatus, RevisionStatus, RunningState, RunningStatus, Source, Statuses, StorageStatus,
};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use skerry_proto::v1;
use skerry_proto::v1::agent_client::AgentClient;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tracing::info_span;

use super::sources::{
    About, Exported, Image, ImageStore, LogLine, LogLines, LogQuery, LogSource, LogStream,
    PullNews, PullOrder,
};
use super::*;
use crate::clock::Clock;
use crate::inbox::{Accepted, INBOX_DEPTH, Kind, Refusal, Request, RevisionVerb};
use crate::published::{DeviceState, Publisher, channels};
use crate::tasks::Tasks;

/// Longer than any machine takes, shorter than anyone waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent without apps of its own: an API, and a loop that says yes to `hello` and no to the rest.
pub(crate) struct FakeAgent {
    pub(crate) socket: PathBuf,
    pub(crate) publisher: Publisher,
    pub(crate) asked: watch::Receiver<Vec<String>>,
    pub(crate) dir: TempDir,
    tasks: Tasks,
}

impl FakeAgent {
    pub(crate) fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("run/agent.sock");
        let (inbox, requests) = mpsc::channel(INBOX_DEPTH);
        let (seen, asked) = watch::channel(Vec::new());
        let (publisher, receiving) = channels();
        publisher.statuses.send_replace(Arc::new(statuses()));
        let tasks = Tasks::default();
        tasks.spawn_short(info_span!("loop"), answer(requests, seen.clone()));
        let api = Api {
            inbox,
            published: receiving,
            images: Shelf(seen.clone()),
            spool_dir: dir.path().join("state"),
            logs: Diary,
            about: About {
                device: "pi-1".to_owned(),
                tags: BTreeMap::from([("site".to_owned(), "berlin".to_owned())]),
                boot_id: "4711".to_owned(),
                public_key: "a2V5".to_owned(),
                control_plane: "mqtts://broker:8883".to_owned(),
            },
            link: watch::channel(crate::published::Link { online: true, epoch: 12 }).1,
            clock: Clock::default(),
            stop: tasks.stop_signal(),
        };
        let bound = ApiSocket::bind(&socket).unwrap();
        let of_calls = tasks.clone();
        tasks.spawn(info_span!("api"), |stop| serve(bound, api, of_calls, stop));
        Self { socket, publisher, asked, dir, tasks }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    async fn client(&self) -> AgentClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display())).unwrap();
        AgentClient::new(endpoint.connect().await.unwrap())
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.tasks.shut_down(PATIENCE).await;
        self.dir
    }
}

async fn answer(mut requests: mpsc::Receiver<Request>, seen: watch::Sender<Vec<String>>) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Round { .. } | Request::ImagesChanged | Request::ImagesRepaired { .. } => (),
            Request::ImageUses { reply } => drop(reply.send(Ok(Vec::new()))),
            Request::Document { source, subject, payload, force, reply } => {
                let text = String::from_utf8_lossy(&payload).into_owned();
                let line = format!("document {source:?} {subject:?} {text:?} force={force}");
                seen.send_modify(|seen| seen.push(line));
                let answer = match text.as_str() {
                    "name: hello" => Ok(Accepted {
                        name: "hello".to_owned(),
                        kind: Kind::App,
                        changed: true,
                        warnings: vec![finding("location", Reason::NoMeaningHere, "ignored")],
                    }),
                    "silence" => continue,
                    _ => Err(refusal(vec![
                        finding("name", Reason::MissingValue, "the app has no name"),
                        finding("properties.template", Reason::MissingValue, "no template"),
                    ])),
                };
                reply.send(answer).unwrap();
            }
            Request::Scale { app, payload, reply } => {
                let text = String::from_utf8_lossy(&payload).into_owned();
                seen.send_modify(|seen| seen.push(format!("scale {app} {text:?}")));
                reply.send(known(&app)).unwrap();
            }
            Request::ToZero { app, reply } => {
                seen.send_modify(|seen| seen.push(format!("to zero {app}")));
                reply.send(known(app.as_str())).unwrap();
            }
            Request::Delete { source, app, force, reply } => {
                let line = format!("delete {source:?} {app} force={force}");
                seen.send_modify(|seen| seen.push(line));
                reply.send(known(app.as_str())).unwrap();
            }
            Request::Run { app, run, reply } => {
                seen.send_modify(|seen| seen.push(format!("run {app} {run:?}")));
                reply.send(known(app.as_str())).unwrap();
            }
            Request::Revision { revision, verb, reply } => {
                seen.send_modify(|seen| seen.push(format!("{verb:?} {revision}")));
                let copied = matches!(verb, RevisionVerb::Copy { .. });
                let came =
                    if copied { "hello--0000003".parse().unwrap() } else { revision.clone() };
                reply.send(known_revision(revision.as_str()).map(|()| came)).unwrap();
            }
            Request::Traffic { app, weights, labels, reply } => {
                seen.send_modify(|seen| seen.push(told(&app, &weights, &labels)));
                let moved = labels.iter().filter_map(|(_, revision)| revision.as_ref());
                let named = weights.iter().filter_map(|entry| entry.revision.as_ref()).chain(moved);
                let refused = named.map(|name| known_revision(name.as_str())).find(Result::is_err);
                let answer = known(app.as_str()).and(refused.unwrap_or(Ok(())));
                reply.send(answer.and_then(|()| split(&weights))).unwrap();
            }
            Request::Secret { .. }
            | Request::Secrets { .. }
            | Request::DeleteEnvironment { .. }
            | Request::Connecting { .. }
            | Request::Delivered { .. } => {
                panic!("the API does not ask this: {request:?}")
            }
        }
    }
}

fn known_revision(name: &str) -> Result<(), Refusal> {
    let app = name.split("--").next().unwrap();
    known(app)?;
    if matches!(name, "hello--0000001" | "hello--0000002") {
        return Ok(());
    }
    let message = format!("{app} has no revision {name}");
    Err(refusal(vec![finding("", Reason::UnknownRevision, &message)]))
}

fn told(
    app: &AppName,
    weights: &[TrafficEntry],
    labels: &[(String, Option<RevisionName>)],
) -> String {
    let mut words = vec![format!("traffic {app}")];
    words.extend(weights.iter().map(|TrafficEntry { revision, latest, weight, label }| {
        let revision = revision.as_ref().map(RevisionName::as_str).unwrap_or_default();
        let (latest, label) = (if *latest { "latest" } else { "" }, label.as_deref());
        format!("{latest}{revision}{}={weight}", label.unwrap_or_default())
    }));
    words.extend(labels.iter().map(|(label, revision)| {
        format!("{label}->{}", revision.as_ref().map(RevisionName::as_str).unwrap_or_default())
    }));
    words.join(" ")
}

/// The split of `hello`, with weights given over it.
fn split(weights: &[TrafficEntry]) -> Result<Vec<TrafficEntry>, Refusal> {
    let latest = TrafficEntry { latest: true, weight: 100, ..TrafficEntry::default() };
    let blue = TrafficEntry {
        revision: Some("hello--0000001".parse().unwrap()),
        label: Some("blue".to_owned()),
        ..TrafficEntry::default()
    };
    reweigh(&[latest, blue], weights).map_err(|finding| refusal(vec![finding]))
}

fn known(app: &str) -> Result<(), Refusal> {
    let unknown = || finding("", Reason::UnknownApp, &format!("there is no app {app:?}"));
    if app == "hello" { Ok(()) } else { Err(refusal(vec![unknown()])) }
}

fn refusal(findings: Vec<Finding>) -> Refusal {
    Refusal { findings, passing: false }
}

fn finding(path: &str, reason: Reason, message: &str) -> Finding {
    Finding { path: path.to_owned(), reason, message: message.to_owned(), position: None }
}

/// One app in the middle of a failing rollout, and one that is stopped.
fn statuses() -> Statuses {
    let hello = hello();
    let mut shop = AppStatus { app: "shop".to_owned(), source: Source::File, ..hello.clone() };
    shop.running_status = RunningStatus::Stopped;
    shop.revisions = Vec::new();
    shop.warnings = Vec::new();
    shop.lan_name = String::new();
    (shop.latest_revision, shop.latest_ready_revision) = (None, None);
    let apps = [hello, shop].map(|app| (app.app.clone(), app));
    let environments = [environment()].map(|one| (one.environment.clone(), one));
    Statuses { apps: apps.into(), environments: environments.into(), ..Statuses::default() }
}

fn environment() -> EnvironmentStatus {
    let storage = |name: &str, reason, details: &str| StorageStatus {
        name: name.to_owned(),
        reason,
        details: details.to_owned(),
    };
    let forbidden = Some(Reason::StorageNotAllowed);
    EnvironmentStatus {
        environment: "default".to_owned(),
        generation: 1,
        digest: None,
        source: Some(Source::Mqtt),
        storages: vec![storage("data", None, "/srv/data"), storage("etc", forbidden, "/etc")],
        apps: 2,
        warnings: Vec::new(),
        error: None,
        updated: hello().updated,
    }
}

fn hello() -> AppStatus {
    let replica = |name: &str, address: u8| ReplicaStatus {
        name: name.parse().unwrap(),
        running_state: ReplicaRunningState::Running,
        ready: true,
        address: Some(Ipv4Addr::new(10, 213, 0, address)),
        restart_count: 0,
        reason: None,
        details: String::new(),
    };
    let failing = ReplicaStatus {
        running_state: ReplicaRunningState::NotRunning,
        ready: false,
        restart_count: 3,
        reason: Some(Reason::CrashLoopBackOff),
        details: "container main exited with code 1\r\x1b[2J".to_owned(),
        ..replica("hello--0000002-abcde", 7)
    };
    let old = RevisionStatus {
        name: "hello--0000001".parse().unwrap(),
        phase: Phase::Committed,
        active: true,
        traffic_weight: 100,
        labels: vec!["blue".to_owned()],
        replicas: 2,
        ready_replicas: 2,
        wanted_replicas: 2,
        scaled_by: String::new(),
        standby: "",
        standby_memory_bytes: 0,
        provisioning_state: ProvisioningState::Provisioned,
        running_state: RunningState::Running,
        health_state: HealthState::Healthy,
        reason: None,
        details: String::new(),
        image: "docker.io/library/hello:1@sha256:0123".to_owned(),
        replica_list: vec![replica("hello--0000001-klmno", 6), replica("hello--0000001-fghij", 5)],
    };
    let new = RevisionStatus {
        name: "hello--0000002".parse().unwrap(),
        phase: Phase::Starting,
        traffic_weight: 0,
        labels: Vec::new(),
        replicas: 1,
        ready_replicas: 0,
        provisioning_state: ProvisioningState::Provisioning,
        running_state: RunningState::Activating,
        health_state: HealthState::Unhealthy,
        reason: Some(Reason::ProbeFailed),
        details: "GET :8080/ answered 500".to_owned(),
        image: "docker.io/library/hello:2@sha256:4567".to_owned(),
        replica_list: vec![failing],
        ..old.clone()
    };
    AppStatus {
        app: "hello".to_owned(),
        generation: 3,
        digest: Some(Digest::of(b"hello")),
        source: Source::Mqtt,
        running_status: RunningStatus::Progressing,
        fqdn: "hello.default.pi-1.internal".to_owned(),
        lan_name: "hello.local".to_owned(),
        exposed_port: 0,
        latest_revision: Some(new.name.clone()),
        latest_ready_revision: Some(old.name.clone()),
        revisions: vec![new, old],
        warnings: vec![finding("location", Reason::NoMeaningHere, "ignored")],
        error: None,
        scale_target: String::new(),
        updated: WallTime(Duration::from_secs(1_700_000_000)),
    }
}

pub(crate) fn event(id: u64, message: &str) -> Event {
    Event {
        id,
        time: WallTime(Duration::from_secs(1_700_000_000 + id)),
        app: Some("hello".parse().unwrap()),
        revision: Some("hello--0000002".parse().unwrap()),
        replica: None,
        reason: Reason::RevisionCreated,
        message: message.to_owned(),
    }
}

/// Images on a shelf: one, and those of which the archive is the name.
struct Shelf(watch::Sender<Vec<String>>);

impl ImageStore for Shelf {
    async fn list(&self) -> Result<Vec<Image>, Trouble> {
        let name = "docker.io/library/hello:1".to_owned();
        let platform = "linux/arm64/v8".to_owned();
        let digest = Digest::of(b"1").to_string();
        Ok(vec![Image {
            name,
            digest,
            size_bytes: 5 << 19,
            platform,
            imported: true,
            preloaded: false,
            since: Some(WallTime(Duration::from_secs(1_700_000_000))),
            apps: vec!["hello".to_owned(), "shop".to_owned()],
        }])
    }

    /// Two steps; of a reference with `never`, the second does not come; one with `none` is not there.
    fn pull(&self, order: PullOrder) -> BoxStream<'static, Result<PullNews, Trouble>> {
        let PullOrder { reference, login } = order;
        let of = login.map(|(user, password)| format!(" as {user}:{}", password.0));
        let line = format!("pull {reference}{}", of.unwrap_or_default());
        self.0.send_modify(|seen| seen.push(line));
        let step =
            PullProgress { layers: 2, bytes: 4 << 20, bytes_done: 1 << 20, ..Default::default() };
        let first = stream::iter([Ok(PullNews::Progress(step))]);
        if reference.contains("never") {
            return first.chain(stream::pending()).boxed();
        }
        let last = if reference.contains("none") {
            Err(Trouble {
                reason: Reason::ImageNotFound,
                details: format!("{reference} is not there"),
            })
        } else {
            Ok(PullNews::Here {
                name: format!("docker.io/library/{reference}"),
                digest: Digest::of(b"1"),
                imported: reference.contains("old"),
            })
        };
        first.chain(stream::iter([last])).boxed()
    }

    /// An archive of as many bytes as the names have; of `torn`, half.
    async fn export(&self, references: &[String]) -> Result<Exported, Trouble> {
        let text = references.join(" ");
        let corrupt =
            || Trouble { reason: Reason::ImageCorrupt, details: "layer 2 is spoilt".to_owned() };
        if text.contains("missing") {
            let details = format!("{text} is not on this board");
            return Err(Trouble { reason: Reason::ImageNotFound, details });
        }
        let size_bytes = text.len() as u64;
        let end = if text.contains("torn") {
            Err(corrupt())
        } else {
            Ok(Bytes::copy_from_slice(&text.as_bytes()[2..]))
        };
        let parts = stream::iter([Ok(Bytes::copy_from_slice(&text.as_bytes()[..2])), end]).boxed();
        Ok(Exported { names: references.to_vec(), size_bytes, parts })
    }

    async fn import(&self, archive: &Path) -> Result<Vec<String>, Trouble> {
        let bytes = fs::read(archive).unwrap();
        self.0.send_modify(|seen| seen.push(format!("import {} bytes", bytes.len())));
        match bytes.as_slice() {
            b"rubbish" => Err(Trouble {
                reason: Reason::ImageCorrupt,
                details: format!("{} is no archive", archive.display()),
            }),
            _ => Ok(vec![format!("docker.io/library/of-{}-bytes:1", bytes.len())]),
        }
    }
}

/// Two lines of two containers; whoever follows waits for a third that never comes.
struct Diary;

impl LogSource for Diary {
    async fn lines(&self, query: LogQuery) -> Result<LogLines, Trouble> {
        let line = |container: &str, stream, line: &str| LogLine {
            time: "2026-11-23T01:02:03.000000001Z".to_owned(),
            replica: "hello--0000001-fghij".to_owned(),
            container: container.to_owned(),
            stream,
            line: line.to_owned(),
        };
        let lines = [
            line("main", LogStream::Stdout, "listening on :8080"),
            line("proxy", LogStream::Stderr, "no upstream"),
        ];
        let lines = lines.into_iter().filter(|line| query.takes(&line.replica, &line.container));
        let lines = stream::iter(lines.map(Ok).collect::<Vec<_>>());
        if query.follow {
            return Ok(lines.chain(stream::pending()).boxed());
        }
        Ok(lines.boxed())
    }
}

fn refused(status: &tonic::Status) -> v1::Refused {
    v1::Refused::decode(status.details()).unwrap()
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group_and_goes_with_the_agent() {
    let agent = FakeAgent::start();
    let mode = fs::metadata(&agent.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let socket = agent.socket.clone();
    let _dir = agent.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_live_socket_is_left_alone_and_a_dead_one_is_taken_over() {
    let agent = FakeAgent::start();
    let taken = ApiSocket::bind(&agent.socket).unwrap_err();
    assert!(matches!(taken, SocketError::Taken(_)), "{taken}");
    agent.client().await.apps(v1::AppsRequest {}).await.unwrap();

    let dead = agent.dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let bound = ApiSocket::bind(&dead).unwrap();
    let successor = {
        // A file that another agent has put there meanwhile is not ours to remove.
        fs::remove_file(&dead).unwrap();
        std::os::unix::net::UnixListener::bind(&dead).unwrap()
    };
    drop(bound);
    assert!(dead.exists());
    drop(successor);

    let file = agent.dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let error = ApiSocket::bind(&file).unwrap_err();
    assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    agent.stop().await;
}

#[tokio::test]
async fn apps_are_what_the_loop_has_published() {
    let agent = FakeAgent::start();
    let mut client = agent.client().await;
    let apps = client.apps(v1::AppsRequest {}).await.unwrap().into_inner().apps;
    assert_eq!(apps, [crate::wire::app(&hello()), apps[1].clone()]);
    let request = v1::AppRequest { app: "helo".to_owned() };
    let status = client.app(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(refused(&status).hint, "did you mean \"hello\"?");
    let request = v1::AppRequest { app: "quite-another".to_owned() };
    assert_eq!(refused(&client.app(request).await.unwrap_err()).hint, "");
    agent.stop().await;
}

#[tokio::test]
async fn every_change_reaches_the_loop_as_it_was_asked_for() {
    let agent = FakeAgent::start();
    let mut client = agent.client().await;
    let document = b"name: hello".to_vec();
    let reply = client.apply(v1::ApplyRequest { document, force: true }).await.unwrap();
    assert_eq!(reply.get_ref().warnings[0].path, "location");
    let app = "hello".to_owned();
    client.delete(v1::DeleteRequest { app: app.clone(), force: false }).await.unwrap();
    client.run(v1::RunRequest { app: app.clone(), start: false }).await.unwrap();
    client.run(v1::RunRequest { app: app.clone(), start: true }).await.unwrap();
    let scale = v1::ScaleRequest { app, ..v1::ScaleRequest::default() };
    let pinned = v1::ScaleRequest { replicas: Some(0), max_replicas: Some(4), ..scale.clone() };
    client.scale(pinned.clone()).await.unwrap();
    client.scale(v1::ScaleRequest { clear: true, ..scale.clone() }).await.unwrap();
    let to_zero = v1::ScaleRequest { to_zero: true, ..scale.clone() };
    client.scale(to_zero.clone()).await.unwrap();
    let expected = [
        "document Local Itself \"name: hello\" force=true",
        "delete Local hello force=false",
        "run hello Stopped",
        "run hello Started",
        "scale hello \"{\\\"maxReplicas\\\":4,\\\"replicas\\\":0}\"",
        "scale hello \"\"",
        "to zero hello",
    ];
    assert_eq!(agent.asked(), expected);
    // What says nothing, or contradicts itself, does not get there.
    let both = v1::ScaleRequest { min_replicas: Some(1), ..to_zero };
    for bad in [scale, v1::ScaleRequest { clear: true, ..pinned }, both] {
        assert_eq!(client.scale(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(agent.asked().len(), expected.len());
    agent.stop().await;
}

#[tokio::test]
async fn a_refusal_tells_every_finding_and_an_unknown_name_its_neighbour() {
    let agent = FakeAgent::start();
    let mut client = agent.client().await;
    let request = v1::ApplyRequest { document: b"{}".to_vec(), force: false };
    let status = client.apply(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "MissingValue: the app has no name");
    let paths: Vec<String> =
        refused(&status).findings.into_iter().map(|finding| finding.path).collect();
    assert_eq!(paths, ["name", "properties.template"]);

    let delete = |app: &str| v1::DeleteRequest { app: app.to_owned(), force: false };
    let status = client.delete(delete("hell")).await.unwrap_err();
    assert_eq!(refused(&status).hint, "did you mean \"hello\"?");
    // A text that is no name is the name of no app; the loop is not asked.
    let asked = agent.asked().len();
    let status = client.delete(delete("Hello")).await.unwrap_err();
    assert_eq!((status.code(), agent.asked().len()), (Code::NotFound, asked));
    agent.stop().await;
}

#[tokio::test]
async fn a_hundred_long_findings_still_arrive() {
    let long = "x".repeat(5000);
    let findings = vec![finding("path", Reason::InvalidValue, &long); 100];
    let status = refusal::refused(&refusal(findings), String::new());
    assert!(status.details().len() < 10_000, "{}", status.details().len());
    let last = refused(&status).findings.pop().unwrap().message;
    assert!(last.ends_with("(and 84 more)"), "{last}");
}

#[tokio::test]
async fn a_loop_that_drops_a_request_is_an_agent_that_stops() {
    let agent = FakeAgent::start();
    let mut client = agent.client().await;
    let request = v1::ApplyRequest { document: b"silence".to_vec(), force: false };
    let status = client.apply(request).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the agent is stopping"));
    agent.stop().await;
}

#[tokio::test]
async fn events_are_the_latest_and_then_those_to_come() {
    let agent = FakeAgent::start();
    agent.publisher.recent.send_replace(Arc::new(vec![event(1, "one"), event(2, "two")]));
    let mut client = agent.client().await;
    let at_once = client.events(v1::EventsRequest { follow: false }).await.unwrap().into_inner();
    let ids: Vec<u64> = at_once.map(|event| event.unwrap().id).collect().await;
    assert_eq!(ids, [1, 2]);

    let mut all = client.events(v1::EventsRequest { follow: true }).await.unwrap().into_inner();
    assert_eq!(all.message().await.unwrap().unwrap().id, 1);
    assert_eq!(all.message().await.unwrap().unwrap().message, "two");
    // The first was delivered and has left the outbox; the second is not shown again.
    agent.publisher.recent.send_replace(Arc::new(vec![event(2, "two"), event(3, "three")]));
    assert_eq!(all.message().await.unwrap().unwrap().id, 3);
    // The agent's end is the stream's, and does not wait for who follows it.
    agent.stop().await;
    assert!(!matches!(all.message().await, Ok(Some(_))));
}

#[tokio::test]
async fn a_watched_app_is_told_anew_only_when_it_changed() {
    let agent = FakeAgent::start();
    let mut client = agent.client().await;
    let request = v1::AppRequest { app: "hello".to_owned() };
    let mut states = client.watch(request).await.unwrap().into_inner();
    assert_eq!(states.message().await.unwrap().unwrap().running_status, "Progressing");
    let mut now = statuses();
    now.apps.remove("shop");
    agent.publisher.statuses.send_replace(Arc::new(now.clone()));
    now.apps.get_mut("hello").unwrap().running_status = RunningStatus::Running;
    agent.publisher.statuses.send_replace(Arc::new(now.clone()));
    assert_eq!(states.message().await.unwrap().unwrap().running_status, "Running");
    agent.publisher.statuses.send_replace(Arc::default());
    assert_eq!(states.message().await.unwrap(), None);
    agent.stop().await;
}

#[tokio::test]
async fn an_archive_comes_whole_or_not_at_all() {
    let agent = FakeAgent::start();
    let mut client = agent.client().await;
    let part = |size| v1::ImagesImportRequest { part: vec![7; size] };
    // A caller who leaves in the middle has imported nothing.
    let half = stream::iter([part(300_000)]).chain(stream::pending());
    let given_up = tokio::time::timeout(Duration::from_millis(50), client.images_import(half));
    given_up.await.unwrap_err();
    let parts = stream::iter([part(300_000), part(300_000)]);
    let names = client.images_import(parts).await.unwrap().into_inner().names;
    assert_eq!(names, ["docker.io/library/of-600000-bytes:1"]);

    let rubbish = v1::ImagesImportRequest { part: b"rubbish".to_vec() };
    let status = client.images_import(stream::iter([rubbish])).await.unwrap_err();
    assert_eq!(status.message(), "ImageCorrupt: the archive is no archive");
    assert_eq!(agent.asked(), ["import 600000 bytes", "import 7 bytes"]);
    // Nothing is left behind.
    assert_eq!(fs::read_dir(agent.dir.path().join("state")).unwrap().count(), 0);
    agent.stop().await;
}

#[tokio::test]
async fn the_device_tells_its_troubles_and_who_it_is() {
    let agent = FakeAgent::start();
    let details = "policy drop".to_owned();
    let troubles = vec![Trouble { reason: Reason::ForwardBlocked, details }];
    let device = DeviceState { troubles, ..DeviceState::default() };
    agent.publisher.device.send_replace(Arc::new(device));
    let reply = agent.client().await.device(v1::DeviceRequest {}).await.unwrap().into_inner();
    let status = reply.status.unwrap();
    assert_eq!((reply.device.as_str(), reply.apps, reply.running), ("pi-1", 2, 0));
    assert_eq!((status.online, status.epoch), (true, 12));
    assert_eq!(status.troubles[0].reason, "ForwardBlocked");
    agent.stop().await;
}
