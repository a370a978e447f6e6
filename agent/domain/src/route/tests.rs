//! Lookups and picks, as tables.

use super::*;

fn backend(revision: &RevisionName, n: u8) -> Backend {
    let address = SocketAddrV4::new(Ipv4Addr::new(10, 250, 0, n), 8080);
    Backend { replica: ReplicaName::new(revision, u64::from(n)), address }
}

/// `app(name, [(suffix, weight, replicas)])`: an external app; replicas are last parts of their addresses.
fn app(name: &str, revisions: &[(&str, u32, &[u8])]) -> Service {
    let named = |suffix: &str| format!("{name}--{suffix}").parse::<RevisionName>().unwrap();
    let share = |(suffix, weight, _): &(&str, u32, &[u8])| Share {
        revision: named(suffix),
        weight: *weight,
    };
    let replicas = |(suffix, _, replicas): &(&str, u32, &[u8])| {
        let revision = named(suffix);
        let backends = replicas.iter().map(|n| backend(&revision, *n)).collect();
        (revision, backends)
    };
    Service {
        app: name.parse().unwrap(),
        external: true,
        transport: Transport::Auto,
        lan_name: name.to_owned(),
        domains: Vec::new(),
        split: revisions.iter().map(share).collect(),
        revisions: revisions.iter().map(replicas).collect(),
        asleep: BTreeMap::new(),
        labels: BTreeMap::new(),
        unready: Reason::NoReadyReplica,
    }
}

/// The last part of the address of a replica that is ready; the name of a revision that is asleep.
fn whom(picked: Picked<'_>) -> Result<u8, String> {
    match picked {
        Picked::Ready(one) => Ok(one.address.ip().octets()[3]),
        Picked::Asleep(revision) => Err(revision.to_string()),
    }
}

fn replica(picked: Picked<'_>) -> u8 {
    whom(picked).unwrap()
}

fn environment(
    name: &str,
    gateway: [u8; 4],
    apps: Vec<Service>,
) -> (EnvironmentName, EnvironmentRoutes) {
    let suffix = format!("{name}.pi-1.internal");
    let apps = apps.into_iter().map(|app| (app.app.clone(), Arc::new(app))).collect();
    (
        name.parse().unwrap(),
        EnvironmentRoutes { gateway: gateway.into(), suffix, apps, ports: Ports::new() },
    )
}

fn table() -> RouteTable {
    let mut shop = app("shop", &[("1", 20, &[1]), ("2", 80, &[2, 3]), ("3", 0, &[])]);
    shop.labels = [("blue".to_owned(), "shop--1".parse().unwrap())].into();
    shop.domains = vec!["www.example.com".to_owned()];
    shop.lan_name = "shop-2".to_owned();
    let store =
        Service { external: false, lan_name: String::new(), ..app("store", &[("1", 100, &[4])]) };
    let raw = Service { transport: Transport::Tcp, ..app("raw", &[("1", 100, &[5])]) };
    let other_shop = app("shop", &[("9", 100, &[6])]);
    let annex = Service { lan_name: String::new(), ..app("annex", &[("1", 100, &[7])]) };
    let environments = [
        environment("default", [10, 250, 0, 1], vec![shop, store, raw]),
        environment("test", [10, 250, 1, 1], vec![other_shop, annex]),
    ];
    RouteTable { environments: environments.into(), ..RouteTable::default() }
}

#[track_caller]
fn check(side: &Side, host: &str, expected: &str) {
    let table = table();
    let found = match table.find(host, side) {
        Err(reason) => reason.word().to_owned(),
        Ok(found) => {
            let split = &found.service.split;
            match found.aim {
                Aim::Split => format!("{} of {}", found.service.app, split[0].revision),
                Aim::Revision(revision) => format!("{} only {revision}", found.service.app),
            }
        }
    };
    assert_eq!(found, expected, "{host} from {side:?}");
}

