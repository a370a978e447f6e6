//! When a window is open: from each time that a schedule names, for so many minutes, by the clock of its zone.
//!
//! ```text
//!   cron ─▶ Schedule ─▶ last, next ──┐
//!   name ─▶ Zones ────▶ Zone ────────┼─▶ Standing
//!   now ─────────────────────────────┘
//! ```

mod schedule;
#[cfg(test)]
mod tests;
mod zones;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::document::UpdateWindow;
use crate::model::{Moment, WallTime};
use crate::reason::Reason;
use crate::replica::Trouble;
use crate::scale;
use crate::state::{AppRecord, State};

pub use self::schedule::{InvalidSchedule, Schedule};
pub use self::zones::{Zone, ZoneUnreadable, Zones};

/// How a window stands at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A switch may take place now.
    Open,
    /// It opens then. Wait for it by asking again: the board's date may be set in between.
    OpensAt(WallTime),
    /// Its cron names a day that never comes, such as the 31st of February.
    Never,
}

/// How `window` stands at `now`.
///
/// It is open from each time that its cron names in its zone, that second included, until its minutes have passed,
/// that second excluded. Windows that overlap are one. The minutes are real ones: a clock that is set forward or back
/// while the window is open makes it neither shorter nor longer.
pub fn standing(window: &UpdateWindow, now: WallTime, zones: &Zones) -> Result<Standing, Trouble> {
    let schedule = Schedule::read(&window.cron).map_err(|error| Trouble {
        reason: Reason::InvalidValue,
        details: format!("skerry.updateWindow.cron: {error}"),
    })?;
    let zone = zones.of(&window.time_zone).ok_or_else(|| Trouble {
        reason: Reason::TimeZoneUnknown,
        details: format!("skerry.updateWindow.timeZone: {:?}", window.time_zone),
    })?;
    let lasts = Duration::from_secs(u64::from(window.duration_minutes) * 60);
    // All are of one length, so the one that opened last is the one that closes last.
    if let Some(WallTime(opened)) = schedule.last(now, zone)
        && now.0.saturating_sub(opened) < lasts
    {
        return Ok(Standing::Open);
    }
    Ok(schedule.next(now, zone).map_or(Standing::Never, Standing::OpensAt))
}

/// Why a switch has to wait for `window`, and when to ask again: sooner, if somebody sets the board's date. Says nothing
/// while the window is open.
pub fn closed(
    window: &UpdateWindow,
    now: Moment,
    wall: WallTime,
    zones: &Zones,
) -> Option<(Trouble, Option<Moment>)> {
    let waiting = |details| Trouble { reason: Reason::WaitingForWindow, details };
    match standing(window, wall, zones) {
        Ok(Standing::Open) => None,
        Ok(Standing::OpensAt(when)) => {
            // The date, not the wait: a status that counts down would be published every second.
            let details = date(when).map_or_else(String::new, |date| format!("it opens at {date}"));
            Some((waiting(details), Some(now.after(when.0.saturating_sub(wall.0)))))
        }
        Ok(Standing::Never) => {
            Some((waiting(format!("{:?} names a day that never comes", window.cron)), None))
        }
        Err(trouble) => Some((trouble, None)),
    }
}

/// In UTC, to the second, as statuses have it.
fn date(time: WallTime) -> Option<String> {
    let time = tz::UtcDateTime::from_timespec(i64::try_from(time.0.as_secs()).ok()?, 0).ok()?;
    let (year, month, day) = (time.year(), time.month(), time.month_day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// The zones that documents in force name.
pub fn zones_named(state: &State) -> BTreeSet<String> {
    let documents = state.apps.values().filter_map(AppRecord::document);
    let windows = documents.filter_map(|document| document.skerry.update_window.as_ref());
    let windows = windows.map(|window| window.time_zone.clone());
    let revisions = state.apps.values().flat_map(|record| &record.revisions);
    let active = revisions.filter(|revision| revision.active);
    windows.chain(active.flat_map(|revision| scale::zones(&revision.template))).collect()
}
