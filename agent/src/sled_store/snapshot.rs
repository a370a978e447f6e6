//! `desired.snapshot`: the copy that the store is rebuilt from.
//!
//! A line of magic, the sha256 of what follows, and a versioned `Snapshot`. Written whole under another name and then
//! renamed, so that at any moment one good copy stands.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use domain::model::Digest;
use domain::state::State;
use skerry_proto::record::Snapshot;
use tracing::warn;

use super::record::{
    app_message, environment_message, job_message, read_app, read_device, read_environment,
    read_job,
};
use super::seal::{Reader, Seal};
use super::{device_message, sync_dir, unversioned, versioned};

/// Its name in the folder of the state.
pub(super) const NAME: &str = "desired.snapshot";

const MAGIC: &[u8] = b"skerry snapshot\n";

/// Writes the next copy beside the one that stands; it counts once it is published.
pub(super) fn stage(path: &Path, state: &State, sequence: u64, seal: &Seal) -> io::Result<()> {
    let body = versioned(&Snapshot {
        sequence,
        device: Some(device_message(&state.device)),
        environments: state.environments.values().map(environment_message).collect(),
        apps: state.apps.values().map(|app| app_message(app, seal)).collect(),
        jobs: state.jobs.values().map(|job| job_message(job, seal)).collect(),
    });
    let next = path.with_extension("next");
    let mut file = File::create(&next)?;
    file.write_all(MAGIC)?;
    file.write_all(Digest::of(&body).to_string().as_bytes())?;
    file.write_all(b"\n")?;
    file.write_all(&body)?;
    file.sync_all()
}

/// Puts the staged copy in the place of the one that stands; once this returns it is durable.
pub(super) fn publish(path: &Path) -> io::Result<()> {
    fs::rename(path.with_extension("next"), path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// The state and sequence number of a good copy; none where there is none, or it is damaged.
pub(super) fn read(path: &Path, reader: &mut Reader<'_>) -> Option<(State, u64)> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "the snapshot cannot be read");
            return None;
        }
    };
    let state = decode(&bytes, reader);
    if state.is_none() {
        warn!(path = %path.display(), "the snapshot is damaged");
    }
    state
}

/// What the copy in `path` says of itself, without the keys: whether it is whole, and the clock's floor.
pub(super) fn inspect(path: &Path) -> io::Result<Option<u64>> {
    let bytes = fs::read(path)?;
    let floor = body(&bytes).and_then(unversioned::<Snapshot>);
    Ok(floor.map(|copy| copy.device.map(|device| device.clock_floor_secs).unwrap_or_default()))
}

/// What follows the digest, where it has that digest.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (digest, body) = (std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]);
    (Digest::of(body) == digest.parse().ok()?).then_some(body)
}

fn decode(bytes: &[u8], reader: &mut Reader<'_>) -> Option<(State, u64)> {
    let snapshot: Snapshot = unversioned(body(bytes)?)?;
    let mut state = State::default();
    for app in snapshot.apps.iter().filter_map(|app| read_app(app, reader)) {
        state.apps.insert(app.name.clone(), app);
    }
    for job in snapshot.jobs.iter().filter_map(|job| read_job(job, reader)) {
        state.jobs.insert(job.name.clone(), job);
    }
    for one in snapshot.environments.iter().filter_map(read_environment) {
        state.environments.insert(one.name.clone(), one);
    }
    state.device = snapshot.device.as_ref().map(read_device).unwrap_or_default();
    Some((state, snapshot.sequence))
}
