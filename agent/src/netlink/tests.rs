//! The network against the kernel itself, each test on a board of its own.

mod bed;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use domain::route::{Service, Transport};
use tokio::time::Instant;

use self::bed::{
    BOARD, LAN, connect, environments, here, inode, listen, neighbour, on_a_board, place, replica,
    sh, within,
};
use super::*;

#[test]
fn attaching_twice_is_attaching_once_and_what_is_half_there_is_made_whole() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        netlink.settle(&environments(&["default"])).await.unwrap();
        let web = replica("web", 1);
        let place = place(&netlink, "default", &web, 5);
        let began = Instant::now();
        netlink.attach(&web, &place).await.unwrap();
        println!("first attach: {:?}", began.elapsed());
        let (namespace, outside) = (inode(&place.netns), namespace::outside(&web));
        let link = sh(&format!("ip -o link show {outside}"));
        let began = Instant::now();
        netlink.attach(&web, &place).await.unwrap();
        println!("attach of what stands: {:?}", began.elapsed());
        assert_eq!(inode(&place.netns), namespace);
        assert_eq!(sh(&format!("ip -o link show {outside}")), link, "made anew without need");

        let inside = File::open(&place.netns).unwrap();
        let damages = [
            format!("ip link del {outside}"),
            format!("nsenter --net={} ip addr flush dev eth0", place.netns.display()),
            format!("nsenter --net={} ip link set lo down", place.netns.display()),
            format!("ip link set {outside} nomaster"),
        ];
        let listener = listen(&here(), 80);
        for damage in damages {
            sh(&damage);
            netlink.attach(&web, &place).await.unwrap();
            assert_eq!(connect(&inside, "10.231.0.1:80"), Ok(()), "after {damage}");
        }
        drop(listener);
        // The file alone, as a power cut between making and mounting leaves it.
        netlink.detach(&web).await.unwrap();
        fs::write(&place.netns, "").unwrap();
        netlink.attach(&web, &place).await.unwrap();
        assert!(netlink.observe().await.unwrap().namespaces.contains(&web));
    });
}

#[test]
fn what_was_attached_is_observed_and_after_detaching_nothing_is_left() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        assert_eq!(netlink.observe().await.unwrap().namespaces, BTreeSet::new());
        let wanted = environments(&["default", "lab"]);
        netlink.settle(&wanted).await.unwrap();
        let web = replica("web", 1);
        netlink.attach(&web, &place(&netlink, "default", &web, 5)).await.unwrap();
        fs::write(bed.dir.path().join("netns/not-a-replica"), "").unwrap();
        fs::write(netlink.netns(&replica("web", 2)), "").unwrap();
        let observed = netlink.observe().await.unwrap();
        assert_eq!(observed.environments, wanted);
        assert_eq!(observed.namespaces, [web.clone()].into());
        assert_eq!(observed.addresses, [BOARD.parse::<Ipv4Addr>().unwrap()]);

        let began = Instant::now();
        netlink.detach(&web).await.unwrap();
        println!("detach: {:?}", began.elapsed());
        netlink.detach(&web).await.unwrap();
        assert_eq!(netlink.observe().await.unwrap().namespaces, BTreeSet::new());
        assert!(!netlink.netns(&web).exists());
        assert!(!sh("ip -o link").contains("skv"));

        // The next agent removes what a killed one left half removed, and nothing of others.
        bed.netlink().observe().await.unwrap();
        assert!(!netlink.netns(&replica("web", 2)).exists());
        assert!(bed.dir.path().join("netns/not-a-replica").exists());

        assert_eq!(netlink.settle(&BTreeMap::new()).await.unwrap(), []);
        assert!(!sh("ip -o link").contains("sk-"));
        assert!(!sh("nft list tables").contains("skerry"));
        assert!(!forwards().unwrap(), "forwarding is off again, as it was");
    });
}

