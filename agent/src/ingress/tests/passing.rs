//! What passes through: heads, bodies, trailers, upgrades.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::stream;
use http_body_util::{Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper::header::HeaderMap;
use hyper::{HeaderMap as Map, StatusCode, Version};
use tokio::sync::mpsc;

use super::*;

/// Answers with the request's own head.
async fn mirror() -> SocketAddrV4 {
    replica(|request| async move {
        let mut told = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
        for (name, value) in request.headers() {
            writeln!(told, "{name}: {}", value.to_str().unwrap()).unwrap();
        }
        text(told)
    })
    .await
}

/// A body made of what comes through a channel.
fn fed() -> (mpsc::UnboundedSender<Frame<Bytes>>, AnyBody) {
    let (feed, mut eaten) = mpsc::unbounded_channel::<Frame<Bytes>>();
    let frames = stream::poll_fn(move |cx| eaten.poll_recv(cx).map(|frame| frame.map(Ok)));
    (feed, StreamBody::new(frames).boxed_unsync())
}

fn data(text: &str) -> Frame<Bytes> {
    Frame::data(Bytes::copy_from_slice(text.as_bytes()))
}

async fn wide(address: SocketAddr) -> http2::SendRequest<AnyBody> {
    let tasks = Tasks::default();
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        http2::handshake(ByTasks(tasks.clone()), TokioIo::new(stream)).await.unwrap();
    tasks.spawn_short(Span::none(), async move {
        connection.await.ok();
    });
    sender
}

fn empty() -> AnyBody {
    Empty::new().map_err(|never: Infallible| match never {}).boxed_unsync()
}

#[tokio::test]
async fn the_head_passes_without_what_is_for_one_hop_and_with_who_forwarded_it() {
    let mut bench = Bench::start(settings(), vec![app("hello", &[mirror().await])]);
    let head = "GET /a?b=c HTTP/1.1\r\nHost: Hello:8080\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
                Keep-Alive: 5\r\nTE: gzip, trailers\r\nX-Forwarded-For: 10.0.0.9\r\n\
                X-Forwarded-Proto: https\r\nX-Kept: yes\r\n\r\n";
    let answer = exchange(bench.lan().await, head).await;
    let mut lines: Vec<&str> = body(&answer).lines().collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "GET /a?b=c HTTP/1.1",
            "host: Hello:8080",
            "te: trailers",
            "x-forwarded-for: 10.0.0.9, 127.0.0.1",
            "x-forwarded-host: Hello:8080",
            "x-forwarded-proto: http",
            "x-kept: yes",
        ]
    );
}

#[tokio::test]
async fn a_whole_target_wins_over_the_host_header() {
    let mut bench = Bench::start(settings(), vec![app("hello", &[mirror().await])]);
    let head = "GET http://hello/x HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n";
    let answer = exchange(bench.lan().await, head).await;
    assert!(body(&answer).starts_with("GET /x HTTP/1.1\nhost: hello\n"), "{answer}");
}

#[tokio::test]
async fn http2_reaches_a_replica_that_speaks_http1_with_one_cookie_header() {
    let mut bench = Bench::start(settings(), vec![app("hello", &[mirror().await])]);
    let mut client = wide(bench.lan().await).await;
    let request = Request::get("http://hello/y").header("cookie", "a=1").header("cookie", "b=2");
    let response = client.send_request(request.body(empty()).unwrap()).await.unwrap();
    let told = response.into_body().collect().await.unwrap().to_bytes();
    let told = std::str::from_utf8(&told).unwrap();
    assert!(told.starts_with("GET /y HTTP/1.1\n"), "{told}");
    assert!(told.contains("cookie: a=1; b=2\n") && told.contains("host: hello\n"), "{told}");
}

