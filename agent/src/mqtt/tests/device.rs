//! A device: the adapter under test, and a task that answers its inbox as the loop would.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::document::Finding;
use domain::event::Event;
use domain::model::{Digest, WallTime};
use domain::reason::Reason;
use domain::replica::Trouble;
use domain::status::{AppStatus, RunningStatus, Source};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::info_span;

use super::within;
use crate::clock::Clock;
use crate::config::Config;
use crate::inbox::{Accepted, INBOX_DEPTH, Inbox, Kind, Refusal, Reply, Request, Subject};
use crate::mqtt::{MqttSettings, Session, Troubles, run};
use crate::published::{DeviceState, Published, Publisher, channels};
use crate::tasks::Tasks;

/// What the loop was asked, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    Document(Subject, Vec<u8>),
    Scale(String, Vec<u8>),
    Connecting(u64),
    Delivered(Vec<u64>),
}

/// How the loop answers documents and scale targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Accept,
    Refuse,
    /// `StorageFull`.
    Full,
    /// Not at all; the question is kept.
    Silence,
}

/// A device without containers.
pub(super) struct Device {
    pub(super) tasks: Tasks,
    pub(super) settings: MqttSettings,
    pub(super) clock: Clock,
    pub(super) publisher: Arc<Publisher>,
    pub(super) asked: watch::Receiver<Vec<Asked>>,
    pub(super) troubles: watch::Receiver<Arc<BTreeMap<String, Trouble>>>,
    /// Answers to come; the last one stays.
    pub(super) answers: Arc<Mutex<VecDeque<Answer>>>,
    report: Troubles,
    pub(super) link: watch::Sender<crate::published::Link>,
    published: Published,
    inbox: Inbox,
}

impl Device {
    pub(super) fn new(url: &str) -> Self {
        let mut config = Config::default();
        config.device.id = "pi".to_owned();
        config.device.tags = BTreeMap::from([("site".to_owned(), "berlin".to_owned())]);
        config.mqtt.url = url.to_owned();
        config.mqtt.topic_prefix = "t".to_owned();
        let settings = MqttSettings::new(&config, "0.1.0", "boot-1", "key", Session::Resumed)
            .unwrap()
            .unwrap();
        let (publisher, levels) = channels();
        publisher
            .device
            .send_replace(Arc::new(DeviceState { rounds: 1, ..DeviceState::default() }));
        let publisher = Arc::new(publisher);
        let (report, troubles) = watch::channel(Arc::default());
        let (inbox, requests) = mpsc::channel(INBOX_DEPTH);
        let (ask, asked) = watch::channel(Vec::new());
        let answers = Arc::new(Mutex::new(VecDeque::from([Answer::Accept])));
        let tasks = Tasks::default();
        let the_loop = Loop {
            ask,
            answers: Arc::clone(&answers),
            publisher: Arc::clone(&publisher),
            epoch: 6,
            kept: Vec::new(),
        };
        tasks.spawn_short(info_span!("loop"), the_loop.run(requests));
        Self {
            tasks,
            settings,
            clock: Clock::default(),
            publisher,
            asked,
            troubles,
            answers,
            report,
            link: watch::Sender::default(),
            published: levels,
            inbox,
        }
    }

    pub(super) fn on(port: u16) -> Self {
        Self::new(&format!("mqtt://127.0.0.1:{port}"))
    }

