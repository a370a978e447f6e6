//! A day of an app, minute by minute, with the clock going as the scaler asks for it.

use super::*;
use crate::document::{Scale, Template};
use crate::model::WallTime;
use crate::route::Transport;
use crate::scale::{Asked, Sight, asks};
use crate::window::Zones;

const DAY: u64 = 86_400;

/// Requests in a second at a second of the day: none at night, a peak at noon, a burst at half past three.
fn rate(secs: u64) -> u64 {
    match secs / 60 {
        360..600 => 15,
        600..720 => 45,
        720..780 => 95,
        930..935 => 400,
        780..1080 => 35,
        1080..1200 => 3,
        _ => 0,
    }
}

/// `(second, count)` of each change; and how often the scaler was asked.
fn day(min: u32, max: u32) -> (Vec<(u64, u32)>, usize) {
    let scale = Scale { min_replicas: min, max_replicas: max, ..Scale::default() };
    let template = Template { scale, ..Template::default() };
    let revision = "a--1".parse().unwrap();
    let mut scaler = Scaler::new(1, at(0));
    let (mut changes, mut asked, mut due) = (vec![(0, 1)], 0, Some(at(0)));
    let mut before = None;
    for secs in 0..DAY {
        // The ingress tells of each window that had requests, and of the first that had none.
        let window = secs % 15 == 0 && 15 <= secs;
        let begun: u64 = if window { (secs - 15..secs).map(rate).sum() } else { 0 };
        let told = window && before != Some(begun);
        if window {
            before = Some(begun);
        }
        let count = scaler.count();
        let waits = count == 0 && 0 < rate(secs);
        if !told && !waits && due != Some(at(secs)) {
            continue;
        }
        let sight = Sight {
            now: at(secs),
            wall: WallTime::default(),
            zones: &Zones::default(),
            asked: Asked { begun: before.unwrap_or(0), open: 0, waiting: u64::from(waits) },
            readings: &Readings::new(),
            crons: &Crons::new(),
            awake: 0 < count,
        };
        let metrics = asks(&revision, &template, Some(Transport::Auto), sight).metrics;
        let decision = scaler.decide(&Terms { metrics, ..terms(min, max, asks_for(0)) }, at(secs));
        (asked, due) = (asked + 1, decision.again);
        if decision.count != count {
            changes.push((secs, decision.count));
        }
    }
    (changes, asked)
}

#[test]
fn a_day_of_load_is_followed_and_the_night_costs_nothing() {
    let (changes, asked) = day(0, 20);
    let clock: Vec<String> = changes
        .iter()
        .map(|(secs, count)| {
            format!("{:02}:{:02}:{:02} {count}", secs / 3600, secs / 60 % 60, secs % 60)
        })
        .collect();
    let expected = expect_test::expect![[r#"
        00:00:00 1
        00:05:00 0
        06:00:00 1
        06:00:15 2
        10:00:15 4
        10:00:30 5
        12:00:15 10
        13:05:15 4
        15:30:15 8
        15:30:30 16
        15:30:45 20
        15:40:15 4
        18:05:15 1
        20:05:15 0"#]];
    expected.assert_eq(&clock.join("\n"));
    assert!(asked < 100, "asked {asked} times in a day");
}

#[test]
fn the_bounds_hold_all_day() {
    let (changes, _) = day(2, 6);
    assert!(changes[1..].iter().all(|(_, count)| (2..=6).contains(count)), "{changes:?}");
}
