//! The calls that change revisions and the split. Names are checked here, whether there are such is for the loop to say.

use std::collections::BTreeSet;

use domain::document::{Finding, TrafficEntry};
use domain::intake::refusal;
use domain::model::{AppName, InvalidName, RevisionName};
use domain::reason::Reason;
use domain::reweigh::check_label;
use skerry_proto::v1;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::refusal::{nearest_revision, refused};
use super::service::{Answer, Api};
use crate::inbox::{self, Refusal, Reply, RevisionVerb};

/// Weights and labels that one call may change: as many as an app keeps revisions. Each is compared with each.
const MOST_CHANGES: usize = 100;

/// Activates, deactivates, restarts or copies a revision.
pub(super) async fn revision<I: Sync, L: Sync>(
    api: &Api<I, L>,
    request: Request<v1::RevisionRequest>,
) -> Answer<v1::RevisionReply> {
    let (metadata, _, message) = request.into_parts();
    let revision = named(api, &message.revision)?;
    let verb = verb(&message)?;
    let name = revision.clone();
    let request = |reply| inbox::Request::Revision { revision, verb, reply };
    let list = format!("skerry revisions {} lists them", app_of(name.as_str()));
    let revision =
        ask(api, app_of(name.as_str()), list, std::slice::from_ref(&name), &metadata, request)
            .await?;
    Ok(Response::new(v1::RevisionReply { revision: revision.to_string() }))
}

fn verb(message: &v1::RevisionRequest) -> Result<RevisionVerb, Status> {
    let suffix = Some(message.suffix.as_str()).filter(|suffix| !suffix.is_empty());
    match (message.verb.as_str(), suffix) {
        ("activate", None) => Ok(RevisionVerb::Activate),
        ("deactivate", None) => Ok(RevisionVerb::Deactivate),
        ("restart", None) => Ok(RevisionVerb::Restart),
        ("copy", suffix) => {
            let suffix =
                suffix.map(str::parse).transpose().map_err(|error| said(invalid(&error)))?;
            Ok(RevisionVerb::Copy { suffix })
        }
        (verb @ ("activate" | "deactivate" | "restart"), Some(_)) => {
            Err(Status::invalid_argument(format!("{verb} takes no suffix")))
        }
        (other, _) => {
            let message = format!("{other:?} is nothing that is done to a revision");
            Err(Status::invalid_argument(message))
        }
    }
}

/// Sends an app to zero.
pub(super) async fn to_zero<I: Sync, L: Sync>(
    api: &Api<I, L>,
    metadata: &MetadataMap,
    message: &v1::ScaleRequest,
) -> Answer<v1::ScaleReply> {
    let bounds = [message.min_replicas, message.max_replicas, message.replicas];
    if message.clear || bounds.iter().any(Option::is_some) {
        return Err(Status::invalid_argument("to_zero goes with nothing else"));
    }
    let app: AppName = api.name(&message.app)?;
    let request = |reply| inbox::Request::ToZero { app, reply };
    api.ask_about(&message.app, metadata, request).await?;
    Ok(Response::new(v1::ScaleReply {}))
}

/// Changes weights and labels. Where nothing is to be changed, it tells the split.
pub(super) async fn traffic<I: Sync, L: Sync>(
    api: &Api<I, L>,
    request: Request<v1::TrafficRequest>,
) -> Answer<v1::TrafficReply> {
    let (metadata, _, message) = request.into_parts();
    let app: AppName = api.name(&message.app)?;
    if MOST_CHANGES < message.weights.len().max(message.labels.len()) {
        let message = format!("more than {MOST_CHANGES} changes in one call");
        return Err(said(refusal(Reason::InvalidValue, "", message)));
    }
    let weights: Vec<TrafficEntry> =
        message.weights.iter().map(|weight| entry(api, weight)).collect::<Result<_, _>>()?;
    let labels: Vec<(String, Option<RevisionName>)> =
        message.labels.iter().map(|label| moved(api, &app, label)).collect::<Result<_, _>>()?;
    let mut seen = BTreeSet::new();
    if let Some((twice, _)) = labels.iter().find(|(label, _)| !seen.insert(label)) {
        let message = format!("the label {twice} is given twice");
        return Err(said(refusal(Reason::InvalidValue, "", message)));
    }
    let of_weights = weights.iter().filter_map(|entry| entry.revision.as_ref());
    let of_labels = labels.iter().filter_map(|(_, revision)| revision.as_ref());
    let named: Vec<RevisionName> = of_weights.chain(of_labels).cloned().collect();
    let request = |reply| inbox::Request::Traffic { app, weights, labels, reply };
    let show = format!("skerry traffic {} shows the split", message.app);
    let split = ask(api, &message.app, show, &named, &metadata, request).await?;
    Ok(Response::new(v1::TrafficReply { weights: split.iter().map(weight).collect() }))
}

