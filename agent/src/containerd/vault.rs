//! The files of Secret volumes. Each is replaced as a whole, because containers of the replica may be reading it.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use domain::document::{SecretItem, Volume, VolumeSource};
use domain::reason::Reason;
use domain::replica::{ReplicaOrder, Trouble};

/// All files of a replica's Secret volumes together: they lie in memory that is nobody's and cannot be swapped.
const MAX_BYTES: usize = 1 << 20;

/// What a file is called until it is whole.
const UNFINISHED: &str = ".new";

/// The files of one Secret volume: those that are chosen, or one for each secret.
pub(super) fn files<'a>(
    order: &'a ReplicaOrder,
    volume: &Volume,
    items: &'a [SecretItem],
) -> Result<BTreeMap<PathBuf, &'a str>, Trouble> {
    let chosen = items.iter().map(|item| (item.secret_ref.as_str(), item.path.as_str()));
    let all = order.secrets.keys().map(|name| (name.as_str(), name.as_str()));
    let wanted: Vec<_> = if items.is_empty() { all.collect() } else { chosen.collect() };
    let file = |(secret, path): (&str, &str)| {
        let value = order.secrets.get(secret).ok_or_else(|| Trouble {
            reason: Reason::SecretValueMissing,
            details: format!("volume {:?}: the secret {secret:?} has no value", volume.name),
        })?;
        Ok((relative(path)?, value.0.as_str()))
    };
    wanted.into_iter().map(file).collect()
}

/// Refuses Secret volumes that are too large, and those with a secret that has no value.
pub(super) fn check(order: &ReplicaOrder) -> Result<(), Trouble> {
    let mut bytes = 0;
    for volume in &order.template.volumes {
        if let VolumeSource::Secret { items } = &volume.source {
            bytes += files(order, volume, items)?.values().map(|value| value.len()).sum::<usize>();
        }
    }
    if MAX_BYTES < bytes {
        let most = MAX_BYTES >> 20;
        return Err(trouble(format!(
            "the Secret volumes of a replica hold {bytes} bytes; {most} MiB is the most"
        )));
    }
    Ok(())
}

/// Makes a volume hold these files and no others, for any user of a container to read and for none to write.
pub(super) fn fill(volume: &Path, files: &BTreeMap<PathBuf, &str>) -> Result<(), Trouble> {
    let failed = |path: &Path, error: io::Error| trouble(format!("{}: {error}", path.display()));
    // First: what was a file may be a folder now.
    remove_others(volume, Path::new(""), files).map_err(|error| failed(volume, error))?;
    let mut unfinished = UNFINISHED.to_owned();
    while files.keys().any(|path| path.starts_with(&unfinished)) {
        unfinished.push_str(UNFINISHED);
    }
    let unfinished = volume.join(unfinished);
    for (path, value) in files {
        let file = volume.join(path);
        fs::create_dir_all(file.parent().unwrap_or(volume))
            .and_then(|()| fs::write(&unfinished, value))
            .and_then(|()| fs::set_permissions(&unfinished, Permissions::from_mode(0o444)))
            .and_then(|()| fs::rename(&unfinished, &file))
            .map_err(|error| failed(&file, error))?;
    }
    Ok(())
}

fn remove_others(volume: &Path, below: &Path, files: &BTreeMap<PathBuf, &str>) -> io::Result<()> {
    for entry in fs::read_dir(volume.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if !entry.file_type()?.is_dir() {
            if !files.contains_key(&path) {
                fs::remove_file(entry.path())?;
            }
            continue;
        }
        remove_others(volume, &path, files)?;
        if !files.keys().any(|file| *file != path && file.starts_with(&path)) {
            fs::remove_dir(entry.path())?;
        }
    }
    Ok(())
}

/// A path that stays below where it is joined to.
fn relative(path: &str) -> Result<PathBuf, Trouble> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.is_empty() || parts.contains(&"..") {
        return Err(trouble(format!("{path:?} is no path in a volume")));
    }
    Ok(parts.into_iter().collect())
}

fn trouble(details: String) -> Trouble {
    Trouble { reason: Reason::VolumeFailed, details }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use super::*;

    fn fill_with(volume: &Path, files: &[(&str, &str)]) {
        let files = files.iter().map(|(path, value)| (PathBuf::from(path), *value)).collect();
        fill(volume, &files).unwrap();
    }

    #[track_caller]
    fn assert_holds(volume: &Path, files: &[(&str, &str)]) {
        for (path, value) in files {
            assert_eq!(fs::read_to_string(volume.join(path)).unwrap(), *value, "{path}");
            let mode = fs::metadata(volume.join(path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o444, "{path}");
        }
    }

    #[test]
    fn a_volume_that_is_filled_again_holds_what_is_listed_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path();
        fill_with(volume, &[("a", "1"), ("b/c", "2"), ("b/d", "3"), ("e/f", "4")]);
        let mut open = File::open(volume.join("a")).unwrap();
        let next =
            [("a", "changed"), ("b", "was a folder"), ("e/f/g", "was a file"), (".new", "x")];
        fill_with(volume, &next);
        assert_holds(volume, &next);
        assert_eq!(fs::read_dir(volume).unwrap().count(), 4);
        let mut read = String::new();
        open.read_to_string(&mut read).unwrap();
        assert_eq!(read, "1", "whoever reads has the old file to its end");
        fill_with(volume, &[]);
        assert_eq!(fs::read_dir(volume).unwrap().count(), 0);
    }

    #[test]
    fn a_path_stays_in_its_volume() {
        assert_eq!(relative("a//./b").unwrap(), Path::new("a/b"));
        for path in ["", "/", "../a", "a/../b"] {
            assert_eq!(relative(path).unwrap_err().reason, Reason::VolumeFailed, "{path}");
        }
    }
}
