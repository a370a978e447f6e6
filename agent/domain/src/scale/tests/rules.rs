//! What rules ask for, as tables.

use std::collections::BTreeMap;

use super::*;
use crate::document::{Scale, ScaleRule, ScaleTrigger, Template};
use crate::model::WallTime;
use crate::reason::Reason;
use crate::route::Transport;
use crate::scale::{Asked, Asks, Sight, asks};
use crate::window::Zones;

const HTTP: Option<Transport> = Some(Transport::Auto);

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn template(triggers: Vec<ScaleTrigger>) -> Template {
    let rule = |(n, trigger)| ScaleRule {
        name: format!("rule-{n}"),
        trigger,
        auth: Vec::new(),
        identity: None,
    };
    let rules = triggers.into_iter().enumerate().map(rule).collect();
    Template { scale: Scale { rules, ..Scale::default() }, ..Template::default() }
}

/// What the rules of a template ask for at a date, in seconds since 1970.
fn ask<'a>(
    template: &'a Template,
    ingress: Option<Transport>,
    asked: Asked,
    readings: &Readings,
    wall: u64,
) -> Asks<'a> {
    let sight = Sight {
        now: at(1000),
        wall: WallTime(Duration::from_secs(wall)),
        zones: &Zones::default(),
        asked,
        readings,
        crons: &Crons::new(),
        awake: true,
    };
    asks(&"a--1".parse().unwrap(), template, ingress, sight)
}

fn of(template: &Template, asked: Asked) -> Option<u32> {
    ask(template, HTTP, asked, &Readings::new(), 0).metrics[0].desired
}

fn begun(begun: u64) -> Asked {
    Asked { begun, ..Asked::default() }
}

#[test]
fn requests_are_counted_over_the_window() {
    let http = |target: &str| {
        template(vec![ScaleTrigger::Http { metadata: pairs(&[("concurrentRequests", target)]) }])
    };
    for (target, count, desired) in [
        ("10", 0, 0),
        ("10", 1, 1),
        ("10", 150, 1),
        ("10", 151, 2),
        ("1", 150, 10),
        ("0.1", 15, 10),
        ("nonsense", 150, 1),
        ("-3", 150, 1),
    ] {
        assert_eq!(of(&http(target), begun(count)), Some(desired), "{count} of {target}");
    }
    let usual = template(Vec::new());
    assert_eq!(of(&usual, begun(151)), Some(2), "the rule of an app that has none");
    let none = ask(&usual, None, begun(151), &Readings::new(), 0);
    assert!(none.metrics.is_empty(), "without ingress there is nothing to look at");
}

#[test]
fn connections_are_those_that_are_open() {
    let open = Asked { open: 21, ..Asked::default() };
    for key in ["concurrentConnections", "concurrentRequests", "CONCURRENTCONNECTIONS"] {
        let tcp = template(vec![ScaleTrigger::Tcp { metadata: pairs(&[(key, "5")]) }]);
        assert_eq!(of(&tcp, open), Some(5), "{key}");
    }
}

#[test]
fn cron_holds_from_each_start_to_the_next_end() {
    let cron = |start: &str, end: &str, zone: &str| {
        let given = [("start", start), ("end", end), ("timezone", zone), ("desiredReplicas", "7")];
        template(vec![ScaleTrigger::Custom { kind: "cron".to_owned(), metadata: pairs(&given) }])
    };
    // The 23rd of November 2026 began then, a Monday.
    let monday = 498_720 * 3600;
    let office = cron("0 8 * * 1-5", "30 17 * * 1-5", "UTC");
    for (hour, minute, desired, again) in [
        (7, 59, 0, 60),
        (8, 0, 7, 3600),
        (17, 29, 7, 60),
        (17, 30, 0, 3600),
        (24 * 5 + 12, 0, 0, 3600),
    ] {
        let now = monday + hour * 3600 + minute * 60;
        let asks = ask(&office, None, Asked::default(), &Readings::new(), now);
        let metric = asks.metrics[0];
        assert_eq!(
            (metric.desired, metric.active),
            (Some(desired), 0 < desired),
            "{hour}:{minute}"
        );
        assert_eq!(asks.again, Some(at(1000 + again)), "{hour}:{minute}");
    }
    let reason = |template: &Template| {
        let asks = ask(template, None, Asked::default(), &Readings::new(), monday);
        assert_eq!(asks.metrics[0].desired, None);
        asks.trouble.map(|trouble| (trouble.reason, trouble.details))
    };
    let (why, details) = reason(&cron("0 8 * *", "30 17 * * *", "UTC")).unwrap();
    assert_eq!(why, Reason::InvalidValue);
    assert!(details.starts_with("rule rule-0: start: \"0 8 * *\""), "{details}");
    let (why, details) = reason(&cron("0 8 * * *", "30 17 * * *", "Europe/Nowhere")).unwrap();
    assert_eq!(
        (why, details.as_str()),
        (Reason::TimeZoneUnknown, "rule rule-0: timezone \"Europe/Nowhere\"")
    );
}

#[test]
fn what_was_sampled_is_divided_and_what_failed_says_why() {
    let custom =
        |kind: &str| ScaleTrigger::Custom { kind: kind.to_owned(), metadata: BTreeMap::new() };
    let template = template(vec![custom("metrics-api"), custom("nonsense"), custom("mqtt")]);
    let key = |rule: &str| SampleKey { revision: "a--1".parse().unwrap(), rule: rule.to_owned() };
    let failed = Trouble { reason: Reason::StorageFailed, details: "refused".to_owned() };
    let readings = Readings::from([
        (key("rule-0"), Reading::Value { value: 11.0, target: 5.0, activation: 11.0 }),
        (key("rule-2"), Reading::Failed(failed)),
    ]);
    let asks = ask(&template, HTTP, begun(3), &readings, 0);
    let seen: Vec<_> =
        asks.metrics.iter().map(|metric| (metric.rule, metric.desired, metric.active)).collect();
    let expected = [
        ("rule-0", Some(3), false),
        ("rule-1", Some(0), false),
        ("rule-2", None, false),
        ("http", Some(1), true),
    ];
    assert_eq!(seen, expected, "a request keeps one replica where other rules say how many");
    assert_eq!(asks.trouble.unwrap().details, "rule rule-2: refused");
}
