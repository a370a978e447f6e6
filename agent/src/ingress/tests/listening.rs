//! Listeners and connections: which side, how many, how long.

use super::*;

const ASK: &str = "GET / HTTP/1.1\r\nhost: inner\r\nconnection: close\r\n\r\n";

/// An app that is reached from inside its environment only.
async fn inner() -> Service {
    Service { external: false, ..app("inner", &[named("inside").await]) }
}

#[tokio::test]
async fn one_wildcard_listener_tells_the_sides_apart() {
    let settings = Settings { gateway_port: 0, ..Settings::new("0.0.0.0:0".parse().unwrap()) };
    let mut bench = Bench::start(settings, vec![inner().await]);
    let port = bench.lan().await.port();
    assert_eq!(bench.bound.borrow().len(), 1);
    assert_eq!(body(&exchange((GATEWAY, port).into(), ASK).await), "inside");
    let answer = exchange((Ipv4Addr::LOCALHOST, port).into(), ASK).await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
}

#[tokio::test]
async fn beside_a_narrow_address_gateways_are_listened_on_as_they_come_and_go() {
    let settings = Settings { gateway_port: 0, ..settings() };
    let mut bench = Bench::start(settings, vec![inner().await]);
    let gateway = bench.at("ingress/default").await;
    assert_eq!(gateway.ip(), GATEWAY);
    assert_eq!(body(&exchange(gateway, ASK).await), "inside");
    let answer = exchange(bench.lan().await, ASK).await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");

    bench.routes.send_replace(Arc::default());
    bench.bound.wait_for(|bound| bound.len() == 1).await.unwrap();
    assert!(TcpStream::connect(gateway).await.is_err());

    bench.routes.send_replace(table(vec![inner().await]));
    let gateway = bench.at("ingress/default").await;
    assert_eq!(body(&exchange(gateway, ASK).await), "inside");
}

#[tokio::test]
async fn a_taken_port_is_told_with_its_holder_and_had_once_it_is_free() {
    let stranger = TcpListener::bind("127.0.9.7:0").await.unwrap();
    let port = stranger.local_addr().unwrap().port();
    let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let settings = Settings { gateway_port: port, ..Settings::new(wildcard) };
    let mut bench = Bench::start(settings, vec![inner().await]);

    let taken = bench.troubles.wait_for(|troubles| !troubles.is_empty());
    let troubles = time::timeout(PATIENCE, taken).await.unwrap().unwrap().clone();
    let trouble = &troubles["ingress/lan"];
    assert_eq!(trouble.reason, Reason::PortTaken);
    let holder = format!("(process {})", std::process::id());
    assert!(trouble.details.starts_with(&format!("{wildcard} is held by ")), "{trouble:?}");
    assert!(trouble.details.ends_with(&holder), "{trouble:?}");
    // Meanwhile the apps find each other.
    let gateway = bench.at("ingress/default").await;
    assert_eq!(body(&exchange(gateway, ASK).await), "inside");

    drop(stranger);
    assert_eq!(bench.lan().await, wildcard);
    assert_eq!(body(&exchange(gateway, ASK).await), "inside");
    eventually(|| bench.troubles.borrow().is_empty()).await;
}

#[tokio::test]
async fn an_address_that_does_not_exist_yet_is_told_and_stops_nothing_else() {
    let mut bench = Bench::start(Settings { gateway_port: 0, ..settings() }, Vec::new());
    let mut nowhere = RouteTable::clone(&table(Vec::new()));
    let routes = nowhere.environments.values_mut().next().unwrap();
    routes.gateway = Ipv4Addr::new(192, 0, 2, 1);
    bench.routes.send_replace(Arc::new(nowhere));
    let told = bench.troubles.wait_for(|troubles| troubles.contains_key("ingress/default"));
    let troubles = time::timeout(PATIENCE, told).await.unwrap().unwrap().clone();
    assert_eq!(troubles["ingress/default"].reason, Reason::NetworkFailed);
    assert!(bench.get("nobody").await.starts_with("HTTP/1.1 404"));
    bench.routes.send_replace(table(Vec::new()));
    bench.at("ingress/default").await;
    eventually(|| bench.troubles.borrow().is_empty()).await;
}

#[tokio::test]
async fn a_client_that_does_not_send_its_head_is_closed() {
    let settings = Settings { head_timeout: Duration::from_millis(200), ..settings() };
    let mut bench = Bench::start(settings, Vec::new());
    let lan = bench.lan().await;
    for start in ["", "P", "GET / HTTP/1.1\r\nhost:", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        exchange(lan, start).await;
    }
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed_at_once() {
    let settings = Settings { connections_max: 1, ..settings() };
    let mut bench = Bench::start(settings, Vec::new());
    let lan = bench.lan().await;
    let mut first = TcpStream::connect(lan).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut first, "name.\n").await;
    let mut second = TcpStream::connect(lan).await.unwrap();
    let read = time::timeout(PATIENCE, second.read(&mut [0; 8])).await.expect("it is closed");
    assert!(matches!(read, Ok(0) | Err(_)));
    drop(first);
    let answered = async {
        while !exchange(lan, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 404")
        {}
    };
    time::timeout(PATIENCE, answered).await.expect("there is room again");
}

#[tokio::test]
async fn a_stop_lets_an_open_request_finish_and_takes_no_more() {
    let (listener, address) = listen().await;
    let mut bench = Bench::start(settings(), vec![app("hello", &[address])]);
    let lan = bench.lan().await;
    let mut client = TcpStream::connect(lan).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    read_until(&mut server, "\r\n\r\n").await;

    let stopping = bench.tasks.clone().shut_down(PATIENCE);
    let rest = async {
        bench.tasks.stopping().await;
        server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        read_until(&mut client, "ok").await;
        let closed = client.read(&mut [0; 8]).await;
        assert!(matches!(closed, Ok(0)));
        eventually(|| std::net::TcpStream::connect(lan).is_err()).await;
    };
    time::timeout(PATIENCE, async { tokio::join!(stopping, rest) }).await.unwrap();
}

#[tokio::test]
async fn who_was_let_in_just_before_a_stop_still_gets_an_answer() {
    let mut bench = Bench::start(settings(), vec![app("hello", &[named("one").await])]);
    let mut client = TcpStream::connect(bench.lan().await).await.unwrap();
    let shared = Arc::clone(&bench.shared);
    eventually(|| shared.room.available_permits() < shared.settings.connections_max).await;
    let stopping = bench.tasks.clone().shut_down(PATIENCE);
    let rest = async {
        bench.tasks.stopping().await;
        tokio::task::yield_now().await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\n\r\n").await.unwrap();
        read_until(&mut client, "one").await;
    };
    time::timeout(PATIENCE, async { tokio::join!(stopping, rest) }).await.unwrap();
}
