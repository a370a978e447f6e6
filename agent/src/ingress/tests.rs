//! The ingress against real sockets on loopback.

mod demand;
mod faults;
mod leaving;
mod listening;
mod passing;
mod splitting;
mod tcp;
mod waiting;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::pin;

use bytes::Bytes;
use domain::model::{AppName, EnvironmentName, ReplicaName, RevisionName};
use domain::reason::Reason;
use domain::route::{
    Backend, EnvironmentRoutes, Ports, RouteTable, Service, Share, Sleep, Transport,
};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;
use tracing::Span;

use super::connection::ByTasks;
use super::*;

/// A test that waits longer than this waits for what will not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The gateway of the tests' environment; all of 127.0.0.0/8 is ours.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 1);

type AnyBody = UnsyncBoxBody<Bytes, hyper::Error>;

fn text(text: impl Into<String>) -> Response<AnyBody> {
    Response::new(
        Full::new(Bytes::from(text.into())).map_err(|never| match never {}).boxed_unsync(),
    )
}

fn settings() -> Settings {
    Settings::new("127.0.0.1:0".parse().unwrap())
}

/// `app(name, backends)`: an external app of one revision.
fn app(name: &str, backends: &[SocketAddrV4]) -> Service {
    let revision: RevisionName = format!("{name}--1").parse().unwrap();
    let backend = |address: &SocketAddrV4| {
        let replica = ReplicaName::new(&revision, u64::from(address.port()));
        Backend { replica, address: *address }
    };
    Service {
        app: name.parse().unwrap(),
        external: true,
        transport: Transport::Auto,
        lan_name: String::new(),
        domains: Vec::new(),
        split: vec![Share { revision: revision.clone(), weight: 100 }],
        revisions: [(revision.clone(), backends.iter().map(backend).collect())].into(),
        asleep: BTreeMap::default(),
        labels: BTreeMap::default(),
        unready: Reason::NoReadyReplica,
    }
}

/// The same app, with its revision asleep.
fn asleep(name: &str, sleep: Sleep) -> Service {
    let mut service = app(name, &[]);
    service.asleep = service.revisions.keys().map(|revision| (revision.clone(), sleep)).collect();
    service
}

fn table(apps: Vec<Service>) -> Arc<RouteTable> {
    let apps: BTreeMap<AppName, _> =
        apps.into_iter().map(|app| (app.app.clone(), Arc::new(app))).collect();
    let suffix = "default.pi.internal".to_owned();
    let routes = EnvironmentRoutes { gateway: GATEWAY, suffix, apps, ports: Ports::new() };
    let environments = [(EnvironmentName::default(), routes)].into();
    Arc::new(RouteTable { environments, ports: Ports::new() })
}

/// An ingress at work; it ends with this.
struct Bench {
    tasks: Tasks,
    routes: watch::Sender<Arc<RouteTable>>,
    troubles: watch::Receiver<Arc<BTreeMap<String, Trouble>>>,
    bound: watch::Receiver<BTreeMap<String, SocketAddr>>,
    demand: watch::Receiver<Arc<Demand>>,
    shared: Arc<Shared>,
}

impl Bench {
    fn start(settings: Settings, apps: Vec<Service>) -> Self {
        let tasks = Tasks::default();
        let (routes, routes_rx) = watch::channel(table(apps));
        let (troubles_tx, troubles) = watch::channel(Arc::default());
        let (demand_tx, demand) = watch::channel(Arc::default());
        let ingress = Ingress::new(
            settings,
            routes_rx,
            demand_tx,
            troubles_tx,
            ServiceManager::default(),
            tasks.clone(),
        );
        let (bound, shared) = (ingress.bound(), Arc::clone(&ingress.shared));
        tasks.spawn(Span::none(), |stop| ingress.run(stop));
        Self { tasks, routes, troubles, bound, demand, shared }
    }

    /// Where a listener listens, once it does.
    async fn at(&mut self, name: &str) -> SocketAddr {
        let bound = time::timeout(PATIENCE, self.bound.wait_for(|bound| bound.contains_key(name)));
        bound.await.expect("it listens").unwrap()[name]
    }

    async fn lan(&mut self) -> SocketAddr {
        self.at("ingress/lan").await
    }

    /// A request without a body to the LAN listener, and the whole answer.
    async fn get(&mut self, host: &str) -> String {
        let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        exchange(self.lan().await, &head).await
    }

    /// Waits until so many requests are open.
    async fn open(&self, expected: usize) {
        let open = || self.shared.fleet().upstreams.values().map(|one| one.open()).sum::<usize>();
        eventually(|| open() == expected).await;
    }

    /// Waits until so many requests wait.
    async fn waiting(&self, expected: usize) {
        eventually(|| self.shared.waiting.taken() == expected).await;
    }

    /// Publishes another table.
    fn change(&self, apps: Vec<Service>) {
        self.routes.send_replace(table(apps));
    }

    /// Requests that ever began.
    fn begun(&self) -> u64 {
        self.shared.ledger.begun()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.stop_signal().cancel();
    }
}

/// Comes back when it holds; what is asked is a level that other tasks reach without telling.
async fn eventually(holds: impl Fn() -> bool) {
    let reached = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(PATIENCE, reached).await.expect("it comes to hold");
}

/// Sends this and reads until the other side closes.
async fn exchange(address: SocketAddr, sent: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the connection is closed").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads up to and with `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let byte = time::timeout(PATIENCE, stream.read_u8()).await.expect("there is more");
        read.push(byte.unwrap_or_else(|_| panic!("ended: {}", String::from_utf8_lossy(&read))));
    }
    String::from_utf8(read).unwrap()
}

async fn listen() -> (TcpListener, SocketAddrV4) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("asked for IPv4") };
    (listener, address)
}

/// A replica that speaks HTTP/1.1 and HTTP/2.
async fn replica<F>(
    handle: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddrV4
where
    F: Future<Output = Response<AnyBody>> + Send + 'static,
{
    let (listener, address) = listen().await;
    let tasks = Tasks::default();
    tasks.clone().spawn_short(Span::none(), async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handle = handle.clone();
            let by = ByTasks(tasks.clone());
            tasks.spawn_short(Span::none(), async move {
                let service = service_fn(move |request| {
                    let answer = handle(request);
                    async move { Ok::<_, hyper::Error>(answer.await) }
                });
                let builder = auto::Builder::new(by);
                let served = pin!(builder.serve_connection(TokioIo::new(stream), service));
                served.await.ok();
            });
        }
    });
    address
}

/// A replica that answers with its name.
async fn named(name: &'static str) -> SocketAddrV4 {
    replica(move |_| async move { text(name) }).await
}

/// An address where nobody listens.
async fn nobody() -> SocketAddrV4 {
    listen().await.1
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}
