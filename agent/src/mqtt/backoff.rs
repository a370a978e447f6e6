//! How long the next attempt waits: full jitter, so that a fleet does not come back all at once.

use std::time::Duration;

/// The widest first wait.
const FIRST: Duration = Duration::from_secs(1);
/// The widest wait of all.
const LAST: Duration = Duration::from_mins(5);

/// The attempts since the last good connection.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A wait between nothing and the current window, which doubles. Chance is an argument: `ticket` is any number.
    pub(super) fn next(&mut self, ticket: u32) -> Duration {
        let window = FIRST.saturating_mul(1 << self.failures.min(16)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        window.mul_f64(f64::from(ticket) / f64::from(u32::MAX))
    }
}

/// Chance, for the back-off's jitter. Without any, the middle of the window serves.
pub(super) fn ticket() -> u32 {
    let mut bytes = [0; 4];
    match rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => u32::MAX / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_doubles_from_a_second_to_five_minutes() {
        let mut backoff = Backoff::default();
        let widest: Vec<u64> = (0..11).map(|_| backoff.next(u32::MAX).as_secs()).collect();
        assert_eq!(widest, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn the_wait_is_anywhere_in_the_window() {
        assert_eq!(Backoff { failures: 40 }.next(0), Duration::ZERO);
        let half = Backoff { failures: 40 }.next(u32::MAX / 2);
        assert!((149..=150).contains(&half.as_secs()), "{half:?}");
    }
}
