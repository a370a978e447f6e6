//! Records: the domain's state in the shapes that are promised to the disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::document::{AppDocument, Document, ScaleTarget, Template, TrafficEntry, parse};
use domain::event::Event;
use domain::model::{Digest, Moment, WallTime};
use domain::reason::Reason;
use domain::replica::{ResolvedImage, Trouble};
use domain::state::{Accepted, AppRecord, DeviceRecord, Entered, JobRecord, RevisionRecord, State};
use domain::status::{Phase, Source};
use skerry_proto::record as stored;
use tracing::warn;

use super::{DEVICE_KEY, device_message, unversioned, versioned};

/// Everything the trees hold. A record that cannot be read is left out and said: one bad record must not take the
/// others with it.
pub(super) fn load(
    apps: &sled::Tree,
    jobs: &sled::Tree,
    device: &sled::Tree,
    outbox: &sled::Tree,
) -> (State, Vec<Event>) {
    let mut state = State::default();
    for app in values(apps, "app", |message| read_app(&message)) {
        state.apps.insert(app.name.clone(), app);
    }
    for job in values(jobs, "job", |message| read_job(&message)) {
        state.jobs.insert(job.name.clone(), job);
    }
    let counters = device.get(DEVICE_KEY).ok().flatten();
    state.device = counters
        .and_then(|bytes| unversioned::<stored::Device>(&bytes))
        .map(|message| read_device(&message))
        .unwrap_or_default();
    (state, values(outbox, "event", |message| read_event(&message)))
}

fn values<M: prost::Message + Default, T>(
    tree: &sled::Tree,
    kind: &str,
    read: impl Fn(M) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for entry in tree {
        let value = entry.ok().and_then(|(_, bytes)| unversioned::<M>(&bytes)).and_then(&read);
        match value {
            Some(value) => found.push(value),
            None => warn!(kind, "a record cannot be read and is left out"),
        }
    }
    found
}

/// An app's record.
pub(super) fn app(app: &AppRecord) -> Vec<u8> {
    versioned(&app_message(app))
}

/// A job's record.
pub(super) fn job(job: &JobRecord) -> Vec<u8> {
    versioned(&job_message(job))
}

/// The counters' record.
pub(super) fn device(device: &DeviceRecord) -> Vec<u8> {
    versioned(&device_message(device))
}

/// An event's record.
pub(super) fn event(event: &Event) -> Vec<u8> {
    versioned(&stored::Event {
        id: event.id,
        time_secs: event.time.0.as_secs(),
        app: text(event.app.as_ref()),
        revision: text(event.revision.as_ref()),
        replica: text(event.replica.as_ref()),
        reason: event.reason.to_string(),
        message: event.message.clone(),
    })
}

/// An app as it is stored.
pub(super) fn app_message(app: &AppRecord) -> stored::App {
    stored::App {
        name: app.name.to_string(),
        source: app.source.word().to_owned(),
        generation: app.generation,
        document: app
            .accepted
            .as_ref()
            .map(|accepted| accepted.payload.to_vec())
            .unwrap_or_default(),
        digest: app
            .accepted
            .as_ref()
            .map(|accepted| accepted.digest.to_string())
            .unwrap_or_default(),
        stopped: app.stopped,
        scale: Some(stored::ScaleTarget {
            min_replicas: app.scale.min_replicas,
            max_replicas: app.scale.max_replicas,
            replicas: app.scale.replicas,
        }),
        revisions: app.revisions.iter().map(revision_message).collect(),
        next_revision: app.next_revision,
        received: received_message(&app.received),
        removed: app.removed,
        secrets: Vec::new(),
        traffic: app.traffic.as_ref().map(|entries| stored::Split {
            entries: entries.iter().map(traffic_message).collect(),
        }),
        labels: app
            .labels
            .iter()
            .map(|(label, revision)| (label.clone(), revision.to_string()))
            .collect(),
        refused: app.refused.iter().map(ToString::to_string).collect(),
    }
}

