//! Where logs lie: `{log_dir}/<app>/<revision>/<replica>/<container>.log`, and how long.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use domain::model::{AppName, ReplicaName, RevisionName};

/// The current file of a container.
pub fn container_log(
    log_dir: &Path,
    app: &AppName,
    revision: &RevisionName,
    replica: &ReplicaName,
    container: &str,
) -> PathBuf {
    log_dir
        .join(app.as_str())
        .join(revision.as_str())
        .join(replica.as_str())
        .join(format!("{container}.log"))
}

/// The `n`th older file beside `current`.
pub(super) fn rotated(current: &Path, n: u32) -> PathBuf {
    let mut name = OsString::from(current);
    name.push(format!(".{n}"));
    name.into()
}

/// Folders and their names below `folder`, in order; none where it cannot be read.
pub(super) fn folders(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    found.sort();
    found
}

/// Removes the logs of an app's stopped replicas but the last `keep`: a crash loop must not fill the board, and the
/// last words of what failed must be there to read.
pub fn prune(log_dir: &Path, app: &AppName, keep: usize, lives: impl Fn(&str) -> bool) {
    let app_dir = log_dir.join(app.as_str());
    let mut stopped: Vec<(SystemTime, PathBuf)> = folders(&app_dir)
        .iter()
        .flat_map(|(_, revision)| folders(revision))
        .filter(|(replica, _)| !lives(replica))
        .map(|(_, folder)| (last_write(&folder), folder))
        .collect();
    stopped.sort();
    let old = stopped.len().saturating_sub(keep);
    for (_, folder) in &stopped[..old] {
        let _ = fs::remove_dir_all(folder);
        // The revision's folder goes with its last replica; one with others in it stays.
        let _ = folder.parent().map(fs::remove_dir);
    }
}

fn last_write(folder: &Path) -> SystemTime {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter_map(|file| file.metadata().ok()?.modified().ok())
        .max()
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
