//! Requests that wait for a revision to wake: who is served, in which order, and who is sent away.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use domain::route::Side;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use hyper::client::conn::http2;
use hyper::header::HeaderMap;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::super::errand::{Errand, Finding};
use super::super::waiting::weight;
use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n";

/// A client that has sent this, and waits.
async fn client(lan: SocketAddr, sent: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(lan).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream
}

/// The head of the answer.
async fn head(stream: &mut TcpStream) -> String {
    read_until(stream, "\r\n\r\n").await
}

fn sleeping() -> Vec<Service> {
    vec![asleep("hello", Sleep::Wakes)]
}

#[tokio::test]
async fn a_request_wakes_its_revision_and_is_served_by_the_first_replica() {
    let brief = Settings { window: Duration::from_millis(10), ..settings() };
    let mut bench = Bench::start(brief, sleeping());
    let lan = bench.lan().await;
    let mut clients = Vec::new();
    for waiting in 1..=30 {
        clients.push(client(lan, GET).await);
        bench.waiting(waiting).await;
    }
    let calls = |demand: &Arc<Demand>| demand.values().any(|asked| asked.waiting != 0);
    time::timeout(PATIENCE, bench.demand.wait_for(calls)).await.expect("it is told").unwrap();
    let awake = named("awake").await;
    // Other tables in between call nobody.
    bench.change(vec![asleep("hello", Sleep::Wakes), app("other", &[awake])]);
    assert_eq!(body(&bench.get("other").await), "awake");
    bench.waiting(30).await;
    bench.change(vec![app("hello", &[awake])]);
    for client in &mut clients {
        assert!(read_until(client, "awake").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    bench.waiting(0).await;
    bench.open(0).await;
    let rests = bench.demand.wait_for(|demand| demand.is_empty());
    time::timeout(PATIENCE, rests).await.expect("the last window is told").unwrap();
}

/// An app of two revisions, each with these replicas, or asleep without any.
fn two(first: &[SocketAddrV4], second: &[SocketAddrV4]) -> Arc<RouteTable> {
    let mut service = app("hello", &[]);
    for (number, addresses) in [(1, first), (2, second)] {
        let name: RevisionName = format!("hello--{number}").parse().unwrap();
        let backend = |address: &SocketAddrV4| {
            let replica = ReplicaName::new(&name, u64::from(address.port()));
            Backend { replica, address: *address }
        };
        let ready: Vec<_> = addresses.iter().map(backend).collect();
        if ready.is_empty() {
            service.asleep.insert(name.clone(), Sleep::Wakes);
        }
        service.revisions.insert(name, ready);
    }
    table(vec![service])
}

fn shared(settings: Settings, table: Arc<RouteTable>) -> (watch::Sender<Arc<RouteTable>>, Shared) {
    let (routes, routes_rx) = watch::channel(table);
    let shared = Shared::new(settings, routes_rx, watch::Sender::default(), Tasks::default());
    (routes, shared)
}

#[tokio::test]
async fn who_came_first_is_called_first_and_nobody_waits_for_another_revision() {
    let at = |port| [SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)];
    // Twenty have room.
    let bounded = Settings { waiting_bytes_max: 200, ..settings() };
    let (routes, shared) = shared(bounded, two(&[], &[]));
    let ask = |number: usize, revision: u32| {
        let shared = &shared;
        async move {
            let host = format!("hello--{revision}.default.pi.internal");
            let mut errand = Errand::new(&host, &Side::Lan, shared);
            let busy = errand.reserve(shared, || 10).await.unwrap().busy;
            (number, busy.upstream().address.port())
        }
    };
    let mut asked = FuturesUnordered::new();
    for number in 0..20 {
        asked.push(ask(number, if number % 5 == 0 { 2 } else { 1 }));
    }
    assert!(asked.next().now_or_never().is_none(), "nobody is called");
    routes.send_replace(two(&[], &at(2)));
    shared.waiting.call(&shared);
    // They come in the order in which they were woken.
    for number in [0, 5, 10, 15] {
        assert_eq!(asked.next().await, Some((number, 2)));
    }
    assert!(asked.next().now_or_never().is_none(), "the other one is asleep");
    asked.push(ask(20, 1));
    assert!(asked.next().now_or_never().is_none(), "it waits behind the others");
    routes.send_replace(two(&at(1), &at(2)));
    shared.waiting.call(&shared);
    for number in (0..=20).filter(|number| number % 5 != 0 || *number == 20) {
        assert_eq!(asked.next().await, Some((number, 1)));
    }
}

#[tokio::test]
async fn what_finds_no_place_is_refused_at_once_and_a_client_that_leaves_makes_room() {
    let settings = Settings { waiting_max: 2, ..settings() };
    let mut bench =
        Bench::start(settings, vec![asleep("hello", Sleep::Wakes), asleep("other", Sleep::Wakes)]);
    let lan = bench.lan().await;
    let first = client(lan, GET).await;
    let mut second = client(lan, GET).await;
    bench.waiting(2).await;
    let answer = bench.get("hello").await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("x-skerry-reason: ActivationQueueFull\r\n"), "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    // Another app has its own queue.
    let other = client(lan, b"GET / HTTP/1.1\r\nhost: other\r\n\r\n").await;
    bench.waiting(3).await;
    drop((first, other));
    bench.waiting(1).await;
    let mut third = client(lan, GET).await;
    bench.waiting(2).await;
    bench.change(vec![app("hello", &[named("awake").await])]);
    for client in [&mut second, &mut third] {
        read_until(client, "awake").await;
    }
}

#[tokio::test]
async fn what_waits_is_bounded_by_its_bytes_too() {
    let request = Request::get("http://hello/path?query").header("name", "value").body(()).unwrap();
    assert_eq!(weight(&request), "hello".len() + "/path?query".len() + "namevalue".len());
    // `/`, `host`, `hello`: 10 bytes each, and 4 for the header that a longer one has.
    let mut bench = Bench::start(Settings { waiting_bytes_max: 34, ..settings() }, sleeping());
    let lan = bench.lan().await;
    let _waiting = (client(lan, GET).await, client(lan, GET).await);
    bench.waiting(2).await;
    let longer = |value: &str| format!("GET / HTTP/1.1\r\nhost: hello\r\nx: {value}\r\n\r\n");
    let mut refused = client(lan, longer("1234").as_bytes()).await;
    assert!(head(&mut refused).await.contains("x-skerry-reason: ActivationQueueFull\r\n"));
    let fits = client(lan, longer("123").as_bytes()).await;
    bench.waiting(3).await;
    drop(fits);
    bench.waiting(2).await;
    let _fits = client(lan, longer("123").as_bytes()).await;
    bench.waiting(3).await;
}

#[tokio::test]
async fn who_waits_is_told_when_nobody_will_come() {
    let stopped = Service { unready: Reason::AppStopped, ..app("hello", &[]) };
    let ends = [
        (vec![asleep("hello", Sleep::Fails(Reason::ImageNotFound))], "503", "ImageNotFound"),
        (vec![stopped], "503", "AppStopped"),
        (Vec::new(), "404", "UnknownHost"),
    ];
    for (apps, status, reason) in ends {
        let mut bench = Bench::start(settings(), sleeping());
        let mut waits = client(bench.lan().await, GET).await;
        bench.waiting(1).await;
        bench.change(apps);
        let answer = head(&mut waits).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(&format!("x-skerry-reason: {reason}\r\n")), "{answer}");
        // The next one need not wait for it.
        assert!(bench.get("hello").await.contains(&format!("x-skerry-reason: {reason}\r\n")));
        bench.waiting(0).await;
    }
}

