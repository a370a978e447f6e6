//! The scaler as tables, over a day of load, and against what always holds; the rules as tables.

mod day;
mod rules;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::Moment;

fn at(secs: u64) -> Moment {
    Moment(Duration::from_secs(secs))
}

/// A rule that asks for so many, and sees something happen where that is more than none.
fn asks_for(desired: u32) -> Metric<'static> {
    Metric { rule: "load", desired: Some(desired), active: 0 < desired, calls: false }
}

fn terms(min: u32, max: u32, metric: Metric<'_>) -> Terms<'_> {
    let cooldown = Duration::from_mins(5);
    Terms { min, max, rests: true, cooldown, metrics: vec![metric] }
}

/// `(second, desired) -> count`, one after another, from a revision that has `from` replicas.
fn run(from: u32, min: u32, max: u32, steps: &[(u64, u32)]) -> Vec<u32> {
    let mut scaler = Scaler::new(from, at(0));
    let decide = |(secs, desired): &(u64, u32)| {
        scaler.decide(&terms(min, max, asks_for(*desired)), at(*secs)).count
    };
    steps.iter().map(decide).collect()
}

#[test]
fn steps_up_are_four_then_twice_as_many_once_a_window() {
    let up = [(0, 100), (5, 100), (15, 100), (30, 100), (45, 100), (60, 100), (75, 100)];
    assert_eq!(run(1, 0, 100, &up), [4, 4, 8, 16, 32, 64, 100]);
    assert_eq!(run(1, 0, 10, &up), [4, 4, 8, 10, 10, 10, 10]);
    assert_eq!(run(1, 0, 100, &[(0, 3), (1, 5), (15, 5)]), [3, 3, 5], "no more than asked for");
}

#[test]
fn what_is_at_zero_comes_back_with_one_and_the_formula_holds_from_the_next_window_on() {
    assert_eq!(run(0, 0, 10, &[(0, 0), (1, 8), (2, 8), (16, 8), (31, 8)]), [0, 1, 1, 4, 8]);
    assert_eq!(run(0, 3, 10, &[(0, 0)]), [3], "unless the least is more");
}

#[test]
fn steps_down_wait_until_nothing_in_five_minutes_asked_for_more() {
    let down = [(0, 8), (15, 8), (100, 2), (399, 2), (400, 2)];
    assert_eq!(run(8, 1, 10, &down), [8, 8, 8, 8, 2], "all of the surplus at once");
    let waves = [(0, 8), (100, 2), (200, 6), (300, 2), (400, 2), (599, 2), (600, 2)];
    assert_eq!(run(8, 1, 10, &waves), [8, 8, 8, 8, 6, 6, 2]);
}

#[test]
fn the_last_replicas_go_when_nothing_has_happened_for_the_cool_down() {
    assert_eq!(run(3, 0, 10, &[(0, 3), (10, 0), (309, 0), (310, 0)]), [3, 3, 3, 0]);
    assert_eq!(
        run(1, 0, 10, &[(0, 1), (10, 0), (300, 1), (310, 0), (609, 0), (610, 0)])[4..],
        [1, 0]
    );
    assert_eq!(run(3, 1, 10, &[(0, 3), (10, 0), (309, 0), (310, 0)]), [3, 3, 3, 1]);
}

#[test]
fn nobody_polls_while_nothing_is_to_come() {
    let mut scaler = Scaler::new(1, at(0));
    let mut again = |desired, secs| scaler.decide(&terms(0, 10, asks_for(desired)), at(secs)).again;
    assert_eq!(again(1, 0), None, "as many as asked for, and busy");
    assert_eq!(again(0, 10), Some(at(310)), "the cool-down");
    assert_eq!(again(0, 310), None, "at zero");
    assert_eq!(again(5, 1000), Some(at(1015)), "the first window");
}

#[test]
fn a_bound_that_moves_holds_at_once() {
    let mut scaler = Scaler::new(2, at(0));
    let mut count = |min, max, secs| scaler.decide(&terms(min, max, asks_for(2)), at(secs)).count;
    assert_eq!(count(0, 10, 0), 2);
    assert_eq!(count(7, 10, 1), 7);
    assert_eq!(count(0, 10, 2), 2, "nothing asked for seven");
    assert_eq!(count(0, 1, 3), 1);
}

#[test]
fn a_rule_that_says_nothing_keeps_what_there_is_and_the_most_demanding_wins() {
    let silent = Metric { desired: None, active: false, ..asks_for(0) };
    let mut scaler = Scaler::new(3, at(0));
    let mut decide = |metrics: Vec<Metric<'static>>, secs| {
        scaler.decide(&Terms { metrics, ..terms(1, 10, silent) }, at(secs)).count
    };
    assert_eq!(decide(vec![silent, asks_for(1)], 0), 3);
    assert_eq!(decide(vec![silent, asks_for(4)], 1000), 4);
    assert_eq!(decide(vec![asks_for(2), asks_for(5), asks_for(3)], 2000), 5);
}

#[test]
fn what_was_sent_to_zero_comes_back_for_somebody_who_waits_and_for_what_happens_anew() {
    let mut scaler = Scaler::new(2, at(0));
    let mut count = |metric, secs| scaler.decide(&terms(0, 10, metric), at(secs)).count;
    assert_eq!(count(asks_for(2), 0), 2);
    let mut dismissed = Scaler::new(2, at(0));
    dismissed.decide(&terms(0, 10, asks_for(2)), at(0));
    dismissed.dismiss();
    let mut other = dismissed.clone();
    let mut count = |metric, secs| dismissed.decide(&terms(0, 10, metric), at(secs)).count;
    assert_eq!(count(asks_for(2), 1), 0, "what went on then goes on");
    assert_eq!(count(asks_for(0), 2), 0);
    assert_eq!(count(asks_for(2), 3), 1, "it happens anew");
    let waits = Metric { calls: true, ..asks_for(2) };
    assert_eq!(other.decide(&terms(0, 10, waits), at(1)).count, 1);
}

proptest! {
    #[test]
    fn the_bounds_always_hold_and_no_step_is_too_large(
        min in 0_u32..5, more in 1_u32..60, from in 0_u32..10,
        steps in prop::collection::vec((1_u64..400, 0_u32..80), 1..60),
    ) {
        let max = min + more;
        let mut scaler = Scaler::new(from, at(0));
        let (mut now, mut count) = (0, from);
        let mut last_up = None;
        for (pause, desired) in steps {
            now += pause;
            let next = scaler.decide(&terms(min, max, asks_for(desired)), at(now));
            prop_assert!(min <= next.count && next.count <= max);
            prop_assert!(next.again.is_none_or(|again| at(now) < again));
            if 0 < desired {
                prop_assert!(1 <= next.count);
            }
            let floor = min.max(1);
            if count.max(floor) < next.count {
                prop_assert!(next.count <= desired.max(1));
                prop_assert!(next.count <= (2 * count.max(floor)).max(4));
                prop_assert!(last_up.is_none_or(|at| at + 15 <= now));
                last_up = Some(now);
            }
            count = next.count;
        }
    }
}
