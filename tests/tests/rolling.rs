//! Rolling updates under load: not one request is lost when a replica goes, and none holds it past its grace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::header::HOST;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use system_tests::{
    Board, Document, Image, LONG, SHORT, Shared, Stage, eventually, look_every, now, pause,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time;

static STAGE: Shared<Stage> = Shared::new();

/// Requests that are asked at the least, and clients that ask them.
const REQUESTS: u64 = 10_000;
const KEPT: usize = 32;
const FRESH: usize = 12;
const WIDE: usize = 4;
const DOWNLOADS: usize = 8;
const SOCKETS: usize = 8;

/// A client asks once in so long: 64 of them are load enough for a debug build beside other tests.
const PACE: Duration = Duration::from_millis(30);

/// How long a download takes, a socket is used, and an old replica may go on: in this order.
const DOWNLOAD: Duration = Duration::from_secs(20);
const SOCKET: Duration = Duration::from_secs(4);
const GRACE: Duration = Duration::from_secs(24);

/// No single answer takes longer, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn prepare(board: &mut Board) -> Result<()> {
    board.preload(&Image::testapp("test.local/app:1")?)
}

fn stage() -> Result<Arc<Stage>> {
    STAGE.get(|| Stage::start(prepare))
}

fn app(version: u32, grace: Duration) -> Document {
    Document::new("test.local/app:1")
        .env("VERSION", &version.to_string())
        .set("/template/terminationGracePeriodSeconds", grace.as_secs())
        .skerry("probationSeconds", 0)
}

/// What the clients know together, and what each of them counts.
#[derive(Debug)]
struct Load {
    to: SocketAddr,
    /// The last update is through.
    rolled: AtomicBool,
    gets: AtomicU64,
    posts: AtomicU64,
    downloads: AtomicU64,
    sockets: AtomicU64,
}

impl Load {
    fn over(&self) -> bool {
        let asked = self.gets.load(Ordering::SeqCst) + self.posts.load(Ordering::SeqCst);
        self.rolled.load(Ordering::SeqCst) && REQUESTS <= asked
    }

