//! Keeps at hand the time zones that documents name. Reads nothing while nothing is missing.

use std::time::Duration;

use domain::model::Moment;
use domain::window::{Zones, zones_named};
use tracing::warn;

use super::{RESYNC, Reconciler};
use crate::clock::ZoneFiles;
use crate::network::Network;
use crate::runtime::Runtime;
use crate::store::Store;

/// The time zones that documents name.
#[derive(Debug)]
pub(super) struct Almanac {
    files: ZoneFiles,
    pub(super) zones: Zones,
    /// When to see whether all are at hand.
    pub(super) check_at: Moment,
}

impl Almanac {
    pub(super) fn new(files: ZoneFiles) -> Self {
        Self { files, zones: Zones::default(), check_at: Moment::default() }
    }
}

impl<R: Runtime, N: Network, S: Store> Reconciler<R, N, S> {
    /// Reads the zones that new documents name. One that is missing is looked for again with each look at the board:
    /// somebody may install the database.
    pub(super) async fn find_zones(&mut self) {
        let now = self.clock.now();
        if now < self.almanac.check_at {
            return;
        }
        let names = zones_named(&self.state);
        let (files, known) = (self.almanac.files.clone(), self.almanac.zones.clone());
        if names.iter().any(|name| known.of(name).is_none()) {
            let wanted = names.clone();
            let read = tokio::task::spawn_blocking(move || files.zones_for(wanted, &known));
            match read.await {
                Ok(zones) => self.almanac.zones = zones,
                Err(error) => warn!(%error, "time zones cannot be read"),
            }
        }
        let missing = names.iter().any(|name| self.almanac.zones.of(name).is_none());
        self.almanac.check_at = if missing { now.after(RESYNC) } else { Moment(Duration::MAX) };
    }
}
