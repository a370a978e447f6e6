//! How far pulls have come: for the statuses, and as an event with each quarter.

use std::sync::Arc;

use domain::model::{AppName, RevisionName};
use domain::reason::Reason;

use super::Reconciler;
use crate::network::Network;
use crate::runtime::Runtime;
use crate::store::Store;

/// Less than this is here before anybody reads of it.
const WORTH_TELLING: u64 = 8 << 20;

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    pub(super) fn note_pulls(&mut self) {
        let pulls = Arc::clone(&self.reports.pulls.borrow_and_update());
        self.memory.pulling(Arc::clone(&pulls));
        self.quarters_told.retain(|reference, _| pulls.contains_key(reference));
        for (reference, pull) in &*pulls {
            let quarters = pull.quarters();
            if !pull.is_active() || pull.bytes < WORTH_TELLING {
                continue;
            }
            let told = self.quarters_told.insert(reference.clone(), quarters);
            if told.is_none_or(|told| told < quarters) {
                for (app, revision) in self.fetching_with(reference) {
                    let message = format!("{reference}: {pull}");
                    self.emit(Reason::PullingImage, Some(&app), Some(&revision), None, message);
                }
            }
        }
    }

    /// The revisions that wait for this image.
    fn fetching_with(&self, reference: &str) -> Vec<(AppName, RevisionName)> {
        let all =
            self.state.apps.values().flat_map(|app| {
                app.revisions.iter().map(move |revision| (app.name.clone(), revision))
            });
        all.filter(|(_, revision)| self.fetching.contains(&revision.name))
            .filter(|(_, revision)| revision.template.images().any(|image| image == reference))
            .map(|(app, revision)| (app, revision.name.clone()))
            .collect()
    }
}
