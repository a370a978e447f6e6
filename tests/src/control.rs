//! The control plane, played by the test: it publishes what is desired and reads what is reported.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{Client, Connection, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::broker::{Access, Broker, Certificates};
use crate::wait::{PAUSE, SHORT, now, pause};

/// Larger than what the agent accepts, so that its limit is what a test meets.
const PACKET_BYTES: u32 = 8 << 20;
/// How long the broker keeps what comes while we are away: longer than any test.
const SESSION_SECONDS: u32 = 600;
/// Publishes that wait for the broker: more than the flood of a thousand documents.
const QUEUE: usize = 2000;

/// A message that came from the broker.
#[derive(Debug, Clone)]
pub struct Message {
    /// Below the device: `apps/hello/status`.
    pub topic: String,
    /// The content.
    pub payload: Vec<u8>,
    /// It was kept for us rather than sent just now.
    pub retained: bool,
}

impl Message {
    /// The content as JSON; null if it is empty or something else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Seen {
    latest: BTreeMap<String, Message>,
    all: Vec<Message>,
    connects: u32,
    trouble: String,
}

#[derive(Debug, Default)]
struct Mailbox {
    seen: Mutex<Seen>,
    changed: Condvar,
    over: AtomicBool,
}

impl Mailbox {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `word` is a value anywhere in `status`.
pub fn tells(status: &Value, word: &str) -> bool {
    match status {
        Value::String(text) => text == word,
        Value::Array(values) => values.iter().any(|value| tells(value, word)),
        Value::Object(fields) => fields.values().any(|value| tells(value, word)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A connection to a broker that speaks for one device.
pub struct Control {
    root: String,
    client: Client,
    mailbox: Arc<Mailbox>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Control {
    /// Connects, and subscribes to everything of `device`.
    pub fn connect(broker: &Broker, device: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("control-{}-{number}", std::process::id());
        let mut options =
            MqttOptions::new(id, broker.address().ip().to_string(), broker.address().port());
        options.set_max_packet_size(Some(PACKET_BYTES)).set_keep_alive(Duration::from_mins(1));
        // The device may be back at a restarted broker before we are: what it says meanwhile is kept for us.
        options.set_clean_start(false).set_session_expiry_interval(Some(SESSION_SECONDS));
        match broker.access() {
            Access::Anonymous => (),
            Access::Password => {
                options.set_credentials("user", "secret");
            }
            Access::Certificate => {
                options.set_transport(tls(&broker.certificates())?);
            }
        }
        let (client, connection) = Client::new(options, QUEUE);
        let control = Self {
            root: format!("skerry/v1/{device}/"),
            client: client.clone(),
            mailbox: Arc::default(),
        };
        let (root, mailbox) = (control.root.clone(), Arc::clone(&control.mailbox));
        thread::spawn(move || listen(connection, &client, &root, &mailbox));
        control.wait("the broker", SHORT, |seen| (0 < seen.connects).then_some(()))?;
        Ok(control)
    }

    /// Publishes a retained message at `topic` below the device, and waits until the broker has it.
    pub fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<()> {
        let payload = payload.into();
        let before = self.mailbox.seen().all.len();
        self.client.publish(
            format!("{}{topic}", self.root),
            QoS::AtLeastOnce,
            true,
            payload.clone(),
        )?;
        self.wait(&format!("the broker to have {topic}"), SHORT, |seen| {
            let ours = |message: &&Message| message.topic == topic && message.payload == payload;
            seen.all[before..].iter().find(ours).map(drop)
        })
    }

    /// Publishes without waiting for anything, for a flood.
    pub fn publish_soon(&self, topic: &str, payload: impl Into<Vec<u8>>) -> Result<()> {
        let topic = format!("{}{topic}", self.root);
        self.client.publish(topic, QoS::AtLeastOnce, true, payload.into())?;
        Ok(())
    }

    /// Publishes with properties, not retained: a request.
    pub fn request(&self, topic: &str, payload: &str, properties: PublishProperties) -> Result<()> {
        let topic = format!("{}{topic}", self.root);
        let payload = payload.to_owned();
        self.client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties)?;
        Ok(())
    }

    /// Sets what is desired of `app`.
    pub fn desire(&self, app: &str, document: impl Into<String>) -> Result<()> {
        self.publish(&format!("apps/{app}/desired"), document.into())
    }

    /// Removes `app`.
    pub fn remove(&self, app: &str) -> Result<()> {
        self.desire(app, "skerry: {absent: true}")
    }

    /// The last message at `topic`.
    pub fn latest(&self, topic: &str) -> Option<Message> {
        self.mailbox.seen().latest.get(topic).cloned()
    }

    /// Every message that came at `topic`, oldest first.
    pub fn history(&self, topic: &str) -> Vec<Message> {
        let seen = self.mailbox.seen();
        seen.all.iter().filter(|message| message.topic == topic).cloned().collect()
    }

    /// Every message that came, oldest first.
    pub fn everything(&self) -> Vec<Message> {
        self.mailbox.seen().all.clone()
    }

    /// How many messages have come in all: a mark for [`Control::await_since`].
    pub fn mark(&self) -> usize {
        self.mailbox.seen().all.len()
    }

    /// Waits until the last message at `topic`, read as JSON, is as it should be.
    pub fn await_json(
        &self,
        topic: &str,
        patience: Duration,
        mut good: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        self.wait(topic, patience, |seen| {
            let value = seen.latest.get(topic)?.json();
            good(&value).then_some(value)
        })
        .with_context(|| {
            let last = self.latest(topic).map(|message| message.json());
            format!("the last at {topic} is {}", last.unwrap_or_default())
        })
    }

    /// Waits until the status of `app` is as it should be.
    pub fn await_status(&self, app: &str, good: impl FnMut(&Value) -> bool) -> Result<Value> {
        self.await_json(&format!("apps/{app}/status"), 3 * SHORT, good)
    }

    /// Waits until `app` runs with its latest revision ready.
    pub fn await_running(&self, app: &str) -> Result<Value> {
        self.await_status(app, |status| {
            status["runningStatus"] == "Running"
                && status["latestRevisionName"] == status["latestReadyRevisionName"]
                && status["latestRevisionName"] != ""
        })
    }

    /// Waits until the status of `app` names `reason`, wherever it stands.
    pub fn await_reason(&self, app: &str, reason: &str) -> Result<Value> {
        self.await_status(app, |status| tells(status, reason))
    }

    /// Waits until the device's status names `reason`.
    pub fn await_trouble(&self, reason: &str) -> Result<Value> {
        self.await_json("status", 3 * SHORT, |status| tells(&status["troubles"], reason))
    }

    /// Waits for an event of `app` with `reason`.
    pub fn await_event(&self, app: &str, reason: &str) -> Result<Message> {
        let what = format!("the event {reason} of {app}");
        self.await_since(0, &what, 3 * SHORT, |message| {
            let event = message.json();
            message.topic == "events" && event["app"] == app && event["reason"] == reason
        })
    }

    /// Waits for a message after `mark` that `good` holds for.
    pub fn await_since(
        &self,
        mark: usize,
        what: &str,
        patience: Duration,
        mut good: impl FnMut(&Message) -> bool,
    ) -> Result<Message> {
        self.wait(what, patience, |seen| {
            seen.all[mark..].iter().find(|message| good(message)).cloned()
        })
    }

    fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<T> {
        let deadline = now() + patience;
        let mut seen = self.mailbox.seen();
        loop {
            if let Some(found) = look(&seen) {
                return Ok(found);
            }
            let Some(rest) = deadline.checked_duration_since(now()) else {
                bail!("waited {patience:?} for {what} {}", seen.trouble);
            };
            let woken = self.mailbox.changed.wait_timeout(seen, rest);
            seen = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.mailbox.over.store(true, Ordering::Relaxed);
        let _ = self.client.try_disconnect();
    }
}

/// Takes in what comes, for as long as the connection is wanted; connects again when it is lost.
fn listen(mut connection: Connection, client: &Client, root: &str, mailbox: &Mailbox) {
    loop {
        let event = connection.recv();
        if mailbox.over.load(Ordering::Relaxed) {
            return;
        }
        match event {
            Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => {
                let _ = client.try_subscribe(format!("{root}#"), QoS::AtLeastOnce);
            }
            Ok(Ok(Event::Incoming(Packet::SubAck(_)))) => mailbox.seen().connects += 1,
            Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => {
                let topic = String::from_utf8_lossy(&publish.topic);
                let message = Message {
                    topic: topic.strip_prefix(root).unwrap_or(&topic).to_owned(),
                    payload: publish.payload.to_vec(),
                    retained: publish.retain,
                };
                let mut seen = mailbox.seen();
                seen.latest.insert(message.topic.clone(), message.clone());
                seen.all.push(message);
            }
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => {
                mailbox.seen().trouble = error.to_string();
                pause(PAUSE);
            }
            Err(_) => return,
        }
        mailbox.changed.notify_all();
    }
}

fn tls(files: &Certificates) -> Result<Transport> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(&files.ca)?)?)?;
    let chain = vec![CertificateDer::from_pem_slice(&fs::read(&files.cert)?)?];
    let key = PrivateKeyDer::from_pem_slice(&fs::read(&files.key)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
}