fn traffic_message(entry: &TrafficEntry) -> stored::TrafficEntry {
    stored::TrafficEntry {
        revision: text(entry.revision.as_ref()),
        latest: entry.latest,
        weight: entry.weight,
        label: entry.label.clone().unwrap_or_default(),
    }
}

/// A job as it is stored.
pub(super) fn job_message(job: &JobRecord) -> stored::Job {
    stored::Job {
        name: job.name.to_string(),
        source: job.source.word().to_owned(),
        generation: job.generation,
        document: job
            .accepted
            .as_ref()
            .map(|accepted| accepted.payload.to_vec())
            .unwrap_or_default(),
        digest: job
            .accepted
            .as_ref()
            .map(|accepted| accepted.digest.to_string())
            .unwrap_or_default(),
        received: received_message(&job.received),
        removed: job.removed,
    }
}

fn revision_message(revision: &RevisionRecord) -> stored::Revision {
    let image = |image: &ResolvedImage| stored::Image {
        reference: image.reference.clone(),
        name: image.name.clone(),
        digest: image.digest.to_string(),
    };
    let (held, failure) = (revision.held.as_ref(), revision.failure.as_ref());
    stored::Revision {
        name: revision.name.to_string(),
        template: revision.canonical.to_string(),
        phase: revision.phase.word().to_owned(),
        active: revision.active,
        was_ready: revision.was_ready,
        images: revision.images.values().map(image).collect(),
        entered_boot: revision.entered.as_ref().map(|at| at.boot.clone()).unwrap_or_default(),
        entered_nanos: revision.entered.as_ref().map_or(0, |entered| nanos(entered.at)),
        held_document: held.map(|held| held.payload.to_vec()).unwrap_or_default(),
        held_digest: held.map(|held| held.digest.to_string()).unwrap_or_default(),
        failure_reason: failure.map(|failure| failure.reason.to_string()).unwrap_or_default(),
        failure_details: failure.map(|failure| failure.details.clone()).unwrap_or_default(),
        restarts: revision.restarts,
        refetch: revision.refetch,
    }
}

fn received_message(received: &BTreeMap<Source, Digest>) -> BTreeMap<String, String> {
    received.iter().map(|(source, digest)| (source.word().to_owned(), digest.to_string())).collect()
}

/// An app from its stored shape; none where a name or a word in it is not one.
pub(super) fn read_app(message: &stored::App) -> Option<AppRecord> {
    let accepted = match accepted(&message.document) {
        None => None,
        Some(accepted) => Some(app_of(&accepted)?),
    };
    let scale = message.scale.unwrap_or_default();
    Some(AppRecord {
        name: message.name.parse().ok()?,
        source: source(&message.source)?,
        generation: message.generation,
        accepted,
        stopped: message.stopped,
        scale: ScaleTarget {
            min_replicas: scale.min_replicas,
            max_replicas: scale.max_replicas,
            replicas: scale.replicas,
        },
        revisions: message.revisions.iter().map(read_revision).collect::<Option<_>>()?,
        next_revision: message.next_revision.max(1),
        received: read_received(&message.received),
        removed: message.removed,
        secrets: BTreeMap::new(),
        traffic: message
            .traffic
            .as_ref()
            .map(|split| split.entries.iter().map(read_traffic).collect()),
        labels: message
            .labels
            .iter()
            .filter_map(|(label, revision)| Some((label.clone(), revision.parse().ok()?)))
            .collect(),
        refused: message.refused.iter().filter_map(|digest| digest.parse().ok()).collect(),
    })
}

fn app_of(accepted: &Accepted<Document>) -> Option<Accepted<AppDocument>> {
    match &*accepted.document {
        Document::App(document) => Some(accepted.of(&**document)),
        Document::Job(_) => None,
    }
}

fn read_traffic(entry: &stored::TrafficEntry) -> TrafficEntry {
    TrafficEntry {
        revision: entry.revision.parse().ok(),
        latest: entry.latest,
        weight: entry.weight,
        label: Some(entry.label.clone()).filter(|label| !label.is_empty()),
    }
}