#[test]
fn from_a_lookout_is_reached_what_a_container_reaches_and_it_leaves_nothing() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        let [web, api] = bed.two_replicas(&netlink).await;
        let (default, none) = (EnvironmentName::default(), "none".parse().unwrap());
        netlink.open(&none).await.unwrap_err();
        let vantage = netlink.open(&default).await.unwrap();
        assert_eq!(vantage.address, Ipv4Addr::new(10, 231, 0, 254));
        let namespace = inode(&vantage.netns);
        assert_eq!(netlink.open(&default).await.unwrap(), vantage);
        assert_eq!(inode(&vantage.netns), namespace, "made anew without need");
        assert_eq!(netlink.observe().await.unwrap().namespaces.len(), 2, "it is no replica");

        let inside = File::open(&vantage.netns).unwrap();
        let _servers = [&web, &api, &bed.lan].map(|machine| listen(machine, 8080));
        let _board = [80, 22].map(|port| listen(&here(), port));
        for (to, expected) in [
            ("10.231.0.5:8080".to_owned(), Ok(())),
            (format!("{LAN}:8080"), Ok(())),
            ("10.231.0.1:80".to_owned(), Ok(())),
            ("10.231.0.1:22".to_owned(), Err(ErrorKind::ConnectionRefused)),
            (format!("{BOARD}:22"), Err(ErrorKind::ConnectionRefused)),
            ("127.0.0.1:22".to_owned(), Err(ErrorKind::ConnectionRefused)),
            ("10.231.1.5:8080".to_owned(), Err(ErrorKind::TimedOut)),
        ] {
            assert_eq!(connect(&inside, &to), expected, "{to}");
        }
        drop(inside);
        netlink.close(&default).await.unwrap();
        netlink.close(&default).await.unwrap();
        assert!(!vantage.netns.exists() && !sh("ip -o link").contains("skl"));

        // One that nobody closed goes with its environment.
        netlink.open(&default).await.unwrap();
        netlink.settle(&environments(&[])).await.unwrap();
        assert!(!vantage.netns.exists() && !sh("ip -o link").contains("skl"));
    });
}

#[test]
fn a_successor_with_the_same_address_is_reached_at_once() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        netlink.settle(&environments(&["default"])).await.unwrap();
        let sibling = replica("sibling", 9);
        netlink.attach(&sibling, &place(&netlink, "default", &sibling, 6)).await.unwrap();
        let sibling = File::open(netlink.netns(&sibling)).unwrap();
        for number in 1..=2 {
            let web = replica("web", number);
            netlink.attach(&web, &place(&netlink, "default", &web, 5)).await.unwrap();
            let inside = File::open(netlink.netns(&web)).unwrap();
            let _web = listen(&inside, 8080);
            // The first time each learns where the address is; the second time each believes to know.
            assert_eq!(connect(&here(), "10.231.0.5:8080"), Ok(()), "the board, {number}");
            assert_eq!(connect(&sibling, "10.231.0.5:8080"), Ok(()), "a sibling, {number}");
            netlink.detach(&web).await.unwrap();
        }
    });
}

#[test]
fn containers_reach_the_lan_by_the_boards_address_and_the_lan_does_not_reach_them() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        // Forwarding is on already: then it is our rules alone that keep the LAN out.
        fs::write(IP_FORWARD, "1").unwrap();
        let [web, _] = bed.two_replicas(&netlink).await;
        let lan = listen(&bed.lan, 8080);
        assert_eq!(connect(&web, &format!("{LAN}:8080")), Ok(()));
        assert_eq!(lan.accept().unwrap().1.ip(), BOARD.parse::<IpAddr>().unwrap());

        let (_web, _gateway) = (listen(&web, 8080), listen(&here(), 80));
        assert_eq!(connect(&here(), "10.231.0.5:8080"), Ok(()), "the board itself may");
        assert_eq!(connect(&here(), "10.231.0.1:80"), Ok(()), "the board itself may");
        assert_eq!(connect(&bed.lan, &format!("{BOARD}:80")), Ok(()), "the board is open");
        assert_eq!(connect(&bed.lan, "10.231.0.5:8080"), Err(ErrorKind::TimedOut));
        assert_eq!(connect(&bed.lan, "10.231.0.1:80"), Err(ErrorKind::TimedOut));
    });
}

#[test]
fn environments_do_not_reach_each_other_and_siblings_do() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        let [web, api] = bed.two_replicas(&netlink).await;
        let sibling = replica("sibling", 3);
        netlink.attach(&sibling, &place(&netlink, "default", &sibling, 6)).await.unwrap();
        let sibling = File::open(netlink.netns(&sibling)).unwrap();
        let (_api, _sibling, _gateways) =
            (listen(&api, 8080), listen(&sibling, 8080), listen(&here(), 80));
        assert_eq!(connect(&web, "10.231.0.6:8080"), Ok(()));
        assert_eq!(connect(&web, "10.231.0.1:80"), Ok(()));
        assert_eq!(connect(&web, "10.231.1.5:8080"), Err(ErrorKind::TimedOut));
        assert_eq!(connect(&web, "10.231.1.1:80"), Err(ErrorKind::TimedOut));
    });
}

