//! The clock: the one place that asks what time it is.

mod zones;

use std::time::Duration;

use domain::model::{Moment, WallTime};
use tokio::time::Instant;

pub use self::zones::ZoneFiles;

/// Tells monotonic time since boot, and the date.
///
/// Monotonic time follows tokio's clock, so that a test may pause it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    boot_to_start: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        // CLOCK_BOOTTIME goes on through a suspend; it cannot fail on a Linux that runs containers.
        let since_boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map_or(Duration::ZERO, Duration::from);
        Self { started: Instant::now(), boot_to_start: since_boot }
    }
}

impl Clock {
    /// Time since boot.
    pub fn now(&self) -> Moment {
        Moment(self.boot_to_start + self.started.elapsed())
    }

    /// When `moment` is, on tokio's clock.
    pub fn instant(&self, moment: Moment) -> Instant {
        self.started + moment.0.saturating_sub(self.boot_to_start)
    }

    /// The date, for people.
    pub fn wall(&self) -> WallTime {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)
            .map_or(Duration::ZERO, Duration::from);
        WallTime(now)
    }
}

/// A date as RFC 3339 with seconds, in UTC; 1970 for what lies outside its range.
pub fn rfc3339(time: WallTime) -> String {
    let seconds = i64::try_from(time.0.as_secs()).unwrap_or(0);
    chrono::DateTime::from_timestamp(seconds, 0)
        .unwrap_or_default()
        .to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}
