//! What a person does to revisions and to the split, over what the documents say.

use crate::document::{Finding, RevisionsMode, TrafficEntry};
use crate::intake::{add_revision, refusal};
use crate::model::{RevisionName, RevisionSuffix};
use crate::reason::Reason;
use crate::reweigh::{labelled, reweigh};
use crate::state::{AppRecord, RevisionRecord};
use crate::status::Phase;
use crate::traffic;

/// A revision may have replicas again. It goes its way from the beginning: an old one may not be what it was.
///
/// # Errors
///
/// `UnknownRevision`; `WrongMode` in Single mode, but for a newest one that failed, which is tried again.
pub fn activate(record: &mut AppRecord, name: &RevisionName) -> Result<(), Finding> {
    let single = record.mode() == RevisionsMode::Single;
    if record.mode() == RevisionsMode::Labels && !known(record, name)?.active {
        let message = format!(
            "in Labels mode a revision lives while a label names it: skerry traffic {} LABEL={name}",
            record.name
        );
        return Err(refusal(Reason::WrongMode, "", message));
    }
    let latest = record.latest().is_some_and(|latest| latest.name == *name);
    let revision = known(record, name)?;
    if revision.active {
        return Ok(());
    }
    if single && !(latest && revision.phase == Phase::RolledBack) {
        let message = "in Single mode the newest revision is the active one";
        return Err(refusal(Reason::WrongMode, "", message));
    }
    let digest = revision.digest;
    revision.begin();
    record.refused.retain(|refused| *refused != digest);
    Ok(())
}

/// A revision's replicas go; it is kept, and may be activated again.
///
/// # Errors
///
/// `UnknownRevision`; `WrongMode` in Single mode, where a document or `stop` does it.
pub fn deactivate(record: &mut AppRecord, name: &RevisionName) -> Result<(), Finding> {
    let single = record.mode() == RevisionsMode::Single;
    let revision = known(record, name)?;
    if single && revision.active {
        let message = "in Single mode the newest revision is the active one; stop the app instead";
        return Err(refusal(Reason::WrongMode, "", message));
    }
    revision.active = false;
    Ok(())
}

/// A revision's replicas are made anew, one after the other where there is room: its images are resolved anew, its
/// secrets are those of now (features 3, "restart").
///
/// # Errors
///
/// `UnknownRevision`, `RevisionInactive`.
pub fn restart(record: &mut AppRecord, name: &RevisionName) -> Result<(), Finding> {
    let revision = known(record, name)?;
    if !revision.active {
        return Err(refusal(Reason::RevisionInactive, "", format!("{name} is not active")));
    }
    revision.restarts += 1;
    revision.refetch = true;
    Ok(())
}

/// A new revision is made of an old one's template.
///
/// # Errors
///
/// `UnknownRevision`; `InvalidValue` for a suffix that is taken, `HostNameTooLong` for one that is too long.
pub fn copy(
    record: &mut AppRecord,
    name: &RevisionName,
    suffix: Option<RevisionSuffix>,
) -> Result<RevisionName, Finding> {
    let source = known(record, name)?;
    let (mut template, held) = ((*source.template).clone(), source.held.clone());
    template.revision_suffix = suffix;
    let copy = add_revision(record, &template)?;
    // What held for the one holds for the other: a newer document may have failed with its own.
    known(record, &copy)?.held = held;
    Ok(copy)
}

/// Changes the split, and where labels point. What is not named is re-weighted as ACA does it.
///
/// # Errors
///
/// `WrongMode` in Single mode, `UnknownRevision`, `RevisionInactive`, `InvalidValue` for a label that there is not, and
/// what [`reweigh`] refuses.
pub fn direct(
    record: &mut AppRecord,
    weights: &[TrafficEntry],
    labels: &[(String, Option<RevisionName>)],
) -> Result<Vec<TrafficEntry>, Finding> {
    if record.mode() == RevisionsMode::Single && !(weights.is_empty() && labels.is_empty()) {
        let message = "in Single mode one revision has all the traffic";
        return Err(refusal(Reason::WrongMode, "", message));
    }
    let labels_mode = record.mode() == RevisionsMode::Labels;
    let named = weights.iter().filter_map(|entry| entry.revision.as_ref());
    for name in named.chain(labels.iter().filter_map(|(_, name)| name.as_ref())) {
        if !known(record, name)?.active && !labels_mode {
            return Err(refusal(Reason::RevisionInactive, "", format!("{name} is not active")));
        }
    }
    for (label, name) in labels {
        if name.is_none() && !has_label(record, label) {
            return Err(no_label(record, label));
        }
        match name {
            Some(name) => record.give_label(label, name),
            None => forget_label(record, label),
        }
    }
    for entry in weights {
        known_label(record, entry)?;
    }
    let mut split = traffic::entries(record).to_vec();
    if split.is_empty() {
        split.push(TrafficEntry { latest: true, weight: 100, ..TrafficEntry::default() });
    }
    if !weights.is_empty() {
        split = reweigh(&split, weights)?;
        record.traffic = Some(split.clone());
    }
    Ok(labelled(split, &record.labels))
}

