//! What a person does to revisions and to the split.

use domain::document::TrafficEntry;
use domain::intake::refusal;
use domain::model::{AppName, RevisionName};
use domain::reason::Reason;

use super::Reconciler;
use super::requests::lasting;
use crate::inbox::{Refusal, RevisionVerb};
use crate::network::Network;
use crate::runtime::Runtime;
use crate::store::Store;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    pub(super) async fn verb(
        &mut self,
        revision: &RevisionName,
        verb: RevisionVerb,
    ) -> Result<RevisionName, Refusal> {
        let _ = verb;
        Err(lasting(vec![refusal(Reason::Unsupported, "", revision.to_string())]))
    }

    pub(super) async fn traffic(
        &mut self,
        app: &AppName,
        weights: &[TrafficEntry],
        labels: Vec<(String, Option<RevisionName>)>,
    ) -> Result<Vec<TrafficEntry>, Refusal> {
        let _ = (weights, labels);
        Err(lasting(vec![refusal(Reason::Unsupported, "", app.to_string())]))
    }
}
