//! One connection, from CONNECT to its end.
//!
//! Three futures run side by side in one task and never wait for each other: `drive` polls the client library,
//! `Intake` takes documents to the loop, `Upward` publishes. They end together.

use std::sync::Arc;
use std::time::Duration;

use domain::model::Moment;
use domain::reason::Reason;
use domain::replica::Trouble;
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, LastWill, Packet, PubAck, PubAckReason, Publish, SubAck, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::error::LinkError;
use super::intake::{Arrival, Intake, LARGEST_UNITS, ROOM};
use super::ledger::Ledger;
use super::payload::{self, Presence};
use super::settings::MqttSettings;
use super::topics::Topics;
use super::upward::{LARGEST, Said, Upward};
use super::{CONNECT_DEADLINE, Troubles, set_trouble};
use crate::broker::Credentials;
use crate::clock::Clock;
use crate::inbox::Inbox;
use crate::published::{Link as Reach, Published};

/// For the last word and a clean end.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);
/// How long a broker keeps what we have not acknowledged while we are away.
const SESSION_EXPIRY_SECS: u32 = 600;
/// Documents that the broker may have under way to us.
const RECEIVE_MAXIMUM: u16 = 16;
/// The largest packet that we take; a broker drops what is larger.
const LARGEST_PACKET: u32 = 512 * 1024;
/// Packet ids that the library keeps track of: twice the ledger's window. Its default takes some 10 MB.
const PACKET_IDS: u16 = 16;
/// Requests to the library: window, last word, subscription and end fit, and an acknowledgement for each packet id there
/// is. One that found no room would have an old document come again after a newer one. Room is taken as it is needed.
const REQUESTS: usize = u16::MAX as usize + 32;

/// What one connection is made of.
pub(super) struct Connection<'a> {
    pub(super) settings: &'a MqttSettings,
    pub(super) epoch: u64,
    pub(super) inbox: &'a Inbox,
    pub(super) published: &'a Published,
    pub(super) troubles: &'a Troubles,
    pub(super) reach: &'a watch::Sender<Reach>,
    pub(super) clock: Clock,
    pub(super) stop: &'a CancellationToken,
}

/// What the broker granted.
struct Terms {
    since: Moment,
    largest: usize,
}

impl Connection<'_> {
    /// Connects and serves until the connection fails, or until it is asked to stop and has said goodbye.
    ///
    /// Returns also since when it was connected, if ever.
    pub(super) async fn serve(
        &self,
        credentials: Credentials,
        fresh: bool,
    ) -> (Option<Moment>, Result<(), LinkError>) {
        let topics = Topics::new(&self.settings.root);
        let ledger = Ledger::default();
        let (client, events) =
            AsyncClient::new(self.options(credentials, fresh, &topics), REQUESTS);
        let (arrive, arrivals) = mpsc::channel(ROOM);
        let (connected, terms) = oneshot::channel();
        let room = Arc::new(Semaphore::new(ROOM));
        let intake =
            Intake::new(topics.clone(), self.inbox.clone(), client.clone(), Arc::clone(&room));
        let driver = Driver {
            connection: self,
            ledger: &ledger,
            arrive,
            room,
            overrun: false,
            connected: Some(connected),
        };
        let mut since = None;
        let end = tokio::select! {
            end = Box::pin(driver.drive(events)) => end,
            () = Box::pin(intake.run(arrivals)) => Err(LinkError::Silent),
            end = Box::pin(self.upward(client, topics, &ledger, terms, &mut since)) => end,
        };
        (since, end)
    }

    fn options(&self, credentials: Credentials, fresh: bool, topics: &Topics) -> MqttOptions {
        let settings = self.settings;
        let will = {
            let state = self.published.device.borrow();
            payload::device(settings, self.epoch, Presence::Offline, &state, self.clock)
        };
        let will =
            LastWill::new(topics.device(), payload::json(&will), QoS::AtLeastOnce, true, None);
        let mut options = MqttOptions::new(
            settings.device.clone(),
            settings.access.broker.host.clone(),
            settings.access.broker.port,
        );
        options
            .set_keep_alive(settings.keep_alive)
            .set_clean_start(fresh)
            .set_manual_acks(true)
            .set_connection_timeout(CONNECT_DEADLINE.as_secs())
            .set_last_will(will)
            .set_session_expiry_interval(Some(SESSION_EXPIRY_SECS))
            .set_receive_maximum(Some(RECEIVE_MAXIMUM))
            .set_max_packet_size(Some(LARGEST_PACKET))
            .set_outgoing_inflight_upper_limit(PACKET_IDS);
        if let Some((username, password)) = credentials.login {
            options.set_credentials(username, password);
        }
        if let Some(tls) = credentials.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        }
        options
    }

    /// Talks once the broker has granted its terms; says goodbye when asked to stop.
    async fn upward(
        &self,
        client: AsyncClient,
        topics: Topics,
        ledger: &Ledger,
        terms: oneshot::Receiver<Terms>,
        since: &mut Option<Moment>,
    ) -> Result<(), LinkError> {
        let terms = tokio::select! {
            // Not connected: there is nobody to say goodbye to.
            () = self.stop.cancelled() => return Ok(()),
            // The driver sends it before it ends; where it ends first, its error is what counts.
            terms = terms => terms.map_err(|_| LinkError::Silent)?,
        };
        *since = Some(terms.since);
        let mut upward = Upward {
            settings: self.settings,
            topics,
            epoch: self.epoch,
            clock: self.clock,
            client,
            ledger,
            inbox: self.inbox.clone(),
            published: self.published.clone(),
            largest: terms.largest,
            said: Said::default(),
        };
        let ended = tokio::select! {
            biased;
            () = self.stop.cancelled() => Ok(()),
            ended = upward.talk() => ended,
        };
        if ended.is_err() {
            // What ended it is the driver's to tell, and it will at once.
            time::sleep(FAREWELL).await;
            return Err(LinkError::Silent);
        }
        if time::timeout(FAREWELL, upward.farewell()).await.is_err() {
            warn!("the broker does not take our goodbye; it will send the will");
            return Ok(());
        }
        // The driver ends when it has written the last packet; it has the same deadline for it.
        time::sleep(FAREWELL).await;
        Ok(())
    }
}

