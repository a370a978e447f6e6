//! What follows from a document that comes in: nothing, a refusal, or a new desired state.
//!
//! Everything is checked before anything changes. A refusal leaves what is stored and what runs as it was.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;

use crate::allowances::Allowances;
use crate::document::{
    AppDocument, Document, EnvironmentDocument, Finding, JobDocument, RevisionsMode, Template,
    parse, parse_environment,
};
use crate::model::{AppName, Digest, EnvironmentName, InvalidName, RevisionName, RevisionSuffix};
use crate::reason::Reason;
use crate::secrets;
use crate::state::{Accepted, AppRecord, EnvironmentRecord, JobRecord, RevisionRecord, Standby};
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

/// What follows from a document.
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

/// The same of an environment.
#[derive(Debug)]
pub struct ParsedEnvironment {
    /// The environment's name.
    pub name: EnvironmentName,
    /// What it says.
    pub document: EnvironmentDocument,
    /// What of it is not acted on.
    pub warnings: Vec<Finding>,
}

/// A document that said itself what it is.
#[derive(Debug)]
pub enum AnyParsed {
    /// An app or a job.
    Workload(Parsed),
    /// An environment.
    Environment(ParsedEnvironment),
}

/// A finding about the whole document.
pub fn refusal(reason: Reason, path: &str, message: impl Into<String>) -> Finding {
    Finding { path: path.to_owned(), reason, message: message.into(), position: None }
}

/// Takes the document of an app or a job apart and finds whose it is: `sent_to` where the place it was sent to has a
/// name, else its own.
pub fn take_apart(payload: &[u8], sent_to: Option<&str>) -> Result<Parsed, Vec<Finding>> {
    let sent_to = sent_to.map(valid).transpose()?;
    let parsed = parse(payload);
    named(parsed.document?, sent_to, parsed.warnings)
}

/// Takes a document apart that was sent to an environment.
pub fn take_environment_apart(
    payload: &[u8],
    sent_to: &str,
) -> Result<ParsedEnvironment, Vec<Finding>> {
    let sent_to = valid(sent_to)?;
    let parsed = parse_environment(payload);
    match parsed.document? {
        Document::Environment(document) => {
            let name = whose(Some(sent_to), document.name.clone())?;
            Ok(ParsedEnvironment { name, document: *document, warnings: parsed.warnings })
        }
        Document::App(_) | Document::Job(_) => Err(vec![wrong_kind()]),
    }
}

/// Takes a document apart that must say itself what it is.
pub fn take_any_apart(payload: &[u8]) -> Result<AnyParsed, Vec<Finding>> {
    let parsed = parse(payload);
    match parsed.document? {
        Document::Environment(document) => {
            let name = whose(None, document.name.clone())?;
            let (document, warnings) = (*document, parsed.warnings);
            Ok(AnyParsed::Environment(ParsedEnvironment { name, document, warnings }))
        }
        document @ (Document::App(_) | Document::Job(_)) => {
            named(document, None, parsed.warnings).map(AnyParsed::Workload)
        }
    }
}

/// A document is of another kind than the place it was sent to.
pub fn wrong_kind() -> Finding {
    let message = "apps are sent to apps/, jobs to jobs/ and environments to environments/";
    refusal(Reason::WrongKind, "type", message)
}

fn valid<N: FromStr<Err = InvalidName>>(name: &str) -> Result<N, Vec<Finding>> {
    name.parse().map_err(|error: InvalidName| {
        vec![refusal(Reason::InvalidValue, "name", error.to_string())]
    })
}

/// Whose a document is: that of the place it was sent to, which must be its own where it has one.
fn whose<N: PartialEq + Debug>(sent_to: Option<N>, own: Option<N>) -> Result<N, Vec<Finding>> {
    match (sent_to, own) {
        (Some(place), Some(own)) if place != own => {
            let message = format!("the document is named {own:?} and was sent to {place:?}");
            Err(vec![refusal(Reason::NameMismatch, "name", message)])
        }
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => {
            Err(vec![refusal(Reason::MissingValue, "name", "the document has no name")])
        }
    }
}

