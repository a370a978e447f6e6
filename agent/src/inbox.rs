//! What the loop is asked: by the control plane, by a person at the command line, by a folder.
//!
//! Each request carries the door its answer goes out by. An answer of `Ok` means that what was asked is durable.

use std::fmt;

use bytes::Bytes;
use domain::document::Finding;
use domain::document::TrafficEntry;
use domain::model::{AppName, EnvironmentName, RevisionName, RevisionSuffix};
use domain::replica::Secret;
use domain::status::Source;
use domain::view::ImageUse;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait for the loop: a flood waits at its source, not in memory (16 is MQTT's receive maximum).
pub const INBOX_DEPTH: usize = 16;

/// The way in.
pub type Inbox = mpsc::Sender<Request>;

/// The answer's way out.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the loop is asked.
pub enum Request {
    /// A document, as received. Empty payloads are allowed: they mean `DesiredCleared`.
    Document {
        /// From where.
        source: Source,
        /// The place it was sent to.
        subject: Subject,
        /// Its bytes.
        payload: Bytes,
        /// Take an app over from another source.
        force: bool,
        /// The answer: accepted or refused, durable either way.
        reply: Reply<Accepted>,
    },
    /// A scale target, as received (`{minReplicas, maxReplicas, replicas}`); empty clears it.
    Scale {
        /// Whose.
        app: String,
        /// Its bytes.
        payload: Bytes,
        /// The answer.
        reply: Reply<()>,
    },
    /// Send an app to zero now, from where the next request or event brings it back.
    ToZero {
        /// Which.
        app: AppName,
        /// The answer.
        reply: Reply<()>,
    },
    /// Remove an app. From `file` and `local` only; a document with `absent` does it over MQTT.
    Delete {
        /// From where.
        source: Source,
        /// Which.
        app: AppName,
        /// Although it belongs to another source.
        force: bool,
        /// The answer.
        reply: Reply<()>,
    },
    /// Forget the document of an environment. From `file` only; a document with `absent` does it otherwise.
    DeleteEnvironment {
        /// From where.
        source: Source,
        /// Which.
        environment: EnvironmentName,
        /// The answer.
        reply: Reply<()>,
    },
    /// Start or stop an app (ACA's `start` and `stop`).
    Run {
        /// Which.
        app: AppName,
        /// What it shall be.
        run: Run,
        /// The answer.
        reply: Reply<()>,
    },
    /// Do something to one revision. The answer names the revision that it came to.
    Revision {
        /// Which.
        revision: RevisionName,
        /// What.
        verb: RevisionVerb,
        /// The answer.
        reply: Reply<RevisionName>,
    },
    /// Change the split, over the document's. ACA's rule of re-weighting holds for what is not named. With nothing to
    /// change it is a question, and nothing is stored.
    Traffic {
        /// Whose.
        app: AppName,
        /// Weights of revisions, of the latest, or of labels.
        weights: Vec<TrafficEntry>,
        /// Labels that name another revision, or none, from now on.
        labels: Vec<(String, Option<RevisionName>)>,
        /// The answer: the split as it is now, with each label at the revision it names, also where it has no weight.
        reply: Reply<Vec<TrafficEntry>>,
    },
    /// Set a secret's value, or remove a secret that was set here.
    Secret {
        /// Whose.
        app: AppName,
        /// Its name.
        name: String,
        /// Its value; none removes it.
        value: Option<Secret>,
        /// The answer.
        reply: Reply<()>,
    },
    /// Which secrets an app has, never what they say.
    Secrets {
        /// Whose.
        app: AppName,
        /// The answer, in order of names.
        reply: Reply<Vec<KnownSecret>>,
    },
    /// The control plane connected: raise the epoch, durably, and say what it is now.
    Connecting {
        /// The new epoch.
        reply: Reply<u64>,
    },
    /// A round, though nothing else asks for one: the watchdog wants to see it.
    Round {
        /// The answer, once it is complete.
        reply: oneshot::Sender<()>,
    },
    /// Which apps and jobs run which images.
    ImageUses {
        /// The answer.
        reply: Reply<Vec<ImageUse>>,
    },
    /// Images were imported: what waits for one need not wait out its back-off.
    ImagesChanged,
    /// Images were found cut by a power cut, and put in order: in words, one each.
    ImagesRepaired {
        /// Name and damage of each.
        images: Vec<String>,
    },
    /// The broker has acknowledged these events: they leave the outbox.
    Delivered {
        /// Their numbers.
        events: Vec<u64>,
    },
}

/// The kind alone: documents come in here with the values of their secrets.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Document { .. } => "Document",
            Self::Scale { .. } => "Scale",
            Self::ToZero { .. } => "ToZero",
            Self::Delete { .. } => "Delete",
            Self::DeleteEnvironment { .. } => "DeleteEnvironment",
            Self::Run { .. } => "Run",
            Self::Revision { .. } => "Revision",
            Self::Traffic { .. } => "Traffic",
            Self::Secret { .. } => "Secret",
            Self::Secrets { .. } => "Secrets",
            Self::Connecting { .. } => "Connecting",
            Self::Round { .. } => "Round",
            Self::ImageUses { .. } => "ImageUses",
            Self::ImagesChanged => "ImagesChanged",
            Self::ImagesRepaired { .. } => "ImagesRepaired",
            Self::Delivered { .. } => "Delivered",
        })
    }
}

/// What is done to a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevisionVerb {
    /// It may have replicas again.
    Activate,
    /// Its replicas go; it is kept.
    Deactivate,
    /// Its replicas are made anew, from images resolved anew and secrets as they are now.
    Restart,
    /// A new revision is made of its template.
    Copy {
        /// The new one's suffix; the counter's next where not given.
        suffix: Option<RevisionSuffix>,
    },
}

/// What may be told of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownSecret {
    /// Its name.
    pub name: String,
    /// A value is known.
    pub has_value: bool,
    /// The document lists it.
    pub listed: bool,
}

/// Whether an app shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// As its document says.
    Started,
    /// Keep the definition, run nothing.
    Stopped,
}

/// The place a document was sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// `apps/{app}`. The name is as received: it may be invalid, and then it is refused by name.
    App(String),
    /// `jobs/{job}`.
    Job(String),
    /// `environments/{environment}`.
    Environment(String),
    /// A file or a command line: the document must name itself.
    Itself,
}

/// What a document is about. Each kind has names of its own: a refused job is no word about an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An app.
    App,
    /// A job.
    Job,
    /// An environment.
    Environment,
}

impl Kind {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Job => "job",
            Self::Environment => "environment",
        }
    }
}

/// A document was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The app, job or environment.
    pub name: String,
    /// Which of the three.
    pub kind: Kind,
    /// Something changed; a repeat of what is in force does not.
    pub changed: bool,
    /// What is not acted on.
    pub warnings: Vec<Finding>,
}

/// A request was refused. What ran runs on, what was stored stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", describe(.findings))]
pub struct Refusal {
    /// Why, at least one.
    pub findings: Vec<Finding>,
    /// It may go well later (`StorageFull`): a message stays unacknowledged.
    pub passing: bool,
}

fn describe(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings
        .iter()
        .map(|finding| match finding.path.as_str() {
            "" => format!("{}: {}", finding.reason, finding.message),
            path => format!("{path}: {}: {}", finding.reason, finding.message),
        })
        .collect();
    lines.join("; ")
}
