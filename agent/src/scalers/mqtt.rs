//! Numbers from a broker's topics: how many messages come, what a retained one says, or how far the app lags behind.
//!
//! Each rule has a connection of its own, with a client id of its own, that starts clean: what came while there was no
//! connection is not counted. It is made anew with the next sample after it ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domain::model::{Digest, Moment};
use domain::replica::Secret;
use domain::scale::{MqttMode, MqttSource, MqttUrl, Sample, SampleKey};
use rustls::pki_types::ServerName;
use tokio::sync::watch;

use super::lookouts::Lookouts;
use super::{Tell, deadline, ticks, within};
use crate::broker::{Access, Listening, Message, RetainedMessages, Stream, Subscription};
use crate::clock::Clock;
use crate::network::Lookout;
use crate::report::Chain;

/// Topics whose retained messages are added up.
const MOST_TOPICS: usize = 1024;
/// Characters of the digest in a client id: enough for one board's rules.
const DIGEST_CHARS: usize = 12;

/// The client id of a rule: one board, one rule.
pub(super) fn client_id(device: &str, key: &SampleKey) -> String {
    let digest = Digest::of(format!("{}/{}", key.revision, key.rule).as_bytes()).to_string();
    let digest = digest.rsplit(':').next().unwrap_or_default();
    format!("{device}-scale-{}", &digest[..DIGEST_CHARS.min(digest.len())])
}

/// How a rule's broker is reached.
pub(super) struct Way<L> {
    /// The agent's own broker.
    pub(super) own: Option<Access>,
    pub(super) lookouts: Arc<Lookouts<L>>,
    pub(super) client: String,
}

/// Listens to a rule's topics until it is dropped.
pub(super) async fn watch<L: Lookout>(
    sample: Sample,
    source: MqttSource,
    way: Way<L>,
    clock: Clock,
    tell: Tell,
) {
    let heard = Heard { counts: Mutex::default(), mode: source.mode.clone() };
    let what = match (&source.url, &way.own) {
        (Some(url), _) => url.to_string(),
        (None, Some(own)) => own.broker.to_string(),
        (None, None) => return tell.failed("[mqtt] of agent.toml names no broker".to_owned()),
    };
    // What the listener is doing: not there, or there, and since when.
    let (state, told) = watch::channel(Link::Down("not connected yet".to_owned()));
    let (again, due) = watch::channel(());
    let limit = deadline(&sample);
    let listening = async {
        let mut due = due;
        loop {
            let end = listen(&sample, &source, &way, &heard, &state, limit).await;
            state.send_replace(Link::Down(end));
            // Not sooner than with the next sample: a broker that refuses us is not asked all the time.
            if due.changed().await.is_err() {
                return;
            }
        }
    };
    let sampling = heard.tell(&sample, &what, told, again, clock, &tell);
    tokio::join!(listening, sampling);
}

/// What there is of a connection.
enum Link {
    Up,
    /// Why not.
    Down(String),
}

/// Connects and listens to the end of the connection; returns why it ended.
async fn listen<L: Lookout>(
    sample: &Sample,
    source: &MqttSource,
    way: &Way<L>,
    heard: &Heard,
    state: &watch::Sender<Link>,
    limit: Duration,
) -> String {
    let opening = Box::pin(way.open(sample, source));
    let mut subscription = match within(limit, opening).await {
        Ok(subscription) => subscription,
        Err(got) => return got,
    };
    heard.begin_anew();
    state.send_replace(Link::Up);
    loop {
        match subscription.next().await {
            Ok(message) => heard.take(&message),
            Err(error) => return Chain(&error).to_string(),
        }
    }
}

impl<L: Lookout> Way<L> {
    async fn open(&self, sample: &Sample, source: &MqttSource) -> Result<Subscription, String> {
        let (stream, login) = match (&source.url, &self.own) {
            (Some(url), _) => {
                let login = source.username.clone();
                let password = source.password.clone().unwrap_or_default();
                (self.dial(sample, url).await?, login.map(|user| (user, password)))
            }
            (None, Some(own)) => {
                let credentials = self.lookouts.own(own).await.map_err(|error| told(&error))?;
                let stream = own.connect(&credentials).await.map_err(|error| told(&error))?;
                let login = credentials.login.map(|(user, word)| (user, Secret(word)));
                (stream, login)
            }
            (None, None) => return Err("there is no broker".to_owned()),
        };
        let mut filters = vec![source.topic.as_str()];
        let retained = match &source.mode {
            MqttMode::Retained => RetainedMessages::Wanted,
            MqttMode::Rate => RetainedMessages::Unwanted,
            MqttMode::Lag { done_topic } => {
                filters.push(done_topic);
                RetainedMessages::Unwanted
            }
        };
        let listening = Listening { client: &self.client, login, filters: &filters, retained };
        Subscription::open(stream, &listening).await.map_err(|error| told(&error))
    }

