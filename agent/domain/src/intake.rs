//! What follows from a document that comes in: nothing, a refusal, or a new desired state.
//!
//! Everything is checked before anything changes. A refusal leaves what is stored and what runs as it was.

use std::sync::Arc;

use crate::allowances::Allowances;
use crate::document::{
    AppDocument, Document, Finding, JobDocument, RevisionsMode, Template, parse,
};
use crate::model::{AppName, Digest, RevisionName, RevisionSuffix};
use crate::reason::Reason;
use crate::state::{Accepted, AppRecord, JobRecord, RevisionRecord};
use crate::status::{Phase, Source};

/// A document on its way in.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// From where.
    pub source: Source,
    /// Its bytes.
    pub payload: &'a [u8],
    /// Take the app over from another source.
    pub force: bool,
    /// What it may ask of the board.
    pub allowances: &'a Allowances,
}

/// What follows from an app's document.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict<R> {
    /// It is in force already.
    Unchanged,
    /// This is the record from now on.
    Changed(Box<R>),
    /// It is refused for these findings, the first of which stands in the status.
    Refused(Vec<Finding>),
}

/// A document taken apart: whose it is, and what it says.
#[derive(Debug)]
pub struct Parsed {
    /// The app's or job's name.
    pub name: AppName,
    /// What it says.
    pub document: Document,
    /// What of it is not acted on.
    pub warnings: Vec<Finding>,
}

/// A finding about the whole document.
pub fn refusal(reason: Reason, path: &str, message: impl Into<String>) -> Finding {
    Finding { path: path.to_owned(), reason, message: message.into(), position: None }
}

