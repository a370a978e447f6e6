//! TCP connections: passed on whole, waiting, turned away, and how they leave.

use super::*;

/// A free port of the loopback.
async fn free_port() -> u16 {
    listen().await.1.port()
}

/// A table whose ports lead to these apps: from the LAN where they are external.
fn ports(apps: Vec<(u16, Service)>) -> Arc<RouteTable> {
    let exposed: Vec<(u16, AppName)> =
        apps.iter().map(|(port, service)| (*port, service.app.clone())).collect();
    let tcp = |(_, service)| Service { transport: Transport::Tcp, ..service };
    let mut table = RouteTable::clone(&table(apps.into_iter().map(tcp).collect()));
    for (port, app) in exposed {
        let routes = table.environments.values_mut().next().unwrap();
        let service = Arc::clone(&routes.apps[&app]);
        routes.ports.insert(port, Arc::clone(&service));
        if service.external {
            table.ports.insert(port, service);
        }
    }
    Arc::new(table)
}

/// An ingress with one app at one port, and where that is.
async fn bench(settings: Settings, service: Service) -> (Bench, SocketAddr) {
    let port = free_port().await;
    let mut bench = Bench::start(settings, Vec::new());
    bench.routes.send_replace(ports(vec![(port, service)]));
    let address = bench.at(&format!("ingress/*:{port}")).await;
    (bench, address)
}

/// The next connection that reaches a replica.
async fn accept(listener: &TcpListener) -> TcpStream {
    time::timeout(PATIENCE, listener.accept()).await.expect("it is connected").unwrap().0
}

