//! What the device remembers: for each app what is desired and how far it has come. Written down before it is acted on.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::document::{
    AppDocument, EnvironmentDocument, Finding, JobDocument, RevisionsMode, ScaleTarget, Storage,
    Template, TrafficEntry,
};
use crate::event::Event;
use crate::model::{AppName, Digest, EnvironmentName, Moment, RevisionName};
use crate::replica::{ResolvedImage, Secret, Trouble};
use crate::status::{Phase, Source};

/// All that is durable, but the outbox.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State {
    /// Apps, the removed ones too: their tombstones keep generation and digests.
    pub apps: BTreeMap<AppName, AppRecord>,
    /// Jobs.
    pub jobs: BTreeMap<AppName, JobRecord>,
    /// What documents said of environments, tombstones too.
    pub environments: BTreeMap<EnvironmentName, EnvironmentRecord>,
    /// The device's own counters.
    pub device: DeviceRecord,
}

/// The device's own counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceRecord {
    /// Rises by one with each connect to the control plane.
    pub epoch: u64,
    /// The number of the next event.
    pub next_event: u64,
    /// Events dropped since the outbox last had room.
    pub dropped_events: u64,
    /// The latest date ever written down, in seconds since 1970.
    pub clock_floor_secs: u64,
}

/// An app.
#[derive(Debug, Clone, PartialEq)]
pub struct AppRecord {
    /// Its name.
    pub name: AppName,
    /// Who set it.
    pub source: Source,
    /// The highest `skerry.generation` seen; 0 if never given.
    pub generation: u64,
    /// The document in force; none for a tombstone, and for an app whose first document was refused.
    pub accepted: Option<Accepted<AppDocument>>,
    /// A person stopped it.
    pub stopped: bool,
    /// Over the template's scale.
    pub scale: ScaleTarget,
    /// Oldest first.
    pub revisions: Vec<RevisionRecord>,
    /// Counts the revisions that were given no suffix.
    pub next_revision: u64,
    /// The digest last taken from each source, so that a repeat changes nothing.
    pub received: BTreeMap<Source, Digest>,
    /// It was removed, and this is its tombstone.
    pub removed: bool,
    /// Values of secrets by name, from the document or from a person.
    pub secrets: BTreeMap<String, StoredSecret>,
    /// A split that a person set over the document's; a new document ends it.
    pub traffic: Option<Vec<TrafficEntry>>,
    /// Labels, and the revisions they name.
    pub labels: BTreeMap<String, RevisionName>,
    /// Labels on their way to a revision that must become ready first; whoever has one keeps it until then.
    pub moving: BTreeMap<String, RevisionName>,
    /// Digests of templates that failed, oldest first: refused until forced.
    pub refused: Vec<Digest>,
    /// TCP ports that it claims, with a number that is smaller for who came first.
    pub ports: BTreeMap<u16, u64>,
}

/// The value of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSecret {
    /// The value.
    pub value: Secret,
    /// A person set it: it stays, though a document does not list it.
    pub by_hand: bool,
}

/// A document in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted<D> {
    /// Its bytes, as received; where values of secrets stood in it, a form without them.
    pub payload: Arc<[u8]>,
    /// The digest of the bytes as received.
    pub digest: Digest,
    /// What they say.
    pub document: Arc<D>,
    /// What of it is not acted on.
    pub warnings: Vec<Finding>,
}

impl<D> Accepted<D> {
    /// The same, of the kind of document that it turned out to be.
    pub fn of<T: Clone>(&self, document: &T) -> Accepted<T> {
        Accepted {
            payload: Arc::clone(&self.payload),
            digest: self.digest,
            document: Arc::new(document.clone()),
            warnings: self.warnings.clone(),
        }
    }
}

/// A revision: an immutable snapshot of a template.
#[derive(Debug, Clone, PartialEq)]
pub struct RevisionRecord {
    /// Its name.
    pub name: RevisionName,
    /// What it is a snapshot of.
    pub template: Arc<Template>,
    /// Its canonical form, as it is stored: made once, not with every write.
    pub canonical: Arc<str>,
    /// The digest of that text.
    pub digest: Digest,
    /// How far it has come.
    pub phase: Phase,
    /// It may have replicas.
    pub active: bool,
    /// It was once ready.
    pub was_ready: bool,
    /// The bits that its references stood for when it was staged, by reference.
    pub images: BTreeMap<String, ResolvedImage>,
    /// When it came to its phase; none where nobody wrote it down.
    pub entered: Option<Entered>,
    /// The document whose configuration holds for this revision, where that is not the one in force: a newer one takes
    /// effect with its own revision's switch, and is undone with it.
    pub held: Option<Accepted<AppDocument>>,
    /// Why it was rolled back.
    pub failure: Option<Trouble>,
    /// How often a person had its replicas made anew.
    pub restarts: u64,
    /// Its references are to be resolved anew before another replica starts; until then `images` are the old bits.
    pub refetch: bool,
    /// What its scale rules came to when they were last looked at; never stored. None while nothing is scaled.
    pub scaled: Option<u32>,
    /// Whether its fall-back keeps a replica while it is on trial.
    pub standby: Standby,
}

