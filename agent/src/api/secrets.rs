//! The calls about secrets. What a secret says goes in and never comes out.

use domain::document::Finding;
use domain::reason::Reason;
use domain::replica::Secret;
use skerry_proto::v1;
use tonic::{Request, Response, Status};

use super::service::{Answer, Api};
use crate::inbox::{self, Refusal};

/// Sets or removes the value of a secret.
pub(super) async fn set<I: Sync, L: Sync>(
    api: &Api<I, L>,
    request: Request<v1::SecretRequest>,
) -> Answer<v1::SecretReply> {
    let (metadata, _, message) = request.into_parts();
    let app = api.name(&message.app)?;
    let v1::SecretRequest { app: text, name, value } = message;
    let hint = |refusal: &Refusal| {
        let unknown = |finding: &Finding| finding.reason == Reason::UnknownSecret;
        if refusal.findings.iter().any(unknown) {
            return format!("skerry secret ls {text} lists them");
        }
        api.app_hint(&text, refusal)
    };
    let value = value.map(Secret);
    let request = |reply| inbox::Request::Secret { app, name, value, reply };
    api.ask_hinted(&metadata, request, hint).await?;
    Ok(Response::new(v1::SecretReply {}))
}

/// Names and whether a value is known.
pub(super) async fn list<I: Sync, L: Sync>(
    api: &Api<I, L>,
    request: Request<v1::SecretsRequest>,
) -> Result<Response<v1::SecretsReply>, Status> {
    let (metadata, _, message) = request.into_parts();
    let app = api.name(&message.app)?;
    let known = api
        .ask_about(&message.app, &metadata, |reply| inbox::Request::Secrets { app, reply })
        .await?;
    let secrets = known.into_iter().map(|secret| v1::KnownSecret {
        name: secret.name,
        has_value: secret.has_value,
        listed: secret.listed,
    });
    Ok(Response::new(v1::SecretsReply { secrets: secrets.collect() }))
}
