//! How a replica leaves: nothing begins on it any more, nothing that is open is cut, and whoever waits learns of the
//! last end.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::task::Poll;

use domain::route::Side;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use tokio::sync::mpsc;
use tokio::task::yield_now;

use super::super::errand::Errand;
use super::super::leave::Leave;
use super::super::link::Link;
use super::super::upstream::Upstream;
use super::*;
use crate::drain::Drain as _;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n";

fn replica_of(address: SocketAddrV4) -> ReplicaName {
    ReplicaName::new(&"hello--1".parse().unwrap(), u64::from(address.port()))
}

impl Bench {
    fn drained(&self, address: SocketAddrV4) -> BoxFuture<'static, ()> {
        Leave(Arc::clone(&self.shared)).drained(&replica_of(address))
    }

    fn route(&self, backends: &[SocketAddrV4]) {
        self.routes.send_replace(table(vec![app("hello", backends)]));
    }
}

/// It has had every chance to come to its end, and has not.
async fn waits(drained: &mut BoxFuture<'static, ()>) {
    for _ in 0..100 {
        assert!(drained.now_or_never().is_none(), "something is open");
        yield_now().await;
    }
}

async fn ends(drained: BoxFuture<'static, ()>) {
    time::timeout(PATIENCE, drained).await.expect("nothing is open any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn nobody_is_on_a_replica_that_was_drained() {
    const ROUNDS: u16 = 200;
    let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let routed = |port| table(vec![app("hello", &[at(port)])]);
    let (published, routes_rx) = watch::channel(routed(1));
    let shared =
        Arc::new(Shared::new(settings(), routes_rx, watch::Sender::default(), Tasks::default()));
    // Replicas up to this one are stopped.
    let stopped = Arc::new(AtomicU16::new(0));
    let (strays, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let over = Arc::new(AtomicBool::new(false));
    for _ in 0..8 {
        let (shared, stopped, over) =
            (Arc::clone(&shared), Arc::clone(&stopped), Arc::clone(&over));
        let (strays, requests) = (Arc::clone(&strays), Arc::clone(&requests));
        Tasks::default().spawn_short(Span::none(), async move {
            while !over.load(Ordering::SeqCst) {
                let mut errand = Errand::new("hello", &Side::Lan, &shared);
                let busy = errand.reserve(&shared, || 0).await.unwrap().busy;
                let serves = busy.upstream().address.port();
                if serves <= stopped.load(Ordering::SeqCst) {
                    strays.fetch_add(1, Ordering::SeqCst);
                }
                yield_now().await;
                if serves <= stopped.load(Ordering::SeqCst) {
                    strays.fetch_add(1, Ordering::SeqCst);
                }
                drop(busy);
                requests.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let leave = Leave(Arc::clone(&shared));
    for port in 1..=ROUNDS {
        // Each replica is asked for something, however busy the machine is.
        let before = requests.load(Ordering::SeqCst);
        eventually(|| before < requests.load(Ordering::SeqCst)).await;
        published.send_replace(routed(port + 1));
        ends(leave.drained(&replica_of(at(port)))).await;
        stopped.store(port, Ordering::SeqCst);
    }
    over.store(true, Ordering::SeqCst);
    assert_eq!(strays.load(Ordering::SeqCst), 0);
    assert!(usize::from(ROUNDS) <= requests.load(Ordering::SeqCst), "hardly anything was asked");
}

#[tokio::test]
async fn a_replica_is_drained_at_once_where_nothing_is_open_and_never_while_it_is_routed() {
    let (here, gone) = (named("here").await, nobody().await);
    let mut bench = Bench::start(settings(), vec![app("hello", &[here])]);
    assert_eq!(body(&bench.get("hello").await), "here");
    ends(bench.drained(gone)).await;
    let mut drained = bench.drained(here);
    waits(&mut drained).await;
    // It is routed still, beside another.
    bench.route(&[here, gone]);
    waits(&mut drained).await;
    bench.route(&[gone]);
    ends(drained).await;
}

#[tokio::test]
async fn a_download_is_waited_for_to_its_last_byte() {
    let (listener, old) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[old])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    bench.route(&[]);
    let mut drained = bench.drained(old);
    waits(&mut drained).await;
    server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
    read_until(&mut client, "ha").await;
    waits(&mut drained).await;
    // Other tables in between change nothing.
    bench.route(&[named("new").await]);
    waits(&mut drained).await;
    server.write_all(b"lf").await.unwrap();
    read_until(&mut client, "lf").await;
    ends(drained).await;
    ends(bench.drained(old)).await;
}

#[tokio::test]
async fn a_replica_that_was_routed_twice_is_waited_for_in_both_lives() {
    let (listener, old) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[old])]);
    let lan = bench.lan().await;
    let mut lives = Vec::new();
    for open in [1, 2] {
        bench.route(&[old]);
        let mut client = TcpStream::connect(lan).await.unwrap();
        client.write_all(GET).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        bench.route(&[]);
        bench.open(0).await;
        lives.push((client, server));
        assert_eq!(lives.len(), open);
    }
    let mut drained = bench.drained(old);
    for (mut client, mut server) in lives {
        waits(&mut drained).await;
        server.write_all(OK).await.unwrap();
        read_until(&mut client, "ok").await;
    }
    ends(drained).await;
}

#[tokio::test]
async fn a_web_socket_is_waited_for() {
    let (listener, old) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[old])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    let head = "GET / HTTP/1.1\r\nhost: hello\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    let head =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    server.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    bench.route(&[]);
    let mut drained = bench.drained(old);
    waits(&mut drained).await;
    client.write_all(b"ping").await.unwrap();
    read_until(&mut server, "ping").await;
    waits(&mut drained).await;
    drop(client);
    drop(server);
    ends(drained).await;
}

#[tokio::test]
async fn a_stream_of_http2_is_waited_for() {
    let (feeds_tx, mut feeds) = mpsc::unbounded_channel();
    let source = replica(move |_| {
        let (feed, mut eaten) = mpsc::unbounded_channel::<Frame<Bytes>>();
        feeds_tx.send(feed).unwrap();
        let frames = stream::poll_fn(move |cx| eaten.poll_recv(cx).map(|frame| frame.map(Ok)));
        async move { Response::new(StreamBody::new(frames).boxed_unsync()) }
    })
    .await;
    let service = Service { transport: Transport::Http2, ..app("hello", &[source]) };
    let mut bench = Bench::start(settings(), vec![service]);
    let mut client = wide(bench.lan().await).await;
    let request = Request::get("http://hello/").body(Full::<Bytes>::default()).unwrap();
    let mut response = client.send_request(request).await.unwrap();
    let feed = feeds.recv().await.unwrap();
    bench.route(&[]);
    let mut drained = bench.drained(source);
    waits(&mut drained).await;
    feed.send(Frame::data(Bytes::from_static(b"last"))).unwrap();
    drop(feed);
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "last");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "");
    ends(drained).await;
}