#[test]
fn hosts_on_the_lan_lead_to_external_apps() {
    let lan = Side::Lan;
    check(&lan, "shop", "shop of shop--1");
    check(&lan, "SHOP.Default.Pi-1.Internal.:8080", "shop of shop--1");
    check(&lan, "shop.default.pi-1.internal", "shop of shop--1");
    check(&lan, "shop.internal.default.pi-1.internal", "shop of shop--1");
    check(&lan, "shop.test.pi-1.internal", "shop of shop--9");
    check(&lan, "annex", "annex of annex--1");
    check(&lan, "shop-2.local", "shop of shop--1");
    check(&lan, "www.example.com:80", "shop of shop--1");
    check(&lan, "shop--2.default.pi-1.internal", "shop only shop--2");
    check(&lan, "shop---blue.default.pi-1.internal", "shop only shop--1");
}

#[test]
fn what_the_lan_may_not_reach_is_unknown_there() {
    for host in
        ["store", "store.default.pi-1.internal", "store.local", "raw", "raw.default.pi-1.internal"]
    {
        check(&Side::Lan, host, "UnknownHost");
    }
}

#[test]
fn names_that_lead_nowhere_are_unknown() {
    let long = "a".repeat(5000);
    for host in [
        "",
        ".",
        ":80",
        "[::1]:80",
        "::1",
        "10.250.0.1",
        "nobody",
        "a.b.default.pi-1.internal",
        ".local",
        ".default.pi-1.internal",
        "shop.default.pi-2.internal",
        "shop--4.default.pi-1.internal",
        "shop---green.default.pi-1.internal",
        "shop--",
        "shop---",
        "example.com",
        "shöp",
        long.as_str(),
    ] {
        check(&Side::Lan, host, "UnknownHost");
    }
}

#[test]
fn an_environment_reaches_all_of_its_own_apps_and_none_of_the_others() {
    let inside = Side::Environment("default".parse().unwrap());
    check(&inside, "store", "store of store--1");
    check(&inside, "store.internal.default.pi-1.internal", "store of store--1");
    check(&inside, "store--1.internal.default.pi-1.internal", "store only store--1");
    check(&inside, "annex", "UnknownHost");
    check(&inside, "shop.test.pi-1.internal", "UnknownHost");
    check(&Side::Environment("gone".parse().unwrap()), "shop", "UnknownHost");
    check(&Side::Environment("test".parse().unwrap()), "shop", "shop of shop--9");
}

/// How many of 100 tickets each revision gets, where the replicas in `out` are not to be picked.
fn shares(out: &[u8]) -> BTreeMap<String, usize> {
    let table = table();
    let found = table.find("shop", &Side::Lan).unwrap();
    let busy = |one: &Backend| (!out.contains(&one.address.ip().octets()[3])).then_some(0);
    let mut counts = BTreeMap::new();
    for number in 0..100 {
        let ticket = Ticket::new(number).unwrap();
        let picked = found.pick(ticket, busy, 0).map_or_else(
            |reason| reason.word().to_owned(),
            |one| match one {
                Picked::Ready(one) => one.replica.as_str()[..7].to_owned(),
                Picked::Asleep(revision) => format!("{revision} wakes"),
            },
        );
        *counts.entry(picked).or_default() += 1;
    }
    counts
}