    async fn connect(&self) -> Result<TcpStream> {
        let stream = time::timeout(PATIENCE, TcpStream::connect(self.to)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn narrow(&self, clients: &mut JoinSet<Result<()>>) -> Result<Narrow> {
        let (sender, wire) = http1::handshake(TokioIo::new(self.connect().await?)).await?;
        // Whoever asks learns how it ended.
        clients.spawn(async move {
            drop(wire.await);
            Ok(())
        });
        Ok(sender)
    }

    /// Takes note of an answer, once it is whole and right.
    async fn take(&self, response: Response<Incoming>, kind: Kind) -> Result<()> {
        let status = response.status();
        let body = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
        ensure!(status == 200, "{status} {}", String::from_utf8_lossy(&body));
        match kind {
            Kind::Get => {
                let told: Value = serde_json::from_slice(&body)?;
                ensure!(told["app"] == "rolling", "answered by {told}");
                self.gets.fetch_add(1, Ordering::SeqCst);
            }
            Kind::Post => {
                ensure!(&body[..] == b"100\n", "of 100 bytes it got {body:?}");
                self.posts.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

type Narrow = http1::SendRequest<Full<Bytes>>;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Get,
    Post,
}

impl Kind {
    fn of(turn: u64) -> Self {
        if turn.is_multiple_of(4) { Self::Post } else { Self::Get }
    }

    fn request(self, target: &str) -> Result<Request<Full<Bytes>>> {
        let (method, path, length) = match self {
            Self::Get => ("GET", "/", 0),
            Self::Post => ("POST", "/upload", 100),
        };
        let request = Request::builder().method(method).uri(format!("{target}{path}"));
        let request = if target.is_empty() { request.header(HOST, "rolling") } else { request };
        Ok(request.body(Full::new(Bytes::from(vec![b'x'; length])))?)
    }
}

/// Asks on one connection to the end.
async fn kept(load: Arc<Load>) -> Result<()> {
    let mut wires = JoinSet::new();
    let mut sender = load.narrow(&mut wires).await?;
    for turn in 0.. {
        let kind = Kind::of(turn);
        let response = time::timeout(PATIENCE, sender.send_request(kind.request("")?)).await?;
        let response = response.with_context(|| format!("kept connection, request {turn}"))?;
        load.take(response, kind).await.with_context(|| format!("kept connection, {kind:?}"))?;
        if load.over() {
            break;
        }
        time::sleep(PACE).await;
        sender.ready().await.context("the connection was not kept")?;
    }
    Ok(())
}

/// Asks on a new connection each time.
async fn fresh(load: Arc<Load>) -> Result<()> {
    for turn in 0.. {
        let mut wires = JoinSet::new();
        let kind = Kind::of(turn);
        let mut sender = load.narrow(&mut wires).await?;
        let response = time::timeout(PATIENCE, sender.send_request(kind.request("")?)).await?;
        let response = response.with_context(|| format!("fresh connection, request {turn}"))?;
        load.take(response, kind).await.with_context(|| format!("fresh connection, {kind:?}"))?;
        if load.over() {
            break;
        }
        time::sleep(PACE).await;
    }
    Ok(())
}

/// Asks as streams of one HTTP/2 connection.
async fn wide(load: Arc<Load>) -> Result<()> {
    let stream = TokioIo::new(load.connect().await?);
    let (mut sender, wire) = http2::handshake(TokioExecutor::new(), stream).await?;
    let mut wires = JoinSet::new();
    wires.spawn(wire);
    for turn in 0.. {
        let kind = Kind::of(turn);
        let request = kind.request("http://rolling")?;
        let response = time::timeout(PATIENCE, sender.send_request(request)).await?;
        let response = response.with_context(|| format!("HTTP/2, request {turn}"))?;
        load.take(response, kind).await.with_context(|| format!("HTTP/2, {kind:?}"))?;
        if load.over() {
            break;
        }
        time::sleep(PACE).await;
    }
    Ok(())
}

/// Reads a body that takes its time, to its last byte.
async fn download(load: Arc<Load>) -> Result<()> {
    let mut wires = JoinSet::new();
    let mut sender = load.narrow(&mut wires).await?;
    let path = format!("/drip?ms={}", DOWNLOAD.as_millis());
    let request = Request::get(path).header(HOST, "rolling").body(Full::default())?;
    let response = sender.send_request(request).await.context("download")?;
    ensure!(response.status() == 200, "a download is answered {}", response.status());
    let body = response.into_body().collect().await.context("a download broke off")?;
    let whole = usize::try_from(DOWNLOAD.as_millis() / 100)? * 1000;
    assert_eq!(body.to_bytes().len(), whole);
    load.downloads.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

/// Opens a socket, says something on it again and again for `span`, and tells how long it could: forever is until the
/// socket is closed.
async fn socket(load: Arc<Load>, span: Duration) -> Result<Duration> {
    let mut stream = load.connect().await?;
    let head =
        b"GET /ws HTTP/1.1\r\nHost: rolling\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("a socket was not opened")?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    load.sockets.fetch_add(1, Ordering::SeqCst);
    let since = now();
    while since.elapsed() < span {
        let word = b"are you there?";
        let mut back = [0; 14];
        let spoken = async {
            stream.write_all(word).await?;
            stream.read_exact(&mut back).await.map(drop)
        };
        if time::timeout(PATIENCE, spoken).await?.is_err() {
            break;
        }
        assert_eq!(&back, word);
        time::sleep(PACE).await;
    }
    Ok(since.elapsed())
}

/// A socket that is closed by us in time, and then another, on whichever replica serves.
async fn sockets(load: Arc<Load>) -> Result<()> {
    for _ in 0..3 {
        let spoken = socket(Arc::clone(&load), SOCKET).await?;
        ensure!(SOCKET <= spoken, "a socket was cut after {spoken:?}");
    }
    Ok(())
}

/// Brings a version out and waits until it has the traffic.
fn roll(stage: &Stage, version: u32) -> Result<Instant> {
    // An app as bad as can be: what is open when it gets SIGTERM is cut.
    stage.control.desire("rolling", app(version, GRACE).env("QUICK_TERM", "1"))?;
    let name = format!("rolling--{version:07}");
    stage.control.await_status("rolling", |status| {
        status["latestReadyRevisionName"] == name.as_str()
            && status["revisions"][0]["trafficWeight"] == 100
    })?;
    Ok(now())
}

/// What all replicas there ever were count, by what was asked.
fn served(stage: &Stage, what: &str) -> Result<u64> {
    let live = stage.board.lan_client().get("rolling", "/served")?.json();
    let said = stage.board.cli(["logs", "rolling", "--tail", "1000000"])?;
    let told = said.lines().filter_map(|line| line.split_once("served ")).map(|(_, json)| json);
    let gone: Vec<Value> = told.map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(gone.len() == 3, "three replicas are gone, and {} told what they served", gone.len());
    Ok([live].iter().chain(&gone).filter_map(|counts| counts[what].as_u64()).sum())
}

#[test]
fn not_one_request_is_lost_in_rolling_updates() -> Result<()> {
    let stage = stage()?;
    roll(&stage, 1)?;
    let load = Arc::new(Load {
        to: SocketAddr::from((stage.board.lan().board(), 80)),
        rolled: AtomicBool::new(false),
        gets: AtomicU64::new(0),
        posts: AtomicU64::new(0),
        downloads: AtomicU64::new(0),
        sockets: AtomicU64::new(0),
    });
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _inside = runtime.enter();
    let mut clients = JoinSet::new();
    for _ in 0..KEPT {
        clients.spawn(kept(Arc::clone(&load)));
    }
    for _ in 0..FRESH {
        clients.spawn(fresh(Arc::clone(&load)));
    }
    for _ in 0..WIDE {
        clients.spawn(wide(Arc::clone(&load)));
    }
    for _ in 0..DOWNLOADS / 2 {
        clients.spawn(download(Arc::clone(&load)));
    }
    for _ in 0..SOCKETS - 1 {
        clients.spawn(sockets(Arc::clone(&load)));
    }
    let mut stubborn = JoinSet::new();
    stubborn.spawn(socket(Arc::clone(&load), Duration::MAX));
    let first = eventually("everyone to be at it", SHORT, || {
        let at_work = load.sockets.load(Ordering::SeqCst);
        ensure!(SOCKETS as u64 <= at_work && 100 < load.gets.load(Ordering::SeqCst), "{load:?}");
        Ok(now())
    })?;

    let taken_over = roll(&stage, 2)?;
    for _ in 0..DOWNLOADS / 2 {
        clients.spawn(download(Arc::clone(&load)));
    }
    for version in [3, 4] {
        // A while of traffic to each.
        pause(Duration::from_secs(1));
        roll(&stage, version)?;
    }
    load.rolled.store(true, Ordering::SeqCst);

    while let Some(ended) = runtime.block_on(clients.join_next()) {
        ended??;
    }
    let cut = runtime.block_on(stubborn.join_next()).context("one was stubborn")???;
    // It lasted for the grace, counted from the switch, and not much longer.
    let before = taken_over.duration_since(first);
    ensure!(GRACE <= cut + SHORT / 10 && cut < before + GRACE + SHORT, "cut after {cut:?}");

    eventually("the old replicas to be gone", LONG, || {
        let left = stage.board.pids_of("rolling")?;
        ensure!(left.len() == 1, "there are {left:?}");
        Ok(())
    })?;
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    assert_eq!(served(&stage, "/")?, count(&load.gets));
    assert_eq!(served(&stage, "/upload")?, count(&load.posts));
    assert_eq!(served(&stage, "/drip to its end")?, count(&load.downloads));
    assert_eq!(count(&load.downloads), DOWNLOADS as u64);
    assert_eq!(served(&stage, "/ws")?, count(&load.sockets));
    assert_eq!(count(&load.sockets), 3 * (SOCKETS as u64 - 1) + 1);
    ensure!(REQUESTS <= count(&load.gets) + count(&load.posts), "{load:?}");
    Ok(())
}

#[test]
fn an_app_that_ignores_sigterm_lives_its_grace_and_no_longer() -> Result<()> {
    const SHORT_GRACE: Duration = Duration::from_secs(3);
    let stage = stage()?;
    let board = &stage.board;
    let document = |version| app(version, SHORT_GRACE).env("IGNORE_TERM", "1");
    stage.control.desire("deaf", document(1))?;
    stage.control.await_running("deaf")?;
    let old = board.pids_of("deaf")?;
    stage.control.desire("deaf", document(2))?;
    let pace = Duration::from_millis(20);
    let told = look_every(pace, "SIGTERM to come", LONG, || {
        let said = board.cli(["logs", "deaf", "--tail", "100"])?;
        ensure!(said.contains("got SIGTERM"), "{said}");
        Ok(now())
    })?;
    for pid in old.values() {
        let process = format!("/proc/{pid}");
        let process = std::path::Path::new(&process);
        ensure!(process.exists(), "it was killed at once");
        look_every(pace, "its end", LONG, || {
            if process.exists() {
                bail!("it runs");
            }
            Ok(())
        })?;
    }
    let lived = told.elapsed();
    ensure!(SHORT_GRACE <= lived + SHORT_GRACE / 6, "killed {lived:?} after SIGTERM");
    ensure!(lived < SHORT_GRACE + Duration::from_secs(2), "it lived {lived:?} after SIGTERM");
    board.lan_client().await_answer("deaf", "/", |answer| answer.json()["version"] == "2")?;
    Ok(())
}
