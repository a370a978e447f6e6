//! What is left of a replica's volumes: unmounted, and removed as the empty places that they are then.
//!
//! Nothing is ever emptied here. A place that holds something is not what it seems: it may be a storage, and what is on
//! that is not ours to delete.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mounts;

/// Parts of volumes lie below, one folder for each container. No name of a volume begins with a dot.
pub(super) const PARTS: &str = ".parts";

/// Removes the folder of one replica's volumes; what is not there is fine. Tells what cannot be removed.
pub(super) fn remove(own: &Path) -> Vec<String> {
    let (parts, folders) = match places(own) {
        Ok(places) => places,
        Err(error) => return vec![format!("cannot look into {}: {error}", own.display())],
    };
    let unmounted = parts.iter().chain(&folders).filter_map(|place| {
        let error = mounts::unmount(place).err()?;
        Some(format!("cannot unmount {}: {error}", place.display()))
    });
    let failures: Vec<String> = unmounted.collect();
    if !failures.is_empty() {
        return failures;
    }
    let parts = parts.iter().map(|part| (part, remove_stand_in(part)));
    let removed = parts.chain(folders.iter().map(|folder| (folder, fs::remove_dir(folder))));
    // What holds the one that stays cannot go either: the first failure says it all.
    let failure = removed.into_iter().find_map(|(place, removed)| {
        let error = removed.err().filter(|error| error.kind() != io::ErrorKind::NotFound)?;
        Some(format!("cannot remove {}: {error}", place.display()))
    });
    failure.into_iter().collect()
}

/// The places below and with `own`, the inner ones first: parts, which may be files, and folders.
fn places(own: &Path) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let all_parts = own.join(PARTS);
    let mut folders = entries(&all_parts)?;
    let mut parts = Vec::new();
    for folder in &folders {
        parts.extend(entries(folder)?);
    }
    let volumes = entries(own)?.into_iter().filter(|volume| *volume != all_parts);
    let volumes: Vec<PathBuf> = volumes.collect();
    folders.push(all_parts);
    folders.extend(volumes);
    folders.push(own.to_owned());
    Ok((parts, folders))
}

/// What lies in a folder; nothing where there is none.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let found = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    found.map(|entry| Ok(entry?.path())).collect()
}

/// A part was shown on a folder, or on an empty file.
fn remove_stand_in(place: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(place)?;
    if found.is_dir() {
        return fs::remove_dir(place);
    }
    if !found.is_file() || found.len() != 0 {
        return Err(io::Error::other("it is not the empty file that was put there"));
    }
    fs::remove_file(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica's folder with two volumes and the parts of a container.
    fn own() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("a--1-22222");
        fs::create_dir_all(own.join("data")).unwrap();
        fs::create_dir_all(own.join("keys")).unwrap();
        fs::create_dir_all(own.join(".parts/main/0")).unwrap();
        fs::write(own.join(".parts/main/1"), "").unwrap();
        (folder, own)
    }

    #[test]
    fn empty_places_are_removed_and_a_second_time_is_fine() {
        let (_folder, own) = own();
        assert_eq!(remove(&own), [""; 0]);
        assert!(!own.exists());
        assert_eq!(remove(&own), [""; 0]);
    }

    #[test]
    fn what_holds_something_of_others_survives_and_is_told() {
        for (path, at) in [
            ("data/theirs", "data"),
            (".parts/main/0/theirs", ".parts/main/0"),
            (".parts/main/1", ".parts/main/1"),
            ("theirs", "theirs"),
        ] {
            let (_folder, own) = own();
            fs::write(own.join(path), "precious").unwrap();
            let failures = remove(&own);
            let expected = format!("cannot remove {}: ", own.join(at).display());
            assert!(failures.len() == 1 && failures[0].starts_with(&expected), "{failures:?}");
            assert_eq!(fs::read_to_string(own.join(path)).unwrap(), "precious");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let (_folder, own) = own();
        fs::write(own.join(".parts/other"), "").unwrap();
        let failures = remove(&own);
        assert!(failures[0].starts_with("cannot look into "), "{failures:?}");
        assert!(own.join("data").exists());
    }
}