#[test]
fn tickets_are_split_exactly_by_weight() {
    let of = |pairs: &[(&str, usize)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
    assert_eq!(shares(&[]), of(&[("shop--1", 20), ("shop--2", 80)]));
    assert_eq!(shares(&[2]), of(&[("shop--1", 20), ("shop--2", 80)]));
    assert_eq!(shares(&[2, 3]), of(&[("shop--1", 100)]));
    assert_eq!(shares(&[1]), of(&[("shop--2", 100)]));
    assert_eq!(shares(&[1, 2, 3]), of(&[("NoReadyReplica", 100)]));
}

#[test]
fn a_run_of_requests_comes_close_to_the_weights_also_when_two_apps_take_turns() {
    for step in [1, 2, 3, 7] {
        let low = (0..1000).filter(|n| Ticket::nth(n * step).0 < 20).count();
        assert!(low.abs_diff(200) <= 4, "step {step}: {low}");
    }
}

/// How many of the requests numbered so each revision gets, one replica each, by these weights.
fn shares_of(weights: &[u32], numbers: impl Iterator<Item = u32>) -> Vec<u32> {
    let names = ["a", "b", "c", "d"];
    let replicas: [&[u8]; 4] = [&[1], &[2], &[3], &[4]];
    let each = weights.iter().zip(names.iter().zip(replicas));
    let revisions: Vec<_> = each.map(|(weight, (name, one))| (*name, *weight, one)).collect();
    let table = RouteTable {
        environments: [environment("default", [10, 250, 0, 1], vec![app("a", &revisions)])].into(),
        ..RouteTable::default()
    };
    let found = table.find("a", &Side::Lan).unwrap();
    let mut counts = vec![0; weights.len()];
    for number in numbers {
        let picked = found.pick(Ticket::nth(number), |_| Some(0), 0).unwrap();
        counts[usize::from(replica(picked)) - 1] += 1;
    }
    counts
}

#[test]
fn a_thousand_requests_are_shared_by_any_weights_from_wherever_they_are_numbered() {
    let splits: [&[u32]; 7] =
        [&[80, 20], &[20, 80], &[1, 99], &[33, 33, 34], &[100, 0], &[50, 0, 50], &[97, 1, 1, 1]];
    for weights in splits {
        for first in [0, 1, 999, 123_456, u32::MAX - 500] {
            let numbers = || (0..1000).map(|n| first.wrapping_add(n));
            let counts = shares_of(weights, numbers());
            assert_eq!(counts.iter().sum::<u32>(), 1000);
            for (count, weight) in counts.iter().zip(weights) {
                // Closer than three sigma of chance, sqrt(1000 p (1 - p)), which is 9 for one per cent, 38 for twenty.
                assert!(count.abs_diff(weight * 10) <= 4, "{weights:?} from {first}: {counts:?}");
                assert!(0 < *weight || *count == 0, "{weights:?} from {first}: {counts:?}");
            }
            assert_eq!(counts, shares_of(weights, numbers()), "it is the same each time");
        }
    }
}

#[test]
fn a_label_leads_to_its_revision_whatever_its_weight() {
    let mut service = app("a", &[("old", 100, &[1]), ("new", 0, &[2])]);
    service.labels = [("next", "a--new"), ("now", "a--old")]
        .map(|(label, revision)| (label.to_owned(), revision.parse().unwrap()))
        .into();
    let table = RouteTable {
        environments: [environment("default", [10, 250, 0, 1], vec![service])].into(),
        ..RouteTable::default()
    };
    let picked = |host: &str| {
        let found = table.find(&format!("{host}.default.pi-1.internal"), &Side::Lan).unwrap();
        let picks = (0..100).map(|n| found.pick(Ticket::nth(n), |_| Some(0), 0).unwrap());
        let mut last: Vec<u8> = picks.map(replica).collect();
        last.dedup();
        last
    };
    assert_eq!(picked("a"), [1]);
    assert_eq!(picked("a---next"), [2]);
    assert_eq!(picked("A---Next"), [2]);
    assert_eq!(picked("a--new"), [2]);
    assert_eq!(picked("a---now"), [1]);
}

#[test]
fn the_least_busy_replica_is_picked_and_equals_take_turns() {
    let service = app("a", &[("1", 100, &[1, 2, 3])]);
    let table = RouteTable {
        environments: [environment("default", [10, 250, 0, 1], vec![service])].into(),
        ..RouteTable::default()
    };
    let found = table.find("a", &Side::Lan).unwrap();
    let pick = |open: [usize; 3], turn| {
        let busy = |one: &Backend| Some(open[usize::from(one.address.ip().octets()[3]) - 1]);
        replica(found.pick(Ticket(0), busy, turn).unwrap())
    };
    assert_eq!(pick([2, 1, 2], 0), 2);
    assert_eq!([0, 1, 2, 3].map(|turn| pick([0, 0, 0], turn)), [1, 2, 3, 1]);
    assert_eq!([0, 1, 2].map(|turn| pick([1, 5, 1], turn)), [1, 3, 1]);
}

#[test]
fn a_revision_asked_for_by_name_serves_whatever_its_weight_or_is_unready() {
    let table = table();
    let picked = |host: &str| {
        let found = table.find(host, &Side::Lan).unwrap();
        found.pick(Ticket(99), |_| Some(0), 0).map(replica)
    };
    assert_eq!(picked("shop--1.default.pi-1.internal"), Ok(1));
    assert_eq!(picked("shop--3.default.pi-1.internal"), Err(Reason::NoReadyReplica));
}

#[test]
fn who_is_asleep_keeps_its_share_and_is_woken() {
    let wakes = Sleep::Wakes;
    let fails = Sleep::Fails(Reason::CrashLoopBackOff);
    let picks = |asleep: &[(&str, Sleep)], replicas: [&'static [u8]; 2]| {
        let mut service = app("a", &[("1", 20, replicas[0]), ("2", 80, replicas[1])]);
        service.asleep =
            asleep.iter().map(|(name, sleep)| (name.parse().unwrap(), *sleep)).collect();
        let apps = vec![service];
        let environments = [environment("default", [10, 250, 0, 1], apps)].into();
        let table = RouteTable { environments, ..RouteTable::default() };
        let pick = |host: &str, ticket| {
            let found = table.find(host, &Side::Lan).unwrap();
            found.pick(Ticket(ticket), |_| Some(0), 0).map(whom)
        };
        (pick("a", 0), pick("a", 99), pick("a--2.default.pi-1.internal", 0))
    };
    let asleep = |name: &str| Ok(Err(name.to_owned()));
    let both = [("a--1", wakes), ("a--2", wakes)];
    let all = picks(&both, [&[], &[]]);
    assert_eq!(all, (asleep("a--1"), asleep("a--2"), asleep("a--2")));
    let one = picks(&[("a--2", wakes)], [&[1], &[]]);
    assert_eq!(one, (Ok(Ok(1)), asleep("a--2"), asleep("a--2")));
    // One of two replicas of a revision that comes back is enough.
    assert_eq!(picks(&both, [&[1], &[2]]), (Ok(Ok(1)), Ok(Ok(2)), Ok(Ok(2))));
    // Who does not come leaves its share to the others, and its reason where there are none.
    let why = Err(Reason::CrashLoopBackOff);
    assert_eq!(picks(&[("a--2", fails)], [&[1], &[]]), (Ok(Ok(1)), Ok(Ok(1)), why.clone()));
    assert_eq!(picks(&[("a--2", fails)], [&[], &[]]), (why.clone(), why.clone(), why));
}

#[test]
fn a_port_leads_to_its_app_from_the_sides_that_it_has() {
    let mut table = table();
    let raw = Arc::clone(&table.environments["default"].apps["raw"]);
    let routes = table.environments.get_mut("default").unwrap();
    routes.ports.insert(5432, Arc::clone(&raw));
    routes.ports.insert(5433, Arc::clone(&raw));
    table.ports.insert(5432, raw);
    let inside = |name: &str| Side::Environment(name.parse().unwrap());
    let found =
        |port, side: &Side| table.find_port(port, side).map(|found| found.service.app.to_string());
    assert_eq!(found(5432, &Side::Lan), Ok("raw".to_owned()));
    assert_eq!(found(5432, &inside("default")), Ok("raw".to_owned()));
    assert_eq!(found(5433, &inside("default")), Ok("raw".to_owned()));
    for (port, side) in [(5433, Side::Lan), (5432, inside("test")), (5434, inside("default"))] {
        assert_eq!(found(port, &side), Err(Reason::UnknownPort), "{port} {side:?}");
    }
}
