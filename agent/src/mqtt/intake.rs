//! Documents on their way to the loop, each acknowledged once the answer says that it is durable.
//!
//! Each topic is a chain: a newer document never overtakes an older one. The chains know nothing of each other, so
//! that a slow document holds up its own topic alone. (MQTT asks for acknowledgements in the order of arrival; a
//! document that waits for room on the disk is worth that breach, and brokers look acknowledgements up by id.)
//!
//! Not every broker keeps the order of what it had to queue: mosquitto 2.0.11 lets a new message pass those that
//! wait. What comes last is then not the newest. The retained document is, so after a crowd all of them are asked for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use domain::status::Source;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time;
use tracing::{debug, warn};

use super::topics::{Downward, Topics};
use crate::inbox::{Inbox, Refusal, Request, Subject};

/// Messages here at a time, and half of it is half a mebibyte for each of the 16 that the broker may have under way.
/// The rest is for brokers that lose count (mosquitto 2.0.11 does) and for messages at `QoS` 0, which none counts.
pub(super) const ROOM: usize = 128;
/// Less room than this, and a newer document takes the place of those that wait before it on its topic.
const TIGHT: usize = ROOM / 2;
/// What one unit of room holds: small messages take one, the largest take eight.
const UNIT: usize = 64 * 1024;
/// What the largest packet takes.
pub(super) const LARGEST_UNITS: u32 = 8;
/// Documents here at a time that make a crowd: half the receive maximum, as some may still be with the client library.
/// From the receive maximum on, the broker queues.
pub(super) const CROWD: usize = 8;
/// Quiet after a crowd: by then the broker has sent what it queued.
const QUIET: Duration = Duration::from_secs(1);
/// The longest wait before a document that found the disk full is tried again: a successor waits no longer either.
const LONGEST_HOLD: Duration = Duration::from_secs(5);

/// The chains of one connection.
pub(super) struct Intake {
    topics: Topics,
    inbox: Inbox,
    client: AsyncClient,
    room: Arc<Semaphore>,
    chains: BTreeMap<Vec<u8>, Chain>,
    /// So many came at a time that the broker may have queued some, and the retained ones were not asked for since.
    crowded: bool,
}

/// A message, and the room that it takes here until it is settled.
#[derive(Debug)]
pub(super) struct Arrival {
    publish: Publish,
    _room: OwnedSemaphorePermit,
}

impl Arrival {
    /// Finds room for a message; `None` where there is none.
    pub(super) fn find_room(publish: Publish, room: &Arc<Semaphore>) -> Option<Self> {
        let units = publish.payload.len().div_ceil(UNIT).clamp(1, ROOM);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(room).try_acquire_many_owned(units).ok()?;
        Some(Self { publish, _room: permit })
    }

    /// What is left when the content no longer counts; gives its room back.
    fn spent(self) -> Publish {
        Publish { payload: bytes::Bytes::new(), ..self.publish }
    }
}

/// One topic: one message is with the loop, these are not.
#[derive(Default)]
struct Chain {
    /// Came later, and waits for its turn.
    waiting: VecDeque<Arrival>,
    /// Gave way to the first of those that wait, and becomes `superseded` when that one goes to the loop.
    overtaken: Vec<Publish>,
    /// Found the disk full or no room, and was superseded by the one that is with the loop; acknowledged together with
    /// it. Nothing but the packet id is of use any more.
    superseded: Vec<Publish>,
}

impl Chain {
    /// Drops those that wait: the newest wins, and one that comes now is newer.
    fn overtake(&mut self) {
        self.overtaken.extend(self.waiting.drain(..).map(Arrival::spent));
    }
}

/// One message on its way to the loop.
struct Errand {
    arrival: Arrival,
    about: Downward,
    /// How often it was turned away for now.
    held: u32,
}

/// What became of it.
enum Outcome {
    /// Accepted or refused, durable either way.
    Durable,
    /// Turned away for now.
    Held,
    /// The loop has gone; the broker will send it again.
    Unanswered,
}

impl Intake {
    pub(super) fn new(
        topics: Topics,
        inbox: Inbox,
        client: AsyncClient,
        room: Arc<Semaphore>,
    ) -> Self {
        Self { topics, inbox, client, room, chains: BTreeMap::new(), crowded: false }
    }