/// Asks the loop. A refusal that speaks of a revision which is not there is answered with its neighbour, one of a value
/// that was typed with `elsewhere`: the fix of its reason is made for documents.
async fn ask<I: Sync, L: Sync, T>(
    api: &Api<I, L>,
    app: &str,
    elsewhere: String,
    named: &[RevisionName],
    metadata: &MetadataMap,
    request: impl FnOnce(Reply<T>) -> inbox::Request,
) -> Result<T, Status> {
    let hint = |refusal: &Refusal| {
        let statuses = api.statuses();
        let known = |name: &RevisionName| {
            let revisions = statuses.apps.get(app).map(|app| app.revisions.as_slice());
            revisions.unwrap_or_default().iter().any(|revision| revision.name == *name)
        };
        let spoken_of = |name: &RevisionName| {
            refusal.findings.iter().any(|finding| finding.message.contains(name.as_str()))
        };
        let hint = api.app_hint(app, refusal);
        if !hint.is_empty() {
            return hint;
        }
        let meant = named.iter().find(|name| spoken_of(name));
        let near = meant.filter(|name| !known(name));
        let near = near.map(|name| nearest_revision(name.as_str(), &statuses));
        match (refusal.findings.first().map(|finding| finding.reason), near, meant) {
            (_, Some(near), _) if !near.is_empty() => near,
            (Some(Reason::RevisionInactive), _, Some(name)) => {
                format!("skerry revision activate {name}")
            }
            (Some(Reason::UnknownRevision | Reason::InvalidValue), ..) => elsewhere,
            _ => String::new(),
        }
    };
    api.ask_hinted(metadata, request, hint).await
}

fn entry<I: Sync, L: Sync>(api: &Api<I, L>, weight: &v1::Weight) -> Result<TrafficEntry, Status> {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Ok(TrafficEntry {
        revision: given(&weight.revision).map(|name| named(api, &name)).transpose()?,
        latest: weight.latest,
        weight: weight.weight,
        label: given(&weight.label).map(|label| label.to_lowercase()),
    })
}

/// Labels are the same in any case, as ACA compares them.
fn moved<I: Sync, L: Sync>(
    api: &Api<I, L>,
    app: &AppName,
    label: &v1::Label,
) -> Result<(String, Option<RevisionName>), Status> {
    let name = label.label.to_lowercase();
    if label.revision.is_empty() {
        return Ok((name, None));
    }
    check_label(app, &name).map_err(said)?;
    Ok((name, Some(named(api, &label.revision)?)))
}

fn weight(entry: &TrafficEntry) -> v1::Weight {
    v1::Weight {
        revision: entry.revision.as_ref().map(ToString::to_string).unwrap_or_default(),
        latest: entry.latest,
        label: entry.label.clone().unwrap_or_default(),
        weight: entry.weight,
    }
}

/// The name of a revision; what cannot be one is answered with its neighbour.
fn named<I: Sync, L: Sync>(api: &Api<I, L>, text: &str) -> Result<RevisionName, Status> {
    text.parse().map_err(|error: InvalidName| {
        let statuses = api.statuses();
        let near = nearest_revision(text, &statuses);
        let hint = match app_of(text) {
            _ if !near.is_empty() => near,
            app if statuses.apps.contains_key(app) => format!("skerry revisions {app} lists them"),
            _ => "skerry revisions APP lists those of an app".to_owned(),
        };
        refused(&Refusal { findings: vec![invalid(&error)], passing: false }, hint)
    })
}

fn app_of(revision: &str) -> &str {
    revision.split("--").next().unwrap_or_default()
}

fn invalid(error: &InvalidName) -> Finding {
    refusal(Reason::InvalidValue, "", error.to_string())
}

fn said(finding: Finding) -> Status {
    refused(&Refusal { findings: vec![finding], passing: false }, String::new())
}
