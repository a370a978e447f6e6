//! What goes up: levels when they change, events once each, and everything anew with each connection.

use std::collections::{BTreeMap, BTreeSet};
use std::future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use domain::model::Digest;
use domain::status::Statuses;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, ClientError};
use skerry_proto::v1;
use tokio::time;
use tracing::{info, warn};

use super::ledger::{Ledger, Sent};
use super::payload::{self, Presence};
use super::settings::MqttSettings;
use super::topics::Topics;
use crate::clock::Clock;
use crate::inbox::{Inbox, Request};
use crate::published::Published;

/// Statuses that change together go up together.
const DEBOUNCE: Duration = Duration::from_millis(250);
/// How long `hello` waits for the first round: one that says "no apps" would be repaired in vain.
const FIRST_ROUND: Duration = Duration::from_secs(10);
/// Events between two looks at everything else.
const EVENTS_AT_ONCE: usize = 32;
/// Nothing of ours is larger, whatever the broker would take: what we send, our own peers must be able to receive.
pub(super) const LARGEST: usize = 512 * 1024;
/// Fixed header, lengths, packet id and properties beside topic and payload.
const OVERHEAD: usize = 16;

/// The connection's end, seen from the sender's side.
#[derive(Debug, thiserror::Error)]
#[error("the connection has ended")]
pub(super) struct Ended;

/// What goes up on one connection.
pub(super) struct Upward<'a> {
    pub(super) settings: &'a MqttSettings,
    pub(super) topics: Topics,
    pub(super) epoch: u64,
    pub(super) clock: Clock,
    pub(super) client: AsyncClient,
    pub(super) ledger: &'a Ledger,
    pub(super) inbox: Inbox,
    pub(super) published: Published,
    /// The largest packet that the broker takes.
    pub(super) largest: usize,
    /// What was said, so that only changes are said again.
    pub(super) said: Said,
}

/// What was said on this connection.
#[derive(Debug, Default)]
pub(super) struct Said {
    statuses: BTreeMap<String, Digest>,
    cleared: BTreeSet<String>,
    device: Option<v1::DeviceStatus>,
    last_event: Option<u64>,
}