/// The replica that stands by for a revision on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standby {
    /// It is there, or comes.
    #[default]
    Kept,
    /// Memory was low: it is gone, and comes no more in this trial.
    GivenUp,
}

impl RevisionRecord {
    /// What a replica of it carries, so that one made before the last restart is told apart.
    pub fn mark(&self) -> Digest {
        self.mark_of(self.restarts)
    }

    /// Whether a replica was made before the last restart.
    pub fn is_earlier_mark(&self, mark: Digest) -> bool {
        /// Restarts that may overlap: more of them in the time that one takes is nobody's wish.
        const OVERLAP: usize = 8;
        (0..self.restarts).rev().take(OVERLAP).any(|count| self.mark_of(count) == mark)
    }

    fn mark_of(&self, restarts: u64) -> Digest {
        match restarts {
            0 => self.digest,
            _ => Digest::of(format!("{} {restarts}", self.digest).as_bytes()),
        }
    }

    /// It waits for its images, for its turn, or to become ready.
    pub fn is_candidate(&self) -> bool {
        self.active && matches!(self.phase, Phase::Fetching | Phase::Staged | Phase::Starting)
    }

    /// It has been ready, and its template stands.
    pub fn has_served(&self) -> bool {
        self.was_ready && self.phase != Phase::RolledBack
    }

    /// It goes its way from the beginning.
    pub fn begin(&mut self) {
        self.active = true;
        self.was_ready = false;
        self.failure = None;
        self.entered = None;
        self.standby = Standby::Kept;
        self.refetch = !self.images.is_empty();
        self.phase = Phase::Fetching;
    }
}

/// A moment of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// The boot.
    pub boot: String,
    /// Since it began.
    pub at: Moment,
}

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// Its name.
    pub name: AppName,
    /// Who set it.
    pub source: Source,
    /// The highest `skerry.generation` seen; 0 if never given.
    pub generation: u64,
    /// The document in force.
    pub accepted: Option<Accepted<JobDocument>>,
    /// The digest last taken from each source.
    pub received: BTreeMap<Source, Digest>,
    /// It was removed, and this is its tombstone.
    pub removed: bool,
    /// Values of secrets by name.
    pub secrets: BTreeMap<String, StoredSecret>,
}

/// An environment, as far as a document spoke of it.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvironmentRecord {
    /// Its name.
    pub name: EnvironmentName,
    /// Who set it.
    pub source: Source,
    /// The highest `skerry.generation` seen; 0 if never given.
    pub generation: u64,
    /// The document in force.
    pub accepted: Option<Accepted<EnvironmentDocument>>,
    /// The digest last taken from each source.
    pub received: BTreeMap<Source, Digest>,
    /// Its document was taken back, and this is its tombstone.
    pub removed: bool,
}

impl EnvironmentRecord {
    /// The storage of this name.
    pub fn storage(&self, name: &str) -> Option<&Storage> {
        self.accepted.as_ref()?.document.storage(name)
    }
}

/// What is to be made durable in one go.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Apps as they are from now on.
    pub apps: Vec<AppRecord>,
    /// Jobs as they are from now on.
    pub jobs: Vec<JobRecord>,
    /// Environments as they are from now on.
    pub environments: Vec<EnvironmentRecord>,
    /// The counters as they are from now on.
    pub device: Option<DeviceRecord>,
    /// Events that enter the outbox.
    pub events: Vec<Event>,
    /// Events that leave it.
    pub delivered: Vec<u64>,
}

impl Changes {
    /// Nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl AppRecord {
    /// A record of an app that nothing is known of.
    pub fn new(name: AppName, source: Source) -> Self {
        Self {
            name,
            source,
            generation: 0,
            accepted: None,
            stopped: false,
            scale: ScaleTarget::default(),
            revisions: Vec::new(),
            next_revision: 1,
            received: BTreeMap::new(),
            removed: false,
            secrets: BTreeMap::new(),
            traffic: None,
            labels: BTreeMap::new(),
            moving: BTreeMap::new(),
            ports: BTreeMap::new(),
            refused: Vec::new(),
        }
    }

    /// The document in force.
    pub fn document(&self) -> Option<&AppDocument> {
        self.accepted.as_ref().map(|accepted| &*accepted.document)
    }

