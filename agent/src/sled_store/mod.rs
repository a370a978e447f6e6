//! Durable state, in sled, with a copy beside it.
//!
//! ```text
//!   state/            sled: apps, jobs, environments, device, outbox   one record a key, one version byte a record
//!   desired.snapshot  the same but the outbox               one file, written anew after each change
//! ```
//!
//! Both carry one rising sequence number. At start the newer good one wins; a sled that will not open is moved aside
//! and rebuilt from the copy, so that the agent always starts. sled's own flush leaves metadata and the drive's cache
//! to chance, so each commit ends with an fsync of its file. Nothing is written while nothing changes.
//!
//! Values of secrets are sealed in both. A key that is lost costs the values, and nothing else; they are kept as they are
//! for as long as they are wanted, and come back with it.

mod record;
mod seal;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use domain::reason::Reason;
use domain::replica::Trouble;
use domain::state::{Accepted, AppRecord, Changes, JobRecord, State, StoredSecret};
use prost::Message;
use skerry_proto::record::Device;
use tracing::warn;

use self::seal::{Reader, Seal};
use crate::keys::RecordKey;
use crate::report::Chain;
use crate::space::Space;
use crate::store::{Loaded, Store, StoreError};

/// Pages kept in memory. The whole state of a board is smaller.
const CACHE_BYTES: u64 = 1 << 20;

/// What is left free on the disk: a store that fills the last block cannot even say so.
const RESERVE_BYTES: u64 = 1 << 20;

/// A rebuilt store may have forgotten connects: its epoch jumps ahead of any that were forgotten.
const EPOCH_JUMP: u64 = 1000;

/// Where the sequence number stands in sled.
const SEQUENCE_KEY: &[u8] = b"sequence";
const DEVICE_KEY: &[u8] = b"device";

/// The store. Its calls block on the disk: run them where blocking is allowed.
#[derive(Debug)]
pub struct SledStore {
    dir: PathBuf,
    trees: Option<Trees>,
    sequence: u64,
    /// What the copy holds, kept to be written anew.
    state: State,
    seal: Seal,
}

#[derive(Debug)]
struct Trees {
    db: sled::Db,
    apps: sled::Tree,
    jobs: sled::Tree,
    environments: sled::Tree,
    device: sled::Tree,
    outbox: sled::Tree,
}

/// Looks at the copy in `dir` beside a running agent: the clock's floor that it remembers, or none where it is damaged.
pub fn inspect_copy(dir: &Path) -> io::Result<Option<u64>> {
    snapshot::inspect(&dir.join(snapshot::NAME))
}

impl SledStore {
    /// Opens the store in `dir`, or rebuilds it. Fails only where the folder cannot be used at all. The first of `keys`
    /// seals, the others open what they sealed before.
    pub fn open(dir: &Path, keys: &[RecordKey]) -> Result<(Self, Loaded), StoreError> {
        let mut seal = Seal::new(keys);
        let made = fs::create_dir_all(dir).and_then(|()| sync_dir(dir));
        made.map_err(|error| failed("make the folder", dir, &error))?;
        let mut of_copy = Reader::new(&seal);
        let copy = snapshot::read(&dir.join(snapshot::NAME), &mut of_copy);
        let (trees, rebuilt) = match open_trees(dir) {
            Ok(trees) => (trees, None),
            // No room is no damage: what is there is good, and opens when there is some.
            Err(error) if is_full(&error) => return Err(full_or_failed(&error)),
            Err(damage) => {
                let aside = move_aside(dir)?;
                warn!(damage, aside = %aside.display(), "the state store is rebuilt");
                let words = format!("{damage}; the damaged store is kept as {}", aside.display());
                let trees = open_trees(dir).map_err(|damage| full_or_failed(&damage))?;
                (trees, Some(words))
            }
        };
        let sequence = sequence(&trees.device);
        let mut reader = Reader::new(&seal);
        let Trees { apps, jobs, environments, device, outbox, .. } = &trees;
        let (mut state, outbox) =
            record::load(apps, jobs, environments, device, outbox, &mut reader);
        let copy = copy.filter(|(_, copied)| sequence < *copied);
        let Reader { lost, unopened, moved, .. } = if copy.is_some() { of_copy } else { reader };
        seal.unopened = unopened;
        let mut store = Self {
            dir: dir.to_owned(),
            trees: Some(trees),
            sequence,
            state: State::default(),
            seal,
        };
        if let Some((copied, copy_sequence)) = copy {
            state = copied;
            state.device.epoch += EPOCH_JUMP;
            store.sequence = copy_sequence;
            store.state = state.clone();
            store.commit(&everything(&state))?;
        } else if moved {
            // The first release kept values where the documents had them: they do not stay there.
            store.commit(&everything(&state))?;
        } else if rebuilt.is_some() {
            // Without a copy nothing is known of the connects before; they are left behind all the same.
            state.device.epoch += EPOCH_JUMP;
            let device = Some(state.device.clone());
            store.commit(&Changes { device, ..Changes::default() })?;
        }
        store.state = state.clone();
        Ok((store, Loaded { state, outbox, rebuilt, lost_secrets: lost }))
    }

