//! The calls. Each is a request to the loop, a look at what it publishes, or a word with a source.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use domain::document::Finding;
use domain::explain::explain;
use domain::model::AppName;
use domain::reason::Reason;
use domain::status::{AppStatus, RunningStatus, Source, Statuses};
use futures_util::StreamExt as _;
use skerry_proto::v1;
use skerry_proto::v1::agent_server::Agent;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::deadline::{self, within};
use super::images;
use super::refusal::{nearest_app, refused, troubled, unknown_app};
use super::secrets;
use super::sources::{About, ImageStore, LogLine, LogQuery, LogSource, LogStream};
use super::spool::Spool;
use super::streams::{self, Answers};
use super::verbs;
use crate::clock::{Clock, rfc3339};
use crate::inbox::{self, Inbox, Refusal, Reply, Run, Subject};
use crate::published::{Link, Published};
use crate::wire;

/// What the calls are answered with.
#[derive(Debug)]
pub struct Api<I, L> {
    /// The way to the loop.
    pub inbox: Inbox,
    /// What the loop says.
    pub published: Published,
    /// Images.
    pub images: I,
    /// Where an archive lies while it comes in: on disk, as `/tmp` may be memory.
    pub spool_dir: PathBuf,
    /// Logs.
    pub logs: L,
    /// The board.
    pub about: About,
    /// The way to the control plane.
    pub link: watch::Receiver<Link>,
    /// For the date of an answer.
    pub clock: Clock,
    /// Ends the calls that follow something.
    pub stop: CancellationToken,
}

pub(super) type Answer<T> = Result<Response<T>, Status>;

impl<I, L> Api<I, L> {
    /// Asks the loop, and waits for its word within the call's deadline.
    async fn ask<T>(
        &self,
        metadata: &MetadataMap,
        request: impl FnOnce(Reply<T>) -> inbox::Request,
    ) -> Result<Result<T, Refusal>, Status> {
        let stopping = || Status::unavailable("the agent is stopping");
        within(deadline::of(metadata), async {
            let (reply, answer) = oneshot::channel();
            self.inbox.send(request(reply)).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| stopping())
        })
        .await
    }

    /// Asks the loop for something that is about an app.
    pub(super) async fn ask_about<T>(
        &self,
        app: &str,
        metadata: &MetadataMap,
        request: impl FnOnce(Reply<T>) -> inbox::Request,
    ) -> Result<T, Status> {
        self.ask_hinted(metadata, request, |refusal| self.app_hint(app, refusal)).await
    }

    /// Asks the loop; `hint` finds what a refusal should say beside the fixes of its reasons.
    pub(super) async fn ask_hinted<T>(
        &self,
        metadata: &MetadataMap,
        request: impl FnOnce(Reply<T>) -> inbox::Request,
        hint: impl FnOnce(&Refusal) -> String,
    ) -> Result<T, Status> {
        self.ask(metadata, request).await?.map_err(|refusal| refused(&refusal, hint(&refusal)))
    }

    /// The app that was meant, where the refusal says that there is none such.
    pub(super) fn app_hint(&self, app: &str, refusal: &Refusal) -> String {
        let unknown = |finding: &Finding| finding.reason == Reason::UnknownApp;
        if refusal.findings.iter().any(unknown) {
            return nearest_app(app, &self.statuses());
        }
        String::new()
    }

    pub(super) fn statuses(&self) -> Arc<Statuses> {
        Arc::clone(&self.published.statuses.borrow())
    }

    /// The app's status, or the word that there is no such app.
    pub(super) fn known<T>(
        &self,
        name: &str,
        look: impl FnOnce(&AppStatus) -> T,
    ) -> Result<T, Status> {
        let statuses = self.statuses();
        statuses.apps.get(name).map(look).ok_or_else(|| unknown_app(name, &statuses))
    }

    /// The name of an app; one that cannot be a name is the name of none.
    pub(super) fn name(&self, name: &str) -> Result<AppName, Status> {
        name.parse().map_err(|_| unknown_app(name, &self.statuses()))
    }
}

#[tonic::async_trait]
impl<I: ImageStore, L: LogSource> Agent for Api<I, L> {
    async fn apps(&self, _: Request<v1::AppsRequest>) -> Answer<v1::AppsReply> {
        let statuses = self.statuses();
        let apps = statuses.apps.values().map(wire::app).collect();
        let jobs = statuses.jobs.values().map(wire::job).collect();
        Ok(Response::new(v1::AppsReply { apps, jobs }))
    }

    async fn app(&self, request: Request<v1::AppRequest>) -> Answer<v1::AppStatus> {
        self.known(&request.get_ref().app, wire::app).map(Response::new)
    }