/// Refuses a weight for a label that there is not, or that names a revision which is not active.
fn known_label(record: &AppRecord, entry: &TrafficEntry) -> Result<(), Finding> {
    let Some(label) = entry.label.as_deref().filter(|_| entry.revision.is_none()) else {
        return Ok(());
    };
    if !has_label(record, label) {
        return Err(no_label(record, label));
    }
    let split = traffic::entries(record).iter();
    let mut own = split.filter(|entry| entry.label.as_deref() == Some(label));
    let named = own.find_map(|entry| entry.revision.as_ref());
    let Some(name) = record.labels.get(label).or(named) else { return Ok(()) };
    match record.revision(name) {
        Some(revision) if !revision.active && entry.weight != 0 => {
            let message = format!("{name}, which has the label {label}, is not active");
            Err(refusal(Reason::RevisionInactive, "", message))
        }
        Some(_) | None => Ok(()),
    }
}

fn has_label(record: &AppRecord, label: &str) -> bool {
    let mut split = traffic::entries(record).iter();
    record.labels.contains_key(label)
        || record.moving.contains_key(label)
        || split.any(|entry| entry.label.as_deref() == Some(label))
}

fn no_label(record: &AppRecord, label: &str) -> Finding {
    refusal(Reason::InvalidValue, "", format!("{label:?} is not a label of {}", record.name))
}

fn forget_label(record: &mut AppRecord, label: &str) {
    record.labels.remove(label);
    record.moving.remove(label);
    let mut split = traffic::entries(record).to_vec();
    if split.iter().any(|entry| entry.label.as_deref() == Some(label)) {
        for entry in split.iter_mut().filter(|entry| entry.label.as_deref() == Some(label)) {
            entry.label = None;
        }
        record.traffic = Some(split);
    }
}

fn known<'a>(
    record: &'a mut AppRecord,
    name: &RevisionName,
) -> Result<&'a mut RevisionRecord, Finding> {
    let app = record.name.clone();
    let found = record.revisions.iter_mut().find(|revision| revision.name == *name);
    found.ok_or_else(|| {
        refusal(Reason::UnknownRevision, "", format!("{app} has no revision {name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowances::Allowances;
    use crate::document::Document;
    use crate::intake::{self, Incoming, Verdict};
    use crate::status::Source;

    const DOCUMENT: &str = "\
configuration:
  activeRevisionsMode: Multiple
  ingress: {targetPort: 80, traffic: [{latestRevision: true, weight: 100, label: newest}]}
template: {containers: [{name: main, image: 'i:1'}]}
";

    /// An app with an active revision, and one that is not and has the label `blue`.
    fn app() -> (AppRecord, RevisionName) {
        let parsed = intake::take_apart(DOCUMENT.as_bytes(), Some("hello")).unwrap();
        let Document::App(document) = parsed.document else { panic!("a job") };
        let incoming = Incoming {
            source: Source::Mqtt,
            payload: DOCUMENT.as_bytes(),
            force: false,
            allowances: &Allowances::default(),
        };
        let verdict = intake::app(None, &parsed.name, *document, Vec::new(), incoming);
        let Verdict::Changed(mut record) = verdict else { panic!("{verdict:?}") };
        let first = record.revisions[0].name.clone();
        let second = copy(&mut record, &first, None).unwrap();
        (record.revisions[1].phase, record.revisions[1].was_ready) = (Phase::Committed, true);
        direct(&mut record, &[], &[("blue".to_owned(), Some(second.clone()))]).unwrap();
        deactivate(&mut record, &second).unwrap();
        (*record, second)
    }

    /// What comes of a weight for `label`.
    #[track_caller]
    fn check(label: &str, weight: u32, expected: Result<(), (Reason, &str)>) {
        let (mut record, _) = app();
        let label = Some(label.to_owned());
        let latest = TrafficEntry { latest: true, weight: 100 - weight, ..TrafficEntry::default() };
        let entry = TrafficEntry { weight, label, ..TrafficEntry::default() };
        let done = direct(&mut record, &[entry, latest], &[]).map(drop);
        let expected = expected.map_err(|(reason, text)| (reason, text.to_owned()));
        assert_eq!(done.map_err(|finding| (finding.reason, finding.message)), expected);
    }

    #[test]
    fn a_label_gets_traffic_where_there_is_one_and_its_revision_is_active() {
        check("blue", 0, Ok(()));
        let asleep = "hello--0000002, which has the label blue, is not active";
        check("blue", 20, Err((Reason::RevisionInactive, asleep)));
        check("bleu", 20, Err((Reason::InvalidValue, "\"bleu\" is not a label of hello")));
    }

    #[test]
    fn a_label_is_taken_away_where_there_is_one() {
        let (mut record, second) = app();
        assert_eq!(record.labels["blue"], second);
        let gone = |label: &str| [(label.to_owned(), None)];
        let refused = direct(&mut record, &[], &gone("bleu")).unwrap_err();
        assert_eq!(refused.message, "\"bleu\" is not a label of hello");
        direct(&mut record, &[], &gone("blue")).unwrap();
        direct(&mut record, &[], &gone("newest")).unwrap();
        assert!(record.labels.is_empty());
        assert!(traffic::entries(&record).iter().all(|entry| entry.label.is_none()));
    }
}
