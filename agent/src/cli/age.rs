//! How long ago something was, in one number and one letter.

use chrono::DateTime;
use domain::model::WallTime;

/// `3m`: the largest unit that is full at least once. A time that cannot be read, or lies ahead, is `-`.
pub(super) fn age(rfc3339: &str, now: WallTime) -> String {
    let Some(seconds) = seconds_since(rfc3339, now) else { return "-".to_owned() };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400.. => format!("{}d", seconds / 86_400),
    }
}

fn seconds_since(rfc3339: &str, now: WallTime) -> Option<u64> {
    let then = u64::try_from(DateTime::parse_from_rfc3339(rfc3339).ok()?.timestamp()).ok()?;
    now.0.as_secs().checked_sub(then)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[track_caller]
    fn check(seconds: u64, expected: &str) {
        let now = WallTime(Duration::from_secs(seconds));
        assert_eq!(age("1970-01-02T00:00:00Z", now), expected);
    }

    #[test]
    fn ages_have_one_unit() {
        const DAY: u64 = 86_400;
        check(DAY, "0s");
        check(DAY + 59, "59s");
        check(DAY + 60, "1m");
        check(DAY + 3599, "59m");
        check(DAY + 7200, "2h");
        check(DAY * 401, "400d");
    }

    #[test]
    fn a_time_ahead_of_the_clock_has_no_age() {
        check(0, "-");
        assert_eq!(age("yesterday", WallTime::default()), "-");
    }
}