fn named(
    document: Document,
    sent_to: Option<AppName>,
    warnings: Vec<Finding>,
) -> Result<Parsed, Vec<Finding>> {
    let own = match &document {
        Document::App(app) => app.name.clone(),
        Document::Job(job) => job.name.clone(),
        Document::Environment(_) => return Err(vec![wrong_kind()]),
    };
    let name = whose(sent_to, own)?;
    if let Document::App(app) = &document {
        // The parser knows the document's own name only.
        let findings = app.check_host_names(&name);
        if !findings.is_empty() {
            return Err(findings);
        }
    }
    Ok(Parsed { name, document, warnings })
}

/// What follows from an app's document, given what is known of the app.
pub fn app(
    known: Option<&AppRecord>,
    name: &AppName,
    mut document: AppDocument,
    warnings: Vec<Finding>,
    incoming: Incoming<'_>,
) -> Verdict<AppRecord> {
    let mut record =
        known.cloned().unwrap_or_else(|| AppRecord::new(name.clone(), incoming.source));
    let books = Books {
        in_force: record.accepted.as_ref().map(|accepted| accepted.digest),
        source: &mut record.source,
        generation: &mut record.generation,
        received: &mut record.received,
    };
    let wish = Wish {
        generation: document.skerry.generation,
        of_nothing: document.skerry.absent && known.is_none(),
    };
    if let Err(verdict) = admit(books, wish, &incoming) {
        return verdict;
    }
    let refused = incoming.allowances.refusals(&document.template.extras);
    if !refused.is_empty() {
        return Verdict::Refused(refused);
    }
    if document.skerry.absent {
        remove(&mut record);
        return Verdict::Changed(Box::new(record));
    }
    if let Err(finding) = revise(&mut record, &document) {
        return Verdict::Refused(vec![finding]);
    }
    record.removed = false;
    record.traffic = None;
    secrets::take(&mut document.configuration.secrets, &mut record.secrets);
    record.accepted = match secrets::keep(incoming.payload, document, warnings) {
        Ok(accepted) => Some(accepted),
        Err(finding) => return Verdict::Refused(vec![finding]),
    };
    secrets::forget_unlisted(&mut record);
    Verdict::Changed(Box::new(record))
}

/// Makes a tombstone: nothing is wanted any more, generation and digests stay.
pub fn remove(record: &mut AppRecord) {
    record.removed = true;
    record.accepted = None;
    record.stopped = false;
    record.scale = crate::document::ScaleTarget::default();
    record.secrets.clear();
    // The names stay taken while replicas go; a new app of this name starts its counter where this one ended.
    record.revisions.clear();
    record.traffic = None;
    record.labels.clear();
    record.moving.clear();
    record.refused.clear();
    record.ports.clear();
}

/// What follows from a job's document, given what is known of the job.
pub fn job(
    known: Option<&JobRecord>,
    name: &AppName,
    mut document: JobDocument,
    warnings: Vec<Finding>,
    incoming: Incoming<'_>,
) -> Verdict<JobRecord> {
    let mut record = known.cloned().unwrap_or_else(|| JobRecord {
        name: name.clone(),
        source: incoming.source,
        generation: 0,
        accepted: None,
        received: BTreeMap::new(),
        removed: false,
        secrets: BTreeMap::new(),
    });
    let books = Books {
        in_force: record.accepted.as_ref().map(|accepted| accepted.digest),
        source: &mut record.source,
        generation: &mut record.generation,
        received: &mut record.received,
    };
    let absent = document.skerry.absent;
    let of_nothing = absent && known.is_none();
    let wish = Wish { generation: document.skerry.generation, of_nothing };
    if let Err(verdict) = admit(books, wish, &incoming) {
        return verdict;
    }
    let refused = incoming.allowances.refusals(&document.template.extras);
    if !refused.is_empty() {
        return Verdict::Refused(refused);
    }
    record.removed = absent;
    record.accepted = None;
    if absent {
        record.secrets.clear();
        return Verdict::Changed(Box::new(record));
    }
    secrets::take(&mut document.configuration.secrets, &mut record.secrets);
    match secrets::keep(incoming.payload, document, warnings) {
        Ok(accepted) => record.accepted = Some(accepted),
        Err(finding) => return Verdict::Refused(vec![finding]),
    }
    secrets::forget_unlisted_of_job(&mut record);
    Verdict::Changed(Box::new(record))
}

