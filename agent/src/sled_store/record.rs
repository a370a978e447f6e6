//! Records: the domain's state in the shapes that are promised to the disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::document::{
    AppDocument, Document, JobDocument, ScaleTarget, SecretEntry, Template, TrafficEntry, parse,
    parse_environment, parse_withheld,
};
use domain::event::Event;
use domain::model::{Digest, Moment, RevisionName, WallTime};
use domain::reason::Reason;
use domain::replica::{ResolvedImage, Trouble};
use domain::secrets::{self, Kind};
use domain::state::{
    Accepted, AppRecord, DeviceRecord, Entered, EnvironmentRecord, JobRecord, RevisionRecord,
    Standby, State, StoredSecret,
};
use domain::status::{Phase, Source};
use skerry_proto::record as stored;
use tracing::warn;

use super::seal::{Owner, Reader, Seal};
use super::{DEVICE_KEY, device_message, unversioned, versioned};

/// Everything the trees hold. A record that cannot be read is left out and said: one bad record must not take the
/// others with it.
pub(super) fn load(
    apps: &sled::Tree,
    jobs: &sled::Tree,
    environments: &sled::Tree,
    device: &sled::Tree,
    outbox: &sled::Tree,
    reader: &mut Reader<'_>,
) -> (State, Vec<Event>) {
    let mut state = State::default();
    for app in values(apps, "app", |message| read_app(&message, reader)) {
        state.apps.insert(app.name.clone(), app);
    }
    for job in values(jobs, "job", |message| read_job(&message, reader)) {
        state.jobs.insert(job.name.clone(), job);
    }
    for one in values(environments, "environment", |message| read_environment(&message)) {
        state.environments.insert(one.name.clone(), one);
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
    mut read: impl FnMut(M) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for entry in tree {
        let value = entry.ok().and_then(|(_, bytes)| unversioned::<M>(&bytes)).and_then(&mut read);
        match value {
            Some(value) => found.push(value),
            None => warn!(kind, "a record cannot be read and is left out"),
        }
    }
    found
}

/// An app's record.
pub(super) fn app(app: &AppRecord, seal: &Seal) -> Vec<u8> {
    versioned(&app_message(app, seal))
}

/// A job's record.
pub(super) fn job(job: &JobRecord, seal: &Seal) -> Vec<u8> {
    versioned(&job_message(job, seal))
}

/// An environment's record.
pub(super) fn environment(environment: &EnvironmentRecord) -> Vec<u8> {
    versioned(&environment_message(environment))
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

/// What the secrets of an app are bound to: an app and a job may have one name.
fn app_owner(name: &str) -> String {
    format!("apps/{name}")
}

fn job_owner(name: &str) -> String {
    format!("jobs/{name}")
}

/// An app as an owner of secrets.
pub(super) fn owner_app(app: &AppRecord) -> Owner<'_> {
    Owner {
        name: app_owner(app.name.as_str()),
        secrets: &app.secrets,
        listed: (!app.removed).then(|| secrets::listed(app)),
    }
}

/// A job as an owner of secrets.
pub(super) fn owner_job(job: &JobRecord) -> Owner<'_> {
    Owner {
        name: job_owner(job.name.as_str()),
        secrets: &job.secrets,
        listed: (!job.removed).then(|| secrets::listed_of_job(job)),
    }
}

/// An app as it is stored.
pub(super) fn app_message(app: &AppRecord, seal: &Seal) -> stored::App {
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
        secrets: seal.close(&owner_app(app)),
        traffic: app.traffic.as_ref().map(|entries| stored::Split {
            entries: entries.iter().map(traffic_message).collect(),
        }),
        labels: labels_message(&app.labels),
        moving: labels_message(&app.moving),
        refused: app.refused.iter().map(ToString::to_string).collect(),
        ports: app.ports.iter().map(|(port, number)| (u32::from(*port), *number)).collect(),
    }
}

fn labels_message(labels: &BTreeMap<String, RevisionName>) -> BTreeMap<String, String> {
    labels.iter().map(|(label, revision)| (label.clone(), revision.to_string())).collect()
}

fn read_labels(labels: &BTreeMap<String, String>) -> BTreeMap<String, RevisionName> {
    let read = |(label, name): (&String, &String)| Some((label.clone(), name.parse().ok()?));
    labels.iter().filter_map(read).collect()
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
pub(super) fn job_message(job: &JobRecord, seal: &Seal) -> stored::Job {
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
        secrets: seal.close(&owner_job(job)),
    }
}