/// Polls the client library and passes on what it says.
struct Driver<'a> {
    connection: &'a Connection<'a>,
    ledger: &'a Ledger,
    arrive: mpsc::Sender<Arrival>,
    room: Arc<Semaphore>,
    /// A message found no room. None is taken any more until the next connection: the broker then sends them all anew
    /// and in order, while one taken now would be overtaken by the older one that was not.
    overrun: bool,
    connected: Option<oneshot::Sender<Terms>>,
}

impl Driver<'_> {
    async fn drive(mut self, mut events: EventLoop) -> Result<(), LinkError> {
        loop {
            // A ping goes out once per keep-alive. Two without anything, and the socket takes no more bytes: the
            // library alone would wait for TCP to give up, which takes a quarter of an hour.
            let patience = events.options.keep_alive().saturating_mul(2).max(CONNECT_DEADLINE * 2);
            self.make_room(events.options.keep_alive()).await;
            let event =
                time::timeout(patience, events.poll()).await.map_err(|_| LinkError::Silent)?;
            match event? {
                Event::Outgoing(Outgoing::Disconnect) => return Ok(()),
                Event::Outgoing(outgoing) => {
                    if let Outgoing::Publish(packet) = outgoing {
                        self.ledger.written(packet);
                    }
                }
                Event::Incoming(packet) => {
                    self.incoming(packet)?;
                    // A burst comes out of the library without a wait; the intake is to see each message in between.
                    tokio::task::yield_now().await;
                }
            }
            // What was taken is acknowledged by now: each connection brings the flood forward by a roomful.
            if self.overrun && self.room.available_permits() == ROOM {
                return Err(LinkError::Overrun);
            }
        }
    }

    /// Reads no further while there is no room for the largest message: a flood then waits in the broker, by way of
    /// TCP, and not here. Nor does anything else move meanwhile, so that ends before the broker misses us.
    async fn make_room(&self, patience: Duration) {
        let room = self.room.acquire_many(LARGEST_UNITS);
        if time::timeout(patience, room).await.is_err() {
            warn!("documents cannot be taken as fast as they come");
        }
    }

    fn incoming(&mut self, packet: Packet) -> Result<(), LinkError> {
        if let Packet::Publish(publish) = packet {
            return self.arrived(publish);
        } else if let Packet::PubAck(ack) = packet {
            self.acknowledged(&ack);
        } else if let Packet::ConnAck(terms) = packet {
            self.connected(&terms);
        } else if let Packet::SubAck(ack) = packet {
            self.subscribed(&ack);
        }
        Ok(())
    }

    /// Passes a document on. Never waits: whoever polls must go on polling.
    fn arrived(&mut self, publish: Publish) -> Result<(), LinkError> {
        if self.overrun {
            return Ok(());
        }
        let promised = publish.qos != QoS::AtMostOnce;
        match Arrival::find_room(publish, &self.room) {
            // Each arrival takes a unit of room, so the channel has a place for it.
            Some(arrival) => self.arrive.try_send(arrival).map_err(|_| LinkError::Overrun),
            // It comes again with the next connection, which is made as soon as those before it are settled.
            None if promised => {
                debug!("more documents than there is room for");
                self.overrun = true;
                Ok(())
            }
            None => {
                warn!("messages at QoS 0 come faster than they can be taken; one is dropped");
                Ok(())
            }
        }
    }

    fn connected(&mut self, ack: &ConnAck) {
        set_trouble(self.connection.troubles, None);
        let epoch = self.connection.epoch;
        info!(epoch, session = ack.session_present, "connected to the broker");
        self.connection.reach.send_replace(Reach { online: true, epoch });
        let granted = ack.properties.as_ref().and_then(|properties| properties.max_packet_size);
        let largest =
            granted.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(LARGEST).min(LARGEST);
        if let Some(connected) = self.connected.take() {
            let terms = Terms { since: self.connection.clock.now(), largest };
            if connected.send(terms).is_err() {
                debug!("connected, and asked to stop");
            }
        }
    }

    fn acknowledged(&self, ack: &PubAck) {
        let taken =
            matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers);
        if !taken {
            warn!(reason = ?ack.reason, "the broker does not take a message of ours");
        }
        self.ledger.acknowledged(ack.pkid, taken);
    }

    /// A subscription that is refused leaves a device that nobody can tell anything: its status says so.
    fn subscribed(&self, ack: &SubAck) {
        let granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
        if let Some(code) = ack.return_codes.iter().find(|code| !granted(code)) {
            let broker = &self.connection.settings.access.broker;
            let details =
                format!("{broker}: the subscription to the documents was refused: {code:?}");
            warn!(%details, "no documents will come");
            set_trouble(
                self.connection.troubles,
                Some(Trouble { reason: Reason::BrokerRefused, details }),
            );
        }
    }
}
