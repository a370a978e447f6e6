//! Environments: what follows for the loop from their documents. None of it stops a replica.

use std::sync::Arc;

use bytes::Bytes;
use domain::document::{AppDocument, Finding, VolumeSource};
use domain::intake::{self, AnyParsed, Incoming, ParsedEnvironment, Verdict, refusal};
use domain::model::{EnvironmentName, RevisionName};
use domain::reason::Reason;
use domain::secrets;
use domain::state::{AppRecord, Changes, EnvironmentRecord};
use domain::status::Source;
use tracing::info;

use super::Reconciler;
use super::requests::{lasting, may_delete, passing};
use crate::inbox::{Accepted, Kind, Refusal, Subject};
use crate::keys::DeviceKey;
use crate::network::Network;
use crate::runtime::Runtime;
use crate::store::Store;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Takes the document of an environment.
    pub(super) async fn environment(
        &mut self,
        parsed: ParsedEnvironment,
        incoming: Incoming<'_>,
    ) -> Result<Accepted, (Option<String>, Refusal)> {
        let ParsedEnvironment { name, document, warnings } = parsed;
        let known = self.state.environments.get(&name);
        let accepted = |changed| Accepted {
            name: name.to_string(),
            kind: Kind::Environment,
            changed,
            warnings: warnings.clone(),
        };
        match intake::environment(known, &name, document, warnings.clone(), incoming) {
            Verdict::Unchanged => Ok(accepted(false)),
            Verdict::Refused(findings) => Err((Some(name.to_string()), lasting(findings))),
            Verdict::Changed(record) => {
                let stored = self.commit_environment(*record).await;
                stored.map_err(|refusal| (Some(name.to_string()), refusal))?;
                Ok(accepted(true))
            }
        }
    }

    /// Forgets what was said of an environment. What runs there runs on.
    pub(super) async fn delete_environment(
        &mut self,
        source: Source,
        name: &EnvironmentName,
    ) -> Result<(), Refusal> {
        let known = self.state.environments.get(name).filter(|known| known.accepted.is_some());
        let mut record = known.cloned().ok_or_else(|| {
            let message = format!("there is no document of the environment {name}");
            lasting(vec![refusal(Reason::UnknownApp, "", message)])
        })?;
        may_delete(record.source, source, false)?;
        self.refusals.remove(&(Kind::Environment, name.to_string()));
        // The same document may come back from there, and then it counts.
        record.received.remove(&source);
        (record.accepted, record.removed) = (None, true);
        self.commit_environment(record).await
    }

    async fn commit_environment(&mut self, record: EnvironmentRecord) -> Result<(), Refusal> {
        let EnvironmentRecord { name, source, generation, removed, .. } = &record;
        let what = if *removed { "removed" } else { "accepted" };
        info!(environment = %name, source = source.word(), generation, what, "environment");
        let name = name.clone();
        let first_event = self.state.device.next_event;
        let message =
            format!("environment {name} {what}: generation {generation} from {}", source.word());
        self.emit(Reason::DesiredChanged, None, None, None, message);
        let changes = Changes { environments: vec![record], ..Changes::default() };
        self.commit_told(first_event, changes).await.map_err(|error| passing(&error))?;
        // Storages may be there now, or elsewhere: what waits for one need not wait out its back-off.
        for revision in self.showing_storages(&name) {
            self.memory.desired_changed(&revision);
        }
        Ok(())
    }

    /// The revisions in an environment that have volumes of its storages.
    fn showing_storages(&self, environment: &EnvironmentName) -> Vec<RevisionName> {
        let here = |document: &AppDocument| document.environment == *environment;
        let apps =
            self.state.apps.values().filter(|app| AppRecord::document(app).is_some_and(here));
        apps.flat_map(|app| &app.revisions)
            .filter(|revision| {
                let mut volumes = revision.template.volumes.iter();
                volumes.any(|volume| matches!(volume.source, VolumeSource::Storage { .. }))
            })
            .map(|revision| revision.name.clone())
            .collect()
    }
}

/// Takes a document apart on a thread that may take its time: a large one must not hold up the others.
pub(super) async fn take_apart(
    payload: Bytes,
    subject: Subject,
    key: Arc<DeviceKey>,
) -> Result<(AnyParsed, Bytes), Vec<Finding>> {
    let task = tokio::task::spawn_blocking(move || {
        let mut parsed = match &subject {
            Subject::App(name) | Subject::Job(name) => {
                intake::take_apart(&payload, Some(name)).map(AnyParsed::Workload)
            }
            Subject::Environment(name) => {
                intake::take_environment_apart(&payload, name).map(AnyParsed::Environment)
            }
            Subject::Itself => intake::take_any_apart(&payload),
        }?;
        if let AnyParsed::Workload(parsed) = &mut parsed {
            secrets::unseal(&mut parsed.document, |sealed| key.open(sealed))?;
        }
        Ok((parsed, payload))
    });
    task.await.unwrap_or_else(|_| {
        Err(vec![refusal(Reason::InvalidSyntax, "", "the document cannot be read")])
    })
}
