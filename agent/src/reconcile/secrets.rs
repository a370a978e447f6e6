//! Secrets that a person sets, lists and removes.

use domain::intake::refusal;
use domain::model::AppName;
use domain::reason::Reason;
use domain::replica::Secret;

use super::Reconciler;
use super::requests::lasting;
use crate::inbox::{KnownSecret, Refusal};
use crate::network::Network;
use crate::runtime::Runtime;
use crate::store::Store;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    pub(super) async fn set_secret(
        &mut self,
        app: &AppName,
        name: &str,
        value: Option<Secret>,
    ) -> Result<(), Refusal> {
        let _ = value;
        Err(lasting(vec![refusal(Reason::Unsupported, "", format!("{app} {name}"))]))
    }

    pub(super) fn list_secrets(&self, app: &AppName) -> Result<Vec<KnownSecret>, Refusal> {
        let record = self.known(app)?;
        let listed = record.document().map(|document| &document.configuration.secrets);
        let known = listed.into_iter().flatten().map(|entry| KnownSecret {
            name: entry.name.clone(),
            has_value: entry.value.is_some(),
            listed: true,
        });
        Ok(known.collect())
    }
}
