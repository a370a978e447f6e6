//! What is fetched, and what is measured, and whether that goes well.

use std::sync::Arc;

use super::asks::Fate;
use super::deeds::trouble;
use super::run::Run;
use super::script::Point;
use crate::model::{AppName, Digest, ReplicaName};
use crate::reason::Reason;
use crate::replica::{FetchOrder, ResolvedImage, Survey};
use crate::rollout;

impl Run {
    pub(super) fn fetched(&mut self, order: &FetchOrder) {
        if self.falls_at(Point::Fetched) {
            return;
        }
        let revision = &order.revision;
        self.agent.fetching.remove(revision);
        let now = self.board.moment(self.now);
        let absent = |image: &String| match Fate::of(image) {
            Fate::Missing => true,
            Fate::Late => !self.calm,
            Fate::Good
            | Fate::Slow
            | Fate::Crashes
            | Fate::Deaf
            | Fate::Ailing
            | Fate::Fickle
            | Fate::InitFails
            | Fate::InitHangs => false,
        };
        if order.images.iter().any(absent) || self.fails() || self.now < self.troubles.disk {
            let failed = trouble(Reason::ImageNotFound);
            return self.agent.memory.fetch_failed(revision.clone(), failed, now);
        }
        self.agent.memory.fetched(revision);
        let mut apps = self.agent.state.apps.values_mut();
        let Some(record) = apps.find(|app| app.revision(revision).is_some()) else { return };
        let template = record.revision(revision).map(|known| Arc::clone(&known.template));
        let mut wanted = template.iter().flat_map(|template| &template.containers);
        if wanted.any(|container| !order.images.contains(&container.image)) {
            let failed = trouble(Reason::PullingImage);
            return self.agent.memory.fetch_failed(revision.clone(), failed, now);
        }
        let images = order.images.iter().map(image).collect();
        rollout::staged(record, revision, images, &self.agent.settings.boot, now);
    }

    pub(super) fn surveyed(&mut self, app: AppName, replicas: &[ReplicaName]) {
        self.agent.surveying.remove(&app);
        let now = self.board.moment(self.now);
        let there = replicas.iter().filter(|name| self.board.replicas.contains_key(*name));
        let survey = Survey {
            available: if self.now < self.troubles.memory { 0 } else { 4 << 30 },
            total: 8 << 30,
            working_sets: there.clone().map(|name| (name.clone(), 50 << 20)).collect(),
            locked_by: there.take(1).find(|_| self.now < self.troubles.locks).cloned(),
            ..Survey::default()
        };
        let failed = self.fails().then(|| trouble(Reason::ContainerdUnavailable));
        self.agent.memory.surveyed(app, failed.map_or(Ok(survey), Err), now);
    }
}

fn image(reference: &String) -> (String, ResolvedImage) {
    let digest = Digest::of(reference.as_bytes());
    let name = reference.clone();
    (name.clone(), ResolvedImage { reference: name.clone(), name, digest, warning: None })
}
