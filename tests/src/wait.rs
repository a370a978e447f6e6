//! Waiting for a level. The one place of the tests that looks at a clock and the one that pauses.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// For what takes a moment on a loaded machine with two cores.
pub const SHORT: Duration = Duration::from_secs(10);
/// For what starts containers one after another, or waits out a back-off.
pub const LONG: Duration = Duration::from_mins(1);

/// Between two looks.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// What time it is.
#[expect(clippy::disallowed_methods, reason = "the tests' own clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Looks again and again until `look` succeeds; after `patience`, its last error is the answer.
pub fn eventually<T>(what: &str, patience: Duration, look: impl FnMut() -> Result<T>) -> Result<T> {
    look_every(PAUSE, what, patience, look)
}

/// The same at a pace of one's own, for a measurement that must not be rounded up.
pub fn look_every<T>(
    pace: Duration,
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = now() + patience;
    loop {
        let seen = look();
        if seen.is_ok() || deadline < now() {
            return seen.with_context(|| format!("waited {patience:?} for {what}"));
        }
        pause(pace);
    }
}

/// Lets time pass: between two looks, or while an idle board is measured.
#[expect(clippy::disallowed_methods, reason = "a thread of a test, no runtime")]
pub fn pause(time: Duration) {
    thread::sleep(time);
}