    async fn dial(&self, sample: &Sample, url: &MqttUrl) -> Result<Box<dyn Stream>, String> {
        let stream = self.lookouts.dial(&sample.environment, &url.host, url.port).await?;
        if !url.tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(url.host.clone()).map_err(|error| error.to_string())?;
        let connector = self.lookouts.to_the_known().await?;
        let secured = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        Ok(Box::new(secured))
    }
}

/// What was heard.
struct Heard {
    counts: Mutex<Counts>,
    mode: MqttMode,
}

#[derive(Default)]
struct Counts {
    /// Messages since the sample before.
    came: u64,
    /// Messages that are not done.
    behind: u64,
    /// What the retained message of each topic says; `None` is no number.
    retained: BTreeMap<Bytes, Option<f64>>,
}

impl Heard {
    fn with<T>(&self, what: impl FnOnce(&mut Counts) -> T) -> T {
        what(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// With a new connection, every retained message comes again. How far the app lags behind is kept: what was
    /// counted is not undone by a broker that was away.
    fn begin_anew(&self) {
        self.with(|counts| counts.retained.clear());
    }

    fn take(&self, message: &Message) {
        self.with(|counts| match &self.mode {
            MqttMode::Rate => counts.came += 1,
            MqttMode::Lag { .. } => {
                for filter in &message.filters {
                    counts.behind = match filter {
                        0 => counts.behind.saturating_add(1),
                        _ => counts.behind.saturating_sub(1),
                    };
                }
            }
            MqttMode::Retained if !message.retained => (),
            MqttMode::Retained if message.payload.is_empty() => {
                counts.retained.remove(&message.topic);
            }
            MqttMode::Retained => {
                let known = counts.retained.contains_key(&message.topic);
                if known || counts.retained.len() < MOST_TOPICS {
                    counts.retained.insert(message.topic.clone(), number(&message.payload));
                }
            }
        });
    }

    /// Tells of what was heard with each sample, while there is a connection; where there is none, why.
    async fn tell(
        &self,
        sample: &Sample,
        what: &str,
        mut link: watch::Receiver<Link>,
        again: watch::Sender<()>,
        clock: Clock,
        tell: &Tell,
    ) {
        // The first sample is one interval after the connection stands: before, nothing can have come.
        let mut since: Option<Moment> = None;
        let mut ticks = ticks(sample.every);
        ticks.tick().await;
        loop {
            tokio::select! {
                changed = link.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    match &*link.borrow_and_update() {
                        Link::Up => {
                            since = Some(clock.now());
                            self.with(|counts| counts.came = 0);
                            ticks.reset();
                        }
                        Link::Down(why) => {
                            since = None;
                            tell.failed(format!("{what}: {why}"));
                        }
                    }
                }
                _ = ticks.tick() => match since {
                    Some(then) => {
                        let now = clock.now();
                        let elapsed = now.0.saturating_sub(then.0);
                        tell.outcome(what, self.value(elapsed));
                        since = Some(now);
                    }
                    None => again.send_modify(|()| ()),
                },
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "nobody sends that many messages")]
    fn value(&self, elapsed: Duration) -> Result<f64, String> {
        self.with(|counts| match &self.mode {
            MqttMode::Rate => {
                let came = std::mem::take(&mut counts.came) as f64;
                Ok(if elapsed.is_zero() { 0.0 } else { came / elapsed.as_secs_f64() })
            }
            MqttMode::Lag { .. } => Ok(counts.behind as f64),
            MqttMode::Retained if counts.retained.is_empty() => {
                Err("no message is retained there".to_owned())
            }
            MqttMode::Retained => {
                let sum: Option<f64> = counts.retained.values().copied().sum();
                sum.ok_or_else(|| "a retained message is no number".to_owned())
            }
        })
    }
}

fn told(error: &(dyn std::error::Error + 'static)) -> String {
    Chain(error).to_string()
}

fn number(payload: &[u8]) -> Option<f64> {
    let number: f64 = std::str::from_utf8(payload).ok()?.trim().parse().ok()?;
    number.is_finite().then_some(number)
}
