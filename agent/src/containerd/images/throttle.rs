//! A bound on what pulls take of the uplink, all of them together.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What may come at once after a pause: a piece is late by this at most, and small ones need no timer each.
const SLACK: Duration = Duration::from_millis(50);

/// Lets bytes pass at a rate. Without one, nothing waits.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: Option<NonZeroU64>,
    /// When all that has passed is paid for.
    paid_at: Mutex<Instant>,
}

impl Throttle {
    /// At most this many bytes in a second; 0 is no bound.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        let bytes_per_second = NonZeroU64::new(bytes_per_second);
        Self { bytes_per_second, paid_at: Mutex::new(Instant::now()) }
    }

    /// Waits until the bytes that have just come are paid for. The sender notices, as nobody reads on meanwhile.
    pub(super) async fn pass(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let nanos = (bytes as u64).saturating_mul(1_000_000_000) / rate;
        let price = Duration::from_nanos(nanos);
        let until = {
            let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            *paid_at = (*paid_at).max(Instant::now()) + price;
            *paid_at
        };
        if SLACK < until.saturating_duration_since(Instant::now()) {
            sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_readers_together_keep_to_the_rate() {
        let throttle = Throttle::new(100_000);
        let start = Instant::now();
        let reader = async {
            for _ in 0..50 {
                throttle.pass(10_000).await;
            }
        };
        tokio::join!(reader, async {
            for _ in 0..500 {
                throttle.pass(1_000).await;
            }
        });
        let took = start.elapsed();
        assert!(
            Duration::from_millis(9_900) < took && took < Duration::from_millis(10_100),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_saves_nothing_up_and_no_bound_waits_for_nothing() {
        let throttle = Throttle::new(1_000);
        tokio::time::sleep(Duration::from_mins(1)).await;
        let start = Instant::now();
        throttle.pass(1_000).await;
        throttle.pass(1_000).await;
        assert_eq!(start.elapsed().as_secs(), 2);
        let start = Instant::now();
        Throttle::new(0).pass(usize::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