#[tokio::test]
async fn a_grpc_call_passes_both_ways_at_once_and_ends_in_trailers() {
    let echo = replica(|request| async move {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        let (feed, out) = fed();
        let mut incoming = request.into_body();
        Tasks::default().spawn_short(Span::none(), async move {
            while let Some(Ok(frame)) = incoming.frame().await {
                feed.send(frame).ok();
            }
            let trailers = Map::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            feed.send(Frame::trailers(trailers)).ok();
        });
        Response::new(out)
    })
    .await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[echo])]);
    let mut client = wide(bench.lan().await).await;
    let (feed, upload) = fed();
    let request = Request::post("http://hello/s/m").header("content-type", "application/grpc");
    let request = request.header("te", "trailers").body(upload).unwrap();
    let mut response = client.send_request(request).await.unwrap();
    for word in ["one", "two"] {
        feed.send(data(word)).unwrap();
        let frame = response.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    drop(feed);
    let trailers = response.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn a_download_streams_chunk_by_chunk_to_its_trailers() {
    let (feeds_tx, mut feeds) = mpsc::unbounded_channel();
    let source = replica(move |_| {
        let (feed, out) = fed();
        feeds_tx.send(feed).unwrap();
        let response = Response::builder().header("trailer", "x-sum").body(out).unwrap();
        async move { response }
    })
    .await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[source])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    let head = "GET / HTTP/1.1\r\nhost: hello\r\nte: trailers\r\nconnection: te\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let feed = feeds.recv().await.unwrap();
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    for word in ["first", "other"] {
        feed.send(data(word)).unwrap();
        assert_eq!(
            read_until(&mut client, &format!("{word}\r\n")).await,
            format!("5\r\n{word}\r\n")
        );
    }
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "9".parse().unwrap())]);
    feed.send(Frame::trailers(trailers)).unwrap();
    drop(feed);
    assert_eq!(read_until(&mut client, "\r\n\r\n").await, "0\r\nx-sum: 9\r\n\r\n");
    bench.open(0).await;
}

#[tokio::test]
async fn an_upload_streams_and_is_asked_for_where_the_client_waits() {
    let (seen_tx, mut seen) = mpsc::unbounded_channel();
    let sink = replica(move |request| {
        let seen = seen_tx.clone();
        async move {
            assert!(!request.headers().contains_key("expect"));
            let mut incoming = request.into_body();
            while let Some(Ok(frame)) = incoming.frame().await {
                seen.send(frame.into_data().unwrap()).unwrap();
            }
            text("done")
        }
    })
    .await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[sink])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: hello\r\ntransfer-encoding: chunked\r\n\
                expect: 100-continue\r\nconnection: close\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    for word in ["one", "two"] {
        client.write_all(format!("3\r\n{word}\r\n").as_bytes()).await.unwrap();
        assert_eq!(seen.recv().await.unwrap(), word);
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(read_until(&mut client, "done").await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_back_the_replica() {
    const CHUNK: usize = 64 << 10;
    // What the sockets of both hops, grown as far as the kernel lets them, and our own buffers may hold.
    const BETWEEN: usize = 32 << 20;
    let made = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&made);
    let source = replica(move |_| {
        let made = Arc::clone(&counter);
        let chunk = Bytes::from(vec![b'x'; CHUNK]);
        let frames = stream::poll_fn(move |_| {
            made.fetch_add(CHUNK, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(chunk.clone()))))
        });
        let response = Response::new(StreamBody::new(frames).boxed_unsync());
        async move { response }
    })
    .await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[source])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n").await.unwrap();
    let mut read = 0;
    let mut buffer = vec![0; CHUNK];
    while read < (64 << 20) {
        read += client.read(&mut buffer).await.unwrap();
        assert!(made.load(Ordering::Relaxed) < read + BETWEEN);
    }
    drop(client);
    bench.open(0).await;
}

#[tokio::test]
async fn a_web_socket_passes_and_counts_as_an_open_request() {
    let (listener, address) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    let head = "GET /ws HTTP/1.1\r\nhost: hello\r\nconnection: keep-alive, Upgrade\r\n\
                upgrade: websocket\r\nsec-websocket-key: abc\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let head = read_until(&mut server, "\r\n\r\n").await;
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("sec-websocket-key: abc\r\n"), "{head}");
    let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-accept: xyz\r\n\r\nhi";
    server.write_all(head.as_bytes()).await.unwrap();
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: xyz\r\n"), "{head}");
    assert_eq!(read_until(&mut client, "hi").await, "hi");
    client.write_all(b"ping").await.unwrap();
    assert_eq!(read_until(&mut server, "ping").await, "ping");
    bench.open(1).await;
    drop(client);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    drop(server);
    bench.open(0).await;
}