#[test]
fn of_the_board_containers_reach_dns_ingress_and_what_is_allowed() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        let [web, _] = bed.two_replicas(&netlink).await;
        let _open = [53, 80, 1883, 22].map(|port| listen(&here(), port));
        for port in [53, 80, 1883] {
            assert_eq!(connect(&web, &format!("10.231.0.1:{port}")), Ok(()), "{port}");
        }
        for closed in ["10.231.0.1:22".to_owned(), format!("{BOARD}:22"), format!("{BOARD}:1883")] {
            let refused = Err(ErrorKind::ConnectionRefused);
            assert_eq!(connect(&web, &closed), refused, "{closed}, and at once");
        }
        within(&web, || sh("busybox ping -c1 -W1 10.231.0.1"));
        // By IPv6 there is no way at all, and an app that is not root may have a low port.
        let ipv6 = || sh("ip -6 -o addr show scope link");
        assert_eq!(
            (sh("ip -6 -o addr show dev sk-default"), within(&web, ipv6)),
            Default::default()
        );
        let first_port = || fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        assert_eq!(within(&web, first_port).unwrap().trim(), "0");
        // A container that gives itself another address is not heard.
        within(&web, || {
            sh("ip addr replace 10.231.1.77/24 dev eth0 && ip addr del 10.231.0.5/24 dev eth0")
        });
        within(&web, || sh("ip route replace 10.231.0.1/32 dev eth0"));
        assert_eq!(connect(&web, "10.231.0.1:80"), Err(ErrorKind::TimedOut));
    });
}

#[test]
fn a_taken_port_of_the_gateway_is_led_to_the_one_that_serves_it() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        let [web, api] = bed.two_replicas(&netlink).await;
        let stop = CancellationToken::new();
        let follow = netlink.clone().follow(stop.clone());
        let lead = async {
            let server = TcpListener::bind("10.231.0.1:0").unwrap();
            let port = server.local_addr().unwrap().port();
            let led = [((EnvironmentName::default(), 53), port)].into();
            bed.redirects.send_replace(Arc::new(led));
            let deadline = Instant::now() + Duration::from_secs(10);
            while connect(&web, "10.231.0.1:53").is_err() {
                assert!(Instant::now() < deadline, "the redirect never came");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(connect(&api, "10.231.1.1:53"), Err(ErrorKind::ConnectionRefused));
            stop.cancel();
        };
        tokio::join!(follow, lead);
    });
}

#[test]
fn a_port_of_an_app_opens_on_its_own_gateway_and_closes_again() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        let [web, api] = bed.two_replicas(&netlink).await;
        let _gateways = listen(&here(), 5432);
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(connect(&web, "10.231.0.1:5432"), refused);
        let stop = CancellationToken::new();
        let follow = netlink.clone().follow(stop.clone());
        let change = async {
            let comes_to = async |expected: Result<(), ErrorKind>| {
                let deadline = Instant::now() + Duration::from_secs(10);
                while connect(&web, "10.231.0.1:5432") != expected {
                    assert!(Instant::now() < deadline, "it never came to {expected:?}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            bed.routes.send_replace(with_port(5432));
            comes_to(Ok(())).await;
            assert_eq!(connect(&api, "10.231.1.1:5432"), refused, "of another environment");
            assert_eq!(connect(&api, "10.231.0.1:5432"), Err(ErrorKind::TimedOut));
            assert_eq!(connect(&web, &format!("{BOARD}:5432")), refused, "by the gateway alone");
            assert_eq!(connect(&bed.lan, "10.231.0.1:5432"), Err(ErrorKind::TimedOut));
            bed.routes.send_replace(Arc::default());
            comes_to(refused).await;
            stop.cancel();
        };
        tokio::join!(follow, change);
    });
}

/// A table with this port of an app in the environment `default`.
fn with_port(port: u16) -> Arc<RouteTable> {
    let service = Service {
        app: "db".parse().unwrap(),
        external: false,
        transport: Transport::Tcp,
        lan_name: String::new(),
        domains: Vec::new(),
        split: Vec::new(),
        revisions: BTreeMap::new(),
        asleep: BTreeMap::new(),
        labels: BTreeMap::new(),
        unready: Reason::NoReadyReplica,
    };
    let routes = EnvironmentRoutes {
        gateway: Ipv4Addr::new(10, 231, 0, 1),
        suffix: String::new(),
        apps: BTreeMap::new(),
        ports: [(port, Arc::new(service))].into(),
    };
    let environments = [(EnvironmentName::default(), routes)].into();
    Arc::new(RouteTable { environments, ..RouteTable::default() })
}

#[test]
fn an_interface_of_the_bridges_name_is_left_alone() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        sh("ip link add sk-default type bridge && ip link add sk-lab type veth peer name other");
        let troubles = netlink.settle(&environments(&["default", "lab", "third"])).await.unwrap();
        let reasons: Vec<Reason> = troubles.iter().map(|trouble| trouble.reason).collect();
        assert_eq!(reasons, [Reason::BridgeNameTaken; 2]);
        let environments: Vec<String> =
            netlink.observe().await.unwrap().environments.keys().map(ToString::to_string).collect();
        assert_eq!(environments, ["third"]);
        let web = replica("web", 1);
        let error = netlink.attach(&web, &place(&netlink, "default", &web, 5)).await.unwrap_err();
        assert_eq!(error.0.reason, Reason::BridgeNameTaken);
        netlink.settle(&BTreeMap::new()).await.unwrap();
        sh("ip link show sk-default && ip link show sk-lab");
    });
}

