//! What goes wrong, and what the client is told.

use super::*;

/// A replica by script: each connection is given to the next of these.
async fn scripted<F>(script: impl Fn(usize, TcpStream) -> F + Send + 'static) -> SocketAddrV4
where
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, address) = listen().await;
    Tasks::default().spawn_short(Span::none(), async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            Tasks::default().spawn_short(Span::none(), script(number, stream));
        }
    });
    address
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn an_unknown_host_is_404_with_its_reason() {
    let mut bench = Bench::start(settings(), Vec::new());
    let answer = bench.get("nobody").await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert!(answer.contains("x-skerry-reason: UnknownHost\r\n"), "{answer}");
    assert_eq!(body(&answer), "UnknownHost: No app has this host name.\n");

    let head = "HEAD / HTTP/1.1\r\nhost: nobody\r\nconnection: close\r\n\r\n";
    let answer = exchange(bench.lan().await, head).await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert_eq!(body(&answer), "");
}

#[tokio::test]
async fn an_app_without_a_ready_replica_is_503_with_its_reason() {
    let stopped = Service { unready: Reason::AppStopped, ..app("hello", &[]) };
    let mut bench = Bench::start(settings(), vec![stopped]);
    let answer = bench.get("hello").await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("x-skerry-reason: AppStopped\r\n"), "{answer}");
}

#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_reach_nobody() {
    let mut bench = Bench::start(settings(), vec![app("hello", &[named("a").await])]);
    let lan = bench.lan().await;
    let heads = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: hello\r\nhost: hello\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : hello\r\n\r\n",
        "CONNECT hello:80 HTTP/1.1\r\nhost: hello\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: hello\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nhost: hello\r\ntransfer-encoding: chunked, x\r\n\r\n",
    ];
    for head in heads {
        let answer = exchange(lan, &head.replacen("\r\n", "\r\nconnection: close\r\n", 1)).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}{answer}");
    }
    bench.open(0).await;
    assert_eq!(bench.begun(), 0);
}

