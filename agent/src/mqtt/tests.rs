//! Against a real broker, with a task in the loop's place.

mod device;
mod documents;
mod levels;
mod link;
mod observer;

use std::time::Duration;

/// Longer than any wait that goes well: three back-offs and a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must come; says what did not.
#[track_caller]
fn within<T>(what: &'static str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let value = tokio::time::timeout(PATIENCE, future).await;
        value.unwrap_or_else(|_| panic!("{caller}: waited in vain for {what}"))
    }
}
