//! A board and its neighbour, each in a network namespace of its own, joined by a cable.

mod lan;

use std::net::Ipv4Addr;
use std::sync::Arc;

use domain::zone::{AnnouncedApp, Announcements};
use simple_dns::TYPE;
use simple_dns::rdata::RData;

use self::lan::{Board, Lan};

const BOARD: Ipv4Addr = Ipv4Addr::new(10, 231, 7, 1);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 231, 7, 2);

fn announced(apps: &[(&str, &str)]) -> Arc<Announcements> {
    let app = |(name, revision): &(&str, &str)| {
        (name.parse().unwrap(), AnnouncedApp { revision: revision.parse().unwrap(), port: None })
    };
    Arc::new(Announcements { apps: apps.iter().map(app).collect() })
}

#[test]
fn an_app_that_speaks_tcp_is_found_by_its_port_and_not_as_http() {
    let Some(lan) = Lan::new("tcp") else { return };
    let board = Board::start(&lan, true, &[]);
    let neighbour = lan.neighbour();
    let http = announced(&[("db", "db--1")]);
    let mut tcp = Announcements::clone(&http);
    for app in tcp.apps.values_mut() {
        app.port = Some(5432);
    }
    board.announce(http);
    assert_eq!(board.held("db"), "db");
    board.announce(Arc::new(tcp));
    neighbour.hear("the goodbye of the service it was", |record| {
        record.ttl == 0 && record.name.to_string() == "_http._tcp.local"
    });
    neighbour.ask("db._skerry-app._tcp.local", TYPE::SRV, |record| matches!(&record.rdata, RData::SRV(srv) if srv.port == 5432 && srv.target.to_string() == "db.local"));
    neighbour.ask("db.local", TYPE::A, |record| matches!(record.rdata, RData::A(_)));
    assert_eq!(board.held("db"), "db");
    board.stop();
}

#[test]
fn an_app_is_found_by_name_and_by_service_and_says_goodbye() {
    let Some(lan) = Lan::new("one") else { return };
    let board = Board::start(&lan, true, &[]);
    let neighbour = lan.neighbour();
    board.announce(announced(&[("hello", "hello--0000001")]));
    assert_eq!(board.held("hello"), "hello");
    let seen = neighbour.ask("hello.local", TYPE::A, |record| matches!(record.rdata, RData::A(_)));
    assert_eq!(
        lan::addresses(&seen, "hello.local"),
        [BOARD],
        "the bridge of an environment is not the LAN"
    );
    neighbour.ask("_http._tcp.local", TYPE::PTR, |record| {
        lan::points_to(record, "hello._http._tcp.local")
    });
    neighbour.ask("hello._http._tcp.local", TYPE::SRV, |record| matches!(&record.rdata, RData::SRV(srv) if srv.port == 80 && srv.target.to_string() == "hello.local"));
    neighbour.ask("hello._http._tcp.local", TYPE::TXT, |record| {
        lan::has_text(record, "revision", "hello--0000001")
    });
    neighbour.ask("_skerry._tcp.local", TYPE::PTR, |record| matches!(record.rdata, RData::PTR(_)));
    neighbour.ask("pi-1-skerry.local", TYPE::A, |record| matches!(record.rdata, RData::A(_)));

    board.announce(announced(&[("hello", "hello--0000002")]));
    neighbour
        .hear("the next revision", |record| lan::has_text(record, "revision", "hello--0000002"));
    board.announce(announced(&[]));
    neighbour.hear("the app's goodbye", |record| {
        record.ttl == 0 && record.name.to_string() == "hello.local"
    });
    board.stop();
    neighbour.hear("the device's goodbye", |record| {
        record.ttl == 0 && record.name.to_string() == "pi-1-skerry.local"
    });
}

#[test]
fn a_name_that_another_host_holds_is_changed_and_reported() {
    let Some(lan) = Lan::new("two") else { return };
    let board = Board::start(&lan, true, &[]);
    let neighbour = lan.neighbour();
    board.announce(announced(&[("hello", "hello--0000001")]));
    neighbour.defend("hello.local", NEIGHBOUR);
    assert_eq!(board.held("hello"), "hello-2");
    let seen =
        neighbour.ask("hello-2.local", TYPE::A, |record| matches!(record.rdata, RData::A(_)));
    assert_eq!(lan::addresses(&seen, "hello-2.local"), [BOARD]);
    board.stop();
}

#[test]
fn nothing_is_said_where_it_is_off_or_on_an_interface_that_was_not_asked_for() {
    let Some(lan) = Lan::new("three") else { return };
    let neighbour = lan.neighbour();
    let off = Board::start(&lan, false, &[]);
    off.announce(announced(&[("off", "off--0000001")]));
    let elsewhere = Board::start(&lan, true, &["eth9"]);
    elsewhere.announce(announced(&[("elsewhere", "elsewhere--0000001")]));
    let here = Board::start(&lan, true, &["lan0"]);
    here.announce(announced(&[("here", "here--0000001")]));
    assert_eq!(here.held("here"), "here");
    let seen = neighbour.ask("_http._tcp.local", TYPE::PTR, |record| {
        lan::points_to(record, "here._http._tcp.local")
    });
    let said = |name: &str| seen.iter().any(|record| record.name.to_string().starts_with(name));
    assert!(!said("off") && !said("elsewhere"));
    assert!(off.names().is_empty() && elsewhere.names().is_empty());
    off.stop();
    elsewhere.stop();
    here.stop();
}

#[test]
fn avahi_finds_an_app_and_defends_its_own_name() {
    let Some(lan) = Lan::new("four") else { return };
    let Some(avahi) = lan.avahi() else { return };
    avahi.says("avahi-resolve -4 -n neighbour.local", "10.231.7.2");
    let board = Board::start(&lan, true, &[]);
    board.announce(announced(&[("hello", "hello--0000001"), ("neighbour", "neighbour--0000001")]));
    assert_eq!(
        (board.held("hello").as_str(), board.held("neighbour").as_str()),
        ("hello", "neighbour-2")
    );
    avahi.says("avahi-resolve -4 -n hello.local", "10.231.7.1");
    avahi.says("avahi-resolve -4 -n neighbour-2.local", "10.231.7.1");
    avahi.says("avahi-resolve -4 -n neighbour.local", "10.231.7.2");
    let browsed = avahi.says("avahi-browse -rtp _http._tcp", "\"revision=hello--0000001\"");
    assert!(browsed.contains(";hello.local;10.231.7.1;80;"), "{browsed}");
    board.stop();
}