#[test]
fn a_bridge_that_a_power_cut_left_half_made_is_finished() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        sh("ip link add sk-default address 02:73:6b:00:00:00 type bridge");
        let wanted = environments(&["default"]);
        assert_eq!(netlink.settle(&wanted).await.unwrap(), []);
        assert_eq!(netlink.observe().await.unwrap().environments, wanted);
        // Another subnet for the same environment takes the place of the old one.
        let moved = [(EnvironmentName::default(), "10.231.9.0/24".parse().unwrap())].into();
        netlink.settle(&moved).await.unwrap();
        assert_eq!(netlink.observe().await.unwrap().environments, moved);
    });
}

#[test]
fn subnets_that_the_board_is_in_are_not_offered() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        netlink.settle(&environments(&["default"])).await.unwrap();
        let own: Ipv4Net = "10.231.0.0/24".parse().unwrap();
        assert_eq!(netlink.free_subnets().await.unwrap().len(), 256);
        sh("ip addr add 10.231.1.9/25 dev lan0 && ip route add 10.231.2.0/23 via 192.0.2.2");
        sh("ip route add 0.0.0.0/1 via 192.0.2.2 && ip route add default via 192.0.2.2");
        let free = netlink.free_subnets().await.unwrap();
        assert_eq!(free[..2], [own, "10.231.4.0/24".parse().unwrap()]);
        sh("ip route add 10.0.0.0/8 via 192.0.2.2");
        let error = netlink.free_subnets().await.unwrap_err();
        assert_eq!(error.0.reason, Reason::AddressPoolInUse);
    });
}

#[test]
fn traffic_of_others_is_forwarded_only_where_it_was_before() {
    on_a_board(async |bed| {
        let other = neighbour("lan1", "198.51.100.1", "198.51.100.2");
        within(&other, || sh("ip route add default via 198.51.100.1"));
        within(&bed.lan, || sh("ip route add 198.51.100.0/24 via 192.0.2.1"));
        let _server = listen(&other, 8080);
        let through = || connect(&bed.lan, "198.51.100.2:8080");

        bed.netlink().settle(&environments(&["default"])).await.unwrap();
        assert!(forwards().unwrap());
        assert_eq!(through(), Err(ErrorKind::TimedOut));
        // An agent that starts anew still knows whose forwarding it is, and puts it back in the end.
        let restarted = bed.netlink();
        restarted.settle(&environments(&["default", "lab"])).await.unwrap();
        assert_eq!(through(), Err(ErrorKind::TimedOut));
        restarted.settle(&BTreeMap::new()).await.unwrap();
        assert!(!forwards().unwrap());

        fs::write(IP_FORWARD, "1").unwrap();
        restarted.settle(&environments(&["default"])).await.unwrap();
        assert_eq!(through(), Ok(()));
        bed.netlink().settle(&BTreeMap::new()).await.unwrap();
        assert!(forwards().unwrap(), "what was on stays on");
    });
}

#[test]
fn another_firewall_that_drops_what_is_forwarded_is_named() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        let wanted = environments(&["default"]);
        assert_eq!(netlink.settle(&wanted).await.unwrap(), []);
        sh(
            "nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'",
        );
        for _ in 0..2 {
            let troubles = netlink.settle(&wanted).await.unwrap();
            assert_eq!(troubles.len(), 1);
            assert_eq!(troubles[0].reason, Reason::ForwardBlocked);
            assert!(troubles[0].details.contains("ip filter FORWARD"), "{}", troubles[0].details);
        }
        sh("nft add rule ip filter FORWARD iifname 'sk-*' accept");
        assert_eq!(netlink.settle(&wanted).await.unwrap(), []);
    });
}

#[test]
fn the_table_comes_back_after_a_flush_and_is_left_alone_while_it_stands() {
    on_a_board(async |bed| {
        let netlink = bed.netlink();
        let wanted = environments(&["default"]);
        netlink.settle(&wanted).await.unwrap();
        let handle = || sh("nft -a list table inet skerry | head -1");
        let (before, generation) = (handle(), nft::generation());
        assert!(generation.is_some());
        let began = Instant::now();
        netlink.settle(&wanted).await.unwrap();
        println!("settle of what stands: {:?}", began.elapsed());
        assert_eq!((handle(), nft::generation()), (before.clone(), generation));
        sh("nft add table ip other");
        netlink.settle(&wanted).await.unwrap();
        assert_eq!(handle(), before, "another's change is no reason to touch ours");
        sh("nft flush ruleset");
        netlink.settle(&wanted).await.unwrap();
        assert!(sh("nft list table inet skerry").contains("forwarding_turned_on"));
    });
}
