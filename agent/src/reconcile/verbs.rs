//! What a person does to revisions and to the split.

use domain::document::{Finding, TrafficEntry};
use domain::intake::refusal;
use domain::model::{AppName, RevisionName};
use domain::reason::Reason;
use domain::state::AppRecord;
use domain::verbs;
use tracing::info;

use super::Reconciler;
use super::requests::lasting;
use crate::inbox::{Refusal, RevisionVerb};
use crate::network::Network;
use crate::runtime::Runtime;
use crate::store::Store;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    pub(super) async fn verb(
        &mut self,
        name: &RevisionName,
        verb: RevisionVerb,
    ) -> Result<RevisionName, Refusal> {
        let mut record = self.owner(name)?;
        let app = record.name.clone();
        let (reason, result) = match verb {
            RevisionVerb::Activate => (
                Reason::RevisionActivated,
                verbs::activate(&mut record, name).map(|()| name.clone()),
            ),
            RevisionVerb::Deactivate => {
                let done = verbs::deactivate(&mut record, name);
                (Reason::RevisionDeactivated, done.map(|()| name.clone()))
            }
            RevisionVerb::Restart => (
                Reason::RevisionRestarted,
                verbs::restart(&mut record, name).map(|()| name.clone()),
            ),
            RevisionVerb::Copy { suffix } => {
                (Reason::RevisionCreated, verbs::copy(&mut record, name, suffix))
            }
        };
        let revision = result.map_err(one)?;
        if self.state.apps.get(&app) == Some(&record) {
            return Ok(revision);
        }
        info!(%app, %revision, %reason, "by a person");
        let first_event = self.state.device.next_event;
        self.emit(reason, Some(&app), Some(&revision), None, String::new());
        self.commit_app(first_event, record).await?;
        self.memory.desired_changed(&revision);
        Ok(revision)
    }

    pub(super) async fn traffic(
        &mut self,
        app: &AppName,
        weights: &[TrafficEntry],
        labels: Vec<(String, Option<RevisionName>)>,
    ) -> Result<Vec<TrafficEntry>, Refusal> {
        let mut record = self.known(app)?;
        let split = verbs::direct(&mut record, weights, &labels).map_err(one)?;
        if self.state.apps.get(app) == Some(&record) {
            return Ok(split);
        }
        let first_event = self.state.device.next_event;
        self.emit(Reason::TrafficChanged, Some(app), None, None, String::new());
        self.commit_app(first_event, record).await?;
        Ok(split)
    }

    /// The record of the app that a revision is of.
    fn owner(&self, revision: &RevisionName) -> Result<AppRecord, Refusal> {
        let app = revision.as_str().split("--").next().unwrap_or_default();
        let unknown = || {
            let message = format!("there is no revision {revision}");
            lasting(vec![refusal(Reason::UnknownRevision, "", message)])
        };
        let app: AppName = app.parse().map_err(|_| unknown())?;
        self.known(&app).map_err(|_| unknown())
    }
}

fn one(finding: Finding) -> Refusal {
    lasting(vec![finding])
}
