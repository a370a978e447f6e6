//! The ledger: what becomes durable, and the events that tell of it. Nothing is told that did not come to be.

use std::collections::BTreeSet;

use domain::event::Event;
use domain::model::{AppName, Moment, ReplicaName, RevisionName};
use domain::reason::Reason;
use domain::rollout::{Step, Told};
use domain::state::Changes;
use tracing::{info, warn};

use super::{OUTBOX_DEPTH, RECENT_EVENTS, Reconciler};
use crate::network::Network;
use crate::runtime::Runtime;
use crate::store::{Store, StoreError};

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    pub(super) async fn take_steps(&mut self, steps: Vec<Step>) -> Result<(), StoreError> {
        let first_event = self.state.device.next_event;
        let mut changes = Changes::default();
        for Step { record, told } in steps {
            for Told { app, revision, reason, message } in told {
                info!(%app, %revision, %reason, message, "step");
                self.emit(reason, Some(&app), Some(&revision), None, message);
            }
            changes.apps.push(*record);
        }
        self.commit_told(first_event, changes).await
    }

    /// Makes changes durable that events from `first_event` on tell of. What did not come to be is not told.
    pub(super) async fn commit_told(
        &mut self,
        first_event: u64,
        changes: Changes,
    ) -> Result<(), StoreError> {
        let committed = self.commit(changes).await;
        if committed.is_err() {
            self.outbox.retain(|event| event.id < first_event);
            self.recent.retain(|event| event.id < first_event);
            self.unsaved_events.retain(|event| event.id < first_event);
        }
        committed
    }

    /// Makes changes durable, then takes them over.
    pub(super) async fn commit(&mut self, mut changes: Changes) -> Result<(), StoreError> {
        if self.durable_events {
            changes.events.clone_from(&self.unsaved_events);
        }
        // Whatever is stored says when: the clock is never believed to be earlier again.
        let date = self.clock.wall().0.as_secs();
        let device = changes.device.get_or_insert_with(|| self.state.device.clone());
        device.clock_floor_secs = device.clock_floor_secs.max(date);
        let mut store = self.store.take().expect("the store comes back from every commit");
        let committed = tokio::task::spawn_blocking(move || {
            let result = store.commit(&changes);
            (store, changes, result)
        });
        let (store, changes, result) = committed.await.expect("a commit does not panic");
        self.store = Some(store);
        self.storage_trouble = result.as_ref().err().map(|error| error.0.clone());
        result?;
        self.unsaved_events.clear();
        if !changes.apps.is_empty() {
            self.nets.check_at = Moment::default();
            self.almanac.check_at = Moment::default();
        }
        for app in changes.apps {
            self.state.apps.insert(app.name.clone(), app);
        }
        for job in changes.jobs {
            self.state.jobs.insert(job.name.clone(), job);
        }
        for environment in changes.environments {
            self.state.environments.insert(environment.name.clone(), environment);
        }
        if let Some(device) = changes.device {
            self.clock.raise_floor(device.clock_floor_secs);
            self.state.device = device;
        }
        self.outbox.retain(|event| !changes.delivered.contains(&event.id));
        Ok(())
    }

    /// Notes an event; it is stored with the next commit, at the latest at the end of the round.
    pub(super) fn emit(
        &mut self,
        reason: Reason,
        app: Option<&AppName>,
        revision: Option<&RevisionName>,
        replica: Option<&ReplicaName>,
        message: String,
    ) {
        let id = self.state.device.next_event;
        self.state.device.next_event += 1;
        let event = Event {
            id,
            time: self.clock.wall(),
            app: app.cloned(),
            revision: revision.cloned(),
            replica: replica.cloned(),
            reason,
            message,
        };
        self.outbox.push(event.clone());
        self.recent.push_back(event.clone());
        let surplus = self.recent.len().saturating_sub(RECENT_EVENTS);
        self.recent.drain(..surplus);
        self.unsaved_events.push(event);
    }

    /// Stores the events of this round, and drops the oldest that there is no room for.
    pub(super) async fn save_events(&mut self) {
        if self.unsaved_events.is_empty() {
            return;
        }
        let surplus = self.outbox.len().saturating_sub(OUTBOX_DEPTH);
        let dropped: Vec<u64> = self.outbox.drain(..surplus).map(|event| event.id).collect();
        self.state.device.dropped_events += dropped.len() as u64;
        if !self.durable_events {
            self.unsaved_events.clear();
            return;
        }
        // What never came to the disk need not leave it.
        let unsaved: BTreeSet<u64> = self.unsaved_events.iter().map(|event| event.id).collect();
        self.leaving.extend(dropped.iter().filter(|id| !unsaved.contains(id)));
        self.unsaved_events.retain(|event| !dropped.contains(&event.id));
        let changes = Changes { delivered: self.leaving.clone(), ..Changes::default() };
        match self.commit(changes).await {
            Ok(()) => self.leaving.clear(),
            Err(error) => warn!(%error, "events cannot be stored; they are kept in memory"),
        }
    }
}
