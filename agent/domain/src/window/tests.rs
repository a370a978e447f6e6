//! Windows at dates whose answers are known, and at any date.
//!
//! `tests/berlin.tzif` is Europe/Berlin as the time zone database has it (public domain).

use std::time::Duration;

use proptest::prelude::*;
use tz::UtcDateTime;

use super::*;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// 2026-03-29 01:00 UTC: Berlin's clocks go from 02:00 to 03:00.
const SPRING: u64 = 1_774_746_000;
/// 2026-10-25 01:00 UTC: Berlin's clocks go from 03:00 to 02:00.
const AUTUMN: u64 = 1_792_890_000;

fn at(seconds: u64) -> WallTime {
    WallTime(Duration::from_secs(seconds))
}

/// Seconds to a date and time of day in UTC.
fn utc(year: i32, month: u8, day: u8, hour: u8, minute: u8) -> u64 {
    let time = UtcDateTime::new(year, month, day, hour, minute, 0, 0).unwrap();
    u64::try_from(time.unix_time()).unwrap()
}

fn berlin() -> Zone {
    Zone::read(include_bytes!("tests/berlin.tzif")).unwrap()
}

fn zones() -> Zones {
    let mut zones = Zones::default();
    zones.learn("Europe/Berlin".to_owned(), berlin());
    zones
}

/// A zone that has had one rule for ever: a file without a single change, and a rule after them.
fn ruled(rule: &str) -> Zone {
    let block = b"TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\0\0\0\0UTC\0";
    let bytes = [block, block, b"\n".as_slice(), rule.as_bytes(), b"\n"].concat();
    Zone::read(&bytes).unwrap()
}

fn window(cron: &str, duration_minutes: u32, time_zone: &str) -> UpdateWindow {
    UpdateWindow { cron: cron.to_owned(), duration_minutes, time_zone: time_zone.to_owned() }
}

#[track_caller]
fn check(window: &UpdateWindow, now: u64, expected: Standing) {
    let found = standing(window, at(now), &zones()).unwrap();
    assert_eq!(found, expected, "{window:?} at {now}");
}

#[track_caller]
fn opens(window: &UpdateWindow, now: u64, when: u64) {
    check(window, now, Standing::OpensAt(at(when)));
}

#[test]
fn a_window_is_open_from_its_first_second_until_its_minutes_are_over() {
    let window = window("0 2 * * *", 120, "Europe/Berlin");
    // In July Berlin is two hours ahead.
    let begin = utc(2026, 7, 1, 0, 0);
    opens(&window, begin - 1, begin);
    check(&window, begin, Standing::Open);
    check(&window, begin + 2 * HOUR - 1, Standing::Open);
    opens(&window, begin + 2 * HOUR, begin + DAY);
    // In January one.
    opens(&window, utc(2026, 1, 10, 12, 0), utc(2026, 1, 11, 1, 0));
}

#[test]
fn a_fraction_of_a_second_changes_nothing() {
    let window = window("0 2 * * *", 1, "UTC");
    let begin = utc(2026, 7, 1, 2, 0);
    let found = |millis| {
        standing(&window, WallTime(Duration::from_millis(millis)), &Zones::default()).unwrap()
    };
    assert_eq!(found(begin * 1000 - 1), Standing::OpensAt(at(begin)));
    assert_eq!(found(begin * 1000 + 1), Standing::Open);
    assert_eq!(found(begin * 1000 + 59_999), Standing::Open);
    assert_eq!(found(begin * 1000 + 60_000), Standing::OpensAt(at(begin + DAY)));
}

#[test]
fn a_time_of_day_that_is_skipped_comes_when_the_clocks_have_gone_forward() {
    let window = window("30 2 * * *", 45, "Europe/Berlin");
    opens(&window, SPRING - 10 * MINUTE, SPRING);
    check(&window, SPRING, Standing::Open);
    check(&window, SPRING + 45 * MINUTE - 1, Standing::Open);
    opens(&window, SPRING + 45 * MINUTE, utc(2026, 3, 30, 0, 30));
    // The day before is as ever.
    check(&window, utc(2026, 3, 28, 1, 30), Standing::Open);
    opens(&window, utc(2026, 3, 28, 2, 15), SPRING);
}

#[test]
fn a_time_of_day_that_comes_twice_counts_the_first_time() {
    let window = window("30 2 * * *", 45, "Europe/Berlin");
    let (first, second) = (AUTUMN - 30 * MINUTE, AUTUMN + 30 * MINUTE);
    opens(&window, first - 1, first);
    check(&window, first, Standing::Open);
    // A real three quarters of an hour: the clocks show 02:15 again when it ends.
    check(&window, first + 45 * MINUTE - 1, Standing::Open);
    let next = utc(2026, 10, 26, 1, 30);
    opens(&window, first + 45 * MINUTE, next);
    opens(&window, second, next);
    opens(&window, second + 10 * MINUTE, next);
}

