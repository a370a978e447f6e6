//! Which images stay on the board, and which go: what is needed never does, the rest goes by age and when the disk fills.
//!
//! ```text
//!   needed, preloaded ──────────────────────────────────▶ stays
//!   the rest ─┬─ pulled ──── too old, asked, no room ───▶ goes, the longest unneeded first
//!             └─ imported ── no room, and too old ──────▶ goes, after those
//! ```
//!
//! One at a time: layers are shared, so what an image frees is known once it is gone. Whoever asks measures the disk in
//! between, and asks again.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{Digest, Moment, WallTime};
use crate::state::{AppRecord, RevisionRecord, State};

/// Dates before this one (2025-01-01) are those of a board that does not know the time yet: nothing ages by them.
const PLAUSIBLE: WallTime = WallTime(Duration::from_hours(482_136));

/// The images that some app or job needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Bits that revisions were resolved to.
    pub digests: BTreeSet<Digest>,
    /// References as templates give them, resolved or not.
    pub references: BTreeSet<String>,
}

impl Needs {
    /// What is needed of all that is desired: every image of each active revision, on its way or serving, of the last
    /// one before it that served, and of each job.
    pub fn of(state: &State) -> Self {
        let mut needs = Self::default();
        for record in state.apps.values().filter(|record| !record.removed) {
            let active = record.revisions.iter().filter(|revision| revision.active);
            active.chain(previous(record)).for_each(|revision| needs.add(revision));
        }
        let jobs = state.jobs.values().filter(|job| !job.removed);
        for job in jobs.filter_map(|job| job.accepted.as_ref()) {
            needs.references.extend(job.document.template.images().map(str::to_owned));
        }
        needs
    }

    fn add(&mut self, revision: &RevisionRecord) {
        self.digests.extend(revision.images.values().map(|image| image.digest));
        self.references.extend(revision.template.images().map(str::to_owned));
    }

    /// The same, with references spelled as images are named.
    #[must_use]
    pub fn named(self, name: impl Fn(&str) -> Option<String>) -> Self {
        let references = self.references.iter().filter_map(|reference| name(reference)).collect();
        Self { references, ..self }
    }

    /// Whether an image is needed.
    pub fn holds(&self, image: &Held) -> bool {
        self.digests.contains(&image.digest)
            || image.names.iter().any(|name| self.references.contains(name))
    }
}

/// The newest revision that served and was retired: whoever goes back goes to it.
fn previous(record: &AppRecord) -> Option<&RevisionRecord> {
    record.revisions.iter().rev().find(|revision| !revision.active && revision.has_served())
}

/// An image on the board, under all its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its bits.
    pub digest: Digest,
    /// What it is called.
    pub names: Vec<String>,
    /// Where it came from.
    pub origin: Origin,
    /// Since when nobody needs it; none where it is needed, or was when this was last looked at.
    pub unneeded_since: Option<WallTime>,
}

/// Where an image came from, which says how it could be had again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// From a registry.
    Pulled,
    /// From an archive that somebody brought.
    Imported,
    /// From an archive that lies on the board: gone, it would only be imported again.
    Preloaded,
}

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// So long after nobody needed it any more; zero is never.
    pub max_age: Duration,
    /// Of the disk, in per cent: from more in use than this on, room is made.
    pub high_percent: u8,
    /// Until no more than this is in use.
    pub low_percent: u8,
}

/// The file system that images lie on, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disk {
    /// In use and free together.
    pub total: u64,
    /// What may still be written.
    pub free: u64,
}

impl Disk {
    /// What is free where so much is in use.
    fn free_at(self, percent: u8) -> u64 {
        self.total / 100 * u64::from(100_u8.saturating_sub(percent))
    }
}

impl Rules {
    /// The bytes that have to be free before room-making ends, where somebody waits for `room` of them; 0 where nothing
    /// need be made.
    pub fn goal(self, disk: Disk, room: u64) -> u64 {
        let full = disk.free < disk.free_at(self.high_percent);
        let relief = if full { disk.free_at(self.low_percent) } else { 0 };
        let short = if disk.free < room { room } else { 0 };
        relief.max(short)
    }
}

/// An order to look through the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clearing {
    /// What stays.
    pub needs: Needs,
    /// When that was written down: what somebody asked for since then stays too.
    pub as_of: Moment,
    /// How much goes.
    pub extent: Extent,
}

/// How much goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What is too old, and what there is no room for.
    Routine,
    /// Besides, whatever was pulled and is not needed: a person asks.
    Unneeded,
}

/// Why an image went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nobody had needed it for too long.
    Age,
    /// The disk had no room.
    Pressure,
    /// A person asked.
    Asked,
}

impl Cause {
    /// For people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Pressure => "pressure",
            Self::Asked => "asked",
        }
    }
}

/// What came of a clearing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleared {
    /// Images that went, in order.
    pub removed: Vec<Removed>,
    /// Bytes that the disk had more of afterwards; what others wrote meanwhile is not told apart.
    pub freed: u64,
}

/// An image that went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// What it was called.
    pub name: String,
    /// Its bits.
    pub digest: Digest,
    /// Why.
    pub cause: Cause,
}

/// The look at one moment of a clearing.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// The date.
    pub now: WallTime,
    /// Bytes that are free now.
    pub free: u64,
    /// Bytes that shall be free: [`Rules::goal`].
    pub goal: u64,
    /// How much goes.
    pub extent: Extent,
}

/// The image that goes next, if any does.
pub fn next<'a>(
    held: &'a [Held],
    needs: &Needs,
    rules: Rules,
    look: Look,
) -> Option<(&'a Held, Cause)> {
    let mut free_to_go: Vec<&Held> = held
        .iter()
        .filter(|image| image.origin != Origin::Preloaded && !needs.holds(image))
        .collect();
    // What was needed until just now goes last.
    let since = |image: &Held| image.unneeded_since.unwrap_or(look.now);
    free_to_go.sort_by_key(|image| (image.origin, since(image), image.digest));
    free_to_go.into_iter().find_map(|image| {
        let old = is_old(image, rules, look.now);
        let cause = match image.origin {
            Origin::Pulled if old => Cause::Age,
            Origin::Pulled if look.extent == Extent::Unneeded => Cause::Asked,
            Origin::Pulled if look.free < look.goal => Cause::Pressure,
            // Nobody knows when somebody comes by with it again.
            Origin::Imported if old && look.free < look.goal => Cause::Pressure,
            Origin::Pulled | Origin::Imported | Origin::Preloaded => return None,
        };
        Some((image, cause))
    })
}

fn is_old(image: &Held, rules: Rules, now: WallTime) -> bool {
    let Some(since) = image.unneeded_since else { return false };
    !rules.max_age.is_zero() && rules.max_age <= now.0.saturating_sub(since.0)
}

/// What is to be written down of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// Nobody needs it, from this date on.
    Unneeded(WallTime),
    /// It is needed again.
    Needed,
}

/// What is to be written down of an image, where that changed.
pub fn note(image: &Held, needs: &Needs, now: WallTime) -> Option<Note> {
    match (needs.holds(image), image.unneeded_since) {
        (true, Some(_)) => Some(Note::Needed),
        // A board without a clock of its own begins in 1970, and nothing is that old.
        (false, None) if PLAUSIBLE <= now => Some(Note::Unneeded(now)),
        (true | false, _) => None,
    }
}

#[cfg(test)]
mod tests;
