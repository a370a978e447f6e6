//! The control plane: MQTT 5.
//!
//! ```text
//!   broker ──▶ drive ──▶ intake ──▶ inbox ──▶ the loop
//!                │          └─ acknowledges once the answer says: durable
//!                ▼
//!             ledger ◀── upward ◀── statuses, device, outbox
//! ```
//!
//! Nothing that happens here stops an app: a broker that is gone, refuses us or has lost everything is a reason to
//! try again and a trouble in the device's status, no more. Whatever is published is read from what the loop
//! publishes, so that each connection starts anew from it and nothing is kept here between two connections.

mod backoff;
mod connection;
mod error;
mod intake;
mod ledger;
mod payload;
mod settings;
#[cfg(test)]
mod tests;
mod topics;
mod upward;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::reason::Reason;
use domain::replica::Trouble;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::backoff::Backoff;
use self::connection::Connection;
use self::error::LinkError;
use crate::broker::Credentials;
use crate::clock::Clock;
use crate::inbox::{Inbox, Request};
use crate::published::{Link as Reach, Published};

pub use self::settings::{InvalidSettings, MqttSettings, Session};

/// What stands in the way, by the name of the part that met it.
pub type Troubles = watch::Sender<Arc<BTreeMap<String, Trouble>>>;

/// What the adapter says of itself on the board.
#[derive(Debug, Clone)]
pub struct Tells {
    /// What stands in the way.
    pub troubles: Troubles,
    /// Whether the control plane is in reach.
    pub link: watch::Sender<Reach>,
}

/// What stays wrong while it is configured so; our other key among the troubles.
const EXPOSED: &str = "mqtt exposed";
/// Our key among the troubles.
const TROUBLE: &str = "mqtt";
/// A connection that held this long was a good one: the next back-off starts small again.
const STABLE: Duration = Duration::from_mins(1);
/// For looking up the broker and the handshake with it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Keeps a connection to the broker until `stop`, which says *offline* and returns within two seconds.
pub async fn run(
    settings: MqttSettings,
    inbox: Inbox,
    published: Published,
    tells: Tells,
    clock: Clock,
    stop: CancellationToken,
) {
    let Tells { troubles, link: reach } = tells;
    if settings.access.broker.is_exposed() {
        warn!(broker = %settings.access.broker, reason = %Reason::PlainMqtt, "the broker is reached without TLS beyond loopback");
        let details = format!("{}: {}", settings.access.broker, Reason::PlainMqtt.sentence());
        let trouble = Trouble { reason: Reason::PlainMqtt, details };
        troubles.send_modify(|all| drop(Arc::make_mut(all).insert(EXPOSED.to_owned(), trouble)));
    }
    let link = Link { settings, inbox, published, troubles, reach, clock, stop };
    link.keep().await;
}

/// Whatever outlives a connection.
struct Link {
    settings: MqttSettings,
    inbox: Inbox,
    published: Published,
    troubles: Troubles,
    reach: watch::Sender<Reach>,
    clock: Clock,
    stop: CancellationToken,
}

/// What the attempts so far leave to the next one.
#[derive(Default)]
struct Past {
    /// The last epoch that was asked for.
    epoch: u64,
    /// No CONNECT with it can have reached a broker, so it serves again: an hour offline costs no write.
    epoch_unused: bool,
    /// Nobody answered last time: knock before an epoch is asked for.
    silent: bool,
    /// A session was made, so that a wish for a fresh one is met.
    session_made: bool,
}

