//! How requests are shared out over the real proxy.

use domain::route::Ticket;
use hyper::client::conn::{http1, http2};
use hyper::header::HOST;

use super::*;

/// Requests of one count.
const MANY: usize = 1000;

/// An app whose revisions, by suffix, have these weights, and each one replica that answers with the suffix.
async fn split(name: &str, revisions: &[(&'static str, u32)]) -> Service {
    let mut service = Service { split: Vec::new(), revisions: BTreeMap::new(), ..app(name, &[]) };
    for (suffix, weight) in revisions {
        let revision: RevisionName = format!("{name}--{suffix}").parse().unwrap();
        let address = named(suffix).await;
        let replica = ReplicaName::new(&revision, u64::from(address.port()));
        service.revisions.insert(revision.clone(), vec![Backend { replica, address }]);
        service.labels.insert(format!("label-{suffix}"), revision.clone());
        service.split.push(Share { revision, weight: *weight });
    }
    service
}

/// What many requests on one HTTP/2 connection are answered, counted.
async fn count_wide(lan: SocketAddr, host: &str) -> BTreeMap<String, usize> {
    let tasks = Tasks::default();
    let stream = TokioIo::new(TcpStream::connect(lan).await.unwrap());
    let (mut client, wire) = http2::handshake(ByTasks(tasks.clone()), stream).await.unwrap();
    tasks.spawn_short(Span::none(), async move { drop(wire.await) });
    let mut counts = BTreeMap::new();
    for _ in 0..MANY {
        let request = Request::get(format!("http://{host}/")).body(Full::<Bytes>::default());
        let response = client.send_request(request.unwrap()).await.unwrap();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        *counts.entry(String::from_utf8_lossy(&answer).into_owned()).or_default() += 1;
    }
    counts
}

/// The same on one connection of HTTP/1.1 that is kept alive.
async fn count(lan: SocketAddr, host: &str) -> BTreeMap<String, usize> {
    let stream = TokioIo::new(TcpStream::connect(lan).await.unwrap());
    let (mut client, wire) = http1::handshake(stream).await.unwrap();
    Tasks::default().spawn_short(Span::none(), async move { drop(wire.await) });
    let mut counts = BTreeMap::new();
    for _ in 0..MANY {
        let request = Request::get("/").header(HOST, host).body(Full::<Bytes>::default());
        let response = client.send_request(request.unwrap()).await.unwrap();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        *counts.entry(String::from_utf8_lossy(&answer).into_owned()).or_default() += 1;
    }
    counts
}

/// What the weights promise: the tickets of requests are numbered, so the count is the same each time.
fn promised(first: usize, weight: u32) -> usize {
    let below = |n: &usize| {
        let ticket = Ticket::nth(u32::try_from(*n).unwrap());
        (0..weight).any(|number| Ticket::new(number) == Some(ticket))
    };
    (first..first + MANY).filter(below).count()
}

#[tokio::test]
async fn a_thousand_requests_are_shared_by_weight_and_the_same_way_each_time() {
    let service = split("hello", &[("a", 80), ("b", 20)]).await;
    let mut bench = Bench::start(settings(), vec![service]);
    let lan = bench.lan().await;
    let counts = count(lan, "hello").await;
    // Three sigma of chance would be 38; numbered tickets leave a handful.
    assert!(counts["b"].abs_diff(200) <= 4, "{counts:?}");
    assert_eq!(
        counts,
        [("a".to_owned(), promised(0, 80)), ("b".to_owned(), MANY - promised(0, 80))].into()
    );
}

#[tokio::test]
async fn each_stream_of_a_connection_is_shared_anew() {
    let service = split("hello", &[("a", 1), ("b", 99)]).await;
    let mut bench = Bench::start(settings(), vec![service]);
    let counts = count_wide(bench.lan().await, "hello").await;
    assert!(counts["a"].abs_diff(10) <= 3, "{counts:?}");
    assert_eq!(counts["a"], promised(0, 1));
}

#[tokio::test]
async fn a_weight_of_nothing_is_reached_by_label_and_by_revision_alone() {
    let service = split("hello", &[("a", 100), ("b", 0)]).await;
    let mut bench = Bench::start(settings(), vec![service]);
    let lan = bench.lan().await;
    let suffix = "default.pi.internal";
    assert_eq!(count(lan, "hello").await, [("a".to_owned(), MANY)].into());
    for host in [format!("hello---label-b.{suffix}"), format!("hello--b.{suffix}")] {
        assert_eq!(count(lan, &host).await, [("b".to_owned(), MANY)].into(), "{host}");
    }
}