/// A job from its stored shape.
pub(super) fn read_job(message: &stored::Job) -> Option<JobRecord> {
    let accepted = match accepted(&message.document) {
        None => None,
        Some(accepted) => match &*accepted.document {
            Document::Job(document) => Some(accepted.of(&**document)),
            Document::App(_) => return None,
        },
    };
    Some(JobRecord {
        name: message.name.parse().ok()?,
        source: source(&message.source)?,
        generation: message.generation,
        accepted,
        received: read_received(&message.received),
        removed: message.removed,
    })
}

/// The document in force is stored as it came and read again by the one parser there is.
fn accepted(payload: &[u8]) -> Option<Accepted<Document>> {
    if payload.is_empty() {
        return None;
    }
    let parsed = parse(payload);
    Some(Accepted {
        payload: payload.into(),
        digest: Digest::of(payload),
        document: Arc::new(parsed.document.ok()?),
        warnings: parsed.warnings,
    })
}

fn read_revision(message: &stored::Revision) -> Option<RevisionRecord> {
    let template = Template::from_canonical(&message.template).ok()?;
    let image = |image: &stored::Image| {
        let resolved = ResolvedImage {
            reference: image.reference.clone(),
            name: image.name.clone(),
            digest: image.digest.parse().ok()?,
            warning: None,
        };
        Some((image.reference.clone(), resolved))
    };
    Some(RevisionRecord {
        name: message.name.parse().ok()?,
        // Of the text as it was stored: containers carry it, and a later release may write the form anew.
        digest: Digest::of(message.template.as_bytes()),
        canonical: message.template.as_str().into(),
        template: Arc::new(template),
        phase: phase(&message.phase)?,
        active: message.active,
        was_ready: message.was_ready,
        images: message.images.iter().map(image).collect::<Option<_>>()?,
        entered: (!message.entered_boot.is_empty()).then(|| Entered {
            boot: message.entered_boot.clone(),
            at: Moment(Duration::from_nanos(message.entered_nanos)),
        }),
        held: accepted(&message.held_document).and_then(|held| app_of(&held)),
        failure: message
            .failure_reason
            .parse()
            .ok()
            .map(|reason| Trouble { reason, details: message.failure_details.clone() }),
        restarts: message.restarts,
        refetch: message.refetch,
    })
}

fn nanos(at: Moment) -> u64 {
    u64::try_from(at.0.as_nanos()).unwrap_or(u64::MAX)
}

fn read_received(received: &BTreeMap<String, String>) -> BTreeMap<Source, Digest> {
    let entry = |(word, digest): (&String, &String)| Some((source(word)?, digest.parse().ok()?));
    received.iter().filter_map(entry).collect()
}

/// The counters from their stored shape.
pub(super) fn read_device(message: &stored::Device) -> DeviceRecord {
    DeviceRecord {
        epoch: message.epoch,
        next_event: message.next_event,
        dropped_events: message.dropped_events,
        clock_floor_secs: message.clock_floor_secs,
    }
}

fn read_event(message: &stored::Event) -> Option<Event> {
    Some(Event {
        id: message.id,
        time: WallTime(Duration::from_secs(message.time_secs)),
        app: message.app.parse().ok(),
        revision: message.revision.parse().ok(),
        replica: message.replica.parse().ok(),
        reason: message.reason.parse::<Reason>().ok()?,
        message: message.message.clone(),
    })
}

fn source(word: &str) -> Option<Source> {
    [Source::Mqtt, Source::File, Source::Local].into_iter().find(|source| source.word() == word)
}

fn phase(word: &str) -> Option<Phase> {
    let all = [
        Phase::Fetching,
        Phase::Staged,
        Phase::Starting,
        Phase::Probation,
        Phase::Committed,
        Phase::RolledBack,
    ];
    all.into_iter().find(|phase| phase.word() == word)
}

fn text<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}