#[tokio::test]
async fn requests_share_a_link_one_after_another() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&accepted);
    let (listener, address) = listen().await;
    Tasks::default().spawn_short(Span::none(), async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            Tasks::default().spawn_short(Span::none(), async move {
                loop {
                    let head = read_until(&mut stream, "\r\n\r\n").await;
                    let length = if head.starts_with("POST") { 2 } else { 0 };
                    stream.read_exact(&mut [0; 2][..length]).await.unwrap();
                    stream
                        .write_all(b"HTTP/1.1 200 -\r\ncontent-length: 2\r\n\r\nok")
                        .await
                        .unwrap();
                }
            });
        }
    });
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    let lan = bench.lan().await;
    for _ in 0..5 {
        assert!(bench.get("hello").await.ends_with("\r\n\r\nok"));
        let head =
            "POST / HTTP/1.1\r\nhost: hello\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
        assert!(exchange(lan, head).await.ends_with("\r\n\r\nok"));
        bench.open(0).await;
    }
    assert_eq!(accepted.load(Ordering::Relaxed), 1);
    assert_eq!(bench.begun(), 10);
}

#[tokio::test]
async fn a_head_request_and_a_status_without_a_body_pass() {
    let source = replica(|request| async move {
        let mut response = text("four");
        if request.uri() == "/none" {
            *response.status_mut() = StatusCode::NO_CONTENT;
            *response.body_mut() = empty();
        }
        response
    })
    .await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[source])]);
    let ask = |line: &str| format!("{line} HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n");
    let lan = bench.lan().await;
    let answer = exchange(lan, &ask("HEAD /")).await;
    assert!(answer.contains("content-length: 4\r\n") && body(&answer).is_empty(), "{answer}");
    let answer = exchange(lan, &ask("GET /none")).await;
    assert!(answer.starts_with("HTTP/1.1 204") && body(&answer).is_empty(), "{answer}");
}

#[tokio::test]
async fn an_upload_goes_on_while_the_client_does_not_read_the_answer() {
    // More than the sockets between could hold.
    const EACH: usize = 16 << 20;
    let both = replica(|request| async move {
        let (feed, out) = fed();
        let mut incoming = request.into_body();
        Tasks::default().spawn_short(Span::none(), async move {
            feed.send(Frame::data(Bytes::from(vec![b'y'; EACH]))).unwrap();
            let mut read = 0;
            while let Some(Ok(frame)) = incoming.frame().await {
                read += frame.into_data().unwrap().len();
            }
            feed.send(data(&format!("read {read}"))).unwrap();
        });
        Response::new(out)
    })
    .await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[both])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: hello\r\ncontent-length: {EACH}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut client, "y").await;
    let upload = vec![b'x'; EACH];
    time::timeout(PATIENCE, client.write_all(&upload)).await.expect("it is taken").unwrap();
    let mut rest = vec![0; EACH];
    time::timeout(PATIENCE, client.read_exact(&mut rest)).await.expect("it comes").unwrap();
    read_until(&mut client, &format!("read {EACH}")).await;
}

#[tokio::test]
async fn an_app_that_speaks_http2_only_is_reached_from_http1() {
    let source = replica(|request| async move {
        text(format!(
            "{:?} {} {:?}",
            request.version(),
            request.uri(),
            request.headers().get("host")
        ))
    })
    .await;
    let service = Service { transport: Transport::Http2, ..app("hello", &[source]) };
    let mut bench = Bench::start(settings(), vec![service]);
    for _ in 0..2 {
        assert_eq!(body(&bench.get("hello:80").await), "HTTP/2.0 http://hello:80/ None");
    }
}

#[tokio::test]
async fn a_length_beside_the_chunks_of_an_answer_is_not_passed_on() {
    let (listener, address) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n\
                      2\r\nok\r\n0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(bench.get("hello"), serve);
    assert!(!answer.contains("content-length"), "{answer}");
    assert_eq!(body(&answer), "2\r\nok\r\n0\r\n\r\n");
}