impl Upward<'_> {
    /// Subscribes, says everything, then what changes. Ends only with the connection.
    pub(super) async fn talk(&mut self) -> Result<(), Ended> {
        self.subscribe()?;
        self.device(Presence::Online).await?;
        let mut patience = pin!(time::sleep(FIRST_ROUND));
        let mut greeted = false;
        loop {
            if !greeted && (0 < self.published.device.borrow().rounds || patience.is_elapsed()) {
                greeted = true;
                self.hello().await?;
            }
            self.device(Presence::Online).await?;
            self.statuses().await?;
            let more = self.events().await?;
            self.confirm().await;
            if more {
                continue;
            }
            let changed = tokio::select! {
                changed = self.published.statuses.changed() => changed.map(|()| DEBOUNCE),
                changed = self.published.device.changed() => changed.map(|()| DEBOUNCE),
                changed = self.published.outbox.changed() => changed.map(|()| Duration::ZERO),
                () = self.ledger.delivered.notified() => Ok(Duration::ZERO),
                () = &mut patience, if !greeted => Ok(Duration::ZERO),
            };
            match changed {
                Ok(Duration::ZERO) => {}
                Ok(debounce) => time::sleep(debounce).await,
                // The loop has ended and so will the agent; the stop signal is on its way.
                Err(_) => future::pending().await,
            }
        }
    }

    /// The last word: *offline*, its acknowledgement, and a clean end, so that the will is not needed.
    pub(super) async fn farewell(&mut self) -> Result<(), Ended> {
        let status = self.device_status(Presence::Offline);
        // It does not wait for the window: it is one more at most.
        self.hand_over(self.topics.device(), true, payload::json(&status), Sent::Farewell)?;
        self.ledger.farewell.notified().await;
        self.client.try_disconnect().map_err(|_| Ended)
    }

    fn subscribe(&self) -> Result<(), Ended> {
        self.client.try_subscribe_many(self.topics.filters()).map_err(|_| Ended)
    }

    async fn hello(&mut self) -> Result<(), Ended> {
        let hello = {
            let state = self.published.device.borrow();
            payload::hello(self.settings, self.epoch, &state)
        };
        info!(epoch = self.epoch, apps = hello.apps.len(), "said hello");
        self.publish(self.topics.hello(), false, payload::json(&hello), Sent::Level).await?;
        Ok(())
    }

    async fn device(&mut self, presence: Presence) -> Result<(), Ended> {
        let status = self.device_status(presence);
        let same = self.said.device.as_ref().is_some_and(|said| {
            // Another time alone is no change.
            v1::DeviceStatus { updated_time: status.updated_time.clone(), ..said.clone() } == status
        });
        if !same {
            self.publish(self.topics.device(), true, payload::json(&status), Sent::Level).await?;
            self.said.device = Some(status);
        }
        Ok(())
    }

    fn device_status(&mut self, presence: Presence) -> v1::DeviceStatus {
        let state = self.published.device.borrow_and_update();
        payload::device(self.settings, self.epoch, presence, &state, self.clock)
    }

    /// Publishes each status that is not what was said, and clears the topics of what is no more.
    async fn statuses(&mut self) -> Result<(), Ended> {
        let statuses = Arc::clone(&self.published.statuses.borrow_and_update());
        let removed = self.removed(&statuses);
        // What came back to life is said again.
        self.said.cleared.retain(|topic| removed.contains(topic));
        let mut present = BTreeSet::new();
        for (topic, json) in self.rendered(&statuses) {
            present.insert(topic.clone());
            let digest = Digest::of(&json);
            let said = self.said.statuses.get(&topic) == Some(&digest);
            if said || self.said.cleared.contains(&topic) {
                continue;
            }
            if self.publish(topic.clone(), true, json, Sent::Level).await? {
                self.said.statuses.insert(topic, digest);
            }
        }
        self.clear(&removed, &present).await
    }

    fn rendered(&self, statuses: &Statuses) -> Vec<(String, Vec<u8>)> {
        let app =
            |(name, status): (&String, _)| Some((self.topics.app(name)?, payload::app(status)));
        let job =
            |(name, status): (&String, _)| Some((self.topics.job(name)?, payload::job(status)));
        // One that nobody spoke of is none of the control plane's.
        let environments = statuses.environments.iter().filter(|(_, one)| one.source.is_some());
        let environment = |(name, status): (&String, _)| {
            Some((self.topics.environment(name)?, payload::environment(status)))
        };
        let apps = statuses.apps.iter().filter_map(app);
        let jobs = statuses.jobs.iter().filter_map(job);
        apps.chain(jobs).chain(environments.filter_map(environment)).collect()
    }

    /// The topics of what was removed. An app or a job: a name alone does not say which of the two it was: a status tells, and
    /// where there is none, it was both.
    fn removed(&self, statuses: &Statuses) -> BTreeSet<String> {
        let environments = statuses.removed_environments.iter();
        let mut topics: BTreeSet<String> =
            environments.filter_map(|name| self.topics.environment(name.as_str())).collect();
        for name in &statuses.removed {
            let name = name.as_str();
            let (app, job) = (statuses.apps.contains_key(name), statuses.jobs.contains_key(name));
            topics.extend(self.topics.app(name).filter(|_| app || !job));
            topics.extend(self.topics.job(name).filter(|_| job || !app));
        }
        topics
    }

    /// Clears, once, the topics of what was removed, and of whatever has a status no longer.
    async fn clear(
        &mut self,
        removed: &BTreeSet<String>,
        present: &BTreeSet<String>,
    ) -> Result<(), Ended> {
        let gone = self.said.statuses.keys().filter(|topic| !present.contains(*topic));
        let mut topics: BTreeSet<String> = removed.iter().chain(gone).cloned().collect();
        topics.retain(|topic| !self.said.cleared.contains(topic));
        for topic in topics {
            self.publish(topic.clone(), true, Vec::new(), Sent::Level).await?;
            self.said.statuses.remove(&topic);
            if removed.contains(&topic) {
                self.said.cleared.insert(topic);
            }
        }
        Ok(())
    }

    /// Publishes events that were not said yet, oldest first; tells whether there are more.
    async fn events(&mut self) -> Result<bool, Ended> {
        let outbox = Arc::clone(&self.published.outbox.borrow_and_update());
        let last = self.said.last_event;
        let mut fresh = outbox.iter().filter(|event| last < Some(event.id));
        for event in fresh.by_ref().take(EVENTS_AT_ONCE) {
            let sent = Sent::Event(event.id);
            if !self.publish(self.topics.events(), false, payload::event(event), sent).await? {
                self.ledger.given_up(event.id);
            }
            self.said.last_event = Some(event.id);
        }
        Ok(fresh.next().is_some())
    }

    /// Tells the loop which events the broker has.
    async fn confirm(&self) {
        let events = self.ledger.take_delivered();
        if !events.is_empty() && self.inbox.send(Request::Delivered { events }).await.is_err() {
            // The agent is about to end; the events are in the store and go up again.
        }
    }

    /// Publishes when there is room in the window. `false`: it is larger than the broker takes and was not sent,
    /// because sending it would cost the connection, again and again.
    async fn publish(
        &self,
        topic: String,
        retain: bool,
        payload: Vec<u8>,
        sent: Sent,
    ) -> Result<bool, Ended> {
        if self.largest < topic.len() + payload.len() + OVERHEAD {
            warn!(%topic, bytes = payload.len(), "larger than the broker takes; not published");
            return Ok(false);
        }
        self.ledger.admit().await;
        self.hand_over(topic, retain, payload, sent)?;
        Ok(true)
    }

    /// Gives a message to the client and notes it, in one step: the order of both is what the ledger lives by.
    fn hand_over(
        &self,
        topic: String,
        retain: bool,
        payload: Vec<u8>,
        sent: Sent,
    ) -> Result<(), Ended> {
        self.ledger.handed_over(sent);
        let handed: Result<(), ClientError> =
            self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload);
        handed.map_err(|_| Ended)
    }
}