/// It is over, and badly.
async fn is_reset(stream: &mut TcpStream) {
    let read = time::timeout(PATIENCE, stream.read(&mut [0; 8])).await.expect("it is over");
    let error = read.expect_err("it is reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

/// A connection is reset; the client may learn of that before it learns that it was connected.
async fn is_turned_away(address: SocketAddr) {
    match TcpStream::connect(address).await {
        Ok(mut stream) => is_reset(&mut stream).await,
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// It is over, and well.
async fn is_ended(stream: &mut TcpStream) {
    let read = time::timeout(PATIENCE, stream.read(&mut [0; 8])).await.expect("it is over");
    assert_eq!(read.unwrap(), 0);
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_end_is_passed_on_alone() {
    let (listener, replica) = listen().await;
    let (bench, address) = bench(settings(), app("db", &[replica])).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut server = accept(&listener).await;
    // Either may speak first.
    server.write_all(b"hello\n").await.unwrap();
    assert_eq!(read_until(&mut client, "\n").await, "hello\n");
    client.write_all(b"question\n").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_until(&mut server, "\n").await, "question\n");
    is_ended(&mut server).await;
    bench.open(1).await;
    // Whoever is done sending still gets a long answer.
    let answer = "x".repeat(100 << 10) + "\n";
    let sends = async {
        server.write_all(answer.as_bytes()).await.unwrap();
        drop(server);
    };
    let ((), got) = tokio::join!(sends, read_until(&mut client, "\n"));
    assert_eq!(got.len(), answer.len());
    is_ended(&mut client).await;
    bench.open(0).await;
    assert_eq!(bench.begun(), 1);
}

#[tokio::test]
async fn where_one_end_breaks_off_so_does_the_other() {
    let (listener, replica) = listen().await;
    let (bench, address) = bench(settings(), app("db", &[replica])).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let server = accept(&listener).await;
    server.set_zero_linger().unwrap();
    drop(server);
    is_reset(&mut client).await;
    let client = TcpStream::connect(address).await.unwrap();
    let mut server = accept(&listener).await;
    client.set_zero_linger().unwrap();
    drop(client);
    is_reset(&mut server).await;
    bench.open(0).await;
}

#[tokio::test]
async fn a_replica_that_cannot_be_reached_is_passed_over() {
    let (listener, replica) = listen().await;
    let gone = [nobody().await, nobody().await];
    let service = app("db", &[gone[0], replica, gone[1]]);
    let (bench, address) = bench(settings(), service).await;
    for _ in 0..6 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"hello\n").await.unwrap();
        let mut server = accept(&listener).await;
        assert_eq!(read_until(&mut server, "\n").await, "hello\n");
    }
    bench.open(0).await;
}

#[tokio::test]
async fn who_cannot_be_served_is_reset_and_counted() {
    let (bench, address) = bench(settings(), app("db", &[nobody().await])).await;
    is_turned_away(address).await;
    bench.routes.send_replace(ports(vec![(address.port(), app("db", &[]))]));
    is_turned_away(address).await;
    let fails = Sleep::Fails(Reason::CrashLoopBackOff);
    bench.routes.send_replace(ports(vec![(address.port(), asleep("db", fails))]));
    is_turned_away(address).await;
    assert_eq!(bench.shared.turn_away(), 4);
}

#[tokio::test]
async fn a_connection_waits_for_its_app_to_wake_and_loses_nothing() {
    let (mut bench, address) = bench(settings(), asleep("db", Sleep::Wakes)).await;
    let mut clients = Vec::new();
    for n in 1..=5 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(format!("{n}\n").as_bytes()).await.unwrap();
        bench.waiting(n).await;
        clients.push(client);
    }
    let calls = |demand: &Arc<Demand>| demand.values().any(|asked| asked.waiting != 0);
    time::timeout(PATIENCE, bench.demand.wait_for(calls)).await.expect("it is told").unwrap();
    let (listener, replica) = listen().await;
    bench.routes.send_replace(ports(vec![(address.port(), app("db", &[replica]))]));
    let mut heard = Vec::new();
    for _ in 0..5 {
        let mut server = accept(&listener).await;
        heard.push(read_until(&mut server, "\n").await);
        server.write_all(b"yes\n").await.unwrap();
    }
    heard.sort();
    assert_eq!(heard, ["1\n", "2\n", "3\n", "4\n", "5\n"]);
    for client in &mut clients {
        assert_eq!(read_until(client, "\n").await, "yes\n");
    }
    bench.waiting(0).await;
}

#[tokio::test]
async fn beyond_the_bound_and_beyond_the_time_nobody_waits() {
    let few = Settings { waiting_max: 2, ..settings() };
    let (bench, address) = bench(few, asleep("db", Sleep::Wakes)).await;
    let mut waits = Vec::new();
    for n in 1..=2 {
        waits.push(TcpStream::connect(address).await.unwrap());
        bench.waiting(n).await;
    }
    is_turned_away(address).await;
    // Who breaks off gives up its place, who is only done sending keeps it.
    let client = waits.remove(0);
    client.set_zero_linger().unwrap();
    drop(client);
    bench.waiting(1).await;
    waits[0].shutdown().await.unwrap();
    let third = TcpStream::connect(address).await.unwrap();
    bench.waiting(2).await;
    drop(bench);

    let brief = Settings { response_timeout: Duration::from_millis(50), ..settings() };
    let (_bench, address) = self::bench(brief, asleep("db", Sleep::Wakes)).await;
    is_turned_away(address).await;
    drop(third);
}

#[tokio::test]
async fn a_replica_waits_for_its_open_connections_on_its_way_out() {
    let (listener, replica) = listen().await;
    let (bench, address) = bench(settings(), app("db", &[replica])).await;
    let name = ReplicaName::new(&"db--1".parse().unwrap(), u64::from(replica.port()));
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut server = accept(&listener).await;
    bench.open(1).await;
    let (next, successor) = listen().await;
    bench.routes.send_replace(ports(vec![(address.port(), app("db", &[successor]))]));
    let leave: Arc<dyn Drain> = Arc::new(Leave(Arc::clone(&bench.shared)));
    let mut drained = pin!(leave.drained(&name));
    // New ones go to the new replica, and what is open goes on.
    let other = TcpStream::connect(address).await.unwrap();
    let other_server = accept(&next).await;
    client.write_all(b"still\n").await.unwrap();
    assert_eq!(read_until(&mut server, "\n").await, "still\n");
    tokio::select! {
        biased;
        () = drained.as_mut() => panic!("a connection is open"),
        () = std::future::ready(()) => (),
    }
    drop((client, server));
    time::timeout(PATIENCE, drained).await.expect("nothing is open any more");
    drop((other, other_server));
}

#[tokio::test]
async fn the_least_busy_replica_is_connected_to() {
    let (one, first) = listen().await;
    let (other, second) = listen().await;
    let (_bench, address) = bench(settings(), app("db", &[first, second])).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(TcpStream::connect(address).await.unwrap());
        open.push(TcpStream::connect(address).await.unwrap());
        open.push(accept(&one).await);
        open.push(accept(&other).await);
    }
}