#[tokio::test]
async fn a_length_beside_chunks_reaches_the_replica_as_chunks_only() {
    let (told_tx, mut told) = tokio::sync::mpsc::unbounded_channel();
    let address = scripted(move |_, mut stream| {
        let told = told_tx.clone();
        async move {
            told.send(read_until(&mut stream, "\r\n\r\n").await).unwrap();
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    let head = "POST / HTTP/1.1\r\nhost: hello\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\
                connection: close\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: hello\r\n\r\n";
    let answer = exchange(bench.lan().await, head).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    if let Ok(head) = told.try_recv() {
        assert!(!head.contains("content-length"), "{head}");
    }
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_replica_that_refuses_is_passed_over_also_for_a_body() {
    let replicas = [nobody().await, named("alive").await];
    let mut bench = Bench::start(settings(), vec![app("hello", &replicas)]);
    let head = "POST / HTTP/1.1\r\nhost: hello\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    for _ in 0..6 {
        assert_eq!(body(&bench.get("hello").await), "alive");
        assert_eq!(body(&exchange(bench.lan().await, head).await), "alive");
    }
}

#[tokio::test]
async fn where_every_replica_refuses_it_is_502() {
    let mut bench = Bench::start(settings(), vec![app("hello", &[nobody().await, nobody().await])]);
    let answer = bench.get("hello").await;
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    assert!(answer.contains("x-skerry-reason: UpstreamFailed\r\n"), "{answer}");
    bench.open(0).await;
}

#[tokio::test]
async fn a_replica_that_answers_garbage_is_502() {
    let address = scripted(|_, mut stream| async move {
        read_until(&mut stream, "\r\n\r\n").await;
        stream.write_all(b"what?\r\n\r\n").await.unwrap();
    })
    .await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    assert!(bench.get("hello").await.starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
}

#[tokio::test]
async fn a_replica_that_stays_silent_is_504() {
    let (listener, address) = listen().await;
    let settings = Settings { response_timeout: Duration::from_millis(100), ..settings() };
    let mut bench = Bench::start(settings, vec![app("hello", &[address])]);
    let answer = bench.get("hello").await;
    assert!(answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{answer}");
    assert!(answer.contains("x-skerry-reason: UpstreamTimeout\r\n"), "{answer}");
    bench.open(0).await;
    drop(listener);
}

/// A replica whose first connection answers once and ends at the second request; later ones answer on. The second
/// request on the first connection is read, so that it could have been acted upon.
async fn closes_late(accepted: Arc<std::sync::atomic::AtomicUsize>) -> SocketAddrV4 {
    scripted(move |number, mut stream| {
        accepted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(OK).await.unwrap();
            read_until(&mut stream, "\r\n\r\n").await;
            if number != 0 {
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_link_that_closes_under_a_request_is_no_matter_where_it_can_be_sent_again() {
    let accepted = Arc::default();
    let address = closes_late(Arc::clone(&accepted)).await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    for _ in 0..2 {
        assert!(bench.get("hello").await.ends_with("\r\n\r\nok"));
        bench.open(0).await;
    }
    assert_eq!(accepted.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_request_with_a_body_that_was_sent_is_never_sent_again() {
    let accepted = Arc::default();
    let address = closes_late(Arc::clone(&accepted)).await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    assert!(bench.get("hello").await.ends_with("\r\n\r\nok"));
    bench.open(0).await;
    let head =
        "POST / HTTP/1.1\r\nhost: hello\r\ncontent-length: 4\r\nconnection: close\r\n\r\n\r\n\r\n";
    let answer = exchange(bench.lan().await, head).await;
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    assert_eq!(accepted.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_least_busy_replica_serves() {
    let (hung, address) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[address, named("free").await])]);
    let lan = bench.lan().await;
    let mut waiting = Vec::new();
    let stuck = loop {
        // Sooner or later one goes to the replica that hangs, and stays there.
        let mut client = TcpStream::connect(lan).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n").await.unwrap();
        tokio::select! {
            stuck = hung.accept() => break (stuck.unwrap(), client),
            answer = client.read_u8() => assert_eq!(answer.unwrap(), b'H'),
        }
        waiting.push(client);
    };
    bench.open(1).await;
    for _ in 0..5 {
        assert_eq!(body(&bench.get("hello").await), "free");
        bench.open(1).await;
    }
    drop(stuck);
    bench.open(0).await;
}

#[tokio::test]
async fn a_replica_taken_from_the_table_finishes_what_it_has_and_gets_no_more() {
    let (listener, old) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[old])]);
    let lan = bench.lan().await;
    let mut client = TcpStream::connect(lan).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;
    server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
    read_until(&mut client, "ha").await;

    bench.routes.send_replace(table(vec![app("hello", &[named("new").await])]));
    assert_eq!(body(&bench.get("hello").await), "new");
    server.write_all(b"lf").await.unwrap();
    assert_eq!(read_until(&mut client, "lf").await, "lf");
    // The link to a replica that is gone is not kept.
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);

    bench.routes.send_replace(table(vec![app("hello", &[])]));
    client.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n").await.unwrap();
    assert!(read_until(&mut client, "\r\n\r\n").await.contains("NoReadyReplica"));
}

#[tokio::test]
async fn a_new_table_leaves_the_links_and_counts_of_replicas_that_stay() {
    let (listener, address) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    let mut server = None;
    for _ in 0..3 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n").await.unwrap();
        let server = match &mut server {
            Some(server) => server,
            none => none.insert(listener.accept().await.unwrap().0),
        };
        read_until(server, "\r\n\r\n").await;
        bench.routes.send_replace(table(vec![app("hello", &[address]), app("other", &[])]));
        bench.open(1).await;
        server.write_all(OK).await.unwrap();
        read_until(&mut client, "ok").await;
        bench.open(0).await;
    }
}

#[tokio::test]
async fn idle_links_are_closed_after_a_while_and_then_nothing_is_swept() {
    let (listener, address) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    let lan = bench.lan().await;
    let asking = exchange(lan, "GET / HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n");
    let serving = async {
        let (mut server, _) = listener.accept().await.unwrap();
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all(OK).await.unwrap();
        server
    };
    let (answer, mut server) = tokio::join!(asking, serving);
    assert!(answer.ends_with("ok"), "{answer}");
    let closed = time::timeout(PATIENCE, server.read(&mut [0; 8])).await;
    assert_eq!(closed.expect("it is closed").unwrap(), 0);
}

#[tokio::test]
async fn serving_goes_on_without_the_loop() {
    let mut bench = Bench::start(settings(), vec![app("hello", &[named("still").await])]);
    let lan = bench.lan().await;
    let (other, _) = watch::channel(Arc::default());
    drop(std::mem::replace(&mut bench.routes, other));
    for _ in 0..3 {
        let head = "GET / HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n";
        assert_eq!(body(&exchange(lan, head).await), "still");
    }
}
