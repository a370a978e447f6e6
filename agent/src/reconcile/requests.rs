//! Requests: what the loop is asked, and what it answers. Everything is checked before anything changes.

use std::sync::Arc;

use bytes::Bytes;
use domain::document::{Document, Finding, ScaleTarget};
use domain::intake::{self, AnyParsed, Incoming, Verdict, refusal};
use domain::model::{AppName, Digest, RevisionName};
use domain::ports;
use domain::reason::Reason;
use domain::state::{AppRecord, Changes, JobRecord, RevisionRecord};
use domain::status::Source;
use domain::view::image_uses;
use tracing::{info, warn};

use super::environments::take_apart;
use super::{INBOX_DEPTH, REFUSALS_KEPT, Reconciler, Refused};
use crate::inbox::{Accepted, Kind, Refusal, Request, Run, Subject};
use crate::network::Network;
use crate::runtime::Runtime;
use crate::store::{Store, StoreError};

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Answers a request, and those that wait behind it, up to a bound: rounds must go on in a flood.
    pub(super) async fn take(&mut self, request: Request) {
        let mut next = Some(request);
        for _ in 0..INBOX_DEPTH {
            let Some(request) = next else { return };
            self.answer(request).await;
            next = self.inbox.try_recv().ok();
        }
        if let Some(request) = next {
            self.answer(request).await;
        }
    }

    async fn answer(&mut self, request: Request) {
        // A caller that went away does not want the answer: that is no failure.
        match request {
            Request::Document { source, subject, payload, force, reply } => {
                let _ = reply.send(self.document(source, &subject, payload, force).await);
            }
            Request::Scale { app, payload, reply } => {
                let _ = reply.send(self.scale(&app, &payload).await);
            }
            Request::ToZero { app, reply } => {
                let _ = reply.send(self.send_to_zero(&app));
            }
            Request::Delete { source, app, force, reply } => {
                let _ = reply.send(self.delete(source, &app, force).await);
            }
            Request::DeleteEnvironment { source, environment, reply } => {
                let _ = reply.send(self.delete_environment(source, &environment).await);
            }
            Request::Run { app, run, reply } => {
                let _ = reply.send(self.start_or_stop(&app, run).await);
            }
            Request::Revision { revision, verb, reply } => {
                let _ = reply.send(self.verb(&revision, verb).await);
            }
            Request::Traffic { app, weights, labels, reply } => {
                let _ = reply.send(self.traffic(&app, &weights, labels).await);
            }
            Request::Secret { app, name, value, reply } => {
                let _ = reply.send(self.set_secret(&app, &name, value).await);
            }
            Request::Secrets { app, reply } => {
                let _ = reply.send(self.list_secrets(&app));
            }
            Request::Connecting { reply } => {
                let _ = reply.send(self.next_epoch().await);
            }
            Request::Delivered { events } => self.delivered(events).await,
            Request::Round { reply } => self.awaited.push(reply),
            Request::ImageUses { reply } => drop(reply.send(Ok(image_uses(&self.state)))),
            Request::ImagesChanged => self.memory.images_changed(),
            Request::ImagesRepaired { images } => {
                for words in images {
                    self.emit(Reason::ImageRepaired, None, None, None, words);
                }
                self.memory.images_changed();
            }
        }
    }

    async fn document(
        &mut self,
        source: Source,
        subject: &Subject,
        payload: Bytes,
        force: bool,
    ) -> Result<Accepted, Refusal> {
        let (sent_to, mut kind) = match subject {
            Subject::App(name) => (Some(name.as_str()), Kind::App),
            Subject::Job(name) => (Some(name.as_str()), Kind::Job),
            Subject::Environment(name) => (Some(name.as_str()), Kind::Environment),
            Subject::Itself => (None, Kind::App),
        };
        if payload.is_empty() {
            let accepted = self.cleared(kind, sent_to);
            self.save_events().await;
            return Ok(accepted);
        }
        if let Some(unchanged) = self.repeat(source, subject, &payload).filter(|_| !force) {
            return Ok(unchanged);
        }
        let key = Arc::clone(&self.device_key);
        let taken = take_apart(payload, subject.clone(), key).await;
        let result = match taken {
            Ok((parsed, payload)) => {
                let allowances = &self.settings.allowances.clone();
                let incoming = Incoming { source, payload: &payload, force, allowances };
                match parsed {
                    AnyParsed::Workload(parsed) => {
                        let job = matches!(parsed.document, Document::Job(_));
                        if *subject == Subject::Itself && job {
                            kind = Kind::Job;
                        }
                        self.intake(subject, parsed, incoming).await
                    }
                    AnyParsed::Environment(parsed) => {
                        kind = Kind::Environment;
                        self.environment(parsed, incoming).await
                    }
                }
            }
            Err(findings) => Err((sent_to.map(str::to_owned), lasting(findings))),
        };
        match result {
            Ok(accepted) => {
                self.refusals.remove(&(kind, accepted.name.clone()));
                Ok(accepted)
            }
            Err((name, refused)) => {
                self.remember(kind, name, source, &refused);
                Err(refused)
            }
        }
    }

    /// What a retained message that comes again on reconnect costs: one digest.
    fn repeat(&mut self, source: Source, subject: &Subject, payload: &[u8]) -> Option<Accepted> {
        let (name, kind, received) = match subject {
            Subject::App(name) => (name, Kind::App, &self.state.apps.get(name.as_str())?.received),
            Subject::Job(name) => (name, Kind::Job, &self.state.jobs.get(name.as_str())?.received),
            Subject::Environment(name) => {
                let known = self.state.environments.get(name.as_str())?;
                (name, Kind::Environment, &known.received)
            }
            Subject::Itself => return None,
        };
        if received.get(&source) != Some(&Digest::of(payload)) {
            return None;
        }
        self.refusals.remove(&(kind, name.clone()));
        Some(Accepted { name: name.clone(), kind, changed: false, warnings: Vec::new() })
    }

    /// An empty message means that somebody cleared the retained one. What it was about stays.
    fn cleared(&mut self, kind: Kind, sent_to: Option<&str>) -> Accepted {
        let name = sent_to.unwrap_or_default().to_owned();
        let state = &self.state;
        let known = match kind {
            Kind::App => state.apps.get(name.as_str()).is_some_and(|app| app.accepted.is_some()),
            Kind::Job => state.jobs.get(name.as_str()).is_some_and(|job| job.accepted.is_some()),
            Kind::Environment => {
                state.environments.get(name.as_str()).is_some_and(|one| one.accepted.is_some())
            }
        };
        if known {
            let mut message = Reason::DesiredCleared.sentence().to_owned();
            let app = match kind {
                Kind::App | Kind::Job => name.parse().ok(),
                Kind::Environment => {
                    message = format!(
                        "environment {name}: the retained document was cleared; what it says stays in force"
                    );
                    None
                }
            };
            self.emit(Reason::DesiredCleared, app.as_ref(), None, None, message);
        }
        Accepted { name, kind, changed: false, warnings: Vec::new() }
    }

    async fn intake(
        &mut self,
        subject: &Subject,
        parsed: intake::Parsed,
        incoming: Incoming<'_>,
    ) -> Result<Accepted, (Option<String>, Refusal)> {
        let intake::Parsed { name, document, warnings } = parsed;
        let known = name.to_string();
        let kind = if matches!(document, Document::Job(_)) { Kind::Job } else { Kind::App };
        let refused = |findings| (Some(known.clone()), lasting(findings));
        let mut changes = Changes::default();
        match (document, subject) {
            (Document::App(document), Subject::App(_) | Subject::Itself) => {
                let record = self.state.apps.get(&name);
                match intake::app(record, &name, *document, warnings.clone(), incoming) {
                    Verdict::Unchanged => (),
                    Verdict::Changed(mut record) => {
                        ports::claim(&mut record, self.state.device.next_event);
                        changes.apps.push(*record);
                    }
                    Verdict::Refused(findings) => return Err(refused(findings)),
                }
            }
            (Document::Job(document), Subject::Job(_) | Subject::Itself) => {
                let record = self.state.jobs.get(&name);
                match intake::job(record, &name, *document, warnings.clone(), incoming) {
                    Verdict::Unchanged => (),
                    Verdict::Changed(record) => changes.jobs.push(*record),
                    Verdict::Refused(findings) => return Err(refused(findings)),
                }
            }
            (Document::App(_), Subject::Job(_) | Subject::Environment(_))
            | (Document::Job(_), Subject::App(_) | Subject::Environment(_))
            | (Document::Environment(_), _) => return Err(refused(vec![intake::wrong_kind()])),
        }
        let is_new = !changes.is_empty();
        if is_new {
            let first_event = self.state.device.next_event;
            self.tell_changes(&changes);
            let revisions: Vec<RevisionName> = changes
                .apps
                .iter()
                .flat_map(|app| app.revisions.iter().map(|revision| revision.name.clone()))
                .collect();
            let stored = self.commit_told(first_event, changes).await;
            stored.map_err(|error| (Some(name.to_string()), passing(&error)))?;
            // Credentials and secrets may be better now: what waits need not wait out its back-off.
            for revision in &revisions {
                self.memory.desired_changed(revision);
            }
        }
        Ok(Accepted { name: name.to_string(), kind, changed: is_new, warnings })
    }

    /// The events of an accepted document.
    fn tell_changes(&mut self, changes: &Changes) {
        for app in &changes.apps {
            let before = self.state.apps.get(&app.name);
            if app.removed && before.is_none_or(|before| before.accepted.is_none()) {
                continue; // it was gone before
            }
            let known = before.and_then(AppRecord::latest).cloned();
            let reason = if app.removed { Reason::AppRemoved } else { Reason::DesiredChanged };
            info!(app = %app.name, %reason, source = app.source.word(), generation = app.generation, "desired state");
            let message = format!("generation {} from {}", app.generation, app.source.word());
            self.emit(reason, Some(&app.name), None, None, message);
            let is_new = |latest: &&RevisionRecord| {
                known.as_ref().is_none_or(|known| known.name != latest.name)
            };
            if let Some(latest) = app.latest().filter(is_new) {
                let words = format!("Creating a new revision: {}", latest.name);
                self.emit(
                    Reason::RevisionCreated,
                    Some(&app.name),
                    Some(&latest.name),
                    None,
                    words,
                );
            }
        }
    }

    /// Keeps a refusal for the status of the name it was for. The list is bounded: names can be anything.
    fn remember(&mut self, kind: Kind, name: Option<String>, source: Source, refused: &Refusal) {
        let (Some(name), Some(finding)) = (name, refused.findings.first()) else { return };
        warn!(app = name, reason = %finding.reason, message = finding.message, "document refused");
        let known = name.parse::<AppName>().is_ok_and(|name| self.state.apps.contains_key(&name));
        let key = (kind, name);
        if !known && REFUSALS_KEPT <= self.refusals.len() && !self.refusals.contains_key(&key) {
            self.refusals.pop_first();
        }
        self.refusals.insert(key, Refused { source, finding: finding.clone() });
    }

    async fn scale(&mut self, app: &str, payload: &[u8]) -> Result<(), Refusal> {
        let name: AppName = app.parse().map_err(|error: domain::model::InvalidName| {
            lasting(vec![refusal(Reason::InvalidValue, "name", error.to_string())])
        })?;
        let target = ScaleTarget::parse(payload).map_err(|finding| lasting(vec![finding]))?;
        let target = target.unwrap_or_default();
        let known = self.state.apps.get(&name).cloned();
        // A target may come before its app: retained messages come in any order.
        let mut record = known.unwrap_or_else(|| AppRecord::new(name.clone(), Source::Mqtt));
        if record.scale == target {
            return Ok(());
        }
        record.scale = target;
        info!(app = %name, %target, "scale target");
        let first_event = self.state.device.next_event;
        self.emit(Reason::ScaleTargetChanged, Some(&name), None, None, target.to_string());
        self.commit_app(first_event, record).await
    }

    /// Nothing of it is stored: it ends with the next request, and with the agent.
    fn send_to_zero(&mut self, app: &AppName) -> Result<(), Refusal> {
        let record = self.known(app)?;
        self.memory
            .send_to_zero(&record)
            .map_err(|trouble| lasting(vec![refusal(trouble.reason, "", trouble.details)]))?;
        self.emit(Reason::SentToZero, Some(app), None, None, String::new());
        Ok(())
    }

    async fn delete(&mut self, source: Source, app: &AppName, force: bool) -> Result<(), Refusal> {
        let live_job = self.state.jobs.get(app).filter(|job| job.accepted.is_some());
        if let Some(job) = live_job.cloned()
            && self.state.apps.get(app).is_none_or(|record| record.accepted.is_none())
        {
            return self.delete_job(source, job, force).await;
        }
        let mut record = self.known(app)?;
        may_delete(record.source, source, force)?;
        // The same document may come back from there, and then it counts.
        record.received.remove(&source);
        intake::remove(&mut record);
        info!(%app, source = source.word(), "removed");
        self.refusals.remove(&(Kind::App, app.to_string()));
        let message = format!("by {}", source.word());
        let first_event = self.state.device.next_event;
        self.emit(Reason::AppRemoved, Some(app), None, None, message);
        self.commit_app(first_event, record).await
    }

    async fn delete_job(
        &mut self,
        source: Source,
        mut job: JobRecord,
        force: bool,
    ) -> Result<(), Refusal> {
        may_delete(job.source, source, force)?;
        info!(job = %job.name, source = source.word(), "removed");
        self.refusals.remove(&(Kind::Job, job.name.to_string()));
        job.received.remove(&source);
        job.accepted = None;
        job.secrets.clear();
        job.removed = true;
        let changes = Changes { jobs: vec![job], ..Changes::default() };
        self.commit(changes).await.map_err(|error| passing(&error))
    }

    async fn start_or_stop(&mut self, app: &AppName, run: Run) -> Result<(), Refusal> {
        let mut record = self.known(app)?;
        let stopped = run == Run::Stopped;
        if record.stopped == stopped {
            return Ok(());
        }
        record.stopped = stopped;
        let first_event = self.state.device.next_event;
        self.commit_app(first_event, record).await
    }

    /// The record of an app that there is.
    pub(super) fn known(&self, app: &AppName) -> Result<AppRecord, Refusal> {
        let record = self.state.apps.get(app).filter(|record| record.accepted.is_some());
        record.cloned().ok_or_else(|| {
            lasting(vec![refusal(
                Reason::UnknownApp,
                "",
                format!("there is no app {:?}", app.as_str()),
            )])
        })
    }

    pub(super) async fn commit_app(
        &mut self,
        first_event: u64,
        record: AppRecord,
    ) -> Result<(), Refusal> {
        let changes = Changes { apps: vec![record], ..Changes::default() };
        self.commit_told(first_event, changes).await.map_err(|error| passing(&error))
    }

    /// The epoch of the next connection, durable before anybody sees it.
    async fn next_epoch(&mut self) -> Result<u64, Refusal> {
        let mut device = self.state.device.clone();
        device.epoch += 1;
        let epoch = device.epoch;
        let changes = Changes { device: Some(device), ..Changes::default() };
        match self.commit(changes).await {
            Ok(()) => Ok(epoch),
            Err(error) => Err(passing(&error)),
        }
    }

    async fn delivered(&mut self, events: Vec<u64>) {
        let dropped = std::mem::take(&mut self.state.device.dropped_events);
        let first_event = self.state.device.next_event;
        if 0 < dropped {
            let message = format!("{dropped} events were dropped");
            self.emit(Reason::EventsDropped, None, None, None, message);
        }
        let changes = Changes { delivered: events, ..Changes::default() };
        if let Err(error) = self.commit_told(first_event, changes).await {
            self.state.device.dropped_events += dropped;
            // They stay in the outbox and go out once more: at least once is what was promised.
            warn!(%error, "delivered events cannot be taken from the outbox");
        }
    }
}

pub(super) fn may_delete(owner: Source, asks: Source, force: bool) -> Result<(), Refusal> {
    if owner == asks || force {
        return Ok(());
    }
    let message = format!("it belongs to the source {:?}", owner.word());
    Err(lasting(vec![refusal(Reason::OwnedByOtherSource, "", message)]))
}

pub(super) fn lasting(findings: Vec<Finding>) -> Refusal {
    Refusal { findings, passing: false }
}

pub(super) fn passing(error: &StoreError) -> Refusal {
    Refusal { findings: vec![refusal(error.0.reason, "", error.0.details.clone())], passing: true }
}