#[test]
fn what_follows_the_clock_is_skipped_and_repeated_with_it() {
    let window = window("*/30 2 * * *", 10, "Europe/Berlin");
    // None in the hour that is skipped; the next is at 02:00 of the day after.
    opens(&window, SPRING - 50 * MINUTE, utc(2026, 3, 30, 0, 0));
    // Four in the hour that comes twice.
    let mut now = AUTUMN - 2 * HOUR;
    for begin in [AUTUMN - HOUR, AUTUMN - 30 * MINUTE, AUTUMN, AUTUMN + 30 * MINUTE] {
        opens(&window, now, begin);
        check(&window, begin, Standing::Open);
        now = begin + 10 * MINUTE;
    }
    opens(&window, now, utc(2026, 10, 26, 1, 0));
}

#[test]
fn an_open_window_is_as_long_as_ever_when_the_clocks_change() {
    let window = window("0 1 * * *", 180, "Europe/Berlin");
    for begin in [SPRING - HOUR, AUTUMN - 2 * HOUR] {
        check(&window, begin, Standing::Open);
        check(&window, begin + 3 * HOUR - 1, Standing::Open);
        let after = standing(&window, at(begin + 3 * HOUR), &zones()).unwrap();
        assert!(matches!(after, Standing::OpensAt(_)), "{after:?}");
    }
}

#[test]
fn half_an_hour_of_summer_time_and_a_night_without_midnight() {
    let mut zones = Zones::default();
    // Lord Howe goes from 02:00 to 02:30 on 2026-10-04; Santiago from 24:00 on the 5th of September to 01:00.
    zones.learn("Lord_Howe".to_owned(), ruled("<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"));
    zones.learn("Santiago".to_owned(), ruled("<-04>4<-03>,M9.1.6/24,M4.1.6/24"));
    let cases = [
        (window("15 2 * * *", 5, "Lord_Howe"), utc(2026, 10, 3, 15, 0), utc(2026, 10, 3, 15, 30)),
        (window("0 0 * * *", 5, "Santiago"), utc(2026, 9, 6, 3, 0), utc(2026, 9, 6, 4, 0)),
    ];
    for (window, now, begin) in cases {
        let found = standing(&window, at(now), &zones).unwrap();
        assert_eq!(found, Standing::OpensAt(at(begin)), "{window:?}");
        assert_eq!(standing(&window, at(begin), &zones).unwrap(), Standing::Open);
    }
}

#[test]
fn a_window_longer_than_its_period_is_always_open() {
    let hourly = window("0 * * * *", 90, "Europe/Berlin");
    let minutely = window("* * * * *", 1, "Europe/Berlin");
    for minute in 0..DAY / MINUTE {
        for begin in [SPRING - 12 * HOUR, AUTUMN - 12 * HOUR] {
            check(&hourly, begin + minute * MINUTE + 7, Standing::Open);
            check(&minutely, begin + minute * MINUTE + 59, Standing::Open);
        }
    }
}

#[test]
fn the_longest_window_reaches_over_a_week() {
    let window = window("0 6 1 * *", 10_080, "UTC");
    check(&window, utc(2026, 2, 8, 5, 59), Standing::Open);
    opens(&window, utc(2026, 2, 8, 6, 0), utc(2026, 3, 1, 6, 0));
}

#[test]
fn the_29th_of_february_comes_in_leap_years() {
    let window = window("0 0 29 2 *", 60, "UTC");
    opens(&window, utc(2026, 1, 1, 0, 0), utc(2028, 2, 29, 0, 0));
    check(&window, utc(2028, 2, 29, 0, 59), Standing::Open);
    opens(&window, utc(2028, 2, 29, 1, 0), utc(2032, 2, 29, 0, 0));
    // 2100 is none.
    opens(&window, utc(2096, 3, 1, 0, 0), utc(2104, 2, 29, 0, 0));
}

#[test]
fn a_day_that_never_comes_opens_nothing() {
    for cron in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "* * 31 2 *"] {
        check(&window(cron, 10_080, "Europe/Berlin"), AUTUMN, Standing::Never);
    }
}

