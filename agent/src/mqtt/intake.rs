//! Documents on their way to the loop, each acknowledged once the answer says that it is durable.
//!
//! Each topic is a chain: a newer document never overtakes an older one. The chains know nothing of each other, so
//! that a slow document holds up its own topic alone. (MQTT asks for acknowledgements in the order of arrival; a
//! document that waits for room on the disk is worth that breach, and brokers look acknowledgements up by id.)

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use domain::status::Source;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio::sync::{mpsc, oneshot};
use tokio::time;
use tracing::{debug, warn};

use super::topics::{Downward, Topics};
use crate::inbox::{Inbox, Refusal, Request, Subject};

/// Messages here at a time. The broker keeps to 16 unacknowledged ones; only those sent at `QoS` 0 can be more.
pub(super) const ROOM: usize = 32;
/// The longest wait before a document that found the disk full is tried again: a successor waits no longer either.
const LONGEST_HOLD: Duration = Duration::from_secs(5);

/// The chains of one connection.
pub(super) struct Intake {
    topics: Topics,
    inbox: Inbox,
    client: AsyncClient,
    chains: BTreeMap<Vec<u8>, Chain>,
    here: usize,
}

/// One topic: one message is with the loop, these are not.
#[derive(Default)]
struct Chain {
    /// Came later, and waits for its turn.
    waiting: VecDeque<Publish>,
    /// Found the disk full and was superseded; acknowledged together with its successor.
    superseded: Vec<Publish>,
}

/// One message on its way to the loop.
struct Errand {
    publish: Publish,
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
    pub(super) fn new(topics: Topics, inbox: Inbox, client: AsyncClient) -> Self {
        Self { topics, inbox, client, chains: BTreeMap::new(), here: 0 }
    }

    /// Passes on what arrives, until the connection ends.
    pub(super) async fn run(mut self, mut arrivals: mpsc::Receiver<Publish>) {
        let mut errands = FuturesUnordered::new();
        loop {
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(publish) => if let Some(errand) = self.take_in(publish) {
                        errands.push(run(self.inbox.clone(), errand));
                    },
                    None => return,
                },
                Some((errand, outcome)) = errands.next(), if !errands.is_empty() => {
                    if let Some(errand) = self.settle(errand, outcome) {
                        errands.push(run(self.inbox.clone(), errand));
                    }
                }
            }
        }
    }

    /// Takes a message in; returns it where it may go to the loop at once.
    fn take_in(&mut self, publish: Publish) -> Option<Errand> {
        let Some(about) = self.topics.read(&publish.topic) else {
            debug!(topic = ?publish.topic, "a message on a topic that is none of ours");
            self.acknowledge(&publish);
            return None;
        };
        if self.here == ROOM {
            warn!(topic = ?publish.topic, "more messages than the receive maximum allows; one is dropped");
            return None;
        }
        self.here += 1;
        if let Some(chain) = self.chains.get_mut(&publish.topic[..]) {
            chain.waiting.push_back(publish);
            return None;
        }
        self.chains.insert(publish.topic.to_vec(), Chain::default());
        Some(Errand { publish, about, held: 0 })
    }

    /// Acknowledges what is durable; returns what goes to the loop next on this topic.
    fn settle(&mut self, errand: Errand, outcome: Outcome) -> Option<Errand> {
        let key = errand.publish.topic.to_vec();
        let mut chain = self.chains.remove(&key)?;
        let next = chain.waiting.pop_front();
        match (outcome, &next) {
            (Outcome::Held, None) => {
                self.chains.insert(key, chain);
                return Some(Errand { held: errand.held.saturating_add(1), ..errand });
            }
            (Outcome::Held, Some(_)) => chain.superseded.push(errand.publish),
            (Outcome::Durable, _) => {
                for publish in chain.superseded.drain(..).chain([errand.publish]) {
                    self.here -= 1;
                    self.acknowledge(&publish);
                }
            }
            (Outcome::Unanswered, _) => self.here -= 1,
        }
        let Some(publish) = next else {
            self.here -= chain.superseded.len();
            return None;
        };
        self.chains.insert(key, chain);
        Some(Errand { publish, about: errand.about, held: 0 })
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
    let payload = errand.publish.payload.clone();
    let outcome = match &errand.about {
        Downward::App(name) => document(&inbox, Subject::App(name.clone()), payload).await,
        Downward::Job(name) => document(&inbox, Subject::Job(name.clone()), payload).await,
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