    /// The newest revision.
    pub fn latest(&self) -> Option<&RevisionRecord> {
        self.revisions.last()
    }

    /// The newest revision that was ever ready and is still active: in Single mode it has the traffic.
    pub fn serving(&self) -> Option<&RevisionRecord> {
        self.revisions.iter().rev().find(|revision| revision.active && revision.was_ready)
    }

    /// The newest active revision beside `revision` that was ever committed: traffic goes back to it.
    pub fn fallback_of(&self, revision: &RevisionName) -> Option<&RevisionRecord> {
        let stands = |known: &&RevisionRecord| {
            known.active && known.phase == Phase::Committed && known.name != *revision
        };
        self.revisions.iter().rev().find(stands)
    }

    /// Gives a label to a revision, once it is ready; one that is not active is activated for it.
    pub fn give_label(&mut self, label: &str, name: &RevisionName) {
        let found = self.revisions.iter_mut().find(|revision| revision.name == *name);
        let stands = found.as_ref().is_some_and(|one| one.active && one.has_served());
        if let Some(revision) = found.filter(|revision| !revision.active) {
            let digest = revision.digest;
            revision.begin();
            self.refused.retain(|refused| *refused != digest);
        }
        if stands {
            self.moving.remove(label);
            self.labels.insert(label.to_owned(), name.clone());
        } else {
            self.moving.insert(label.to_owned(), name.clone());
        }
    }

    /// A revision by its name.
    pub fn revision(&self, name: &RevisionName) -> Option<&RevisionRecord> {
        self.revisions.iter().find(|revision| revision.name == *name)
    }

    /// The mode that the document asks for.
    pub fn mode(&self) -> RevisionsMode {
        self.document()
            .map_or(RevisionsMode::Single, |document| document.configuration.active_revisions_mode)
    }

    /// The document whose configuration holds for a revision.
    pub fn document_of<'a>(&'a self, revision: &'a RevisionRecord) -> Option<&'a AppDocument> {
        revision.held.as_ref().map(|held| &*held.document).or_else(|| self.document())
    }

    /// The document whose configuration is in force for the app as a whole: that of the revision that serves.
    pub fn in_force(&self) -> Option<&AppDocument> {
        match self.serving() {
            Some(serving) => self.document_of(serving),
            None => self.document(),
        }
    }

    /// How many replicas the app shall have, as the newest template that may run and what is set over it say.
    pub fn wanted_replicas(&self) -> Wanted {
        let newest = self.revisions.iter().rev().find(|revision| revision.active);
        newest.map_or(Wanted::None, |revision| self.wanted_of(revision))
    }

    /// How many replicas an active revision shall have: each scales by its own template.
    pub fn wanted_of(&self, revision: &RevisionRecord) -> Wanted {
        if self.removed || self.stopped || !revision.active {
            return Wanted::None;
        }
        if let Some(pinned) = self.scale.replicas {
            return if pinned == 0 { Wanted::PinnedToZero } else { Wanted::Some(pinned) };
        }
        match revision.scaled {
            Some(0) => Wanted::Asleep,
            Some(count) => Wanted::Some(count),
            // Nobody has looked at the load yet.
            None => Wanted::Some(self.bounds_of(revision).0.max(1)),
        }
    }

    /// The least and the most replicas that rules may ask for: the template's, and what is set over them.
    pub fn bounds_of(&self, revision: &RevisionRecord) -> (u32, u32) {
        let scale = &revision.template.scale;
        let max = self.scale.max_replicas.unwrap_or(scale.max_replicas).max(1);
        (self.scale.min_replicas.unwrap_or(scale.min_replicas).min(max), max)
    }

    /// The most replicas that the scale allows a revision.
    pub fn max_replicas(&self, revision: &RevisionRecord) -> u32 {
        let max = revision.template.scale.max_replicas;
        self.scale.replicas.or(self.scale.max_replicas).unwrap_or(max)
    }
}

/// How many replicas a revision shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: the app is stopped or removed.
    None,
    /// None, and no request wakes it.
    PinnedToZero,
    /// None for now: a request or an event wakes it.
    Asleep,
    /// This many.
    Some(u32),
}

impl Wanted {
    /// The number.
    pub fn count(self) -> u32 {
        match self {
            Self::None | Self::PinnedToZero | Self::Asleep => 0,
            Self::Some(count) => count,
        }
    }
}

impl std::fmt::Display for ScaleTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            ("minReplicas", self.min_replicas),
            ("maxReplicas", self.max_replicas),
            ("replicas", self.replicas),
        ];
        let given = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (n, (name, value)) in given.enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}
