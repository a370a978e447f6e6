//! The control plane's side: publishes documents, sees what goes up.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::Value;
use tokio::sync::watch;
use tracing::info_span;

use super::within;
use crate::tasks::Tasks;

/// A message as it was seen.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retained: bool,
}

impl Message {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or(Value::Null)
    }
}

/// Sees everything below `t/pi`.
pub(super) struct Observer {
    client: AsyncClient,
    seen: watch::Receiver<Vec<Message>>,
    acknowledged: watch::Receiver<usize>,
    published: usize,
}

impl Observer {
    pub(super) async fn connect(tasks: &Tasks, port: u16) -> Self {
        Self::login(tasks, port, None).await
    }

    pub(super) async fn login(tasks: &Tasks, port: u16, login: Option<(&str, &str)>) -> Self {
        let mut options = MqttOptions::new("observer", "127.0.0.1", port);
        options.set_max_packet_size(Some(1 << 24)).set_keep_alive(Duration::from_secs(30));
        if let Some((user, password)) = login {
            options.set_credentials(user, password);
        }
        let (client, mut events) = AsyncClient::new(options, 64);
        let (see, seen) = watch::channel(Vec::new());
        let (acknowledge, acknowledged) = watch::channel(0);
        let (ready, mut subscribed) = watch::channel(false);
        tasks.spawn_short(info_span!("observer"), async move {
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(Packet::Publish(publish)) = event {
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    let payload = publish.payload.to_vec();
                    see.send_modify(|all| {
                        all.push(Message { topic, payload, retained: publish.retain });
                    });
                } else if let Event::Incoming(Packet::PubAck(_)) = event {
                    acknowledge.send_modify(|count| *count += 1);
                } else if let Event::Incoming(Packet::SubAck(_)) = event {
                    ready.send_replace(true);
                }
            }
        });
        for up in ["t/pi/status", "t/pi/hello", "t/pi/events", "t/pi/+/+/status"] {
            client.subscribe(up, QoS::AtLeastOnce).await.unwrap();
        }
        within("the observer's subscription", subscribed.wait_for(|ready| *ready)).await.unwrap();
        Self { client, seen, acknowledged, published: 0 }
    }

    /// Publishes and waits until the broker has it.
    pub(super) async fn publish(&mut self, topic: &str, retain: bool, payload: impl Into<Vec<u8>>) {
        self.publish_soon(topic, retain, payload).await;
        let all = self.published;
        within("the broker to take it", self.acknowledged.wait_for(|count| all <= *count))
            .await
            .unwrap();
    }

    pub(super) async fn publish_soon(
        &mut self,
        topic: &str,
        retain: bool,
        payload: impl Into<Vec<u8>>,
    ) {
        self.published += 1;
        let topic = format!("t/pi/{topic}");
        self.client.publish(topic, QoS::AtLeastOnce, retain, payload.into()).await.unwrap();
    }

    /// Waits until what was seen satisfies `done`; returns all of it.
    pub(super) async fn until(
        &mut self,
        what: &'static str,
        done: impl FnMut(&Vec<Message>) -> bool,
    ) -> Vec<Message> {
        within(what, self.seen.wait_for(done)).await.unwrap().clone()
    }

    /// Waits for the first message on `topic` that satisfies `done`.
    pub(super) async fn message(
        &mut self,
        topic: &'static str,
        mut done: impl FnMut(&Value) -> bool,
    ) -> Message {
        let mut matches = move |message: &&Message| {
            message.topic.strip_prefix("t/pi/") == Some(topic) && done(&message.json())
        };
        let all = self.until(topic, |all| all.iter().any(|message| matches(&message))).await;
        all.into_iter().rev().find(|message| matches(&message)).unwrap()
    }

    pub(super) fn count(&self, topic: &str) -> usize {
        self.seen
            .borrow()
            .iter()
            .filter(|message| message.topic.strip_prefix("t/pi/") == Some(topic))
            .count()
    }
}