#[test]
fn a_day_of_the_month_and_a_day_of_the_week_mean_either() {
    let window = window("0 12 13 * FRI", 1, "UTC");
    // The 1st of May 2026 is a Friday, the 13th a Wednesday.
    opens(&window, utc(2026, 5, 1, 0, 0), utc(2026, 5, 1, 12, 0));
    opens(&window, utc(2026, 5, 9, 0, 0), utc(2026, 5, 13, 12, 0));
    opens(&window, utc(2026, 5, 13, 13, 0), utc(2026, 5, 15, 12, 0));
}

#[test]
fn names_ranges_and_sunday_as_seven() {
    let weekdays = window("0 3 * jan-mar MON-FRI", 1, "UTC");
    opens(&weekdays, utc(2026, 3, 27, 4, 0), utc(2026, 3, 30, 3, 0));
    opens(&weekdays, utc(2026, 3, 31, 4, 0), utc(2027, 1, 1, 3, 0));
    // The 1st of November 2026 is a Sunday.
    for sunday in ["0", "7", "SUN"] {
        let window = window(&format!("5 4 * * {sunday}"), 1, "UTC");
        opens(&window, utc(2026, 10, 27, 0, 0), utc(2026, 11, 1, 4, 5));
    }
}

#[test]
fn a_zone_that_the_board_does_not_know_is_told_of_and_utc_is_known() {
    let wanted = window("0 2 * * *", 1, "Mars/Olympus");
    let trouble = standing(&wanted, at(0), &zones()).unwrap_err();
    assert_eq!(trouble.reason, Reason::TimeZoneUnknown);
    assert_eq!(trouble.details, "skerry.updateWindow.timeZone: \"Mars/Olympus\"");
    for name in ["UTC", "Etc/UTC"] {
        let wanted = window("0 2 * * *", 1, name);
        let found = standing(&wanted, at(0), &Zones::default()).unwrap();
        assert_eq!(found, Standing::OpensAt(at(2 * HOUR)));
    }
}

#[test]
fn a_closed_window_says_when_it_opens_and_when_to_ask_again() {
    let now = Moment(Duration::from_secs(1000));
    let ask = |cron: &str, zone: &str, wall: WallTime| {
        let found = closed(&window(cron, 60, zone), now, wall, &zones());
        found.map(|(trouble, again)| (trouble.reason, trouble.details, again))
    };
    let begin = utc(2026, 7, 1, 0, 0);
    let wall = WallTime(Duration::from_millis(begin * 1000 - 1500));
    let opens = "it opens at 2026-07-01T00:00:00Z".to_owned();
    // Half a second later would be late; half a second too early would be asked in vain.
    let again = Some(Moment(Duration::from_millis(1_001_500)));
    let expected = Some((Reason::WaitingForWindow, opens, again));
    assert_eq!(ask("0 2 * * *", "Europe/Berlin", wall), expected);
    assert_eq!(ask("0 2 * * *", "Europe/Berlin", at(begin)), None);

    let never = "\"0 0 31 2 *\" names a day that never comes".to_owned();
    let expected = Some((Reason::WaitingForWindow, never, None));
    assert_eq!(ask("0 0 31 2 *", "UTC", wall), expected);
    let unknown = "skerry.updateWindow.timeZone: \"Mars\"".to_owned();
    assert_eq!(ask("0 2 * * *", "Mars", wall), Some((Reason::TimeZoneUnknown, unknown, None)));
}

#[test]
fn a_date_beyond_all_dates_opens_nothing() {
    let window = window("* * * * *", 1, "Europe/Berlin");
    for seconds in [u64::MAX, i64::MAX as u64, 90_000_000_000] {
        check(&window, seconds, Standing::Never);
    }
}

#[test]
fn texts_that_are_no_schedule_are_refused() {
    let wrong = [
        "",
        "* * * *",
        "* * * * * *",
        "@daily",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "a * * * *",
        "-1 * * * *",
    ];
    for text in wrong {
        assert!(Schedule::read(text).is_err(), "{text:?} was taken");
    }
}

#[test]
fn bytes_that_are_no_zone_are_refused() {
    let good = include_bytes!("tests/berlin.tzif");
    assert!(Zone::read(b"").is_err());
    assert!(Zone::read(b"TZif").is_err());
    // The rule of the time to come stands in the last line.
    let rule = good.len() - "\nCET-1CEST,M3.5.0,M10.5.0/3\n".len();
    for length in 0..rule {
        assert!(Zone::read(&good[..length]).is_err(), "{length} bytes were taken");
    }
}

