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

    /// The same, and tried again after no more than `most`: what is waited for may come at any time.
    pub fn fail_within(&mut self, now: Moment, most: Duration) {
        self.fail(now, now);
        self.wait_at_most(now, most);
    }

    /// Waits no longer than this from now on.
    pub fn wait_at_most(&mut self, now: Moment, most: Duration) {
        self.retry_at = self.retry_at.min(now.after(most));
    }

    /// The same with jitter: waits between half of it and the whole, as `seed` has it. For what many boards ask of one
    /// server, which comes back and is asked by all of them.
    pub fn fail_apart(&mut self, now: Moment, seed: u64) {
        self.fail(now, now);
        let share = mixed(seed.wrapping_add(u64::from(self.failures))) % 1024;
        let wait = self.retry_at.since(now);
        let less = wait / 2 * u32::try_from(share).unwrap_or(0) / 1024;
        self.retry_at = now.after(wait.saturating_sub(less));
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

/// Spreads seeds that are close to each other over all numbers (the finaliser of `SplitMix64`).
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
    fn jitter_takes_up_to_half_of_the_wait_and_spreads_boards_over_it() {
        let mut quarters = [0; 4];
        for seed in 0..400 {
            let mut backoff = Backoff::default();
            let mut now = at(1000);
            for doubling in 0..9 {
                backoff.fail_apart(now, seed * 1000);
                let most = Duration::from_secs(1 << doubling);
                let wait = backoff.retry_at().since(now);
                assert!(most / 2 <= wait && wait <= most, "{wait:?} of {most:?}");
                now = backoff.retry_at();
                if doubling == 8 {
                    let quarter = wait.saturating_sub(most / 2).as_millis() * 8 / most.as_millis();
                    quarters[usize::try_from(quarter.min(3)).unwrap()] += 1;
                }
            }
        }
        assert!(quarters.iter().all(|boards| 60 < *boards), "{quarters:?}");
    }

    #[test]
    fn what_may_come_at_any_time_is_waited_for_no_longer_than_told() {
        let mut backoff = Backoff::default();
        let mut now = at(1000);
        let mut waits = Vec::new();
        for _ in 0..7 {
            backoff.fail_within(now, Duration::from_secs(30));
            waits.push(backoff.retry_at().since(now).as_secs());
            now = backoff.retry_at();
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
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