    /// Opens the store anew if an error broke it.
    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.trees.is_none() {
            let trees = open_trees(&self.dir).map_err(|damage| full_or_failed(&damage))?;
            self.trees = Some(trees);
        }
        Ok(())
    }

    fn write(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let desired = !changes.apps.is_empty()
            || !changes.jobs.is_empty()
            || !changes.environments.is_empty();
        let sequence = self.sequence + u64::from(desired);
        let path = self.dir.join(snapshot::NAME);
        let mut state = self.state.clone();
        apply(&mut state, changes);
        if desired {
            // What takes space comes first: a full disk then stops the change before a later start could see it.
            snapshot::stage(&path, &state, sequence, &self.seal)
                .map_err(|error| failed("write", &path, &error))?;
        }
        let db_file = self.dir.join("state").join("db");
        self.reopen()?;
        let trees = self.trees.as_ref().ok_or_else(|| full_or_failed("the store is closed"))?;
        let written = put(trees, changes, sequence, &self.seal)
            .and_then(|()| trees.db.flush().map(|_| ()))
            .map_err(|error| error.to_string())
            .and_then(|()| sync_file(&db_file).map_err(|error| error.to_string()));
        if let Err(error) = written {
            // sled refuses everything after an error of the disk: it is opened anew for the next try.
            self.trees = None;
            return Err(full_or_failed(&error));
        }
        (self.sequence, self.state) = (sequence, state);
        changes.apps.iter().for_each(|app| self.seal.forget(&record::owner_app(app)));
        changes.jobs.iter().for_each(|job| self.seal.forget(&record::owner_job(job)));
        if desired {
            snapshot::publish(&path).map_err(|error| failed("rename", &path, &error))?;
        }
        Ok(())
    }
}

fn everything(state: &State) -> Changes {
    Changes {
        apps: state.apps.values().cloned().collect(),
        jobs: state.jobs.values().cloned().collect(),
        environments: state.environments.values().cloned().collect(),
        device: Some(state.device.clone()),
        ..Changes::default()
    }
}

fn apply(state: &mut State, changes: &Changes) {
    let apps = changes.apps.iter().map(|app| (app.name.clone(), app.clone()));
    state.apps.extend(apps);
    let jobs = changes.jobs.iter().map(|job| (job.name.clone(), job.clone()));
    state.jobs.extend(jobs);
    let environments = changes.environments.iter().map(|one| (one.name.clone(), one.clone()));
    state.environments.extend(environments);
    if let Some(device) = &changes.device {
        state.device = device.clone();
    }
}

impl Store for SledStore {
    fn commit(&mut self, changes: &Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        check_space(&self.dir, changes)?;
        self.write(changes)
    }
}

fn put(trees: &Trees, changes: &Changes, sequence: u64, seal: &Seal) -> sled::Result<()> {
    let mut apps = sled::Batch::default();
    for app in &changes.apps {
        apps.insert(app.name.as_str(), record::app(app, seal));
    }
    trees.apps.apply_batch(apps)?;
    let mut jobs = sled::Batch::default();
    for job in &changes.jobs {
        jobs.insert(job.name.as_str(), record::job(job, seal));
    }
    trees.jobs.apply_batch(jobs)?;
    let mut environments = sled::Batch::default();
    for one in &changes.environments {
        environments.insert(one.name.as_str(), record::environment(one));
    }
    trees.environments.apply_batch(environments)?;
    let mut outbox = sled::Batch::default();
    for event in &changes.events {
        outbox.insert(&event.id.to_be_bytes(), record::event(event));
    }
    for id in &changes.delivered {
        outbox.remove(&id.to_be_bytes());
    }
    trees.outbox.apply_batch(outbox)?;
    let mut device = sled::Batch::default();
    if let Some(counters) = &changes.device {
        device.insert(DEVICE_KEY, record::device(counters));
    }
    device.insert(SEQUENCE_KEY, &sequence.to_be_bytes());
    trees.device.apply_batch(device)
}

