//! The servers on loopback, with name servers that do as they are told.

use std::time::Duration;

use domain::zone::{Zone, ZoneEntry};
use proptest::prelude::*;
use simple_dns::rdata::RData;
use simple_dns::{Packet, RCODE};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::reply::{Transport, decide};
use super::*;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// Longer than a server takes to give up on a name server.
const DEADLINE: Duration = Duration::from_secs(20);

/// Servers for one zone, and what they tell.
struct Bed {
    port: u16,
    gateway: Ipv4Addr,
    zones: watch::Sender<Arc<Zones>>,
    tells: Tells,
    tasks: Tasks,
}

impl Bed {
    /// Each test has a gateway of its own within 127.0.0.0/8, so that none meets another's port.
    fn new(last: u8, upstreams: &[SocketAddr]) -> Self {
        let gateway = Ipv4Addr::new(127, 77, 0, last);
        let free = std::net::TcpListener::bind((gateway, 0)).unwrap();
        Self::at(gateway, free.local_addr().unwrap().port(), upstreams)
    }

    fn at(gateway: Ipv4Addr, port: u16, upstreams: &[SocketAddr]) -> Self {
        let bed = Self {
            port,
            gateway,
            zones: watch::Sender::new(zones(gateway)),
            tells: Tells {
                redirects: watch::Sender::default(),
                listeners: watch::Sender::default(),
                manager: ServiceManager::default(),
            },
            tasks: Tasks::default(),
        };
        let upstreams = Upstreams::new(upstreams.to_vec(), "/nonexistent".into());
        serve_at(port, &bed.tasks, upstreams, bed.zones.subscribe(), bed.tells.clone());
        bed
    }

