//! Secrets that a person sets, lists and removes. What one says stands in no answer, event or line of the log.

use std::collections::BTreeMap;

use domain::document::{Finding, secret_name};
use domain::intake::refusal;
use domain::model::{AppName, RevisionName};
use domain::reason::Reason;
use domain::replica::{Secret, Trouble};
use domain::secrets::SEALED;
use domain::state::StoredSecret;
use tracing::info;

use super::Reconciler;
use super::requests::lasting;
use crate::inbox::{KnownSecret, Refusal};
use crate::network::Network;
use crate::runtime::Runtime;
use crate::store::Store;

/// The largest value: what a whole document may have.
const MAX_VALUE_BYTES: usize = 256 << 10;

/// Lost values that are told of by name; the others are counted.
const TOLD: usize = 5;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    pub(super) async fn set_secret(
        &mut self,
        app: &AppName,
        name: &str,
        value: Option<Secret>,
    ) -> Result<(), Refusal> {
        let mut record = self.known(app)?;
        check_name(name).map_err(|finding| lasting(vec![finding]))?;
        let set = value.is_some();
        match value {
            Some(value) => {
                let value = self.opened(value).map_err(|finding| lasting(vec![finding]))?;
                let secret = StoredSecret { value, by_hand: true };
                let before = record.secrets.insert(name.to_owned(), secret.clone());
                if before.as_ref() == Some(&secret) {
                    return Ok(());
                }
            }
            None => {
                if record.secrets.remove(name).is_none() {
                    let message = format!("no value of {name:?} is known");
                    return Err(lasting(vec![refusal(Reason::UnknownSecret, "", message)]));
                }
            }
        }
        let done = if set { "set" } else { "removed" };
        info!(%app, secret = name, "the value of a secret was {done}");
        let revisions: Vec<RevisionName> =
            record.revisions.iter().map(|revision| revision.name.clone()).collect();
        let first_event = self.state.device.next_event;
        let message = format!("the value of {name:?} was {done}");
        self.emit(Reason::SecretChanged, Some(app), None, None, message);
        self.commit_app(first_event, record).await?;
        // What waits for it need not wait out its back-off.
        for revision in &revisions {
            self.memory.desired_changed(revision);
        }
        Ok(())
    }

    pub(super) fn list_secrets(&self, app: &AppName) -> Result<Vec<KnownSecret>, Refusal> {
        let record = self.known(app)?;
        let listed = record.document().map(|document| &document.configuration.secrets);
        let listed = listed.into_iter().flatten().map(|entry| (&entry.name, true));
        let stored = record.secrets.keys().map(|name| (name, false));
        // The document's word comes last, and stands.
        let names: BTreeMap<&String, bool> = stored.chain(listed).collect();
        let known = names.into_iter().map(|(name, listed)| KnownSecret {
            name: name.clone(),
            has_value: record.secrets.contains_key(name),
            listed,
        });
        Ok(known.collect())
    }

    fn opened(&self, value: Secret) -> Result<Secret, Finding> {
        let value = match value.0.strip_prefix(SEALED) {
            Some(sealed) => self
                .device_key
                .open(sealed)
                .map_err(|why| refusal(Reason::SealedValueUnreadable, "value", why))?,
            None => value,
        };
        if value.0.contains('\0') {
            let message = "a NUL can stand in no variable";
            return Err(refusal(Reason::InvalidValue, "value", message));
        }
        if MAX_VALUE_BYTES < value.0.len() {
            let message = format!("{} bytes; {MAX_VALUE_BYTES} are allowed", value.0.len());
            return Err(refusal(Reason::InvalidValue, "value", message));
        }
        Ok(value)
    }

    /// Values that were stored and do not open, for as long as a document lists their names and nobody set them anew.
    pub(super) fn lost_values(&self) -> Option<Trouble> {
        let missing: Vec<String> = self
            .lost_secrets
            .iter()
            .filter(|(owner, name)| self.misses(owner, name))
            .map(|(owner, name)| format!("{owner}/{name}"))
            .collect();
        let told = missing.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ");
        let details = match missing.len().saturating_sub(TOLD) {
            _ if missing.is_empty() => return None,
            0 => told,
            more => format!("{told} and {more} more"),
        };
        Some(Trouble { reason: Reason::SecretsLost, details })
    }

    fn misses(&self, owner: &str, name: &str) -> bool {
        let Ok(owner) = owner.parse::<AppName>() else { return false };
        let app = self.state.apps.get(&owner).filter(|app| app.accepted.is_some());
        let job = self.state.jobs.get(&owner).filter(|job| job.accepted.is_some());
        app.is_some_and(|app| !app.secrets.contains_key(name))
            || job.is_some_and(|job| !job.secrets.contains_key(name))
    }
}

fn check_name(name: &str) -> Result<(), Finding> {
    secret_name(name).map_err(|rule| {
        refusal(Reason::InvalidValue, "name", format!("{name:?} is not valid here: {rule}"))
    })
}
