//! A file that is there whole or not at all: written beside its name, and given the name once every byte is on the disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::CliError;

/// A file on its way. Dropped before [`Self::keep`], it leaves nothing, and what had the name before stays.
#[derive(Debug)]
pub(super) struct WholeFile {
    file: File,
    /// What it is called while it is not whole.
    partial: PathBuf,
    path: PathBuf,
}

impl WholeFile {
    /// An empty one. What is no file, such as a folder or a device, is refused.
    pub(super) fn create(path: &Path) -> Result<Self, CliError> {
        let unwritable = |source| CliError::Write { path: path.to_owned(), source };
        let path = match fs::canonicalize(path) {
            // A link stays one, and its target is replaced.
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(error) => return Err(unwritable(error)),
        };
        if fs::metadata(&path).is_ok_and(|facts| !facts.is_file()) {
            return Err(unwritable(io::Error::other("it is there, and no file")));
        }
        let Some(name) = path.file_name() else {
            return Err(unwritable(io::ErrorKind::InvalidFilename.into()));
        };
        let own = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
        let partial = path.with_file_name(own);
        let file = File::create(&partial).map_err(unwritable)?;
        Ok(Self { file, partial, path })
    }

    /// The next bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.file.write_all(bytes).map_err(|source| self.unwritable(source))
    }

    /// It is whole: from now on it bears its name, also after a power cut.
    pub(super) fn keep(self) -> Result<(), CliError> {
        let folder = match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            Some(_) | None => Path::new("."),
        };
        let kept = self
            .file
            .sync_all()
            .and_then(|()| fs::rename(&self.partial, &self.path))
            .and_then(|()| File::open(folder)?.sync_all());
        kept.map_err(|source| self.unwritable(source))
    }

    fn unwritable(&self, source: io::Error) -> CliError {
        CliError::Write { path: self.path.clone(), source }
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        // Kept, it is not called so any more, and there is nothing to remove.
        drop(fs::remove_file(&self.partial));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        fs::write(&path, "old").unwrap();
        let mut given_up = WholeFile::create(&path).unwrap();
        given_up.write(b"ne").unwrap();
        drop(given_up);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut kept = WholeFile::create(&path).unwrap();
        kept.write(b"new").unwrap();
        kept.keep().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        assert!(WholeFile::create(dir.path()).is_err());
        assert!(WholeFile::create(&dir.path().join("none/a.tar")).is_err());
        let link = dir.path().join("link.tar");
        std::os::unix::fs::symlink("a.tar", &link).unwrap();
        let mut through = WholeFile::create(&link).unwrap();
        through.write(b"newer").unwrap();
        through.keep().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
    }
}