/// Takes a document apart and finds whose it is: `sent_to` where the place it was sent to has a name, else its own.
pub fn take_apart(payload: &[u8], sent_to: Option<&str>) -> Result<Parsed, Vec<Finding>> {
    let sent_to = match sent_to.map(str::parse::<AppName>).transpose() {
        Ok(name) => name,
        Err(error) => return Err(vec![refusal(Reason::InvalidValue, "name", error.to_string())]),
    };
    let parsed = parse(payload);
    let document = parsed.document?;
    let own = match &document {
        Document::App(app) => app.name.clone(),
        Document::Job(job) => job.name.clone(),
    };
    let name = match (sent_to, own) {
        (Some(place), Some(own)) if place != own => {
            let message = format!("the document is named {own:?} and was sent to {place:?}");
            return Err(vec![refusal(Reason::NameMismatch, "name", message)]);
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => {
            return Err(vec![refusal(Reason::MissingValue, "name", "the document has no name")]);
        }
    };
    if let Document::App(app) = &document {
        // The parser knows the document's own name only.
        let findings = app.check_host_names(&name);
        if !findings.is_empty() {
            return Err(findings);
        }
    }
    Ok(Parsed { name, document, warnings: parsed.warnings })
}

/// What follows from an app's document, given what is known of the app.
pub fn app(
    known: Option<&AppRecord>,
    name: &AppName,
    document: AppDocument,
    warnings: Vec<Finding>,
    incoming: Incoming<'_>,
) -> Verdict<AppRecord> {
    let digest = Digest::of(incoming.payload);
    let mut record =
        known.cloned().unwrap_or_else(|| AppRecord::new(name.clone(), incoming.source));
    let owner = (!record.removed && record.accepted.is_some()).then_some(record.source);
    let last = record.received.get(&incoming.source).copied();
    if is_repeat(owner, &incoming, last, digest) {
        return Verdict::Unchanged;
    }
    let in_force = record.accepted.as_ref().map(|accepted| accepted.digest);
    if let Err(finding) = may_change(owner, &incoming, last.is_some()).and_then(|()| {
        let taken_over = in_force == Some(digest);
        check_generation(document.skerry.generation, record.generation, taken_over)
    }) {
        return Verdict::Refused(vec![finding]);
    }
    if document.skerry.absent && known.is_none() {
        return Verdict::Unchanged;
    }
    let refused = incoming.allowances.refusals(&document.template.extras);
    if !refused.is_empty() {
        return Verdict::Refused(refused);
    }
    record.received.insert(incoming.source, digest);
    record.source = incoming.source;
    record.generation = document.skerry.generation.unwrap_or(record.generation);
    if document.skerry.absent {
        remove(&mut record);
        return Verdict::Changed(Box::new(record));
    }
    if let Err(finding) = revise(&mut record, &document) {
        return Verdict::Refused(vec![finding]);
    }
    record.removed = false;
    record.traffic = None;
    record.accepted = Some(Accepted {
        payload: incoming.payload.into(),
        digest,
        document: Arc::new(document),
        warnings,
    });
    Verdict::Changed(Box::new(record))
}

/// Makes a tombstone: nothing is wanted any more, generation and digests stay.
pub fn remove(record: &mut AppRecord) {
    record.removed = true;
    record.accepted = None;
    record.stopped = false;
    record.scale = crate::document::ScaleTarget::default();
    // The names stay taken while replicas go; a new app of this name starts its counter where this one ended.
    record.revisions.clear();
    record.traffic = None;
    record.labels.clear();
    record.refused.clear();
}

/// What follows from a job's document, given what is known of the job.
pub fn job(
    known: Option<&JobRecord>,
    name: &AppName,
    document: JobDocument,
    warnings: Vec<Finding>,
    incoming: Incoming<'_>,
) -> Verdict<JobRecord> {
    let digest = Digest::of(incoming.payload);
    let mut record = known.cloned().unwrap_or_else(|| JobRecord {
        name: name.clone(),
        source: incoming.source,
        generation: 0,
        accepted: None,
        received: std::collections::BTreeMap::new(),
        removed: false,
    });
    let owner = (!record.removed && record.accepted.is_some()).then_some(record.source);
    let last = record.received.get(&incoming.source).copied();
    if is_repeat(owner, &incoming, last, digest) {
        return Verdict::Unchanged;
    }
    let in_force = record.accepted.as_ref().map(|accepted| accepted.digest);
    if let Err(finding) = may_change(owner, &incoming, last.is_some()).and_then(|()| {
        let taken_over = in_force == Some(digest);
        check_generation(document.skerry.generation, record.generation, taken_over)
    }) {
        return Verdict::Refused(vec![finding]);
    }
    if document.skerry.absent && known.is_none() {
        return Verdict::Unchanged;
    }
    let refused = incoming.allowances.refusals(&document.template.extras);
    if !refused.is_empty() {
        return Verdict::Refused(refused);
    }
    record.received.insert(incoming.source, digest);
    record.source = incoming.source;
    record.generation = document.skerry.generation.unwrap_or(record.generation);
    record.removed = document.skerry.absent;
    record.accepted = (!document.skerry.absent).then(|| Accepted {
        payload: incoming.payload.into(),
        digest,
        document: Arc::new(document),
        warnings,
    });
    Verdict::Changed(Box::new(record))
}

/// A repeat changes nothing: a broker and a folder give what they hold again and again. A person who gives a document
/// again means it, so theirs is a repeat only while it is in force.
fn is_repeat(
    owner: Option<Source>,
    incoming: &Incoming<'_>,
    last: Option<Digest>,
    digest: Digest,
) -> bool {
    let stands = match incoming.source {
        Source::Mqtt | Source::File => !incoming.force,
        Source::Local => owner == Some(Source::Local),
    };
    last == Some(digest) && (stands || owner == Some(incoming.source))
}

/// An app belongs to the source that set it. One that was taken from a broker or a folder by force goes back to it as
/// soon as that source sends something else; a person always says so.
fn may_change(owner: Option<Source>, incoming: &Incoming<'_>, had_it: bool) -> Result<(), Finding> {
    let takes_back = had_it && incoming.source != Source::Local;
    match owner {
        Some(owner) if owner != incoming.source && !incoming.force && !takes_back => {
            let message = format!("it belongs to the source {:?}", owner.word());
            Err(refusal(Reason::OwnedByOtherSource, "", message))
        }
        Some(_) | None => Ok(()),
    }
}

/// A given generation must rise, unless it comes with the content that is in force from another source.
fn check_generation(given: Option<u64>, known: u64, in_force: bool) -> Result<(), Finding> {
    match given {
        Some(given) if given == known && in_force => Ok(()),
        Some(given) if given <= known => {
            let message = format!("generation {given} does not rise over {known}");
            Err(refusal(Reason::GenerationConflict, "skerry.generation", message))
        }
        Some(_) | None => Ok(()),
    }
}

/// What a document makes of an app's revisions: a changed template makes one, an unchanged one makes none.
fn revise(record: &mut AppRecord, document: &AppDocument) -> Result<(), Finding> {
    move_labels(record, document);
    let (template, force) = (&document.template, document.skerry.force);
    let digest = template.digest();
    if record.refused.contains(&digest) {
        if !force {
            let message = "it failed on this board, and the one before it serves";
            return Err(refusal(Reason::TemplateRefused, "properties.template", message));
        }
        record.refused.retain(|refused| *refused != digest);
    }
    let single = document.configuration.active_revisions_mode == RevisionsMode::Single;
    if let Some(latest) = record.revisions.last_mut().filter(|latest| *latest.template == *template)
    {
        let failed = latest.phase == Phase::RolledBack;
        if failed || (single && !latest.active) {
            latest.begin();
            hold(record, single);
        }
        return Ok(());
    }
    hold(record, single);
    add_revision(record, template).map(drop)
}

/// What was in force stays so for the revisions there are, until the new one takes over.
fn hold(record: &mut AppRecord, single: bool) {
    let in_force = record.accepted.clone();
    let latest_failed = record.latest().is_some_and(|latest| latest.phase == Phase::RolledBack);
    let serves = record.serving().is_some();
    for revision in record.revisions.iter_mut().filter(|revision| revision.active) {
        if !single || !serves {
            revision.held = None;
        } else if revision.held.is_none() && revision.phase != Phase::Fetching && !latest_failed {
            revision.held.clone_from(&in_force);
        }
    }
}

/// Labels that the document gives to a revision of its choice are no longer where a person, or an earlier document,
/// moved them.
fn move_labels(record: &mut AppRecord, document: &AppDocument) {
    let labels_mode = document.configuration.active_revisions_mode == RevisionsMode::Labels;
    for entry in document.configuration.ingress.iter().flat_map(|ingress| &ingress.traffic) {
        match (&entry.label, &entry.revision) {
            (Some(label), Some(revision)) if labels_mode => {
                record.labels.insert(label.clone(), revision.clone());
            }
            (Some(label), Some(_)) => drop(record.labels.remove(label)),
            (Some(label), None) if entry.latest => drop(record.labels.remove(label)),
            (Some(_) | None, _) => (),
        }
    }
}

/// Makes a revision of a template, the newest of its app.
pub(crate) fn add_revision(
    record: &mut AppRecord,
    template: &Template,
) -> Result<RevisionName, Finding> {
    let path = "properties.template.revisionSuffix";
    let suffix = match &template.revision_suffix {
        Some(suffix) => suffix.clone(),
        None => next_suffix(record),
    };
    let name = RevisionName::new(&record.name, &suffix)
        .map_err(|error| refusal(Reason::HostNameTooLong, path, error.to_string()))?;
    if record.revisions.iter().any(|revision| revision.name == name) {
        let message = format!("the revision {name} exists, and a suffix is used once");
        return Err(refusal(Reason::InvalidValue, path, message));
    }
    let canonical = template.canonical();
    record.revisions.push(RevisionRecord {
        name: name.clone(),
        template: Arc::new(template.clone()),
        digest: Digest::of(canonical.as_bytes()),
        canonical: canonical.into(),
        phase: Phase::Fetching,
        active: true,
        was_ready: false,
        images: std::collections::BTreeMap::new(),
        entered: None,
        held: None,
        failure: None,
        restarts: 0,
        refetch: false,
    });
    Ok(name)
}

/// The next of the counter that no given suffix has taken.
fn next_suffix(record: &mut AppRecord) -> RevisionSuffix {
    loop {
        let suffix = RevisionSuffix::counted(record.next_revision);
        record.next_revision += 1;
        let taken = |revision: &RevisionRecord| revision.name.suffix() == suffix.as_str();
        if !record.revisions.iter().any(taken) {
            return suffix;
        }
    }
}
