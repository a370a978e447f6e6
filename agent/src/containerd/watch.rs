//! containerd's events, as a pulse: something ended, look again. What ended is not taken from the event.
//!
//! Events are lost when containerd restarts and before a subscription stands, so each (re)connection is a pulse too.

use std::pin::pin;
use std::time::Duration;

use containerd_client::events::TaskExit;
use containerd_client::services::v1::SubscribeRequest;
use containerd_client::tonic::Streaming;
use containerd_client::types::Envelope;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::connection::{Connection, failed};
use crate::runtime::RuntimeError;

/// The wait after the first failure; doubled with each, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);

const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A stream that held this long was a good one: the next failure is a first one.
const STEADY: Duration = Duration::from_mins(1);

/// By then a subscription stands; containerd says so only with the first event.
const SETTLED: Duration = Duration::from_secs(1);

/// Subscribes until told to stop, over and over.
pub(super) async fn watch(
    connection: Connection,
    namespace: String,
    pulses: watch::Sender<u64>,
    stop: CancellationToken,
) {
    let mut wait = FIRST_WAIT;
    loop {
        let began = time::Instant::now();
        let told = tokio::select! {
            () = stop.cancelled() => return,
            told = listen(&connection, &namespace, &pulses) => told,
        };
        if STEADY <= began.elapsed() {
            wait = FIRST_WAIT;
        }
        // What ended the stream may have ended more: a look tells whether containerd is there at all.
        bump(&pulses);
        match told {
            Ok(()) => info!("containerd closed the stream of events"),
            Err(error) => warn!(%error, ?wait, "no events from containerd; trying again"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = time::sleep(jittered(wait)) => (),
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn listen(
    connection: &Connection,
    namespace: &str,
    pulses: &watch::Sender<u64>,
) -> Result<(), RuntimeError> {
    let filters = ["/tasks/exit", "/tasks/oom"]
        .map(|topic| format!("namespace==\"{namespace}\",topic==\"{topic}\""));
    let request = connection.endless(SubscribeRequest { filters: filters.into() });
    let mut events = connection.client().await?.events();
    let mut subscription = pin!(events.subscribe(request));
    let refused = |status| failed("subscribe to events", &status);
    // The call returns with the first event. What ended before it stood is found by a look soon after.
    let answer = match time::timeout(SETTLED, &mut subscription).await {
        Ok(answer) => answer.map_err(refused)?,
        Err(_) => {
            bump(pulses);
            subscription.await.map_err(refused)?
        }
    };
    bump(pulses);
    let mut events: Streaming<Envelope> = answer.into_inner();
    while let Some(event) = events.message().await.map_err(refused)? {
        if matters(&event) {
            debug!(topic = event.topic, "containerd event");
            bump(pulses);
        }
    }
    Ok(())
}

fn bump(pulses: &watch::Sender<u64>) {
    pulses.send_modify(|pulse| *pulse = pulse.wrapping_add(1));
}

/// The end of a probe's command is an exit too, and none of a container.
fn matters(event: &Envelope) -> bool {
    let Some(event) = &event.event else { return true };
    if event.type_url != "containerd.events.TaskExit" {
        return true;
    }
    TaskExit::decode(&*event.value).map_or(true, |exit| exit.id == exit.container_id)
}

/// Half to all of `wait`, so that what lost one containerd together does not come back together.
fn jittered(wait: Duration) -> Duration {
    let nanos = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)
        .map_or(0, |now| now.tv_nsec().unsigned_abs());
    let share = u32::try_from(nanos % 1000).unwrap_or_default();
    wait / 2 + wait / 2 * share / 1000
}
