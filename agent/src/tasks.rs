//! Long-lived tasks, short-lived tasks, and their end.

use std::time::Duration;

use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, info, warn};

/// The agent's tasks. Every clone sees the same stop signal.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    stop: CancellationToken,
    running: TaskTracker,
}

impl Tasks {
    /// Runs a long-lived task under `span` until it heeds the signal it is given.
    ///
    /// One that ends sooner, by return or by panic, stops all the others: systemd starts a whole agent again, which is
    /// better than one with a part missing.
    pub fn spawn<T: Future<Output = ()> + Send + 'static>(
        &self,
        span: Span,
        task: impl FnOnce(CancellationToken) -> T,
    ) {
        let ends_all = self.stop.clone().drop_guard();
        let task = task(self.stop.clone());
        self.spawn_short(span, async move {
            let _ends_all = ends_all;
            task.await;
        });
    }

    /// Runs a short-lived task, such as one connection: its end, or its panic, is its own affair.
    #[expect(clippy::disallowed_methods, reason = "the one place that may spawn")]
    pub fn spawn_short(&self, span: Span, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.running.track_future(task.instrument(span)));
    }

    /// The stop signal itself.
    pub fn stop_signal(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits until something has asked the agent to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Asks every task to stop, then waits for the last of them, or for `grace`.
    pub async fn shut_down(self, grace: Duration) {
        self.stop.cancel();
        self.running.close();
        match time::timeout(grace, self.running.wait()).await {
            Ok(()) => info!("every task has stopped"),
            Err(_) => warn!(?grace, left = self.running.len(), "grace is over; leaving"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::info_span;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_long_lived_task_stops_every_task() {
        let tasks = Tasks::default();
        tasks.spawn(info_span!("steady"), CancellationToken::cancelled_owned);
        tasks.spawn(info_span!("faulty"), |_| async { panic!("on purpose") });
        tasks.stopping().await;
        tasks.shut_down(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_a_short_lived_task_stops_nothing() {
        let tasks = Tasks::default();
        tasks.spawn_short(info_span!("request"), async { panic!("on purpose") });
        tokio::task::yield_now().await;
        assert!(!tasks.stop_signal().is_cancelled());
        tasks.shut_down(Duration::from_secs(1)).await;
    }
}