    /// Asks by UDP, again and again until the server is there.
    async fn udp(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind((self.gateway, 0)).await.unwrap();
        socket.connect((self.gateway, self.port)).await.unwrap();
        let mut buffer = vec![0; 4096];
        let ask = async {
            loop {
                let _ = socket.send(query).await;
                match timeout(DEADLINE / 2, socket.recv(&mut buffer)).await {
                    Ok(Ok(length)) => return length,
                    Ok(Err(_)) | Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let length = timeout(DEADLINE, ask).await.expect("an answer");
        buffer.truncate(length);
        buffer
    }

    async fn tcp(&self, query: &[u8]) -> Vec<u8> {
        self.udp(&question("hello", A)).await;
        let mut stream = TcpStream::connect((self.gateway, self.port)).await.unwrap();
        upstream::send(&mut stream, query).await.unwrap();
        timeout(DEADLINE, upstream::receive(&mut stream, 65_535)).await.unwrap().unwrap()
    }
}

fn zones(gateway: Ipv4Addr) -> Arc<Zones> {
    let replicas = (5..45).map(|host| Ipv4Addr::new(10, 213, 0, host)).collect();
    let apps = [
        (
            "hello".parse().unwrap(),
            ZoneEntry { port: 8080, replicas: vec![[10, 213, 0, 5].into()] },
        ),
        ("many".parse().unwrap(), ZoneEntry { port: 80, replicas }),
    ];
    let suffix = "default.pi-1.internal".to_owned();
    let zone = Zone { gateway, suffix, host: false, apps: apps.into() };
    Arc::new([(EnvironmentName::default(), zone)].into())
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut query = b"\xbe\xef\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    query
}

/// The same with EDNS, for a client that takes `size` bytes.
fn question_with_edns(name: &str, size: u16) -> Vec<u8> {
    let mut query = question(name, A);
    query[11] = 1;
    query.extend([0, 0, 41]);
    query.extend(size.to_be_bytes());
    query.extend([0; 6]);
    query
}

fn addresses(reply: &[u8]) -> Vec<Ipv4Addr> {
    let packet = Packet::parse(reply).unwrap();
    let address =
        |rdata: &RData<'_>| if let RData::A(a) = rdata { Some(a.address.into()) } else { None };
    packet.answers.iter().filter_map(|record| address(&record.rdata)).collect()
}

fn code(reply: &[u8]) -> RCODE {
    Packet::parse(reply).unwrap().rcode()
}

fn is_truncated(reply: &[u8]) -> bool {
    reply[2] & 2 != 0
}

/// Makes a reply of a query: its bytes, the flag that says so, and these flags.
fn reply_to(query: &[u8], flags: u8) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80 | flags;
    reply
}

#[tokio::test]
async fn a_name_of_ours_is_answered_by_udp_and_tcp() {
    let bed = Bed::new(1, &[]);
    for reply in [bed.udp(&question("HeLLo", A)).await, bed.tcp(&question("HeLLo", A)).await] {
        assert_eq!(addresses(&reply), [bed.gateway]);
        let packet = Packet::parse(&reply).unwrap();
        assert_eq!(packet.id(), 0xbeef);
        assert_eq!(packet.answers[0].ttl, 5);
        assert_eq!(packet.questions[0].qname.to_string(), "HeLLo");
    }
    let ipv6 = bed.udp(&question("hello.default.pi-1.internal", AAAA)).await;
    assert_eq!((code(&ipv6), addresses(&ipv6)), (RCODE::NoError, Vec::new()));
    let unknown = bed.udp(&question("other.default.pi-1.internal", A)).await;
    assert_eq!(code(&unknown), RCODE::NameError);
}

#[tokio::test]
async fn srv_names_replicas_that_have_addresses() {
    let bed = Bed::new(2, &[]);
    let reply = bed.udp(&question("_http._tcp.hello", SRV)).await;
    let packet = Packet::parse(&reply).unwrap();
    let RData::SRV(service) = &packet.answers[0].rdata else { panic!("not SRV") };
    assert_eq!((packet.answers.len(), service.port), (1, 8080));
    assert_eq!(packet.additional_records[0].name, service.target);
    let target = bed.udp(&question(&service.target.to_string(), A)).await;
    assert_eq!(addresses(&target), [Ipv4Addr::new(10, 213, 0, 5)]);
}

#[tokio::test]
async fn an_answer_is_no_longer_than_its_client_takes() {
    let bed = Bed::new(3, &[]);
    let plain = bed.udp(&question("replicas.many", A)).await;
    assert!(is_truncated(&plain) && plain.len() <= 512);
    assert_eq!(addresses(&plain), Vec::<Ipv4Addr>::new());
    let edns = bed.udp(&question_with_edns("replicas.many", 4096)).await;
    assert!(!is_truncated(&edns) && 512 < edns.len());
    assert_eq!(addresses(&edns).len(), 40);
    assert!(Packet::parse(&edns).unwrap().opt().is_some());
    assert_eq!(addresses(&bed.tcp(&question("replicas.many", A)).await).len(), 40);
}

#[tokio::test]
async fn other_names_go_to_the_name_server_byte_for_byte() {
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bed = Bed::new(4, &[upstream.local_addr().unwrap()]);
    let mut query = question_with_edns("example.ORG", 1400);
    // A record type and a flag that did not exist when this was written.
    query[3] |= 0x40;
    let serve = async {
        let mut buffer = vec![0; 4096];
        let (length, peer) = upstream.recv_from(&mut buffer).await.unwrap();
        // A guess at the number, and then the answer.
        let mut guess = reply_to(&buffer[..length], 0);
        guess[0] ^= 1;
        upstream.send_to(&guess, peer).await.unwrap();
        upstream.send_to(&reply_to(&buffer[..length], 0), peer).await.unwrap();
        buffer[..length].to_vec()
    };
    let (asked, answered) = tokio::join!(serve, bed.udp(&query));
    assert_eq!(asked, query);
    assert_eq!(answered, reply_to(&query, 0));
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_by_tcp() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = UdpSocket::bind(tcp.local_addr().unwrap()).await.unwrap();
    let bed = Bed::new(5, &[upstream.local_addr().unwrap()]);
    let serve_udp = async {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, peer) = upstream.recv_from(&mut buffer).await.unwrap();
            upstream.send_to(&reply_to(&buffer[..length], 2), peer).await.unwrap();
        }
    };
    let serve_tcp = async {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut reply = reply_to(&upstream::receive(&mut stream, 4096).await.unwrap(), 0);
            reply.resize(1000, 0);
            upstream::send(&mut stream, &reply).await.unwrap();
        }
    };
    let ask = async {
        let whole = bed.udp(&question_with_edns("example.org", 1232)).await;
        assert!(!is_truncated(&whole) && whole.len() == 1000);
        let cut = bed.udp(&question("example.org", A)).await;
        assert!(is_truncated(&cut) && cut.len() <= 512);
        assert_eq!(bed.tcp(&question("example.org", A)).await.len(), 1000);
    };
    tokio::select! {
        () = ask => (),
        () = serve_udp => (),
        () = serve_tcp => (),
    }
}