    /// Passes on what arrives, until the connection ends.
    pub(super) async fn run(mut self, mut arrivals: mpsc::Receiver<Arrival>) {
        let mut errands = FuturesUnordered::new();
        loop {
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(arrival) => if let Some(errand) = self.take_in(arrival) {
                        errands.push(run(self.inbox.clone(), errand));
                    },
                    None => return,
                },
                Some((errand, outcome)) = errands.next(), if !errands.is_empty() => {
                    if let Some(errand) = self.settle(errand, outcome) {
                        errands.push(run(self.inbox.clone(), errand));
                    }
                }
                () = time::sleep(QUIET), if self.crowded && self.chains.is_empty() => {
                    self.ask_for_retained();
                }
            }
        }
    }

    /// Subscribes once more: a retained document is the newest on its topic, whatever order the others came in.
    fn ask_for_retained(&mut self) {
        debug!("after a crowd of documents, the retained ones are asked for");
        // A closed client is a connection that ends; the next one begins with a subscription.
        self.crowded = self.client.try_subscribe_many(self.topics.filters()).is_err();
    }

    /// Takes a message in; returns it where it may go to the loop at once.
    fn take_in(&mut self, arrival: Arrival) -> Option<Errand> {
        let topic = &arrival.publish.topic;
        let Some(about) = self.topics.read(topic) else {
            debug!(?topic, "a message on a topic that is none of ours");
            self.acknowledge(&arrival.publish);
            return None;
        };
        // Those that come with a subscription are one for each topic, and have no order to keep.
        self.crowded |= !arrival.publish.retain && self.is_crowd();
        if let Some(chain) = self.chains.get_mut(&topic[..]) {
            // An empty message wishes nothing, so what was wished before it still counts.
            if self.room.available_permits() < TIGHT && !arrival.publish.payload.is_empty() {
                chain.overtake();
            }
            chain.waiting.push_back(arrival);
            return None;
        }
        self.chains.insert(topic.to_vec(), Chain::default());
        Some(Errand { arrival, about, held: 0 })
    }

    fn is_crowd(&self) -> bool {
        CROWD <= ROOM.saturating_sub(self.room.available_permits())
    }

    /// Acknowledges what is durable; returns what goes to the loop next on this topic.
    fn settle(&mut self, errand: Errand, outcome: Outcome) -> Option<Errand> {
        let key = errand.arrival.publish.topic.to_vec();
        let mut chain = self.chains.remove(&key)?;
        let next = chain.waiting.pop_front();
        match (outcome, &next) {
            (Outcome::Held, None) => {
                self.chains.insert(key, chain);
                return Some(Errand { held: errand.held.saturating_add(1), ..errand });
            }
            (Outcome::Held, Some(_)) => chain.superseded.push(errand.arrival.spent()),
            (Outcome::Durable, _) => {
                for publish in chain.superseded.drain(..).chain([errand.arrival.spent()]) {
                    self.acknowledge(&publish);
                }
            }
            (Outcome::Unanswered, _) => {}
        }
        let arrival = next?;
        chain.superseded.append(&mut chain.overtaken);
        self.chains.insert(key, chain);
        Some(Errand { arrival, about: errand.about, held: 0 })
    }

    fn acknowledge(&self, publish: &Publish) {
        // The request channel has room for every message that may be unacknowledged; see `connection::REQUESTS`.
        if self.client.try_ack(publish).is_err() {
            warn!(topic = ?publish.topic, "an acknowledgement was not sent; the broker will send the message again");
        }
    }
}

/// Takes one message to the loop and waits for its answer.
async fn run(inbox: Inbox, errand: Errand) -> (Errand, Outcome) {
    if 0 < errand.held {
        let hold = Duration::from_secs(1).saturating_mul(errand.held);
        time::sleep(hold.min(LONGEST_HOLD)).await;
    }
    let payload = errand.arrival.publish.payload.clone();
    let outcome = match &errand.about {
        Downward::App(name) => document(&inbox, Subject::App(name.clone()), payload).await,
        Downward::Job(name) => document(&inbox, Subject::Job(name.clone()), payload).await,
        Downward::Environment(name) => {
            document(&inbox, Subject::Environment(name.clone()), payload).await
        }
        Downward::Scale(app) => {
            let (reply, answer) = oneshot::channel();
            ask(&inbox, Request::Scale { app: app.clone(), payload, reply }, answer).await
        }
    };
    (errand, outcome)
}

async fn document(inbox: &Inbox, subject: Subject, payload: bytes::Bytes) -> Outcome {
    let (reply, answer) = oneshot::channel();
    let request = Request::Document { source: Source::Mqtt, subject, payload, force: false, reply };
    ask(inbox, request, answer).await
}

async fn ask<T>(
    inbox: &Inbox,
    request: Request,
    answer: oneshot::Receiver<Result<T, Refusal>>,
) -> Outcome {
    if inbox.send(request).await.is_err() {
        return Outcome::Unanswered;
    }
    match answer.await {
        Ok(Ok(_)) => Outcome::Durable,
        Ok(Err(refusal)) if refusal.passing => {
            warn!(%refusal, "a message waits until it can be stored");
            Outcome::Held
        }
        Ok(Err(refusal)) => {
            debug!(%refusal, "a message was refused");
            Outcome::Durable
        }
        Err(_) => Outcome::Unanswered,
    }
}