/// Opens sled; a panic inside it on a damaged file is an error like any other.
fn open_trees(dir: &Path) -> Result<Trees, String> {
    let open = || -> sled::Result<Trees> {
        let db = sled::Config::new()
            .path(dir.join("state"))
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None)
            .use_compression(false)
            .open()?;
        Ok(Trees {
            apps: db.open_tree("apps")?,
            jobs: db.open_tree("jobs")?,
            environments: db.open_tree("environments")?,
            device: db.open_tree("device")?,
            outbox: db.open_tree("outbox")?,
            db,
        })
    };
    let opened = catch_unwind(AssertUnwindSafe(open))
        .map_err(|_| "the store is damaged beyond reading".to_owned())?
        .map_err(|error| Chain(&error).to_string())?;
    sync_dir(&dir.join("state")).map_err(|error| error.to_string())?;
    Ok(opened)
}

fn move_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    let from = dir.join("state");
    // A board that damages more than these stores has no use for one more.
    let mut names = (1..100).map(|n| dir.join(format!("state.damaged.{n}")));
    let aside = names.find(|path| !path.exists()).unwrap_or_else(|| dir.join("state.damaged"));
    fs::rename(&from, &aside)
        .and_then(|()| sync_dir(dir))
        .map_err(|error| failed("move the damaged store aside", &from, &error))?;
    Ok(aside)
}

fn sequence(device: &sled::Tree) -> u64 {
    let stored = device.get(SEQUENCE_KEY).ok().flatten();
    stored.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// Refuses what the disk has no room for before sled meets the end of it: sled does not forgive that.
fn check_space(dir: &Path, changes: &Changes) -> Result<(), StoreError> {
    let bytes = size(changes);
    let free =
        Space::at(dir).map_err(|error| failed("look at the free space", dir, &error))?.free_bytes;
    // Twice in sled (its log is rewritten in pieces), twice in the copy (the old one stands until the new one does).
    let needed = RESERVE_BYTES + 4 * bytes;
    if needed <= free {
        return Ok(());
    }
    let details = format!("{} has {free} bytes free and {needed} are needed", dir.display());
    Err(StoreError(Trouble { reason: Reason::StorageFull, details }))
}

/// The bytes of what documents and people gave; all else is small, and lies in the reserve.
fn size(changes: &Changes) -> u64 {
    fn document<D>(accepted: Option<&Accepted<D>>) -> usize {
        accepted.map_or(0, |accepted| accepted.payload.len())
    }
    let secrets = |secrets: &BTreeMap<String, StoredSecret>| {
        secrets.values().map(|secret| secret.value.0.len()).sum::<usize>()
    };
    let app = |app: &AppRecord| {
        let revisions = app.revisions.iter();
        let templates = revisions.map(|one| one.canonical.len() + document(one.held.as_ref()));
        document(app.accepted.as_ref()) + templates.sum::<usize>() + secrets(&app.secrets)
    };
    let job = |job: &JobRecord| document(job.accepted.as_ref()) + secrets(&job.secrets);
    let apps: usize = changes.apps.iter().map(app).sum();
    let jobs: usize = changes.jobs.iter().map(job).sum();
    let environments = changes.environments.iter().map(|one| document(one.accepted.as_ref()));
    (apps + jobs + environments.sum::<usize>()) as u64
}

fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_data()
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> StoreError {
    let details = format!("cannot {doing} {}: {error}", path.display());
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let reason = if full { Reason::StorageFull } else { Reason::StorageFailed };
    StoreError(Trouble { reason, details })
}

fn is_full(error: &str) -> bool {
    error.contains("No space left") || error.contains("StorageFull")
}

fn full_or_failed(error: &str) -> StoreError {
    let reason = if is_full(error) { Reason::StorageFull } else { Reason::StorageFailed };
    StoreError(Trouble { reason, details: error.to_owned() })
}

/// One version byte, then the message.
const VERSION: u8 = 1;

fn versioned(message: &impl Message) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    message.encode(&mut bytes).expect("a growing buffer takes any message");
    bytes
}

fn unversioned<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    match bytes.split_first() {
        Some((&VERSION, message)) => M::decode(message).ok(),
        Some(_) | None => None,
    }
}

/// The counters in their stored shape.
fn device_message(device: &domain::state::DeviceRecord) -> Device {
    Device {
        epoch: device.epoch,
        next_event: device.next_event,
        dropped_events: device.dropped_events,
        clock_floor_secs: device.clock_floor_secs,
    }
}