/// Schedules that follow the clock, each with what it says about minute, hour, day, month and day of the week.
type Rule = (&'static str, fn(u8, u8, u8, u8, u8) -> bool);
const RULES: &[Rule] = &[
    ("*/7 * * * *", |minute, _, _, _, _| minute % 7 == 0),
    ("0 1-3 * * *", |minute, hour, _, _, _| minute == 0 && (1..=3).contains(&hour)),
    ("10,50 2 * * SUN", |minute, hour, _, _, weekday| {
        (minute == 10 || minute == 50) && hour == 2 && weekday == 0
    }),
    ("15 */6 25-31 3,10 *", |minute, hour, day, month, _| {
        minute == 15 && hour % 6 == 0 && 25 <= day && (month == 3 || month == 10)
    }),
    ("30-40 * 1 * 3", |minute, _, day, _, weekday| {
        (30..=40).contains(&minute) && (day == 1 || weekday == 3)
    }),
];

/// Whether a window that follows the clock is open, by looking at each minute in which it may have opened.
fn is_open_by_the_clock(rule: Rule, minutes: u64, now: u64, zone: &Zone) -> bool {
    (0..minutes).map(|ago| now - now % MINUTE - ago * MINUTE).any(|begin| {
        let begin = i64::try_from(begin).unwrap();
        let shown = UtcDateTime::from_timespec(begin + zone.ahead(begin), 0).unwrap();
        rule.1(shown.minute(), shown.hour(), shown.month_day(), shown.month(), shown.week_day())
    })
}

/// Moments of 2026, most of them near a change of the clocks.
fn moments() -> impl Strategy<Value = u64> {
    prop_oneof![
        SPRING - 4 * HOUR..SPRING + 4 * HOUR,
        AUTUMN - 4 * HOUR..AUTUMN + 4 * HOUR,
        utc(2026, 1, 1, 0, 0)..utc(2027, 1, 1, 0, 0),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_window_that_follows_the_clock_is_open_when_its_minutes_say_so(
        rule in proptest::sample::select(RULES), minutes in 1..200_u64, now in moments(),
    ) {
        let window = window(rule.0, u32::try_from(minutes).unwrap(), "Europe/Berlin");
        let found = standing(&window, at(now), &zones()).unwrap();
        let open = is_open_by_the_clock(rule, minutes, now, &berlin());
        prop_assert_eq!(found == Standing::Open, open, "{:?}", found);
    }

    #[test]
    fn a_closed_window_stays_closed_until_it_opens(
        cron in prop_oneof![
            proptest::sample::select(RULES).prop_map(|rule| rule.0),
            Just("30 2 * * *"), Just("0 3 * * *"), Just("59 1 * * 0"),
        ],
        minutes in 1..200_u32, now in moments(), between in 0.0..1.0_f64,
    ) {
        let (window, zones) = (window(cron, minutes, "Europe/Berlin"), zones());
        let closed = standing(&window, at(now), &zones).unwrap();
        if let Standing::OpensAt(begin) = closed {
            prop_assert!(at(now) < begin);
            prop_assert_eq!(standing(&window, begin, &zones).unwrap(), Standing::Open);
            let last = WallTime(begin.0.checked_sub(Duration::from_secs(1)).unwrap());
            prop_assert_eq!(standing(&window, last, &zones).unwrap(), closed);
            let wait = last.0.saturating_sub(at(now).0);
            let meanwhile = WallTime(at(now).0 + wait.mul_f64(between));
            prop_assert_eq!(standing(&window, meanwhile, &zones).unwrap(), closed);
        } else {
            prop_assert_eq!(closed, Standing::Open);
        }
    }

    #[test]
    fn no_text_makes_it_panic(
        text in prop_oneof![
            "[0-9A-Z*/,#?+@ -]{0,40}",
            "[0-9*/,-]{1,4} [*0-9,/-]{1,4} [0-9LW*?/,-]{1,4} [0-9A-Z*/-]{1,4} [0-9A-Z*#L?+/-]{1,4}",
            "\\PC{0,20}",
        ],
        now in moments(),
    ) {
        if let Ok(schedule) = Schedule::read(&text) {
            let zone = berlin();
            let (last, next) = (schedule.last(at(now), &zone), schedule.next(at(now), &zone));
            prop_assert!(last.is_none_or(|last| last <= at(now)));
            prop_assert!(next.is_none_or(|next| at(now) < next));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in Just(include_bytes!("tests/berlin.tzif").to_vec()),
        places in proptest::collection::vec((0..2298_usize, any::<u8>()), 1..8), now in moments(),
    ) {
        for (place, byte) in places {
            if let Some(there) = bytes.get_mut(place) {
                *there = byte;
            }
        }
        if let Ok(zone) = Zone::read(&bytes) {
            let schedule = Schedule::read("30 2 * * *").unwrap();
            let next = schedule.next(at(now), &zone);
            prop_assert!(next.is_none_or(|next| at(now) < next));
        }
    }
}