/// An environment as it is stored.
pub(super) fn environment_message(environment: &EnvironmentRecord) -> stored::Environment {
    let accepted = environment.accepted.as_ref();
    stored::Environment {
        name: environment.name.to_string(),
        source: environment.source.word().to_owned(),
        generation: environment.generation,
        document: accepted.map(|accepted| accepted.payload.to_vec()).unwrap_or_default(),
        digest: text(accepted.map(|accepted| &accepted.digest)),
        received: received_message(&environment.received),
        removed: environment.removed,
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
        standby_given_up: revision.standby == Standby::GivenUp,
    }
}

fn received_message(received: &BTreeMap<Source, Digest>) -> BTreeMap<String, String> {
    received.iter().map(|(source, digest)| (source.word().to_owned(), digest.to_string())).collect()
}

/// An app from its stored shape; none where a name or a word in it is not one.
pub(super) fn read_app(message: &stored::App, reader: &mut Reader<'_>) -> Option<AppRecord> {
    let mut secrets = reader.open(&app_owner(&message.name), &message.name, &message.secrets);
    let accepted = match accepted(&message.document, &message.digest) {
        None => None,
        Some(parsed) => {
            Some(of_kind(parsed, &mut secrets, reader, |document: &mut AppDocument| {
                &mut document.configuration.secrets
            })?)
        }
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
        secrets,
        traffic: message
            .traffic
            .as_ref()
            .map(|split| split.entries.iter().map(read_traffic).collect()),
        labels: read_labels(&message.labels),
        moving: read_labels(&message.moving),
        refused: message.refused.iter().filter_map(|digest| digest.parse().ok()).collect(),
        ports: message
            .ports
            .iter()
            .filter_map(|(port, number)| Some((u16::try_from(*port).ok()?, *number)))
            .collect(),
    })
}

/// The document in force. Values that stand in it, as the first release stored them, move to the other secrets.
fn of_kind<D: Kind + Clone>(
    accepted: Accepted<Document>,
    secrets: &mut BTreeMap<String, StoredSecret>,
    reader: &mut Reader<'_>,
    entries: impl Fn(&mut D) -> &mut Vec<SecretEntry>,
) -> Option<Accepted<D>> {
    let mut document = D::of(Document::clone(&accepted.document))?;
    if entries(&mut document).iter().all(|entry| entry.value.is_none()) {
        return Some(accepted.of(&document));
    }
    reader.moved = true;
    secrets::take(entries(&mut document), secrets);
    secrets::keep(&accepted.payload, document, accepted.warnings).ok()
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
pub(super) fn read_job(message: &stored::Job, reader: &mut Reader<'_>) -> Option<JobRecord> {
    let mut secrets = reader.open(&job_owner(&message.name), &message.name, &message.secrets);
    let accepted = match accepted(&message.document, &message.digest) {
        None => None,
        Some(parsed) => {
            Some(of_kind(parsed, &mut secrets, reader, |document: &mut JobDocument| {
                &mut document.configuration.secrets
            })?)
        }
    };
    Some(JobRecord {
        name: message.name.parse().ok()?,
        source: source(&message.source)?,
        generation: message.generation,
        accepted,
        received: read_received(&message.received),
        removed: message.removed,
        secrets,
    })
}

/// An environment from its stored shape.
pub(super) fn read_environment(message: &stored::Environment) -> Option<EnvironmentRecord> {
    let parsed = parse_environment(&message.document);
    let accepted = match parsed.document {
        _ if message.document.is_empty() => None,
        Ok(Document::Environment(document)) => Some(Accepted {
            payload: message.document.as_slice().into(),
            digest: Digest::of(&message.document),
            document: Arc::new(*document),
            warnings: parsed.warnings,
        }),
        Ok(Document::App(_) | Document::Job(_)) | Err(_) => return None,
    };
    Some(EnvironmentRecord {
        name: message.name.parse().ok()?,
        source: source(&message.source)?,
        generation: message.generation,
        accepted,
        received: read_received(&message.received),
        removed: message.removed,
    })
}

/// The document in force is stored as it came, or without its secrets, and read again by the one parser there is. Its
/// digest tells which: it is always that of what came.
fn accepted(payload: &[u8], digest: &str) -> Option<Accepted<Document>> {
    if payload.is_empty() {
        return None;
    }
    let digest = digest.parse().unwrap_or_else(|_| Digest::of(payload));
    let withheld = digest != Digest::of(payload);
    let parsed = if withheld { parse_withheld(payload) } else { parse(payload) };
    Some(Accepted {
        payload: payload.into(),
        digest,
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
        held: accepted(&message.held_document, &message.held_digest).and_then(|held| {
            let document = AppDocument::of(Document::clone(&held.document))?;
            Some(held.of(&document))
        }),
        failure: message
            .failure_reason
            .parse()
            .ok()
            .map(|reason| Trouble { reason, details: message.failure_details.clone() }),
        restarts: message.restarts,
        refetch: message.refetch,
        scaled: None,
        standby: if message.standby_given_up { Standby::GivenUp } else { Standby::Kept },
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