#[tokio::test]
async fn a_client_that_keeps_its_connection_goes_on_with_the_next_replica() {
    let (listener, old) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[old])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    client.write_all(GET).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    server.write_all(OK).await.unwrap();
    read_until(&mut client, "ok").await;
    bench.open(0).await;
    bench.route(&[named("new").await]);
    ends(bench.drained(old)).await;
    // The link that lay idle is closed before the replica is told to stop.
    let closed = time::timeout(PATIENCE, server.read(&mut [0; 8])).await;
    assert_eq!(closed.expect("the link is closed").unwrap(), 0);
    for _ in 0..3 {
        client.write_all(GET).await.unwrap();
        assert!(read_until(&mut client, "new").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

#[tokio::test]
async fn a_post_is_not_written_to_a_link_that_the_replica_has_closed() {
    const ROUNDS: usize = 300;
    let (listener, address) = listen().await;
    let (closed_tx, mut closed) = mpsc::unbounded_channel();
    Tasks::default().spawn_short(Span::none(), async move {
        // Answers one request on each connection, and closes it a little later without a word.
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = read_until(&mut stream, "\r\n\r\n").await;
            if head.starts_with("POST") {
                stream.read_exact(&mut [0; 2]).await.unwrap();
            }
            stream.write_all(OK).await.unwrap();
            drop(stream);
            closed_tx.send(()).unwrap();
        }
    });
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    let post = b"POST / HTTP/1.1\r\nhost: hello\r\ncontent-length: 2\r\n\r\nhi";
    for _ in 0..ROUNDS {
        client.write_all(post).await.unwrap();
        let answer = read_until(&mut client, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        read_until(&mut client, "ok").await;
        closed.recv().await.unwrap();
    }
}

#[tokio::test]
async fn a_link_is_known_to_be_closed_before_the_runtime_knows() {
    let (listener, address) = listen().await;
    let routes = watch::channel(Arc::default()).1;
    let shared = Shared::new(settings(), routes, watch::Sender::default(), Tasks::default());
    let upstream = Upstream::new(address, shared.ledger.tally(&"hello--1".parse().unwrap()));
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    let mut link = Link::open(client.unwrap()).await.unwrap();
    poll_fn(|cx| {
        link.drive(cx);
        Poll::Ready(())
    })
    .await;
    upstream.put_back(link, &shared);
    let quiet = upstream.take(false).expect("nothing has come on it");
    upstream.put_back(quiet, &shared);
    // No await from here on: the runtime has no turn to learn of it.
    drop(server);
    let closed = upstream.take(true).expect("what may be sent again finds out by itself");
    upstream.put_back(closed, &shared);
    assert!(upstream.take(false).is_none(), "it is closed");
}

#[tokio::test]
async fn a_call_after_a_farewell_goes_over_a_new_connection() {
    let (listener, address) = listen().await;
    Tasks::default().spawn_short(Span::none(), async move {
        // Says farewell (GOAWAY) on each connection once it has served one call.
        while let Ok((stream, _)) = listener.accept().await {
            Tasks::default().spawn_short(Span::none(), async move {
                let (served_tx, mut served) = mpsc::unbounded_channel();
                let service = service_fn(move |request: Request<Incoming>| {
                    let served = served_tx.clone();
                    async move {
                        drop(request.into_body().collect().await);
                        served.send(()).unwrap();
                        Ok::<_, hyper::Error>(text("called"))
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(ByTasks(Tasks::default()));
                let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
                tokio::select! {
                    _ = connection.as_mut() => return,
                    _ = served.recv() => connection.as_mut().graceful_shutdown(),
                }
                connection.await.ok();
            });
        }
    });
    let service = Service { transport: Transport::Http2, ..app("hello", &[address]) };
    let mut bench = Bench::start(settings(), vec![service]);
    let mut client = wide(bench.lan().await).await;
    for call in 0..100 {
        let request = Request::post("http://hello/").body(Full::new(Bytes::from_static(b"hi")));
        let response = client.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 200, "call {call}");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "called");
    }
}

async fn wide(address: SocketAddr) -> http2::SendRequest<Full<Bytes>> {
    let tasks = Tasks::default();
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        http2::handshake(ByTasks(tasks.clone()), TokioIo::new(stream)).await.unwrap();
    tasks.spawn_short(Span::none(), async move {
        connection.await.ok();
    });
    sender
}