/// What follows from the document of an environment, given what is known of it.
pub fn environment(
    known: Option<&EnvironmentRecord>,
    name: &EnvironmentName,
    document: EnvironmentDocument,
    warnings: Vec<Finding>,
    incoming: Incoming<'_>,
) -> Verdict<EnvironmentRecord> {
    let mut record = known.cloned().unwrap_or_else(|| EnvironmentRecord {
        name: name.clone(),
        source: incoming.source,
        generation: 0,
        accepted: None,
        received: BTreeMap::new(),
        removed: false,
    });
    let books = Books {
        in_force: record.accepted.as_ref().map(|accepted| accepted.digest),
        source: &mut record.source,
        generation: &mut record.generation,
        received: &mut record.received,
    };
    let absent = document.absent;
    let wish = Wish { generation: document.generation, of_nothing: absent && known.is_none() };
    let digest = match admit(books, wish, &incoming) {
        Ok(digest) => digest,
        Err(verdict) => return verdict,
    };
    let forbidden = forbidden_storages(&document, incoming.allowances);
    if !absent && !forbidden.is_empty() {
        return Verdict::Refused(forbidden);
    }
    record.removed = absent;
    record.accepted = (!absent).then(|| Accepted {
        payload: incoming.payload.into(),
        digest,
        document: Arc::new(document),
        warnings,
    });
    Verdict::Changed(Box::new(record))
}

/// Names each storage that the board's owner does not allow.
fn forbidden_storages(document: &EnvironmentDocument, allowances: &Allowances) -> Vec<Finding> {
    let storages = document.storages.iter();
    let forbidden = storages.filter(|storage| !allowances.permits_storage(&storage.source));
    forbidden
        .map(|storage| {
            let trouble = storage.forbidden();
            refusal(trouble.reason, &storage.found_at, trouble.details)
        })
        .collect()
}

/// What a record of any kind remembers of the documents that it was sent.
struct Books<'a> {
    /// The digest of the document in force; none for a tombstone.
    in_force: Option<Digest>,
    source: &'a mut Source,
    generation: &'a mut u64,
    received: &'a mut BTreeMap<Source, Digest>,
}

/// What a document of any kind wishes.
#[derive(Clone, Copy)]
struct Wish {
    generation: Option<u64>,
    /// It takes away what was never there.
    of_nothing: bool,
}

/// What every document goes through before its content counts: whether it is news, whether its sender may change the
/// record, whether it is newer than what is known. One that passes is entered in the books.
fn admit<R>(books: Books<'_>, wish: Wish, incoming: &Incoming<'_>) -> Result<Digest, Verdict<R>> {
    let Books { in_force, source, generation, received } = books;
    let digest = Digest::of(incoming.payload);
    let owner = in_force.map(|_| *source);
    let last = received.get(&incoming.source).copied();
    if is_repeat(owner, incoming, last, digest) {
        return Err(Verdict::Unchanged);
    }
    let taken_over = in_force == Some(digest);
    may_change(owner, incoming, last.is_some())
        .and_then(|()| check_generation(wish.generation, *generation, taken_over))
        .map_err(|finding| Verdict::Refused(vec![finding]))?;
    if wish.of_nothing {
        return Err(Verdict::Unchanged);
    }
    received.insert(incoming.source, digest);
    *source = incoming.source;
    *generation = wish.generation.unwrap_or(*generation);
    Ok(digest)
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
        move_labels(record, document);
        return Ok(());
    }
    hold(record, single);
    add_revision(record, template)?;
    move_labels(record, document);
    Ok(())
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
                record.give_label(label, revision);
            }
            (Some(label), Some(_)) => forget(record, label),
            (Some(label), None) if entry.latest => forget(record, label),
            (Some(_) | None, _) => (),
        }
    }
}

fn forget(record: &mut AppRecord, label: &str) {
    record.labels.remove(label);
    record.moving.remove(label);
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
        images: BTreeMap::new(),
        entered: None,
        held: None,
        failure: None,
        restarts: 0,
        refetch: false,
        scaled: None,
        standby: Standby::Kept,
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