#[tokio::test]
async fn a_dead_name_server_is_passed_over_and_without_any_the_answer_is_a_failure() {
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let bed = Bed::new(6, &[dead]);
    assert_eq!(code(&bed.udp(&question("example.org", A)).await), RCODE::ServerFailure);
    assert_eq!(code(&bed.tcp(&question("example.org", A)).await), RCODE::ServerFailure);

    let alive = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bed = Bed::new(7, &[dead, alive.local_addr().unwrap()]);
    let serve = async {
        let mut buffer = vec![0; 4096];
        let (length, peer) = alive.recv_from(&mut buffer).await.unwrap();
        alive.send_to(&reply_to(&buffer[..length], 0), peer).await.unwrap();
    };
    let query = question("example.org", A);
    let ((), answer) = tokio::join!(serve, bed.udp(&query));
    assert_eq!(answer, reply_to(&query, 0));
}

#[tokio::test]
async fn garbage_and_replies_are_not_answered() {
    let bed = Bed::new(8, &[]);
    bed.udp(&question("hello", A)).await;
    let socket = UdpSocket::bind((bed.gateway, 0)).await.unwrap();
    socket.connect((bed.gateway, bed.port)).await.unwrap();
    for noise in [&b""[..], b"x", &[0xff; 600], &reply_to(&question("hello", A), 0)] {
        socket.send(noise).await.unwrap();
    }
    socket.send(&question("hello", A)).await.unwrap();
    let mut buffer = vec![0; 4096];
    let length = timeout(DEADLINE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(addresses(&buffer[..length]), [bed.gateway], "the first answer is to the question");
}

#[tokio::test]
async fn a_taken_port_is_served_at_another_which_is_told() {
    let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = everywhere.local_addr().unwrap().port();
    let mut bed = Bed::at(Ipv4Addr::new(127, 77, 0, 9), port, &[]);
    let mut redirects = bed.tells.redirects.subscribe();
    let led = timeout(DEADLINE, redirects.wait_for(|led| !led.is_empty())).await.unwrap().unwrap();
    let key = (EnvironmentName::default(), port);
    let to = led[&key];
    assert_ne!(to, port);
    drop(led);
    bed.port = to;
    assert_eq!(addresses(&bed.udp(&question("hello", A)).await), [bed.gateway]);
    assert!(bed.tells.listeners.borrow().is_empty(), "a redirect is no trouble");

    bed.zones.send_replace(Arc::default());
    timeout(DEADLINE, redirects.wait_for(|led| led.is_empty())).await.unwrap().unwrap();
}

#[tokio::test]
async fn servers_come_and_go_with_their_gateways() {
    let bed = Bed::new(10, &[]);
    bed.udp(&question("hello", A)).await;
    let moved = Ipv4Addr::new(127, 77, 0, 11);
    bed.zones.send_replace(zones(moved));
    let there = Bed { gateway: moved, zones: bed.zones.clone(), tells: bed.tells.clone(), ..bed };
    assert_eq!(addresses(&there.udp(&question("hello", A)).await), [moved]);
    let free = || std::net::UdpSocket::bind((Ipv4Addr::new(127, 77, 0, 10), there.port)).is_ok();
    assert!(free(), "the old one is gone");
}

#[test]
fn a_trouble_is_told_until_it_is_over_or_its_environment_gone() {
    let tells = Tells {
        redirects: watch::Sender::default(),
        listeners: watch::Sender::default(),
        manager: ServiceManager::default(),
    };
    let default = EnvironmentName::default();
    let trouble = Trouble { reason: Reason::PortTaken, details: "taken".to_owned() };
    let seen = || tells.listeners.borrow().keys().cloned().collect::<Vec<String>>();
    tells.trouble(&default, Some(trouble.clone()));
    tells.forget_others(&zones(Ipv4Addr::LOCALHOST));
    assert_eq!(seen(), ["dns/default"]);
    tells.trouble(&default, None);
    assert!(seen().is_empty());
    tells.trouble(&default, Some(trouble.clone()));
    // Other listeners tell by the same channel, and what they tell is theirs.
    let ingress = || ("ingress/default".to_owned(), trouble.clone());
    tells.listeners.send_modify(|told| Arc::make_mut(told).extend([ingress()]));
    tells.forget_others(&Zones::default());
    assert_eq!(seen(), ["ingress/default"]);
}

#[tokio::test]
async fn what_waits_for_a_name_server_is_bounded_and_does_not_hold_up_the_rest() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bed = Bed::new(12, &[silent.local_addr().unwrap()]);
    bed.udp(&question("hello", A)).await;
    let socket = UdpSocket::bind((bed.gateway, 0)).await.unwrap();
    socket.connect((bed.gateway, bed.port)).await.unwrap();
    let mut buffer = vec![0; 4096];
    // In portions, each followed by a question of our own, so that no buffer of the kernel's overflows.
    for _ in 0..30 {
        for _ in 0..10 {
            socket.send(&question("example.org", A)).await.unwrap();
        }
        socket.send(&question("hello", A)).await.unwrap();
        timeout(DEADLINE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    }
    let mut asked = 0;
    while timeout(Duration::from_millis(200), silent.recv(&mut buffer)).await.is_ok() {
        asked += 1;
    }
    assert_eq!(asked, 256);
}

#[tokio::test]
async fn connections_are_bounded() {
    let bed = Bed::new(13, &[]);
    bed.udp(&question("hello", A)).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect((bed.gateway, bed.port)).await.unwrap();
        upstream::send(&mut stream, &question("hello", A)).await.unwrap();
        timeout(DEADLINE, upstream::receive(&mut stream, 4096)).await.unwrap().unwrap();
        open.push(stream);
    }
    let mut one_more = TcpStream::connect((bed.gateway, bed.port)).await.unwrap();
    let _ = upstream::send(&mut one_more, &question("hello", A)).await;
    let answer = timeout(DEADLINE, upstream::receive(&mut one_more, 4096)).await.unwrap();
    assert!(answer.is_err(), "closed without an answer");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(message in proptest::collection::vec(any::<u8>(), 0..600)) {
        let zones = zones(Ipv4Addr::LOCALHOST);
        for transport in [Transport::Udp, Transport::Tcp] {
            let _ = decide(&zones[&EnvironmentName::default()], &message, transport);
        }
    }

    #[test]
    fn a_damaged_question_never_panics_and_its_reply_can_be_read(at in 0..40_usize, byte: u8, kind: u16) {
        let zones = zones(Ipv4Addr::LOCALHOST);
        let mut message = question("_http._tcp.hello.default", kind);
        if let Some(damaged) = message.get_mut(at) {
            *damaged = byte;
        }
        let zone = &zones[&EnvironmentName::default()];
        if let reply::Verdict::Reply(reply) = decide(zone, &message, Transport::Udp) {
            prop_assert!(12 <= reply.len() && reply[2] & 0x80 != 0 && reply[..2] == message[..2]);
        }
    }
}