impl Link {
    async fn keep(&self) {
        let mut backoff = Backoff::default();
        let mut past = Past::default();
        loop {
            let error = tokio::select! {
                biased;
                end = self.attempt(&mut past, &mut backoff) => match end {
                    Ok(()) => return,
                    Err(error) => error,
                },
                // A connection that stands sees the signal too, and needs a moment to say goodbye.
                () = self.given_up() => return,
            };
            past.silent = error.is_silence();
            self.tell(&error);
            let delay = backoff.next(backoff::ticket());
            debug!(?delay, "the next attempt waits");
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = time::sleep(delay) => {}
            }
        }
    }

    /// Connects and serves. `Ok` is a clean end, asked for.
    async fn attempt(&self, past: &mut Past, backoff: &mut Backoff) -> Result<(), LinkError> {
        let credentials = Credentials::read(&self.settings.access, self.clock).await?;
        if past.silent {
            self.knock().await?;
        }
        if !past.epoch_unused {
            match self.epoch().await? {
                Some(epoch) => past.epoch = epoch,
                None => warn!(epoch = past.epoch, "no new epoch; the last one serves again"),
            }
        }
        let fresh = matches!(self.settings.session, Session::Fresh) && !past.session_made;
        let connection = Connection {
            settings: &self.settings,
            epoch: past.epoch,
            inbox: &self.inbox,
            published: &self.published,
            troubles: &self.troubles,
            reach: &self.reach,
            clock: self.clock,
            stop: &self.stop,
        };
        let (connected_at, end) = connection.serve(credentials, fresh).await;
        self.reach.send_if_modified(|reach| std::mem::take(&mut reach.online));
        past.epoch_unused = end.as_ref().is_err_and(LinkError::is_before_connect);
        if let Some(since) = connected_at {
            past.session_made = true;
            if STABLE <= self.clock.now().0.saturating_sub(since.0) {
                *backoff = Backoff::default();
            }
        }
        if matches!(end, Err(LinkError::Overrun)) {
            // A roomful was taken in and the broker is there: what it still has for us should not wait.
            *backoff = Backoff::default();
        }
        end
    }

    /// Whether anyone is there. Costs no epoch, which costs a write.
    async fn knock(&self) -> Result<(), LinkError> {
        let broker = &self.settings.access.broker;
        let greeting = TcpStream::connect((broker.host.as_str(), broker.port));
        match time::timeout(CONNECT_DEADLINE, greeting).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(source)) => Err(LinkError::Unreachable(source)),
            Err(_) => Err(LinkError::Silent),
        }
    }

    /// Asks the loop for an epoch that no status has carried yet.
    ///
    /// `None` where it cannot be stored: a full disk is the very thing a status should tell of, so we connect anyway.
    async fn epoch(&self) -> Result<Option<u64>, LinkError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Request::Connecting { reply }).await.map_err(|_| LinkError::LoopGone)?;
        let epoch = answer.await.map_err(|_| LinkError::LoopGone)?;
        Ok(epoch.inspect_err(|refusal| debug!(%refusal, "no new epoch")).ok())
    }

    async fn given_up(&self) {
        self.stop.cancelled().await;
        time::sleep(connection::FAREWELL).await;
    }

    /// Says what is wrong: in the status always, in the log once per change.
    fn tell(&self, error: &LinkError) {
        let mut trouble = error.trouble();
        trouble.details = format!("{}: {}", self.settings.access.broker, trouble.details);
        if set_trouble(&self.troubles, Some(trouble.clone())) {
            warn!(reason = %trouble.reason, details = %trouble.details, "no connection to the broker; trying again");
        } else {
            debug!(reason = %trouble.reason, details = %trouble.details, "still no connection to the broker");
        }
    }
}

/// Sets or clears our trouble; tells whether that changed anything.
fn set_trouble(troubles: &Troubles, trouble: Option<Trouble>) -> bool {
    troubles.send_if_modified(|all| {
        if all.get(TROUBLE) == trouble.as_ref() {
            return false;
        }
        let all = Arc::make_mut(all);
        match trouble {
            Some(trouble) => {
                all.insert(TROUBLE.to_owned(), trouble);
            }
            None => {
                all.remove(TROUBLE);
                info!("nothing stands between us and the broker any more");
            }
        }
        true
    })
}
