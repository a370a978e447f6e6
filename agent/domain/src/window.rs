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
use crate::model::WallTime;
use crate::reason::Reason;
use crate::replica::Trouble;
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

/// The zones that documents in force name.
pub fn zones_named(state: &State) -> BTreeSet<String> {
    let documents = state.apps.values().filter_map(AppRecord::document);
    let windows = documents.filter_map(|document| document.skerry.update_window.as_ref());
    windows.map(|window| window.time_zone.clone()).collect()
}
