//! The clock: the one place that asks what time it is.
//!
//! A board without a battery wakes up in 1970. So the date has a floor, below which nobody believes the system: when the
//! agent was built, or the last time that it stored anything, whichever is later. Certificates are judged and dates are
//! shown by the later of the two. Whatever waits goes by monotonic time, which knows no date.

mod zones;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::model::{Moment, WallTime};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::time::Instant;

pub use self::zones::ZoneFiles;

/// When this program was built, in seconds since 1970.
const BUILT_SECS: u64 = match u64::from_str_radix(env!("SKERRY_BUILT"), 10) {
    Ok(seconds) => seconds,
    Err(_) => panic!("the build notes a number of seconds"),
};

/// When this program was built: no board that runs it has a date before that.
pub const BUILT: WallTime = WallTime(Duration::from_secs(BUILT_SECS));

/// Nobody runs a build for longer. A date beyond was stored by a clock that was wrong the other way, and would leave every
/// certificate expired for ever.
const SERVICE_LIFE_SECS: u64 = 10 * 365 * 24 * 60 * 60;

/// Tells monotonic time since boot, and the date.
///
/// Monotonic time follows tokio's clock, so that a test may pause it. Copies share the date's floor.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    boot_to_start: Duration,
    dates: &'static Dates,
}

/// Where dates come from.
#[derive(Debug)]
struct Dates {
    /// What a test's system says in place of the board's.
    standing: Option<Duration>,
    /// Seconds since 1970.
    floor: AtomicU64,
}

/// The dates of this board.
static DATES: Dates = Dates { standing: None, floor: AtomicU64::new(BUILT_SECS) };

impl Default for Clock {
    fn default() -> Self {
        // CLOCK_BOOTTIME goes on through a suspend; it cannot fail on a Linux that runs containers.
        let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map_or(Duration::ZERO, Duration::from);
        Self { started: Instant::now(), boot_to_start: since_boot, dates: &DATES }
    }
}

impl Clock {
    /// A clock whose system stands still at a date.
    #[cfg(test)]
    pub(crate) fn standing_at(date: WallTime) -> Self {
        let dates = Dates { standing: Some(date.0), floor: AtomicU64::new(BUILT_SECS) };
        Self { dates: Box::leak(Box::new(dates)), ..Self::default() }
    }

    /// Time since boot.
    pub fn now(&self) -> Moment {
        Moment(self.boot_to_start + self.started.elapsed())
    }

    /// When `moment` is, on tokio's clock.
    pub fn instant(&self, moment: Moment) -> Instant {
        self.started + moment.0.saturating_sub(self.boot_to_start)
    }

    /// The date: what the system says, or the floor where that is later.
    pub fn wall(&self) -> WallTime {
        WallTime(self.system().0.max(Duration::from_secs(self.dates.floor.load(Ordering::Relaxed))))
    }

    /// The date that the system says, however wrong.
    pub fn system(&self) -> WallTime {
        let now = || nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME);
        WallTime(
            self.dates.standing.unwrap_or_else(|| now().map_or(Duration::ZERO, Duration::from)),
        )
    }

    /// It was this late before: the date is never earlier again, for no copy of this clock.
    pub fn raise_floor(&self, seen_secs: u64) {
        self.dates.floor.fetch_max(believed(seen_secs), Ordering::Relaxed);
    }
}

/// A stored date, in seconds since 1970, as far as it is believed.
pub fn believed(stored_secs: u64) -> u64 {
    stored_secs.min(BUILT_SECS + SERVICE_LIFE_SECS)
}

/// Certificates are judged by it.
impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.wall().0))
    }
}

/// A date as RFC 3339 with seconds, in UTC; 1970 for what lies outside its range.
pub fn rfc3339(time: WallTime) -> String {
    let seconds = i64::try_from(time.0.as_secs()).unwrap_or(0);
    chrono::DateTime::from_timestamp(seconds, 0)
        .unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_below_the_floor_is_the_floor() {
        let clock = Clock::standing_at(WallTime::default());
        assert_eq!((clock.system(), clock.wall()), (WallTime::default(), BUILT));
        let copy = clock;
        let later = BUILT_SECS + 1000;
        copy.raise_floor(later);
        clock.raise_floor(later - 500);
        assert_eq!(clock.wall(), WallTime(Duration::from_secs(later)));
        assert_eq!(clock.current_time().unwrap().as_secs(), later);
    }

    #[test]
    fn a_date_above_the_floor_is_the_systems() {
        let date = WallTime(BUILT.0 + Duration::from_hours(5));
        let clock = Clock::standing_at(date);
        clock.raise_floor(BUILT_SECS);
        assert_eq!(clock.wall(), date);
    }

    #[test]
    fn a_stored_date_beyond_all_belief_does_not_end_every_certificate() {
        let clock = Clock::standing_at(WallTime::default());
        clock.raise_floor(u64::MAX);
        assert_eq!(clock.wall().0.as_secs(), BUILT_SECS + SERVICE_LIFE_SECS);
    }
}
