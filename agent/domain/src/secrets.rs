//! The values of secrets: how they leave documents, how long they are kept, and who needs them.
//!
//! A document in force holds no value, and neither does what is stored of it: values stand in the record, apart, where
//! the store can seal them. None is ever put into words here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::document::{
    AppDocument, Document, EnvValue, Finding, JobDocument, SecretEntry, Template, VolumeSource,
    withhold,
};
use crate::intake::refusal;
use crate::model::Digest;
use crate::reason::Reason;
use crate::replica::Secret;
use crate::state::{Accepted, AppRecord, JobRecord, StoredSecret};

/// How a value begins that only the device's own key opens.
pub const SEALED: &str = "sealed:";

/// A document of one kind.
pub trait Kind: Sized {
    /// The same, out of a document of any kind.
    fn of(document: Document) -> Option<Self>;
}

impl Kind for AppDocument {
    fn of(document: Document) -> Option<Self> {
        match document {
            Document::App(app) => Some(*app),
            Document::Job(_) | Document::Environment(_) => None,
        }
    }
}

impl Kind for JobDocument {
    fn of(document: Document) -> Option<Self> {
        match document {
            Document::Job(job) => Some(*job),
            Document::App(_) | Document::Environment(_) => None,
        }
    }
}

/// Opens the sealed values of a document; `open` has the device's key, and says why it does not fit.
pub fn unseal(
    document: &mut Document,
    open: impl Fn(&str) -> Result<Secret, String>,
) -> Result<(), Vec<Finding>> {
    let entries = match document {
        Document::App(app) => &mut app.configuration.secrets,
        Document::Job(job) => &mut job.configuration.secrets,
        Document::Environment(_) => return Ok(()),
    };
    let mut findings = Vec::new();
    for (index, entry) in entries.iter_mut().enumerate() {
        let Some(value) = &mut entry.value else { continue };
        let Some(sealed) = value.0.strip_prefix(SEALED) else { continue };
        match open(sealed) {
            Ok(opened) => *value = opened,
            Err(why) => {
                let path = format!("properties.configuration.secrets[{index}].value");
                findings.push(refusal(Reason::SealedValueUnreadable, &path, why));
            }
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(findings) }
}

/// Moves the values of a document to those that are stored. A name without a value leaves what is stored under it.
pub fn take(entries: &mut [SecretEntry], stored: &mut BTreeMap<String, StoredSecret>) {
    for entry in entries {
        if let Some(value) = entry.value.take() {
            stored.insert(entry.name.clone(), StoredSecret { value, by_hand: false });
        }
    }
}

/// The document in force, whose values were taken: what is kept of it says nothing of them. Its bytes stay as they came
/// where no value stands in them.
pub fn keep<D: Kind>(
    payload: &[u8],
    document: D,
    warnings: Vec<Finding>,
) -> Result<Accepted<D>, Finding> {
    let digest = Digest::of(payload);
    let Some(withheld) = withhold(payload)? else {
        return Ok(Accepted {
            payload: payload.into(),
            digest,
            document: Arc::new(document),
            warnings,
        });
    };
    // What is in force is what a later start will read.
    let document = withheld.parsed.document.ok().and_then(D::of).ok_or_else(|| {
        refusal(Reason::InvalidSyntax, "", "the document cannot be kept without its secrets")
    })?;
    let warnings = withheld.parsed.warnings;
    Ok(Accepted {
        payload: withheld.payload.into(),
        digest,
        document: Arc::new(document),
        warnings,
    })
}

/// The names that documents of an app list: the one in force, and those that still hold for a revision.
pub fn listed(record: &AppRecord) -> BTreeSet<String> {
    let held = record.revisions.iter().filter_map(|revision| revision.held.as_ref());
    let documents = record.accepted.iter().chain(held);
    let entries = documents.flat_map(|accepted| &accepted.document.configuration.secrets);
    entries.map(|entry| entry.name.clone()).collect()
}

/// The same of a job.
pub fn listed_of_job(record: &JobRecord) -> BTreeSet<String> {
    let entries =
        record.accepted.iter().flat_map(|accepted| &accepted.document.configuration.secrets);
    entries.map(|entry| entry.name.clone()).collect()
}

/// Forgets the values of documents that no document lists any more. What a person set stays.
pub fn forget_unlisted(record: &mut AppRecord) {
    let listed = listed(record);
    record.secrets.retain(|name, secret| secret.by_hand || listed.contains(name));
}

/// The same for a job.
pub fn forget_unlisted_of_job(record: &mut JobRecord) {
    let listed = listed_of_job(record);
    record.secrets.retain(|name, secret| secret.by_hand || listed.contains(name));
}

/// The values that `document` may use: those it lists, and those that a person set.
pub fn known(record: &AppRecord, document: &AppDocument) -> BTreeMap<String, Secret> {
    values(record, document).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The same where they are, in the order of their names.
pub fn values<'a>(
    record: &'a AppRecord,
    document: &'a AppDocument,
) -> impl Iterator<Item = (&'a String, &'a Secret)> {
    let listed = |name: &str| document.configuration.secrets.iter().any(|entry| entry.name == name);
    let usable = record.secrets.iter().filter(move |(name, secret)| secret.by_hand || listed(name));
    usable.map(|(name, secret)| (name, &secret.value))
}

/// Something that needs a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// A variable, or a volume.
    pub what: String,
    /// The secret's name.
    pub secret: String,
}

/// What of a template needs a secret that has no value. A volume without a list needs all that the document lists.
pub fn missing(record: &AppRecord, document: &AppDocument, template: &Template) -> Vec<Need> {
    let known: BTreeSet<&str> = values(record, document).map(|(name, _)| name.as_str()).collect();
    let mut missing = Vec::new();
    let mut need = |what: &str, secret: &str| {
        if !known.contains(secret) {
            missing.push(Need { what: what.to_owned(), secret: secret.to_owned() });
        }
    };
    let containers = template.init_containers.iter().chain(&template.containers);
    for variable in containers.flat_map(|container| &container.env) {
        if let EnvValue::Secret(name) = &variable.value {
            need(&variable.name, name);
        }
    }
    for volume in &template.volumes {
        let VolumeSource::Secret { items } = &volume.source else { continue };
        let what = format!("volume {}", volume.name);
        for item in items {
            need(&what, &item.secret_ref);
        }
        if items.is_empty() {
            for entry in &document.configuration.secrets {
                need(&what, &entry.name);
            }
        }
    }
    missing
}

#[cfg(test)]
mod tests;
