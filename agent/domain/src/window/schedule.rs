//! The times that a cron expression names, by the clock of a zone. Never asks what time it is.
//!
//! What happens where clocks are set forward or back is what cron(8) does:
//!
//! - A single time of day (one minute, one hour) that is skipped comes at the first moment after the gap, and one that
//!   comes twice counts once, the first time.
//! - Everything else (`*`, lists, ranges, steps in the minute or the hour) follows the clock: what the clock does not
//!   show does not come, and what it shows twice comes twice.

use std::cmp::Ordering;
use std::time::Duration;

use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::{CivilDate, CivilDateTime, CivilTime, Cron, CronDateTime, Resolution, Weekday};
use tz::UtcDateTime;

use super::zones::Zone;
use crate::model::WallTime;

/// The last second of the year 4800: the library gives up at 5000.
const END_OF_TIME: i64 = 89_333_020_799;

/// The calendar repeats itself after as many years: a day that does not come in these never comes.
const ALL_YEARS: &str = "2000-2399";

/// Well within them.
const SOME_TIME: i64 = 946_684_800;

/// A day, in seconds: no zone is further from UTC.
const DAY: i64 = 86_400;

/// Times that come again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// None for a day that never comes: looking for it through all years would take long.
    cron: Option<Cron>,
}

/// The text is no cron expression of five fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSchedule(String);

impl Schedule {
    /// Reads minute, hour, day of the month, month and day of the week. A day of the month and a day of the week that
    /// are both given mean either.
    pub fn read(text: &str) -> Result<Self, InvalidSchedule> {
        if text.split_whitespace().count() != 5 {
            return Err(InvalidSchedule("there are not five fields".to_owned()));
        }
        let refused = |error: CronError| InvalidSchedule(error.to_string());
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed);
        let cron = parser.build().parse(text).map_err(refused)?;
        let all = CronParser::builder().seconds(Seconds::Required).year(Year::Required);
        let all = all.build().parse(&format!("0 {text} {ALL_YEARS}")).map_err(refused)?;
        let comes = Local::at(Zone::UTC, SOME_TIME)
            .is_some_and(|start| all.find_next_occurrence(&start, true).is_ok());
        Ok(Self { cron: comes.then_some(cron) })
    }

    /// The latest of its times up to `now`, now included.
    pub fn last(&self, now: WallTime, zone: &Zone) -> Option<WallTime> {
        let start = Local::now(zone, now)?;
        wall(&self.cron.as_ref()?.find_previous_occurrence(&start, true).ok()?)
    }

    /// The first of its times after `now`. None in a zone whose clocks jump so far that it would be an earlier one.
    pub fn next(&self, now: WallTime, zone: &Zone) -> Option<WallTime> {
        let start = Local::now(zone, now)?;
        let next = wall(&self.cron.as_ref()?.find_next_occurrence(&start, false).ok()?)?;
        (now < next).then_some(next)
    }
}

fn wall(time: &Local<'_>) -> Option<WallTime> {
    Some(WallTime(Duration::from_secs(u64::try_from(time.at).ok()?)))
}

/// A moment, and what the clocks of a zone show then.
#[derive(Debug, Clone)]
struct Local<'a> {
    zone: &'a Zone,
    /// Seconds since 1970.
    at: i64,
    /// What the clocks show, as if it were UTC.
    shown: UtcDateTime,
}

impl<'a> Local<'a> {
    fn now(zone: &'a Zone, now: WallTime) -> Option<Self> {
        Self::at(zone, i64::try_from(now.0.as_secs()).ok()?)
    }

    fn at(zone: &'a Zone, at: i64) -> Option<Self> {
        if END_OF_TIME < at {
            return None;
        }
        let shown = UtcDateTime::from_timespec(at.checked_add(zone.ahead(at))?, 0).ok()?;
        Some(Self { zone, at, shown })
    }
}

impl CronDateTime for Local<'_> {
    fn to_civil(&self) -> CivilDateTime {
        let (date, time) = (
            CivilDate::from_parts_unchecked(
                self.shown.year(),
                self.shown.month().into(),
                self.shown.month_day().into(),
            ),
            CivilTime::from_parts_unchecked(
                self.shown.hour().into(),
                self.shown.minute().into(),
                self.shown.second().into(),
            ),
        );
        CivilDateTime::new(date, time)
    }

    fn civil_weekday(&self) -> Weekday {
        Weekday::from_days_from_sunday(self.shown.week_day().into())
    }

    fn resolve_civil(&self, civil: CivilDateTime) -> Result<Resolution<Self>, CronError> {
        let shown = seconds(civil).ok_or(CronError::InvalidTime)?;
        // What is in force a day before and a day after is all that can be in force: no zone changes its clocks on two
        // days in a row.
        let (before, after) = (self.zone.ahead(shown - DAY), self.zone.ahead(shown + DAY));
        let with = |ahead: i64| {
            let at = shown - ahead;
            if self.zone.ahead(at) == ahead { Self::at(self.zone, at) } else { None }
        };
        let first = with(before);
        let second = if before == after { None } else { with(after) };
        Ok(match (first, second) {
            (Some(first), Some(second)) if second.at < first.at => {
                Resolution::Ambiguous(second, first)
            }
            (Some(first), Some(second)) => Resolution::Ambiguous(first, second),
            (Some(only), None) | (None, Some(only)) => Resolution::Single(only),
            (None, None) => Resolution::Gap,
        })
    }

    fn checked_add_seconds(&self, seconds: i64) -> Option<Self> {
        Self::at(self.zone, self.at.checked_add(seconds)?)
    }

    fn cmp_instant(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

/// Seconds from 1970 to a date, by a clock that shows UTC.
fn seconds(civil: CivilDateTime) -> Option<i64> {
    let part = |number: u32| u8::try_from(number).ok();
    let time = UtcDateTime::new(
        civil.year(),
        part(civil.month())?,
        part(civil.day())?,
        part(civil.hour())?,
        part(civil.minute())?,
        part(civil.second())?,
        0,
    );
    Some(time.ok()?.unix_time())
}