#[tokio::test]
async fn ports_are_listened_on_as_documents_say_and_no_longer() {
    let (listener, replica) = listen().await;
    let (before, after) = (free_port().await, free_port().await);
    let mut bench = Bench::start(settings(), Vec::new());
    let inner = || Service { external: false, ..app("db", &[replica]) };
    bench.routes.send_replace(ports(vec![(before, inner())]));
    let gateway = bench.at(&format!("ingress/default:{before}")).await;
    assert_eq!(gateway, (GATEWAY, before).into());
    let mut open = TcpStream::connect(gateway).await.unwrap();
    let mut server = accept(&listener).await;
    let lan = SocketAddr::from((Ipv4Addr::LOCALHOST, before));
    assert!(TcpStream::connect(lan).await.is_err(), "it is internal");

    bench.routes.send_replace(ports(vec![(after, app("db", &[replica]))]));
    let lan = bench.at(&format!("ingress/*:{after}")).await;
    bench.at(&format!("ingress/default:{after}")).await;
    assert!(TcpStream::connect(gateway).await.is_err(), "the port has changed");
    drop(TcpStream::connect(lan).await.unwrap());
    drop(accept(&listener).await);
    // What was open stays.
    open.write_all(b"still\n").await.unwrap();
    assert_eq!(read_until(&mut server, "\n").await, "still\n");
}

#[tokio::test]
async fn a_wildcard_and_a_gateway_share_a_port_and_tell_the_sides_apart() {
    let (inner, inside) = listen().await;
    let (outer, outside) = listen().await;
    let port = free_port().await;
    let wild = Settings { gateway_port: 0, ..Settings::new("0.0.0.0:0".parse().unwrap()) };
    let mut bench = Bench::start(wild, Vec::new());
    // The environment's own port is another app's than that of the LAN.
    let mut table = RouteTable::clone(&ports(vec![(
        port,
        Service { external: false, ..app("inner", &[inside]) },
    )]));
    let outer_app = Arc::new(app("outer", &[outside]));
    table.ports.insert(port, Arc::clone(&outer_app));
    let routes = table.environments.values_mut().next().unwrap();
    routes.apps.insert(outer_app.app.clone(), outer_app);
    bench.routes.send_replace(Arc::new(table));
    bench.at(&format!("ingress/*:{port}")).await;
    bench.at(&format!("ingress/default:{port}")).await;
    for _ in 0..3 {
        let near = TcpStream::connect((GATEWAY, port)).await.unwrap();
        drop((accept(&inner).await, near));
        let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        drop((accept(&outer).await, far));
    }
    // Without a listener of its own the gateway's port leads nowhere.
    bench.routes.send_modify(|table| {
        let mut other = RouteTable::clone(table);
        other.environments.values_mut().for_each(|routes| routes.ports.clear());
        *table = Arc::new(other);
    });
    let closed =
        bench.bound.wait_for(|bound| !bound.contains_key(&format!("ingress/default:{port}")));
    time::timeout(PATIENCE, closed).await.expect("it is closed").unwrap();
    is_turned_away((GATEWAY, port).into()).await;
}

#[tokio::test]
async fn a_port_that_a_program_holds_is_told_with_its_app() {
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = stranger.local_addr().unwrap().port();
    let mut bench = Bench::start(settings(), Vec::new());
    let (_listener, replica) = listen().await;
    bench.routes.send_replace(ports(vec![(port, app("db", &[replica]))]));
    let name = format!("ingress/*:{port}");
    let told = bench.troubles.wait_for(|troubles| troubles.contains_key(&name));
    let trouble = time::timeout(PATIENCE, told).await.unwrap().unwrap()[&name].clone();
    assert_eq!(trouble.reason, Reason::PortTaken);
    let expected = format!("127.0.0.1:{port}, which app db exposes, is held by ");
    assert!(trouble.details.starts_with(&expected), "{}", trouble.details);
    drop(stranger);
    bench.at(&name).await;
    eventually(|| bench.troubles.borrow().is_empty()).await;
}

#[tokio::test]
async fn connections_beyond_the_bound_are_reset() {
    let (listener, replica) = listen().await;
    let one = Settings { connections_max: 1, ..settings() };
    let (_bench, address) = bench(one, app("db", &[replica])).await;
    let first = TcpStream::connect(address).await.unwrap();
    let server = accept(&listener).await;
    is_turned_away(address).await;
    drop((first, server));
    let again = async {
        loop {
            let Ok(mut client) = TcpStream::connect(address).await else { continue };
            tokio::select! {
                accepted = listener.accept() => break drop(accepted.unwrap()),
                _ = client.read_u8() => (),
            }
        }
    };
    time::timeout(PATIENCE, again).await.expect("there is room again");
}

#[tokio::test]
async fn the_agents_stop_breaks_connections_off() {
    let (listener, replica) = listen().await;
    let (bench, address) = bench(settings(), app("db", &[replica])).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut server = accept(&listener).await;
    bench.open(1).await;
    time::timeout(PATIENCE, bench.tasks.clone().shut_down(PATIENCE)).await.unwrap();
    is_reset(&mut client).await;
    is_reset(&mut server).await;
}