#[tokio::test]
async fn patience_ends_in_504() {
    let hasty = Settings { response_timeout: Duration::from_millis(50), ..settings() };
    let mut bench = Bench::start(hasty, sleeping());
    let answer = bench.get("hello").await;
    assert!(answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{answer}");
    assert!(answer.contains("x-skerry-reason: UpstreamTimeout\r\n"), "{answer}");
    bench.waiting(0).await;
}

#[tokio::test(start_paused = true)]
async fn patience_counts_from_the_arrival_and_not_from_the_wait() {
    let (_routes, shared) = shared(settings(), table(sleeping()));
    let began = Instant::now();
    let mut errand = Errand::new("hello", &Side::Lan, &shared);
    time::advance(Duration::from_secs(200)).await;
    assert_eq!(errand.reserve(&shared, || 0).await.err(), Some(Reason::UpstreamTimeout));
    assert_eq!(began.elapsed().as_secs(), 240);
}

#[tokio::test]
async fn who_waits_is_let_go_when_the_agent_stops() {
    let mut bench = Bench::start(settings(), sleeping());
    let mut waits = client(bench.lan().await, GET).await;
    bench.waiting(1).await;
    bench.tasks.stop_signal().cancel();
    assert!(head(&mut waits).await.starts_with("HTTP/1.1 503 "));
    let shared = Arc::clone(&bench.shared);
    let mut errand = Errand::new("hello", &Side::Lan, &shared);
    let late = errand.reserve(&shared, || 0).now_or_never().expect("it is refused at once");
    assert_eq!(late.err(), Some(Reason::NoReadyReplica));
}

#[tokio::test]
async fn a_request_waits_too_where_its_replica_could_not_be_reached_and_has_left() {
    let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let (routes, shared) = shared(settings(), table(vec![app("hello", &[at(1)])]));
    let mut errand = Errand::new("hello", &Side::Lan, &shared);
    let busy = errand.reserve(&shared, || 0).await.unwrap().busy;
    errand.pass_over(busy.upstream());
    drop(busy);
    routes.send_replace(table(sleeping()));
    let mut again = pin!(errand.reserve(&shared, || 0));
    assert!(again.as_mut().now_or_never().is_none(), "it waits");
    // The same name at the same address is another replica: the one before has left.
    routes.send_replace(table(vec![app("hello", &[at(1)])]));
    shared.waiting.call(&shared);
    let busy = again.await.unwrap().busy;
    assert_eq!(busy.upstream().address, at(1));
}

#[tokio::test]
async fn a_change_between_the_look_and_the_place_is_not_waited_for_again() {
    let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
    let (routes, shared) = shared(settings(), table(sleeping()));
    let mut errand = Errand::new("hello", &Side::Lan, &shared);
    let Finding::Asleep(asleep) = errand.look(&shared) else { panic!("it is asleep") };
    routes.send_replace(table(vec![app("hello", &[at])]));
    let called = shared.waiting.wait(&shared, &errand, asleep, 0).now_or_never();
    let busy = called.expect("it is called at once").unwrap().busy;
    assert_eq!(busy.upstream().address, at);
}

#[tokio::test]
async fn a_body_waits_with_the_client_and_arrives_whole() {
    // More than the sockets hold.
    const LENGTH: usize = 16 << 20;
    let mut bench = Bench::start(settings(), sleeping());
    let mut client = client(bench.lan().await, b"").await;
    let upload = async {
        let head = format!("POST / HTTP/1.1\r\nhost: hello\r\ncontent-length: {LENGTH}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; LENGTH]).await.unwrap();
        read_until(&mut client, "bytes").await
    };
    let mut upload = pin!(upload);
    tokio::select! {
        biased;
        _ = upload.as_mut() => panic!("nobody reads it"),
        () = bench.waiting(1) => (),
    }
    let counts = replica(|request| async move {
        let received = request.into_body().collect().await.unwrap().to_bytes();
        text(format!("{} bytes", received.len()))
    });
    bench.change(vec![app("hello", &[counts.await])]);
    let answer = time::timeout(PATIENCE, upload).await.expect("it is taken");
    assert!(answer.ends_with(&format!("{LENGTH} bytes")), "{answer}");
}

#[tokio::test]
async fn a_web_socket_waits() {
    let mut bench = Bench::start(settings(), sleeping());
    let asks = "GET / HTTP/1.1\r\nhost: hello\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut client = client(bench.lan().await, asks.as_bytes()).await;
    bench.waiting(1).await;
    let (listener, address) = listen().await;
    bench.change(vec![app("hello", &[address])]);
    let (mut server, _) = listener.accept().await.unwrap();
    assert!(head(&mut server).await.contains("upgrade: websocket\r\n"));
    let answer =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    server.write_all(answer.as_bytes()).await.unwrap();
    head(&mut client).await;
    client.write_all(b"ping").await.unwrap();
    assert_eq!(read_until(&mut server, "ping").await, "ping");
}

#[tokio::test]
async fn a_grpc_call_waits_and_one_that_is_cancelled_frees_its_place() {
    let mut bench = Bench::start(settings(), sleeping());
    let stream = TcpStream::connect(bench.lan().await).await.unwrap();
    let by = ByTasks(bench.tasks.clone());
    let (mut sender, connection) = http2::handshake(by, TokioIo::new(stream)).await.unwrap();
    bench.tasks.spawn_short(Span::none(), async move {
        connection.await.ok();
    });
    let mut call = || {
        let request = Request::post("http://hello/s/m").header("content-type", "application/grpc");
        sender.send_request(request.body(Full::new(Bytes::from_static(b"ask"))).unwrap()).boxed()
    };
    let (cancelled, served) = (call(), call());
    bench.waiting(2).await;
    drop(cancelled);
    bench.waiting(1).await;
    let answers = replica(|request| async move {
        let version = request.version();
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let frames = Full::new(Bytes::from(format!("{version:?} {asked:?}")));
        let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let body = frames.with_trailers(async move { Some(Ok(status)) });
        Response::new(body.map_err(|never| match never {}).boxed_unsync())
    });
    bench.change(vec![app("hello", &[answers.await])]);
    let answer = served.await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(answer.to_bytes(), "HTTP/2.0 b\"ask\"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn no_request_is_lost_in_the_moment_in_which_the_last_replica_goes() {
    const ROUNDS: usize = 200;
    let replica = named("awake").await;
    let mut bench = Bench::start(settings(), sleeping());
    let lan = bench.lan().await;
    let over = Arc::new(AtomicBool::new(false));
    let (served, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let wrong = Arc::new(std::sync::Mutex::new(Vec::new()));
    for _ in 0..8 {
        let (over, served, ended) = (Arc::clone(&over), Arc::clone(&served), Arc::clone(&ended));
        let wrong = Arc::clone(&wrong);
        bench.tasks.spawn_short(Span::none(), async move {
            let mut client = client(lan, b"").await;
            while !over.load(Ordering::SeqCst) {
                client.write_all(GET).await.unwrap();
                let head = head(&mut client).await;
                if !head.starts_with("HTTP/1.1 200 OK\r\n") {
                    wrong.lock().unwrap().push(head);
                    break;
                }
                read_until(&mut client, "awake").await;
                served.fetch_add(1, Ordering::SeqCst);
            }
            ended.fetch_add(1, Ordering::SeqCst);
        });
    }
    for round in 1..=ROUNDS {
        bench.change(vec![app("hello", &[replica])]);
        // Some are served in each round, and some are just about to be.
        eventually(|| {
            round * 4 <= served.load(Ordering::SeqCst) || ended.load(Ordering::SeqCst) != 0
        })
        .await;
        bench.change(sleeping());
        for _ in 0..round % 7 {
            yield_now().await;
        }
    }
    over.store(true, Ordering::SeqCst);
    bench.change(vec![app("hello", &[replica])]);
    eventually(|| ended.load(Ordering::SeqCst) == 8).await;
    assert_eq!(*wrong.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_look_finds_a_replica_or_a_revision_that_is_asleep_and_never_nobody() {
    const ROUNDS: u16 = 5000;
    let (routes, shared) = shared(settings(), table(sleeping()));
    let shared = Arc::new(shared);
    let over = Arc::new(AtomicBool::new(false));
    let (refused, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for _ in 0..8 {
        let (shared, over) = (Arc::clone(&shared), Arc::clone(&over));
        let (refused, ended) = (Arc::clone(&refused), Arc::clone(&ended));
        Tasks::default().spawn_short(Span::none(), async move {
            while !over.load(Ordering::SeqCst) {
                let found = Errand::new("hello", &Side::Lan, &shared).look(&shared);
                let nobody = matches!(found, Finding::Nobody(_));
                refused.fetch_add(usize::from(nobody), Ordering::SeqCst);
                yield_now().await;
            }
            ended.fetch_add(1, Ordering::SeqCst);
        });
    }
    for port in 1..=ROUNDS {
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        routes.send_replace(table(vec![app("hello", &[at])]));
        yield_now().await;
        routes.send_replace(table(sleeping()));
    }
    over.store(true, Ordering::SeqCst);
    eventually(|| ended.load(Ordering::SeqCst) == 8).await;
    assert_eq!(refused.load(Ordering::SeqCst), 0);
}