    /// Starts the adapter. Cancelling the first signal kills it without a word, the second stops it.
    pub(super) fn start(&self) -> Power {
        let power = Power {
            killed: CancellationToken::new(),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let adapter = run(
            self.settings.clone(),
            self.inbox.clone(),
            self.published.clone(),
            crate::mqtt::Tells { troubles: self.report.clone(), link: self.link.clone() },
            self.clock,
            power.stop.clone(),
        );
        let Power { killed, ended, .. } = power.clone();
        self.tasks.spawn_short(info_span!("mqtt"), async move {
            tokio::select! {
                () = adapter => {}
                () = killed.cancelled() => {}
            }
            ended.cancel();
        });
        power
    }

    pub(super) fn answer(&self, answers: &[Answer]) {
        *self.answers.lock().unwrap() = answers.iter().copied().collect();
    }

    pub(super) async fn until(
        &mut self,
        what: &'static str,
        done: impl FnMut(&Vec<Asked>) -> bool,
    ) -> Vec<Asked> {
        within(what, self.asked.wait_for(done)).await.unwrap().clone()
    }

    pub(super) async fn trouble(&mut self, reason: Option<Reason>) -> String {
        let found = |all: &Arc<BTreeMap<String, Trouble>>| {
            all.get("mqtt").map(|trouble| trouble.reason) == reason
        };
        let all =
            within("a trouble to come or go", self.troubles.wait_for(found)).await.unwrap().clone();
        all.get("mqtt").map(|trouble| trouble.details.clone()).unwrap_or_default()
    }

    pub(super) fn epochs(&self) -> Vec<u64> {
        let number =
            |asked: &Asked| if let Asked::Connecting(epoch) = asked { Some(*epoch) } else { None };
        self.asked.borrow().iter().filter_map(number).collect()
    }

    /// Publishes as the loop would.
    pub(super) fn statuses(&self, change: impl FnOnce(&mut domain::status::Statuses)) {
        self.publisher.statuses.send_modify(|all| change(Arc::make_mut(all)));
    }

    pub(super) fn events(&self, ids: std::ops::RangeInclusive<u64>) {
        self.publisher.outbox.send_modify(|outbox| Arc::make_mut(outbox).extend(ids.map(event)));
    }
}

/// The switches of a running adapter.
#[derive(Debug, Clone)]
pub(super) struct Power {
    killed: CancellationToken,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Power {
    pub(super) async fn kill(self) {
        self.killed.cancel();
        within("the adapter to die", self.ended.cancelled()).await;
    }

    /// Asks it to stop; it has the time that it promises, and a moment.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let deadline = Duration::from_millis(2500);
        tokio::time::timeout(deadline, self.ended.cancelled())
            .await
            .expect("it stops within two seconds");
    }
}

struct Loop {
    ask: watch::Sender<Vec<Asked>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    publisher: Arc<Publisher>,
    epoch: u64,
    kept: Vec<Box<dyn std::any::Any + Send>>,
}

impl Loop {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            let asked = self.handle(request);
            self.ask.send_modify(|all| all.push(asked));
        }
    }

    fn handle(&mut self, request: Request) -> Asked {
        match request {
            Request::Document { subject, payload, reply, .. } => {
                let accepted = Accepted {
                    name: "any".to_owned(),
                    kind: Kind::App,
                    changed: true,
                    warnings: Vec::new(),
                };
                self.reply(reply, accepted);
                Asked::Document(subject, payload.to_vec())
            }
            Request::Scale { app, payload, reply } => {
                self.reply(reply, ());
                Asked::Scale(app, payload.to_vec())
            }
            Request::Connecting { reply } => {
                self.epoch += 1;
                reply.send(Ok(self.epoch)).ok();
                Asked::Connecting(self.epoch)
            }
            Request::Delivered { events } => {
                self.publisher.outbox.send_modify(|outbox| {
                    Arc::make_mut(outbox).retain(|event| !events.contains(&event.id));
                });
                Asked::Delivered(events)
            }
            Request::Revision { .. }
            | Request::ToZero { .. }
            | Request::Traffic { .. }
            | Request::Secret { .. }
            | Request::Secrets { .. }
            | Request::Delete { .. }
            | Request::DeleteEnvironment { .. }
            | Request::Run { .. }
            | Request::Round { .. }
            | Request::ImagesRepaired { .. }
            | Request::ImageUses { .. }
            | Request::ImagesChanged => {
                panic!("the control plane asks no such thing")
            }
        }
    }

    fn reply<T: Send + 'static>(&mut self, reply: Reply<T>, yes: T) {
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() == 1 { answers[0] } else { answers.pop_front().unwrap() };
        let answered = match answer {
            Answer::Accept => reply.send(Ok(yes)),
            Answer::Refuse => reply.send(Err(refusal(Reason::InvalidValue, false))),
            Answer::Full => reply.send(Err(refusal(Reason::StorageFull, true))),
            Answer::Silence => {
                self.kept.push(Box::new(reply));
                return;
            }
        };
        assert!(answered.is_ok() || self.ask.is_closed(), "the adapter waits for its answer");
    }
}

fn refusal(reason: Reason, passing: bool) -> Refusal {
    let finding = Finding { path: String::new(), reason, message: String::new(), position: None };
    Refusal { findings: vec![finding], passing }
}

pub(super) fn event(id: u64) -> Event {
    Event {
        id,
        time: WallTime::default(),
        app: None,
        revision: None,
        replica: None,
        reason: Reason::ReplicaStarted,
        message: "started".to_owned(),
    }
}

pub(super) fn status(app: &str, generation: u64) -> AppStatus {
    AppStatus {
        app: app.to_owned(),
        generation,
        digest: Some(Digest::of(app.as_bytes())),
        source: Source::Mqtt,
        running_status: RunningStatus::Running,
        fqdn: String::new(),
        lan_name: String::new(),
        exposed_port: 0,
        latest_revision: None,
        latest_ready_revision: None,
        revisions: Vec::new(),
        warnings: Vec::new(),
        error: None,
        scale_target: String::new(),
        updated: WallTime::default(),
    }
}
