//! Keeps at hand the time zones that documents name. Reads nothing while nothing is missing.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::model::Moment;
use domain::state::State;
use domain::window::{Zones, zones_named};
use tracing::warn;

use super::RESYNC;
use crate::clock::ZoneFiles;

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

    /// Reads the zones that new documents name. One that is missing is looked for again once in a while: somebody may
    /// install the database.
    pub(super) async fn refresh(&mut self, state: &State, now: Moment) {
        if now < self.check_at {
            return;
        }
        let names = zones_named(state);
        self.zones.keep(&names);
        if self.lacks(&names) {
            let (files, known, wanted) = (self.files.clone(), self.zones.clone(), names.clone());
            let read = tokio::task::spawn_blocking(move || files.zones_for(wanted, &known));
            match read.await {
                Ok(zones) => self.zones = zones,
                Err(error) => warn!(%error, "time zones cannot be read"),
            }
        }
        self.check_at = if self.lacks(&names) { now.after(RESYNC) } else { Moment(Duration::MAX) };
    }

    fn lacks(&self, names: &BTreeSet<String>) -> bool {
        names.iter().any(|name| self.zones.of(name).is_none())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use domain::document::{Document, parse};
    use domain::model::Digest;
    use domain::state::{Accepted, AppRecord};
    use domain::status::Source;

    use super::*;

    const BERLIN: &[u8] = include_bytes!("../../domain/src/window/tests/berlin.tzif");

    /// A state with one app, whose window is in Berlin.
    fn state() -> State {
        let payload = b"name: hello\nproperties:\n  template: {containers: [{name: main, image: 'a.example/hello:1'}]}\n\
            skerry: {updateWindow: {cron: '0 2 * * *', durationMinutes: 5, timeZone: Europe/Berlin}}\n";
        let Ok(Document::App(document)) = parse(payload).document else { panic!("no app") };
        let mut state = State::default();
        let mut record = AppRecord::new("hello".parse().unwrap(), Source::Local);
        record.accepted = Some(Accepted {
            payload: payload.as_slice().into(),
            digest: Digest::of(payload),
            document: Arc::new(*document),
            warnings: Vec::new(),
        });
        state.apps.insert(record.name.clone(), record);
        state
    }

    #[tokio::test]
    async fn a_zone_is_found_once_its_database_is_installed_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut almanac = Almanac::new(ZoneFiles::new(dir.path()));
        let (state, mut now) = (state(), Moment::default());
        almanac.refresh(&state, now).await;
        assert_eq!(almanac.zones.of("Europe/Berlin"), None);

        fs::create_dir(dir.path().join("Europe")).unwrap();
        fs::write(dir.path().join("Europe/Berlin"), BERLIN).unwrap();
        almanac.refresh(&state, now).await;
        assert_eq!(almanac.zones.of("Europe/Berlin"), None, "it was looked for a moment ago");
        now = now.after(RESYNC);
        almanac.refresh(&state, now).await;
        assert!(almanac.zones.of("Europe/Berlin").is_some());

        fs::remove_file(dir.path().join("Europe/Berlin")).unwrap();
        almanac.check_at = Moment::default(); // as a new document does
        almanac.refresh(&state, now).await;
        assert!(almanac.zones.of("Europe/Berlin").is_some(), "what is known is not read again");

        almanac.check_at = Moment::default();
        almanac.refresh(&State::default(), now).await;
        assert_eq!(almanac.zones, Zones::default(), "what nobody names is not kept");
    }
}