    type WatchStream = Answers<v1::AppStatus>;

    async fn watch(&self, request: Request<v1::AppRequest>) -> Answer<Self::WatchStream> {
        let name = request.into_inner().app;
        let states = streams::app(self.published.statuses.clone(), name);
        Ok(Response::new(streams::until(self.stop.clone(), states)))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Answer<v1::ApplyReply> {
        let (metadata, _, message) = request.into_parts();
        let answer = self.ask(&metadata, |reply| inbox::Request::Document {
            source: Source::Local,
            subject: Subject::Itself,
            payload: message.document.into(),
            force: message.force,
            reply,
        });
        let accepted = answer.await?.map_err(|refusal| refused(&refusal, String::new()))?;
        Ok(Response::new(v1::ApplyReply {
            name: accepted.name,
            kind: accepted.kind.word().to_owned(),
            changed: accepted.changed,
            warnings: accepted.warnings.iter().map(wire::finding).collect(),
        }))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Answer<v1::DeleteReply> {
        let (metadata, _, message) = request.into_parts();
        let app = self.name(&message.app)?;
        let force = message.force;
        self.ask_about(&message.app, &metadata, |reply| inbox::Request::Delete {
            source: Source::Local,
            app,
            force,
            reply,
        })
        .await?;
        Ok(Response::new(v1::DeleteReply {}))
    }

    async fn run(&self, request: Request<v1::RunRequest>) -> Answer<v1::RunReply> {
        let (metadata, _, message) = request.into_parts();
        let app = self.name(&message.app)?;
        let run = if message.start { Run::Started } else { Run::Stopped };
        self.ask_about(&message.app, &metadata, |reply| inbox::Request::Run { app, run, reply })
            .await?;
        Ok(Response::new(v1::RunReply {}))
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Answer<v1::ScaleReply> {
        let (metadata, _, message) = request.into_parts();
        if message.to_zero {
            return verbs::to_zero(self, &metadata, &message).await;
        }
        let payload = scale_target(&message)?;
        let app = message.app.clone();
        // Over MQTT a target may come before its app; a person who names none of the board's has mistyped it.
        self.known(&message.app, |_| ())?;
        self.ask_about(&message.app, &metadata, |reply| inbox::Request::Scale {
            app,
            payload,
            reply,
        })
        .await?;
        Ok(Response::new(v1::ScaleReply {}))
    }

    async fn revision(&self, request: Request<v1::RevisionRequest>) -> Answer<v1::RevisionReply> {
        verbs::revision(self, request).await
    }

    async fn traffic(&self, request: Request<v1::TrafficRequest>) -> Answer<v1::TrafficReply> {
        verbs::traffic(self, request).await
    }

    async fn secret(&self, request: Request<v1::SecretRequest>) -> Answer<v1::SecretReply> {
        secrets::set(self, request).await
    }

    async fn secrets(&self, request: Request<v1::SecretsRequest>) -> Answer<v1::SecretsReply> {
        secrets::list(self, request).await
    }

    type EventsStream = Answers<v1::Event>;

    async fn events(&self, request: Request<v1::EventsRequest>) -> Answer<Self::EventsStream> {
        let events = streams::events(self.published.recent.clone(), request.get_ref().follow);
        Ok(Response::new(streams::until(self.stop.clone(), events)))
    }

    async fn environments(
        &self,
        _: Request<v1::EnvironmentsRequest>,
    ) -> Answer<v1::EnvironmentsReply> {
        let environments = self.statuses().environments.values().map(wire::environment).collect();
        Ok(Response::new(v1::EnvironmentsReply { environments }))
    }

    async fn images(&self, request: Request<v1::ImagesRequest>) -> Answer<v1::ImagesReply> {
        let images = within(deadline::of(request.metadata()), async {
            self.images.list().await.map_err(|trouble| troubled(&trouble))
        });
        let images = images.await?.into_iter().map(images::image).collect();
        Ok(Response::new(v1::ImagesReply { images }))
    }

    async fn images_import(
        &self,
        request: Request<Streaming<v1::ImagesImportRequest>>,
    ) -> Answer<v1::ImagesImportReply> {
        let mut parts = request.into_inner();
        let importing = async {
            let mut spool = Spool::new(&self.spool_dir).map_err(|trouble| troubled(&trouble))?;
            // A transfer that is cut short ends in an error, so half an archive is never taken for a whole one.
            while let Some(part) = parts.message().await? {
                spool.write(&part.part).await.map_err(|trouble| troubled(&trouble))?;
            }
            spool.end().await.map_err(|trouble| troubled(&trouble))?;
            let path = spool.path();
            self.images.import(&path).await.map_err(|mut trouble| {
                // Its name here means nothing to the caller.
                let here = path.to_string_lossy();
                trouble.details = trouble.details.replace(&*here, "the archive");
                troubled(&trouble)
            })
        };
        let names = within(deadline::LONGEST_IMPORT, importing).await?;
        Ok(Response::new(v1::ImagesImportReply { names }))
    }

    type ImagesPullStream = Answers<v1::ImagesPullReply>;

    async fn images_pull(
        &self,
        request: Request<v1::ImagesPullRequest>,
    ) -> Answer<Self::ImagesPullStream> {
        let news = images::pull(&self.images, request.into_inner());
        Ok(Response::new(streams::until(self.stop.clone(), news)))
    }

    type ImagesExportStream = Answers<v1::ImagesExportReply>;

    async fn images_export(
        &self,
        request: Request<v1::ImagesExportRequest>,
    ) -> Answer<Self::ImagesExportStream> {
        let (metadata, _, message) = request.into_parts();
        let parts = within(deadline::of(&metadata), images::export(&self.images, message)).await?;
        Ok(Response::new(streams::until(self.stop.clone(), parts)))
    }

    type LogsStream = Answers<v1::LogLine>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        let (metadata, _, message) = request.into_parts();
        self.known(&message.app, |_| ())?;
        let query = LogQuery {
            app: self.name(&message.app)?,
            revision: given(message.revision),
            replica: given(message.replica),
            container: given(message.container),
            tail: message.tail,
            follow: message.follow,
        };
        let lines = within(deadline::of(&metadata), async {
            self.logs.lines(query).await.map_err(|trouble| troubled(&trouble))
        });
        let lines =
            lines.await?.map(|line| line.map(log_line).map_err(|trouble| troubled(&trouble)));
        Ok(Response::new(streams::until(self.stop.clone(), lines)))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainReply> {
        let explanation = self.known(&request.get_ref().app, explain)?;
        let whys = explanation.whys.into_iter().map(|why| v1::Why {
            subject: why.subject,
            reason: why.reason.to_string(),
            sentence: why.reason.sentence().to_owned(),
            details: why.details,
            fix: why.fix,
        });
        Ok(Response::new(v1::ExplainReply { summary: explanation.summary, whys: whys.collect() }))
    }

    async fn device(&self, _: Request<v1::DeviceRequest>) -> Answer<v1::DeviceReply> {
        let statuses = self.statuses();
        let running = |status: &&AppStatus| match status.running_status {
            RunningStatus::Running | RunningStatus::Ready => true,
            RunningStatus::Progressing | RunningStatus::Stopped | RunningStatus::Suspended => false,
        };
        let link = *self.link.borrow();
        let round = *self.published.round.borrow();
        let since_round = self.clock.now().0.saturating_sub(round.0).as_secs();
        let troubles = self.published.device.borrow().troubles.iter().map(wire::trouble).collect();
        let status = v1::DeviceStatus {
            online: link.online,
            epoch: link.epoch,
            boot_id: self.about.boot_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            tags: self.about.tags.clone(),
            troubles,
            updated_time: rfc3339(self.clock.wall()),
            public_key: self.about.public_key.clone(),
        };
        Ok(Response::new(v1::DeviceReply {
            device: self.about.device.clone(),
            status: Some(status),
            control_plane: self.about.control_plane.clone(),
            apps: count(statuses.apps.len()),
            running: count(statuses.apps.values().filter(running).count()),
            seconds_since_round: u32::try_from(since_round).unwrap_or(u32::MAX),
        }))
    }
}

/// The scale target as the loop takes it, from here and from MQTT alike.
fn scale_target(message: &v1::ScaleRequest) -> Result<Bytes, Status> {
    let numbers = [
        ("minReplicas", message.min_replicas),
        ("maxReplicas", message.max_replicas),
        ("replicas", message.replicas),
    ];
    let target: serde_json::Map<String, serde_json::Value> = numbers
        .into_iter()
        .filter_map(|(key, number)| number.map(|number| (key.to_owned(), number.into())))
        .collect();
    match (target.is_empty(), message.clear) {
        (true, true) => Ok(Bytes::new()),
        (false, false) => Ok(serde_json::Value::Object(target).to_string().into()),
        (true, false) => Err(Status::invalid_argument("a scale target needs a number")),
        (false, true) => Err(Status::invalid_argument("clear goes with no number")),
    }
}

fn log_line(line: LogLine) -> v1::LogLine {
    let stream = match line.stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    };
    v1::LogLine {
        time: line.time,
        replica: line.replica,
        container: line.container,
        stream: stream.to_owned(),
        line: line.line,
    }
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
