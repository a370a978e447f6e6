//! Images that nobody needs any more: dated, and removed when `domain::keep` says so.
//!
//! An image goes with all its names; containerd then collects what only it referred to, before the next one is thought
//! about. What runs keeps its layers by its own records, so nothing that runs can lose any.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::DateTime;
use containerd_client::services::v1 as services;
use containerd_client::tonic::Code;
use domain::keep::{
    self, Cleared, Clearing, Disk, Held, Look, Needs, Note, Origin, Removed, Rules,
};
use domain::model::{Moment, WallTime};
use tracing::{debug, info};

use super::name::ImageName;
use super::records::{self, Record, UNNEEDED};
use super::{Images, config};
use crate::clock::rfc3339;
use crate::containerd::connection::failed;
use crate::runtime::RuntimeError;

/// For containerd to collect what an image leaves: thousands of small files on a slow card.
const COLLECT: Duration = Duration::from_mins(5);

/// Names and digests that were asked for are remembered in this number: more than a board asks for between two rounds.
const ASKED_KEPT: usize = 256;

/// What was asked for, and when. Whoever holds it changes records, or looks at them, undisturbed.
#[derive(Debug, Default)]
pub(super) struct Asked(BTreeMap<String, Moment>);

impl Asked {
    /// Somebody is about to use this.
    pub(super) fn note(&mut self, what: String, now: Moment) {
        self.0.insert(what, now);
        if ASKED_KEPT < self.0.len() {
            let oldest = self.0.iter().min_by_key(|(_, at)| **at).map(|(what, _)| what.clone());
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
    }

    /// Somebody asked for an image since then: whoever wrote down what is needed did not know of it.
    fn since(&self, moment: Moment, image: &Held) -> bool {
        let digest = image.digest.to_string();
        let mut words = image.names.iter().chain([&digest]);
        words.any(|word| self.0.get(word).is_some_and(|at| moment <= *at))
    }
}

impl Images {
    /// Removes what nobody needs, as far as the order and the thresholds of `[images]` go.
    pub async fn clear(&self, order: Clearing) -> Result<Cleared, RuntimeError> {
        let _turn = self.turns.clear.lock().await;
        // What an archive on the board brings is known once it was looked at.
        self.preloaded().await;
        let parse =
            |reference: &str| reference.parse().ok().map(|name: ImageName| name.to_string());
        let needs = order.needs.named(parse);
        let mut held = self.held().await?;
        if let Err(error) = self.date(&mut held, &needs).await {
            // On a full disk nothing can be written down, and that is when images have to go.
            debug!(%error, "since when images are not needed is not written down");
        }
        let rules = rules(&self.config);
        // Where the disk cannot be measured nothing goes for want of room.
        let unknown = Disk { total: 0, free: u64::MAX };
        let before = self.disk().await?.unwrap_or(unknown);
        let goal = rules.goal(before, self.room_wanted(&needs));
        let mut cleared = Cleared::default();
        let mut disk = before;
        if disk.free < goal && self.end_useless_pulls(&needs).await? {
            disk = self.disk().await?.unwrap_or(unknown);
        }
        loop {
            let look = Look { now: self.clock.wall(), free: disk.free, goal, extent: order.extent };
            let Some((image, cause)) = keep::next(&held, &needs, rules, look) else { break };
            let image = image.clone();
            held.retain(|other| other.digest != image.digest);
            if !self.remove(&image, order.as_of).await? {
                continue;
            }
            disk = self.disk().await?.unwrap_or(unknown);
            let name = image.names.first().cloned().unwrap_or_default();
            info!(image = name, digest = %image.digest, cause = cause.word(), "image removed");
            cleared.removed.push(Removed { name, digest: image.digest, cause });
        }
        cleared.freed = disk.free.saturating_sub(before.free);
        Ok(cleared)
    }

    /// Bytes that must be free for the images that wait for room.
    fn room_wanted(&self, needs: &Needs) -> u64 {
        let mut shortages = self.shortages();
        shortages.retain(|name| needs.references.contains(name));
        shortages.most()
    }

    /// The images there are, each with all its names, those that people gave first.
    async fn held(&self) -> Result<Vec<Held>, RuntimeError> {
        let mut records = {
            // The two records of an image are written together, and never seen apart.
            let _asked = self.asked.lock().await;
            records::list(&self.connection).await?
        };
        records.sort_by_key(|record| (record.name.contains('@'), record.name.clone()));
        let preloads = self.preloads();
        let mut held: BTreeMap<_, Held> = BTreeMap::new();
        for record in records {
            let image = held.entry(record.target.digest).or_insert_with(|| Held {
                digest: record.target.digest,
                names: Vec::new(),
                origin: Origin::Pulled,
                unneeded_since: None,
            });
            let origin = if preloads.contains(&record.target.digest) {
                Origin::Preloaded
            } else if record.is_imported() {
                Origin::Imported
            } else {
                Origin::Pulled
            };
            // It came by more than one way: the one that is hardest to go again counts.
            image.origin = image.origin.max(origin);
            // One of its names is as good as new, and so is it.
            let since = unneeded_since(&record);
            let known = if image.names.is_empty() { since } else { image.unneeded_since };
            image.unneeded_since = known.zip(since).map(|(known, since)| known.max(since));
            image.names.push(record.name);
        }
        Ok(held.into_values().collect())
    }

    /// Writes down since when nobody needs an image, or that somebody does again.
    async fn date(&self, held: &mut [Held], needs: &Needs) -> Result<(), RuntimeError> {
        for image in held {
            let Some(note) = keep::note(image, needs, self.clock.wall()) else { continue };
            let (since, date) = match note {
                Note::Unneeded(since) => (Some(since), rfc3339(since)),
                Note::Needed => (None, String::new()),
            };
            for name in &image.names {
                records::label(&self.connection, name.clone(), UNNEEDED, date.clone()).await?;
            }
            image.unneeded_since = since;
        }
        Ok(())
    }

    /// Removes an image under all its names, and waits until the disk is rid of it. False if somebody asked for it
    /// meanwhile, and it stays.
    async fn remove(&self, image: &Held, as_of: Moment) -> Result<bool, RuntimeError> {
        let asked = self.asked.lock().await;
        if asked.since(as_of, image) {
            return Ok(false);
        }
        let mut names = image.names.iter().peekable();
        while let Some(name) = names.next() {
            let sync = names.peek().is_none();
            let request = services::DeleteImageRequest { name: name.clone(), sync, target: None };
            let mut request = self.connection.request(request);
            request.set_timeout(COLLECT);
            match self.connection.client().await?.images().delete(request).await {
                Ok(_) => (),
                Err(status) if status.code() == Code::NotFound => (),
                Err(status) => return Err(failed("remove an image", &status)),
            }
        }
        drop(asked);
        self.forget_digest(image.digest);
        Ok(true)
    }

    /// Somebody is about to use an image of this name, or these bits: it stays, whatever was written down before.
    pub(super) async fn ask_for(&self, what: String) {
        self.asked.lock().await.note(what, self.clock.now());
    }
}

fn unneeded_since(record: &Record) -> Option<WallTime> {
    let date = DateTime::parse_from_rfc3339(record.labels.get(UNNEEDED)?).ok()?;
    let seconds = u64::try_from(date.timestamp()).ok()?;
    Some(WallTime(Duration::from_secs(seconds)))
}

fn rules(config: &config::Images) -> Rules {
    Rules {
        max_age: Duration::from_hours(config.gc_max_age_hours),
        high_percent: config.gc_high_percent,
        low_percent: config.gc_low_percent,
    }
}
