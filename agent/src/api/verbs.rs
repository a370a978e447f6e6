//! The calls that change revisions and the split.

use domain::document::TrafficEntry;
use domain::model::{AppName, RevisionName};
use skerry_proto::v1;
use tonic::{Request, Response, Status};

use super::service::{Answer, Api};
use crate::inbox::{self, RevisionVerb};

/// Activates, deactivates, restarts or copies a revision.
pub(super) async fn revision<I: Sync, L: Sync>(
    api: &Api<I, L>,
    request: Request<v1::RevisionRequest>,
) -> Answer<v1::RevisionReply> {
    let (metadata, _, message) = request.into_parts();
    let revision = named(&message.revision)?;
    let verb = match message.verb.as_str() {
        "activate" => RevisionVerb::Activate,
        "deactivate" => RevisionVerb::Deactivate,
        "restart" => RevisionVerb::Restart,
        "copy" => RevisionVerb::Copy {
            suffix: Some(message.suffix)
                .filter(|suffix| !suffix.is_empty())
                .map(|suffix| suffix.parse().map_err(wrong))
                .transpose()?,
        },
        other => return Err(wrong(format!("{other:?} is nothing that is done to a revision"))),
    };
    let app = message.revision.split("--").next().unwrap_or_default();
    let revision = api
        .ask_about(app, &metadata, |reply| inbox::Request::Revision { revision, verb, reply })
        .await?;
    Ok(Response::new(v1::RevisionReply { revision: revision.to_string() }))
}

/// Changes weights and labels.
pub(super) async fn traffic<I: Sync, L: Sync>(
    api: &Api<I, L>,
    request: Request<v1::TrafficRequest>,
) -> Answer<v1::TrafficReply> {
    let (metadata, _, message) = request.into_parts();
    let app: AppName = api.name(&message.app)?;
    let weights = message.weights.iter().map(entry).collect::<Result<_, _>>()?;
    let labels = message
        .labels
        .into_iter()
        .map(|label| {
            let revision = Some(label.revision).filter(|revision| !revision.is_empty());
            Ok((label.label, revision.map(|revision| named(&revision)).transpose()?))
        })
        .collect::<Result<_, Status>>()?;
    let split = api
        .ask_about(&message.app, &metadata, |reply| inbox::Request::Traffic {
            app,
            weights,
            labels,
            reply,
        })
        .await?;
    Ok(Response::new(v1::TrafficReply { weights: split.iter().map(weight).collect() }))
}

fn entry(weight: &v1::Weight) -> Result<TrafficEntry, Status> {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Ok(TrafficEntry {
        revision: given(&weight.revision).map(|name| named(&name)).transpose()?,
        latest: weight.latest,
        weight: weight.weight,
        label: given(&weight.label),
    })
}

fn weight(entry: &TrafficEntry) -> v1::Weight {
    v1::Weight {
        revision: entry.revision.as_ref().map(ToString::to_string).unwrap_or_default(),
        latest: entry.latest,
        label: entry.label.clone().unwrap_or_default(),
        weight: entry.weight,
    }
}

fn named(text: &str) -> Result<RevisionName, Status> {
    text.parse().map_err(wrong)
}

fn wrong(error: impl ToString) -> Status {
    Status::invalid_argument(error.to_string())
}
