//! How long to wait before trying again.

use std::time::Duration;

use crate::model::Moment;

/// After a container's first exit, and the most there is between two starts of it (DESIGN: 1 s doubling to 5 min).
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_mins(5);

/// This long without a failure, and the next one counts as the first.
const FORGIVEN_AFTER: Duration = Duration::from_mins(10);

/// Failures in a row, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    failures: u32,
    retry_at: Moment,
    failed_at: Moment,
}

impl Backoff {
    /// Notes a failure of something that had been well since `up_since`.
    pub fn fail(&mut self, now: Moment, up_since: Moment) {
        if FORGIVEN_AFTER <= now.since(up_since.max(self.failed_at)) {
            self.failures = 0;
        }
        let doublings = self.failures.min(16);
        let wait = FIRST.saturating_mul(1 << doublings).min(LAST);
        self.failures = self.failures.saturating_add(1);
        self.failed_at = now;
        self.retry_at = now.after(wait);
    }

    /// When to try again.
    pub fn retry_at(&self) -> Moment {
        self.retry_at
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Moment {
        Moment(Duration::from_secs(secs))
    }

    #[test]
    fn waits_double_from_one_second_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut now = at(1000);
        let mut waits = Vec::new();
        for _ in 0..11 {
            backoff.fail(now, now);
            waits.push(backoff.retry_at().since(now).as_secs());
            now = backoff.retry_at();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_are_forgiveness() {
        let mut backoff = Backoff::default();
        backoff.fail(at(0), at(0));
        backoff.fail(at(1), at(1));
        assert_eq!(backoff.retry_at(), at(3));
        backoff.fail(at(602), at(3));
        assert_eq!(backoff.retry_at(), at(606), "599 s are not enough");
        backoff.fail(at(1207), at(607));
        assert_eq!(backoff.retry_at(), at(1208));
    }
}
