//! The split: which revisions share an app's requests, and which labels name them.
//!
//! What the document says, what a person set over it, and how far each revision has come, made into weights of
//! revisions that have been ready. ACA's rules (features 3 and 9): Single gives all to one, `latestRevision` is the
//! newest that is ready, weights add up to 100, labels have host names of their own, with or without weight.

use std::collections::BTreeMap;

use crate::document::{RevisionsMode, TrafficEntry};
use crate::model::RevisionName;
use crate::route::Share;
use crate::state::{AppRecord, RevisionRecord};

/// An app's requests, divided.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Split {
    /// Weights by revision, in order of names of none below 1; empty while no revision was ever ready.
    pub shares: Vec<Share>,
    /// Labels, and the revisions they name.
    pub labels: BTreeMap<String, RevisionName>,
    /// Numbers of the document's entries whose revision is not there, not active or was never ready.
    pub idle: Vec<usize>,
}

impl Split {
    /// Per cent of the requests.
    pub fn weight_of(&self, revision: &RevisionName) -> u32 {
        self.shares
            .iter()
            .filter(|share| share.revision == *revision)
            .map(|share| share.weight)
            .sum()
    }

    /// The revision with the largest part; of equals the newest.
    pub fn main(&self) -> Option<&RevisionName> {
        let largest = |share: &&Share| (share.weight, share.revision.clone());
        self.shares.iter().max_by_key(largest).map(|share| &share.revision)
    }
}

/// Divides an app's requests. `is_ready` says whether a revision has a ready replica now.
pub fn split(record: &AppRecord, is_ready: impl Fn(&RevisionName) -> bool) -> Split {
    match record.mode() {
        RevisionsMode::Single => single(record, is_ready),
        RevisionsMode::Multiple | RevisionsMode::Labels => divided(record),
    }
}

/// Entries in force: a person's, else the document's.
pub fn entries(record: &AppRecord) -> &[TrafficEntry] {
    let ingress = record.document().and_then(|document| document.configuration.ingress.as_ref());
    let own = ingress.map(|ingress| ingress.traffic.as_slice()).unwrap_or_default();
    record.traffic.as_deref().unwrap_or(own)
}

/// The newest active revision that has been ready.
pub fn latest_ready(record: &AppRecord) -> Option<&RevisionRecord> {
    record.revisions.iter().rev().find(|revision| revision.active && revision.has_served())
}

fn single(record: &AppRecord, is_ready: impl Fn(&RevisionName) -> bool) -> Split {
    let Some(newest) = latest_ready(record) else { return Split::default() };
    // After a power cut, or a switch to this mode, it must become ready first: until then one before it may serve.
    let mut others = record.revisions.iter().rev().filter(|one| one.active && one.has_served());
    let serving = others.find(|one| is_ready(&one.name)).unwrap_or(newest);
    let labels = entries(record).iter().filter_map(|entry| {
        let named = entry.revision.as_ref().map_or(Some(serving), |name| active(record, name));
        Some((entry.label.clone()?, named?.name.clone()))
    });
    Split {
        shares: vec![Share { revision: serving.name.clone(), weight: 100 }],
        labels: labels.collect(),
        idle: Vec::new(),
    }
}

fn divided(record: &AppRecord) -> Split {
    let mut weights: BTreeMap<&RevisionName, u32> = BTreeMap::new();
    let mut split = Split::default();
    for (number, entry) in entries(record).iter().enumerate() {
        let label = entry.label.as_deref();
        // A label that was moved names another revision than the document's entry does.
        let moved = label.and_then(|label| record.labels.get(label));
        let named = match (moved, &entry.revision) {
            (Some(name), _) | (None, Some(name)) => active(record, name),
            (None, None) if entry.latest => latest_ready(record),
            (None, None) => None,
        };
        match named {
            Some(revision) if revision.has_served() => {
                *weights.entry(&revision.name).or_default() += entry.weight;
            }
            Some(_) | None if 0 < entry.weight => split.idle.push(number),
            Some(_) | None => (),
        }
        if let (Some(label), Some(revision)) = (label, named) {
            split.labels.insert(label.to_owned(), revision.name.clone());
        }
    }
    for (label, name) in &record.labels {
        if active(record, name).is_some() {
            split.labels.insert(label.clone(), name.clone());
        }
    }
    let shares = weights.into_iter().filter(|(_, weight)| 0 < *weight);
    split.shares = shares.map(|(name, weight)| Share { revision: name.clone(), weight }).collect();
    if split.shares.is_empty() {
        let all = latest_ready(record).map(|one| Share { revision: one.name.clone(), weight: 100 });
        split.shares.extend(all);
    }
    split
}

fn active<'a>(record: &'a AppRecord, name: &RevisionName) -> Option<&'a RevisionRecord> {
    record.revision(name).filter(|revision| revision.active)
}
